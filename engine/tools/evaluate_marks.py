"""Scores how a model places inline marks in held-out text, through the real backend, greedy.

    python -m engine.tools.evaluate marks --model FOLDER --test TEST --corpus CORPUS

Examples are made of held-out lines as those of training are, with another seed. What the guard mends is not counted.
"""

import argparse
import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from engine.backends.base import Backend
from engine.tools import asking, corpus, evaluate_questions
from engine.tools.evaluate_answers import Kept, said_by
from engine.tools.evaluate_questions import Answer, Question
from engine.tools.pairs import Pair

ABOUT = "share of inline marks placed right"
EXAMPLES = 500
SEED = 7  # not one that training uses
_MARK = re.compile(r"</?(?:s\d|target)>")


def questions_of(
    backend: Backend, folder: Path, dictionary: corpus.Dictionary, langs: Sequence[str], count: int
) -> list[Question]:
    questions = []
    for pair, into_first, example in islice(_examples(folder, dictionary, langs), count):
        text = example.prompt.rpartition("<source>")[2].removesuffix("</source>")
        source, target = (pair.lang, "en") if into_first else ("en", pair.lang)
        questions.append(Question("marks", source, target, text, example.prompt, example.answer))
    return questions


def _examples(
    folder: Path, dictionary: corpus.Dictionary, langs: Sequence[str]
) -> Iterator[tuple[Pair, bool, corpus.Example]]:
    """Examples, languages mixed, directions in turn, always the same; and whether into English."""
    pairs = [pair for lang in langs for pair in corpus.test_pairs(folder, corpus.DEVELOPMENT_SET, lang)]
    dice = random.Random(SEED)
    dice.shuffle(pairs)
    maker = corpus.ExampleMaker(corpus.Corpus(pairs, dictionary), corpus.Mix(), dice)
    for number, pair in enumerate(pairs):
        into_first = number % 2 == 0
        if (example := maker.with_marks(pair, into_first)) is not None:
            yield pair, into_first, example


def marks_scores(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, Any]:
    """The share of answers that hold just the reference's marks, and of those that also nest them well."""
    right = nested = 0
    for question, answer in zip(questions, answers, strict=True):
        same, well = evaluate_questions.tags_kept(_MARK.findall(question.reference), _MARK.findall(answer.text))
        right += same
        nested += well
    count = len(questions)
    return {
        "scores": {
            "right": asking.share(right, count),
            "right and well nested": asking.share(nested, count),
            "examples": count,
        }
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    asking.add_arguments(parser)
    parser.add_argument("--test", type=Path, required=True, help="folder of SET.en-XX.tsv")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of train.en-XX.tsv.zst, for its dictionary")
    parser.add_argument("--limit", type=int, default=EXAMPLES, help=f"examples (default {EXAMPLES})")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Raises `YiwenError` for a model that cannot be had, `FileNotFoundError` for a folder that is not there."""
    backend = asking.backend_of(arguments)
    tested = evaluate_questions.tested(arguments.test, [corpus.DEVELOPMENT_SET])
    langs = (
        arguments.langs.split(",") if arguments.langs else [each for each in tested if each in backend.info.languages]
    )
    held_out = corpus.test_sentences(arguments.test)
    dictionary = corpus.dictionary_of(arguments.corpus, langs, held_out)
    questions = questions_of(backend, arguments.test, dictionary, langs, arguments.limit)
    if not questions:
        raise SystemExit(f"There is nothing to ask for marks in {str(arguments.test)!r}; look at --langs.")
    with Kept(arguments.out) as kept:
        said = said_by(backend, questions, evaluate_questions.through_backend(backend), kept, arguments)
    return {"task": "marks", **said.summary(), **marks_scores(questions, said.answers)}


def show(result: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in result["scores"].items())
