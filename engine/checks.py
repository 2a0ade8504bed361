"""Is this a translation of that? What a look at source and answer tells, without a model.

Texts come bare, without marks. Nothing is known here of prompts, backends, or what becomes of an answer at fault. A
check is lenient: a good translation that is doubted costs more than a bad one that passes, so at most one human
reference in a hundred may be (`python -m engine.tools.evaluate checks` counts).
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from engine.detect import detect
from engine.languages import CHINESE, LANGUAGES, UNSPACED_LETTERS

END_CHARACTERS = 2_000  # of longer texts the beginning and the end are looked at; segments are shorter

# How bad each fault is, where a missed term is 1 and an answer cut off at its limit 4.
_OTHER_LANGUAGE = 20.0  # no translation at all, whatever terms it has
_LOOPING = 10.0
_INCOMPLETE, _INCOMPLETE_WITHOUT_ALL = 2.0, 8.0  # a + b times the share that is missing
_TOO_LONG = 3.0
_ADDED_NOTE = 2.5
_WRONG_NUMBER, MOST_WRONG_NUMBERS = 1.0, 3  # of each, and how many count


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that a translation has not or should not have."""

    code: str  # here "incomplete", "looping", "wrong_language", "numbers", "notes", "echo" or "too_long"
    sentence: str  # for the user; {where} stands for the name of the segment
    weight: float  # how bad: of two answers the one with the smaller sum is to be taken


def faults(source_text: str, translation: str, source: str, target: str) -> tuple[Fault, ...]:
    """What is wrong with `translation`, worst first; nothing for a translation that is empty.

    `source` and `target` are codes of `languages`. However long the texts are, it takes 50 ms at most, 2 ms for most.
    """
    source_text, translation = source_text.strip(), translation.strip()
    if not translation:
        return ()
    source_ends, ends = _ends(source_text), _ends(translation)
    found = [
        _looping(source_ends, ends),
        _echo(source_ends, ends, source, target) or _wrong_language(source_ends, ends, source, target),
        _length(source_text, translation, source, target),
        _notes(source_ends, ends),
        _numbers(source_text, translation, target),
    ]
    return tuple(sorted((fault for fault in found if fault), key=lambda fault: -fault.weight))


def _ends(text: str) -> str:
    """What is looked at of a text, which for a segment is all of it."""
    if len(text) <= 2 * END_CHARACTERS:
        return text
    return f"{text[:END_CHARACTERS]}\n{text[-END_CHARACTERS:]}"


# ---------------------------------------------------------------------------------------------------------------------
# complete

# How many English letters a letter of each language is worth, where names and code in Latin letters count as English.
# de to ko, zh and ja are medians over 40,000 lines of the training corpus each, ms and km sums over TICO-19, the rest
# are means of what the messages of Django 5.2 and the 60 sentences of NTREX-128 each give.
# fmt: off
_ENGLISH_LETTERS = {
    "en": 1.0, "de": 0.84, "es": 0.90, "fr": 0.86, "it": 0.87, "pt": 0.92, "ru": 0.90, "ko": 2.2,
    "zh": 3.0, "zh-Hant": 3.0, "yue": 2.8, "ja": 3.2,
    "ms": 0.90, "km": 0.86, "tr": 0.88, "ar": 1.13, "th": 1.04, "vi": 1.05, "id": 0.88, "tl": 0.91, "hi": 1.03,
    "pl": 0.89, "cs": 1.04, "nl": 0.88, "my": 0.79, "fa": 1.12, "gu": 1.10, "ur": 1.05, "te": 0.97, "mr": 1.02,
    "he": 1.32, "bn": 1.01, "ta": 0.82, "uk": 0.97, "bo": 0.95, "kk": 1.0, "mn": 1.02, "ug": 0.86,
}
_MEASURED = frozenset({"en", "de", "es", "fr", "it", "pt", "ru", "ko", "zh", "ja", "ms", "km"})
# fmt: on
_LATIN = frozenset({"en", "fr", "pt", "es", "tr", "it", "de", "vi", "ms", "id", "tl", "pl", "cs", "nl"})
_KANA_ENGLISH_LETTERS = 1.4  # same corpus; it is Japanese Han that are worth 3.2
_SPREAD, _SPREAD_OF_ONE_LETTER = 0.05, 0.85  # of log ratios, a + b/√letters: same corpus, 0.25 at 18, 0.10 at 280
_SPREAD_WITHOUT_ENGLISH = 1.3  # times more, where each text was translated from a third
_SPREAD_UNMEASURED = 0.08  # more, where the ratio itself is a guess
MIN_DEVIATIONS = -3.5  # from the expected length; what is shorter is at fault for that alone
MIN_DEVIATIONS_WITHOUT_END = 0.3  # where its last punctuation is missing too
MAX_DEVIATIONS = 4.5
MIN_LETTERS_TO_COMPARE = 6  # English ones, of the source: a shorter text may become anything

_FINAL = frozenset(".!?…:;。！？．：；।॥۔؟؛။።។៕།༎")
_CLOSING = "\"'”’»›)]}）］】」』》〉“‘*_` \u200b\u200c\u200d\u200e\u200f"
_OPEN_ENDED = frozenset(",、，،·-–—(（[「『“‘")
_LABEL_END = re.compile(r"(?:\.\.\.|[…:：]|\b(?:etc|inc|ltd|co|corp|jr|sr|vs|no|\w\.\w)\.)$", re.IGNORECASE)
LONGEST_LABEL = 30  # characters; "Name:", "Loading...", "Acme Inc." may lose such an end
_WITHOUT_FINAL = frozenset({"th", "bo"})  # Thai has no full stop; the Tibetan one is left out after some letters
_NOT_LETTERS = re.compile(
    r"[\s!-/:-@\[-`{-~\u00a0-\u00bf\u2000-\u206f\u3000-\u303f\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
    r"\u0964\u0965\u06d4\u060c\u061b\u061f\u104a\u104b\u17d4-\u17da\u0f0b-\u0f12]+"
)
_ASCII_RUN = re.compile(r"[A-Za-z0-9]+")
_KANA_RUN = re.compile(r"[\u3040-\u30ff\u31f0-\u31ff]+")


def _length(source_text: str, translation: str, source: str, target: str) -> Fault | None:
    expected, size = english_letters(source_text, source), english_letters(translation, target)
    cut = _open_ended(source_text, translation, target)
    if expected < MIN_LETTERS_TO_COMPARE or not size:
        return _fault_of_length(size / expected) if cut and expected and size < expected else None
    spread = _SPREAD + _SPREAD_OF_ONE_LETTER / math.sqrt(expected)
    if "en" not in (source, target):
        spread *= _SPREAD_WITHOUT_ENGLISH
    spread = math.hypot(spread, *(_SPREAD_UNMEASURED for lang in (source, target) if lang not in _MEASURED))
    deviations = math.log(size / expected) / spread
    if deviations < (MIN_DEVIATIONS_WITHOUT_END if cut else MIN_DEVIATIONS):
        return _fault_of_length(size / expected)
    if deviations > MAX_DEVIATIONS:
        times = f"{size / expected:.1f} times as long as such a text usually becomes"
        return Fault("too_long", f"The translation of {{where}} is {times}; read it again.", _TOO_LONG)
    return None


def _fault_of_length(share: float) -> Fault:
    missing = max(0.0, 1.0 - share)
    much = f"about {missing:.0%} of its usual length is missing" if missing > 0.2 else "it stops in mid-sentence"
    return Fault(
        "incomplete",
        f"The translation of {{where}} seems cut short: {much}; read it again.",
        _INCOMPLETE + _INCOMPLETE_WITHOUT_ALL * missing,
    )


def english_letters(text: str, lang: str) -> float:
    """How many letters and digits an English text that says the same as `text` would have, about."""
    if len(ends := _ends(text)) < len(text):
        return english_letters(ends, lang) * len(text) / len(ends)
    letters = len(_NOT_LETTERS.sub("", text))
    worth = _ENGLISH_LETTERS[lang]
    if lang in _LATIN:
        return letters * worth
    latin = sum(map(len, _ASCII_RUN.findall(text)))
    kana = sum(map(len, _KANA_RUN.findall(text))) if lang == "ja" else 0
    return latin + kana * _KANA_ENGLISH_LETTERS + (letters - latin - kana) * worth


def _open_ended(source_text: str, translation: str, target: str) -> bool:
    """Whether `translation` stops where its source does not."""
    source_end, end = source_text[-40:].rstrip(_CLOSING), translation[-40:].rstrip(_CLOSING)
    if end[-1:] in _FINAL:
        return False
    if translation[-1:] in _OPEN_ENDED:
        return source_text[-1:] not in _OPEN_ENDED
    if source_end[-1:] not in _FINAL or target in _WITHOUT_FINAL:
        return False
    if len(source_text) <= LONGEST_LABEL and _LABEL_END.search(source_text):
        return False
    return not (translation[-1:] in _CLOSING and source_text[-1:] in _CLOSING)


# ---------------------------------------------------------------------------------------------------------------------
# looping

LOOP_REPEATS = 5  # of a stretch with a letter in it, unless its source repeats itself too
LOOP_LETTERS = 12  # that they have at least: "no, no, no, no, no" may be an answer
SIGN_LOOP_REPEATS = 60  # of a stretch of signs and digits alone: rules, dots, tables
MANY_REPEATS = 50  # a source that repeats itself so often may become anything
MAX_LOOP_TOKENS = 200  # of the stretch: words, or letters of a script without spaces
MAX_PLACES = 16  # of one token in the stretch
LONGEST_TOKEN = 24  # characters; a longer word is several, so that a loop inside it is seen as well
_WORD_MARKS = r"\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0970-\u0dff"  # which \w leaves out
_TOKEN = re.compile(
    rf"[{UNSPACED_LETTERS}]|\d{{1,{LONGEST_TOKEN}}}|(?:[^\W\d_{UNSPACED_LETTERS}]|[{_WORD_MARKS}]){{1,{LONGEST_TOKEN}}}"
    r"|[^\s\w]|_"
)
_DENSE = "\u0e00"  # from Thai on, a letter of a longer stretch says as much as two
_SYLLABLES = re.compile(r"(\w{1,4}?)\1{2,}")


class LoopWatch:
    """Told an answer as it comes, says whether the same stretch is being said again and again.

    What the source repeats may be repeated twice as often. Numbers are all the same, so that counting is no progress.
    Takes linear time, and remembers the source and `MAX_LOOP_TOKENS` tokens.
    """

    def __init__(self, source_text: str) -> None:
        self._source_text = source_text
        self._allowed: tuple[float, float] | None = None  # repeats of words and of signs; known once there are some
        self._answer = _Repeats()
        self._held = ""  # a word that may go on
        self._loops = False

    def feed(self, text: str) -> bool:
        """Whether the answer loops, now that `text` has come."""
        text = self._held + text
        tokens = _TOKEN.findall(text)
        goes_on = tokens and text.endswith(tokens[-1]) and tokens[-1].isalnum() and len(tokens[-1]) < LONGEST_TOKEN
        self._held = tokens.pop() if goes_on else ""
        return self._take(tokens)

    def end(self) -> bool:
        """Whether the answer loops, now that it is whole."""
        held, self._held = self._held, ""
        return self._take(_TOKEN.findall(held))

    def _take(self, tokens: Iterable[str]) -> bool:
        for token in _folded(tokens):
            if self._loops:
                break
            self._answer.take(token)
            words, signs = self._answer.of_words, self._answer.of_signs
            if words >= LOOP_REPEATS or signs >= SIGN_LOOP_REPEATS:
                self._allowed = self._allowed or _allowed(self._source_text)
                self._loops = words > self._allowed[0] or signs > self._allowed[1]
        return self._loops


def _allowed(source_text: str) -> tuple[float, float]:
    """How often the translation may say the same words, and the same signs, one after the other."""
    repeats = _Repeats()
    for token in _folded(_TOKEN.findall(source_text)):
        repeats.take(token)
        if repeats.of_words >= MANY_REPEATS:
            break
    syllables = max((len(run[0]) // len(run[1]) for run in _SYLLABLES.finditer(source_text)), default=0)
    words, signs = max(repeats.of_words, syllables), repeats.of_signs
    return (
        math.inf if words >= MANY_REPEATS else max(LOOP_REPEATS - 1, 2 * words),
        math.inf if signs >= MANY_REPEATS else max(SIGN_LOOP_REPEATS - 1, 2 * signs),
    )


def _folded(tokens: Iterable[str]) -> list[str]:
    return ["0" if token[0].isdigit() else token.casefold() for token in tokens]


class _Repeats:
    """How often, at most, a stretch of tokens came in a row: one with a letter, and one of signs and digits alone."""

    def __init__(self) -> None:
        self.of_words = self.of_signs = 0
        self._count = 0
        self._recent: deque[str] = deque()
        self._places: defaultdict[str, deque[int]] = defaultdict(partial(deque, maxlen=MAX_PLACES))  # by token
        self._runs: dict[int, tuple[int, int]] = {}  # distance → tokens that were the same so far before, letters

    def take(self, token: str) -> None:
        """Looks at distances alone at which the token stood before; a run of n at distance d is n / d + 1 times."""
        letters = len(token) if token[0].isalpha() else 0
        places = self._places[token]
        runs = {}
        for place in places:
            distance = self._count - place
            same, lettered = self._runs.get(distance, (0, 0))
            same, lettered = runs[distance] = same + 1, lettered + letters
            if same >= 2 * distance:
                self._came(same // distance + 1, lettered * (2 if distance > 1 and token >= _DENSE else 1))
        self._runs = runs
        places.append(self._count)
        self._recent.append(token)
        self._count += 1
        if len(self._recent) > MAX_LOOP_TOKENS:
            self._forget(self._recent.popleft())

    def _came(self, times: int, letters: int) -> None:
        if not letters:
            self.of_signs = max(self.of_signs, times)
        elif letters * times >= LOOP_LETTERS * (times - 1):
            self.of_words = max(self.of_words, times)

    def _forget(self, token: str) -> None:
        places = self._places[token]
        if places[0] == self._count - MAX_LOOP_TOKENS - 1:
            places.popleft()
        if not places:
            del self._places[token]


def _looping(source_text: str, translation: str) -> Fault | None:
    neighbours = Counter(pairwise(_folded(_TOKEN.findall(translation))))
    if max(neighbours.values(), default=0) < LOOP_REPEATS - 1:
        return None  # each two that stand together would come as often as the stretch, or once less
    watch = LoopWatch(source_text)
    if not (watch.feed(translation) or watch.end()):
        return None
    return Fault("looping", "The translation of {where} says the same again and again; read it again.", _LOOPING)


# ---------------------------------------------------------------------------------------------------------------------
# language

MIN_LETTERS_TO_TELL = 8  # English ones, of what is not the source's own words
MIN_SCORE = 0.5  # of the language that it is taken for
MAX_SCORE_OF_TARGET = 0.4  # beside that
MIN_SCORE_OF_SIMPLIFIED = 0.9  # where it should be Traditional Chinese
MIN_HAN_OF_JAPANESE = 10  # so many without kana are Chinese; an institution may have fewer
MIN_HAN_OF_JAPANESE_SENTENCE = 4
_HARD_TO_TELL_APART = (CHINESE, frozenset({"ms", "id"}))
_WORD = re.compile(rf"(?:[^\W_]|[{_WORD_MARKS}\u0e31-\u0e4e\u0f71-\u0f84\u102b-\u103e\u17b4-\u17d3])+")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def _wrong_language(source_text: str, translation: str, source: str, target: str) -> Fault | None:
    own = set() if {source, target} <= CHINESE else set(_WORD.findall(source_text.casefold()))
    rest = " ".join(word for word in _WORD.findall(translation) if word.casefold() not in own)
    if target == "ja" and _HAN.search(rest) and not _KANA_RUN.search(translation):
        ended = translation[-1] in _FINAL
        enough = MIN_HAN_OF_JAPANESE_SENTENCE if ended else MIN_HAN_OF_JAPANESE
        return _fault_of_language("zh", target) if len(_HAN.findall(rest)) >= enough else None
    if english_letters(rest, target) < MIN_LETTERS_TO_TELL:
        return None
    guesses = {guess.lang: guess.score for guess in detect(rest, LANGUAGES)}
    if not guesses:
        return None
    lang, score = next(iter(guesses.items()))
    if lang == target or score < MIN_SCORE or guesses.get(target, 0.0) > MAX_SCORE_OF_TARGET:
        return None
    alike = any({lang, target} <= languages for languages in _HARD_TO_TELL_APART)
    if alike and not (target == "zh-Hant" and lang == "zh" and score >= MIN_SCORE_OF_SIMPLIFIED):
        return None
    return _fault_of_language(lang, target)


def _fault_of_language(lang: str, target: str) -> Fault:
    is_in = f"seems to be in {LANGUAGES[lang].english}, not in {LANGUAGES[target].english}"
    return Fault("wrong_language", f"The translation of {{where}} {is_in}; read it again.", _OTHER_LANGUAGE)


# ---------------------------------------------------------------------------------------------------------------------
# echo

MIN_WORDS_TO_ECHO = 4  # small ones, without a full stop: fewer may be a name, a command or a title
MIN_WORDS_OF_SENTENCE_TO_ECHO = 2  # with one, of which one small
MIN_LETTERS_TO_ECHO = 5  # in scripts without spaces
MIN_SHARE_OF_ECHO = 0.9  # of the letters of a translation, that are words of the source
MIN_WORDS_OF_NEAR_ECHO = 6
_CODE = re.compile(r"`[^`]*`")
_OPTION = re.compile(r"(?:^|\s)--?\w")  # of a command
_NO_PROSE = re.compile(r"[\d@/\\_{}<>=$#]|\w[.:]\w")  # in numbers, addresses, paths and names of programs


def _echo(source_text: str, translation: str, source: str, target: str) -> Fault | None:
    if any({source, target} <= alike for alike in _HARD_TO_TELL_APART):
        return None
    words = _prose(source_text)
    small = [word for word in words if not word[0].isupper()]
    if not small or not _needs_translation(words, small, source_text, source):
        return None
    said = _prose(translation)
    own = {word.casefold() for word in words}
    kept = sum(len(word) for word in said if word.casefold() in own)
    total = sum(map(len, said))
    enough = MIN_SHARE_OF_ECHO if len(said) >= MIN_WORDS_OF_NEAR_ECHO else 1.0
    if not total or kept < enough * total or len(said) < len(words) / 2:
        return None
    language = LANGUAGES[source].english
    return Fault("echo", f"{{where}} was not translated: it is still in {language}; try it again.", _OTHER_LANGUAGE)


def _prose(text: str) -> list[str]:
    """The words of `text` that are not code."""
    parts = _CODE.sub(" ", text).split()
    return _WORD.findall(" ".join(part for part in parts if not _NO_PROSE.search(part)))


def _needs_translation(words: list[str], small: list[str], text: str, source: str) -> bool:
    """Whether text of these `words`, of which those are `small`, cannot be the same in two languages."""
    if not LANGUAGES[source].spaced:
        return sum(map(len, small)) >= MIN_LETTERS_TO_ECHO
    if text.rstrip(_CLOSING)[-1:] in _FINAL:
        return len(words) >= MIN_WORDS_OF_SENTENCE_TO_ECHO
    return len(small) >= MIN_WORDS_TO_ECHO and not _OPTION.search(text)


# ---------------------------------------------------------------------------------------------------------------------
# notes

# What models say around a translation, and the words of `prompts` that they repeat.
_PREFACE = re.compile(
    r"(?:sure\b[^\n:]{0,40}[:!]|of course[^\n:]{0,40}[:!]|(?:here is|here's|here are|below is)\b[^\n:]{0,60}\btranslat"
    r"|(?:the )?(?:\w+ )?translat(?:ion|ed text)(?: \w+ \w+)?\s*[:：]|translated (?:text|result)\b"
    r"|以下(?:是|为)[^\n]{0,20}(?:翻译|译文|翻譯|譯文)|(?:翻译|翻譯|译文|譯文)(?:结果|結果)?(?:如下)?\s*[:：]|翻译结果|翻訳(?:結果)?\s*[:：])",
    re.IGNORECASE,
)
_OF_TRANSLATION = re.compile(r"transla|翻[译譯訳]|[译譯]文|tradu|traduz|übersetz|перев|번역|ترجم", re.IGNORECASE)
_TEMPLATE = re.compile(
    r"</?target>|</?source>|<sn>|translate the following (?:segment|text)|without (?:any )?additional explanation"
    r"|only output the translated result|将以下(?:<source>|文本|内容)|注意只需要输出|不要额外解释"
    r"|参考(?:上面|下面)的(?:信息|翻译)|把下面的文本翻译|请结合背景信息|【背景信息】|【待翻译文本】",
    re.IGNORECASE,
)
_NOTE_WORDS = (
    r"(?:translator['’]?s? )?note|n\.? ?b\.?|[译譯訳]?者?[注註][意释釋记記]?|[说說]明|備考|참고|역주|주의|hinweis"
    r"|anm(?:erkung|\.)|remarque|note du traducteur|n\.? ?d\.? ?t\.?|nota(?: del? traductor| do tradutor)?"
    r"|прим(?:ечание|\.)(?: пер(?:\.|еводчика))?|примітка|ескерту|uwaga|poznámka|opmerking|catatan|nota penterjemah"
    r"|ghi chú|lưu ý|ملاحظة|הערה|หมายเหตุ"
)
_NOTE = re.compile(rf"(?:[(（\[【［]|\n\s*[*_(（\[]*)\s*(?:{_NOTE_WORDS})\s*(?:[:：]|[】\]］])", re.IGNORECASE)
_ANY_NOTE = re.compile(rf"(?<!\w)(?:{_NOTE_WORDS}|attention|caution|warning|tip)(?!\w)|[注註]", re.IGNORECASE)


def _notes(source_text: str, translation: str) -> Fault | None:
    head = translation[:200].lstrip(_CLOSING + "#")
    what = None
    if _PREFACE.match(head) and not _OF_TRANSLATION.search(source_text):
        what = "an introduction"
    elif any(words[0].casefold() not in source_text.casefold() for words in _TEMPLATE.finditer(translation)):
        what = "words of the instructions"
    elif _NOTE.search(translation) and not _ANY_NOTE.search(source_text):
        what = "a note"
    if not what:
        return None
    return Fault("notes", f"The translation of {{where}} has {what} that the source has not; take it out.", _ADDED_NOTE)


# ---------------------------------------------------------------------------------------------------------------------
# numbers

MIN_NUMBER = 32  # smaller ones are said in words, are hours, days and months, and are counted otherwise
_NUMBER = re.compile(r"\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\d)|\d+(?:[.,'’٫٬]\d+)*")
_DIGITS = re.compile(r"\d+")
_DATE_OR_TIME = re.compile(r"\d{1,2}[.,]\d\d(?:[.,]\d+)*|\d+(?:[.,]\d+){2,}")  # whose parts may be put otherwise
_TIME = re.compile(r"(?<![\d:.])([01]?\d|2[0-3]):([0-5]\d)(?![\d:])")  # of the day
_MYRIADS = re.compile(r"(?:\d[\d.,]{0,15}\s?[십백천만억十百千万萬亿億]+\s?)+(?:\d[\d.,]{0,15})?")  # 15만 3천 is 153,000
_HAN_NUMBER = re.compile(r"[〇零一二三四五六七八九十百千万萬亿億两兩]{2,}")
_HAN_DIGITS = str.maketrans(
    {**dict(zip("〇零一二三四五六七八九两兩", "0012345678922", strict=True)), **dict.fromkeys("百千万萬亿億")}
)
_ERAS = {"th": 543, "fa": -621}  # years after ours, where a calendar of its own is in daily use


def _numbers(source_text: str, translation: str, target: str) -> Fault | None:
    if max(len(source_text), len(translation)) > 2 * END_CHARACTERS:
        return None  # a number may be anywhere
    wanted = {_ascii(number): number for number in _NUMBER.findall(source_text)}
    if not wanted:
        return None
    there = _there(translation)
    missing = [number for digits, number in wanted.items() if not _said(digits, there, target)]
    times = _TIME.finditer(source_text) if there else ()  # else they are in words
    missing += [time[0] for time in times if not _time_said(int(time[1]), int(time[2]), there)]
    if not missing:
        return None
    named = ", ".join(missing[:MOST_WRONG_NUMBERS])
    weight = _WRONG_NUMBER * min(len(missing), MOST_WRONG_NUMBERS)
    return Fault("numbers", f"The translation of {{where}} lacks {named}; compare the numbers.", weight)


def _there(text: str) -> set[str]:
    """The digits of all numbers in `text`: of each whole, of its parts, and of those that are partly words.

    Also without the zeros around, and what is left of a year in 1990s and années 90 ("…90").
    """
    whole = [_ascii(number) for number in _NUMBER.findall(text)]
    digits = {part for number in whole for part in (_joined(number), *_DIGITS.findall(number))}
    in_words = [_ascii(number) for number in _MYRIADS.findall(text)]
    in_words += [_han_digits(number) for number in _HAN_NUMBER.findall(text)]
    digits.update("0" + _joined(number).replace("0", "") for number in in_words)
    decades = {"…" + number[2:] for number in digits if len(number) == 4}
    return digits | decades | {number.strip("0") for number in digits}


def _said(number: str, there: set[str], target: str) -> bool:
    """Whether `number` is among the digits `there`, whatever its power of ten and its separators."""
    digits = _joined(number)
    core = digits.strip("0")
    if len(core) < 2 or core in there or "0" + digits.replace("0", "") in there:
        return True
    if len(digits) == 2 and (int(digits) < MIN_NUMBER or "…" + digits in there):
        return True
    if _DATE_OR_TIME.fullmatch(number) and all(_said(part, there, target) for part in _DIGITS.findall(number)):
        return True
    if len(digits) != 4 or number != digits:
        return False
    return digits[2:] in there or (target in _ERAS and str(int(digits) + _ERAS[target]) in there)


def _time_said(hour: int, minute: int, there: set[str]) -> bool:
    """Whether a time of the day is there, of 24 hours or of twelve; a quarter or a half may be in words."""
    hours = {str(each) for each in (hour, hour % 12, hour % 12 + 12)}
    minutes = {f"{minute:02}", str(minute)}
    return not there.isdisjoint(hours) and (minute % 15 == 0 or not there.isdisjoint(minutes))


def _ascii(number: str) -> str:
    return number if number.isascii() else "".join(str(unicodedata.digit(sign, sign)) for sign in number)


def _joined(number: str) -> str:
    return "".join(_DIGITS.findall(number))


def _han_digits(number: str) -> str:
    return number.replace("十", "1" if number[0] == "十" else "").translate(_HAN_DIGITS)
