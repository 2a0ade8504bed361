"""The runner of a card: one pass a step, for the newest token of each running sequence and runs of prompts beside them.

Steps of fixed sizes are replayed from CUDA graphs, padded with rows of scrap; others are launched kernel by kernel. The
host sends one small array a step and reads one back, a step later. Knows no requests.
"""

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.footprint import LoadPlan
from engine.inference.cuda_sampler import CudaSampler
from engine.inference.fused import Fused, Step
from engine.inference.kv_cache import PAGE_TOKENS, Table, pages_of
from engine.inference.model import HunYuanDense
from engine.inference.runner import BESIDE_CHUNKS, Chunk
from engine.inference.sampler import Kind
from engine.inventory import GB
from engine.progress import Advance, untold
from engine.types import Sampling

GRAPH_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
CAPTURED: Kind = "top_k"  # serves greedy rows too; "any" sorts all scores, which few ask for
PREFILL_TOKENS = 2_048
PROMPT_STEPS = (32, 64, 128, 192, 256)  # tokens of prompts in captured steps where nobody runs
# Rows and tokens together in captured steps of both: what one pass of the kernels for many rows takes, so that the
# tokens of prompts cost little there (64 rows alone 5.3 ms, with 64 tokens 5.4 ms; 7B, H200, 2026-11-21) …
FULL_STEPS = (64, 128, 256)
LEAST_TOKENS = 16
MORE_TOKENS = (256, 512, 1_024)  # … and tokens in a step launched kernel by kernel, …
BESIDE_SHARE = 2.8  # … if it takes less than this many times a step without: a token comes within 3 × idle
LONG_PROMPT = 2_048  # tokens that are in already when the budget of a long prompt is timed, …
LONG_FROM = 512  # … which holds from so many on
BLOCKS_WANTED = 512  # of the attention kernels: four for each processor of a large card
MOST_SPLITS = 16
DETERMINISTIC_SPLITS = 4
KERNELS_SHARE = 0.5  # of the time to get warm that the choice of kernels takes; the rest captures graphs (7B, H200)

log = logging.getLogger(__name__)
Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Launched:
    """Tokens on their way to the host."""

    on_host: Tensor  # int64, pinned
    ready: torch.cuda.Event

    def tokens(self) -> list[int]:
        self.ready.synchronize()
        chosen: list[int] = self.on_host.tolist()
        return chosen


@dataclass(frozen=True, slots=True)
class Size:
    """What a step has room for."""

    rows: int  # sequences that get a token
    tokens: int = 0  # of prompts
    chunks: int = 0
    ends: int = 0  # prompts that end and get their first token
    tiles: int = 0
    pages: int = 0  # a prompt has at the most: the width of its block table

    @property
    def ints(self) -> int:
        return sum(self.parts)

    @property
    def parts(self) -> list[int]:
        """Plan of rows; ids, positions and places of tokens; where prompts end, and their slots; tiles; tables."""
        return [5 * self.rows, *3 * [self.tokens], *2 * [self.ends], 4 * self.tiles, self.chunks * self.pages]


@dataclass(frozen=True, slots=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    sent: Tensor  # int32 [size.ints], read by the graph
    tokens: Tensor  # int64 [rows + ends], written by it


class CudaRunner:
    ahead = True

    def __init__(
        self,
        model: HunYuanDense,
        slots: int,
        pages: int,
        sequence_tokens: int,
        *,
        fp8: bool = False,
        deterministic: bool = False,
        graphs: Sequence[int] = GRAPH_ROWS,
        prefill_tokens: int = PREFILL_TOKENS,
        told: Advance = untold,
    ) -> None:
        """`sequence_tokens`: the longest prompt and answer together. `graphs`: the numbers of rows to capture, up to
        `slots`; none: every step is launched kernel by kernel. `told` learns how far it is."""
        began = time.perf_counter()
        self.slots, self.pages, self.prefill_tokens = slots, pages, prefill_tokens
        self.device = str(model.norm.weight.device)
        self._deterministic, self._ranks = deterministic, model.ranks
        self._sequence_tokens = min(sequence_tokens, model.config.max_positions)
        self._table_pages = pages_of(sequence_tokens) + 1
        with torch.cuda.device(self.device):
            before = torch.cuda.memory_allocated()
            self._stream = _stream_of(self.device)
            self._fused = Fused(model, pages, fp8, deterministic)
            self._sampler = CudaSampler(
                2 * slots + BESIDE_CHUNKS, model.config.vocab_size, self.device, self._fused.dtype
            )
            self._tables = torch.full((slots + 1, self._table_pages), pages, dtype=torch.int32, device=self.device)
            self._lengths = [-1] * (slots + 1)  # of each slot's table, as the card has it after the last step
            self._ladder = sorted({*(rows for rows in graphs if rows < slots), slots})
            self._graphs: dict[Size, _Graph] = {}
            self._beside = dict.fromkeys(self._ladder, LEAST_TOKENS)
            self._beside_long = dict(self._beside)  # tokens that have a long prompt before them
            self._prompt_times: dict[tuple[int, int], float] = {}
            self._stream.wait_stream(torch.cuda.current_stream())  # on which all that was made
            torch.cuda.empty_cache()  # as a capture does, first of all
            unused, _ = torch.cuda.mem_get_info()
            told(KERNELS_SHARE)
            if graphs:
                self._capture(lambda share: told(KERNELS_SHARE + (1 - KERNELS_SHARE) * share))
            self._memory = {
                "weights": sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()]),
                "kv_total": self._fused.cache.nbytes // (pages + 1) * pages,
                "graphs": unused - torch.cuda.mem_get_info()[0],
                "workspace": torch.cuda.memory_allocated() - before - self._fused.cache.nbytes,
            }
        self.warm_seconds = time.perf_counter() - began
        log.info("warm after %.1f s; linear layers by %s", self.warm_seconds, self.kernel)

    @classmethod
    def planned(cls, model: HunYuanDense, plan: LoadPlan, deterministic: bool, told: Advance) -> Self:
        """As `hardware.plan` has it for its card."""
        return cls(
            model,
            plan.slots,
            plan.pages,
            plan.sequence_tokens,
            fp8=plan.kv_dtype == "fp8",
            deterministic=deterministic,
            graphs=plan.graphs,
            prefill_tokens=plan.prefill_tokens,
            told=told,
        )

    @property
    def kernel(self) -> str:
        """Which kernels serve the linear layers, for people."""
        return ", ".join(sorted(self._fused.int4.names)) or "cuBLAS"

    def memory(self) -> dict[str, int]:
        return dict(self._memory)

    def beside(self, rows: int, before: int) -> int:
        return (self._beside if before < LONG_FROM else self._beside_long)[self._rung(rows)]

    def begin(self, slot: int, sampling: Sampling, ids: Sequence[int], made: int) -> None:
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            self._sampler.begin(slot, sampling, ids, made)
        self._lengths[slot] = -1

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk], slots: Sequence[int], tables: Sequence[Table]) -> Launched:
        ending = [chunk.slot for chunk in chunks if chunk.last]
        kind = self._sampler.kind([*ending, *slots])
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            size = self._size(chunks, len(slots))
            sent = torch.from_numpy(self._packed(size, chunks, slots, tables)).pin_memory()
            captured = self._graphs.get(size) if kind != "any" else None
            if captured is not None:
                captured.sent.copy_(sent, non_blocking=True)
                captured.graph.replay()
                tokens = captured.tokens
            else:
                tokens = self._compute(size, sent.to(self.device, non_blocking=True), kind)
            for slot, table in zip(slots, tables, strict=True):
                self._lengths[slot] = table.length + 1
            return self._returned(tokens, size.rows, len(slots), len(ending))

    # ------------------------------------------------------------------------------------------------------- a step

    def _compute(self, size: Size, sent: Tensor, kind: Kind) -> Tensor:
        """`sent`: int32 [size.ints] → tokens, int64 [rows + ends]."""
        fused, count = self._fused, size.rows + size.tokens
        plan, ids, positions, places, ends, end_slots, tiles, tables = torch.split(sent, size.parts)
        x = torch.empty(count, fused.config.hidden_size, dtype=fused.dtype, device=self.device)
        step_positions = torch.empty(count, dtype=torch.int32, device=self.device)
        step_places = torch.empty(count, dtype=torch.int64, device=self.device)
        wanted = None
        if size.tokens:
            wanted = torch.cat((torch.arange(size.rows, dtype=torch.int32, device=self.device), ends))
        step = Step(step_positions, step_places, attend := [], wanted)
        slots = end_slots
        if size.rows:
            row_slots, lengths = fused.begin_decode(plan.view(5, -1), self._sampler.tokens, self._tables, x, step)
            splits = DETERMINISTIC_SPLITS if self._deterministic else self._splits(size.rows)
            attend.append(fused.paged(row_slots, lengths, self._tables, splits))
            slots = torch.cat((row_slots, end_slots))
        if size.tokens:
            x[size.rows :] = fused.embedding.index_select(0, ids)
            step_positions[size.rows :] = positions
            step_places[size.rows :] = places
            attend.append(self._prompts(size, tiles.view(-1, 4), tables.view(size.chunks, -1)))
        normed = fused.forward(x, step)
        if not len(slots):
            return torch.empty(0, dtype=torch.int64, device=self.device)
        return self._sampler.choose(fused.scores(normed), slots, kind)

    def _prompts(self, size: Size, tiles: Tensor, tables: Tensor) -> Callable[[int, Tensor, Tensor], None]:
        if not self._deterministic:
            return self._fused.chunked(tiles, tables, self._splits(len(tiles)))
        # Every token a row of the other kernel: then what it sees does not depend on how its prompt was cut.
        _, _, before, chunk = tiles.unbind(1)
        paged = self._fused.paged(chunk.contiguous(), (before + 1).contiguous(), tables, DETERMINISTIC_SPLITS)
        return lambda layer, queries, out: paged(layer, queries[size.rows :], out[size.rows :])

    def _splits(self, blocks: int) -> int:
        """Into how many spans the tokens looked back at are cut, where uncut there were so many blocks a key head."""
        return max(1, min(MOST_SPLITS, BLOCKS_WANTED // (blocks * self._fused.config.kv_heads)))

    def _size(self, chunks: Sequence[Chunk], rows: int) -> Size:
        """The captured size that this step fits in, or its own."""
        rung = self._rung(rows) if rows else 0
        if not chunks:
            return Size(rung)
        tokens = sum(len(chunk.ids) for chunk in chunks)
        if len(chunks) <= BESIDE_CHUNKS:
            for room in PROMPT_STEPS if rung == 0 else (full - rung for full in FULL_STEPS):
                if tokens <= room and (captured := self._captured_size(rung, room)) in self._graphs:
                    return captured
        width = max(pages_of(chunk.table.length + len(chunk.ids)) for chunk in chunks)
        tiles = sum(-(-len(chunk.ids) // self._tile_tokens) for chunk in chunks)
        return Size(rung, tokens, len(chunks), sum(chunk.last for chunk in chunks), tiles, width)

    def _captured_size(self, rows: int, tokens: int) -> Size:
        tiles = min(tokens, -(-tokens // self._tile_tokens) + BESIDE_CHUNKS - 1)
        return Size(rows, tokens, BESIDE_CHUNKS, BESIDE_CHUNKS, tiles, self._table_pages)

    @property
    def _tile_tokens(self) -> int:
        return 1 if self._deterministic else self._fused.tile_tokens

    def _rung(self, rows: int) -> int:
        return self._ladder[bisect_left(self._ladder, rows)]

    # -------------------------------------------------------------------------------------------------- host and card

    def _packed(self, size: Size, chunks: Sequence[Chunk], slots: Sequence[int], tables: Sequence[Table]) -> Ints:
        """All that the card has to know of a step. What pads it is of the scrap slot and goes to the scrap page."""
        packed = np.zeros(size.ints, dtype=np.int32)
        plan, ids, positions, places, ends, end_slots, tiles, chunk_tables = np.split(
            packed, list(accumulate(size.parts))[:-1]
        )
        plan = plan.reshape(5, size.rows)
        plan[0], plan[3], plan[4] = self.slots, -1, self.pages
        for row, (slot, table) in enumerate(zip(slots, tables, strict=True)):
            place = table.length // PAGE_TOKENS
            if self._lengths[slot] != table.length:
                self._send_table(slot, table)
            plan[:, row] = slot, table.length, table.position, place, table.pages[place]
        places[:], end_slots[:] = self.pages * PAGE_TOKENS, self.slots
        if chunks:
            self._pack_chunks(size, chunks, ids, positions, places, ends, end_slots, tiles.reshape(-1, 4), chunk_tables)
        return packed

    def _pack_chunks(
        self,
        size: Size,
        chunks: Sequence[Chunk],
        ids: Ints,
        positions: Ints,
        places: Ints,
        ends: Ints,
        end_slots: Ints,
        tiles: Ints,
        tables: Ints,
    ) -> None:
        tables = tables.reshape(size.chunks, size.pages)
        at = tile = ended = 0
        for index, chunk in enumerate(chunks):
            count, before = len(chunk.ids), chunk.table.length
            pages = np.asarray(chunk.table.pages[: pages_of(before + count)], dtype=np.int32)
            tables[index, : len(pages)] = pages
            run = slice(at, at + count)
            ids[run] = chunk.ids
            positions[run] = np.arange(chunk.table.position, chunk.table.position + count)
            tokens = np.arange(before, before + count)
            places[run] = pages[tokens // PAGE_TOKENS] * PAGE_TOKENS + tokens % PAGE_TOKENS
            firsts = np.arange(0, count, self._tile_tokens)
            own = tiles[tile : tile + len(firsts)]
            own[:, 0], own[:, 1] = size.rows + at + firsts, np.minimum(self._tile_tokens, count - firsts)
            own[:, 2], own[:, 3] = before + firsts, index
            at, tile = at + count, tile + len(firsts)
            if chunk.last:
                ends[ended], end_slots[ended] = size.rows + at - 1, chunk.slot
                ended += 1

    def _send_table(self, slot: int, table: Table) -> None:
        pages = torch.tensor(table.pages, dtype=torch.int32).pin_memory()
        self._tables[slot, : len(pages)].copy_(pages, non_blocking=True)

    def _returned(self, tokens: Tensor, rows: int, used: int, ended: int) -> Launched:
        """Those of prompts that ended, then those of running sequences, without what pads them."""
        on_host = torch.empty(ended + used, dtype=torch.int64, pin_memory=True)
        if ended:
            on_host[:ended].copy_(tokens[rows : rows + ended], non_blocking=True)
        if used:
            on_host[ended:].copy_(tokens[:used], non_blocking=True)
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record(self._stream)
        return Launched(on_host, ready)

    # ------------------------------------------------------------------------------------------------------- warm up

    @torch.inference_mode()
    def _capture(self, told: Advance) -> None:
        """The largest batch first: the smaller ones find room in its memory. Prompts beside running sequences as far as
        nobody waits too long for it, and the smallest such step in any case."""
        pool = torch.cuda.graph_pool_handle()
        with torch.cuda.stream(self._stream):
            for tokens in reversed(PROMPT_STEPS):
                size = self._captured_size(0, tokens)
                self._graphs[size] = self._captured(size, pool)
            for captured, rows in enumerate(reversed(self._ladder), 1):
                self._graphs[Size(rows)] = self._captured(Size(rows), pool)
                self._capture_beside(rows, pool)
                told(captured / len(self._ladder))
            self._stream.synchronize()

    def _capture_beside(self, rows: int, pool: Any) -> None:
        idle = self._milliseconds(self._graphs[Size(rows)].graph.replay)
        sizes = [self._captured_size(rows, full - rows) for full in FULL_STEPS if full - rows >= LEAST_TOKENS]
        for size in sizes:
            captured = self._captured(size, pool)
            fits = []
            for before in (0, self._long_before(size.tokens)):
                self._fill(captured.sent, size, before)
                fits.append(self._milliseconds(captured.graph.replay) < BESIDE_SHARE * idle)
            if size != sizes[0] and not fits[0]:
                break
            self._graphs[size] = captured
            self._beside[rows] = size.tokens
            if size == sizes[0] or fits[1]:
                self._beside_long[rows] = size.tokens
        for tokens in MORE_TOKENS:
            if tokens > min(self.prefill_tokens, self._sequence_tokens):
                break
            for beside, before in ((self._beside, 0), (self._beside_long, self._long_before(tokens))):
                if idle + self._prompt_milliseconds(tokens, before) < BESIDE_SHARE * idle:
                    beside[rows] = tokens

    def _fill(self, sent: Tensor, size: Size, before: int) -> None:
        """Makes of an empty step one whose tokens are of one prompt, after so many others, in scrap pages."""
        *_, tiles, tables = torch.split(sent, size.parts)
        tables.fill_(self.pages)
        firsts = torch.arange(0, size.tokens, self._tile_tokens, dtype=torch.int32, device=self.device)
        own = tiles.view(-1, 4)[: len(firsts)]
        own[:, 0], own[:, 1] = size.rows + firsts, torch.clamp(size.tokens - firsts, max=self._tile_tokens)
        own[:, 2], own[:, 3] = before + firsts, 0

    def _long_before(self, tokens: int) -> int:
        """How many stand before the last `tokens` of a long prompt."""
        return max(0, min(LONG_PROMPT, self._sequence_tokens - tokens))

    def _prompt_milliseconds(self, tokens: int, before: int) -> float:
        """Of a step of one prompt's tokens alone, after so many others, launched kernel by kernel."""
        if (tokens, before) not in self._prompt_times:
            scrap = Table([self.pages] * pages_of(before + tokens), before, before)
            chunk = Chunk(self.slots, [0] * tokens, scrap, last=False)
            self._prompt_times[tokens, before] = self._milliseconds(lambda: self._computed_alone(chunk))
        return self._prompt_times[tokens, before]

    def _computed_alone(self, chunk: Chunk) -> None:
        size = self._size([chunk], 0)
        self._compute(size, torch.from_numpy(self._packed(size, [chunk], (), ())).to(self.device), CAPTURED)

    def _captured(self, size: Size, pool: Any) -> _Graph:
        sent = torch.from_numpy(self._packed(size, (), (), ())).to(self.device)
        self._compute(size, sent, CAPTURED)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
            tokens = self._compute(size, sent, CAPTURED)
        return _Graph(graph, sent, tokens)

    def _milliseconds(self, work: Callable[[], None]) -> float:
        work()
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record(self._stream)
        for _ in range(3):
            work()
        ended.record(self._stream)
        ended.synchronize()
        milliseconds: float = began.elapsed_time(ended) / 3
        return milliseconds if self._ranks is None else self._ranks.most(milliseconds)  # by which all decide alike


def keep_below(max_vram_gb: float, plan: LoadPlan, cards: Iterable[str]) -> None:
    """A bound that the allocator keeps on each: what is beyond it fails as if the card were full."""
    own = max_vram_gb * GB - plan.bytes.context - plan.bytes.graphs
    for card in cards:
        total = torch.cuda.get_device_properties(card).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, own / total), card)


@cache
def _stream_of(device: str) -> torch.cuda.Stream:
    """One for all runners of a card, since cuBLAS keeps a workspace for each stream that it has seen. So none may be
    made while another works: its steps would be captured."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
