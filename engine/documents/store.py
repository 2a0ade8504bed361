"""Documents under way and done: takes files in, has them translated, keeps what came of it. Knows no transport.

Each is a folder (`folder`) in the data folder; what has no end there when the program starts goes on where it stood.
"""

import asyncio
import logging
import re
import secrets
import time
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeVar

from engine import files
from engine.documents import folder
from engine.documents.file import File
from engine.documents.folder import Job, Order
from engine.documents.read import read
from engine.errors import BackendError, DocumentNotReady, EmptyText, NoSuchDocument, Overloaded, YiwenError
from engine.metrics import Metrics
from engine.translator import Translator
from engine.types import Finished, Started, Translated, Warning

AT_ONCE = 4  # documents that are translated side by side; each takes its turns with all other requests
MOST_COMING = 16  # that are being read; each is in memory
MOST_KEPT = 100  # the oldest that are done make room
MOST_WARNINGS = 100  # that are told of one document
RETRY_SECONDS = (1, 5, 30)  # after each failure of the model or its host
NAME_CHARACTERS = 150

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Documents:
    """To be used within one event loop, after `start`. `shelf` is the data folder."""

    def __init__(self, translator: Translator, metrics: Metrics, shelf: Path) -> None:
        self._translator, self._metrics = translator, metrics
        self._shelf = shelf
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._coming = 0
        self._taken: files.Taken | None = None
        # One thread for all that takes long: it keeps one core at most from those who wait for an answer, and what is
        # removed is not being written.
        self._thread = ThreadPoolExecutor(1, "documents")

    async def start(self) -> None:
        """Takes the shelf, or a passing one where that cannot be had, and goes on with what is unfinished there."""
        self._taken = await self._in_thread(lambda: files.take(self._shelf / "documents"))
        self._shelf = self._taken.path
        for job in await self._in_thread(lambda: folder.jobs_in(self._shelf)):
            self._jobs[job.id] = job
            if not job.ended:
                self._begin(job, None)
        await self._remove_all(job.id for job in list(self._jobs.values()) if job.is_old)

    async def close(self) -> None:
        """Stops what is under way; it goes on at the next start."""
        await _stop(self._tasks.values())
        await self._in_thread(lambda: None)  # what is being written is written
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._taken:
            files.leave(self._taken)

    async def add(self, data: bytes, order: Order) -> Job:
        """Raises what is wrong with the file or the request; what comes up later is in the job's `error`."""
        if not data:
            raise EmptyText("The file is empty; send one with text in it.")
        request = self._translator.checked(order.request, ())
        options = replace(order.options, source=request.source or "", target=request.target)
        order = replace(order, name=_plain_name(order.name), request=request, options=options)
        if self._coming >= MOST_COMING or len(self._jobs) + self._coming - len(self._ended()) >= MOST_KEPT:
            raise Overloaded("Too many documents are waiting already; send this one later.", 60)
        self._coming += 1
        try:
            file = await self._in_thread(lambda: read(order.name, data, order.options))
            self._translator.checked(request, [block.text for block in file.blocks])
            too_many = max(0, len(self._jobs) + self._coming - MOST_KEPT)
            ended = self._ended()
            old = {job.id for job in ended if job.is_old} | {job.id for job in ended[:too_many]}
            await self._remove_all(old)
            job = Job(secrets.token_urlsafe(16), order, time.time())
            await self._in_thread(lambda: folder.write_order(self._shelf / job.id, job, data))
        finally:
            self._coming -= 1
        self._jobs[job.id] = job
        # what must wait is read again when its turn comes, and takes no memory until then
        self._begin(job, file if len(self._tasks) < AT_ONCE else None)
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
        path = self._shelf / job.id / "result"
        if not path.is_file():
            raise NoSuchDocument("The document's file is gone from the data folder; send the original again.")
        return path, result_name(job)

    async def remove(self, document_id: str) -> None:
        """Cancels it where it is under way; nothing of it is left."""
        self.get(document_id)
        await self._remove_all([document_id])

    async def _remove_all(self, document_ids: Iterable[str]) -> None:
        for document_id in document_ids:
            if self._jobs.pop(document_id, None):
                if task := self._tasks.get(document_id):
                    await _stop([task])
                path = self._shelf / document_id
                await self._in_thread(lambda path=path: folder.remove(path))  # type: ignore[misc]

    def _ended(self) -> list[Job]:
        """The oldest first."""
        return sorted((job for job in self._jobs.values() if job.ended), key=lambda job: job.created)

    def _begin(self, job: Job, file: File | None) -> None:
        task = self._tasks[job.id] = asyncio.create_task(self._run(job, file))
        task.add_done_callback(lambda _: self._tasks.pop(job.id))

    async def _run(self, job: Job, file: File | None) -> None:
        place = self._shelf / job.id
        try:
            async with self._turns:
                if file is None:
                    file = await self._in_thread(lambda: _read_again(place, job.order))
                finished = await self._translated(job, file, place)
                job.answer = await self._in_thread(lambda: _save(file, finished, place))
                job.status = "done"
                job.forget_glossary()
        except YiwenError as error:
            self._fail(job, str(error), error.code)
        except Exception:  # the end of a task: the document would seem under way for ever
            log.exception("a document failed")
            self._fail(job, "Yiwen made a mistake with this file; its log says more.", YiwenError.code)

    async def _translated(self, job: Job, file: File, place: Path) -> Finished:
        """Tries again what may go better later; what is finished is not asked for twice."""
        pauses, most = iter(RETRY_SECONDS), 0
        while True:
            try:
                return await self._attempt(job, file, place)
            except Overloaded as error:
                pause = error.retry_after_seconds
            except BackendError as error:
                if job.segments_done > most:  # it has got on since
                    pauses, most = iter(RETRY_SECONDS), job.segments_done
                pause = next(pauses, 0)
                if not pause:
                    raise
                log.warning("a document is tried again in %s s: %s", pause, error)
            job.status = "queued"
            await asyncio.sleep(pause)

    async def _attempt(self, job: Job, file: File, place: Path) -> Finished:
        model = self._translator.info.name
        known = await self._in_thread(lambda: folder.known_segments(place, model))
        events = self._metrics.observe(self._translator.stream_blocks(job.order.request, file.blocks, known))
        job.status, job.segments_done = "translating", 0
        with (place / "segments.jsonl").open("a", encoding="utf-8") as lines:
            lines.write("\n")  # the last line may lack its end
            async with aclosing(events):
                async for event in events:
                    match event:
                        case Started():
                            job.segments_total = event.segments
                        case Translated():
                            job.segments_done += 1
                            if event.segment.index not in known:
                                lines.write(folder.line(event, model))
                                lines.flush()
                        case Finished():
                            return event
        raise AssertionError("a run ended without Finished")

    def _fail(self, job: Job, sentence: str, code: str) -> None:
        job.status, job.error = "error", (sentence, code)
        job.forget_glossary()
        folder.write_error(self._shelf / job.id, sentence, code)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def _stop(tasks: Iterable[asyncio.Task[None]]) -> None:
    stopping = list(tasks)
    for task in stopping:
        task.cancel()
    await asyncio.gather(*stopping, return_exceptions=True)


def _read_again(place: Path, order: Order) -> File:
    return read(order.name, (place / "source").read_bytes(), order.options)


def _save(file: File, finished: Finished, place: Path) -> Finished:
    faults = file.faults(finished.texts)
    texts = list(finished.texts)
    for number in faults:
        texts[number] = file.blocks[number].text
    warnings = list(finished.warnings)
    if faults:
        what = f"{len(faults):,} paragraphs could not be written with their translation and the structure they had"
        warnings.insert(0, Warning("source_kept", f"{what}, so their source text was kept."))
    if (more := len(warnings) - MOST_WARNINGS) > 0:
        warnings[MOST_WARNINGS:] = [Warning("more_warnings", f"There are {more:,} more warnings like these.")]
    answer = replace(finished, texts=(), warnings=tuple(warnings))
    folder.write_answer(place, file.save(texts), answer)
    return answer


def result_name(job: Job) -> str:
    """`report.docx` → `report.fr.docx`"""
    path = PurePosixPath(job.order.name)
    suffix = ".po" if path.suffix.lower() == ".pot" else path.suffix  # a template that is filled in is none any more
    return f"{path.stem}.{job.order.request.target}{suffix}"


def _plain_name(name: str) -> str:
    """Without folders and what no file's name should hold: controls, marks that turn the writing round, halves."""
    name = PureWindowsPath(PurePosixPath(name).name).name.encode("utf-8", "replace").decode()
    name = "".join(character for character in name if unicodedata.category(character)[0] != "C")
    path = PurePosixPath(re.sub(r"[<>:\"|?*/\\]", "_", name).strip(". "))
    return f"{path.stem[:NAME_CHARACTERS]}{path.suffix[:20]}" or "document"
