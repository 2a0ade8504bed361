"""The bench: its figures on an engine whose times are known, and once through with models so small that they mean
nothing."""

import argparse
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch

from engine.inference import checkpoint
from engine.inference.kv_cache import PAGE_TOKENS
from engine.inference.sampler import GREEDY
from engine.tools import asked, bench, bench_engine, bench_gguf, bench_ours, bench_peers, synthetic
from engine.tools.bench_ours import Job
from tests.checkpoints import quantize_gptq, write_checkpoint
from tests.commands import call, refusal_of, result_of

TINY = synthetic.SHAPES["tiny"]
SMALL = ["--batch", "1,2", "--prompt-tokens", "90", "--new-tokens", "4", "--repeat", "2"]
PLAN = bench_engine.Plan(
    batches=(1, 4), prompt_tokens=100, new_tokens=11, sampling=GREEDY, rounds=2, loads=(), peers=()
)


class Clockwork:
    """An engine that takes 50 ms to a first token and 10 ms to each other, 40 ms while it takes in a long prompt."""

    name, precision, device, config = "clockwork", "none", "cpu", TINY
    longest, threads, weights_read, kv_token_bytes = 4_096, 3, 1_000_000, 100
    closed = False

    def prompt(self, tokens, dice):
        return Job([dice.randrange(1_000) for _ in range(tokens)])

    def run(self, jobs):
        long = [job.at for job in jobs if len(job.ids) > 1_000]
        times = []
        for job in jobs:
            own = [job.at + (0.4 if len(job.ids) > 1_000 else 0.05)]
            while len(own) < job.new_tokens:
                slow = any(begin <= own[-1] < begin + 0.4 for begin in long)
                own.append(own[-1] + (0.04 if slow else 0.01))
            times.append(own)
        return times

    def memory(self):
        return {"weights": 2_000_000, "kv_total": 3_000_000, "pages_used": 7_000_000}

    def close(self):
        self.closed = True

    def checkpoint(self, folder):
        return folder


@pytest.fixture(autouse=True)
def haste(monkeypatch):
    monkeypatch.setattr(bench_engine, "REST_SECONDS", 0.0)
    monkeypatch.setattr(bench_engine, "ARRIVE", 3)
    monkeypatch.setattr(bench_engine, "COPY_BYTES", {"cpu": 1 << 20})


def test_speeds_and_gaps_are_made_of_the_times_of_tokens():
    figures = bench_engine.ladder(Clockwork(), {}, PLAN, 1e9, random.Random(1))
    assert figures["first_token_ms"] == {"ours": 50.0}
    assert figures["first_token_at_once"]["last_ms"] == {"ours": 50.0}
    four = figures["batches"]["4"]
    assert four["tokens_a_second"]["ours"] == pytest.approx(4 * 11 / 0.15, abs=0.1)
    assert four["inter_token_ms"] == {"p50": 10.0, "p99": 10.0, "max": 10.0}


def test_the_bandwidth_is_of_the_weights_once_and_the_cache_of_every_row():
    read = 1_000_000 + 4 * 100 * 105.5
    figures = bench_engine.bandwidth(Clockwork(), PLAN, 4, 0.001, 1e10)
    assert figures["read_gb_a_second"] == round(read / 0.001 / 1e9, 1)
    assert figures["share_of_copy"] == round(read / 0.001 / 1e10, 3)
    assert figures["limit_tokens_a_second"] == pytest.approx(4 * 1e10 / read, abs=0.1)


def test_a_long_prompt_is_told_by_the_gaps_it_makes():
    figures = bench_engine.long_prompt(Clockwork(), replace(PLAN, new_tokens=101), 3, random.Random(1))
    assert figures["first_token_ms"] == 400.0
    assert figures["inter_token_ms"]["p99"] == 10.0
    assert figures["inter_token_beside_ms"]["p50"] == 40.0
    assert figures["ratio"] == 4.0


def test_mixed_lengths_arrive_as_fast_as_is_asked():
    seen = []

    class Watched(Clockwork):
        def run(self, jobs):
            seen.extend(jobs)
            return super().run(jobs)

    plan = replace(PLAN, batches=(100,), new_tokens=100)
    figures = bench_engine.mixed(Watched(), plan, 500.0, random.Random(1))
    assert figures["requests"] == len(seen) == 300
    assert figures["asked_tokens_a_second"] == pytest.approx(500, rel=0.2)
    assert len({len(job.ids) for job in seen}) > 50
    assert len({job.new_tokens for job in seen}) > 50
    assert [job.at for job in seen] == sorted(job.at for job in seen)


def test_the_ratio_is_the_median_of_the_rounds():
    figures = bench_engine.compared({"ours": [10.0, 90.0, 20.0], "vllm": [5.0, 30.0, 20.0]})
    assert figures["ratio"] == {"vllm": 2.0}
    assert figures["tokens_a_second"] == {"ours": 20.0, "vllm": 20.0}


def test_peers_meet_the_same_prompts_in_turns(tmp_path):
    turns = []

    class Watched(Clockwork):
        def run(self, jobs):
            turns.append(("ours", [job.ids for job in jobs]))
            return super().run(jobs)

    def generate(prompts, new_tokens):
        turns.append(("peer", prompts))
        return 0.5

    figures = bench_engine.ladder(Watched(), {"peer": SimpleNamespace(generate=generate)}, PLAN, 1e9, random.Random(1))
    batches = [turn for turn in turns if len(turn[1]) == 4]
    assert [who for who, _ in batches] == ["ours", "peer"] * PLAN.rounds
    assert batches[0][1] == batches[1][1] != batches[2][1]
    assert figures["batches"]["4"]["ratio"] == {"peer": round((4 * 11 / 0.15) / (4 * 11 / 0.5), 2)}


def test_a_peer_that_is_not_there_or_fails_is_said_to_be_so(tmp_path, monkeypatch):
    def fail(setting):
        raise RuntimeError("no card")

    kinds = {"absent": bench_peers.Kind(("no_such_module",), fail), "ill": bench_peers.Kind(("torch",), fail)}
    monkeypatch.setattr(bench_engine, "PEERS", kinds)
    peers, said = bench_engine.load_peers(Clockwork(), replace(PLAN, peers=("absent", "ill")), tmp_path)
    assert peers == {}
    assert said == {"absent": "not installed", "ill": "failed: RuntimeError: no card"}


def test_the_cache_has_room_for_the_largest_batch_and_for_a_long_prompt_beside_lines():
    assert PLAN.pages * PAGE_TOKENS >= 4 * 111
    with_long = replace(PLAN, loads=("long",))
    assert with_long.slots == 8
    assert with_long.pages * PAGE_TOKENS >= 7 * 111 + 2_048


@pytest.mark.parametrize(("shape", "parameters"), [("7b", 7.504), ("1.8b", 1.791)])  # in 10⁹, as the cards have them
def test_synthetic_models_have_the_true_sizes(shape, parameters):
    config = synthetic.SHAPES[shape]
    embedding = config.vocab_size * config.hidden_size
    assert (config.body_parameters + embedding) / 1e9 == pytest.approx(parameters, abs=0.001)
    assert sum(rows * columns for _, (rows, columns) in synthetic.matrices(config)) == config.body_parameters


def test_other_engines_get_the_same_random_weights(tmp_path):
    model = synthetic.build(TINY, "cpu", torch.float32, synthetic.widened(torch.float32))
    synthetic.write_checkpoint(TINY, tmp_path, "cpu")
    read = checkpoint.load_model(tmp_path, checkpoint.read_config(tmp_path), torch.float32, "cpu").state_dict()
    assert read.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(read[name], tensor, rtol=0, atol=0, msg=name)
    assert 0.5 < model.layers[0].down.weight.std() * TINY.intermediate_size**0.5 < 2


def test_a_gguf_holds_the_weights_as_llama_cpp_names_them(tiny_checkpoint, tmp_path):
    bench_gguf.write_gguf(tiny_checkpoint, tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    tensors = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    weights = checkpoint.load_model(tiny_checkpoint, checkpoint.read_config(tiny_checkpoint), torch.float32, "cpu")
    query, key, value = np.split(weights.layers[1].qkv.weight.numpy(), [256, 320])
    for name, weight in {"attn_q": query, "attn_k": key, "attn_v": value}.items():
        assert np.abs(tensors[f"blk.1.{name}.weight"] - weight).max() < 0.15 * np.abs(weight).max()
    assert np.array_equal(tensors["output_norm.weight"], weights.norm.weight.numpy())
    assert len(tensors) == 2 + 3 * 11


def test_a_text_is_filled_and_cut_to_a_number_of_tokens():
    def words(text):
        return len(text.split())

    dice = random.Random(1)
    long = bench_ours.filled("Say this:\n\n", 60, words, dice)
    assert words(long) == 60
    assert long.startswith("Say this:\n\n")
    assert bench_ours.filled("Say this:\n\n", 60, words, dice) != long
    assert len(bench_ours.SENTENCE.split()) == 25


def test_random_weights_are_timed_and_drawn(tmp_path, capsys):
    chart = tmp_path / "chart.png"
    options = ["engine", "--synthetic", "tiny", "--device", "cpu", *SMALL, "--png", str(chart), "--compare", "vllm"]
    result, shown = result_of(capsys, bench, *options)
    assert result["peers"] == {"vllm": "not installed"}
    assert result["machine"].keys() == {"cpu", "cores", "threads", "gpu", "torch", "date"}
    assert result["batches"]["2"]["tokens_a_second"]["ours"] > 0
    assert result["batches"]["2"]["inter_token_ms"]["p99"] >= result["batches"]["2"]["inter_token_ms"]["p50"] > 0
    assert result["long_prompt"]["7"]["prompt_tokens"] == 511
    assert result["mixed"]["requests"] == 24
    assert {"weights", "kv_total", "process_rss"} <= result["memory_mb"].keys()
    assert "tokens/s, batch 2: ours" in shown
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_a_checkpoint_is_timed_beside_transformers(tiny_checkpoint, capsys):
    options = ["--device", "cpu", "--precision", "fp32", "--greedy", "--loads", "", "--compare", "transformers"]
    result, _ = result_of(capsys, bench, "engine", "--model", tiny_checkpoint, *SMALL, *options)
    assert result["peers"]["transformers"].startswith("transformers 5")
    assert result["first_token_ms"].keys() == {"ours", "transformers"}
    for size in ("1", "2"):
        figures = result["batches"][size]
        assert len(figures["rounds"]["ours"]) == len(figures["rounds"]["transformers"]) == 2
        assert figures["ratio"]["transformers"] > 0
    assert "long_prompt" not in result
    assert 100 < result["memory_mb"]["process_rss"] < 100_000


def test_prompts_through_the_backend_have_the_length_asked_for(tiny_checkpoint):
    engine = bench_ours.ThroughBackend(Path(tiny_checkpoint), "cpu", "fp32", 2, GREEDY)
    dice = random.Random(1)
    first, second = engine.prompt(90, dice), engine.prompt(90, dice)
    times = engine.run([replace(first, new_tokens=3), replace(second, new_tokens=2, at=0.05)])
    engine.close()
    assert all(85 <= len(job.ids) <= 90 for job in (first, second))
    assert first.ids != second.ids
    assert [len(own) for own in times] == [3, 2]
    assert times[1][0] > 0.05


def test_each_token_has_a_time_of_its_own_though_some_are_delivered_together(tiny_checkpoint):
    engine = bench_ours.ThroughBackend(Path(tiny_checkpoint), "cpu", "fp32", 2, GREEDY)
    (times,) = engine.run([replace(engine.prompt(90, random.Random(1)), new_tokens=60)])
    engine.close()
    gaps = sorted(after - before for before, after in pairwise(times[1:-1]))
    assert gaps[0] > 0
    assert gaps[len(gaps) // 2] > sum(gaps) / len(gaps) / 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "nowhere"], "no model folder"),
        (["--compare", "vllm,ollama"], "ollama: unknown here; there are vllm, transformers, llama.cpp"),
        (["--loads", "short"], "short: unknown here; there are long, mixed"),
        (["--new-tokens", "1"], "no time between two"),
        (["--png", "nowhere/chart.png"], "no folder 'nowhere' for the chart"),
        (["--kv-dtype", "fp8"], "give --synthetic with it"),
        (["--synthetic", "tiny", "--prompt-tokens", "500"], "does not fit the 512 that one sequence may have here"),
        (["--synthetic", "tiny", "--device", "cuda:99"], "There is no device 'cuda:99'"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(options, said):
    with pytest.raises(SystemExit, match=said):
        call(bench, "engine", "--device", "cpu", *options)


def test_a_precision_that_is_none_is_told(capsys):
    assert "invalid choice: 'nope'" in refusal_of(capsys, bench, "engine", "--precision", "nope")


def test_each_batch_size_is_measured_once():
    assert asked.counts("8,1,8") == (1, 8)


@pytest.mark.parametrize(
    "part",
    [
        ["engine", "--repeat", "0"],
        ["engine", "--batch", "0,1"],
        ["engine", "--batch", "1,"],
        ["engine", "--new-tokens", "-4"],
        ["engine", "--prompt-tokens", "1.5"],
        ["markup", "--repeat", "no"],
    ],
)
def test_what_is_no_count_is_one_sentence(part, capsys):
    assert "is not a whole number from 1 on" in refusal_of(capsys, bench, *part)


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf", "much"])
def test_what_is_no_amount_is_one_sentence(size, capsys):
    assert "is not a number above 0" in refusal_of(capsys, bench, "markup", "--mb", size)


def test_peers_get_as_many_threads_as_ours(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(bench_engine, "PEERS", {"it": bench_peers.Kind(("torch",), seen.append)})
    bench_engine.load_peers(Clockwork(), replace(PLAN, peers=("it",)), tmp_path)
    assert [setting.threads for setting in seen] == [Clockwork.threads]


def test_what_a_step_reads_is_what_is_held_but_for_what_is_looked_up(tmp_path):
    """INT4 in groups of 32 with a scale in 16 bits and one zero for all; the head in groups of 64, zeros in 4 bits."""
    folder = write_checkpoint(tmp_path / "model")
    quantize_gptq(folder, group_size=32)
    engine = bench_ours.ThroughBackend(folder, "cpu", "auto", 2, GREEDY)
    engine.close()
    config = engine.config
    head = config.vocab_size * config.hidden_size
    read = config.body_parameters * (1 / 2 + 2 / 32) + head * (1 / 2 + 2.5 / 64)
    assert engine.weights_read == pytest.approx(read, rel=0.05)
    values = config.layers * 2 * config.kv_heads * config.head_dim
    assert engine.kv_token_bytes == 2 * values  # fp16
    widened = bench_ours.ThroughBackend(folder, "cpu", "fp32", 2, GREEDY)
    widened.close()
    assert widened.weights_read == pytest.approx(4 * (config.body_parameters + head), rel=0.01)
    assert widened.kv_token_bytes == 4 * values


def test_markup_is_timed_at_two_sizes_beside_another_reader(capsys):
    figures, shown = result_of(capsys, bench, "markup", "--mb", "0.01", "--repeat", "1")
    assert len(figures["html"]["mb_a_second"]) == 2
    assert figures["html"]["peer_mb_a_second"] > 0
    assert figures["markdown"]["time_for_ten_times"] > 1
    assert "MB/s" in shown


def test_memory_is_told_by_kind_and_of_the_whole_process():
    figures = bench_engine.memory(Clockwork(), 0)
    assert figures.keys() == {"weights", "kv_total", "process_rss"}
    assert figures["weights"] == 2
    assert 100 < figures["process_rss"] < 100_000


def test_a_copy_counts_what_is_read_and_what_is_written():
    assert 1e8 < bench_engine.copy_bytes_a_second("cpu") < 1e13


def test_the_engine_is_closed_when_a_measurement_fails(monkeypatch):
    engine = Clockwork()
    monkeypatch.setattr(bench_engine, "ThroughBatcher", lambda *_: engine)
    monkeypatch.setattr(bench_engine, "measure", lambda *_: 1 / 0)
    parser = argparse.ArgumentParser()
    bench_engine.add_arguments(parser)
    with pytest.raises(ZeroDivisionError):
        bench_engine.run(parser.parse_args(["--synthetic", "tiny", "--device", "cpu"]))
    assert engine.closed
