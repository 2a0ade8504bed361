"""On a card: what quantising costs is measured as on the CPU."""

import pytest

from engine.inference.checkpoint import read_config
from engine.tools import perplexity
from engine.tools.perplexity import Text
from tests.checkpoints import quantize_gptq, write_checkpoint
from tests.gpu.conftest import CARD

pytestmark = pytest.mark.gpu


def test_perplexity_and_weight_errors_do_not_depend_on_the_device(tmp_path):
    plain, rounded = write_checkpoint(tmp_path / "plain"), write_checkpoint(tmp_path / "rounded")
    quantize_gptq(rounded, group_size=64)
    config = read_config(rounded)
    texts = [Text(tuple(range(5, 60)), 20), Text(tuple(range(70, 90)), 3)]
    nats = [perplexity.measure(rounded, config, texts, device, lambda: None).nats for device in ("cpu", CARD)]
    assert nats[0] == pytest.approx(nats[1], rel=1e-4)
    errors = [list(perplexity.weight_errors(plain, rounded, device, lambda: None)) for device in ("cpu", CARD)]
    assert [error for _, _, error in errors[0]] == pytest.approx([error for _, _, error in errors[1]], rel=1e-4)
