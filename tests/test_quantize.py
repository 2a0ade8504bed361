"""The INT4 tool with GPTQModel away, and with one of our own in its place that rounds to nearest."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from engine.backends.echo import EchoBackend
from engine.errors import ConfigError, UnsupportedModel
from engine.inference.checkpoint import load_model, read_config
from engine.inference.loader import load
from engine.inference.tokenizer import ChatTokenizer
from engine.tools import asking
from engine.tools import quantize as tool
from engine.tools.quantize import FIXTURE, calibration_texts, quantize
from tests.checkpoints import change_config, change_tensors, error, quantize_gptq, quantize_int8, scores_of
from tests.corpora import write_tests

PAIRS = "# a comment\nzh\tGood morning.\t早上好。\n\nfr\tThe cat sleeps.\tLe chat dort.\n"


class FakeModel:
    """Reads and writes folders as GPTQModel does, its litter too."""

    def __init__(self, folder, settings, log):
        self.folder, self.settings, self.log = Path(folder), settings, log

    def quantize(self, texts, batch_size):
        self.log.texts = texts
        print("progress")  # on stdout, as GPTQModel does

    def save(self, folder):
        shutil.copytree(self.folder, folder)
        self.log.dtypes = {tensor.dtype for tensor in load_file(Path(folder) / "model.safetensors").values()}
        quantize_gptq(
            Path(folder), group_size=self.settings.group_size, act_order=self.settings.desc_act, shared_order=True
        )
        shutil.rmtree(Path(folder) / "widened")
        embeddings = load_file(Path(folder) / "model.safetensors")["model.embed_tokens.weight"]
        change_tensors(Path(folder), {"lm_head.weight": embeddings.clone()})  # untied, to be written at all
        made = json.loads((Path(folder) / "config.json").read_text())["quantization_config"]
        meta = {"quantizer": ["gptqmodel:7.6.0"], "offload_to_disk_path": "/home/someone/offload"}
        change_config(Path(folder), quantization_config=made | {"meta": meta, "pack_dtype": "int32"}, yiwen=None)


@pytest.fixture
def gptqmodel(monkeypatch):
    """In GPTQModel's place; what it was asked is in its attributes."""
    log = ModuleType("gptqmodel")
    log.QuantizeConfig = lambda **settings: SimpleNamespace(**settings)
    log.GPTQModel = SimpleNamespace(load=lambda folder, settings: FakeModel(folder, settings, log))
    monkeypatch.setitem(sys.modules, "gptqmodel", log)
    for name in tool._SETTINGS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return log


@pytest.fixture
def pairs(tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_text(PAIRS, encoding="utf-8")
    return file


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "model")


def scores(folder):
    return scores_of(load_model(folder, read_config(folder), torch.float32, "cpu"), range(5, 35))


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("stored", ["fp32", "int8"])
def test_what_is_written_is_an_int4_checkpoint_that_loads(folder, pairs, tmp_path, gptqmodel, stored, act_order):
    change_config(folder, yiwen={"family": "hy-mt2"})
    if stored == "int8":
        quantize_int8(folder)
    before = scores(folder)
    result = quantize(folder, tmp_path / "int4", 32, pairs, act_order)
    loaded = load(str(tmp_path / "int4"), "cpu", "fp32")
    assert loaded.info.precision == "gptq-int4, widened"
    assert loaded.info.family == "hy-mt2"
    assert error(scores(tmp_path / "int4"), before) < 0.6  # random weights, rounded to nearest
    assert gptqmodel.dtypes == {torch.bfloat16}
    assert result["bytes_after"] < result["bytes_before"]
    assert result["calibration_tokens"] == sum(len(text["input_ids"]) for text in gptqmodel.texts)


def test_an_embedding_in_int8_halves_it_and_hardly_changes_the_scores(folder, pairs, tmp_path, gptqmodel):
    quantize(folder, tmp_path / "int4", 32, pairs)
    quantize(folder, tmp_path / "smaller", 32, pairs, int8_embedding=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("smaller", "int4")]
    rows, columns = load_file(tmp_path / "int4" / "model.safetensors")["model.embed_tokens.weight"].shape
    assert sizes[1] - sizes[0] == pytest.approx(rows * (columns - 4), rel=0.05)
    assert error(scores(tmp_path / "smaller"), scores(tmp_path / "int4")) < 0.02
    assert load(str(tmp_path / "smaller"), "cpu", "fp32").info.precision == "gptq-int4, widened"


def test_config_says_what_readers_need_and_nothing_of_the_machine(folder, pairs, tmp_path, gptqmodel):
    quantize(folder, tmp_path / "int4", 64, pairs)
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


def test_calibration_is_both_directions_in_our_prompts_with_the_true_answers(folder, pairs):
    texts = calibration_texts(pairs, "hy-mt1.5", folder)
    decoder, end = ChatTokenizer(folder).decoder(), json.loads((folder / "config.json").read_text())["eos_token_id"]
    assert len(texts) == 4
    assert {text[-1] for text in texts} == {end}
    said = "".join(decoder.feed(token) for token in texts[0])
    assert said == "将以下文本翻译为中文，注意只需要输出翻译后的结果，不要额外解释：\n\nGood morning.早上好。"


def test_the_fixture_is_calibration_text_too(folder):
    assert len(calibration_texts(FIXTURE, "hy-mt1.5", folder)) == 2 * 9 * 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("zh\tone side\n", "Line 1 of .* is not a language code"),
        ("# fine\nxx\ta\tb\n", "Line 2 of .* is not a language code"),
        ("# nothing\n", "holds no lines"),
        (b"\xff\xfe", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_calibration_text_that_cannot_be_used_is_said_in_a_sentence(folder, tmp_path, text, words):
    file = tmp_path / "pairs.tsv"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=words):
        quantize(folder, tmp_path / "out", 32, file)
    assert not (tmp_path / "out").exists()


def test_groups_that_do_not_divide_the_inputs_are_refused(folder, pairs, tmp_path):
    change_config(folder, intermediate_size=1920 - 64)
    with pytest.raises(ConfigError, match=r"Groups of 128 do not divide the 1856 inputs of a layer; take 32"):
        quantize(folder, tmp_path / "out", 128, pairs)


def test_int4_is_not_quantised_again(folder, pairs, tmp_path):
    quantize_gptq(folder, group_size=32)
    with pytest.raises(UnsupportedModel, match="in INT4 already; begin with its bf16"):
        quantize(folder, tmp_path / "out", 32, pairs)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["quantize", *map(str, arguments)])
    tool.main()


def test_without_gptqmodel_the_tool_says_where_to_get_it(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gptqmodel", None)  # as if it were not installed
    with pytest.raises(SystemExit, match=r"environment of its own, and there pip install gptqmodel==7\.6\.0"):
        run(monkeypatch, folder, tmp_path / "out", "--group", 32)


def test_scores_are_chrf2_by_set_and_direction_and_their_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "backend_of", lambda arguments: EchoBackend(slots=2))
    chrf = tool.scores_of(Path("MODEL"), write_tests(tmp_path, times=2), 3, "tatoeba", "fr,zh")
    directions = [f"tatoeba {direction}" for direction in ("en-fr", "fr-en", "en-zh", "zh-en")]
    assert list(chrf) == ["mean", *directions]
    assert chrf["mean"] == pytest.approx(sum(chrf[name] for name in directions) / 4, abs=0.01)


def test_out_may_not_be_the_model(folder, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, folder, folder)
    assert "keep the original and name another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--evaluate", "nowhere"], "no folder 'nowhere' of tests"),
        (["--limit", "-3"], "is not a whole number from 1 on"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_quantised(folder, tmp_path, monkeypatch, capsys, options, said):
    with pytest.raises(SystemExit):
        run(monkeypatch, folder, tmp_path / "out", *options)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_last_line_is_json_with_sizes_and_scores_before_and_after(
    folder, pairs, tmp_path, gptqmodel, monkeypatch, capsys
):
    asked = []

    def scores_of(model, *more):
        asked.append((model, *more))
        return {"mean": 50.0 - len(asked)}

    monkeypatch.setattr(tool, "scores_of", scores_of)
    options = ["--group", 32, "--calibration", pairs, "--evaluate", tmp_path, "--limit", 9]
    run(monkeypatch, folder, tmp_path / "out", *options)
    result = json.loads(capsys.readouterr().out)  # nothing but that
    assert result["chrf2"] == {"before": {"mean": 49.0}, "after": {"mean": 48.0}}
    assert asked == [(path, tmp_path, 9, tool.SETS, None) for path in (folder, tmp_path / "out")]
    assert (result["group"], result["act_order"], result["calibration_texts"]) == (32, False, 4)
