"""What a training run is reckoned to need, against what runs took on one H200 (torch 2.11, 2026-11-22)."""

import re
from dataclasses import replace

import pytest

from engine.errors import ConfigError
from engine.tools.synthetic import SHAPES
from engine.tools.training.memory import GB, Asked, check, needed
from engine.tools.training.precision import PRECISIONS

LORA = Asked(SHAPES["7b"], PRECISIONS["bf16"], 16, False, False, "adamw", rows=4, row_tokens=1024, label_share=0.6)
FULL = replace(LORA, shape=SHAPES["1.8b"], rank=None, rows=16)
FP32, AMP, FP16 = (PRECISIONS[name] for name in ("fp32", "amp-fp16", "fp16"))


@pytest.mark.parametrize(
    ("asked", "measured_gib"),
    [
        (replace(FULL, precision=FP32), 97.21),
        (replace(FULL, precision=AMP), 61.48),
        (replace(FULL, precision=FP16), 47.68),
        (replace(FULL, rows=8), 43.65),
        (replace(FULL, precision=FP32, rank=16), 91.08),
        (replace(FULL, precision=AMP, rank=16), 46.72),
        (LORA, 38.53),
        (replace(LORA, anew=True), 18.19),
    ],
)
def test_the_reckoning_is_within_six_percent_of_what_was_measured(asked, measured_gib):
    assert sum(needed(asked).values()) / 2**30 == pytest.approx(measured_gib, rel=0.06)


def test_what_does_not_fit_is_told_with_what_would():
    with pytest.raises(ConfigError) as raised:
        check(replace(FULL, shape=SHAPES["7b"]), int(24 * GB))
    said = str(raised.value)
    assert re.match(r"This run needs about \d+\.\d GB of GPU memory \(weights .*\), and 24\.0 GB are free; ", said)
    assert "it would fit with --lora 16 --qlora --gradient-checkpointing" in said


def test_a_seven_b_adapter_fits_24_gb_with_gradient_checkpointing_alone():
    check(replace(LORA, anew=True), int(23.5 * GB))
    with pytest.raises(ConfigError, match="it would fit with"):
        check(LORA, int(23.5 * GB))


def test_where_nothing_fits_a_smaller_model_is_advised():
    with pytest.raises(ConfigError, match="use a smaller model or a larger card"):
        check(LORA, int(3 * GB))
