"""The choice of a token against transformers' own processors, and what each row of a batch may rely on."""

from collections import Counter

import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engine.inference.sampler import GREEDY, Chooser, choose, distribution, resolve
from engine.types import Sampling

VOCABULARY = 500
HY_MT = Sampling(temperature=0.7, top_p=0.6, top_k=20, repetition_penalty=1.05)
PROMPT = list(range(0, 100, 3))


def some_scores(rows, seed=0, spread=3.0):
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * spread


def chooser(seed=None, prompt=PROMPT, **named):
    return Chooser.of(resolve(Sampling(seed=seed, **named), GREEDY), prompt, VOCABULARY, "cpu")


def ours(scores, sampling):
    shares, ids = distribution(scores, sampling)
    return torch.zeros(VOCABULARY).scatter(0, ids, shares / shares.sum())


def theirs(scores, sampling):
    processors = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    processors.append(TopPLogitsWarper(sampling.top_p))
    return torch.softmax(processors(None, scores[None])[0], -1)


def test_greedy_takes_the_best():
    scores = some_scores(3)
    assert choose(scores, [chooser() for _ in range(3)]) == scores.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 20, 1000])
@pytest.mark.parametrize("top_p", [0.1, 0.6, 0.95, 1.0])
def test_temperature_top_k_and_top_p_keep_what_transformers_keeps(temperature, top_k, top_p):
    sampling = Sampling(temperature, top_p, top_k, 1.0)
    for scores in some_scores(10, seed=top_k):
        torch.testing.assert_close(ours(scores, sampling), theirs(scores, sampling), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("penalty", [0.8, 1.05, 1.5])
def test_the_penalty_is_that_of_transformers_on_prompt_and_answer(penalty, dtype):
    rows = some_scores(200, seed=5, spread=1.0).to(dtype)
    one, said = chooser(repetition_penalty=penalty), list(PROMPT)
    for scores in rows:
        true = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([said]), scores[None].float())
        said += choose(scores[None], [one])
        assert said[-1] == true.argmax().item()


def test_what_is_chosen_follows_the_shares():
    sampling = Sampling(0.8, 0.9, 5, 1.0)
    scores = some_scores(1, spread=1.0)
    one = chooser(temperature=0.8, top_p=0.9, top_k=5, seed=1)
    counted = Counter(choose(scores, [one])[0] for _ in range(3000))
    shares = theirs(scores[0], sampling)
    assert set(counted) == set(shares.nonzero().flatten().tolist())
    for token, count in counted.items():
        assert count / 3000 == pytest.approx(shares[token].item(), abs=0.04)


def test_a_top_k_of_zero_is_no_limit():
    scores = torch.zeros(VOCABULARY)
    assert (ours(scores, Sampling(1.0, 1.0, 0, 1.0)) > 0).sum() == VOCABULARY


def test_the_same_seed_says_the_same_and_another_does_not():
    rows = some_scores(40, spread=0.5)

    def said(seed):
        one = chooser(seed, temperature=1.0, prompt=[1])
        return [choose(scores[None], [one])[0] for scores in rows]

    assert said(7) == said(7) != said(8)
    assert said(None) != said(None)


def test_each_row_is_its_own_whoever_sits_beside_it():
    """The answer of a seed is the same alone, in any slot, and beside any other sampling."""
    kinds = [
        {"temperature": 1.0, "seed": 3},
        {},
        {"temperature": 0.7, "top_p": 0.6, "top_k": 20, "repetition_penalty": 1.05, "seed": 4},
        {"repetition_penalty": 1.3, "prompt": [1, 2]},
    ]
    steps = [some_scores(4, seed=step, spread=1.0) for step in range(30)]
    together = [chooser(**kind) for kind in kinds]
    batch = [choose(scores, together) for scores in steps]
    for row, kind in enumerate(kinds):
        alone = chooser(**kind)
        assert [choose(scores[row : row + 1], [alone])[0] for scores in steps] == [tokens[row] for tokens in batch]


def test_the_scores_of_the_model_are_left_as_they_are():
    scores = some_scores(2)
    before = scores.clone()
    choose(scores, [chooser(temperature=1.0, repetition_penalty=1.5, seed=1), chooser()])
    assert torch.equal(scores, before)


@pytest.mark.parametrize(
    "odd",
    [
        {"temperature": 1e-300},
        {"temperature": 1e-40, "top_p": 1e-9},
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 1.0, "repetition_penalty": 1e-45, "top_p": 1e-3},
    ],
)
def test_a_number_near_zero_is_no_trouble_for_the_batch(odd):
    scores = some_scores(1).abs() + 1
    assert choose(scores, [chooser(prompt=[scores.argmax().item()], seed=1, **odd)]) == [scores.argmax().item()]


def test_what_is_left_open_is_as_the_checkpoint_recommends_and_greedy_where_it_is_silent():
    assert resolve(Sampling(), HY_MT) == HY_MT
    assert resolve(Sampling(temperature=0.0, seed=3), HY_MT) == Sampling(0.0, 0.6, 20, 1.05, 3)
    assert resolve(Sampling(), Sampling()) == GREEDY
