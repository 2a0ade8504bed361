"""LoRA: what is trained is what peft, transformers and our own merge make of the adapter."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from engine.errors import ConfigError
from engine.inference.checkpoint import load_model, read_config
from engine.inference.model import HunYuanDense, ModelConfig
from engine.tools import train as tool
from engine.tools.convert import convert
from engine.tools.int4 import round_symmetric
from engine.tools.training import lora
from tests.checkpoints import quantize_gptq, scores_of
from tests.corpora import write_corpus, write_tests

IDS = list(range(5, 35))
SHAPE = ModelConfig(96, 128, 256, 2, 4, 2, 32, 10_000.0, 1e-5, 128, tied_head=True)


def loaded(folder, int4=None):
    return load_model(folder, read_config(folder), torch.float32, "cpu", int4)


def adapted(folder, int4=None):
    """With adapters that say something."""
    model = loaded(folder, int4)
    lora.add(model, 4, 8.0, 0.0, torch.float32, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.05)
    return model


def test_a_new_adapter_changes_nothing(tiny_checkpoint):
    before = scores_of(loaded(tiny_checkpoint), IDS)
    model = loaded(tiny_checkpoint)
    lora.add(model, 4, 8.0, 0.1, torch.float32, seed=1)
    assert torch.equal(scores_of(model.eval(), IDS), before)
    assert {name.split(".")[3] for name, each in model.named_parameters() if each.requires_grad} == {"lora_A", "lora_B"}


def test_what_is_written_says_the_same_in_peft_and_merged(tiny_checkpoint, tmp_path):
    model = adapted(tiny_checkpoint)
    lora.save(model, tmp_path / "adapter", str(tiny_checkpoint), 8.0, 0.0)
    ours = scores_of(model, IDS)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_checkpoint), tmp_path / "adapter")
    with torch.inference_mode():
        assert torch.allclose(theirs(torch.tensor([IDS])).logits[0].float(), ours, atol=2e-4)
    convert(tiny_checkpoint, tmp_path / "merged", "fp32", lora=tmp_path / "adapter")
    assert torch.allclose(scores_of(loaded(tmp_path / "merged"), IDS), ours, atol=2e-4)


def test_training_writes_an_adapter_and_leaves_the_checkpoint(tiny_checkpoint, tmp_path):
    before = {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir() if path.is_file()}
    corpus, development = write_corpus(tmp_path / "corpus"), write_tests(tmp_path / "test")
    options = [f"--start={tiny_checkpoint}", f"--corpus={corpus}", f"--dev={development}"]
    options += [f"--out={tmp_path / 'adapter'}", "--lora=2", "--rows=1", "--row-tokens=256", "--steps=2", "--workers=0"]
    result = tool.train([*options, "--precision=fp32", "--log-every=1", "--save-minutes=0.00001"])
    matrices = [each for each in loaded(tiny_checkpoint).layers.parameters() if each.ndim == 2]
    assert result["trained_parameters"] == sum(2 * sum(matrix.shape) for matrix in matrices)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (2, 4.0, "LORA")
    assert {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir() if path.is_file()} == before
    kept = (tmp_path / "adapter" / "state" / "weights.pt").stat().st_size
    assert kept < (tiny_checkpoint / "model.safetensors").stat().st_size / 4  # not what is frozen
    resumed = tool.train([*options, "--precision=fp32", "--log-every=1", "--save-minutes=0", "--steps=3", "--resume"])
    assert [point["step"] for point in resumed["curve"]] == [1, 2, 3]


def test_a_matrix_in_int4_multiplies_and_sends_gradients_back_as_its_widened_self():
    linear = torch.nn.Linear(256, 64, bias=False)
    frozen = lora.FrozenInt4.rounded(linear)
    wide = round_symmetric(linear.weight.detach(), lora.ROUNDED_GROUP).dequantize()
    x = torch.randn(3, 5, 256, requires_grad=True)
    frozen(x).square().sum().backward()
    gradient, x.grad = x.grad.clone(), None
    (x @ wide.T).square().sum().backward()
    assert torch.allclose(gradient, x.grad, rtol=1e-4, atol=1e-3)
    assert sum(each.nbytes for each in frozen.buffers()) < linear.weight.nbytes / 7


@pytest.mark.parametrize("act_order", [False, True])
def test_adapters_train_beside_a_checkpoint_in_int4(tiny_checkpoint, tmp_path, act_order):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "int4")
    quantize_gptq(folder, group_size=32, act_order=act_order, shared_order=True)
    model, plain = adapted(folder, lora.FrozenInt4), loaded(folder)
    assert all(isinstance(layer.down.base_layer, lora.FrozenInt4) for layer in model.layers)
    for _, each in lora._adapted(model):
        torch.nn.init.zeros_(each.lora_B[lora.ADAPTER].weight)
    assert torch.allclose(scores_of(model, IDS), scores_of(plain, IDS), atol=1e-4)


def test_a_model_is_held_in_int4_for_training():
    torch.manual_seed(1)
    model = HunYuanDense(SHAPE)
    lora.hold_in_int4(model)
    assert not [name for name, each in model.layers.named_parameters() if each.ndim == 2]


def test_what_groups_do_not_divide_is_not_held_in_int4():
    with pytest.raises(ConfigError, match="Groups of 128 do not divide the 64 inputs"):
        lora.hold_in_int4(HunYuanDense(ModelConfig(96, 64, 128, 1, 2, 1, 32, 10_000.0, 1e-5, 128, tied_head=True)))
