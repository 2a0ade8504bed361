"""Where the processes of one model meet: the sum and the joining of what each has made, on cards by NCCL or by writing
into each other's memory, on the CPU by gloo. Knows no model, and not who leads.

All that is done here every rank does in the same order with the same shapes, or they wait for each other for ever; who
started them ends them then. On cards all of it may be captured in a graph.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

# How small sums are made on cards. fused: in our kernel that adds them, which writes into the others' memory;
# one-shot: by torch's, each rank reading all others'; library: by NCCL, which also has what is large
Sums = Literal["fused", "one-shot", "library"]
ONE_SHOT_BYTES = 1 << 20  # more are better summed in parts. Not measured
ONE_SHOT_DTYPES = (torch.float32, torch.bfloat16)  # of torch's kernel
LINE_BYTES = 16  # for two numbers, see `cuda/meet.cu`
# torch 2.13's name for it, which older ones do not have
_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Inbox:
    """Memory on each card that all ranks write into, for `cuda/meet.cu`."""

    addresses: Tensor  # int64 [ranks]: of each one's, as this one reaches it
    meeting: Tensor  # int32 [2]
    rank: int
    count: int
    rows: int  # the most of a meeting
    memory: tuple[object, ...]  # that the addresses are of


class Group:
    """`model.Ranks`, in one process of it."""

    def __init__(
        self,
        rank: int,
        device: str,
        devices: tuple[str, ...],
        meeting: str,
        seconds: float,
        sums: Sums = "fused",
        steady: bool = False,
    ) -> None:
        """`devices`: of all ranks, in order. `meeting`: a file that is not there yet, the same for all. They wait so
        many seconds for each other. `steady`: a sum does not depend on how many rows are summed at once."""
        self.rank, self.count, self.device = rank, len(devices), device
        self._steady = steady
        on_cards = device.startswith("cuda")
        if on_cards:
            torch.cuda.set_device(device)
        dist.init_process_group(
            "nccl" if on_cards else "gloo",
            store=dist.FileStore(meeting, self.count),  # type: ignore[attr-defined]
            rank=rank,
            world_size=self.count,
            timeout=timedelta(seconds=seconds),
            device_id=torch.device(device) if on_cards else None,
        )
        group = dist.group.WORLD
        assert group is not None
        self._group = group
        self.kind: str = dist.get_backend(group)  # how small sums are made, for people
        near = on_cards and not steady and _see_each_other(devices)
        self._sums: Sums = sums if near else "library"
        self._room: Tensor | None = None  # of one-shot sums
        if self._sums == "one-shot" and (shared := self._shared(ONE_SHOT_BYTES)):
            self._room, _ = shared
            self.kind = "one-shot"

    def sum(self, x: Tensor) -> Tensor:
        """`Ranks.sum` of a tensor in one piece."""
        if self._room is not None and x.nbytes <= ONE_SHOT_BYTES and x.dtype in ONE_SHOT_DTYPES:
            room = self._room.view(x.dtype)[: x.numel()].view(x.shape)
            summed: Tensor = torch.ops.symm_mem.one_shot_all_reduce_copy(room, x, "sum", self._group.group_name)
            return summed
        if self._steady:  # in the order of ranks, where a library's may depend on the size
            summed, *others = self._gathered(x).unbind()
            for other in others:
                summed = summed + other
            return summed
        dist.all_reduce(x, group=self._group)
        return x

    def joined(self, x: Tensor) -> Tensor:
        rows, each = x.shape
        return self._gathered(x).transpose(0, 1).reshape(rows, self.count * each)

    def most(self, number: float) -> float:
        greatest = torch.tensor(number, dtype=torch.float64, device=self.device)
        dist.all_reduce(greatest, dist.ReduceOp.MAX, group=self._group)
        return float(greatest)

    def inbox(self, rows: int, width: int, serves: Callable[[Inbox], bool]) -> Inbox | None:
        """For sums of so many rows, once each rank says that it serves; None for all of them where it cannot be."""
        if self._sums != "fused" or (shared := self._shared(self.count * rows * width * LINE_BYTES)) is None:
            return None
        memory, handle = shared
        size = (len(memory),)
        each = [handle.get_buffer(rank, size, torch.uint8).data_ptr() for rank in range(self.count)]
        inbox = Inbox(
            addresses=torch.tensor(each, dtype=torch.int64, device=self.device),
            meeting=torch.tensor([1, 0], dtype=torch.int32, device=self.device),
            rank=self.rank,
            count=self.count,
            rows=rows,
            memory=shared,
        )
        if self.most(float(not serves(inbox))):
            log.warning("sums are made by NCCL, since what one card writes into another's memory does not arrive")
            return None
        self.kind = "fused"
        return inbox

    def _gathered(self, x: Tensor) -> Tensor:
        """[ranks, …]"""
        gathered = x.new_empty((self.count * len(x), *x.shape[1:]))
        _gather(gathered, x.contiguous(), group=self._group)
        return gathered.view(self.count, *x.shape)

    def _shared(self, size: int) -> tuple[Tensor, Any] | None:
        """So many bytes of this card, zeros, that the others reach, and how to reach theirs; None, for all of them,
        where one has none."""
        shared: tuple[Tensor, Any] | None = None
        try:  # torch calls this part of it unstable
            import torch.distributed._symmetric_memory as symmetric_memory

            memory = symmetric_memory.empty(size, dtype=torch.uint8, device=torch.device(self.device)).zero_()
            shared = memory, symmetric_memory.rendezvous(memory, self._group)
            torch.cuda.synchronize(self.device)  # before anybody writes there
        except (ImportError, AttributeError, RuntimeError) as error:
            log.warning("sums are made by NCCL, since cards cannot reach each other's memory: %s", error)
            shared = None
        return None if self.most(float(shared is None)) else shared


def _see_each_other(devices: tuple[str, ...]) -> bool:
    """The same for every rank."""
    indices = [torch.device(device).index for device in devices]
    pairs: Any = ((one, other) for one in indices for other in indices if one != other)
    return all(torch.cuda.can_device_access_peer(one, other) for one, other in pairs)
