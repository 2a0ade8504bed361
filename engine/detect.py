"""Which language a text is in: by its script where that leaves no choice, else by the statistics of py3langid.

Knows no model and no request. Written Chinese is one language here: Simplified, Traditional and Cantonese are all taken
for the first of them that is offered.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from copy import copy
from functools import cache, lru_cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from engine.types import Guess

HEAD_CHARACTERS = 2_000  # more makes it no surer
MIN_SHARE = 0.3  # of all letters, for a script to decide; a Han character or a syllable says more than a Latin letter
MIN_KANA_SHARE = 0.1  # of Han and kana, for Japanese; a Chinese text may hold a の

_CHINESE = ("zh", "zh-Hant", "yue")
_LANGUAGE_OF_SCRIPT = {  # by the first word of their letters' Unicode names; each writes one of our languages only
    "HANGUL": "ko",
    "TIBETAN": "bo",
    "THAI": "th",
    "KHMER": "km",
    "MYANMAR": "my",
    "GUJARATI": "gu",
    "TELUGU": "te",
    "TAMIL": "ta",
    "BENGALI": "bn",
    "HEBREW": "he",
}
_KANA = ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HALFWIDTH")


def detect(text: str, codes: Iterable[str]) -> tuple[Guess, ...]:
    """The two likeliest of the languages `codes`, likeliest first; none for a text without letters."""
    first = next((index for index, character in enumerate(text) if character.isalpha()), None)
    codes = tuple(codes)
    if first is None or not codes:
        return ()
    head = text[first : first + HEAD_CHARACTERS]  # a page of figures may stand before the first word
    letters = "".join(filter(str.isalpha, head))
    code, share = _by_script(letters, codes)
    guesses = [Guess(lang, score * (1 - share)) for lang, score in _ranked(head, codes) if lang != code]
    if code:
        guesses.insert(0, Guess(code, share))
    return tuple(guesses[:2])


def _by_script(letters: str, codes: tuple[str, ...]) -> tuple[str, float]:
    """The language that the script of most `letters` writes, and their share; ("", 0) if it may be several."""
    scripts = Counter(unicodedata.name(letter, "").split(" ", 1)[0] for letter in letters)
    kana = sum(scripts[name] for name in _KANA)
    east_asian = scripts["CJK"] + kana
    counts = {_LANGUAGE_OF_SCRIPT[name]: count for name, count in scripts.items() if name in _LANGUAGE_OF_SCRIPT}
    counts["ja" if kana > east_asian * MIN_KANA_SHARE else _chinese(codes)] = east_asian
    code, count = max(counts.items(), key=lambda item: item[1])
    share = count / len(letters)
    return (code, share) if code in codes and share >= MIN_SHARE else ("", 0.0)


def _ranked(text: str, codes: tuple[str, ...]) -> list[tuple[str, float]]:
    identifier = _identifier(codes)
    return [(_chinese(codes) if lang == "zh" else lang, score) for lang, score in identifier.rank(text)]


@lru_cache(maxsize=8)  # a model has one set of languages
def _identifier(codes: tuple[str, ...]) -> LanguageIdentifier:
    identifier = copy(_all_languages())
    wanted = {"zh" if code in _CHINESE else code for code in codes}
    identifier.set_languages(wanted.intersection(identifier.labels))
    return identifier


@cache
def _all_languages() -> LanguageIdentifier:
    """Half a second, once. Restricting a copy leaves it as it is."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _chinese(codes: tuple[str, ...]) -> str:
    """The code that Chinese has among `codes`."""
    return next((code for code in _CHINESE if code in codes), "zh")
