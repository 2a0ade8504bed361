"""Scores a model on held-out text through the real backend: quality, terms obeyed, marks placed right. All greedy.

    python -m engine.tools.evaluate quality --model FOLDER --test TEST
    python -m engine.tools.evaluate terms --model FOLDER --test TEST --corpus CORPUS
    python -m engine.tools.evaluate marks --model FOLDER --test TEST --corpus CORPUS
    python -m engine.tools.evaluate markup [--corpus FOLDER]        (no model: see evaluate_markup)

A line of a test is one prompt: lines are sentences, scores compare with those of other systems, and what the segmenter
does is not mixed with what the model knows. `--through-translator` scores the whole door instead.
"""

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from tqdm import tqdm  # type: ignore[import-untyped]

from engine import glossary, prompts
from engine.attempts import ANSWER_SLACK_TOKENS, ANSWER_TOKENS_PER_SOURCE_TOKEN
from engine.backends.base import Backend
from engine.backends.select import select
from engine.config import Config
from engine.errors import YiwenError
from engine.scheduler import Scheduler
from engine.tools import corpus, evaluate_markup
from engine.translator import Translator
from engine.types import FinishReason, Prompt, Sampling, Term, TranslationRequest

SETS = f"tatoeba,flores200.devtest,{corpus.DEVELOPMENT_SET}"
EXAMPLES = 500
SEED = 7  # not one that training uses
GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0)
BLEU_TOKENIZERS = {"zh": "zh", "zh-Hant": "zh", "ja": "char", "ko": "char"}  # by target; 13a for the rest
_MARK = re.compile(r"</?(?:s\d|target)>")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked and what should come. `prompt` is the whole prompt, `text` the part to translate."""

    set: str
    source: str
    target: str
    text: str
    prompt: str
    reference: str
    terms: tuple[Term, ...] = ()

    @property
    def direction(self) -> str:
        return f"{self.source}-{self.target}"


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    tokens: int
    finish: FinishReason


Ask = Callable[[Question], Awaitable[Answer]]


# ---------------------------------------------------------------------------------------------------------------------
# questions


def quality_questions(
    backend: Backend, folder: Path, sets: Sequence[str], langs: Sequence[str], limit: int | None
) -> list[Question]:
    """Both directions of every line of every set."""
    return [
        _plain(backend, name, pair, into_english)
        for name in sets
        for lang in langs
        for pair in corpus.test_pairs(folder, name, lang)[:limit]
        for into_english in (False, True)
    ]


def terms_questions(
    backend: Backend, folder: Path, dictionary: corpus.Dictionary, langs: Sequence[str], count: int
) -> list[Question]:
    """Each sentence twice: with its terms in the prompt, and without. The set tells which, and whether the target of a
    term was swapped for a word that nobody would guess."""
    questions: list[Question] = []
    for pair, into_english, example in _held_out_examples(folder, dictionary, langs, "terms"):
        without = _plain(backend, "", pair, into_english)
        occurring = glossary.check(example.terms, without.text, without.reference, without.source)
        if not occurring:
            continue
        kind = "natural" if all(term.applied for term in occurring) else "swapped"
        prompt = prompts.with_terms(backend.info.family, without.target, example.terms, without.text)
        with_glossary = replace(without, prompt=prompt, reference=example.answer)
        for question, name in ((with_glossary, "with glossary"), (without, "without glossary")):
            questions.append(replace(question, set=f"{kind}, {name}", terms=example.terms))
        if len(questions) == 2 * count:
            break
    return questions


def marks_questions(
    backend: Backend, folder: Path, dictionary: corpus.Dictionary, langs: Sequence[str], count: int
) -> list[Question]:
    questions = []
    for pair, into_english, example in islice(_held_out_examples(folder, dictionary, langs, "marks"), count):
        text = example.prompt.rpartition("<source>")[2].removesuffix("</source>")
        without = _plain(backend, "marks", pair, into_english)
        questions.append(replace(without, text=text, prompt=example.prompt, reference=example.answer))
    return questions


def _held_out_examples(
    folder: Path, dictionary: corpus.Dictionary, langs: Sequence[str], kind: str
) -> Iterator[tuple[corpus.Pair, bool, corpus.Example]]:
    """Examples of one kind, languages mixed, directions in turn, always the same; and whether into English."""
    pairs = [pair for lang in langs for pair in corpus.test_pairs(folder, corpus.DEVELOPMENT_SET, lang)]
    dice = random.Random(SEED)
    dice.shuffle(pairs)
    maker = corpus.ExampleMaker(corpus.Corpus(pairs, dictionary), corpus.Mix(), dice)
    make = maker.with_marks if kind == "marks" else maker.with_terms
    for number, pair in enumerate(pairs):
        into_english = number % 2 == 0
        if (example := make(pair, into_english)) is not None:
            yield pair, into_english, example


def _plain(backend: Backend, name: str, pair: corpus.Pair, into_english: bool) -> Question:
    source, target, text, reference = (
        (pair.lang, "en", pair.other, pair.english) if into_english else ("en", pair.lang, pair.english, pair.other)
    )
    prompt = prompts.plain(backend.info.family, source, target, text)
    return Question(name, source, target, text, prompt, reference)


# ---------------------------------------------------------------------------------------------------------------------
# answers


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


async def answer_all(ask: Ask, questions: Sequence[Question], concurrent: int) -> list[Answer]:
    """Answers in the order of the questions. The longest are asked first, so that a batch holds like with like and
    none is waited for alone at the end."""
    answers: dict[int, Answer] = {}
    longest_first = iter(sorted(range(len(questions)), key=lambda index: -len(questions[index].prompt)))
    with tqdm(total=len(questions), unit="line", mininterval=1) as bar:

        async def work() -> None:
            for index in longest_first:  # shared by all workers
                answers[index] = await ask(questions[index])
                bar.update()

        await asyncio.gather(*(work() for _ in range(concurrent)))
    return [answers[index] for index in range(len(questions))]


# ---------------------------------------------------------------------------------------------------------------------
# scores


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


def terms_scores(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, Any]:
    """The share of terms obeyed in each set: those that occur in the source and whose target is in the answer."""
    occurring, obeyed, sentences = Counter[str](), Counter[str](), Counter[str]()
    for question, answer in zip(questions, answers, strict=True):
        results = glossary.check(question.terms, question.text, answer.text, question.source)
        for name in (question.set, question.set.partition(", ")[2]):  # natural and swapped apart, and together
            sentences[name] += 1
            occurring[name] += len(results)
            obeyed[name] += sum(result.applied > 0 for result in results)
    return {
        "scores": {
            name: {"obeyed": _share(obeyed[name], terms), "terms": terms, "sentences": sentences[name]}
            for name, terms in sorted(occurring.items())
        }
    }


def marks_scores(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, Any]:
    """The share of answers that hold just the reference's marks, and of those that also nest them well."""
    right = nested = 0
    for question, answer in zip(questions, answers, strict=True):
        marks = _MARK.findall(answer.text)
        same = Counter(marks) == Counter(_MARK.findall(question.reference))
        right += same
        nested += same and is_well_nested(marks)
    count = len(questions)
    return {
        "scores": {"right": _share(right, count), "right and well nested": _share(nested, count), "examples": count}
    }


def is_well_nested(marks: Sequence[str]) -> bool:
    opened: list[str] = []
    for mark in marks:
        if not mark.startswith("</"):
            opened.append(mark)
        elif not opened or opened.pop() != mark.replace("/", ""):
            return False
    return not opened


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


# ---------------------------------------------------------------------------------------------------------------------
# the run


def show(task: str, scores: dict[str, Any]) -> str:
    """The scores as a table to read."""
    if task != "quality":
        rows = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in scores.items()]
        return "\n".join(rows)
    directions = list(dict.fromkeys(direction for by_direction in scores.values() for direction in by_direction))
    lines = ["chrF2/BLEU (cut off)" + "".join(f"{name:>24}" for name in scores)]
    for direction in directions:
        cells = []
        for by_direction in scores.values():
            cell = by_direction.get(direction)
            cells.append(f"{cell['chrf2']:.1f} / {cell['bleu']:.1f} ({cell['cut_off']:.0%})" if cell else "–")
        lines.append(f"{direction:20}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def run(backend: Backend, arguments: argparse.Namespace) -> dict[str, Any]:
    """Asks everything that the task needs and returns its scores."""
    task, langs = arguments.task, arguments.langs.split(",") if arguments.langs else _languages(backend, arguments)
    if task == "quality":
        questions = quality_questions(backend, arguments.test, arguments.sets.split(","), langs, arguments.limit)
    else:
        held_out = corpus.test_sentences(arguments.test)
        dictionary = corpus.load(arguments.corpus, langs, held_out, workers=sys.maxsize).dictionary
        make = terms_questions if task == "terms" else marks_questions
        questions = make(backend, arguments.test, dictionary, langs, arguments.limit or EXAMPLES)
    if not questions:
        raise SystemExit(f"There is nothing to ask for {task} in {str(arguments.test)!r}; look at --sets and --langs.")
    ask = (
        through_translator(backend, backend.slots)
        if task == "quality" and arguments.through_translator
        else through_backend(backend)
    )
    began = time.perf_counter()
    answers = asyncio.run(answer_all(ask, questions, backend.slots))
    seconds = time.perf_counter() - began
    if arguments.out:
        with arguments.out.open("w", encoding="utf-8") as file:
            for question, answer in zip(questions, answers, strict=True):
                file.write(json.dumps(_record(question, answer), ensure_ascii=False) + "\n")
    score = {"quality": quality_scores, "terms": terms_scores, "marks": marks_scores}[task]
    tokens = sum(answer.tokens for answer in answers)
    return {
        "task": task,
        "model": backend.info.name,
        "precision": backend.info.precision,
        "device": backend.info.device,
        "prompts": len(questions),
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "tokens_a_second": round(tokens / seconds),
        **score(questions, answers),
    }


def _languages(backend: Backend, arguments: argparse.Namespace) -> list[str]:
    """Those of the model that every set asked for has a file of."""
    sets = arguments.sets.split(",") if arguments.task == "quality" else [corpus.DEVELOPMENT_SET]
    return [
        lang
        for lang in backend.info.languages
        if all(corpus.test_file(arguments.test, name, lang).exists() for name in sets)
    ]


def _record(question: Question, answer: Answer) -> dict[str, Any]:
    return {
        "set": question.set,
        "direction": question.direction,
        "source": question.text,
        "reference": question.reference,
        "answer": answer.text,
        "finish": answer.finish,
        "terms": [[term.source, term.target] for term in question.terms],
    }


def main() -> None:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", default="embedded", help="embedded, a folder, or a hub id")
    common.add_argument("--backend", default="local", help="local, or echo to try the tool itself")
    common.add_argument("--test", type=Path, required=True, help="folder of SET.en-XX.tsv")
    common.add_argument("--langs", help="such as zh,ja (default: all of the model that have tests)")
    common.add_argument("--limit", type=int, help="lines of each file, or examples (default: all; 500 examples)")
    common.add_argument("--device", default="auto", help="auto, cpu, or cuda:0")
    common.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16 or int8")
    common.add_argument("--concurrent", default="auto", help="prompts in one batch; 512 suits a large card")
    common.add_argument("--out", type=Path, help="file for every question and answer, JSON lines")
    parser = argparse.ArgumentParser(description="Score a model on held-out text.")
    tasks = parser.add_subparsers(dest="task", required=True)
    quality = tasks.add_parser("quality", parents=[common], help="chrF2 and BLEU of every direction")
    quality.add_argument("--sets", default=SETS)
    quality.add_argument("--through-translator", action="store_true", help="segments and checks too, as users meet it")
    for name, about in (("terms", "share of glossary terms obeyed"), ("marks", "share of inline marks placed right")):
        task = tasks.add_parser(name, parents=[common], help=about)
        task.add_argument(
            "--corpus", type=Path, required=True, help="folder of train.en-XX.tsv.zst, for its dictionary"
        )
    markup = tasks.add_parser("markup", help="documents that come back, structure kept, marks mended")
    markup.add_argument("--corpus", type=Path, help="folder of specifications, tests and pages (default: our fixtures)")
    markup.add_argument("--json", action="store_true", help="no table before the line of JSON")
    arguments = parser.parse_args()
    if arguments.task == "markup":
        result = evaluate_markup.run(arguments.corpus)
        if not arguments.json:
            print(evaluate_markup.show(result["scores"]), file=sys.stderr)
        print(json.dumps(result, ensure_ascii=False))
        return
    chosen = [f"--model={arguments.model}", f"--backend={arguments.backend}", f"--devices={arguments.device}"]
    chosen += [f"--precision={arguments.precision}", f"--max-concurrent={arguments.concurrent}"]
    try:
        backend = select(Config.load(chosen, {}))
        result = run(backend, arguments)
        asyncio.run(backend.close())
    except (YiwenError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    print(show(arguments.task, result["scores"]), file=sys.stderr)
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
