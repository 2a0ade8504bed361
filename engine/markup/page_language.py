"""The language that a page of HTML names: `lang` and `dir` of its `<html>`. Edits these values and nothing else."""

import re

from engine.markup.lexer import attributes, lex

_PRIMARY = re.compile(r"[a-z]{2,3}(?![a-z])")
_SAME = {"nb": "no", "nn": "no", "iw": "he", "cn": "zh", "in": "id", "und": "", "mul": "", "zxx": ""}


def primary(value: str) -> str:
    """`en` of `en-GB`; "" for what names no language: `x-default`, `{{ page.lang }}`."""
    found = _PRIMARY.match(value.strip().lower())
    return _SAME.get(found[0], found[0]) if found else ""


def in_language(source: str, code: str, direction: str) -> str:
    """The page with `lang` (and `xml:lang`, where it has one) of `code`, and `dir` where it has one or needs it.

    What is inside and named the page's own language again names the new one too.
    """
    tags = (token for token in lex(source) if token.kind == "start")
    html = next(tags, None)
    if html is None or html.tag != "html":
        return source
    new = {"lang": code, "xml:lang": code, "dir": direction}
    said = {attribute.name: attribute for attribute in attributes(source, html) if attribute.name in new}
    old = primary(source[said["lang"].start : said["lang"].end]) if "lang" in said else ""
    missing = {"lang": code} | ({"dir": direction} if direction == "rtl" else {})
    added = "".join(f' {name}="{value}"' for name, value in missing.items() if name not in said)
    end_of_name = html.start + len("<html")
    edits = [(end_of_name, end_of_name, added)]
    edits += [(each.start, each.end, new[each.name]) for each in said.values() if each.start < each.end]
    for tag in tags if old else ():
        if source.find("lang", tag.start, tag.end) < 0:
            continue
        for each in attributes(source, tag):
            if each.name in ("lang", "xml:lang") and primary(source[each.start : each.end]) == old:
                edits.append((each.start, each.end, code))
    parts, done = [], 0
    for start, end, text in sorted(edits):
        parts += [source[done:start], text]
        done = end
    return "".join([*parts, source[done:]])
