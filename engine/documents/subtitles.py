"""Subtitles, SubRip (SRT) and WebVTT: the words of cues are translated, all else stays byte for byte.

A sentence that runs over several cues is one block, laid back over the same cues: in proportion to what each held, cut
after punctuation or else between words. Which cues make a sentence is guessed from how they end, from the pauses and
from signs of another speaker. The tags, dashes and notes around a cue's words are left out of its block.

A cue that gets no word, since there are fewer words than cues, shows a no-break space: many players trip over an empty
one. It knows no language, so in Thai and its like it may cut inside a word, where there is no space near.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape, unescape
from itertools import accumulate, pairwise

from engine.errors import BadDocument
from engine.languages import CJK_LETTERS, UNSPACED_LETTERS
from engine.markup import marks
from engine.markup.spans import cut
from engine.types import Block, Document

LONGEST_LINE_COLUMNS = 42  # of Latin letters; a wide one takes two: BBC and Netflix guides
LONGEST_PAUSE_SECONDS = 3.0  # within a sentence
MOST_CUES = 6  # of a sentence
FILLER = "\u00a0"

_LINE = re.compile(r"([^\r\n]*+)(?:\r\n?|\n)|([^\r\n]++)")
_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[,.:](\d{1,3})"
_TIMING = re.compile(rf"{_TIME}[ \t]{{0,20}}-->[ \t]{{0,20}}{_TIME}")
_NUMBER = re.compile(r"\s*+\d+\s*+")
_TAGS = {
    "srt": re.compile(
        r"<(/?)(i|b|u|s|font|span|c|v|lang|ruby|rt)(?:[\s.][^<>\r\n]*)?>|\{\\[^{}\r\n]*\}", re.IGNORECASE
    ),
    "vtt": re.compile(r"<(/?)([A-Za-z]*)[^<>\r\n]*>"),
}
_SPEAKER = re.compile(
    r"\s*+(?:(<v[.\s][^<>]*>)|(?:<[^<>]*>|\{\\[^{}]*\}|\s)*+(?:[-–—‐]++\s*+[^\s\d]|(?:>>|&gt;&gt;)))"  # a voice, a dash
)
_LEADING = re.compile(r"(?:[\s♪♫]|[-–—‐]+(?=\s*+[^\s\d])|>>|&gt;&gt;)*+")
_TRAILING = "♪♫"
_ENDS = re.compile(r"[.!?…。！？．｡؟।॥።‼⁇⁈⁉♪♫\]】][\s\"'”’」』）》»›)]*\Z")
_BEGINS = re.compile(r"\s*+[♪♫\[【]")
_ASIDE = re.compile(r"\s*+[(（].*[)）]\s*", re.DOTALL)
_TIMESTAMP = re.compile(r"<\d")

_CJK = rf"{CJK_LETTERS}\u3001-\u303f\uff01-\uff65\uffe0-\uffe6"
_JOINT = re.compile(rf"(?<=[{_CJK}])((?:</?s\d{{1,6}}>)*+)\n((?:</?s\d{{1,6}}>)*+)(?=[{_CJK}])")
_LINE_BREAK = re.compile(r"[ \t]{0,99}(?:\r\n?|\n)[ \t]*+")
_SPACES = re.compile(r"[ \t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
_BREAK = re.compile(
    rf"(?<=\ )(?=\S)|(?<=[{_CJK}{UNSPACED_LETTERS}])(?<![「『（《〈【〔“‘])(?=[{_CJK}{UNSPACED_LETTERS}A-Za-z0-9])"
    r"(?![、。，．！？：；」』）》〉】〕”’…ー々ぁぃぅぇぉっゃゅょァィゥェォッャュョ])"
)
_AFTER_PUNCTUATION = re.compile(r"[,.;:!?…、。，；：！？،؛—–][\"'”’」』）)]*\ ?\Z")
_NEWLINES = {"": "\n", "-crlf": "\r\n", "-cr": "\r"}
_WITHOUT_BRACKETS = str.maketrans("<>{}", "‹›()")


@dataclass(frozen=True, slots=True)
class _Slot:
    """A place for words: a cue's lines, or those of one speaker in it, without the tags and signs around them."""

    start: int
    end: int
    cue: int
    seconds: tuple[float, float] | None  # None where the timing cannot be read
    speaker: str | None  # a sign at its beginning that somebody else speaks: a voice tag, "" for a dash
    shown: str  # all of it, without tags


def parse_subtitles(source: str) -> Document:
    """SRT or, where it begins so, WebVTT; a block for each sentence. Raises `BadDocument`."""
    kind = "vtt" if source.removeprefix("\ufeff").startswith("WEBVTT") else "srt"
    if kind == "srt" and not _TIMING.search(source):
        raise BadDocument(
            "The file has no timing such as 00:00:01,000 --> 00:00:02,500, so it is no subtitle file; "
            "export it again as SRT or WebVTT."
        )
    newline = "-crlf" if "\r\n" in source else "" if "\n" in source or "\r" not in source else "-cr"
    sentences = _sentences(source, _slots(source, kind))
    return cut(source, (placed for slots in sentences for placed in _placed(source, slots, kind + newline)))


def write_subtitles(block: Block, text: str) -> str:
    if text == block.text:
        return block.source
    kind = block.form[:3]
    slots = _slots(block.source, kind, inside=True)
    parts, done = [], 0
    for slot, words in zip(slots, _laid(block, text, slots), strict=True):
        parts += [block.source[done : slot.start], words]
        done = slot.end
    return "".join([*parts, block.source[done:]])


# ---------------------------------------------------------------------------------------------------------------------
# cues


def _slots(source: str, kind: str, inside: bool = False) -> list[_Slot]:
    """Of a file, or of a stretch of it that begins inside a cue."""
    slots: list[_Slot] = []
    run: list[tuple[int, int]] = []  # lines of the cue without an empty one between
    cue, seconds, is_open, first = 0, None, inside, True

    def end_run() -> None:
        spoken = [*_spoken(source, run, kind, cue, seconds)]
        if kind == "vtt" or first or not all(_NUMBER.fullmatch(source, slot.start, slot.end) for slot in spoken):
            slots.extend(spoken)
        run.clear()

    for found in _LINE.finditer(source):
        start, end = found.span(1 if found[1] is not None else 2)
        if source.find("-->", start, end) >= 0:
            if kind == "srt" and run and _NUMBER.fullmatch(source, *run[-1]):
                run.pop()
            end_run()
            cue, seconds, is_open, first = cue + 1, _seconds(source[start:end]), True, True
        elif is_open and source[start:end].strip():
            run.append((start, end))
        elif is_open and (run or start == end):
            end_run()
            first = False
            is_open = kind == "srt" or start < end
    end_run()
    return slots


def _seconds(line: str) -> tuple[float, float] | None:
    found = _TIMING.search(line)
    if found is None:
        return None
    numbers = [int(number or 0) for number in found.groups()]
    begins, ends = (
        3600 * hours + 60 * minutes + seconds + thousandths / 1000
        for hours, minutes, seconds, thousandths in (numbers[:4], numbers[4:])
    )
    return begins, ends


def _spoken(
    source: str, run: Sequence[tuple[int, int]], kind: str, cue: int, seconds: tuple[float, float] | None
) -> Iterator[_Slot]:
    """A slot for all lines, or for each speaker's."""
    speakers = [_SPEAKER.match(source, *line) for line in run]
    firsts = [index for index, speaker in enumerate(speakers) if speaker or not index]
    for first, following in pairwise([*firsts, len(run)]):
        start, end = run[first][0], run[following - 1][1]
        shown = _TAGS[kind].sub("", source[start:end])
        speaker = speakers[first]
        start, end = _core(source, start, end, kind)
        if start < end:
            yield _Slot(start, end, cue, seconds, (speaker[1] or "") if speaker else None, shown)


def _core(source: str, start: int, end: int, kind: str) -> tuple[int, int]:
    """Without the tags around the words, their dashes and their notes of music."""
    tags = [*_TAGS[kind].finditer(source, start, end)]
    partners = _partners(tags)
    first, last = 0, len(tags) - 1
    closed = set(partners.values())
    while True:
        leading = _LEADING.match(source, start, end)
        start = leading.end() if leading else start
        while start < end and (source[end - 1].isspace() or source[end - 1] in _TRAILING):
            end -= 1
        if first <= last and tags[last].end() == end and last not in partners and last not in closed:
            end = tags[last].start()
            last -= 1
        elif first <= last and tags[first].start() == start and first not in partners and first not in closed:
            start = tags[first].end()
            first += 1
        elif first < last and tags[first].start() == start and tags[last].end() == end and partners.get(first) == last:
            start, end = tags[first].end(), tags[last].start()
            first, last = first + 1, last - 1
        else:
            return start, max(start, end)


def _partners(tags: Sequence[re.Match[str]]) -> dict[int, int]:
    """Place of each opening tag → that of its closing one; no pair crosses another."""
    partners: dict[int, int] = {}
    opened: list[int] = []
    for index, tag in enumerate(tags):
        if not tag[2]:
            continue
        if not tag[1]:
            opened.append(index)
        elif opened and tags[opened[-1]][2].lower() == tag[2].lower():
            partners[opened.pop()] = index
    return partners


# ---------------------------------------------------------------------------------------------------------------------
# sentences


def _sentences(source: str, slots: Sequence[_Slot]) -> Iterator[list[_Slot]]:
    sentence: list[_Slot] = []
    for slot in slots:
        if sentence and (len(sentence) == MOST_CUES or _parted(source, sentence[-1], slot)):
            yield sentence
            sentence = []
        sentence.append(slot)
    if sentence:
        yield sentence


def _parted(source: str, before: _Slot, slot: _Slot) -> bool:
    if slot.speaker is not None and (slot.speaker != before.speaker or not slot.speaker):
        return True
    if slot.cue != before.cue:
        if slot.seconds is None or before.seconds is None:
            return True
        pause = slot.seconds[0] - before.seconds[1]
        if pause > LONGEST_PAUSE_SECONDS or slot.seconds[0] <= before.seconds[0]:
            return True
    timed = any(_TIMESTAMP.search(source, one.start, one.end) for one in (before, slot))  # karaoke: words have times
    ended = _ENDS.search(before.shown[-20:]) or _BEGINS.match(slot.shown)
    return timed or bool(ended or _ASIDE.fullmatch(before.shown) or _ASIDE.fullmatch(slot.shown))


def _placed(source: str, slots: Sequence[_Slot], form: str) -> Iterator[tuple[int, Block]]:
    """The sentence as a block, if it has a letter."""
    kind = form[:3]
    found: list[re.Match[str]] = []
    items: list[str | int] = []  # runs, and tags by their place in `found`
    for slot in slots:
        items += ["\n"] * bool(items)
        done = slot.start
        for tag in _TAGS[kind].finditer(source, slot.start, slot.end):
            items += [_read(source[done : tag.start()], kind), len(found)]
            found.append(tag)
            done = tag.end()
        items.append(_read(source[done : slot.end], kind))
    words = "".join(item for item in items if isinstance(item, str))
    if any(map(str.isalpha, words)):
        text, tags = _marked(items, found, marks.free_numbers(words))
        start, end = slots[0].start, slots[-1].end
        yield start, Block(text, source[start:end], form, tags)


def _read(run: str, kind: str) -> str:
    run = _LINE_BREAK.sub("\n", run)
    return unescape(run) if kind == "vtt" else run


def _marked(
    items: Sequence[str | int], found: Sequence[re.Match[str]], numbers: Iterator[int]
) -> tuple[str, dict[int, tuple[str, str]]]:
    partners = _partners(found)
    parts: list[str] = []
    tags: dict[int, tuple[str, str]] = {}
    closing: dict[int, int] = {}  # place of a closing tag → number
    for item in items:
        if isinstance(item, str):
            parts.append(item)
        elif item in closing:
            parts.append(f"</s{closing[item]}>")
        else:
            number, partner = next(numbers), partners.get(item)
            tags[number] = (found[item].group(), found[partner].group() if partner else "")
            parts.append(f"<s{number}>" if partner else f"<s{number}></s{number}>")
            if partner:
                closing[partner] = number
    return _JOINT.sub(r"\1\2", "".join(parts)).replace("\n", " "), tags


# ---------------------------------------------------------------------------------------------------------------------
# back over the cues


def _laid(block: Block, text: str, slots: Sequence[_Slot]) -> list[str]:
    """What is written at each slot."""
    kind = block.form[:3]
    pieces = [_clean(piece, kind) if isinstance(piece, str) else piece for piece in marks.pieces(text, block.tags)]
    words = "".join(piece for piece in pieces if isinstance(piece, str))
    ends = [*_cuts(words, 0, len(words), [len(slot.shown) for slot in slots]), len(words)]
    breaks = []
    for slot, (start, end) in zip(slots, pairwise([0, *ends]), strict=True):
        lines = _LINE_BREAK.split(block.source[slot.start : slot.end])
        longest = max(LONGEST_LINE_COLUMNS, *map(_columns, lines))
        count = min(max(2, len(lines)), -(-_columns(words[start:end]) // longest))
        inner = [at for at in _cuts(words, start, end, [1] * count) if at < end] if count > 1 else []
        breaks += [*((at, False) for at in inner), (end, True)]
    return _written(block, pieces, breaks[:-1], words)


def _clean(run: str, kind: str) -> str:
    """A run as one line that cannot be read as anything but words."""
    run = _SPACES.sub(" ", run)
    if kind == "vtt":
        return run
    return _TAGS["srt"].sub(lambda tag: tag.group().translate(_WITHOUT_BRACKETS), run).replace("-->", "→")


def _written(block: Block, pieces: Sequence[marks.Piece], breaks: Sequence[tuple[int, bool]], words: str) -> list[str]:
    """`breaks` are places in the words, each with whether the next slot begins there, or else the next line."""
    newline, tags = _NEWLINES[block.form[3:]], block.tags
    slots: list[list[str]] = [[]]
    opened: list[int] = []
    at = begin = 0
    waiting = list(reversed(breaks))

    def end_slot(end: int) -> None:
        if not words[begin:end].strip():
            slots[-1].append(FILLER)
        slots[-1] += [tags[number][1] for number in reversed(opened)]

    def pass_breaks(place: int) -> None:
        nonlocal begin
        while waiting and waiting[-1][0] <= place:
            end, is_slot = waiting.pop()
            if is_slot:
                end_slot(end)
                slots.append([tags[number][0] for number in opened])
                begin = end
            else:
                slots[-1].append(newline)

    for piece in pieces:
        if isinstance(piece, str):
            last = at + len(piece)
            while at < last:
                pass_breaks(at)
                end = min(last, waiting[-1][0] if waiting else last)
                run = (
                    words[at:end].rstrip(" ")
                    if end == len(words) or (waiting and end == waiting[-1][0])
                    else words[at:end]
                )
                slots[-1].append(escape(run, quote=False) if block.form.startswith("vtt") else run)
                at = end
        elif marks.stands_alone(tags, piece.number):
            if piece.kind == "open":
                pass_breaks(at)
                slots[-1].append(tags[piece.number][0])
        elif piece.kind == "open":
            pass_breaks(at)
            slots[-1].append(tags[piece.number][0])
            opened.append(piece.number)
        else:
            slots[-1].append(tags[piece.number][1])
            opened.remove(piece.number)
    pass_breaks(len(words))
    end_slot(len(words))
    return ["".join(slot) for slot in slots]


def _cuts(words: str, start: int, end: int, weights: Sequence[int]) -> list[int]:
    """Places that part the stretch in proportion to the weights, one fewer; `end` where there are too few words."""
    first_word = end - len(words[start:end].lstrip(" "))
    places = [
        found.end()
        for found in (_BREAK.finditer(words, start + 1, end) if len(weights) > 1 else ())
        if found.end() > first_word and unicodedata.category(words[found.end()])[0] != "M"
    ]
    cuts: list[int] = []
    reach, total = (end - start) / len(weights), sum(weights) or 1
    low = 0
    for index, weight in enumerate(list(accumulate(weights))[:-1]):
        ideal = start + (end - start) * weight / total
        high = len(places) - (len(weights) - 2 - index)  # each that follows needs one too
        if low >= len(places):
            cuts.append(end)
            continue
        high = max(low + 1, high)
        first = min(max(bisect_left(places, ideal - reach / 2) - 1, low), high - 1)
        last = max(min(bisect_right(places, ideal + reach / 2) + 1, high), first + 1)
        best = min(
            range(first, last), key=lambda place: abs(places[place] - ideal) + reach * _harm(words, places[place])
        )
        cuts.append(places[best])
        low = best + 1
    return cuts


def _harm(words: str, at: int) -> float:
    """Of a cut there, as a share of a cue's words that it may be moved by instead."""
    if _AFTER_PUNCTUATION.search(words, max(0, at - 4), at):
        return 0.0
    return 0.25 if words[at - 1] == " " else 0.35


def _columns(text: str) -> int:
    return len(text) + (0 if text.isascii() else sum(unicodedata.east_asian_width(letter) in "WF" for letter in text))
