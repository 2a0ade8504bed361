"""What the ranks of a model and who leads them say to each other, pickled: they are processes of one program, and
nobody else is at these pipes. Knows no pipe.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import YiwenError
from engine.footprint import LoadPlan
from engine.inference.collective import Sums
from engine.inference.kv_cache import Table
from engine.inference.runner import Chunk
from engine.types import Sampling


@dataclass(frozen=True, slots=True)
class Start:
    """The first that a rank is told."""

    rank: int
    devices: tuple[str, ...]  # of all ranks, in order
    meeting: str  # see `Group`
    folder: Path
    plan: LoadPlan  # of each
    deterministic: bool
    sums: Sums
    meeting_seconds: float
    ceiling_gb: float | None  # of its card
    log_level: str
    log_format: str


@dataclass(frozen=True, slots=True)
class Advanced:
    """How far a rank is that loads."""

    step: Literal["weights", "prepare"]
    share: float


@dataclass(frozen=True, slots=True)
class Ready:
    """Of a rank that waits for its first step: what its runner says of itself."""

    ahead: bool
    kernel: str
    prefill_tokens: int
    beside: tuple[tuple[int, int], ...]  # by the number of rows: of prompts that begin, of long ones
    memory: dict[str, int]


@dataclass(frozen=True, slots=True)
class Failed:
    """The last that a rank says."""

    error: YiwenError


# Where to make a slot ready, as `Runner.begin` has it, with a seed; and a step, as `Runner.step` has it. These come all
# the time, and plain values are written and read in half the time.
Begin = tuple[int, Sampling, "array[int]", int]
PackedTable = tuple["array[int]", int, int]  # pages, length, position
PackedChunk = tuple[int, "array[int]", PackedTable, bool]
Step = tuple[list[PackedChunk], list[int], list[PackedTable]]


def packed(chunks: Sequence[Chunk], slots: Sequence[int], tables: Sequence[Table]) -> Step:
    told = [(chunk.slot, array("i", chunk.ids), _packed(chunk.table), chunk.last) for chunk in chunks]
    return told, list(slots), [_packed(table) for table in tables]


def step_of(told: Step) -> tuple[list[Chunk], list[int], list[Table]]:
    chunks, slots, tables = told
    return [_chunk(each) for each in chunks], slots, [_table(each) for each in tables]


def _packed(table: Table) -> PackedTable:
    return array("i", table.pages), table.length, table.position


def _table(told: PackedTable) -> Table:
    pages, length, position = told
    return Table(pages.tolist(), length, position)


def _chunk(told: PackedChunk) -> Chunk:
    slot, ids, table, last = told
    return Chunk(slot, ids.tolist(), _table(table), last)
