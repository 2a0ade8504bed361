"""The trainer as a command, on the CPU, with a model of a few thousand weights."""

import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from engine.backends.local import LocalBackend
from engine.config import Config
from engine.errors import ConfigError
from engine.tools import train as tool
from engine.tools.asking import GREEDY
from engine.tools.training import judging, precision, state
from engine.tools.training.optimizers import learning_rate
from engine.tools.training.packing import Encoder
from engine.types import Prompt
from tests.commands import call, refusal_of, result_of
from tests.recipes import write_workshop

ROOT = Path(__file__).parents[1]
MUON = """
[card]
name = "tiny"
licence = "none"
segment_tokens = 24

[mix]
marks = 0.1
terms = 0.2
context = 0.1
join = 0.1

[optimizer]
kind = "muon"
muon_lr = 2e-2
muon_weight_decay = 0.0
label_smoothing = 0.05
schedule = "wsd"
decay_from = 0.2
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Also in the processes that are started here, as tests/checkpoints.py has it in this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_workshop(tmp_path_factory.mktemp("train"), MUON)


def words(folder, out, *options):
    places = [f"--{name}={folder / name}" for name in ("corpus", "test", "tokenizer")]
    fixed = [f"--recipe={folder / 'recipe.toml'}", f"--out={folder / out}", "--workers=0", "--save-minutes=0"]
    return [*places, *fixed, "--precision=fp32", "--log-every=5", "--judge-every=1000", *options]


def command(folder, *options):
    call(tool, *words(folder, "out", *options))


def run(folder, out, steps, *options):
    """The summary of a run up to step `steps`."""
    return tool.train(words(folder, out, f"--steps={steps}", *options))


def spoil_weights(place, value):
    weights = load_file(place / "model.safetensors")
    weights["model.norm.weight"][3] = value
    save_file(weights, place / "model.safetensors")


def edit_config(place, **changes):
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | changes))


async def speak(backend, prompt):
    try:
        return [chunk async for chunk in backend.stream(prompt)]
    finally:
        await backend.close()


@pytest.fixture(scope="module")
def trained(folder):
    return run(folder, "trained", 30)


def test_the_loss_falls(trained):
    losses = [point["train_loss"] for point in trained["curve"]]
    assert losses[-1] < 0.7 * losses[0]
    assert trained["steps"] == 30
    assert trained["tokens"] == 30 * 2 * 512


def test_the_last_point_of_the_curve_is_judged(trained):
    last = trained["curve"][-1]
    assert 0 <= last["dev_chrf"] <= 100
    assert 0 <= last["dev_bleu"] <= 100
    assert last["dev_loss"] > 0


def test_what_is_written_runs_in_the_engine_and_in_transformers(folder, trained):
    backend = LocalBackend.load(Config(model=str(folder / "trained"), devices="cpu", max_concurrent=1))
    assert backend.info.languages == ("en", "fr", "zh")
    assert backend.info.segment_tokens == 24
    assert backend.info.hub == "en"
    backend._batcher.close()
    model = AutoModelForCausalLM.from_pretrained(folder / "trained")
    assert model.config.eos_token_id == Encoder(folder / "trained").end


def test_curves_are_there_for_tensorboard_and_as_a_picture(folder, trained):
    events = EventAccumulator(str(folder / "trained" / "events"))
    events.Reload()
    told = [point.value for point in events.Scalars("train_loss")]
    assert told == pytest.approx([point["train_loss"] for point in trained["curve"]], abs=1e-4)
    assert (folder / "trained" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_goes_on_from_the_weights_of_a_checkpoint(folder, trained):
    summary = run(folder, "further", 1, f"--start={folder / 'trained'}", "--log-every=1")
    assert summary["curve"][0]["train_loss"] < trained["curve"][-1]["train_loss"] + 0.3


def test_a_checkpoint_is_fine_tuned_without_a_recipe_and_keeps_what_it_says_of_itself(folder, trained, tmp_path):
    options = [f"--start={folder / 'trained'}", f"--corpus={folder / 'corpus'}", f"--dev={folder / 'test'}"]
    sizes = ["--rows=1", "--row-tokens=512", "--steps=1", "--workers=0", f"--out={tmp_path / 'tuned'}"]
    tool.train([*options, *sizes, "--save-minutes=0"])
    before, after = (
        json.loads((place / "config.json").read_text()) for place in (folder / "trained", tmp_path / "tuned")
    )
    assert after["yiwen"] == before["yiwen"]
    assert after["eos_token_id"] == before["eos_token_id"]


def test_a_tokenizer_with_more_ids_than_the_model_is_told_before_training(folder, tmp_path):
    (tmp_path / "recipe.toml").write_text(f'base = "{folder / "recipe.toml"}"\n[model]\nvocab_size = 50\n')
    with pytest.raises(ConfigError, match=r"The tokenizer's ids go up to \d+, and the model has 50 of them"):
        run(folder, "few ids", 1, f"--recipe={tmp_path / 'recipe.toml'}")


def test_examples_longer_than_the_models_positions_are_told_before_training(folder, tmp_path):
    (tmp_path / "recipe.toml").write_text(f'base = "{folder / "recipe.toml"}"\n[model]\nmax_positions = 128\n')
    with pytest.raises(ConfigError, match=r"may have 400 tokens, and the model has 128 positions"):
        run(folder, "few positions", 1, f"--recipe={tmp_path / 'recipe.toml'}")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda place: spoil_weights(place, float("nan")), "holds NaN or infinity"),
        (lambda place: (place / "model.safetensors").rename(place / "pytorch_model.bin"), "are pickle files"),
        (lambda place: edit_config(place, architectures=["LlamaForCausalLM"]), "runs HunYuanDenseV1ForCausalLM"),
        (lambda place: edit_config(place, hidden_size="wide"), "hidden_size 'wide'; it must be a whole number"),
    ],
    ids=["NaN", "pickles", "another architecture", "no size"],
)
def test_what_cannot_be_gone_on_from_is_one_sentence(folder, trained, tmp_path, spoil, said):
    spoil(place := shutil.copytree(folder / "trained", tmp_path / "spoilt"))
    with pytest.raises(SystemExit, match=said) as raised:
        command(folder, "--steps=1", f"--start={place}")
    assert "\n" not in str(raised.value)


def test_adapters_are_not_trained_with_muon(folder, trained):
    with pytest.raises(ConfigError, match="adapters are trained with 'adamw'"):
        run(folder, "muon", 1, f"--start={folder / 'trained'}", "--lora=2")


def test_a_development_set_of_which_nothing_fits_is_one_sentence(folder, tmp_path):
    (tmp_path / "dev.en-fr.tsv").write_text("word " * 600 + "\tmot\n")
    with pytest.raises(ConfigError, match="All development pairs are longer than 400 tokens"):
        run(folder, "long", 1, f"--dev={tmp_path / 'dev.en-fr.tsv'}")


def test_a_model_of_another_shape_is_not_gone_on_from(folder, tiny_checkpoint):
    with pytest.raises(
        ConfigError, match=r"shape \(.*hidden_size 128, not 64; .*\); give the recipe of that"
    ) as raised:
        run(folder, "other", 1, f"--start={tiny_checkpoint}")
    assert "rms_norm_eps" not in str(raised.value)  # the same


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--recipe=nowhere.toml"], r"nowhere\.toml' cannot be read"),
        (["--corpus=nowhere"], "nowhere"),
        (["--test=nowhere"], "nowhere"),
        (["--tokenizer=nowhere"], "tokenizer.json"),
        (["--start=nowhere"], "There is no model folder 'nowhere'"),
    ],
)
def test_what_is_not_there_is_one_sentence(folder, options, said):
    with pytest.raises(SystemExit, match=said) as raised:
        command(folder, "--steps=1", *options)
    assert "\n" not in str(raised.value)


def test_a_corpus_of_one_column_is_one_sentence_also_from_a_worker(folder, tmp_path):
    (tmp_path / "bad.en-fr.tsv").write_text("only one side\n" * 3)
    with pytest.raises(SystemExit, match=r"bad\.en-fr\.tsv") as raised:
        command(folder, "--steps=1", f"--corpus={tmp_path}", "--workers=1")
    assert "Traceback" not in str(raised.value)


def test_an_empty_development_set_is_one_sentence(folder, tmp_path):
    (tmp_path / "dev.en-fr.tsv").write_text("")
    with pytest.raises(SystemExit, match=r"dev\.en-fr\.tsv"):
        command(folder, "--steps=1", f"--dev={tmp_path / 'dev.en-fr.tsv'}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--steps=0"], "is not a whole number from 1 on"),
        (["--minutes=-3"], "is not a number above 0"),
        (["--steps=1", "--shard-mb=nan"], "is not a number above 0"),
        (["--steps=1", "--save-minutes=-1"], "is not a number above 0"),
        (["--steps=1", "--workers=-1"], "is not a whole number from 0 on"),
        (["--steps=1", "--judge-every=7"], "--judge-every 7 is no multiple of --log-every 5"),
        (["--steps=1", "--qlora"], "give --lora too"),
        (["--steps=1", "--lora=2"], "name one with --start"),
        (["--steps=1", "--lora=2", "--int4=32", "--start=x"], "give one of the two"),
        (["--minutes=1", "--compare=fp32,bf16"], "--compare takes the same steps in each precision"),
        (["--steps=1", "--seed=-1"], "is not a whole number from 0 on"),
        (["--steps=1", f"--seed={2**64}"], "is not a whole number from 0 to 9223372036854775807"),
        (["--steps=1", "--compare=fp32,fp8"], "'fp8' is no precision"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(folder, capsys, options, said):
    assert said in refusal_of(capsys, tool, *words(folder, "out", *options))


def test_training_with_rounded_weights_learns_and_writes_an_int4_checkpoint_that_speaks(folder, trained):
    summary = run(folder, "rounded", 30, f"--start={folder / 'trained'}", "--int4=32")
    losses = [point["train_loss"] for point in summary["curve"]]
    assert losses[-1] < losses[0] - 0.1
    backend = LocalBackend.load(Config(model=str(folder / "rounded"), devices="cpu", max_concurrent=1))
    assert backend.info.precision == "gptq-int4"
    assert asyncio.run(speak(backend, Prompt("Translate: the library", "the library", 8, GREEDY)))[-1].finish


def test_rounded_weights_stay_closer_to_the_model_they_were_with_it_as_their_teacher(folder, trained):
    """Than by the texts alone, which lead further away from it as they are learnt."""
    start = f"--start={folder / 'trained'}"
    taught = run(folder, "taught", 10, start, "--int4=32", f"--teacher={folder / 'trained'}")
    alone = run(folder, "alone", 10, start, "--int4=32")
    before = trained["curve"][-1]["dev_loss"]
    assert abs(taught["dev_loss"] - before) < abs(alone["dev_loss"] - before)


def test_a_teacher_with_other_tokens_is_told_before_training(folder, tiny_checkpoint):
    with pytest.raises(ConfigError, match="has other tokens than the model in training; give one with the same"):
        run(folder, "strange", 1, f"--teacher={tiny_checkpoint}")


# ---------------------------------------------------------------------------------------------------------------------
# going on


def test_a_killed_run_goes_on_to_the_same_curve_and_the_same_weights(folder):
    whole = run(folder, "whole", 12, "--workers=1")
    options = words(folder, "killed", "--steps=12", "--workers=1", "--save-minutes=0.00001")
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.tools.train", *options],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def saved_step():
        try:
            progress = state.progress_of(folder / "killed")
        except FileNotFoundError:  # put in its place at this moment
            progress = None
        return progress["at"]["step"] if progress else 0

    try:
        while saved_step() < 4:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert 4 <= saved_step() < 12
    time.sleep(1)  # TensorBoard reads the files of events by the seconds they were begun in
    resumed = run(folder, "killed", 12, "--workers=1", "--resume")
    assert resumed["curve"] == whole["curve"]
    events = EventAccumulator(str(folder / "killed" / "events")).Reload()
    assert [point.step for point in events.Scalars("train_loss")] == [point["step"] for point in whole["curve"]]
    first, second = (load_file(folder / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_resumed_run_has_the_loss_scale_of_the_one_before(folder, monkeypatch):
    options = ("--precision=amp-fp16", "--log-every=1")
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**22)
    whole = run(folder, "scale", 4, *options, "--save-minutes=0.00001")
    before = load_file(folder / "scale" / "model.safetensors")
    monkeypatch.setattr(precision, "FIRST_SCALE", 1.0)
    resumed = run(folder, "scale", 4, *options, "--resume")  # from step 3
    assert whole["skipped_steps"] >= 1
    assert resumed["loss_scale"] == whole["loss_scale"] < 2.0**22
    assert resumed["curve"] == whole["curve"]
    after = load_file(folder / "scale" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_kill_between_two_renamings_costs_no_state(folder):
    run(folder, "renamed", 3, "--save-minutes=0.00001")
    (folder / "renamed" / "state").rename(folder / "renamed" / "state.before")
    (folder / "renamed" / "state.partial").mkdir()
    assert [point["step"] for point in run(folder, "renamed", 5, "--resume", "--log-every=1")["curve"]] == [3, 4, 5]


def test_time_that_was_used_before_a_resume_counts(folder):
    """A run that is resumed has the rest of its minutes."""
    options = words(folder, "minutes", "--minutes=0.01", "--save-minutes=0.00001", "--log-every=1")
    first = tool.train(options)
    assert first["steps"] == first["curve"][-1]["step"]
    assert "dev_loss" in first["curve"][-1]
    file = folder / "minutes" / "state" / "progress.json"
    progress = json.loads(file.read_text())
    file.write_text(json.dumps(progress | {"at": progress["at"] | {"steps": None, "seconds": 1e6}}))
    assert tool.train([*options, "--resume"])["steps"] == progress["at"]["step"] + 1


def test_a_state_of_other_settings_is_not_gone_on_from(folder):
    run(folder, "settings", 3, "--save-minutes=0.00001")
    with pytest.raises(ConfigError, match="of a run with another seed"):
        run(folder, "settings", 6, "--resume", "--seed=2")


def test_without_a_state_it_begins_at_the_beginning(folder, capfd):
    assert run(folder, "none", 1, "--resume")["steps"] == 1
    assert "there is no state to go on from" in capfd.readouterr().err


def test_when_the_disk_is_full_the_last_state_stays(folder):
    run(folder, "full", 3, "--save-minutes=0.00001")
    before = {path.name: path.read_bytes() for path in (folder / "full" / "state").iterdir()}
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(SystemExit, match=r"could not be \(File too large\); the last state stays"):
            command(folder, "--steps=6", "--resume", "--save-minutes=0.00001", f"--out={folder / 'full'}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
    assert {path.name: path.read_bytes() for path in (folder / "full" / "state").iterdir()} == before


def test_it_stops_when_the_development_score_no_longer_rises_and_keeps_the_best(folder, monkeypatch):
    scores = iter([10.0, 30.0, 20.0, 25.0, 50.0, 1.0])
    monkeypatch.setattr(judging, "scores", lambda *_: {"dev_chrf": next(scores), "dev_bleu": 0.0})
    summary = run(folder, "patient", 10, "--patience=2", "--log-every=1", "--judge-every=1")
    assert summary["stopped"] == "chrF2 has not risen for 2 judgements"
    assert summary["steps"] == 4
    assert summary["best"] == {"step": 2, "dev_chrf": 30.0}
    kept = load_file(folder / "patient" / "model.safetensors")["model.norm.weight"]
    run(folder, "two", 10, "--patience=1", "--log-every=2", "--judge-every=2")
    assert torch.equal(kept, load_file(folder / "two" / "model.safetensors")["model.norm.weight"])


# ---------------------------------------------------------------------------------------------------------------------
# precisions


def test_a_step_that_overflows_is_skipped_and_the_scale_halved(folder, monkeypatch):
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**40)
    summary = run(folder, "scaled", 3, "--precision=amp-fp16", "--log-every=1")
    assert summary["skipped_steps"] >= 1
    assert summary["loss_scale"] == 2.0 ** (40 - summary["skipped_steps"])
    assert not summary["diverged"]
    assert "Infinity" not in (folder / "scaled" / "training.json").read_text()  # that is no JSON


def test_pure_fp16_stops_where_its_second_moments_were_rounded_to_zero(folder, capsys):
    with pytest.raises(SystemExit, match=r"stopped at step 2: .*the weights of .* are no longer finite"):
        command(folder, "--steps=5", "--precision=fp16")
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["diverged"]
    assert result["squares_lost"] > 0
    assert not (folder / "out" / "model.safetensors").exists()


def test_precisions_are_compared_side_by_side(folder, capfd):
    result, told = result_of(capfd, tool, *words(folder, "out", "--steps=2", "--compare=fp32,bf16"))
    runs = result["runs"]
    assert abs(runs["fp32"]["train_loss"] - runs["bf16"]["train_loss"]) < 0.05
    table = (folder / "out" / "compare.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["fp32", "bf16"]
    assert table in told


def test_two_processes_train_one_model(folder):
    """And save, judge and stop together."""
    options = words(folder, "two processes", "--steps=4", "--log-every=2", "--judge-every=2", "--patience=9")
    options.append("--save-minutes=0.00001")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*launch, "-m", "engine.tools.train", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["processes"] == 2
    assert result["tokens"] == 2 * 4 * 2 * 512
    assert (folder / "two processes" / "model.safetensors").exists()
    assert len(list((folder / "two processes" / "state").glob("process-?.pt"))) == 2


# ---------------------------------------------------------------------------------------------------------------------
# schedules


def test_the_learning_rate_warms_up_is_held_and_ends_at_zero():
    settings = {"warmup_steps": 10, "schedule": "wsd", "decay_from": 0.2}
    rates = [learning_rate(step, 100, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == rates[20] == 1
    assert rates[100] == 0


def test_a_cosine_ends_at_zero_too():
    settings = {"warmup_steps": 1, "schedule": "cosine"}
    assert learning_rate(50, 100, settings) == pytest.approx(0.5)
    assert learning_rate(100, 100, settings) == pytest.approx(0)
