"""A model on another server as a Backend: vLLM, SGLang, llama.cpp, another Yiwen, whatever speaks OpenAI's completions.

All that is sent and read runs on a loop in a thread of its own, so that a backend outlives the loops that ask it. Knows
one address; several are a pool's. What a server is and can do is asked once, as it is loaded, see `served`.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import Future
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
import orjson

from engine.backends.served import CONNECT_SECONDS, Served, find, refusal, wait_of
from engine.config import Config
from engine.errors import BackendError, TextTooLong
from engine.progress import Progress
from engine.types import FinishReason, ModelInfo, Prompt, Replica, TokenChunk

FIRST_SECONDS = 120.0  # until the first token, behind all that the server was asked before
BETWEEN_SECONDS = 30.0  # two tokens, …
RENEW_SECONDS = 1.0  # … give or take; to set a clock anew for each token costs as much as to read it
PAUSES = (0.0, 0.3, 1.0)  # seconds before an answer that has not begun is asked for again; at once, since a connection
# that was kept may have been closed by the server just then
BUSY_SECONDS = 1.0  # before a server is asked again that is busy and does not say for how long
PROBE_SECONDS = 5.0  # in which a server that says nothing is asked whether it is there, …
PROBE_TIMEOUT_SECONDS = 5.0
DOUBT_SECONDS = 0.5  # … and how soon again when it was not
MISSED = 2  # probes in a row; then it is gone
KEPT_SECONDS = 4.0  # a connection that nobody uses; uvicorn closes it after 5
DRAIN_SECONDS = 2.0  # in which a connection ends an answer that is whole, to be kept for the next
LONGEST = 1_000_000  # bytes of an event, or of a refusal
_FINISHES: dict[str, FinishReason] = {"length": "length"}  # all others but these are an end as it should be
_FAILURES = frozenset({"abort", "error"})  # vLLM and SGLang, where they cannot go on

log = logging.getLogger(__name__)
Told = tuple[TokenChunk | None, BackendError | TextTooLong | None]


class _Again(Exception):
    """Not answered, for a reason that may be gone after `seconds`; `busy`: it said so itself."""

    def __init__(self, why: str, seconds: float = 0.0, busy: bool = False) -> None:
        super().__init__(why)
        self.seconds, self.busy = seconds, busy


@dataclass(eq=False, slots=True)
class _Open:
    """An answer that is asked for, and who reads it."""

    body: dict[str, Any]
    most: int  # tokens
    loop: asyncio.AbstractEventLoop
    told: asyncio.Queue[Told] = field(default_factory=asyncio.Queue)
    task: asyncio.Task[None] | None = None
    said: int = 0  # tokens
    whole: bool = False


class RemoteBackend:
    def __init__(self, served: Served) -> None:
        self.failed: Future[BackendError] = Future()
        self._served = served
        self._open: set[_Open] = set()
        self._closed = False
        self._lock = threading.Lock()  # of the two above: an answer is either refused or told how it ended
        self._loop = _new_loop()
        self._ends, self._doubt = asyncio.Event(), asyncio.Event()
        self._told: list[tuple[_Open, Told]] = []
        self._heard = 0.0  # when it last said something, on our loop's clock
        self._room = asyncio.Semaphore(served.slots)
        self._client = httpx.AsyncClient(
            base_url=served.url,
            headers={**served.headers, "Content-Type": "application/json", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # the rest is timed by what is said
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=served.slots, keepalive_expiry=KEPT_SECONDS
            ),
        )
        self._thread = threading.Thread(target=self._live, name="remote", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, config: Config, progress: Progress | None = None) -> Self:
        """The server at the one address of `config.remote_url`.

        Raises what `served.find` raises.
        """
        return cls(find(config, progress or Progress()))

    @property
    def info(self) -> ModelInfo:
        return self._served.info

    @property
    def slots(self) -> int:
        return self._served.slots

    @property
    def running(self) -> int:
        """Answers that are asked for right now, those that wait included."""
        return len(self._open)

    def count_tokens(self, text: str) -> int:
        return self._served.count(text)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        assert not prompt.made  # it tells no ids, so that none can have been made elsewhere
        body, most = self._served.body(prompt)
        asked = _Open(body, most, asyncio.get_running_loop())
        self._begin(asked)
        try:
            finish: FinishReason | None = None
            while finish is None:
                chunk, error = await asked.told.get()
                if error is not None:
                    raise error
                assert chunk is not None
                finish = chunk.finish
                yield chunk
        finally:
            with suppress(RuntimeError):  # our loop is closed, and the answer with it
                self._loop.call_soon_threadsafe(self._leave, asked)

    def memory(self) -> dict[str, int]:
        """The server's is its own."""
        return {"weights": 0, "kv_used": 0, "kv_total": 0, "batch": self.running}

    def replicas(self) -> Sequence[Replica]:
        return ()

    async def close(self) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ends.set)
        await asyncio.to_thread(self._thread.join)

    def _begin(self, asked: _Open) -> None:
        with self._lock:
            if self.failed.done():
                raise BackendError(str(self.failed.result()))
            if self._closed:
                raise BackendError(f"The connection to {self._served.url} was closed; ask again.")
            self._open.add(asked)
            self._loop.call_soon_threadsafe(self._start, asked)

    # All that follows runs on our own loop.

    def _live(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with self._client:
            watching = asyncio.create_task(self._watch())
            await self._ends.wait()
            watching.cancel()
            with self._lock:
                self._closed = True
            self._end_all(f"The connection to {self._served.url} was closed while it was answering; ask again.")

    def _end_all(self, why: str) -> None:
        for asked in tuple(self._open):
            self._tell(asked, None, BackendError(why))
            self._leave(asked)
        self._deliver()

    def _tell(self, asked: _Open, chunk: TokenChunk | None, error: BackendError | TextTooLong | None = None) -> None:
        if not self._told:
            self._loop.call_soon(self._deliver)
        self._told.append((asked, (chunk, error)))

    def _deliver(self) -> None:
        """All that has come in one round of our loop wakes that of the readers once."""
        told, self._told = self._told, []
        for loop in {asked.loop for asked, _ in told}:
            with suppress(RuntimeError):  # it is closed: nobody listens any more
                loop.call_soon_threadsafe(_put, [(asked.told, each) for asked, each in told if asked.loop is loop])

    def _start(self, asked: _Open) -> None:
        asked.task = asyncio.create_task(self._answer(asked))

    def _leave(self, asked: _Open) -> None:
        with self._lock:
            self._open.discard(asked)
        if asked.task and not asked.whole:
            asked.task.cancel()  # which closes the connection, where the server sees that nobody reads any more

    async def _answer(self, asked: _Open) -> None:
        url = self._served.url
        try:
            async with self._room, asyncio.timeout(FIRST_SECONDS) as limit:
                await self._patiently(asked, limit)
        except (BackendError, TextTooLong) as error:
            self._tell(asked, None, error)
        except TimeoutError:
            if asked.whole:
                return
            seconds = BETWEEN_SECONDS if asked.said else FIRST_SECONDS
            self._tell(
                asked, None, BackendError(f"The server {url} has said nothing for {seconds:.0f} s; try again later.")
            )
            self._doubt.set()
        except Exception as error:  # the end of a task: without this the reader would wait for ever
            log.exception("an answer of a remote server failed")
            self._tell(asked, None, BackendError(f"The answer of {url} could not be read ({type(error).__name__})."))

    async def _patiently(self, asked: _Open, limit: asyncio.Timeout) -> None:
        """Asks again as long as nothing was said: a few times where it fails, until `limit` where it is busy."""
        pauses = iter(PAUSES)
        while True:
            try:
                return await self._once(asked, limit)
            except _Again as again:
                pause = again.seconds if again.busy else next(pauses, None)
                if pause is None or (when := limit.when()) is None or self._loop.time() + pause > when:
                    raise BackendError(f"{again}; try again later.") from again
                await asyncio.sleep(pause)

    async def _once(self, asked: _Open, limit: asyncio.Timeout) -> None:
        url = self._served.url
        try:
            async with self._client.stream("POST", self._served.path, content=orjson.dumps(asked.body)) as response:
                if response.status_code != httpx.codes.OK:
                    await self._refused(response)
                async with aclosing(_events(response)) as events:
                    await self._read(asked, events, limit)
        except httpx.HTTPError as error:
            if asked.whole:
                return
            self._doubt.set()
            if asked.said:
                raise BackendError(f"The server {url} broke off its answer ({_kind(error)}); try again.") from error
            raise _Again(f"The server {url} {_fault(error)}") from error

    async def _refused(self, response: httpx.Response) -> None:
        """Raises what a status other than 200 means. Of what the server says only what cannot be a user's text."""
        url, status = self._served.url, response.status_code
        body = b""
        async for data in response.aiter_bytes():
            if len(body := body + data) > LONGEST:
                break
        said = refusal(body)
        if (seconds := wait_of(response)) is not None:
            raise _Again(f"The server {url} is busy ({status})", seconds or BUSY_SECONDS, busy=True)
        if said.too_long:
            raise TextTooLong(
                f"The prompt does not fit the context of {self._served.info.max_context_tokens:,} tokens that "
                f"{url} has; shorten the text, the context or the terms."
            )
        self._doubt.set()
        if status in (401, 403):
            raise BackendError(f"The server {url} does not take our key any more ({status}); see to --remote-key.")
        raise BackendError(f"The server {url} has refused to answer ({status}{said.code}); its log says why.")

    async def _read(self, asked: _Open, events: AsyncIterator[Any], limit: asyncio.Timeout) -> None:
        url = self._served.url
        finish: FinishReason | None = None
        total, renewed = 0, 0.0
        async for event in events:
            self._heard = self._loop.time()
            if event is None:  # that was all
                break
            if "error" in event:
                self._doubt.set()
                raise BackendError(f"The server {url} failed in the middle of its answer; try again.")
            text, reason, counted = _parts(event)
            total = counted or total
            if text:
                asked.said += 1
                self._tell(asked, TokenChunk(text))
            if asked.said and self._heard > renewed + RENEW_SECONDS:
                renewed = self._heard
                limit.reschedule(renewed + BETWEEN_SECONDS)
            if reason in _FAILURES:
                raise BackendError(f"The server {url} gave up its answer; try again.")
            finish = _FINISHES.get(reason, "stop") if reason else finish
            if asked.said > asked.most:
                finish = "length"
                break
        if finish is None:
            raise httpx.RemoteProtocolError("an answer without an end")
        asked.whole = True
        self._tell(asked, TokenChunk("", max(total - asked.said, 0), finish))
        limit.reschedule(self._loop.time() + DRAIN_SECONDS)
        if asked.said <= asked.most:
            async for _ in events:  # to the end of the response, so that its connection can be used again
                pass

    async def _watch(self) -> None:
        """Asks whether the server is there, when it has said nothing for a while or there is a doubt."""
        missed, why = 0, ""
        while missed < MISSED:
            if missed:
                await asyncio.sleep(DOUBT_SECONDS)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._doubt.wait(), PROBE_SECONDS)
            if self._doubt.is_set() or missed or self._loop.time() - self._heard > PROBE_SECONDS:
                self._doubt.clear()
                why = await self._probe()
                missed = missed + 1 if why else 0
        with self._lock:
            self.failed.set_result(BackendError(why))
        log.warning("%s", why)
        self._end_all(why)

    async def _probe(self) -> str:
        """Why it is not there; empty where it is."""
        url = self._served.url
        try:
            response = await self._client.get(self._served.probe, timeout=PROBE_TIMEOUT_SECONDS)
        except httpx.HTTPError as error:
            return f"The server {url} {_fault(error)}; it is asked again in a moment."
        if response.is_success or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            return ""
        return f"The server {url} is not ready any more ({response.status_code}); it is asked again in a moment."


def _new_loop() -> asyncio.AbstractEventLoop:
    """The faster one, where there is one: not on Windows. A token takes a fifth less of a processor with it."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _put(told: Sequence[tuple[asyncio.Queue[Told], Told]]) -> None:
    for reader, each in told:
        reader.put_nowait(each)


async def _events(response: httpx.Response) -> AsyncGenerator[dict[str, Any] | None, None]:
    """What stands behind each `data:`, and None for the word that nothing follows. Lines are parted here, since httpx
    decodes them first, which takes as long as all else."""
    rest = b""
    async for data in response.aiter_raw():
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > LONGEST:
            raise httpx.RemoteProtocolError("a line without an end")
        for line in lines:
            if line.startswith(b"data:"):
                yield _event(line[5:].strip())


def _event(data: bytes) -> dict[str, Any] | None:
    if data == b"[DONE]":
        return None
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise httpx.RemoteProtocolError("an event that is no JSON") from error
    if not isinstance(event, dict):
        raise httpx.RemoteProtocolError("an event that is no object")
    return event


def _parts(event: dict[str, Any]) -> tuple[str, str, int]:
    """(text, reason why it ends, tokens of all); empty and 0 where there is none."""
    text = reason = total = None
    match event.get("choices"):
        case [{"text": said, **more}] | [{"delta": {"content": said}, **more}]:
            text, reason = said, more.get("finish_reason")
        case [{"finish_reason": reason}]:
            pass
    match event.get("usage"):
        case {"completion_tokens": total}:
            pass
    return (
        text if isinstance(text, str) else "",
        reason if isinstance(reason, str) else "",
        total if isinstance(total, int) else 0,
    )


def _fault(error: httpx.HTTPError) -> str:
    reached = "cannot be reached" if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) else "does not answer"
    return f"{reached} ({_kind(error)})"


def _kind(error: httpx.HTTPError) -> str:
    return type(error).__name__
