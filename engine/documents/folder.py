"""A document as a folder of files, so that work outlives the process. Knows no tasks and no transport.

`order.json` and `source` are there from the beginning, `cut.jsonl` has the segments it was cut into, `segments.jsonl`
grows by a line for each that is finished, retried or edited, of which the newest counts, and `answer.json` with
`result`, or `error.json`, ends it. While there is a `stale`, the result is older than the lines. `begun.json` is there
while it is worked on, and so after the process has died at that. Each but the lines is written whole or not at all.
"""

import errno
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from engine.documents.file import Options
from engine.documents.pace import Pace
from engine.errors import NotStored
from engine.files import sync_names, why, write_whole
from engine.job import Job as Cut
from engine.types import (
    Finished,
    Guess,
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
_OURS = re.compile(  # what `secrets.token_urlsafe(16)` makes; that is being written, or removed
    r"([\w-]{22})(\.new|\.gone)?"
)
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, StopIteration)


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked: the file's name, and a request whose text is in the file."""

    name: str
    request: TranslationRequest
    options: Options = field(default_factory=Options)


_ORDERS, _ANSWERS = TypeAdapter(Order), TypeAdapter(Finished)


@dataclass(slots=True)
class Job:
    """A document and how far it is. `error` is a sentence and its code, also of a retry that left all as it was;
    `answer` has all there is to say but texts."""

    id: str
    order: Order
    created: float
    size_bytes: int
    status: Status = "queued"
    segments_done: int = 0
    segments_total: int | None = None
    error: tuple[str, str] | None = None
    answer: Finished | None = None
    warned: int = 0  # segments
    edited: int = 0  # by hand
    changes: int = 0  # since the program started
    stale: bool = False  # whether the result is older than the last of them
    pace: Pace = field(default_factory=Pace)
    work_left: int = 0  # tokens of the sources that are still to be translated
    deaths: int = 0  # of the process, one after the other, each while it worked on this

    @property
    def ended(self) -> bool:
        return self.status in ("done", "error")

    @property
    def tokens_per_second(self) -> float:
        return self.pace.tokens_per_second() if self.status == "translating" else 0.0

    @property
    def seconds_left(self) -> float | None:
        seconds = self.pace.seconds_left(self.work_left) if self.status == "translating" else None
        return None if seconds is None else round(seconds, 1)

    def forget_glossary(self) -> None:
        """Once it has ended nobody asks for that again, and a hundred of them would be a gigabyte."""
        self.order = replace(self.order, request=replace(self.order.request, glossary=()))

    @property
    def is_old(self) -> bool:
        return self.ended and time.time() - self.created > KEPT_SECONDS


def jobs_in(shelf: Path) -> list[Job]:
    """What the folders of `shelf` hold, the oldest first. Whatever else stands there is left alone."""
    jobs = []
    try:
        paths = list(shelf.iterdir())
    except OSError as error:
        log.warning("%s cannot be read (%s): there are no documents", shelf, error.strerror)
        return []
    for path in paths:
        if not (name := _OURS.fullmatch(path.name)):
            continue
        if name[2]:  # the process was killed then
            shutil.rmtree(path, ignore_errors=True)
            continue
        try:
            said = _json(path / "order.json")
            size = (path / "source").stat().st_size
            job = Job(path.name, _order(said), _number(said["created"]), size)
        except _DAMAGED as error:
            log.warning("%s holds no document that this Yiwen can read (%s) and is left as it is", path, why(error))
            continue
        _read_end(path, job)
        job.deaths = _read_begun(path)
        if job.ended:
            job.forget_glossary()
        jobs.append(job)
    return sorted(jobs, key=lambda job: job.created)


def _read_end(folder: Path, job: Job) -> None:
    """Whether the document has ended, and how. What cannot be read has not: it is done again."""
    job.stale = (folder / "stale").exists()
    try:
        if (folder / "error.json").exists():
            sentence, code = _json(folder / "error.json")
            job.error, job.status = (_text(sentence), _text(code)), "error"
        elif (folder / "answer.json").exists() and (folder / "result").exists():
            said = _json(folder / "answer.json")
            warned = {warning["segment"] for warning in said["warnings"]} - {None}
            job.warned, job.edited = int(said.pop("warned", len(warned))), int(said.pop("edited", 0))
            job.answer = _answer(said)
            job.status, job.segments_done, job.segments_total = "done", job.answer.segments, job.answer.segments
    except _DAMAGED as error:
        log.warning("%s has an end that cannot be read (%s) and is done again", folder, why(error))


def _read_begun(folder: Path) -> int:
    try:
        said = _json(folder / "begun.json")
        if not isinstance(said, int) or said < 0:
            raise ValueError("a count is none")
    except FileNotFoundError:
        return 0
    except _DAMAGED as error:
        log.warning("%s does not say how often it was begun (%s); it is begun once more", folder, why(error))
        return 0
    return said


def write_order(folder: Path, job: Job, data: bytes) -> None:
    """All of it or nothing. Raises `NotStored`."""
    coming = folder.with_name(f"{folder.name}.new")
    with _storing("document"):
        try:
            coming.mkdir(mode=0o700)
            write_whole(coming / "source", data)
            said = asdict(job.order)
            del said["request"]["tags"]  # rules for a text: no file has any
            _write_json(coming / "order.json", {**said, "created": job.created})
            coming.rename(folder)
            sync_names(folder.parent)
        except OSError:
            shutil.rmtree(coming, ignore_errors=True)
            raise


def read_order(folder: Path) -> Order:
    """With its glossary, which nobody keeps in memory once it has ended. Raises `NotStored`."""
    try:
        return _order(_json(folder / "order.json"))
    except _DAMAGED as error:
        raise NotStored(f"What was asked of the document cannot be read ({why(error)}); send it again.") from error


def write_answer(folder: Path, result: bytes, answer: Finished, warned: int, edited: int) -> None:
    """`warned` and `edited` say how many segments are. Raises `NotStored`."""
    with _storing("document"):
        write_whole(folder / "result", result)
        _write_json(folder / "answer.json", {**asdict(answer), "warned": warned, "edited": edited})


def write_error(folder: Path, sentence: str, code: str) -> None:
    """Raises `NotStored`."""
    with _storing("document"):
        _write_json(folder / "error.json", [sentence, code])


def forget_error(folder: Path) -> None:
    """Raises `NotStored`."""
    with _storing("document"):
        (folder / "error.json").unlink(missing_ok=True)


def write_begun(folder: Path, count: int) -> None:
    """How often it was begun and neither ended nor was stopped in order. Raises `NotStored`."""
    with _storing("document"):
        if count:
            _write_json(folder / "begun.json", count)
        else:
            (folder / "begun.json").unlink(missing_ok=True)


def forget_stale(folder: Path) -> None:
    """Raises `NotStored`."""
    with _storing("document"):
        (folder / "stale").unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """All of it or nothing, whenever the process is killed. Raises `NotStored`."""
    gone = folder.with_name(f"{folder.name}.gone")
    try:
        folder.rename(gone)
        sync_names(folder.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise NotStored(
            f"The document could not be deleted ({why(error)}); see to the data folder of the server."
        ) from error
    shutil.rmtree(gone, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------------------------
# segments


@dataclass(frozen=True, slots=True)
class Kept:
    """The segments of a document as they were cut for `model`, without tags; and what each mark stands for."""

    cut: Cut
    model: str
    shows: list[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Line:
    """A finished segment, and which model it is from; `edited` by hand."""

    done: Translated
    model: str
    edited: bool = False


def write_cut(folder: Path, kept: Kept) -> None:
    """Raises `NotStored`."""
    cut = kept.cut
    head = {
        "model": kept.model,
        "source": cut.source,
        "detection": [asdict(guess) for guess in cut.detection],
        "warnings": [asdict(warning) for warning in cut.warnings],
        "tails": cut.tails,
        "context": cut.segments[0].context if cut.segments else "",
    }
    lines: list[dict[str, Any]] = [head]
    for part, shows in zip(cut.segments, kept.shows, strict=True):
        lines.append(
            {
                "block": part.block,
                "gap": part.gap,
                "text": part.text,
                "tokens": part.tokens,
                "kept": part.kept,
                "terms": [[term.source, term.target, term.case] for term in part.terms],
                "before": part.before,
                "shows": shows,
            }
        )
    with _storing("document"):
        write_whole(folder / "cut.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())


def read_cut(folder: Path) -> Kept | None:
    """None where there is none that can be read."""
    segments: list[Segment] = []
    shows: list[Mapping[str, str]] = []
    try:
        with (folder / "cut.jsonl").open(encoding="utf-8") as lines:
            head = json.loads(next(lines))
            for index, text in enumerate(lines):
                said = json.loads(text)
                kept = {int(number): word for number, word in said.pop("kept").items()}
                shows.append(said.pop("shows"))
                terms = tuple(Term(*term) for term in said.pop("terms"))
                tags = {number: (word, "") for number, word in kept.items()}
                segments.append(Segment(index, **said, tags=tags, kept=kept, terms=terms, context=head["context"]))
        detection = tuple(Guess(**guess) for guess in head["detection"])
        warnings = tuple(Warning(**warning) for warning in head["warnings"])
        return Kept(Cut((), segments, head["tails"], head["source"], detection, warnings), head["model"], shows)
    except FileNotFoundError:
        return None
    except _DAMAGED as error:
        log.warning("%s has segments that cannot be read (%s); it is cut again", folder, why(error))
        return None


def add_lines(folder: Path, lines: Iterable[Line]) -> None:
    """They are on the disk before this returns. Raises `NotStored`."""
    _add(folder, "".join(map(_line, lines)), stale=True, synced=True)


def add_line(folder: Path, line: Line, *, stale: bool) -> None:
    """One that can be had again, so that it does not wait for the disk. `stale`: there is a result, made before it.

    Raises `NotStored`.
    """
    _add(folder, _line(line), stale=stale, synced=False)


def _add(folder: Path, lines: str, *, stale: bool, synced: bool) -> None:
    with _storing("segment"):
        if stale:
            (folder / "stale").touch()
        with (folder / "segments.jsonl").open("ab", buffering=0) as file:  # in one go, whoever else writes
            data = f"\n{lines}".encode()  # what is there may end in half a line
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if synced:
                os.fsync(file.fileno())


def _line(line: Line) -> str:
    done = line.done
    said = {
        "model": line.model,
        "segment": {"index": done.segment.index, "text": done.segment.text},
        "text": done.text,
        "tokens": done.tokens,
        "terms": [asdict(term) for term in done.terms],
        "warnings": [asdict(warning) for warning in done.warnings],
        "changed": done.changed,
        "edited": line.edited,
    }
    return json.dumps(said) + "\n"


def known_lines(folder: Path, segments: list[Segment], model: str | None = None) -> dict[int, Line]:
    """The newest line of each of the `segments` that has one with its text: by hand, or by `model` where that is
    named. Lines that are not whole are left out. Raises `NotStored` where they cannot be read."""
    known: dict[int, Line] = {}
    for said in _lines(folder / "segments.jsonl"):
        try:
            by, edited, segment = said.pop("model"), said.pop("edited", False), said.pop("segment")
            index = segment["index"]
            _text(said["text"])
            said["tokens"] = int(said["tokens"])
            if (
                (model in (None, by) or edited)
                and 0 <= index < len(segments)
                and segments[index].text == segment["text"]
            ):
                terms = tuple(TermResult(**term) for term in said.pop("terms"))
                warnings = tuple(Warning(**warning) for warning in said.pop("warnings"))
                done = Translated(segments[index], terms=terms, warnings=warnings, **said)
                known[index] = Line(done, by, edited)
        except _DAMAGED:
            continue
    return known


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as lines:
            for text in lines:
                try:
                    if isinstance(done := json.loads(text), dict):
                        yield done
                except (ValueError, RecursionError):
                    continue
    except FileNotFoundError:
        return
    except OSError as error:
        raise NotStored(
            f"The segments of the document cannot be read ({why(error)}); see to the data folder of the server."
        ) from error


def _order(said: dict[str, Any]) -> Order:
    """Raises `ValueError` where anything in it is of another kind than it was written."""
    return _ORDERS.validate_python(said)


def _answer(said: dict[str, Any]) -> Finished:
    """Raises `ValueError` likewise."""
    return _ANSWERS.validate_python({**said, "texts": (), "changes": ()})


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes(), parse_constant=_number)  # which is no number: NaN, Infinity


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is none")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("a number is none")
    return float(value)


def _write_json(path: Path, value: object) -> None:
    write_whole(path, json.dumps(value).encode())


@contextmanager
def _storing(what: str) -> Iterator[None]:
    """Says in a sentence what the disk refuses."""
    try:
        yield
    except OSError as error:
        raise NotStored(
            f"The {what} could not be stored ({why(error)}); see to the data folder of the server."
        ) from error
