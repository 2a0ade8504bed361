"""The generation thread: what runs together, who comes, who leaves, and what each is told."""

import random
import threading
import time
import weakref
import zlib
from collections import deque

import pytest
import torch

from engine.errors import BackendError, TextTooLong
from engine.inference import batcher as batcher_module
from engine.inference.batcher import CROWD, Batcher, Generation
from engine.inference.checkpoint import load_model, read_config
from engine.inference.kv_cache import PAGE_TOKENS, pages_of
from engine.inference.runner import BESIDE_CHUNKS, TorchRunner
from engine.inference.sampler import GREEDY
from engine.types import Sampling
from tests.checkpoints import TEXT_TOKENS
from tests.conftest import soon
from tests.test_runner import plain_scores

NO_STOPS = frozenset()
FAR = 400  # tokens of an answer that nobody waits for the end of


class Answer:
    """Hears what one generation is told. `then` is called on the generation thread after each telling."""

    def __init__(self, prompt, max_new_tokens=20, sampling=GREEDY, then=None, first=False):
        self.tokens, self.finish, self.error, self.told_after = [], None, None, 0
        self.then, self.done = then, threading.Event()
        self.generation = Generation(prompt, max_new_tokens, sampling, self.tell, first)

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
        assert self.done.wait(20)
        return self.tokens


def next_token(seen):
    """What the false model says after these ids: nothing but all of them together decides."""
    return zlib.crc32(bytes(str(seen), "ascii")) % TEXT_TOKENS


def solo(prompt, count, stop_ids=NO_STOPS):
    """What it says to a prompt alone."""
    seen = list(prompt)
    while len(seen) < len(prompt) + count:
        token = next_token(seen)
        if token in stop_ids:
            break
        seen.append(token)
    return seen[len(prompt) :]


class FalseRunner:
    """A runner without a model: its pages hold ids, and it says `next_token` of those it finds there. As a card does,
    it works through what was launched only when it is waited for, so that nothing may lean on a step being done."""

    def __init__(self, slots=4, pages=40, ahead=True, prefill_tokens=1_000, beside=1_000):
        self.slots, self.pages, self.ahead, self.device = slots, pages, ahead, "cpu"
        self.prefill_tokens, self._beside = prefill_tokens, beside
        self.inside = [None] * (pages * PAGE_TOKENS)
        self.newest = {}
        self.stream = deque()  # launched and not yet done
        self.launched = []  # (tokens of each chunk, rows)
        self.most_unread = 0

    def beside(self, rows, before):
        return self._beside

    def memory(self):
        return {"weights": 0, "kv_total": self.pages * PAGE_TOKENS * 10}

    def begin(self, slot, sampling, ids, made):
        self.stream.append(lambda: self.newest.pop(slot, None))

    def step(self, chunks, slots, tables):
        self.launched.append(([len(chunk.ids) for chunk in chunks], len(slots)))
        parts = [(chunk.slot, list(chunk.table.pages), chunk.table.length, chunk.ids, chunk.last) for chunk in chunks]
        rows = [(slot, list(table.pages), table.length) for slot, table in zip(slots, tables, strict=True)]

        def work():
            for _, pages, length, ids, _ in parts:
                self.write(pages, length, ids)
            for slot, pages, length in rows:
                self.write(pages, length, [self.newest[slot]])
            said = [self.say(slot, pages, length + len(ids)) for slot, pages, length, ids, last in parts if last]
            return said + [self.say(slot, pages, length + 1) for slot, pages, length in rows]

        return self.launch(work)

    def write(self, pages, start, ids):
        for index, token in enumerate(ids, start):
            self.inside[pages[index // PAGE_TOKENS] * PAGE_TOKENS + index % PAGE_TOKENS] = token

    def say(self, slot, pages, length):
        seen = [token for page in pages for token in self.inside[page * PAGE_TOKENS : (page + 1) * PAGE_TOKENS]]
        self.newest[slot] = next_token(seen[:length])
        return self.newest[slot]

    def launch(self, work):
        said = []
        self.stream.append(lambda: said.append(work()))
        unread = [True]

        class Pending:
            @staticmethod
            def tokens():
                while not said:
                    self.stream.popleft()()
                unread.clear()
                return said[0]

        self.unread = [*(each for each in getattr(self, "unread", []) if each), unread]
        self.most_unread = max(self.most_unread, len(self.unread))
        return Pending


def some_ids(count, seed=0):
    return random.Random(seed).choices(range(TEXT_TOKENS), k=count)


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load_model(tiny_checkpoint, read_config(tiny_checkpoint), torch.float32, "cpu")


@pytest.fixture
def batch():
    """Batchers over any runner, closed when the test ends."""
    started = []

    def batch(runner, stop_ids=NO_STOPS, **more):
        started.append(Batcher(runner, stop_ids, **more))
        return started[-1]

    yield batch
    for batcher in started:
        batcher.close()


@pytest.fixture
def start(model, batch):
    """A batcher over a small model."""

    def start(slots=4, length=512, stop_ids=NO_STOPS, **more):
        return batch(TorchRunner(model, slots, slots * pages_of(length)), stop_ids, **more)

    return start


def ask(batcher, prompt, *rest, **more):
    answer = Answer(prompt, *rest, **more)
    batcher.submit(answer.generation)
    return answer


def at_rest(batcher):
    soon(lambda: batcher.running == 0 and batcher.kv_bytes[0] == 0)
    assert batcher.counts.pages_free == batcher._pages.count
    assert sorted(batcher._free_slots) == list(range(batcher.slots))
    batcher._pages.forget()
    assert batcher._pages.known == 0


# with a true model


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


def test_a_seeded_answer_does_not_either_even_where_it_stepped_back(start):
    sampling = Sampling(0.7, 0.6, 20, 1.05, seed=5)
    prompt = some_ids(20)
    alone = ask(start(), prompt, 90, sampling).wait()
    busy = start(slots=4, length=64)
    others = [ask(busy, some_ids(30, seed), 120) for seed in range(2)]
    answer = ask(busy, prompt, 90, sampling)
    assert answer.wait() == alone
    assert len({tuple(other.wait()) for other in others}) == 2
    assert busy.counts.preempted


def test_hundreds_at_random_a_third_cancelled_and_every_other_says_what_it_says_alone(model, batch):
    """With too few pages for all, so that many step back; half begin alike."""
    dice, batcher, asked = random.Random(11), batch(TorchRunner(model, 8, 10)), []
    beginning, leaving = some_ids(70, 999), set(dice.sample(range(300), 100))
    for number in range(300):
        prompt = beginning[: dice.randint(20, 70)] * dice.randint(0, 1) + some_ids(dice.randint(1, 30), number)
        count = dice.choice((1, 5, 10, 80))
        last = dice.randint(0, count) if number in leaving else FAR

        def then(answer, last=last):
            if len(answer.tokens) >= last:
                batcher.cancel(answer.generation)

        asked.append(ask(batcher, prompt, count, then=then))
        if not last:
            batcher.cancel(asked[-1].generation)
        time.sleep(dice.random() / 1_000)
    for number in set(range(300)) - leaving:
        prompt, answer = list(asked[number].generation.prompt), asked[number].wait()
        assert len(answer) == asked[number].generation.max_new_tokens
        assert answer == plain_scores(model, prompt + answer)[len(prompt) - 1 : -1].argmax(-1).tolist()
    at_rest(batcher)
    assert batcher.counts.preempted > 5
    assert batcher.counts.shared_tokens > 1_000


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(start):
    whole = ask(start(), some_ids(8), 30).wait()
    stop = whole[10]
    answer = ask(start(stop_ids=frozenset({stop, 10**6})), some_ids(8), 30)
    assert (answer.wait(), answer.finish) == (whole[: whole.index(stop)], "stop")
    instead = ask(start(stop_ids=frozenset({whole[0]})), some_ids(8), 30)
    assert (instead.wait(), instead.finish) == ([], "stop")


def test_a_window_keeps_memory_flat_and_changes_no_token_before_it_is_passed(start):
    prompt, window = some_ids(40), 64
    whole = ask(start(), prompt, 300).wait()
    windowed, used = start(slots=1, length=192, window=window), []
    tokens = ask(windowed, prompt, 300, then=lambda _: used.append(windowed.counts.pages_used)).wait()
    passed = (
        window + 2 * PAGE_TOKENS - len(prompt)
    )  # the first token made without the second page: 128 is a stride's end
    assert tokens[: passed + 1] == whole[: passed + 1]
    assert tokens != whole
    assert max(used) == windowed._pages.most(340) == 5
    assert windowed.counts.preempted == 0
    at_rest(windowed)


def test_with_a_window_who_comes_in_beside_others_steps_back_or_finds_pages_says_what_it_says_alone(model, batch):
    class Slow(TorchRunner):
        def beside(self, rows, before):
            return 20

    asked = [(some_ids(count, 1)[:300] + some_ids(count, count)[300:], 120) for count in (600, 350, 450, 700)]
    alone = [ask(batch(TorchRunner(model, 1, 40), window=64, share=False), *each).wait() for each in asked]
    busy = batch(Slow(model, 4, 12), window=64)
    take = busy._pages.open
    busy._pages.open = lambda ids, spare: take(ids)  # no page is kept for those who run, so that some step back
    other = ask(busy, some_ids(30, 7), 400)
    soon(lambda: other.tokens)
    assert [answer.wait() for answer in [ask(busy, *each) for each in asked]] == alone
    assert busy.counts.shared_tokens
    assert busy.counts.preempted


def test_a_penalty_falls_on_all_that_was_said_where_a_window_let_it_go(model, batch):
    penalised = Sampling(0.0, 1.0, 0, 1.3)
    few, many = (batch(TorchRunner(model, 1, pages), window=64) for pages in (5, 40))
    assert ask(few, some_ids(100), 300, penalised).wait() == ask(many, some_ids(100), 300, penalised).wait()


# with a false one


@pytest.fixture(params=[True, False], ids=["ahead", "in step"])
def ahead(request):
    return request.param


def test_a_false_model_says_the_same_through_a_batch_as_alone(batch, ahead):
    batcher = batch(FalseRunner(ahead=ahead))
    asked = [(some_ids(seed * 9 + 1, seed), 1 + seed * 7 % 40) for seed in range(20)]
    answers = [ask(batcher, *each) for each in asked]
    assert [answer.wait() for answer in answers] == [solo(*each) for each in asked]
    at_rest(batcher)


def test_a_runner_that_works_ahead_is_given_the_next_step_before_this_one_is_read(batch):
    for ahead, unread in ((True, 2), (False, 1)):
        runner = FalseRunner(ahead=ahead, slots=1)
        assert len(ask(batch(runner), some_ids(9), 50).wait()) == 50
        assert (runner.most_unread, len(runner.launched)) == (unread, 50)  # none in vain: the length is known


def test_a_stop_found_late_costs_one_row_and_harms_nobody(batch):
    runner = FalseRunner(slots=2, pages=6)
    prompts = [some_ids(20, seed) for seed in range(30)]
    stop_ids = frozenset(range(0, TEXT_TOKENS, 12))
    batcher = batch(runner, stop_ids)
    answers = [ask(batcher, prompt, 60) for prompt in prompts]
    true = [solo(prompt, 60, stop_ids) for prompt in prompts]
    assert [answer.wait() for answer in answers] == true
    assert [answer.told_after for answer in answers] == [0] * 30
    at_rest(batcher)
    rows = sum(rows for _, rows in runner.launched)
    assert rows <= sum(len(tokens) for tokens in true) + 30 + 60 * batcher.counts.preempted


@pytest.mark.parametrize("pages", [20, 200])
def test_hundreds_of_them(batch, ahead, pages):
    """Few pages, small chunks, stops, cancels, and steps that fail: whoever is told an end was told the truth."""
    dice, stop_ids = random.Random(pages), frozenset(range(0, TEXT_TOKENS, 80))
    runner = FalseRunner(8, pages, ahead, prefill_tokens=90, beside=25)
    batcher, answers = batch(runner, stop_ids), []
    take = batcher._pages.open
    batcher._pages.open = lambda ids, spare: take(ids)  # no page is kept for those who run, so that many step back
    beginning = some_ids(200, 999)
    real, fate = runner.step, random.Random(3)

    def failing(*args):
        if fate.random() < 0.002:
            raise (RuntimeError if fate.random() < 0.5 else torch.OutOfMemoryError)("the card is gone")
        return real(*args)

    runner.step = failing
    for seed in range(500):
        prompt = beginning[: dice.randint(0, 200)] * dice.randint(0, 1) + some_ids(dice.randint(1, 50), seed)
        answers.append(ask(batcher, prompt, dice.choice((1, 20, 50, 300))))
        if not dice.randrange(3):
            batcher.cancel(dice.choice(answers).generation)
        if not dice.randrange(20):
            time.sleep(dice.random() / 100)
    failed = 0
    for answer in answers:
        generation = answer.generation
        soon(lambda answer=answer: answer.done.is_set() or answer.generation.cancelled)
        true = solo(generation.prompt, generation.max_new_tokens, stop_ids)
        if answer.finish:
            assert answer.tokens == true
            assert answer.finish == ("length" if len(true) == generation.max_new_tokens else "stop")
        else:
            assert answer.tokens == true[: len(answer.tokens)]
            failed += answer.error is not None
    assert failed < 150
    at_rest(batcher)
    assert batcher.counts.shared_tokens > 1_000
    assert pages == 200 or batcher.counts.preempted > 15


def test_who_comes_in_mid_flight_joins_the_batch_before_the_others_end(batch, ahead):
    batcher, told = batch(FalseRunner(ahead=ahead)), []

    def then(answer):
        told.append("long")
        if len(answer.tokens) == 5:
            late.append(ask(batcher, some_ids(9, 1), 5, then=lambda _: told.append("late")))

    late = []
    long = ask(batcher, some_ids(20), 60, then=then)
    long.wait()
    assert late[0].done.is_set()
    assert told[:17].count("late") == 5  # they take turns, a token each


def test_a_freed_slot_is_taken_while_the_others_run(batch):
    batcher = batch(FalseRunner(slots=2))
    told = []
    asked = [ask(batcher, some_ids(5, seed), count, then=told.append) for seed, count in enumerate((80, 3, 3))]
    for answer in asked:
        answer.wait()
    assert max(told.index(answer) for answer in asked[1:]) < 20


def test_who_waits_starts_in_order(batch, ahead):
    batcher, order = batch(FalseRunner(slots=2, ahead=ahead)), []
    answers = [ask(batcher, some_ids(4, seed), 3 + seed % 3, then=order.append) for seed in range(10)]
    for answer in answers:
        answer.wait()
    assert list(dict.fromkeys(order)) == answers


def test_one_slot_answers_strictly_in_order(batch):
    batcher, order = batch(FalseRunner(slots=1)), []
    answers = [ask(batcher, some_ids(4, seed), 3, then=order.append) for seed in range(5)]
    for answer in answers:
        answer.wait()
    assert order == [answer for answer in answers for _ in range(3)]


def test_who_cancels_leaves_at_the_next_token_and_frees_the_slot(batch, ahead):
    batcher = batch(FalseRunner(slots=1, ahead=ahead))

    def then(answer):
        if len(answer.tokens) == 4:
            batcher.cancel(answer.generation)

    leaving = ask(batcher, some_ids(6), FAR, then=then)
    assert len(ask(batcher, some_ids(5, 1), 3).wait()) == 3
    assert (len(leaving.tokens), leaving.done.is_set()) == (4, False)
    at_rest(batcher)


def test_who_cancels_while_waiting_never_starts(batch):
    runner = FalseRunner(slots=1)
    batcher = batch(runner)

    def then(answer):
        batcher.cancel(second.generation)

    third = None
    with batcher._wake:  # the thread waits until all are there
        first = Answer(some_ids(6), 30, then=then)
        second, third = Answer(some_ids(6), 5), Answer(some_ids(7), 5)
        batcher._waiting += [first.generation, second.generation, third.generation]
        batcher._wake.notify()
    assert [len(answer.wait()) for answer in (first, third)] == [30, 5]
    assert second.tokens == []
    assert sum(bool(tokens) for tokens, _ in runner.launched) == 2


def test_cancelling_one_changes_nothing_for_the_others(batch, ahead):
    batcher = batch(FalseRunner(ahead=ahead))
    leaving = ask(batcher, some_ids(50, 7), 100, then=lambda answer: batcher.cancel(answer.generation))
    answers = [ask(batcher, some_ids(9, seed), 30) for seed in range(3)]
    assert [answer.wait() for answer in answers] == [solo(some_ids(9, seed), 30) for seed in range(3)]
    assert len(leaving.tokens) == 1


def test_prompts_come_in_by_chunks_so_that_who_runs_never_waits_long(batch, ahead):
    runner = FalseRunner(slots=9, pages=100, ahead=ahead, prefill_tokens=1_000, beside=100)
    batcher = batch(runner)
    late = []

    def then(answer):
        if len(answer.tokens) == 2:
            late.extend(ask(batcher, some_ids(230 - seed, seed), 4) for seed in range(3))

    running = ask(batcher, some_ids(300, 9), 60, then=then)
    running.wait()
    assert [answer.wait() for answer in late] == [solo(some_ids(230 - seed, seed), 4) for seed in range(3)]
    assert runner.launched[0] == ([300], 0)
    assert all(sum(tokens) <= 100 and rows for tokens, rows in runner.launched[1:60])
    assert sum(sum(tokens) for tokens, _ in runner.launched) == 300 + 230 + 229 + 228


def beside_one(batch, runner, late):
    """So many short prompts come while one runs; the step that the first of them comes in with."""
    batcher, asked = batch(runner), []

    def then(answer):
        if len(answer.tokens) == 3:
            asked.extend(Answer(some_ids(9, seed), 100) for seed in range(late))
            with batcher._wake:
                batcher._waiting += [each.generation for each in asked]

    assert ask(batcher, some_ids(5, 99), 300, then=then).wait() == solo(some_ids(5, 99), 300)
    assert [each.wait() for each in asked] == [solo(some_ids(9, seed), 100) for seed in range(late)]
    return [tokens for tokens, rows in runner.launched if tokens and rows]


def test_a_crowd_comes_in_at_full_speed_and_fewer_beside_those_who_run(batch):
    runner = FalseRunner(slots=40, pages=400, beside=20)
    assert beside_one(batch, runner, CROWD - 1) == [[9, 9, 2], [7]]
    runner = FalseRunner(slots=40, pages=400, beside=20)
    assert beside_one(batch, runner, CROWD) == [[9] * CROWD]


def test_who_finds_no_slot_is_not_of_the_crowd(batch):
    runner = FalseRunner(slots=2, pages=400, beside=5)
    steps = beside_one(batch, runner, 3 * CROWD)
    assert steps
    assert all(sum(tokens) <= 5 for tokens in steps), steps


def test_less_comes_in_at_once_of_a_prompt_of_which_much_is_in(batch):
    class Slower(FalseRunner):
        def beside(self, rows, before):
            return 100 if before < 150 else 60

    runner, late = Slower(), []
    batcher = batch(runner)

    def then(answer):
        if len(answer.tokens) == 3:
            late.append(ask(batcher, some_ids(400), 2))

    running = ask(batcher, some_ids(5, 99), 60, then=then)
    running.wait()
    assert late[0].wait() == solo(some_ids(400), 2)
    assert [tokens for tokens, rows in runner.launched if tokens and rows] == [[100], [100], [60], [60], [60], [20]]


def test_fewer_than_run_are_no_crowd_and_few_prompts_come_at_once(batch):
    runner, late = FalseRunner(slots=40, pages=400), []
    batcher = batch(runner)

    def then(answer):
        if len(answer.tokens) == 3:
            late.extend(Answer(some_ids(9, seed), 5) for seed in range(20, 31))
            with batcher._wake:
                batcher._waiting += [each.generation for each in late]

    running = [Answer(some_ids(5, seed), 60) for seed in range(12)]
    running[0].then = then
    with batcher._wake:
        batcher._waiting += [each.generation for each in running]
        batcher._wake.notify()
    assert [each.wait() for each in running] == [solo(some_ids(5, seed), 60) for seed in range(12)]
    assert [each.wait() for each in late] == [solo(some_ids(9, seed), 5) for seed in range(20, 31)]
    assert [tokens for tokens, rows in runner.launched if tokens and rows] == [[9] * BESIDE_CHUNKS] * 2 + [[9] * 3]


def with_late(batch, runner, late):
    """Those answers are asked while a long one and a prompt that is in by half are in the batch; the steps after."""
    batcher, begun = batch(runner), []

    def then(answer):
        if len(answer.tokens) == 3:
            ask(batcher, some_ids(50, 98), 4)
        if len(answer.tokens) == 4:
            begun.append(len(runner.launched))
            for each in late:
                batcher.submit(each.generation)

    assert ask(batcher, some_ids(5, 99), 60, then=then).wait() == solo(some_ids(5, 99), 60)
    for each in late:
        assert each.wait() == solo(each.generation.prompt, each.generation.max_new_tokens)
    return runner.launched[begun[0] :]


def test_a_first_prompt_comes_in_before_the_rest_and_on_the_cpu_before_the_next_token_of_who_runs(batch):
    def late():
        return [Answer(some_ids(9, 1), 4), Answer(some_ids(30, 2), 4, first=True)]

    steps = with_late(batch, FalseRunner(pages=100, ahead=False, beside=20), late())
    assert steps[:3] == [([20], 0), ([10, 10], 1), ([20], 2)]  # 30 that are first, 50 of which 20 were in, then 9
    steps = with_late(batch, FalseRunner(pages=100, ahead=True, beside=20), late())
    assert [tokens for tokens, _ in steps[:2]] == [[20], [10, 10]]
    assert all(rows for _, rows in steps[:2])


def test_on_the_cpu_first_prompts_come_by_steps_of_their_own_however_many_wait_for_a_slot(batch):
    runner, late = FalseRunner(slots=2, pages=100, ahead=False, beside=20), []
    batcher = batch(runner)

    def then(answer):
        if len(answer.tokens) == 3:
            late.extend(Answer(some_ids(9, seed), 5 + seed, first=True) for seed in range(3 * CROWD))
            with batcher._wake:
                batcher._waiting.extendleft(reversed([each.generation for each in late]))

    assert ask(batcher, some_ids(5, 99), 60, then=then).wait() == solo(some_ids(5, 99), 60)
    assert [each.wait() for each in late] == [solo(some_ids(9, seed), 5 + seed) for seed in range(3 * CROWD)]
    assert sum(tokens == [9] and not rows for tokens, rows in runner.launched) > 2 * CROWD


def test_a_first_prompt_that_finds_no_slot_has_that_of_who_came_last_and_all_are_answered(batch, ahead):
    batcher, late, ended = batch(FalseRunner(slots=2, ahead=ahead)), [], []

    def then(answer):
        if len(answer.tokens) == 5:
            late.extend(ask(batcher, some_ids(9, seed), 6, first=True) for seed in range(2))
        if answer.finish:
            ended.append(sum(each.done.is_set() for each in late))

    running = [Answer(some_ids(5, 20 + seed), 60, then=then if seed else None) for seed in range(2)]
    with batcher._wake:
        batcher._waiting += [each.generation for each in running]
        batcher._wake.notify()
    assert [each.wait() for each in running] == [solo(some_ids(5, 20 + seed), 60) for seed in range(2)]
    assert [each.wait() for each in late] == [solo(some_ids(9, seed), 6) for seed in range(2)]
    assert ended == [2]
    assert batcher.counts.preempted == 2
    at_rest(batcher)


def test_prompts_that_begin_alike_are_computed_once_those_of_one_step_too(batch, ahead):
    runner = FalseRunner(slots=8, pages=100, ahead=ahead)
    batcher = batch(runner)
    beginning, asked = some_ids(130), []
    with batcher._wake:
        for seed in range(8):
            asked.append(Answer(beginning + some_ids(10, seed), 30))
            batcher._waiting.append(asked[-1].generation)
        batcher._wake.notify()
    assert [answer.wait() for answer in asked] == [solo(answer.generation.prompt, 30) for answer in asked]
    assert runner.launched[0] == ([140] + [140 - 128] * 7, 0)
    assert (batcher.counts.shared_tokens, batcher.counts.computed_tokens) == (7 * 128, 140 + 7 * 12)
    again = ask(batcher, asked[0].generation.prompt, 5)  # nobody holds it any more
    assert again.wait() == asked[0].tokens[:5]
    assert batcher.counts.shared_tokens == 8 * 128
    at_rest(batcher)


def test_without_sharing_each_is_computed_whole(batch):
    batcher = batch(FalseRunner(), share=False)
    for _ in range(2):
        ask(batcher, some_ids(100), 2).wait()
    assert (batcher.counts.shared_tokens, batcher.counts.computed_tokens) == (0, 200)


def test_who_came_last_steps_back_when_pages_run_short_and_goes_on_where_it_was(batch, ahead):
    batcher, told = batch(FalseRunner(pages=8, ahead=ahead)), []
    answers = [ask(batcher, some_ids(40, seed), 150, then=told.append) for seed in range(4)]
    assert [answer.wait() for answer in answers] == [solo(some_ids(40, seed), 150) for seed in range(4)]
    assert batcher.counts.preempted >= 2
    ends = [len(told) - 1 - told[::-1].index(answer) for answer in answers]
    assert ends == sorted(ends)
    at_rest(batcher)


def test_who_cancels_after_stepping_back_does_not_come_again(batch):
    runner = FalseRunner(pages=8)
    batcher = batch(runner)

    def then(answer):
        if batcher.counts.preempted:
            batcher.cancel(second.generation)

    first = Answer(some_ids(40), 200, then=then)
    second = Answer(some_ids(40, 1), 200)
    with batcher._wake:
        batcher._waiting += [first.generation, second.generation]
        batcher._wake.notify()
    assert first.wait() == solo(some_ids(40), 200)
    at_rest(batcher)
    assert not second.done.is_set()
    assert second.tokens == solo(some_ids(40, 1), len(second.tokens))


def test_what_could_not_even_run_alone_is_refused_and_says_how_long_it_is(batch):
    batcher = batch(FalseRunner(pages=4))
    with pytest.raises(TextTooLong, match=r"prompt of 100 tokens and an answer of up to 30 .* 128 tokens; shorten"):
        ask(batcher, some_ids(100), 30)
    assert len(ask(batcher, some_ids(100), 29).wait()) == 29
    assert len(ask(batch(FalseRunner(pages=4), window=20), some_ids(100), 30).wait()) == 30


def test_every_page_may_be_filled_to_its_last_place(batch, ahead):
    batcher = batch(FalseRunner(slots=2, pages=4, ahead=ahead))
    answers = [ask(batcher, some_ids(40, seed), 25) for seed in range(4)]
    assert [answer.wait() for answer in answers] == [solo(some_ids(40, seed), 25) for seed in range(4)]
    assert batcher.counts.preempted == 0


@pytest.mark.parametrize("step", ["begin", "step"])
def test_a_step_that_fails_is_told_to_all_in_the_batch_and_the_next_request_works(batch, ahead, step):
    runner = FalseRunner(slots=2, ahead=ahead)
    batcher, real, failed = batch(runner), getattr(runner, step), []

    def failing(*args):
        if batcher.running == 2 and not failed:
            failed.append(step)
            raise RuntimeError("the card is gone")
        return real(*args)

    setattr(runner, step, failing)
    broken = [ask(batcher, some_ids(8, seed), FAR) for seed in range(2)]
    waiting = ask(batcher, some_ids(8, 1), 10)
    for answer in broken:
        answer.wait()
        assert isinstance(answer.error, BackendError)
        assert "RuntimeError" in str(answer.error)
        assert str(answer.error.__cause__) == "the card is gone"
    assert waiting.wait() == solo(some_ids(8, 1), 10)
    assert waiting.error is None
    at_rest(batcher)
    assert [answer.told_after for answer in broken] == [0, 0]


@pytest.mark.parametrize("step", ["begin", "step"])
def test_a_step_that_fails_since_the_runner_has_ended_is_told_as_that_end(batch, step):
    runner = FalseRunner()
    batcher, real, found = batch(runner), getattr(runner, step), []

    def failing(*args):
        if batcher.running == 2:
            batcher.abandon(BackendError("Its process ended."))
            raise BackendError("It cannot be reached.")
        return real(*args)

    setattr(runner, step, failing)
    broken = [Answer(some_ids(8, seed), FAR, then=lambda _: found.append(batcher.failed.done())) for seed in range(2)]
    for answer in broken:
        batcher.submit(answer.generation)
    for answer in broken:
        answer.wait()
        assert str(answer.error) == "Its process ended."
    assert found[-2:] == [True, True]  # who asks again, once told, does not come here


@pytest.mark.parametrize("step", ["begin", "step"])
def test_out_of_memory_the_batch_gets_smaller_and_every_answer_is_right(batch, ahead, step):
    runner, seen = FalseRunner(slots=8, ahead=ahead), []
    batcher, real = batch(runner), getattr(runner, step)

    def failing(*args):
        seen.append(batcher.running)
        if batcher.running > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(*args)

    setattr(runner, step, failing)
    answers = [Answer(some_ids(8 + 3 * seed, seed), 30) for seed in range(8)]
    with batcher._wake:
        batcher._waiting += [answer.generation for answer in answers]
        batcher._wake.notify()
    assert [answer.wait() for answer in answers] == [solo(some_ids(8 + 3 * seed, seed), 30) for seed in range(8)]
    assert seen.count(max(seen)) == 1
    at_rest(batcher)
    setattr(runner, step, real)
    soon(lambda: batcher._most_running == 8)  # it may have been another program's doing


@pytest.mark.parametrize("times", [1, 2])
def test_after_a_thousand_good_steps_more_may_run_again_under_load_too(batch, monkeypatch, times):
    monkeypatch.setattr(batcher_module, "GOOD_STEPS", 50)
    runner, rows, failed = FalseRunner(slots=8, pages=100), [], []
    batcher, real = batch(runner), runner.step

    def failing(chunks, slots, tables):
        if len(slots) == batcher._most_running == 8 >> len(failed) and len(failed) < times:
            failed.append(len(slots))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        rows.append(len(slots))
        return real(chunks, slots, tables)

    runner.step = failing
    answers = [Answer(some_ids(9, seed), 30) for seed in range(100)]
    with batcher._wake:
        batcher._waiting += [answer.generation for answer in answers]
        batcher._wake.notify()
    for answer in answers:
        answer.wait()
    assert failed == [8, 4][:times]
    assert max(rows[:49]) == 8 >> times
    assert rows[150:-40].count(8) > 50


def too_much():
    torch.empty(10**15)


def cublas():
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@pytest.mark.parametrize("fail", [too_much, cublas, lambda: bytearray(10**15)])
def test_other_ways_to_say_that_there_is_no_memory_are_understood(batch, fail):
    runner = FalseRunner(slots=8)
    batcher, real = batch(runner), runner.step

    def failing(chunks, slots, tables):
        if batcher.running > 3:
            fail()
        return real(chunks, slots, tables)

    runner.step = failing
    answers = [ask(batcher, some_ids(8, seed), 30) for seed in range(8)]
    assert [answer.wait() for answer in answers] == [solo(some_ids(8, seed), 30) for seed in range(8)]


def test_what_a_step_without_room_had_made_is_let_go_before_the_cache_is_emptied(batch, monkeypatch):
    runner, kept, gone = FalseRunner(), [], []
    batcher, real, runner.device = batch(runner), runner.step, "cuda:0"

    class Activations:
        pass

    def failing(chunks, slots, tables):
        made = Activations()
        if not kept:
            kept.append(weakref.ref(made))
            try:
                raise ValueError("first")
            except ValueError as error:
                raise torch.OutOfMemoryError("CUDA out of memory.") from error
        return real(chunks, slots, tables)

    def empty_cache():
        gone.append(kept[0]() is None)
        raise RuntimeError("the card is lost")  # which is for the next step to say

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    runner.step = failing
    answers = [Answer(some_ids(8, seed), 5) for seed in range(2)]
    with batcher._wake:
        batcher._waiting += [answer.generation for answer in answers]
        batcher._wake.notify()
    assert [answer.wait() for answer in answers] == [solo(some_ids(8, seed), 5) for seed in range(2)]
    assert gone == [True]


def test_a_listener_that_fails_harms_nobody_else(batch, ahead, caplog):
    batcher = batch(FalseRunner(slots=2, ahead=ahead))

    def then(answer):
        raise RuntimeError("the loop is closed")

    failing = ask(batcher, some_ids(5), FAR, then=then)
    assert ask(batcher, some_ids(6), 30).wait() == solo(some_ids(6), 30)
    at_rest(batcher)
    assert len(failing.tokens) == 1
    assert "listener failed" in caplog.text


def test_a_listener_that_fails_as_all_are_told_of_a_failure_harms_nobody_else(batch):
    runner = FalseRunner(slots=2)
    batcher, real = batch(runner), runner.step

    def failing(chunks, slots, tables):
        if len(slots) == 2:
            raise RuntimeError("the card is gone")
        return real(chunks, slots, tables)

    def then(answer):
        if answer.error:
            raise RuntimeError("the loop is closed")

    runner.step = failing
    answers = [ask(batcher, some_ids(5, seed), FAR, then=then) for seed in range(2)]
    for answer in answers:
        answer.wait()
    assert ask(batcher, some_ids(6), 30).wait() == solo(some_ids(6), 30)


def test_who_cannot_go_on_is_told_and_not_waited_for(batch):
    batcher = batch(FalseRunner())
    real, batcher._pages.grow = batcher._pages.grow, lambda table, tokens: False
    stuck = ask(batcher, some_ids(50), 5)
    stuck.wait()
    assert isinstance(stuck.error, BackendError)
    batcher._pages.grow = real
    assert ask(batcher, some_ids(50), 5).wait() == solo(some_ids(50), 5)


def test_who_has_no_room_even_alone_is_told_and_the_others_are_not(batch, ahead):
    runner = FalseRunner(slots=4, ahead=ahead)
    batcher, real = batch(runner), runner.step

    def failing(chunks, *rest):
        if any(len(chunk.ids) == 100 for chunk in chunks):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(chunks, *rest)

    runner.step = failing
    answers = [ask(batcher, some_ids(count), 30) for count in (10, 100, 20)]
    assert answers[0].wait() == solo(some_ids(10), 30)
    assert answers[2].wait() == solo(some_ids(20), 30)
    answers[1].wait()
    assert isinstance(answers[1].error, BackendError)
    assert "too little memory" in str(answers[1].error)
    at_rest(batcher)


def test_closing_ends_what_runs_and_what_waits_with_a_backend_error(batch, ahead):
    batcher = batch(FalseRunner(slots=1, ahead=ahead))
    answers = [ask(batcher, some_ids(8), FAR, then=lambda _: time.sleep(0.001)), ask(batcher, some_ids(8), 5)]
    soon(lambda: answers[0].tokens)
    batcher.close()
    for answer in answers:
        assert answer.done.is_set()
        assert isinstance(answer.error, BackendError)
        assert "shut down" in str(answer.error)
    with pytest.raises(BackendError, match="start Yiwen again"):
        ask(batcher, some_ids(8), 5)
    batcher.close()
    assert batcher.counts.pages_used == 0


@pytest.mark.parametrize("count", [1, 2, 30])
def test_an_answer_is_cut_at_its_limit_and_says_so(batch, ahead, count):
    answer = ask(batch(FalseRunner(ahead=ahead)), some_ids(8), count)
    assert (len(answer.wait()), answer.finish) == (count, "length")


def test_memory_in_use_is_that_of_the_pages_held(batch):
    batcher, used = batch(FalseRunner(ahead=False)), []
    total = batcher.kv_bytes[1]
    assert total == 40 * PAGE_TOKENS * 10
    ask(batcher, some_ids(28), 100, then=lambda _: used.append(batcher.kv_bytes[0] * 40 // total)).wait()
    assert used == [pages_of(28 + made) for made in range(100)]
    at_rest(batcher)
