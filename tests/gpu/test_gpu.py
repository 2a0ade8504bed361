"""On a card: the backend as it serves, and the reference runner, which serves fp32 and cards older than our kernels.

Run these there: `python -m pytest -n 0 -m gpu tests/gpu`."""

import asyncio
import random
from contextlib import aclosing

import pytest
import torch
from transformers import HunYuanDenseV1ForCausalLM

from engine.backends.local import LocalBackend
from engine.cards import Cards
from engine.config import Config
from engine.inference.checkpoint import load_model, read_config
from engine.inference.kv_cache import Pages
from engine.inference.runner import Chunk, TorchRunner
from engine.types import Prompt, Sampling
from tests.checkpoints import CONTEXT_TOKENS, TEXT_TOKENS, error, quantize_gptq, quantize_int8, write_checkpoint
from tests.gpu.conftest import CARD

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]  # kernels are compiled and timed when first wanted
GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0)
SERVED = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}  # heads that our kernels take


def some_ids(count, seed=0):
    return random.Random(seed).choices(range(TEXT_TOKENS), k=count)


def model(folder, dtype, device=CARD):
    return load_model(folder, read_config(folder), dtype, device)


@torch.inference_mode()
def truth(folder, ids, dtype=torch.float32, device="cpu"):
    theirs = HunYuanDenseV1ForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(device)
    return theirs(torch.tensor([ids], device=device)).logits[0].cpu()


def stepped(model, texts, prompts):
    """Scores after each of the texts' ids from the prompt's last on, the texts side by side: on the CPU, for each
    [ids behind the prompt + 1, vocab_size]. All have as many ids behind it."""
    runner, pages = TorchRunner(model, len(texts), 200), Pages(200)
    tables = [pages.open(ids) for ids in texts]
    chunks = [
        Chunk(slot, ids[:prompt], table, True)
        for slot, (ids, prompt, table) in enumerate(zip(texts, prompts, tables, strict=True))
    ]
    steps = [runner.scores_after(chunks)]
    for chunk in chunks:
        pages.advance(chunk.table, len(chunk.ids))
    for step in range(len(texts[0]) - prompts[0]):
        tokens = [ids[prompt + step] for ids, prompt in zip(texts, prompts, strict=True)]
        steps.append(runner.scores_of_next(torch.tensor(tokens, device=model.cos.device), tables))
        for table in tables:
            pages.advance(table, 1)
    return torch.stack(steps, 1).cpu()


# The reference runner


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.bfloat16, 0.02), (torch.float16, 0.004)])
def test_scores_are_those_of_transformers(tiny_checkpoint, dtype, most):
    ids = some_ids(CONTEXT_TOKENS - 200)
    (scores,) = stepped(model(tiny_checkpoint, dtype), [ids], [len(ids) - 20])
    assert error(scores, truth(tiny_checkpoint, ids)[-21:]) < most


def test_bf16_is_as_near_to_the_truth_as_transformers_bf16(tiny_checkpoint):
    ids = some_ids(200)
    true = truth(tiny_checkpoint, ids)[100:]
    their_error = error(truth(tiny_checkpoint, ids, torch.bfloat16, CARD)[100:], true)
    (scores,) = stepped(model(tiny_checkpoint, torch.bfloat16), [ids], [101])
    assert error(scores, true) < 1.2 * their_error


@pytest.mark.parametrize("form", ["int8", "gptq"])
def test_quantised_weights_say_the_same_on_the_card_as_on_the_cpu(tmp_path, form):
    folder = write_checkpoint(tmp_path / "model")
    if form == "int8":
        quantize_int8(folder)
    else:
        quantize_gptq(folder, group_size=128, act_order=True)
    ids = some_ids(60)
    on_cpu = stepped(model(folder, torch.float32, "cpu"), [ids], [40])
    assert error(stepped(model(folder, torch.bfloat16), [ids], [40]), on_cpu) < 0.02


def test_a_batch_of_ragged_prompts_is_as_each_alone(tiny_checkpoint):
    on_card, prompts = model(tiny_checkpoint, torch.bfloat16), [1, 33, 7, 90]
    texts = [some_ids(count + 12, count) for count in prompts]
    together = stepped(on_card, texts, prompts)
    for ids, prompt, scores in zip(texts, prompts, together, strict=True):
        (alone,) = stepped(on_card, [ids], [prompt])
        assert error(scores, alone) < 0.02


# The backend


def loaded(folder, slots=8, **choices):
    return LocalBackend.load(Config(model=str(folder), devices=CARD, max_concurrent=slots, **choices))


async def said(backend, number, sampling=GREEDY, tokens=30):
    prompt = Prompt(f"Sentence number {number}.", "", tokens, sampling)
    return "".join([chunk.text async for chunk in backend.stream(prompt)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of the same small model: as it is, and in INT4."""
    made = {}
    for name in ("bf16", "int4"):
        folder = tmp_path_factory.mktemp("served") / name
        made[name] = write_checkpoint(folder, yiwen={"name": "tiny", "segment_tokens": 64}, tied=False, **SERVED)
    quantize_gptq(made["int4"], group_size=128)
    return made


@pytest.mark.parametrize("name", ["bf16", "int4"])
def test_forty_streams_over_eight_slots_all_end_and_leave_nothing_behind(folders, name):
    async def go():
        backend = loaded(folders[name])

        async def answer(number):
            prompt = Prompt(f"Sentence number {number}.", "", 5 + number, GREEDY)
            return [chunk async for chunk in backend.stream(prompt)]

        async with aclosing(backend.stream(Prompt("Hello", "", 10**6, GREEDY))) as left:
            await anext(left)
        answers = await asyncio.gather(*map(answer, range(40)))
        assert [sum(chunk.tokens for chunk in chunks) for chunks in answers] == [5 + number for number in range(40)]
        while backend.running:  # an answer's last token is told just before its slot is freed
            await asyncio.sleep(0.001)
        memory = backend.memory()
        assert memory["kv_used"] == memory["pages_used"] == 0
        assert min(memory.values()) >= 0
        (card,) = (each for each in Cards().read() if each.device == CARD)
        assert memory["weights"] + memory["kv_total"] < card.used_bytes < card.total_bytes
        await backend.close()

    asyncio.run(go())


def test_the_kernels_that_serve_are_shown(folders):
    async def go():
        shown = {}
        for name in folders:
            backend = loaded(folders[name], slots=2)
            shown[name] = backend.info
            await backend.close()
        assert shown["bf16"].kernel == "cuBLAS"
        assert shown["int4"].precision == "gptq-int4"
        assert all(kernel.startswith(("stream_", "tile_", "wide_")) for kernel in shown["int4"].kernel.split(", "))

    asyncio.run(go())


@pytest.mark.parametrize("choices", [{"precision": "fp32"}, {"deterministic": True}], ids=["fp32", "deterministic"])
def test_greedy_does_not_depend_on_the_batch(folders, choices):
    """fp32 by the reference runner, INT4 by steady kernels."""
    folder = folders["bf16" if "precision" in choices else "int4"]

    async def go(slots):
        backend = loaded(folder, slots, **choices)
        answers = await asyncio.gather(*(said(backend, number) for number in range(10)))
        await backend.close()
        return answers

    assert asyncio.run(go(1)) == asyncio.run(go(8))


def test_a_seed_says_the_same_in_a_crowd_as_alone(folders):
    async def go():
        backend = loaded(folders["int4"], deterministic=True)
        seeded = [Sampling(temperature=0.9, top_k=30, repetition_penalty=1.05, seed=number) for number in range(20)]
        together = await asyncio.gather(*(said(backend, 0, sampling) for sampling in seeded))
        assert [await said(backend, 0, sampling) for sampling in seeded] == together
        assert len(set(together)) > 15
        await backend.close()

    asyncio.run(go())
