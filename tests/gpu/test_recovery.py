"""On a card: a model that fails is loaded again in the room that it had, and a card that is lost is told from one that
failed once."""

import asyncio
import ctypes
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.backends.late import LateBackend
from engine.backends.local import LocalBackend
from engine.config import Config
from engine.errors import BackendError
from engine.inference.sampler import GREEDY
from engine.types import Prompt
from tests.checkpoints import quantize_gptq, write_checkpoint
from tests.gpu.conftest import CARD

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]  # kernels are compiled and timed when first wanted
LOST = """
import asyncio, sys
import torch
from engine.backends.local import LocalBackend
from engine.config import Config
from engine.errors import BackendError
from engine.inference.sampler import GREEDY
from engine.types import Prompt

backend = LocalBackend.load(Config(model=sys.argv[1], devices="cuda:0"))
torch.zeros(1, device="cuda:0")[torch.tensor([1 << 30], device="cuda:0")]  # an assertion on the card: CUDA ends here

async def ask():
    async for _ in backend.stream(Prompt("A sentence.", "", 9, GREEDY)):
        pass

try:
    asyncio.run(ask())
except BackendError as error:
    print("told:", error, flush=True)
print("failed:", type(backend.failed.result(timeout=60)).__name__, flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = write_checkpoint(
        tmp_path_factory.mktemp("served") / "int4",
        yiwen={"name": "tiny", "segment_tokens": 64},
        tied=False,
        hidden_size=256,
        intermediate_size=512,
        head_dim=64,  # heads that our kernels take
    )
    quantize_gptq(made, group_size=128)
    return made


def test_a_model_whose_thread_is_killed_is_loaded_again_in_the_room_it_had(folder, caplog):
    caplog.set_level(logging.CRITICAL, "engine.inference.batcher")  # pytest would keep the error, whose frames hold it
    config = Config(model=str(folder), devices=CARD, max_vram_gb=4.0)
    late = LateBackend(lambda progress: LocalBackend.load(config, progress))
    late.start()

    async def said(tokens):
        return [chunk async for chunk in late.stream(Prompt("A sentence.", "", tokens, GREEDY))]

    async def go():
        await late.loaded()
        held = []
        for _ in range(3):
            assert sum(chunk.tokens for chunk in await said(9)) == 9
            held.append(torch.cuda.memory_allocated(CARD))
            ident = late._backend._batcher._thread.ident
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(SystemExit))
            with pytest.raises(BackendError):
                await said(2_000)
            await late.loaded()
        await late.close()
        return held

    held = asyncio.run(asyncio.wait_for(go(), 240))
    assert max(held) <= 1.01 * held[0]


def test_a_card_that_is_lost_is_told_so(folder):
    done = subprocess.run(
        [sys.executable, "-c", LOST, str(folder)],
        env=os.environ,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "told:" in done.stdout, done.stderr[-2000:]
    assert "failed: DeviceLost" in done.stdout
