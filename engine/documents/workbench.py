"""A document opened at its segments: what became of each, by the model or by hand. Knows no disk, task or transport.

A segment's text has the marks of its block (`<s1>…</s1>`), and words that are kept spelt out, in its source as in its
translation. What stands here is what the file says: where a block must keep its source, its segments have that.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from engine import glossary
from engine.documents.file import File
from engine.errors import BadDocument, InvalidRequest, TextTooLong
from engine.job import Job as Cut
from engine.languages import LANGUAGES
from engine.markup import kept, marks
from engine.types import Finished, Segment, TermResult, Translated, Warning

MOST_WARNINGS = 100  # that are told of one document; its segments have them all
MOST_CHARACTERS = 20_000  # of a text by hand; a segment is a sentence or some
SHOWN_CHARACTERS = 60  # of a tag, where it is told what a mark stands for
SOURCE_KEPT = "source_kept"
FAILED = frozenset({SOURCE_KEPT, "empty"})  # warnings of what has no translation

_LIKE_A_MARK = re.compile(r"<\s{0,3}/?\s{0,3}s\s{0,3}\d{1,6}\s{0,3}/?\s{0,3}>", re.IGNORECASE)
_MARK = re.compile(r"</?s\d{1,6}>")
_NO_LINE = frozenset({"Cc", "Zl", "Zp"})  # line ends and controls
_UNSEEN = frozenset({"Cf", "Zs"})  # joiners, marks of direction, blanks
_UNSEEN_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\ufe0e\ufe0f\uffa0")


@dataclass(frozen=True, slots=True)
class Listed:
    """A segment as it is shown. `text` is None while there is none."""

    index: int
    source: str
    text: str | None
    warnings: tuple[Warning, ...]
    edited: bool
    marks: Mapping[str, str]  # what each stands for: {"<s1>": "<b>", "<s2></s2>": "%s"}


class Workbench:
    """`cut` may lack blocks and the tags of its segments until `attach`."""

    def __init__(self, cut: Cut, target: str, shows: Sequence[Mapping[str, str]] | None = None) -> None:
        self.cut = cut
        self.target = target
        self.shows = [shown(part) for part in cut.segments] if shows is None else shows
        self.done: dict[int, Translated] = {}
        self.edited: set[int] = set()
        self.warned: set[int] = set()
        self.file: File | None = None
        self._sources = [kept.spelt_out(part, part.text) for part in cut.segments]
        self._of_blocks: list[list[int]] = [[] for _ in cut.tails]
        for part in cut.segments:
            self._of_blocks[part.block].append(part.index)
        self._texts: list[str | None] = [None] * len(cut.tails)  # of blocks; None where it has changed since
        self._tokens = 0
        self._terms: dict[tuple[str, str], tuple[int, int]] = {}  # how often each is there, and was obeyed

    @property
    def size(self) -> int:
        """How many segments it has."""
        return len(self.cut.segments)

    def fits(self, file: File) -> bool:
        """Whether this is the file that it was cut from, read as it was then."""
        if not self.size:  # all stays as it is
            return len(file.blocks) == len(self._of_blocks)
        whole = [self._own_text(number) for number in range(len(self._of_blocks))]
        return [block.text for block in file.blocks] == whole

    def attach(self, file: File) -> None:
        """Raises `BadDocument` where it does not fit."""
        if not self.fits(file):
            raise BadDocument(
                "The document was read by another version of Yiwen, so its segments cannot be changed any more; "
                "send the file again."
            )
        segments = []
        for part, source in zip(self.cut.segments, self._sources, strict=True):
            tags = file.blocks[part.block].tags
            own = {number: tags[number] for number in marks.numbers(source, tags)}
            segments.append(replace(part, tags={**own, **{n: (word, "") for n, word in part.kept.items()}}))
        self.cut = replace(self.cut, blocks=file.blocks, segments=segments)
        self._texts = [None] * len(self._texts)
        self.file = file

    def detach(self) -> None:
        """What can be had again goes."""
        self.cut, self.file = replace(self.cut, blocks=()), None

    # -----------------------------------------------------------------------------------------------------------------
    # what became of the segments

    def put(self, done: Translated, *, edited: bool = False) -> None:
        index = done.segment.index
        if before := self.done.get(index):
            self._count(before, -1)
        self.done[index] = done
        self._texts[done.segment.block] = None
        self._count(done, 1)
        (self.edited.add if edited else self.edited.discard)(index)
        (self.warned.add if done.warnings else self.warned.discard)(index)

    def _count(self, done: Translated, by: int) -> None:
        self._tokens += by * done.tokens
        for term in done.terms:
            key = term.source, term.target
            count, applied = self._terms.get(key, (0, 0))
            self._terms[key] = count + by * term.count, applied + by * term.applied

    def failed(self) -> set[int]:
        """Those that have no translation: they kept their source, or were never done."""
        kept_source = {
            index
            for index in self.warned - self.edited
            if not FAILED.isdisjoint(warning.code for warning in self.done[index].warnings)
        }
        return kept_source | {part.index for part in self.cut.segments if part.index not in self.done}

    def by_hand(self, index: int, text: str) -> Translated:
        """The segment with this text. Raises `InvalidRequest` or `TextTooLong`, which say what is wrong with it."""
        part, before = self.cut.segments[index], self.done.get(index)
        text = _checked(part, self._sources[index], text)
        source, said = kept.bare(part, self._sources[index]), kept.bare(part, text)
        terms = glossary.check(part.terms, source, said, self.cut.source, self.target) if part.terms else ()
        return Translated(part, text, before.tokens if before else 0, terms)

    def source_kept(self, done: Translated) -> Translated:
        """The segment with its source, since its block could not be written with its translation."""
        index = done.segment.index
        message = (
            f"The paragraph of segment {index + 1} could not be written with its translation and the structure it "
            "had, so its source text was kept."
        )
        warnings = (*(each for each in done.warnings if each.code != SOURCE_KEPT), Warning(SOURCE_KEPT, message, index))
        return replace(done, text=self._sources[index], warnings=warnings)

    def of_block(self, number: int) -> Sequence[int]:
        """The segments of this block."""
        return self._of_blocks[number]

    # -----------------------------------------------------------------------------------------------------------------
    # the whole

    def texts(self, changed: Translated | None = None) -> list[str]:
        """Of each block, with `changed` in its place. To be called after `attach`."""
        if not self.size:
            return [block.text for block in self.cut.blocks]
        for number, text in enumerate(self._texts):
            if text is None:
                self._texts[number] = self._text(number)
        texts = [text or "" for text in self._texts]
        if changed:
            texts[changed.segment.block] = self._text(changed.segment.block, changed)
        return texts

    def _text(self, number: int, changed: Translated | None = None) -> str:
        said, is_own = "", True
        for index in self._of_blocks[number]:
            done = changed if changed and changed.segment.index == index else self.done.get(index)
            text = done.text if done else self._sources[index]
            is_own = is_own and text == self._sources[index]
            said += self.cut.gap(index, LANGUAGES[self.target]) + text
        return self._own_text(number) if is_own else said + self.cut.tails[number]

    def _own_text(self, number: int) -> str:
        own = (self.cut.segments[index].gap + self._sources[index] for index in self._of_blocks[number])
        return "".join(own) + self.cut.tails[number]

    def answer(self, model: str, seconds: float) -> Finished:
        """All there is to say of it but texts."""
        own: list[Warning] = []
        kept_blocks: set[int] = set()
        more = 0
        for index in sorted(self.warned):
            for warning in self.done[index].warnings:
                if warning.code == SOURCE_KEPT:
                    kept_blocks.add(self.done[index].segment.block)
                elif len(own) < MOST_WARNINGS:
                    own.append(warning)
                else:
                    more += 1
        warnings = [*self.cut.warnings, *own]
        if kept_blocks:
            what = f"{len(kept_blocks):,} paragraphs could not be written with their translation and the structure"
            warnings.insert(0, Warning(SOURCE_KEPT, f"{what} they had, so their source text was kept."))
        more += max(0, len(warnings) - MOST_WARNINGS)
        if more:
            warnings[MOST_WARNINGS:] = [Warning("more_warnings", f"There are {more:,} more warnings like these.")]
        return Finished(
            text="",
            source=self.cut.source,
            segments=self.size,
            input_tokens=sum(part.tokens for part in self.cut.segments),
            output_tokens=self._tokens,
            seconds=seconds,
            model=model,
            detection=self.cut.detection,
            terms=tuple(TermResult(*key, *counts) for key, counts in self._terms.items() if counts[0]),
            warnings=tuple(warnings),
        )

    # -----------------------------------------------------------------------------------------------------------------
    # what is shown

    def listed(self, start: int, count: int, only: str = "", wanted: str = "") -> tuple[int, list[Listed]]:
        """How many segments hold the words `wanted`, with or without their marks, and `count` of them from `start`; of
        those with warnings or those edited where `only` says "warnings" or "edited"."""
        chosen = {"warnings": self.warned, "edited": self.edited}.get(only)
        indices: Sequence[int] = range(self.size) if chosen is None else sorted(chosen)
        if wanted := wanted.casefold():
            indices = [index for index in indices if self._holds(index, wanted)]
        return len(indices), [self.segment(index) for index in indices[start : start + count]]

    def _holds(self, index: int, wanted: str) -> bool:
        done = self.done.get(index)
        return any(
            wanted in text.casefold() or ("<s" in text and wanted in _MARK.sub("", text).casefold())
            for text in (self._sources[index], done.text if done else "")
        )

    def segment(self, index: int) -> Listed:
        done = self.done.get(index)
        return Listed(
            index,
            self._sources[index],
            done.text if done else None,
            done.warnings if done else (),
            index in self.edited,
            self.shows[index],
        )


def shown(part: Segment) -> dict[str, str]:
    """What each mark of the segment stands for, where it has its tags."""
    told = {}
    for number, (opening, closing) in part.tags.items():
        if number not in part.kept:
            mark = f"<s{number}>" if closing else f"<s{number}></s{number}>"
            told[mark] = opening if len(opening) <= SHOWN_CHARACTERS else f"{opening[: SHOWN_CHARACTERS - 1]}…"
    return told


def _checked(part: Segment, source: str, text: str) -> str:
    text = text.strip()
    if all(unicodedata.category(each) in _UNSEEN or each in _UNSEEN_LETTERS for each in text):
        raise InvalidRequest("The text is empty; a segment needs one with at least a word in it.")
    if len(text) > MOST_CHARACTERS:
        raise TextTooLong(f"The text has {len(text):,} characters; a segment takes {MOST_CHARACTERS:,} at the most.")
    for place, character in enumerate(text):
        category = unicodedata.category(character)
        if category == "Cs":
            raise InvalidRequest(
                f"Half a character (U+{ord(character):04X}) stands at position {place}; send whole Unicode characters."
            )
        if category in _NO_LINE and character != "\t":
            raise InvalidRequest(
                f"A segment is one line of text: take out the line break or control character (U+{ord(character):04X}) "
                f"at position {place}."
            )
    tags = {number: tag for number, tag in part.tags.items() if number not in part.kept}
    own = {f"<s{number}>" for number in tags} | {f"</s{number}>" for number in tags}
    own |= {found.group() for found in _LIKE_A_MARK.finditer(source)}
    strange = [found.group() for found in _LIKE_A_MARK.finditer(text) if found.group() not in own]
    if strange:
        raise InvalidRequest(f"The text has {_named(strange)}, which its source has not; take it out.")
    if not tags:
        return text
    names = {number: f"<s{number}>…</s{number}>" if tags[number][1] else f"<s{number}></s{number}>" for number in tags}
    if missing := [names[number] for number in marks.lost(source, tags, text)]:
        raise InvalidRequest(f"The text lacks {_named(missing)}, which its source has; put it where it belongs.")
    if marks.mend(source, tags, text) != text:
        raise InvalidRequest(
            f"The marks {_named([*names.values()])} must each be there once, around words where the source has words "
            "between them, and lie in each other as they do in the source."
        )
    return text


def _named(found: Sequence[str]) -> str:
    names = [*dict.fromkeys(found)]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more
