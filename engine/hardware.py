"""What is in this machine, and how a model is best loaded into it: weights, batch, KV pages, graphs, and why.

`survey` looks; `plan` decides and is a pure function. Knows sizes and devices, no model, no tensor. GB are 10⁹ bytes.
"""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.cards import Cards
from engine.config import Config
from engine.errors import ConfigError, UnsupportedModel
from engine.inference.kv_cache import PAGE_TOKENS, pages_of
from engine.shape import ModelShape

GB = 1e9

# --- what a card needs beside weights and KV cache: bounds, to be compared with what a run reports by kind
# CUDA context with the libraries' handles and our kernels: what is left of the peak beside weights, KV cache, graphs
# and planned workspace is 0.93 GB with the 7B in INT4 (H200, torch 2.11, 2026-11-21)
CONTEXT_BYTES = 950_000_000
# Captured steps of one number of rows, alone and with prompts beside: their nodes in the driver. 147 MB for 11 numbers
# in the same run, most of it activations, which are counted as workspace
GRAPH_BYTES = 5_000_000
CAPTURED_ROWS = 256  # of the largest captured step, where the batch is smaller: `cuda_runner.FULL_STEPS`
# As in `inference.int4`: widened weights at once; rows times splits of partial sums in fp32; the splits of
# `--deterministic`, which keeps to them whatever the rows, in products and in attention
SLAB_BYTES = 128 << 20
SPLIT_ROWS = 1_024
DETERMINISTIC_SPLITS = 4
# Blocks of attention, each of which leaves fp32 sums for so many pairs of a token and a head: as in
# `inference.cuda_runner` and `inference.fused`
ATTENTION_BLOCKS, ATTENTION_ROWS = 512, 64
# That torch gives cuBLAS for launched steps, and once more for captured ones (ATen/cuda/CublasHandlePool.cpp)
LIBRARY_BYTES = 9 << 20
HOPPER_LIBRARY_BYTES = 32 << 20
# Sampling. A slot's state (random numbers 32 kB, said ids 64 kB) and what its penalty gathers; a score as the model
# gives it, in fp32, and what a penalty makes of it; and where all of a row are sorted, `sampler.SORTED_ROWS` at once:
# values, ids, copies, sums in fp64, scratch
SLOT_BYTES = 400_000
SCORE_BYTES = 20
SORTED_SCORE_BYTES = 48
SORTED_ROWS = 32
# Of what is free, without a ceiling: for the screen and other programs, which may want more. vLLM leaves 10 %.
KEPT_FREE = 0.05
# Of a ceiling: what the allocator rounds up.
KEPT_BELOW_CEILING = 0.005

# --- how much is taken of it
BATCH_ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # tried, captured, padded to
CARD_SLOTS = 128  # the largest batch measured; from 64 to 128 rows a 7B gained 1.25 to 1.5 times (one H200)
CPU_SLOTS = 8  # more rows share the weights' reading, but one reader's share of two cores gets small
SLOT_TOKENS = 1_024  # what each slot must have room for: a prompt of HY-MT and its answer are seldom longer
LIVE_SEGMENTS = 8  # of the longest, that a slot is given room for where there is plenty: HY-MT's 512 make 4,096 tokens
PROMPT_TOKENS = 1_024  # the longest prompt but for its segment: template, the user's context, terms
ANSWER_SHARE = 4  # a segment and an answer of up to three times that
MIN_KV_SLOTS = 8  # with room for fewer in 16 bits, `--kv-dtype auto` takes FP8
PREFILL_TOKENS = ((32, 2_048), (8, 1_024), (1, 512))  # from so many slots on; fewer slots: a smaller card
# Whatever the slots: of the reference runner on older cards and on the CPU, and of the runners of graphs
OLD_PREFILL_TOKENS, CPU_PREFILL_TOKENS, PACKED_PREFILL_TOKENS = 4_096, 1_024, 256

# --- one model in several places: layers on several cards, or fetched to a card at every step from where there is room
DIVIDED_SLOTS = 32  # over cards, where the reference runner pads every row to the longest
FETCHED_SLOTS = 8  # one fetching of the layers serves all rows, but the room for another is a layer less that stays
DIVIDED_PREFILL_TOKENS = 1_024  # a step takes as long as the fetching, whatever its tokens; more take more workspace
DIVIDED_SEQUENCE_TOKENS = 4_096  # so that what the longest gathers of its pages has a bound
FETCHED_AHEAD = 2  # layers that have a place on the card in turn: one computes, the next is on its way
# What is fetched lies in memory that a card copies from by itself, in blocks, since torch rounds it up to powers of two
BLOCK_BYTES = 16 << 20
PINNED_SHARE = 0.75  # of the memory that is free: it can never be swapped out
DISK_SHARE = 0.9  # of the room on the disk
# Of cards that hold a share of each layer: NCCL's buffers and code. Not measured
MEETING_BYTES = 500_000_000

# --- abilities
KERNEL_CAPABILITY = (8, 0)  # Ampere: bf16 and the instructions that our kernels are written in
KERNELS_FROM = "sm_80"  # the same in words
HOPPER_CAPABILITY = (9, 0)
FP16_CAPABILITY = (7, 0)  # Volta: fp16 at full speed; older cards compute in fp32

# --- CPU
# Python, torch, OpenVINO and the page. When `app.py` is ready it has taken 881 MB at the peak with yiwen-mini in INT8,
# and 823 with it in INT4; 296 and 273 of these are planned as weights and their copies (2026-11-21)
PROCESS_BYTES = 600_000_000
SURVEYED_BYTES = 260_000_000  # of these it has taken already when what is free is looked at
# Of a graph while ONNX Runtime takes it over. Without the page the same two take 655 and 603 MB at the peak of loading,
# and 980 and 950 with eight texts at once; 298 of these are Python and the libraries (2026-11-21)
ONNX_COPIES = 4
RAM_SHARE = 0.9  # of the memory that is free
CPU_PARAMETERS = 2_000_000_000  # larger ones say a word or two a second: never instead of a card unless asked for

_DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Card:
    device: str  # "cuda:0"
    name: str
    total_bytes: int
    capability: tuple[int, int]  # compute capability: (8, 9) is sm_89
    free_bytes: int | None = None  # with our own CUDA context in place; None: not asked, since a context costs memory

    @property
    def fast(self) -> bool:
        """Whether our kernels and CUDA graphs run on it."""
        return self.capability >= KERNEL_CAPABILITY


@dataclass(frozen=True, slots=True)
class Machine:
    """Limits of the control group (a container's) are counted in."""

    ram_bytes: int
    ram_free_bytes: int
    cores: int  # that this process may use at once
    bf16: bool  # whether the processor multiplies bf16 faster than fp32
    cards: tuple[Card, ...] = ()
    disk_free_bytes: int = 0  # where `offload_folder` is


@dataclass(frozen=True, slots=True)
class PlannedBytes:
    """What the plan expects to take, by kind; to be held against what is measured."""

    weights: int  # on the CPU as they are read, and as an engine of graphs packs them
    kv: int
    workspace: int  # activations of the largest step, widened weights of one matrix, sampling
    graphs: int  # on the CPU a packed copy of the weights each
    context: int  # CUDA's own; on the CPU the program itself

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.workspace + self.graphs + self.context


@dataclass(frozen=True, slots=True)
class LoadPlan:
    device: str  # "cpu", "cuda:0"
    weights: str  # "gptq-int4", "int8", "bf16", "fp16", "fp32"; what is quantised may be widened to one of the last
    dtype: str  # of activations and unquantised weights: "bf16", "fp16", "fp32"
    engine: str  # "cuda" (our kernels), "openvino", "onnx", or plain "torch"
    slots: int  # rows in one batch
    pages: int  # of `PAGE_TOKENS` tokens; the scrap page that the runner adds is in the bytes
    sequence_tokens: int  # the longest prompt and answer together
    kv_dtype: str  # "bf16", "fp16", "fp32", "fp8"
    graphs: tuple[int, ...]  # batch sizes to capture, or on the CPU to fix the shapes of where there is room
    prefill_tokens: int  # of prompts in one step
    segment_tokens: int  # the longest segment to translate as one
    threads: int  # of torch on the CPU
    reason: str  # in words, for the log and `/system`
    bytes: PlannedBytes  # of `device`
    # Where the weights of each layer are: a card, which then computes it, or "cpu" or "disk", from where `device`
    # fetches them at every step. None: all of the model is on `device`
    layers: tuple[str, ...] = ()
    # of the others in `layers`, or of cards that have a share of each layer, as `device` has one
    elsewhere: Mapping[str, PlannedBytes] = field(default_factory=dict)

    @property
    def cards(self) -> tuple[str, ...]:
        """All that compute, `device` first."""
        others = (place for place in (*self.layers, *self.elsewhere) if place.startswith("cuda"))
        return tuple(dict.fromkeys([self.device, *others]))

    @property
    def computing(self) -> tuple[str, ...]:
        """The device that computes each layer."""
        return tuple(layer if layer in self.cards else self.device for layer in self.layers)


# ---------------------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True, slots=True)
class _Place:
    """A device, with what of its memory may be taken and what is taken whatever the batch is."""

    device: str
    room_bytes: int  # for weights, KV cache, workspace and graphs
    context_bytes: int
    weights: str
    dtype: str
    engine: str
    kv_dtype: str  # unless it is halved
    weights_bytes: int
    graph_bytes: int
    library_bytes: int
    most_slots: int
    offers: str  # "NVIDIA L4 (cuda:0) has 21.0 of 24.0 GB free, 19.9 of them for the model"
    itself: str  # what takes `context_bytes`
    rounded_from: str = ""  # how they are stored, where weights become INT8 as they are read
    unasked: bool = False  # they become so by our own choice, and the reason says how to keep them

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def fast(self) -> bool:
        return self.engine == "cuda"


def plan(config: Config, shape: ModelShape, machine: Machine) -> LoadPlan:
    """The largest batch that fits, up to `CARD_SLOTS` or `CPU_SLOTS` or what was asked for.

    Raises `ConfigError`: nothing fits, or a device is not there; `UnsupportedModel`: not stored in what was asked for.
    """
    _check_stored(config.precision, shape)
    cards = _chosen(machine.cards, config.devices)
    if config.devices not in ("auto", "cpu") and len(cards) < len(named := config.devices.split("+")):
        missing = next(name for name in named if name not in {card.device for card in cards})
        raise ConfigError(
            f"There is no device {missing!r}: this machine has {len(machine.cards)} CUDA cards; use --devices cpu."
        )
    if len(cards) > 1:
        return _over_cards(config, shape, machine, cards)
    card = next(iter(cards), None)
    if config.kv_dtype == "fp8" and not (card and card.fast):
        raise ConfigError(
            f"--kv-dtype fp8 needs a CUDA card of {KERNELS_FROM} or newer, and the model would run on "
            f"{f'{card.name} ({_sm(card)})' if card else 'the CPU'}; leave it out."
        )
    if config.kv_dtype == "fp8" and config.precision == "fp32":
        raise ConfigError("--kv-dtype fp8 has no kernel for --precision fp32; leave one of the two out.")
    if card and config.precision == "int8" and shape.stored in _DTYPE_BYTES:
        raise ConfigError(
            f"--precision int8 rounds a model for the CPU, and {card.name} ({card.device}) would have to widen it "
            f"again; use --devices cpu, leave --precision out, or {_int4_copy(shape)}."
        )
    if card is None:
        on_cpu = _on_cpu(config, shape, machine)
        _check_steady(config, on_cpu)
        if made := _fit(config, shape, machine, on_cpu):
            return made
        raise ConfigError(f"{_shortage(config, shape, on_cpu)}; use a smaller model, or a machine with more memory.")
    on_card = _on_card(config, shape, card)
    _check_steady(config, on_card)
    if made := _fit(config, shape, machine, on_card):
        return made
    shortage = _shortage(config, shape, on_card)
    remedies = _remedies(config, shape, card, on_card)
    chosen = config.devices != "auto" or config.max_vram_gb is not None or config.kv_dtype == "fp8"
    large = shape.parameters > CPU_PARAMETERS
    fetched = _fetched(config, shape, machine, [card], shortage, [*remedies, *_others(config, shape, machine, card)])
    if fetched and (chosen or large):
        return fetched
    if chosen or large:
        raise ConfigError(f"{shortage}; {', '.join(remedies)}, or use --devices cpu.")
    on_cpu = _on_cpu(config, shape, machine)
    if made := _fit(config, shape, machine, on_cpu):
        return replace(made, reason=f"{shortage}, so it runs on the CPU, which is much slower. {made.reason}")
    if fetched:
        return fetched
    raise ConfigError(f"{shortage}, and {on_cpu.offers}; {' or '.join(remedies)}.")


def _check_stored(precision: str, shape: ModelShape) -> None:
    """What is in 16 or 32 bits can be rounded to INT8 as it is read, but not to INT4, which takes minutes and texts."""
    if precision == "int8" and shape.stored == "gptq-int4":
        raise UnsupportedModel(
            "This model is stored in gptq-int4, and in INT8 it would take twice the memory and be no better; leave "
            "--precision out."
        )
    if precision == "int4" and shape.stored != "gptq-int4":
        if shape.widened_from:
            stored = shape.widened_from
            raise UnsupportedModel(
                f"This model is not stored in INT4 but in {stored}; leave --precision out, or {_int4_copy(shape)}."
            )
        made = "make an INT4 copy with `python -m engine.tools.quantize`, or " if shape.stored in _DTYPE_BYTES else ""
        raise UnsupportedModel(f"This model is not stored in INT4 but in {shape.stored}; {made}leave --precision out.")


def _int4_copy(shape: ModelShape) -> str:
    """Of a model in 16 or 32 bits, or read so: what is in GPTQ already is not quantised again."""
    if shape.widened_from:
        return "make a copy of its original weights in INT4 with `python -m engine.tools.quantize`"
    return "make a copy in INT4 with `python -m engine.tools.quantize`"


def _check_steady(config: Config, place: _Place) -> None:
    if config.deterministic and place.engine == "torch":
        raise ConfigError(
            "--deterministic is kept by our kernels on a card and by OpenVINO for INT4 and INT8 weights, and here the "
            f"model would run in plain torch, in {place.dtype}; leave the flag out, or take such weights."
        )


def _chosen(cards: Sequence[Card], devices: str) -> list[Card]:
    """The cards that were asked for, in that order; for `auto` the largest, the first of several."""
    if devices == "auto":
        return [max(cards, key=lambda card: card.total_bytes)] if cards else []
    return [card for name in devices.split("+") for card in cards if card.device == name]


def _on_card(config: Config, shape: ModelShape, card: Card) -> _Place:
    assert card.free_bytes is not None, "survey asks the card that plan chooses"
    room, limit = card.free_bytes * (1 - KEPT_FREE), ""
    if config.max_vram_gb is not None:
        room = min(card.free_bytes, config.max_vram_gb * GB * (1 - KEPT_BELOW_CEILING) - CONTEXT_BYTES)
        limit = f" under --max-vram-gb {config.max_vram_gb:g}"
    onnx = config.backend == "onnx"
    dtype = "bf16" if card.fast and not onnx else "fp16" if card.capability >= FP16_CAPABILITY else "fp32"
    weights, dtype = _weights(config.precision, shape, dtype)
    if not onnx and (weights == "int8" or not card.fast):  # no kernel: widened when it is loaded
        weights = dtype
    return _Place(
        device=card.device,
        room_bytes=int(room),
        context_bytes=CONTEXT_BYTES,
        weights=weights,
        dtype=dtype,
        engine="onnx" if onnx else "cuda" if card.fast and dtype != "fp32" else "torch",
        kv_dtype=dtype,
        weights_bytes=_weights_bytes(shape, weights, dtype),
        graph_bytes=GRAPH_BYTES,
        library_bytes=HOPPER_LIBRARY_BYTES if card.capability >= HOPPER_CAPABILITY else LIBRARY_BYTES,
        most_slots=config.max_concurrent or CARD_SLOTS,
        offers=f"{card.name} ({card.device}) has {_free(card.free_bytes)} of {_gb(card.total_bytes)} GB free, "
        f"{_free(room)} of them for the model{limit}",
        itself="CUDA itself",
    )


def _on_cpu(config: Config, shape: ModelShape, machine: Machine) -> _Place:
    rounded_from = ""
    if config.precision in ("auto", "int8") and not shape.quantized_parameters:
        rounded_from, shape = shape.stored, _rounded(shape)
    narrow = machine.bf16 and not rounded_from  # what is left of a rounded model are its norms, which take no room
    weights, dtype = _weights(config.precision, shape, "bf16" if narrow else "fp32")
    engine = "onnx" if config.backend == "onnx" else "torch" if weights == dtype else "openvino"
    weights_bytes, packed_bytes = _weights_bytes(shape, weights, dtype), _packed_bytes(shape, weights)
    if weights == "gptq-int4":  # read into a byte each
        weights_bytes += shape.quantized_parameters - shape.quantized_bytes
    if engine == "onnx":
        weights_bytes += ONNX_COPIES * packed_bytes
    elif engine == "openvino":  # INT8 goes into the graph as it was read, INT4 is packed for it first
        weights_bytes += packed_bytes * (2 if weights == "gptq-int4" else 1)
    room, limit = int(machine.ram_free_bytes * RAM_SHARE) - (PROCESS_BYTES - SURVEYED_BYTES), ""
    if config.max_ram_gb is not None:
        room = min(room, int(config.max_ram_gb * GB) - PROCESS_BYTES)
        limit = f" under --max-ram-gb {config.max_ram_gb:g}"
    room = max(0, room)
    return _Place(
        device="cpu",
        room_bytes=room,
        context_bytes=PROCESS_BYTES,
        weights=weights,
        dtype=dtype,
        engine=engine,
        kv_dtype={"openvino": "fp16", "onnx": "fp32", "torch": dtype}[engine],
        weights_bytes=weights_bytes,
        graph_bytes=packed_bytes if engine == "openvino" else 0,
        library_bytes=0,
        most_slots=config.max_concurrent or CPU_SLOTS,
        offers=f"the machine has {_free(machine.ram_free_bytes)} of {_gb(machine.ram_bytes)} GB of memory free, "
        f"{_free(room)} of them for the model{limit}",
        itself="the program itself",
        rounded_from=rounded_from,
        unasked=bool(rounded_from) and config.precision == "auto",
    )


def _weights(asked: str, shape: ModelShape, dtype: str) -> tuple[str, str]:
    """(format of the weights, dtype of the activations) where `dtype` is what suits the device."""
    if asked in ("fp32", "bf16", "fp16"):
        return asked, asked
    return (shape.stored if shape.quantized_parameters else dtype), dtype


def _rounded(shape: ModelShape) -> ModelShape:
    """The same with all matrices in INT8 rows."""
    return replace(shape, stored="int8", quantized_parameters=shape.parameters, quantized_bytes=shape.parameters)


def _weights_bytes(shape: ModelShape, weights: str, dtype: str) -> int:
    wide = _DTYPE_BYTES[dtype]
    if weights == shape.stored and shape.quantized_parameters:
        return shape.quantized_bytes + (shape.parameters - shape.quantized_parameters) * wide
    return shape.parameters * wide


def _packed_bytes(shape: ModelShape, weights: str) -> int:
    """Of one copy in a graph."""
    table = shape.vocab_size * shape.hidden_size
    if weights == "gptq-int4":  # the embedding is rounded to INT8, the head to INT4 with 16 bits of scale for 64
        return shape.quantized_bytes + table * 25 // 16
    again = table if shape.tied_head else 0  # the embedding is there as the head once more
    return shape.quantized_bytes + again if weights == "int8" else (shape.parameters + again) * _DTYPE_BYTES["fp32"]


def _fit(config: Config, shape: ModelShape, machine: Machine, place: _Place) -> LoadPlan | None:
    """None where not even one sequence of `SLOT_TOKENS` fits."""
    made = _fit_batch(config, shape, machine, place, "fp8" if config.kv_dtype == "fp8" else place.kv_dtype)
    if config.kv_dtype != "auto" or not place.fast or (made and made.slots >= min(MIN_KV_SLOTS, place.most_slots)):
        return made
    halved = _fit_batch(config, shape, machine, place, "fp8")
    if halved is None:
        return made
    at_once = f"only {made.slots} at once" if made else "none"
    return replace(halved, reason=f"{halved.reason} The KV cache is in FP8: in 16 bits there is room for {at_once}.")


def _fit_batch(config: Config, shape: ModelShape, machine: Machine, place: _Place, kv_dtype: str) -> LoadPlan | None:
    page_bytes = PAGE_TOKENS * shape.kv_values_a_token * _DTYPE_BYTES[kv_dtype]
    least = min(SLOT_TOKENS, shape.context_tokens)
    live = min(LIVE_SEGMENTS * shape.segment_tokens, shape.context_tokens)
    if config.kv_window is not None:
        live = min(live, config.kv_window + 2 * PAGE_TOKENS)  # the first page stays, and the window may begin in one
    if place.engine == "onnx":  # a buffer for each slot, which has to hold the longest
        each, scrap = pages_of(shape.context_tokens), 0
    else:
        each, scrap = pages_of(max(live, least)) + 1, 1  # the scrap page is to pad a batch with
    for slots, graphs in _batches(place):
        prefill = _prefill_tokens(place, slots)
        workspace = _workspace_bytes(config, shape, place, slots, prefill)
        left = place.room_bytes - place.weights_bytes - workspace - len(graphs) * place.graph_bytes
        pages = min(left // page_bytes - scrap, slots * each)
        if pages < slots * pages_of(least):
            continue
        longest = pages
        if place.engine == "onnx":
            longest = pages // slots
            pages = slots * longest
        taken = PlannedBytes(
            weights=place.weights_bytes,
            kv=(pages + scrap) * page_bytes,
            workspace=workspace,
            graphs=len(graphs) * place.graph_bytes,
            context=place.context_bytes,
        )
        sequence = min(shape.context_tokens, longest * PAGE_TOKENS)
        return LoadPlan(
            device=place.device,
            weights=place.weights,
            dtype=place.dtype,
            engine=place.engine,
            slots=slots,
            pages=pages,
            sequence_tokens=sequence,
            kv_dtype=kv_dtype,
            graphs=graphs,
            prefill_tokens=prefill,
            segment_tokens=_segment_tokens(shape, sequence),
            threads=machine.cores,
            reason=_reason(shape, place, slots, pages, kv_dtype, taken),
            bytes=taken,
        )
    return None


def _batches(place: _Place) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(slots, graphs), the best first."""
    for slots in [place.most_slots, *(rows for rows in reversed(BATCH_ROWS) if rows < place.most_slots)]:
        if place.fast:
            yield slots, tuple(sorted({slots, *(rows for rows in BATCH_ROWS if rows < slots)}))
            continue
        if place.engine == "openvino":
            yield slots, tuple(sorted({1, slots}))
        yield slots, ()


def _prefill_tokens(place: _Place, slots: int) -> int:
    if place.fast:
        return next(count for rows, count in PREFILL_TOKENS if slots >= rows)
    if place.engine != "torch":
        return PACKED_PREFILL_TOKENS
    return CPU_PREFILL_TOKENS if place.on_cpu else OLD_PREFILL_TOKENS


def _workspace_bytes(config: Config, shape: ModelShape, place: _Place, slots: int, prefill_tokens: int) -> int:
    """A bound: the layers of the largest step, or then its choice of tokens, and on a card of our kernels the same of
    the largest captured step, whose memory nothing else may use."""
    choice = shape.vocab_size * (slots * SCORE_BYTES + min(slots, SORTED_ROWS) * SORTED_SCORE_BYTES)
    launched = max(_layer_bytes(config, shape, place, prefill_tokens + slots), choice) + place.library_bytes
    if not place.fast:
        return launched + slots * SLOT_BYTES
    scores = slots * shape.vocab_size * _DTYPE_BYTES[place.dtype]
    captured = _layer_bytes(config, shape, place, max(slots, CAPTURED_ROWS)) + scores + place.library_bytes
    attended = ATTENTION_BLOCKS * ATTENTION_ROWS * (shape.head_dim + 2) * 4
    return launched + captured + 2 * attended + slots * SLOT_BYTES


def _layer_bytes(config: Config, shape: ModelShape, place: _Place, rows: int) -> int:
    """Each activation of one layer once, the residual stream and what gate and up become four times."""
    wide = 4 if place.on_cpu else _DTYPE_BYTES[place.dtype]
    heads = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    activations = rows * (4 * shape.hidden_size + 2 * heads + 4 * shape.intermediate_size) * wide
    if place.weights != "gptq-int4" or place.on_cpu:
        return activations
    sums = (heads + shape.hidden_size) * 4  # of a row, in two products that follow each other
    if config.deterministic:
        attended = shape.heads * (shape.head_dim + 2) * 4
        return activations + rows * DETERMINISTIC_SPLITS * (sums + attended)
    return activations + SPLIT_ROWS * sums + min(2 * shape.intermediate_size * shape.hidden_size * wide, SLAB_BYTES)


def _segment_tokens(shape: ModelShape, sequence_tokens: int) -> int:
    """What is left of a sequence after a prompt, which may have half of it."""
    prompt = min(PROMPT_TOKENS, sequence_tokens // 2)
    return min(shape.segment_tokens, (sequence_tokens - prompt) // ANSWER_SHARE)


# ------------------------------------------------------------------------------------- one model in several places


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Of a model whose layers are in several places."""

    layer: int  # weights of one; all are alike
    tables: int  # embedding and head, on the first card
    page: int  # of one layer's KV cache
    workspace: int  # of the first card
    more_workspace: int  # of each other
    pages: int  # with the scrap page

    @property
    def kv(self) -> int:
        """Of one layer."""
        return self.pages * self.page


def _over_cards(config: Config, shape: ModelShape, machine: Machine, cards: Sequence[Card]) -> LoadPlan:
    """Each card gets as many layers, with their part of the KV cache, as make all of them full to the same share."""
    if config.backend == "onnx":
        raise ConfigError("--backend onnx runs a model on one card; leave it out, or name one.")
    if config.kv_dtype == "fp8":
        raise ConfigError("--kv-dtype fp8 has no kernel where one model is on several cards; leave it out.")
    if config.precision == "int8" and shape.stored in _DTYPE_BYTES:
        raise ConfigError(
            f"--precision int8 rounds a model for the CPU; use --devices cpu, leave --precision out, or "
            f"{_int4_copy(shape)}."
        )
    places = _divided(config, shape, cards)
    _check_steady(config, places[0])
    for slots in _divided_slots(config, DIVIDED_SLOTS):
        least, most = _divided_pages(config, shape, slots)
        for pages in range(most, least - 1, -max(1, (most - least) // 16)):  # fine enough, and quick
            sizes = _sizes(config, shape, places[0], slots, pages)
            if counts := _shares(shape.layers, sizes, places):
                layers = [place.device for place, count in zip(places, counts, strict=True) for _ in range(count)]
                return _divided_plan(config, shape, machine, places, sizes, slots, layers, _parted(places, counts))
    shortage = _joint_shortage(config, shape, places)
    remedies = ["use a smaller model", *([_int4_copy(shape)] if shape.stored in _DTYPE_BYTES else [])]
    if made := _fetched(config, shape, machine, cards, shortage, remedies):
        return made
    raise ConfigError(f"{shortage}; {', or '.join(remedies)}.")


def _fetched(
    config: Config,
    shape: ModelShape,
    machine: Machine,
    cards: Sequence[Card],
    shortage: str,
    remedies: Sequence[str],
) -> LoadPlan | None:
    """The last layers stay in the machine's memory, or where there is no room either on its disk. None where not even
    that is enough, and for what plain torch cannot do."""
    if config.backend == "onnx" or config.kv_dtype == "fp8" or config.deterministic:
        return None
    places = _divided(config, shape, cards)
    for slots in _divided_slots(config, FETCHED_SLOTS):
        pages, _ = _divided_pages(config, shape, slots)
        sizes = _sizes(config, shape, places[0], slots, pages)
        others = [max(0, (place.room_bytes - sizes.more_workspace) // (sizes.layer + sizes.kv)) for place in places[1:]]
        computed = shape.layers - sum(others)  # on the first card
        left = places[0].room_bytes - sizes.tables - sizes.workspace - computed * sizes.kv
        staying = left // sizes.layer if left >= computed * sizes.layer else left // sizes.layer - FETCHED_AHEAD
        if computed < 1 or staying < 0:
            continue
        away = max(0, computed - staying)
        kept, blocks = 0, -(-sizes.layer // BLOCK_BYTES) * BLOCK_BYTES
        if away:
            ram = _pinned_room(config, machine)
            kept = min(away, ram // blocks)
            if kept < away:  # what is on the disk comes through memory
                kept = max(0, ram // blocks - 1)
                if ram < blocks or (away - kept) * sizes.layer > machine.disk_free_bytes * DISK_SHARE:
                    continue
        layers = [places[0].device] * min(computed, staying)
        layers += [place.device for place, count in zip(places[1:], others, strict=True) for _ in range(count)]
        layers += ["cpu"] * kept + ["disk"] * (away - kept)
        said = f"{shortage}, so {_whereabouts(layers, sizes.layer)}"
        if away:
            said += f"; better {_either(remedies)}"
        return _divided_plan(config, shape, machine, places, sizes, slots, layers, f"{said}. ")
    return None


def _divided(config: Config, shape: ModelShape, cards: Sequence[Card]) -> list[_Place]:
    """The cards as the reference runner uses them, all in the dtype that suits each of them."""
    able = min(cards, key=lambda card: card.capability).capability
    places = [_on_card(config, shape, replace(card, capability=able)) for card in cards]
    return [replace(place, engine="torch", kv_dtype=place.dtype, graph_bytes=0) for place in places]


def _divided_slots(config: Config, most: int) -> list[int]:
    most = config.max_concurrent or most
    return [most, *(rows for rows in reversed(BATCH_ROWS) if rows < most)]


def _divided_pages(config: Config, shape: ModelShape, slots: int) -> tuple[int, int]:
    """(least, most)"""
    least = min(SLOT_TOKENS, shape.context_tokens)
    live = min(LIVE_SEGMENTS * shape.segment_tokens, shape.context_tokens)
    if config.kv_window is not None:
        live = min(live, config.kv_window + 2 * PAGE_TOKENS)
    return slots * pages_of(least), slots * (pages_of(max(live, least)) + 1)


def _sizes(config: Config, shape: ModelShape, place: _Place, slots: int, pages: int) -> _Sizes:
    wide = _DTYPE_BYTES[place.dtype]
    tables = (1 if shape.tied_head else 2) * shape.vocab_size * shape.hidden_size * wide
    page = PAGE_TOKENS * shape.kv_values_a_token // shape.layers * wide
    # what each row looks back at is gathered, padded to the longest, and laid out anew for the product
    longest = pages_of(min(shape.context_tokens, DIVIDED_SEQUENCE_TOKENS, pages * PAGE_TOKENS))
    gathered = 2 * slots * longest * page
    workspace = _workspace_bytes(config, shape, place, slots, DIVIDED_PREFILL_TOKENS)
    layers = _layer_bytes(config, shape, place, DIVIDED_PREFILL_TOKENS + slots) + place.library_bytes
    return _Sizes(
        layer=-(-(place.weights_bytes - tables) // shape.layers),
        tables=tables,
        page=page,
        workspace=workspace + gathered,
        more_workspace=layers + gathered,
        pages=pages + 1,
    )


def _shares(layers: int, sizes: _Sizes, places: Sequence[_Place]) -> list[int] | None:
    """How many layers each card gets. None where they do not fit."""
    taken = [float(sizes.tables + sizes.workspace), *(float(sizes.more_workspace) for _ in places[1:])]
    counts = [0] * len(places)
    for _ in range(layers):
        shares = [
            (used + sizes.layer + sizes.kv) / max(1, place.room_bytes)
            for used, place in zip(taken, places, strict=True)
        ]
        least = min(range(len(places)), key=shares.__getitem__)
        if shares[least] > 1:
            return None
        taken[least] += sizes.layer + sizes.kv
        counts[least] += 1
    return counts if taken[0] <= places[0].room_bytes else None


def _divided_plan(
    config: Config,
    shape: ModelShape,
    machine: Machine,
    places: Sequence[_Place],
    sizes: _Sizes,
    slots: int,
    layers: Sequence[str],
    said: str,
) -> LoadPlan:
    main, there = places[0], Counter(layers)
    fetched = there["cpu"] + there["disk"]
    taken = PlannedBytes(
        weights=sizes.tables + there[main.device] * sizes.layer,
        kv=(there[main.device] + fetched) * sizes.kv,
        workspace=sizes.workspace + min(FETCHED_AHEAD, fetched) * sizes.layer,
        graphs=0,
        context=main.context_bytes,
    )
    elsewhere = {
        place.device: PlannedBytes(
            there[place.device] * sizes.layer,
            there[place.device] * sizes.kv,
            sizes.more_workspace,
            0,
            place.context_bytes,
        )
        for place in places[1:]
    } | {name: PlannedBytes(there[name] * sizes.layer, 0, 0, 0, 0) for name in ("cpu", "disk") if there[name]}
    pages = sizes.pages - 1
    sequence = min(shape.context_tokens, DIVIDED_SEQUENCE_TOKENS, pages * PAGE_TOKENS)
    return LoadPlan(
        device=main.device,
        weights=main.weights,
        dtype=main.dtype,
        engine="torch",
        slots=slots,
        pages=pages,
        sequence_tokens=sequence,
        kv_dtype=main.kv_dtype,
        graphs=(),
        prefill_tokens=DIVIDED_PREFILL_TOKENS,
        segment_tokens=_segment_tokens(shape, sequence),
        threads=machine.cores,
        reason=said + _divided_reason(shape, places, slots, pages, taken, elsewhere),
        bytes=taken,
        layers=tuple(layers),
        elsewhere=elsewhere,
    )


def plan_shares(config: Config, shape: ModelShape, machine: Machine) -> LoadPlan:
    """Of `--split tensor`: the same for each of the cards, which hold a share of every layer; what the fullest can
    take. That the model can be divided so is looked at by `inference.sharding`. Raises as `plan`."""
    _check_stored(config.precision, shape)
    named, cards = config.devices.split("+"), _chosen(machine.cards, config.devices)
    if len(cards) < len(named):
        raise ConfigError(
            f"--devices {config.devices} names cards that are not there: this machine has {len(machine.cards)} CUDA "
            "cards; use --devices cpu."
        )
    if len({card.capability for card in cards}) > 1:
        kinds = " and ".join(f"{card.name} ({_sm(card)})" for card in cards)
        raise ConfigError(
            f"--split tensor has all cards choose the same words by the same numbers, so they must be of one kind, and "
            f"these are {kinds}; use --split layers."
        )
    card, count = min(cards, key=lambda each: each.free_bytes or 0), len(cards)
    if config.backend == "onnx":
        raise ConfigError("--backend onnx runs a model on one card; leave it out, or name one.")
    if config.kv_dtype == "fp8" and (not card.fast or config.precision == "fp32"):
        raise ConfigError(
            f"--kv-dtype fp8 needs CUDA cards of {KERNELS_FROM} or newer and 16 bits; leave it out, or --precision."
        )
    if config.precision == "int8" and shape.stored in _DTYPE_BYTES:
        raise ConfigError(
            f"--precision int8 rounds a model for the CPU; use --devices cpu, leave --precision out, or "
            f"{_int4_copy(shape)}."
        )
    share = replace(
        shape,
        heads=shape.heads // count,
        kv_heads=shape.kv_heads // count,
        intermediate_size=-(-shape.intermediate_size // count),
        quantized_parameters=shape.quantized_parameters // count,
        quantized_bytes=-(-shape.quantized_bytes // count),
    )
    place = _on_card(config, share, card)
    wide, table = _DTYPE_BYTES[place.dtype], shape.vocab_size * shape.hidden_size
    gathered = 2 * place.most_slots * shape.vocab_size * wide  # scores of all ranks, and in order
    place = replace(
        place,
        room_bytes=place.room_bytes - MEETING_BYTES,
        context_bytes=place.context_bytes + MEETING_BYTES,
        weights_bytes=place.weights_bytes - (0 if shape.tied_head else table * wide * (count - 1) // count),
        library_bytes=place.library_bytes + gathered,
    )
    _check_steady(config, place)
    if made := _fit(config, share, machine, place):
        others = dict.fromkeys((name for name in named if name != named[0]), made.bytes)
        said = f"{count} cards hold a share of every layer, each as follows. {made.reason}"
        return replace(made, device=named[0], elsewhere=others, reason=said)
    raise ConfigError(
        f"A share of the model, one of {count}, does not fit. {_shortage(config, share, place)}; use more cards, or a "
        "smaller model."
    )


def _pinned_room(config: Config, machine: Machine) -> int:
    room = int(machine.ram_free_bytes * PINNED_SHARE) - (PROCESS_BYTES - SURVEYED_BYTES)
    if config.max_ram_gb is not None:
        room = min(room, int(config.max_ram_gb * GB) - PROCESS_BYTES)
    return max(0, room)


# --------------------------------------------------------------------------------------------------------------- words


def _reason(shape: ModelShape, place: _Place, slots: int, pages: int, kv_dtype: str, taken: PlannedBytes) -> str:
    changed = f" (widened from {shape.stored})" if shape.quantized_parameters and place.weights == place.dtype else ""
    if place.rounded_from:
        changed = f" (rounded from {place.rounded_from} as they are read)"
    said = (
        f"{place.offers[:1].upper()}{place.offers[1:]}: weights in {place.weights}{changed} take {_gb(taken.weights)} "
        f"GB, a KV cache of {pages * PAGE_TOKENS:,} tokens in {kv_dtype} {_gb(taken.kv)} GB, all together, with "
        f"{place.itself}, {_gb(taken.total)} GB; {slots} sequences at once."
    )
    if place.unasked:  # figures: engine/README.md
        return (
            f"{said} A CPU is several times as fast in INT8 and translates as well; --precision {place.rounded_from} "
            "keeps the weights as they are stored."
        )
    if place.on_cpu or place.engine != "torch":
        return said
    return (
        f"{said} Our kernels and CUDA graphs run on cards of {KERNELS_FROM} or newer and in 16 bits, so this is slower."
    )


def _shortage(config: Config, shape: ModelShape, place: _Place) -> str:
    """What is needed for the least of use, and what there is."""
    return (
        f"The model needs at least {_least_bytes(config, shape, place) / GB + 0.05:.1f} GB on {place.device} "
        f"({_gb(place.weights_bytes)} of them for its weights in {place.weights}), and {place.offers}"
    )


def _least_bytes(config: Config, shape: ModelShape, place: _Place) -> int:
    """What one sequence of `SLOT_TOKENS` takes with all there is around it."""
    kv_dtype = "fp8" if place.fast and config.kv_dtype != "bf16" else place.kv_dtype
    prefill = _prefill_tokens(place, 1)
    kv_tokens = (pages_of(min(SLOT_TOKENS, shape.context_tokens)) + 1) * PAGE_TOKENS
    kv_bytes = kv_tokens * shape.kv_values_a_token * _DTYPE_BYTES[kv_dtype]
    return (
        place.weights_bytes + kv_bytes + _workspace_bytes(config, shape, place, 1, prefill) + place.fast * GRAPH_BYTES
    )


def _remedies(config: Config, shape: ModelShape, card: Card, place: _Place) -> list[str]:
    least = _least_bytes(config, shape, place)
    assert card.free_bytes is not None
    if config.max_vram_gb is not None and least <= card.free_bytes:
        needed = (least + CONTEXT_BYTES) / (1 - KEPT_BELOW_CEILING) / GB
        return [f"raise --max-vram-gb to {needed + 0.05:.1f}", "use a smaller model"]
    remedies = ["use a smaller model"]
    if least <= (card.total_bytes - CONTEXT_BYTES) * (1 - KEPT_FREE):
        remedies = ["close what else uses the card", *remedies]
    if shape.stored in _DTYPE_BYTES:
        remedies.append(_int4_copy(shape))
    return remedies


def _divided_reason(
    shape: ModelShape,
    places: Sequence[_Place],
    slots: int,
    pages: int,
    taken: PlannedBytes,
    elsewhere: Mapping[str, PlannedBytes],
) -> str:
    main = places[0]
    changed = f" (widened from {shape.stored})" if shape.quantized_parameters and main.weights == main.dtype else ""
    cards = {main.device: taken} | {place.device: elsewhere[place.device] for place in places[1:]}
    each = " and ".join(f"{_gb(bytes.total)} GB of {device}" for device, bytes in cards.items())
    kv = sum(bytes.kv for bytes in cards.values())
    return (
        f"Weights in {main.weights}{changed}, a KV cache of {pages * PAGE_TOKENS:,} tokens in {main.kv_dtype} "
        f"({_gb(kv)} GB) and all else take {each}, with CUDA itself; {slots} sequences at once, in plain torch."
    )


def _parted(places: Sequence[_Place], counts: Sequence[int]) -> str:
    offers = ", ".join(place.offers for place in places)
    each = ", ".join(f"{count} of them on {place.device}" for place, count in zip(places, counts, strict=True))
    return f"{offers[:1].upper()}{offers[1:]}: the model's {sum(counts)} layers are divided, {each}. "


def _whereabouts(layers: Sequence[str], layer_bytes: int) -> str:
    """What becomes of the layers, in words."""
    there = Counter(layers)
    names = {"cpu": "from the machine's memory", "disk": "from its disk"}
    said = {
        place: f"{count} ({_gb(count * layer_bytes)} GB) {names.get(place, f'on {place}')}"
        for place, count in there.items()
    }
    kept = " and ".join(words for place, words in said.items() if place not in names) or "none"
    fetched = " and ".join(words for place, words in said.items() if place in names)
    words = f"of its {len(layers)} layers it keeps {kept}"
    return f"{words}, and fetches {fetched} at every step, which is much slower" if fetched else words


def _either(remedies: Sequence[str]) -> str:
    return " or ".join([", ".join(remedies[:-1]), remedies[-1]] if remedies[1:] else remedies)


def _joint_shortage(config: Config, shape: ModelShape, places: Sequence[_Place]) -> str:
    least, _ = _divided_pages(config, shape, 1)
    sizes = _sizes(config, shape, places[0], 1, least)
    needed = sizes.tables + sizes.workspace + (len(places) - 1) * sizes.more_workspace
    needed += shape.layers * (sizes.layer + sizes.kv)
    offers = ", ".join(place.offers for place in places)
    return (
        f"The model needs at least {needed / GB + 0.05:.1f} GB on {len(places)} cards together "
        f"({_gb(places[0].weights_bytes)} of them for its weights in {places[0].weights}), and {offers}"
    )


def _others(config: Config, shape: ModelShape, machine: Machine, card: Card) -> list[str]:
    """Remedies that a ceiling does not name, and what more cards are good for."""
    others = [each.device for each in machine.cards if each.device != card.device]
    divided = [f"divide it over cards with --devices {'+'.join([card.device, *others])}"] if others else []
    small = config.max_vram_gb is not None and shape.stored in _DTYPE_BYTES
    return [*([_int4_copy(shape)] if small else []), *divided]


def _sm(card: Card) -> str:
    return f"sm_{card.capability[0]}{card.capability[1]}"


def _gb(count: float) -> str:
    return f"{count / GB:.1f}"


def _free(count: float) -> str:
    """To a tenth, downwards: what there is, is not made more."""
    return f"{count // 10**8 / 10:.1f}"


# -------------------------------------------------------------------------------------------------------------- survey


def survey(devices: str = "auto", root: Path = Path("/")) -> Machine:
    """What is here now. `devices` as in the config: only the cards that `plan` would choose are asked for their free
    memory, which opens a CUDA context there. `root` is where /proc and /sys are."""
    import torch

    cards = [] if devices == "cpu" else _cards()
    for card in _chosen(cards, devices):
        free_bytes, _ = torch.cuda.mem_get_info(card.device)
        cards[cards.index(card)] = replace(card, free_bytes=free_bytes)
    ram_bytes, ram_free_bytes = ram(root)
    return Machine(
        ram_bytes=ram_bytes,
        ram_free_bytes=ram_free_bytes,
        cores=cores_within(root, len(allowed_cores()) or os.cpu_count() or 1),
        bf16=bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        cards=tuple(cards),
        disk_free_bytes=_disk_free_bytes(offload_folder()) if cards else 0,
    )


def survey_shares(devices: str, root: Path = Path("/")) -> Machine:
    """As `survey`, for cards that other processes will compute on: no context is opened on them, which would take some
    of their memory for as long as this process lives."""
    seen = {card.device: card for card in Cards().read()} if (cards := _cards()) else {}
    found = []
    for card in cards:
        if card.device in devices.split("+"):
            import torch

            known = seen.get(card.device)  # but for MIG the driver tells; else CUDA is asked
            free = known.total_bytes - known.used_bytes if known else torch.cuda.mem_get_info(card.device)[0]
            card = replace(card, free_bytes=max(0, free - CONTEXT_BYTES))
        found.append(card)
    return replace(survey("cpu", root), cards=tuple(found))


def offload_folder() -> Path:
    """For layers that fit neither a card nor the memory. Not the system's folder for passing files: that may be in
    memory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yiwen" / "offload"


def _disk_free_bytes(folder: Path) -> int:
    """Of the disk where it is, or is to be."""
    for place in [folder, *folder.parents]:
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return 0


def _cards() -> list[Card]:
    import torch

    if not torch.cuda.is_available():
        return []
    oldest = min((int(name.rpartition("_")[2]) for name in _plain(torch.cuda.get_arch_list())), default=0)
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        if 10 * properties.major + properties.minor < oldest:
            log.warning(
                "%s (cuda:%d) is of sm_%d%d, and this torch runs on sm_%d and newer; it is left alone",
                properties.name, index, properties.major, properties.minor, oldest,
            )  # fmt: skip
            continue
        capability = (properties.major, properties.minor)
        found.append(Card(f"cuda:{index}", properties.name, properties.total_memory, capability))
    return found


def _plain(architectures: Sequence[str]) -> list[str]:
    """Without those such as sm_90a, whose plain form stands beside them."""
    return [name for name in architectures if name.rpartition("_")[2].isdigit()]


def allowed_cores() -> list[int]:
    """Their numbers, where the system says and obeys them: not on macOS and Windows."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else []


def cores_within(root: Path, cores: int) -> int:
    """As many as the CPU quota of the control groups allows; a part of a core is not counted."""
    for group in _groups(root, "cpu"):
        quota, _, period = _read(group / "cpu.max").partition(" ")  # v2: "200000 100000" or "max 100000"
        if not quota:
            quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")  # v1; -1 is none
        if quota.isdigit() and period.isdigit() and int(period):
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def ram(root: Path = Path("/")) -> tuple[int, int]:
    """(all, free) bytes of this machine, as far as this process may use them."""
    import psutil  # here, since assets/start.py plans before anything is installed

    memory = psutil.virtual_memory()
    return ram_within(root, int(memory.total), int(memory.available))


def ram_within(root: Path, total: int, free: int) -> tuple[int, int]:
    """(all, free) bytes under the limits of the control groups. What files are cached there counts as free."""
    for group in _groups(root, "memory"):
        limit, used, cached = _read(group / "memory.max"), _read(group / "memory.current"), "inactive_file"  # v2
        if not limit:
            limit, used = _read(group / "memory.limit_in_bytes"), _read(group / "memory.usage_in_bytes")  # v1
            cached = "total_inactive_file"
        if limit.isdigit() and used.isdigit():  # v2 writes "max" for none, v1 nearly 2⁶³
            kept = dict(line.split() for line in _read(group / "memory.stat").splitlines() if line.count(" ") == 1)
            total = min(total, int(limit))
            free = min(free, max(0, int(limit) - int(used) + int(kept.get(cached, 0))))
    return total, free


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups around this process, innermost first. In a container the path that /proc names
    need not be there, but the topmost folder is the container's own."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / controllers  # v2 names no controller
        inner = base / path.strip("/")
        yield from (folder for folder in [inner, *inner.parents] if folder.is_relative_to(base))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
