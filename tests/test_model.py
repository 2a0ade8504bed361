"""Our model against transformers' HunYuanDenseV1ForCausalLM, loaded from the same folder."""

import random

import pytest
import torch
from transformers import HunYuanDenseV1ForCausalLM

from engine.inference.checkpoint import load_model, read_config
from engine.inference.kv_cache import Prefill, SlotCache
from engine.inference.model import effective_rope_base
from engine.inference.runner import Runner
from tests.checkpoints import CONTEXT_TOKENS, TEXT_TOKENS, write_checkpoint

LONG = CONTEXT_TOKENS - 200


def ours(folder, dtype=torch.float32):
    return load_model(folder, read_config(folder), dtype, "cpu")


def theirs(folder, dtype=torch.float32):
    return HunYuanDenseV1ForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def some_ids(count, seed=0):
    return random.Random(seed).choices(range(TEXT_TOKENS), k=count)


@torch.inference_mode()
def scores_of(model, ids):
    """Scores after each of the ids, in one go: [tokens, vocab_size]."""
    config = model.config
    cache = SlotCache(config.layers, 1, len(ids), config.kv_heads, config.head_dim, model.norm.weight.dtype, "cpu")
    attend = Prefill(cache, range(1), len(ids))
    return model.logits(model(torch.tensor([ids]), torch.arange(len(ids))[None], attend))[0]


@torch.inference_mode()
def their_scores(model, ids):
    return model(torch.tensor([ids])).logits[0]


def error(scores, true):
    return ((scores.double() - true.double()).norm() / true.double().norm()).item()


@pytest.fixture(scope="module")
def pair(tiny_checkpoint):
    return ours(tiny_checkpoint), theirs(tiny_checkpoint)


@pytest.mark.parametrize("tied", [True, False])
def test_scores_are_those_of_transformers_with_either_head(tmp_path, tied):
    folder = write_checkpoint(tmp_path / "model", tied=tied, seed=2)
    ids = some_ids(50)
    assert error(scores_of(ours(folder), ids), their_scores(theirs(folder), ids)) < 1e-5


@pytest.mark.parametrize("alpha", [1000.0, 100000.0])
def test_a_long_text_is_rotated_by_alpha_as_transformers_does(tmp_path, alpha):
    folder = write_checkpoint(tmp_path / "model", alpha=alpha)
    ids = some_ids(LONG)
    scores, true = scores_of(ours(folder), ids), their_scores(theirs(folder), ids)
    assert error(scores[-20:], true[-20:]) < 1e-5


def test_alpha_matters_so_that_it_cannot_be_forgotten_unseen(pair, tmp_path):
    ids = some_ids(LONG)
    without = write_checkpoint(tmp_path / "model", alpha=1.0)
    assert error(scores_of(ours(without), ids)[-20:], scores_of(pair[0], ids)[-20:]) > 0.01


def test_the_rope_bases_are_those_of_the_real_models():
    assert effective_rope_base(10_000, 1_000, 128) == pytest.approx(1.1159e7, rel=1e-4)
    assert effective_rope_base(10_000, 100_000, 128) == pytest.approx(1.2005e9, rel=1e-4)


def test_bf16_is_as_near_to_the_truth_as_transformers_bf16(tiny_checkpoint, pair):
    ids = some_ids(200)
    true = their_scores(pair[1], ids)
    our_error = error(scores_of(ours(tiny_checkpoint, torch.bfloat16), ids), true)
    their_error = error(their_scores(theirs(tiny_checkpoint, torch.bfloat16), ids), true)
    assert our_error < 1.2 * their_error
    assert our_error < 0.02


def test_step_by_step_is_as_all_at_once(pair):
    model, reference = pair
    ids = some_ids(120)
    runner = Runner(model, slots=1, length=120)
    steps = [runner.prefill([ids[:40]])]
    steps += [runner.decode(torch.tensor([token])) for token in ids[40:]]
    assert error(torch.cat(steps), their_scores(reference, ids)[39:]) < 1e-5


def test_steps_of_a_long_text_too(pair):
    model, reference = pair
    ids = some_ids(LONG)
    runner = Runner(model, slots=1, length=LONG)
    steps = [runner.prefill([ids[:-10]])]
    steps += [runner.decode(torch.tensor([token])) for token in ids[-10:]]
    assert error(torch.cat(steps), their_scores(reference, ids)[-11:]) < 1e-5


def test_prompts_of_any_length_share_a_batch_unchanged(pair):
    prompts = [some_ids(count, seed=count) for count in (1, 33, 7, 90)]
    following = some_ids(4 * 12, seed=9)
    runner = Runner(pair[0], slots=4, length=128)
    steps = [runner.prefill(prompts)]
    steps += [runner.decode(torch.tensor(following[step::12])) for step in range(12)]
    for row, prompt in enumerate(prompts):
        true = their_scores(pair[1], prompt + following[12 * row : 12 * (row + 1)])[len(prompt) - 1 :]
        assert error(torch.stack([scores[row] for scores in steps]), true) < 1e-5


def test_who_comes_and_goes_changes_nothing_for_the_others(pair):
    """Sequences join and leave at random; each one's scores at every step are those it would have alone."""
    model, dice = pair[0], random.Random(3)
    runner = Runner(model, slots=4, length=80)
    texts = [some_ids(dice.randint(20, 80), seed=number) for number in range(14)]
    waiting, running, seen = list(range(14)), [], {number: [] for number in range(14)}
    place = {}  # how many tokens of each text the model has seen
    while waiting or running:
        if waiting and len(running) < 4 and dice.random() < 0.5:
            joining = waiting[: dice.randint(1, 4 - len(running))]
            del waiting[: len(joining)]
            place |= {number: dice.randint(1, 19) for number in joining}
            scores = runner.prefill([texts[number][: place[number]] for number in joining])
            running += joining
            for number, row in zip(joining, scores, strict=True):
                seen[number].append(row)
        for slot in reversed(range(len(running))):
            if place[running[slot]] == len(texts[running[slot]]):
                running[slot] = running[runner.cache.remove(slot)]
                running.pop()
        if running:
            scores = runner.decode(torch.tensor([texts[number][place[number]] for number in running]))
            for number, row in zip(running, scores, strict=True):
                place[number] += 1
                seen[number].append(row)
    for text, rows in zip(texts, seen.values(), strict=True):
        assert error(torch.stack(rows), scores_of(model, text)[-len(rows) :]) < 1e-5


def test_a_slot_used_again_knows_nothing_of_who_was_there(pair):
    runner = Runner(pair[0], slots=2, length=64)
    runner.prefill([some_ids(60), some_ids(50, seed=1)])
    runner.cache.remove(0)
    runner.cache.remove(0)
    prompt = some_ids(5, seed=2)
    first = [runner.prefill([prompt, some_ids(30, seed=4)])[0], runner.decode(torch.tensor([7, 8]))[0]]
    assert error(torch.stack(first), their_scores(pair[1], [*prompt, 7])[-2:]) < 1e-5
