"""Cut a text into segments that fit the token budget, and join their translations. Knows no tags, prompts or models:
what it must keep whole comes in as spans.

A line is cut into sentences, a sentence that is too long into parts; neighbours on one line are put together while they
fit. All that lies between segments is kept as their gaps, so that gaps and segments joined are the text again.

The rules would rather leave two sentences together than cut one in two: the first costs little, the second meaning.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from engine.languages import CHINESE, CJK_LETTERS, UNSPACED_LETTERS, Language
from engine.types import CountTokens, Segment

LONG_TOKEN_CHARACTERS = 8  # with more characters than this to each token of the budget, a text needs no counting
TYPICAL_TOKEN_CHARACTERS = 4  # of English prose: the guess for a text that was not counted; its parts are
MAX_GRAPHEME_CHARACTERS = 64  # with more marks on it than this, a letter may be cut from some of them
MAX_INNER_GAP = 2  # characters between two sentences of one segment: a typist's two spaces; more is layout, and ours
WORD_CHARACTERS = 32  # how far around a full stop words are looked at


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LINE = re.compile(r"[^\n\v\f\r\x85\u2028\u2029]+")
_EDGE = r"\s\0-\x1f\x7f-\x9f\u200b\u200e\u200f\u2060\ufeff"  # white space, controls, characters that show nothing
_INNER = re.compile(rf"[^{_EDGE}](?s:.*[^{_EDGE}])?")
_SPACE = re.compile(r"\s+")

_WIDE_CLOSERS = r"”’」』）】》〉〗〕〙〛］｝＂＇\)\]"
_CLOSERS = rf"{_WIDE_CLOSERS}\"'“‘»«›‹\}}"
_SENTENCE_END = re.compile(
    # 。 ends a sentence whatever comes next, but for a quotation that the sentence goes on after: 「行く。」と言った。
    rf"(?P<wide>(?:[。！？｡]|．(?!\d))++[。！？｡!?….]*+[{_WIDE_CLOSERS}]*+)(?!(?<=[{_WIDE_CLOSERS}])[\u3041-\u309f])"
    rf"|(?P<bare>(?<=[{CJK_LETTERS}])[!?…‥]++[{_WIDE_CLOSERS}]*+(?=[{CJK_LETTERS}「『“‘（《\"]))"  # in Chinese
    rf"|(?P<own>[।॥؟۔።။។៕]++[!?؟]*+[{_CLOSERS}]*+)"  # scripts with marks of their own
    rf"|(?P<spaced>[.!?…‥‼⁇⁈⁉]++(?:[{_CLOSERS}]|[\u00a0\u202f]»|\ »(?=\s))*+(?=\s))"  # needs _is_end
    r"|(?P<shad>།++(?=\s))"  # Tibetan
)
_OPENERS = "\"'“‘«»‹›„‚([{¿¡-–—*_#"

_DOTTED = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]+")  # U.S, e.g, z.B, т.е
_DOTTED_MAY_END = {"a.m", "p.m", "d.c", "a.c", "т.д", "т.п", "н.э"}
_ENUMERATOR = re.compile(r"[IVXLC]+|[ivxlc]+|[A-Za-z]")  # where a line begins: IV. The Road
_NEVER_END = _words(  # their full stop belongs to the word, in any of the ten languages of the tests
    """mr mrs ms mx messrs dr drs prof rev hon st ste v gen col lt sgt capt cmdr gov sen rep vs viz approx esp incl al
    ibid cf ca eg ie jan feb aug sept oct nov dec dept hr fr frl dipl ing bzw evtl ggf inkl exkl sog vgl zzgl bspw geb
    mme mlle mgr sr sra srta srs sras dra profa ud uds vd vds pág págs exmo exma sig sigg dott avv spett pag pagg ул
    просп проф акад доц обл тыс млн млрд руб св см ср напр рис табл"""
)
_NUMBER_FOLLOWS = _words(  # theirs does only before a number: No. 5
    """no nos nr nrn num núm fig figs p pp vol vols ch chap sec art eq abb abs kap bd s tab nº n c cap t л п ст гл стр
    д кв"""
)
_ORDINAL_FOLLOWS = _words(  # 3. Oktober
    """januar jänner februar märz april mai juni juli august september oktober november dezember jahrhundert
    jahrhunderts jahrtausend weltkrieg weltkriegs"""
)
_ORDINAL_BEFORE = _words("der den dem des im vom zum beim ab")  # im 3. Stock

_CLAUSE_END = re.compile(rf"(?:[,;:)\]](?=\s)|[—–，、；：،؛၊…）」』”]|(?<=[{CJK_LETTERS}])[,;:])\s*")
_PARTED_BY_NOTHING = CHINESE | {"ja"}  # sentences; Thai, Khmer, Burmese and Tibetan part them with a space
_PUNCTUATED = re.compile(rf"[.!?…。！？｡,;:，、；：।॥؟۔][{_CLOSERS}]*$")
_UNSPACED_END = re.compile(rf"[{UNSPACED_LETTERS}。！？｡，、；：…‥—·〜～][{_CLOSERS}]*$")
_GOES_WITH_BEFORE = re.compile(  # joiners, skin tones, emoji tags, jamo within a syllable, halves of surrogate pairs
    "[\u200c\u200d\u0e33\u0eb3\u1160-\u11ff\ud7b0-\ud7ff\uff9e\uff9f\udc00-\udfff\U0001f3fb-\U0001f3ff"
    "\U000e0020-\U000e007f]"
)
_ZERO_WIDTH_JOINER = "\u200d"
_FLAG_LETTER = re.compile("[\U0001f1e6-\U0001f1ff]")


CountSpan = Callable[[int, int], int]  # tokens of the text between two places


class _Unit(NamedTuple):
    """A stretch of the text: a sentence, a part of one, or several."""

    start: int
    end: int
    tokens: int


class _Whole(NamedTuple):
    """Spans that are never cut in two, in order and apart from each other."""

    starts: Sequence[int]
    ends: Sequence[int]

    def around(self, cut: int) -> tuple[int, int] | None:
        """The span that a cut here would go through."""
        index = bisect_right(self.starts, cut) - 1
        if index >= 0 and self.starts[index] < cut < self.ends[index]:
            return self.starts[index], self.ends[index]
        return None


def segment(
    text: str,
    count_tokens: CountTokens,
    max_tokens: int,
    *,
    shown: str | None = None,
    whole: Sequence[tuple[int, int]] = (),
) -> tuple[list[Segment], str]:
    """The segments of `text`, and the tail after the last: gaps, segments and tail joined are `text`.

    A segment has at most `max_tokens`, unless one character or one of the spans `whole` has more; each has a letter,
    and no white space around it. `shown` is the text as the rules are to see it, character for character: what is no
    word to a reader may be a quotation mark there, or the end of a line.
    Takes time in proportion to the text, of which each stretch is counted about twice.
    """
    segments: list[Segment] = []
    end = 0
    shown = text if shown is None else shown
    kept = _Whole([start for start, _ in whole], [end for _, end in whole])

    def count(start: int, end: int) -> int:
        return count_tokens(text[start:end])

    for line in _LINE.finditer(shown):
        for unit in _line_units(shown, line.start(), line.end(), count, max_tokens, kept):
            segments.append(Segment(len(segments), text[unit.start : unit.end], text[end : unit.start], unit.tokens))
            end = unit.end
    return segments, text[end:]


def join_gap(gap: str, before: str, target: Language) -> str:
    """The `gap` that follows the source text `before`, as it should stand in a translation into `target`.

    Chinese and Japanese have no space between sentences, most others have one. Any other gap was meant, and stays.
    """
    if gap == " " and target.code in _PARTED_BY_NOTHING and _PUNCTUATED.search(before[-8:]):
        return ""
    if gap == "" and target.spaced and _UNSPACED_END.search(before[-8:]):
        return " "
    return gap


def _line_units(text: str, start: int, end: int, count: CountSpan, max_tokens: int, whole: _Whole) -> Iterator[_Unit]:
    """What becomes a segment of one line."""
    line = _trimmed(text, start, end, count, max_tokens)
    if line is None:
        return
    if line.tokens <= max_tokens:
        yield line
        return
    pack: _Unit | None = None
    for first, last in _sentences(text, line.start, line.end, whole):
        sentence = _counted(text, first, last, count, max_tokens)
        if pack:
            gap = first - pack.end  # of white space, which has at most about a token a character
            tokens = pack.tokens + gap + sentence.tokens
            if gap <= MAX_INNER_GAP and tokens <= max_tokens:
                pack = _Unit(pack.start, last, tokens)
                continue
            yield pack
            pack = None
        if sentence.tokens > max_tokens:
            yield from _parts(text, sentence, count, max_tokens, whole)
        elif _has_letter(text, first, last):
            pack = sentence
    if pack:
        yield pack


def _trimmed(text: str, start: int, end: int, count: CountSpan, max_tokens: int) -> _Unit | None:
    """The stretch without white space around it, if there is a letter in it."""
    inner = _INNER.search(text, start, end)
    if inner is None or not _has_letter(text, *inner.span()):
        return None
    return _counted(text, *inner.span(), count, max_tokens)


def _has_letter(text: str, start: int, end: int) -> bool:
    return any(map(str.isalpha, text[start:end]))


def _counted(text: str, start: int, end: int, count: CountSpan, max_tokens: int) -> _Unit:
    """The stretch with its tokens; with a guess above `max_tokens` where it is too long at first sight."""
    if end - start > max_tokens * LONG_TOKEN_CHARACTERS:
        return _Unit(start, end, (end - start) // TYPICAL_TOKEN_CHARACTERS)
    return _Unit(start, end, count(start, end))


def _sentences(text: str, start: int, end: int, whole: _Whole) -> Iterator[tuple[int, int]]:
    """Start and end of each sentence of a line, without the white space between them."""
    for match in _SENTENCE_END.finditer(text, start, end):
        cut = match.end()
        if match["spaced"] and not _is_end(text, start, match.start(), cut):
            continue
        if whole.around(cut):
            continue
        if text.startswith('"', cut, end) and text.count('"', start, cut) % 2:
            cut += 1  # it closes: 他说:"走吧。"
        yield start, cut
        space = _SPACE.match(text, cut, end)
        start = space.end() if space else cut
    if start < end:
        yield start, end


def _is_end(text: str, start: int, mark: int, after_mark: int) -> bool:
    """Whether the sentence from `start` ends with what stands at `mark`, before white space."""
    following = text[after_mark : after_mark + WORD_CHARACTERS].lstrip().lstrip(_OPENERS).split(None, 2)
    preceding = text[max(start, mark - WORD_CHARACTERS) : mark].split()
    if following and following[0][0].islower():
        return False
    if not following or not preceding or text[mark:after_mark] != ".":
        return True
    word, next_word = preceding[-1].lstrip(_OPENERS), following[0]
    word_before = preceding[-2] if len(preceding) > 1 else ""
    return not (
        word.lower() in _NEVER_END
        or (_DOTTED.fullmatch(word) and word.lower() not in _DOTTED_MAY_END)
        or (len(word) == 1 and word.isupper() and word != "I")  # J. R. R. Tolkien
        or (len(word) == 1 and word.isalpha() and next_word[1:2] == "." and next_word[0].isalpha())  # z. B.
        or (word == "г" and not word_before.isdigit())  # г. Москва, but: в 1999 г.
        or (word.lower() in _NUMBER_FOLLOWS and next_word[0].isdigit())
        or (text[start:mark] == word and _ENUMERATOR.fullmatch(word))
        or (
            word.isdigit()
            and len(word) <= 2
            and (next_word.strip(",.").lower() in _ORDINAL_FOLLOWS or word_before.lower() in _ORDINAL_BEFORE)
        )
    )


def _parts(text: str, unit: _Unit, count: CountSpan, max_tokens: int, whole: _Whole) -> Iterator[_Unit]:
    """A sentence over the budget in parts of about the same size."""
    start = unit.start
    for parts_left in range(unit.tokens // max_tokens + 1, 0, -1):
        cut = (
            unit.end
            if parts_left == 1
            else _cut(text, start, unit.end, start + (unit.end - start) // parts_left, whole)
        )
        part = _trimmed(text, start, cut, count, max_tokens)
        if part and part.tokens > max_tokens and part[:2] != unit[:2]:
            yield from _parts(text, part, count, max_tokens, whole)
        elif part:
            yield part
        start = cut


def _cut(text: str, start: int, end: int, ideal: int, whole: _Whole) -> int:
    """The best place near `ideal` to cut a sentence: after a clause, else a word, else a whole character."""
    reach = (ideal - start) // 2
    for pattern in (_CLAUSE_END, _SPACE):
        cuts = [match.end() for match in pattern.finditer(text, ideal - reach, min(ideal + reach, end))]
        cuts = [cut for cut in cuts if not whole.around(cut)]
        if cuts:
            return min(cuts, key=lambda cut: abs(cut - ideal))
    if span := whole.around(ideal):
        return span[0] if span[0] > start else span[1]
    nearby = chain(
        range(ideal, max(start, ideal - MAX_GRAPHEME_CHARACTERS), -1),
        range(ideal + 1, min(end, ideal + MAX_GRAPHEME_CHARACTERS)),
    )
    cuts = [cut for cut in nearby if _parts_characters(text, cut) and not whole.around(cut)]
    return cuts[0] if cuts else min(end, ideal + MAX_GRAPHEME_CHARACTERS)


def _parts_characters(text: str, cut: int) -> bool:
    """Whether what a reader takes for one character stays whole when `text` is cut there."""
    before, after = text[cut - 1], text[cut]
    return not (
        before == _ZERO_WIDTH_JOINER
        or unicodedata.category(after).startswith("M")
        or _GOES_WITH_BEFORE.match(after)
        or (_FLAG_LETTER.match(before) and _FLAG_LETTER.match(after))
    )
