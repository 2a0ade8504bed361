"""The trainer, on the CPU, with a model of a few thousand weights."""

import argparse
import asyncio
import json
import re
import sys
import tomllib
from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.backends.local import LocalBackend
from engine.config import Config
from engine.errors import ConfigError
from engine.inference.model import HunYuanDense, ModelConfig
from engine.tools import corpus, train
from engine.tools.asking import GREEDY
from engine.tools.training.packing import IGNORED, Encoder, Packed, batches, collate
from engine.types import Prompt
from tests.checkpoints import SEVEN_B, write_tokenizer
from tests.corpora import HELD_OUT, write_corpus, write_tests

RECIPE = """
[card]
name = "tiny"
licence = "none"
segment_tokens = 24

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
dropout = 0.0

[data]
langs = ["fr", "zh"]
rows = 2
row_tokens = 512
longest_example = 400
label_share = 0.5

[mix]
marks = 0.1
terms = 0.2
context = 0.1
join = 0.1

[optimizer]
muon_lr = 2e-2
muon_weight_decay = 0.0
adam_lr = 2e-2
adam_betas = [0.9, 0.98]
clip_norm = 1.0
label_smoothing = 0.05
warmup_steps = 5
schedule = "linear"
decay_from = 0.2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    vocabulary = write_tokenizer(folder / "tokenizer", SEVEN_B, real_ids=False)
    write_corpus(folder / "corpus", times=4)
    write_tests(folder / "test")
    (folder / "recipe.toml").write_text(RECIPE.format(vocabulary=vocabulary))
    return folder


def run(folder, out, steps, **more):
    """The summary of a run up to step `steps`."""
    settings = {"minutes": None, "workers": 0, "seed": 1, "resume": False, "save_minutes": 0, "shard_mb": 100}
    settings |= {"start": None, "int4": None, "log_every": 5, "judge_every": 1000} | more
    arguments = argparse.Namespace(
        recipe=folder / "recipe.toml",
        corpus=folder / "corpus",
        test=folder / "test",
        tokenizer=folder / "tokenizer",
        out=folder / out,
        steps=steps,
        **settings,
    )
    return train.run(tomllib.loads(arguments.recipe.read_text()), arguments)


async def speak(backend, prompt):
    try:
        return [chunk async for chunk in backend.stream(prompt)]
    finally:
        await backend.close()


@pytest.fixture(scope="module")
def trained(folder):
    return run(folder, "trained", 30)


@pytest.fixture(scope="module")
def encode(folder):
    return Encoder(folder / "tokenizer")


def test_the_loss_falls(trained):
    losses = [point["train_loss"] for point in trained["curve"]]
    assert losses[-1] < 0.7 * losses[0]
    assert trained["steps"] == 30
    assert trained["tokens"] == 30 * 2 * 512


def test_the_last_point_of_the_curve_is_judged(trained):
    assert 0 <= trained["curve"][-1]["dev_chrf"] <= 100


def test_what_is_written_runs_in_the_engine_and_in_transformers(folder, trained):
    backend = LocalBackend.load(Config(model=str(folder / "trained"), devices="cpu", max_concurrent=1))
    assert backend.info.languages == ("en", "fr", "zh")
    assert backend.info.segment_tokens == 24
    assert backend.info.hub == "en"
    backend._batcher.close()
    model = AutoModelForCausalLM.from_pretrained(folder / "trained")
    assert model.config.eos_token_id == Encoder(folder / "trained").end


def test_a_run_goes_on_from_the_weights_of_a_checkpoint(folder, trained):
    summary = run(folder, "further", 1, start=folder / "trained", log_every=1)
    assert summary["curve"][0]["train_loss"] < trained["curve"][-1]["train_loss"] + 0.3


def test_a_model_of_another_shape_is_not_gone_on_from(folder, tiny_checkpoint):
    with pytest.raises(
        ConfigError, match=r"shape \(.*hidden_size 128, not 64; .*\); give the recipe of that"
    ) as raised:
        run(folder, "other", 1, start=tiny_checkpoint)
    assert "rms_norm_eps" not in str(raised.value)  # the same


def command(folder, monkeypatch, *options):
    places = [f"--{name}={folder / name}" for name in ("corpus", "test", "tokenizer", "out")]
    monkeypatch.setattr(sys, "argv", ["train", f"--recipe={folder / 'recipe.toml'}", *places, *options])
    train.main()


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (["--recipe=nowhere.toml"], "nowhere.toml"),
        (["--corpus=nowhere"], "train.en-fr"),
        (["--test=nowhere"], "dev.in-domain"),
        (["--tokenizer=nowhere"], "tokenizer.json"),
    ],
)
def test_a_file_that_is_not_there_is_one_sentence(folder, monkeypatch, options, missing):
    with pytest.raises(SystemExit, match=f"No such file or directory: .*{missing}"):
        command(folder, monkeypatch, "--steps=1", "--workers=0", *options)


@pytest.mark.parametrize("options", [["--steps=0"], ["--minutes=-3"], ["--steps=1", "--shard-mb=nan"]])
def test_what_makes_no_sense_is_one_sentence(folder, monkeypatch, capsys, options):
    with pytest.raises(SystemExit):
        command(folder, monkeypatch, *options)
    assert re.search(r"is not a (whole number from 1 on|number above 0)\n", capsys.readouterr().err)


def test_training_with_rounded_weights_learns_and_writes_an_int4_checkpoint_that_speaks(folder, trained):
    summary = run(folder, "rounded", 30, start=folder / "trained", int4=32)
    losses = [point["train_loss"] for point in summary["curve"]]
    assert losses[-1] < losses[0] - 0.1
    backend = LocalBackend.load(Config(model=str(folder / "rounded"), devices="cpu", max_concurrent=1))
    assert backend.info.precision == "gptq-int4"
    assert asyncio.run(speak(backend, Prompt("Translate: the library", "the library", 8, GREEDY)))[-1].finish


def test_a_recipe_is_what_differs_from_its_base(folder):
    (folder / "other.toml").write_text('base = "recipe.toml"\n[optimizer]\nmuon_lr = 1.0\n')
    recipe, base = train.read_recipe(folder / "other.toml"), train.read_recipe(folder / "recipe.toml")
    assert recipe == base | {"optimizer": base["optimizer"] | {"muon_lr": 1.0}}


def test_resume_goes_on_at_the_saved_step_with_the_tokens_and_the_curve(folder, capfd):
    run(folder, "resumed", 6, save_minutes=1e-9)  # saves after every step but the last
    capfd.readouterr()
    summary = run(folder, "resumed", 12, resume=True)
    assert "resumed at step 5\n" in capfd.readouterr().err
    assert summary["steps"] == 12
    assert summary["tokens"] == 12 * 2 * 512
    assert [point["step"] for point in summary["curve"]] == [5, 10, 12]


def test_a_resumed_run_has_the_weights_it_was_left_with(folder):
    run(folder, "left", 8, save_minutes=1e-9)
    assert json.loads((folder / "left" / "state" / "progress.json").read_text())["step"] == 7
    summary = run(folder, "left", 8, resume=True)
    fresh = run(folder, "fresh", 1)
    assert summary["curve"][-1]["train_loss"] < fresh["curve"][-1]["train_loss"] - 0.5


def test_packed_rows_never_attend_across_documents(encode, folder):
    shape = tomllib.loads((folder / "recipe.toml").read_text())["model"]
    shape.pop("dropout")
    model = HunYuanDense(ModelConfig(**shape, tied_head=True))
    train.initialise(model, 3)
    examples = [encode(corpus.Example("plain", prompt, "Réponse.")) for prompt in ("One.", "Two three.", "Vier!")]

    def hidden(packed, rows):
        batch = collate(packed, 128, 128)
        attend = train.PackedAttention(rows, 128, torch.device("cpu"))
        attend.set(batch["documents"])
        return model(batch["ids"], batch["positions"], attend)

    together, at = hidden([examples], 1)[0], 0
    for example in examples:
        size = len(example.ids)
        alone = hidden([[example]], 1)[0, :size]
        assert torch.allclose(together[at : at + size], alone, atol=1e-5)
        at += size


def test_labels_are_the_tokens_of_the_answer_and_its_end_only(encode):
    pairs = [("Translate: one", "Un."), ("Translate: two", "Deux."), ("Translate: three", "Trois, quatre.")]
    examples = [encode(corpus.Example("plain", prompt, answer)) for prompt, answer in pairs]
    batch = collate([examples[:2], examples[2:]], 128, 128)
    counted = batch["labels"] != IGNORED
    labels = batch["labels"][counted].tolist()
    answers = [[*encode.tokenizer.encode(answer, add_special_tokens=False).ids, encode.end] for _, answer in pairs]
    assert labels == [token for answer in answers for token in answer]
    assert batch["ids"].flatten()[batch["places"][counted] + 1].tolist() == labels


def test_packing_loses_no_example_and_overfills_no_row(encode):
    examples = [encode(corpus.Example("plain", "word " * (number % 9), str(number))) for number in range(40)]
    packed = list(batches(iter(examples), {"rows": 2, "row_tokens": 64, "label_share": 0.5}))
    ends = sum((batch["ids"] == encode.end).sum().item() for batch in packed)
    assert len(packed) >= 3
    assert len(examples) - ends < 20  # those that wait for the next batch
    assert all(batch["ids"].shape == (2, 64) for batch in packed)


def test_held_out_sentences_are_never_trained_on(folder, encode):
    recipe = tomllib.loads((folder / "recipe.toml").read_text())
    arguments = argparse.Namespace(
        corpus=folder / "corpus", test=folder / "test", tokenizer=folder / "tokenizer", seed=1
    )
    seen = ""
    for batch in islice(Packed(recipe, arguments, 0, 1), 20):
        seen += encode.tokenizer.decode(batch["ids"].flatten().tolist())
    assert "The committee met in Lisbon" in seen
    assert HELD_OUT[0] not in seen
    assert HELD_OUT[1] not in seen


def test_the_learning_rate_warms_up_and_ends_at_zero():
    settings = {"warmup_steps": 10, "schedule": "linear", "decay_from": 0.2}
    rates = [train.learning_rate(step, 100, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == rates[20] == 1
    assert rates[100] == 0
    assert train.learning_rate(100, 100, settings | {"schedule": "cosine"}) == pytest.approx(0)
