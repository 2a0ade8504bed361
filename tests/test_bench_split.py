"""`bench split`: which ways it takes and what it makes of what they say. Processes are stood in for."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import Config
from engine.tools import bench, bench_split
from engine.tools.bench_split import Said
from engine.types import Prompt, TokenChunk
from tests.commands import refusal_of, result_of
from tests.streams import Numbering


class Process(Numbering):
    """Says numbers, each way at its own pace; one of them says another after three."""

    def __init__(self, config: Config) -> None:
        super().__init__({"tensor": 0.002, "layers": 0.008}.get(config.split, 0.004), slots=8)
        self.config, self.closed = config, False
        self.asked: list[str] = []

    async def stream(self, prompt: Prompt) -> AsyncGenerator[TokenChunk, None]:
        self.asked.append(prompt.text)
        made = 0
        async for chunk in super().stream(prompt):
            made += chunk.tokens
            yield replace(chunk, ids=(999,)) if self.config.split == "layers" and made > 3 and chunk.ids else chunk

    def memory(self) -> dict[str, int]:
        return {"weights": 15_000_000_000} | ({"offloaded": 9_000_000_000} if self.config.max_vram_gb else {})

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    made: list[Process] = []

    def load(config: Config) -> Process:
        assert all(each.closed for each in made)  # for not all would have the room at once
        made.append(Process(config))
        return made[-1]

    monkeypatch.setattr(bench_split.ProcessBackend, "load", load)
    return made


def asked(devices: str, folder: Path, *more: object) -> Sequence[object]:
    return ["split", "--devices", devices, "--model", folder, "--new-tokens", 24, "--repeat", 2, *more]


def test_one_card_is_compared_with_two_that_share_the_model(
    processes: list[Process], tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, shown = result_of(capsys, bench, *asked("cuda:0,cuda:1", tiny_checkpoint, "--streams", "1,3"))
    assert [(each.config.devices, each.config.split) for each in processes] == [
        ("cuda:0", "auto"),
        ("cuda:0+cuda:1", "tensor"),
        ("cuda:0+cuda:1", "layers"),
    ]
    assert all(each.closed and each.config.max_concurrent == 3 for each in processes)
    assert all(len(set(each.asked)) == 1 + 2 * (1 + 3) for each in processes)  # none twice: its pages are still there
    alone, tensor, layers = result["ways"].values()
    for way in (alone, tensor, layers):
        for told in ("tokens_per_second", "first_token_ms"):
            assert [len(each) for each in way[told].values()] == [2, 2]
            assert min(map(min, way[told].values())) > 0
    assert [(way["same_answers"], way["same_tokens"]) for way in (alone, tensor, layers)] == [
        (3, 1.0),
        (3, 1.0),
        (0, 0.125),
    ]
    assert "| cuda:0+cuda:1, layers |" in shown
    assert "0 of 3, 12% of tokens" in shown


def test_a_ceiling_is_a_way_of_its_own(
    processes: list[Process], tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, _ = result_of(capsys, bench, *asked("cuda:0", tiny_checkpoint, "--max-vram-gb", 10))
    assert [each.config.max_vram_gb for each in processes] == [None, 10.0]
    assert result["ways"]["cuda:0, 10 GB"]["offloaded_mb"] == 9_000


def test_nothing_to_compare_is_told(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="nothing to compare; name several --devices, or --max-vram-gb"):
        result_of(capsys, bench, *asked("cuda:0", tiny_checkpoint))
    with pytest.raises(SystemExit, match="divided over cards, and a ceiling is of one"):
        result_of(capsys, bench, *asked("cpu", tiny_checkpoint, "--max-vram-gb", 10))
    assert "is not a number above 0" in refusal_of(capsys, bench, "split", "--max-vram-gb", "0")


def test_a_rate_counts_from_when_all_have_begun() -> None:
    said = [Said([1, 2, 3], [0.1, 0.2, 0.3]), Said([1, 2, 3], [0.2, 0.7, 1.2])]
    assert bench_split._rate(said) == pytest.approx(3 / 1.0)
    assert bench_split._rate([Said([1], [0.1])]) == 0.0
    assert bench_split._first_ms(said) == pytest.approx(150)
