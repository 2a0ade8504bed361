"""Where what a reader reads of a block stands in the source of its document. Knows no terms and no model.

A block's source is read along with its text, letter by letter: a letter is itself, an entity, an escape or the end of a
line. What that does not explain ends it, and nothing is said of the rest of the block: no place is a guess.
"""

import re
from collections.abc import Iterator, Sequence
from html import unescape
from typing import NamedTuple

from engine.markup import marks
from engine.types import Block, Document

_ENTITY = re.compile(r"&(?:#[^\s<&#;]{1,32};?|[A-Za-z][A-Za-z0-9]{1,40};?)")
_ESCAPE = re.compile(r"\\[!-/:-@\[-`{-~]")
_BLANKS = r"[ \t\f]{0,200}"  # bounded, since a line may have any number
_LINE_END = re.compile(rf"{_BLANKS}(?:\r\n?|\n)[ \t\n\f\r]*")
_QUOTED_LINE_END = re.compile(rf"{_BLANKS}(?:\r\n?|\n)[> \t\n\f\r]*")  # with what Markdown puts before the next line
_LABEL_END = re.compile(r"\](?:\[\])?")  # of `[x]` and `[x][]`, whose tag says what the label was


class Letters(NamedTuple):
    """Letter n of what a reader reads of a block begins at `starts[n]` of the source and ends at `ends[n]`.

    There may be fewer than the text has: those of which that is certain.
    """

    starts: Sequence[int]
    ends: Sequence[int]

    def place(self, start: int, end: int) -> tuple[int, int] | None:
        """Of the letters from `start` to `end`."""
        return (self.starts[start], self.ends[end - 1]) if start < end <= len(self.ends) else None


def starts_of_blocks(document: Document) -> dict[int, int]:
    """Where each block begins in the source, by its number; those in tags of others too."""
    starts: dict[int, int] = {}
    waiting = [(document.skeleton, 0)]
    while waiting:
        skeleton, at = waiting.pop()
        for part in skeleton:
            if isinstance(part, str):
                at += len(part)
                continue
            block = document.blocks[part]
            starts[part] = at
            if block.nested:
                waiting.append((block.nested[0][0], at))  # 0: of its whole source
            at += len(block.source)
    return starts


def letters(block: Block, start: int) -> Letters:
    """Those of a block that begins at `start`; its tags are those of the source."""
    if not block.tags and block.text == block.source:
        return Letters(range(start, start + len(block.text)), range(start + 1, start + len(block.text) + 1))
    starts, ends = list[int](), list[int]()
    for first, last in _read(block):
        starts.append(start + first)
        ends.append(start + last)
    return Letters(starts, ends)


def _read(block: Block) -> Iterator[tuple[int, int]]:
    """Where each letter stands in the block's own source, as far as that is understood."""
    source, at = block.source, 0
    escapes = not block.form.startswith(("text", "html", "xml", "inline"))  # of Markdown
    line_end = _QUOTED_LINE_END if escapes else _LINE_END
    entities = not block.form.startswith("text")
    if block.form.startswith("front matter") and source[:1] in ("'", '"') and source[:1] != block.text[:1]:
        at = 1  # its quotes are part of it
    for piece in marks.pieces(block.text, block.tags):
        if not isinstance(piece, str):
            after = _after_tag(block, piece, at)
            if after is None:
                return
            at = after
            continue
        number = 0
        while number < len(piece):
            letter = piece[number]
            entity = _ENTITY.match(source, at) if entities and source.startswith("&", at) else None
            said = unescape(entity[0]) if entity else ""
            if entity and said != entity[0] and piece.startswith(said, number):
                yield from [entity.span()] * len(said)
                number, at = number + len(said), entity.end()
            elif escapes and (escape := _ESCAPE.match(source, at)) and escape[0][1] == letter:
                yield escape.span()
                number, at = number + 1, escape.end()
            elif source.startswith(letter, at) and letter not in "\r\n":
                # a space may be the first of those before the end of a line, which are one space with it
                end = line_end.match(source, at) if letter in " \t\f" else None
                last = end.end() if end and not piece[number + 1 : number + 2].isspace() else at + 1
                yield at, last
                number, at = number + 1, last
            elif end := line_end.match(source, at):
                if letter.isspace():
                    yield end.span()
                    number += 1
                at = end.end()  # else the line was joined without a space, as between Chinese letters
            elif source.startswith("\0", at):
                if letter == "\ufffd":
                    yield at, at + 1
                    number += 1
                at += 1
            elif source[at : at + 1].isspace():
                at += 1  # of several, which are one
            else:
                return


def _after_tag(block: Block, mark: marks.Mark, at: int) -> int | None:
    """Where the source goes on after the tag of a mark that should stand at `at`."""
    opening, closing = block.tags[mark.number]
    tag = opening if mark.kind == "open" else closing
    source = block.source
    if source.startswith(tag, at):
        return at + len(tag)
    if tag.startswith("][") and (label := _LABEL_END.match(source, at)):
        return label.end()
    spaced = r"[> \t\n\f\r]*".join(map(re.escape, tag.split()))  # its lines were joined
    found = re.compile(rf"[ \t\f\r\n]*{spaced}").match(source, at) if len(tag) < 10_000 else None
    return found.end() if found else None
