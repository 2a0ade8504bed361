"""One step of the model for a batch: chunks of prompts, or a token of each running sequence. What every runner is, and
the reference one: plain torch on any device, in any dtype. Knows no requests, and not why a page belongs to whom.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.inference.kv_cache import PAGE_TOKENS, Table, pages_of
from engine.inference.model import Attend, HunYuanDense
from engine.inference.sampler import Sampler
from engine.types import Sampling

CPU_PREFILL_TOKENS = 1_024
# As the embedded model in INT8 had it on one core, before OpenVINO ran it: a token of 1, 4, 8, 16 rows took 11.5, 16,
# 25, 44 ms; a chunk of 8, 16, 48, 96 tokens 19, 30, 46, 72 ms. With 6 tokens a row a step took less than three times
# as long.
CPU_BESIDE_A_ROW = 6
CPU_BESIDE_TOKENS = 8
BESIDE_CHUNKS = 4  # prompts in a step while rows run: what a step of fixed size, captured in a graph, has room for
CUDA_PREFILL_TOKENS = 4_096  # without kernels of our own a step of either size takes a small model as long:
CUDA_BESIDE_TOKENS = 1_024  # launching is what costs
# Not cuDNN's attention, which torch prefers on Hopper: it is planned anew for every length, and a step has a new one
# each time.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of one prompt's tokens, computed in one step."""

    slot: int  # the sequence's place in the runner's state
    ids: Sequence[int]
    table: Table  # where the chunk begins; it has pages for all of `ids`
    last: bool  # a token is chosen after it


class Pending(Protocol):
    """The tokens of a step that has been launched."""

    def tokens(self) -> list[int]:
        """Waits for them: one for each chunk that was the last of its prompt, then one for each slot, in order."""
        ...


class Runner(Protocol):
    """Steps are done in the order they are launched in, so that a page or a slot may be given to another as soon as
    its last user is launched. Raises `torch.OutOfMemoryError` where the device has no room for a step."""

    @property
    def slots(self) -> int:
        """Sequences whose sampling it holds; a slot is a number below."""
        ...

    @property
    def pages(self) -> int: ...

    @property
    def ahead(self) -> bool:
        """Whether a launch returns before the step is done: then the next is launched before this one is read."""
        ...

    @property
    def device(self) -> str: ...

    @property
    def kernel(self) -> str:
        """What multiplies by the weights, for people."""
        ...

    @property
    def prefill_tokens(self) -> int:
        """The most tokens of prompts in a step while nobody decodes."""
        ...

    def beside(self, rows: int, before: int) -> int:
        """The same while so many decode, of a prompt of which so many tokens are in already: as many as let them wait
        about three times as long for a token as they do alone."""
        ...

    def begin(self, slot: int, sampling: Sampling, ids: Sequence[int], made: int) -> None:
        """Makes a slot ready for a sequence. `sampling` is resolved; the last `made` of `ids` were chosen before."""
        ...

    def step(self, chunks: Sequence[Chunk], slots: Sequence[int], tables: Sequence[Table]) -> Pending:
        """Takes in the chunks, and of each of `slots` its newest token, at the place `length` of its table. Chooses a
        token after each chunk that is the last of its prompt and one for each of `slots`, which stay here too. Tables
        are read before it returns. A chunk may stand on pages that another of the same step fills. What is in a page
        behind a sequence's last token is another's old content, which may be no number: no weight makes that harmless.
        """
        ...

    def memory(self) -> dict[str, int]:
        """Bytes by use: `weights`, `kv_total`, and what else it holds; of each of several devices too, such as
        `cuda:1/weights`. Called from any thread."""
        ...


class Attention:
    """The pages' content in so many layers of one device, and attention over it for one step: writes the step's keys
    and values, then looks back.

    Storage is [layers, 2, kv_heads, pages + 1, PAGE_TOKENS, head_dim], keys before values. With the heads outside, the
    gathered pages of a row lie as one text (8 rows of 600 tokens, bf16, two cores: 733 µs a layer, against 1,855 µs
    with the heads innermost). The last page stays zero; it fills up rows that are shorter than others. A page is made
    zero before its first token is written: what is looked past has the weight 0, and 0 times NaN, which an overflow of
    its last holder may have left there, is NaN.
    """

    def __init__(self, model: HunYuanDense, pages: int, layers: int, device: str) -> None:
        config = model.config
        self.scrap = pages
        shape = (layers, 2, config.kv_heads, pages + 1, PAGE_TOKENS, config.head_dim)
        self.data = torch.zeros(shape, dtype=model.norm.weight.dtype, device=device)
        self._tokens = self.data.flatten(3, 4)  # the same memory: [layers, 2, kv_heads, tokens, head_dim]

    @property
    def page_bytes(self) -> int:
        return self.data.nbytes // (self.scrap + 1)

    def write(self, layer: int, places: Tensor, key: Tensor, value: Tensor) -> None:
        """`places`: [tokens], in the pages as one text; key and value: [tokens, kv_heads, head_dim]."""
        keys, values = self._tokens[layer]
        keys.index_copy_(1, places, key.transpose(0, 1))
        values.index_copy_(1, places, value.transpose(0, 1))

    def gather(self, layer: int, pages: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """`pages`: [rows × pages a row] → keys and values, each [rows, kv_heads, tokens, head_dim]."""
        found = self.data[layer].index_select(2, pages)
        keys, values = found.view(*found.shape[:2], rows, -1, found.shape[-1]).transpose(1, 2)
        return keys, values

    def clear(self, pages: Sequence[int]) -> None:
        if pages:
            self.data.index_fill_(3, self.tensor(pages), 0)

    def tensor(self, values: Sequence[object]) -> Tensor:
        return torch.tensor(values, device=self.data.device)


def _place(table: Table, index: int) -> int:
    """Of a sequence's token, in the pages as one text."""
    return table.pages[index // PAGE_TOKENS] * PAGE_TOKENS + index % PAGE_TOKENS


class Prefill:
    """Attention for a step of chunks, laid one after another in a single row."""

    def __init__(self, attention: Attention, chunks: Sequence[Chunk]) -> None:
        self._attention = attention
        self._counts = [len(chunk.ids) for chunk in chunks]
        places: list[int] = []
        begun: list[int] = []  # pages that get their first tokens but are not filled
        self._pages: list[Tensor | None] = []  # None: nothing stands before this chunk
        self._masks: list[Tensor | None] = []
        for chunk in chunks:
            before, end = chunk.table.length, chunk.table.length + len(chunk.ids)
            places += (_place(chunk.table, index) for index in range(before, end))
            if end % PAGE_TOKENS and end - before >= end % PAGE_TOKENS:
                begun.append(chunk.table.pages[end // PAGE_TOKENS])
            self._pages.append(attention.tensor(chunk.table.pages[: pages_of(end)]) if before else None)
            ones = torch.ones(len(chunk.ids), end, dtype=torch.bool, device=attention.data.device)
            self._masks.append(ones.tril(before) if before else None)
        attention.clear(begun)
        self._places = attention.tensor(places)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self._attention.write(layer, self._places, key[0], value[0])
        parts = (torch.split(part, self._counts, 1) for part in (query, key, value))
        return torch.cat([self._seen(layer, *each) for each in zip(self._pages, self._masks, *parts, strict=True)], 1)

    def _seen(
        self, layer: int, pages: Tensor | None, mask: Tensor | None, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        if pages is not None and mask is not None:
            key, value = (part[:, :, : mask.shape[1]] for part in self._attention.gather(layer, pages, 1))
            if key.is_cuda:  # where no kernel has both a mask and shared key heads, so that all scores would be stored
                key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
        seen = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        return seen.transpose(1, 2)


class Decode:
    """Attention for one new token of each row."""

    def __init__(self, attention: Attention, tables: Sequence[Table]) -> None:
        self._attention, self._rows = attention, len(tables)
        lengths = [table.length + 1 for table in tables]
        self._width = max(lengths)
        each = pages_of(self._width)
        attention.clear(
            [table.pages[table.length // PAGE_TOKENS] for table in tables if not table.length % PAGE_TOKENS]
        )
        held = [table.pages[: pages_of(length)] for table, length in zip(tables, lengths, strict=True)]
        pages = [own + [attention.scrap] * (each - len(own)) for own in held]
        self._pages = attention.tensor(pages).flatten()
        self._places = attention.tensor([_place(table, table.length) for table in tables])
        self._mask: Tensor | None = None
        if min(lengths) != self._width:
            columns = torch.arange(self._width, device=attention.data.device)
            self._mask = (columns < attention.tensor(lengths)[:, None])[:, None, None, :]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self._attention.write(layer, self._places, key[:, 0], value[:, 0])
        keys, values = (part[:, :, : self._width] for part in self._attention.gather(layer, self._pages, self._rows))
        # heads that share a key head go in as its queries: in bf16 on the CPU 4 to 6 times as fast as `enable_gqa`
        grouped = query.view(self._rows, keys.shape[1], -1, query.shape[-1])
        return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=self._mask).reshape(query.shape)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a step of the reference runner chose."""

    on_device: Tensor  # int64 [rows]

    def tokens(self) -> list[int]:
        tokens: list[int] = self.on_device.tolist()
        return tokens


class TorchRunner:
    """The reference. `scores_after` and `scores_of_next` are its steps without the choice of a token."""

    ahead = False
    kernel = "torch"

    def __init__(
        self,
        model: HunYuanDense,
        slots: int,
        pages: int,
        computing: Sequence[str] = (),
        prefill_tokens: int | None = None,
    ) -> None:
        """`computing`: the device of each layer, where not all are on the model's own."""
        self.slots, self.pages = slots, pages
        self.device = str(model.norm.weight.device)
        self._model = model
        computing = computing or [self.device] * model.config.layers
        devices = list(dict.fromkeys([self.device, *computing]))
        self._attentions = [Attention(model, pages, computing.count(device), device) for device in devices]
        self._attention = self._attentions[0]
        seen = Counter[str]()
        self._places: list[tuple[int, int]] = []  # of each layer: which of these, and which layer there
        for device in computing:
            self._places.append((devices.index(device), seen[device]))
            seen[device] += 1
        self._sampler = Sampler(slots, model.config.vocab_size, self.device)
        self._prefill_tokens = prefill_tokens or (CPU_PREFILL_TOKENS if self.device == "cpu" else CUDA_PREFILL_TOKENS)
        weights, kv = Counter[str](), {}
        for tensor in [*model.parameters(), *model.buffers()]:
            weights[str(tensor.device)] += tensor.nbytes
        self._fetched = weights.pop("meta", 0)  # bytes of layers that come to the device at every step
        for device, attention in zip(devices, self._attentions, strict=True):
            kv[device] = attention.page_bytes * pages
        self._memory = {"weights": weights.total(), "kv_total": sum(kv.values())}
        if self._fetched:
            self._memory["offloaded"] = self._fetched
        if len(devices) > 1:
            self._memory |= {f"{device}/weights": weights[device] for device in devices}
            self._memory |= {f"{device}/kv_total": kv[device] for device in devices}

    @property
    def prefill_tokens(self) -> int:
        return self._prefill_tokens

    def beside(self, rows: int, before: int) -> int:
        if self.device == "cpu":
            return max(CPU_BESIDE_TOKENS, CPU_BESIDE_A_ROW * rows)
        return min(CUDA_BESIDE_TOKENS, self._prefill_tokens)

    def memory(self) -> dict[str, int]:
        return dict(self._memory)

    def begin(self, slot: int, sampling: Sampling, ids: Sequence[int], made: int) -> None:
        self._sampler.begin(slot, sampling, ids, made)

    def step(self, chunks: Sequence[Chunk], slots: Sequence[int], tables: Sequence[Table]) -> Chosen:
        if self._fetched and chunks and slots:  # the newest tokens as prompts of one: the layers are fetched once
            rows = zip(slots, self._sampler.tokens[self._attention.tensor(slots)].tolist(), tables, strict=True)
            chunks, slots = [*chunks, *(Chunk(slot, [token], table, True) for slot, token, table in rows)], ()
        chosen = [torch.empty(0, dtype=torch.int64, device=self.device)]
        if chunks:
            chosen.append(self._choose(self.scores_after(chunks), [chunk.slot for chunk in chunks if chunk.last]))
        if slots:
            newest = self._sampler.tokens[self._attention.tensor(slots)]
            chosen.append(self._choose(self.scores_of_next(newest, tables), slots))
        return Chosen(torch.cat(chosen))

    @sdpa_kernel(ATTENTION)
    @torch.inference_mode()
    def scores_after(self, chunks: Sequence[Chunk]) -> Tensor:
        """Takes in chunks; the scores after each that is the last of its prompt: [those, vocab_size]."""
        tensor = self._attention.tensor
        ids = [token for chunk in chunks for token in chunk.ids]
        positions = [chunk.table.position + place for chunk in chunks for place in range(len(chunk.ids))]
        hidden = self._model(tensor([ids]), tensor([positions]), self._attend(partial(Prefill, chunks=chunks)))
        ends = accumulate(len(chunk.ids) for chunk in chunks)
        after = [end - 1 for end, chunk in zip(ends, chunks, strict=True) if chunk.last]
        return self._model.logits(hidden[0, tensor(after)]) if after else hidden[0, :0]

    @sdpa_kernel(ATTENTION)
    @torch.inference_mode()
    def scores_of_next(self, tokens: Tensor, tables: Sequence[Table]) -> Tensor:
        """Takes in one token of each table's sequence, int64 [rows]; the scores of the next: [rows, vocab_size]."""
        positions = self._attention.tensor([[table.position] for table in tables])
        return self._model.logits(
            self._model(tokens[:, None], positions, self._attend(partial(Decode, tables=tables)))[:, 0]
        )

    def _attend(self, of: Callable[[Attention], Attend]) -> Attend:
        """For one step: what it looks up is sent to each device once."""
        if len(self._attentions) == 1:
            return of(self._attention)
        attends = [of(attention) for attention in self._attentions]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            device, place = self._places[layer]
            return attends[device](place, query, key, value)

        return attend

    def _choose(self, scores: Tensor, slots: Sequence[int]) -> Tensor:
        rows = torch.tensor(slots, dtype=torch.int64, device=self.device)
        return self._sampler.choose(scores, rows, self._sampler.kind(slots)) if slots else rows
