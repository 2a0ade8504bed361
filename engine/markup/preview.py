"""What a text looks like: a whole page of HTML to be shown in a sandboxed frame. Knows no document of ours.

Nothing in it runs and nothing is fetched, even outside a sandbox: a policy stands before all else, and what no policy
reaches, a `<meta>` that leads elsewhere and every `<link>`, is left out. Its size is bounded.
"""

import re
from html import escape

import pyromark

from engine.errors import TextTooLong
from engine.markup.front_matter import front_matter
from engine.markup.lexer import attributes, lex
from engine.markup.parse import Markup
from engine.markup.verify import DIALECT

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; form-action 'none'; base-uri 'none'"
)
# The doctype comes first, since a second one says nothing; in a page of its own the tags of `<head>` are still in it.
_FIRST = (
    "<!doctype html>"
    f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    '<meta name="referrer" content="no-referrer"><meta charset="utf-8">'
)
_STYLE = (
    "<style>:root{color-scheme:light dark}"
    "body{font:1rem/1.6 system-ui,sans-serif;max-width:48rem;margin:1.5rem auto;padding:0 1rem;overflow-wrap:anywhere}"
    "pre{white-space:pre-wrap}code,pre{font-family:ui-monospace,monospace;font-size:.9em}img{max-width:100%}"
    "table{border-collapse:collapse}th,td{border:1px solid #8888;padding:.3em .6em}"
    "blockquote{margin-inline:0;padding-inline-start:1em;border-inline-start:3px solid #8888}</style>"
)
_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
_LINE_END = re.compile(r"\r\n?|\n")
_OF_A_RULE = " \t|:->*+0123456789.)"  # the line under a table's head, be it in a quotation or a list

MOST_CHARACTERS = 2_000_000  # twice what a request takes unless told otherwise: a translation may be the longer one
MOST_SHOWN = 20_000_000  # characters of a page
CELL = 40  # of them, with its tags


def page(markup: Markup, text: str) -> str:
    """`text` as a reader sees it; HTML as it is, Markdown without its front matter, text and XML word for word.

    Raises `TextTooLong`, also for the page it would become.
    """
    if len(text) > MOST_CHARACTERS:
        raise TextTooLong(
            f"The text has {len(text):,} characters; a preview takes {MOST_CHARACTERS:,} at the most. "
            "Show a part of it."
        )
    text = _HALF_A_CHARACTER.sub("\ufffd", text).removeprefix("\ufeff")
    if markup == "html":
        return _FIRST + _harmless(text)
    if markup in ("text", "xml"):
        return f'{_FIRST}{_STYLE}<body dir="auto"><pre>\n{escape(text)}</pre>'
    text = text.replace("\r\n", "\n")
    text = text[front_matter(text, 0).end :]
    _bounded(_most_cells(text) * CELL)
    body = pyromark.html(text, options=DIALECT)
    _bounded(len(body))
    return f'{_FIRST}{_STYLE}<body dir="auto">{_harmless(body)}'


def _bounded(characters: int) -> None:
    if characters > MOST_SHOWN:
        raise TextTooLong(
            f"The page of this text would have some {characters:,} characters; {MOST_SHOWN:,} are shown at the most. "
            "Show a part of it."
        )


def _most_cells(text: str) -> int:
    """How many its tables may have: a row with few is filled up to the width of the table, so that a short text may
    become a page of gigabytes."""
    cells = width = rows = 0
    for line in [*_LINE_END.split(text), ""]:
        if line.strip(" \t"):
            rows += 1
            if not line.strip(_OF_A_RULE):
                width = max(width, line.count("|") + 1)
        else:  # a table ends here
            cells += width * rows
            width = rows = 0
    return cells


def _harmless(source: str) -> str:
    """Without tags that make a browser go or reach elsewhere."""
    parts, done = [], 0
    for token in lex(source):
        if token.kind != "start" or token.tag not in ("meta", "link"):
            continue
        if token.tag == "meta" and all(each.name != "http-equiv" for each in attributes(source, token)):
            continue
        parts.append(source[done : token.start])
        done = token.end
    return "".join([*parts, source[done:]])
