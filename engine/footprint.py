"""What of a device's memory a model may take, and what takes how much of it. Pure functions; knows sizes and devices,
no model and no tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from engine.config import Config
from engine.errors import ConfigError, UnsupportedModel
from engine.inventory import CONTEXT_BYTES, GB, Card, Machine
from engine.shape import ModelShape

# --- what a card needs beside weights and KV cache: bounds, to be compared with what a run reports by kind
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
PREFILL_TOKENS = ((32, 2_048), (8, 1_024), (1, 512))  # from so many slots on; fewer slots: a smaller card
# Whatever the slots: of the reference runner on older cards and on the CPU, and of the runners of graphs
OLD_PREFILL_TOKENS, CPU_PREFILL_TOKENS, PACKED_PREFILL_TOKENS = 4_096, 1_024, 256

# --- abilities
KERNELS_FROM = "sm_80"  # `inventory.KERNEL_CAPABILITY` in words
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
DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}


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


@dataclass(frozen=True, slots=True)
class Place:
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


def check_stored(precision: str, shape: ModelShape) -> None:
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
                f"This model is not stored in INT4 but in {stored}; leave --precision out, or {int4_copy(shape)}."
            )
        made = "make an INT4 copy with `python -m engine.tools.quantize`, or " if shape.stored in DTYPE_BYTES else ""
        raise UnsupportedModel(f"This model is not stored in INT4 but in {shape.stored}; {made}leave --precision out.")


def int4_copy(shape: ModelShape) -> str:
    """Of a model in 16 or 32 bits, or read so: what is in GPTQ already is not quantised again."""
    if shape.widened_from:
        return "make a copy of its original weights in INT4 with `python -m engine.tools.quantize`"
    return "make a copy in INT4 with `python -m engine.tools.quantize`"


def check_several_cards(config: Config, shape: ModelShape) -> None:
    """What no model on several cards can do, however it is divided."""
    if config.backend == "onnx":
        raise ConfigError("--backend onnx runs a model on one card; leave it out, or name one.")
    if config.precision == "int8" and shape.stored in DTYPE_BYTES:
        raise ConfigError(
            f"--precision int8 rounds a model for the CPU; use --devices cpu, leave --precision out, or "
            f"{int4_copy(shape)}."
        )


def check_steady(config: Config, place: Place) -> None:
    if config.deterministic and place.engine == "torch":
        raise ConfigError(
            "--deterministic is kept by our kernels on a card and by OpenVINO for INT4 and INT8 weights, and here the "
            f"model would run in plain torch, in {place.dtype}; leave the flag out, or take such weights."
        )


def card_place(config: Config, shape: ModelShape, card: Card) -> Place:
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
    return Place(
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
        offers=f"{card.name} ({card.device}) has {_free(card.free_bytes)} of {gb(card.total_bytes)} GB free, "
        f"{_free(room)} of them for the model{limit}",
        itself="CUDA itself",
    )


def cpu_place(config: Config, shape: ModelShape, machine: Machine) -> Place:
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
    return Place(
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
        offers=f"the machine has {_free(machine.ram_free_bytes)} of {gb(machine.ram_bytes)} GB of memory free, "
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
    wide = DTYPE_BYTES[dtype]
    if weights == shape.stored and shape.quantized_parameters:
        return shape.quantized_bytes + (shape.parameters - shape.quantized_parameters) * wide
    return shape.parameters * wide


def _packed_bytes(shape: ModelShape, weights: str) -> int:
    """Of one copy in a graph."""
    table = shape.vocab_size * shape.hidden_size
    if weights == "gptq-int4":  # the embedding is rounded to INT8, the head to INT4 with 16 bits of scale for 64
        return shape.quantized_bytes + table * 25 // 16
    again = table if shape.tied_head else 0  # the embedding is there as the head once more
    return shape.quantized_bytes + again if weights == "int8" else (shape.parameters + again) * DTYPE_BYTES["fp32"]


def prefill_tokens(place: Place, slots: int) -> int:
    if place.fast:
        return next(count for rows, count in PREFILL_TOKENS if slots >= rows)
    if place.engine != "torch":
        return PACKED_PREFILL_TOKENS
    return CPU_PREFILL_TOKENS if place.on_cpu else OLD_PREFILL_TOKENS


def workspace_bytes(config: Config, shape: ModelShape, place: Place, slots: int, prefill_tokens: int) -> int:
    """A bound: the layers of the largest step, or then its choice of tokens, and on a card of our kernels the same of
    the largest captured step, whose memory nothing else may use."""
    choice = shape.vocab_size * (slots * SCORE_BYTES + min(slots, SORTED_ROWS) * SORTED_SCORE_BYTES)
    launched = max(activation_bytes(config, shape, place, prefill_tokens + slots), choice) + place.library_bytes
    if not place.fast:
        return launched + slots * SLOT_BYTES
    scores = slots * shape.vocab_size * DTYPE_BYTES[place.dtype]
    captured = activation_bytes(config, shape, place, max(slots, CAPTURED_ROWS)) + scores + place.library_bytes
    attended = ATTENTION_BLOCKS * ATTENTION_ROWS * (shape.head_dim + 2) * 4
    return launched + captured + 2 * attended + slots * SLOT_BYTES


def activation_bytes(config: Config, shape: ModelShape, place: Place, rows: int) -> int:
    """Each activation of one layer once, the residual stream and what gate and up become four times."""
    wide = 4 if place.on_cpu else DTYPE_BYTES[place.dtype]
    heads = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    activations = rows * (4 * shape.hidden_size + 2 * heads + 4 * shape.intermediate_size) * wide
    if place.weights != "gptq-int4" or place.on_cpu:
        return activations
    sums = (heads + shape.hidden_size) * 4  # of a row, in two products that follow each other
    if config.deterministic:
        attended = shape.heads * (shape.head_dim + 2) * 4
        return activations + rows * DETERMINISTIC_SPLITS * (sums + attended)
    return activations + SPLIT_ROWS * sums + min(2 * shape.intermediate_size * shape.hidden_size * wide, SLAB_BYTES)


def segment_tokens(shape: ModelShape, sequence_tokens: int) -> int:
    """What is left of a sequence after a prompt, which may have half of it."""
    prompt = min(PROMPT_TOKENS, sequence_tokens // 2)
    return min(shape.segment_tokens, (sequence_tokens - prompt) // ANSWER_SHARE)


def sm(card: Card) -> str:
    return f"sm_{card.capability[0]}{card.capability[1]}"


def gb(count: float) -> str:
    return f"{count / GB:.1f}"


def _free(count: float) -> str:
    """To a tenth, downwards: what there is, is not made more."""
    return f"{count // 10**8 / 10:.1f}"
