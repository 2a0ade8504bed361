"""Every form of checkpoint Yiwen reads, and one clear sentence for each that it cannot."""

import json
import os
import shutil
import stat
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from transformers import HunYuanDenseV1ForCausalLM

from engine.errors import ModelNotFound, UnsupportedModel
from engine.inference.checkpoint import load_model, read_config, save_model
from engine.inference.gptq import Int4Weight
from engine.inference.held import Int4Held
from engine.inference.int8 import Int8Rows, float_weight, quantize_rows
from engine.inference.loader import load
from tests.checkpoints import (
    change_config,
    change_tensors,
    error,
    quantize_gptq,
    quantize_int8,
    scores_of,
    shard,
    write_checkpoint,
    write_json,
)

EMBEDDINGS = "model.embed_tokens.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"
IDS = list(range(5, 35))
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}


def scores(folder, dtype=torch.float32, int4=None):
    return scores_of(load_model(folder, read_config(folder), dtype, "cpu", int4), IDS)


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "model")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_checkpoint_in_shards_is_the_same_model(tmp_path, tied, dtype):
    folder = write_checkpoint(tmp_path / "model", tied=tied, dtype=dtype)
    whole = scores(folder)
    shard(folder)
    assert not (folder / "model.safetensors").exists()
    assert torch.equal(scores(folder), whole)


@pytest.mark.parametrize("tied", [True, False])
def test_int8_is_off_by_half_a_step_of_its_row_and_no_more(tmp_path, tied):
    folder = write_checkpoint(tmp_path / "model", tied=tied)
    true, tensors = scores(folder), load_file(folder / "model.safetensors")
    quantize_int8(folder)
    assert 0 < error(scores(folder), true) < 0.05
    model = load_model(folder, read_config(folder), torch.float32, "cpu")
    off = (model.layers[1].qkv.weight[: 8 * 32] - tensors[QUERY]).abs()
    assert (off <= tensors[QUERY].abs().amax(1, keepdim=True) / 127 * 0.501).all()


@pytest.mark.parametrize("tied", [True, False])
def test_int8_can_be_held_as_it_is(tmp_path, tied):
    folder = write_checkpoint(tmp_path / "model", tied=tied)
    quantize_int8(folder)
    held, wide = (load_model(folder, read_config(folder), torch.float32, "cpu", int8=kind) for kind in (Int8Rows, None))
    rows = {place: module for place, module in held.named_modules() if isinstance(module, Int8Rows)}
    assert len(rows) == 3 * 4 + 1 + (not tied)  # qkv, output, gate-up, down; embedding; head
    for place, module in rows.items():
        assert torch.equal(float_weight(module), wide.get_submodule(place).weight)
    sizes = [sum(tensor.nbytes for tensor in model.state_dict().values()) for model in (held, wide)]
    assert sizes[0] < 0.3 * sizes[1]


def test_an_int8_embedding_beside_int4_is_widened_or_held(folder):
    quantize_gptq(folder, group_size=32)
    true = scores(folder)
    embedding = load_file(folder / "model.safetensors")[EMBEDDINGS]
    quantized, scale = quantize_rows(embedding)
    change_tensors(folder, {EMBEDDINGS: quantized, EMBEDDINGS + "_scale": scale})
    assert 0 < error(scores(folder), true) < 0.02
    held = load_model(folder, read_config(folder), torch.float32, "cpu", Int4Held, Int8Rows)
    assert torch.equal(held.embedding.weight, quantized)
    assert isinstance(held.layers[0].qkv, Int4Held)


def test_int8_in_bf16_is_as_int8_in_fp32(folder):
    quantize_int8(folder)
    assert error(scores(folder, torch.bfloat16), scores(folder)) < 0.02


@pytest.mark.parametrize("act_order", [False, True], ids=["in order", "act-order"])
@pytest.mark.parametrize("group_size", [32, 128, -1])
@pytest.mark.parametrize("v2", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("sym", [True, False], ids=["sym", "asym"])
def test_gptq_is_the_weights_widened_by_hand_to_the_last_bit(folder, group_size, act_order, v2, sym):
    true = scores(folder)
    quantize_gptq(folder, group_size=group_size, act_order=act_order, sym=sym, v2=v2)
    assert torch.equal(scores(folder), scores(folder / "widened"))
    assert 0.01 < error(scores(folder), true) < 0.6


def test_gptq_without_g_idx_is_in_order(folder):
    quantize_gptq(folder, group_size=32)
    before = scores(folder)
    names = [name for name in load_file(folder / "model.safetensors") if name.endswith("g_idx")]
    assert len(names) == 3 * 7
    change_tensors(folder, dict.fromkeys(names))
    assert torch.equal(scores(folder), before)


class Widened(torch.nn.Module):
    """A layer as the engine may hand one in."""

    made: ClassVar[list[Int4Weight]]

    def __init__(self, weight):
        super().__init__()
        self.made.append(weight)
        self.register_buffer("wide", weight.dequantize())

    def forward(self, x):
        return torch.nn.functional.linear(x, self.wide)


@pytest.mark.parametrize("tied", [True, False])
def test_int4_can_be_kept_by_a_layer_that_is_handed_in(tmp_path, tied):
    folder = write_checkpoint(tmp_path / "model", tied=tied)
    quantize_gptq(folder, group_size=32)
    Widened.made = []
    kept = scores(folder, int4=Widened)
    assert error(kept, scores(folder)) < 1e-6
    shapes = [tuple(weight.values.shape) for weight in Widened.made]
    assert shapes == 3 * [(256 + 2 * 64, 128), (128, 256), (512, 128), (128, 256)]  # qkv, output, gate-up, down
    assert load(str(folder), "cpu", "fp32", Widened).info.precision == "gptq-int4"


def test_act_order_is_kept_where_parts_of_one_input_share_it(folder):
    quantize_gptq(folder, group_size=32, act_order=True, shared_order=True)
    Widened.made = []
    assert error(scores(folder, int4=Widened), scores(folder / "widened")) < 1e-6
    assert all(weight.order is not None for weight in Widened.made)


def test_where_they_do_not_it_is_said_and_widening_runs_it(folder):
    quantize_gptq(folder, group_size=32, act_order=True)
    with pytest.raises(UnsupportedModel, match=r"parts of layers.0.qkv .* use --precision bf16, which widens them"):
        load(str(folder), "cpu", "fp32", Widened)
    assert load(str(folder), "cpu", "fp32").info.precision == "gptq-int4, widened"


def test_int4_is_widened_where_nothing_multiplies_by_it(folder):
    quantize_gptq(folder, group_size=32)
    loaded = load(str(folder), "cpu", "bf16")
    assert loaded.info.precision == "gptq-int4, widened"
    assert loaded.model.layers[0].qkv.weight.dtype == torch.bfloat16


def test_a_head_stored_beside_a_tied_one_is_not_used(folder):
    before = scores(folder)
    change_tensors(folder, {"lm_head.weight": torch.zeros_like(load_file(folder / "model.safetensors")[EMBEDDINGS])})
    assert torch.equal(scores(folder), before)


def test_what_is_saved_is_read_back_by_us_and_by_transformers(folder, tmp_path):
    model = load_model(folder, read_config(folder), torch.float32, "cpu")
    save_model(model, tmp_path / "saved", torch.float32, {"yiwen": {"family": "hy-mt2"}})
    assert torch.equal(scores(tmp_path / "saved"), scores(folder))
    with torch.inference_mode():
        theirs = HunYuanDenseV1ForCausalLM.from_pretrained(tmp_path / "saved")(torch.tensor([IDS])).logits[0]
    assert error(theirs, scores(folder)) < 1e-5
    save_model(model, tmp_path / "int8", torch.int8, {})
    assert error(scores(tmp_path / "int8"), scores(folder)) < 0.05


@pytest.mark.skipif(os.name == "nt", reason="has no umask")
def test_what_is_saved_may_be_read_by_whom_the_umask_lets(folder, tmp_path):
    model = load_model(folder, read_config(folder), torch.float32, "cpu")
    before = os.umask(0o022)
    try:
        save_model(model, tmp_path / "saved", torch.float32, {}, shard_bytes=100_000)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "saved").iterdir()} == {0o644}


def test_newer_configs_that_say_rope_parameters_are_the_same_model(folder):
    before = scores(folder)
    rope = {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 10000.0}
    change_config(folder, rope_scaling=None, rope_theta=None, rope_parameters=rope)
    assert torch.equal(scores(folder), before)


def no_folder(folder):
    shutil.rmtree(folder)


def no_config(folder):
    (folder / "config.json").unlink()


def broken_config(folder):
    (folder / "config.json").write_text('{"architectures": ["Hun')


def binary_config(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")


def list_for_config(folder):
    write_json(folder / "config.json", ["HunYuanDenseV1ForCausalLM"])


def other_architecture(folder):
    change_config(folder, architectures=["LlamaForCausalLM"])


def no_architecture(folder):
    change_config(folder, architectures=None)


def no_size(folder):
    change_config(folder, hidden_size=None)


def yarn(folder):
    change_config(folder, rope_scaling={"type": "yarn", "factor": 4.0})


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def pickled_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def consolidated(folder):
    (folder / "model.safetensors").rename(folder / "consolidated.00.pth")
    (folder / "config.json").rename(folder / "params.json")


def pickles_in_shards(folder):
    (folder / "model.safetensors").unlink()
    for number in range(1, 8):
        (folder / f"pytorch_model-0000{number}-of-00007.bin").write_bytes(b"")


def pickle_by_another_name(folder):
    torch.save({"model.norm.weight": torch.zeros(128)}, folder / "model.safetensors")


def other_header(folder):
    header = b'{"a": [1, 2]}'
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def a_byte_too_few(folder):
    shard(folder)
    path = folder / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def a_byte_too_many(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"0")


def index_of(folder, file):
    shard(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    write_json(folder / "model.safetensors.index.json", {"weight_map": index["weight_map"] | {QUERY: file}})


def index_of_the_folder_above(folder):
    shutil.copy(folder / "model.safetensors", folder.parent)
    index_of(folder, "../model.safetensors")


def index_of_another_disk(folder):
    index_of(folder, "C:model.safetensors")


def index_of_a_pickle(folder):
    (folder / "pytorch_model.bin").write_bytes(b"")
    index_of(folder, "pytorch_model.bin")


def index_of_a_number(folder):
    index_of(folder, 1)


def index_that_is_a_list(folder):
    shard(folder)
    write_json(folder / "model.safetensors.index.json", {"weight_map": ["model-00001-of-00002.safetensors"]})


def nan_in_a_shard(folder):
    nan_in_a_matrix(folder)
    shard(folder)


def no_shards(folder):
    index_of(folder, "model-00003-of-00007.safetensors")
    for path in folder.glob("*.safetensors"):
        path.unlink()


def half_the_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty_weights(folder):
    (folder / "model.safetensors").write_bytes(b"")


def pointer_for_weights(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n")


def no_tensor(folder):
    change_tensors(folder, {QUERY: None})


def wrong_shape(folder):
    change_tensors(folder, {QUERY: torch.zeros(256, 64)})


def too_few_rows(folder):
    change_tensors(folder, {QUERY: torch.zeros(128, 128)})


def untied_without_a_head(folder):
    change_config(folder, tie_word_embeddings=False)


def unknown_quantisation(folder):
    change_config(folder, quantization_config={"quant_method": "awq", "bits": 4})


def three_bits(folder):
    change_config(folder, quantization_config={"quant_method": "gptq", "bits": 3})


def int8_without_scales(folder):
    quantize_int8(folder)
    change_tensors(folder, {QUERY.replace("q_proj", "k_proj") + "_scale": None})


def int8_of_wrong_shape(folder):
    quantize_int8(folder)
    change_tensors(folder, {"model.embed_tokens.weight": torch.zeros(8, 128, dtype=torch.int8)})


def gptq_without_zeros(folder):
    quantize_gptq(folder, group_size=32)
    change_tensors(folder, {QUERY.replace("weight", "qzeros"): None})


def act_order_without_groups(folder):
    quantize_gptq(folder, group_size=32, act_order=True)
    change_config(folder, quantization_config=GPTQ | {"desc_act": True})
    change_tensors(folder, {QUERY.replace("weight", "g_idx"): None})


def gptq_of_unequal_groups(folder):
    quantize_gptq(folder, group_size=32)
    change_tensors(
        folder, {QUERY.replace("weight", "g_idx"): torch.tensor([1] + 31 * [0] + 32 * [1] + 32 * [2] + 32 * [3])}
    )


def gptq_of_other_shape(folder):
    quantize_gptq(folder, group_size=32)
    tensors = load_file(folder / "model.safetensors")
    stem, other = (f"model.layers.1.self_attn.{name}_proj." for name in "qk")
    change_tensors(folder, {stem + part: tensors[other + part] for part in ("qweight", "qzeros", "scales", "g_idx")})


def gptq_for_marlin(folder):
    quantize_gptq(folder, group_size=32)
    change_config(folder, quantization_config=GPTQ | {"checkpoint_format": "marlin"})


def nan_in_a_norm(folder):
    change_tensors(folder, {"model.norm.weight": torch.full((128,), torch.nan)})


def nan_in_a_matrix(folder):
    name = "model.layers.0.mlp.down_proj.weight"
    matrix = load_file(folder / "model.safetensors")[name]
    matrix[100, 3] = torch.nan
    change_tensors(folder, {name: matrix})


def infinity_in_the_embeddings(folder):
    matrix = load_file(folder / "model.safetensors")["model.embed_tokens.weight"].half()
    matrix[7, 7] = -torch.inf
    change_tensors(folder, {"model.embed_tokens.weight": matrix})


def infinite_scale(folder):
    quantize_gptq(folder, group_size=32)
    change_tensors(folder, {QUERY.replace("weight", "scales"): torch.full((4, 256), torch.inf)})


def nan_in_int8_scales(folder):
    quantize_int8(folder)
    change_tensors(folder, {QUERY + "_scale": torch.full((256,), torch.nan)})


def other_activation(folder):
    change_config(folder, hidden_act="gelu")


def biases(folder):
    change_config(folder, attention_bias=True)


def no_qk_norm(folder):
    change_config(folder, use_qk_norm=False)


def gptq_of_wrong_groups(folder):
    quantize_gptq(folder, group_size=32)
    change_tensors(folder, {QUERY.replace("weight", "g_idx"): torch.arange(128, dtype=torch.int32)})


def broken_index(folder):
    shard(folder)
    (folder / "model.safetensors.index.json").write_text("{")


def index_of_nothing(folder):
    shard(folder)
    write_json(folder / "model.safetensors.index.json", {})


def no_second_shard(folder):
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def half_a_shard(folder):
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"1234")


def index_before_its_tensors(folder):
    shard(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], "model-00001-of-00002.safetensors")
    write_json(folder / "model.safetensors.index.json", index)


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")


def broken_generation_config(folder):
    (folder / "generation_config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (no_folder, ModelNotFound, "no model folder .*/model'"),
        (no_config, ModelNotFound, "holds no config.json"),
        (broken_config, UnsupportedModel, "config.json' is not JSON"),
        (binary_config, UnsupportedModel, "config.json' is not JSON"),
        (list_for_config, UnsupportedModel, "config.json' is not a JSON object"),
        (other_architecture, UnsupportedModel, "LlamaForCausalLM.* runs HunYuanDenseV1ForCausalLM"),
        (no_architecture, UnsupportedModel, "runs HunYuanDenseV1ForCausalLM"),
        (no_size, UnsupportedModel, "does not say hidden_size"),
        (yarn, UnsupportedModel, "'yarn'"),
        (no_weights, ModelNotFound, "holds no model.safetensors"),
        (
            pickled_weights,
            UnsupportedModel,
            r"pickle files \(pytorch_model.bin\), which can run code .* safetensors only",
        ),
        (consolidated, UnsupportedModel, r"pickle files \(consolidated.00.pth\), which can run code"),
        (pickles_in_shards, UnsupportedModel, r"pickle files \(pytorch_model-00001-of-00007.bin, .* and 3 more\)"),
        (pickle_by_another_name, UnsupportedModel, "model.safetensors' is a pickle file, which can run code"),
        (other_header, UnsupportedModel, r"model.safetensors' cannot be read \(its header is not of safetensors\)"),
        (a_byte_too_few, UnsupportedModel, "model-00001-of-00002.safetensors' cannot be read .* bytes are there"),
        (a_byte_too_many, UnsupportedModel, "model.safetensors' cannot be read"),
        (index_of_the_folder_above, UnsupportedModel, "names ../model.safetensors; .* of the folder itself only"),
        (index_of_another_disk, UnsupportedModel, "names C:model.safetensors; .* of the folder itself only"),
        (index_of_a_pickle, UnsupportedModel, "names pytorch_model.bin; .* safetensors files"),
        (index_of_a_number, UnsupportedModel, "index.json' does not say which tensor is in which file"),
        (index_that_is_a_list, UnsupportedModel, "index.json' does not say which tensor is in which file"),
        (nan_in_a_shard, UnsupportedModel, "layers.0.mlp.down_proj.weight of .* holds NaN or infinity"),
        (no_shards, ModelNotFound, "model-00003-of-00007.safetensors, 3 of the 3 files that its index names"),
        (
            half_the_weights,
            UnsupportedModel,
            r"model.safetensors' cannot be read \([\d,]+ of its [\d,]+ bytes .*fetch it again",
        ),
        (empty_weights, UnsupportedModel, "model.safetensors' cannot be read .*fetch it again"),
        (pointer_for_weights, UnsupportedModel, "model.safetensors' is a pointer of Git LFS, .* git lfs pull"),
        (no_tensor, UnsupportedModel, "lacks the tensor model.layers.1.self_attn.q_proj"),
        (wrong_shape, UnsupportedModel, r"layers.1.self_attn.q_proj has shape \(256, 64\), not \(256, 128\)"),
        (too_few_rows, UnsupportedModel, r"layers.1.self_attn.q_proj has shape \(128, 128\), not \(256, 128\)"),
        (untied_without_a_head, UnsupportedModel, "lacks the tensor lm_head"),
        (unknown_quantisation, UnsupportedModel, "'awq' cannot be read; bf16, INT8 and GPTQ INT4 can"),
        (three_bits, UnsupportedModel, "3 bits cannot be read; 4 and 8 bits can"),
        (int8_without_scales, UnsupportedModel, "lacks the tensor .*k_proj.weight_scale"),
        (int8_of_wrong_shape, UnsupportedModel, r"embed_tokens has shape \(8, 128\)"),
        (gptq_without_zeros, UnsupportedModel, "lacks the tensor .*q_proj.qzeros"),
        (act_order_without_groups, UnsupportedModel, "q_proj was quantised with act-order, but .*g_idx is missing"),
        (gptq_of_unequal_groups, UnsupportedModel, "128 inputs of .*q_proj are in 4 groups of unequal sizes"),
        (gptq_of_other_shape, UnsupportedModel, r"layers.1.self_attn.q_proj has shape \(64, 128\), not \(256, 128\)"),
        (gptq_for_marlin, UnsupportedModel, "'marlin' cannot be read; 'gptq' and 'gptq_v2' can"),
        (nan_in_a_norm, UnsupportedModel, "model.norm.weight of .*/model' holds NaN or infinity; .*fetch it again"),
        (nan_in_a_matrix, UnsupportedModel, "layers.0.mlp.down_proj.weight of .* holds NaN or infinity"),
        (infinity_in_the_embeddings, UnsupportedModel, "embed_tokens.weight of .* holds NaN or infinity"),
        (infinite_scale, UnsupportedModel, "q_proj.scales of .* holds NaN or infinity"),
        (nan_in_int8_scales, UnsupportedModel, "q_proj.weight_scale of .* holds NaN or infinity"),
        (other_activation, UnsupportedModel, "says hidden_act 'gelu'; Yiwen runs 'silu' only"),
        (biases, UnsupportedModel, "says attention_bias True; Yiwen runs False only"),
        (no_qk_norm, UnsupportedModel, "says use_qk_norm False; Yiwen runs True only"),
        (gptq_of_wrong_groups, UnsupportedModel, "q_proj.*do not fit together"),
        (broken_index, UnsupportedModel, "index.json' is not JSON"),
        (index_of_nothing, UnsupportedModel, "lacks the tensor model.embed_tokens"),
        (no_second_shard, ModelNotFound, "holds no model-00002-of-00002.safetensors"),
        (half_a_shard, UnsupportedModel, "model-00002-of-00002.safetensors' cannot be read"),
        (index_before_its_tensors, UnsupportedModel, "model-00001-of-00002.safetensors' cannot be read"),
        (no_tokenizer, ModelNotFound, "holds no tokenizer.json"),
        (broken_tokenizer, UnsupportedModel, "tokenizer in .* cannot be read"),
        (broken_generation_config, UnsupportedModel, "generation_config.json' is not JSON"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_run_is_said_in_a_sentence(folder, spoil, error, words):
    spoil(folder)
    with pytest.raises(error, match=words) as failed:
        load(str(folder), "cpu", "fp32")
    assert str(failed.value).count("\n") == 0
    assert str(failed.value).endswith(".")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rope_theta": "x"}, "says rope_theta 'x'; it must be a number above 0"),
        ({"rms_norm_eps": True}, "says rms_norm_eps 'True'; it must be a number above 0"),
        ({"rope_scaling": [1]}, r"says rope_scaling '\[1\]'; it must be an object"),
        ({"rope_scaling": {"alpha": {}}}, r"says rope_scaling.alpha '\{\}'; it must be a number"),
        ({"quantization_config": "gptq"}, "says quantization_config 'gptq'; it must be an object"),
        ({"quantization_config": {"quant_method": []}}, "quantization_config.quant_method .* it must be a string"),
        ({"quantization_config": {"quant_method": "gptq", "bits": []}}, "quantization_config.bits .* a number above 0"),
        ({"yiwen": {"languages": 3}}, "says yiwen.languages '3'; it must be a list"),
        ({"yiwen": {"family": "hy-mt3"}}, "says yiwen.family 'hy-mt3'; it must be hy-mt1.5 or hy-mt2"),
    ],
    ids=str,
)
def test_a_value_of_another_kind_in_the_config_is_told_with_what_it_must_be(folder, settings, words):
    change_config(folder, **settings)
    with pytest.raises(UnsupportedModel, match=words):
        load(str(folder), "cpu", "fp32")


def test_a_null_in_the_config_is_as_if_it_were_not_there(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"quantization_config": None, "yiwen": None, "rope_theta": None})
    assert load(str(folder), "cpu", "fp32").info.family == "hy-mt1.5"
