"""Documents under way and done: takes files in, has them translated, keeps what came of it and what is made of it by
hand. Knows no transport.

Each is a folder (`folder`) in the data folder; what has no end there when the program starts goes on where it stood,
unless the process has died again and again while it worked on that: then it waits until it is asked for.
Those under way, and a few that were looked at last, are open in memory (`workbench`).
"""

import asyncio
import logging
import re
import secrets
import shutil
import tempfile
import time
import unicodedata
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, aclosing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, TypeVar, get_args

from engine import files
from engine.documents import folder
from engine.documents.file import File
from engine.documents.folder import Job, Kept, Line, Order, Status
from engine.documents.read import read
from engine.documents.workbench import Listed, Workbench, shown
from engine.errors import (
    BackendError,
    DocumentNotReady,
    EmptyText,
    InvalidRequest,
    NoSuchDocument,
    NotStored,
    Overloaded,
    Stopping,
    YiwenError,
)
from engine.metrics import Metrics
from engine.scheduler import STOPPING_SECONDS
from engine.translator import Translator
from engine.types import Finished, Segment, Translated, TranslationRequest, new_id

AT_ONCE = 4  # documents that are translated side by side; each takes its turns with all other requests
MOST_COMING = 16  # that are being read; each is in memory
MOST_KEPT = 100  # the oldest that are done make room
MOST_OPEN_SEGMENTS = 50_000  # of documents that are open and not under way; some 2 kB each
MOST_ZIPPED = 100  # documents
ZIP_BYTES_IN_MEMORY = 8 * 1024**2  # a larger zip is made on the disk
ZIP_LEVEL = 1  # a third of the time that the usual one takes, for a sixth more bytes
ANOTHER_TEMPERATURE = 0.7  # where the model would say the same again: HY-MT's own recommendation
RETRY_SECONDS = (1, 5, 30)  # after each failure of the model or its host
MOST_DEATHS = 2  # of the process, one after the other, at work on a document that is begun by itself
DIED = "process_died"  # the code of what is not begun any more
NAME_CHARACTERS = 150

log = logging.getLogger(__name__)
Result = TypeVar("Result")
_PACKED = frozenset({".docx", ".docm", ".pptx", ".pptm", ".xlsx", ".xlsm", ".epub"})  # zips, which pack no better


class NoSuchSegment(NoSuchDocument):
    code = "no_such_segment"


class Documents:
    """To be used within one event loop, after `start`. `shelf` is the data folder."""

    def __init__(self, translator: Translator, metrics: Metrics, shelf: Path) -> None:
        self._translator, self._metrics = translator, metrics
        self._shelf = shelf
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._retries: defaultdict[str, set[asyncio.Task[Listed]]] = defaultdict(set)
        self._refreshing: asyncio.Task[None] | None = None
        self._open: OrderedDict[str, Workbench] = OrderedDict()  # the one used last is the last
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # who opens or changes one
        self._saving: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._doubtful = asyncio.Lock()  # of what may have killed the process one at a time: no other is blamed twice
        self._at_work: set[str] = set()  # those whose folders say so
        self._coming = 0
        self._taken: files.Taken | None = None
        self._pausing = False
        # One thread for all that takes long: it keeps one core at most from those who wait for an answer, and what is
        # removed is not being written.
        self._thread = ThreadPoolExecutor(1, "documents")
        self._zipping = asyncio.Semaphore(1)  # a zip holds many files open
        self._zips = ThreadPoolExecutor(1, "zips")  # of its own, so that no document waits for one

    async def start(self) -> None:
        """Takes the shelf, or a passing one where that cannot be had, and goes on with what is unfinished there."""
        self._taken = await self._in_thread(lambda: files.take(self._shelf / "documents"))
        self._shelf = self._taken.path
        for job in await self._in_thread(lambda: folder.jobs_in(self._shelf)):
            self._jobs[job.id] = job
            if not job.ended and job.deaths >= MOST_DEATHS:
                log.warning("a document is paused: the process died the last %s times at work on it", job.deaths)
                told = (
                    f"Yiwen crashed, was killed or lost its card each of the last {job.deaths} times it worked on this "
                    "document, so it is paused; what is translated is kept, and goes on once you ask for a retry."
                )
                self._fail(job, told, DIED)
            elif not job.ended:
                self._begin(job, None)
        await self._remove_all(job.id for job in list(self._jobs.values()) if job.is_old)
        self._refreshing = asyncio.create_task(self._refresh())

    def pause(self) -> None:
        """Takes nothing new; what is under way stops after its last finished segment and goes on at the next start."""
        self._pausing = True
        for document_id, task in self._tasks.items():
            task.cancel()
            if job := self._jobs.get(document_id):
                job.status = "queued"

    def _check_pausing(self) -> None:
        if self._pausing:
            raise Stopping(
                "Yiwen is being stopped and takes no document now; send it again in a minute.", STOPPING_SECONDS
            )

    async def close(self) -> None:
        """Stops what is under way; it goes on at the next start."""
        retries = [task for tasks in self._retries.values() for task in tasks]
        await _stop([*self._tasks.values(), *retries, *([self._refreshing] if self._refreshing else [])])
        await self._in_thread(lambda: None)  # what is being written is written
        for thread in (self._thread, self._zips):
            thread.shutdown(wait=False, cancel_futures=True)
        if self._taken:
            files.leave(self._taken)

    async def add(self, data: bytes, order: Order) -> Job:
        """Raises what is wrong with the file or the request; what comes up later is in the job's `error`."""
        self._check_pausing()
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
            job = Job(secrets.token_urlsafe(16), order, time.time(), len(data))
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

    def counts(self) -> Mapping[Status, int]:
        """How many there are, by status."""
        found = Counter(job.status for job in self._jobs.values())
        return {status: found[status] for status in get_args(Status)}

    def _done(self, document_id: str) -> Job:
        job = self.get(document_id)
        if job.status == "error" and job.error:
            raise DocumentNotReady(f"{job.order.name!r} was not translated: {job.error[0]}")
        if job.answer is None:
            far = f"{job.segments_done:,} of {job.segments_total or 0:,} segments are"
            raise DocumentNotReady(f"{job.order.name!r} is not ready: {far}; ask again when its status is done.")
        return job

    async def result(self, document_id: str) -> tuple[IO[bytes], str]:
        """The file, made anew where something has changed since, and its name. It is open, so that it stays as it is
        whatever becomes of the document: whoever has it closes it."""
        job = self._done(document_id)
        async with self._saving[job.id]:
            if job.stale:
                await self._save(job)
            try:
                return (self._shelf / job.id / "result").open("rb"), result_name(job)
            except FileNotFoundError as error:
                raise NoSuchDocument(
                    "The document's file is gone from the data folder; send the original again."
                ) from error
            except OSError as error:
                raise NotStored(
                    f"The document's file cannot be read ({files.why(error)}); see to the data folder of the server."
                ) from error

    async def zipped(self, document_ids: Sequence[str]) -> IO[bytes]:
        """The results as a zip, open at its beginning: whoever has it closes it."""
        ids = list(dict.fromkeys(document_ids))
        if not 0 < len(ids) <= MOST_ZIPPED:
            raise InvalidRequest(f"id must name 1 to {MOST_ZIPPED} documents, each as id=…; {len(ids)} are named.")
        for document_id in ids:  # who is told at once need not wait for the others to be made
            self._done(document_id)
        async with self._zipping:
            with ExitStack() as opened:  # where nobody waits any more, the files are closed, which ends the zip
                results = []
                for document_id in ids:
                    file, name = await self.result(document_id)
                    results.append((opened.enter_context(file), name))
                making = self._zips.submit(_zip, results)
                try:
                    return await asyncio.wrap_future(making)
                except asyncio.CancelledError:
                    making.add_done_callback(_close)
                    raise

    async def remove(self, document_id: str) -> None:
        """Cancels it where it is under way; nothing of it is left. Raises `NotStored` where it cannot be deleted."""
        self.get(document_id)
        await self._remove(document_id)

    async def _remove_all(self, document_ids: Iterable[str]) -> None:
        for document_id in document_ids:
            try:
                await self._remove(document_id)
            except NotStored as error:
                log.warning("an old document stays: %s", error)

    async def _remove(self, document_id: str) -> None:
        if (job := self._jobs.pop(document_id, None)) is None:
            return
        task = self._tasks.get(document_id)
        await _stop([*([task] if task else []), *self._retries.pop(document_id, ())])
        async with self._changing[document_id]:  # what is being written is written
            self._open.pop(document_id, None)
        for locks in (self._changing, self._saving):
            locks.pop(document_id, None)
        path = self._shelf / document_id
        try:
            await self._in_thread(lambda: folder.remove(path))
        except NotStored:
            self._jobs[document_id] = job
            raise

    def _ended(self) -> list[Job]:
        """The oldest first."""
        return sorted((job for job in self._jobs.values() if job.ended), key=lambda job: job.created)

    # -----------------------------------------------------------------------------------------------------------------
    # segments

    async def segments(
        self, document_id: str, start: int, count: int, only: str = "", wanted: str = ""
    ) -> tuple[int, list[Listed]]:
        """See `Workbench.listed`; none while the document has not been cut into segments."""
        bench = await self._looked_at(self.get(document_id))
        if bench is None:
            return 0, []
        if not wanted:
            return bench.listed(start, count, only)
        return await asyncio.to_thread(bench.listed, start, count, only, wanted)

    async def edit(self, document_id: str, index: int, text: str) -> Listed:
        """The segment with a text by hand. Raises what is wrong with that, and the old one stays."""
        job = self.get(document_id)
        async with self._changing[job.id]:
            bench = await self._ready(job, index)
            done = bench.by_hand(index, text)
            if await _breaks(bench, done):
                raise InvalidRequest(
                    f"Segment {index + 1} cannot be written with this text and the structure the document has; take "
                    "out what may be read as markup there, or leave it as it was."
                )
            await self._put(job, bench, Line(done, "", edited=True))
        return bench.segment(index)

    async def retry(self, document_id: str, index: int) -> Listed:
        """The segment, translated again. An edit made meanwhile stays."""
        job = self.get(document_id)
        async with self._changing[job.id]:
            bench = await self._ready(job, index)
            before = bench.segment(index)
            part, source = bench.cut.segments[index], bench.cut.source
        task = asyncio.create_task(self._again(job, source, part, before))
        self._retries[job.id].add(task)
        try:
            return await task
        except asyncio.CancelledError:
            self.get(document_id)  # it was deleted
            raise
        finally:
            if tasks := self._retries.get(job.id):
                tasks.discard(task)

    async def retry_failed(self, document_id: str) -> Job:
        """Begins with the segments that kept their source or were never done; of others nothing changes."""
        self._check_pausing()
        job = self.get(document_id)
        async with self._changing[job.id]:
            if not job.ended:
                raise DocumentNotReady("The document is under way; its failed segments can be retried once it is done.")
            if job.status == "done":
                bench = await self._opened(job)
                assert bench is not None, "what has ended was cut"
                if not bench.failed():
                    return job
            if job.deaths >= MOST_DEATHS:  # once more, also where its turn comes after the next start
                job.deaths = MOST_DEATHS - 1
                await self._in_thread(lambda: folder.write_begun(self._shelf / job.id, job.deaths))
            await self._in_thread(lambda: folder.forget_error(self._shelf / job.id))
            if self.get(document_id).ended:
                job.status, job.error = "queued", None
                self._begin(job, None, retries=True)
        return job

    async def _again(self, job: Job, source: str, part: Segment, before: Listed) -> Listed:
        request = _sampled_anew(job.order.request)
        done, seconds = None, 0.0
        async with aclosing(self._metrics.observe(self._translator.stream_segment(request, source, part))) as events:
            async for event in events:
                if isinstance(event, Translated):
                    done = event
                elif isinstance(event, Finished):
                    seconds = event.seconds
        assert done is not None, "a run that ends well has its segment"
        # once begun to the end, whoever leaves: what is on the disk is what is shown
        return await asyncio.shield(self._put_again(job, done, before, seconds))

    async def _put_again(self, job: Job, done: Translated, before: Listed, seconds: float) -> Listed:
        index = done.segment.index
        async with self._changing[job.id]:
            bench = await self._ready(self.get(job.id), index)
            now = bench.segment(index)
            if now.edited and now.text != before.text:
                return now
            old = bench.done.get(index)
            done = replace(done, tokens=done.tokens + (old.tokens if old else 0))
            if await _breaks(bench, done):
                done = bench.source_kept(done)
            await self._put(job, bench, Line(done, self._translator.info.name), seconds)
            return bench.segment(index)

    async def _put(self, job: Job, bench: Workbench, line: Line, seconds: float = 0.0) -> None:
        """To be called while nobody else changes the document."""
        self.get(job.id)
        was_stale, job.stale = job.stale, True
        job.changes += 1
        place = self._shelf / job.id
        try:
            if line.edited:  # beside our thread, which may be reading a large file
                await asyncio.to_thread(folder.add_lines, place, [line])
            else:  # in it, so that `close` waits for it
                await self._in_thread(lambda: folder.add_lines(place, [line]))
        except NotStored:
            job.stale = was_stale
            raise
        bench.put(line.done, edited=line.edited)
        self._tell(job, bench, seconds)

    def _tell(self, job: Job, bench: Workbench, seconds: float = 0.0) -> None:
        """The document's answer, in step with its segments."""
        job.warned, job.edited = len(bench.warned), len(bench.edited)
        if job.answer:
            job.answer = bench.answer(job.answer.model, job.answer.seconds + seconds)

    # -----------------------------------------------------------------------------------------------------------------
    # opening

    async def _looked_at(self, job: Job) -> Workbench | None:
        if bench := self._open.get(job.id):
            return bench
        async with self._changing[job.id]:
            return await self._opened(job)

    async def _ready(self, job: Job, index: int) -> Workbench:
        """The workbench, with its file, to change this segment. To be called while nobody else changes the document."""
        bench = await self._opened(job)
        if bench is None:
            raise DocumentNotReady("The document has not been cut into segments yet; ask again in a moment.")
        if not 0 <= index < bench.size:
            raise NoSuchSegment(f"There is no segment {index}; the document has {bench.size:,}, counted from 0.")
        if not job.ended and index not in bench.done:
            raise DocumentNotReady(f"Segment {index + 1} is under way; change it once it has a text.")
        await self._file_of(job, bench)
        return bench

    async def _file_of(self, job: Job, bench: Workbench) -> File:
        if bench.file is None:
            place = self._shelf / job.id
            file = await self._in_thread(lambda: _read_again(place, job.order))
            await asyncio.to_thread(bench.attach, file)
            return file
        return bench.file

    async def _opened(self, job: Job) -> Workbench | None:
        """None where it is still to be cut. To be called while nobody else changes the document.

        What waits to go on is not kept open: whether it keeps its segments is decided when its turn comes.
        """
        self.get(job.id)
        if bench := self._open.get(job.id):
            self._open.move_to_end(job.id)
            return bench
        place = self._shelf / job.id
        kept = await self._in_thread(lambda: folder.read_cut(place))
        if kept is None:
            if not job.ended:
                return None
            order = await self._in_thread(lambda: folder.read_order(place))
            file = await self._in_thread(lambda: _read_again(place, order))
            kept = await self._cut(order.request, file, place)
        bench = await self._in_thread(lambda: _bench(place, job, kept, None))
        if job.answer and bench.failed() - bench.warned:
            raise DocumentNotReady(
                "The document was cut into other segments than this model would, so they cannot be shown; its result "
                "is as it was. Send the file again."
            )
        if not job.ended:
            return bench
        if job.stale:
            self._tell(job, bench)
        job.segments_total, job.segments_done = bench.size, len(bench.done)
        return self._keep_open(job, bench)

    def _keep_open(self, job: Job, bench: Workbench) -> Workbench:
        """Closes those used longest ago, where there are too many."""
        self._open[job.id] = bench
        self._open.move_to_end(job.id)
        idle = [one for one in self._open if one not in self._tasks and one != job.id and not self._is_changing(one)]
        size = bench.size + sum(self._open[one].size for one in idle)
        for one in idle:
            if size > MOST_OPEN_SEGMENTS:
                size -= self._open.pop(one).size
            else:
                self._open[one].detach()  # the file may be large; it is read again to change something
        return bench

    def _is_changing(self, document_id: str) -> bool:
        lock = self._changing.get(document_id)
        return lock is not None and lock.locked()

    async def _cut(self, request: TranslationRequest, file: File, place: Path) -> Kept:
        model = self._translator.info.name
        cut = await self._translator.cut(request, file.blocks)

        def write() -> Kept:
            kept = Kept(cut, model, [shown(part) for part in cut.segments])
            folder.write_cut(place, kept)
            return kept

        return await self._in_thread(write)

    async def _refresh(self) -> None:
        """What was changed before the program ended and not saved: the answers know of it again."""
        for job in [job for job in self._jobs.values() if job.stale]:
            try:
                async with self._changing[job.id]:
                    await self._opened(job)
            except (YiwenError, OSError) as error:
                log.warning("a document that was changed cannot be opened: %s", error)
            except Exception:  # the task would end here, and the others be left: it is damaged in some other way
                log.exception("a document that was changed cannot be opened")

    # -----------------------------------------------------------------------------------------------------------------
    # translating

    def _begin(self, job: Job, file: File | None, *, retries: bool = False) -> None:
        task = self._tasks[job.id] = asyncio.create_task(self._run(job, file, retries))
        task.add_done_callback(lambda done: self._tasks.get(job.id) is done and self._tasks.pop(job.id))

    async def _run(self, job: Job, file: File | None, retries: bool) -> None:
        place = self._shelf / job.id
        try:
            async with self._doubtful if job.deaths else nullcontext(), self._turns:
                if file is None:
                    await self._mark(job)
                    file = await self._in_thread(lambda: _read_again(place, job.order))
                finished = await self._translated(job, file, retries)
                await self._settle(job, finished)
                job.status = "done"
                job.forget_glossary()
        except YiwenError as error:
            self._fail(job, str(error), error.code)
        except OSError as error:
            log.exception("the files of a document cannot be used")
            told = f"The document's files cannot be used ({files.why(error)}); see to the data folder of the server."
            self._fail(job, told, NotStored.code)
        except Exception:  # the end of a task: the document would seem under way for ever
            log.exception("a document failed")
            self._fail(job, "Yiwen made a mistake with this file; its log says more.", YiwenError.code)
        finally:  # it has ended or is stopped in order, unless the process ends for its card, which is a death too
            if job.id in self._at_work and not self._translator.lost:
                self._at_work.discard(job.id)
                job.deaths = 0
                self._thread.submit(_forget_deaths, place)  # after what is being written

    async def _mark(self, job: Job) -> None:
        """To be called before any work, so that the next start knows of it should the process die."""
        if job.id not in self._at_work:
            self._at_work.add(job.id)
            await self._in_thread(lambda: folder.write_begun(self._shelf / job.id, job.deaths + 1))

    async def _rest(self, job: Job) -> None:
        """To be called before it waits for something: whatever the process dies of then, it is not this."""
        if job.id in self._at_work:
            self._at_work.discard(job.id)
            await self._in_thread(lambda: folder.write_begun(self._shelf / job.id, job.deaths))

    async def _translated(self, job: Job, file: File, retries: bool) -> Finished:
        """Tries again what may go better later; what is finished is not asked for twice."""
        pauses, most, has_failed = iter(RETRY_SECONDS), 0, False
        while True:
            try:
                return await self._attempt(job, file, retries)
            except Overloaded as error:
                pause = error.retry_after_seconds
                if not has_failed:  # else the process may still die of that
                    await self._rest(job)
            except BackendError as error:
                if job.segments_done > most:  # it has got on since
                    pauses, most = iter(RETRY_SECONDS), job.segments_done
                pause = next(pauses, 0)
                if not pause:
                    raise
                has_failed = True
                log.warning("a document is tried again in %s s: %s", pause, str(error))
            job.status = "queued"
            await asyncio.sleep(pause)

    async def _attempt(self, job: Job, file: File, retries: bool) -> Finished:
        model = self._translator.info.name
        await self._mark(job)
        async with self._changing[job.id]:
            bench = await self._on_bench(job, file)
        asked = bench.failed() if retries else {part.index for part in bench.cut.segments} - bench.done.keys()
        known = {index: done for index, done in bench.done.items() if index not in asked}
        request = _sampled_anew(job.order.request) if retries else job.order.request
        events = self._metrics.observe(self._translator.stream_blocks(request, file.blocks, known, bench.cut))
        job.status, job.segments_done, job.segments_total = "translating", 0, bench.size
        job.pace.begin()
        job.work_left = sum(bench.cut.segments[index].tokens for index in asked)
        async with aclosing(events):
            async for event in events:
                match event:
                    case Translated():
                        job.segments_done += 1
                        if (index := event.segment.index) in asked:
                            job.pace.add(event.tokens, event.segment.tokens)
                            job.work_left -= event.segment.tokens
                            if index not in bench.edited:  # since
                                self._take(job, bench, event, model)
                    case Finished():
                        return event
        raise AssertionError("a run ended without Finished")

    def _take(self, job: Job, bench: Workbench, done: Translated, model: str) -> None:
        if before := bench.done.get(done.segment.index):
            done = replace(done, tokens=done.tokens + before.tokens)
        job.changes += 1
        job.stale = True
        folder.add_line(self._shelf / job.id, Line(done, model), stale=job.answer is not None)
        bench.put(done)
        job.warned, job.edited = len(bench.warned), len(bench.edited)

    async def _on_bench(self, job: Job, file: File) -> Workbench:
        """The document with what is known of it, to be translated: as it was cut before for this model, or where it was
        done or edited since, when it keeps its segments; else cut anew."""
        if (bench := self._open.get(job.id)) is None:
            place, model = self._shelf / job.id, self._translator.info.name
            by = None if (place / "answer.json").exists() else model
            kept = await self._in_thread(lambda: folder.read_cut(place))
            if kept:
                bench = await self._in_thread(lambda: _bench(place, job, kept, by))
            another = bench is None or (by and kept and kept.model != model and not bench.edited)
            if bench is None or another or not bench.fits(file):
                order = await self._in_thread(lambda: folder.read_order(place))
                cut = await self._cut(order.request, file, place)
                bench = await self._in_thread(lambda: _bench(place, job, cut, by))
            self._keep_open(job, bench)
        if bench.file is not file:
            await asyncio.to_thread(bench.attach, file)
        return bench

    async def _settle(self, job: Job, finished: Finished) -> None:
        """What could not be written keeps its source; then the result and the answer are written."""
        bench = self._open[job.id]
        async with self._changing[job.id]:
            assert bench.file is not None, "it has just been translated"
            texts, find = bench.texts(), bench.file.faults
            faults = await self._in_thread(lambda: find(texts))
            of_model = [index for number in faults for index in bench.of_block(number) if index not in bench.edited]
            await self._keep_sources(job, bench, of_model, finished.model)
            for number in faults:  # what is by hand stays, unless it is that
                by_hand = [index for index in bench.of_block(number) if index in bench.edited]
                if by_hand and await _breaks(bench, bench.done[by_hand[0]]):
                    await self._keep_sources(job, bench, by_hand, finished.model)
            job.answer = bench.answer(finished.model, finished.seconds + (job.answer.seconds if job.answer else 0))
            job.warned, job.edited = len(bench.warned), len(bench.edited)
            job.stale = True  # until it is on the disk, which may be full
        async with self._saving[job.id]:
            await self._save(job)

    async def _keep_sources(self, job: Job, bench: Workbench, indices: Sequence[int], model: str) -> None:
        lines = [Line(bench.source_kept(bench.done[index]), model) for index in indices]
        if lines:
            await self._in_thread(lambda: folder.add_lines(self._shelf / job.id, lines))
        for line in lines:
            bench.put(line.done)

    async def _save(self, job: Job) -> None:
        """Makes the result. To be called while nobody else does."""
        place = self._shelf / job.id
        async with self._changing[job.id]:
            bench, answer = await self._opened(job), job.answer
            assert bench is not None, "what is saved was cut"
            assert answer is not None, "what is saved was answered"
            save = (await self._file_of(job, bench)).save
            texts, changes, warned, edited = bench.texts(), job.changes, job.warned, job.edited
        await self._in_thread(lambda: folder.write_answer(place, save(texts), answer, warned, edited))
        if job.changes == changes:  # else there is more to save already
            try:
                folder.forget_stale(place)  # at once, before there is another change
            except NotStored as error:  # it is made once more then
                log.warning("%s", error)
            else:
                job.stale = False

    def _fail(self, job: Job, sentence: str, code: str) -> None:
        """A document that was done before stays as it was, and tells of the retry that failed."""
        job.error = (sentence, code)
        job.forget_glossary()
        if job.answer:
            job.status, job.segments_done = "done", job.segments_total or 0
            if bench := self._open.get(job.id):
                self._tell(job, bench)
            return
        job.status = "error"
        try:
            folder.write_error(self._shelf / job.id, sentence, code)
        except NotStored as error:  # after a restart it goes on where it stood
            log.warning("a document failed, which cannot be stored: %s", error)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def _stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    stopping = list(tasks)
    for task in stopping:
        task.cancel()
    await asyncio.gather(*stopping, return_exceptions=True)


def _forget_deaths(place: Path) -> None:
    try:
        folder.write_begun(place, 0)
    except NotStored as error:  # the next death would count as one more
        log.warning("%s", error)


def _read_again(place: Path, order: Order) -> File:
    try:
        data = (place / "source").read_bytes()
    except OSError as error:
        raise NoSuchDocument("The document's file is gone from the data folder; send it again.") from error
    return read(order.name, data, order.options)


def _bench(place: Path, job: Job, kept: Kept, model: str | None) -> Workbench:
    """The document with what is known of it: all, or where it is named what `model` or a hand has done."""
    bench = Workbench(kept.cut, job.order.request.target, kept.shows)
    for line in folder.known_lines(place, kept.cut.segments, model).values():
        bench.put(line.done, edited=line.edited)
    return bench


async def _breaks(bench: Workbench, changed: Translated) -> bool:
    """Whether the document could not be written with it and the structure it has."""
    assert bench.file is not None, "who asks has opened it"
    return await asyncio.to_thread(bench.file.broken, bench.texts(changed), changed.segment.block)


def _sampled_anew(request: TranslationRequest) -> TranslationRequest:
    sampling = request.sampling
    temperature = sampling.temperature or ANOTHER_TEMPERATURE
    anew = replace(sampling, temperature=temperature, seed=secrets.randbelow(2**31))
    return replace(request, sampling=anew, id=new_id())


def _zip(results: Iterable[tuple[IO[bytes], str]]) -> IO[bytes]:
    made = tempfile.SpooledTemporaryFile(ZIP_BYTES_IN_MEMORY)  # noqa: SIM115  whoever has it closes it
    names: set[str] = set()
    try:
        with zipfile.ZipFile(made, "w") as packed:
            for result, name in results:
                inside = zipfile.ZipInfo(_unique(name, names), time.localtime()[:6])
                inside.compress_type = (
                    zipfile.ZIP_STORED if PurePosixPath(name).suffix.lower() in _PACKED else zipfile.ZIP_DEFLATED
                )
                inside._compresslevel = ZIP_LEVEL  # type: ignore[attr-defined]  # from Python 3.13 `compress_level` too
                with packed.open(inside, "w", force_zip64=True) as member:
                    shutil.copyfileobj(result, member)
        made.seek(0)
    except BaseException as error:
        with suppress(OSError):  # what it could not write, it cannot write now
            made.close()
        if not isinstance(error, OSError):
            raise
        raise NotStored(
            f"The zip could not be stored ({files.why(error)}); see to the temporary folder of the server."
        ) from error
    return made


def _close(making: Future[IO[bytes]]) -> None:
    if not making.cancelled() and not making.exception():
        making.result().close()


def _unique(name: str, taken: set[str]) -> str:
    """`a.fr.txt`, `a.fr (2).txt`; in whatever case, since some systems know none."""
    path, number = PurePosixPath(name), 1
    while name.casefold() in taken:
        number += 1
        name = f"{path.stem} ({number}){path.suffix}"
    taken.add(name.casefold())
    return name


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
