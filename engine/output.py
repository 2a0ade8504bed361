"""Translated segments → the document in its other language, as it comes. Knows no model and no transport.

What is sent belongs to a segment: the skeleton before it, then its text with the tags put back. Where the guard or a
check of the markup finds better, all of a segment is replaced.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace

from engine import glossary
from engine.job import Job
from engine.languages import LANGUAGES
from engine.markup import changes, kept, marks, source_places
from engine.markup.parse import Parser
from engine.markup.spans import filled, is_refused
from engine.types import Document, MarkupChange, Segment, SegmentDone, TermResult, TextDelta, TextReplaced, Translated

Change = TextDelta | TextReplaced


class Output:
    """Segments come in their order: `begin`, any number of `say`, `settle`. After the last comes `finish`."""

    def __init__(self, job: Job, document: Document, parser: Parser, target: str) -> None:
        self.texts: list[str] = []  # by block, with marks
        self.refused: list[int] = []  # blocks whose text could not be written, so that their source stays
        self._job, self._document, self._parser, self._target = job, document, parser, LANGUAGES[target]
        self._at = 0  # in the skeleton: what stands before has been sent
        self._written: list[str] = []  # by block: its source
        self._segments: dict[int, list[int]] = {}  # of each block
        self._starts: dict[int, int] = {}  # of the blocks in the source, once somebody asks
        self._letters: source_places.Letters | None = None  # of the block under way, once somebody asks
        self._read = 0  # characters of it that a reader has read before the segment under way
        self._placed = frozenset(part for part in document.skeleton if isinstance(part, int))
        self._leads: list[str] = []  # by segment: the skeleton before it
        self._gaps: list[str] = []  # by segment: the source of the gap before it
        self._bodies: list[str] = []  # by segment: that, and its own source
        self._rest = ""  # the skeleton after the last
        self._done: list[SegmentDone] = []

    @property
    def text(self) -> str:
        return "".join(map(self._whole, range(len(self._bodies)))) or self._rest

    def begin(self, part: Segment) -> Iterator[Change]:
        gap, lead = self._job.gap(part.index, self._target), ""
        if part.block not in self._segments:
            self._segments[part.block] = []
            self._write_until(part.block)
            self._block = filled(self._job.blocks[part.block], self._written)
            self._escape = self._parser.escape(self._block)
            self._restorer = marks.Restorer(self._block, self._escape)
            self._text = ""
            self._letters, self._read = None, 0
            lead = self._skeleton_until(part.block)
        self._segments[part.block].append(part.index)
        self._read += len(marks.bare(part.gap, self._block.tags))
        self._leads.append(lead)
        self._bodies.append("")
        self._text += gap
        self._gaps.append(self._restorer.feed(gap))
        self._said = ""
        self._before = self._restorer.copy()
        yield from self._add(part, self._gaps[-1], lead)

    def say(self, part: Segment, text: str) -> Iterator[Change]:
        """`text` as the model says it, marks and all."""
        self._said += text
        yield from self._add(part, self._restorer.feed(text))

    def settle(self, done: Translated) -> Iterator[Change]:
        """What became of the segment, where that is not what was said; and the end of its block."""
        part = done.segment
        if done.text != self._said:
            self._restorer = self._before
            body = self._gaps[-1] + self._restorer.feed(done.text)
            if body.startswith(self._bodies[-1]):
                yield from self._add(part, body[len(self._bodies[-1]) :])
            else:
                yield from self._exchange(part.index, body)
        self._text += done.text
        following = self._job.segments[part.index + 1 : part.index + 2]
        if not following or following[0].block != part.block:
            tail = self._job.tails[part.block]
            yield from self._add(part, self._restorer.feed(tail) + self._restorer.end())
            self.texts.append(self._text + tail)
            self._written.append(self._parser.write(self._block, self.texts[-1]))
            if is_refused(self._block, self.texts[-1], self._written[-1]):
                self.refused.append(part.block)
            yield from self._correct(part.block)

    def done(self, done: Translated) -> SegmentDone:
        """The translation of a segment, the one settled last, by itself and with its tags."""
        text = marks.restore(self._block, done.text, self._escape)
        source = kept.source(done.segment)
        terms = tuple(
            replace(
                term,
                places=tuple(marks.restored_places(self._block, done.text, self._escape, term.places)),
                source_places=tuple(self._source_places(done.segment.block, source, term)),
            )
            for term in done.terms
        )
        self._read += len(source)
        self._done.append(SegmentDone(done.segment.index, text, terms, done.warnings, source))
        return self._done[-1]

    def _source_places(self, number: int, source: str, term: TermResult) -> Iterator[tuple[int, int]]:
        """Where in the whole source a term stands that is found in `source`, the segment under way of a block."""
        block = self._job.blocks[number]
        self._starts = self._starts or source_places.starts_of_blocks(self._document)
        start = self._starts[number]
        self._letters = self._letters or source_places.letters(block, start)
        for first, last in term.source_places:
            if place := self._letters.place(self._read + first, self._read + last):
                read, said = source[first:last], block.source[place[0] - start : place[1] - start]
                joined = "".join(read.split()) == "".join(said.split())
                if said == read or (joined and glossary.is_said(said, term.source, self._job.source)):
                    yield place

    def changes(self) -> tuple[MarkupChange, ...]:
        """What of the markup is written otherwise, on purpose. To be called after `keep`."""
        return changes.declared(self._job.blocks, self.texts, self._written)

    def terms(self) -> Iterator[TermResult]:
        """Those of all segments, their places in `text`; none of a segment that was written otherwise."""
        start = 0
        for done, lead, gap, body in zip(self._done, self._leads, self._gaps, self._bodies, strict=True):
            at = body.find(done.text, len(gap))
            by = start + len(lead) + at
            for term in done.terms:
                yield replace(term, places=tuple((first + by, last + by) for first, last in term.places if at >= 0))
            start += len(lead) + len(body)

    def finish(self) -> Iterator[Change]:
        """What stands after the last segment: all, where there is none."""
        end = len(self._job.blocks)
        self._write_until(end)
        self._rest = self._skeleton_until(end)
        if self._rest:
            yield TextDelta(max(len(self._bodies) - 1, 0), self._rest)

    def keep(self, blocks: Collection[int]) -> Iterator[Change]:
        """The texts of these become those of the source again. To be called after `finish`."""
        for number in blocks:
            self.texts[number] = self._job.blocks[number].text
        self._written = []
        for block, text in zip(self._job.blocks, self.texts, strict=True):
            self._written.append(self._parser.write(filled(block, self._written), text))
        for number in self._segments:
            yield from self._correct(number)

    def _write_until(self, end: int) -> None:
        """Blocks without a segment stay as they are."""
        for block in self._job.blocks[len(self._written) : end]:
            self.texts.append(block.text)
            self._written.append(self._parser.write(filled(block, self._written), block.text))

    def _skeleton_until(self, end: int) -> str:
        """The skeleton from where we are to the block `end`, if it has a place there."""
        skeleton, parts, at = self._document.skeleton, list[str](), self._at
        while at < len(skeleton) and (isinstance(part := skeleton[at], str) or part < end):
            parts.append(part if isinstance(part, str) else self._written[part])
            at += 1
        if at < len(skeleton) and skeleton[at] != end:
            return ""  # it stands in a tag of a later block
        self._at = at + 1
        return "".join(parts)

    def _is_shown(self, block: int) -> bool:
        return self._at > 0 and self._document.skeleton[self._at - 1] == block

    def _add(self, part: Segment, text: str, lead: str = "") -> Iterator[Change]:
        """Nothing is sent of a block that stands in a tag of a later one: it comes with that."""
        if self._is_shown(part.block):
            self._bodies[-1] += text
            if lead or text:
                yield TextDelta(part.index, lead + text)

    def _exchange(self, index: int, body: str) -> Iterator[Change]:
        if self._bodies[index] != body:
            self._bodies[index] = body
            yield TextReplaced(index, self._whole(index))

    def _correct(self, block: int) -> Iterator[Change]:
        """Where the block was written otherwise than its segments were sent, from the first that differs."""
        written, at = self._written[block], 0
        indices = self._segments[block]
        if block not in self._placed:
            return
        for index in indices:
            body = self._bodies[index]
            if index == indices[-1] or not written.startswith(body, at):
                body = written[at:]
            at += len(body)
            yield from self._exchange(index, body)

    def _whole(self, index: int) -> str:
        return self._leads[index] + self._bodies[index] + (self._rest if index == len(self._bodies) - 1 else "")
