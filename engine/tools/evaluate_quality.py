"""Scores a model on held-out text through the real backend: chrF2 and BLEU of every direction, greedy.

    python -m engine.tools.evaluate quality --model FOLDER --test TEST

A line of a test is one prompt: lines are sentences, scores compare with those of other systems, and what the segmenter
does is not mixed with what the model knows. `--through-translator` scores the whole door instead.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from engine import prompts
from engine.attempts import ANSWER_SLACK_TOKENS, ANSWER_TOKENS_PER_SOURCE_TOKEN
from engine.backends.base import Backend
from engine.scheduler import Scheduler
from engine.tools import asking, corpus
from engine.tools.asking import GREEDY
from engine.translator import Translator
from engine.types import FinishReason, Prompt, TranslationRequest

ABOUT = "chrF2 and BLEU of every direction"
SETS = f"tatoeba,flores200.devtest,{corpus.DEVELOPMENT_SET}"
BLEU_TOKENIZERS = {"zh": "zh", "zh-Hant": "zh", "ja": "char", "ko": "char"}  # by target; 13a for the rest


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked and what should come. `prompt` is the whole prompt, `text` the part to translate."""

    set: str
    source: str
    target: str
    text: str
    prompt: str
    reference: str

    @property
    def direction(self) -> str:
        return f"{self.source}-{self.target}"


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    tokens: int
    finish: FinishReason


Ask = Callable[[Question], Awaitable[Answer]]


def questions_of(
    backend: Backend, folder: Path, sets: Sequence[str], langs: Sequence[str], limit: int | None
) -> list[Question]:
    """Both directions of every line of every set."""
    return [
        plain(backend, name, pair, into_first)
        for name in sets
        for lang in langs
        for pair in corpus.test_pairs(folder, name, lang)[:limit]
        for into_first in (False, True)
    ]


def plain(backend: Backend, name: str, pair: corpus.Pair, into_first: bool) -> Question:
    source, target, text, reference = (
        (pair.lang, "en", pair.second, pair.first) if into_first else ("en", pair.lang, pair.first, pair.second)
    )
    prompt = prompts.plain(backend.info.family, source, target, text)
    return Question(name, source, target, text, prompt, reference)


def through_backend(backend: Backend) -> Ask:
    async def ask(question: Question) -> Answer:
        most = ANSWER_TOKENS_PER_SOURCE_TOKEN * backend.count_tokens(question.text) + ANSWER_SLACK_TOKENS
        texts, tokens, finish = list[str](), 0, None
        async with aclosing(backend.stream(Prompt(question.prompt, question.text, most, GREEDY))) as chunks:
            async for chunk in chunks:
                texts.append(chunk.text)
                tokens += chunk.tokens
                finish = chunk.finish
        assert finish is not None
        return Answer("".join(texts).strip(), tokens, finish)

    return ask


def through_translator(backend: Backend, concurrent: int) -> Ask:
    translator = Translator(backend, Scheduler(concurrent, concurrent))

    async def ask(question: Question) -> Answer:
        request = TranslationRequest(question.text, question.target, question.source, sampling=GREEDY)
        done = await translator.translate(request)
        cut = any(warning.code == "truncated" for warning in done.warnings)
        return Answer(done.text.strip(), done.output_tokens, "length" if cut else "stop")

    return ask


def quality_scores(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, Any]:
    """chrF2, BLEU and the share cut off of every set and direction, and sacreBLEU's signatures."""
    groups: dict[tuple[str, str, str], list[tuple[Question, Answer]]] = {}
    for question, answer in zip(questions, answers, strict=True):
        groups.setdefault((question.set, question.direction, question.target), []).append((question, answer))
    scores: dict[str, dict[str, dict[str, float]]] = {}
    signatures: dict[str, str] = {}
    for (name, direction, target), group in groups.items():
        said, wanted = [answer.text for _, answer in group], [[question.reference for question, _ in group]]
        chrf, bleu = CHRF(), BLEU(tokenize=BLEU_TOKENIZERS.get(target, "13a"))
        scores.setdefault(name, {})[direction] = {
            "chrf2": round(chrf.corpus_score(said, wanted).score, 2),
            "bleu": round(bleu.corpus_score(said, wanted).score, 2),
            "cut_off": round(sum(answer.finish == "length" for _, answer in group) / len(group), 4),
            "lines": len(group),
        }
        signatures["chrf2"] = str(chrf.get_signature())
        signatures[f"bleu {bleu.tokenizer.signature()}"] = str(bleu.get_signature())
    return {"scores": scores, "signatures": signatures}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    asking.add_arguments(parser)
    parser.add_argument("--test", type=Path, required=True, help="folder of SET.en-XX.tsv")
    parser.add_argument("--limit", type=int, help="lines of each file (default: all)")
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--through-translator", action="store_true", help="segments and checks too, as users meet it")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Raises `YiwenError` for a model that cannot be had, `FileNotFoundError` for a test that is not there."""
    backend, sets = asking.backend_of(arguments), arguments.sets.split(",")
    langs = arguments.langs.split(",") if arguments.langs else tested(backend, arguments.test, sets)
    questions = questions_of(backend, arguments.test, sets, langs, arguments.limit)
    whole = arguments.through_translator
    ask = through_translator(backend, backend.slots) if whole else through_backend(backend)
    return result("quality", backend, arguments, questions, ask, quality_scores)


def tested(backend: Backend, folder: Path, sets: Sequence[str]) -> list[str]:
    """The languages of the model that every one of the sets has a file of."""
    return [
        lang for lang in backend.info.languages if all(corpus.test_file(folder, name, lang).exists() for name in sets)
    ]


def result(
    task: str,
    backend: Backend,
    arguments: argparse.Namespace,
    questions: Sequence[Question],
    ask: Ask,
    score: Callable[[Sequence[Question], Sequence[Answer]], dict[str, Any]],
) -> dict[str, Any]:
    """Asks all, closes the backend, and gives what `score` makes of the answers."""
    if not questions:
        raise SystemExit(f"There is nothing to ask for {task} in {str(arguments.test)!r}; look at --langs.")
    began = time.perf_counter()
    answers = asyncio.run(asking.answers_to(ask, questions, backend.slots, size=lambda each: len(each.prompt)))
    seconds = time.perf_counter() - began
    asyncio.run(backend.close())
    asking.write_lines(arguments.out, map(_record, questions, answers))
    tokens = sum(answer.tokens for answer in answers)
    return {
        "task": task,
        **asking.model_of(backend),
        "prompts": len(questions),
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "tokens_a_second": round(tokens / seconds),
        **score(questions, answers),
    }


def _record(question: Question, answer: Answer) -> dict[str, Any]:
    return {
        "set": question.set,
        "direction": question.direction,
        "source": question.text,
        "reference": question.reference,
        "answer": answer.text,
        "finish": answer.finish,
    }


def show(scores: dict[str, Any]) -> str:
    """The scores as a table to read."""
    directions = list(dict.fromkeys(direction for by_direction in scores.values() for direction in by_direction))
    lines = ["chrF2/BLEU (cut off)" + "".join(f"{name:>24}" for name in scores)]
    for direction in directions:
        cells = []
        for by_direction in scores.values():
            cell = by_direction.get(direction)
            cells.append(f"{cell['chrf2']:.1f} / {cell['bleu']:.1f} ({cell['cut_off']:.0%})" if cell else "–")
        lines.append(f"{direction:20}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)
