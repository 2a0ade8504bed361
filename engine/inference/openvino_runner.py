"""The runner of the CPU: our graph in OpenVINO, over the batcher's own pages. Knows no requests.

A step is one pass: runs of prompts and the newest tokens of running sequences lie one after another. For a single
reader and for a full batch OpenVINO is told all shapes beforehand. Where weights are INT8 or INT4 it rounds activations
to INT8 too, a scale a group, so that products are of whole numbers. The KV cache is in fp16: with 512 tokens behind
each of eight rows a step takes 8.2 ms of one core, and in fp32 12.2 (the embedded model, INT4; 2026-11-21).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from math import isnan
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import UnsupportedModel
from engine.inference import large_pages
from engine.inference.held import HEAD_GROUP, int4_weights
from engine.inference.kv_cache import PAGE_TOKENS, Table, pages_of
from engine.inference.model import HunYuanDense
from engine.inference.openvino_api import core_for_cpu, ov
from engine.inference.openvino_graph import SCORES, STEP, build, of_rows, weight_bytes
from engine.inference.runner import Chunk
from engine.inference.sampler import Sampler
from engine.progress import Advance, untold
from engine.types import Sampling

FULL = 0.75  # of the slots: from here on rows are padded to a full batch, whose shapes are fixed
PREFILL_TOKENS = 256
INT8_GROUP = 32  # activations that share a scale where weights have one a row; OpenVINO's own choice
# The same for one row of INT4: a step takes 2.60 ms of one core, and in groups of 64 2.95; eight rows 6.7 and 5.8 ms
LONE_GROUP = 32


Scores = NDArray[np.float32]  # [rows, vocab_size]


@dataclass(frozen=True, slots=True)
class Read:
    """The tokens of a step that is done."""

    ids: list[int]

    def tokens(self) -> list[int]:
        return self.ids


class _AnyShapes:
    """A compiled graph whose inputs are made anew for each step."""

    def __init__(self, request: ov.InferRequest) -> None:
        self.request = request

    def fill(self, inputs: Sequence[Any]) -> None:
        for name, values in zip(STEP, inputs, strict=True):
            self.request.set_tensor(name, ov.Tensor(np.array(values, np.int32)))

    def scores(self) -> Scores:
        made: Scores = self.request.get_tensor(SCORES).data
        return made


class _FixedShapes:
    """One whose inputs stay where they are: what is behind the page numbers in use may be any page's."""

    def __init__(self, request: ov.InferRequest, scrap: int) -> None:
        self.request = request
        self._scores: Scores | None = None
        self._inputs = []
        for name in STEP:
            values = np.full(list(request.get_tensor(name).shape), scrap, np.int32)
            request.set_tensor(name, ov.Tensor(values, shared_memory=True))
            self._inputs.append(values)

    def fill(self, inputs: Sequence[Any]) -> None:
        *lists, pages, begins, longest = zip(self._inputs, inputs, strict=True)
        for held, values in lists:
            held[:] = values
        pages[0][: len(pages[1])] = pages[1]
        begins[0][:] = begins[1]
        begins[0][-1] = len(pages[0])  # numbers that belong to no sequence would make OpenVINO crash
        longest[0][...] = longest[1]

    def scores(self) -> Scores:
        if self._scores is None:  # its place does not change
            self._scores = self.request.get_tensor(SCORES).data
        return self._scores


class OpenVinoRunner:
    """Serves a model that was loaded for it, on the CPU with `Int4Held` and `Int8Rows`; it may be let go afterwards."""

    ahead = False
    device = "cpu"
    kernel = "OpenVINO"
    prefill_tokens = PREFILL_TOKENS

    def __init__(
        self,
        model: HunYuanDense,
        slots: int,
        pages: int,
        threads: int = 0,
        fixed: Sequence[int] = (),
        deterministic: bool = False,
        exact: bool = False,
        told: Advance = untold,
    ) -> None:
        """`threads`: 0 takes as many as there are cores. `fixed`: numbers of rows with a graph of their own, which is
        faster and holds the weights once more. `deterministic`: what a sequence is given does not depend on who else is
        in the batch. `exact`: activations and the KV cache stay in fp32, for comparisons. `told` learns how far it
        is."""
        self.slots, self.pages, self._deterministic = slots, pages, deterministic
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # others run beside us
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32" if exact else "f16",
        }
        core, graph, group = core_for_cpu(), build(model), _group(model)
        made = (step / (2 + len(fixed)) for step in count(1))  # it is built, and then compiled so often
        told(next(made))
        lone = group if deterministic else min(LONE_GROUP, group)
        most = pages_of(model.config.max_positions)  # pages of one sequence

        def compiled(graph: ov.Model, group: int) -> ov.InferRequest:
            rounding = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0 if exact else group}
            request = core.compile_model(graph, "CPU", settings | rounding).create_infer_request()
            told(next(made))
            return request

        def of_shape(rows: int) -> _FixedShapes:
            shape = of_rows(graph, rows, rows + deterministic, rows * most)
            return _FixedShapes(compiled(shape, lone if rows == 1 else group), pages)

        self._any = _AnyShapes(compiled(graph, group))
        self._fixed = {rows: of_shape(rows) for rows in fixed}
        every: list[_AnyShapes | _FixedShapes] = [self._any, *self._fixed.values()]
        kv_bytes = 0
        for port in self._any.request.model_inputs:
            if port.any_name not in STEP:
                page = [size.get_length() for size in list(port.partial_shape)[1:]]
                if page[1] != PAGE_TOKENS:
                    raise UnsupportedModel(
                        f"OpenVINO keeps {page[1]} tokens a page on this machine, and Yiwen {PAGE_TOKENS}; use "
                        "--backend onnx."
                    )
                pool = ov.Tensor(port.element_type, ov.Shape([pages + 1, *page]))  # the last is scrap, for padding
                kv_bytes += pool.byte_size
                for shapes in every:
                    shapes.request.set_tensor(port.any_name, pool)
        self._sampler = Sampler(slots, model.config.vocab_size, "cpu")
        self._newest = [0] * slots
        self._best = [True] * slots  # no penalty and no chance: the best score alone decides
        large_pages.use()  # the weights as OpenVINO has packed them
        held, self.weights_read = weight_bytes(graph)  # the latter by one step
        self._memory = {"weights": held * len(every), "kv_total": kv_bytes * pages // (pages + 1)}

    def beside(self, rows: int, before: int) -> int:
        return 8 + 5 * rows  # two cores, INT4: with 48 tokens a step of 8 rows takes 2.9 times as long (2026-11-21)

    def memory(self) -> dict[str, int]:
        return dict(self._memory)

    def begin(self, slot: int, sampling: Sampling, ids: Sequence[int], made: int) -> None:
        self._newest[slot] = ids[-1]
        self._best[slot] = not sampling.temperature and sampling.repetition_penalty == 1
        self._sampler.begin(slot, sampling, ids, made)

    def step(self, chunks: Sequence[Chunk], slots: Sequence[int], tables: Sequence[Table]) -> Read:
        takers = [*(chunk.slot for chunk in chunks if chunk.last), *slots]
        tokens = self._choose(self.scores(chunks, [self._newest[slot] for slot in slots], tables), takers)
        for slot, token in zip(takers, tokens, strict=True):
            self._newest[slot] = token
        return Read(tokens)

    def scores(self, chunks: Sequence[Chunk], tokens: Sequence[int], tables: Sequence[Table]) -> Scores:
        """Takes in chunks, and a token for each table. The scores after each chunk that is the last of its prompt, then
        those after each token: fp32 [those, vocab_size], in OpenVINO's memory until the next step.

        In numpy: after a step nothing of torch is in the caches, and each touch of it takes 40 µs."""
        ids = [*(chunk.ids for chunk in chunks), *([token] for token in tokens)]
        wanted = [*(chunk.last for chunk in chunks), *(True for _ in tokens)]
        tables = [*(chunk.table for chunk in chunks), *tables]
        lengths = [table.length for table in tables]
        positions = [table.position for table in tables]
        pages = [table.pages[: pages_of(table.length + len(run))] for table, run in zip(tables, ids, strict=True)]
        count = sum(wanted)
        shapes: _AnyShapes | _FixedShapes = self._any
        rows = next((rows for rows in sorted(self._fixed) if rows >= len(tokens)), None)
        if not chunks and rows is not None and len(tokens) >= FULL * rows:
            shapes, padding = self._fixed[rows], rows - len(tokens)
            ids, wanted = [*ids, *([[0]] * padding)], [*wanted, *([True] * padding)]
            positions, lengths = positions + [0] * padding, lengths + [0] * padding
            pages += [[self.pages]] * padding
        runs = (ids, positions, lengths, pages, wanted)
        return self._run(shapes, *(_steady(*runs) if self._deterministic else runs))[:count]

    def _run(
        self,
        shapes: "_AnyShapes | _FixedShapes",
        ids: Sequence[Sequence[int]],
        positions: Sequence[int],
        lengths: Sequence[int],
        pages: Sequence[Sequence[int]],
        wanted: Sequence[bool],
    ) -> Scores:
        ends = list(accumulate(map(len, ids)))
        rows = [end - 1 for end, asked in zip(ends, wanted, strict=True) if asked]
        inputs = (
            [token for run in ids for token in run],
            [place for first, run in zip(positions, ids, strict=True) for place in range(first, first + len(run))],
            rows or [0],  # the product with the head wants one
            lengths,
            [0, *ends],
            [page for each in pages for page in each],
            [0, *accumulate(map(len, pages))],
            max(length + len(run) for length, run in zip(lengths, ids, strict=True)),
        )
        shapes.fill(inputs)
        shapes.request.infer(share_outputs=True)  # else all scores are copied once more
        return shapes.scores()[: len(rows)]

    def _choose(self, scores: Scores, slots: Sequence[int]) -> list[int]:
        if all(self._best[slot] for slot in slots):
            best: list[int] = scores.argmax(-1).tolist()
            if any(isnan(row[token]) for row, token in zip(scores, best, strict=True)):
                best = np.where(np.isnan(scores), -np.inf, scores).argmax(-1).tolist()  # as `Sampler` has it
            return best
        kind = self._sampler.kind(slots)
        tokens: list[int] = self._sampler.choose(torch.from_numpy(scores), torch.tensor(slots), kind).tolist()
        return tokens


def _steady(
    ids: Sequence[Sequence[int]],
    positions: Sequence[int],
    lengths: Sequence[int],
    pages: Sequence[Sequence[int]],
    wanted: Sequence[bool],
) -> tuple[list[list[int]], list[int], list[int], list[Sequence[int]], list[bool]]:
    """Each token as a sequence of its own, which looks back on those before it, and an empty sequence.

    OpenVINO attends in one way from a run of tokens, so that a cut in a prompt would be seen, in another from one
    token, and in a third where there are fewer sequences than threads, unless one of them is not of one token.
    """
    apart = []
    for run, position, length, held, asked in zip(ids, positions, lengths, pages, wanted, strict=True):
        for place, token in enumerate(run):
            end = length + place + 1
            apart.append(([token], position + place, end - 1, held[: pages_of(end)], asked and place + 1 == len(run)))
    tokens, places, seen, tables, asks = zip(*apart, strict=True)
    return [*tokens, []], [*places, 0], [*seen, 0], [*tables, []], [*asks, False]


def _group(model: HunYuanDense) -> int:
    """Not above that of any INT4 matrix: OpenVINO would not round activations for it, and widen it for many rows."""
    held = int4_weights(model)
    return min(HEAD_GROUP, *(weight.group for weight in held)) if held else INT8_GROUP
