"""Documents under way and done, each in a folder of its own, so that work outlives the process. Knows no transport.

A folder holds `order.json` and `source`; `segments.jsonl` grows by a line for each finished segment; `answer.json` with
`result`, or `error.json`, ends it. What has no end when the program starts goes on where it stood.
"""

import asyncio
import json
import logging
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from filelock import FileLock, Timeout

from engine.documents.file import File, Options
from engine.documents.read import read
from engine.errors import DocumentNotReady, EmptyText, NoSuchDocument, Overloaded, YiwenError
from engine.metrics import Metrics
from engine.translator import Translator
from engine.types import (
    Finished,
    Guess,
    Sampling,
    Segment,
    Started,
    Term,
    TermResult,
    Translated,
    TranslationRequest,
    Warning,
)

AT_ONCE = 4  # documents that are translated side by side; each takes its turns with all other requests
MOST_KEPT = 100  # the oldest finished ones make room
KEPT_SECONDS = 7 * 24 * 3600
MOST_WARNINGS = 100  # that are told of one document
NAME_CHARACTERS = 150

Status = Literal["queued", "translating", "done", "error"]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked: the file's name, and a request whose text is in the file."""

    name: str
    request: TranslationRequest
    options: Options = field(default_factory=Options)


@dataclass(slots=True)
class Job:
    """A document and how far it is. `error` is a sentence and its code."""

    id: str
    order: Order
    created: float
    status: Status = "queued"
    segments_done: int = 0
    segments_total: int | None = None
    error: tuple[str, str] | None = None
    answer: Finished | None = None  # all there is to say of it but its texts
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Documents:
    """Translates one after the other what is added. To be used within one event loop, after `start`."""

    def __init__(self, translator: Translator, metrics: Metrics, folder: Path) -> None:
        self._translator, self._metrics = translator, metrics
        self._wanted = folder
        self._jobs: dict[str, Job] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._lock: FileLock | None = None
        self._folder = folder

    async def start(self) -> None:
        """Takes the folder, or a passing one where that cannot be had, and goes on with what is unfinished there."""
        self._folder, self._lock = await asyncio.to_thread(_taken, self._wanted)
        for job in await asyncio.to_thread(lambda: list(_found(self._folder))):
            self._jobs[job.id] = job
            if job.status == "queued":
                job.task = asyncio.create_task(self._run(job, None))

    async def close(self) -> None:
        """Stops what is under way; it goes on at the next start."""
        await _stop([job.task for job in self._jobs.values() if job.task])
        if self._lock:
            self._lock.release()

    async def add(self, data: bytes, order: Order) -> Job:
        """Raises what is wrong with the file or the request; what comes up later is in the job's `error`."""
        if not data:
            raise EmptyText("The file is empty; send one with text in it.")
        order = replace(order, name=_plain_name(order.name))
        request = self._translator.checked(order.request, 0)
        order = replace(order, request=request, options=replace(order.options, target=request.target))
        file = await asyncio.to_thread(read, order.name, data, order.options)
        self._translator.checked(request, sum(len(block.text) for block in file.blocks))
        await self._make_room()
        job = Job(secrets.token_urlsafe(16), order, time.time())
        await asyncio.to_thread(_write_order, self._folder / job.id, job, data)
        self._jobs[job.id] = job
        # what must wait is read again when its turn comes, and takes no memory until then
        job.task = asyncio.create_task(self._run(job, None if self._turns.locked() else file))
        return job

    def get(self, document_id: str) -> Job:
        if (job := self._jobs.get(document_id)) is None:
            raise NoSuchDocument(
                "There is no such document; it was deleted, or is older than a week. Send the file again."
            )
        return job

    def result(self, document_id: str) -> tuple[Path, str]:
        """The file and its name."""
        job = self.get(document_id)
        if job.error:
            raise DocumentNotReady(f"The document was not translated: {job.error[0]}")
        if job.answer is None:
            far = f"{job.segments_done:,} of {job.segments_total or 0:,} segments are"
            raise DocumentNotReady(f"The document is not ready: {far}; ask again when its status is done.")
        return self._folder / job.id / "result", result_name(job)

    async def remove(self, document_id: str) -> None:
        """Cancels it where it is under way; nothing of it is left."""
        job = self.get(document_id)
        del self._jobs[document_id]
        await _stop([job.task] if job.task else [])
        await asyncio.to_thread(shutil.rmtree, self._folder / document_id, ignore_errors=True)

    async def _make_room(self) -> None:
        ended = [job for job in self._jobs.values() if job.status in ("done", "error")]
        ended.sort(key=lambda job: job.created)
        too_many = len(self._jobs) - MOST_KEPT + 1
        for index, job in enumerate(ended):
            if index < too_many or time.time() - job.created > KEPT_SECONDS:
                await self.remove(job.id)
        if len(self._jobs) >= MOST_KEPT:
            raise Overloaded(f"{MOST_KEPT} documents are waiting already; send this one later.", 60)

    async def _run(self, job: Job, file: File | None) -> None:
        folder = self._folder / job.id
        try:
            async with self._turns:
                if file is None:
                    data = await asyncio.to_thread((folder / "source").read_bytes)
                    file = await asyncio.to_thread(read, job.order.name, data, job.order.options)
                job.status = "translating"
                finished = await self._translated(job, file, folder)
                job.answer = await asyncio.to_thread(_save, file, finished, folder)
                job.status = "done"
        except YiwenError as error:
            self._fail(job, folder, str(error), error.code)
        except Exception:  # the end of a task: the document would seem under way for ever
            log.exception("a document failed")
            self._fail(job, folder, "Yiwen made a mistake with this file; its log says more.", YiwenError.code)

    async def _translated(self, job: Job, file: File, folder: Path) -> Finished:
        while True:
            try:
                return await self._attempt(job, file, folder)
            except Overloaded as error:
                job.status = "queued"
                await asyncio.sleep(error.retry_after_seconds)

    async def _attempt(self, job: Job, file: File, folder: Path) -> Finished:
        known = await asyncio.to_thread(_known, folder / "segments.jsonl")
        events = self._metrics.observe(self._translator.stream_blocks(job.order.request, file.blocks, known))
        job.segments_done = 0
        with (folder / "segments.jsonl").open("a", encoding="utf-8") as lines:
            lines.write("\n")  # the last line may lack its end
            async with aclosing(events):
                async for event in events:
                    match event:
                        case Started():
                            job.status, job.segments_total = "translating", event.segments
                        case Translated():
                            job.segments_done += 1
                            if event.segment.text not in known:
                                lines.write(_line(event))
                                lines.flush()
                        case Finished():
                            return event
        raise AssertionError("a run ended without Finished")

    def _fail(self, job: Job, folder: Path, sentence: str, code: str) -> None:
        job.status, job.error = "error", (sentence, code)
        _write(folder / "error.json", [sentence, code])


async def _stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _taken(folder: Path) -> tuple[Path, FileLock | None]:
    folder = folder.expanduser() / "documents"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(folder / ".lock", thread_local=False)
        lock.acquire(blocking=False)
        return folder, lock
    except Timeout:
        why = "another Yiwen works in it"
    except OSError as error:
        why = error.strerror or str(error)
    log.warning("%s cannot be used (%s): documents will not outlive a restart; choose another --data-dir", folder, why)
    return Path(tempfile.mkdtemp(prefix="yiwen-")), None


def _found(folder: Path) -> Iterator[Job]:
    """The jobs in the folder; what is no whole one is removed."""
    for path in folder.iterdir():
        if not path.is_dir():
            continue
        try:
            order = json.loads((path / "order.json").read_text("utf-8"))
            job = Job(path.name, _order(order), order["created"])
            if (path / "answer.json").exists():
                job.answer, job.status = _answer(json.loads((path / "answer.json").read_text("utf-8"))), "done"
                job.segments_done = job.segments_total = job.answer.segments
            elif (path / "error.json").exists():
                sentence, code = json.loads((path / "error.json").read_text("utf-8"))
                job.error, job.status = (sentence, code), "error"
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s holds no whole document (%r) and is removed", path, error)
            shutil.rmtree(path, ignore_errors=True)
            continue
        yield job


def _write_order(folder: Path, job: Job, data: bytes) -> None:
    folder.mkdir(mode=0o700)
    (folder / "source").write_bytes(data)
    _write(folder / "order.json", {**asdict(job.order), "created": job.created})


def _order(order: dict[str, Any]) -> Order:
    request = order["request"]
    request["glossary"] = tuple(Term(**term) for term in request["glossary"])
    request["sampling"] = Sampling(**request["sampling"])
    options = {**order["options"], "exclude": tuple(order["options"]["exclude"])}
    return Order(order["name"], TranslationRequest(**request), Options(**options))


def result_name(job: Job) -> str:
    """`report.docx` → `report.fr.docx`"""
    path = PurePosixPath(job.order.name)
    return f"{path.stem}.{job.order.request.target}{path.suffix}"


def _save(file: File, finished: Finished, folder: Path) -> Finished:
    faults = file.faults(finished.texts) or []
    texts = [
        block.text if number in faults else text
        for number, (block, text) in enumerate(zip(file.blocks, finished.texts, strict=True))
    ]
    (folder / "result").write_bytes(file.save(texts))
    warnings = list(finished.warnings)
    if faults:
        what = f"The translation of {len(faults):,} parts would have broken the document's structure"
        warnings.insert(0, Warning("source_kept", f"{what}, so their source text was kept."))
    if (more := len(warnings) - MOST_WARNINGS) > 0:
        warnings[MOST_WARNINGS:] = [Warning("more_warnings", f"There are {more:,} more warnings like these.")]
    answer = replace(finished, texts=(), warnings=tuple(warnings))
    _write(folder / "answer.json", asdict(answer))
    return answer


def _answer(answer: dict[str, Any]) -> Finished:
    return Finished(
        **{
            **answer,
            "texts": (),
            "detection": tuple(Guess(**guess) for guess in answer["detection"]),
            "terms": tuple(TermResult(**term) for term in answer["terms"]),
            "warnings": tuple(Warning(**warning) for warning in answer["warnings"]),
        }
    )


def _line(done: Translated) -> str:
    line = {
        "source": done.segment.text,
        "text": done.text,
        "tokens": done.tokens,
        "terms": [asdict(term) for term in done.terms],
        "warnings": [asdict(warning) for warning in done.warnings],
    }
    return json.dumps(line) + "\n"


def _known(path: Path) -> dict[str, Translated]:
    """Finished segments by their source; a last line that was not written whole is left out."""
    known: dict[str, Translated] = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            read_line = json.loads(line)
            known[read_line["source"]] = Translated(
                Segment(0, read_line["source"]),
                read_line["text"],
                read_line["tokens"],
                tuple(TermResult(**term) for term in read_line["terms"]),
                tuple(Warning(**warning) for warning in read_line["warnings"]),
            )
        except (ValueError, KeyError, TypeError):
            continue
    return known


def _write(path: Path, value: object) -> None:
    """Whole or not at all."""
    passing = path.with_suffix(".new")
    passing.write_text(json.dumps(value), "utf-8")
    passing.replace(path)


def _plain_name(name: str) -> str:
    """Without folders and what no file's name should hold."""
    name = PureWindowsPath(PurePosixPath(name).name).name
    name = re.sub(r"[\x00-\x1f\x7f<>:\"|?*/\\]", "_", name).strip(". ")
    path = PurePosixPath(name)
    return f"{path.stem[:NAME_CHARACTERS]}{path.suffix[:20]}" or "document"
