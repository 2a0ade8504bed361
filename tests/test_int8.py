"""INT8 weights, one scale a row: how near they are, and that blocks of rows are no other weights."""

from pathlib import Path

import pytest
import torch

from engine.inference import int8
from engine.inference.checkpoint import load_model, read_config, save_model
from engine.inference.int8 import Int8Rows, dequantize_rows, float_blocks, float_weight, quantize_rows


def test_a_weight_comes_back_within_half_a_step_of_its_row() -> None:
    weight = torch.randn(64, 96)
    quantized, scale = quantize_rows(weight)
    assert ((dequantize_rows(quantized, scale, torch.float32) - weight).abs() <= scale[:, None] * 0.501).all()


def test_a_row_of_zeros_stays_zero() -> None:
    assert not dequantize_rows(*quantize_rows(torch.zeros(2, 8)), torch.float32).any()


def test_scales_are_kept_in_fp32_and_weights_where_they_are() -> None:
    quantized, scale = quantize_rows(torch.randn(4, 8))
    held = Int8Rows(quantized, scale.bfloat16())
    assert (held.scale.dtype, held.weight.data_ptr()) == (torch.float32, quantized.data_ptr())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("held", [True, False], ids=["held", "float"])
def test_blocks_of_rows_are_the_same_weights(held: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(50, 8)
    rounded = quantize_rows(weight)
    linear = torch.nn.Linear(8, 50, bias=False)
    linear.weight.data = weight.bfloat16()
    module = Int8Rows(*quantize_rows(weight)) if held else linear
    whole = [float_weight(module).float(), dequantize_rows(*quantize_rows(weight), dtype)]
    monkeypatch.setattr(int8, "BLOCK_ROWS", 16)
    blocks = list(float_blocks(module))
    assert [len(block) for block in blocks] == [16, 16, 16, 2]
    assert torch.equal(torch.cat(blocks), whole[0])
    assert all(map(torch.equal, quantize_rows(weight), rounded))
    assert torch.equal(dequantize_rows(*rounded, dtype), whole[1])


def test_a_model_that_is_rounded_as_it_is_read_is_its_int8_copy(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = read_config(tiny_checkpoint)
    save_model(load_model(tiny_checkpoint, config, torch.float32, "cpu"), tmp_path, torch.int8, {})
    copy = load_model(tmp_path, read_config(tmp_path), torch.float32, "cpu", int8=Int8Rows)
    read = load_model(tiny_checkpoint, config, torch.float32, "cpu", int8=Int8Rows, rounded=True)
    held = {name: module for name, module in read.named_modules() if isinstance(module, Int8Rows)}
    assert len(held) == 1 + 4 * config["num_hidden_layers"]
    for name, module in held.items():
        same = copy.get_submodule(name)
        assert torch.equal(module.weight, same.weight)
        assert torch.equal(module.scale, same.scale)
    assert read.norm.weight.dtype == torch.float32
