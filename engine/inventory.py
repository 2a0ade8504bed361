"""What is in this machine: cards, memory, cores, disk. `survey` looks. GB are 10⁹ bytes."""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.cards import Cards

GB = 1e9

# CUDA context with the libraries' handles and our kernels: what is left of the peak beside weights, KV cache, graphs
# and planned workspace is 0.93 GB with the 7B in INT4 (H200, torch 2.11, 2026-11-21)
CONTEXT_BYTES = 950_000_000
KERNEL_CAPABILITY = (8, 0)  # Ampere: bf16 and the instructions that our kernels are written in

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


def chosen_cards(cards: Sequence[Card], devices: str) -> list[Card]:
    """The cards that were asked for, in that order; for `auto` the largest, the first of several."""
    if devices == "auto":
        return [max(cards, key=lambda card: card.total_bytes)] if cards else []
    return [card for name in devices.split("+") for card in cards if card.device == name]


def survey(devices: str = "auto", root: Path = Path("/")) -> Machine:
    """What is here now. `devices` as in the config: only the cards that `plan` would choose are asked for their free
    memory, which opens a CUDA context there. `root` is where /proc and /sys are."""
    import torch

    cards = [] if devices == "cpu" else _cards()
    for card in chosen_cards(cards, devices):
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
