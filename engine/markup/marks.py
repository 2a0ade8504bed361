"""Inline marks: read them in what a model answers, mend them, and put the tags back. Knows no format, prompt or model.

A block's text holds `<s1>…</s1>` for a pair of tags and `<s2></s2>` for one that stands alone (`types.Block`). A model
drops, doubles, moves, respells and invents marks. Mending loses no word of its answer and guesses no place: where that
would take a guess, the runs between the marks are to be translated apart, and the marks are right by construction.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Literal

from engine.types import Block

MOST_MENDED = 200  # tags of one block; with more, marks are right at once or the runs are translated apart
LONGEST_MARK = 26  # characters, spaces and all

_EXACT = re.compile(r"<(?P<closes>/?)s(?P<number>\d{1,6})(?P<alone>)>")
_LOOSE = re.compile(
    r"[<＜]\s{0,3}(?P<closes>[/／]?)\s{0,3}[sSｓＳ]\s{0,3}(?P<number>\d{1,6})\s{0,3}(?P<alone>[/／]?)\s{0,3}[>＞]"
)
_LETTERS = "A-Za-z\u00c0-\u024f\u0400-\u04ff"  # of scripts whose words spaces part
_BEFORE_SPACE = re.compile(rf"(?:[.,;:!?)\d]|[{_LETTERS}]{{2}})\Z")  # one letter may be a prefix: v{{version}}
_AFTER_SPACE = re.compile(rf"[{_LETTERS}]{{3}}|[{_LETTERS}]{{1,2}}\s|[(\d]")  # {{n}}th, {{n}}s
_NO_SPACE_BEFORE, _NO_SPACE_AFTER = re.compile(r"\S\Z"), re.compile(r"\S")
_BEGUN = re.compile(r"[<＜]\s{0,3}[/／]?\s{0,3}(?:[sSｓＳ]\s{0,3}(?:\d{1,6}\s{0,3}[/／]?\s{0,3})?)?\Z")

Tags = Mapping[int, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Mark:
    number: int
    kind: Literal["open", "close", "alone"]


Piece = str | Mark


def stands_alone(tags: Tags, number: int) -> bool:
    return not tags[number][1]


def pieces(text: str, tags: Tags) -> list[Piece]:
    """Runs and marks of a block's own text, in order; no two runs side by side. Only numbers in `tags` are marks."""
    if not tags:
        return [text] if text else []
    return list(_pieces(_EXACT, text, tags, ()))


def numbers(text: str, tags: Tags) -> list[int]:
    """Those of the marks in `text`, in order."""
    return list(dict.fromkeys(piece.number for piece in pieces(text, tags) if not isinstance(piece, str)))


def bare(text: str, tags: Tags) -> str:
    """`text` without its marks, as a reader reads it."""
    return "".join(piece for piece in pieces(text, tags) if isinstance(piece, str)) if tags else text


def read(answer: str, text: str, tags: Tags) -> list[Piece]:
    """Runs and marks of what a model made of `text`: odd spellings are read, invented numbers dropped."""
    literal, before = _literal(text, tags), ""

    def kept(found: re.Match[str]) -> str:
        return found[0] if int(found["number"]) in tags or found[0] in literal else ""

    while answer != before:  # what is left of `<s<s9>1>` may look like a mark again
        before, answer = answer, _LOOSE.sub(kept, answer)
    return list(_pieces(_LOOSE, answer, tags, literal))


def unmarked(answer: str, text: str, tags: Tags) -> str:
    """What a model made of a run `text` that has no marks, without any."""
    before = ""
    while answer != before and _LOOSE.search(answer):
        before, answer = answer, "".join(piece for piece in read(answer, text, tags) if isinstance(piece, str))
    return answer


def free_numbers(text: str) -> Iterator[int]:
    """1, 2, … without those of marks that `text`, to be given marks of ours, holds as text."""
    taken = {int(found["number"]) for found in _LOOSE.finditer(text)}
    return (number for number in count(1) if number not in taken)


def _literal(text: str, tags: Tags) -> set[str]:
    """What looks like a mark in `text` and is none."""
    return {found.group() for found in _LOOSE.finditer(text) if int(found["number"]) not in tags}


def _pieces(spelling: re.Pattern[str], text: str, tags: Tags, literal: Collection[str]) -> Iterator[Piece]:
    run, done = "", 0
    for found in spelling.finditer(text):
        number = int(found["number"])
        if number not in tags and (spelling is _EXACT or found.group() in literal):
            continue  # it is text
        run += text[done : found.start()]
        done = found.end()
        if number not in tags:
            continue
        if run:
            yield run
            run = ""
        yield Mark(number, "alone" if found["alone"] else "close" if found["closes"] else "open")
    if run := run + text[done:]:
        yield run


# ---------------------------------------------------------------------------------------------------------------------
# the guard


@dataclass(slots=True)
class _Tree:
    """How marks lie in each other, by number and in reading order; 0 is the block itself."""

    parents: dict[int, int] = field(default_factory=dict)
    filled: set[int] = field(default_factory=set)  # pairs that hold a word

    def children(self) -> dict[int, list[int]]:
        below: dict[int, list[int]] = {number: [] for number in (0, *self.parents)}
        for number, parent in self.parents.items():
            below[parent].append(number)
        return below


def _tree(marked: Sequence[Piece], tags: Tags) -> _Tree | None:
    """None where a mark is missing its partner, comes twice, or crosses another."""
    tree, open_marks = _Tree(), [0]
    for piece in marked:
        if isinstance(piece, str):
            if piece.strip():
                tree.filled.add(open_marks[-1])
        elif piece.kind == "close":
            if open_marks.pop() != piece.number:
                return None
            if piece.number in tree.filled:
                tree.filled.add(open_marks[-1])
        elif piece.number in tree.parents:
            return None
        else:
            tree.parents[piece.number] = open_marks[-1]
            if piece.kind == "open":
                open_marks.append(piece.number)
    return tree if open_marks == [0] else None


def mend(text: str, tags: Tags, answer: str) -> str | None:
    """The answer with the marks of `text`: each once, nested as there, and all of the answer's words.

    What a slip of the pen explains is mended: case, spaces and width of a mark, a mark that came twice or that `text`
    has not, a lost one that stands alone (it goes to the end of its parent), a child that sticks out of its parent.
    None where a pair has lost an end or its words: no rule says where those belong.
    """
    wanted = _tree(pieces(text, tags), tags)
    assert wanted is not None, "a block's own marks are well nested"
    marked = read(answer, text, tags)
    given = _tree(marked, tags)
    if given is not None and given.parents == wanted.parents and _no_words_in_tags_alone(given, tags):
        mended = spell(marked, tags) if wanted.filled <= given.filled | {0} else None
    else:
        mended = _mended(wanted, marked, tags) if len(tags) <= MOST_MENDED else None
    made = _tree(pieces(mended, tags), tags) if mended is not None else None
    # what is left where a mark was dropped may read as another
    return mended if made is not None and made.parents == wanted.parents else None


def lost(text: str, tags: Tags, answer: str) -> list[int]:
    """The tags of `text` whose marks the answer leaves out, so that their place in it is a guess."""
    there = {piece.number for piece in read(answer, text, tags) if not isinstance(piece, str)}
    return [number for number in tags if number not in there]


def spaced(text: str, tags: Tags, answer: str) -> str:
    """The answer, whose marks are right, with a space between a word and a tag that stands alone, where the model
    joined what stands apart in `text`: `file<s1></s1>` for `file <s1></s1>`."""
    for number in {*_near(answer, tags, -1, _BEFORE_SPACE)} - {*_near(text, tags, -1, _NO_SPACE_BEFORE)}:
        answer = answer.replace(f"<s{number}>", f" <s{number}>", 1)
    for number in {*_near(answer, tags, 1, _AFTER_SPACE)} - {*_near(text, tags, 1, _NO_SPACE_AFTER)}:
        answer = answer.replace(f"</s{number}>", f"</s{number}> ", 1)
    return answer


def _near(text: str, tags: Tags, side: Literal[-1, 1], what: re.Pattern[str]) -> Iterator[int]:
    """The tags that stand alone and have `what` right before (-1) or after (1) them."""
    for first, second in pairwise(pieces(text, tags)):
        mark, run = (first, second) if side > 0 else (second, first)
        if not isinstance(mark, Mark) or not isinstance(run, str) or not stands_alone(tags, mark.number):
            continue
        if what.match(run) if side > 0 else what.search(run[-2:]):
            yield mark.number


def _no_words_in_tags_alone(tree: _Tree, tags: Tags) -> bool:
    return not any(stands_alone(tags, number) for number in tree.filled if number)


def spell(marked: Sequence[Piece], tags: Tags) -> str:
    """Pieces → text, each mark as a block spells it."""
    spelt = []
    for piece in marked:
        if isinstance(piece, str):
            spelt.append(piece)
        elif piece.kind == "alone" or (stands_alone(tags, piece.number) and piece.kind == "open"):
            spelt.append(f"<s{piece.number}></s{piece.number}>")
        elif not stands_alone(tags, piece.number):
            spelt.append(f"<s{piece.number}>" if piece.kind == "open" else f"</s{piece.number}>")
    return "".join(spelt)


def _mended(wanted: _Tree, marked: Sequence[Piece], tags: Tags) -> str | None:
    words = "".join(piece for piece in marked if isinstance(piece, str))
    spans = _spans(marked, tags)
    below = wanted.children()

    def fit(number: int, low: int, high: int) -> bool:
        """Put the span of `number` and all below it between `low` and `high`."""
        if stands_alone(tags, number):
            place = min(max(spans.get(number, (high, high))[0], low), high)
            spans[number] = (place, place)
            return True
        if number not in spans and number in wanted.filled:
            return False
        start, end = (min(max(place, low), high) for place in spans.get(number, (high, high)))
        if number in wanted.filled and not words[start:end].strip():
            return False
        spans[number] = (start, end)
        return all(fit(child, start, end) for child in below[number]) and disjoint(below[number])

    def disjoint(numbers: list[int]) -> bool:
        """Whether no pair crosses another; what stands alone moves out of its sisters."""
        pairs = sorted(spans[number] for number in numbers if not stands_alone(tags, number))
        if any(second[0] < first[1] for first, second in pairwise(pairs)):
            return False
        for number in numbers:
            if stands_alone(tags, number):
                place = spans[number][0]
                out = next((end for start, end in pairs if start < place < end), place)
                spans[number] = (out, out)
        return True

    def written(number: int, low: int, high: int) -> Iterator[str]:
        order = {child: rank for rank, child in enumerate(below[number])}
        for child in sorted(below[number], key=lambda child: (*spans[child], order[child])):
            start, end = spans[child]
            yield words[low:start]
            yield f"<s{child}>"
            yield from written(child, start, end)
            yield f"</s{child}>"
            low = end
        yield words[low:high]

    if not all(fit(child, 0, len(words)) for child in below[0]) or not disjoint(below[0]):
        return None
    return "".join(written(0, 0, len(words)))


def _spans(marked: Sequence[Piece], tags: Tags) -> dict[int, tuple[int, int]]:
    """Where in the words each mark stands that is there: the first of its kind counts."""
    opened: dict[int, int] = {}
    spans: dict[int, tuple[int, int]] = {}
    place = 0
    for piece in marked:
        if isinstance(piece, str):
            place += len(piece)
        elif stands_alone(tags, piece.number):
            spans.setdefault(piece.number, (place, place))
        elif piece.kind == "open":
            opened.setdefault(piece.number, place)
        elif piece.kind == "close" and piece.number in opened:
            spans.setdefault(piece.number, (opened[piece.number], place))
    return spans


# ---------------------------------------------------------------------------------------------------------------------
# runs translated apart


def apart(text: str, tags: Tags) -> list[str]:
    """The runs of `text` that hold a word, without the white space around them."""
    return [piece.strip() for piece in pieces(text, tags) if isinstance(piece, str) and piece.strip()]


def together(text: str, tags: Tags, runs: Sequence[str]) -> str:
    """`text` with its runs (those of `apart`) exchanged, marks and white space as they were."""
    following = iter(runs)
    parts = list[Piece]()
    for piece in pieces(text, tags):
        if isinstance(piece, str) and (core := piece.strip()):
            before, _, after = piece.partition(core)
            piece = before + next(following) + after
        parts.append(piece)
    return spell(parts, tags)


# ---------------------------------------------------------------------------------------------------------------------
# tags back in


def restore(block: Block, text: str, escape: Callable[[str], str]) -> str:
    """The source of `text`, whose marks are right: tags for marks, and for a run its `spelling` or else `escape`."""
    parts = []
    for piece in pieces(text, block.tags):
        if isinstance(piece, str):
            parts.append(block.spelling[piece] if piece in block.spelling else escape(piece))
        elif piece.kind == "open":
            parts.append(block.tags[piece.number][0])
        else:
            parts.append(block.tags[piece.number][1])
    return "".join(parts)


def restored_places(
    block: Block, text: str, escape: Callable[[str], str], places: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Stretches of the bare `text` (see `bare`) as stretches of its source (see `restore`). One that begins or ends in
    a run that is spelt in a way of its own is left out. `escape` must not look around."""
    runs: list[tuple[int, int, str]] = []  # where each begins in the bare text, where in the source, and what it is
    at = written = 0
    for piece in pieces(text, block.tags):
        if isinstance(piece, str):
            runs.append((at, written, piece))
            at += len(piece)
            written += len(block.spelling.get(piece) or escape(piece))
        else:
            written += len(block.tags[piece.number][0 if piece.kind == "open" else 1])

    def in_source(place: int, run: tuple[int, int, str]) -> int | None:
        start, written, words = run
        if block.spelling.get(words, words) != words:
            return None
        return written + (place - start if words in block.spelling else len(escape(words[: place - start])))

    found = []
    for start, end in places:
        first = next((run for run in runs if run[0] <= start < run[0] + len(run[2])), None)
        last = next((run for run in runs if run[0] < end <= run[0] + len(run[2])), None)
        if first is None or last is None:
            continue
        ends = in_source(start, first), in_source(end, last)
        if ends[0] is not None and ends[1] is not None:
            found.append((ends[0], ends[1]))
    return found


class Restorer:
    """Restores an answer while it comes. What it gives is always well nested; each tag opens once at the most.

    Held back are a mark that is not whole yet and a run that may still be one of `spelling`. Where the answer's marks
    are right, the parts joined are what `restore` gives; where not, the guard has the last word.
    """

    def __init__(self, block: Block, escape: Callable[[str], str]) -> None:
        """`escape` must not look around: of two parts joined it gives the two joined."""
        self._block, self._escape = block, escape
        self._literal = _literal(block.text, block.tags)
        self._held = ""  # the beginning of a mark
        self._run = ""  # the beginning of a known run
        self._known = bool(block.spelling)
        self._seen: set[int] = set()
        self._open: list[int] = []

    def copy(self) -> "Restorer":
        """Another that has been fed the same, and goes its own way."""
        other = object.__new__(Restorer)  # `copy.copy` takes five times as long, and each segment has one
        other.__dict__.update(self.__dict__, _seen=set(self._seen), _open=list(self._open))
        return other

    def feed(self, text: str) -> str:
        if not self._held and "<" not in text and "＜" not in text:  # nearly always, and it is asked for every token
            return self._words(text) if text else ""
        text = self._held + text
        begun = _BEGUN.search(text, max(0, len(text) - LONGEST_MARK))
        keep = begun.start() if begun else len(text)
        self._held = text[keep:]
        return self._restored(text[:keep])

    def end(self) -> str:
        """What was held back, and the end of every tag still open."""
        rest = self._restored(self._held) + self._end_of_run()
        self._held = ""
        while self._open:
            rest += self._block.tags[self._open.pop()][1]
        return rest

    def _restored(self, text: str) -> str:
        parts = []
        for piece in _pieces(_LOOSE, text, self._block.tags, self._literal):
            if isinstance(piece, str):
                parts.append(self._words(piece))
            elif tag := self._tag(piece):
                parts += [self._end_of_run(), tag]
        return "".join(parts)

    def _words(self, words: str) -> str:
        if not self._known:
            return self._escape(words)
        self._run += words
        if any(run.startswith(self._run) for run in self._block.spelling):
            return ""
        self._known, run, self._run = False, self._run, ""
        return self._escape(run)

    def _end_of_run(self) -> str:
        run, self._run, self._known = self._run, "", bool(self._block.spelling)
        return self._block.spelling.get(run) or self._escape(run)

    def _tag(self, mark: Mark) -> str:
        opening, closing = self._block.tags[mark.number]
        if mark.kind == "close" and closing:
            if not self._open or self._open[-1] != mark.number:
                return ""
            self._open.pop()
            return closing
        if mark.number in self._seen:
            return ""
        self._seen.add(mark.number)
        if closing and mark.kind == "open":
            self._open.append(mark.number)
            return opening
        return opening + closing
