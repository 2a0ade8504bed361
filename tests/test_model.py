"""Our model against transformers' HunYuanDenseV1ForCausalLM, loaded from the same folder."""

import random

import pytest
import torch
from transformers import HunYuanDenseV1ForCausalLM

from engine.backends.select import EMBEDDED_FOLDER
from engine.inference.checkpoint import load_model, read_config
from engine.inference.model import effective_rope_base
from engine.tools.convert import convert
from tests.checkpoints import CONTEXT_TOKENS, TEXT_TOKENS, error, scores_of, write_checkpoint

LONG = CONTEXT_TOKENS - 200
IDS = random.Random(0).choices(range(TEXT_TOKENS), k=48)
# The first tokens of a text, and some at the end of the longest that HY-MT takes: 8k.
FAR = (*range(16), *range(8_192 - 32, 8_192))
REAL = {  # true widths and positions, fewer layers and tokens
    "1.8B": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "num_hidden_layers": 2,
    },
    "7B": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 1,
    },
}


def ours(folder, dtype=torch.float32):
    return load_model(folder, read_config(folder), dtype, "cpu")


def theirs(folder, dtype=torch.float32):
    return HunYuanDenseV1ForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def some_ids(count):
    return random.Random(count).choices(range(TEXT_TOKENS), k=count)


@torch.inference_mode()
def their_scores(model, ids, positions=None):
    positions = None if positions is None else torch.tensor([positions])
    seen = torch.ones(1, len(ids), dtype=torch.int64)  # without it a gap in the positions parts two texts
    return model(torch.tensor([ids]), seen, positions).logits[0]


@pytest.mark.parametrize("tied", [True, False])
def test_scores_are_those_of_transformers_with_either_head(tmp_path, tied):
    folder = write_checkpoint(tmp_path / "model", tied=tied, seed=2)
    assert error(scores_of(ours(folder), IDS), their_scores(theirs(folder), IDS)) < 1e-5


@pytest.mark.parametrize("alpha", [1000.0, 100000.0])
def test_a_long_text_is_rotated_by_alpha_as_transformers_does(tmp_path, alpha):
    folder = write_checkpoint(tmp_path / "model", alpha=alpha)
    ids = some_ids(LONG)
    scores, true = scores_of(ours(folder), ids), their_scores(theirs(folder), ids)
    assert error(scores[-20:], true[-20:]) < 1e-5


def test_alpha_matters_so_that_it_cannot_be_forgotten_unseen(tmp_path):
    with_alpha, without = (write_checkpoint(tmp_path / str(alpha), alpha=alpha) for alpha in (1000.0, 1.0))
    ids = some_ids(LONG)
    assert error(scores_of(ours(without), ids)[-20:], scores_of(ours(with_alpha), ids)[-20:]) > 0.01


def test_the_rope_bases_are_those_of_the_real_models():
    assert effective_rope_base(10_000, 1_000, 128) == pytest.approx(1.1159e7, rel=1e-4)
    assert effective_rope_base(10_000, 100_000, 128) == pytest.approx(1.2005e9, rel=1e-4)


def check(folder, positions=None):
    """fp32 as transformers' fp32; bf16 no further from that than transformers' bf16, which itself is 4e-3 to 2e-2 off,
    by more than 2e-3."""
    true = their_scores(theirs(folder), IDS, positions)
    assert error(scores_of(ours(folder), IDS, positions), true) < 1e-5
    our_error = error(scores_of(ours(folder, torch.bfloat16), IDS, positions), true)
    their_error = error(their_scores(theirs(folder, torch.bfloat16), IDS, positions), true)
    assert our_error < their_error + 2e-3
    assert our_error < 0.02


@pytest.mark.parametrize("size", REAL)
def test_scores_are_those_of_transformers_at_the_real_widths_up_to_8k_positions(tmp_path, size):
    shape = REAL[size] | {"head_dim": 128, "max_position_embeddings": 32_768}
    check(write_checkpoint(tmp_path / "model", dtype=torch.bfloat16, **shape), FAR)


def test_scores_of_the_embedded_model_are_those_of_transformers(tmp_path):
    convert(EMBEDDED_FOLDER, tmp_path / "model", "bf16")  # transformers reads no INT8 rows
    check(tmp_path / "model")
