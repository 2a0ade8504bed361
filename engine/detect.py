"""Which language a text is in: the statistics of py3langid, and what letters and frequent words say beside them.

Each letter speaks for the languages that write it, each frequent word for those that have it. So script decides where
it leaves no choice, and 嘅 tells Cantonese from Mandarin, ы Russian from Ukrainian, `bahawa` Malay from Indonesian.
Knows no model and no request.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import cache, lru_cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from engine.alphabets import CANTONESE, LATIN, speakers, writers
from engine.languages import CHINESE, LANGUAGES
from engine.types import Guess

HEAD_CHARACTERS = 2_000  # more makes it no surer
# of NTREX, 38 languages offered, it doubts 30 % of the wrong guesses and 0.8 % of the right ones, of its heads (three
# words) 67 % and 6.1 %; of such heads of FLORES, ten languages offered, 76 % and 4.0 % (2026-11-21)
CERTAIN_SCORE = 0.6

# logarithms of odds; half or twice as much of any changes 0.1 % of NTREX's sentences and 0.4 % of its heads at most
_ALL_LETTERS = 30.0  # for a language that writes all of a text's letters against one that writes none
_WORD = 2.0  # n frequent words of m count n/√m times as much
_CANTONESE = -1.0  # fewer people write it
_LEAST_LIKELY = 1e-9  # of py3langid: it may be as wrong as this, not more
_WEIGHT = {  # of a letter, by who writes it; 1 for others
    LATIN: 0.1,  # names and words in it stand in texts of every script
    CANTONESE: 6.0,  # one character in ten of a Cantonese text, which may be Simplified, and none of a Mandarin text
}
# what py3langid is asked for in place of a language: it does not know bo, and takes what is Traditional for yue
_STAND_INS = {"zh-Hant": "zh", "yue": "zh", "bo": "dz"}
_MANDARIN = frozenset({"zh", "zh-Hant"})
_PUNCTUATION = ".,;:!?…\"'«»()[]“”„‘’।،؛؟-–"


def load() -> None:
    """Reads the statistics, which takes half a second, once; else the first text waits for them."""
    _statistics(tuple(LANGUAGES))


def detect(text: str, codes: Iterable[str]) -> tuple[Guess, ...]:
    """The two likeliest of the languages `codes`, likeliest first; none for a text without letters.

    The scores of all languages add up to the share of the letters that any of them writes.
    """
    first = next((index for index, character in enumerate(text) if character.isalpha()), None)
    codes = tuple(codes)
    if first is None or not codes:
        return ()
    head = unicodedata.normalize("NFC", text[first : first + HEAD_CHARACTERS])  # a page of figures may stand before it
    odds = {code: _CANTONESE if code == "yue" else 0.0 for code in codes}
    written = _weigh_letters(odds, head.lower())
    _weigh_words(odds, head.lower())
    best = _best_two(odds)
    if odds[best[0]] - odds[best[-1]] < -math.log(_LEAST_LIKELY):  # else the statistics cannot turn it
        _weigh_statistics(odds, head)
        best = _best_two(odds)
    total = sum(math.exp(value - odds[best[0]]) for value in odds.values())
    return tuple(Guess(code, written * math.exp(odds[code] - odds[best[0]]) / total) for code in best)


def is_certain(guesses: Sequence[Guess]) -> bool:
    """Whether the first guess is to be believed; where it is not, the user's last choice is the better one."""
    return bool(guesses) and guesses[0].score >= CERTAIN_SCORE


def _weigh_letters(odds: dict[str, float], text: str) -> float:
    """Adds to `odds` what the letters of `text` say. Returns the share of them that any of the languages writes."""
    counts = Counter[frozenset[str]]()
    for letter, count in Counter(text).items():
        if letter.isalpha():
            counts[writers(letter)] += count
    letters = counts.total()
    codes = tuple(odds)
    written = 0
    for who, count in counts.items():
        offered = _offered(who, codes)
        written += count if offered else 0
        for code in offered:
            odds[code] += _ALL_LETTERS * _WEIGHT.get(who, 1.0) * count / letters
    return written / letters


def _weigh_words(odds: dict[str, float], text: str) -> None:
    """Adds to `odds` what the frequent words of `text` say."""
    words = text.split()
    for who, count in Counter(speakers(word.strip(_PUNCTUATION)) for word in words).items():
        for code in who & odds.keys():
            odds[code] += _WORD * count / math.sqrt(len(words))


def _weigh_statistics(odds: dict[str, float], text: str) -> None:
    chances = dict(_statistics(tuple(odds)).rank(text))
    for code in odds:
        odds[code] += math.log(max(chances[_STAND_INS.get(code, code)], _LEAST_LIKELY))


def _best_two(odds: Mapping[str, float]) -> list[str]:
    return sorted(odds, key=odds.__getitem__, reverse=True)[:2]


@lru_cache(maxsize=4096)
def _offered(who: frozenset[str], codes: tuple[str, ...]) -> frozenset[str]:
    """Those of `codes` that write what `who` write. For a kind of Chinese that is not among them, other kinds do."""
    offered = who.intersection(codes)
    if who & _MANDARIN and not _MANDARIN.issubset(codes):
        offered |= _MANDARIN.intersection(codes)
    if who & CHINESE and not offered & CHINESE:
        offered |= CHINESE.intersection(codes)
    return offered


@lru_cache(maxsize=8)  # a model has one set of languages
def _statistics(codes: tuple[str, ...]) -> LanguageIdentifier:
    identifier = copy(_all_languages())
    identifier.set_languages({_STAND_INS.get(code, code) for code in codes})
    return identifier


@cache
def _all_languages() -> LanguageIdentifier:
    """Half a second, once. Restricting a copy leaves it as it is."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
