"""Cut a text into segments that fit the token budget, and join their translations. Knows no tags, prompts or models:
what it must keep whole comes in as spans. It is not told the language: a text may be in several.

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

from icu4py.breakers import WordBreaker

from engine.languages import CHINESE, CJK_LETTERS, UNSPACED_LETTERS, Language
from engine.types import CountTokens, Segment

LONG_TOKEN_CHARACTERS = 8  # with more characters than this to each token of the budget, a text needs no counting
TYPICAL_TOKEN_CHARACTERS = 4  # of English prose: the guess for a text that was not counted; its parts are
MAX_GRAPHEME_CHARACTERS = 64  # with more marks on it than this, a letter may be cut from some of them
MAX_INNER_GAP = 2  # characters between two sentences of one segment: a typist's two spaces; more is layout, and ours
WORD_CHARACTERS = 32  # how far around a full stop words are looked at
ICU_CHARACTERS = 64  # how far around a cut ICU looks for words; after a false start it is right again in a few words
CLOSING_CHARACTERS = 64  # quotation marks, brackets, points after the end of a sentence; a tag is shown as several


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LINE = re.compile(r"[^\n\v\f\r\x85\u2028\u2029]+")
_EDGE = r"\s\0-\x1f\x7f-\x9f\u200b\u200e\u200f\u2060\ufeff"  # white space, controls, characters that show nothing
_INNER = re.compile(rf"[^{_EDGE}](?s:.*[^{_EDGE}])?")
_SPACE = re.compile(r"\s+")

_WIDE_CLOSERS = r"”’」』）】》〉〗〕〙〛］｝＂＇\)\]"
_CLOSERS = rf"{_WIDE_CLOSERS}\"'“‘»«›‹\}}"
_POINTS = ".!?…‥‼⁇⁈⁉"
_OWN_MARKS = "।॥؟።။។៕៚᠃᠉"
_SHAD = "།༎༔"
_HIRAGANA = re.compile("[\u3041-\u309f]")
_JAPANESE_STARTS = (  # which are no particle that leads on from a quotation
    "こ[のれこうん]|そ[のれこうしん]|あ[のれ]|また|しかし|さらに|でも|だが|だから|もし|かつて|ただ|なお|まず|つまり"
)
_THAI_STARTS = (  # subjects, and what links sentences: Thai has spaces between them, but inside them too
    "เขา|เธอ|มัน|พวกเขา|ผม|ฉัน|ดิฉัน|เรา|พวกเรา|นาย|นาง|อย่างไรก็|นอกจาก|เมื่อ|หลังจาก|ขณะ|ในขณะ|จากนั้น|ดังนั้น|เพราะฉะนั้น"
    "|ทั้งนี้|ต่อมา|ปัจจุบัน|สำหรับ|นี่|หาก|ถ้า"
)
_THAI_ENDS = "|".join(  # particles and adverbs
    rf"(?<={word}\s)" for word in ("ครับ", "ค่ะ", "แล้ว", "เลย", "ไหม", "หรือไม่", "เช่นกัน", "เท่านั้น")
)
_END = (  # of a sentence; the first character has been read. Runs are bounded where they could be read again and again
    # 。 ends a sentence whatever comes next, but for a quotation that the sentence goes on after: 「行く。」と言った。
    # ．ends one in Japanese, and parts names in Chinese: 約翰．甘迺迪
    rf"(?P<wide>(?:(?<=[。！？｡])(?<![。！？｡]{{2}})|(?<={_HIRAGANA.pattern}．)(?!\d)|(?<=．)(?=\s))"
    rf"[。！？｡!?….{_WIDE_CLOSERS}]{{0,{CLOSING_CHARACTERS}}}+"
    rf"(?!(?<=[{_WIDE_CLOSERS}])(?!{_JAPANESE_STARTS}){_HIRAGANA.pattern}))"
    rf"|(?P<bare>(?<=[{CJK_LETTERS}][!?…‥])[!?…‥]*+[{_WIDE_CLOSERS}]*+(?=[{CJK_LETTERS}「『“‘（《\"]))"  # in Chinese
    # scripts with marks of their own, which in Urdu is the decimal point too
    rf"|(?P<own>(?:(?<=[{_OWN_MARKS}])|(?<=۔)(?!\d))(?:[{_OWN_MARKS}]|۔(?!\d))*+[!?؟]*+[{_CLOSERS}]*+)"
    rf"|(?P<spaced>(?<=[{_POINTS}])(?<![{_POINTS}]{{2}})[{_POINTS}]*+"  # needs _is_end
    # not {0,n}+: before 3.11.5 Python steps back into such a group (as Debian 12 has it)
    rf"(?=(?P<closed>(?:[{_CLOSERS}{_POINTS}]|[\u00a0\u2009\u202f]»|\ [»\"](?=[\s.])){{0,{CLOSING_CHARACTERS}}}))"
    rf"(?P=closed)(?=\s))"
    # Tibetan, where after ཀ and ག no mark is set
    rf"|(?P<shad>(?<=[{_SHAD}])(?<![{_SHAD}]{{2}})[{_SHAD}]*+[{_CLOSERS}]*+(?=\s)|(?<=[ཀག])(?=\ [\u0f40-\u0f6c]))"
)
_FIRST_OF_END = f"。！？｡．۔ཀག{_OWN_MARKS}{_POINTS}{_SHAD}"
_SENTENCE_END = re.compile(f"[{_FIRST_OF_END}](?:{_END})")
_SENTENCE_END_IN_THAI = re.compile(
    rf"[\s{_FIRST_OF_END}](?:{_END}"
    rf"|(?P<thai>(?<=[\u0e01-\u0e5b]\s)(?:(?=[“\"]?(?:{_THAI_STARTS}))|(?=[\u0e01-\u0e5b])(?:{_THAI_ENDS}))))"
)
_THAI = re.compile("[\u0e01-\u0e5b]")
_OPENERS = "\"'“‘«»‹›‟„‚([{¿¡-–—*_#"

_MORE_MARKS = tuple("!?,;:)]}")  # after a space these still belong to what is before: 44 av. J.-C. !
_DOTTED = re.compile(  # U.S, e.g, z.B, т.е; in scripts of India the names of Latin letters: यू.एन
    r"(?:[^\W\d_]\.-?)+[^\W\d_]+|(?:[\u0900-\u0dff]{1,4}\.)+[\u0900-\u0dff]{1,4}"
)
_DOTTED_MAY_END = _words("a.m p.m d.c a.c a.d b.c т.д т.п н.э т.б т.с г.м v.v m.v")
_LEADS_ON = _words("e.g i.e z.b d.h p.ej т.е o.a d.w.z m.in t.j")  # whatever comes next
_OF_THE_DAY = _words("a.m p.m")
_TIME_ZONE = re.compile(r"[A-Z]{2,5}\b")
_COMPOUND = re.compile("[-'’]")  # Dipl.-Ing., dell'avv.
_CYRILLIC_SMALL = re.compile("[а-юёіїєґәғқңөұүһ]")  # г., м., с., п.; я is a word
# Hebrew, Arabic, Thai: د. is a doctor, จ. a province; but น. is the hours, at the end of many a sentence
_LONE_LETTER = re.compile("[\u05d0-\u05ea\u0621-\u064a\u0e01-\u0e18\u0e1a-\u0e2e]")
_ROMAN = re.compile(r"[IVXLC]{2,}")
_ENUMERATOR = re.compile(r"[IVXLC]+|[ivxlc]+|[A-Za-z]")  # where a line begins: IV. The Road
_STARTS = _words(  # in capitals these begin a sentence, and no name: made in the U.S. The …
    """The This That These Those It Its He His She They We You There In At But And However After When While If As For
    Er Sie Es Wir Das Dies Diese Dieser Im Am Ein Eine Il Elle Ils Elles Nous Ce Cette Ces Dans En El Los Las Un Una
    Uma Gli Nel Nella Questo Questa Os As Em Na Este Esta Ele Ela Het Een Hij Zij Deze Dit W To Ten Ta Jest V Je Tento
    Tato Bu Ancak Ini Itu Dia Mereka Ang Sa Đây Tuy
    Я Ты Мы Вы Он Она Они Это Эта Этот На Но Він Вона Вони Це Ця У Але Бұл Ол Энэ Тэр"""
)
_NEVER_END = _words(  # their full stop belongs to the word; with a capital here, only where it has one
    # English; German; French, Spanish, Portuguese, Italian; Dutch
    """mr mrs ms mx messrs dr drs prof Rev Hon st ste v gen col lt sgt capt cmdr gov Sen Rep Det vs viz approx esp incl
    al ibid cf eg ie
    hr fr frl dipl ing bzw evtl ggf inkl exkl sog vgl zzgl bspw geb Mag
    mme mlle mgr sr sra srta srs sras dra profa ud uds vd vds EE pág págs exmo exma sig sigg dott avv spett On Arch geom
    Rag pag pagg
    dhr mevr mej jhr Ir bijv bv zgn resp excl """
    # Russian, Ukrainian, Kazakh, Mongolian
    """ул просп проф акад доц обл св см ср напр табл им ред вул бул пл ім гр див чл көш ж.нь """
    # Polish; Czech; Turkish; Vietnamese; Indonesian, Malay; Filipino
    """hab inż ks abp bp płk ppłk kpt np tzw tj im ul pl
    Doc mudr judr phdr rndr Bc sv tzv např mj plk npor
    doç yrd av Sn mah bkz örn öğr
    tp TS ThS GS PGS BS
    bpk sdr sdri Tn Ny jl jln hj hjh KH Ust sdn En Pn
    gng Bb atty engr kgg brgy Sta Sto Gob """
    # titles in Thai, Hindi and Marathi, Bengali, Gujarati, Tamil, Telugu
    """ดร นพ พญ รศ ผศ พล
    डॉ डा श्री श्रीमती मि प्रो ड ডা ড মো মি প্রফ ডঃ ડૉ ડો શ્રી મિ પ્રો திரு திருமதி டாக்டர் பேரா డా శ్రీ ప్రొ """
    # what Latin letters are called there: एस. जयशंकर
    """ए बी सी डी एफ जी एच जे के एल एम एन ओ पी क्यू आर एस टी यू वी डब्ल्यू एक्स वाय वाई
    এ বি সি ডি এফ জি এইচ জে কে এল এম এন পি আর এস টি ইউ ভি એ બી સી ડી એફ જી એચ જે કે એલ એમ એન પી આર એસ ટી યુ વી
    ஏ பி சி டி எஃப் ஜி எச் ஜே கே எல் எம் என் ஆர் எஸ் வி ఎ బి సి డి ఎఫ్ జి హెచ్ జె కె ఎల్ ఎమ్ ఎన్ పి ఆర్ ఎస్ టి వి"""
)
_NUMBER_FOLLOWS = _words(  # theirs does only before a number: No. 5
    """no nos nr nrn num núm fig figs p pp vol vols ch chap sec art eq abb abs kap bd s tab nº n c cap t čl č str odst
    obr rys poz par ust hlm hal blz afb ca jan feb aug sept oct nov dec godz л п ст гл стр д кв к с рис мал"""
)
_ORDINAL_FOLLOWS = _words(  # 3. Oktober, 2. Dünya Savaşı
    """januar jänner februar märz april mai juni juli august september oktober november dezember jahrhundert
    jahrhunderts jahrhunderte jahrtausend weltkrieg weltkriegs weltkrieges mal klasse auflage platz geburtstag stock
    etage kapitel bundesliga liga runde fc armee sinfonie dünya"""
)
_ORDINAL_BEFORE = _words(  # im 3. Stock
    """der den dem des die das im vom zum zur beim am ab sein seine seinen seinem seiner ihr ihre ihren ihrem ihrer
    jede jeder jeden jedem"""
)
_ERA = ("Chr.", "J.-C.", "Kr.")  # 44 v. Chr., av. J.-C.

_CLAUSE_END = re.compile(rf"(?:[,;:)\]](?=\s)|[—–，、；：،؛၊།…）」』”]|(?<=[{CJK_LETTERS}])[,;:])\s*")
_PHRASE_END = re.compile(  # where words have no spaces phrases do; ๆ goes with the word before it
    rf"\s++(?<=[{UNSPACED_LETTERS}]\s)(?=[{UNSPACED_LETTERS}])(?![ๆฯໆ])"
)
_OPENING = frozenset("“‘「『（《〈【([{")
_SURROGATE = re.compile("[\ud800-\udfff]")
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
    """Spans that are never cut in two but where a line ends, in order and apart from each other."""

    starts: Sequence[int]
    ends: Sequence[int]

    def around(self, cut: int) -> tuple[int, int] | None:
        """The span that a cut here would go through."""
        index = bisect_right(self.starts, cut) - 1
        if index >= 0 and self.starts[index] < cut < self.ends[index]:
            return self.starts[index], self.ends[index]
        return None


_NOTHING_WHOLE = _Whole((), ())


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


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Where each sentence of `text` starts and ends, in characters: each has a letter, and no white space around it.

    Takes time in proportion to the text.
    """
    for line in _LINE.finditer(text):
        if inner := _INNER.search(text, *line.span()):
            for start, end in _sentences(text, *inner.span(), _NOTHING_WHOLE):
                if _has_letter(text, start, end):
                    yield start, end


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
    ends = _SENTENCE_END_IN_THAI if _THAI.search(text, start, end) else _SENTENCE_END
    for match in ends.finditer(text, start, end):
        cut = match.start() if match.lastgroup == "thai" else match.end()
        if match.lastgroup == "spaced" and not _is_end(text, start, match.start(), cut):
            continue
        if cut <= start or whole.around(cut):
            continue
        if text[cut - 1] in "）)" and match.lastgroup in ("wide", "bare") and text[start] not in "（(":
            continue  # 他（真的吗？）走了
        if text.startswith('"', cut, end) and text.count('"', start, cut) % 2:
            cut += 1  # it closes: 他说:"走吧。"
        yield start, cut
        space = _SPACE.match(text, cut, end)
        start = space.end() if space else cut
    if start < end:
        yield start, end


def _is_end(text: str, start: int, mark: int, after_mark: int) -> bool:
    """Whether the sentence from `start` ends with what stands at `mark`, before white space."""
    following = text[after_mark : after_mark + WORD_CHARACTERS].lstrip().lstrip(_OPENERS).split(None, 1)
    preceding = text[max(start, mark - WORD_CHARACTERS) : mark].split()
    if not following:
        return True
    next_word = following[0]
    if next_word.startswith(_MORE_MARKS) or (next_word[0].islower() and not next_word[1:2].isupper()):  # but iPhone
        return False
    if not preceding or text[mark:after_mark] not in (".", ".."):
        return True
    word = preceding[-1].rpartition("(")[2].lstrip(_OPENERS)
    word_before = preceding[-2].lstrip(_OPENERS) if len(preceding) > 1 else ""
    if mark - start == len(word) and _ENUMERATOR.fullmatch(word):  # all there is so far
        return False
    if word.isdigit() or _ROMAN.fullmatch(word):
        return not _is_ordinal(word, word_before, next_word)
    return not _is_abbreviation(word, word_before, next_word)


def _is_ordinal(number: str, word_before: str, next_word: str) -> bool:
    return (next_word.strip(",.;:!?)").lower() in _ORDINAL_FOLLOWS and len(number) <= 4) or (
        word_before.lower() in _ORDINAL_BEFORE and number.isdigit() and len(number) <= 2
    )


def _is_abbreviation(word: str, word_before: str, next_word: str) -> bool:
    """Whether the full stop after `word` is part of it, and the sentence goes on."""
    if len(word) == 1 and len(word_before) == 2 and word_before[0].isalpha() and word_before[1] == ".":
        word = word_before + word  # z. B.
    small = word.lower()
    if _DOTTED.fullmatch(word):
        if small in _DOTTED_MAY_END:
            return small in _OF_THE_DAY and bool(_TIME_ZONE.match(next_word))
        return small in _LEADS_ON or next_word.rstrip(",") not in _STARTS
    if small in _NUMBER_FOLLOWS and next_word[0].isdigit():
        return True
    if len(word) == 1 and _stands_for_word(word, word_before, next_word):
        return True
    parts = (word, small, _COMPOUND.split(small)[-1])
    if next_word.startswith(_ERA):
        return True
    # он дал им. Я, but: ул. им. Ленина. Elsewhere what begins a sentence may be a name: Mr. He
    return not _NEVER_END.isdisjoint(parts) and not (_CYRILLIC_SMALL.match(word) and next_word in _STARTS)


def _stands_for_word(letter: str, word_before: str, next_word: str) -> bool:
    """Whether a letter with a full stop is an initial or an abbreviation, to be read with `next_word`."""
    if letter.isupper():
        return letter != "I" and next_word.rstrip(",") not in _STARTS  # J. R. R. Tolkien
    if (next_word[0].isalpha() and next_word[1:2] == ".") or (letter in "ad" and next_word == "C"):
        return True  # z. B., 44 a. C
    if _CYRILLIC_SMALL.match(letter):
        return not (word_before[:1].isdigit() or _ROMAN.fullmatch(word_before))  # г. Москва, but: в 1999 г.
    return bool(_LONE_LETTER.match(letter))


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
    for cuts in _cuts(text, start, end, ideal):
        allowed = [cut for cut in cuts if not whole.around(cut)]
        if allowed:
            return min(allowed, key=lambda cut: abs(cut - ideal))
    if span := whole.around(ideal):
        return span[0] if span[0] > start else min(span[1], end)
    nearby = chain(
        range(ideal, max(start, ideal - MAX_GRAPHEME_CHARACTERS), -1),
        range(ideal + 1, min(end, ideal + MAX_GRAPHEME_CHARACTERS)),
    )
    between = (cut for cut in nearby if _parts_characters(text, cut) and not whole.around(cut))
    return next(between, min(end, ideal + MAX_GRAPHEME_CHARACTERS))


def _cuts(text: str, start: int, end: int, ideal: int) -> Iterator[list[int]]:
    """Places around `ideal` where clauses end, then phrases, then words. Who has found one asks no further."""
    reach = (ideal - start) // 2
    first, last = ideal - reach, min(ideal + reach, end)
    for pattern in (_CLAUSE_END, _PHRASE_END, _SPACE):
        yield [match.end() for match in pattern.finditer(text, first, last)]
    yield [cut for cut in _word_starts(text, start, end, ideal) if first <= cut <= last]


def _word_starts(text: str, start: int, end: int, ideal: int) -> list[int]:
    """Where words begin around `ideal`, as ICU's dictionaries have them: for scripts without spaces.

    In Japanese only what does not begin with hiragana, where there is such: a particle goes with the word before it.
    """
    first, last = max(start, ideal - ICU_CHARACTERS), min(end, ideal + ICU_CHARACTERS)
    starts, at = [], first
    for word in WordBreaker(_SURROGATE.sub("\ufffd", text[first:last]), "en"):  # any locale: the script decides
        opens = word[0].isalnum() or word in _OPENING
        if opens and abs(at - ideal) <= ICU_CHARACTERS // 2 and _parts_words(text, at, start):
            starts.append(at)
        at += len(word)
    return [cut for cut in starts if not _HIRAGANA.match(text, cut)] or starts


def _parts_words(text: str, cut: int, start: int) -> bool:
    return cut > start and text[cut - 1] not in _OPENING and _parts_characters(text, cut)


def _parts_characters(text: str, cut: int) -> bool:
    """Whether what a reader takes for one character stays whole when `text` is cut there."""
    before, after = text[cut - 1], text[cut]
    return not (
        before == _ZERO_WIDTH_JOINER
        or unicodedata.category(after).startswith("M")
        or _GOES_WITH_BEFORE.match(after)
        or (_FLAG_LETTER.match(before) and _FLAG_LETTER.match(after))
    )
