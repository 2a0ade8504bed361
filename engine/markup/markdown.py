"""Markdown → Document, and a translated block → Markdown. The source is cut, never written anew. Knows no model.

What the parser finds is only believed where its spans tile the block, and what is written only where the parser reads
the same text and tags from it again. Opaque for now: front matter, HTML blocks, code, the text of images, titles of
links and of `:::` containers.

Declared changes to a block that is translated: its lines are joined; `_x_` becomes `*x*` next to a letter; a space
comes between a delimiter and a letter where the text inside is punctuation, and after a bare URL; `[x]` and `[x][]`
become `[译文][x]`; where nothing else keeps the structure, `**x**` becomes `<strong>x</strong>`.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from markdown_it.utils import EnvType

from engine.languages import CJK_LETTERS
from engine.markup import marks
from engine.markup.markdown_spans import Content, Piece, block_types, contents, pieces, supposed
from engine.markup.spans import Found, cut, without_tail
from engine.types import Block, Document

_BOM = "\ufeff"
_FRONT_MATTER = re.compile(  # its first line must look like data: a rule may open a document too
    r"---[ \t]*\r?\n(?:[ \t]*(?:#[^\n]*)?\r?\n)*[\w\"'.-][^\n:]*:(?s:.*?)\n(?:---|\.\.\.)[ \t]*(?=\r?\n|\Z)"
    r"|\+\+\+[ \t]*\r?\n(?s:.*?)\n\+\+\+[ \t]*(?=\r?\n|\Z)"
)
_URL = re.compile(r"(?<![A-Za-z0-9])(?:(?:https?|ftp)://|www\.)[!-;=?-_a-z{|}~]+")
_URL_TAIL = "]!\"'*,.:;?_}~"
_HTML_TAG = re.compile(r"<(/?)([A-Za-z][\w-]*)[^>]*?(/?)>", re.DOTALL)
_HARD_BREAK = re.compile(r"[ \t]*\\?(?:\r\n?|\n)[> \t]*")
_LINE_BREAK = re.compile(r"\s*[\r\n]+\s*")
_NO_TEXT_TO = {"html-comment", "hardbreak", "attributes"}  # void things that say nothing where a block begins or ends
_EMPHASIS = {"*": "em", "_": "em", "**": "strong", "__": "strong", "~~": "del"}
_SPECIAL = re.compile(r"[\\`*_\[\]<>&~$!{^|]")
_LINE_START = re.compile(r"(\s*)(?:([#+\-=:])|(\d{1,9})([.)]))")
_CJK = re.compile(f"[{CJK_LETTERS}]")
_FORMS = {  # around the text, so that it can be read alone; and the block tokens that must come out
    "paragraph": ("", "", "paragraph"),
    "paragraph-over-rule": ("", "", "paragraph"),
    "heading": ("# ", "", "heading"),
    "heading-underlined": ("", "\n---", "heading"),
    "cell": ("a|b\n-|-\n|", "|b", "td"),
    "cell-start": ("a|b\n-|-\n", "|b", "td"),
}


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a block: text, or a tag with the place of its partner."""

    kind: str
    text: str  # what is read of it
    source: str  # what stands in the document
    name: str
    start: int  # in the document
    end: int
    partner: int = -1


def parse(source: str) -> Document:
    """Takes time in proportion to the source. What cannot be cut with certainty stays in the skeleton."""
    start = len(_BOM) if source.startswith(_BOM) else 0
    front = _FRONT_MATTER.match(source, start)
    start = front.end() if front else start
    body = source[start:]
    found, env = contents(body)
    return cut(source, _placed(found, env, body, start))


def write(block: Block, text: str) -> str:
    """`text`, a translation of the block's, as Markdown. Marks that the block does not have are text."""
    if text == block.text or not text.strip():
        return block.source if text.strip() else text
    form, *wraps = block.form.split("\n")
    half = len(wraps) // 2
    before, after = [_tag(wrap, "open") for wrap in wraps[:half]], [_tag(wrap, "close") for wrap in wraps[half:]]
    env = supposed(block.source, " ".join([*wraps, *map("".join, block.tags.values())]))
    written = ""
    for html, apart, escaped in _STEPS:
        parts = [*_split(block, text, form, escaped)]
        if html:
            parts = _as_html(parts)
        parts = _spaced(_delimited(parts, "".join(wraps[:half]), "".join(wraps[half:])), apart)
        written = "".join(part.source for part in parts)
        if _reads_as([*before, *parts, *after], form, env):
            break
    return written.replace("\ufffd", block.spelling["\ufffd"]) if "\ufffd" in block.spelling else written


def _placed(found: Sequence[Content], env: EnvType, body: str, start: int) -> Iterator[Found]:
    """The blocks with their places in the source, of which `body` begins at `start`."""
    for content in found:
        tiles = pieces(content.text, env)
        made = _block(_parts(tiles, content, body), content.form, body) if tiles else None
        if made is not None:
            block, at = made
            yield Found(start + at, block)


_STEPS = [(html, apart, escaped) for html in (False, True) for apart in (False, True) for escaped in (0, 1, 2)]


def _parts(tiles: Sequence[Piece], content: Content, source: str) -> list[_Part]:
    """The pieces with their source; tags in pairs, bare URLs as tags, spaces for the ends of lines."""
    parts: list[_Part] = []
    for piece in tiles:
        start, end = content.positions[piece.start], content.positions[piece.end]
        name, text = piece.name, piece.text
        if name == "hardbreak":  # spaces that make it one belong to it
            start = parts[-1].end if parts else start
            text = " "
        elif name == "html_inline" and source.startswith("<!--", start):
            name = "html-comment"
        elif name == "template" and source.startswith(("{#", "{:", "{."), start):
            name = "attributes"
        joined = source[start:end]
        if (
            piece.kind in ("open", "close", "void")
            and name != "hardbreak"
            and "\n" in content.text[piece.start : piece.end]
        ):
            joined = " ".join(line.strip(" \t") for line in content.text[piece.start : piece.end].split("\n"))
        parts.append(_Part(piece.kind, text, joined, name, start, end))
    return _paired(_with_urls(_with_joined_lines(parts)))


def _with_joined_lines(parts: Sequence[_Part]) -> list[_Part]:
    joined = []
    for place, part in enumerate(parts):
        if part.kind == "break":
            before = parts[place - 1].text[-1:] if place else ""
            after = parts[place + 1].text[:1] if place + 1 < len(parts) else ""
            space = "" if _CJK.match(before) and _CJK.match(after) else " "
            part = replace(part, kind="text", text=space, source=space)
        joined.append(part)
    return joined


def _with_urls(parts: Sequence[_Part]) -> list[_Part]:
    """Bare URLs as tags. They are looked for across pieces of text: `_` and `&` part those."""
    found: list[_Part] = []
    place = 0
    while place < len(parts):
        last = place
        while last < len(parts) and parts[last].kind == "text":
            last += 1
        run = parts[place:last]
        if run:
            found += _cut_urls(run)
        found += parts[last : last + 1]
        place = last + 1
    return found


def _cut_urls(run: Sequence[_Part]) -> Iterator[_Part]:
    source = "".join(part.source for part in run)
    spans = []
    for match in _URL.finditer(source):
        url = without_tail(match[0], _URL_TAIL)
        if "." in url:
            spans.append((match.start(), match.start() + len(url)))
    at = 0
    for part in run:
        size = len(part.source)
        inside = [(max(a, at), min(b, at + size), a) for a, b in spans if a < at + size and b > at]
        if inside and part.name != "text":  # an entity is not cut
            inside = [(at, at + size, inside[0][2])]
        elif len(part.text) != len(part.source):  # a cell's `\\|`
            inside = []
        done = at
        for first, last, url_start in inside:
            if first > done:
                yield _slice(part, done - at, first - at, "text")
            yield _slice(part, first - at, last - at, "url" if first == url_start else "url-rest")
            done = last
        if done < at + size or not size:
            yield _slice(part, done - at, size, "text") if inside else part
        at += size


def _slice(part: _Part, first: int, last: int, name: str) -> _Part:
    kind = "text" if name == "text" else "void"
    whole = first == 0 and last == len(part.source)
    text = "" if kind == "void" else part.text if whole else part.text[first:last]
    start, end = (part.start, part.end) if whole else (part.start + first, part.start + last)
    return _Part(kind, text, part.source[first:last], name, start, end)


def _paired(parts: Sequence[_Part]) -> list[_Part]:
    """Openings and closings with the places of each other, HTML's too where they are well nested."""
    paired: list[_Part] = []
    open_places: list[int] = []
    names: list[str] = []
    for part in parts:
        place = len(paired)
        if part.name == "url-rest":
            if paired and paired[-1].name == "url":
                paired[-1] = replace(paired[-1], source=paired[-1].source + part.source, end=part.end)
                continue
            part = replace(part, name="url")
        tag = _HTML_TAG.fullmatch(part.source) if part.name == "html_inline" else None
        if part.kind == "open" or (tag and not tag[1] and not tag[3]):
            open_places.append(place)
            names.append(tag[2].lower() if tag else "")
        elif part.kind == "close" or tag:
            name = tag[2].lower() if tag else ""
            inner = next((at for at in range(len(names) - 1, -1, -1) if not names[at] or names[at] == name), -1)
            if inner >= 0 and names[inner] == name and not (tag and tag[3]):
                paired[open_places[inner]] = replace(paired[open_places[inner]], kind="open", partner=place)
                part = replace(part, kind="close", partner=open_places[inner])
                del open_places[inner:], names[inner:]
        paired.append(part)
    return paired


def _block(parts: Sequence[_Part], form: str, source: str) -> tuple[Block, int] | None:
    """The block that `parts` make, and where it starts; without what wraps it or says nothing at its edges."""
    if any(part.kind in ("open", "close") and part.partner < 0 for part in parts):
        return None
    first, last = 0, len(parts)
    before: list[str] = []
    after: list[str] = []
    while first < last:
        head, tail = parts[first], parts[last - 1]
        if head.name in _NO_TEXT_TO or (head.kind == "text" and not head.text.strip()):
            first += 1
        elif tail.name in _NO_TEXT_TO or (tail.kind == "text" and not tail.text.strip()):
            last -= 1
        elif head.partner == last - 1 and tail.source not in ("]", "][]"):
            before, after = [*before, head.source], [tail.source, *after]
            first, last = first + 1, last - 1
        else:
            break
    texts = [part.text for part in parts[first:last] if part.kind == "text"]
    if not any(map(str.isalpha, "".join(texts))):
        return None
    free = marks.free_numbers("".join(texts))
    numbers: dict[int, int] = {}
    tags: dict[int, tuple[str, str]] = {}
    spelling: dict[str, str] = {}
    shown: list[str] = []
    run, run_source = "", ""
    start, end = parts[first].start, parts[last - 1].end
    for place in range(first, last):
        part = parts[place]
        if part.kind == "text":
            run, run_source = run + part.text, run_source + part.source
            shown.append(part.text)
            continue
        if run.strip() != run_source.strip():
            spelling[run.strip()] = run_source.strip()
        run, run_source = "", ""
        if part.kind == "close":
            shown.append(f"</s{numbers[part.partner]}>")
            continue
        number = numbers[place] = next(free)
        closing = parts[part.partner] if part.kind == "open" else None
        tags[number] = (part.source, _closing(part, closing, source) if closing else "")
        shown.append(f"<s{number}>" if closing else f"<s{number}></s{number}>")
    if run.strip() != run_source.strip():
        spelling[run.strip()] = run_source.strip()
    whole = "".join(shown)
    text = whole.strip()
    start += len(parts[first].source) - len(parts[first].source.lstrip()) if parts[first].kind == "text" else 0
    end -= len(parts[last - 1].source) - len(parts[last - 1].source.rstrip()) if parts[last - 1].kind == "text" else 0
    if "\0" in source[start:end] and "\ufffd" not in source[start:end]:
        spelling["\ufffd"] = "\0"
    return Block(text, source[start:end], "\n".join([form, *before, *after]), tags, spelling), start


def _closing(opening: _Part, closing: _Part, source: str) -> str:
    """`]` and `][]` find their link by the text before them, which will be another."""
    if opening.name != "link_open" or closing.source not in ("]", "][]"):
        return closing.source
    label = re.sub(r"[\r\n]+[>\s]*", " ", source[opening.end : closing.start])
    return f"][{label}]"


def _split(block: Block, text: str, form: str, escaped: int) -> Iterator[_Part]:
    """The translation as parts: runs of text as they are to be written, and the tags of the marks."""
    cut_text = marks.pieces(text, block.tags)
    known = {piece for piece in marks.pieces(block.text, block.tags) if isinstance(piece, str)}
    for place, piece in enumerate(cut_text):
        if isinstance(piece, str):
            run, last = _LINE_BREAK.sub(" ", piece), place == len(cut_text) - 1
            yield _Part("text", run, _spelt(run, block, known, form, escaped, place == 0, last), "text", 0, 0)
            continue
        opening, closing = block.tags[piece.number]
        if source := closing if piece.kind == "close" else opening:
            kind = piece.kind if closing else "void"
            yield _Part(kind, "", source, _name(source, kind), 0, 0, piece.number)


def _name(source: str, kind: str) -> str:
    if kind != "void":
        return _EMPHASIS.get(source, "")
    if _HARD_BREAK.fullmatch(source):
        return "hardbreak"
    return "url" if _URL.match(source) else ""


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
        if form.startswith("heading"):
            bare = re.sub(r"#+$", lambda m: "\\" + m[0], bare) if last else bare
            bare = bare.replace("\\|", "&#124;")
        elif form.startswith("cell"):
            bare = bare.replace("\\|", "|")
    if form.startswith("cell"):
        bare = bare.replace("|", "\\|")
    elif form == "paragraph-over-rule":
        bare = re.sub(r"\\?\|", "&#124;", bare)
    return head + bare + tail


def _tag(source: str, kind: str) -> _Part:
    return _Part(kind, "", source, "", 0, 0)


def _as_html(parts: Sequence[_Part]) -> list[_Part]:
    """Emphasis as HTML, which no neighbour can undo."""
    return [
        replace(part, source=f"<{'/' if part.kind == 'close' else ''}{part.name}>", name="")
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
            left = _last(parts[:place]) or before[-1:] or " "
            right = _first(parts[place + 1 :]) or after[:1] or " "
            if part.kind == "open":
                outer[part.partner] = (left, outer.get(part.partner, ("", " "))[1])
                inner = right
            else:
                outer[part.partner] = (outer.get(part.partner, (" ", ""))[0], right)
                left, right, inner = right, right, left
            if _is_punctuation(inner) and not left.isspace() and not _is_punctuation(left):
                source = f" {part.source}" if part.kind == "open" else f"{part.source} "
                made[place] = replace(part, source=source)
    for place, part in enumerate(made):
        if part.partner in outer and any(character.isalnum() for character in outer[part.partner]):
            made[place] = replace(
                part, source=part.source.replace("_", "*") if part.name in ("em", "strong") else part.source
            )
    for place, part in enumerate(made[:-1]):
        following = made[place + 1].source[:1]
        if part.name == "url" and following > "\x7f" and not following.isspace():
            made[place] = replace(part, source=f"{part.source} ")
    return made


def _last(parts: Sequence[_Part]) -> str:
    return next((part.source[-1] for part in reversed(parts) if part.source), "")


def _first(parts: Sequence[_Part]) -> str:
    return next((part.source[0] for part in parts if part.source), "")


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"


def _spaced(parts: Sequence[_Part], apart: bool) -> list[_Part]:
    """With a space between tags that would else become one, if `apart`."""
    made = list(parts)
    if apart:
        for place in range(len(parts) - 1):
            here, following = parts[place], parts[place + 1]
            if here.kind in ("void", "close") and following.kind in ("void", "open"):
                made[place] = replace(here, source=f"{here.source} ")
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
