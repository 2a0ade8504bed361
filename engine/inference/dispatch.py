"""A model in several places: layers on several cards, and layers that come to the first one at every step, from the
machine's memory or its disk. Embedding, last norm and head stay on the first.

Accelerate's `dispatch_model` takes the map and attaches its hooks; those of layers are then our own, since Accelerate's
fetch tensor by tensor on the stream that computes, and give the allocator's cache back after each. Here a layer is one
run of bytes, which a thread and a stream of their own bring while the one before computes. Knows no plan and no runner.
"""

import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from filelock import FileLock
from torch import Tensor, nn

from engine.divided import BLOCK_BYTES, FETCHED_AHEAD
from engine.errors import ConfigError
from engine.files import why
from engine.inference.int4 import Int4Linear, Kernels
from engine.inference.model import HunYuanDense
from engine.inventory import offload_folder

ALIGNED_BYTES = 256  # where a tensor may begin, as CUDA's own allocations do
LOCK = ".lock"

log = logging.getLogger(__name__)
logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)  # it warns that the layers are where we put them
Rotation = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class _Part:
    """A tensor in the bytes of a layer, and where in the model it belongs."""

    held: dict[str, Any]  # a module's parameters or buffers
    name: str
    empty: Tensor  # what stands there while the layer is away: of the same form, on the meta device
    start: int

    def view(self, bytes_: Tensor) -> Tensor:
        seen = bytes_[self.start : self.start + self.empty.nbytes].view(self.empty.dtype).view(self.empty.shape)
        return nn.Parameter(seen, requires_grad=False) if isinstance(self.empty, nn.Parameter) else seen


class _Folder:
    """On the disk, for one run; nothing is left of it when that ends, and of a run that could not end well when the
    next begins."""

    def __init__(self, base: Path) -> None:
        try:
            base.mkdir(parents=True, exist_ok=True)
            with FileLock(base / LOCK):
                for old in base.iterdir():
                    if old.is_dir() and (lock := _taken(old)):
                        _remove(old, lock)
                self.path = Path(tempfile.mkdtemp(dir=base))
                held = _taken(self.path)
        except OSError as error:
            raise _no_room(base, error) from error
        self.close = weakref.finalize(self, _remove, self.path, held)


def _taken(folder: Path) -> FileLock | None:
    """None where a run that is alive has it."""
    lock = FileLock(folder / LOCK, thread_local=False, timeout=0)
    try:
        lock.acquire()
    except TimeoutError:
        return None
    return lock


def _remove(folder: Path, lock: FileLock | None) -> None:
    if lock:
        lock.release()  # elsewhere than on Linux an open file cannot be deleted
    shutil.rmtree(folder, ignore_errors=True)


def _no_room(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"Layers that fit neither the card nor the memory cannot be kept in {str(folder)!r} ({why(error)}); make room "
        "there, set XDG_CACHE_HOME to a folder on another disk, or use a smaller model."
    )


@dataclass(slots=True)
class _Away:
    """A layer that is fetched: its bytes in blocks of pinned memory, or in a file."""

    index: int
    folder: _Folder | None  # which lives as long as what is in it is used
    pinned: bool = False
    parts: list[_Part] = field(default_factory=list)
    blocks: list[Tensor] = field(default_factory=list)
    size: int = 0  # in bytes

    @property
    def path(self) -> Path | None:
        return self.folder.path / str(self.index) if self.folder else None

    def take(self, module: nn.Module) -> None:
        """What it holds is put away; stays of it only the form."""
        for held, name, tensor in _tensors(module):
            empty = tensor.to("meta")
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, requires_grad=False)
            self.size += -self.size % ALIGNED_BYTES
            self.parts.append(_Part(held, name, empty, self.size))
            self._append(tensor.detach().contiguous().view(-1).view(torch.uint8))
            held[name] = empty

    def _append(self, bytes_: Tensor) -> None:
        if path := self.path:
            try:
                with path.open("r+b" if path.exists() else "wb") as file:
                    file.seek(self.size)
                    file.write(bytes_.cpu().numpy().data)
            except OSError as error:
                raise _no_room(path.parent.parent, error) from error
            self.size += len(bytes_)
            return
        while len(bytes_):
            begin = self.size % BLOCK_BYTES
            if not begin:
                self.blocks.append(_block(self.pinned))
            part, bytes_ = bytes_[: BLOCK_BYTES - begin], bytes_[BLOCK_BYTES - begin :]
            self.blocks[-1][begin : begin + len(part)].copy_(part)
            self.size += len(part)

    def fetch(self, into: Tensor, stage: "_Stage") -> None:
        """Its bytes into those of a buffer, by the current stream."""
        if (path := self.path) is None:
            for place, block in enumerate(self.blocks):
                target = into[place * BLOCK_BYTES : min(self.size, (place + 1) * BLOCK_BYTES)]
                target.copy_(block[: len(target)], non_blocking=True)
            return
        with path.open("rb", buffering=0) as file:
            for start in range(0, self.size, BLOCK_BYTES):
                target = into[start : min(self.size, start + BLOCK_BYTES)]
                stage.read(file, target)

    def set(self, bytes_: Tensor) -> None:
        for part in self.parts:
            part.held[part.name] = part.view(bytes_)

    def clear(self) -> None:
        for part in self.parts:
            part.held[part.name] = part.empty


class _Stage:
    """What is read of the disk stands here before a card copies it; for the CPU it is read into its place."""

    def __init__(self, device: torch.device) -> None:
        self._on_card = device.type == "cuda"
        self._blocks: list[tuple[Tensor, torch.cuda.Event]] = []
        self._next = 0

    def read(self, file: Any, target: Tensor) -> None:
        if not self._on_card:
            _read_into(file, target)
            return
        if len(self._blocks) < FETCHED_AHEAD:
            self._blocks.append((_block(pinned=True), _event()))
        block, copied = self._blocks[self._next % len(self._blocks)]
        self._next += 1
        copied.synchronize()  # the last copy from it; at once where there was none
        _read_into(file, block[: len(target)])
        target.copy_(block[: len(target)], non_blocking=True)
        copied.record()


def _read_into(file: Any, target: Tensor) -> None:
    view = target.numpy().data
    while view:
        count = file.readinto(view)
        if not count:
            raise OSError(f"{file.name} has been cut short")
        view = view[count:]


def _block(pinned: bool) -> Tensor:
    if pinned:
        try:
            return torch.empty(BLOCK_BYTES, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:  # WSL and Windows pin half of the memory at the most
            log.warning("memory cannot be pinned (%s), so layers come to the card more slowly", str(error)[:80])
    return torch.empty(BLOCK_BYTES, dtype=torch.uint8)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


class _Fetcher:
    """Brings layers to a device in turn, always the same. There is room for two: while one computes, the next comes."""

    def __init__(self, away: dict[int, _Away], device: str) -> None:
        self._away, self._order = away, sorted(away)
        self._device = torch.device(device)
        size = max(layer.size for layer in away.values())
        self._buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(FETCHED_AHEAD)]
        self._stage = _Stage(self._device)
        self._stream = torch.cuda.Stream(device) if self._on_card else None  # type: ignore[no-untyped-call]
        if self._stream:
            for buffer in self._buffers:
                buffer.record_stream(self._stream)  # a layer may still be coming when the model goes
        self._thread = ThreadPoolExecutor(1, "fetching")
        self._coming: tuple[int, int, Future[torch.cuda.Event | None]] | None = None  # layer, buffer, when it is there

    @property
    def _on_card(self) -> bool:
        return self._device.type == "cuda"

    def bring(self, layer: int) -> None:
        """Its weights are there for what is launched from now on."""
        if self._coming is None or self._coming[0] != layer:  # the first step, or the one after one that failed
            self._begin(layer, 0)
        assert self._coming
        _, buffer, coming = self._coming
        self._coming = None
        ready = coming.result()
        following = self._order[(self._order.index(layer) + 1) % len(self._order)]
        self._begin(following, (buffer + 1) % FETCHED_AHEAD)
        if ready is not None:
            torch.cuda.current_stream(self._device).wait_event(ready)
        self._away[layer].set(self._buffers[buffer])

    def _begin(self, layer: int, buffer: int) -> None:
        """After all that was launched by now, which may read what is in the buffer."""
        free = None
        if self._on_card:
            free = _event()
            free.record(torch.cuda.current_stream(self._device))
        self._coming = layer, buffer, self._thread.submit(self._fetch, layer, buffer, free)

    def _fetch(self, layer: int, buffer: int, free: torch.cuda.Event | None) -> torch.cuda.Event | None:
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            if self._stream and free:
                self._stream.wait_event(free)
            self._away[layer].fetch(self._buffers[buffer], self._stage)
            if not self._stream:
                return None
            ready = _event()
            ready.record(self._stream)
            return ready


class _Sent:
    """The tables of a step's positions, sent to each card once."""

    def __init__(self) -> None:
        self._of: Rotation | None = None
        self._on: dict[str, Rotation] = {}

    def on(self, device: str, rotation: Rotation) -> Rotation:
        if self._of is not rotation:
            self._of, self._on = rotation, {}
        if device not in self._on:
            cos, sin = rotation
            self._on[device] = cos.to(device), sin.to(device)
        return self._on[device]


class _Here(ModelHook):  # type: ignore[misc]
    """What a layer needs is on its device before it is computed."""

    def __init__(self, index: int, device: str, sent: _Sent, fetcher: _Fetcher | None, several: bool) -> None:
        self._index, self._device, self._sent, self._fetcher = index, device, sent, fetcher
        self._card = torch.device(device) if several else None

    def pre_forward(self, module: nn.Module, *args: Any, **options: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x, rotation, attend = args
        if self._card is not None:
            torch.cuda.set_device(self._card)  # our own kernels are launched on the current one
            x, rotation = x.to(self._card), self._sent.on(self._device, rotation)
        if self._fetcher is not None:
            self._fetcher.bring(self._index)
        return (x, rotation, attend), options


class Dispatch:
    """Where the parts of one model go as they are read, see `checkpoint.Places`, and then how they are used."""

    def __init__(self, layers: Sequence[str], device: str, folder: Path | None = None) -> None:
        """`layers`: of each the device, or "cpu" or "disk" where `device` is another and is to fetch it; `folder`:
        for the disk. Raises `ConfigError`."""
        self._layers, self._main = layers, device
        cards = {device, *(place for place in layers if place.startswith("cuda"))}
        self._computing = [place if place in cards else device for place in layers]
        self._several = len(cards) > 1
        disk = _Folder(folder or offload_folder()) if "disk" in layers else None
        self._away = {
            index: _Away(index, disk if place == "disk" else None, pinned=device.startswith("cuda"))
            for index, place in enumerate(layers)
            if place not in cards
        }

    def device(self, where: str) -> str:
        index = _layer_of(where)
        return self._main if index is None else self._computing[index]

    def take(self, where: str, module: nn.Module) -> None:
        """Raises `ConfigError` where the disk is full."""
        index = _layer_of(where)
        if index in self._away:
            self._away[index].take(module)

    def spread(self, model: HunYuanDense) -> None:
        """What has been read so is ready to compute, as any model."""
        ends = ["embedding", "norm", *(["head"] if model.head is not None else [])]
        places = dict.fromkeys(ends, self._main) | {
            f"layers.{index}": place for index, place in enumerate(self._layers)
        }
        dispatch_model(
            model,
            places,
            main_device=self._main,
            offload_index={},  # nothing is fetched by Accelerate itself
            offload_buffers=True,
            preload_module_classes=["Layer"],
        )
        self._serve_int4(model)
        fetcher = _Fetcher(self._away, self._main) if self._away else None
        sent = _Sent()
        for index, layer in enumerate(model.layers):
            away = index in self._away
            remove_hook_from_module(layer, recurse=True)  # else each part of it has one
            if away or self._several:
                hook = _Here(index, self._computing[index], sent, fetcher if away else None, self._several)
                add_hook_to_module(layer, hook)

    def _serve_int4(self, model: HunYuanDense) -> None:
        """The kernels of each card are compiled and timed for what it computes, also where that is away."""
        for device in dict.fromkeys(self._computing):
            here = [index for index, computing in enumerate(self._computing) if computing == device]
            linears = {index: list(_int4_of(model.layers[index])) for index in here}
            staying = [linear for index in here if index not in self._away for linear in linears[index]]
            known = {linear.traits for linear in staying}
            brought = []
            for index in here:
                if index in self._away and not known.issuperset(linear.traits for linear in linears[index]):
                    away, known = self._away[index], known | {linear.traits for linear in linears[index]}
                    bytes_ = torch.empty(away.size, dtype=torch.uint8, device=device)
                    away.fetch(bytes_, _Stage(bytes_.device))
                    away.set(bytes_)
                    brought.append(index)
            timed = [*staying, *(linear for index in brought for linear in linears[index])]
            if timed:
                kernels = Kernels(device, model.norm.weight.dtype)
                with torch.cuda.device(device):
                    torch.cuda.synchronize()
                    kernels.serve(timed)
                for linear in (linear for each in linears.values() for linear in each):
                    linear.kernels = kernels
            for index in brought:
                self._away[index].clear()


def _tensors(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """(where it is held, its name there, tensor) of a module and all in it."""
    for each in module.modules():
        for held in (each._parameters, each._buffers):
            yield from ((held, name, tensor) for name, tensor in list(held.items()) if tensor is not None)


def _int4_of(layer: nn.Module) -> Iterator[Int4Linear]:
    return (module for module in layer.modules() if isinstance(module, Int4Linear))


def _layer_of(where: str) -> int | None:
    kind, _, rest = where.partition(".")
    return int(rest.partition(".")[0]) if kind == "layers" else None
