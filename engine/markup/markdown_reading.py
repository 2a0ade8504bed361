"""Markdown's inline content → blocks: marks for tags, words for the rest. Knows no block structure and no writing.

What the parser finds is only believed where its spans tile the content. Titles of links and images, and attributes of
inline HTML, are blocks too; where their tag stands among the words of a block, they will be nested in it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from markdown_it.common.utils import unescapeAll
from markdown_it.utils import EnvType

from engine.languages import CJK_LETTERS
from engine.markup import html, marks
from engine.markup.markdown_spans import TITLE, Content, Piece, pieces
from engine.markup.spans import WALL, Found, TagPlace, partners, without_tail
from engine.markup.templates import IN_MARKDOWN, IS_ATTRIBUTES
from engine.types import Block

URL = re.compile(r"(?<![A-Za-z0-9])(?:(?:https?|ftp)://|www\.)[!-;=?-_a-z{|}~]+")
ATTRIBUTE = "inline "  # what the form of an attribute begins with, before that of the HTML parser
_URL_TAIL = "]!\"'*,.:;?_}~"
_HTML_TAG = re.compile(r"<(/?)([A-Za-z][\w-]*)[^>]*?(/?)>", re.DOTALL)
_TITLED_END = re.compile(rf"\]\([ \t]*+(?:<[^<>]*+>|(?!<)[^ \t]++)[ \t]++{TITLE}[ \t]*+\)\Z")
_LABEL_ENDS = {"]", "][]"}  # these find their link by the text before them
_LINE_END = re.compile(r"[\r\n]+[>\s]*")
_MAY_HOLD = {"html_inline", "link_close", "image_close", "image"}
_NO_TEXT_TO = {"html-comment", "hardbreak", "attributes"}  # void things that say nothing where a block begins or ends
_CJK = re.compile(f"[{CJK_LETTERS}]")


class _Part(NamedTuple):
    """A piece of a block: text, or a tag with the place of its partner."""

    kind: str
    text: str  # what is read of it
    source: str  # what stands in the document; on one line
    name: str
    start: int  # in the document
    end: int
    partner: int = -1


def found_in(content: Content, env: EnvType, source: str) -> Iterator[Found]:
    """The blocks that inline content makes."""
    tiles = pieces(content.text, env)
    if not tiles:
        return
    may_hold_url = "://" in content.text or "www." in content.text
    if len(tiles) == 1 and not may_hold_url and (found := _plain(tiles[0], content, source)):
        yield found
        return
    parts = _with_joined_lines(_parts(tiles, content, source))
    parts = _paired(_with_urls(parts) if may_hold_url else parts)
    for part in parts:
        if part.name in _MAY_HOLD and part.source == source[part.start : part.end]:
            yield from _inside(part)
    yield from _block(parts, content.form, source)


def _plain(tile: Piece, content: Content, source: str) -> Found | None:
    """The block of content that is text alone, word for word as in the source: most cells and headings."""
    text = tile.text.strip()
    start = content.positions[tile.start] + len(tile.text) - len(tile.text.lstrip())
    if tile.kind != "text" or not source.startswith(text, start) or not any(map(str.isalpha, text)):
        return None
    return Found(start, Block(text, text, content.form))


def title_block(title: str, form: str) -> Block | None:
    """The block of a title without its quotes; None where nothing in it is for a translator."""
    text = " ".join(unescapeAll(title).split())
    return None if IN_MARKDOWN.search(title) or not any(map(str.isalpha, text)) else Block(text, title, form)


def _inside(part: _Part) -> Iterator[Found]:
    """The blocks in a tag: its attributes if it is HTML's, or its title."""
    if part.name == "html_inline":
        if "=" in part.source:
            for start, attribute, _ in html.find(part.source, kept=IN_MARKDOWN):
                yield Found(part.start + start, replace(attribute, form=ATTRIBUTE + attribute.form))
    elif part.name in ("link_close", "image_close", "image") and part.source[-2:-1] in "\"') \t":
        close = part.source.index("](") if part.name == "image" else 0
        title = _TITLED_END.match(part.source, close)
        if title and title.lastgroup and (block := title_block(title[title.lastgroup], f"title {title.lastgroup}")):
            yield Found(part.start + title.start(title.lastgroup), block)


def _parts(tiles: Sequence[Piece], content: Content, source: str) -> Iterator[_Part]:
    """The pieces with their source. Spaces that make a line's end a hard break belong to that."""
    end = -1
    for kind, first, last, text, name in tiles:
        start, before, end = content.positions[first], end, content.positions[last]
        written = source[start:end]
        if kind == "text" or kind == "break":
            pass
        elif name == "hardbreak":
            start = before if before >= 0 else start
            written, text = source[start:end], " "
        else:
            if name == "html_inline" and written.startswith("<!--"):
                name = "html-comment"
            elif name == "template" and IS_ATTRIBUTES.match(written):
                name = "attributes"
            if "\n" in content.text[first:last]:
                written = " ".join(line.strip(" \t") for line in content.text[first:last].split("\n"))
        yield _Part(kind, text, written, name, start, end)


def _with_joined_lines(parts: Iterator[_Part]) -> list[_Part]:
    """A space for each end of a line, none between Chinese letters."""
    joined = list(parts)
    for place, part in enumerate(joined):
        if part.kind == "break":
            before = joined[place - 1].text[-1:] if place else ""
            after = joined[place + 1].text[:1] if place + 1 < len(joined) else ""
            space = "" if _CJK.match(before) and _CJK.match(after) else " "
            joined[place] = part._replace(kind="text", text=space, source=space)
    return joined


def _with_urls(parts: Sequence[_Part]) -> list[_Part]:
    """Bare URLs as tags. They are looked for across pieces of text: `_` and `&` part those."""
    found: list[_Part] = []
    run: list[_Part] = []
    for part in parts:
        if part.kind == "text":
            run.append(part)
            continue
        found += _cut_urls(run)
        found.append(part)
        run = []
    return [*found, *_cut_urls(run)]


def _cut_urls(run: Sequence[_Part]) -> Sequence[_Part]:
    source = "".join(part.source for part in run)
    if "://" not in source and "www." not in source:
        return run
    urls = [(url.start(), url.start() + len(without_tail(url[0], _URL_TAIL))) for url in URL.finditer(source)]
    urls = [(start, end) for start, end in urls if "." in source[start:end]]
    cut: list[_Part] = []
    at = nearest = 0
    for part in run:
        done, at = at, at + len(part.source)
        while nearest < len(urls) and urls[nearest][1] <= done:
            nearest += 1
        whole = part.name != "text"  # an entity is not cut
        if not whole and len(part.text) != len(part.source):  # nor a cell's `\|`
            cut.append(part)
            continue
        offset = part.start - done
        for start, end in urls[nearest:]:
            if start >= at or done >= at:
                break
            first, last = (done, at) if whole else (max(start, done), min(end, at))
            if done < first:
                cut.append(part._replace(text=source[done:first], source=source[done:first], start=done + offset))
            url = part._replace(kind="void", text="", name="url", source=source[first:last])
            url = url._replace(start=first + offset, end=part.end if last == at else last + offset)
            if start < first and cut and cut[-1].name == "url":
                url = url._replace(start=cut[-1].start, source=cut[-1].source + url.source)
                cut.pop()
            cut.append(url)
            done = last
        if done + offset == part.start:
            cut.append(part)
        elif done < at:
            cut.append(part._replace(text=source[done:at], source=source[done:at], start=done + offset))
    return cut


def _paired(parts: Sequence[_Part]) -> list[_Part]:
    """Openings and closings with the places of each other; HTML's in pairs too where they nest."""
    paired = list(parts)
    ends: list[tuple[int, bool, str]] = []
    for place, part in enumerate(paired):
        if part.kind in ("open", "close"):
            ends.append((place, part.kind == "open", WALL))
        elif part.name == "html_inline" and (tag := _HTML_TAG.fullmatch(part.source)) and not tag[3]:
            ends.append((place, not tag[1], tag[2].lower()))
    for place, partner in partners(ends).items():
        paired[place] = paired[place]._replace(kind="open" if place < partner else "close", partner=partner)
    return paired


def _block(parts: Sequence[_Part], form: str, source: str) -> Iterator[Found]:
    """The block that `parts` make, without what wraps it or says nothing at its edges."""
    if any(part.kind in ("open", "close") and part.partner < 0 for part in parts):
        return
    first, last, wraps = _unwrapped(parts)
    words = "".join(part.text for part in parts[first:last] if part.kind == "text")
    if not any(map(str.isalpha, words)):
        return
    free = marks.free_numbers(words)
    numbers: dict[int, int] = {}
    tags: dict[int, tuple[str, str]] = {}
    places: list[TagPlace] = []
    spelling: dict[str, str] = {}
    shown: list[str] = []
    run, run_source = "", ""

    def end_run() -> None:
        if run != run_source and run.strip() != run_source.strip():
            spelling.setdefault(run.strip(), run_source.strip())

    for place in range(first, last):
        part = parts[place]
        if part.kind == "text":
            run, run_source = run + part.text, run_source + part.source
            shown.append(part.text)
            continue
        end_run()
        run, run_source = "", ""
        side: Literal[0, 1] = 0
        if part.kind == "close":
            side, number = 1, numbers[part.partner]
            shown.append(f"</s{number}>")
        else:
            number = numbers[place] = next(free)
            closing = _closing(parts, place, source) if part.kind == "open" else ""
            tags[number] = (part.source, closing)
            shown.append(f"<s{number}>" if closing else f"<s{number}></s{number}>")
        if part.source == source[part.start : part.end] and part.source in tags[number]:
            places.append(TagPlace(number, side, part.start, part.end))
    end_run()
    head, tail = parts[first], parts[last - 1]
    start = head.start + (len(head.source) - len(head.source.lstrip()) if head.kind == "text" else 0)
    end = tail.end - (len(tail.source) - len(tail.source.rstrip()) if tail.kind == "text" else 0)
    written = source[start:end]
    if "\0" in written and "\ufffd" not in written:
        spelling["\ufffd"] = "\0"
    block = Block("".join(shown).strip(), written, "\n".join([form, *wraps]), tags, spelling)
    yield Found(start, block, places)


def _unwrapped(parts: Sequence[_Part]) -> tuple[int, int, list[str]]:
    """The parts from the first that says something to the last, without pairs around all of them; those tags."""
    first, last = 0, len(parts)
    before: list[str] = []
    after: list[str] = []
    while first < last:
        head, tail = parts[first], parts[last - 1]
        if head.name in _NO_TEXT_TO or (head.kind == "text" and not head.text.strip()):
            first += 1
        elif tail.name in _NO_TEXT_TO or (tail.kind == "text" and not tail.text.strip()):
            last -= 1
        elif head.partner == last - 1 and tail.source not in _LABEL_ENDS:
            before.append(head.source)
            after.append(tail.source)
            first, last = first + 1, last - 1
        else:
            break
    return first, last, [*before, *reversed(after)]


def _closing(parts: Sequence[_Part], place: int, source: str) -> str:
    """What ends the pair. `]` and `][]` find their link by the text before them, which will be another."""
    opening, closing = parts[place], parts[parts[place].partner]
    if closing.source not in _LABEL_ENDS or opening.name not in ("link_open", "image_open"):
        return closing.source
    label = _LINE_END.sub(" ", source[opening.end : closing.start])
    return f"][{label}]"
