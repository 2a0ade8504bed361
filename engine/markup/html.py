"""HTML → what is to be translated in it, and back. Edits spans of the source, and never writes a tag anew.

A block is a run of text and inline elements between block-level tags, a title, or an attribute that is read; one of a
tag inside a run (`a <img alt="cat"> sat`) is nested in the run's block. What names another language than its page
stays, as does what a template engine replaces. Of rendering it knows only which elements are inline by the standard.

Declared changes to a block that is translated: a line break and the blanks around it are one space; of entities, only
`&amp; &lt; &gt; &nbsp;` and quotes are written as such; a value without quotes gets them where it needs them.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from html import unescape
from html.entities import html5

from engine.markup import marks
from engine.markup.inline import MOST_ITEMS, NO_BREAK_SPACE, Item, Letters, block_of, lines_joined, texts
from engine.markup.lexer import Attribute, Token, attributes, lex
from engine.markup.page_language import primary
from engine.markup.spans import Found, cut
from engine.markup.templates import IN_HTML
from engine.types import NO_RULES, Block, Document, TagRules

TEXT, DOUBLE, SINGLE, UNQUOTED = "html text", 'html "', "html '", "html unquoted"  # forms of blocks
_FORMS = {'"': DOUBLE, "'": SINGLE, "": UNQUOTED}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VOID = _words("area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr")
_CODE = _words("code kbd samp var svg math")  # what a reader sees, but nobody translates
_HIDDEN = _words("script style template noscript iframe noembed noframes")
_SKIPPED = _CODE | _HIDDEN | _words("pre textarea xmp plaintext listing")
_INLINE = (
    _words(
        """a abbr acronym applet area audio b bdi bdo big blink br canvas cite command data del dfn em embed font i img
        input ins label link map mark meta meter nobr object output param picture progress q rb rp rt rtc ruby s slot
        small source span strike strong sub sup time track tt u video wbr"""
    )
    | _CODE
    | _HIDDEN
)
_ROW_GROUPS = _words("tbody tfoot thead")
_ENDED_BY: dict[str, AbstractSet[str]] = {  # elements whose end tag may be left out
    "p": _words(
        """address article aside blockquote center details dialog dir div dl fieldset figcaption figure footer form h1
        h2 h3 h4 h5 h6 header hgroup hr main menu nav ol p pre search section table ul"""
    ),
    "li": {"li"},
    "dt": {"dt", "dd"},
    "dd": {"dt", "dd"},
    "option": {"option", "optgroup"},
    "optgroup": {"optgroup"},
    "tr": {"tr"} | _ROW_GROUPS,
    "td": {"td", "th", "tr"} | _ROW_GROUPS,
    "th": {"td", "th", "tr"} | _ROW_GROUPS,
    **dict.fromkeys(_ROW_GROUPS, _ROW_GROUPS),
}
_HOLDS_SUCH = _words("ul ol menu dir dl table select button object")  # such elements in these do not end outer ones

_READ_ATTRIBUTES = _words("title alt placeholder aria-label aria-description label summary")
_READ_META = _words("description og:title og:description og:site_name twitter:title twitter:description")
_READ_INPUTS = _words("submit button reset")
_MATTERS = re.compile(  # a tag that has none of these says nothing to a reader, and nothing of translation
    r"title|alt|placeholder|aria-|label|summary|content|value|translate|lang", re.IGNORECASE
)

_ENTITY = re.compile(r"&(?:#[^\t\n\f <&#;]{1,32};?|(?P<name>[A-Za-z][A-Za-z0-9]*+)(?P<end>[;=]?))")
_LOOSE_END = re.compile(r"(?:</?|&[#\w]*)\Z")  # with other text after it, it could mean something else
_UNQUOTABLE = re.compile(r"[\s\"'=<>`]|\A\Z")
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;", "\0": ""}
_TO_ESCAPE = re.compile("[&<>\r\0\"']")
_ESCAPES_OF_FORM = {
    form: str.maketrans(_ESCAPES | quote)
    for form, quote in ((TEXT, {}), (DOUBLE, {'"': "&quot;"}), (SINGLE, {"'": "&#39;"}), (UNQUOTED, {'"': "&quot;"}))
}


def parse(source: str, rules: TagRules = NO_RULES) -> Document:
    """The blocks in `source`. HTML has no outline to be found, so that `rules.outline` changes nothing."""
    return cut(source, find(source, rules))


def find(source: str, rules: TagRules = NO_RULES, *, kept: re.Pattern[str] = IN_HTML) -> list[Found]:
    """The blocks of `parse`, in no order. What `kept` matches in a text stays as it is, a word among the others."""
    ignored, splitting, joining = (
        {name.lower() for name in names} for names in (rules.ignore, rules.splitting, rules.non_splitting)
    )
    tokens = lex(source)
    found: list[Found] = []
    run: list[Item] = []
    opened: Counter[str] = Counter()
    again: Token | None = None
    language = ""  # of the page, where it says so: what is in another stays
    while token := again or next(tokens, None):
        again = None
        kind, start, end, tag, _ = token
        if kind == "text":
            run += texts(source, start, end, _spans(source, start, end, kept))
            if len(run) > MOST_ITEMS:
                found += block_of(source, run, _LETTERS)
                run = []
            continue
        inline = tag in _INLINE or "-" in tag or kind in ("comment", "cdata") or source.startswith("</>", start)
        inline = tag not in splitting and (inline or tag in joining)
        if not inline and run:
            found += block_of(source, run, _LETTERS)
            run = []
        if kind == "start":
            read = _attributes(source, token)
            said = primary(_value(source, read["lang"])) if "lang" in read else ""
            language = said if tag in ("html", "body") and said else language
            opaque = tag in ignored or _says_no(source, read) or bool(said and language and said != language)
            if read and not opaque:
                found += _attribute_blocks(source, tag, read, kept)
            if tag in _VOID:
                run += [Item("void", start, end, shown=opaque)] if inline else ()
            elif opaque or tag in _SKIPPED:
                end, again = _element_end(token, tokens, opened)
                run += [Item("void", start, end, shown=opaque or tag in _CODE)] if inline else ()
            else:
                opened[tag] += 1
                run += [Item("open", start, end, tag)] if inline else ()
        elif kind == "end":
            opened[tag] -= opened[tag] > 0
            run += [Item("close", start, end, tag)] if inline else ()
        elif inline:
            run.append(Item("void", start, end))
        elif kind == "rcdata" and tag == "title":
            found += block_of(source, [*texts(source, start, end, _spans(source, start, end, kept))], _LETTERS)
    return [*found, *block_of(source, run, _LETTERS)]


def write(block: Block, text: str) -> str:
    """The source of a `block` of this parser once its text is `text`, whose marks are those of the block."""
    if text == block.text:
        return block.source
    written = marks.restore(block, text, escape(block))
    return f'"{written}"' if block.form == UNQUOTED and _UNQUOTABLE.search(written) else written


def escape(block: Block) -> Callable[[str], str]:
    """How the runs of the block are written, whatever stands around them."""
    return _escape(block.source, block.form)


def _escape(written: str, form: str = TEXT) -> Callable[[str], str]:
    return partial(_escaped, form=form, name_spaces=NO_BREAK_SPACE in written)


def _escaped(text: str, form: str, name_spaces: bool) -> str:
    escaped = text.translate(_ESCAPES_OF_FORM[form]) if _TO_ESCAPE.search(text) else text
    return escaped.replace("\u00a0", NO_BREAK_SPACE) if name_spaces else escaped


def _attributes(source: str, token: Token) -> dict[str, Attribute]:
    """The first of each name; none where there is none that matters."""
    if not _MATTERS.search(source, token.start + 1 + len(token.tag), token.end):
        return {}
    found: dict[str, Attribute] = {}
    for attribute in attributes(source, token):
        found.setdefault(attribute.name, attribute)
    return found


def _says_no(source: str, read: Mapping[str, Attribute]) -> bool:
    if "translate" in read and _value(source, read["translate"]).lower() == "no":
        return True
    return "class" in read and "notranslate" in _value(source, read["class"]).lower().split()


def _value(source: str, attribute: Attribute) -> str:
    """What a reader reads in an attribute."""
    text = lines_joined(source[attribute.start : attribute.end]).replace("\0", "")
    return _ENTITY.sub(_attribute_entity, text) if "&" in text else text


def _attribute_blocks(source: str, tag: str, read: Mapping[str, Attribute], kept: re.Pattern[str]) -> Iterator[Found]:
    names = [name for name in read if name in _READ_ATTRIBUTES]
    if tag == "meta" and any(
        _value(source, read[name]).strip().lower() in _READ_META for name in ("name", "property") if name in read
    ):
        names.append("content")
    if tag == "input" and "type" in read and _value(source, read["type"]).strip().lower() in _READ_INPUTS:
        names.append("value")
    for attribute in [read[name] for name in names if name in read]:
        value = _value(source, attribute)
        if any(map(str.isalpha, value)) and not kept.search(value):
            written = source[attribute.start : attribute.end]
            yield Found(attribute.start, Block(value, written, _FORMS[attribute.quote]))


def _element_end(first: Token, following: Iterator[Token], opened: Mapping[str, int]) -> tuple[int, Token | None]:
    """Where the element ends that `first` starts, and the token that ended it without being of it, if one did.

    `opened` counts the elements around it."""
    element = first.tag
    foreign = element in ("svg", "math")
    if foreign and first.self_closing:
        return first.end, None
    inside = [element]
    number = Counter(inside)
    holders = 0
    end = first.end
    for token in following:
        tag = token.tag
        if token.kind == "start" and tag not in _VOID:
            if not holders and tag in _ENDED_BY.get(element, ()):
                return end, token
            if not (foreign and token.self_closing):
                inside.append(tag)
                number[tag] += 1
                holders += tag in _HOLDS_SUCH
        elif token.kind == "end" and number[tag]:
            while True:
                last = inside.pop()
                number[last] -= 1
                holders -= last in _HOLDS_SUCH
                if last == tag:
                    break
            if not inside:
                return token.end, None
        elif token.kind == "end" and opened.get(tag):
            return end, token
        end = token.end
    return end, None


def _spans(source: str, start: int, end: int, kept: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    return (found.span() for found in kept.finditer(source, start, end))


def _decoded(written: str) -> str:
    """What a reader reads; a line break and the blanks around it are one space."""
    return unescape(lines_joined(written)).replace("\0", "")


def _attribute_entity(entity: re.Match[str]) -> str:
    """In an attribute `&copy2` and `&copy=` are not ©: they are taken for parts of an address."""
    if entity["name"] is None:
        return unescape(entity[0])
    end = entity["end"]
    character = html5.get(entity["name"] + ";" * (end == ";"))
    return entity[0] if character is None or end == "=" else character


_LETTERS = Letters(TEXT, _decoded, _escape, _LOOSE_END)
