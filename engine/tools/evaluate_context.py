"""Scores what context is good for: does it settle what a sentence alone leaves open, and does it harm what needs none?

    python -m engine.tools.evaluate context [--pairs FILE] [--test TEST --limit 60]

Pairs are short texts that mean two things, each written twice with contexts that ask for another reading; so a model
that always takes the likelier reading is right half the time. Each is translated alone, with its context given by the
user (the box), and as the second line of a text whose first is the context (the window). Documents are lines of FLORES
joined, translated with the window and without. All goes through the translator, greedy.
"""

import argparse
import asyncio
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from sacrebleu.metrics.chrf import CHRF

from engine.backends.base import Backend
from engine.languages import CHINESE
from engine.scheduler import Scheduler
from engine.tools import asking, corpus
from engine.tools.asking import GREEDY
from engine.tools.pairs import Pair as Line
from engine.translator import Translator
from engine.types import Finished, SegmentDone, TranslationRequest

ABOUT = "share of ambiguous texts that context settles, and chrF2 of documents with the window on and off"
PAIRS = Path(__file__).parents[2] / "tests" / "fixtures" / "context.tsv"
COLUMNS = ("direction", "kind", "context", "text", "right", "wrong")
DOCUMENTS_SET = "flores200.devtest"
DOCUMENT_LINES = 6  # of a document, where the set does not say which lines belong together
WITHOUT_SPACES = CHINESE | {"ja"}  # whose sentences stand side by side
LEAK_RATIO = 1.7  # times the answer without context; from “Il est neuf.” to “Le train est neuf.” it is 1.5
LEAK_SHARE = 0.5  # of the context's own translation, that the answer is longer by: in short answers a word doubles it
WAYS = ("box", "window")

_NOT_OF_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence that is ambiguous by itself, and what stands before it.

    One of `right` must occur in its translation and none of `wrong` may. Both are looked for without regard to case,
    with all that is no letter or digit as one space and a space at either end: `_il_` is a whole word.
    """

    direction: str
    kind: str
    context: str
    text: str
    right: tuple[str, ...]
    wrong: tuple[str, ...] = ()

    @property
    def langs(self) -> list[str]:
        """Source and target."""
        return self.direction.split("-")


@dataclass(frozen=True, slots=True)
class Said:
    """A translation, and the segments it is made of."""

    text: str
    segments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a pair. `before` is what the window's own line became."""

    pair: Pair
    without: str
    box: str
    window: str
    before: str


@dataclass(frozen=True, slots=True)
class Text:
    """A document and what a human made of it."""

    direction: str
    text: str
    reference: str


# ---------------------------------------------------------------------------------------------------------------------
# pairs


def read_pairs(path: Path) -> list[Pair]:
    """Those of a table with `COLUMNS`, alternatives parted by `|`. Ends the run where it is another."""
    heading, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if tuple(heading.split("\t")) != COLUMNS:
        raise SystemExit(f"{path} does not begin with the columns {', '.join(COLUMNS)}, parted by tabs.")
    pairs = []
    for number, line in enumerate(lines, 2):
        cells = line.split("\t")
        if len(cells) != len(COLUMNS) or not all(cells[:-1]):
            raise SystemExit(
                f"Line {number} of {path} has not the {len(COLUMNS)} cells it should; only wrong may lack."
            )
        direction, kind, context, text, right, wrong = cells
        pairs.append(Pair(direction, kind, context, text, _alternatives(right), _alternatives(wrong)))
    return pairs


def is_right(pair: Pair, translation: str) -> bool:
    said = _words(translation)
    return any(_words_of(each) in said for each in pair.right) and not any(
        _words_of(each) in said for each in pair.wrong
    )


def is_leaked(answer: str, without: str, context: str) -> bool:
    """Whether an answer brought along the translation of its context, here as it is by itself.

    Either that occurs in it word for word, or the answer is too long in both ways: for one without context, and by too
    much for a word or two that became clearer.
    """
    whole = _words(context)
    longer = len(answer) - len(without)
    return (whole.strip() != "" and whole in _words(answer)) or (
        len(answer) > LEAK_RATIO * len(without) and longer >= LEAK_SHARE * len(context)
    )


def _alternatives(cell: str) -> tuple[str, ...]:
    return tuple(each for each in cell.split("|") if each)


def _words(text: str) -> str:
    return _words_of(f" {text} ")


def _words_of(text: str) -> str:
    return _NOT_OF_WORDS.sub(" ", text.lower())


# ---------------------------------------------------------------------------------------------------------------------
# documents


def documents(folder: Path, langs: Iterable[str], limit: int | None) -> list[Text]:
    """Both directions of the first `limit` lines of each language's file, joined."""
    return [
        text
        for lang in langs
        for lines in _together(corpus.test_pairs(folder, DOCUMENTS_SET, lang)[:limit])
        for text in _directions(lang, lines)
    ]


def _together(lines: Sequence[Line]) -> Iterable[Sequence[Line]]:
    for origin, group in groupby(lines, lambda line: line.origin):
        if origin:
            yield list(group)
        else:
            rest = list(group)
            yield from (rest[start : start + DOCUMENT_LINES] for start in range(0, len(rest), DOCUMENT_LINES))


def _directions(lang: str, lines: Sequence[Line]) -> tuple[Text, Text]:
    english = " ".join(line.first for line in lines)
    other = ("" if lang in WITHOUT_SPACES else " ").join(line.second for line in lines)
    return Text(f"en-{lang}", english, other), Text(f"{lang}-en", other, english)


# ---------------------------------------------------------------------------------------------------------------------
# answers


async def translate_pairs(backend: Backend, pairs: Sequence[Pair]) -> list[Outcome]:
    """A text that comes in several pairs is translated without context once."""
    alone = {
        (pair.direction, pair.text): TranslationRequest(pair.text, target, source, format="text", sampling=GREEDY)
        for pair in pairs
        for source, target in [pair.langs]
    }
    plain = [alone[pair.direction, pair.text] for pair in pairs]
    box = [replace(request, context=pair.context) for request, pair in zip(plain, pairs, strict=True)]
    window = [
        replace(request, text=f"{pair.context}\n{pair.text}", context_mode=True)
        for request, pair in zip(plain, pairs, strict=True)
    ]
    said = await _translate_all(backend, [*alone.values(), *box, *window])
    without = dict(zip(alone, said[: len(alone)], strict=True))
    with_context = said[len(alone) :]
    return [
        Outcome(
            pair,
            without[pair.direction, pair.text].text,
            with_box.text,
            with_window.segments[-1],
            " ".join(with_window.segments[:-1]),
        )
        for pair, with_box, with_window in zip(
            pairs, with_context[: len(pairs)], with_context[len(pairs) :], strict=True
        )
    ]


async def translate_documents(backend: Backend, texts: Sequence[Text]) -> tuple[list[str], list[str]]:
    """The translations with the window off and on."""
    requests = [
        TranslationRequest(text.text, target, source, format="text", context_mode=on, sampling=GREEDY)
        for on in (False, True)
        for text in texts
        for source, target in [text.direction.split("-")]
    ]
    said = [each.text for each in await _translate_all(backend, requests)]
    return said[: len(texts)], said[len(texts) :]


async def _translate_all(backend: Backend, requests: Sequence[TranslationRequest]) -> list[Said]:
    """In the order of the requests."""
    translator = Translator(backend, Scheduler(backend.slots, backend.slots))
    # ids of their own: requests that share one share their turns
    apart = [replace(request, id=str(index)) for index, request in enumerate(requests)]
    return await asking.answers_to(
        lambda request: _translate(translator, request), apart, backend.slots, size=lambda request: len(request.text)
    )


async def _translate(translator: Translator, request: TranslationRequest) -> Said:
    segments = []
    async with aclosing(translator.stream(request)) as events:
        async for event in events:
            if isinstance(event, SegmentDone):
                segments.append(event.text.strip())
            elif isinstance(event, Finished):
                return Said(event.text.strip(), tuple(segments))
    raise AssertionError("a stream that ends well ends with Finished")


# ---------------------------------------------------------------------------------------------------------------------
# scores


def pairs_scores(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Of all, of each kind and of each direction: see `_scores_of`."""
    groups: dict[str, list[Outcome]] = {"all": list(outcomes)}
    for outcome in outcomes:
        groups.setdefault(outcome.pair.kind, [])
    for outcome in outcomes:
        groups[outcome.pair.kind].append(outcome)
        groups.setdefault(outcome.pair.direction, []).append(outcome)
    return {name: _scores_of(group) for name, group in groups.items()}


def _scores_of(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Shares of 1. `right` is of all pairs, `fixes` of those that are wrong without context, `spoils` of those that are
    right, `told_apart` of the texts: right in every context they come in; `leaks` of all answers with context."""
    right_without = [is_right(outcome.pair, outcome.without) for outcome in outcomes]
    scores: dict[str, float] = {"pairs": len(outcomes), "right_without": _share(right_without)}
    for way in WAYS:
        answers: list[str] = [getattr(outcome, way) for outcome in outcomes]
        right = [is_right(outcome.pair, answer) for outcome, answer in zip(outcomes, answers, strict=True)]
        both = list(zip(right_without, right, strict=True))
        apart: dict[tuple[str, str], bool] = {}
        for outcome, well in zip(outcomes, right, strict=True):
            key = outcome.pair.direction, outcome.pair.text
            apart[key] = apart.get(key, True) and well
        scores |= {
            f"right_{way}": _share(right),
            f"{way}_fixes": _share([well for before, well in both if not before]),
            f"{way}_spoils": _share([not well for before, well in both if before]),
            f"{way}_told_apart": _share(apart.values()),
            f"{way}_leaks": _share(
                is_leaked(answer, outcome.without, outcome.before)
                for outcome, answer in zip(outcomes, answers, strict=True)
            ),
        }
    return scores


def documents_scores(texts: Sequence[Text], off: Sequence[str], on: Sequence[str]) -> dict[str, dict[str, float]]:
    """chrF2 (`nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no`) of each direction with the window off and on, how much
    the window adds, and the mean of all directions."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for text, without, with_window in zip(texts, off, on, strict=True):
        groups.setdefault(text.direction, []).append((text.reference, without, with_window))
    counts: dict[str, int] = {}
    chrf2: dict[str, tuple[float, float]] = {}
    for direction, group in groups.items():
        references, *both = zip(*group, strict=True)
        one, other = (CHRF().corpus_score(said, [references]).score for said in both)
        counts[direction], chrf2[direction] = len(group), (one, other)
    means = [sum(scores) / len(chrf2) for scores in zip(*chrf2.values(), strict=True)]
    counts["all"], chrf2["all"] = len(texts), (means[0], means[1])
    return {
        direction: {
            "documents": counts[direction],
            "off": round(without, 2),
            "on": round(with_window, 2),
            "difference": round(with_window - without, 2),
        }
        for direction, (without, with_window) in chrf2.items()
    }


def _share(cases: Iterable[bool]) -> float:
    told = list(cases)
    return round(sum(told) / len(told), 4) if told else 0.0


# ---------------------------------------------------------------------------------------------------------------------
# the run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    asking.add_arguments(parser)
    parser.add_argument("--pairs", type=Path, default=PAIRS, help=f"table of {', '.join(COLUMNS)} (default: ours)")
    parser.add_argument("--test", type=Path, help=f"folder of {DOCUMENTS_SET}.en-XX.tsv (default: no documents)")
    parser.add_argument("--limit", type=int, help="lines of each file of documents (default: all)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Raises `YiwenError` for a model that cannot be had, `FileNotFoundError` for a table or test that is not there."""
    pairs, backend = read_pairs(arguments.pairs), asking.backend_of(arguments)
    asked = arguments.langs.split(",") if arguments.langs else list(backend.info.languages)
    spoken = {*asked, "en"}.intersection(backend.info.languages)
    pairs = [pair for pair in pairs if spoken.issuperset(pair.langs)]
    if not pairs:
        raise SystemExit(f"No pair of {arguments.pairs} is in languages of the model; look at --langs.")
    texts = _asked_documents(arguments, asked) if arguments.test else []
    began = time.perf_counter()
    scores, outcomes = asyncio.run(_scored(backend, pairs, texts))
    asking.write_lines(arguments.out, map(_record, outcomes))
    return {
        "task": "context",
        **asking.model_of(backend),
        "seconds": round(time.perf_counter() - began, 1),
        "scores": scores,
    }


def _asked_documents(arguments: argparse.Namespace, langs: Iterable[str]) -> list[Text]:
    tested = [lang for lang in langs if corpus.test_file(arguments.test, DOCUMENTS_SET, lang).exists()]
    if texts := documents(arguments.test, tested, arguments.limit):
        return texts
    raise SystemExit(f"There is no {DOCUMENTS_SET} in {str(arguments.test)!r}; look at --test and --langs.")


async def _scored(
    backend: Backend, pairs: Sequence[Pair], texts: Sequence[Text]
) -> tuple[dict[str, Any], list[Outcome]]:
    try:
        outcomes = await translate_pairs(backend, pairs)
        scores: dict[str, Any] = {"pairs": pairs_scores(outcomes)}
        if texts:
            scores["documents"] = documents_scores(texts, *await translate_documents(backend, texts))
        return scores, outcomes
    finally:
        await backend.close()


def _record(outcome: Outcome) -> dict[str, Any]:
    right = {way: is_right(outcome.pair, getattr(outcome, way)) for way in ("without", *WAYS)}
    return asdict(outcome.pair) | {
        "answers": {way: getattr(outcome, way) for way in right},
        "before": outcome.before,
        "right_answers": right,
    }


def show(result: Mapping[str, Any]) -> str:
    """The scores as a table to read; `fixes` is of what was wrong without context, `spoils` of what was right."""
    scores = result["scores"]
    names = ["fixes", "spoils", "told_apart", "leaks"]
    heads = ["pairs", "alone", *(f"{way} {name}" for way in WAYS for name in ["right", *names])]
    lines = [f"{'':12}" + "".join(f"{head.replace('_', ' '):>18}" for head in heads)]
    for group, of in scores["pairs"].items():
        shares = [of["right_without"]]
        shares += [of[name] for way in WAYS for name in [f"right_{way}", *(f"{way}_{name}" for name in names)]]
        lines.append(f"{group:12}{of['pairs']:>18}" + "".join(f"{share:>18.1%}" for share in shares))
    if "documents" in scores:
        heads = ["documents", "chrF2 off", "chrF2 on", "difference"]
        lines += ["", f"{'':12}" + "".join(f"{head:>18}" for head in heads)]
        for direction, of in scores["documents"].items():
            lines.append(
                f"{direction:12}{of['documents']:>18}{of['off']:>18.2f}{of['on']:>18.2f}{of['difference']:>+18.2f}"
            )
    return "\n".join(lines)
