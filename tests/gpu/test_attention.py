"""On a card: attention over pages, of single tokens and of runs of prompts, against the formula in 64 bits."""

import random
from functools import cache
from itertools import pairwise

import pytest
import torch

from engine.inference import kernels
from engine.inference.fused import GROUPED, HEAD_DIMS, LOG2_E, TILE_WARPS
from engine.inference.kv_cache import PAGE_TOKENS, pages_of

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(120)]  # the first kernel of a process takes seconds
CARD = "cuda:0"
KV_HEADS = 2
MOST_TOKENS = 600
MOST_ERROR = {torch.bfloat16: 0.005, torch.float16: 0.0007}  # relative; of weights and answers rounded to 16 bits
SHAPES = [(head_dim, group) for head_dim in HEAD_DIMS for group in GROUPED]
FORMS = [(torch.bfloat16, False), (torch.bfloat16, True), (torch.float16, False), (torch.float16, True)]


@cache
def kernels_of(head_dim, group, dtype, fp8):
    shape = f"{head_dim}, {group}, {str(fp8).lower()}"
    lines = [f"ATTENTION_KERNEL(attend, {shape})", f"CHUNK_KERNEL(attend_chunk, {shape}, {TILE_WARPS})"]
    return kernels.load([("attention.cu", lines)], [f"-DFP16={int(dtype == torch.float16)}"], CARD)


class Pages:
    """Random keys and values of some sequences, in pages that lie anywhere."""

    def __init__(self, sequences, head_dim, group, dtype=torch.bfloat16, fp8=False, tokens=MOST_TOKENS):
        generator = torch.Generator().manual_seed(1)
        width = pages_of(tokens)
        shape = (sequences * width + 3, 2, KV_HEADS, PAGE_TOKENS, head_dim)
        numbers = torch.randn(shape, generator=generator)
        self.cache = numbers.to(torch.float8_e4m3fn if fp8 else dtype).to(CARD)
        order = torch.randperm(shape[0], generator=generator)[: sequences * width]
        self.tables = order.view(sequences, width).int().to(CARD)
        self.head_dim, self.group, self.dtype = head_dim, group, dtype
        self.heads = KV_HEADS * group
        self.kernels = kernels_of(head_dim, group, dtype, fp8)

    def some_queries(self, rows, spread=1.0):
        queries = torch.randn(rows, self.heads, self.head_dim, generator=torch.Generator().manual_seed(rows))
        return (queries * spread).to(self.dtype).to(CARD)

    def true(self, queries, slots, lengths):
        answers = []
        for query, slot, length in zip(queries, slots, lengths, strict=True):
            pages = self.cache[self.tables[slot, : pages_of(length)].long()].float().double()
            keys, values = pages.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :length]
            grouped = query.double().view(KV_HEADS, self.group, self.head_dim)
            weights = (grouped @ keys.mT * self.head_dim**-0.5).softmax(-1)
            answers.append((weights @ values).flatten())
        return torch.stack(answers)

    def attend(self, queries, slots, lengths, splits):
        cells = len(slots) * KV_HEADS
        partial = torch.full((cells * splits * self.group * (self.head_dim + 2),), torch.nan, device=CARD)
        done = torch.zeros(cells, dtype=torch.int32, device=CARD)
        out = torch.full((len(slots), self.heads * self.head_dim), torch.nan, dtype=self.dtype, device=CARD)
        self.kernels["attend"](
            (splits, KV_HEADS, len(slots)),
            128,
            queries,
            self.cache,
            self.tables,
            torch.tensor(slots, dtype=torch.int32, device=CARD),
            torch.tensor(lengths, dtype=torch.int32, device=CARD),
            out,
            partial,
            done,
            self.head_dim**-0.5 * LOG2_E,
            KV_HEADS,
            self.tables.shape[1],
            PAGE_TOKENS,
        )
        assert not done.any(), "the next launch counts from nothing"
        return out

    def attend_chunk(self, queries, tiles, splits):
        cells, rows = len(tiles) * KV_HEADS, 16 * TILE_WARPS
        partial = torch.full((cells * splits * rows * (self.head_dim + 2),), torch.nan, device=CARD)
        done = torch.zeros(cells, dtype=torch.int32, device=CARD)
        out = torch.full((len(queries), self.heads * self.head_dim), torch.nan, dtype=self.dtype, device=CARD)
        self.kernels["attend_chunk"](
            (splits, KV_HEADS, len(tiles)),
            32 * TILE_WARPS,
            queries,
            self.cache,
            self.tables,
            torch.tensor(tiles, dtype=torch.int32, device=CARD),
            out,
            partial,
            done,
            self.head_dim**-0.5 * LOG2_E,
            KV_HEADS,
            self.tables.shape[1],
        )
        assert not done.any(), "the next launch counts from nothing"
        return out


def error(answers, true):
    """The worst of the rows, so that no row hides behind the others."""
    return ((answers.double() - true).norm(dim=1) / true.norm(dim=1)).max().item()


def some_rows(sequences, rows, seed=0):
    """(slots, lengths): every edge of a page and of sixteen, and others."""
    numbers = random.Random(seed)
    edges = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200, 255, 257, MOST_TOKENS]
    lengths = (edges + [numbers.randrange(1, MOST_TOKENS) for _ in range(rows)])[:rows]
    return [numbers.randrange(sequences) for _ in range(rows)], lengths


@pytest.mark.parametrize(("head_dim", "group"), SHAPES)
@pytest.mark.parametrize(("dtype", "fp8"), FORMS)
@pytest.mark.parametrize("splits", [1, 2, 5, 16])
def test_a_token_sees_all_before_it(head_dim, group, dtype, fp8, splits):
    pages = Pages(4, head_dim, group, dtype, fp8)
    slots, lengths = some_rows(4, 24, splits)
    queries = pages.some_queries(24)
    assert error(pages.attend(queries, slots, lengths, splits), pages.true(queries, slots, lengths)) < MOST_ERROR[dtype]


@pytest.mark.parametrize("splits", [1, 4])
def test_no_length_is_special(splits):
    pages = Pages(1, 128, 4)
    lengths = list(range(1, MOST_TOKENS + 1))
    queries, slots = pages.some_queries(MOST_TOKENS), [0] * MOST_TOKENS
    assert error(pages.attend(queries, slots, lengths, splits), pages.true(queries, slots, lengths)) < 0.005


@pytest.mark.parametrize("spread", [0.01, 10.0])
def test_weights_may_be_even_or_almost_all_on_one_token(spread):
    pages = Pages(4, 128, 4)
    slots, lengths = some_rows(4, 18)
    queries = pages.some_queries(18, spread)
    assert error(pages.attend(queries, slots, lengths, 3), pages.true(queries, slots, lengths)) < 0.005


@pytest.mark.parametrize("splits", [1, 16])
def test_a_sequence_of_thousands_of_tokens_is_seen_to_its_end(splits):
    pages = Pages(1, 128, 4, tokens=9_000)
    lengths = [2_048, 2_049, 4_500, 9_000]
    queries = pages.some_queries(4)
    assert error(pages.attend(queries, [0] * 4, lengths, splits), pages.true(queries, [0] * 4, lengths)) < 0.005


@pytest.mark.parametrize("splits", [1, 4])
def test_an_answer_does_not_depend_on_the_rows_beside_it(splits):
    pages = Pages(4, 128, 4)
    slots, lengths = some_rows(4, 18)
    queries = pages.some_queries(18)
    together = pages.attend(queries, slots, lengths, splits)
    assert torch.equal(together, pages.attend(queries, slots, lengths, splits))
    for row in range(18):
        alone = pages.attend(queries[row : row + 1], slots[row : row + 1], lengths[row : row + 1], splits)
        assert torch.equal(alone[0], together[row])


def test_what_lies_behind_the_last_token_is_not_touched():
    pages = Pages(1, 128, 4)
    queries = pages.some_queries(1)
    for length in (1, 16, 37, 64, 200):
        clean = pages.attend(queries, [0], [length], 2)
        kept, count = pages.cache.clone(), pages_of(length)
        live = pages.tables[0, :count].long()
        spoilt = torch.full_like(kept, torch.nan)
        spoilt[live] = kept[live]
        spoilt[live[-1], :, :, length - (count - 1) * PAGE_TOKENS :] = torch.nan
        pages.cache.copy_(spoilt)
        assert torch.equal(pages.attend(queries, [0], [length], 2), clean)
        pages.cache.copy_(kept)


def tiled(runs, group):
    """(tiles, slots, lengths) of runs of (table, tokens before, tokens)."""
    tile_tokens = TILE_WARPS * 16 // group
    tiles, slots, lengths = [(0, 0, 0, 0)], [], []  # the first has no tokens: it pads
    for table, before, count in runs:
        for begin, end in pairwise([*range(0, count, tile_tokens), count]):
            tiles.append((len(slots) + begin, end - begin, before + begin, table))
        slots += [table] * count
        lengths += range(before + 1, before + count + 1)
    return tiles, slots, lengths


@pytest.mark.parametrize(("head_dim", "group"), SHAPES)
@pytest.mark.parametrize(("dtype", "fp8"), FORMS)
@pytest.mark.parametrize("splits", [1, 3, 16])
def test_tokens_of_a_prompt_see_all_before_them(head_dim, group, dtype, fp8, splits):
    pages = Pages(4, head_dim, group, dtype, fp8)
    tiles, slots, lengths = tiled([(0, 0, 1), (1, 0, 150), (2, 31, 70), (3, 333, 40), (2, 120, 20)], group)
    queries = pages.some_queries(len(slots))
    assert error(pages.attend_chunk(queries, tiles, splits), pages.true(queries, slots, lengths)) < MOST_ERROR[dtype]


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("splits", [1, 2, 9])
def test_the_next_tokens_of_a_long_prompt_see_all_of_it(fp8, splits):
    pages = Pages(2, 128, 4, fp8=fp8, tokens=9_000)
    # of the last, one token ends before the second span begins
    tiles, slots, lengths = tiled([(0, 2_048, 64), (1, 4_090, 3), (0, 8_900, 100), (1, 127, 2)], 4)
    queries = pages.some_queries(len(slots))
    assert error(pages.attend_chunk(queries, tiles, splits), pages.true(queries, slots, lengths)) < 0.005
