"""Words that come back as they are: the terms a user wants kept, and what would be a command to a model.

Each is a mark that stands alone, so that no model sees it and the guard brings it back; then it is spelt out again.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from engine.markup import marks
from engine.types import Block, Segment

Span = tuple[int, int]

# As HY-MT's and other models' tokenizers spell their special tokens. They are plain text to ours (`ChatTokenizer`), and
# a model that is given them as text may still answer with less than was there.
_CONTROL = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,60}｜>"
    r"|</?(?:think|answer|tool_calls?|tool_responses?|tool_sep)>|(?<![\w/])/(?:no_)?think\b"
)


def keep(part: Segment, spans: Iterable[Span]) -> Segment:
    """The segment with marks for the `spans` of its bare text and for models' special tokens. What a tag begins or ends
    in stays as it is: it cannot be one mark."""
    spans = [*spans]
    if not spans and not _CONTROL.search(part.text):
        return part
    free = marks.free_numbers(part.text)
    kept: dict[int, str] = {}
    pieces: list[marks.Piece] = []
    at = 0  # in the bare text
    for piece in marks.pieces(part.text, part.tags):
        if not isinstance(piece, str):
            pieces.append(piece)
            continue
        words = [(start - at, end - at) for start, end in spans if at <= start and end <= at + len(piece)]
        done = 0
        for start, end in _apart([*words, *(found.span() for found in _CONTROL.finditer(piece))]):
            number = next(free)
            kept[number] = piece[start:end]
            pieces += [piece[done:start], marks.Mark(number, "alone")]
            done = end
        pieces.append(piece[done:])
        at += len(piece)
    if not kept:
        return part
    tags = {**part.tags, **{number: (word, "") for number, word in kept.items()}}
    return replace(part, text=marks.spell(pieces, tags), tags=tags, kept=kept)


def spelt_out(part: Segment, text: str) -> str:
    """A translation of the segment with the kept words in the place of their marks."""
    return marks.restore(_block(part), text, str) if part.kept else text


class Speller:
    """Does in a stream what `spelt_out` does with the whole; marks that stand for the block's own tags go through."""

    def __init__(self, part: Segment) -> None:
        self._restorer = marks.Restorer(_block(part), str) if part.kept else None

    def feed(self, text: str) -> str:
        return self._restorer.feed(text) if self._restorer else text

    def end(self) -> str:
        return self._restorer.end() if self._restorer else ""


def bare(part: Segment, text: str) -> str:
    """A translation of the segment, spelt out, as a reader reads it."""
    if part.kept:
        return marks.bare(text, {number: tag for number, tag in part.tags.items() if number not in part.kept})
    return marks.bare(text, part.tags)


def source(part: Segment) -> str:
    """That of the segment, spelt out, as a reader reads it."""
    return bare(part, spelt_out(part, part.text))


def _block(part: Segment) -> Block:
    return Block(part.text, part.text, "", {number: part.tags[number] for number in part.kept})


def _apart(spans: Iterable[Span]) -> list[Span]:
    """In order, without those that begin inside another."""
    kept: list[Span] = []
    for start, end in sorted(spans):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept
