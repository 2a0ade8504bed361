"""The GPTQ tool with GPTQModel away, and with one of our own in its place that rounds to nearest."""

import errno
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from engine import hardware, inventory
from engine.backends.echo import EchoBackend
from engine.config import Config
from engine.errors import ConfigError, UnsupportedModel
from engine.inference.checkpoint import load_model, read_config
from engine.inference.held import Int4Held
from engine.inference.int8 import Int8Rows
from engine.inference.loader import load
from engine.inference.tokenizer import ChatTokenizer
from engine.inference.weight_files import alone
from engine.shape import ModelShape
from engine.tools import asking, gptq_run, perplexity
from engine.tools import quantize as tool
from engine.tools.gptq_run import Settings
from engine.tools.pairs import Pair
from engine.tools.perplexity import Text
from engine.tools.quantize import fixture_pairs, quantize, texts_of
from tests.checkpoints import (
    SEVEN_B_CONFIG,
    change_config,
    change_tensors,
    error,
    quantize_gptq,
    quantize_int8,
    scores_of,
)
from tests.commands import call, refusal_of
from tests.corpora import write_tests

PAIRS = [Pair("test", "Good morning.", "早上好。", "zh"), Pair("test", "The cat sleeps.", "Le chat dort.", "fr")]
DRAWN = tool.Drawn(
    calibration=(Text((5, 6, 7, 8, 9, 10), 3), Text((11, 12, 13), 2)), held_out=(Text((20, 21, 22, 23, 24), 2),)
)
SMALL = Settings(group=32)


class Stopped(RuntimeError):
    """As GPTQModel's `CheckpointStopped`, by whose name it is known."""


Stopped.__name__ = "CheckpointStopped"


class FakeModel:
    """Reads and writes folders as GPTQModel does, its litter too."""

    def __init__(self, folder, settings, log):
        self.folder, self.settings, self.log = Path(folder), settings, log
        self.model = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=3, model_type="hunyuan_v1_dense"))

    def quantize(self, texts, batch_size, checkpoint):
        self.log.texts, self.log.runs = texts, self.log.runs + 1
        print("progress")  # on stdout, as GPTQModel does
        if self.log.fault:
            raise self.log.fault
        rows = []
        for layer in range(3):
            self.layer_callback(layer_idx=layer, submodule_finalized=True)
            rows += [
                {"layer": layer, "module": name, "loss": f"0.{layer}1", "samples": "9", "damp": "0.05", "time": "0.1"}
                for name in MATRICES
            ]
        return {"gptq": rows}

    def save(self, folder):
        shutil.copytree(self.folder, folder)
        self.log.dtypes = {tensor.dtype for tensor in load_file(Path(folder) / "model.safetensors").values()}
        chosen = self.settings
        quantize_gptq(
            Path(folder),
            group_size=chosen.group_size,
            act_order=chosen.desc_act,
            shared_order=True,
            sym=chosen.sym,
            bits=chosen.bits,
        )
        shutil.rmtree(Path(folder) / "widened")
        embeddings = load_file(Path(folder) / "model.safetensors")["model.embed_tokens.weight"]
        change_tensors(Path(folder), {"lm_head.weight": embeddings.clone()})  # untied, to be written at all
        made = json.loads((Path(folder) / "config.json").read_text())["quantization_config"]
        meta = {"quantizer": ["gptqmodel:7.6.0"], "offload_to_disk_path": "/home/someone/offload"}
        change_config(Path(folder), quantization_config=made | {"meta": meta, "pack_dtype": "int32"}, yiwen=None)


MATRICES = [f"self_attn.{each}_proj" for each in "qkvo"] + [f"mlp.{each}_proj" for each in ("gate", "up", "down")]


@pytest.fixture
def gptqmodel(monkeypatch):
    """In GPTQModel's place; what it was asked is in its attributes."""
    log = ModuleType("gptqmodel")
    log.runs, log.fault = 0, None
    log.QuantizeConfig = lambda **settings: SimpleNamespace(**settings)
    log.GPTQModel = SimpleNamespace(load=lambda folder, settings: FakeModel(folder, settings, log))
    store = ModuleType("gptqmodel.looper.checkpoint_store")
    store.CheckpointConfig = SimpleNamespace
    for name, module in (("", log), (".looper", ModuleType("looper")), (".looper.checkpoint_store", store)):
        monkeypatch.setitem(sys.modules, f"gptqmodel{name}", module)
    for name in gptq_run._SETTINGS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return log


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "model")


def scores(folder):
    return scores_of(load_model(folder, read_config(folder), torch.float32, "cpu"), range(5, 35))


@pytest.mark.parametrize(
    ("stored", "settings"),
    [("fp32", SMALL), ("int8", replace(SMALL, act_order=True)), ("fp32", replace(SMALL, sym=False))],
)
def test_what_is_written_is_an_int4_checkpoint_that_loads(folder, tmp_path, gptqmodel, stored, settings):
    change_config(folder, yiwen={"family": "hy-mt2"})
    if stored == "int8":
        quantize_int8(folder)
    before = scores(folder)
    result = quantize(folder, tmp_path / "int4", settings, DRAWN)
    loaded = load(str(tmp_path / "int4"), "cpu", "fp32")
    assert loaded.info.precision == "gptq-int4, widened"
    assert loaded.info.family == "hy-mt2"
    assert error(scores(tmp_path / "int4"), before) < 0.6  # random weights, rounded to nearest
    assert gptqmodel.dtypes == {torch.bfloat16}
    assert result["bytes_after"] < result["bytes_before"]
    assert result["calibration_tokens"] == sum(len(text["input_ids"]) for text in gptqmodel.texts) == 9


def test_eight_bits_are_read_as_16_and_closer_than_four(folder, tmp_path, gptqmodel):
    results = [quantize(folder, tmp_path / f"{bits}", replace(SMALL, bits=bits), DRAWN) for bits in (4, 8)]
    assert results[1]["weight_error"] < results[0]["weight_error"] / 10
    assert error(scores(tmp_path / "8"), scores(folder)) < 0.05
    rows = load_model(
        tmp_path / "8", read_config(tmp_path / "8"), torch.float32, "cpu", Int4Held, Int8Rows, rounded=True
    )
    assert isinstance(rows.layers[0].qkv, Int8Rows)  # as a CPU runs it
    wide = load_model(tmp_path / "8", read_config(tmp_path / "8"), torch.float32, "cpu", Int4Held)
    assert isinstance(wide.layers[0].qkv, torch.nn.Linear)  # no INT4 kernel may have them
    shape = ModelShape.read(read_config(tmp_path / "8"), tmp_path / "8")
    assert (shape.stored, shape.quantized_parameters) == ("bf16", 0)  # planned as what it is widened to


def test_what_it_costs_is_told_of_the_whole_and_of_each_matrix(folder, tmp_path, gptqmodel):
    result = quantize(folder, tmp_path / "int4", SMALL, DRAWN)
    report = json.loads((tmp_path / "int4" / tool.REPORT).read_text())
    assert [(module["layer"], module["module"]) for module in report["modules"]] == [
        (layer, name) for layer in range(3) for name in MATRICES
    ]
    assert all(0.01 < module["weight_error"] < 0.3 for module in report["modules"])
    assert result["worst"][0]["loss"] == 0.21
    assert result["held_out_tokens"] == 3
    assert result["perplexity"]["before"] != result["perplexity"]["after"]
    assert result["peak"]["ram_bytes"] > 10**7
    assert str(tmp_path) not in (tmp_path / "int4" / tool.REPORT).read_text()  # nothing of the machine
    assert not (tmp_path / "int4.partial").exists()


def test_a_matrix_without_a_loss_has_a_dash_in_the_table(folder, tmp_path, gptqmodel, monkeypatch):
    monkeypatch.setattr(gptq_run, "_number", lambda said: None)  # as where GPTQModel falls back to another way
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = quantize(folder, Path(), SMALL, DRAWN)
    assert tool._table(result).count("–") == tool.WORST


@pytest.mark.parametrize(("tied", "row_tokens"), [(True, 9), (False, 8)])
def test_perplexity_a_layer_at_a_time_is_that_of_the_whole_model(folder, monkeypatch, tied, row_tokens):
    monkeypatch.setattr(perplexity, "ROW_TOKENS", row_tokens)
    if not tied:
        embeddings = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
        change_tensors(folder, {"lm_head.weight": embeddings.flip(0).contiguous()})
        change_config(folder, tie_word_embeddings=False)
    config = read_config(folder)
    texts = [Text((5, 6, 7, 8, 9, 10), 2), Text((11, 12, 13), 1)]
    model = load_model(folder, config, torch.float32, "cpu")
    true = 0.0
    for text in texts:
        answer = torch.tensor(text.ids[text.prompt_tokens :])
        true += float(F.cross_entropy(scores_of(model, text.ids)[text.prompt_tokens - 1 : -1], answer, reduction="sum"))
    layers = []
    sure = perplexity.measure(folder, config, texts, "cpu", lambda: layers.append(1))
    assert (sure.tokens, len(layers)) == (6, config["num_hidden_layers"])
    assert sure.nats == pytest.approx(true / 6, rel=1e-5)


def test_a_run_that_was_cut_short_goes_on_and_another_begins_anew(folder, tmp_path, gptqmodel, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tool, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            quantize(folder, tmp_path / "int4", SMALL, DRAWN)
    assert not (tmp_path / "int4").exists()
    quantize(folder, tmp_path / "int4", SMALL, DRAWN)
    assert gptqmodel.runs == 1
    (tmp_path / "int4.partial").mkdir()
    (tmp_path / "int4.partial" / tool.RUN).write_text("{}")
    quantize(folder, tmp_path / "int4", SMALL, DRAWN)
    assert gptqmodel.runs == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Stopped("checkpoint committed; resume from step 2"), "Stopped; the same command goes on"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory of cpu does not suffice; give fewer"),
        (ValueError("no such kernel\nmore"), r"stumbled \(ValueError: no such kernel\); .*gptqmodel.log"),
    ],
)
def test_what_gptqmodel_stumbles_on_is_said_in_a_sentence(folder, tmp_path, gptqmodel, fault, words):
    gptqmodel.fault = fault
    with pytest.raises(ConfigError, match=words):
        quantize(folder, tmp_path / "int4", SMALL, DRAWN)
    assert not (tmp_path / "int4").exists()


def test_a_full_disk_leaves_what_was_there_and_what_is_done_so_far(folder, tmp_path, gptqmodel):
    quantize(folder, tmp_path / "int4", replace(SMALL, group=64), DRAWN)
    before = (tmp_path / "int4" / "model.safetensors").read_bytes()
    gptqmodel.fault = OSError(errno.ENOSPC, "No space left on device", "kept/objects/1")
    with pytest.raises(SystemExit, match=r"'kept/objects/1' cannot be written .*; make room, .* kept in int4\.partial"):
        call(tool, folder, tmp_path / "int4", "--group", 32, "--device", "cpu")
    assert (tmp_path / "int4" / "model.safetensors").read_bytes() == before
    assert (tmp_path / "int4.partial" / "before.json").exists()


def nan(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.mlp.down_proj.weight"][0, 0] = float("nan")
    change_tensors(folder, tensors)


def cut(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(nan, "holds NaN or infinity"), (cut, "cut short"), (pickled, "safetensors")],
)
def test_weights_that_are_no_good_are_refused_before_the_long_part(folder, tmp_path, gptqmodel, spoil, words):
    spoil(folder)
    with pytest.raises(YIWEN, match=words):
        quantize(folder, tmp_path / "int4", SMALL, DRAWN)
    assert gptqmodel.runs == 0


YIWEN = (ConfigError, UnsupportedModel, tool.YiwenError)
SEVEN = ModelShape.read(SEVEN_B_CONFIG)


def test_a_7b_takes_less_than_10_gb_of_a_card_and_20_of_memory():
    needed = tool.room(SEVEN, Settings(), tokens=75_000, copied=False, on_card=True)
    assert needed.card < 10e9
    assert needed.ram < 20e9


def machine(ram, card=None):
    cards = (inventory.Card("cuda:0", "a card", 24 * 10**9, (8, 9), card),) if card else ()
    return inventory.Machine(ram, ram, 8, True, cards)


@pytest.mark.parametrize(
    ("here", "device", "words"),
    [
        (
            machine(64e9, card=4e9),
            "cuda:0",
            r"takes \d\.\d GB of GPU memory and cuda:0 has 4\.0 GB free; .* --device cpu",
        ),
        (machine(3e9), "cpu", r"takes \d+\.\d GB of memory and 3\.0 GB are free"),
    ],
)
def test_too_little_memory_is_said_before_the_run(tmp_path, here, device, words):
    needed = tool.room(SEVEN, Settings(), tokens=20_000, copied=False, on_card=device != "cpu")
    with pytest.raises(ConfigError, match=words):
        tool.check_room(needed, here, device, tmp_path / "out")


def test_too_little_disk_is_said_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    needed = tool.room(SEVEN, Settings(), tokens=20_000, copied=True, on_card=True)
    with pytest.raises(ConfigError, match=r"GB of disk beside .* and 1\.0 GB are free there; make room"):
        tool.check_room(needed, machine(64e9, card=24e9), "cuda:0", tmp_path / "out")


def test_an_embedding_in_int8_halves_it_and_hardly_changes_the_scores(folder, tmp_path, gptqmodel):
    quantize(folder, tmp_path / "int4", SMALL, DRAWN)
    quantize(folder, tmp_path / "smaller", SMALL, DRAWN, int8_embedding=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("smaller", "int4")]
    rows, columns = load_file(tmp_path / "int4" / "model.safetensors")["model.embed_tokens.weight"].shape
    assert sizes[1] - sizes[0] == pytest.approx(rows * (columns - 4), rel=0.05)
    assert error(scores(tmp_path / "smaller"), scores(tmp_path / "int4")) < 0.02
    assert load(str(tmp_path / "smaller"), "cpu", "fp32").info.precision == "gptq-int4, widened"


def test_config_says_what_readers_need_and_nothing_of_the_machine(folder, tmp_path, gptqmodel):
    quantize(folder, tmp_path / "int4", Settings(group=64), DRAWN)
    assert json.loads((tmp_path / "int4" / "config.json").read_text())["quantization_config"] == {
        "bits": 4,
        "group_size": 64,
        "desc_act": False,
        "static_groups": False,
        "sym": True,
        "true_sequential": True,
        "lm_head": False,
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
    }
    tensors = load_file(tmp_path / "int4" / "model.safetensors")
    assert "lm_head.weight" not in tensors  # tied
    assert tensors["model.embed_tokens.weight"].dtype == torch.bfloat16
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "int4" / name).read_bytes() == (folder / name).read_bytes()


def said(folder, text):
    decoder = ChatTokenizer(folder).decoder()
    return "".join(decoder.feed(token) for token in text.ids)


def test_texts_are_our_prompts_with_the_true_answers_and_their_end(folder):
    drawn = texts_of(PAIRS, "hy-mt1.5", folder, calibration=2, held_out=2)
    end = json.loads((folder / "config.json").read_text())["eos_token_id"]
    all_texts = [said(folder, text) for text in drawn.calibration + drawn.held_out]
    assert "将以下文本翻译为中文，注意只需要输出翻译后的结果，不要额外解释：\n\nGood morning.早上好。" in all_texts
    assert len(all_texts) == 4
    assert {text.ids[-1] for text in drawn.calibration} == {end}
    text = next(text for text in drawn.calibration + drawn.held_out if "中文" in said(folder, text))
    assert said(folder, replace(text, ids=text.ids[text.prompt_tokens :])) == "早上好。"


def test_no_pair_is_in_both_and_of_all_languages_as_many_are_drawn(folder):
    many = [Pair("test", f"Cat {number}.", f"Chat {number}.", "fr") for number in range(90)]
    few = [Pair("test", f"Dog {number}.", f"Hund {number}.", "de") for number in range(100, 110)]
    assert sum(pair.lang == "de" for pair in tool.draw(many + few, 16)) == 8
    drawn = texts_of(many + few, "hy-mt1.5", folder, calibration=30, held_out=6)
    assert (len(drawn.calibration), len(drawn.held_out)) == (30, 6)
    names = [{said(folder, text).split()[-1] for text in part} for part in (drawn.calibration, drawn.held_out)]
    assert names[0].isdisjoint(names[1])
    assert drawn == texts_of(many + few, "hy-mt1.5", folder, calibration=30, held_out=6)


def test_without_pairs_of_the_users_own_there_are_some(folder):
    drawn = texts_of(fixture_pairs(), "hy-mt1.5", folder, calibration=256, held_out=64)
    assert (len(drawn.calibration), len(drawn.held_out)) == (256, 36)


@pytest.mark.parametrize("found", [[], PAIRS[:1], [Pair("test", "a " * 2000, "b " * 2000, "fr")] * 3])
def test_too_few_pairs_are_told(folder, found):
    with pytest.raises(ConfigError, match=f"at most 1,024 tokens.*; {len(found)} were found"):
        texts_of(found, "hy-mt1.5", folder, calibration=8, held_out=2)


def test_groups_that_do_not_divide_the_inputs_are_refused(folder, tmp_path):
    change_config(folder, intermediate_size=1920 - 64)
    with pytest.raises(ConfigError, match=r"Groups of 128 do not divide the 1856 inputs of a layer; take 32"):
        quantize(folder, tmp_path / "out", Settings(), DRAWN)


def test_gptq_is_not_quantised_again(folder, tmp_path):
    quantize_gptq(folder, group_size=32)
    with pytest.raises(UnsupportedModel, match="in GPTQ already; begin with its bf16"):
        quantize(folder, tmp_path / "out", SMALL, DRAWN)


def test_without_gptqmodel_the_tool_says_where_to_get_it(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gptqmodel", None)  # as if it were not installed
    with pytest.raises(SystemExit, match=r"environment of its own, and there pip install gptqmodel==7\.6\.0"):
        call(tool, folder, tmp_path / "out", "--group", 32)


def test_scores_are_chrf2_by_set_and_direction_and_their_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "backend_of", lambda arguments: EchoBackend(slots=2))
    chrf = tool.scores_of(Path("MODEL"), write_tests(tmp_path, times=2), 3, "tatoeba", "fr,zh")
    directions = [f"tatoeba {direction}" for direction in ("en-fr", "fr-en", "en-zh", "zh-en")]
    assert list(chrf) == ["mean", *directions]
    assert chrf["mean"] == pytest.approx(sum(chrf[name] for name in directions) / 4, abs=0.01)


def test_out_may_not_be_the_model(folder, capsys):
    assert "keep the original and name another folder" in refusal_of(capsys, tool, folder, folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--evaluate", "nowhere"], "no folder 'nowhere' of tests"),
        (["--limit", "-3"], "is not a whole number from 1 on"),
        (["--bits", "3"], "invalid choice: 3"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_quantised(folder, tmp_path, capsys, options, said):
    assert said in refusal_of(capsys, tool, folder, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--calibration", "nowhere.tsv"], "no file or folder 'nowhere.tsv'"),
        (["--device", "cuda:7"], "'cuda:7' is no device to quantise on here; take cpu"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_quantised(folder, tmp_path, gptqmodel, options, said):
    with pytest.raises(SystemExit, match=said):
        call(tool, folder, tmp_path / "out", *options)
    assert gptqmodel.runs == 0


def test_the_last_line_is_json_with_sizes_and_scores_before_and_after(folder, tmp_path, gptqmodel, monkeypatch, capsys):
    asked = []

    def scores_of(model, *more):
        asked.append((model, *more))
        return {"mean": 50.0 - len(asked)}

    monkeypatch.setattr(tool, "scores_of", scores_of)
    pairs = tmp_path / "pairs.en-fr.tsv"
    pairs.write_text("The cat sleeps.\tLe chat dort.\nYes.\tOui.\n", encoding="utf-8")
    options = ["--group", 32, "--calibration", pairs, "--evaluate", tmp_path, "--limit", 9, "--device", "cpu"]
    call(tool, folder, tmp_path / "out", *options)
    result = json.loads(capsys.readouterr().out)  # nothing but that
    assert result["chrf2"] == {"before": {"mean": 49.0}, "after": {"mean": 48.0}}
    assert asked == [(path, tmp_path, 9, tool.SETS, None) for path in (folder, tmp_path / "out")]
    assert (result["group"], result["act_order"], result["calibration_texts"]) == (32, False, 2)
    assert json.loads((tmp_path / "out" / tool.REPORT).read_text())["chrf2"] == result["chrf2"]


def test_a_folder_of_the_users_own_is_not_taken_for_the_work(folder, tmp_path, gptqmodel):
    work = tmp_path / "int4.partial"
    work.mkdir()
    (work / "thesis.txt").write_text("all of it")
    with pytest.raises(ConfigError, match=r"int4\.partial', .* is there already and not of this tool; move it away"):
        quantize(folder, tmp_path / "int4", SMALL, DRAWN)
    assert (work / "thesis.txt").read_text() == "all of it"
    assert gptqmodel.runs == 0


def test_two_runs_do_not_work_for_one_folder(folder, tmp_path, gptqmodel):
    with alone(tmp_path / "int4", beside=True), pytest.raises(SystemExit, match=r"Another run is writing into .*int4'"):
        call(tool, folder, tmp_path / "int4", "--group", 32, "--device", "cpu")
    assert gptqmodel.runs == 0


def test_where_the_system_tells_no_peak_of_memory_the_run_goes_on(folder, tmp_path, gptqmodel, monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    monkeypatch.setattr(tool, "sys", SimpleNamespace(platform="win32", stderr=sys.stderr))
    assert quantize(folder, tmp_path / "int4", SMALL, DRAWN)["peak"] == {}


def test_eight_bits_are_not_int4_and_are_not_quantised_again(folder):
    quantize_gptq(folder, group_size=32, bits=8)
    shape = ModelShape.read(read_config(folder), folder)
    said = "not stored in INT4 but in gptq-int8; leave --precision out, or make a copy of its original weights in INT4"
    with pytest.raises(UnsupportedModel, match=said):
        hardware.plan(Config(devices="cpu", precision="int4"), shape, machine(64e9))
