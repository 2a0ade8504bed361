"""Asks a model all its questions, and keeps the answers in a file as they come, so that a run cut off can go on.

A record says what was asked of which model, as a digest: so what another model, another glossary or another precision
has answered is never taken for this one's, nor what other weights in the same folder have. Knows no scores.
"""

import argparse
import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from engine.backends.base import Backend
from engine.backends.select import EMBEDDED, EMBEDDED_FOLDER
from engine.errors import ConfigError
from engine.tools import asking
from engine.tools.evaluate_questions import Answer, Ask, Question, answer_of

_QUESTION = ("set", "direction", "source", "reference")
_MODEL = ("model", "precision", "device", "backend")
_NAMES = (*_QUESTION, *_MODEL, "answer", "finish", "tokens")
_READ = (".json", ".jinja", ".safetensors", ".onnx", ".data")  # of a model's folder


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said to which questions. `seconds` is what the new answers took, those that were not there yet."""

    model: dict[str, str]
    questions: Sequence[Question]
    answers: Sequence[Answer]
    new: int = 0
    new_tokens: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        return {
            **self.model,
            "prompts": len(self.questions),
            "new_prompts": self.new,
            "tokens": sum(answer.tokens for answer in self.answers),
            "seconds": round(self.seconds, 1),
            "tokens_a_second": round(self.new_tokens / self.seconds) if self.new else 0,
        }


class Kept:
    """The file of `--out`, if there is one; with `resume` what it holds already is found again."""

    def __init__(self, path: Path | None, resume: bool = False) -> None:
        self._answers: dict[str, dict[str, Any]] = {}
        self._file = None
        if path is None:
            return
        try:
            if resume and path.exists():
                self._answers = {record["asked"]: record for record in asking.read_lines(path, (*_NAMES, "asked"))}
                with path.open("r+b") as file:  # the next line begins where the last whole one ends
                    file.truncate(file.read().rfind(b"\n") + 1)
            self._file = path.open("a" if resume else "w", encoding="utf-8", newline="\n")
        except OSError as error:
            raise ConfigError(f"The file {str(path)!r} cannot be written ({error.strerror}).") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def find(self, asked: str, question: Question) -> Answer | None:
        return _answer(question, self._answers[asked]) if asked in self._answers else None

    def of_other_weights(self, model: Mapping[str, str], weights: str) -> int:
        return sum(
            record.get("weights") != weights and all(record[name] == model[name] for name in _MODEL)
            for record in self._answers.values()
        )

    def write(self, record: dict[str, Any]) -> None:
        if self._file:
            self._file.write(f"{json.dumps(record, ensure_ascii=False)}\n")
            self._file.flush()


def said_by(
    backend: Backend,
    questions: Sequence[Question],
    ask: Ask,
    kept: Kept,
    arguments: argparse.Namespace,
    *,
    whole: bool = False,
) -> Said:
    """Asks what is not answered yet, and closes the backend; `whole` tells answers through the translator from others.

    Raises `YiwenError` where the model fails.
    """
    model = asking.model_of(backend) | {"backend": arguments.backend}
    weights = _weights(arguments.model)
    asked = [_digest(arguments, weights, question, whole) for question in questions]
    answers = {each: kept.find(each, question) for each, question in zip(asked, questions, strict=True)}
    left = {each: question for each, question in zip(asked, questions, strict=True) if answers[each] is None}
    digests = {id(question): each for each, question in left.items()}
    if left and (others := kept.of_other_weights(model, weights)):
        of = f"other weights that {model['model']} had"
        print(f"{others:,} of the answers in --out are of {of}, and count no more.", file=sys.stderr)

    def keep(question: Question, answer: Answer) -> None:
        kept.write({**_record(question, answer), **model, "weights": weights, "asked": digests[id(question)]})

    began = time.perf_counter()
    try:
        new = asyncio.run(
            asking.answers_to(
                ask, list(left.values()), backend.slots, lambda each: len(each.prompt), keep, model["model"]
            )
        )
        seconds = time.perf_counter() - began
    finally:
        asyncio.run(backend.close())
    answers.update(zip(left, new, strict=True))
    in_order = [answer for each in asked if (answer := answers[each])]
    return Said(model, questions, in_order, len(new), sum(answer.tokens for answer in new), seconds)


def said_before(path: Path, questions: Sequence[Question], most: int = 1) -> list[Said]:
    """The answers to these questions that `--out` of another run holds, of each of its models, `most` in number, with
    the weights it had last.

    Raises `ConfigError` where one is missing.
    """
    by_model: dict[tuple[str, ...], dict[tuple[str, ...], dict[str, Any]]] = {}
    weights: dict[tuple[str, ...], str | None] = {}
    for record in asking.read_lines(path, _NAMES):
        model = tuple(record[name] for name in _MODEL)
        if weights.get(model) != record.get("weights"):
            by_model[model], weights[model] = {}, record.get("weights")
        by_model.setdefault(model, {})[tuple(record[name] for name in _QUESTION)] = record
    if not 1 <= len(by_model) <= most:
        names = ", ".join(map(" ".join, by_model)) or "none"
        raise ConfigError(f"The answers {str(path)!r} are of {len(by_model)} models ({names}), and {most} can be read.")
    said = []
    for model, records in by_model.items():
        found = [records.get((each.set, each.direction, each.line, each.reference)) for each in questions]
        answers = [_answer(question, record) for question, record in zip(questions, found, strict=True) if record]
        if len(answers) < len(questions):
            raise ConfigError(
                f"The answers {str(path)!r} of {model[0]} lack {len(questions) - len(answers):,} of "
                f"{len(questions):,} questions; they must be of the same --test, --sets, --directions and --limit, and "
                "of a run that came to its end."
            )
        said.append(Said(dict(zip(_MODEL, model, strict=True)), questions, answers))
    return said


def _weights(model: str) -> str:
    """By which a folder's model is known to be the one before, without reading it; of a hub id nothing is."""
    folder = EMBEDDED_FOLDER if model == EMBEDDED else Path(model).expanduser()
    files = [(path.name, path.stat()) for path in sorted(folder.glob("*")) if path.suffix in _READ]
    return _short(str([(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _digest(arguments: argparse.Namespace, weights: str, question: Question, whole: bool) -> str:
    about = [arguments.model, weights, arguments.backend, arguments.precision, arguments.kv_dtype, arguments.kv_window]
    about += [question.set, question.direction, question.line, question.reference, question.prompt]
    about += [[[term.source, term.target, term.case] for term in question.terms], whole]
    return _short(json.dumps(about))


def _record(question: Question, answer: Answer) -> dict[str, Any]:
    return {
        "set": question.set,
        "direction": question.direction,
        "source": question.line,
        "reference": question.reference,
        "answer": answer.markup or answer.text,
        "finish": answer.finish,
        "tokens": answer.tokens,
    }


def _answer(question: Question, record: dict[str, Any]) -> Answer:
    return answer_of(question, record["answer"], record["tokens"], record["finish"])
