"""What every face of glossaries shares: terms made sound, problems by row, the errors. Knows no file format."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from engine.errors import GlossaryError, GlossaryTooLarge
from engine.languages import LANGUAGES, resolve_any
from engine.types import Term

MAX_FILE_BYTES = 50 * 1_000_000  # 50,000 terms with notes are some 30 MB of TBX
MAX_TERMS = 50_000
MAX_TERM_CHARACTERS = 256  # of a source or a target: longer is a sentence, and one alone would fill a prompt
MAX_NOTE_CHARACTERS = 2_000
MOST_PROBLEMS = 1_000  # told of a file; a person mends the first few and sends it again
MOST_LABEL_CHARACTERS = 100  # of what a file calls a language
SHOWN_CHARACTERS = 40  # of a term in a message

_MB = 1_000_000
_BREAK = re.compile("[\t\n\v\f\r\x85\u2028\u2029]")
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")  # controls, half surrogates, no characters
_EDGES = "".join(character for character in map(chr, range(0x3001)) if character.isspace()) + "\u200b\ufeff"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one row; 1 is the first of the file as a person counts, header and empty rows included. 0 is
    for the whole."""

    row: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Imported:
    """A file's terms in its order, and what had to be left out of it, by row.

    The languages are what the file says of itself, where it says one pair: our codes, else empty.
    """

    terms: tuple[Term, ...]
    problems: tuple[Problem, ...]
    source_lang: str = ""
    target_lang: str = ""


Row = tuple[int, Term] | Problem  # what a reader makes of a row


def sound(rows: Iterable[Row]) -> tuple[tuple[Term, ...], tuple[Problem, ...]]:
    """The terms that can be used, trimmed and in order, and what is wrong with the others.

    Of two with one source, in any letter case unless both ask for theirs, the first counts. Problems that a reader
    has found pass through; of more than 1,000 the rest is counted in one more. Raises `GlossaryTooLarge`.
    """
    terms: list[Term] = []
    problems: list[Problem] = []
    dropped = last_row = 0
    first_rows: dict[tuple[str, bool], tuple[int, str]] = {}  # folded source, case → row, target
    following = iter(rows)
    for row in following:
        found = row if isinstance(row, Problem) else _judged(*row, first_rows)
        if isinstance(found, Term):
            if len(terms) == MAX_TERMS:
                raise _too_many(len(terms) + 1, following)
            terms.append(found)
        elif len(problems) < MOST_PROBLEMS:
            problems.append(found)
        else:
            dropped, last_row = dropped + 1, found.row
    if dropped:
        problems.append(Problem(last_row, "more", f"{dropped:,} more rows have problems; mend these first."))
    return tuple(terms), tuple(problems)


def shown(text: str) -> str:
    """A term as a message quotes it: its beginning, on one line, without what a terminal would obey."""
    text = _UNFIT.sub("\ufffd", text[: SHOWN_CHARACTERS + 1])
    return f"“{text}”" if len(text) <= SHOWN_CHARACTERS else f"“{text[:SHOWN_CHARACTERS]}…”"


def language_of(label: str) -> str:
    """Our code for what a file calls a language: "zh_CN", "EN-US", "Deutsch"; empty where it is none of ours."""
    return _resolved(label) if len(label) <= MOST_LABEL_CHARACTERS else ""


@lru_cache(1_024)  # a column of languages says the same in every row
def _resolved(label: str) -> str:
    return resolve_any(label) or ""


def pair_of(languages: Iterable[str], source_lang: str, target_lang: str, first: str = "") -> tuple[str, str]:
    """The two of a file's languages that are meant. Our codes; `first` is its main one, if it names such.

    Raises `GlossaryError`, which lists what the file has, where that leaves a choice or lacks what is wanted.
    """
    there = [code for code in dict.fromkeys(languages) if code]
    missing = [code for code in (source_lang, target_lang) if code and code not in there]
    if missing:
        raise GlossaryError(
            f"The file has no terms in {_and(missing)}; it has {_and(there) or 'no language that is spoken here'}."
        )
    if not (source_lang and target_lang):
        if len(there) < 2:
            raise GlossaryError(
                f"A glossary needs two languages, and the file has {_and(there) or 'none that is spoken here'}."
            )
        if len(there) > 2:
            raise GlossaryError(f"The file has {len(there)} languages, {_and(there)}; say which two are meant.")
        source = source_lang or (first if first in there else there[0])
        if target_lang:
            source = next(code for code in there if code != target_lang)
        source_lang, target_lang = source, next(code for code in there if code != source)
    return source_lang, target_lang


def too_large(size_bytes: int) -> GlossaryTooLarge:
    return GlossaryTooLarge(
        f"The file has {size_bytes / _MB:,.0f} MB; {MAX_FILE_BYTES / _MB:,.0f} MB is the most for a glossary. Send it "
        "in parts."
    )


def _judged(row: int, term: Term, first_rows: dict[tuple[str, bool], tuple[int, str]]) -> Term | Problem:
    source, target = _trimmed(term.source), _trimmed(term.target)
    if not source:
        return Problem(row, "empty_source", "The source term is empty; give one, or remove the row.")
    for name, text in (("source", source), ("target", target)):
        if len(text) > MAX_TERM_CHARACTERS:
            return Problem(
                row,
                "too_long",
                f"The {name} {shown(text)} has {len(text):,} characters; {MAX_TERM_CHARACTERS} is the most for a term.",
            )
    note = _trimmed(term.note)[:MAX_NOTE_CHARACTERS].rstrip(_EDGES)
    if not (source + target + note).isprintable() and (unfit := _UNFIT.search(source + target + note)):
        return Problem(
            row,
            "characters",
            f"The row of {shown(source)} holds U+{ord(unfit.group()):04X}, which is no character of text; remove it.",
        )
    key = _folded(source, term.case), term.case
    if key not in first_rows:
        first_rows[key] = row, target or source
        return Term(source, target, term.case, note)
    first_row, first_target = first_rows[key]
    if first_target == (target or source):
        return Problem(row, "duplicate", f"{shown(source)} stands in row {first_row:,} already; it counts once.")
    return Problem(
        row,
        "conflict",
        f"{shown(source)} is {shown(target or source)} here and {shown(first_target)} in row {first_row:,}; "
        "the first counts.",
    )


def _trimmed(text: str) -> str:
    """Without white space around it; a break inside, which no prompt and no line of TSV can hold, is a space."""
    if _BREAK.search(text):
        text = " ".join(part for piece in _BREAK.split(text) if (part := piece.strip(" ")))
    return text.strip(_EDGES)


def _folded(source: str, case: bool) -> str:
    """The form in which two spellings of a source are one."""
    text = source if source.isascii() else unicodedata.normalize("NFKC", source)
    return text if case else text.casefold()


def _too_many(taken: int, rest: Iterator[Row]) -> GlossaryTooLarge:
    number = taken + sum(not isinstance(row, Problem) for row in rest)
    return GlossaryTooLarge(
        f"There are {number:,} terms; {MAX_TERMS:,} is the most for one glossary. Send it in parts."
    )


def _and(codes: Iterable[str]) -> str:
    *most, last = [f"{LANGUAGES[code].english} ({code})" for code in codes] or [""]
    return f"{', '.join(most)} and {last}" if most else last
