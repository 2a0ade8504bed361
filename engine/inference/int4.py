"""INT4 weights times 16-bit activations on a card: packing, the choice of a kernel, the product. Knows no model.

Which compiled form of a kernel is fastest depends on the card, the matrix and the number of rows: each is timed once,
when the model is loaded, and the best is kept. Up to some hundred rows the weights are unpacked inside the
product; above, they are widened a slab at a time and multiplied by the library. See `cuda/int4.cu` for the layout.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor, nn

from engine.errors import UnsupportedModel
from engine.inference import kernels
from engine.inference.gptq import Int4Weight

# Numbers of rows that are timed; the next larger one decides, and above the last weights are widened.
ROW_STEPS = (1, 8, 16, 32, 48, 64, 96, 128, 160, 192, 256, 384, 512, 768, 1024)
WIDENED_ROWS = 96  # from here on widening may be faster
SLAB_BYTES = 128 << 20  # of widened weights at once; smaller slabs take longer (512 rows: 241 µs whole, 338 in 16 MB)
SPLITS = (1, 2, 4, 8)  # of the inputs over blocks, each leaving its own partial sums
SUM_BYTES_A_MICROSECOND = 3e6  # what reading partial sums costs whoever comes next: about 3 TB/s, from the L2
DETERMINISTIC_SPLITS = 4
MOST_SPLIT_ROWS = 1_024  # rows times splits: partial sums of more take longer than they save
MOST_TILE_ROWS = 256
TIMED_LAUNCHES = 12
TIMED_ROUNDS = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Traits:
    """What of a matrix its kernels are compiled for."""

    outs: int
    ins: int
    blocks: int  # of 64 inputs in a group; 0: one group for all; −1: two groups a block
    gated: bool
    zeros: bool  # whether zero points are stored: they are not all 8


@dataclass(frozen=True, slots=True)
class Form:
    """One compiled form of `int4_stream` (few rows), `int4_tile` (many) or `int4_wide` (many, on Hopper)."""

    kind: Literal["stream", "tile", "wide"]
    outs: int  # outputs that a block makes
    rows: int  # rows of activations that a block takes
    threads: int
    shared_bytes: int
    template: tuple[int, ...]  # the template's arguments before those of `Traits`

    def name(self, traits: Traits) -> str:
        named = ("h" if traits.blocks < 0 else traits.blocks, int(traits.gated), int(traits.zeros))
        return "_".join(map(str, (self.kind, *self.template, *named)))

    def instance(self, traits: Traits) -> str:
        flags = (str(flag).lower() for flag in (traits.gated, traits.zeros))
        arguments = ", ".join(map(str, (self.name(traits), *self.template, traits.blocks, *flags)))
        return f"{self.kind.upper()}_KERNEL({arguments})"

    @property
    def file(self) -> str:
        return "int4_wide.cu" if self.kind == "wide" else "int4.cu"


def _stream(m: int, n: int, warps: int, depth: int, at_once: int = 1) -> Form:
    return Form("stream", 16 * m, 8 * n, 32 * warps, warps * n * 8 * (16 * m + 4) * 4, (m, n, warps, depth, at_once))


def _tile(m: int, n: int, across: int, rows: int, inputs: int, stages: int, ring: int, at_once: int) -> Form:
    outs, taken = 16 * m * across, 8 * n * rows
    shared_bytes = max(stages * taken * 64 * inputs * 2, taken * (outs + 4) * 4)
    threads = 32 * across * rows * inputs
    return Form("tile", outs, taken, threads, shared_bytes, (m, n, across, rows, inputs, stages, ring, at_once))


def _wide(n: int, m: int, stages: int) -> Form:
    return Form("wide", 128 * m, n, 384, stages * n * 128 + 1024, (n, m, stages))


# Those that were the fastest for some matrix and number of rows of a 7B, of 98 tried (one H200, 2026-11-21)
FORMS = (
    _stream(4, 1, 4, 2),
    _stream(4, 1, 8, 2),
    _stream(2, 1, 8, 4),
    _stream(2, 1, 8, 2),
    _stream(2, 1, 4, 2, 7),
    _stream(2, 1, 4, 4, 6),
    _stream(2, 1, 2, 4, 7),
    _stream(4, 1, 4, 2, 4),
    _stream(4, 1, 2, 2, 8),
    _stream(4, 2, 4, 2),
    _stream(2, 2, 8, 2),
    _stream(2, 2, 16, 2),
    _tile(2, 2, 4, 1, 2, 4, 4, 2),
    _tile(2, 4, 4, 1, 2, 4, 2, 2),
    _tile(2, 4, 4, 1, 4, 3, 2, 1),
    _tile(2, 4, 4, 1, 1, 4, 4, 3),
    _tile(2, 8, 4, 1, 1, 4, 2, 3),
    _tile(2, 8, 4, 1, 1, 4, 2, 2),
    _tile(4, 8, 4, 1, 1, 4, 2, 1),
)
WIDE_FORMS = (
    _wide(16, 2, 8),
    _wide(32, 2, 8),
    _wide(64, 2, 8),
    _wide(128, 2, 6),
    _wide(32, 1, 8),
    _wide(64, 1, 8),
    _wide(128, 1, 6),
)
STEADY = _tile(2, 4, 4, 1, 2, 4, 2, 2)  # the one form for all, where a row must not depend on who is beside it


@dataclass(frozen=True, slots=True)
class Choice:
    form: Form
    splits: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """Activations as `int4_wide` wants them, see `cuda/common.cuh`."""

    data: Tensor  # 16-bit [ins/64, padded rows, 64]
    rows: int


@dataclass(frozen=True, slots=True)
class Product:
    """What a product leaves for the next kernel: `splits` partial sums, fp32 [splits, rows, out], or, where `splits`
    is 0, 16-bit [rows, out]."""

    data: Tensor
    splits: int

    def rounded(self, dtype: torch.dtype) -> Tensor:
        return self.data.sum(0).to(dtype) if self.splits else self.data


class Int4Linear(nn.Module):
    """A matrix [outs, ins] in INT4 on a card. `outs` a multiple of 32, `ins` of 64 and of whole groups."""

    packed: Tensor  # int32 [outs/16, ins/64, 32, 4]
    scales: Tensor  # int32 [outs/16, groups, 8]: two fp16 each
    zeros: Tensor | None  # the same, where the zero points are not all 8
    order: Tensor | None  # see `Int4Weight`

    def __init__(self, weight: Int4Weight) -> None:
        super().__init__()
        self.outs, self.ins = weight.values.shape
        self.groups = self.ins // weight.group
        if self.outs % 32 or self.ins % 64 or not (weight.group in (32, 64, 128) or self.groups == 1):
            raise UnsupportedModel(
                f"An INT4 matrix of {self.outs} × {self.ins} in groups of {weight.group} has no kernel here; use "
                "--precision bf16, which widens it."
            )
        self.gated = False  # whether rows of gate and up alternate by 16, see `interleave`
        self.register_buffer("packed", pack(weight.values))
        self.register_buffer("scales", _pairs(weight.scales))
        symmetric = bool((weight.zeros == 8).all())
        self.register_buffer("zeros", None if symmetric else _pairs(weight.zeros))
        self.register_buffer("order", weight.order)
        self.kernels: Kernels | None = None  # set by `Kernels.serve`

    @property
    def traits(self) -> Traits:
        blocks = 0 if self.groups == 1 else -1 if self.groups * 32 == self.ins else self.ins // self.groups // 64
        return Traits(self.outs, self.ins, blocks, self.gated, self.zeros is not None)

    def interleave(self) -> None:
        """Lets 16 rows of gate be followed by 16 of up, so that one block has both: the product is silu(gate) · up."""
        half = self.outs // 32
        order = torch.stack((torch.arange(half), torch.arange(half, 2 * half)), 1).flatten().to(self.packed.device)
        self.packed, self.scales = self.packed[order], self.scales[order]
        self.zeros = None if self.zeros is None else self.zeros[order]
        self.gated = True

    def padded_rows(self, rows: int) -> int:
        """Of `Tiles` for so many rows; 0 where plain activations are wanted."""
        assert self.kernels is not None, "Kernels.serve comes first"
        choice = self.kernels.choice(self, rows) if self.order is None else None
        return -(-rows // choice.form.rows) * choice.form.rows if choice and choice.form.kind == "wide" else 0

    def product(self, x: Tensor | Tiles) -> Product:
        """`x`: 16-bit [rows, ins], contiguous, or what `padded_rows` asks for."""
        assert self.kernels is not None
        assert not self.gated
        if self.order is not None and isinstance(x, Tensor):
            x = x.index_select(1, self.order)
        rows = x.rows if isinstance(x, Tiles) else len(x)
        choice = self.kernels.choice(self, rows)
        if choice:
            shape = (choice.splits, rows, self.outs)
            out = torch.empty(shape, dtype=torch.float32, device=self.kernels.device)
            self.kernels.fused(self, x, choice, out)
            return Product(out, choice.splits)
        assert isinstance(x, Tensor)
        return Product(self.kernels.widened(self, x), 0)

    def activation(self, x: Tensor | Tiles, padded_out: int = 0) -> Tensor | Tiles:
        """silu(gate) · up of a gated matrix, 16-bit [rows, outs/2]; as tiles if `padded_out` asks and it can."""
        assert self.kernels is not None
        assert self.gated
        if self.order is not None and isinstance(x, Tensor):
            x = x.index_select(1, self.order)
        rows, width = x.rows if isinstance(x, Tiles) else len(x), self.outs // 2
        choice = self.kernels.choice(self, rows)
        if choice is None:
            assert isinstance(x, Tensor)
            return self.kernels.gated(self.kernels.widened(self, x))
        empty = partial(torch.empty, dtype=self.kernels.dtype, device=self.kernels.device)
        if padded_out and choice.form.kind == "wide":
            tiles = empty((width // 64, padded_out, 64))
            self.kernels.fused(self, x, choice, tiles, padded_out)
            return Tiles(tiles, rows)
        out = empty((rows, width))
        self.kernels.fused(self, x, choice, out)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """[..., ins] → [..., outs], for the plain model; not for gated ones."""
        assert not self.gated
        flat = x.reshape(-1, self.ins)
        return self.product(flat).rounded(x.dtype).view(*x.shape[:-1], self.outs)


class Kernels:
    """The kernels of one card, for one 16-bit dtype, and which form of them serves which matrix."""

    def __init__(self, device: str, dtype: torch.dtype, deterministic: bool = False) -> None:
        self.device, self.dtype, self.deterministic = device, dtype, deterministic
        self._defines = (f"-DFP16={int(dtype == torch.float16)}",)
        self._loaded: dict[str, kernels.Kernel] = {}
        self._choices: dict[Traits, list[Choice | None]] = {}  # by `ROW_STEPS`
        self.microseconds: dict[Traits, list[float]] = {}  # alike; the reading of partial sums counts
        hopper = torch.cuda.get_device_capability(device)[0] == 9
        self._forms = (STEADY,) if deterministic else (*FORMS, *WIDE_FORMS) if hopper else FORMS

    def serve(self, linears: Sequence[Int4Linear]) -> None:
        """Compiles what these need and times it, once for each kind of matrix."""
        by_traits: dict[Traits, list[Int4Linear]] = {}
        for linear in linears:
            linear.kernels = self
            by_traits.setdefault(linear.traits, []).append(linear)
        self._compile(linears)
        for traits, alike in by_traits.items():
            self._choices[traits] = self._steady(alike[0]) if self.deterministic else self._timed(alike)

    @property
    def names(self) -> set[str]:
        """Of the kernels that serve single rows: what `/system` shows."""
        firsts = ((traits, choices[0]) for traits, choices in self._choices.items())
        return {choice.form.name(traits) for traits, choice in firsts if choice}

    def named(self, linear: Int4Linear, rows: int) -> str:
        """Which kernel serves so many rows."""
        choice = self.choice(linear, rows)
        return choice.form.name(linear.traits) if choice else "widened"

    def choice(self, linear: Int4Linear, rows: int) -> Choice | None:
        """None: the weights are widened first."""
        choices = self._choices[linear.traits]
        if self.deterministic:
            return choices[0]
        return choices[bisect_left(ROW_STEPS, rows)] if rows <= ROW_STEPS[-1] else None

    def fused(self, linear: Int4Linear, x: Tensor | Tiles, choice: Choice, out: Tensor, padded_out: int = 0) -> None:
        """Into `out`: fp32 [splits, rows, outs], or of a gated matrix 16-bit [rows, outs/2] or tiles."""
        rows, form = x.rows if isinstance(x, Tiles) else len(x), choice.form
        strips, taken = linear.outs // form.outs, -(-rows // form.rows)
        padded: tuple[int, ...] = ()
        if form.kind == "wide":
            tiles = x if isinstance(x, Tiles) else self._tiles(x, taken * form.rows)
            padded, x = (tiles.data.shape[1], padded_out), tiles.data
        assert isinstance(x, Tensor)
        self._loaded[form.name(linear.traits)](
            (strips, choice.splits) if form.kind == "stream" else (taken, strips, choice.splits),
            form.threads,
            linear.packed,
            linear.scales,
            linear.zeros,
            x,
            out,
            rows,
            linear.outs,
            linear.ins // 64,
            linear.groups,
            choice.splits,
            *padded,
            shared_bytes=form.shared_bytes,
        )

    def _tiles(self, x: Tensor, padded_rows: int) -> Tiles:
        blocks = x.shape[1] // 64
        tiles = torch.empty(blocks, padded_rows, 64, dtype=self.dtype, device=self.device)
        self._loaded["to_tiles"]((-(-blocks // 8), len(x)), 64, x, tiles, blocks, padded_rows)
        return Tiles(tiles, len(x))

    def widened(self, linear: Int4Linear, x: Tensor) -> Tensor:
        """16-bit [rows, outs]."""
        out = torch.empty(len(x), linear.outs, dtype=self.dtype, device=self.device)
        step = max(16, SLAB_BYTES // (2 * linear.ins) // 16 * 16)
        slab = torch.empty(min(step, linear.outs), linear.ins, dtype=self.dtype, device=self.device)
        for start in range(0, linear.outs, step):
            rows = min(step, linear.outs - start)
            self.widen(linear, start, slab[:rows])
            torch.mm(x, slab[:rows].T, out=out[:, start : start + rows])
        return out

    def widen(self, linear: Int4Linear, start: int, out: Tensor) -> None:
        """Rows from `start` on into `out`, 16-bit [rows, ins]; both multiples of 16."""
        arguments = (linear.packed, linear.scales, linear.zeros, out, start, linear.ins // 64, linear.groups)
        self._loaded["int4_widen"]((len(out) // 16, 4), 256, *arguments, early=False)

    def gated(self, both: Tensor) -> Tensor:
        """silu(gate) · up of a widened gated product: 16-bit [rows, outs] → [rows, outs/2]."""
        out = both.new_empty(len(both), both.shape[1] // 2)
        width = out.shape[1]
        self._loaded["gated"]((-(-width // 2048), len(out)), 256, both, out, width, 16, early=False)
        return out

    def _compile(self, linears: Sequence[Int4Linear]) -> None:
        instances = {
            (form.file, form.instance(linear.traits))
            for form in self._forms
            for linear in linears
            if _fits(form, linear)
        }
        common: list[tuple[str, list[str]]] = [("int4.cu", []), ("int4_wide.cu", []), ("layer.cu", [])]
        each = [(file, [line]) for file, line in sorted(instances)]
        self._loaded = kernels.load([*common, *each], self._defines, self.device)

    def _steady(self, linear: Int4Linear) -> list[Choice | None]:
        if not _fits(STEADY, linear):
            raise _no_kernel(linear)
        return [Choice(STEADY, 1 if linear.gated else DETERMINISTIC_SPLITS)]

    def _timed(self, alike: Sequence[Int4Linear]) -> list[Choice | None]:
        """For each of `ROW_STEPS` the fastest. Launches go round the matrices of this shape, so that the card's cache
        does not hold them."""
        timed = [self._fastest(alike, rows) for rows in ROW_STEPS]
        self.microseconds[alike[0].traits] = [taken for _, taken in timed]
        return [choice for choice, _ in timed]

    def _fastest(self, alike: Sequence[Int4Linear], rows: int) -> tuple[Choice | None, float]:
        linear, best, least = alike[0], None, float("inf")
        x = torch.randn(rows, linear.ins, device=self.device).to(self.dtype)
        if rows >= WIDENED_ROWS:
            least = self._microseconds(
                alike, lambda one: self.gated(self.widened(one, x)) if one.gated else self.widened(one, x)
            )
        for form in self._forms:
            if not _fits(form, linear) or not _worth(form, rows):
                continue
            for splits in (1,) if linear.gated else SPLITS:
                if splits > linear.ins // 128 or (splits > 1 and rows * splits > MOST_SPLIT_ROWS):
                    continue
                choice = Choice(form, splits)
                cost = self._microseconds(alike, partial(self._timed_once, x=x, choice=choice))
                if not linear.gated:
                    cost += splits * rows * linear.outs * 4 / SUM_BYTES_A_MICROSECOND
                if cost < least:
                    best, least = choice, cost
        if least == float("inf"):
            raise _no_kernel(linear)
        log.debug("%d × %d, %d rows: %s in %.1f µs", linear.outs, linear.ins, rows, best or "widened", least)
        return best, least

    def _timed_once(self, linear: Int4Linear, x: Tensor, choice: Choice) -> None:
        shape = (len(x), linear.outs // 2) if linear.gated else (choice.splits, len(x), linear.outs)
        dtype = self.dtype if linear.gated else torch.float32
        self.fused(linear, x, choice, torch.empty(shape, dtype=dtype, device=self.device))

    def _microseconds(self, alike: Sequence[Int4Linear], work: Callable[[Int4Linear], object]) -> float:
        """In a graph, as it will run: launching one by one from Python takes longer than the kernels do."""
        work(alike[0])
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=_stream_of(self.device), capture_error_mode="thread_local"):
            for index in range(TIMED_LAUNCHES):
                work(alike[index % len(alike)])
        times: list[float] = []
        for _ in range(TIMED_ROUNDS):
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            began.record()
            graph.replay()
            ended.record()
            ended.synchronize()
            times.append(began.elapsed_time(ended) * 1000 / TIMED_LAUNCHES)
        return min(times)


@cache
def _stream_of(device: str) -> torch.cuda.Stream:
    """To capture on: torch's own is of the card that captured first."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _no_kernel(linear: Int4Linear) -> UnsupportedModel:
    return UnsupportedModel(f"An INT4 matrix of {linear.outs} × {linear.ins} has no kernel here; use --precision bf16.")


def pack(values: Tensor) -> Tensor:
    """uint8 [outs, ins] → int32 [outs/16, ins/64, 32, 4], as `cuda/int4.cu` says."""
    outs, ins = values.shape
    fields = values.view(outs // 16, 2, 8, ins // 64, 2, 4, 2, 4)  # strip, half, g, block, j/2, t, j%2, s
    words = torch.zeros(outs // 16, 8, ins // 64, 2, 4, 2, dtype=torch.int32, device=values.device)
    for half in range(2):
        for s in range(4):
            words |= fields[:, half, ..., s].int() << (4 * (half + 2 * (s // 2) + 4 * (s % 2)))
    return words.permute(0, 2, 1, 4, 3, 5).reshape(outs // 16, ins // 64, 32, 4).contiguous()


def _pairs(values: Tensor) -> Tensor:
    """[outs, groups] → int32 [outs/16, groups, 8]: the fp16 of row g low, of row g + 8 high."""
    bits = values.half().view(torch.int16).int() & 0xFFFF
    bits = bits.view(len(bits) // 16, 2, 8, -1)
    return (bits[:, 0] | (bits[:, 1] << 16)).transpose(1, 2).contiguous()


def _fits(form: Form, linear: Int4Linear) -> bool:
    if form.kind == "tile" and linear.ins // 64 % form.template[4]:  # its warps take blocks of inputs in turn
        return False
    both = 2 if linear.gated and form.kind == "wide" else 1  # a warp takes gate and up
    return linear.outs % form.outs == 0 and form.template[1] % both == 0


def _worth(form: Form, rows: int) -> bool:
    """Whether a form can be the fastest: not one that passes over the weights too often, or wastes most of its rows."""
    if form.kind == "stream":
        return rows <= form.rows and (rows > form.rows // 2 or form.rows == 8)
    if form.kind == "tile" and rows > MOST_TILE_ROWS:
        return False
    return form.rows <= max(16, 2 * rows) and (rows <= 4 * form.rows or form.rows == 128)
