"""Several backends of one model as one: who has least to do goes next, and what one leaves unfinished another finishes.
Knows no model and no device; how a member is loaded, again and again, is `LateBackend`'s.

A prompt goes where the fewest tokens are under way, for each of the member's slots, once the prompt is there: its own
tokens, but for a beginning that the member has read lately, and those of the answer that it may have. So segments of
one request follow their context and their terms, until another member is less busy by more than these save.
"""

import asyncio
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Self

from engine.backends.late import MOST_RETRY_SECONDS, LateBackend, Load, LoadFailed
from engine.errors import BackendError, ConfigError, DeviceLost, Loading, NotThereYet, StartupError
from engine.progress import Progress
from engine.types import ModelInfo, Prompt, Replica, TokenChunk

WAIT_SECONDS = 60.0  # for a member, where none is there: a 7B on a card is back in less than that
TELL_SECONDS = 0.25  # between two reports of how far the loading is
MOST_FUTILE = 3  # members in succession that fail before they have said a token: it may be the prompt that breaks them
BYTES_A_TOKEN = 4  # of UTF-8, about: 3.2 of Chinese, 3.7 of English, 5.5 of Russian with the embedded model's tokenizer
MOST_ANSWER_TOKENS = 1_024  # of what an answer may have; who may say more had no bound in mind, and seldom does
HEAD_CHARACTERS = 64  # a cache finds whole pages again: 32 tokens, or about 100 letters or 50 Chinese characters
MOST_HEADS = 64  # of a prompt: the longest context with its terms
HEADS_KEPT = 4_096  # of a member: a cache of 80,000 tokens, much of it said by others since
CLOSED = "The model has been shut down; start Yiwen again."

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Work:
    """What a prompt asks of a member. `heads` stand for its first 64 characters, its first 128, and so on."""

    tokens: int  # of the prompt and its answer
    heads: tuple[int, ...]
    head_tokens: int  # of one head more


@dataclass(slots=True, eq=False)
class _Member:
    device: str
    late: LateBackend
    up: bool = False
    misfit: str = ""  # why it is not up though it is there
    trouble: StartupError | None = None  # why it could not be loaded, once
    info: ModelInfo | None = None  # this and the next: as it was there last
    slots: int = 0
    streams: int = 0  # under way
    tokens: int = 0  # of their prompts and answers
    heads: OrderedDict[int, None] = field(default_factory=OrderedDict)  # of prompts; who was asked last stands last

    def busy(self, work: _Work) -> float:
        """Tokens for each slot, once it has that work too."""
        shared = next((number for number, head in enumerate(work.heads) if head not in self.heads), len(work.heads))
        return (self.tokens + work.tokens - shared * work.head_tokens) / self.slots

    def take(self, work: _Work) -> None:
        self.streams += 1
        self.tokens += work.tokens
        for head in reversed(work.heads):  # the shorter stay longer, since without them no longer one is found
            self.heads[head] = None
            self.heads.move_to_end(head)
        while len(self.heads) > HEADS_KEPT:
            self.heads.popitem(last=False)

    def release(self, work: _Work) -> None:
        self.streams -= 1
        self.tokens -= work.tokens


class Pool:
    """Streams are of any event loop. Members come, break and come again on threads of their own."""

    def __init__(self, members: Sequence[LateBackend], devices: Sequence[str]) -> None:
        """`devices` says where each of them is. It may be that some never come; `patient` ones go on trying."""
        self.failed: Future[BackendError] = Future()
        self._members = [_Member(device, late) for device, late in zip(devices, members, strict=True)]
        self._info: ModelInfo | None = None
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}  # who finds no member up
        self._progress: Progress | None = None  # of whoever loaded it all
        self._closed = self._lost = self._is_away = False
        self._changed = threading.Condition()  # and the lock of all above and of the members
        for member in self._members:
            member.late.listeners.append(partial(self._look, member))
            self._look(member)

    @classmethod
    def load(cls, loads: Sequence[tuple[str, Load]], progress: Progress) -> Self:
        """A member for each (device, load), all loaded at once. It is there when each of them is, or has failed and at
        least one has not; those are tried again and join later, and the first of those that are all `NotThereYet` is
        waited for. `progress` is told, too, whenever none is there.

        Raises what the first raised where all do, and `ConfigError` where they are not of one model.
        """
        members = [LateBackend(load, patient=True, name=device) for device, load in loads]
        pool = cls(members, [device for device, _ in loads])
        try:
            for late in members:
                late.start()
            while coming := pool._coming(TELL_SECONDS):
                if all(member.trouble for member in pool._members):
                    progress.again(str(pool._away()))
                progress.follow(coming)
            if not pool._info:
                troubles = [member.trouble for member in pool._members if member.trouble]
                raise min(troubles, key=lambda trouble: isinstance(trouble, NotThereYet))
            for member in pool._members:
                if member.misfit:
                    raise ConfigError(member.misfit)
        except BaseException:  # Stopped, too: nobody else has them
            asyncio.run(pool.close())
            raise
        pool._progress = progress
        return pool

    @property
    def info(self) -> ModelInfo:
        """Of all members together."""
        if self._info is None:
            raise self._away()
        return self._info

    @property
    def slots(self) -> int:
        """Those of who is away count on, and who was not there yet is thought to have as many as the others: nobody
        asks again."""
        most = max(member.slots for member in self._members)
        return sum(member.slots if member.info else most for member in self._members)

    @property
    def running(self) -> int:
        """Streams that a member has right now."""
        return sum(member.streams for member in self._members)

    def count_tokens(self, text: str) -> int:
        for member in self._members:
            if member.up:
                with suppress(Loading):  # it has broken since
                    return member.late.count_tokens(text)
        raise self._away()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        """Where its member fails another goes on after the last token that was told, or begins where none was. What
        follows is the same where the prompt has a seed or is greedy; else it is drawn, as it was to be. Tokens without
        ids cannot be gone on after: then the failure is told."""
        work, made, told, futile = _work(prompt), [*prompt.made], 0, 0
        left: _Member | None = None
        while True:
            member, before = await self._place(work, left), told
            try:
                async with aclosing(member.late.stream(replace(prompt, made=tuple(made)))) as chunks:
                    async for chunk in chunks:
                        made += chunk.ids
                        told += chunk.tokens
                        yield chunk
                return
            except (BackendError, Loading) as error:
                self._look(member)  # so that it is not asked again before it is back
                futile = 0 if told > before else futile + 1
                if self._closed or futile == MOST_FUTILE or len(made) != len(prompt.made) + told:
                    raise
                # not the error itself, whose frames hold the backend that failed
                log.debug("an answer moves from %s after %d tokens: %s", member.device, told, str(error))
            finally:
                with self._changed:
                    member.release(work)
            left = member

    def memory(self) -> dict[str, int]:
        total = Counter[str]()
        for member in self._members:
            total.update(member.late.memory())
        return dict(total)

    def replicas(self) -> Sequence[Replica]:
        return [
            Replica(
                device=member.device,
                state="ready" if member.up else "failed" if member.late.failure or member.misfit else "loading",
                reason="" if member.up else member.misfit or member.late.state.reason,
                memory=member.late.memory(),
                tokens=member.tokens,
                segments=member.streams,
                slots=member.slots,
            )
            for member in self._members
        ]

    async def close(self) -> None:
        with self._changed:
            self._closed = True
        self._wake()
        await asyncio.gather(*(member.late.close() for member in self._members))

    def _coming(self, seconds: float) -> list[Progress]:
        """Of those that have neither come nor failed, or of all where they are merely not there yet. It waits so long,
        or until there are none."""

        def coming() -> list[Progress]:
            untold = [each for each in self._members if not (each.info or each.trouble)]
            are_away = all(isinstance(each.trouble, NotThereYet) for each in self._members) and not self._info
            return [each.late.progress for each in (self._members if are_away else untold)]

        with self._changed:
            self._changed.wait_for(lambda: not coming(), seconds)
            return coming()

    def _look(self, member: _Member) -> None:
        """How a member is by now. Called on any thread whenever that may have changed."""
        with self._changed:
            was, member.up, member.misfit = member.up, False, ""
            try:
                slots, info = member.late.slots, member.late.info
            except Loading:
                member.trouble = member.late.trouble or member.trouble
                member.heads.clear()
            else:
                member.misfit = self._misfit(member, info)
                member.info, member.slots, member.up = info, 0 if member.misfit else slots, not member.misfit
                fit = [(each.device, each.info) for each in self._members if each.info and not each.misfit]
                self._info = _joined(fit) if fit else None
            lost = not self._lost and all(each.late.failure for each in self._members)
            self._lost = self._lost or lost
            self._tell_progress()
            self._changed.notify_all()
        if member.up != was:
            log.info("%s %s", member.device, "takes prompts" if member.up else "takes no prompts any more")
        if lost:
            self.failed.set_result(self._failure())
        self._wake()

    def _tell_progress(self) -> None:
        """That nobody is there, or that somebody is again."""
        is_away = not (self._lost or any(member.up for member in self._members))
        if self._progress and is_away != self._is_away:
            self._is_away = is_away
            if is_away:
                self._progress.again(str(self._away()))
            else:
                self._progress.end()

    def _misfit(self, member: _Member, info: ModelInfo) -> str:
        """Why what one member has begun that one could not finish."""
        for other in self._members:
            if other is not member and other.info and not other.misfit and _kind(other.info) != _kind(info):
                return (
                    f"{member.device} serves {info.name} and {other.device} {other.info.name}, and what one has begun "
                    "the other cannot finish; give them the same model."
                )
        return ""

    def _failure(self) -> BackendError:
        """Of all."""
        failures = [member.late.failure for member in self._members]
        kind = DeviceLost if any(isinstance(failure, DeviceLost) for failure in failures) else BackendError
        return kind(" ".join(dict.fromkeys(map(str, failures))))

    def _away(self) -> Loading:
        """Why there is no member, as the one says that is back first."""
        if self._lost:
            return LoadFailed(str(self._failure()), MOST_RETRY_SECONDS)
        states = [member.late.state for member in self._members]
        soonest = min(states, key=lambda state: inf if state.seconds_left is None else state.seconds_left)
        return Loading(soonest.reason, MOST_RETRY_SECONDS)

    def _wake(self) -> None:
        """Those who wait look again. Who comes to wait from now on sees what there was to see."""
        with self._changed:
            waiting = [*self._waiting.items()]
        for event, loop in waiting:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(event.set)

    async def _place(self, work: _Work, left: _Member | None) -> _Member:
        """The member that takes it; is to be released. Raises `Loading` where none comes in time, `BackendError` where
        none ever will."""
        if member := self._take(work, left):
            return member
        event = asyncio.Event()
        with self._changed:
            self._waiting[event] = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not (member := self._take(work, left)):
                    await event.wait()
                    event.clear()
                return member
        except TimeoutError:
            raise self._away() from None
        finally:
            with self._changed:
                del self._waiting[event]

    def _take(self, work: _Work, left: _Member | None) -> _Member | None:
        """Another than it has `left`, where there is one; the one with the most free pages of those as busy."""
        with self._changed:
            if self._closed:
                raise BackendError(CLOSED)
            if self.failed.done():
                raise BackendError(str(self.failed.result()))
            up = [member for member in self._members if member.up]
            up = [member for member in up if member is not left] or up
            if not up:
                return None
            member = min(up, key=lambda each: (each.busy(work), -each.late.memory().get("pages_free", 0)))
            member.take(work)
            return member


def _work(prompt: Prompt) -> _Work:
    text, heads = prompt.text, list[int]()
    for end in range(HEAD_CHARACTERS, min(len(text), MOST_HEADS * HEAD_CHARACTERS) + 1, HEAD_CHARACTERS):
        heads.append(hash((*heads[-1:], text[end - HEAD_CHARACTERS : end])))
    tokens = len(text.encode()) // BYTES_A_TOKEN
    head_tokens = tokens * HEAD_CHARACTERS // max(1, len(text))
    return _Work(tokens + min(prompt.max_new_tokens, MOST_ANSWER_TOKENS), tuple(heads), head_tokens)


def _kind(info: ModelInfo) -> tuple[object, ...]:
    """What must be alike."""
    return info.name, info.family, info.languages, info.hub, info.translates, info.marks


def _joined(members: Sequence[tuple[str, ModelInfo]]) -> ModelInfo:
    """The first one, with what differs of the others."""
    infos = [info for _, info in members]
    planned = Counter[str]()
    for info in infos:
        planned.update(info.planned_bytes)
    plans = dict[str, list[str]]()
    for device, info in members:
        if info.plan:
            plans.setdefault(info.plan, []).append(device)
    return replace(
        infos[0],
        precision=_each(info.precision for info in infos),
        device=_each(info.device for info in infos),
        kernel=_each(info.kernel for info in infos),
        max_context_tokens=min(info.max_context_tokens for info in infos),
        segment_tokens=min(info.segment_tokens for info in infos),
        plan="\n".join(f"On {', '.join(devices)}: {plan}" for plan, devices in plans.items()),
        planned_bytes=dict(planned),
    )


def _each(names: Iterable[str]) -> str:
    return ",".join(dict.fromkeys(names))
