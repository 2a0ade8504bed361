"""On a card: what the driver says of it is what CUDA says, our parts add up, and who only looks takes nothing of it."""

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import astuple
from pathlib import Path

import pytest
import torch

from engine import devices
from engine.backends.local import LocalBackend
from engine.cards import Cards
from engine.config import Config
from engine.devices import Sampler
from engine.metrics import Metrics
from engine.types import Prompt, Sampling
from tests.checkpoints import quantize_gptq, write_checkpoint
from tests.conftest import soon
from tests.gpu.conftest import CARD

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]  # kernels are compiled and timed when first wanted
SERVED = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}  # heads that our kernels take
LOOK = """
import sys
from engine.cards import Cards
cards = Cards().read()
assert "torch" not in sys.modules
print(*(f"{card.name} {card.total_bytes}" for card in cards), sep="\\n")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = write_checkpoint(
        tmp_path_factory.mktemp("served") / "int4", yiwen={"name": "tiny", "segment_tokens": 64}, tied=False, **SERVED
    )
    quantize_gptq(made, group_size=128)
    return made


def looked(**environ):
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        env=os.environ | environ,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


def test_the_meter_runs_while_a_model_is_loaded_and_its_parts_add_up(folder, monkeypatch):
    """Graphs are captured meanwhile, which any call that allocates would break."""
    monkeypatch.setattr(devices, "SAMPLE_SECONDS", 0.001)
    there = []
    metrics = Metrics(lambda: there[0].memory() if there else {}, limit_bytes=20 * 10**9)
    watching = Sampler(metrics, lambda: CARD if there else "")
    watching.start()
    backend = LocalBackend.load(Config(model=str(folder), devices=CARD, max_concurrent=8))

    async def translate():
        prompt = Prompt("A prompt that is longer than a page of the cache. " * 4, "", 60, Sampling(temperature=0.0))
        for _ in range(2):
            assert [chunk async for chunk in backend.stream(prompt)]

    asyncio.run(translate())
    there.append(backend)
    soon(lambda: bool(watching.latest.held.memory.weights) and not backend.memory()["kv_used"])
    watching.stop()
    time.sleep(0.1)  # a sample may be under way
    sample = watching.sample()
    (ours,) = [each for each in sample.devices if each.ours]
    memory, parts = backend.memory(), ours.parts
    assert (ours.device, ours.name, ours.limit_bytes) == (CARD, torch.cuda.get_device_name(CARD), 20 * 10**9)
    assert sum(astuple(parts)) == ours.total_bytes
    assert ours.total_bytes - parts.free == ours.used_bytes
    assert (parts.weights, parts.kv_used, parts.kv_free) == (memory["weights"], 0, memory["kv_total"])
    assert parts.workspace >= memory["workspace"]
    assert parts.weights + parts.kv_free + parts.workspace <= torch.cuda.memory_reserved(CARD) + memory["workspace"]
    assert 0 < sample.held.hit_rate < 0.5  # the second found all but the last page of the first
    asyncio.run(backend.close())


def test_the_driver_says_what_cuda_says():
    torch.cuda.init()
    cards = Cards().read()
    assert len(cards) == torch.cuda.device_count()
    for index, card in enumerate(cards):
        free, total = torch.cuda.mem_get_info(index)
        assert card.name == torch.cuda.get_device_name(index)
        assert card.total_bytes == pytest.approx(total, rel=0.05)  # the driver keeps some for itself
        assert card.total_bytes - card.used_bytes == pytest.approx(free, abs=10**9)
        assert card.allocated_bytes == torch.cuda.memory_reserved(index)


def test_who_only_looks_takes_nothing_of_a_card_and_sees_those_it_may():
    free, _ = torch.cuda.mem_get_info(CARD)
    every = looked()
    assert every
    assert free - torch.cuda.mem_get_info(CARD)[0] < 10**7
    uuid = f"GPU-{torch.cuda.get_device_properties(CARD).uuid}"
    assert len(looked(CUDA_VISIBLE_DEVICES=uuid)) == 1
    assert looked(CUDA_VISIBLE_DEVICES="") == []
