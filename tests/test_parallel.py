"""One model whose layers are divided among processes, here of the CPU: the shares make up the whole, what they say is
what the whole says, and whatever becomes of one of them, whoever waits is told and all are started again.
"""

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from engine import hardware, inventory
from engine.backends import late as late_module
from engine.backends import local
from engine.backends.late import LateBackend
from engine.backends.local import LocalBackend
from engine.backends.select import choose
from engine.config import Config
from engine.errors import BackendError, ConfigError
from engine.footprint import LoadPlan
from engine.inference import parallel
from engine.inference.checkpoint import Weights, load_model, model_config, read_config
from engine.inference.loader import Described, describe
from engine.inference.model import HunYuanDense, ModelConfig
from engine.inference.rank_messages import Start
from engine.inference.sampler import GREEDY
from engine.inference.sharding import HEAD_ROWS, Share
from engine.inventory import Card, Machine
from engine.progress import Progress
from engine.shape import ModelShape
from engine.tools.synthetic import SHAPES
from engine.types import Prompt, Sampling
from tests.checkpoints import attend_before, error, quantize_gptq, quantize_int8, scores_of, shard, write_checkpoint
from tests.conftest import soon

IDS = list(range(3, 60))
SEEN = Sampling(temperature=0.9, top_p=0.9, top_k=20, repetition_penalty=1.1, seed=7)
TEXT = "The committee has not decided yet. 我昨天去了图书馆。"
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}


class Together:
    """The ranks of one process, a thread each, which meet here."""

    def __init__(self, count: int) -> None:
        self._barrier, self._brought = threading.Barrier(count, timeout=20), [torch.empty(0)] * count

    def rank(self, number: int) -> "Together.Rank":
        return Together.Rank(self, number)

    class Rank:
        def __init__(self, others: "Together", number: int) -> None:
            self._others, self._number = others, number

        def _all(self, x: Tensor) -> list[Tensor]:
            others = self._others
            others._brought[self._number] = x
            others._barrier.wait()
            brought = list(others._brought)
            others._barrier.wait()
            return brought

        def sum(self, x: Tensor) -> Tensor:
            return torch.stack(self._all(x)).sum(0)

        def joined(self, x: Tensor) -> Tensor:
            return torch.cat(self._all(x), -1)

        def most(self, number: float) -> float:
            return float(max(self._all(torch.tensor(number))))


def shares_of(folder: Path, count: int) -> list[Share]:
    config = read_config(folder)
    return [Share.of(rank, count, model_config(config), config) for rank in range(count)]


def scores_of_shares(folder: Path, count: int, dtype: torch.dtype) -> list[Tensor]:
    """Of each rank, which all should have them all."""
    together = Together(count)

    def run(share: Share) -> Tensor:
        model = load_model(folder, read_config(folder), dtype, "cpu", share=share)
        model.join(together.rank(share.rank))
        at = torch.arange(len(IDS))[None]
        with torch.inference_mode():
            return model.logits(model(torch.tensor([IDS]), at, attend_before)[0])

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, shares_of(folder, count)))


def as_int8(folder: Path) -> None:
    quantize_int8(folder)


def as_gptq(**how: object) -> Callable[[Path], None]:
    return lambda folder: quantize_gptq(folder, **how)


@pytest.mark.parametrize(
    ("stored", "count", "tied", "dtype", "off"),
    [
        (lambda _: None, 2, True, torch.float32, 1e-5),
        (shard, 4, False, torch.float32, 1e-5),
        (lambda _: None, 2, False, torch.bfloat16, 3e-2),
        (as_int8, 2, False, torch.float32, 1e-5),
        (as_gptq(group_size=32), 4, True, torch.float32, 1e-5),
        (as_gptq(group_size=128, sym=False, v2=True), 2, False, torch.float32, 1e-5),
        (as_gptq(group_size=-1, sym=False), 2, True, torch.float32, 1e-5),
        (as_gptq(group_size=64, bits=8), 2, True, torch.float32, 1e-5),
    ],
    ids=["fp32", "untied, in files", "bf16", "int8", "gptq", "gptq v2", "gptq, a group a row", "gptq int8"],
)
def test_ranks_that_read_their_share_have_the_scores_of_the_whole_model(
    tmp_path: Path, stored: Callable[[Path], None], count: int, tied: bool, dtype: torch.dtype, off: float
) -> None:
    folder = write_checkpoint(tmp_path / "model", tied=tied, num_key_value_heads=4, intermediate_size=384)
    stored(folder)
    whole = load_model(folder, read_config(folder), torch.float32, "cpu")
    first, *others = scores_of_shares(folder, count, dtype)
    assert first.shape == (len(IDS), whole.config.vocab_size)
    assert error(first, scores_of(whole, IDS)) < off
    assert all(other.equal(first) for other in others)


@pytest.mark.parametrize("name", ["q_proj", "k_proj", "gate_proj", "o_proj", "down_proj"])
def test_int4_stays_int4_in_a_share(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "model", num_key_value_heads=4, intermediate_size=384)
    quantize_gptq(folder, group_size=64, sym=False)
    config = read_config(folder)
    full = f"model.layers.1.{'mlp' if name[0] in 'gd' else 'self_attn'}.{name}"
    inputs = {"o_proj": 256, "down_proj": 384}.get(name, 128)
    outputs = {"q_proj": 256, "k_proj": 128, "gate_proj": 384}.get(name, 128)
    whole = Weights(folder, config).int4(full, torch.Size((outputs, inputs)))
    parts = []
    for share in shares_of(folder, 2):
        cut = share.cut(full)
        assert cut is not None
        size = [outputs, inputs]
        size[cut.axis] = cut.stop - cut.start
        part = Weights(folder, config, share=share).int4(full, torch.Size(size))
        assert part.group == whole.group
        parts.append(part.dequantize())
    assert torch.cat(parts, cut.axis).equal(whole.dequantize())


def test_a_rank_reads_no_more_than_its_share(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tied=False)
    models = [load_model(folder, read_config(folder), torch.float32, "cpu", share=one) for one in shares_of(folder, 2)]
    whole = load_model(folder, read_config(folder), torch.float32, "cpu")
    everywhere = whole.embedding.weight.numel() + sum(each.numel() for each in whole.parameters() if each.ndim == 1)
    divided = count_of(whole) - everywhere
    assert [count_of(model) - everywhere for model in models] == pytest.approx([divided / 2] * 2, rel=0.05)


def count_of(model: HunYuanDense) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_shares_of_hy_mt_are_alike_and_make_up_the_whole(count: int) -> None:
    whole = SHAPES["7b"]
    shares = [Share.of(rank, count, whole, {"quantization_config": GPTQ}) for rank in range(count)]
    assert len({share.config for share in shares}) == 1
    assert shares[0].config.intermediate_size % 128 == 0
    for name in ("q_proj", "k_proj", "o_proj", "gate_proj", "down_proj", "lm_head"):
        cuts = [cut for share in shares if (cut := share.cut(f"x.{name}"))]
        assert [cut.start for cut in cuts[1:]] == [cut.stop for cut in cuts[:-1]]
        assert (cuts[0].start, cuts[-1].stop) == (0, cuts[0].whole)
    assert shares[0].head_rows % HEAD_ROWS == 0
    assert shares[0].cut("model.embed_tokens") is None


def test_groups_that_do_not_come_out_even_stay_whole() -> None:
    whole = replace(SHAPES["tiny"], intermediate_size=1_920, head_dim=64)
    shares = [Share.of(rank, 2, whole, {"quantization_config": GPTQ}) for rank in range(2)]
    assert [share.config.intermediate_size for share in shares] == [896, 1_024]


@pytest.mark.parametrize(
    ("changes", "count", "quantization", "said"),
    [
        ({}, 4, {}, "4 query heads and 2 key heads cannot be divided by 4 cards"),
        ({"head_dim": 32}, 2, GPTQ, "groups of 128 inputs cannot be divided by 2 cards"),
        ({"head_dim": 64}, 2, GPTQ | {"desc_act": True}, "act-order"),
    ],
)
def test_what_cannot_be_divided_is_said_in_a_sentence(
    changes: dict[str, int], count: int, quantization: dict[str, object], said: str
) -> None:
    whole: ModelConfig = replace(SHAPES["tiny"], **changes)
    with pytest.raises(ConfigError, match=said) as caught:
        Share.of(0, count, whole, {"quantization_config": quantization})
    assert "--split layers" in str(caught.value)


def test_a_split_of_nothing_is_refused() -> None:
    for devices in ("auto", "cuda:0,cuda:1"):
        with pytest.raises(ConfigError, match=r"such as cuda:0\+cuda:1"):
            choose(Config(devices=devices, split="tensor"))


def test_act_order_that_the_config_does_not_tell_of_is_refused_when_it_is_read(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    quantize_gptq(folder, group_size=64, act_order=True)
    with pytest.raises(ConfigError, match=r"o_proj was quantised with act-order"):
        load_model(folder, read_config(folder), torch.float32, "cpu", share=shares_of(folder, 2)[0])


# The plan

BF16_7B = ModelShape(4_096, 14_336, 32, 32, 8, 128, 128_167, True, "bf16", 0, 0, 8_192, 512)


def cards(*free_gb: float, capability: tuple[int, int] = (8, 9)) -> Machine:
    found = [
        Card(f"cuda:{number}", "NVIDIA L4", int(free * 1.05e9), capability, int(free * 1e9))
        for number, free in enumerate(free_gb)
    ]
    return Machine(64 * 10**9, 60 * 10**9, 8, True, tuple(found))


def planned(machine: Machine, **more: object) -> LoadPlan:
    config = Config(devices="+".join(card.device for card in machine.cards), split="tensor", **more)
    return hardware.plan_shares(config, BF16_7B, machine)


def test_two_cards_of_12_gb_hold_a_model_of_15_gb() -> None:
    plan = planned(cards(11.5, 11.0))
    assert (plan.engine, plan.device, plan.cards) == ("cuda", "cuda:0", ("cuda:0", "cuda:1"))
    assert plan.bytes == plan.elsewhere["cuda:1"]
    assert 7.9e9 < plan.bytes.weights < 8.6e9  # half the layers, and the whole embedding
    assert plan.bytes.total - plan.bytes.context < 11.0e9
    assert plan.reason.startswith("2 cards hold a share of every layer")


def test_a_ceiling_holds_for_each_card() -> None:
    assert planned(cards(40, 40), max_vram_gb=10.0).bytes.total <= 10.0e9


def test_a_plan_that_cannot_be_is_said_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"one of 2, does not fit.* use more cards"):
        planned(cards(8, 8))
    with pytest.raises(ConfigError, match=r"must be of one kind.* --split layers"):
        planned(replace(cards(20, 20), cards=(*cards(20).cards, *cards(20, 20, capability=(9, 0)).cards[1:])))
    with pytest.raises(ConfigError, match="cuda:7 names cards that are not there"):
        hardware.plan_shares(Config(devices="cuda:0+cuda:7", split="tensor"), BF16_7B, cards(20))


PAIR = "cuda:0+cuda:1"


@pytest.mark.parametrize(
    ("devices", "split", "linked", "fits", "shared"),
    [
        (PAIR, "auto", True, True, True),
        (PAIR, "auto", False, True, False),
        (PAIR, "auto", True, False, False),
        (PAIR, "layers", True, True, False),
        (PAIR, "tensor", False, True, True),
        ("cuda:0", "auto", True, True, False),
    ],
)
def test_left_alone_cards_that_nvlink_joins_have_a_share_of_each_layer(
    devices: str,
    split: str,
    linked: bool,
    fits: bool,
    shared: bool,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def plan(config: Config, folder: Path) -> tuple[Described, LoadPlan]:
        if not fits:
            raise ConfigError("A share of the model does not fit.")
        return plan_of_the_cpu(config, folder)

    monkeypatch.setattr(local.Cards, "linked", lambda _, asked: linked and asked == PAIR.split("+"))
    monkeypatch.setattr(local, "planned", plan)
    monkeypatch.setattr(local.ParallelRunner, "load", lambda folder, cards, *_: cards)
    found = local.in_shares(Config(model=str(tiny_checkpoint), devices=devices, split=split), Progress())
    assert (found is not None) == shared
    if found:
        assert found[2] == PAIR.split("+")


def test_asked_for_shares_that_do_not_fit_are_refused(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.inventory, "survey_shares", lambda _: cards(0.9, 0.9))
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    with pytest.raises(ConfigError, match="one of 2, does not fit"):
        local.in_shares(Config(model=str(tiny_checkpoint), devices=PAIR, split="tensor", max_vram_gb=0.96), Progress())


# Processes


@pytest.fixture(scope="module")
def late(tiny_checkpoint: Path) -> Iterator[LateBackend]:
    """Two processes of the CPU, which no flag asks for."""
    patch = pytest.MonkeyPatch()
    patch.setattr(late_module, "PAUSE_SECONDS", 0.05)
    patch.setattr(local, "planned", plan_of_the_cpu)
    config = Config(model=str(tiny_checkpoint), devices="cpu+cpu", split="tensor", precision="fp32")
    late = LateBackend(lambda progress: LocalBackend.load(config, progress))
    late.start()
    yield late
    late.stop(9)
    asyncio.run(late.close())
    patch.undo()
    soon(lambda: not any("engine.inference.rank" in child.cmdline() for child in psutil.Process().children()))
    soon(lambda: not any(thread.name.startswith("rank-") for thread in threading.enumerate()))


def plan_of_the_cpu(config: Config, folder: Path) -> tuple[Described, LoadPlan]:
    read = read_config(folder)
    plan = hardware.plan(replace(config, devices="cpu"), ModelShape.read(read, folder), inventory.survey("cpu"))
    return describe(config.model, folder, read, plan.weights, "cpu"), plan


async def said(backend: LocalBackend | LateBackend, text: str, tokens: int, sampling: Sampling = GREEDY) -> list[int]:
    return [id_ async for chunk in backend.stream(Prompt(text, "", tokens, sampling)) for id_ in chunk.ids]


def pids(late: LateBackend) -> list[int]:
    return [each.process.pid for each in late._backend._runner._processes]


@pytest.mark.timeout(240)
def test_they_say_what_the_whole_model_says_to_many_at_once(late: LateBackend, tiny_checkpoint: Path) -> None:
    asked = [(TEXT * times, tokens, sampling) for times, tokens, sampling in ASKED]

    async def all_of(backend: LocalBackend | LateBackend) -> list[list[int]]:
        return await asyncio.gather(*(said(backend, *each) for each in asked))

    async def go() -> None:
        whole = LocalBackend.load(Config(model=str(tiny_checkpoint), devices="cpu", precision="fp32"))
        await late.loaded()
        assert await all_of(late) == await all_of(whole)
        assert len(await said(late, TEXT, 9, replace(SEEN, seed=None))) == 9  # drawn once for all ranks
        await whole.close()

    asyncio.run(asyncio.wait_for(go(), 200))


ASKED = [(1, 40, GREEDY), (3, 25, SEEN), (2, 60, GREEDY), (6, 10, GREEDY), (1, 33, replace(SEEN, seed=8))]
ASKED += [(number % 5 + 1, 12, GREEDY) for number in range(7)]  # more than there are slots


@pytest.mark.timeout(240)
def test_who_leaves_is_out_of_the_batch_and_the_rest_go_on(late: LateBackend) -> None:
    async def go() -> None:
        await late.loaded()
        alone = await said(late, TEXT, 20)
        async with aclosing(late.stream(Prompt(TEXT * 2, "", 400, GREEDY))) as leaving:
            await anext(leaving)
            staying = asyncio.create_task(said(late, TEXT, 20))
            await anext(leaving)
        assert await staying == alone
        soon(lambda: not late.memory()["batch"] and not late.memory()["kv_used"])
        memory = late.memory()
        assert memory["weights"] == sum(memory[key] for key in memory if key.endswith("/weights")) * 2  # alike

    asyncio.run(asyncio.wait_for(go(), 200))


@pytest.mark.timeout(400)
def test_one_that_is_killed_or_hangs_is_told_and_all_come_again(
    late: LateBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "CPU_SILENT_SECONDS", 2.0)

    async def told_after(sent: signal.Signals) -> str:
        before = pids(late)
        streams = [late.stream(Prompt(TEXT, "", 800, GREEDY)) for _ in range(2)]
        for stream in streams:
            await anext(stream)
        failed = late._backend.failed
        os.kill(before[1], sent)
        for stream in streams:
            with pytest.raises(BackendError):
                async for _ in stream:
                    pass
        soon(lambda: not any(map(psutil.pid_exists, before)))
        return str(failed.result(5))

    async def go() -> None:
        await late.loaded()
        alone = await said(late, TEXT, 20)
        told = await told_after(signal.SIGKILL)
        assert "one of 2 that share the model, ended (signal 9); all are started again" in told
        await late.loaded()
        assert await said(late, TEXT, 20) == alone
        late.stop(9)  # so that none comes after these
        told = await told_after(signal.SIGSTOP)
        assert "did nothing for 2 s" in told

    asyncio.run(asyncio.wait_for(go(), 380))


@pytest.mark.timeout(120)
def test_one_that_waits_for_another_ends_with_who_started_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    _, plan = plan_of_the_cpu(Config(precision="fp32"), tiny_checkpoint)
    meeting = str(tmp_path / "meeting")
    start = Start(0, ("cpu", "cpu"), meeting, tiny_checkpoint, plan, False, "fused", 60.0, None, "warning", "text")
    rank = subprocess.Popen([sys.executable, "-m", "engine.inference.rank"], stdin=subprocess.PIPE)
    assert rank.stdin
    rank.stdin.write(pickle.dumps(start))
    rank.stdin.flush()
    soon(lambda: (tmp_path / "meeting").exists(), seconds=90)  # from here on it waits for the other
    assert rank.poll() is None
    rank.stdin.close()
    assert rank.wait(10) == 0
