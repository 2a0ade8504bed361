"""The reference runner: however a text comes in, and through whichever pages, its scores are the plain model's."""

import random
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F

from engine.inference.checkpoint import load_model, read_config
from engine.inference.kv_cache import PAGE_TOKENS, Pages, pages_of
from engine.inference.runner import Chunk, TorchRunner
from engine.inference.sampler import GREEDY
from engine.types import Sampling
from tests.checkpoints import TEXT_TOKENS

LENGTHS = (1, 31, 32, 33, 90, 150)


def some_ids(count, seed=0):
    return random.Random(seed).choices(range(TEXT_TOKENS), k=count)


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load_model(tiny_checkpoint, read_config(tiny_checkpoint), torch.float32, "cpu")


@torch.inference_mode()
def plain_scores(model, ids, sees=None):
    """Scores after each of the ids, without pages: [tokens, vocab_size]. `sees`: [tokens, tokens], else all before."""
    sees = torch.ones(len(ids), len(ids), dtype=torch.bool).tril() if sees is None else sees

    def attend(layer, *parts):
        query, key, value = (part.transpose(1, 2) for part in parts)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=sees, enable_gqa=True).transpose(1, 2)

    return model.logits(model(torch.tensor([ids]), torch.arange(len(ids))[None], attend))[0]


def assert_same(scores, true, most=1e-5):
    assert ((scores.double() - true.double()).norm() / true.double().norm()).item() < most


class Paged:
    """A runner with pages in random order, full of old content, driven by hand."""

    def __init__(self, model, slots=8, pages=60, window=None):
        self.runner, self.pages = TorchRunner(model, slots, pages), Pages(pages, window)
        self.runner._attention.data[..., :-1, :, :].uniform_(-100, 100)
        self.pages._free = OrderedDict.fromkeys(random.Random(0).sample(range(pages), pages))

    def take_in(self, *parts):
        """(table, ids, last) each, in one step."""
        chunks = []
        for slot, (table, ids, last) in enumerate(parts):
            self.pages.share(table, ids)
            chunks.append(Chunk(slot, ids, table, last))
        scores = self.runner.scores_after(chunks)
        for chunk in chunks:
            self.pages.advance(chunk.table, len(chunk.ids))
        return scores

    def next(self, tables, tokens):
        assert all(self.pages.grow(table, 1) for table in tables)
        scores = self.runner.scores_of_next(torch.tensor(tokens), tables)
        for table in tables:
            self.pages.advance(table, 1)
        return scores


def test_prompts_of_any_length_go_through_one_step(model):
    paged, texts = Paged(model), [some_ids(count, count) for count in LENGTHS]
    scores = paged.take_in(*((paged.pages.open(ids), ids, True) for ids in texts))
    assert_same(scores, torch.stack([plain_scores(model, ids)[-1] for ids in texts]))


@pytest.mark.parametrize("seed", range(5))
def test_a_prompt_may_be_cut_anywhere(model, seed):
    dice = random.Random(seed)
    paged, texts = Paged(model), [some_ids(count, count) for count in LENGTHS]
    left = {number: (paged.pages.open(ids), list(ids)) for number, ids in enumerate(texts)}
    scores = {}
    while left:
        parts, ending = [], []
        for number in dice.sample(sorted(left), dice.randint(1, len(left))):
            table, ids = left[number]
            part = ids[: dice.randint(1, 70)]
            del ids[: len(part)]
            parts.append((table, part, not ids))
            if not ids:
                ending.append(number)
                del left[number]
        scores |= zip(ending, paged.take_in(*parts), strict=True)
    assert_same(
        torch.stack([scores[number] for number in range(len(texts))]),
        torch.stack([plain_scores(model, ids)[-1] for ids in texts]),
    )


def test_a_chunk_in_the_middle_of_a_prompt_has_no_scores(model):
    paged = Paged(model)
    assert len(paged.take_in((paged.pages.open(some_ids(90)), some_ids(50), False))) == 0


def test_token_by_token_with_others_of_other_lengths(model):
    paged, texts = Paged(model), [some_ids(count + 80, count) for count in LENGTHS]
    tables = [paged.pages.open(ids[:count]) for ids, count in zip(texts, LENGTHS, strict=True)]
    steps = [
        paged.take_in(*((table, ids[:count], True) for table, ids, count in zip(tables, texts, LENGTHS, strict=True)))
    ]
    for step in range(79):
        tokens = [ids[count + step] for ids, count in zip(texts, LENGTHS, strict=True)]
        steps += [paged.next(tables, tokens)]
    for row, (ids, count) in enumerate(zip(texts, LENGTHS, strict=True)):
        assert_same(torch.stack([scores[row] for scores in steps]), plain_scores(model, ids)[count - 1 : -1])


def test_a_shared_beginning_is_as_good_as_ones_own_in_the_same_step_too(model):
    paged, beginning = Paged(model), some_ids(100)
    texts = [beginning + some_ids(count, count) for count in (1, 40, 80)]
    before = paged.pages.open(texts[0])
    first = paged.take_in((before, texts[0], True))
    shared = beginning[:-10] + some_ids(50, 7)
    chunks = []
    for slot, ids in enumerate((*texts[1:], shared, shared)):
        table = paged.pages.open(ids)
        chunks.append(Chunk(slot, ids[table.length :], table, True))
        paged.pages.share(table, chunks[-1].ids)
    assert [len(chunk.ids) for chunk in chunks] == [140 - 96, 180 - 96, 140 - 64, 140 - 128]
    scores = paged.runner.scores_after(chunks)
    true = [plain_scores(model, ids)[-1] for ids in (*texts, shared, shared)]
    assert_same(torch.cat((first, scores)), torch.stack(true))


@pytest.mark.parametrize("count", [1, 31, 33, 60])
def test_what_was_no_number_in_a_page_harms_nobody_who_gets_it_later(model, count):
    paged = Paged(model)
    paged.runner._attention.data[..., :-1, :, :] = torch.nan
    texts = [some_ids(count + 40, 1), some_ids(150 + 40, 2)]
    tables = [paged.pages.open(ids[:-40]) for ids in texts]
    assert paged.pages.grow(tables[0], 100)  # it may hold more pages than its tokens fill
    steps = [paged.take_in(*((table, ids[:-40], True) for table, ids in zip(tables, texts, strict=True)))]
    steps += [paged.next(tables, [ids[step - 40] for ids in texts]) for step in range(39)]
    for row, ids in enumerate(texts):
        assert_same(torch.stack([scores[row] for scores in steps]), plain_scores(model, ids)[-41:-1])


def test_with_a_window_each_token_sees_the_first_page_and_the_last_pages(model):
    window, ids = 64, some_ids(330)
    places = torch.arange(len(ids))
    page_ends = (places // PAGE_TOKENS + 1) * PAGE_TOKENS
    let_go = places // window * window  # the place where pages were let go last
    gone = (places >= PAGE_TOKENS) & (page_ends <= let_go[:, None] - window)
    true = plain_scores(model, ids, (places <= places[:, None]) & ~gone)
    paged = Paged(model, pages=5, window=window)
    table = paged.pages.open(ids[:10])
    steps = [paged.take_in((table, ids[:10], True))]
    steps += [paged.next([table], [token]) for token in ids[10:]]
    assert_same(torch.cat(steps), true[9:])
    same = (torch.cat(steps) - plain_scores(model, ids)[9:]).abs().amax(1) < 1e-3
    assert same[: window + 2 * PAGE_TOKENS - 9].all()
    assert not same[window + 2 * PAGE_TOKENS - 9 :].any()


def test_the_chosen_token_stays_in_the_runner_for_the_next_step(model):
    runner, pages, ids = TorchRunner(model, 3, 20), Pages(20), some_ids(40)
    table = pages.open(ids)
    runner.begin(2, GREEDY, ids, 0)
    said = runner.step([Chunk(2, ids, table, True)], [], []).tokens()
    pages.advance(table, len(ids))
    for _ in range(30):
        assert pages.grow(table, 1)
        said += runner.step([], [2], [table]).tokens()
        pages.advance(table, 1)
    assert said == plain_scores(model, ids + said)[len(ids) - 1 : -1].argmax(-1).tolist()


def test_each_row_keeps_its_own_sampling_wherever_it_stands(model):
    runner, pages = TorchRunner(model, 4, 40), Pages(40, share=False)
    kinds = [Sampling(0.9, 0.9, 20, 1.1, seed=1), GREEDY, Sampling(1.0, 1.0, 0, 1.0, seed=3)]

    def said(order):
        tables = {}
        for number in order:
            ids = some_ids(20 + number, number)
            tables[number] = pages.open(ids)
            runner.begin(3 - number, kinds[number], ids, 0)
        chunks = [Chunk(3 - number, some_ids(20 + number, number), tables[number], True) for number in order]
        steps = [runner.step(chunks, [], []).tokens()]
        for chunk in chunks:
            pages.advance(chunk.table, len(chunk.ids))
        for _ in range(20):
            assert all(pages.grow(table, 1) for table in tables.values())
            steps.append(runner.step([], [each.slot for each in chunks], [each.table for each in chunks]).tokens())
            for table in tables.values():
                pages.advance(table, 1)
        for table in tables.values():
            pages.close(table)
        return {number: [step[row] for step in steps] for row, number in enumerate(order)}

    together = said([0, 1, 2])
    assert said([2, 0, 1]) == together
    assert {**said([1]), **said([2]), **said([0])} == together


def test_memory_is_that_of_the_weights_and_of_the_pages(model):
    runner = TorchRunner(model, 4, 10)
    positions = 2 * model.config.max_positions * 32 * 4  # the tables of RoPE
    assert runner.memory() == {
        "weights": sum(tensor.nbytes for tensor in model.parameters()) + positions,
        "kv_total": 2 * 3 * 10 * PAGE_TOKENS * 2 * 32 * 4,  # keys and values, layers, pages, tokens, heads, head_dim
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_precisions_are_as_near_to_the_truth_as_the_plain_model_in_them(tiny_checkpoint, model, dtype):
    narrow, ids = load_model(tiny_checkpoint, read_config(tiny_checkpoint), dtype, "cpu"), some_ids(120)
    true = plain_scores(model, ids)[59:]
    paged = Paged(narrow)
    table = paged.pages.open(ids[:60])
    steps = [paged.take_in((table, ids[:60], True))]
    steps += [paged.next([table], [token]) for token in ids[60:]]
    off = (plain_scores(narrow, ids)[59:].float() - true).norm() / true.norm()
    assert_same(torch.cat(steps), true, most=1.3 * off.item())


def test_a_table_may_hold_more_pages_than_its_tokens_fill(model):
    paged, ids = Paged(model), some_ids(40)
    table = paged.pages.open(ids)
    assert paged.pages.grow(table, 100)
    assert len(table.pages) > pages_of(len(ids))
    assert_same(paged.take_in((table, ids, True)), plain_scores(model, ids)[-1:])
    assert_same(paged.next([table], [7]), plain_scores(model, [*ids, 7])[-1:])
