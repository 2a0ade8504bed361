"""The texts in front matter that a reader sees, in YAML or TOML, and back in the quotes they came in. No other data.

A careful reader of lines, not a parser: what is no simple `key: value` of its list, at the top level, stays.
Declared changes: a plain or a literal value gets double quotes where its new text needs them; a folded one is one line.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from engine.markup.spans import Found
from engine.markup.templates import IN_MARKDOWN
from engine.types import Block

FORM = "front matter "  # what all forms begin with
_FRONT_MATTER = re.compile(  # its first line must look like data: a rule may open a document too
    r"---[ \t]*\r?\n(?P<yaml>(?:[ \t]*(?:#[^\n]*)?\r?\n)*[\w\"'.-][^\n:]*:(?s:.*?)\n)(?:---|\.\.\.)[ \t]*(?=\r?\n|\Z)"
    r"|\+\+\+[ \t]*\r?\n(?P<toml>(?s:.*?)\n)\+\+\+[ \t]*(?=\r?\n|\Z)"
)
_KEYS = (
    "title|subtitle|linkTitle|linktitle|short_title|shortTitle|nav_title|sidebar_label|sidebarTitle|description|summary"
    "|abstract|excerpt|caption|headline|tagline"
)
_KEY = {
    "yaml": re.compile(rf"([\"']?)(?:{_KEYS})\1[ \t]*:[ \t]+"),
    "toml": re.compile(rf"([\"']?)(?:{_KEYS})\1[ \t]*=[ \t]*"),
}
_QUOTED = {
    "double": re.compile(r"\"((?:[^\"\\]|\\.)*+)\"(?=[ \t]*(?:#.*)?$)"),
    "yaml single": re.compile(r"'((?:[^']|'')*+)'(?=[ \t]*(?:#.*)?$)"),
    "toml literal": re.compile(r"'([^']*+)'(?=[ \t]*(?:#.*)?$)"),
}
_COMMENT = re.compile(r"[ \t]#")
_FOLDED = re.compile(r">[+-]?[ \t]*$")
_WORD = re.compile(r"[^\W\d_]{2}")
_NO_TEXT = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|x([0-9A-Fa-f]{2})|(.))")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "/": "/", " ": " "}
_UNSEEN = re.compile(r"[\s\0-\x1f\x7f]+")


class FrontMatter(NamedTuple):
    end: int  # where the document's body begins
    found: list[Found]


def front_matter(source: str, start: int) -> FrontMatter:
    """What stands at `start`; nothing where there is none."""
    match = _FRONT_MATTER.match(source, start)
    if match is None:
        return FrontMatter(start, [])
    return FrontMatter(match.end(), [*_values(source, match, "toml" if match["yaml"] is None else "yaml")])


def write(block: Block, text: str) -> str:
    text = _UNSEEN.sub(" ", text).strip()
    style = block.form.removeprefix(FORM)
    if style == "folded" or (style == "plain" and _plain(text) == text):
        return text
    if style == "yaml single":
        return "'" + text.replace("'", "''") + "'"
    if style == "toml literal" and "'" not in text:
        return f"'{text}'"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _values(source: str, matter: re.Match[str], syntax: str) -> Iterator[Found]:
    at = matter.start(syntax)
    lines = matter[syntax].split("\n")
    for number, (line, following) in enumerate(pairwise(lines)):
        if syntax == "toml" and (line.startswith("[") or '"""' in line or "'''" in line):
            return  # the keys of a table, or the lines of a text
        key = _KEY[syntax].match(line)
        if key and not (syntax == "yaml" and following[:1] in (" ", "\t")):
            value = line[key.end() :].removesuffix("\r")
            if block := _block(value, syntax):
                yield Found(at + key.end(), block)
        elif key and _FOLDED.fullmatch(line[key.end() :].removesuffix("\r")):
            first = at + len(line) + 1
            indent = len(following) - len(following.lstrip(" "))
            last = number + 1
            while last < len(lines) and len(lines[last]) - len(lines[last].lstrip()) == indent and lines[last].strip():
                last += 1
            written = "\n".join(lines[number + 1 : last])[indent:].rstrip()
            ends = last == len(lines) - 1 or lines[last][:1].strip()  # no paragraph or deeper line follows
            if indent and ends and (block := _made(written, written, "folded")):
                yield Found(first + indent, block)
        at += len(line) + 1


def _block(value: str, syntax: str) -> Block | None:
    """The block of a value on one line, comment and all."""
    for style, quoted in _QUOTED.items():
        if (syntax in style or style == "double") and (match := quoted.match(value)):
            text = match[1]
            if style == "yaml single":
                text = text.replace("''", "'")
            elif style == "double":
                if any(escape[4] and escape[4] not in _ESCAPED for escape in _ESCAPE.finditer(text)):
                    return None
                text = _ESCAPE.sub(_character, text)
            return _made(text, match[0], style)
    plain = _plain(value) if syntax == "yaml" else None
    return _made(plain, plain, "plain") if plain else None


def _made(text: str, written: str, style: str) -> Block | None:
    text = " ".join(text.split())
    return None if IN_MARKDOWN.search(text) or not any(map(str.isalpha, text)) else Block(text, written, FORM + style)


def _plain(value: str) -> str | None:
    """The text of a value without quotes; None where it is no text, or means more than it says."""
    text = _COMMENT.split(value, 1)[0].rstrip()
    prose = text[:1].isalpha() or (text[:1].isdigit() and " " in text and _WORD.search(text))  # no date, no version
    if not prose or text.lower() in _NO_TEXT or ": " in text or ":\t" in text or text.endswith(":"):
        return None
    return text


def _character(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2] or escape[3]
    return chr(int(code, 16)) if code else _ESCAPED[escape[4]]
