"""What a text looks like: a whole page of HTML to be shown in a sandboxed frame. Knows no document of ours.

Nothing in it runs and nothing is fetched, even outside a sandbox: a policy stands before all else, and what no policy
reaches, a `<meta>` that leads elsewhere and a `<link>` that is more than a style, is left out.
"""

import re
from html import escape

import pyromark

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
_LINKED = frozenset({"stylesheet", "icon"})  # what a policy speaks of; not `preconnect`, `dns-prefetch`, `manifest`


def page(markup: Markup, text: str) -> str:
    """`text` as a reader sees it; HTML as it is, Markdown without its front matter, text word for word."""
    text = _HALF_A_CHARACTER.sub("\ufffd", text).removeprefix("\ufeff")
    if markup == "html":
        return _FIRST + _harmless(text)
    if markup == "text":
        return f'{_FIRST}{_STYLE}<body dir="auto"><pre>\n{escape(text)}</pre>'
    text = text.replace("\r\n", "\n")
    body = pyromark.html(text[front_matter(text, 0).end :], options=DIALECT)
    return f'{_FIRST}{_STYLE}<body dir="auto">{_harmless(body)}'


def _harmless(source: str) -> str:
    """Without tags that make a browser go or reach elsewhere."""
    parts, done = [], 0
    for token in lex(source):
        if token.kind != "start" or token.tag not in ("meta", "link"):
            continue
        said = {each.name: source[each.start : each.end].strip().lower() for each in attributes(source, token)}
        if token.tag == "link" and set(said.get("rel", "").split()) <= _LINKED:
            continue
        if token.tag == "meta" and "http-equiv" not in said:
            continue
        parts.append(source[done : token.start])
        done = token.end
    return "".join([*parts, source[done:]])
