"""The CUDA cards that this process may see, how full they are and how linked, as NVIDIA's driver says (NVML). Opens no
context on any: a process that runs on the CPU leaves them alone. Knows no model."""

import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Card:
    device: str  # "cuda:0", as CUDA counts them for this process
    name: str
    total_bytes: int
    used_bytes: int  # by everybody
    allocated_bytes: int = 0  # that torch has taken for this process, CUDA's own context not counted


class Cards:
    """Read from one thread. A driver that is not there, or has no card, is not asked again; then torch is, where this
    process computes on cards all the same."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._listed = environ.get("CUDA_VISIBLE_DEVICES")
        self._nvml: Any = None  # the module; it has no types
        self._handles: list[Any] | None = None  # None: not looked for yet
        self._counted_by_cuda = False

    def read(self) -> list[Card]:
        """None is left out but those that the driver cannot read."""
        if self._handles is None:
            self._handles = self._found()
        torch = _torch_on_cards()
        if not self._handles:
            return [] if torch is None else _by_torch(torch)
        if torch is not None and not self._counted_by_cuda:
            self._counted_by_cuda = True
            self._handles = self._as_cuda_counts(torch) or self._handles
        cards = []
        for index, handle in enumerate(self._handles):
            try:
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                name = self._nvml.nvmlDeviceGetName(handle)
            except self._nvml.NVMLError as error:
                log.debug("cuda:%d cannot be read: %s", index, error)
                continue
            allocated = int(torch.cuda.memory_reserved(index)) if torch is not None else 0
            cards.append(Card(f"cuda:{index}", name, int(memory.total), int(memory.total - memory.free), allocated))
        return cards

    def linked(self, devices: Sequence[str]) -> bool:
        """Whether NVLink joins each of these with each other. Where the driver does not tell it counts as no."""
        present = {card.device for card in self.read()}
        if not (self._handles and present.issuperset(devices)):
            return False
        nvml, handles = self._nvml, [self._handles[int(device.removeprefix("cuda:"))] for device in devices]
        try:
            return all(
                nvml.nvmlDeviceGetP2PStatus(one, other, nvml.NVML_P2P_CAPS_INDEX_NVLINK) == nvml.NVML_P2P_STATUS_OK
                for one, other in combinations(handles, 2)
            )
        except nvml.NVMLError as error:
            log.debug("how cards are linked cannot be read: %s", error)
            return False

    def _found(self) -> list[Any]:
        try:
            self._nvml = importlib.import_module("pynvml")
        except ImportError as error:
            log.info("cards are not watched: nvidia-ml-py cannot be imported (%s)", error)
            return []
        nvml = self._nvml
        try:
            nvml.nvmlInit()
            every = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            if self._listed is None:
                return every
            uuids = [nvml.nvmlDeviceGetUUID(handle) for handle in every]
        except nvml.NVMLError as error:  # no driver: the usual case of a machine without a card
            log.debug("no cards: %s", error)
            return []
        return [
            handle
            for place in visible(self._listed, uuids)
            if (handle := every[place] if isinstance(place, int) else self._by_uuid(place)) is not None
        ]

    def _by_uuid(self, uuid: str) -> Any:
        try:
            return self._nvml.nvmlDeviceGetHandleByUUID(uuid)
        except self._nvml.NVMLError:
            return None

    def _as_cuda_counts(self, torch: Any) -> list[Any]:
        """In the order of CUDA, which puts the fastest first where CUDA_DEVICE_ORDER does not say otherwise."""
        handles = []
        for index in range(torch.cuda.device_count()):
            uuid = getattr(torch.cuda.get_device_properties(index), "uuid", "")
            found = [each for kind in ("GPU", "MIG") if (each := self._by_uuid(f"{kind}-{uuid}")) is not None]
            if not found:
                return []
            handles.append(found[0])
        return handles


def visible(listed: str, uuids: Sequence[str]) -> list[int | str]:
    """Which of the cards, in CUDA's order, a CUDA_VISIBLE_DEVICES names: numbers, beginnings of UUIDs, or a part of a
    card (MIG) by its whole UUID. What stands behind the first that is none counts no more; one named twice is an error
    to CUDA, which then sees none."""
    places: list[int | str] = []
    for name in (each.strip() for each in listed.split(",")):
        if name.startswith("MIG-"):
            places.append(name)
            continue
        if name.isdecimal():
            fits = [int(name)] if int(name) < len(uuids) else []
        else:
            fits = [index for index, uuid in enumerate(uuids) if len(name) > len("GPU-") and uuid.startswith(name)]
        if len(fits) != 1:
            break
        places.append(fits[0])
    return places if len(set(places)) == len(places) else []


def _by_torch(torch: Any) -> list[Card]:
    cards = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        allocated = int(torch.cuda.memory_reserved(index))
        cards.append(Card(f"cuda:{index}", torch.cuda.get_device_name(index), total, total - free, allocated))
    return cards


def _torch_on_cards() -> Any:
    """Torch, if this process computes on a card with it already. Importing it costs seconds, a context memory."""
    cuda = sys.modules.get("torch.cuda")
    ready = getattr(cuda, "is_initialized", None)  # it may be half imported, on another thread
    return sys.modules["torch"] if ready is not None and ready() else None
