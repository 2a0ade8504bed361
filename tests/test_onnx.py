"""A checkpoint exported as a graph for ONNX Runtime: what is in the folder, who can run it, what is refused."""

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoTokenizer

from engine import hardware, inventory
from engine.backends import onnx as backend
from engine.backends.select import choose, select
from engine.config import Config
from engine.errors import ConfigError, ModelNotFound, UnsupportedModel
from engine.inference import onnx_folder
from engine.inference.checkpoint import load_model, read_config
from engine.inference.onnx_api import onnxruntime
from engine.inference.onnx_graph import IDS, LOGITS, MASK, POSITIONS
from engine.inference.weight_files import alone
from engine.inventory import Card, Machine
from engine.progress import Progress
from engine.shape import ModelShape
from engine.tools import bench_onnx
from engine.tools import export_onnx as tool
from engine.tools.export_onnx import export
from tests.checkpoints import TEXT_TOKENS, change_config, quantize_gptq, quantize_int8, scores_of, write_checkpoint
from tests.commands import call

KEY, VALUE = "past_key_values.{}.key", "past_key_values.{}.value"


@pytest.fixture(scope="module")
def exported(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "tiny"
    return folder, export(tiny_checkpoint, folder, "fp32")


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported[0], tmp_path / "copy")


def test_the_folder_holds_all_that_belongs_to_a_model(exported, tiny_checkpoint):
    folder, result = exported
    names = {path.name for path in folder.iterdir()}
    companions = {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert names == companions | {"config.json", "genai_config.json", "README.md", "model.onnx", "model.onnx.data"}
    text = "I went to the library. 我昨天去了图书馆。"
    assert AutoTokenizer.from_pretrained(folder)(text) == AutoTokenizer.from_pretrained(tiny_checkpoint)(text)
    assert result["bytes_after"] == sum((folder / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    assert not [path for path in folder.parent.iterdir() if path != folder]


def test_its_logits_are_torchs_within_a_thousandth(exported):
    difference = exported[1]["difference"]
    assert difference["max"] < 1e-4
    assert (difference["same_best"], difference["steps"]) == (1.0, 8)


def test_who_has_onnx_runtime_alone_runs_it_as_its_readme_says(exported, tiny_checkpoint):
    folder = exported[0]
    readme = (folder / "README.md").read_text()
    code = readme.partition("```python\n")[2].partition("```")[0]
    prompt = [5, 60, 200, 7, 90]
    there = {"PROMPT": "list(prompt)", "ENDS": "ends", '"model.onnx"': "path", "said += ids": "said += ids; stop()"}
    for name, ours in there.items():
        assert name in code
        code = code.replace(name, ours)

    def stop():
        if len(names["said"]) == 12:
            raise StopIteration

    names = {"prompt": prompt, "ends": (), "path": str(folder / "model.onnx"), "stop": stop}
    with pytest.raises(StopIteration):
        exec(code, names)
    wide = load_model(tiny_checkpoint, read_config(tiny_checkpoint), torch.float32, "cpu")
    ids = [*prompt, *names["said"]]
    assert scores_of(wide, ids)[len(prompt) - 1 : -1].argmax(1).tolist() == names["said"]


def test_buffers_longer_than_the_text_are_written_in_place(exported):
    session = onnxruntime.InferenceSession(exported[0] / "model.onnx")
    layers = read_config(exported[0])["num_hidden_layers"]
    pasts = [name.format(layer) for layer in range(layers) for name in (KEY, VALUE)]
    grown = dict.fromkeys(pasts, np.zeros((2, 2, 0, 32), np.float32))
    fixed = {name: np.zeros((2, 2, 40, 32), np.float32) for name in pasts}
    ids = np.random.default_rng(1).integers(0, TEXT_TOKENS, (2, 30))
    for start, end in ((0, 28), (28, 29), (29, 30)):
        positions = np.arange(start, end)[None].repeat(2, 0)
        feeds = {IDS: ids[:, start:end], POSITIONS: positions, MASK: np.ones((2, end), np.int64)}
        true, *presents = session.run(None, feeds | grown)
        assert presents[0].shape == (2, 2, end, 32)
        grown = dict(zip(pasts, presents, strict=True))
        binding = session.io_binding()
        for name, values in (feeds | fixed).items():
            binding.bind_cpu_input(name, values)
        for name in pasts:
            values = onnxruntime.OrtValue.ortvalue_from_numpy(fixed[name])
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), values)
        binding.bind_output(LOGITS)
        session.run_with_iobinding(binding)
        np.testing.assert_allclose(binding.copy_outputs_to_cpu()[-1], true, atol=1e-5)
    assert np.abs(fixed[pasts[0]][:, :, :30] - grown[pasts[0]]).max() < 1e-5
    assert not fixed[pasts[0]][:, :, 30:].any()


def test_weights_stand_beside_the_graph_where_they_can_be_mapped_into_memory(exported):
    graph = onnx.load(exported[0] / "model.onnx", load_external_data=False)
    places = [{each.key: each.value for each in tensor.external_data} for tensor in graph.graph.initializer]
    offsets = [int(place["offset"]) for place in places if place]
    assert len(offsets) > 12
    assert not any(offset % 4096 for offset in offsets)
    assert (exported[0] / "model.onnx").stat().st_size < 60_000


def test_a_tied_head_is_there_once(exported, tmp_path):
    untied = write_checkpoint(tmp_path / "untied", tied=False)
    table = ModelShape.read(read_config(untied))
    more = export(untied, tmp_path / "graph", "fp32")["bytes_after"] - exported[1]["bytes_after"]
    assert more == pytest.approx(4 * table.vocab_size * table.hidden_size, rel=0.05)


@pytest.mark.parametrize(
    ("form", "precision", "group"),
    [
        ("fp32", "int8", None),
        ("int8", "int8", None),
        ("int8", "int4", 64),
        ("fp32", "int4", None),
        ("int4", "int4", None),
        ("int4", "fp32", None),
        ("int8", "fp16", None),
    ],
)
def test_every_form_becomes_every_precision_and_says_how_far_it_is_from_torch(tmp_path, form, precision, group):
    source = write_checkpoint(tmp_path / "source")
    if form == "int8":
        quantize_int8(source)
    if form == "int4":
        quantize_gptq(source, group_size=64, act_order=True, shared_order=True, sym=False)
    compute = "fp16" if precision == "fp16" else "fp32"
    result = export(source, tmp_path / "out", precision, compute, group)
    most = {"fp32": 1e-3, "fp16": 0.05, "int8": 0.5, "int4": 0.5}[precision]
    assert 0 < result["difference"]["max"] < most
    smaller = {"fp32": 1, "fp16": 1.9, "int8": 3, "int4": 3.5}[precision]
    parameters = ModelShape.read(read_config(source)).parameters
    assert result["bytes_after"] < 4 * parameters / smaller + 200_000
    assert onnx_folder.read(tmp_path / "out").precision == precision


def test_the_tool_writes_a_line_of_json_last_and_draws_bars_elsewhere(tiny_checkpoint, tmp_path, capsys):
    call(tool, tiny_checkpoint, tmp_path / "out", "--precision", "int4", "--group", 64)
    told = capsys.readouterr()
    result = json.loads(told.out)  # nothing but that
    assert (result["precision"], result["compute"], result["out"]) == ("int4", "fp32", str(tmp_path / "out"))
    assert "writing" in told.err


@pytest.mark.parametrize(
    ("form", "precision", "group", "said"),
    [
        ("int4", "int8", None, "stored in INT4, and in INT8 .* --precision int4"),
        ("int4", "int4", 32, "is in INT4 already, in groups of its own; leave --group out"),
        ("fp32", "fp32", 32, "--group goes with --precision int4"),
        ("odd", "int4", 64, "Groups of 64 do not divide the 96 inputs"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_is_written(tmp_path, form, precision, group, said):
    shape = {"intermediate_size": 96} if form == "odd" else {}
    source = write_checkpoint(tmp_path / "source", **shape)
    if form == "int4":
        quantize_gptq(source, group_size=32)
    with pytest.raises(ConfigError, match=said):
        export(source, tmp_path / "out", precision, "fp32", group)
    assert not (tmp_path / "out").exists()


def test_nothing_takes_the_place_of_a_checkpoint_or_of_other_files(tiny_checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="OUT is MODEL"):
        export(tiny_checkpoint, tiny_checkpoint, "fp32")
    (tmp_path / "thesis.txt").write_text("all of it")
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"already and holds more than a graph of ours \(thesis.txt\)"):
        export(tiny_checkpoint, tmp_path, "fp32")
    assert (tmp_path / "thesis.txt").read_text() == "all of it"


def held_by(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_full_disk_leaves_the_graph_that_was_there(copy, tiny_checkpoint, monkeypatch):
    before = held_by(copy)
    usage = shutil.disk_usage(copy)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
        with pytest.raises(ConfigError, match=r"takes \d+ MB, and 1 MB are free .* What was there before is unchanged"):
            export(tiny_checkpoint, copy, "int8")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(onnx_folder, "write", full)
        with pytest.raises(ConfigError, match="are free on its disk; make room"):
            export(tiny_checkpoint, copy, "int8")
    assert held_by(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]
    monkeypatch.chdir(copy)
    export(tiny_checkpoint, Path(), "int8")
    monkeypatch.chdir(copy.parent)
    before = held_by(copy)
    assert onnx_folder.read(copy).precision == "int8"
    copy.rename(copy.with_name(".copy.old"))  # as one leaves it that is killed at the last moment
    monkeypatch.setattr(onnx_folder, "write", full)
    with pytest.raises(ConfigError):
        export(tiny_checkpoint, copy, "int8")
    assert held_by(copy) == before


def test_a_graph_that_is_off_in_fp32_is_not_kept(tiny_checkpoint, copy, monkeypatch):
    before = held_by(copy)
    monkeypatch.setattr(tool, "_reference_scores", lambda model, ids: torch.zeros(len(ids), model.config.vocab_size))
    with pytest.raises(UnsupportedModel, match=r"logits are off by \d.* 0.001 is the most in fp32; nothing"):
        export(tiny_checkpoint, copy, "fp32")
    assert held_by(copy) == before


def spoilt(folder, way):
    graph = folder / "model.onnx"
    if way == "no data":
        (folder / "model.onnx.data").unlink()
    if way == "short data":
        os.truncate(folder / "model.onnx.data", 100_000)
    if way == "short graph":
        os.truncate(graph, 5_000)
    if way == "another model":
        change_config(folder, num_hidden_layers=5)
    if way == "another architecture":
        change_config(folder, architectures=["LlamaForCausalLM"])
    if way in ("outside", "offset", "another's"):
        model = onnx.load(graph, load_external_data=False)
        if way == "another's":
            del model.metadata_props[:]
        for tensor in model.graph.initializer:
            for each in tensor.external_data:
                if each.key == "location" and way == "outside":
                    each.value = "../../etc/passwd"
                if each.key == way:
                    each.value = "-1"
        graph.write_bytes(model.SerializeToString())
    if way == "no tokenizer":
        (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("no data", r"holds no model\.onnx\.data, with the weights of model\.onnx"),
        ("short data", r"has 100,000 bytes of [\d,]+; it was cut short"),
        ("short graph", r"model\.onnx' cannot be read .* cut short: export"),
        ("another model", r"is the graph of another model than config\.json beside it"),
        ("another architecture", r"is a model of \['LlamaForCausalLM'\]"),
        ("outside", r"has weights in '\.\./\.\./etc/passwd', and only model\.onnx\.data beside it is read"),
        ("offset", r"has weights in .*export the model again"),
        ("another's", "not a graph that Yiwen has made; export the model with `python -m engine.tools.export_onnx`"),
        ("no tokenizer", r"holds no tokenizer\.json"),
    ],
)
def test_a_spoilt_folder_is_told_in_a_sentence(copy, way, said):
    spoilt(copy, way)
    with pytest.raises((ModelNotFound, UnsupportedModel), match=said):
        select(Config(model=str(copy), devices="cpu"))


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"deterministic": True}, "cannot be --deterministic; leave it out, or use --backend local"),
        ({"kv_window": 64}, "knows no --kv-window; leave it out, or use --backend local"),
        ({"kv_dtype": "bf16"}, "knows no --kv-dtype; leave it out, or use --backend local"),
        ({"devices": "cuda:0"}, r"no part for cards such as cuda:0; install onnxruntime-gpu in the place"),
    ],
    ids=str,
)
def test_what_onnx_runtime_has_not_is_refused(tiny_checkpoint, choices, said):
    with pytest.raises(ConfigError, match=said):
        select(Config(model=str(tiny_checkpoint), backend="onnx", **choices))


def test_an_exported_folder_needs_no_backend_and_suits_no_other(exported):
    folder = str(exported[0])
    with pytest.raises(ConfigError, match="holds a graph for ONNX Runtime; leave --backend out"):
        choose(Config(model=folder, backend="local"))
    with pytest.raises(UnsupportedModel, match="exported in FP32; leave --precision out, or export the model in INT8"):
        select(Config(model=folder, devices="cpu", precision="int8"))
    with pytest.raises(ConfigError, match="cannot be --deterministic"):
        choose(Config(model=folder, deterministic=True))


def test_a_graph_that_does_not_fit_into_memory_is_told(exported, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("[ONNXRuntimeError] : Failed to allocate memory for requested buffer of size 4096\nstack")

    monkeypatch.setattr(onnxruntime, "InferenceSession", full)
    with pytest.raises(ConfigError, match=r"into the memory of cpu \(.*size 4096\); close what else uses it"):
        select(Config(model=str(exported[0]), devices="cpu"))


CARD = Card("cuda:0", "Test", 24 * 10**9, (8, 9), 20 * 10**9)
WITH_CARD = Machine(ram_bytes=32 * 10**9, ram_free_bytes=28 * 10**9, cores=2, bf16=False, cards=(CARD,))


@pytest.fixture
def gpu_runtime(monkeypatch):
    """As if ONNX Runtime were the one for cards; what it would be given: (graph's compute, device, bytes)."""
    monkeypatch.setattr(backend, "runs_on_cards", lambda: True)
    monkeypatch.setattr(
        inventory, "survey", lambda devices="auto": WITH_CARD if devices != "cpu" else replace_cards(WITH_CARD)
    )
    asked = []

    class Taken(Exception):
        pass

    def take(graph, device, threads, most_bytes=None):
        kind = graph.model.graph.input[-1].type.tensor_type.elem_type
        asked.append((onnx.TensorProto.DataType.Name(kind), device, most_bytes))
        raise Taken

    monkeypatch.setattr(backend.Session, "of", take)
    return asked, Taken


def replace_cards(machine):
    return Machine(machine.ram_bytes, machine.ram_free_bytes, machine.cores, machine.bf16)


@pytest.mark.parametrize(
    ("choices", "given"),
    [
        ({}, ("FLOAT16", "cuda:0", None)),
        ({"devices": "cuda:0", "max_vram_gb": 8}, ("FLOAT16", "cuda:0", 8 * 10**9 - inventory.CONTEXT_BYTES)),
        ({"devices": "cpu"}, ("FLOAT", "cpu", None)),
        ({"precision": "fp32"}, ("FLOAT", "cpu", None)),
    ],
    ids=str,
)
def test_the_graph_is_in_16_bits_on_a_card_and_in_fp32_on_the_cpu(tiny_checkpoint, gpu_runtime, choices, given):
    asked, taken = gpu_runtime
    with pytest.raises(taken):
        backend.load(Config(model=str(tiny_checkpoint), backend="onnx", **choices), Progress())
    assert asked == [given]


def test_a_card_is_never_given_what_it_has_no_product_for(tiny_checkpoint, exported, gpu_runtime, caplog):
    with pytest.raises(ConfigError, match="attends in fp16 on cards, not in bf16; leave --precision out"):
        backend.load(Config(model=str(tiny_checkpoint), backend="onnx", precision="bf16", devices="cuda:0"))
    with pytest.raises(ConfigError, match=r"computes in fp32, .* such as cuda:0; export the model with --compute fp16"):
        backend.load(Config(model=str(exported[0]), devices="cuda:0"))
    caplog.set_level("INFO")
    made = backend.load(Config(model=str(exported[0])))
    assert made.info.device == "cpu"
    assert "devices=cpu: this graph computes in fp32" in caplog.text


def test_a_card_is_planned_with_a_buffer_for_each_slot_and_the_weights_as_they_are_stored(tmp_path):
    folder = write_checkpoint(tmp_path / "model")
    quantize_int8(folder)
    shape = ModelShape.read(read_config(folder), Path(folder))
    made = hardware.plan(Config(backend="onnx"), shape, WITH_CARD)
    assert (made.engine, made.device, made.weights, made.kv_dtype) == ("onnx", "cuda:0", "int8", "fp16")
    assert (made.prefill_tokens, made.graphs, made.sequence_tokens) == (256, (), shape.context_tokens)
    assert made.pages == made.slots * (shape.context_tokens // 32)
    assert "so this is slower" not in made.reason


def test_onnx_runtime_genai_is_told_the_names_and_sizes_of_the_graph(exported):
    """Tried with onnxruntime-genai 0.18: it loads the folder as it is and generates what we do."""
    told = json.loads((exported[0] / "genai_config.json").read_text())
    model, session = told["model"], onnxruntime.InferenceSession(exported[0] / "model.onnx")
    decoder, layers = model["decoder"], range(model["decoder"]["num_hidden_layers"])

    def named(side):
        return {name % layer if "%" in name else name for name in decoder[side].values() for layer in layers}

    assert named("inputs") == {each.name for each in session.get_inputs()}
    assert named("outputs") == {each.name for each in session.get_outputs()}
    shapes = {each.name: each.shape for each in (*session.get_inputs(), *session.get_outputs())}
    assert shapes[KEY.format(0)] == ["S", decoder["num_key_value_heads"], "length", decoder["head_size"]]
    assert shapes[LOGITS] == ["S", 1, model["vocab_size"]]
    assert model["eos_token_id"] in range(model["vocab_size"])
    assert told["search"]["repetition_penalty"] == 1.05


def test_the_bench_says_how_many_times_torchs_speed_onnx_runtimes_is(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(bench_onnx, "REST_SECONDS", 0)
    parser = argparse.ArgumentParser()
    bench_onnx.add_arguments(parser)
    asked = ["--model", str(tiny_checkpoint), "--threads", "1", "--repeat", "1"]
    result = bench_onnx.run(parser.parse_args([*asked, "--prompt-tokens", "8", "--new-tokens", "2"]))
    for precision in ("fp32", "int8"):
        assert list(result[precision]) == ["prompt", "streams_1", "streams_8"]
        assert all(figure > 0 for figures in result[precision].values() for figure in figures.values())
    assert bench_onnx.show(result).count("ONNX Runtime is") == 6


@torch.inference_mode()
def test_both_sides_of_the_bench_have_the_same_weights_in_int8(tiny_checkpoint):
    wide, rows = bench_onnx._wide(tiny_checkpoint), bench_onnx._rows(bench_onnx._wide(tiny_checkpoint))
    torchs = bench_onnx._dynamic(bench_onnx._wide(tiny_checkpoint))
    ours = rows.layers[0].qkv.weight * rows.layers[0].qkv.scale[:, None]
    assert torch.nn.functional.l1_loss(torchs.layers[0].qkv.weight().dequantize(), ours) < 1e-3
    assert type(torchs.head) is type(torchs.layers[0].qkv) is not type(wide.layers[0].qkv)


def test_two_exports_do_not_write_into_one_folder(tiny_checkpoint, tmp_path):
    out = tmp_path / "new" / "out"
    with alone(out, beside=True), pytest.raises(ConfigError, match=r"Another run is writing into .*out'; wait"):
        export(tiny_checkpoint, out, "fp32")
    export(tiny_checkpoint, out, "fp32")
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(tiny_checkpoint, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be written \(.*\); name another folder"):
        export(tiny_checkpoint, tmp_path / "file" / "out", "fp32")
