"""Layers that are fetched at every step, from memory and from the disk: what they say, what they take, and what becomes
of their files. On the CPU, which fetches from its own disk as a card does from elsewhere; cards: `tests/gpu`."""

import asyncio
import gc
import random
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine import footprint, hardware
from engine.backends.local import LocalBackend
from engine.backends.select import EMBEDDED_FOLDER
from engine.config import Config
from engine.errors import BackendError, ConfigError
from engine.inference import dispatch
from engine.inference.checkpoint import load_model, read_config
from engine.inference.dispatch import Dispatch
from engine.inference.kv_cache import Pages
from engine.inference.model import HunYuanDense
from engine.inference.runner import Chunk, TorchRunner
from engine.inference.sampler import GREEDY
from tests.checkpoints import scores_of, shard, write_checkpoint
from tests.streams import answer, ask, text_of

LAYERS = 6
PLACES = ("cpu", "disk", "disk", "cpu", "disk", "disk")  # where the layers of `folder` are
LARGE = {"hidden_size": 512, "intermediate_size": 1_536, "num_hidden_layers": 12}  # 150 MB in fp32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("offload") / "model", num_hidden_layers=LAYERS)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files of layers are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "yiwen" / "offload"


def model_of(folder: Path, places: Dispatch | None = None) -> HunYuanDense:
    model = load_model(folder, read_config(folder), torch.float32, "cpu", places=places)
    if places:
        places.spread(model)
    return model


def some_ids(count: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(480), k=count)


def in_memory(places: Dispatch, layers: Sequence[int]) -> Dispatch:
    """These are fetched from memory, as for a card, in blocks."""
    for layer in layers:
        places._away[layer] = dispatch._Away(layer, None)
    return places


@pytest.fixture
def fetched_plan(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Callable[[Sequence[str]], None]:
    """Plans are made as ever, but with layers in these places."""
    whole = hardware.plan

    def fetch(places: Sequence[str]) -> None:
        def planned(*asked: object) -> footprint.LoadPlan:
            made = whole(*asked)  # type: ignore[arg-type]
            elsewhere = {"disk": footprint.PlannedBytes(places.count("disk"), 0, 0, 0, 0)}
            return replace(made, layers=tuple(places), elsewhere=elsewhere)

        monkeypatch.setattr(hardware, "plan", planned)

    return fetch


def answers(folder: Path, count: int = 5) -> tuple[list[str], dict[str, int], LocalBackend]:
    """Some that run side by side and end one after another, so that prompts come in beside those who run."""

    async def go() -> tuple[list[str], dict[str, int], LocalBackend]:
        config = Config(model=str(folder), devices="cpu", precision="fp32", max_concurrent=3)
        backend = LocalBackend.load(config)
        asked = [ask(f"Sentence number {number} of it.", 4 + 5 * number) for number in range(count)]
        said = await asyncio.gather(*(answer(backend, each) for each in asked))
        await backend.close()
        return [text_of(chunks) for chunks in said], backend.memory(), backend

    return asyncio.run(go())


def test_fetched_layers_say_what_they_say_where_they_stay(
    folder: Path, fetched_plan: Callable[[Sequence[str]], None], cache: Path
) -> None:
    whole, all_of_it, _ = answers(folder)
    fetched_plan(PLACES)
    fetched, memory, backend = answers(folder)
    assert fetched == whole
    assert len(set(whole)) == 5
    assert memory["offloaded"] + memory["weights"] == all_of_it["weights"]
    assert memory["offloaded"] == pytest.approx(4 / 6 * all_of_it["weights"], rel=0.2)
    assert backend.info.planned_bytes["offloaded"] == 4
    assert [len(list(run.glob("[0-9]"))) for run in cache.glob("*/")] == [4]


def test_so_does_the_embedded_model(cache: Path) -> None:
    model, ids = model_of(EMBEDDED_FOLDER), some_ids(40)
    true = scores_of(model, ids)
    places = in_memory(Dispatch(["cpu", *["disk"] * (model.config.layers - 1)], "cpu"), (1, 4, 5))
    for index, layer in enumerate(model.layers):
        places.take(f"layers.{index}", layer)
    places.spread(model)
    for _ in range(2):  # from the first layer fetched on, and round
        assert torch.equal(scores_of(model, ids), true)


def test_layers_of_many_blocks_and_of_shards_come_whole(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "BLOCK_BYTES", 50_000)  # fifteen of a layer, none of which ends with a tensor
    folder = write_checkpoint(tmp_path / "model", num_hidden_layers=LAYERS, tied=False)
    shard(folder)
    fetched = model_of(folder, in_memory(Dispatch(PLACES, "cpu"), (1, 4)))
    assert torch.equal(scores_of(fetched, some_ids(60)), scores_of(model_of(folder), some_ids(60)))


def test_prompts_and_rows_go_through_fetched_layers_in_one_pass(folder: Path, cache: Path) -> None:
    whole, fetched = (
        TorchRunner(model, 3, 40) for model in (model_of(folder), model_of(folder, Dispatch(PLACES, "cpu")))
    )
    passes: list[int] = []
    fetched._model.register_forward_pre_hook(lambda *_: passes.append(1))
    chosen = []
    for runner in (whole, fetched):
        pages, tables = Pages(40), []
        for slot, count in enumerate((33, 64)):  # at a page's first place, and behind its last
            ids = some_ids(count, slot)
            tables.append(pages.open(ids))
            assert tables[slot]
            runner.begin(slot, GREEDY, ids, 0)
            chosen.append(runner.step([Chunk(slot, ids, tables[slot], True)], [], []).tokens())
            pages.advance(tables[slot], count)
        passes.clear()
        late = pages.open(some_ids(40, 9))
        assert late
        for part in (some_ids(40, 9)[:10], some_ids(40, 9)[10:]):
            assert all(pages.grow(table, 1) for table in tables)
            runner.begin(2, GREEDY, part, 0)
            chosen.append(runner.step([Chunk(2, part, late, len(part) == 30)], [0, 1], tables).tokens())
            pages.advance(late, len(part))
            for table in tables:
                pages.advance(table, 1)
    assert chosen[: len(chosen) // 2] == chosen[len(chosen) // 2 :]
    assert [len(each) for each in chosen[:4]] == [1, 1, 2, 3]
    assert len(passes) == 2


def test_each_device_holds_the_cache_of_the_layers_it_computes(folder: Path) -> None:
    """ "cpu:0" is the same device under another name."""
    model = model_of(folder)
    computing = ["cpu", "cpu:0", "cpu:0", "cpu", "cpu:0", "cpu"]
    runners = [TorchRunner(model, 2, 20), TorchRunner(model, 2, 20, computing)]
    chosen = []
    for runner in runners:
        pages, ids = Pages(20), some_ids(50)
        table = pages.open(ids)
        assert table
        runner.begin(0, GREEDY, ids, 0)
        chosen.append(runner.step([Chunk(0, ids, table, True)], [], []).tokens())
        pages.advance(table, len(ids))
        for _ in range(20):
            assert pages.grow(table, 1)
            chosen.append(runner.step([], [0], [table]).tokens())
            pages.advance(table, 1)
    assert chosen[:21] == chosen[21:]
    one, two = (runner.memory() for runner in runners)
    assert two["cpu/kv_total"] == two["cpu:0/kv_total"] == one["kv_total"] // 2 == two["kv_total"] // 2


def test_what_goes_to_the_disk_is_never_all_in_memory(tmp_path: Path, cache: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", **LARGE)
    weights = (folder / "model.safetensors").stat().st_size
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak counts anew
    before = peak_bytes()
    fetched = model_of(folder, Dispatch(["disk"] * 12, "cpu"))
    scores_of(fetched, some_ids(5))
    assert peak_bytes() - before < 0.6 * weights
    assert sum(file.stat().st_size for file in cache.glob("*/*")) > 0.9 * weights


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@pytest.fixture
def small_files() -> Iterator[None]:
    """A file that grows past 300 kB is refused, as on a full disk. Python hears of it as of any error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_in_a_sentence_and_gets_its_room_back(
    folder: Path, fetched_plan: Callable[[Sequence[str]], None], cache: Path, small_files: None
) -> None:
    fetched_plan(PLACES)
    with pytest.raises(
        ConfigError, match=r"cannot be kept in '.*offload' \(File too large\); make room there, .*\.$"
    ) as full:
        answers(folder)
    full.value.__traceback__ = None  # whose frames hold what was loaded
    del full
    gc.collect()  # as whoever tries again does; Python 3.13 leaves a circle
    assert list(cache.glob("*/")) == []


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be kept in '.*taken' \(File exists\)"):
        Dispatch(["disk"], "cpu", tmp_path / "taken")


def test_the_files_of_a_run_go_with_it_and_of_one_that_was_killed_with_the_next(folder: Path, cache: Path) -> None:
    model = model_of(folder, Dispatch(PLACES, "cpu"))
    (own,) = cache.glob("*/")
    killed = dispatch._Folder(cache)
    (killed.path / "3").write_bytes(b"half a layer")
    _, _, (_, lock), _ = killed.close.detach()  # nothing is tidied up, …
    lock.release()  # … and what the system lets go of
    assert killed.path.is_dir()
    other = dispatch._Folder(cache)
    assert {*cache.glob("*/")} == {own, other.path}
    assert other.close.atexit
    other.close()
    assert scores_of(model, some_ids(5)).isfinite().all()
    del model
    gc.collect()
    assert [*cache.glob("*/")] == []


def test_a_file_that_is_lost_fails_a_translation_and_not_the_next(
    folder: Path, fetched_plan: Callable[[Sequence[str]], None], cache: Path, tmp_path: Path
) -> None:
    fetched_plan(PLACES)

    async def go() -> None:
        backend = LocalBackend.load(Config(model=str(folder), devices="cpu", precision="fp32", max_concurrent=2))
        true = text_of(await answer(backend, ask("Hello", 5)))
        (lost,) = cache.glob("*/4")
        shutil.copy(lost, tmp_path / "kept")
        for spoil in (lambda: lost.write_bytes(b"cut"), lost.unlink):
            spoil()
            with pytest.raises(
                BackendError, match=r"The model failed while translating \((OSError|FileNotFoundError)\)"
            ):
                await answer(backend, ask("Hello", 5))
            shutil.copy(tmp_path / "kept", lost)
            assert text_of(await answer(backend, ask("Hello", 5))) == true
        await backend.close()

    asyncio.run(go())
