"""Several backends as one: who is asked, and that nobody notices when one of them breaks."""

import asyncio
import os
import random
import re
import signal
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from engine import inventory
from engine.backends import late as late_module
from engine.backends import pool as pool_module
from engine.backends.base import Backend
from engine.backends.echo import EchoBackend
from engine.backends.late import LateBackend, Load
from engine.backends.local import LocalBackend
from engine.backends.pool import MOST_FUTILE, Pool
from engine.backends.process import ProcessBackend
from engine.backends.select import select
from engine.config import Config
from engine.errors import BackendError, ConfigError, DeviceLost, Loading, NotThereYet, StartupError
from engine.inventory import Card, Machine, allowed_cores, ram
from engine.progress import Progress, Stopped
from engine.types import Prompt, Sampling, TokenChunk
from tests.conftest import Serve, soon
from tests.streams import GREEDY, Numbering, answer, ask, text_of

TEXT = "".join(f"{number:03} " for number in range(40))  # a token is a number
CONTEXT = "The harbour was built by the old king, and nobody sails from there any more. " * 8


class Lives:
    """What loads one, when the gate is open; `beside` counts those loaded while another was in memory."""

    def __init__(self, slots: int = 4, delay_seconds: float = 0.0, name: str = "echo", **traits: object) -> None:
        self.slots, self.delay_seconds, self.name, self.traits = slots, delay_seconds, name, traits
        self.gate = threading.Event()
        self.gate.set()
        self.made: list[weakref.ref[Numbering]] = []
        self.beside = 0
        self.refusal: StartupError | None = None

    def __call__(self, progress: Progress) -> Backend:
        while not self.gate.wait(0.01):
            progress.report("weights", 0.5)
        if self.refusal:
            raise self.refusal
        self.beside += sum(other() is not None for other in self.made)
        backend = Numbering(self.delay_seconds, slots=self.slots)
        backend.info = replace(backend.info, name=self.name)
        for name, value in self.traits.items():
            setattr(backend, name, value)
        self.made.append(weakref.ref(backend))
        return backend

    @property
    def now(self) -> Numbering:
        backend = self.made[-1]()
        assert backend
        return backend

    def fail(self, error: BackendError | None = None) -> None:
        self.now.fail(error or BackendError("Oh."))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_module, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(late_module, "MOST_PAUSE_SECONDS", 0.04)
    monkeypatch.setattr(pool_module, "TELL_SECONDS", 0.01)


@pytest.fixture
def pooled() -> Iterator[Callable[..., Pool]]:
    made = list[Pool]()

    def load(*loads: Load) -> Pool:
        made.append(Pool.load([(f"cuda:{number}", each) for number, each in enumerate(loads)], Progress()))
        return made[-1]

    yield load
    for pool in made:
        asyncio.run(pool.close())
        assert (pool.running, [replica.tokens for replica in pool.replicas()]) == (0, [0] * len(pool.replicas()))
        assert pool._waiting == {}


def states(pool: Pool) -> list[str]:
    return [replica.state for replica in pool.replicas()]


def says(text: str, beginning: str = "") -> Prompt:
    return replace(ask(text, 1_000), text=beginning + text)


async def begun(stack: AsyncExitStack, pool: Pool, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
    """A stream that has said its first token."""
    chunks = await stack.enter_async_context(aclosing(pool.stream(prompt)))
    await anext(chunks)
    return chunks


def test_who_has_the_least_to_do_for_its_slots_is_asked_next(pooled: Callable[..., Pool]) -> None:
    small, large = Lives(slots=2), Lives(slots=6)
    pool = pooled(small, large)

    async def go() -> None:
        async with AsyncExitStack() as stack:
            for _ in range(16):
                await begun(stack, pool, says(TEXT))
            assert (small.now.running, large.now.running, pool.running, pool.slots) == (4, 12, 16, 8)
            tokens = [replica.tokens for replica in pool.replicas()]
            assert tokens[1] == 3 * tokens[0] > 0

    asyncio.run(go())


def test_one_long_answer_counts_more_than_two_short_ones(pooled: Callable[..., Pool]) -> None:
    first, second = Lives(), Lives()
    pool = pooled(first, second)

    async def go() -> None:
        async with AsyncExitStack() as stack:
            for most in (500, 100, 100):
                await begun(stack, pool, ask(TEXT, most))
            assert (first.now.running, second.now.running) == (1, 2)

    asyncio.run(go())


def test_of_those_as_busy_who_has_the_most_free_pages_is_asked(pooled: Callable[..., Pool]) -> None:
    lives = [Lives(pages_free=pages) for pages in (3, 9, 5)]
    pool = pooled(*lives)

    async def go() -> list[int]:
        async with AsyncExitStack() as stack:
            await begun(stack, pool, says(TEXT))
            await begun(stack, pool, says(TEXT))
            return [each.now.running for each in lives]

    assert asyncio.run(go()) == [0, 1, 1]


def test_prompts_that_begin_alike_go_to_the_same_one_until_it_is_too_busy(pooled: Callable[..., Pool]) -> None:
    first, second = Lives(), Lives()
    pool = pooled(first, second)

    async def go() -> None:
        await answer(pool, says("first of all", "Some other text. " * 20))
        async with AsyncExitStack() as stack:
            await begun(stack, pool, says(TEXT))  # so that the second is less busy
            for number in range(3):
                await answer(pool, replace(ask(f"one {number}", 20), text=f"{CONTEXT}{number}"))
            assert second.now.peak == 1
            await begun(stack, pool, says(TEXT * 2))  # and now the first, by less than the context is worth
            await answer(pool, replace(ask("another", 20), text=f"{CONTEXT}another"))
            assert first.now.peak == 1
            await begun(stack, pool, replace(says(TEXT), text=CONTEXT))
            await begun(stack, pool, replace(says(TEXT), text=CONTEXT))
            assert (first.now.running, second.now.running) == (2, 2)

    asyncio.run(go())


def test_what_is_remembered_of_prompts_has_a_bound(
    pooled: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "HEADS_KEPT", 10)
    pool = pooled(Lives())
    for number in range(9):
        asyncio.run(answer(pool, says("Hello", f"{number} {CONTEXT}")))
    assert len(pool._members[0].heads) == 10


def test_an_answer_goes_on_elsewhere_where_its_member_fails(pooled: Callable[..., Pool]) -> None:
    first, second = Lives(delay_seconds=0.001), Lives(delay_seconds=0.001)
    pool = pooled(first, second)
    before = weakref.ref(first.now)

    async def go() -> None:
        streams = [asyncio.create_task(answer(pool, says(TEXT))) for _ in range(12)]
        await asyncio.sleep(0.02)
        assert first.now.running == 6
        first.gate.clear()
        first.fail()
        for chunks in await asyncio.gather(*streams):
            assert text_of(chunks) == TEXT
            assert [chunk.ids for chunk in chunks] == [*((number,) for number in range(40)), ()]
            assert [chunk.finish for chunk in chunks] == [*[None] * 40, "stop"]
        assert states(pool) == ["loading", "ready"]
        assert pool.replicas()[0].reason.startswith("Oh.")

    asyncio.run(go())
    soon(lambda: before() is None, seconds=2)  # nobody holds it, so that the next finds its memory free
    first.gate.set()
    soon(lambda: states(pool) == ["ready", "ready"])
    assert text_of(asyncio.run(answer(pool, says(TEXT)))) == TEXT
    assert first.beside == 0


def test_tokens_without_ids_are_asked_for_again_only_before_the_first(pooled: Callable[..., Pool]) -> None:
    lives = [Lives(numbers=False), Lives(numbers=False)]
    pool = pooled(*lives)

    async def go(silent_after: int) -> str:
        for each in lives:
            each.now.silent_after = silent_after
        asked = asyncio.create_task(answer(pool, says(TEXT)))
        await asyncio.sleep(0.01)
        asked_of, other = sorted(lives, key=lambda each: -each.now.running)
        other.now.silent_after = 1_000
        asked_of.fail()
        return text_of(await asked)

    assert asyncio.run(go(0)) == TEXT
    soon(lambda: states(pool) == ["ready", "ready"])
    with pytest.raises(BackendError, match=r"Oh\."):
        asyncio.run(go(5))


def test_a_prompt_that_breaks_whoever_has_it_does_not_go_round_for_ever(pooled: Callable[..., Pool]) -> None:
    lives = [Lives(), Lives()]
    pool, asked = pooled(*lives), list[object]()

    class Poisoned(Numbering):
        async def stream(self, _prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
            asked.append(self)
            raise BackendError("The step failed.")
            yield

    for each in lives:
        each.now.__class__ = Poisoned
    with pytest.raises(BackendError, match="The step failed"):
        asyncio.run(answer(pool, says(TEXT)))
    assert len(asked) == MOST_FUTILE
    assert asked[0] is not asked[1]


def test_where_nobody_is_there_it_is_waited_for(pooled: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Lives(delay_seconds=0.001), Lives(delay_seconds=0.001)
    pool = pooled(first, second)
    progress = pool._progress
    assert progress

    async def go() -> None:
        streams = [asyncio.create_task(answer(pool, says(TEXT))) for _ in range(8)]
        await asyncio.sleep(0.01)
        for each in (first, second):
            each.gate.clear()
            each.fail()
        while len(pool._waiting) < 8:
            await asyncio.sleep(0.001)
        assert progress.state().status == "loading"
        assert "Oh." in progress.state().reason
        streams.pop().cancel()
        second.gate.set()
        assert {text_of(chunks) for chunks in await asyncio.gather(*streams)} == {TEXT}
        assert progress.state().status == "ready"
        second.gate.clear()
        second.fail()
        monkeypatch.setattr(pool_module, "WAIT_SECONDS", 0.02)
        with pytest.raises(Loading, match=r"Oh\."):
            await answer(pool, says(TEXT))
        with pytest.raises(Loading, match=r"Oh\."):
            pool.count_tokens("Hello")
        assert (pool.info.name, pool.slots) == ("echo", 8)
        monkeypatch.setattr(pool_module, "WAIT_SECONDS", 60)
        waiting = asyncio.create_task(answer(pool, says(TEXT)))
        await asyncio.sleep(0.01)
        await pool.close()
        with pytest.raises(BackendError, match="shut down"):
            await waiting

    asyncio.run(go())


def test_where_nobody_comes_back_it_has_failed_and_who_waits_is_told(pooled: Callable[..., Pool]) -> None:
    first, second = Lives(), Lives()
    pool = pooled(first, second)

    async def go() -> None:
        first.fail(DeviceLost("The first card is lost."))
        second.now.silent_after = 5
        waiting = asyncio.create_task(answer(pool, says(TEXT)))
        await asyncio.sleep(0.01)
        assert not pool.failed.done()
        second.fail(DeviceLost("The second card is lost."))
        with pytest.raises(BackendError, match=r"The first card is lost\. The second card is lost\."):
            await waiting
        with pytest.raises(BackendError, match="is lost"):
            await answer(pool, says(TEXT))
        assert isinstance(pool.failed.result(), DeviceLost)
        assert states(pool) == ["failed", "failed"]

    asyncio.run(go())


def test_nothing_is_left_of_streams_that_end_at_any_moment(pooled: Callable[..., Pool]) -> None:
    lives = [Lives(delay_seconds=0.001), Lives(delay_seconds=0.001)]
    pool = pooled(*lives)
    chance = random.Random(9)

    async def go() -> None:
        streams = [asyncio.create_task(answer(pool, says(TEXT))) for _ in range(40)]
        for stream in streams:
            stream.cancel()  # some before they have begun
            if chance.random() < 0.7:
                await asyncio.sleep(chance.random() * 0.004)
            if chance.random() < 0.1:
                failing = chance.choice(lives).made[-1]()
                if failing and not failing.failed.done():
                    failing.fail(BackendError("Oh."))
        await asyncio.gather(*streams, return_exceptions=True)
        assert pool.running == 0
        assert [replica.tokens for replica in pool.replicas()] == [0, 0]

    asyncio.run(go())
    soon(lambda: states(pool) == ["ready", "ready"])
    assert text_of(asyncio.run(answer(pool, says(TEXT)))) == TEXT


def test_members_that_fail_all_the_time_lose_no_answer(
    pooled: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fail on a thread of their own, as models do, at any moment; each is loaded again beside the streams."""
    monkeypatch.setattr(pool_module, "MOST_FUTILE", 1_000)  # here it is never the prompt that breaks them
    lives = [Lives(delay_seconds=0.001) for _ in range(3)]
    pool, over, chance = pooled(*lives), threading.Event(), random.Random(4)

    def break_them() -> None:
        while not over.wait(chance.random() * 0.06):
            failing = chance.choice(lives).made[-1]()
            if failing and not failing.failed.done():
                failing.fail(BackendError("Oh."))

    async def go() -> None:
        breaking = threading.Thread(target=break_them)
        breaking.start()
        try:
            for _ in range(3):
                texts = [TEXT[: 4 * count] for count in range(1, 41)]
                answers = await asyncio.gather(*(answer(pool, says(text)) for text in texts))
                assert [text_of(chunks) for chunks in answers] == texts
        finally:
            over.set()
            breaking.join()

    asyncio.run(go())
    assert sum(len(each.made) for each in lives) > len(lives)
    assert sum(each.beside for each in lives) == 0


def test_members_of_unlike_models_are_refused(pooled: Callable[..., Pool]) -> None:
    with pytest.raises(ConfigError, match=r"^cuda:\d serves (one|two) and cuda:\d (one|two), and what one has begun "):
        pooled(Lives(name="one"), Lives(name="two"))


def test_who_comes_again_as_another_model_is_asked_nothing(pooled: Callable[..., Pool]) -> None:
    first, second = Lives(), Lives()
    pool = pooled(first, second)
    first.name = "another"
    first.fail()
    soon(lambda: states(pool) == ["failed", "ready"])
    assert pool.replicas()[0].reason.startswith("cuda:0 serves another and cuda:1 echo, and what one has begun")
    assert (pool.slots, pool.info.name) == (4, "echo")
    asyncio.run(answer(pool, says(TEXT)))
    assert (first.now.peak, second.now.peak) == (0, 1)


def test_one_that_cannot_be_loaded_keeps_nobody_waiting_and_joins_later(pooled: Callable[..., Pool]) -> None:
    first, second = Lives(), Lives()
    first.refusal = StartupError("The card is full.")
    pool = pooled(first, second)
    assert states(pool) == ["loading", "ready"]
    assert pool.replicas()[0].reason.startswith("The card is full. This is attempt ")
    assert pool.slots == 8
    first.refusal = None
    soon(lambda: states(pool) == ["ready", "ready"])
    assert pool.slots == 8


def test_where_none_can_be_loaded_the_reason_is_told(pooled: Callable[..., Pool]) -> None:
    first, second = Lives(), Lives()
    first.refusal = second.refusal = ConfigError("There is no card.")
    with pytest.raises(ConfigError, match=r"There is no card\."):
        pooled(first, second)
    first.refusal = NotThereYet("The server cannot be reached.")
    with pytest.raises(ConfigError, match=r"There is no card\."):
        pooled(first, second)


def test_the_first_of_those_that_are_not_there_yet_is_waited_for() -> None:
    first, second, progress, pools = Lives(), Lives(), Progress(), list[Pool]()
    first.refusal = second.refusal = NotThereYet("The server cannot be reached.")
    loads = [("first", first), ("second", second)]
    loading = threading.Thread(target=lambda: pools.append(Pool.load(loads, progress)))
    loading.start()
    soon(lambda: progress.state().reason.startswith("The server cannot be reached. This is attempt 3."))
    second.refusal = None
    loading.join(9)
    assert states(pools[0]) == ["loading", "ready"]
    asyncio.run(pools[0].close())


def test_loading_is_as_far_as_the_last_of_them_and_stops_when_nobody_waits() -> None:
    quick, slow, progress = Lives(), Lives(), Progress()
    slow.gate.clear()
    stopped = list[bool]()

    def load() -> None:
        try:
            Pool.load([("cuda:0", quick), ("cuda:1", slow)], progress)
        except Stopped:
            stopped.append(True)

    loading = threading.Thread(target=load)
    loading.start()
    soon(lambda: len(quick.made) == 1 and progress.state().stage == "weights" and progress.state().done > 0.4)
    progress.stop()
    loading.join(9)
    assert stopped == [True]
    assert len(slow.made) == 0


def test_it_speaks_for_all_of_its_members(pooled: Callable[..., Pool]) -> None:
    pool = pooled(Lives(pages_free=3), Lives(pages_free=4))
    assert pool.memory() == {"weights": 0, "kv_used": 0, "kv_total": 0, "pages_free": 7}
    assert [replica.memory["pages_free"] for replica in pool.replicas()] == [3, 4]
    late = LateBackend(lambda _: pool)
    assert late.replicas() == ()
    late.start()
    soon(lambda: len(late.replicas()) == 2)
    assert late.info.plan == pool.info.plan
    late.stop(9)


def test_a_reader_does_not_notice_that_a_card_has_failed(serve: Serve) -> None:
    lives = [Lives(delay_seconds=0.002), Lives(delay_seconds=0.002)]
    pools = list[Pool]()

    def load(progress: Progress) -> Backend:
        pools.append(Pool.load([("cuda:0", lives[0]), ("cuda:1", lives[1])], progress))
        return pools[-1]

    url = serve(LateBackend(load))
    book = "\n".join(f"This is line {number} of a book about the sea and its ships." for number in range(60))
    sent = {"text": book, "source_lang": "en", "target_lang": "fr"}
    failing = threading.Timer(0.2, lives[0].fail)
    failing.start()
    answered = httpx.post(f"{url}/translate", json=sent, timeout=30)
    failing.join()
    assert answered.json()["translation"] == book
    soon(lambda: [len(each.made) for each in lives] == [2, 1])


@pytest.fixture(scope="module")
def workers(tiny_checkpoint: Path) -> Iterator[Pool]:
    """Two processes with a real model."""
    pool = select(Config(model=str(tiny_checkpoint), devices="cpu,cpu", precision="fp32", max_concurrent=8))
    assert isinstance(pool, Pool)
    yield pool
    asyncio.run(pool.close())


def pids(pool: Pool) -> list[int]:
    return [backend.pid for each in pool._members if isinstance(backend := each.late._backend, ProcessBackend)]


def test_those_on_the_cpu_divide_its_cores_and_what_runs_at_once(workers: Pool) -> None:
    cores = allowed_cores()
    first, second = (os.sched_getaffinity(pid) for pid in pids(workers))
    assert first | second == set(cores)
    assert len(first & second) == (len(cores) == 1)
    assert [each.slots for each in workers._members] == [4, 4]
    assert [each.device for each in workers.replicas()] == ["cpu#1", "cpu#2"]
    assert [each.memory["resident"] > 10**8 for each in workers.replicas()] == [True, True]
    (share,) = set(re.findall(r"under --max-ram-gb ([\d.]+):", workers.info.plan))
    assert float(share) <= ram()[0] / 2 / 10**9


@pytest.mark.parametrize(("cards", "asked"), [(1, ["cuda:0"]), (3, ["cuda:0", "cuda:1", "cuda:2"])])
def test_all_devices_are_all_cards(cards: int, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(10**9, 10**9, 2, False, tuple(Card(f"cuda:{n}", "Card", 10**9, (8, 0)) for n in range(cards)))
    monkeypatch.setattr(inventory, "survey", lambda _: machine)
    loaded = []

    def load(config: Config, *_: object, **__: object) -> EchoBackend:
        loaded.append(config.devices)
        return EchoBackend()

    monkeypatch.setattr(LocalBackend, "load", load)
    monkeypatch.setattr(ProcessBackend, "load", load)
    backend = select(Config(devices="all"))
    assert sorted(loaded) == asked
    asyncio.run(backend.close())


def test_all_cards_of_a_machine_that_has_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="this machine has no CUDA card; leave it out"):
        select(Config(devices="all"))


def test_a_worker_killed_at_full_load_loses_no_request_and_changes_no_word(
    workers: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "engine.backends.pool")
    sampled = Sampling(temperature=1.0, top_k=50, repetition_penalty=1.2, seed=7)
    prompts = [ask(f"Sentence {number} of the committee.", 200, (GREEDY, sampled)[number % 2]) for number in range(12)]

    async def said(*, kill: bool) -> list[str]:
        heard = [0]

        async def one(prompt: Prompt) -> str:
            text = ""
            async for chunk in workers.stream(prompt):
                text += chunk.text
                heard[0] += chunk.tokens
                if kill and 100 <= heard[0] < 100 + chunk.tokens:
                    os.kill(pids(workers)[0], signal.SIGKILL)
            return text

        return await asyncio.gather(*map(one, prompts))

    assert asyncio.run(said(kill=False)) == asyncio.run(said(kill=True))
    assert re.search("an answer moves from cpu#1 after [1-9]", caplog.text)
    assert [replica.tokens for replica in workers.replicas()] == [0, 0]
    soon(lambda: states(workers) == ["ready", "ready"], seconds=40)
