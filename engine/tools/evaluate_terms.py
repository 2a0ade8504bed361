"""Scores what a glossary is worth through the whole door: are its terms used, and does the text suffer from them?

    python -m engine.tools.evaluate terms --tico FOLDER [--test TEST --corpus CORPUS] [--words 20000] --json

Three kinds of text, all greedy. TICO-19, English medical text with its two word lists: a term counts where it stands
in the source and, where there is a reference (Chinese), as often as that has the target word for word. In-domain
lines with terms of the training corpus, as they are and swapped for a word that nobody would guess. And one long text
without a glossary, to see that all of it comes back.

Random terms: each term of a sentence is to become the target of another of the list, drawn once for good. The WMT
terminology task draws random words and takes what the reference has for them; that needs a word alignment, and the
model may know those words. Nobody guesses ours, so all that is obeyed is obedience.
"""

import argparse
import asyncio
import csv
import json
import random
import re
import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from sacrebleu.metrics.chrf import CHRF
from tqdm import tqdm  # type: ignore[import-untyped]

from engine import glossary
from engine.backends.base import Backend
from engine.markup import marks, plain
from engine.scheduler import Scheduler
from engine.tools import asking, corpus
from engine.tools.asking import GREEDY, share
from engine.translator import Translator
from engine.types import Finished, SegmentDone, Started, Term, TranslationRequest

ABOUT = "share of glossary terms used, and of a long text that comes back; through the translator"
SENTENCES = 500  # of each language
SEED = 7  # not one that training uses
SHORTEST_TERM = 3  # letters; a shorter one is an abbreviation that also stands for other things
LONG_TEXT_WORDS = 20_000  # of its English side
LONG_TEXT_SETS = ("flores200.devtest", corpus.DEVELOPMENT_SET)
PARAGRAPH_SENTENCES = 5
WITHOUT, WITH, ITS_OWN, RANDOM = "without glossary", "with glossary", "with its own terms", "with random terms"

_LIST = re.compile(r"[fg]_en[-_](?P<lang>[a-z]+)[-_]?(?P<region>\w*)")
_SIDE_NOTE = re.compile(r"\s*(?:\[[^\]]*\]|（#[^）]*）)")  # 冠状病毒 [when referring the generic virus group]
_ALTERNATIVE = re.compile(r"\s+[:;]\s+")  # 可传染 : 有传染性
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’»)]*(?=\s|$)|[。！？]+[”’」』）]*")

Targets = Mapping[str, Sequence[str]]  # a term → what it may become; the first is what it becomes


@dataclass(frozen=True, slots=True)
class Question:
    """A text to translate. `sent` is its glossary; `counted` are the terms that are looked for in the answer, each as
    often as `most` says, or else as it stands in the text."""

    set: str
    mode: str
    source: str
    target: str
    text: str
    sent: tuple[Term, ...]
    counted: tuple[Term, ...]
    most: Mapping[str, int] = field(default_factory=dict)
    reference: str = ""

    @property
    def direction(self) -> str:
        return f"{self.source}-{self.target}"


# ---------------------------------------------------------------------------------------------------------------------
# TICO-19


def tico_questions(folder: Path, langs: Iterable[str], limit: int) -> Iterator[Question]:
    """Of each language the same number of sentences that have a term, each without the list, with it, with random
    terms; and, where there is a reference, with just the terms that it has."""
    lists = tico_lists(folder / "terminologies")
    chinese = tico_pairs(folder / "all.en-zh.tmx.zip")
    for lang in langs:
        if lang not in lists:
            continue
        dice = random.Random(SEED)
        pairs = dice.sample(chinese, len(chinese))
        known = glossary.index(tuple(_term(source, targets[0]) for source, targets in lists[lang].items()))
        asked = (
            _asked(lists[lang], known, lang, english, other if lang == "zh" else "", dice) for english, other in pairs
        )
        for questions in islice(filter(None, asked), limit):
            yield from questions


def tico_pairs(path: Path) -> list[tuple[str, str]]:
    """English and the other side of each unit of a zipped TMX."""
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
        units = ElementTree.parse(file).iter("tu")
        return [(english, other) for english, other in map(_sides, units) if english and other]


def _sides(unit: ElementTree.Element) -> tuple[str, str]:
    sides = {side.get(_LANG) == "en": " ".join("".join(side.itertext()).split()) for side in unit.iter("tuv")}
    return sides.get(True, ""), sides.get(False, "")


def tico_lists(folder: Path) -> dict[str, dict[str, list[str]]]:
    """By language the terms of both word lists (`f_…`, `g_…`), and all that they give for each, the first first."""
    lists: dict[str, dict[str, list[str]]] = {}
    for path in sorted(folder.glob("*.csv")):
        if not (named := _LIST.fullmatch(path.stem)):
            continue
        lang = "zh-Hant" if named["region"] == "TW" else named["lang"]
        terms = lists.setdefault(lang, {})
        spelt = {source.casefold(): source for source in terms}
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                source = row["sourceString"].strip()
                if len(source) >= SHORTEST_TERM and row["targetString"].strip():
                    targets = terms.setdefault(spelt.setdefault(source.casefold(), source), [])
                    targets += [target for target in alternatives(row["targetString"]) if target not in targets]
    return lists


def alternatives(targets: str) -> list[str]:
    """What a cell of the lists gives: words parted by " : " or " ; ", some with a note in brackets."""
    return list(filter(None, map(str.strip, _ALTERNATIVE.split(_SIDE_NOTE.sub("", targets)))))


def _asked(
    terms: Targets, known: glossary.Index, lang: str, english: str, reference: str, dice: random.Random
) -> list[Question]:
    """The questions of a sentence; none where no term of it can be counted.

    With a reference a term is to become that of its targets which the reference has. Without, a term that has several
    is not counted, since nobody says which is right here.
    """
    found = [term.source for term in glossary.terms_in(known, english, "en")]
    right = {source: next((each for each in terms[source] if each in reference), "") for source in found}
    own = tuple(
        _term(source, right[source] or terms[source][0])
        for source in found
        if (right[source] if reference else len(terms[source]) == 1)
    )
    if not own:
        return []
    results = glossary.check([_term(source, right[source]) for source in found], english, reference, "en", lang)
    most = {result.source: result.applied if reference else result.count for result in results}
    whole = tuple(_term(source, right.get(source) or targets[0]) for source, targets in terms.items())
    others = [term.target for term in whole if term.source not in right and term.target not in reference]
    swapped = tuple(_term(term.source, other) for term, other in zip(own, dice.sample(others, len(own)), strict=True))
    modes = {WITHOUT: ((), own), WITH: (whole, own), RANDOM: (swapped, swapped)}
    if reference:
        modes[ITS_OWN] = (own, own)
    return [
        Question("TICO-19", mode, "en", lang, english, sent, counted, most, reference)
        for mode, (sent, counted) in modes.items()
    ]


def _term(source: str, target: str) -> Term:
    """A term in capitals is an abbreviation: AIDS and WHO are not what aids those who are ill."""
    return Term(source, target, case=source.isupper())


# ---------------------------------------------------------------------------------------------------------------------
# in-domain


def in_domain_questions(
    folder: Path, dictionary: corpus.Dictionary, langs: Sequence[str], limit: int
) -> list[Question]:
    """Held-out sentences with terms of the training corpus, each without them and with them, languages mixed and
    directions in turn. Those with a term swapped for a word that nobody would guess are a set of their own."""
    pairs = [pair for lang in langs for pair in corpus.test_pairs(folder, corpus.DEVELOPMENT_SET, lang)]
    dice = random.Random(SEED)
    dice.shuffle(pairs)
    maker = corpus.ExampleMaker(corpus.Corpus(pairs, dictionary), corpus.Mix(), dice)
    questions: list[Question] = []
    for number, pair in enumerate(pairs):
        into_first = number % 2 == 0
        example = maker.with_terms(pair, into_first)
        if example is None:
            continue
        source, target, text, reference = (
            (pair.lang, "en", pair.second, pair.first) if into_first else ("en", pair.lang, pair.first, pair.second)
        )
        known = glossary.check(example.terms, _translated(text), reference, source, target)
        if not known:
            continue
        kind = "natural" if all(term.applied for term in known) else "swapped"
        questions += [
            Question(f"in-domain, {kind}", mode, source, target, text, sent, example.terms, reference=example.answer)
            for mode, sent in ((WITHOUT, ()), (WITH, example.terms))
        ]
        if len(questions) == 2 * limit:
            break
    return questions


def _translated(text: str) -> str:
    """What of it is translated: a term in code stays, and so it should."""
    return "\n".join(marks.bare(block.text, block.tags) for block in plain.parse(text).blocks)


# ---------------------------------------------------------------------------------------------------------------------
# a long text


def long_text(folder: Path, source: str, target: str, words: int) -> str:
    """Paragraphs of single sentences, until their English side has so many words; one side must be English.

    A sentence is a line of a test with one end on both its sides, and that at the end, so that sentences can be
    counted in a translation too.
    """
    lang = source if target == "en" else target
    pairs = [pair for name in LONG_TEXT_SETS for pair in corpus.test_pairs(folder, name, lang)]
    pairs = [pair for pair in pairs if _is_sentence(pair.first) and _is_sentence(pair.second)]
    random.Random(SEED).shuffle(pairs)
    sentences, size = list[str](), 0
    for pair in pairs:
        if size >= words:
            break
        sentences.append(pair.first if source == "en" else pair.second)
        size += len(pair.first.split())
    gap = "" if source in ("zh", "zh-Hant", "ja") else " "
    starts = range(0, len(sentences), PARAGRAPH_SENTENCES)
    return "\n\n".join(gap.join(sentences[start : start + PARAGRAPH_SENTENCES]) for start in starts)


def _is_sentence(line: str) -> bool:
    ends = [match.end() for match in _SENTENCE_END.finditer(line)]
    return ends == [len(line)] and len(line) > 2 * SHORTEST_TERM


async def long_scores(translator: Translator, text: str, source: str, target: str) -> dict[str, Any]:
    """Shares of the segments that came back, of the sentences that did, and how many segments were warned of."""
    request = TranslationRequest(text, target, source, format="text", sampling=GREEDY)
    segments, done, finished = 0, list[SegmentDone](), None
    with tqdm(unit="segment", mininterval=1) as bar:
        async with aclosing(translator.stream(request)) as events:
            async for event in events:
                match event:
                    case Started():
                        bar.reset(segments := event.segments)
                    case SegmentDone():
                        done.append(event)
                        bar.update()
                    case Finished():
                        finished = event
    assert finished is not None
    return long_score(text, segments, done, finished)


def long_score(text: str, segments: int, done: Sequence[SegmentDone], finished: Finished) -> dict[str, Any]:
    """A segment came back where its answer has a word and does not stand in the source. A sentence did where its
    paragraph has as many ends of sentences as before; a paragraph that merges two counts as one lost."""
    came_back = sum(bool(re.search(r"\w", each.text)) and each.text.strip() not in text for each in done)
    paragraphs = [[len(_SENTENCE_END.findall(each)) for each in side.split("\n\n")] for side in (text, finished.text)]
    same_shape = len(paragraphs[0]) == len(paragraphs[1])
    kept = sum(min(before, after) for before, after in zip(*paragraphs, strict=True)) if same_shape else 0
    sentences = sum(paragraphs[0])
    warned = Counter(code for each in done for code in {warning.code for warning in each.warnings})
    return {
        "segments came back": share(came_back, segments),
        "sentences came back": share(kept, sentences),
        "segments warned": share(sum(bool(each.warnings) for each in done), segments),
        "warned by code": dict(warned.most_common()),
        "segments": segments,
        "sentences": sentences,
        "words": len(text.split()),
        "seconds": round(finished.seconds, 1),
    }


# ---------------------------------------------------------------------------------------------------------------------
# answers and scores


async def answers(translator: Translator, questions: Sequence[Question], concurrent: int) -> list[Finished]:
    """In the order of the questions."""

    async def ask(question: Question) -> Finished:
        request = TranslationRequest(
            question.text, question.target, question.source, format="text", glossary=question.sent, sampling=GREEDY
        )
        return await translator.translate(request)

    return await asking.answers_to(ask, questions, concurrent, size=lambda question: len(question.text))


def terms_scores(questions: Sequence[Question], said: Sequence[Finished]) -> dict[str, dict[str, dict[str, Any]]]:
    """By set, direction (in-domain: all together) and mode.

    `success` is the share of occurrences that became the target, `used` that of terms found at least once in their
    text; `warned` is the share of texts with a warning of a missed term.
    """
    groups: dict[tuple[str, str, str], list[tuple[Question, Finished]]] = {}
    for question, answer in zip(questions, said, strict=True):
        direction = question.direction if question.set == "TICO-19" else "all"
        groups.setdefault((question.set, direction, question.mode), []).append((question, answer))
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for (name, direction, mode), group in groups.items():
        table.setdefault(name, {}).setdefault(direction, {})[mode] = _score(group)
    return table


def _score(group: Sequence[tuple[Question, Finished]]) -> dict[str, Any]:
    counts = Counter[str]()
    for question, answer in group:
        langs = question.source, question.target
        counts.update(counted(question.counted, _translated(question.text), answer.text, *langs, question.most))
        counts["warned"] += any(warning.code == "term_missed" for warning in answer.warnings)
    row: dict[str, Any] = {
        "success": share(counts["applied"], counts["occurrences"]),
        "used": share(counts["used"], counts["terms"]),
        "warned": share(counts["warned"], len(group)),
    }
    references = [question.reference for question, _ in group]
    if all(references):
        row["chrf2"] = round(CHRF().corpus_score([answer.text for _, answer in group], [references]).score, 2)
    return row | {"terms": counts["terms"], "occurrences": counts["occurrences"], "texts": len(group)}


def counted(
    terms: Sequence[Term], text: str, translation: str, source: str, target: str, most: Mapping[str, int] | None = None
) -> Counter[str]:
    """Of one text: `terms` and those `used` at least once, `occurrences` and those `applied`. Of a term in `most` no
    more occurrences count than it says."""
    counts = Counter[str]()
    for result in glossary.check(terms, text, translation, source, target):
        wanted = (most or {}).get(result.source, result.count)
        counts["terms"] += wanted > 0
        counts["used"] += min(result.applied, wanted) > 0
        counts["occurrences"] += wanted
        counts["applied"] += min(result.applied, wanted)
    return counts


# ---------------------------------------------------------------------------------------------------------------------
# the run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    asking.add_arguments(parser)
    parser.add_argument("--limit", type=int, default=SENTENCES, help=f"sentences of a language (default {SENTENCES})")
    parser.add_argument("--tico", type=Path, help="folder of TICO-19: terminologies/*.csv and all.en-zh.tmx.zip")
    parser.add_argument("--test", type=Path, help="folder of SET.en-XX.tsv, for in-domain lines and the long text")
    parser.add_argument("--corpus", type=Path, help="folder of train.en-XX.tsv.zst, for in-domain terms")
    parser.add_argument("--words", type=int, default=LONG_TEXT_WORDS, help="of the long text; 0 for none")
    parser.add_argument("--long", default="en-de", help="its directions, such as en-de,zh-en")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Asks all that the folders named allow. Raises `YiwenError` of the model, FileNotFoundError of a folder."""
    return asyncio.run(_run(asking.backend_of(arguments), arguments))


async def _run(backend: Backend, arguments: argparse.Namespace) -> dict[str, Any]:
    questions = list(_questions(backend, arguments))
    if not questions and not (arguments.test and arguments.words):
        raise SystemExit("There is nothing to ask: name --tico, or --test with --corpus or --words, and see --langs.")
    began = time.perf_counter()
    translator = Translator(backend, Scheduler(backend.slots, backend.slots))
    said = await answers(translator, questions, backend.slots)
    asking.write_lines(arguments.out, map(_record, questions, said))
    table: dict[str, Any] = terms_scores(questions, said)
    if arguments.test and arguments.words:
        table["long text"] = {}
        for direction in arguments.long.split(","):
            source, target = direction.split("-", 1)
            text = long_text(arguments.test, source, target, arguments.words)
            table["long text"][direction] = await long_scores(translator, text, source, target)
    await backend.close()
    signature = str(CHRF(references=[[""]]).get_signature())  # that of one reference
    seconds = round(time.perf_counter() - began, 1)
    return {
        "task": "terms",
        **asking.model_of(backend),
        "seconds": seconds,
        "signatures": {"chrf2": signature},
        "scores": table,
    }


def _questions(backend: Backend, arguments: argparse.Namespace) -> Iterator[Question]:
    langs = arguments.langs.split(",") if arguments.langs else list(backend.info.languages)
    if arguments.tico:
        yield from tico_questions(arguments.tico, langs, arguments.limit)
    if arguments.test and arguments.corpus:
        langs = [lang for lang in langs if corpus.test_file(arguments.test, corpus.DEVELOPMENT_SET, lang).exists()]
        held_out = corpus.test_sentences(arguments.test)
        dictionary = corpus.dictionary_of(arguments.corpus, langs, held_out)
        yield from in_domain_questions(arguments.test, dictionary, langs, arguments.limit)


def _record(question: Question, answer: Finished) -> dict[str, Any]:
    return {
        "set": question.set,
        "mode": question.mode,
        "direction": question.direction,
        "source": question.text,
        "reference": question.reference,
        "answer": answer.text,
        "counted": [[term.source, term.target] for term in question.counted],
        "warnings": [warning.code for warning in answer.warnings],
    }


def show(result: dict[str, Any]) -> str:
    """The scores as a table to read."""
    scores = result["scores"]
    lines = [f"{'':52}{'success':>9}{'used':>9}{'chrF2':>8}{'warned':>9}{'terms':>7}{'texts':>7}"]
    for name, by_direction in scores.items():
        if name == "long text":
            continue
        for direction, by_mode in by_direction.items():
            for mode, row in by_mode.items():
                chrf = f"{row['chrf2']:.1f}" if "chrf2" in row else "–"
                lines.append(
                    f"{f'{name}, {direction}, {mode}':52}{row['success']:>9.1%}{row['used']:>9.1%}{chrf:>8}"
                    f"{row['warned']:>9.1%}{row['terms']:>7}{row['texts']:>7}"
                )
    for direction, row in scores.get("long text", {}).items():
        lines.append(f"long text, {direction}: {json.dumps(row, ensure_ascii=False)}")
    return "\n".join(lines)
