"""A checkpoint in another precision."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine import inventory
from engine.backends.local import LocalBackend
from engine.config import Config
from engine.errors import ConfigError, ModelNotFound, UnsupportedModel
from engine.shape import ModelShape
from engine.tools import convert as tool
from engine.tools.convert import convert
from tests.checkpoints import change_tensors
from tests.commands import refusal_of, result_of


@pytest.fixture(scope="module")
def folders(tiny_checkpoint, tmp_path_factory):
    """The checkpoint as INT8, and that as bf16."""
    folder = tmp_path_factory.mktemp("convert")
    (folder / "source").mkdir()
    for path in tiny_checkpoint.iterdir():
        (folder / "source" / path.name).write_bytes(path.read_bytes())
    (folder / "source" / "README.md").write_text("A model card.")
    (folder / "source" / "LICENSE").write_text("A licence.")
    (folder / "source" / "License.txt").write_text("Another.")  # as Tencent calls it
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
    for name in ("tokenizer.json", "generation_config.json", "LICENSE", "License.txt"):
        assert (folders / "bf16" / name).read_bytes() == (folders / "source" / name).read_bytes()
    assert not (folders / "bf16" / "README.md").exists()
    assert AutoTokenizer.from_pretrained(folders / "bf16").eos_token == "<|eos|>"


def test_the_engine_runs_what_it_wrote(folders):
    backend = LocalBackend.load(Config(model=str(folders / "int8"), devices="cpu", max_concurrent=1))
    assert backend.info.precision == "int8"
    assert backend.info.name == "tiny"
    backend._batcher.close()


def test_the_tool_tells_sizes_times_and_what_both_say(folders, tmp_path, capsys):
    told, beside = result_of(capsys, tool, folders / "source", tmp_path / "out", "--precision", "fp16")
    assert told["bytes_after"] < 0.6 * told["bytes_before"]
    assert (told["files"], told["precision"], told["out"]) == (1, "fp16", str(tmp_path / "out"))
    assert min(told["load_seconds"].values()) > 0
    outputs = told["outputs"]
    assert outputs["tokens"] > outputs["sentences"] == len(outputs["texts"]) == 4
    assert 0 < outputs["mean_logit_change"] < outputs["max_logit_change"] < 0.05
    assert 0 <= outputs["kl_nats"] < 1e-4
    assert outputs["same_best"] > 0.9
    assert "writing fp16: 100%" in beside
    assert "scores off by" in beside


def test_of_the_same_weights_in_another_form_the_outputs_are_the_same(folders, tmp_path, capsys):
    command = (folders / "bf16", tmp_path / "out", "--precision", "fp32", "--shard-mb", "0.2")
    outputs = result_of(capsys, tool, *command)[0]["outputs"]
    assert outputs["max_logit_change"] == outputs["kl_nats"] == 0
    assert (outputs["same_best"], outputs["same_text"]) == (1, 4)


def test_what_cannot_be_compared_is_converted_all_the_same(folders, tmp_path, monkeypatch, capsys):
    command = (folders / "source", tmp_path / "out", "--precision", "bf16")
    machine = inventory.survey("cpu")
    monkeypatch.setattr(inventory, "survey", lambda devices: replace(machine, ram_free_bytes=300_000_000))
    told, beside = result_of(capsys, tool, *command)
    assert re.fullmatch(r"0\.0 GB of weights in fp32 do not fit into 0\.3 GB of free memory\.", told["not_compared"])
    assert "Outputs are not compared: 0.0 GB" in beside
    assert not {"outputs", "load_seconds"} & told.keys()
    assert not {"outputs", "load_seconds", "not_compared"} & result_of(capsys, tool, *command, "--no-compare")[0].keys()
    monkeypatch.undo()
    shutil.copytree(folders / "source", tmp_path / "bare")
    for path in (tmp_path / "bare").glob("tokenizer*"):
        path.unlink()
    told, _ = result_of(capsys, tool, tmp_path / "bare", tmp_path / "out2", "--precision", "bf16")
    assert "holds no tokenizer.json" in told["not_compared"]
    assert "load_seconds" in told


def spoilt(folders, tmp_path, values):
    """A copy whose tensors have these values at their beginnings."""
    folder = shutil.copytree(folders / "source", tmp_path / "spoilt")
    tensors = load_file(folder / "model.safetensors")
    for name, first in values.items():
        tensors[name].view(-1)[: len(first)] = torch.tensor(first)
    change_tensors(folder, tensors)
    return folder


def test_values_beyond_fp16_are_named_and_nothing_is_written(folders, tmp_path):
    up, output = "model.layers.0.mlp.up_proj", "model.layers.2.self_attn.o_proj"
    values = {f"{up}.weight": [65_504.0, 65_519.0, -70_000.0, 1e30], f"{output}.weight": [81_920.0]}
    source = spoilt(folders, tmp_path, values)
    convert(folders / "source", tmp_path / "out", "fp32")
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    with pytest.raises(ConfigError) as failed:
        convert(source, tmp_path / "out", "fp16")
    assert str(failed.value) == (
        f"fp16 ends at 65,504, and values of {up} (2 of 32,768, the largest 1e+30), {output} (1 of 32,768, the largest "
        "81920) are beyond it; write bf16 instead (--precision bf16)."
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before
    assert config_of(tmp_path / "out")["dtype"] == "float32"
    convert(source, tmp_path / "bf16", "bf16")
    assert config_of(tmp_path / "bf16")["dtype"] == "bfloat16"


def test_small_values_that_fp16_loses_are_counted(folders, tmp_path):
    name = "model.layers.1.input_layernorm"
    source = spoilt(folders, tmp_path, {f"{name}.weight": 4 * [1e-9] + 8 * [-2e-5] + [0.0]})
    before, after = (convert(each, tmp_path / "out", "fp16")["fp16"] for each in (folders / "source", source))
    assert after["worst"][0] == {"tensor": name, "underflow_share": 4 / 128, "subnormal_share": 8 / 128}
    count = ModelShape.read(config_of(source)).parameters
    assert after["underflow_share"] - before["underflow_share"] == pytest.approx(4 / count, rel=0.01)
    assert after["subnormal_share"] - before["subnormal_share"] == pytest.approx(8 / count, rel=0.01)


def test_a_damaged_source_leaves_what_was_in_out(folders, tmp_path):
    source = spoilt(folders, tmp_path, {"model.norm.weight": [float("nan")]})
    convert(folders / "source", tmp_path / "out", "bf16")
    with pytest.raises(UnsupportedModel, match=r"model\.norm\.weight of .* holds NaN"):
        convert(source, tmp_path / "out", "int8")
    assert config_of(tmp_path / "out")["dtype"] == "bfloat16"
    assert not list((tmp_path / "out").glob(".*"))


def test_stopped_in_the_middle_it_goes_on_there_and_ends_the_same(folders, tmp_path, monkeypatch, capsys):
    whole, told = (folders / "source", tmp_path / "whole"), {}
    command = ("--precision", "fp16", "--shard-mb", "0.2", "--no-compare")
    told["whole"] = result_of(capsys, tool, *whole, *command)[0]

    class Stopping(tool.tqdm):
        def update(self, count):
            super().update(count)
            if self.n > self.total / 2:
                raise KeyboardInterrupt

    stopped = (folders / "source", tmp_path / "stopped")
    monkeypatch.setattr(tool, "tqdm", Stopping)
    with pytest.raises(SystemExit, match="the same command goes on after"):
        result_of(capsys, tool, *stopped, *command)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == [".writing"]
    kept = len(list((tmp_path / "stopped" / ".writing").glob("*.safetensors")))
    told["stopped"] = result_of(capsys, tool, *stopped, *command)[0]
    assert 2 <= kept < told["stopped"]["files"]
    assert told["stopped"]["fp16"] == told["whole"]["fp16"]
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "stopped" / path.name).read_bytes()


def test_a_checkpoint_is_never_written_over_itself(folders, capsys):
    source = folders / "source"
    assert "name another folder" in refusal_of(capsys, tool, source, f"{source}/.", "--precision", "int8")


@pytest.mark.parametrize("size", ["0", "-1", "nan"])
def test_files_of_no_size_are_refused(folders, tmp_path, capsys, size):
    said = refusal_of(capsys, tool, folders / "source", tmp_path, "--precision", "fp16", "--shard-mb", size)
    assert f"--shard-mb: {size!r} is not a number above 0" in said


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ModelNotFound, match="no model folder"):
        convert(tmp_path / "none", tmp_path / "out", "bf16")


def test_a_refused_conversion_leaves_no_empty_folder(folders, tmp_path):
    source = spoilt(folders, tmp_path, {"model.norm.weight": [70_000.0]})
    with pytest.raises(ConfigError, match="fp16 ends at"):
        convert(source, tmp_path / "new" / "out", "fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["spoilt"]
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="fp16 ends at"):
        convert(source, tmp_path / "there", "fp16")
    assert not [*(tmp_path / "there").iterdir()]  # the user's own stays
