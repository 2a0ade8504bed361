"""INT4 as it is trained and written: what is trained with is what the engine reads."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from engine.errors import ConfigError
from engine.inference import gptq
from engine.inference.checkpoint import load_model, read_config
from engine.inference.gptq import GptqConfig, Int4Weight
from engine.inference.held import Int4Held, int4_head
from engine.inference.model import HunYuanDense, ModelConfig
from engine.tools import int4
from engine.tools.training.trainee import initialise
from tests.checkpoints import error, scores_of

V1 = GptqConfig.read({"bits": 4, "checkpoint_format": "gptq"})
SHAPE = ModelConfig(96, 64, 128, 2, 4, 2, 32, 10_000.0, 1e-5, 128, tied_head=True)


@pytest.fixture
def model():
    model = HunYuanDense(SHAPE)
    int4.round_in_training(model, 32)
    initialise(model, 1)
    return model.eval()


@pytest.fixture
def written(model, tmp_path):
    int4.save_model(model, tmp_path, 32, {"yiwen": {"name": "small"}})
    return tmp_path


def matrix(rows=16, columns=256):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3))


def places(model):
    return [name for name, module in model.named_modules() if isinstance(module, int4.RoundedLinear)]


@pytest.mark.parametrize("group", int4.GROUPS)
def test_packing_is_read_back_to_the_last_bit(group):
    weight = int4.round_symmetric(matrix(), group)
    read = gptq.read(int4.pack(weight), V1)
    for name in ("values", "scales", "zeros"):
        assert torch.equal(getattr(read, name), getattr(weight, name))
    assert (read.order, read.group) == (None, weight.group)
    assert set(weight.values.flatten().tolist()) == set(range(16))


def test_any_zero_points_are_packed():
    values = torch.arange(16, dtype=torch.uint8).repeat(16, 4)
    zeros = torch.arange(16, dtype=torch.uint8)[:, None].repeat(1, 2)
    read = gptq.read(int4.pack(Int4Weight(values, torch.ones(16, 2).half(), zeros, None, 32)), V1)
    assert torch.equal(read.zeros, zeros)


def test_the_largest_of_a_group_stays_itself_whatever_its_sign():
    weight = matrix().half().float()
    rounded = int4.round_symmetric(weight, 64).dequantize().view(16, 4, 64)
    largest = weight.view(16, 4, 64).abs().argmax(-1, keepdim=True)
    assert torch.allclose(rounded.gather(-1, largest), weight.view(16, 4, 64).gather(-1, largest), rtol=1e-3)
    assert rounded.gather(-1, largest).min() < 0 < rounded.gather(-1, largest).max()


def test_rounding_moves_no_weight_by_more_than_half_a_step_but_those_past_the_last_level():
    weight, rounded = matrix(), int4.round_symmetric(matrix(), 64)
    steps = (rounded.dequantize() - weight).view(16, 4, 64).abs() / rounded.scales.float().abs()[..., None]
    assert steps.max() < 1.01
    assert (steps <= 0.5 + 1e-3).float().mean() > 0.98


def test_a_group_of_zeros_stays_zero():
    assert not int4.round_symmetric(torch.zeros(8, 64), 32).dequantize().any()


def test_what_is_trained_with_is_what_is_written(model, written):
    widened = load_model(written, read_config(written), torch.float32, "cpu")
    for place in places(model):
        assert torch.equal(model.get_submodule(place).served(), widened.get_submodule(place).weight)
    assert torch.equal(model.embedding.served(), widened.embedding.weight)
    assert len(places(model)) == 8


def test_the_head_is_trained_as_the_cpu_engines_make_it(model, written):
    held = load_model(written, read_config(written), torch.float32, "cpu", Int4Held)
    assert torch.equal(model.embedding.served_head(), int4_head(held).dequantize())


def test_gradients_pass_the_rounding_as_if_it_were_not_there(model):
    linear, x = model.layers[0].down, torch.randn(5, 128)
    linear(x).sum().backward()
    assert torch.allclose(linear.weight.grad, x.sum(0).expand(64, -1), atol=1e-5)
    ids, hidden = torch.tensor([3, 3, 7]), torch.randn(5, 64)
    model.embedding(ids).sum().backward()
    assert model.embedding.weight.grad.sum(1).tolist() == [{3: 128.0, 7: 64.0}.get(row, 0.0) for row in range(96)]
    model.embedding.weight.grad = None
    model.embedding.project(hidden).sum().backward()
    assert torch.allclose(model.embedding.weight.grad, hidden.sum(0).expand(96, -1), atol=1e-5)


def test_rounding_keeps_the_parameters_and_their_names(model):
    assert {name: each.shape for name, each in model.named_parameters()} == {
        name: each.shape for name, each in HunYuanDense(SHAPE).named_parameters()
    }


def test_compiled_it_is_rounded_alike(model):
    down = model.layers[0].down
    assert torch.equal(torch.compile(down.served, backend="aot_eager", fullgraph=True)(), down.served())
    head = torch.compile(model.embedding.served_head, backend="aot_eager", fullgraph=True)
    assert torch.equal(head(), model.embedding.served_head())


def test_the_files_hold_no_more_than_was_asked(model, tmp_path):
    int4.save_model(model, tmp_path / "parts", 32, {}, shard_bytes=8_000)
    header = 2_000  # names and shapes, which are not counted
    sizes = [path.stat().st_size for path in (tmp_path / "parts").glob("*.safetensors")]
    assert len(sizes) > 2
    assert max(sizes) < 8_000 + header
    int4.save_model(model, tmp_path / "whole", 32, {})
    parts, whole = (
        load_model(tmp_path / name, read_config(tmp_path / name), torch.float32, "cpu") for name in ("parts", "whole")
    )
    assert error(scores_of(parts, range(9)), scores_of(whole, range(9))) == 0


def test_a_head_of_its_own_stays_as_fine_as_the_config_says(tmp_path):
    model = HunYuanDense(replace(SHAPE, tied_head=False))
    initialise(model, 1)
    int4.save_model(model, tmp_path, 32, {})
    config = read_config(tmp_path)
    read = load_model(tmp_path, config, torch.float32, "cpu")
    assert not config["quantization_config"]["lm_head"]
    assert torch.equal(read.head.weight, model.head.weight.bfloat16().float())


@pytest.mark.parametrize(
    ("hidden", "group", "words"),
    [
        (64, 128, "Groups of 128 do not divide the 64 inputs of a layer; take 32 or 64 or -1"),
        (48, 32, "Groups of 32 do not divide the 48 inputs of a layer; take -1"),
        (
            96,
            32,
            "The head, served in groups of 64, has 96 inputs; take a recipe whose hidden_size is a multiple of 64",
        ),
    ],
)
def test_groups_that_do_not_divide_the_inputs_are_refused(hidden, group, words):
    model = HunYuanDense(ModelConfig(96, hidden, 128, 1, 4, 2, 32, 10_000.0, 1e-5, 128, tied_head=True))
    with pytest.raises(ConfigError, match=words):
        int4.round_in_training(model, group)
    assert type(model.layers[0].down) is nn.Linear
