"""What is counted, timed and measured."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from engine.errors import BackendError
from engine.metrics import Metrics, Pages
from engine.types import Finished, TextDelta, TranslationEvent

FINISHED = Finished("ab", "en", segments=1, input_tokens=3, output_tokens=2, seconds=1.0, model="echo")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def run(clock: Clock, fails: Exception | None = None) -> AsyncGenerator[TranslationEvent, None]:
    for letter in "ab":
        clock.now += 0.5
        yield TextDelta(0, letter)
    if fails:
        raise fails
    yield FINISHED


async def drain(events: AsyncGenerator[TranslationEvent, None]) -> list[TranslationEvent]:
    return [event async for event in events]


def test_a_finished_run_is_counted_and_timed() -> None:
    metrics = Metrics(clock=(clock := Clock()))
    events = asyncio.run(drain(metrics.observe(run(clock))))
    now = metrics.snapshot()
    assert events == [TextDelta(0, "a"), TextDelta(0, "b"), FINISHED]
    assert (now.requests, now.finished, now.running, now.cancelled, now.errors) == (1, 1, 0, 0, {})
    assert (now.segments, now.input_tokens, now.output_tokens) == (1, 3, 2)
    assert (now.first_text.median_seconds, now.whole.median_seconds, now.whole.count) == (0.5, 1.0, 1)


def test_a_reader_who_leaves_is_a_cancelled_run() -> None:
    metrics = Metrics(clock=(clock := Clock()))

    async def leave() -> None:
        async with aclosing(metrics.observe(run(clock))) as events:
            await anext(events)
            assert metrics.snapshot().running == 1

    asyncio.run(leave())
    now = metrics.snapshot()
    assert (now.requests, now.finished, now.cancelled, now.running) == (1, 0, 1, 0)


def test_a_reader_who_leaves_after_the_last_event_has_cancelled_nothing() -> None:
    metrics = Metrics(clock=(clock := Clock()))

    async def leave() -> None:
        async with aclosing(metrics.observe(run(clock))) as events:
            async for event in events:
                if event is FINISHED:
                    break

    asyncio.run(leave())
    assert (metrics.snapshot().finished, metrics.snapshot().cancelled) == (1, 0)


@pytest.mark.parametrize(("error", "code"), [(BackendError("no"), "backend_failed"), (OSError("no"), "internal")])
def test_errors_are_counted_by_code_and_passed_on(error: Exception, code: str) -> None:
    metrics = Metrics(clock=(clock := Clock()))
    with pytest.raises(type(error)):
        asyncio.run(drain(metrics.observe(run(clock, error))))
    assert metrics.snapshot().errors == {code: 1}


def test_the_rate_is_of_the_last_seconds_only() -> None:
    metrics = Metrics(clock=(clock := Clock()))
    for _ in range(10):
        asyncio.run(drain(metrics.observe(run(clock))))  # two deltas a second, for ten seconds
    assert metrics.snapshot().tokens_per_second == pytest.approx(2, rel=0.3)
    clock.now += 60
    assert metrics.snapshot().tokens_per_second == 0


def test_memory_comes_from_the_probes() -> None:
    memory = Metrics(lambda: {"weights": 7, "kv_used": 1, "kv_total": 2}, process_bytes=lambda: 9).snapshot().memory
    assert (memory.process, memory.weights, memory.kv_used, memory.kv_total) == (9, 7, 1, 2)
    assert (memory.workspace, memory.graphs, memory.context) == (None, None, None)


def test_what_was_measured_before_is_not_measured_again() -> None:
    metrics = Metrics((kinds := iter([{"weights": 7}])).__next__, process_bytes=lambda: 9)
    held = metrics.held()
    assert metrics.snapshot(held).memory == held.memory
    assert list(kinds) == []


def test_pages_are_counted_where_the_cache_has_them() -> None:
    assert Metrics(lambda: {"weights": 7}).snapshot().pages is None
    counted = Metrics(lambda: {"pages_used": 3, "pages_free": 5, "preempted": 1, "graphs": 9}).snapshot()
    assert counted.pages == Pages(used=3, free=5, preempted=1)
    assert counted.memory.graphs == 9


def test_this_program_holds_some_memory() -> None:
    assert Metrics().snapshot().memory.process > 1_000_000
