"""Pairs of texts → training examples: a prompt in one of HY-MT's templates, and the answer to learn.

Knows no tokenizer and no model, and of files only which pairs are this process's share. Five kinds of example: plain
(one pair), neighbours joined, terms, context, marks. Terms and marked spans are dictionary pairs (short entries of the
corpus itself, with English) found word for word on both sides, identifiers and numbers found once on both sides, or
clauses of equal count.
"""

import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from engine import prompts
from engine.errors import ConfigError
from engine.languages import LANGUAGES
from engine.tools.pairs import Pair, read
from engine.types import Family, Term

FAMILY: Family = "hy-mt1.5"  # whose templates a model trained from scratch learns
_RST_JOINT = re.compile(r"\\(?=[\u3000-\u9fff\uac00-\ud7af])")  # what parts a role from a particle in Python's docs
BLOCK_PAIRS = 64  # neighbours that always stay with one worker, so that context and joins work
LEAST_BLOCKS = 4  # for each worker; where a corpus is too small for that, its blocks are smaller
DEVELOPMENT_SET = "dev.in-domain"  # of the test files: what training is judged on, and terms and marks are drawn from
MAX_JOINED_CHARACTERS = 1_200

Dictionary = dict[str, dict[str, list[str]]]  # lang → lower-case English → other sides
Kind = Literal["plain", "join", "terms", "context", "marks"]
Span = tuple[int, int]
Link = tuple[Span, Span]  # a span of the first side and its counterpart


@dataclass(frozen=True, slots=True)
class Example:
    kind: Kind
    prompt: str
    answer: str
    terms: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of each kind among all examples; the rest is plain. A kind that finds nothing falls back to plain."""

    marks: float = 0.13
    terms: float = 0.22
    context: float = 0.07
    join: float = 0.10
    langs: Mapping[str, float] = field(default_factory=dict)  # how often each `Pair.lang` is seen; 1 where unnamed
    origins: Mapping[str, float] = field(default_factory=dict)  # times how often each source is


@dataclass(slots=True)
class Corpus:
    """One worker's share of the pairs, and the whole corpus's dictionary of short entries."""

    pairs: list[Pair]
    dictionary: Dictionary
    block: int = BLOCK_PAIRS  # so many pairs in a row were neighbours in the corpus


def load(
    places: Path | Sequence[Path],
    langs: Collection[str] = (),
    held_out: frozenset[str] = frozenset(),
    worker: int = 0,
    workers: int = 1,
) -> Corpus:
    """Every `workers`-th block of the pairs (of English and these languages only, where any are named), without those
    that have a side in `held_out`. Where there are fewer pairs than workers, several get the same. A pair with English
    has it first. Raises `ConfigError`."""
    places = [places] if isinstance(places, Path) else places
    block = BLOCK_PAIRS
    pairs, dictionary, total = _share(places, langs, held_out, block, worker, workers)
    if missing := [lang for lang in langs if lang != "en" and lang not in dictionary]:
        raise ConfigError(f"{_names(places)}: no pairs of {', '.join(missing)}; leave out what the corpus has not.")
    if not total:
        raise ConfigError(f"{_names(places)}: no pairs but of other languages or held out for tests; give other pairs.")
    if total < block * workers * LEAST_BLOCKS and workers > 1:  # small enough to be read again
        block = max(1, total // (workers * LEAST_BLOCKS))
        workers = min(workers, -(-total // block))
        pairs, dictionary, total = _share(places, langs, held_out, block, worker % workers, workers)
    return Corpus(pairs, dictionary, block)


def dictionary_of(
    places: Path | Sequence[Path], langs: Collection[str] = (), held_out: frozenset[str] = frozenset()
) -> Dictionary:
    """The short entries alone, as `load` has them."""
    return _share([places] if isinstance(places, Path) else places, langs, held_out, BLOCK_PAIRS, -1, 1)[1]


def _share(
    places: Sequence[Path], langs: Collection[str], held_out: frozenset[str], block: int, worker: int, workers: int
) -> tuple[list[Pair], Dictionary, int]:
    """The pairs of one worker, the dictionary (with an entry for each language), how many pairs there are in all."""
    pairs: list[Pair] = []
    dictionary: Dictionary = {}
    total = 0
    for place in places:
        for pair in read(place, {"en", *langs} if langs else None):
            if "\\" in pair.second:
                pair = replace(pair, second=_RST_JOINT.sub("", pair.second))
            if pair.lang == "en":
                pair = Pair(pair.origin, pair.second, pair.first, pair.first_lang)
            if pair.first in held_out or pair.second in held_out:
                continue
            entries = dictionary.setdefault(pair.lang, {})
            if pair.first_lang != "en":
                dictionary.setdefault(pair.first_lang, {})
            elif _is_entry(pair):
                others = entries.setdefault(pair.first.casefold(), [])
                if pair.second not in others:
                    others.append(pair.second)
            if total // block % workers == worker:
                pairs.append(pair)
            total += 1
    return pairs, dictionary, total


def _names(places: Sequence[Path]) -> str:
    return ", ".join(str(place) for place in places)


def test_sentences(place: Path) -> frozenset[str]:
    """Both sides of every test pair: what training must never see."""
    return frozenset(side for pair in read(place) for side in (pair.first, pair.second))


def test_file(folder: Path, name: str, lang: str) -> Path:
    return folder / f"{name}.en-{lang.lower()}.tsv"


def test_pairs(folder: Path, name: str, lang: str) -> list[Pair]:
    """A test file's lines, in their order: source, English, other side, under a line of headings."""
    lines = test_file(folder, name, lang).read_text(encoding="utf-8").splitlines()[1:]
    pairs = []
    for line in lines:
        origin, english, other = line.split("\t")
        pairs.append(Pair(origin, english, other, lang))
    return pairs


def _is_entry(pair: Pair) -> bool:
    """A pair short enough to be a term: at most three words, nothing but words."""
    return (
        len(pair.first) <= 40
        and 2 <= len(pair.second) <= 40
        and len(pair.first.split()) <= 3
        and len(pair.second.split()) <= 4
        and re.fullmatch(r"[\w+#'’ -]+", pair.first) is not None
        and re.fullmatch(r"[\w+#'’ ・-]+", pair.second) is not None
    )


# ---------------------------------------------------------------------------------------------------------------------
# links: what stands on both sides

_STOP_WORDS = frozenset(
    "the a an of to in on at for and or is are was were be it its this that these those with by from as not no you "
    "your we our they he she i me my his her do does did if then than so but can will has have had all any more most "
    "other some such only out up what which who how when where why there here also may very just one two new use used "
    "using get set let go yes now see note many much into over about after before first last same".split()
)
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9+#'’-]*")
_IDENTIFIER = re.compile(
    r"`[^`\n]{2,40}`|[A-Za-z_][A-Za-z0-9_.-]*[A-Z0-9_][A-Za-z0-9_.-]*|[A-Z][A-Za-z]{2,}|\d[\d.,]*\d"
)
_CLAUSE = re.compile(r"[^.!?。！？;；:：,，、]+[.!?。！？;；:：,，、]*\s*")
_ANY_MARK = re.compile(r"</?(?:s\d|sn|source|target)>")


def find_dictionary_links(pair: Pair, entries: Mapping[str, Sequence[str]]) -> list[Link]:
    """Dictionary pairs that stand word for word on both sides; longest first, none overlapping another."""
    words = [match.span() for match in _WORD.finditer(pair.first)]
    folded_other = pair.second.casefold()
    if len(folded_other) != len(pair.second):
        return []
    links: list[Link] = []
    for length in (3, 2, 1):
        for first in range(len(words) - length + 1):
            start, end = words[first][0], words[first + length - 1][1]
            entry = pair.first[start:end].casefold()
            others = entries.get(entry)
            if not others or (length == 1 and len(entry) < 4) or end - start >= 0.7 * len(pair.first):
                continue
            if all(word in _STOP_WORDS for word in entry.split()):
                continue
            for other in sorted(others, key=len, reverse=True):
                found = _find_whole(pair.second, folded_other, other.casefold(), pair.lang)
                if found is not None and _is_free(((start, end), found), links):
                    links.append(((start, end), found))
                    break
    return links


def find_identifier_links(pair: Pair) -> list[Link]:
    """Code, names and numbers that occur exactly once on both sides."""
    links: list[Link] = []
    for match in _IDENTIFIER.finditer(pair.first):
        text = match.group()
        if pair.first.count(text) == 1 and pair.second.count(text) == 1:
            start = pair.second.index(text)
            before, after = pair.second[:start][-1:], pair.second[start + len(text) :][:1]
            glued = any(edge.isalnum() and ord(edge) < 0x2E80 for edge in (before, after))
            link = (match.span(), (start, start + len(text)))
            if not glued and _is_free(link, links):
                links.append(link)
    return links


def find_clause_links(pair: Pair) -> list[Link]:
    """Clauses, where both sides have equally many of them."""
    first, second = ([_trimmed(match) for match in _CLAUSE.finditer(side)] for side in (pair.first, pair.second))
    return list(zip(first, second, strict=True)) if len(first) == len(second) and 2 <= len(first) <= 6 else []


def _trimmed(match: re.Match[str]) -> Span:
    return match.start(), match.start() + len(match.group().rstrip())


def _find_whole(text: str, folded: str, term: str, lang: str) -> Span | None:
    """Where `term` stands as a whole word (anywhere in an unspaced script; with endings in Korean)."""
    start = folded.find(term)
    while start >= 0:
        end = start + len(term)
        if not LANGUAGES[lang].spaced:
            return start, end
        opens = start == 0 or not _is_word(text[start - 1])
        closes = lang == "ko" or end == len(text) or not _is_word(text[end])
        if opens and closes:
            return start, end
        start = folded.find(term, start + 1)
    return None


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _is_free(link: Link, taken: Iterable[Link]) -> bool:
    return all(
        (link[side][1] <= other[side][0] or link[side][0] >= other[side][1]) for other in taken for side in (0, 1)
    )


# ---------------------------------------------------------------------------------------------------------------------
# examples


@dataclass(frozen=True, slots=True)
class Position:
    """Of an endless run through the examples."""

    epoch: int = 0
    place: int = 0  # in the epoch's order


@dataclass(slots=True)
class ExampleMaker:
    """Turns pairs into examples, in both directions, in the templates of a family."""

    corpus: Corpus
    mix: Mix
    random: random.Random
    family: Family = FAMILY
    _keys: dict[str, list[str]] = field(default_factory=dict)  # of the dictionary, so that a draw lists nothing

    def examples(self, seed: str, start: Position = Position()) -> Iterator[tuple[Example | None, Position]]:
        """For ever, each with the position after it; None where a pair is unfit, and where an epoch ends. What follows
        a position depends on the seed and that position alone."""
        epoch, place = start.epoch, start.place
        while True:
            self.random.seed(f"{seed} {epoch}")
            order = self._epoch()
            for at in range(place, len(order)):
                self.random.seed(f"{seed} {epoch} {at}")
                yield self.example(order[at] // 2, order[at] % 2 == 0), Position(epoch, at + 1)
            epoch, place = epoch + 1, 0
            yield None, Position(epoch, place)

    def _epoch(self) -> list[int]:
        """The indices of pairs, doubled: even ones are into the first language."""
        order: list[int] = []
        for index, pair in enumerate(self.corpus.pairs):
            weight = self.mix.langs.get(pair.lang, 1.0) * self.mix.origins.get(pair.origin, 1.0)
            times = int(weight) + (self.random.random() < weight % 1)
            order += [2 * index, 2 * index + 1] * times
        self.random.shuffle(order)
        return order

    def example(self, index: int, into_first: bool) -> Example | None:
        """The example of one pair in one direction, of a kind drawn from the mix; None where the pair is unfit."""
        pair = self.corpus.pairs[index]
        if _is_unfit(pair, into_first):
            return None
        mix, draw = self.mix, self.random.random()
        made: Example | None = None
        if draw < mix.marks:
            made = self.with_marks(pair, into_first)
        elif draw < mix.marks + mix.terms:
            made = self.with_terms(pair, into_first)
        elif draw < mix.marks + mix.terms + mix.context:
            made = self._with_context(index, into_first)
        elif draw < mix.marks + mix.terms + mix.context + mix.join:
            made = self._joined(index, into_first)
        return made or plain(pair, into_first, self.family)

    def with_marks(self, pair: Pair, into_first: bool) -> Example | None:
        """One to three spans, or the whole, wrapped in numbered marks on both sides."""
        if self.family not in prompts.MARKS_PUBLISHED:
            return None
        if "<" in pair.first or "<" in pair.second or len(pair.first) <= 12:
            return None
        whole: Link = ((0, len(pair.first)), (0, len(pair.second)))
        draw, links = self.random.random(), list[Link]()
        if draw < 0.10:
            return self._marked(pair, [whole], 1, into_first)
        if draw < 0.35:
            links = find_clause_links(pair)
        if not links:
            links = find_dictionary_links(pair, self._entries(pair))
            links += [link for link in find_identifier_links(pair) if _is_free(link, links)]
        if not links:
            return None
        self.random.shuffle(links)
        links = links[: self.random.choices((1, 2, 3, 4), (0.50, 0.28, 0.15, 0.07))[0]]
        links.sort(key=lambda link: link[1 if into_first else 0])
        if self.random.random() < 0.12 and whole[0] != links[0][0]:
            links.insert(0, whole)
        first = 1 if self.random.random() < 0.8 else self.random.randint(1, 10 - len(links))
        return self._marked(pair, links, first, into_first)

    def with_terms(self, pair: Pair, into_first: bool) -> Example | None:
        """One to three terms of the sentence; in a third of the cases one of them wants a random other word, so that
        obeying the glossary pays more than guessing."""
        if len(pair.first) <= 16:
            return None
        entries = self._entries(pair)
        links = find_dictionary_links(pair, entries)
        if not links or self.random.random() < 0.1:
            links += [link for link in find_identifier_links(pair) if _is_free(link, links)]
        if not links:
            return None
        self.random.shuffle(links)
        links = links[: self.random.choices((1, 2, 3), (0.62, 0.26, 0.12))[0]]
        source, answer = (pair.second, pair.first) if into_first else (pair.first, pair.second)
        terms = []
        for number, (english, other) in enumerate(links):
            from_span, to_span = (other, english) if into_first else (english, other)
            term = Term(source[slice(*from_span)], answer[slice(*to_span)])
            if number == 0 and entries and self.random.random() < 0.35:
                term = Term(term.source, self._random_entry(pair.lang, into_first))
                answer = answer[: to_span[0]] + term.target + answer[to_span[1] :]
                links = links[:1]  # the other spans have moved
                terms = [term]
                break
            if self.random.random() < 0.15:
                term = Term(term.source.lower(), term.target)
            terms.append(term)
        if entries and self.random.random() < 0.15:  # a term that does not occur must change nothing
            stray = self._random_key(pair.lang)
            if stray not in pair.first.casefold():
                other_side = self.random.choice(entries[stray])
                terms.append(Term(other_side, stray) if into_first else Term(stray, other_side))
                self.random.shuffle(terms)
        target = pair.first_lang if into_first else pair.lang
        return Example("terms", prompts.with_terms(self.family, target, terms, source), answer, tuple(terms))

    def _entries(self, pair: Pair) -> Mapping[str, Sequence[str]]:
        return self.corpus.dictionary.get(pair.lang, {}) if pair.first_lang == "en" else {}

    def _random_key(self, lang: str) -> str:
        keys = self._keys.get(lang)
        if keys is None:
            keys = self._keys[lang] = list(self.corpus.dictionary[lang])
        return self.random.choice(keys)

    def _random_entry(self, lang: str, into_first: bool) -> str:
        key = self._random_key(lang)
        return key if into_first else self.random.choice(self.corpus.dictionary[lang][key])

    def _neighbour(self, index: int) -> Pair | None:
        """The pair that follows, if it is of the same source."""
        if index + 1 >= len(self.corpus.pairs) or (index + 1) % self.corpus.block == 0:
            return None
        here, there = self.corpus.pairs[index], self.corpus.pairs[index + 1]
        same = (there.origin, there.lang, there.first_lang) == (here.origin, here.lang, here.first_lang)
        return there if same else None

    def _with_context(self, index: int, into_first: bool) -> Example | None:
        before, pair = self.corpus.pairs[index], self._neighbour(index)
        if pair is None or _is_unfit(pair, into_first):
            return None
        shown, source, answer, target = (
            (before.second, pair.second, pair.first, pair.first_lang)
            if into_first
            else (before.first, pair.first, pair.second, pair.lang)
        )
        return Example("context", prompts.with_context(self.family, target, shown, source), answer)

    def _joined(self, index: int, into_first: bool) -> Example | None:
        """Two to four neighbours as one text: short paragraphs, sometimes with line breaks."""
        pairs = [self.corpus.pairs[index]]
        for step in range(self.random.choice((1, 1, 2, 3))):
            following = self._neighbour(index + step)
            if following is None or _is_unfit(following, into_first):
                break
            pairs.append(following)
        if len(pairs) == 1 or sum(len(pair.first) for pair in pairs) > MAX_JOINED_CHARACTERS:
            return None
        first_gap, second_gap = (" " if LANGUAGES[lang].spaced else "" for lang in (pairs[0].first_lang, pairs[0].lang))
        if self.random.random() < 0.3:
            first_gap = second_gap = "\n"
        joined = replace(
            pairs[0],
            first=first_gap.join(pair.first for pair in pairs),
            second=second_gap.join(pair.second for pair in pairs),
        )
        made = plain(joined, into_first, self.family)
        return Example("join", made.prompt, made.answer)

    def _marked(self, pair: Pair, links: Sequence[Link], number: int, into_first: bool) -> Example:
        """Each link in marks, which are numbered from `number` on."""
        first, second = (
            _wrap(text, [(link[side], number + place) for place, link in enumerate(links)])
            for side, text in enumerate((pair.first, pair.second))
        )
        source, answer, target = (second, first, pair.first_lang) if into_first else (first, second, pair.lang)
        return Example("marks", prompts.with_marks(self.family, target, source), f"<target>{answer}</target>")


def plain(pair: Pair, into_first: bool, family: Family = FAMILY) -> Example:
    if into_first:
        return Example("plain", prompts.plain(family, pair.lang, pair.first_lang, pair.second), pair.first)
    return Example("plain", prompts.plain(family, pair.first_lang, pair.lang, pair.first), pair.second)


def _is_unfit(pair: Pair, into_first: bool) -> bool:
    """With marks of its own, or Traditional Chinese where we promise Simplified: that is read, and never written."""
    if "<" in pair.first + pair.second and _ANY_MARK.search(pair.first + pair.second):
        return True
    lang, answer = (pair.first_lang, pair.first) if into_first else (pair.lang, pair.second)
    return lang == "zh" and is_traditional(answer)


def is_traditional(chinese: str) -> bool:
    """Whether any ideograph lies outside GB 2312, the repertoire of Simplified Chinese."""
    han = re.sub(r"[^\u4e00-\u9fff]", "", chinese)
    return len(han.encode("gb2312", errors="ignore")) != 2 * len(han)


def _wrap(text: str, spans: Iterable[tuple[Span, int]]) -> str:
    """Puts `<sN>…</sN>` around each span; spans are apart or nested, never crossing."""
    edits: list[tuple[int, int, int, str]] = []
    for (start, end), number in spans:
        edits.append((start, 1, start - end, f"<s{number}>"))  # at one place: close before open, the longer opens first
        edits.append((end, 0, end - start, f"</s{number}>"))
    parts, done = [], 0
    for place, _, _, mark in sorted(edits):
        parts += [text[done:place], mark]
        done = place
    return "".join(parts) + text[done:]
