"""The runners of the CPU engines: the same scores as the reference runner, whatever the weights and the batch are."""

import os
import random
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.backends.select import select
from engine.config import Config
from engine.errors import ConfigError
from engine.inference import onnx_graph
from engine.inference.batcher import Batcher, Generation
from engine.inference.checkpoint import load_model, read_config, save_model
from engine.inference.held import Int4Held, int4_head, int8_embedding, round_groups
from engine.inference.int8 import Int8Rows, float_weight
from engine.inference.kv_cache import Pages
from engine.inference.onnx_runner import OnnxRunner, Session
from engine.inference.openvino_runner import OpenVinoRunner
from engine.inference.runner import Chunk, TorchRunner
from engine.inference.sampler import GREEDY
from engine.types import Sampling
from tests.checkpoints import TEXT_TOKENS, quantize_gptq, write_checkpoint

ROOT = Path(__file__).parents[1]
SLOTS, PAGES, LENGTH = 4, 40, 320
COUNTS = (1, 31, 32, 33, 90)


def some_ids(count, seed=0):
    return random.Random(seed).choices(range(TEXT_TOKENS), k=count)


def loaded(folder):
    return load_model(folder, read_config(folder), torch.float32, "cpu", Int4Held, Int8Rows)


def widened(folder):
    return load_model(folder, read_config(folder), torch.float32, "cpu")


def onnx_of(model, compute="fp32"):
    return OnnxRunner(Session.of(onnx_graph.build(model, compute), threads=1), SLOTS, LENGTH)


def error(scores, true):
    return ((scores.double() - true.double()).norm() / true.double().norm()).item()


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return loaded(tiny_checkpoint)


@pytest.fixture(scope="module")
def reference(model):
    return TorchRunner(model, SLOTS, PAGES)


@pytest.fixture(scope="module")
def runner(model):
    return OpenVinoRunner(model, SLOTS, PAGES, 1, (1, SLOTS), exact=True)


@pytest.fixture(scope="module")
def onnx(model):
    return onnx_of(model)


def scores_of(runner, chunks, tokens=(), tables=()):
    if isinstance(runner, OpenVinoRunner):
        return torch.tensor(runner.scores(chunks, tokens, tables))
    parts = [runner.scores_after(chunks)] if any(chunk.last for chunk in chunks) or not tokens else []
    if chunks and not parts:
        runner.scores_after(chunks)
    return torch.cat(parts + ([runner.scores_of_next(torch.tensor(tokens), tables)] if tokens else []))


class Driven:
    """A runner with its pages, driven by hand."""

    def __init__(self, runner, window=None):
        self.runner, self.pages = runner, Pages(runner.pages, window)

    def step(self, *parts, tokens=(), tables=()):
        """parts: (table, ids, last)"""
        chunks = []
        for table, ids, last in parts:
            assert self.pages.grow(table, len(ids))
            self.pages.share(table, ids)
            chunks.append(Chunk(0, ids, table, last))
        assert all(self.pages.grow(table, 1) for table in tables)
        scores = scores_of(self.runner, chunks, tokens, tables)
        for chunk in chunks:
            self.pages.advance(chunk.table, len(chunk.ids))
        for table in tables:
            self.pages.advance(table, 1)
        return scores


def both(runner, reference, play, window=None):
    return error(play(Driven(runner, window)), play(Driven(reference, window)))


def a_varied_day(driven):
    """Prompts of many lengths, one cut in two and read beside those who run; one leaves and one comes."""
    texts = [some_ids(count, count) for count in COUNTS]
    tables = [driven.pages.open(ids) for ids in texts]
    whole, cut = list(zip(tables, texts, strict=True))[:-1], (tables[-1], texts[-1])
    scores = [driven.step(*((table, ids, True) for table, ids in whole))]
    scores.append(driven.step((cut[0], cut[1][:50], False), tokens=[1, 2, 3, 4], tables=tables[:4]))
    scores.append(driven.step((cut[0], cut[1][50:], True), tokens=[5], tables=tables[:1]))
    driven.pages.close(tables[0])
    late = driven.pages.open(some_ids(40, 7))
    scores.append(driven.step((late, some_ids(40, 7), True)))
    few = [driven.step(tokens=list(range(count)), tables=[late, *tables[1:]][:count]) for count in (1, 2, 3, 4)]
    return torch.cat(scores + few)


def test_openvino_scores_like_the_reference(runner, reference):
    assert both(runner, reference, a_varied_day) < 1e-5


def test_openvino_reads_pages_that_another_fills_in_the_same_step(runner, reference):
    def play(driven):
        beginning = some_ids(70)
        first = driven.pages.open([*beginning, 1])
        driven.pages.share(first, [*beginning, 1])
        second = driven.pages.open([*beginning, 2])
        assert second.length == 64
        chunks = [Chunk(0, [*beginning, 1], first, True), Chunk(1, [*beginning, 2][64:], second, True)]
        scores = scores_of(driven.runner, chunks)
        driven.pages.close(first)
        driven.pages.close(second)
        return scores

    assert both(runner, reference, play) < 1e-5


def test_openvino_forgets_what_a_window_lets_go(runner, reference):
    def play(driven):
        table = driven.pages.open(some_ids(64))
        scores = [driven.step((table, some_ids(64), True))]
        scores += [driven.step(tokens=[token], tables=[table]) for token in some_ids(100, 1)]
        assert table.length < table.position
        return torch.cat(scores)

    assert both(runner, reference, play, window=64) < 1e-5


def test_a_chunk_in_the_middle_of_a_prompt_has_no_scores(runner):
    driven = Driven(runner)
    assert len(driven.step((driven.pages.open(some_ids(90)), some_ids(50), False))) == 0


@pytest.mark.parametrize("options", [{}, {"sym": False}, {"act_order": True, "shared_order": True}], ids=str)
def test_gptq_weights_go_in_as_they_are(tmp_path, options):
    """The head is rounded to INT4 and the embeddings to INT8, so the reference has these."""
    folder = write_checkpoint(tmp_path / "model")
    quantize_gptq(folder, group_size=32, **options)
    wide = widened(folder)
    head, embeddings = int4_head(wide).dequantize(), float_weight(int8_embedding(wide))
    wide.head = torch.nn.Linear(*reversed(head.shape), bias=False)
    wide.head.weight = torch.nn.Parameter(head, requires_grad=False)
    wide.embedding.weight = torch.nn.Parameter(embeddings, requires_grad=False)
    reference = TorchRunner(wide, SLOTS, PAGES)
    assert both(OpenVinoRunner(loaded(folder), SLOTS, PAGES, 1, (1, SLOTS), exact=True), reference, a_varied_day) < 1e-3
    assert both(OpenVinoRunner(loaded(folder), SLOTS, PAGES, 1, (1, SLOTS)), reference, a_varied_day) < 5e-2
    assert both_in_slots(onnx_of(loaded(folder)), reference) < 5e-2


def test_int8_rows_go_in_as_they_are(tiny_checkpoint, tmp_path):
    save_model(loaded(tiny_checkpoint), tmp_path, torch.int8, {})
    reference = TorchRunner(widened(tmp_path), SLOTS, PAGES)
    exact = OpenVinoRunner(loaded(tmp_path), SLOTS, PAGES, 1, (1, SLOTS), exact=True)
    assert both(exact, reference, a_varied_day) < 1e-5
    assert both(OpenVinoRunner(loaded(tmp_path), SLOTS, PAGES, 1, (1, SLOTS)), reference, a_varied_day) < 5e-2
    assert both_in_slots(onnx_of(loaded(tmp_path)), reference) < 5e-2


@pytest.fixture(scope="module", params=["int8", "int4"])
def rounded(request, tiny_checkpoint, tmp_path_factory):
    """Activations are rounded too, so the least difference grows."""
    folder = tmp_path_factory.mktemp("rounded") / "model"
    if request.param == "int8":
        save_model(loaded(tiny_checkpoint), folder, torch.int8, {})
    else:
        quantize_gptq(write_checkpoint(folder), group_size=128)
    return loaded(folder)


def test_deterministic_means_the_same_scores_alone_and_in_a_crowd(rounded):
    runner = OpenVinoRunner(rounded, SLOTS, PAGES, 2, (1, SLOTS), deterministic=True)
    texts = [some_ids(count, count) for count in (90, 33, 2, 64)]

    def alone(ids, *cuts):
        driven = Driven(runner)
        table = driven.pages.open(ids)
        for start, end in pairwise([0, *cuts, len(ids)]):
            scores = [driven.step((table, ids[start:end], True))]
        return torch.cat(scores + [driven.step(tokens=[token], tables=[table]) for token in (1, 2, 3)])

    driven = Driven(runner)
    tables = [driven.pages.open(ids) for ids in texts]
    together = [driven.step(*zip(tables, texts, [True] * SLOTS, strict=True))]
    together.append(driven.step(tokens=[1] * SLOTS, tables=tables))
    driven.pages.close(tables.pop())
    late = (driven.pages.open(some_ids(40, 7)), some_ids(40, 7), False)
    together += [driven.step(late, tokens=[2] * 3, tables=tables), driven.step(tokens=[3] * 3, tables=tables)]
    for number, ids in enumerate(texts[:3]):
        expected = torch.stack([scores[number] for scores in together])
        assert torch.equal(alone(ids), expected)
        assert torch.equal(alone(ids, 1), expected)
        assert torch.equal(alone(ids, len(ids) - 1), expected)


def test_a_score_that_is_no_number_is_not_the_best(runner):
    scores = np.array([[1, np.nan, 3, 2], [np.nan] * 4, [4, 1, np.inf, -np.inf]], np.float32)
    assert runner._choose(scores, [0, 1, 2]) == [2, 0, 2]


def test_int4_is_rounded_to_the_nearest_step():
    weight = torch.randn(5, 96)
    rounded = round_groups(weight, 32)
    assert ((rounded.dequantize() - weight).abs() <= 0.51 * rounded.scales.float().repeat_interleave(32, 1)).all()


def both_in_slots(onnx, reference):
    """Prompts in two parts, one slot after another; then tokens of some slots, while the others keep what they hold."""
    texts = [some_ids(count, count) for count in (5, 40, 70)]

    def play(runner, after, following):
        pages, scores = Pages(runner.pages, share=False), []
        tables = [pages.open(ids) for ids in texts]
        for slot, (table, ids) in enumerate(zip(tables, texts, strict=True)):
            for part in (ids[:3], ids[3:]):
                last = after(Chunk(slot, part, table, True))
                pages.advance(table, len(part))
            scores.append(last)
        for slots in ([1], [0, 2], [0, 1, 2]):
            assert all(pages.grow(tables[slot], 1) for slot in slots)
            scores.append(following(slots, [tables[slot] for slot in slots]))
            for slot in slots:
                pages.advance(tables[slot], 1)
        return torch.cat(scores)

    ours = play(onnx, onnx.scores_after, lambda slots, tables: onnx.scores_of_next(slots, slots, tables))
    true = play(
        reference,
        lambda chunk: reference.scores_after([chunk]),
        lambda slots, tables: reference.scores_of_next(torch.tensor(slots), tables),
    )
    return error(ours, true)


def test_onnx_scores_like_the_reference_with_any_slots_busy(onnx, reference):
    assert both_in_slots(onnx, reference) < 1e-5


def answers(runner, share, sampling):
    """Of more sequences than there are slots, all at once, through the batcher."""
    batcher, told = Batcher(runner, frozenset(), share=share), {}
    done = [threading.Event() for _ in range(7)]
    for number in range(7):

        def tell(token, finish, failure, number=number):
            told.setdefault(number, []).append(token if failure is None else failure)
            if finish or failure:
                done[number].set()

        batcher.submit(Generation(some_ids(5 + 17 * number, number), 12 + number, sampling, tell))
    assert all(event.wait(30) for event in done)
    batcher.close()
    return told


@pytest.mark.parametrize(
    "sampling", [GREEDY, Sampling(temperature=0.7, top_p=0.6, top_k=20, repetition_penalty=1.05, seed=3)]
)
def test_all_runners_write_the_same(runner, onnx, reference, sampling):
    true = answers(reference, True, sampling)
    assert answers(runner, True, sampling) == true
    assert answers(onnx, False, sampling) == true


def test_onnx_is_given_weights_beside_the_graph(model):
    """A protobuf holds 2 GB at most."""
    graph = onnx_graph.build(model)
    assert graph.nbytes > sum(weight.nbytes for weight in model.parameters())
    assert max(tensor.ByteSize() for tensor in graph.model.graph.initializer) < 2_000


def test_onnx_cannot_be_deterministic_and_says_so(tiny_checkpoint):
    with pytest.raises(ConfigError, match="cannot be --deterministic; leave it out, or use --backend local"):
        select(Config(model=str(tiny_checkpoint), backend="onnx", deterministic=True))


def test_a_slot_too_short_is_told(onnx):
    table = Pages(onnx.pages, share=False).open(some_ids(LENGTH + 1))
    with pytest.raises(ValueError, match=f"room for {LENGTH} tokens"):
        onnx.scores_after(Chunk(0, some_ids(LENGTH + 1), table, True))


def test_memory_is_told(runner, onnx):
    for each in (runner, onnx):
        assert each.memory().keys() >= {"weights", "kv_total"}
        assert min(each.memory().values()) > 0


def test_importing_openvino_reports_nothing():
    """Its converter sends a report over the network when it is imported."""
    code = (
        "import sys, engine.inference.openvino_api;"
        "assert not any(name.startswith(('openvino_telemetry.', 'openvino.tools.ovc.')) for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_session_of_onnx_runtime_reports_nothing(tmp_path):
    """It would keep an identifier of the machine, and what it has to report, in the user's folder."""
    code = (
        "from engine.inference.onnx_api import onnxruntime;"
        "from onnx import TensorProto, helper as h;"
        "value = lambda name: h.make_tensor_value_info(name, TensorProto.FLOAT, [1]);"
        "graph = h.make_graph([h.make_node('Neg', ['x'], ['y'])], 'g', [value('x')], [value('y')]);"
        "model = h.make_model(graph, opset_imports=[h.make_opsetid('', 21)], ir_version=10).SerializeToString();"
        "onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])"
    )
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}  # without the variables of CI, where it is quiet anyway
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=bare)
    assert not list(tmp_path.rglob("*"))
