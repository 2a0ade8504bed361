"""`bench cards`: its account of what comes, and of what is lost when a process dies. Processes are stood in for."""

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import count
from pathlib import Path

import pytest

from engine.backends import late as late_module
from engine.errors import BackendError
from engine.tools import bench, bench_cards
from engine.types import Prompt, TokenChunk
from tests.commands import result_of
from tests.streams import Numbering


class Process(Numbering):
    def __init__(self, asked: list[str]) -> None:
        super().__init__(0.002, slots=4)
        self.pid, self._asked = 0, asked

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        if not prompt.made:
            self._asked.append(prompt.text)
        async with aclosing(super().stream(prompt)) as chunks:
            async for chunk in chunks:
                yield chunk


Made = list[weakref.ref[Process]]


@pytest.fixture
def asked() -> list[str]:
    """Of all processes, in order."""
    return []


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> Made:
    """Those that are loaded; to kill the one with a number is to let it fail."""
    made: Made = []

    def load(*_: object) -> Process:
        process = Process(asked)
        process.pid = len(made)
        made.append(weakref.ref(process))
        return process

    def kill(pid: int, _: int) -> None:
        if process := made[pid]():
            process.fail(BackendError("It was killed."))

    monkeypatch.setattr(bench_cards.ProcessBackend, "load", load)
    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(bench_cards, "BIN_SECONDS", 0.05)
    monkeypatch.setattr(bench_cards, "RATE_SECONDS", 0.2)
    monkeypatch.setattr(late_module, "PAUSE_SECONDS", 0.3)
    return made


FLAGS = ["cards", "--devices", "cuda:0,cuda:1,cuda:2", "--counts", "1,3", "--seconds", "0.8", "--repeat", "1"]


def test_more_devices_say_more_and_the_same(
    processes: Made, asked: list[str], tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, said = result_of(capsys, bench, *FLAGS, "--model", str(tiny_checkpoint))
    assert len(processes) == 3  # each in both numbers of them
    assert result["ratio"]["1"] == 1.0
    assert 1.5 < result["ratio"]["3"] < 4.5  # each stream has its own pace here
    assert result["same_answers"]
    assert result["kill"] is None
    assert "| 3 |" in said
    under_load = asked[2 * 2 * bench_cards.SAME :]  # after the answers that are compared
    assert len(set(under_load)) == len(under_load) > 3 * 4  # where one comes again its pages are still there


@pytest.mark.parametrize("numbers", [True, False])
def test_what_dies_under_load_is_made_good_or_counted_as_lost(
    numbers: bool, processes: Made, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokens without ids cannot be gone on after."""
    Process.numbers = numbers
    try:
        result, _ = result_of(capsys, bench, *FLAGS, "--counts", "3", "--model", str(tiny_checkpoint), "--kill")
    finally:
        Process.numbers = True
    killed = result["kill"]
    assert len(processes) == 4  # the last of three, and the one that came for it
    assert (killed["lost"] == 0) == numbers, killed["why"]
    assert killed["answers"] > 0
    assert killed["seconds_until_back"] >= 0.3
    assert killed["tokens_per_second_without"] > 0 < killed["tokens_per_second_after"]


def test_a_rate_is_there_again_when_a_whole_second_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cards, "RATE_SECONDS", 1.0)
    marks = [(0.25 * number, 100 * number if number < 9 else 800) for number in range(13)]  # 400 a second, then none
    marks += [(3.0 + 0.25 * number, 800 + 100 * number) for number in range(1, 9)]
    assert bench_cards._between(marks, 0.0, 2.0) == pytest.approx(400)
    assert bench_cards._until(marks, 2.0, 395) == 2.0  # the second that begins when it says more again
    assert bench_cards._until(marks, 2.0, 401) is None


def test_imbalance_is_of_the_means() -> None:
    assert bench_cards.imbalance([[100, 50], [50, 100]]) == 0
    assert bench_cards.imbalance([[100, 100], [100, 60]]) == pytest.approx(0.2)
    assert bench_cards.imbalance([[0, 0]]) == 0


def test_answers_differ_in_length_and_are_as_long_as_asked_on_average() -> None:
    lengths = [bench_cards.question(number, 256).max_new_tokens for number in range(1_000)]
    assert (min(lengths), max(lengths)) == (128, 384)
    assert sum(lengths) / 1_000 == pytest.approx(256, rel=0.03)
    assert bench_cards.question(7, 1).max_new_tokens == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--devices", "cpu"], "--devices must name several"), (["--counts", "3"], "--counts asks for 3 devices")],
)
def test_too_few_devices_are_told(flags: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "cards", *flags])
    with pytest.raises(SystemExit, match=said):
        bench.main()


def test_streams_that_end_by_themselves_fail_the_run() -> None:
    async def run() -> None:
        load = bench_cards.Load(pool=None, new_tokens=1, asked=count())  # type: ignore[arg-type]
        async with load.running(2):
            await asyncio.sleep(0.01)

    with pytest.raises(AssertionError, match="2 streams ended by themselves"):
        asyncio.run(run())
