"""A run of text and inline tags, as HTML and XML have them → its block. Knows neither, but for `&nbsp;`."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

from engine.markup import marks
from engine.markup.spans import Found, TagPlace, partners
from engine.types import Block

MOST_ITEMS = 20_000  # texts and tags of one block; nobody writes a paragraph of more
NO_BREAK_SPACE = "&nbsp;"

_SPACE = re.compile(r"(?<![\t\n\f\r ])[\t\f ]*+[\n\r][\t\n\f\r ]*+")


class Item(NamedTuple):
    """A part of a run. An open or close that has no partner there stands alone, like a void."""

    kind: Literal["text", "open", "close", "void"]
    start: int
    end: int
    tag: str = ""
    worded: bool = False  # whether it has text to translate or to keep among the words
    shown: bool = False  # whether a reader sees it as a word of the sentence


class Letters(NamedTuple):
    """How a format reads and writes the text of a block."""

    form: str  # of the block
    read: Callable[[str], str]  # the source of a text → what a reader reads
    escape: Callable[[str], Callable[[str], str]]  # the source of a block → how its runs are written
    loose: re.Pattern[str]  # what in the source of a run could mean something else beside other text


def texts(source: str, start: int, end: int, kept: Iterable[tuple[int, int]]) -> Iterator[Item]:
    """The items of a text; what is `kept` stays as it is, a word among the others."""
    for first, last in kept:
        if start < first:
            yield _text(source, start, first)
        yield Item("void", first, last, shown=True)
        start = last
    if start < end:
        yield _text(source, start, end)


def _text(source: str, start: int, end: int) -> Item:
    worded = _inner(source, start, end) != (end, end)
    return Item("text", start, end, worded=worded, shown=worded)


def lines_joined(written: str) -> str:
    """A line break and the blanks around it are one space."""
    return _SPACE.sub(_one_space, written)


def _one_space(space: re.Match[str]) -> str:
    return " " if "\n" in space[0] or "\r" in space[0] else space[0]


def _inner(source: str, start: int, end: int) -> tuple[int, int]:
    """The stretch without white space around it."""
    while start < end:
        if source[start].isspace():
            start += 1
        elif source.startswith(NO_BREAK_SPACE, start, end):
            start += len(NO_BREAK_SPACE)
        else:
            break
    while start < end:
        if source[end - 1].isspace():
            end -= 1
        elif source.endswith(NO_BREAK_SPACE, start, end):
            end -= len(NO_BREAK_SPACE)
        else:
            break
    return start, end


def block_of(source: str, run: Sequence[Item], letters: Letters) -> Iterator[Found]:
    """The block of a run, if there is a letter in it."""
    words = [item for item in run if item.shown]
    if not any(item.worded for item in words):
        return
    inner = words if len(words) == 1 else _unwrapped(_merged(run))
    for index in {0, len(inner) - 1}:
        if inner[index].kind == "text":
            start, end = inner[index].start, inner[index].end
            inner_start, inner_end = _inner(source, start, end)
            start = inner_start if index == 0 else start
            end = inner_end if index == len(inner) - 1 else end
            inner[index] = Item("text", start, end)
    read = {
        index: letters.read(source[item.start : item.end]) for index, item in enumerate(inner) if item.kind == "text"
    }
    if any(map(str.isalpha, "".join(read.values()))):
        yield _found(source, inner, read, letters)


def _unwrapped(items: list[Item]) -> list[Item]:
    """Without the pairs around all of it, and without what shows no reader anything where it begins and ends."""
    pairs = _pairs(items)
    first, last = 0, len(items) - 1
    while first <= last:
        if not items[first].shown and first not in pairs:
            first += 1
        elif not items[last].shown and last not in pairs:
            last -= 1
        elif pairs.get(first) == last:
            first, last = first + 1, last - 1
        else:
            break
    return items[first : last + 1]


def _pairs(items: Sequence[Item]) -> Mapping[int, int]:
    return partners(
        (index, item.kind == "open", item.tag) for index, item in enumerate(items) if item.kind in ("open", "close")
    )


def _merged(items: Sequence[Item]) -> list[Item]:
    """The items with one void for each pair that has no text in it."""
    pairs = _pairs(items)
    worded = [0, *accumulate(item.worded for item in items)]
    shown = [0, *accumulate(item.shown for item in items)]
    merged = []
    at = 0
    while at < len(items):
        end = pairs.get(at, at)
        if at < end and worded[at] == worded[end]:
            merged.append(Item("void", items[at].start, items[end].end, shown=shown[at] < shown[end]))
            at = end
        else:
            merged.append(items[at])
        at += 1
    return merged


def _found(source: str, items: Sequence[Item], read: Mapping[int, str], letters: Letters) -> Found:
    """The block of these items, where `read` is what a reader reads of those that are text."""
    pairs = _pairs(items)
    whole = source[items[0].start : items[-1].end]
    escape = letters.escape(whole)
    numbers = marks.free_numbers("".join(read.values()))
    number_of: dict[int, int] = {}
    parts: list[str] = []
    tags: dict[int, tuple[str, str]] = {}
    places: list[TagPlace] = []
    spelling: dict[str, str] = {}
    plain: set[str] = set()  # runs that are written as they would be
    for index, item in enumerate(items):
        written = source[item.start : item.end]
        if item.kind == "text":
            text = read[index]
            parts.append(text)
            if escape(text) == written:
                plain.add(text)
            elif not letters.loose.search(written):
                spelling.setdefault(text, written)
        elif index in number_of:
            number = number_of[index]
            parts.append(f"</s{number}>")
            tags[number] = (tags[number][0], written)
            places.append(TagPlace(number, 1, item.start, item.end))
        else:
            number = next(numbers)
            if index in pairs:
                number_of[pairs[index]] = number
            parts.append(f"<s{number}>" if index in pairs else f"<s{number}></s{number}>")
            tags[number] = (written, "")
            places.append(TagPlace(number, 0, item.start, item.end))
    for text in plain & spelling.keys():  # of both ways the plain one: else a space may become the end of a line
        del spelling[text]
    return Found(items[0].start, Block("".join(parts), whole, letters.form, tags, spelling), places)
