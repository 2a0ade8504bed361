"""How a model is best loaded into a machine: weights, batch, KV pages, graphs, and why.

`plan` decides and is a pure function. Knows sizes and devices, no model, no tensor.
"""

from collections.abc import Iterator
from dataclasses import replace

from engine.config import Config
from engine.divided import over_cards, with_fetched_layers
from engine.errors import ConfigError
from engine.footprint import (
    BATCH_ROWS,
    DTYPE_BYTES,
    GRAPH_BYTES,
    KEPT_BELOW_CEILING,
    KEPT_FREE,
    KERNELS_FROM,
    LIVE_SEGMENTS,
    SLOT_TOKENS,
    LoadPlan,
    Place,
    PlannedBytes,
    card_place,
    check_several_cards,
    check_steady,
    check_stored,
    cpu_place,
    gb,
    int4_copy,
    prefill_tokens,
    segment_tokens,
    sm,
    workspace_bytes,
)
from engine.inference.kv_cache import PAGE_TOKENS, pages_of
from engine.inventory import CONTEXT_BYTES, GB, Card, Machine, chosen_cards
from engine.shape import ModelShape

MIN_KV_SLOTS = 8  # with room for fewer in 16 bits, `--kv-dtype auto` takes FP8
# Of cards that hold a share of each layer: NCCL's buffers and code. Not measured
MEETING_BYTES = 500_000_000
CPU_PARAMETERS = 2_000_000_000  # larger ones say a word or two a second: never instead of a card unless asked for


def plan(config: Config, shape: ModelShape, machine: Machine) -> LoadPlan:
    """The largest batch that fits, up to `CARD_SLOTS` or `CPU_SLOTS` or what was asked for.

    Raises `ConfigError`: nothing fits, or a device is not there; `UnsupportedModel`: not stored in what was asked for.
    """
    check_stored(config.precision, shape)
    cards = chosen_cards(machine.cards, config.devices)
    if config.devices not in ("auto", "cpu") and len(cards) < len(named := config.devices.split("+")):
        missing = next(name for name in named if name not in {card.device for card in cards})
        raise ConfigError(
            f"There is no device {missing!r}: this machine has {len(machine.cards)} CUDA cards; use --devices cpu."
        )
    if len(cards) > 1:
        return over_cards(config, shape, machine, cards)
    card = next(iter(cards), None)
    if config.kv_dtype == "fp8" and not (card and card.fast):
        raise ConfigError(
            f"--kv-dtype fp8 needs a CUDA card of {KERNELS_FROM} or newer, and the model would run on "
            f"{f'{card.name} ({sm(card)})' if card else 'the CPU'}; leave it out."
        )
    if config.kv_dtype == "fp8" and config.precision == "fp32":
        raise ConfigError("--kv-dtype fp8 has no kernel for --precision fp32; leave one of the two out.")
    if card and config.precision == "int8" and shape.stored in DTYPE_BYTES:
        raise ConfigError(
            f"--precision int8 rounds a model for the CPU, and {card.name} ({card.device}) would have to widen it "
            f"again; use --devices cpu, leave --precision out, or {int4_copy(shape)}."
        )
    if card is None:
        on_cpu = cpu_place(config, shape, machine)
        check_steady(config, on_cpu)
        if made := _fit(config, shape, machine, on_cpu):
            return made
        raise ConfigError(f"{_shortage(config, shape, on_cpu)}; use a smaller model, or a machine with more memory.")
    on_card = card_place(config, shape, card)
    check_steady(config, on_card)
    if made := _fit(config, shape, machine, on_card):
        return made
    shortage = _shortage(config, shape, on_card)
    remedies = _remedies(config, shape, card, on_card)
    chosen = config.devices != "auto" or config.max_vram_gb is not None or config.kv_dtype == "fp8"
    large = shape.parameters > CPU_PARAMETERS
    fetched = with_fetched_layers(
        config, shape, machine, [card], shortage, [*remedies, *_others(config, shape, machine, card)]
    )
    if fetched and (chosen or large):
        return fetched
    if chosen or large:
        raise ConfigError(f"{shortage}; {', '.join(remedies)}, or use --devices cpu.")
    on_cpu = cpu_place(config, shape, machine)
    if made := _fit(config, shape, machine, on_cpu):
        return replace(made, reason=f"{shortage}, so it runs on the CPU, which is much slower. {made.reason}")
    if fetched:
        return fetched
    raise ConfigError(f"{shortage}, and {on_cpu.offers}; {' or '.join(remedies)}.")


def _fit(config: Config, shape: ModelShape, machine: Machine, place: Place) -> LoadPlan | None:
    """None where not even one sequence of `SLOT_TOKENS` fits."""
    made = _fit_batch(config, shape, machine, place, "fp8" if config.kv_dtype == "fp8" else place.kv_dtype)
    if config.kv_dtype != "auto" or not place.fast or (made and made.slots >= min(MIN_KV_SLOTS, place.most_slots)):
        return made
    halved = _fit_batch(config, shape, machine, place, "fp8")
    if halved is None:
        return made
    at_once = f"only {made.slots} at once" if made else "none"
    return replace(halved, reason=f"{halved.reason} The KV cache is in FP8: in 16 bits there is room for {at_once}.")


def _fit_batch(config: Config, shape: ModelShape, machine: Machine, place: Place, kv_dtype: str) -> LoadPlan | None:
    page_bytes = PAGE_TOKENS * shape.kv_values_a_token * DTYPE_BYTES[kv_dtype]
    least = min(SLOT_TOKENS, shape.context_tokens)
    live = min(LIVE_SEGMENTS * shape.segment_tokens, shape.context_tokens)
    if config.kv_window is not None:
        live = min(live, config.kv_window + 2 * PAGE_TOKENS)  # the first page stays, and the window may begin in one
    if place.engine == "onnx":  # a buffer for each slot, which has to hold the longest
        each, scrap = pages_of(shape.context_tokens), 0
    else:
        each, scrap = pages_of(max(live, least)) + 1, 1  # the scrap page is to pad a batch with
    for slots, graphs in _batches(place):
        prefill = prefill_tokens(place, slots)
        workspace = workspace_bytes(config, shape, place, slots, prefill)
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
            segment_tokens=segment_tokens(shape, sequence),
            threads=machine.cores,
            reason=_reason(shape, place, slots, pages, kv_dtype, taken),
            bytes=taken,
        )
    return None


def _batches(place: Place) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(slots, graphs), the best first."""
    for slots in [place.most_slots, *(rows for rows in reversed(BATCH_ROWS) if rows < place.most_slots)]:
        if place.fast:
            yield slots, tuple(sorted({slots, *(rows for rows in BATCH_ROWS if rows < slots)}))
            continue
        if place.engine == "openvino":
            yield slots, tuple(sorted({1, slots}))
        yield slots, ()


def plan_shares(config: Config, shape: ModelShape, machine: Machine) -> LoadPlan:
    """Of `--split tensor`: the same for each of the cards, which hold a share of every layer; what the fullest can
    take. That the model can be divided so is looked at by `inference.sharding`. Raises as `plan`."""
    check_stored(config.precision, shape)
    named, cards = config.devices.split("+"), chosen_cards(machine.cards, config.devices)
    if len(cards) < len(named):
        raise ConfigError(
            f"--devices {config.devices} names cards that are not there: this machine has {len(machine.cards)} CUDA "
            "cards; use --devices cpu."
        )
    if len({card.capability for card in cards}) > 1:
        kinds = " and ".join(f"{card.name} ({sm(card)})" for card in cards)
        raise ConfigError(
            f"--split tensor has all cards choose the same words by the same numbers, so they must be of one kind, and "
            f"these are {kinds}; use --split layers."
        )
    card, count = min(cards, key=lambda each: each.free_bytes or 0), len(cards)
    check_several_cards(config, shape)
    if config.kv_dtype == "fp8" and (not card.fast or config.precision == "fp32"):
        raise ConfigError(
            f"--kv-dtype fp8 needs CUDA cards of {KERNELS_FROM} or newer and 16 bits; leave it out, or --precision."
        )
    share = replace(
        shape,
        heads=shape.heads // count,
        kv_heads=shape.kv_heads // count,
        intermediate_size=-(-shape.intermediate_size // count),
        quantized_parameters=shape.quantized_parameters // count,
        quantized_bytes=-(-shape.quantized_bytes // count),
    )
    place = card_place(config, share, card)
    wide, table = DTYPE_BYTES[place.dtype], shape.vocab_size * shape.hidden_size
    gathered = 2 * place.most_slots * shape.vocab_size * wide  # scores of all ranks, and in order
    place = replace(
        place,
        room_bytes=place.room_bytes - MEETING_BYTES,
        context_bytes=place.context_bytes + MEETING_BYTES,
        weights_bytes=place.weights_bytes - (0 if shape.tied_head else table * wide * (count - 1) // count),
        library_bytes=place.library_bytes + gathered,
    )
    check_steady(config, place)
    if made := _fit(config, share, machine, place):
        others = dict.fromkeys((name for name in named if name != named[0]), made.bytes)
        said = f"{count} cards hold a share of every layer, each as follows. {made.reason}"
        return replace(made, device=named[0], elsewhere=others, reason=said)
    raise ConfigError(
        f"A share of the model, one of {count}, does not fit. {_shortage(config, share, place)}; use more cards, or "
        "a smaller model."
    )


def _reason(shape: ModelShape, place: Place, slots: int, pages: int, kv_dtype: str, taken: PlannedBytes) -> str:
    changed = f" (widened from {shape.stored})" if shape.quantized_parameters and place.weights == place.dtype else ""
    if place.rounded_from:
        changed = f" (rounded from {place.rounded_from} as they are read)"
    said = (
        f"{place.offers[:1].upper()}{place.offers[1:]}: weights in {place.weights}{changed} take {gb(taken.weights)} "
        f"GB, a KV cache of {pages * PAGE_TOKENS:,} tokens in {kv_dtype} {gb(taken.kv)} GB, all together, with "
        f"{place.itself}, {gb(taken.total)} GB; {slots} sequences at once."
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


def _shortage(config: Config, shape: ModelShape, place: Place) -> str:
    """What is needed for the least of use, and what there is."""
    return (
        f"The model needs at least {_least_bytes(config, shape, place) / GB + 0.05:.1f} GB on {place.device} "
        f"({gb(place.weights_bytes)} of them for its weights in {place.weights}), and {place.offers}"
    )


def _least_bytes(config: Config, shape: ModelShape, place: Place) -> int:
    """What one sequence of `SLOT_TOKENS` takes with all there is around it."""
    kv_dtype = "fp8" if place.fast and config.kv_dtype != "bf16" else place.kv_dtype
    prefill = prefill_tokens(place, 1)
    kv_tokens = (pages_of(min(SLOT_TOKENS, shape.context_tokens)) + 1) * PAGE_TOKENS
    kv_bytes = kv_tokens * shape.kv_values_a_token * DTYPE_BYTES[kv_dtype]
    return place.weights_bytes + kv_bytes + workspace_bytes(config, shape, place, 1, prefill) + place.fast * GRAPH_BYTES


def _remedies(config: Config, shape: ModelShape, card: Card, place: Place) -> list[str]:
    least = _least_bytes(config, shape, place)
    assert card.free_bytes is not None
    if config.max_vram_gb is not None and least <= card.free_bytes:
        needed = (least + CONTEXT_BYTES) / (1 - KEPT_BELOW_CEILING) / GB
        return [f"raise --max-vram-gb to {needed + 0.05:.1f}", "use a smaller model"]
    remedies = ["use a smaller model"]
    if least <= (card.total_bytes - CONTEXT_BYTES) * (1 - KEPT_FREE):
        remedies = ["close what else uses the card", *remedies]
    if shape.stored in DTYPE_BYTES:
        remedies.append(int4_copy(shape))
    return remedies


def _others(config: Config, shape: ModelShape, machine: Machine, card: Card) -> list[str]:
    """Remedies that a ceiling does not name, and what more cards are good for."""
    others = [each.device for each in machine.cards if each.device != card.device]
    divided = [f"divide it over cards with --devices {'+'.join([card.device, *others])}"] if others else []
    small = config.max_vram_gb is not None and shape.stored in DTYPE_BYTES
    return [*([int4_copy(shape)] if small else []), *divided]
