"""Recipes for runs of seconds, and a folder with all that a run from scratch asks for."""

from pathlib import Path

from tests.checkpoints import SEVEN_B, write_tokenizer
from tests.corpora import write_corpus, write_tests

ADAMW = """
[data]
langs = ["fr", "zh"]
rows = 2
row_tokens = 512
longest_example = 400
label_share = 0.5

[optimizer]
kind = "adamw"
adam_lr = 2e-2
adam_betas = [0.9, 0.98]
clip_norm = 1.0
label_smoothing = 0.0
warmup_steps = 5
schedule = "cosine"
"""
SMALL = """
base = "adamw.toml"

[model]
vocab_size = {vocabulary}
hidden_size = 64
intermediate_size = 64
layers = 2
heads = 4
kv_heads = 2
head_dim = 8
rope_base = 10_000.0
rms_norm_eps = 1e-5
max_positions = 512
dropout = 0.1
"""


def write_workshop(folder: Path, differences: str) -> Path:
    """`tokenizer`, `corpus`, `test`; `adamw.toml` for any checkpoint; and `recipe.toml`, a small model with these
    differences."""
    vocabulary = write_tokenizer(folder / "tokenizer", SEVEN_B, real_ids=False)
    write_corpus(folder / "corpus", times=4)
    write_tests(folder / "test")
    (folder / "adamw.toml").write_text(ADAMW)
    (folder / "small.toml").write_text(SMALL.format(vocabulary=vocabulary))
    (folder / "recipe.toml").write_text('base = "small.toml"\n' + differences)
    return folder
