"""Find a glossary's terms in a segment, and check afterwards that their translations are there. Knows no model.

Letter case, width and composed forms make no difference. A word of a script with spaces must stand alone, whatever the
language around it; Han, kana, Thai and their like show no words, and match anywhere.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

from engine.languages import ADDS_ENDINGS, UNSPACED_LETTERS
from engine.types import Term, TermResult

MAX_TERMS_PER_SEGMENT = 16  # more would outweigh the segment in its prompt
MAX_ENDING_LETTERS = 4  # that a translated term may have been inflected with: сервер, серверами
FOLDED_TERMS_KEPT = 16_384  # they are asked for again with every text and segment
START_CHARACTERS = 4  # of a term: with more, a text has more starts to look up; with fewer, more terms share one

_HANGUL = re.compile(r"[\uac00-\ud7a3]")
_UNSPACED = re.compile(f"[{UNSPACED_LETTERS}]")


@dataclass(frozen=True, slots=True)
class Index:
    """A glossary made ready for a text, so that each segment costs its own length and not the glossary's."""

    terms: Mapping[str, Term]  # by folded source
    sizes: Mapping[str, Set[int]]  # of the sources that start with the same few characters


def index(terms: Sequence[Term]) -> Index:
    """Of two terms with one source the first counts."""
    by_source: dict[str, Term] = {}
    sizes: dict[str, set[int]] = {}
    for term in terms:
        if source := _fold_term(term.source):
            by_source.setdefault(source, term)
            sizes.setdefault(source[:START_CHARACTERS], set()).add(len(source))
    return Index(by_source, sizes)


def terms_in(glossary: Index, text: str, lang: str) -> tuple[Term, ...]:
    """The terms whose source occurs in `text`, of language `lang`: longest first, each once, at most 16.

    A term that occurs only inside a longer one is left out. One without a target is to be kept as it is.
    """
    found = [term for term, _ in _found(glossary, text, lang)]
    return tuple(Term(term.source, term.target or term.source) for term in found[:MAX_TERMS_PER_SEGMENT])


def check(terms: Sequence[Term], source_text: str, translation: str, lang: str = "") -> tuple[TermResult, ...]:
    """How often each term occurs in `source_text`, of language `lang`, and how many of those were obeyed."""
    said = _fold(translation)
    results = []
    for term, count in _found(index(terms), source_text, lang):
        target = term.target or term.source
        there = len(_occurrences(_fold_term(target), said, MAX_ENDING_LETTERS))
        results.append(TermResult(term.source, target, count, min(count, there)))
    return tuple(results)


def _found(glossary: Index, text: str, lang: str) -> list[tuple[Term, int]]:
    """The terms that occur in `text`, longest first, and how often."""
    folded = _fold(text) if glossary.terms else ""
    by_source = {source: glossary.terms[source] for source in _candidates(glossary, folded)}
    found = []
    taken: set[int] = set()  # by longer terms
    for source in sorted(by_source, key=len, reverse=True):
        max_ending = len(folded) if lang in ADDS_ENDINGS or _HANGUL.match(source[-1]) else 0
        starts = [
            start
            for start in _occurrences(source, folded, max_ending)
            if start not in taken and start + len(source) - 1 not in taken
        ]
        for start in starts:
            taken.update(range(start, start + len(source)))
        if starts:
            found.append((by_source[source], len(starts)))
    return found


def _candidates(glossary: Index, folded: str) -> Iterator[str]:
    """The sources that stand anywhere in `folded`, inside of words too."""
    for at in range(len(folded)):
        for start_size in range(1, START_CHARACTERS + 1):
            for size in glossary.sizes.get(folded[at : at + start_size], ()):
                if (source := folded[at : at + size]) in glossary.terms:
                    yield source


def _fold(text: str) -> str:
    """The form in which two spellings of a term are equal; it may differ in length, so no offset leaves this file."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold().replace("i\u0307", "i"))


@lru_cache(FOLDED_TERMS_KEPT)
def _fold_term(text: str) -> str:
    return _fold(text).strip()


def _occurrences(term: str, text: str, max_ending: int) -> list[int]:
    """Where `term` stands in `text`, both folded, with at most `max_ending` letters grown to its end."""
    starts = []
    start = text.find(term)
    while start >= 0:
        end = start + len(term)
        alone = _begins_word(text, start) and _ending(text, end) <= max_ending
        if alone:
            starts.append(start)
        start = text.find(term, end if alone else start + 1)
    return starts


def _begins_word(text: str, start: int) -> bool:
    return start == 0 or not (_in_word(text[start - 1]) and _in_word(text[start]))


def _ending(text: str, end: int) -> float:
    """How many letters the word goes on for after `end`; infinitely many where a number does."""
    if not _in_word(text[end - 1]):
        return 0
    after = end
    while after < len(text) and _in_word(text[after]):
        if text[after].isnumeric():
            return float("inf")
        after += 1
    return after - end


def _in_word(character: str) -> bool:
    """Whether it is a letter, mark or digit of a script that parts words with spaces."""
    return unicodedata.category(character)[0] in "LMN" and not _UNSPACED.match(character)
