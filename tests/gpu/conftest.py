"""What the tests on a card share: small models with random weights, the scores that a runner chose from, runners and
batchers driven by hand. Imports without a card."""

import gc
import random
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from engine.errors import BackendError
from engine.inference import cuda_runner
from engine.inference.batcher import Batcher, Generation
from engine.inference.checkpoint import MakeLinear
from engine.inference.cuda_runner import CudaRunner, Launched, Size
from engine.inference.cuda_sampler import CudaSampler
from engine.inference.gptq import Int4Weight
from engine.inference.kv_cache import Pages, Table
from engine.inference.model import Attend, HunYuanDense, ModelConfig, effective_rope_base
from engine.inference.runner import Chunk
from engine.inference.sampler import GREEDY, Kind
from engine.tools import synthetic
from engine.types import FinishReason, Sampling
from tests.checkpoints import attend_before, error
from tests.conftest import soon

CARD = "cuda:0"
HY_MT = Sampling(temperature=0.7, top_p=0.6, top_k=20, repetition_penalty=1.05)
# An odd vocabulary, so that the head is padded, and matrices that every form of our kernels takes.
SMALL = ModelConfig(
    vocab_size=4_099,
    hidden_size=512,
    intermediate_size=1_536,
    layers=4,
    heads=8,
    kv_heads=2,
    head_dim=64,
    rope_base=effective_rope_base(10_000, 1_000, 64),
    rms_norm_eps=1e-5,
    max_positions=8_192,
    tied_head=True,
)
OLD_KEYS = 100.0  # what stale pages are full of


def some_ids(count: int, seed: int = 0, vocab_size: int = SMALL.vocab_size) -> list[int]:
    return random.Random(seed).choices(range(vocab_size), k=count)


def random_model(config: ModelConfig, dtype: torch.dtype, linear: MakeLinear | None = None) -> HunYuanDense:
    """The same weights for every dtype and `linear`. The head is not the embedding: with a tied one such a model only
    says its last token again."""
    model = synthetic.build(config, CARD, dtype, _balanced(linear or synthetic.widened(dtype)))
    dice = torch.Generator(CARD).manual_seed(1)
    weight = torch.randn(config.vocab_size, config.hidden_size, generator=dice, device=CARD, dtype=torch.bfloat16)
    model.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False, device="meta")
    model.head.weight = nn.Parameter(weight.mul_(config.hidden_size**-0.5).to(dtype), requires_grad=False)
    return model


def _balanced(linear: MakeLinear) -> MakeLinear:
    """Weights whose mean is zero. With 0…15 around 8 it is not: then one direction grows with every layer until a
    token's scores hang on the last bit of its first product, and no two dtypes agree."""

    def made(weight: Int4Weight) -> nn.Module:
        return linear(replace(weight, values=weight.values.masked_fill(weight.values == 0, 8)))

    return made


@pytest.fixture(scope="session")
def small() -> "Truth":
    return Truth(random_model(SMALL, torch.float32), random_model(SMALL, torch.bfloat16))


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All that torch allocates without filling it is full of NaN, or of the largest whole number."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else torch refuses products in this mode
    torch.use_deterministic_algorithms(True)
    assert torch.empty(9, device=CARD).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def cleared() -> Iterator[None]:
    """Nothing of other tests is on the card, and nothing of this one afterwards."""
    clear()
    yield
    clear()


def clear() -> None:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


# ---------------------------------------------------------------------------------------------------------- one runner


class ListeningSampler(CudaSampler):
    heard: Tensor | None = None

    def choose(self, scores: Tensor, slots: Tensor, kind: Kind) -> Tensor:
        self.heard = scores[:, : self._vocab_size].clone()  # in a graph too, where each replay fills it anew
        return super().choose(scores, slots, kind)


class ListeningRunner(CudaRunner):
    """Keeps the scores that the last step chose from, and counts the steps that were replayed from a graph."""

    scores: Tensor  # [prompts that ended, then rows; vocab_size], in the model's dtype
    replayed = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._heard: dict[Size, Tensor] = {}
        with patch.object(cuda_runner, "CudaSampler", ListeningSampler):
            super().__init__(*arguments, **options)

    def _captured(self, size: Size, pool: Any) -> Any:
        graph = super()._captured(size, pool)
        assert isinstance(self._sampler, ListeningSampler)
        assert self._sampler.heard is not None
        self._heard[size] = self._sampler.heard
        return graph

    def step(self, chunks: Sequence[Chunk], slots: Sequence[int], tables: Sequence[Table]) -> Launched:
        assert isinstance(self._sampler, ListeningSampler)
        self._sampler.heard = None
        size = self._size(chunks, len(slots))
        launched = super().step(chunks, slots, tables)
        ended = sum(chunk.last for chunk in chunks)
        heard = self._sampler.heard
        if heard is None and ended + len(slots):
            heard = self._heard[size]
            self.replayed += 1
        launched.ready.synchronize()
        if heard is not None:
            self.scores = torch.cat((heard[size.rows : size.rows + ended], heard[: len(slots)]))
        return launched


@dataclass(eq=False)
class Text:
    """A text that goes through a runner: `prompt` tokens by chunks, the others one by one, whatever is chosen."""

    ids: Sequence[int]
    prompt: int
    slot: int = -1
    table: Table | None = None
    taken: int = 0
    heard: list[Tensor] = field(default_factory=list)  # scores after the prompt, and after each token behind it

    @property
    def ended(self) -> bool:
        return self.taken == len(self.ids)

    @property
    def said(self) -> Tensor:
        return torch.stack(self.heard)


class Driven:
    """A runner with pages in random order, which are full of old content."""

    def __init__(self, runner: CudaRunner, window: int | None = None, share: bool = True) -> None:
        self.runner, self.pages = runner, Pages(runner.pages, window, share)
        self.pages._free = OrderedDict.fromkeys(random.Random(0).sample(range(runner.pages), runner.pages))
        self._slots = list(range(runner.slots))
        torch.cuda.synchronize()
        cache = runner._fused.cache
        for layer in cache:
            layer.copy_(torch.empty(layer.shape, device=CARD).uniform_(-OLD_KEYS, OLD_KEYS))
        torch.cuda.synchronize()

    @torch.inference_mode()
    def step(self, parts: Sequence[tuple[Text, int]], rows: Sequence[Text] = ()) -> None:
        """Of each of `parts` so many tokens of its prompt, at the most; of each of `rows` one token behind it."""
        runner, chunks = self.runner, []
        for text, count in parts:
            if text.table is None:
                text.table, text.slot = self.pages.open(text.ids[: text.prompt]), self._slots.pop()
                assert text.table is not None, "too few pages for this test"
                runner.begin(text.slot, GREEDY, text.ids[: text.prompt], 0)
                text.taken = text.table.length
            count = self.pages.span(text.table, min(count, text.prompt - text.taken))
            ids = text.ids[text.taken : text.taken + count]
            assert self.pages.grow(text.table, len(ids))
            self.pages.share(text.table, ids)
            text.taken += len(ids)
            chunks.append(Chunk(text.slot, ids, text.table, text.taken == text.prompt))
        tables = [text.table for text in rows if text.table]
        assert all(self.pages.grow(table, 1) for table in tables)
        if rows:
            tokens = torch.tensor([text.ids[text.taken] for text in rows], device=CARD)
            runner._sampler.tokens[torch.tensor([text.slot for text in rows], device=CARD)] = tokens
            torch.cuda.synchronize()  # the runner has a stream of its own
        chosen = runner.step(chunks, [text.slot for text in rows], tables).tokens()
        for chunk in chunks:
            self.pages.advance(chunk.table, len(chunk.ids))
        for text, table in zip(rows, tables, strict=True):
            self.pages.advance(table, 1)
            text.taken += 1
        hearers = [text for (text, _), chunk in zip(parts, chunks, strict=True) if chunk.last] + list(rows)
        assert len(chosen) == len(hearers)
        if not hearers:
            return
        scores = runner.scores.float()
        assert scores.gather(1, torch.tensor(chosen, device=CARD)[:, None]).equal(scores.amax(1, keepdim=True))
        for text, row in zip(hearers, scores, strict=True):
            text.heard.append(row)

    def through(self, text: Text, chunk: int = 10**6) -> Text:
        """Alone, in chunks, to its end."""
        while text.taken < text.prompt:
            self.step([(text, chunk)])
        while not text.ended:
            self.step([], [text])
        return text

    def travel(self, texts: Sequence[Text], seed: int = 0, most: int = 200) -> None:
        """All of them to their ends, in random steps: some prompts go on by random chunks, some rows by a token."""
        dice = random.Random(seed)
        while not all(text.ended for text in texts):
            coming = [text for text in texts if text.taken < text.prompt]
            running = [text for text in texts if text.prompt <= text.taken and not text.ended]
            parts = [(text, dice.randint(1, most)) for text in coming if dice.random() < 0.4]
            rows = [text for text in dice.sample(running, len(running)) if dice.random() < 0.8]
            if parts or rows:
                self.step(parts, rows)


@dataclass(frozen=True)
class Truth:
    """A model in plain torch, in fp32 and in 16 bits. A runner may be as far off the first as the second is."""

    wide: HunYuanDense
    narrow: HunYuanDense

    def assert_near(self, texts: Sequence[Text], times: float = 1.2, attend: Attend = attend_before) -> None:
        true, narrow = ([_behind(model, text, attend) for text in texts] for model in (self.wide, self.narrow))
        allowed = times * error(torch.cat(narrow), torch.cat(true))
        off = {text.prompt: error(text.said, scores) for text, scores in zip(texts, true, strict=True)}
        assert error(torch.cat([text.said for text in texts]), torch.cat(true)) < allowed, (allowed, off)
        assert max(off.values()) < 2 * allowed, (allowed, off)  # one alone may have few scores


@torch.inference_mode()
def _behind(model: HunYuanDense, text: Text, attend: Attend) -> Tensor:
    """Scores after the prompt, and after each token behind it: fp32 [tokens, vocab_size]."""
    places = torch.arange(len(text.ids), device=CARD)[None]
    hidden = model(torch.tensor([text.ids], device=CARD), places, attend)[0]
    return model.logits(hidden[text.prompt - 1 :]).float()


# --------------------------------------------------------------------------------------------------------- one batcher


class Answer:
    """Hears what one generation is told."""

    def __init__(self, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling = GREEDY) -> None:
        self.tokens: list[int] = []
        self.finish: FinishReason | None = None
        self.error: BackendError | None = None
        self.done = threading.Event()
        self.generation = Generation(prompt, max_new_tokens, sampling, self.tell)

    def tell(self, token: int | None, finish: FinishReason | None, error: BackendError | None) -> None:
        assert not self.done.is_set()
        if token is not None:
            self.tokens.append(token)
        if finish or error:
            self.finish, self.error = finish, error
            self.done.set()

    def wait(self, seconds: float = 60) -> "Answer":
        assert self.done.wait(seconds), f"not answered within {seconds} s"
        return self

    @property
    def text(self) -> list[int]:
        self.wait()
        assert self.error is None, (self.error, self.error and self.error.__cause__)
        return self.tokens


def ask(batcher: Batcher, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling = GREEDY) -> Answer:
    answer = Answer(prompt, max_new_tokens, sampling)
    batcher.submit(answer.generation)
    return answer


def at_rest(batcher: Batcher) -> None:
    """Nobody runs or waits, and every page and slot is free again."""
    soon(lambda: not batcher.running and not batcher._waiting and not batcher.counts.pages_used, seconds=30)
    assert batcher.counts.pages_free == batcher._pages.count
    assert sorted(batcher._free_slots) == list(range(batcher.slots))


def floor_bytes() -> int:
    """What lives on the card of this process, with the last step done."""
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()
