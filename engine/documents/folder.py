"""A document as a folder of files, so that work outlives the process. Knows no tasks and no transport.

`order.json` and `source` are there from the beginning, `segments.jsonl` grows by a line for each finished segment, and
`answer.json` with `result`, or `error.json`, ends it. Each but the lines is written whole or not at all.
"""

import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from engine.documents.file import Options
from engine.files import write_whole
from engine.types import (
    Finished,
    Guess,
    Sampling,
    Segment,
    Term,
    TermResult,
    Translated,
    TranslationRequest,
    Warning,
)

KEPT_SECONDS = 7 * 24 * 3600  # of what is done

Status = Literal["queued", "translating", "done", "error"]
log = logging.getLogger(__name__)
_OURS = re.compile(r"[\w-]{22}")  # what `secrets.token_urlsafe(16)` makes


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked: the file's name, and a request whose text is in the file."""

    name: str
    request: TranslationRequest
    options: Options = field(default_factory=Options)


@dataclass(slots=True)
class Job:
    """A document and how far it is. `error` is a sentence and its code; `answer` has all there is to say but texts."""

    id: str
    order: Order
    created: float
    status: Status = "queued"
    segments_done: int = 0
    segments_total: int | None = None
    error: tuple[str, str] | None = None
    answer: Finished | None = None

    @property
    def ended(self) -> bool:
        return self.status in ("done", "error")

    def forget_glossary(self) -> None:
        """Once it has ended nobody asks for that again, and a hundred of them would be a gigabyte."""
        self.order = replace(self.order, request=replace(self.order.request, glossary=()))

    @property
    def is_old(self) -> bool:
        return self.ended and time.time() - self.created > KEPT_SECONDS


def jobs_in(shelf: Path) -> list[Job]:
    """What the folders of `shelf` hold, the oldest first. Whatever else stands there is left alone."""
    jobs = []
    for path in shelf.iterdir():
        if not _OURS.fullmatch(path.name) or not path.is_dir():
            continue
        try:
            said = json.loads((path / "order.json").read_text("utf-8"))
            job = Job(path.name, _order(said), said["created"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s holds no document that this Yiwen can read (%r) and is left as it is", path, error)
            continue
        _read_end(path, job)
        if job.ended:
            job.forget_glossary()
        jobs.append(job)
    return sorted(jobs, key=lambda job: job.created)


def _read_end(folder: Path, job: Job) -> None:
    """Whether the document has ended, and how. What cannot be read has not: it is done again."""
    try:
        if (folder / "error.json").exists():
            sentence, code = json.loads((folder / "error.json").read_text("utf-8"))
            job.error, job.status = (sentence, code), "error"
        elif (folder / "answer.json").exists() and (folder / "result").exists():
            job.answer = _answer(json.loads((folder / "answer.json").read_text("utf-8")))
            job.status, job.segments_done, job.segments_total = "done", job.answer.segments, job.answer.segments
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s has an end that cannot be read (%r) and is done again", folder, error)


def write_order(folder: Path, job: Job, data: bytes) -> None:
    folder.mkdir(mode=0o700)
    write_whole(folder / "source", data)
    _write_json(folder / "order.json", {**asdict(job.order), "created": job.created})


def write_answer(folder: Path, result: bytes, answer: Finished) -> None:
    write_whole(folder / "result", result)
    _write_json(folder / "answer.json", asdict(answer))


def write_error(folder: Path, sentence: str, code: str) -> None:
    _write_json(folder / "error.json", [sentence, code])


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def line(done: Translated, model: str) -> str:
    """A finished segment as a line of `segments.jsonl`."""
    said = asdict(done)
    said["segment"] = {"index": done.segment.index, "text": done.segment.text}
    return json.dumps({"model": model, **said}) + "\n"


def known_segments(folder: Path, model: str) -> dict[int, Translated]:
    """What `model` has translated of the document, by the segments' indices; lines that are not whole are left out."""
    known: dict[int, Translated] = {}
    for done in _lines(folder / "segments.jsonl"):
        try:
            if done.pop("model") == model:
                segment = Segment(**done.pop("segment"))
                terms = tuple(TermResult(**term) for term in done.pop("terms"))
                warnings = tuple(Warning(**warning) for warning in done.pop("warnings"))
                known[segment.index] = Translated(segment, terms=terms, warnings=warnings, **done)
        except (KeyError, TypeError):
            continue
    return known


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text("utf-8", errors="replace").split("\n") if path.exists() else []:
        try:
            if isinstance(done := json.loads(text), dict):
                yield done
        except ValueError:
            continue


def _order(said: dict[str, Any]) -> Order:
    request = said["request"]
    request["glossary"] = tuple(Term(**term) for term in request["glossary"])
    request["sampling"] = Sampling(**request["sampling"])
    options = {**said["options"], "exclude": tuple(said["options"]["exclude"])}
    return Order(said["name"], TranslationRequest(**request), Options(**options))


def _answer(said: dict[str, Any]) -> Finished:
    lists = {"detection": Guess, "terms": TermResult, "warnings": Warning}
    made = {name: tuple(kind(**each) for each in said[name]) for name, kind in lists.items()}
    return Finished(**{**said, **made, "texts": ()})


def _write_json(path: Path, value: object) -> None:
    write_whole(path, json.dumps(value).encode())
