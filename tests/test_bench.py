"""The bench, with a model so small that its figures mean nothing."""

import argparse
import json
import sys

import pytest

from engine.tools import bench

COMMAND = ["bench", "engine", "--batch", "1,2", "--prompt-tokens", "90", "--new-tokens", "4", "--repeat", "2"]


@pytest.fixture(scope="module")
def figures(tiny_checkpoint):
    settings = {"batch": "1,2", "prompt_tokens": 90, "new_tokens": 4, "repeat": 2, "peer": "transformers"}
    return bench.bench_engine(
        argparse.Namespace(model=str(tiny_checkpoint), device="cpu", precision="fp32", **settings)
    )


def test_ours_and_the_peer_are_timed_in_the_same_rounds(figures):
    for size in ("1", "2"):
        speeds = figures["tokens_a_second"][size]
        assert len(speeds["rounds"]["ours"]) == len(speeds["rounds"]["peer"]) == 2
        assert speeds["ours"] > 0
        assert speeds["peer"] > 0
    assert figures["first_token_ms"].keys() == {"ours", "peer"}
    assert figures["peer"].startswith("transformers 5")


def test_memory_and_lengths_are_told(figures):
    assert 100 < figures["peak_rss_mb"] < 100_000
    assert 80 <= figures["prompt_tokens"] <= 95
    assert figures["new_tokens"] == 4


def test_the_ratio_is_the_median_of_the_rounds():
    speeds = {"ours": [10.0, 90.0, 20.0], "peer": [5.0, 30.0, 20.0]}
    assert bench.compared(speeds)["ratio"] == 2.0
    assert bench.compared(speeds)["ours"] == 20.0


def test_a_text_is_filled_and_cut_to_a_number_of_tokens():
    def words(text):
        return len(text.split())

    assert words(bench.filled("Say this:\n\nOne two.", 60, words)) == 60
    assert bench.filled("Say this:\n\nOne two three.", 3, words) == "Say this:\n\nOne"


def test_the_sentence_has_25_words():
    assert len(bench.SENTENCE.split()) == 25


def test_the_last_line_is_json_and_names_the_machine(tiny_checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [*COMMAND, "--model", str(tiny_checkpoint)])
    bench.main()
    printed = capsys.readouterr()
    result = json.loads(printed.out.splitlines()[-1])
    assert result["machine"].keys() == {"cpu", "cores", "threads", "gpu", "torch", "date"}
    assert "tokens/s, batch 2: ours" in printed.err


def test_a_model_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [*COMMAND, "--model", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="no model folder"):
        bench.main()


def test_markup_is_timed_at_two_sizes_beside_another_reader(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "markup", "--mb", "0.01", "--repeat", "1"])
    bench.main()
    out, err = capsys.readouterr()
    figures = json.loads(out.splitlines()[-1])
    assert len(figures["html"]["mb_a_second"]) == 2
    assert figures["html"]["peer_mb_a_second"] > 0
    assert figures["markdown"]["time_for_ten_times"] > 1
    assert "MB/s" in err
