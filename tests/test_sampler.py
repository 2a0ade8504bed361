"""The choice of a token against transformers' own processors, and what each row of a batch may rely on."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engine.inference import sampler as sampling_module
from engine.inference.sampler import DRAWS, GREEDY, MOST_TOP, Sampler, resolve
from engine.types import Sampling

VOCABULARY = 500  # no multiple of a group
HY_MT = Sampling(temperature=0.7, top_p=0.6, top_k=20, repetition_penalty=1.05)
PROMPT = list(range(0, 100, 3))
KINDS = [
    Sampling(1.0, 1.0, 0, 1.0, seed=3),
    GREEDY,
    replace(HY_MT, seed=4),
    Sampling(0.0, 1.0, 0, 1.3),
    Sampling(1.5, 0.95, 64, 1.0, seed=5),
    Sampling(0.8, 0.9, 100, 1.2, seed=6),
]


def some_scores(rows, seed=0, spread=3.0, vocab_size=VOCABULARY):
    return torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * spread


def a_sampler(slots=8, vocab_size=VOCABULARY, **named):
    return Sampler(slots, vocab_size, "cpu", **named)


def choose(sampler, scores, slots, kind=None):
    return sampler.choose(scores.clone(), torch.tensor(slots), kind or sampler.kind(slots)).tolist()


def said(sampling, steps, slot=0, prompt=PROMPT, **named):
    """What one sequence alone says to the scores of each step, [steps, vocab_size]."""
    sampler = a_sampler(vocab_size=steps.shape[1], **named)
    sampler.begin(slot, sampling, prompt, 0)
    return [choose(sampler, scores[None], [slot])[0] for scores in steps]


def frequencies(scores, sampling, rows=500, rounds=8):
    """How often each token is chosen for the same scores, by that many seeds and numbers in an answer."""
    sampler = a_sampler(rows)
    for slot in range(rows):
        sampler.begin(slot, replace(sampling, seed=slot), [], 0)
    slots = list(range(rows))
    return Counter(token for _ in range(rounds) for token in choose(sampler, scores.expand(rows, -1), slots))


def transformers_shares(scores, sampling, ids):
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)])
    processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    processors.append(TopPLogitsWarper(sampling.top_p))
    return torch.softmax(processors(torch.tensor([ids]), scores[None].clone())[0], -1)


def test_greedy_takes_the_best_and_the_first_of_equals():
    scores = some_scores(3)
    scores[2, [77, 200, 480]] = 100.0
    assert choose(a_sampler(), scores, [0, 1, 2]) == [*scores[:2].argmax(-1).tolist(), 77]


@pytest.mark.parametrize("vocab_size", [2, 127, 128, 4_096, 32_000])
def test_every_path_finds_the_best_in_a_vocabulary_of_any_size(vocab_size):
    scores = some_scores(5, seed=1, vocab_size=vocab_size)
    for kind in ("greedy", "top_k", "any"):
        assert choose(a_sampler(vocab_size=vocab_size), scores, range(5), kind) == scores.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 20, MOST_TOP, 100, 1000])
@pytest.mark.parametrize("top_p", [0.1, 0.6, 0.95, 1.0])
def test_temperature_top_k_and_top_p_keep_what_transformers_keeps(temperature, top_k, top_p):
    """Every number from 0 to 1 in even steps, in the place of the random ones: the shares are seen to a step."""
    sampling, steps = Sampling(temperature, top_p, top_k, 1.0, seed=0), 4_000
    sampler = a_sampler(1)
    scores = some_scores(1, seed=top_k)
    sampler.begin(0, sampling, [], 0)
    assert sampler.kind([0]) == ("greedy" if top_k == 1 else "top_k" if 1 <= top_k <= MOST_TOP else "any")
    state = sampler._state[:1].expand(steps, -1)
    values, ids = (
        sampling_module._top(sampling_module._whole_groups(scores))
        if 1 <= top_k <= MOST_TOP
        else (scores.sort(descending=True))
    )
    uniform = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    places = sampling_module._draw(values.expand(steps, -1), state, uniform)
    ours = torch.bincount(ids[0][places[:, 0]], minlength=VOCABULARY) / steps
    theirs = transformers_shares(scores[0], sampling, [0])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1.01 / steps)


@pytest.mark.parametrize("top_k", [30, 0])
def test_what_is_chosen_follows_the_shares(top_k):
    """Pearson's chi-square over the tokens that may be chosen stays below its 99.9 % point."""
    sampling = Sampling(0.8, 0.9, top_k, 1.0)
    scores = some_scores(1, seed=9, spread=2.5)
    counted = frequencies(scores, sampling)
    shares = transformers_shares(scores[0], sampling, [0])
    expected = shares * counted.total()
    allowed = expected.nonzero().flatten().tolist()
    assert set(counted) == set(allowed)
    chi_square = sum((counted[token] - expected[token].item()) ** 2 / expected[token].item() for token in allowed)
    freedom = len(allowed) - 1
    assert chi_square < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3  # Wilson–Hilferty


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("penalty", [0.8, 1.05, 1.5])
def test_the_penalty_is_that_of_transformers_on_prompt_and_answer(penalty, dtype):
    steps = some_scores(200, seed=5, spread=1.0).to(dtype)
    ids = list(PROMPT)
    for scores, token in zip(steps, said(Sampling(0.0, 1.0, 0, penalty), steps), strict=True):
        true = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), scores[None].float())
        assert token == true.argmax().item()
        ids.append(token)


def test_a_token_said_more_often_is_punished_once():
    scores = torch.zeros(1, VOCABULARY)
    scores[0, 7], scores[0, 8] = 4.0, 1.9
    assert said(Sampling(0.0, 1.0, 0, 2.0), scores.expand(5, -1), prompt=[7, 7, 7]) == [7] * 5


def test_a_slot_forgets_who_had_it():
    steps = some_scores(30, seed=2, spread=0.5)
    sampling = replace(HY_MT, repetition_penalty=1.5, seed=1)
    sampler = a_sampler()
    for prompt in (list(range(300)), [5], PROMPT):
        sampler.begin(3, sampling, prompt, 0)
        assert [choose(sampler, scores[None], [3])[0] for scores in steps] == said(sampling, steps, prompt=prompt)


def test_a_penalty_goes_on_where_more_is_said_than_it_remembers():
    assert len(said(replace(HY_MT, seed=1), some_scores(40), length=50)) == 40
    sampler = a_sampler(length=10)
    sampler.begin(0, Sampling(0.0, 1.0, 0, 2.0), range(20), 0)
    assert choose(sampler, torch.ones(1, VOCABULARY), [0]) == [0], "the oldest are forgotten first"


def test_the_same_seed_says_the_same_and_another_does_not():
    steps = some_scores(40, spread=0.5)
    free = Sampling(1.0, 1.0, 0, 1.0)
    for seed in (0, 7, 2**63 - 1):
        alike = replace(free, seed=seed)
        assert said(alike, steps) == said(alike, steps) != said(replace(free, seed=seed - 1), steps)
    assert said(free, steps) != said(free, steps)


def test_each_row_is_its_own_whoever_sits_beside_it():
    """The answer of a seed is the same alone, in any slot, in any order, and beside any other sampling."""
    steps = [some_scores(len(KINDS), seed=step, spread=1.0) for step in range(30)]
    alone = [said(kind, torch.stack([step[row] for step in steps]), slot=row) for row, kind in enumerate(KINDS)]
    places = [4, 0, 5, 2, 7, 1]
    sampler = a_sampler()
    for slot, kind in zip(places, KINDS, strict=True):
        sampler.begin(slot, kind, PROMPT, 0)
    scrap = 8
    for number, scores in enumerate(steps):
        rows = [(number + row) % len(KINDS) for row in range(len(KINDS))]
        padded = torch.cat([scores[rows], torch.full((2, VOCABULARY), torch.nan)])
        tokens = choose(sampler, padded, [*(places[row] for row in rows), scrap, scrap], "any")
        assert tokens[: len(rows)] == [alone[row][number] for row in rows]
        assert sampler.tokens[places].tolist() == [answer[number] for answer in alone]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_does_not_depend_on_the_path(dtype):
    """With bfloat16 there are ties in nearly every row."""
    steps = some_scores(100, spread=1.0).to(dtype)
    for kind in KINDS:
        if kind.top_k > MOST_TOP or (kind.temperature and not kind.top_k):
            continue
        answers = []
        for path in ("top_k", "any"):
            sampler = a_sampler()
            sampler.begin(0, kind, PROMPT, 0)
            answers.append([choose(sampler, scores[None], [0], path)[0] for scores in steps])
        assert answers[0] == answers[1] == said(kind, steps)


@pytest.mark.parametrize("path", ["top_k", "any"])
def test_a_hundred_rows_are_as_each_alone(path):
    scores, sampler = some_scores(100, spread=1.0), a_sampler(100)
    for slot in range(100):
        sampler.begin(slot, replace(HY_MT, seed=slot), PROMPT, 0)
    tokens = choose(sampler, scores, list(range(100)), path)
    assert tokens == [said(replace(HY_MT, seed=row), scores[row : row + 1])[0] for row in range(100)]


@pytest.mark.parametrize("kind", [*KINDS[2:], replace(KINDS[0], repetition_penalty=0.9)])
def test_a_sequence_that_begins_again_in_the_middle_says_what_it_would_have_said(kind):
    steps = some_scores(60, seed=3, spread=1.0)
    whole = said(kind, steps)
    sampler = a_sampler()
    sampler.begin(5, kind, [*PROMPT, *whole[:25]], 25)
    assert [choose(sampler, scores[None], [5])[0] for scores in steps[25:]] == whole[25:]


def test_an_answer_longer_than_the_random_numbers_goes_on():
    sampler = a_sampler()
    sampler.begin(0, replace(HY_MT, seed=1), PROMPT, DRAWS - 1)
    for scores in some_scores(3):
        choose(sampler, scores[None], [0])


@pytest.mark.parametrize("path", ["greedy", "top_k", "any"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_card_no_shape_and_no_branch_depends_on_data(path, dtype):
    """On a device that holds no data whatever asks for some raises."""
    scores = torch.empty(40, VOCABULARY, dtype=dtype, device="meta")
    slots = torch.empty(40, dtype=torch.int64, device="meta")
    assert Sampler(40, VOCABULARY, "meta").choose(scores, slots, path).shape == (40,)
    with pytest.raises(RuntimeError):
        int(slots.max())


def test_random_numbers_are_those_of_splitmix64():
    """The first five from 1234567, as widely published with the algorithm."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    uniform = sampling_module.splitmix(1234567, torch.arange(5))
    assert (uniform * 2**31).long().tolist() == [number >> 33 for number in published]


def test_the_path_is_the_cheapest_that_serves_every_row():
    sampler = a_sampler()
    for slot, kind in enumerate(KINDS):
        sampler.begin(slot, kind, PROMPT, 0)
    assert [sampler.kind([slot]) for slot in range(6)] == ["any", "greedy", "top_k", "greedy", "top_k", "any"]
    assert [sampler.kind(slots) for slots in ([1, 3], [1, 2], [0, 1, 2], [7])] == ["greedy", "top_k", "any", "greedy"]


@pytest.mark.parametrize(
    "odd",
    [
        {"temperature": 1e-300},
        {"temperature": 1e-40, "top_p": 1e-9},
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 1.0, "repetition_penalty": 1e-45, "top_p": 1e-3},
    ],
)
@pytest.mark.parametrize("top_k", [0, 20])
def test_a_number_near_zero_is_no_trouble_for_the_batch(odd, top_k):
    scores = some_scores(1).abs() + 1
    best = scores.argmax().item()
    assert said(resolve(Sampling(top_k=top_k, seed=1, **odd), GREEDY), scores, prompt=[best]) == [best]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_no_numbers_harm_only_their_own_row(kind, broken):
    steps = some_scores(60, spread=1.0)
    sampler = a_sampler()
    sampler.begin(0, kind, PROMPT, 0)
    sampler.begin(1, kind, PROMPT, 0)
    tokens = [choose(sampler, torch.stack([scores, scores * broken]), [0, 1]) for scores in steps]
    assert [whole for whole, _ in tokens] == said(kind, steps)
    assert all(0 <= token < VOCABULARY for _, token in tokens)


@pytest.mark.parametrize("path", ["greedy", "top_k", "any"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_score_that_is_no_number_is_not_chosen_and_infinity_is(path, dtype):
    """Even where a penalty falls on them."""
    scores = some_scores(2).to(dtype)
    scores[:, :100] = torch.nan
    scores[1, 300] = torch.inf
    sampler = a_sampler()
    for seed in range(20):
        for slot in (0, 1):
            sampler.begin(slot, Sampling(5.0, 1.0, MOST_TOP, 1.5, seed), [3, 300], 0)
        usual, infinite = choose(sampler, scores, [0, 1], path)
        assert usual >= 100
        assert infinite == 300


@pytest.mark.parametrize("path", ["greedy", "top_k", "any"])
def test_a_token_is_in_the_vocabulary_where_every_score_is_minus_infinity(path):
    scores = torch.full((1, 130), -torch.inf)
    for seed in range(20):
        sampler = a_sampler(vocab_size=130)
        sampler.begin(0, Sampling(2.0, 1.0, 64, 1.0, seed), [], 0)
        assert choose(sampler, scores, [0], path)[0] < 130


def test_what_is_left_open_is_as_the_checkpoint_recommends_and_greedy_where_it_is_silent():
    assert resolve(Sampling(), HY_MT) == HY_MT
    assert resolve(Sampling(temperature=0.0, seed=3), HY_MT) == Sampling(0.0, 0.6, 20, 1.05, 3)
    assert resolve(Sampling(), Sampling()) == GREEDY
