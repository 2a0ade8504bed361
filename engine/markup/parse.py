"""A format's name → its parser; and which format a text is in, where nobody says. Knows nothing of how they parse."""

import re
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from engine.markup import html, markdown, plain, xml
from engine.types import Block, Document, Split, TagRules

Markup = Literal["text", "html", "markdown", "xml"]
LOOKED_AT = 20_000  # characters

_HTML = re.compile(
    r"\A\s*<(?:!doctype\s|html[\s>])"
    r"|</(?:p|div|span|a|b|i|em|strong|h[1-6]|ul|ol|li|table|t[dr]|section|article|body|button|label|u|sup|sub|small)\s*>"
    r"|<(?:br|hr|img|p|div|span|a|li)(?:\s[^<>]{0,500})?/?>",
    re.IGNORECASE,
)
_XML = re.compile(r"\A\s*<\?xml\s")
_XHTML = re.compile(r"<(?:!doctype\s+html|html)[\s>]", re.IGNORECASE)
_MARKDOWN = re.compile(
    r"^ {0,3}#{1,6} \S"  # a heading
    r"|^ {0,3}```[^`\n]*\n(?:[^\n]*\n){0,500}? {0,3}```"  # a fence, and its end
    r"|(?:\A|(?<=\n\n)) {0,3}~~~[^\n]*\n(?:[^\n]*\n){0,500}? {0,3}~~~"  # not the line under a heading
    r"|^\|.*\|\s*\n\|[\s:|-]*---[\s:|-]*$"  # a table
    r"|!?\[[^\[\]\n]{1,200}\]\([^()\s]{1,500}[^()\n]{0,200}\)"  # a link
    r"|(?<![\w*])\*\*[^\s*][^*\n]{0,200}\*\*(?![\w*])"  # bold
    r"|^---\n(?:\w[\w-]*:.*\n)+---$",  # front matter
    re.MULTILINE,
)


class Parser(NamedTuple):
    """`write(block, text)` is the source of a block of `parse` whose text is now `text`, with the same marks.

    `escape(block)` writes a run of it while the rest is still to come, and so without a look at what is around it.
    """

    parse: Callable[[str], Document]
    write: Callable[[Block, str], str]
    escape: Callable[[Block], Callable[[str], str]]


def _as_it_is(_block: Block) -> Callable[[str], str]:
    return str


PARSERS: dict[Markup, Parser] = {
    "text": Parser(plain.parse, plain.write, _as_it_is),
    "html": Parser(html.parse, html.write, html.escape),
    "markdown": Parser(markdown.parse, markdown.write, markdown.escape),
    "xml": Parser(xml.parse, xml.write, xml.escape),
}


def parser_for(markup: Markup, rules: TagRules, split: Split) -> Parser:
    """The parser that does as a caller says: of tags in HTML and XML, of the ends of lines in plain text."""
    parser = PARSERS[markup]
    match markup:
        case "text":
            return parser._replace(parse=partial(plain.parse, split=split))
        case "html":
            return parser._replace(parse=partial(html.parse, rules=rules))
        case "xml":
            return parser._replace(parse=partial(xml.parse, rules=rules))
    return parser


def format_of(text: str) -> Markup:
    """What `text` seems to be by its first characters, and XML by all; plain text in doubt, where tags are kept too."""
    start = text[:LOOKED_AT]
    if _XML.match(start):
        return "html" if _XHTML.search(start) or not xml.is_well_formed(text) else "xml"  # HTML refuses nothing
    if _MARKDOWN.search(start) and not re.match(r"\s*<(?:!doctype|html)", start, re.IGNORECASE):
        return "markdown"  # which may hold HTML
    return "html" if _HTML.search(start) else "text"
