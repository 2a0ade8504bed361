"""Documents at whose work the process dies: begun again, but not for ever, and no other suffers for it. What a process
leaves behind that is killed lies in its data folder at that moment, so a copy of that is one that has died."""

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest

from engine.backends.base import Backend
from engine.backends.echo import EchoBackend
from engine.backends.late import LateBackend
from engine.documents import store
from engine.documents.folder import Job, Order
from engine.documents.store import AT_ONCE, DIED, Documents
from engine.errors import BackendError, DeviceLost, Loading, YiwenError
from engine.metrics import Metrics
from engine.scheduler import Scheduler
from engine.translator import Translator
from engine.types import Prompt, TokenChunk, TranslationRequest
from tests.conftest import soon
from tests.test_faults import LINES, done, program
from tests.test_faults import send as send_lines

BAD = "A good line.\nA bad line."
ORDER = Order("book.txt", TranslationRequest("", "fr", "en"))


class Holds(EchoBackend):
    """Says nothing to what has one of the `words`, or raises its `errors`, one each time."""

    def __init__(self, *words: str) -> None:
        super().__init__()
        self.words = words
        self.errors: list[YiwenError] = []
        self.asked: list[str] = []

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        self.asked.append(prompt.source)
        while any(word in prompt.source for word in self.words):
            if self.errors:
                raise self.errors.pop(0)
            await asyncio.sleep(0.01)
        async for chunk in super().stream(prompt):
            yield chunk


class Away(LateBackend):
    """A model that does not come."""

    refused = 0

    def __init__(self) -> None:
        super().__init__(lambda _: EchoBackend())

    def _there(self) -> Backend:
        self.refused += 1
        return super()._there()


@asynccontextmanager
async def life(shelf: Path, backend: Backend) -> AsyncGenerator[Documents, None]:
    documents = Documents(Translator(backend, Scheduler(8, 64)), Metrics(), shelf)
    await documents.start()
    try:
        yield documents
    finally:
        await documents.close()


def begun(shelf: Path, document_id: str) -> int:
    """How often, as its folder says."""
    try:
        return int(json.loads((shelf / "documents" / document_id / "begun.json").read_bytes()))
    except FileNotFoundError:
        return 0


def dead(shelf: Path) -> Path:
    """As if the process died now."""
    return Path(shutil.copytree(shelf, shelf.with_name(f"{shelf.name} died")))


async def until(fact: Callable[[], bool]) -> None:
    for _ in range(900):
        if fact():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 9 s")


async def add(documents: Documents, text: str) -> Job:
    return await documents.add(text.encode(), ORDER)


async def texts(documents: Documents, document_id: str) -> list[str | None]:
    return [segment.text for segment in (await documents.segments(document_id, 0, 10))[1]]


def test_a_document_that_kills_the_process_is_paused_until_it_is_asked_for_and_no_other_is(tmp_path: Path) -> None:
    shelf = tmp_path / "data"

    async def first() -> tuple[str, list[str], str]:
        async with life(shelf, Holds("bad", "slow")) as documents:
            bad = await add(documents, BAD)
            slow = [await add(documents, "A slow line.") for _ in range(AT_ONCE - 1)]
            last = await add(documents, "A line that waits.")
            await until(lambda: bad.segments_done == 1 and all(job.status == "translating" for job in slow))
            dead(shelf)
            return bad.id, [job.id for job in slow], last.id

    async def second() -> None:
        """Those that may have been its cause go one by one."""
        async with life(shelf, Holds("bad")) as documents:
            await until(lambda: documents.get(last).ended and documents.get(bad).segments_done == 1)
            await until(lambda: begun(shelf, last) == 0)
            assert [documents.get(one).status for one in slow] == ["queued"] * len(slow)
            dead(shelf)

    async def third() -> None:
        async with life(shelf, Holds("bad")) as documents:
            job = documents.get(bad)
            assert job.status == "error"
            assert job.error
            assert "each of the last 2 times it worked on this document, so it is paused" in job.error[0]
            assert job.error[1] == DIED
            await until(lambda: all(documents.get(one).status == "done" for one in (*slow, last)))
            await until(lambda: [begun(shelf, one) for one in slow] == [0] * len(slow))
            assert await texts(documents, bad) == ["A good line.", None]
            await documents.retry_failed(bad)
            await until(lambda: begun(shelf, bad) == 2 and job.status == "translating")
            dead(shelf)

    async def fourth() -> None:
        backend = Holds()
        async with life(shelf, backend) as documents:
            assert documents.get(bad).status == "error"
            await documents.retry_failed(bad)
            await until(lambda: documents.get(bad).status == "done")
            assert await texts(documents, bad) == ["A good line.", "A bad line."]
        assert backend.asked == ["A bad line."]
        assert begun(shelf, bad) == 0

    bad, slow, last = asyncio.run(first())
    for story in (second, third, fourth):
        shelf = shelf.with_name(f"{shelf.name} died")
        asyncio.run(story())


def test_a_document_that_is_stopped_in_order_has_no_death_behind_it(tmp_path: Path) -> None:
    async def first() -> str:
        async with life(tmp_path / "data", Holds("bad")) as documents:
            job = await add(documents, BAD)
            await until(lambda: job.segments_done == 1)
            dead(tmp_path / "data")
            return job.id

    async def second() -> None:
        async with life(left, Holds("bad")) as documents:
            await until(lambda: documents.get(document_id).segments_done == 1)
            assert begun(left, document_id) == 2
            documents.pause()
        assert begun(left, document_id) == 0

    document_id, left = asyncio.run(first()), tmp_path / "data died"
    asyncio.run(second())


def test_a_document_that_waits_for_the_model_has_not_been_worked_on(tmp_path: Path) -> None:
    async def story() -> None:
        async with life(tmp_path, Holds("bad")) as documents:
            document_id = (await add(documents, BAD)).id
        backend = Away()
        async with life(tmp_path, backend) as documents:
            await until(lambda: backend.refused > 0)
            await until(lambda: begun(tmp_path, document_id) == 0)
            assert documents.get(document_id).status == "queued"

    asyncio.run(story())


def test_a_card_that_is_lost_is_a_death_and_a_model_that_failed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RETRY_SECONDS", (0.01,))

    async def story(shelf: Path, why: BackendError) -> int:
        backend = Holds("bad")
        async with life(shelf, backend) as documents:
            job = await add(documents, BAD)
            await until(lambda: job.segments_done == 1)
            backend.errors = [BackendError("The model failed."), Loading("It comes again.")]
            await until(lambda: not backend.errors and job.status == "queued")
            backend.fail(why)
        return begun(shelf, job.id)

    assert asyncio.run(story(tmp_path / "lost", DeviceLost("The card is lost."))) == 1
    assert asyncio.run(story(tmp_path / "failed", BackendError("The model failed."))) == 0


def test_killed_twice_at_work_on_a_document_the_program_starts_and_leaves_it_until_it_is_asked_for(
    tmp_path: Path,
) -> None:
    @contextmanager
    def killed() -> Iterator[str]:
        with program(tmp_path) as (running, url):
            yield url
            running.kill()  # with -9

    with killed() as url:
        document = send_lines(url, LINES * 3)
        soon(lambda: httpx.get(document).json()["segments_done"] > 5)
    place = f"documents/{document.rpartition('/')[2]}"
    with killed() as url:
        soon(lambda: httpx.get(f"{url}/{place}").json()["status"] == "translating")
    with program(tmp_path) as (_, url):
        said = httpx.get(f"{url}/{place}").json()
        assert (said["status"], said["code"]) == ("error", "process_died")
        other = send_lines(url, "A line.")
        soon(lambda: done(other))
        assert httpx.post(f"{url}/{place}/retry").status_code == 202
        soon(lambda: done(f"{url}/{place}"), seconds=30)
        assert httpx.get(f"{url}/{place}/result").text == LINES * 3
