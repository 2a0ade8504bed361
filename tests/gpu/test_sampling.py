"""On a card: the kernel that chooses tokens against the torch sampler, which is its reference, token by token."""

import random

import pytest
import torch

from engine.inference.cuda_sampler import CudaSampler
from engine.inference.sampler import DRAWS, GREEDY, Sampler
from engine.types import Sampling

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(120)]  # the first kernel of a process takes seconds
CARD = "cuda:0"
VOCABULARY = 128_167  # of HY-MT; odd, so that rows begin at any address
REFERENCE = {"greedy": "greedy", "top_k": "any"}  # sorting all keeps the order of equals, which the torch top-k may not


def some_scores(rows, vocab_size, step, dtype=torch.bfloat16, spread=3.0, padding=0):
    """Random scores in a wider matrix, whose padding is better than all of them."""
    generator = torch.Generator(CARD).manual_seed(step)
    scores = torch.randn(rows, vocab_size + padding, generator=generator, device=CARD) * spread
    scores[:, vocab_size:] = torch.inf
    return scores.to(dtype)


def some_sampling(numbers, kind):
    return Sampling(
        temperature=0.0 if kind == "greedy" else numbers.choice([0.0, 0.7, 1.0, 1e-6, 5.0]),
        top_p=numbers.choice([0.05, 0.3, 0.6, 0.95, 1.0]),
        top_k=numbers.choice([1, 2, 5, 20, 33, 63, 64]),
        repetition_penalty=numbers.choice([0.8, 1.0, 1.05, 2.0]),
        seed=numbers.randrange(2**63),
    )


def both(rows, vocab_size, dtype=torch.bfloat16):
    return CudaSampler(rows, vocab_size, CARD, dtype), Sampler(rows, vocab_size, CARD)


def assert_alike(kind, steps, vocab_size):
    """Every slot has its own sampling, prompt and place in its answer; rows change places, and some begin again."""
    rows, numbers = len(steps[0]), random.Random(len(steps[0]))
    ours, theirs = both(rows, vocab_size, steps[0].dtype)
    samplings = [some_sampling(numbers, kind) for _ in range(rows)]
    said = [numbers.choices(range(vocab_size), k=numbers.randrange(1, 600)) for _ in range(rows)]
    made = [numbers.choice([0, 1, DRAWS - 2]) for _ in range(rows)]
    order, begin = list(range(rows)), list(range(rows))
    for step, scores in enumerate(steps):
        for slot in begin:
            for sampler in (ours, theirs):
                sampler.begin(slot, samplings[slot], said[slot], made[slot])
        numbers.shuffle(order)
        slots = torch.tensor(order, device=CARD)
        true = theirs.choose(scores[:, :vocab_size].clone().float(), slots, REFERENCE[kind]).tolist()
        assert ours.choose(scores, slots.int() if step % 2 else slots, kind).tolist() == true, f"step {step}"
        assert ours.tokens[slots].tolist() == true
        for slot, token in zip(order, true, strict=True):
            said[slot].append(token)
            made[slot] += 1
        begin = order[:2] if step % 7 == 6 else []


@pytest.mark.parametrize("kind", ["greedy", "top_k"])
@pytest.mark.parametrize("rows", [1, 3, 128])
@pytest.mark.parametrize("vocab_size", [130, 500, 32_000, VOCABULARY])
def test_a_token_is_that_of_the_torch_sampler(kind, rows, vocab_size):
    assert_alike(kind, [some_scores(rows, vocab_size, step) for step in range(30)], vocab_size)


@pytest.mark.parametrize("kind", ["greedy", "top_k"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("padding", [1, 25])
def test_padding_behind_the_vocabulary_is_never_read(kind, dtype, padding):
    steps = [some_scores(3, VOCABULARY, step, dtype, padding=padding) for step in range(10)]
    assert_alike(kind, steps, VOCABULARY)


@pytest.mark.parametrize("kind", ["greedy", "top_k"])
@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_of_equals_the_lowest_ids_are_taken(kind, spread):
    assert_alike(kind, [some_scores(3, 32_000, step, spread=spread) for step in range(20)], 32_000)


@pytest.mark.parametrize("kind", ["greedy", "top_k"])
def test_the_best_may_all_lie_together(kind):
    rising = torch.arange(32_000, device=CARD).div(64).repeat(3, 1)
    assert_alike(kind, [rising, rising.flip(1)] * 5, 32_000)


@pytest.mark.parametrize("kind", ["greedy", "top_k"])
def test_scores_that_are_no_numbers_give_what_the_torch_sampler_gives(kind):
    steps = []
    for step in range(20):
        scores = some_scores(6, 1_000, step)
        scores[0, 5 + step] = torch.nan
        scores[1] = -torch.inf
        scores[2, [7, 9]] = torch.inf
        scores[2, 11] = torch.nan
        scores[3] = torch.nan
        scores[4, 60:] = -torch.inf
        steps.append(scores)
    assert_alike(kind, steps, 1_000)


def test_a_slot_forgets_who_had_it():
    """The last begins before the card has come to those before it."""
    ours, theirs = both(1, VOCABULARY)
    slots = torch.tensor([0], device=CARD)
    long, longer = range(1, 9_000, 3), range(0, VOCABULARY, 17)
    for penalty, prompt in [(2.0, longer), (1.0, [5]), (1.5, []), (2.0, [7]), (2.0, long)]:
        for sampler in (ours, theirs):
            sampler.begin(0, Sampling(0.9, 0.9, 40, 1.3, seed=1), range(500), 0)
            sampler.begin(0, Sampling(0.9, 0.9, 40, penalty, seed=3), prompt, 0)
        for step in range(10):
            scores = some_scores(1, VOCABULARY, step, spread=1.0)
            assert ours.choose(scores, slots, "top_k").tolist() == theirs.choose(scores, slots, "any").tolist()


def test_a_penalty_goes_on_whichever_path_chooses():
    ours, theirs = both(2, 500)
    for sampler in (ours, theirs):
        for slot in range(2):
            sampler.begin(slot, Sampling(1.0, 0.9, 30, 2.0, seed=slot), [3, 4, 499], 0)
    slots = torch.tensor([1, 0], device=CARD)
    for step in range(60):
        scores = some_scores(2, 500, step, spread=1.0)
        chosen = ours.choose(scores.clone(), slots, "any" if step % 2 else "top_k")
        assert chosen.tolist() == theirs.choose(scores, slots, "any").tolist()


def test_a_graph_chooses_what_the_torch_sampler_chooses():
    """Three rows pad the batch; they all lie in the scrap slot."""
    ours, theirs = both(8, VOCABULARY)
    for sampler in (ours, theirs):
        for slot in range(8):
            sampler.begin(slot, Sampling(0.9, 0.9, 40, 1.3, seed=slot), range(slot, 999, 7), 0)
    slots = torch.tensor([5, 3, 1, 0, 2, 8, 8, 8], dtype=torch.int32, device=CARD)
    scores = some_scores(8, VOCABULARY, 0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        chosen = ours.choose(scores, slots, "top_k")
    for step in range(50):
        scores.copy_(some_scores(8, VOCABULARY, step, spread=1.0))
        graph.replay()
        true = theirs.choose(scores, slots.long(), "any")
        assert chosen[:5].tolist() == true[:5].tolist(), f"step {step}"


def test_scores_of_another_type_are_refused():
    sampler = CudaSampler(1, 500, CARD, torch.bfloat16)
    sampler.begin(0, GREEDY, [], 0)
    with pytest.raises(ValueError, match="float16"):
        sampler.choose(some_scores(1, 500, 0).half(), torch.tensor([0], device=CARD), "greedy")
