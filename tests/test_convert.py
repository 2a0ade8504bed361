"""A checkpoint in another precision."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.backends.local import LocalBackend
from engine.config import Config
from engine.errors import ModelNotFound
from engine.tools import convert as tool
from engine.tools.convert import convert


@pytest.fixture(scope="module")
def folders(tiny_checkpoint, tmp_path_factory):
    """The checkpoint as INT8, and that as bf16."""
    folder = tmp_path_factory.mktemp("convert")
    (folder / "source").mkdir()
    for path in tiny_checkpoint.iterdir():
        (folder / "source" / path.name).write_bytes(path.read_bytes())
    (folder / "source" / "README.md").write_text("A model card.")
    (folder / "source" / "LICENSE").write_text("A licence.")
    convert(folder / "source", folder / "int8", "int8")
    convert(folder / "int8", folder / "bf16", "bf16")
    return folder


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@torch.inference_mode()
def scores_of(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model(torch.arange(5, 60)[None]).logits


def test_int8_widened_to_bf16_is_loaded_by_transformers_alone_and_says_nearly_the_same(folders):
    before, after = scores_of(folders / "source"), scores_of(folders / "bf16")
    assert ((after - before).norm() / before.norm()).item() < 0.05


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-6), ("fp16", 5e-3), ("bf16", 5e-2)])
def test_scores_stay_as_near_as_the_precision_allows(folders, tmp_path, precision, bound):
    convert(folders / "source", tmp_path / "out", precision)
    before, after = scores_of(folders / "source"), scores_of(tmp_path / "out")
    assert ((after - before).norm() / before.norm()).item() < bound


def test_int8_halves_bf16(folders):
    sizes = convert(folders / "bf16", folders / "again", "int8")
    assert sizes["bytes_before"] == (folders / "bf16" / "model.safetensors").stat().st_size
    assert sizes["bytes_after"] == (folders / "again" / "model.safetensors").stat().st_size
    assert sizes["bytes_after"] < 0.6 * sizes["bytes_before"]


def test_shards_hold_the_same_weights_and_replace_a_whole_file(folders, tmp_path):
    convert(folders / "source", tmp_path / "out", "fp32")
    whole = scores_of(tmp_path / "out")
    largest = (tmp_path / "out" / "model.safetensors").stat().st_size // 3
    convert(folders / "source", tmp_path / "out", "fp32", largest)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2
    assert all(path.name.startswith("model-0") for path in shards)
    assert torch.equal(scores_of(tmp_path / "out"), whole)
    convert(tmp_path / "out", tmp_path / "joined", "fp32")  # our own reader
    assert torch.equal(scores_of(tmp_path / "joined"), whole)


def test_quantising_what_was_quantised_changes_no_weight(folders):
    convert(folders / "int8", folders / "twice", "int8")
    before, after = (load_file(folders / name / "model.safetensors") for name in ("int8", "twice"))
    assert all(torch.equal(before[name], after[name]) for name in before if before[name].dtype == torch.int8)


def test_the_config_keeps_what_is_the_models_own(folders):
    source, kept = config_of(folders / "source"), config_of(folders / "bf16")
    for name in ("eos_token_id", "bos_token_id", "pad_token_id", "yiwen", "head_dim", "max_position_embeddings"):
        assert kept[name] == source[name]
    assert kept["dtype"] == "bfloat16"


def test_the_config_drops_what_was_true_of_the_old_weights_only(folders):
    assert config_of(folders / "int8")["quantization_config"]["quant_method"] == "int8-rows"
    assert "dtype" not in config_of(folders / "int8")
    assert not {"quantization_config", "rope_scaling", "rope_theta"} & set(config_of(folders / "bf16"))


def test_tokenizer_sampling_and_licence_come_along_but_not_the_card_of_other_weights(folders):
    for name in ("tokenizer.json", "generation_config.json", "LICENSE"):
        assert (folders / "bf16" / name).read_bytes() == (folders / "source" / name).read_bytes()
    assert not (folders / "bf16" / "README.md").exists()
    assert AutoTokenizer.from_pretrained(folders / "bf16").eos_token == "<|eos|>"


def test_the_engine_runs_what_it_wrote(folders):
    backend = LocalBackend.load(Config(model=str(folders / "int8"), devices="cpu", max_concurrent=1))
    assert backend.info.precision == "int8"
    assert backend.info.name == "tiny"
    backend._batcher.close()


def test_the_tool_prints_sizes_as_its_last_line(folders, monkeypatch, capsys):
    command = ["convert", str(folders / "source"), str(folders / "told"), "--precision", "fp16"]
    monkeypatch.setattr(sys, "argv", command)
    tool.main()
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["bytes_after"] < told["bytes_before"]


def test_a_checkpoint_is_never_written_over_itself(folders, monkeypatch, capsys):
    source = str(folders / "source")
    monkeypatch.setattr(sys, "argv", ["convert", source, source + "/.", "--precision", "int8"])
    with pytest.raises(SystemExit):
        tool.main()
    assert "name another folder" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["0", "-1", "nan"])
def test_files_of_no_size_are_refused(folders, tmp_path, monkeypatch, capsys, size):
    command = ["convert", str(folders / "source"), str(tmp_path), "--precision", "fp16", "--shard-mb", size]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        tool.main()
    assert "--shard-mb: " + repr(size) + " is not a number above 0" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ModelNotFound, match="no model folder"):
        convert(tmp_path / "none", tmp_path / "out", "bf16")
