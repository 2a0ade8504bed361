"""LoRA adapters merged into a checkpoint: as PEFT merges them, or refused in a sentence."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import HunYuanDenseV1ForCausalLM

from engine.errors import ModelNotFound, UnsupportedModel
from engine.tools.convert import convert
from tests.checkpoints import quantize_gptq, write_checkpoint, write_json

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QUERY = "base_model.model.model.layers.1.self_attn.q_proj"


def adapted(checkpoint, folder, **options):
    """Writes a random adapter; returns the weights as PEFT merges them."""
    torch.manual_seed(3)
    model = HunYuanDenseV1ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    settings = {"r": 4, "lora_alpha": 24, "target_modules": TARGETS, "init_lora_weights": False} | options
    trained = get_peft_model(model, LoraConfig(**settings))
    trained.save_pretrained(folder)
    return trained.merge_and_unload().state_dict()


@pytest.fixture(scope="module")
def saved(tiny_checkpoint, tmp_path_factory):
    """An adapter, and one for a model whose matrices are as wide but for one, with a layer less."""
    folder = tmp_path_factory.mktemp("adapters")
    adapted(tiny_checkpoint, folder / "adapter")
    other = write_checkpoint(folder / "wider", intermediate_size=320)
    adapted(other, folder / "of a wider model")
    adapted(write_checkpoint(folder / "lower", num_hidden_layers=2), folder / "of a lower model")
    adapted(write_checkpoint(folder / "higher", num_hidden_layers=4), folder / "of a higher model")
    return folder


@pytest.fixture
def adapter(saved, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(saved / "adapter", tmp_path / "adapter")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "init_lora_weights": "orthogonal"},
        {"rank_pattern": {"q_proj": 2, r".*1\.mlp\.up_proj": 8}, "alpha_pattern": {"layers.2.mlp.down_proj": 3}},
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0, 2]},
        {"target_modules": r".*\.1\.mlp\.(gate|up)_proj"},
    ],
    ids=lambda options: ", ".join(options) or "plain",
)
def test_an_adapter_is_merged_as_peft_merges_it(tiny_checkpoint, tmp_path, options):
    merged = adapted(tiny_checkpoint, tmp_path / "adapter", **options)
    result = convert(tiny_checkpoint, tmp_path / "out", "fp32", 200_000, tmp_path / "adapter")
    files = [load_file(path) for path in (tmp_path / "out").glob("*.safetensors")]
    tensors = {name: tensor for file in files for name, tensor in file.items()}
    start = load_file(tiny_checkpoint / "model.safetensors")
    changed = [name for name in start if not torch.equal(tensors[name], start[name])]
    assert result["merged"] == {"adapter": str(tmp_path / "adapter"), "matrices": len(changed)}
    assert len(changed) >= 2
    for name, tensor in tensors.items():
        assert torch.allclose(tensor, merged[name], rtol=1e-6, atol=1e-6), name


def test_an_adapter_of_int4_weights_is_added_to_what_they_stand_for(adapter, tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "int4")
    quantize_gptq(folder, group_size=32)
    for source in (folder, folder / "widened"):
        convert(source, tmp_path / f"from {source.name}", "bf16", lora=adapter)
    one, other = (load_file(tmp_path / f"from {name}" / "model.safetensors") for name in ("int4", "widened"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_fan_in_fan_out_means_nothing_to_linear_layers(adapter, tiny_checkpoint, tmp_path):
    convert(tiny_checkpoint, tmp_path / "before", "fp32", lora=adapter)
    change(adapter, fan_in_fan_out=True)  # PEFT warns and leaves it aside
    convert(tiny_checkpoint, tmp_path / "after", "fp32", lora=adapter)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("before", "after"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def change(folder, **settings):
    config = json.loads((folder / "adapter_config.json").read_text()) | settings
    write_json(folder / "adapter_config.json", config)


def change_weights(folder, **tensors):
    path = folder / "adapter_model.safetensors"
    changed = load_file(path) | {name.replace("/", "."): tensor for name, tensor in tensors.items()}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, path)


def no_folder(folder):
    shutil.rmtree(folder)


def no_config(folder):
    (folder / "adapter_config.json").unlink()


def broken_config(folder):
    (folder / "adapter_config.json").write_text("{")


def pickled(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def no_weights(folder):
    (folder / "adapter_model.safetensors").unlink()


def cut_short(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def nothing_in_it(folder):
    save_file({}, folder / "adapter_model.safetensors")


def nan(folder):
    change_weights(folder, **{f"{QUERY}.lora_A.weight": torch.full((4, 128), torch.nan)})


def of_another_kind(folder):
    change(folder, peft_type="LOHA")


def dora(folder):
    change(folder, use_dora=True)


def biases(folder):
    change(folder, bias="all", lora_bias=True)


def saved_modules(folder):
    change(folder, modules_to_save=["lm_head"])


def pissa(folder):
    change(folder, init_lora_weights="pissa_niter_4")


def dora_in_the_file(folder):
    change_weights(folder, **{f"{QUERY}.lora_magnitude_vector": torch.ones(256)})


def of_the_embedding(folder):
    change_weights(folder, **{"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 512)})


def of_the_head(folder):
    change_weights(folder, **{"base_model.model.lm_head.lora_A.weight": torch.ones(4, 128)})


def half_of_one(folder):
    change_weights(folder, **{f"{QUERY}.lora_B.weight": None})


def other_rank(folder):
    change_weights(folder, **{f"{QUERY}.lora_B.weight": torch.ones(256, 3)})


def rank_not_said(folder):
    change(folder, r=16)


def alpha_in_words(folder):
    change(folder, lora_alpha="much")


def patterns_that_are_none(folder):
    change(folder, rank_pattern={"(": 4})


def list_of_patterns(folder):
    change(folder, alpha_pattern=["q_proj"])


def no_matrix(folder):
    change_weights(folder, **{f"{QUERY}.lora_A.weight": torch.ones(4)})


def of_another_model(name):
    def replaced(folder):
        shutil.copytree(folder.parent / "saved" / name, folder, dirs_exist_ok=True)

    replaced.__name__ = name.replace(" ", "_")
    return replaced


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (no_folder, ModelNotFound, "no adapter folder"),
        (no_config, ModelNotFound, "holds no adapter_config.json, so it is no adapter"),
        (broken_config, UnsupportedModel, "adapter_config.json' is not JSON"),
        (pickled, UnsupportedModel, r"pickle files \(adapter_model.bin\), which can run code"),
        (no_weights, ModelNotFound, "holds no adapter_model.safetensors"),
        (cut_short, UnsupportedModel, "adapter_model.safetensors' cannot be read"),
        (nothing_in_it, UnsupportedModel, "holds no weights"),
        (nan, UnsupportedModel, r"1.self_attn.q_proj.lora_A.weight of .*/adapter' holds NaN"),
        (of_another_kind, UnsupportedModel, "of type LOHA; LORA can be merged"),
        (dora, UnsupportedModel, r"has use_dora True; only plain LoRA .* PEFT \(merge_and_unload\)"),
        (biases, UnsupportedModel, "has bias 'all' and lora_bias True; only plain LoRA"),
        (saved_modules, UnsupportedModel, r"has modules_to_save \['lm_head'\]; only plain LoRA"),
        (pissa, UnsupportedModel, "began with init_lora_weights 'pissa_niter_4', which is more than a sum"),
        (dora_in_the_file, UnsupportedModel, "has .*q_proj.lora_magnitude_vector; only lora_A and lora_B of"),
        (of_the_embedding, UnsupportedModel, "has .*embed_tokens.lora_embedding_A; only lora_A and lora_B of"),
        (of_the_head, UnsupportedModel, "has .*lm_head.lora_A.weight; only lora_A and lora_B of"),
        (half_of_one, UnsupportedModel, "lora_A and lora_B of .*1.self_attn.q_proj do not fit together"),
        (other_rank, UnsupportedModel, "lora_A and lora_B of .*1.self_attn.q_proj do not fit together"),
        (no_matrix, UnsupportedModel, "lora_A and lora_B of .*1.self_attn.q_proj do not fit together"),
        (rank_not_said, UnsupportedModel, "says rank 16 and alpha 24 for .*, whose lora_A has 4 rows"),
        (patterns_that_are_none, UnsupportedModel, "alpha_pattern of .* cannot be read .*unterminated subpattern"),
        (list_of_patterns, UnsupportedModel, "alpha_pattern of .* cannot be read .*list"),
        (alpha_in_words, UnsupportedModel, "says rank 4 and alpha 'much'"),
        (
            of_another_model("of a wider model"),
            UnsupportedModel,
            r"down_proj as \(128, 320\), which has \(128, 256\) here",
        ),
        (of_another_model("of a lower model"), UnsupportedModel, "it has 2 layers and this one 3"),
        (of_another_model("of a higher model"), UnsupportedModel, "this one has no model.layers.3.mlp"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_merged_is_said_in_a_sentence(adapter, saved, tiny_checkpoint, tmp_path, spoil, error, words):
    (tmp_path / "saved").symlink_to(saved)
    spoil(adapter)
    with pytest.raises(error, match=words) as failed:
        convert(tiny_checkpoint, tmp_path / "out", "bf16", lora=adapter)
    assert str(failed.value).count("\n") == 0
    assert str(failed.value).endswith(".")
    assert not (tmp_path / "out").exists()
