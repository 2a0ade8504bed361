"""On a card, in bf16: the same model, the same batches. Run it there: `python -m pytest -m gpu tests/gpu`."""

import asyncio
import random
from contextlib import aclosing

import pytest
import torch
from transformers import HunYuanDenseV1ForCausalLM

from engine.backends.local import LocalBackend
from engine.inference.checkpoint import load_model, read_config
from engine.inference.runner import Runner
from engine.types import Prompt, Sampling
from tests.checkpoints import CONTEXT_TOKENS, TEXT_TOKENS, quantize_gptq, quantize_int8, write_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(60)]  # the first kernel of a process takes seconds
CARD = "cuda:0"
GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0)


def some_ids(count, seed=0):
    return random.Random(seed).choices(range(TEXT_TOKENS), k=count)


def error(scores, true):
    return ((scores.double().cpu() - true.double().cpu()).norm() / true.double().norm().cpu()).item()


def model(folder, dtype, device=CARD):
    return load_model(folder, read_config(folder), dtype, device)


@torch.inference_mode()
def truth(folder, ids, dtype=torch.float32, device="cpu"):
    theirs = HunYuanDenseV1ForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(device)
    return theirs(torch.tensor([ids], device=device)).logits[0]


def stepped(model, ids, prompt):
    """Scores after each of the ids from the prompt's last on."""
    runner = Runner(model, slots=1, length=len(ids))
    steps = [runner.prefill([ids[:prompt]])]
    steps += [runner.decode(torch.tensor([token], device=CARD)) for token in ids[prompt:]]
    return torch.cat(steps)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.bfloat16, 0.02), (torch.float16, 0.004)])
def test_scores_are_those_of_transformers(tiny_checkpoint, dtype, most):
    ids = some_ids(CONTEXT_TOKENS - 200)
    assert error(stepped(model(tiny_checkpoint, dtype), ids, len(ids) - 20), truth(tiny_checkpoint, ids)[-21:]) < most


def test_bf16_is_as_near_to_the_truth_as_transformers_bf16(tiny_checkpoint):
    ids = some_ids(200)
    true = truth(tiny_checkpoint, ids)[100:]
    their_error = error(truth(tiny_checkpoint, ids, torch.bfloat16, CARD)[100:], true)
    assert error(stepped(model(tiny_checkpoint, torch.bfloat16), ids, 101), true) < 1.2 * their_error


@pytest.mark.parametrize("form", ["int8", "gptq"])
def test_quantised_weights_say_the_same_on_the_card_as_on_the_cpu(tmp_path, form):
    folder = write_checkpoint(tmp_path / "model")
    if form == "int8":
        quantize_int8(folder)
    else:
        quantize_gptq(folder, group_size=128, act_order=True)
    ids = some_ids(60)
    with torch.inference_mode():
        on_cpu = Runner(model(folder, torch.float32, "cpu"), 1, 60).prefill([ids])
    assert error(stepped(model(folder, torch.bfloat16), ids, 60), on_cpu) < 0.02


def test_a_batch_of_ragged_prompts_is_as_each_alone(tiny_checkpoint):
    on_card = model(tiny_checkpoint, torch.bfloat16)
    prompts = [some_ids(count, count) for count in (1, 33, 7, 90)]
    following = some_ids(4 * 12, 9)
    runner = Runner(on_card, slots=4, length=128)
    steps = [runner.prefill(prompts)]
    steps += [runner.decode(torch.tensor(following[step::12], device=CARD)) for step in range(12)]
    for row, prompt in enumerate(prompts):
        alone = stepped(on_card, prompt + following[12 * row : 12 * (row + 1)], len(prompt))
        assert error(torch.stack([scores[row] for scores in steps]), alone) < 0.02


def test_forty_streams_over_eight_slots_all_end_and_leave_nothing_behind(tiny_checkpoint):
    async def go():
        backend = LocalBackend.load(str(tiny_checkpoint), CARD, "bf16", 8)

        async def answer(number):
            prompt = Prompt(f"Sentence number {number}.", "", 5 + number, GREEDY)
            return [chunk async for chunk in backend.stream(prompt)]

        async with aclosing(backend.stream(Prompt("Hello", "", 10**6, GREEDY))) as left:
            await anext(left)
        answers = await asyncio.gather(*map(answer, range(40)))
        assert [len(chunks) for chunks in answers] == [5 + number for number in range(40)]
        while backend.running:  # an answer's last token is told just before its slot is freed
            await asyncio.sleep(0.001)
        memory = backend.memory()
        assert memory["kv_used"] == 0
        assert memory["weights"] + memory["kv_total"] < memory["device_used"] < memory["device_total"]
        await backend.close()

    asyncio.run(go())


def test_greedy_in_fp32_does_not_depend_on_the_batch(tiny_checkpoint):
    async def go(slots):
        backend = LocalBackend.load(str(tiny_checkpoint), CARD, "fp32", slots)

        async def answer(number):
            prompt = Prompt(f"Sentence number {number}.", "", 30, GREEDY)
            return "".join([chunk.text async for chunk in backend.stream(prompt)])

        answers = await asyncio.gather(*map(answer, range(10)))
        await backend.close()
        return answers

    assert asyncio.run(go(1)) == asyncio.run(go(8))
