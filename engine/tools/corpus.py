"""The corpus folder → training examples: a prompt in one of HY-MT's templates, and the answer to learn.

Reads `train.en-XX.tsv.zst` (source, English, other side, tab-separated, one pair a line). Knows no tokenizer and no
model. Four kinds of example: plain (one pair, or neighbours joined), terms, context, marks. Terms and marked spans are
dictionary pairs (short entries of the corpus itself) found word for word on both sides, identifiers and numbers found
once on both sides, or clauses of equal count.
"""

import io
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import zstandard

from engine import prompts
from engine.languages import LANGUAGES
from engine.types import Family, Term

FAMILY: Family = "hy-mt1.5"
_RST_JOINT = re.compile(r"\\(?=[\u3000-\u9fff\uac00-\ud7af])")  # what parts a role from a particle in Python's docs
BLOCK_PAIRS = 64  # neighbours that always stay with one worker, so that context and joins work
DEVELOPMENT_SET = "dev.in-domain"  # of the test files: what training is judged on, and terms and marks are drawn from
MAX_JOINED_CHARACTERS = 1_200

Dictionary = dict[str, dict[str, list[str]]]  # lang → lower-case English → other sides
Kind = Literal["plain", "join", "terms", "context", "marks"]
Span = tuple[int, int]
Link = tuple[Span, Span]  # a span of the English side and its counterpart


@dataclass(frozen=True, slots=True)
class Pair:
    origin: str  # which source of the corpus it came from
    first: str  # in `first_lang`
    second: str  # in `lang`
    lang: str
    first_lang: str = "en"


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
    langs: Mapping[str, float] = field(default_factory=dict)  # how often each language is seen; 1 where unnamed
    origins: Mapping[str, float] = field(default_factory=dict)  # times how often each source is


@dataclass(slots=True)
class Corpus:
    """One worker's share of the pairs, and the whole corpus's dictionary of short entries."""

    pairs: list[Pair]
    dictionary: Dictionary


def load(folder: Path, langs: Sequence[str], held_out: frozenset[str], worker: int = 0, workers: int = 1) -> Corpus:
    """Every `workers`-th block of pairs, without those that have a side in `held_out`."""
    pairs: list[Pair] = []
    dictionary: Dictionary = {}
    for lang in langs:
        entries: dict[str, list[str]] = {}
        for number, pair in enumerate(_read(folder / f"train.en-{lang}.tsv.zst", lang)):
            if pair.first in held_out or pair.second in held_out:
                continue
            if _is_entry(pair):
                others = entries.setdefault(pair.first.casefold(), [])
                if pair.second not in others:
                    others.append(pair.second)
            if number // BLOCK_PAIRS % workers == worker:
                pairs.append(pair)
        dictionary[lang] = entries
    return Corpus(pairs, dictionary)


def test_sentences(folder: Path) -> frozenset[str]:
    """Both sides of every test file: what training must never see."""
    sides: set[str] = set()
    for path in sorted(folder.glob("*.tsv")):
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            sides.update(line.split("\t")[1:])
    return frozenset(sides)


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


def _read(path: Path, lang: str) -> Iterator[Pair]:
    with path.open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file)
        for line in io.TextIOWrapper(stream, encoding="utf-8", newline="\n"):
            origin, english, other = _RST_JOINT.sub("", line.rstrip("\n")).split("\t")
            yield Pair(origin, english, other, lang)


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
    english, other = ([_trimmed(match) for match in _CLAUSE.finditer(side)] for side in (pair.first, pair.second))
    return list(zip(english, other, strict=True)) if len(english) == len(other) and 2 <= len(english) <= 6 else []


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


@dataclass(slots=True)
class ExampleMaker:
    """Turns pairs into examples, in both directions, for ever."""

    corpus: Corpus
    mix: Mix
    random: random.Random
    _keys: dict[str, list[str]] = field(default_factory=dict)  # of the dictionary, so that a draw lists nothing

    def examples(self) -> Iterator[Example]:
        while True:
            for index, into_first in self._epoch():
                if (example := self.example(index, into_first)) is not None:
                    yield example

    def _epoch(self) -> list[tuple[int, bool]]:
        order: list[tuple[int, bool]] = []
        for index, pair in enumerate(self.corpus.pairs):
            weight = self.mix.langs.get(pair.lang, 1.0) * self.mix.origins.get(pair.origin, 1.0)
            times = int(weight) + (self.random.random() < weight % 1)
            order += [(index, True), (index, False)] * times
        self.random.shuffle(order)
        return order

    def example(self, index: int, into_first: bool) -> Example | None:
        """The example of one pair in one direction, of a kind drawn from the mix; None where the pair is unfit."""
        pair = self.corpus.pairs[index]
        if _ANY_MARK.search(pair.first + pair.second):
            return None
        if not into_first and pair.lang == "zh" and is_traditional(pair.second):
            return None  # we promise Simplified; Traditional is read, not written
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
        return made or plain(pair, into_first)

    def with_marks(self, pair: Pair, into_first: bool) -> Example | None:
        """One to three spans, or the whole, wrapped in numbered marks on both sides."""
        if "<" in pair.first or "<" in pair.second or len(pair.first) <= 12:
            return None
        whole: Link = ((0, len(pair.first)), (0, len(pair.second)))
        draw, links = self.random.random(), list[Link]()
        if draw < 0.10:
            return _marked(pair, [whole], 1, into_first)
        if draw < 0.35:
            links = find_clause_links(pair)
        if not links:
            links = find_dictionary_links(pair, self.corpus.dictionary[pair.lang])
            links += [link for link in find_identifier_links(pair) if _is_free(link, links)]
        if not links:
            return None
        self.random.shuffle(links)
        links = links[: self.random.choices((1, 2, 3, 4), (0.50, 0.28, 0.15, 0.07))[0]]
        links.sort(key=lambda link: link[1 if into_first else 0])
        if self.random.random() < 0.12 and whole[0] != links[0][0]:
            links.insert(0, whole)
        first = 1 if self.random.random() < 0.8 else self.random.randint(1, 10 - len(links))
        return _marked(pair, links, first, into_first)

    def with_terms(self, pair: Pair, into_first: bool) -> Example | None:
        """One to three terms of the sentence; in a third of the cases one of them wants a random other word, so that
        obeying the glossary pays more than guessing."""
        if len(pair.first) <= 16:
            return None
        entries = self.corpus.dictionary[pair.lang]
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
        target = "en" if into_first else pair.lang
        return Example("terms", prompts.with_terms(FAMILY, target, terms, source), answer, tuple(terms))

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
        if index + 1 >= len(self.corpus.pairs):
            return None
        here, there = self.corpus.pairs[index], self.corpus.pairs[index + 1]
        return there if (there.origin, there.lang) == (here.origin, here.lang) else None

    def _with_context(self, index: int, into_first: bool) -> Example | None:
        before, pair = self.corpus.pairs[index], self._neighbour(index)
        if pair is None or _ANY_MARK.search(pair.first + pair.second):
            return None
        if not into_first and pair.lang == "zh" and is_traditional(pair.second):
            return None
        shown, source, answer, target = (
            (before.second, pair.second, pair.first, "en")
            if into_first
            else (before.first, pair.first, pair.second, pair.lang)
        )
        return Example("context", prompts.with_context(FAMILY, target, shown, source), answer)

    def _joined(self, index: int, into_first: bool) -> Example | None:
        """Two to four neighbours as one text: short paragraphs, sometimes with line breaks."""
        pairs = [self.corpus.pairs[index]]
        for step in range(self.random.choice((1, 1, 2, 3))):
            following = self._neighbour(index + step)
            if following is None or (following.lang == "zh" and is_traditional(following.second)):
                break
            pairs.append(following)
        if len(pairs) == 1 or sum(len(pair.first) for pair in pairs) > MAX_JOINED_CHARACTERS:
            return None
        english_gap, other_gap = " ", " " if LANGUAGES[pairs[0].lang].spaced else ""
        if self.random.random() < 0.3:
            english_gap = other_gap = "\n"
        joined = Pair(
            pairs[0].origin,
            english_gap.join(pair.first for pair in pairs),
            other_gap.join(pair.second for pair in pairs),
            pairs[0].lang,
        )
        made = plain(joined, into_first)
        return Example("join", made.prompt, made.answer)


def plain(pair: Pair, into_first: bool) -> Example:
    if into_first:
        return Example("plain", prompts.plain(FAMILY, pair.lang, "en", pair.second), pair.first)
    return Example("plain", prompts.plain(FAMILY, "en", pair.lang, pair.first), pair.second)


def is_traditional(chinese: str) -> bool:
    """Whether any ideograph lies outside GB 2312, the repertoire of Simplified Chinese."""
    han = re.sub(r"[^\u4e00-\u9fff]", "", chinese)
    return len(han.encode("gb2312", errors="ignore")) != 2 * len(han)


def _marked(pair: Pair, links: Sequence[Link], first: int, into_first: bool) -> Example:
    english, other = (
        _wrap(text, [(link[side], first + number) for number, link in enumerate(links)])
        for side, text in enumerate((pair.first, pair.second))
    )
    source, answer, target = (other, english, "en") if into_first else (english, other, pair.lang)
    return Example("marks", prompts.with_marks(FAMILY, target, source), f"<target>{answer}</target>")


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
