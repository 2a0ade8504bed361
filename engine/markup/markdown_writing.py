"""A translated block of Markdown's inline content → Markdown. Knows no block structure, no documents and no model.

What is written is only believed where the parser reads the same text and tags from it again: first as it is, then with
ever more escapes, spaces and HTML. Where all fails, the block stays as it was.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from engine.markup import marks
from engine.markup.markdown_reading import URL
from engine.markup.markdown_spans import block_types, pieces, supposed
from engine.types import Block

_HARD_BREAK = re.compile(r"[ \t]*\\?(?:\r\n?|\n)[> \t]*")
LINE_BREAK = re.compile(r"(?<!\s)[^\S\r\n]*+[\r\n]\s*+")  # with what stands around it
_EMPTY_LINE = re.compile(r"\n[> \t]*\r?\n")  # between two hard breaks: the end of the block
_EMPHASIS = {"*": "em", "_": "em", "**": "strong", "__": "strong", "~~": "del", "~": "del"}
_SPECIAL = re.compile(r"[\\`*_\[\]<>&~$!{^|]")
_LINE_START = re.compile(r"(\s*)(?:([#+\-=:])|(\d{1,9})([.)]))")
_FORMS = {  # around the text, so that it can be read alone; and the block tokens that must come out
    "paragraph": ("", "", "paragraph"),
    "paragraph-over-rule": ("", "", "paragraph"),
    "heading": ("# ", "", "heading"),
    "quoted": ("# ", "", "heading"),  # the title in `!!! note "Title"`
    "heading-underlined": ("", "\n---", "heading"),
    "cell": ("a|b\n-|-\n|", "|b", "td"),
    "cell-start": ("a|b\n-|-\n", "|b", "td"),
}
_STEPS = [(html, apart, escaped) for html in (False, True) for apart in (False, True) for escaped in (0, 1, 2)]


class _Part(NamedTuple):
    """Of what is written: a run of text, or a tag of the mark `number`."""

    kind: str
    text: str  # what is to be read of it
    source: str  # what is written
    name: str = ""
    number: int = -1


def write(block: Block, text: str) -> str:
    """`text`, a translation of the block's, as Markdown. Marks that the block does not have are text."""
    form, *wraps = block.form.split("\n")
    half = len(wraps) // 2
    before, after = (
        [_Part("open", "", wrap) for wrap in wraps[:half]],
        [_Part("close", "", wrap) for wrap in wraps[half:]],
    )
    env = supposed(block.source, " ".join([*wraps, *map("".join, block.tags.values())]))
    for parts in _ways(block, text):
        written = "".join(part.source for part in parts)
        if not _EMPTY_LINE.search(written) and _reads_as([*before, *parts, *after], form, env):
            return _with_nulls(block, written)
    return block.source


def changed_delimiters(block: Block, text: str, written: str) -> Counter[str]:
    """How often a tag of the block is another in what `write` has made of it and `text`, by the code of the change."""
    changed: Counter[str] = Counter()
    for parts in _ways(block, text):
        if _with_nulls(block, "".join(part.source for part in parts)) != written:
            continue
        for part in parts:
            if part.number < 0:
                continue
            old = block.tags[part.number][part.kind == "close"]
            new = part.source.strip(" ") if old == old.strip(" ") else part.source
            changed["space_added"] += new != part.source
            if new != old and part.kind == "open":
                changed["emphasis_as_html" if new.startswith("<") else "emphasis_respelt"] += 1
        break
    return changed


def _ways(block: Block, text: str) -> Iterator[list[_Part]]:
    """The ways to write it, the nearest to the source first."""
    form, *wraps = block.form.split("\n")
    half = len(wraps) // 2
    for html, apart, escaped in _STEPS:
        parts = [*_split(block, text, form, escaped)]
        if html:
            parts = _as_html(parts)
        yield _spaced(_delimited(parts, "".join(wraps[:half]), "".join(wraps[half:])), apart)


def _with_nulls(block: Block, written: str) -> str:
    return written.replace("\ufffd", block.spelling.get("\ufffd", "\ufffd"))


def _split(block: Block, text: str, form: str, escaped: int) -> Iterator[_Part]:
    """The translation as parts: runs of text as they are to be written, and the tags of the marks."""
    cut_text = marks.pieces(text, block.tags)
    known = {piece for piece in marks.pieces(block.text, block.tags) if isinstance(piece, str)}
    for place, piece in enumerate(cut_text):
        if isinstance(piece, str):
            run, last = LINE_BREAK.sub(" ", piece), place == len(cut_text) - 1
            yield _Part("text", run, _spelt(run, block, known, form, escaped, place == 0, last), "text")
            continue
        opening, closing = block.tags[piece.number]
        if source := closing if piece.kind == "close" else opening:
            kind = piece.kind if closing else "void"
            yield _Part(kind, "", source, _name(source, kind), piece.number)


def _name(source: str, kind: str) -> str:
    if kind != "void":
        return _EMPHASIS.get(source, "")
    if _HARD_BREAK.fullmatch(source):
        return "hardbreak"
    return "url" if URL.match(source.lstrip("\\")) else ""


def _spelt(run: str, block: Block, known: set[str], form: str, escaped: int, first: bool, last: bool) -> str:
    """How a run of text is written. One that the block has too is written as there."""
    bare = run.strip()
    start = len(run) - len(run.lstrip())
    head, tail = run[:start], run[start + len(bare) :]
    if bare in block.spelling and escaped < 2:
        return head + block.spelling[bare] + tail
    if escaped and not (bare in known and escaped < 2 and "<" not in bare):
        bare = _SPECIAL.sub(r"\\\g<0>", bare)
        if first:
            bare = _LINE_START.sub(lambda m: f"{m[1]}\\{m[2]}" if m[2] else f"{m[1]}{m[3]}\\{m[4]}", bare, count=1)
        if form.startswith("heading") or form == "quoted":
            bare = re.sub(r"#+$", lambda m: "\\" + m[0], bare) if last else bare
            bare = bare.replace("\\|", "&#124;")
        elif form.startswith("cell"):
            bare = bare.replace("\\|", "|")
    if form == "quoted":
        bare = bare.replace('"', "&quot;")
    if form.startswith("cell"):
        bare = bare.replace("|", "\\|")
    elif form == "paragraph-over-rule":
        bare = re.sub(r"\\?\|", "&#124;", bare)
    return head + bare + tail


def _as_html(parts: Sequence[_Part]) -> list[_Part]:
    """Emphasis as HTML, which no neighbour can undo."""
    return [
        part._replace(source=f"<{'/' if part.kind == 'close' else ''}{part.name}>", name="")
        if part.name in _EMPHASIS.values()
        else part
        for part in parts
    ]


def _delimited(parts: Sequence[_Part], before: str, after: str) -> list[_Part]:
    """Delimiters with what they need to be read as such where text has no spaces."""
    made = list(parts)
    outer: dict[int, tuple[str, str]] = {}  # by mark: the characters around the pair
    for place, part in enumerate(parts):
        if part.name in _EMPHASIS.values():
            left = next(
                (parts[at].source[-1] for at in range(place - 1, -1, -1) if parts[at].source), before[-1:] or " "
            )
            right = next(
                (parts[at].source[0] for at in range(place + 1, len(parts)) if parts[at].source), after[:1] or " "
            )
            if part.kind == "open":
                outer[part.number] = (left, outer.get(part.number, ("", " "))[1])
                inner = right
            else:
                outer[part.number] = (outer.get(part.number, (" ", ""))[0], right)
                left, right, inner = right, right, left
            if _is_punctuation(inner) and not left.isspace() and not _is_punctuation(left):
                source = f" {part.source}" if part.kind == "open" else f"{part.source} "
                made[place] = part._replace(source=source)
    for place, part in enumerate(made):
        if part.number in outer and any(character.isalnum() for character in outer[part.number]):
            source = part.source.replace("_", "*")
            made[place] = part._replace(source=source.replace("~", "~~") if source.strip() == "~" else source)
    for place, part in enumerate(made[:-1]):
        following = made[place + 1].source[:1]
        if part.name == "url" and following > "\x7f" and not following.isspace():
            made[place] = part._replace(source=f"{part.source} ")
    return made


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"


def _spaced(parts: Sequence[_Part], apart: bool) -> list[_Part]:
    """With a space between tags that would else become one, if `apart`."""
    made = list(parts)
    if apart:
        for place in range(len(parts) - 1):
            here, following = parts[place], parts[place + 1]
            if here.kind in ("void", "close") and following.kind in ("void", "open"):
                made[place] = here._replace(source=f"{here.source} ")
    return made


def _reads_as(parts: Sequence[_Part], form: str, env: Mapping[str, object]) -> bool:
    """Whether the parser finds the same text and tags in what was written, and no other block."""
    opening, closing, expected = _FORMS[form]
    sources = ["\\\n" if part.name == "hardbreak" else part.source for part in parts]
    types, inline = block_types(opening + "".join(sources).strip() + closing)
    if expected == "td":
        if types.count("td_open") != 2 or types[-1] != "table_close" or types[0] != "table_open":
            return False
        content = inline[2]
        sources = [source.replace("\\|", "|") for source in sources]
    else:
        if types != [f"{expected}_open", "inline", f"{expected}_close"]:
            return False
        content = inline[0]
    if content != "".join(sources).strip():
        return False
    at = len("".join(sources).lstrip()) - len("".join(sources))
    wanted: list[tuple[str, int, int] | str] = []
    for part, source in zip(parts, sources, strict=True):
        if part.kind == "text" or part.name == "url":
            wanted.append(part.text or source)
        elif source:
            blank = len(source) - len(source.lstrip(" "))
            kind = "void" if source.lstrip().startswith("<") else part.kind
            wanted.append((kind, at + blank, at + len(source.rstrip(" "))))
        at += len(source)
    found: list[tuple[str, int, int] | str] = [
        piece.text if piece.kind in ("text", "break") else (piece.kind, piece.start, piece.end)
        for piece in pieces(content, dict(env)) or []
    ]
    return _flat(wanted) == _flat(found)


def _flat(items: Sequence[tuple[str, int, int] | str]) -> list[tuple[str, int, int] | str]:
    """Neighbouring texts as one, without white space."""
    flat: list[tuple[str, int, int] | str] = []
    for item in items:
        if isinstance(item, str):
            item = "".join(item.split())
            if flat and isinstance(last := flat[-1], str):
                flat[-1] = last + item
                continue
            if not item:
                continue
        flat.append(item)
    return flat
