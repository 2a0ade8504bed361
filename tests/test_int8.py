"""INT8 weights, one scale a row: the streamed product, the widened one, and what the kernel asks for."""

import pytest
import torch

from engine.inference.int8 import MAX_STREAMED_ROWS, Int8Embedding, Int8Linear, dequantize_rows, quantize_rows


def random_rows(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    return quantize_rows(torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)))


def test_a_weight_comes_back_within_half_a_step_of_its_row() -> None:
    weight = torch.randn(64, 96)
    quantized, scale = quantize_rows(weight)
    assert ((dequantize_rows(quantized, scale, torch.float32) - weight).abs() <= scale[:, None] * 0.501).all()


def test_a_row_of_zeros_stays_zero() -> None:
    assert not dequantize_rows(*quantize_rows(torch.zeros(2, 8)), torch.float32).any()


@pytest.mark.parametrize("count", range(1, MAX_STREAMED_ROWS + 2))
def test_few_rows_and_many_have_the_same_product(count: int) -> None:
    quantized, scale = random_rows(192, 128)
    x = torch.randn(count, 128).bfloat16()
    expected = x.float() @ dequantize_rows(quantized, scale, torch.float32).T
    product = Int8Linear(quantized, scale, torch.bfloat16)(x).float()
    assert (product - expected).norm() / expected.norm() < 0.01


def test_weights_at_any_address_are_safe() -> None:
    quantized, scale = random_rows(4096, 256)
    mapped = torch.empty(quantized.numel() + 8, dtype=torch.int8)[8:].view_as(quantized)  # as safetensors maps a file
    mapped.copy_(quantized)
    linear = Int8Linear(mapped, scale, torch.bfloat16)
    assert linear.weight.data_ptr() % 64 == 0
    assert linear(torch.randn(MAX_STREAMED_ROWS, 256).bfloat16()).isfinite().all()


def test_an_embedding_is_its_own_head() -> None:
    quantized, scale = random_rows(32, 64)
    embedding = Int8Embedding(quantized, scale, torch.bfloat16)
    wide = dequantize_rows(quantized, scale, torch.bfloat16)
    assert torch.equal(embedding(torch.tensor([3, 7])), wide[[3, 7]])
    scores = embedding.project(wide[:2]).float()
    assert torch.allclose(scores, wide[:2].float() @ wide.float().T, rtol=0.05, atol=0.5)
