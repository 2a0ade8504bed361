"""One model in several places: layers on several cards, or fetched to a card at every step from where there is room.
Pure functions; `hardware.plan` asks for it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from engine.config import Config
from engine.errors import ConfigError
from engine.footprint import (
    BATCH_ROWS,
    DTYPE_BYTES,
    LIVE_SEGMENTS,
    PROCESS_BYTES,
    SLOT_TOKENS,
    SURVEYED_BYTES,
    LoadPlan,
    Place,
    PlannedBytes,
    activation_bytes,
    card_place,
    check_several_cards,
    check_steady,
    gb,
    int4_copy,
    segment_tokens,
    workspace_bytes,
)
from engine.inference.kv_cache import PAGE_TOKENS, pages_of
from engine.inventory import GB, Card, Machine
from engine.shape import ModelShape

DIVIDED_SLOTS = 32  # over cards, where the reference runner pads every row to the longest
FETCHED_SLOTS = 8  # one fetching of the layers serves all rows, but the room for another is a layer less that stays
DIVIDED_PREFILL_TOKENS = 1_024  # a step takes as long as the fetching, whatever its tokens; more take more workspace
DIVIDED_SEQUENCE_TOKENS = 4_096  # so that what the longest gathers of its pages has a bound
FETCHED_AHEAD = 2  # layers that have a place on the card in turn: one computes, the next is on its way
# What is fetched lies in memory that a card copies from by itself, in blocks, since torch rounds it up to powers of two
BLOCK_BYTES = 16 << 20
PINNED_SHARE = 0.75  # of the memory that is free: it can never be swapped out
DISK_SHARE = 0.9  # of the room on the disk


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


def over_cards(config: Config, shape: ModelShape, machine: Machine, cards: Sequence[Card]) -> LoadPlan:
    """Each card gets as many layers, with their part of the KV cache, as make all of them full to the same share."""
    check_several_cards(config, shape)
    if config.kv_dtype == "fp8":
        raise ConfigError("--kv-dtype fp8 has no kernel where one model is on several cards; leave it out.")
    places = _divided(config, shape, cards)
    check_steady(config, places[0])
    for slots in _divided_slots(config, DIVIDED_SLOTS):
        least, most = _divided_pages(config, shape, slots)
        for pages in range(most, least - 1, -max(1, (most - least) // 16)):  # fine enough, and quick
            sizes = _sizes(config, shape, places[0], slots, pages)
            if counts := _shares(shape.layers, sizes, places):
                layers = [place.device for place, count in zip(places, counts, strict=True) for _ in range(count)]
                return _divided_plan(config, shape, machine, places, sizes, slots, layers, _parted(places, counts))
    shortage = _joint_shortage(config, shape, places)
    remedies = ["use a smaller model", *([int4_copy(shape)] if shape.stored in DTYPE_BYTES else [])]
    if made := with_fetched_layers(config, shape, machine, cards, shortage, remedies):
        return made
    raise ConfigError(f"{shortage}; {', or '.join(remedies)}.")


def with_fetched_layers(
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


def _divided(config: Config, shape: ModelShape, cards: Sequence[Card]) -> list[Place]:
    """The cards as the reference runner uses them, all in the dtype that suits each of them."""
    able = min(cards, key=lambda card: card.capability).capability
    places = [card_place(config, shape, replace(card, capability=able)) for card in cards]
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


def _sizes(config: Config, shape: ModelShape, place: Place, slots: int, pages: int) -> _Sizes:
    wide = DTYPE_BYTES[place.dtype]
    tables = (1 if shape.tied_head else 2) * shape.vocab_size * shape.hidden_size * wide
    page = PAGE_TOKENS * shape.kv_values_a_token // shape.layers * wide
    # what each row looks back at is gathered, padded to the longest, and laid out anew for the product
    longest = pages_of(min(shape.context_tokens, DIVIDED_SEQUENCE_TOKENS, pages * PAGE_TOKENS))
    gathered = 2 * slots * longest * page
    workspace = workspace_bytes(config, shape, place, slots, DIVIDED_PREFILL_TOKENS)
    layers = activation_bytes(config, shape, place, DIVIDED_PREFILL_TOKENS + slots) + place.library_bytes
    return _Sizes(
        layer=-(-(place.weights_bytes - tables) // shape.layers),
        tables=tables,
        page=page,
        workspace=workspace + gathered,
        more_workspace=layers + gathered,
        pages=pages + 1,
    )


def _shares(layers: int, sizes: _Sizes, places: Sequence[Place]) -> list[int] | None:
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
    places: Sequence[Place],
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
        segment_tokens=segment_tokens(shape, sequence),
        threads=machine.cores,
        reason=said + _divided_reason(shape, places, slots, pages, taken, elsewhere),
        bytes=taken,
        layers=tuple(layers),
        elsewhere=elsewhere,
    )


def _pinned_room(config: Config, machine: Machine) -> int:
    room = int(machine.ram_free_bytes * PINNED_SHARE) - (PROCESS_BYTES - SURVEYED_BYTES)
    if config.max_ram_gb is not None:
        room = min(room, int(config.max_ram_gb * GB) - PROCESS_BYTES)
    return max(0, room)


def _divided_reason(
    shape: ModelShape,
    places: Sequence[Place],
    slots: int,
    pages: int,
    taken: PlannedBytes,
    elsewhere: Mapping[str, PlannedBytes],
) -> str:
    main = places[0]
    changed = f" (widened from {shape.stored})" if shape.quantized_parameters and main.weights == main.dtype else ""
    cards = {main.device: taken} | {place.device: elsewhere[place.device] for place in places[1:]}
    each = " and ".join(f"{gb(bytes.total)} GB of {device}" for device, bytes in cards.items())
    kv = sum(bytes.kv for bytes in cards.values())
    return (
        f"Weights in {main.weights}{changed}, a KV cache of {pages * PAGE_TOKENS:,} tokens in {main.kv_dtype} "
        f"({gb(kv)} GB) and all else take {each}, with CUDA itself; {slots} sequences at once, in plain torch."
    )


def _parted(places: Sequence[Place], counts: Sequence[int]) -> str:
    offers = ", ".join(place.offers for place in places)
    each = ", ".join(f"{count} of them on {place.device}" for place, count in zip(places, counts, strict=True))
    return f"{offers[:1].upper()}{offers[1:]}: the model's {sum(counts)} layers are divided, {each}. "


def _whereabouts(layers: Sequence[str], layer_bytes: int) -> str:
    """What becomes of the layers, in words."""
    there = Counter(layers)
    names = {"cpu": "from the machine's memory", "disk": "from its disk"}
    said = {
        place: f"{count} ({gb(count * layer_bytes)} GB) {names.get(place, f'on {place}')}"
        for place, count in there.items()
    }
    kept = " and ".join(words for place, words in said.items() if place not in names) or "none"
    fetched = " and ".join(words for place, words in said.items() if place in names)
    words = f"of its {len(layers)} layers it keeps {kept}"
    return f"{words}, and fetches {fetched} at every step, which is much slower" if fetched else words


def _either(remedies: Sequence[str]) -> str:
    return " or ".join([", ".join(remedies[:-1]), remedies[-1]] if remedies[1:] else remedies)


def _joint_shortage(config: Config, shape: ModelShape, places: Sequence[Place]) -> str:
    least, _ = _divided_pages(config, shape, 1)
    sizes = _sizes(config, shape, places[0], 1, least)
    needed = sizes.tables + sizes.workspace + (len(places) - 1) * sizes.more_workspace
    needed += shape.layers * (sizes.layer + sizes.kv)
    offers = ", ".join(place.offers for place in places)
    return (
        f"The model needs at least {needed / GB + 0.05:.1f} GB on {len(places)} cards together "
        f"({gb(places[0].weights_bytes)} of them for its weights in {places[0].weights}), and {offers}"
    )
