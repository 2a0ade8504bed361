"""The generation thread: what runs together, who comes, who leaves, and what each is told."""

import random
import threading
import time

import pytest
import torch

from engine.errors import BackendError
from engine.inference.batcher import PREFILL_TOKENS, Batcher, Generation
from engine.inference.checkpoint import load_model, read_config
from engine.inference.runner import Runner
from engine.inference.sampler import GREEDY
from engine.types import Sampling
from tests.checkpoints import TEXT_TOKENS
from tests.conftest import soon

NO_STOPS = frozenset()


class Answer:
    """Hears what one generation is told. `then` is called on the generation thread after each telling."""

    def __init__(self, prompt, max_new_tokens=20, sampling=GREEDY, then=None):
        self.tokens, self.finish, self.error, self.told_after = [], None, None, 0
        self.then, self.done = then, threading.Event()
        self.generation = Generation(prompt, max_new_tokens, sampling, self.tell)

    def tell(self, token, finish, error):
        self.told_after += self.done.is_set()
        if token is not None:
            self.tokens.append(token)
        if finish or error:
            self.finish, self.error = finish, error
            self.done.set()
        if self.then:
            self.then(self)

    def wait(self):
        assert self.done.wait(5)
        return self.tokens


def some_ids(count, seed=0):
    return random.Random(seed).choices(range(TEXT_TOKENS), k=count)


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load_model(tiny_checkpoint, read_config(tiny_checkpoint), torch.float32, "cpu")


@pytest.fixture
def start(model):
    """A batcher, closed when the test ends."""
    started = []

    def start(slots=4, length=128, stop_ids=NO_STOPS):
        started.append(Batcher(Runner(model, slots, length), stop_ids))
        return started[-1]

    yield start
    for batcher in started:
        batcher.close()


def ask(batcher, prompt, *rest, **more):
    answer = Answer(prompt, *rest, **more)
    batcher.submit(answer.generation)
    return answer


def at_rest(batcher):
    soon(lambda: batcher.running == 0 and batcher.kv_bytes[0] == 0)


def test_a_greedy_answer_does_not_depend_on_what_else_runs(start):
    dice = random.Random(1)
    asked = [(some_ids(dice.randint(1, 70), seed), dice.randint(1, 40)) for seed in range(20)]
    alone, busy = start(slots=1), start(slots=4)
    answers = []
    for prompt, count in asked:
        answers.append(ask(busy, prompt, count))
        time.sleep(dice.random() / 100)
    together = [answer.wait() for answer in answers]
    assert together == [ask(alone, prompt, count).wait() for prompt, count in asked]
    assert [len(tokens) for tokens in together] == [count for _, count in asked]


def test_a_seeded_answer_does_not_either(start):
    sampling = Sampling(0.7, 0.6, 20, 1.05, seed=5)
    prompt = some_ids(20)
    alone = ask(start(), prompt, 30, sampling).wait()
    busy = start()
    others = [ask(busy, some_ids(30, seed), 50) for seed in range(2)]
    assert ask(busy, prompt, 30, sampling).wait() == alone
    assert len({tuple(other.wait()) for other in others}) == 2


def test_who_comes_in_mid_flight_joins_the_batch_before_the_others_end(start):
    batcher, told = start(), []

    def then(answer):
        told.append("long")
        if len(answer.tokens) == 5:
            late.append(ask(batcher, some_ids(9, 1), 5, then=lambda _: told.append("late")))

    late = []
    long = ask(batcher, some_ids(20), 60, then=then)
    long.wait()
    assert late[0].done.is_set()
    assert told[:15].count("late") == 5  # they take turns, a token each


def test_a_freed_slot_is_taken_while_the_others_run(start):
    batcher = start(slots=2)
    long, short, waiting = (ask(batcher, some_ids(5, seed), count) for seed, count in enumerate((80, 3, 3)))
    for answer in (short, waiting):
        answer.wait()
        assert not long.done.is_set()


def test_who_waits_starts_in_order(start, monkeypatch):
    batcher, started = start(slots=2), []
    real = batcher._runner.prefill
    monkeypatch.setattr(batcher._runner, "prefill", lambda prompts: started.extend(prompts) or real(prompts))
    prompts = [some_ids(4, seed) for seed in range(10)]
    for answer in [ask(batcher, prompt, 3 + seed % 3) for seed, prompt in enumerate(prompts)]:
        answer.wait()
    assert started == prompts


def test_one_slot_answers_strictly_in_order(start):
    batcher, order = start(slots=1), []
    answers = [ask(batcher, some_ids(4, seed), 3, then=lambda answer: order.append(answer)) for seed in range(5)]
    for answer in answers:
        answer.wait()
    assert order == [answer for answer in answers for _ in range(3)]


def test_who_cancels_leaves_at_the_next_token_and_frees_the_slot(start):
    batcher = start(slots=1)

    def then(answer):
        if len(answer.tokens) == 4:
            batcher.cancel(answer.generation)

    leaving = ask(batcher, some_ids(6), 100, then=then)
    assert len(ask(batcher, some_ids(5, 1), 3).wait()) == 3
    assert (len(leaving.tokens), leaving.done.is_set()) == (4, False)
    at_rest(batcher)


def test_who_cancels_while_waiting_never_starts(start):
    batcher = start(slots=1)
    first = ask(batcher, some_ids(6), 30)
    second, third = ask(batcher, some_ids(6), 5), ask(batcher, some_ids(7), 5)
    batcher.cancel(second.generation)
    assert [len(answer.wait()) for answer in (first, third)] == [30, 5]
    assert second.tokens == []


def test_cancelling_one_changes_nothing_for_the_others(start):
    alone = [ask(start(slots=1), some_ids(9, seed), 30).wait() for seed in range(3)]
    batcher = start()
    leaving = ask(batcher, some_ids(50, 7), 100, then=lambda answer: batcher.cancel(answer.generation))
    assert [answer.wait() for answer in [ask(batcher, some_ids(9, seed), 30) for seed in range(3)]] == alone
    assert len(leaving.tokens) == 1


@pytest.mark.parametrize("step", ["prefill", "decode"])
def test_a_step_that_fails_is_told_to_all_in_the_batch_and_the_next_request_works(start, step, monkeypatch):
    batcher = start(slots=2)
    true = ask(batcher, some_ids(8, 1), 10).wait()
    real, failed = getattr(batcher._runner, step), []

    def failing(*args):
        if batcher.running == 2 and not failed:
            failed.append(step)
            raise RuntimeError("the card is gone")
        return real(*args)

    monkeypatch.setattr(batcher._runner, step, failing)
    broken = [ask(batcher, some_ids(8, seed), 90) for seed in range(2)]
    waiting = ask(batcher, some_ids(8, 1), 10)
    for answer in broken:
        answer.wait()
        assert isinstance(answer.error, BackendError)
        assert "RuntimeError" in str(answer.error)
        assert str(answer.error.__cause__) == "the card is gone"
    assert waiting.wait() == true
    assert waiting.error is None
    at_rest(batcher)
    assert [answer.told_after for answer in broken] == [0, 0]


def test_a_sampling_that_cannot_be_is_told_too(start):
    batcher = start()
    bad = ask(batcher, some_ids(8), 5, Sampling(0.7, 0.6, 20, 1.0, seed=2**70))
    bad.wait()
    assert isinstance(bad.error, BackendError)
    assert len(ask(batcher, some_ids(8), 5).wait()) == 5


def test_closing_ends_what_runs_and_what_waits_with_a_backend_error(start):
    batcher = start(slots=1)
    answers = [ask(batcher, some_ids(8), 10**6), ask(batcher, some_ids(8), 5)]
    soon(lambda: answers[0].tokens)
    batcher.close()
    for answer in answers:
        assert answer.done.is_set()
        assert isinstance(answer.error, BackendError)
        assert "shut down" in str(answer.error)
    with pytest.raises(BackendError, match="start Yiwen again"):
        ask(batcher, some_ids(8), 5)
    batcher.close()


@pytest.mark.parametrize("count", [1, 2, 30])
def test_an_answer_is_cut_at_its_limit_and_says_so(start, count):
    answer = ask(start(), some_ids(8), count)
    assert (len(answer.wait()), answer.finish) == (count, "length")


def test_a_slot_may_be_filled_to_its_last_place(start):
    batcher = start(slots=2, length=64)
    answers = [ask(batcher, some_ids(40, seed), 24) for seed in range(4)]
    assert [len(answer.wait()) for answer in answers] == [24] * 4


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(start):
    whole = ask(start(), some_ids(8), 30).wait()
    stop = whole[10]
    answer = ask(start(stop_ids=frozenset({stop, 10**6})), some_ids(8), 30)
    assert (answer.wait(), answer.finish) == (whole[: whole.index(stop)], "stop")
    instead = ask(start(stop_ids=frozenset({whole[0]})), some_ids(8), 30)
    assert (instead.wait(), instead.finish) == ([], "stop")


def test_long_prompts_come_in_a_few_at_a_time_so_that_who_runs_never_waits_long(start, monkeypatch):
    batcher, groups = start(slots=9, length=420), []
    real = batcher._runner.prefill
    monkeypatch.setattr(batcher._runner, "prefill", lambda prompts: groups.append(prompts) or real(prompts))
    running = ask(batcher, some_ids(3), 40)
    answers = [ask(batcher, some_ids(400 - seed, seed), 4) for seed in range(6)]
    for answer in [running, *answers]:
        answer.wait()
    assert all(len(group) * max(map(len, group)) <= PREFILL_TOKENS for group in groups)
    assert [len(prompt) for group in groups for prompt in group] == [3, 400, 399, 398, 397, 396, 395]


def test_memory_in_use_is_that_of_the_tokens_held(start):
    batcher = start(slots=2, length=128)
    used, total = [], batcher.kv_bytes[1]
    assert total == 2 * 3 * 2 * 128 * 2 * 32 * 4  # keys and values, layers, slots, tokens, heads, head_dim, bytes
    ask(batcher, some_ids(28), 100, then=lambda _: used.append(batcher.kv_bytes[0])).wait()
    assert (used[0], used[-1]) == (28 * total // 256, 127 * total // 256)
    assert used == sorted(used)
    at_rest(batcher)
