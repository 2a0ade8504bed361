"""What each device holds, what each of several members of the model is at, and how fast we are, sampled every two
seconds for a minute, in a thread of its own: whoever asks reads what was sampled. Knows no model and no request; what
is measured is handed in."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Literal

from engine.balance import Load, Standing
from engine.cards import Card, Cards
from engine.inventory import ram
from engine.metrics import Held, Memory, Metrics, memory_of
from engine.types import Replica

SAMPLE_SECONDS = 2.0
SAMPLES = 30  # a minute of them
FULL_SHARE = 0.9
CPU_NAME = "Memory of this program"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """Bytes. All together are the device's, all but `free` those in use."""

    weights: int
    kv_used: int  # in pages that a sequence holds
    kv_free: int  # taken for the KV cache, and not used now
    workspace: int  # activations, sampling, what torch keeps for the next step
    other: int  # the rest of what we hold, such as CUDA's own; on a card also other programs
    free: int  # on the CPU: not used by this program


@dataclass(frozen=True, slots=True)
class Device:
    device: str  # "cpu", "cuda:0"
    name: str
    total_bytes: int  # of the CPU: the machine's, or its control group's
    used_bytes: int  # of a card by everybody, of the CPU by this process
    limit_bytes: int | None  # what the user lets us take
    ours: bool  # whether our model is there
    full: bool  # over nine tenths in use, where what is taken for the KV cache and not used does not count
    parts: Parts


@dataclass(frozen=True, slots=True)
class Member:
    """One of several backends that work as one. The figures of its work are those of `Replica`."""

    name: str  # "cuda:0", "cpu#2", the address of one on another machine
    devices: tuple[str, ...]  # that it is on, as `Device` has them; none of one on another machine
    state: Literal["loading", "ready", "failed"]
    reason: str
    tokens: int
    segments: int
    slots: int
    total_bytes: int | None = None  # these three of its process on the CPU; elsewhere its cards say them
    used_bytes: int | None = None
    parts: Parts | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    at_seconds: float  # of the sampler's clock
    held: Held
    devices: tuple[Device, ...]
    tokens_per_second: float
    members: tuple[Member, ...] = ()  # where there are several

    @property
    def total(self) -> Device | None:
        """Of the cards where our model is, where they are several."""
        cards = [device for device in self.devices if device.ours and device.device != "cpu"]
        if len(cards) < 2:
            return None
        names = Counter(card.name for card in cards)
        parts = map(sum, zip(*(astuple(card.parts) for card in cards), strict=True))
        return Device(
            device=",".join(card.device for card in cards),
            name=" + ".join(f"{count} × {name}" if count > 1 else name for name, count in names.items()),
            total_bytes=sum(card.total_bytes for card in cards),
            used_bytes=sum(card.used_bytes for card in cards),
            limit_bytes=sum(card.limit_bytes or 0 for card in cards) or None,
            ours=True,
            full=any(card.full for card in cards),
            parts=Parts(*parts),
        )

    @property
    def standing(self) -> Standing:
        """Of those that take prompts, and of the cards without others."""
        ready = [member for member in self.members if member.state == "ready"]
        away = {device for member in self.members if member.state != "ready" for device in member.devices}
        processes = {member.name: float(member.used_bytes) for member in ready if member.used_bytes}
        cards = {
            device.device: device.used_bytes / device.total_bytes
            for device in self.devices
            if device.ours and device.device != "cpu" and device.device not in away
        }
        load = {
            member.name: Load(member.tokens / member.slots, member.segments >= member.slots)
            for member in ready
            if member.slots
        }
        return Standing(cards or processes, load)

    @property
    def used_bytes(self) -> int:
        """Of the devices where our model is."""
        return sum(device.used_bytes for device in self.devices if device.ours)


class Sampler:
    """`device` says where our model is, and is empty while that is not known; `replicas` of several, where each of them
    is and what it takes there. `ram`: (all, free) bytes of this machine as far as this process may use them."""

    def __init__(
        self,
        metrics: Metrics,
        device: Callable[[], str],
        cards: Callable[[], Sequence[Card]] | None = None,
        ram: Callable[[], tuple[int, int]] = ram,
        clock: Callable[[], float] = time.monotonic,
        replicas: Callable[[], Sequence[Replica]] = tuple,
    ) -> None:
        self._metrics, self._device, self._clock, self._replicas = metrics, device, clock, replicas
        self._cards, self._ram = cards or Cards().read, ram
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._stopped = threading.Event()

    @property
    def latest(self) -> Sample | None:
        """None before the first."""
        samples = self._samples
        return samples[-1] if samples else None

    def history(self) -> list[tuple[float, Sample]]:
        """(seconds ago, sample), the oldest first."""
        now = self._clock()
        return [(max(0.0, now - sample.at_seconds), sample) for sample in tuple(self._samples)]

    def start(self) -> None:
        threading.Thread(target=self._run, name="sampler", daemon=True).start()

    def stop(self) -> None:
        """Does not wait: a driver that hangs holds up nobody."""
        self._stopped.set()

    def sample(self) -> Sample:
        held, replicas, limit = self._metrics.held(), self._replicas(), self._metrics.limit_bytes
        places = [(each.device, each.memory) for each in replicas] or [(self._device(), held.by_use)]
        known = any(name for name, _ in places)
        taken = _taken(places, held.memory.process)
        devices = [_of_card(card, taken.get(card.device), not known, limit) for card in self._cards()]
        if "cpu" in taken or (not any(each.ours for each in devices) and (known or not devices)):
            devices.insert(0, _of_cpu(taken.get("cpu", held.memory), *self._ram()))
        members = [_member(each, self._ram) for each in replicas]
        sample = Sample(self._clock(), held, tuple(devices), self._metrics.tokens_per_second(), tuple(members))
        self._samples.append(sample)
        return sample

    def standings(self) -> list[Standing]:
        """The oldest first."""
        return [sample.standing for sample in tuple(self._samples)]

    def _run(self) -> None:
        told = False
        while not self._stopped.is_set():
            try:
                self.sample()
            except Exception:  # the thread's last resort: a meter that stands still stops no translation
                if not told:
                    log.exception("memory could not be sampled; it is tried again every %.0f s", SAMPLE_SECONDS)
                told = True
            self._stopped.wait(SAMPLE_SECONDS)


def _devices(name: str) -> tuple[str, ...]:
    """Those that a `Replica` is on."""
    return () if "://" in name else tuple(name.partition("#")[0].split("+"))


def _taken(places: Sequence[tuple[str, Mapping[str, int]]], process_bytes: int) -> dict[str, Memory]:
    """By device, what our model takes there; nothing yet where it is still to come."""
    by_device: dict[str, Counter[str]] = {}
    for name, memory in places:
        devices = _devices(name)
        for device in devices:
            own = {key.removeprefix(f"{device}/"): size for key, size in memory.items() if key.startswith(f"{device}/")}
            by_device.setdefault(device, Counter()).update(own or (memory if len(devices) == 1 else {}))
    return {device: memory_of(memory, process_bytes) for device, memory in by_device.items()}


def _member(replica: Replica, ram: Callable[[], tuple[int, int]]) -> Member:
    devices, used = _devices(replica.device), replica.memory.get("resident")
    work = replica.tokens, replica.segments, replica.slots
    member = Member(replica.device, devices, replica.state, replica.reason, *work)
    if devices != ("cpu",) or used is None:
        return member
    total = max(ram()[0], used)
    return replace(
        member, total_bytes=total, used_bytes=used, parts=_parts(total, used, memory_of(replica.memory, used))
    )


def _of_card(card: Card, memory: Memory | None, loading: bool, limit_bytes: int | None) -> Device:
    """`memory`: what our model takes there."""
    if memory is None:  # while our model loads, it is where torch has taken memory
        ours = loading and card.allocated_bytes > 0
        parts = _parts(card.total_bytes, card.used_bytes)
    else:
        ours = True
        kept = card.allocated_bytes - memory.weights - memory.kv_total
        workspace = max(kept, memory.workspace or 0)
        parts = _parts(card.total_bytes, card.used_bytes, memory, workspace)
    full = card.used_bytes - parts.kv_free > FULL_SHARE * card.total_bytes
    limit = limit_bytes if ours else None
    return Device(card.device, card.name, card.total_bytes, card.used_bytes, limit, ours, full, parts)


def _of_cpu(memory: Memory, total: int, free: int) -> Device:
    """It is full where the machine is, whoever fills it."""
    total = max(total, memory.process)
    parts = _parts(total, memory.process, memory)
    full = total - free - parts.kv_free > FULL_SHARE * total
    return Device("cpu", CPU_NAME, total, memory.process, None, True, full, parts)


def _parts(total: int, used: int, ours: Memory | None = None, workspace: int = 0) -> Parts:
    """Nothing is more than there is: a cache on the CPU takes no memory before its pages are first written, and what is
    ours was not measured at the same moment as the whole."""
    left = used

    def take(wanted: int) -> int:
        nonlocal left
        taken = max(0, min(wanted, left))
        left -= taken
        return taken

    weights = take(ours.weights) if ours else 0
    kv_used = take(ours.kv_used) if ours else 0
    workspace = take(workspace)
    kv_free = take(ours.kv_total - ours.kv_used) if ours else 0
    return Parts(weights, kv_used, kv_free, workspace, other=left, free=max(0, total - used))
