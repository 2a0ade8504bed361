"""Find a glossary's terms in a text, check afterwards that their translations are there. Knows no model, no prompt.

A text is read as tokens: a word of a script with spaces, one letter of Han, kana, Thai and their like, one sign. Terms
are token sequences and are found by an Aho-Corasick automaton whose letters are tokens. So a word stands alone by
construction, white space and hyphens between words make no difference, and a word's other forms are looked up once for
each different word of a text. Letter case, width and composed forms make no difference either.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from itertools import accumulate, chain, islice, repeat
from math import isqrt
from operator import attrgetter
from typing import NamedTuple

import ahocorasick  # type: ignore[import-not-found]  # it has no types

from engine.languages import ADDS_ENDINGS, UNSPACED_LETTERS
from engine.types import Term, TermResult

MIN_TERMS_KEPT = 500  # of a glossary; fewer are made ready within 10 ms
GLOSSARIES_KEPT = 4  # one of 50,000 terms takes some 25 MB and 0.3 s
MAX_READINGS = 3  # glossary words that one word of a text is tried as, each a pass over the text; more are rare
MAX_TERM_TOKENS = 256  # what is longer is no term; the time for a text that repeats itself grows with the longest
MAX_HITS_PER_TOKEN = 6  # beyond, the text repeats itself and the terms nest: only the longest from the left are taken
MIN_HITS_KEPT = 1_000  # in a short text, where an average says little
MIN_STEM_LETTERS = 4  # of a source word whose ending is cut off; with 3, words that are not kin meet
MIN_TARGET_STEM_LETTERS = 3  # of a translated word
MAX_ENDING_LETTERS = 4  # that a translated word may have been inflected with: сервер, серверами
LONGEST_WORD_LETTERS = 64  # longer ones are no words, and have no forms
MARKS_READ = 16  # on one letter; more are no writing, and are read as if on another
CHARACTERS_KEPT = 65_536  # what is known of them; a text has a few thousand different ones at most

# Endings of nouns and adjectives, so that two forms of a word leave one stem: where most words change their ending.
_ENDINGS = {
    lang: frozenset(endings.split())
    for lang, endings in {
        "ru": "а я о е ы и у ю ь й ой ей ом ем ём ам ям ах ях ов ев ами ями ый ий ая яя ое ее ые ие ою ею ью ого его"
        " ому ему ым им ых их ую юю ыми ими ия ию ии ием иям иях иями",
        "uk": "а я о е и і у ю ь й ї ою ею єю ом ем єм ам ям ах ях ів їв ами ями ий ій а я е є і ого його ому йому им"
        " їм их їх у ю ими ові еві ію ії ія ією іям іях іями",
        "pl": "a ą e ę i o u y ów om ami ach em owi ie iem iom iami iach ej ego emu ym im ych ich ymi imi ia ią ię ii",
        "cs": "a á e é ě i í o u ů ou y ý em ům ech ách ích ami emi ovi ého ému ém ým ých ými ím ími ímu ího ie ii ií",
    }.items()
}
# What is added to a noun that stays whole. With endings that change, Messe would be Messer, and puerta would be puerto.
# English has its own rule, and ADDS_ENDINGS need none.
_ADDED = {"de": ("e", "en", "n", "es", "s"), "nl": ("en", "s"), "fr": ("s", "x"), "es": ("s", "es"), "pt": ("s", "es")}
_PLURAL_VOWELS = {"i": "oe", "e": "a"}  # of Italian: libri is libro, chiavi is chiave, case is casa
_UMLAUTS = str.maketrans("äöü", "aou")  # of German plurals: Häuser
LONGEST_ENDING_LETTERS = max(map(len, chain.from_iterable(_ENDINGS.values())))
# How many of its last letters a translated word may change: обучение, обучения. In other languages one.
_CHANGED_LETTERS = dict.fromkeys(("ru", "uk", "pl", "cs", "fr", "es", "pt", "it"), 2)
_CLITICS = {  # written together with the word they stand before: and, in, to, the, …
    "ar": re.compile("[وف]?(?:[بك]?ال|لل|[بلك])|[وف]"),
    "he": re.compile("[וש]?[בלמכ]?ה|[וש]?[בלמכ]|[וש]"),
}
_PARTICLES = frozenset("은 는 이 가 을 를 의 에 로 으로 와 과 도 만 에서 에게 까지 부터 이나 이다 입니다".split())
_NOT_PLURALS = frozenset("as is us its has was his this thus yes gas bus news".split())

_HANGUL = re.compile(r"[\uac00-\ud7a3]")
_UNSPACED = re.compile(f"[{UNSPACED_LETTERS}]")
# u: letter of a script without spaces, w: of one with spaces, m: mark, h: hyphen, s: space, n: line break, p: the rest.
# What is not matched parts tokens and is none: white space within a paragraph, hyphens between words.
_TOKEN = re.compile(r"(um*|[wm]+|pm*|(?<![wm])h|h(?!n?[wm])|ns*n)")
_HYPHENS = "-\u2010\u2011\u200c"  # and what parts the words of a Persian compound
_BETWEEN = "\0\n"  # parts terms: a token, and what a mark that begins the next may sit on
_UNKNOWN = "\0\0"  # stands for a token that no term holds; as long as every symbol
_JOINING = re.compile(r"[\uff9e\uff9f\u1160-\u11ff]")  # half-width sound marks, Hangul vowels and finals
_INVISIBLE = re.compile(r"[\u00ad\u0640\u061c\u200b\u200d-\u200f\u202a-\u202e\u2060\u2066-\u2069\ufe00-\ufe0f\ufeff]")


class Found(NamedTuple):
    """A term where it stands in a text: from `start` to `end`, in characters of the text as given.

    An ending that was added to the term is not part of it; a word that changed its own ending is marked as a whole.
    """

    term: Term
    start: int
    end: int


class Index:
    """A glossary made ready, so that a text costs its own length and not the glossary's.

    Of a term the automaton holds its number alone: what is no object of its own, the garbage collector does not visit.
    """

    def __init__(self, terms: Iterable[Term]) -> None:
        self.terms: list[Term | None] = []  # by number; None where there are but those of `cased`
        self.sizes: list[int] = []  # in tokens
        self.cased: dict[int, dict[str, Term]] = {}  # spelt with the same tokens, by source as `_spelling` gives it
        self.stems: dict[tuple[str, bool], Mapping[str, list[str]]] = {}  # (language, is target) → stem → words
        numbers: dict[tuple[str, ...], int] = {}
        terms = list(terms)
        for term, tokens in zip(terms, _tokens_of_each([term.source for term in terms]), strict=False):
            if len(tokens) <= MAX_TERM_TOKENS and not all(map(str.isspace, tokens)):
                number = numbers.setdefault(tokens, len(numbers))
                if number == len(self.terms):
                    self.terms.append(None)
                    self.sizes.append(len(tokens))
                if term.case:
                    self.cased.setdefault(number, {}).setdefault(_spelling(term.source), term)
                else:
                    self.terms[number] = self.terms[number] or term
        self.longest = max(self.sizes, default=0)
        words = dict.fromkeys(chain.from_iterable(numbers))
        base = isqrt(len(words)) + 1
        self.symbols = {word: chr(1 + n // base) + chr(1 + base + n % base) for n, word in enumerate(words)}
        self.automaton = ahocorasick.Automaton()  # over two letters for each token, so that no node has many children
        for tokens, number in numbers.items():
            self.automaton.add_word("".join([self.symbols[word] for word in tokens]), number)
        self.automaton.make_automaton()

    def term(self, number: int, said: str) -> Term | None:
        """The term that `said` is, which is spelt with the tokens of `number`; None where only its case is another."""
        if number not in self.cased:
            return self.terms[number]
        return self.cased[number].get(_spelling(said), self.terms[number])


class _Tokens(NamedTuple):
    """A folded text cut up: token n is `words[n]`, and its letters begin at `at[n]` of `starts` and `ends`."""

    words: list[str]
    at: Sequence[int]
    starts: Sequence[int]  # folded character → where the original one, with its marks, begins
    ends: Sequence[int]


class _Form(NamedTuple):
    """A word of a text as a form of a word of the glossary: `before` letters of clitics, then `kept` of its own."""

    symbol: str  # the glossary's word's
    before: int
    kept: int


_NO_FORM = _Form(_UNKNOWN, 0, 0)


def index(terms: tuple[Term, ...]) -> Index:
    """Of two terms with one source the first counts; one meant in its letter case only goes before one that is not.

    The last large ones are kept. The few terms of a segment are soon made ready, and would only drive these out.
    """
    if not terms:
        return _without_terms()
    return _kept(terms) if len(terms) >= MIN_TERMS_KEPT else Index(terms)


@cache
def _without_terms() -> Index:
    return Index(())


@lru_cache(GLOSSARIES_KEPT)
def _kept(terms: tuple[Term, ...]) -> Index:
    return Index(terms)


def find(glossary: Index, text: str, lang: str) -> list[Found]:
    """Where terms stand in `text`, of language `lang`, in reading order and without overlaps.

    Of two that overlap the one of more tokens wins, of as many the likelier form, then the first.
    """
    return _find(glossary, text, lang, is_target=False)


def terms_in(glossary: Index, text: str, lang: str) -> tuple[Term, ...]:
    """The terms that occur in `text`, of language `lang`: each once, longest source first, then as they are read.

    A term that occurs only inside a longer one is left out.
    """
    return each_once(find(glossary, text, lang))


def each_once(found: Iterable[Found]) -> tuple[Term, ...]:
    """The terms found, as `terms_in` gives them."""
    return tuple(sorted(dict.fromkeys(each.term for each in found), key=lambda term: -len(term.source)))


def check(
    terms: Sequence[Term], source_text: str, translation: str, source: str = "", target: str = ""
) -> tuple[TermResult, ...]:
    """How often each term occurs in `source_text`, of language `source`, and where it was obeyed in `translation`.

    A word of `translation`, of language `target`, may be inflected. A term without a target must be there as it is
    spelt in the source. Places of a target that two terms share are shared out; there are no more than it should have.
    Source places are in `source_text`.
    """
    wanted: dict[Term, dict[Term, int]] = {}  # term → what shall stand for it → how often
    occurrences: dict[Term, list[tuple[int, int]]] = {}
    for found in find(Index(terms), source_text, source):
        occurrences.setdefault(found.term, []).append((found.start, found.end))
        said = Term(found.term.target, "") if found.term.target else _as_it_stands(source_text, found)
        counts = wanted.setdefault(found.term, {})
        counts[said] = counts.get(said, 0) + 1
    needs = [(term, said, count) for term, counts in wanted.items() for said, count in counts.items()]
    said_index = Index(replace(said, case=False) for _, said, _ in needs)
    places: dict[str, list[tuple[int, int]]] = {}
    for found in _find(said_index, translation, target, is_target=True):
        places.setdefault(_folded(found.term.source), []).append((found.start, found.end))
    shares = _shared_out([(said, count) for _, said, count in needs], places, translation)
    for number, (term, said, count) in enumerate(needs):
        if not term.target and len(shares[number]) < count:  # glued to what is next to it, as in Windows11, it is there
            shares[number] = [found.span() for found in re.finditer(re.escape(said.source), translation)]
        shares[number] = shares[number][:count]
    results: dict[Term, TermResult] = {}
    for (term, _, count), share in zip(needs, shares, strict=True):
        so_far = results.get(term, TermResult(term.source, term.target or term.source, 0, 0))
        results[term] = replace(
            so_far,
            count=so_far.count + count,
            applied=so_far.applied + len(share),
            places=tuple(sorted((*so_far.places, *share))),
            source_places=tuple(occurrences[term]),
        )
    return tuple(sorted(results.values(), key=lambda result: -len(result.source)))


def is_said(said: str, source: str, lang: str) -> bool:
    """Whether `said`, of language `lang`, is the source of a term and nothing else."""
    return [(found.start, found.end) for found in find(Index([Term(source, "")]), said, lang)] == [(0, len(said))]


def _as_it_stands(text: str, found: Found) -> Term:
    return Term(text[found.start : found.end], "", case=True)


def _folded(said: str) -> str:
    """Equal for what is found in the same places of a translation."""
    return " ".join(_tokens(said).words)


def _shared_out(
    needs: Sequence[tuple[Term, int]], places: Mapping[str, Sequence[tuple[int, int]]], translation: str
) -> list[list[tuple[int, int]]]:
    """The places of each need: in turn to those that still lack some, and what is left to the first that takes it."""
    shares: list[list[tuple[int, int]]] = [[] for _ in needs]
    asking: dict[str, list[int]] = {}
    for number, (said, _) in enumerate(needs):
        asking.setdefault(_folded(said.source), []).append(number)
    spellings = [_spelling(said.source) if said.case else None for said, _ in needs]
    for folded, numbers in asking.items():
        for start, end in places.get(folded, ()):
            spelling = _spelling(translation[start:end])
            takers = [n for n in numbers if spellings[n] in (None, spelling)]
            if takers:  # first who lacks some, then who has fewest
                number = min(takers, key=lambda n: (len(shares[n]) >= needs[n][1], len(shares[n])))
                shares[number].append((start, end))
    return shares


def _tokens_of_each(sources: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Of all at once, as one text: a glossary's terms are many and short."""
    words = _tokens(_BETWEEN.join([source.replace("\0", " ").strip() for source in sources])).words
    ends = [number for number, word in enumerate(words) if word == "\0"]
    for start, end in zip([-1, *ends], [*ends, len(words)], strict=True):
        yield tuple(words[start + 1 : end])


def _find(glossary: Index, text: str, lang: str, *, is_target: bool) -> list[Found]:
    if not glossary.terms:
        return []
    words, at, starts, ends = _tokens(text)
    numbers, read = _readings(words, glossary, lang, is_target)
    taken, chosen = bytearray(len(words)), list[Found]()
    for size, hits in _hits(glossary, "".join([form.symbol for form in read])):
        for end_symbol, number in hits:
            place = end_symbol // len(_UNKNOWN)
            last = numbers[place]
            first = last + 1 - size
            if taken[last] or taken[first]:
                continue
            begun, ended = read[place + 1 - size], read[place]
            start, end = starts[at[first] + begun.before], ends[at[last] + ended.before + ended.kept - 1]
            term = glossary.term(number, text[start:end])
            whole = text[start : ends[at[last] + len(words[last]) - 1]]  # with the ending that was added
            if term and (is_target or lang != "de" or _is_noun_as(term.source, whole)):
                taken[first : last + 1] = b"\1" * size
                chosen.append(Found(term, start, end))
    chosen.sort(key=attrgetter("start"))
    return _apart(chosen)


def _is_noun_as(term: str, said: str) -> bool:
    """Whether `said` may be a form of a German term: with another ending it must be a noun too, Waren, not waren."""
    return said[:1].isupper() or not term[:1].isupper() or said.casefold() == term.casefold()


def _readings(
    words: Sequence[str], glossary: Index, lang: str, is_target: bool
) -> tuple[Sequence[int], Sequence[_Form]]:
    """The text as it is read, token after token: the numbers of its `words`, and as which form each is taken.

    First all of it with each word's likeliest form, then again what is around those words that have others.
    """
    forms = {word: forms for word in set(words) if (forms := _forms(word, glossary, lang, is_target))}
    stretches: Iterable[range] = [range(len(words))]
    numbers, read = list[int](), list[_Form]()
    for reading in range(max(map(len, forms.values()), default=0)):
        if reading:
            others = {word for word, of_word in forms.items() if len(of_word) > reading}
            stretches = _around(words, others, glossary.longest)
        taken_as = {word: of_word[min(reading, len(of_word) - 1)] for word, of_word in forms.items()}
        for stretch in stretches:
            numbers += [-1, *stretch]
            read += [_NO_FORM, *[taken_as.get(word, _NO_FORM) for word in words[stretch.start : stretch.stop]]]
    return numbers, read


def _around(words: Sequence[str], others: Container[str], longest: int) -> Iterator[range]:
    """The stretches of words in which a term may stand that has one of `others`."""
    start = end = 0
    for number, word in enumerate(words):
        if word in others:
            if number - longest >= end:
                yield range(start, end)
                start = number + 1 - longest
            end = number + longest
    yield range(start, min(end, len(words)))


def _hits(glossary: Index, encoded: str) -> list[tuple[int, list[tuple[int, int]]]]:
    """By tokens, the most first, all hits that have so many: where each ends in `encoded`, and its term's number."""
    most = MAX_HITS_PER_TOKEN * len(encoded) // len(_UNKNOWN) + MIN_HITS_KEPT
    hits = list(islice(glossary.automaton.iter(encoded), most + 1))
    if len(hits) > most:
        hits = list(glossary.automaton.iter_long(encoded + _UNKNOWN))  # without, it would lose a hit at the very end
    sizes, by_size = glossary.sizes, defaultdict[int, list[tuple[int, int]]](list)
    for hit in hits:
        by_size[sizes[hit[1]]].append(hit)
    return sorted(by_size.items(), reverse=True)


def _apart(found: Iterable[Found]) -> list[Found]:
    """Without those that begin before the end of another: one character may be several tokens, as ½ is."""
    kept, end = list[Found](), 0
    for each in found:
        if each.start >= end:
            kept.append(each)
            end = each.end
    return kept


def _forms(word: str, glossary: Index, lang: str, is_target: bool) -> list[_Form]:
    """The words of the glossary that `word` is or may be a form of, likeliest first."""
    symbols = glossary.symbols
    forms = [_Form(symbols[word], 0, len(word))] if word in symbols else []
    if len(word) > LONGEST_WORD_LETTERS or _kind(word[0]) != "w":
        return forms
    clitics = _CLITICS[lang].match(word) if lang in _CLITICS else None
    for before in (0, clitics.end()) if clitics else (0,):
        rest = word[before:]
        if before and rest in symbols:
            forms.append(_Form(symbols[rest], before, len(rest)))
        for other in _kin(rest, glossary, lang, is_target):
            kept = len(other) if rest.startswith(other) else len(rest)
            forms.append(_Form(symbols[other], before, kept))
    return forms[:MAX_READINGS]


def _kin(word: str, glossary: Index, lang: str, is_target: bool) -> Iterator[str]:
    """Words of the glossary that `word` may be an inflected form of, those that share more letters first."""
    if lang in ADDS_ENDINGS or _HANGUL.search(word):
        for size in range(len(word) - 1, 0, -1):
            if word[:size] in glossary.symbols and _may_end(word[:size], word[size:], lang):
                yield word[:size]
    if is_target:
        stems = _stems(glossary, lang, is_target)
        for form in dict.fromkeys((word, word.translate(_UMLAUTS) if lang == "de" else word)):
            for size in range(len(form), 0, -1):
                for other in stems.get(form[:size], ()):
                    if other != word and _may_be_inflected(other, form, lang):
                        yield other
    elif lang == "en":
        yield from filter(glossary.symbols.__contains__, _singulars(word))
    elif lang in _ADDED:
        singulars = (word.removesuffix(ending) for ending in _ADDED[lang] if word.endswith(ending))
        yield from (each for each in singulars if len(each) >= MIN_STEM_LETTERS - 1 and each in glossary.symbols)
    elif lang == "it" and len(word) >= MIN_STEM_LETTERS:
        singulars = (word[:-1] + vowel for vowel in _PLURAL_VOWELS.get(word[-1], ""))
        yield from filter(glossary.symbols.__contains__, singulars)
    elif lang in _ENDINGS:
        yield from (other for other in _stems(glossary, lang, is_target).get(_stem(word, lang), ()) if other != word)


def _may_end(word: str, ending: str, lang: str) -> bool:
    """Whether `ending` may be added to `word` in a language that adds endings to words that stay whole."""
    if any(map(str.isnumeric, ending)):
        return False
    if _HANGUL.match(ending):
        return len(word) > 1 or ending in _PARTICLES
    return len(word) > 1 and lang != "ko" and not _HANGUL.search(word)


def _singulars(word: str) -> Iterator[str]:
    """What an English word may be the plural of."""
    if not word.endswith("s") or len(word) < 3 or word in _NOT_PLURALS or word.endswith(("ss", "us", "is")):
        return
    yield word[:-1]
    if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        yield word[:-2]
    if word.endswith("ies") and len(word) > 4:
        yield word[:-3] + "y"
    if word.endswith("ves"):
        yield word[:-3] + "f"
        yield word[:-3] + "fe"


def _stems(glossary: Index, lang: str, is_target: bool) -> Mapping[str, list[str]]:
    """The glossary's words by their stem."""
    if (stems := glossary.stems.get((lang, is_target))) is None:
        stems = dict[str, list[str]]()
        for word in glossary.symbols:
            if _kind(word[0]) == "w" and not any(map(str.isnumeric, word)):
                stems.setdefault(_target_stem(word, lang) if is_target else _stem(word, lang), []).append(word)
        glossary.stems.clear()  # a glossary is of one language, and they take as much as it
        glossary.stems[lang, is_target] = stems
    return stems


def _stem(word: str, lang: str) -> str:
    """A word of a text to translate without its ending; two words that are no kin seldom share one."""
    for size in range(max(MIN_STEM_LETTERS, len(word) - LONGEST_ENDING_LETTERS), len(word)):
        if word[size:] in _ENDINGS[lang]:
            return word[:size]
    return word


def _target_stem(word: str, lang: str) -> str:
    """What each form of a translated word begins with, as good as always; other words may begin so too."""
    return word[: max(min(len(word), MIN_TARGET_STEM_LETTERS), len(word) - _CHANGED_LETTERS.get(lang, 1))]


def _may_be_inflected(word: str, form: str, lang: str) -> bool:
    shared = next((n for n, (ours, theirs) in enumerate(zip(word, form, strict=False)) if ours != theirs), len(word))
    most = MAX_ENDING_LETTERS if len(word) >= MIN_TARGET_STEM_LETTERS else 1  # KIs, but AI is not in Aida
    if lang in ADDS_ENDINGS:
        most = LONGEST_WORD_LETTERS
    return len(form) - shared <= most and not any(map(str.isnumeric, form[shared:]))


def _spelling(text: str) -> str:
    """Its tokens in their letter case: equal where nothing differs but white space, hyphens and width."""
    return " ".join(_tokens(text, caseless=False).words)


def _tokens(text: str, caseless: bool = True) -> _Tokens:
    folded, starts, ends = _fold(text, caseless)
    kinds = folded.translate({ord(character): _kind(character) for character in set(folded)})
    edges = list(accumulate(map(len, _TOKEN.split(kinds))))  # where tokens start and end in turn
    at = edges[:-1:2]
    return _Tokens([folded[start:end] for start, end in zip(at, edges[1::2], strict=True)], at, starts, ends)


def _fold(text: str, caseless: bool) -> tuple[str, Sequence[int], Sequence[int]]:
    """The form in which two spellings are equal, and where each of its characters starts and ends in `text`.

    A mark belongs to its letter; all characters that one became lie where that one is.
    """
    if text.isascii():
        return text.lower() if caseless else text, range(len(text)), range(1, len(text) + 1)
    single, special, marks = {}, [], set[str]()
    composed = unicodedata.is_normalized("NFC", text)
    for character in set(text):
        folded = _fold_character(character, caseless)
        if len(folded) == 1:
            single[ord(character)] = folded
        elif folded:
            special.append(character)
        if not folded or _JOINING.match(character) or (not composed and unicodedata.category(character)[0] == "M"):
            marks.add(character)
    if not special and not marks:
        return text.translate(single), range(len(text)), range(1, len(text) + 1)
    clusters = f"[{re.escape(''.join([*special, *marks]))}]"
    if marks:
        clusters += f"[{re.escape(''.join(marks))}]{{0,{MARKS_READ - 1}}}"
    parts, starts, ends, done = list[str](), list[int](), list[int](), 0
    for match in re.finditer(clusters, text):
        start, end = match.span()
        if match[0][0] in marks and start > done:
            start -= 1
        folded = _fold_character(text[start:end], caseless)
        parts += text[done:start].translate(single), folded
        starts.extend(chain(range(done, start), repeat(start, len(folded))))
        ends.extend(chain(range(done + 1, start + 1), repeat(end, len(folded))))
        done = end
    parts.append(text[done:].translate(single))
    starts.extend(range(done, len(text)))
    ends.extend(range(done + 1, len(text) + 1))
    return "".join(parts), starts, ends


@lru_cache(CHARACTERS_KEPT)
def _fold_character(text: str, caseless: bool) -> str:
    """For a character, or one with its marks."""
    text = _INVISIBLE.sub("", text)
    if text and unicodedata.decomposition(text[0]).startswith(("<super>", "<circle>")):
        return text  # a footnote's number, a trade mark: not part of the word before
    text = unicodedata.normalize("NFKC", text)
    return unicodedata.normalize("NFKC", text.casefold().replace("i\u0307", "i")) if caseless else text


@lru_cache(CHARACTERS_KEPT)
def _kind(character: str) -> str:
    """What it is in `_TOKEN`."""
    category = unicodedata.category(character)
    if character.isspace():
        return "n" if character in "\n\u2029" else "s"
    if character in _HYPHENS:
        return "h"
    if category[0] == "M":
        return "m"
    if category[0] == "L" or category in ("Nd", "Nl"):
        return "u" if _UNSPACED.match(character) else "w"
    return "p"
