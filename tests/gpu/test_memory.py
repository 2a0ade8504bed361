"""On a card: a 7B in INT4 under a ceiling, as it is planned. What it takes is read off the card, context and all."""

import multiprocessing
import time
from dataclasses import asdict, replace
from multiprocessing.connection import Connection

import pytest
import torch

from engine import footprint, hardware, inventory
from engine.config import Config
from engine.inference.checkpoint import transformers_config
from engine.inference.kv_cache import PAGE_TOKENS, Pages, Table, pages_of
from engine.shape import ModelShape
from engine.tools import synthetic
from tests.gpu.conftest import CARD, HY_MT, clear, some_ids

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]  # a 7B is made and its kernels are timed
SHAPE = "7b"
LAST_TOKENS = 8  # of each sequence, decoded with all others beside
CHILD_SECONDS = 240


def planned(max_vram_gb: float) -> footprint.LoadPlan:
    config = transformers_config(synthetic.SHAPES[SHAPE])
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": synthetic.GROUP}
    shape = ModelShape.read(config | {"quantization_config": quantization, "dtype": "bfloat16"})
    machine = inventory.survey(CARD)
    return hardware.plan(Config(devices=CARD, max_vram_gb=max_vram_gb), shape, machine)


def lived(plan: footprint.LoadPlan, sequences: int, tokens: int, free_before: int, told: Connection) -> None:
    """In a process of its own, so that its CUDA context counts: that many sequences, that long, all at once."""
    from engine.inference.cuda_runner import CudaRunner
    from engine.inference.int4 import Int4Linear
    from engine.inference.runner import Chunk

    lowest = [free_before]

    def look() -> None:
        torch.cuda.synchronize()
        lowest.append(torch.cuda.mem_get_info(CARD)[0])

    config = synthetic.SHAPES[SHAPE]
    model = synthetic.build(config, CARD, torch.bfloat16, Int4Linear)
    look()
    torch.cuda.empty_cache()  # what the making took is not the engine's
    runner = CudaRunner(
        model,
        plan.slots,
        plan.pages,
        plan.sequence_tokens,
        fp8=plan.kv_dtype == "fp8",
        graphs=plan.graphs,
        prefill_tokens=plan.prefill_tokens,
    )
    look()
    pages, tables = Pages(plan.pages), []
    for slot in range(sequences):
        ids = some_ids(tokens - LAST_TOKENS, slot, config.vocab_size)
        table = pages.open(ids)
        assert table is not None, f"no pages for sequence {slot}"
        # every fourth sorts all its scores, which takes the most memory
        runner.begin(slot, replace(HY_MT, top_k=0 if slot % 4 == 3 else 20, seed=slot), ids, 0)
        while table.length < len(ids):
            part = ids[table.length : table.length + plan.prefill_tokens]
            last = table.length + len(part) == len(ids)
            runner.step([Chunk(slot, part, table, last)], [], []).tokens()
            pages.advance(table, len(part))
        tables.append(table)
        look()
    for _ in range(LAST_TOKENS):
        step(runner, pages, tables)
        look()
    if sequences < runner.slots and pages.free:  # one more comes beside all of them
        short = some_ids(min(PAGE_TOKENS * pages.free, plan.prefill_tokens, 100), 99, config.vocab_size)
        table = pages.open(short)
        assert table is not None
        runner.begin(sequences, HY_MT, short, 0)
        runner.step([Chunk(sequences, short, table, True)], [], []).tokens()
        look()
    live = sum(table.length for table in tables)
    told.send((free_before - min(lowest), live, runner.memory(), runner.warm_seconds, runner.kernel))


def step(runner, pages: Pages, tables: list[Table]) -> None:
    assert all(pages.grow(table, 1) for table in tables)
    runner.step([], list(range(len(tables))), tables).tokens()
    for table in tables:
        pages.advance(table, 1)


@pytest.mark.parametrize(("gigabytes", "sequences", "tokens"), [(24.0, 32, 4_096), (8.0, 8, 1_024)])
def test_sequences_live_at_once_under_a_ceiling(gigabytes, sequences, tokens, capsys):
    clear()
    plan = planned(gigabytes)
    assert plan.slots >= sequences
    assert plan.pages >= sequences * pages_of(tokens)
    free_before, _ = torch.cuda.mem_get_info(CARD)
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(
        target=lived, args=(plan, sequences, tokens, free_before, theirs), daemon=True
    )
    began = time.perf_counter()
    child.start()
    theirs.close()
    try:
        assert ours.poll(CHILD_SECONDS), "nothing was heard of the other process"
        peak, live, memory, warm_seconds, kernel = ours.recv()
    except EOFError:
        pytest.fail("the other process failed; see above what it said")
    finally:
        child.join(10)
        child.kill()
    with capsys.disabled():
        print(
            f"\n{sequences} × {tokens} tokens under {gigabytes:g} GB: {peak / 1e9:.2f} GB at the peak, planned "
            f"{asdict(plan.bytes)}, measured {memory}, warm after {warm_seconds:.1f} s, {kernel}, "
            f"{time.perf_counter() - began:.0f} s in all"
        )
    assert live == sequences * tokens
    assert peak <= gigabytes * 1e9
    assert warm_seconds <= 20


def test_the_card_has_all_its_memory_again_when_a_runner_is_gone():
    from engine.inference.cuda_runner import CudaRunner
    from tests.gpu.conftest import SMALL, random_model

    def lives() -> None:
        runner = CudaRunner(random_model(SMALL, torch.bfloat16), 16, 2_000, 8_192)
        token_bytes = 2 * SMALL.layers * SMALL.kv_heads * SMALL.head_dim * torch.bfloat16.itemsize
        assert runner.memory()["kv_total"] == 2_000 * PAGE_TOKENS * token_bytes

    lives()  # libraries keep something from their first use on
    clear()
    before = torch.cuda.memory_allocated(), torch.cuda.mem_get_info(CARD)[0]
    for _ in range(2):
        lives()
        clear()
    assert torch.cuda.memory_allocated() <= before[0]
    assert torch.cuda.mem_get_info(CARD)[0] >= before[1] - 2 * 64 * 2**20  # kernels' code and graphs' pools, rounded
