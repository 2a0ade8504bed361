"""On a card: a model of a few layers learns in every precision, and what saves memory there changes nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.inference.model import HunYuanDense, ModelConfig
from engine.tools import train as tool
from engine.tools.training import lora
from engine.tools.training.packing import IGNORED
from engine.tools.training.trainee import PackedAttention, Trainee, initialise
from tests.checkpoints import quantize_gptq, write_checkpoint
from tests.gpu.conftest import CARD
from tests.recipes import write_workshop

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),  # each run compiles its layers
    pytest.mark.filterwarnings("default"),  # torch's compiler stumbles over its own, of which each version has others
]
WIDER = """
[model]
hidden_size = 128
intermediate_size = 256
head_dim = 32

[data]
rows = 4

[optimizer]
adam_lr = 3e-3
"""
# Large enough that a step's memory is that of its layers.
SHAPE = ModelConfig(1_024, 512, 1_536, 8, 8, 2, 64, 10_000.0, 1e-5, 1_024, tied_head=True)
ROWS, WIDTH = 8, 1_024


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workshop(tmp_path_factory.mktemp("train"), WIDER)


def run(folder: Path, out: str, *options: str) -> dict[str, Any]:
    places = [f"--corpus={folder / 'corpus'}", f"--test={folder / 'test'}", f"--out={folder / out}"]
    return tool.train([*places, "--workers=0", "--log-every=10", "--save-minutes=0", *options])


def from_scratch(folder: Path, out: str, *options: str) -> dict[str, Any]:
    return run(folder, out, f"--recipe={folder / 'recipe.toml'}", f"--tokenizer={folder / 'tokenizer'}", *options)


@pytest.fixture(scope="module")
def in_bf16(folder: Path) -> dict[str, Any]:
    return from_scratch(folder, "bf16", "--steps=60", "--precision=bf16")


def first_and_last(summary: dict[str, Any]) -> tuple[float, float]:
    losses = [point["train_loss"] for point in summary["curve"] if "train_loss" in point]
    return losses[0], losses[-1]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "amp-fp16"])
def test_every_precision_learns_as_bf16_does(folder: Path, in_bf16: dict[str, Any], precision: str) -> None:
    summary = from_scratch(folder, precision, "--steps=60", f"--precision={precision}")
    first, last = first_and_last(summary)
    assert last < 0.6 * first
    assert last == pytest.approx(in_bf16["train_loss"], rel=0.1)
    assert summary["peak_memory_gib"] > 0


def test_pure_fp16_stops_or_learns_less(folder: Path, in_bf16: dict[str, Any]) -> None:
    summary = from_scratch(folder, "fp16", "--steps=60", "--precision=fp16")
    assert summary["squares_lost"] > 0
    assert summary["diverged"] or summary["train_loss"] > 1.05 * in_bf16["train_loss"]


def test_a_run_goes_on_where_it_was_left(folder: Path) -> None:
    options = ("--steps=12", "--precision=amp-fp16", "--log-every=1")
    whole = from_scratch(folder, "resumed", *options, "--save-minutes=0.00001")
    resumed = from_scratch(folder, "resumed", *options, "--resume")  # from step 11
    assert resumed["loss_scale"] == whole["loss_scale"]
    assert resumed["curve"][:-1] == whole["curve"][:-1]
    assert resumed["curve"][-1]["train_loss"] == pytest.approx(whole["curve"][-1]["train_loss"], abs=2e-3)


# ---------------------------------------------------------------------------------------------------------------------
# attention and memory


def some_documents(rows: int, width: int) -> Tensor:
    """Three to a row, of other lengths in each, and padding."""
    documents = torch.zeros(rows, width, dtype=torch.int64)
    for row in range(rows):
        ends = [width // 5 + 7 * row, width // 2 + 3 * row, width - 20 - row]
        for number, (begin, end) in enumerate(zip([0, *ends], ends, strict=False), start=1):
            documents[row, begin:end] = number
    return documents


def test_the_packed_mask_of_the_card_is_the_dense_one() -> None:
    rows, width, documents = 3, 256, some_documents(3, 256)
    attend = PackedAttention(rows, width, torch.device(CARD))
    attend.set(documents.to(CARD))
    dice = torch.Generator(CARD).manual_seed(1)
    query, key, value = (torch.randn(rows, width, heads, 64, generator=dice, device=CARD) for heads in (8, 2, 2))
    seen = torch.compile(attend)(0, query, key, value)
    for row in range(rows):
        one = slice(row, row + 1)
        dense = attend.dense(row)(0, query[one], key[one], value[one])
        counted = documents[row] > 0
        assert torch.allclose(seen[row][counted], dense[0][counted], atol=5e-3)


def stepped(batch: dict[str, Tensor], anew: bool) -> tuple[dict[str, Tensor], int]:
    """Gradients by name, and the peak of bytes above what is held before and after."""
    model = HunYuanDense(SHAPE)
    initialise(model, 1)
    trainee = Trainee(
        model.to(CARD).train(), PackedAttention(ROWS, WIDTH, torch.device(CARD)), 0.0, torch.float32, anew
    )
    trainee.attend.set(batch["documents"])
    for _ in range(2):  # the first compiles
        trainee.zero_grad(set_to_none=True)
        torch.cuda.reset_peak_memory_stats(CARD)
        held = torch.cuda.memory_allocated(CARD)
        (trainee(batch)[0] / len(batch["labels"])).backward()
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return gradients, torch.cuda.max_memory_allocated(CARD) - held


def test_layers_computed_anew_take_less_memory_and_have_the_same_gradients() -> None:
    dice = torch.Generator().manual_seed(2)
    places = torch.arange(0, ROWS * WIDTH, 4)
    labels = torch.randint(0, SHAPE.vocab_size, places.shape, generator=dice)
    labels[::5] = IGNORED
    batch = {
        "ids": torch.randint(0, SHAPE.vocab_size, (ROWS, WIDTH), generator=dice),
        "positions": torch.arange(WIDTH).expand(ROWS, WIDTH).contiguous(),
        "documents": some_documents(ROWS, WIDTH),
        "places": places,
        "labels": labels,
    }
    moved = {name: each.to(CARD) for name, each in batch.items()}
    (kept, most), (anew, least) = stepped(moved, anew=False), stepped(moved, anew=True)
    assert least < 0.5 * most
    assert kept.keys() == anew.keys()
    assert all((kept[name] - anew[name]).norm() < 1e-2 * kept[name].norm() + 1e-6 for name in kept)


# ---------------------------------------------------------------------------------------------------------------------
# adapters


def test_a_matrix_in_int4_multiplies_on_the_card_as_on_the_host() -> None:
    linear = torch.nn.Linear(256, 64, bias=False)
    here, there = lora.FrozenInt4.rounded(linear), lora.FrozenInt4.rounded(linear, torch.device(CARD))
    x = torch.randn(5, 256)
    assert all(each.is_cuda for each in there.buffers())
    assert torch.allclose(there(x.to(CARD)).cpu(), here(x), atol=1e-4)


@pytest.mark.parametrize("stored", ["bf16", "int4"])
@pytest.mark.parametrize("precision", ["bf16", "amp-fp16"])
def test_adapters_learn_beside_weights_in_int4(folder: Path, tmp_path: Path, stored: str, precision: str) -> None:
    start = write_checkpoint(tmp_path / "start")
    if stored == "int4":
        quantize_gptq(start, group_size=32)
    options = [f"--start={start}", f"--recipe={folder / 'adamw.toml'}", "--lora=4", f"--precision={precision}"]
    options += ["--steps=40", "--rows=4"]
    if stored == "bf16":
        options.append("--qlora")
    summary = run(folder, f"{stored} {precision}", *options)
    first, last = first_and_last(summary)
    assert last < first - 0.1
    assert (folder / f"{stored} {precision}" / "adapter_model.safetensors").exists()
