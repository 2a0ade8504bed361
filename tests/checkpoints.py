"""Small HY-MT checkpoints, written as the real ones are: transformers' layout by hand, with nothing of our own writer.

Norms are random, since norms of one hide a wrong order of RoPE and QK-norm. All matrices are random too: what such a
model says means nothing, but it says it the same way in every correct engine.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from engine.inference.model import HunYuanDense
from engine.tools.tokenizer import CHAT_TEMPLATE, MARKS, PATTERN

torch.set_num_threads(1)  # for matrices this small threads only wait for each other, for seconds on a busy machine

SENTENCES = (
    "The committee has not decided yet, and nobody knows why.",
    "Translate the following segment into French, without additional explanation.",
    "将以下文本翻译为英语，注意只需要输出翻译后的结果，不要额外解释：",
    "我昨天去了图书馆。彼は東京へ行った。그는 어제 서울에 갔다.",
    "Je n’ai pas mangé : c’était fermé ! El niño comió pan. Комитет ещё не решил.",
)
TEXT_TOKENS = 480  # the last of them, before special tokens and marks
CONTEXT_TOKENS = 1_024


@dataclass(frozen=True)
class Layout:
    """Special tokens of one of HY-MT's sizes by their real ids, its chat template and its further settings."""

    specials: Mapping[str, int]
    bos: str
    eos: str
    pad: str
    template: str
    unspecial: tuple[str, ...]  # added tokens that are not special
    nfc: bool
    cleans_up: bool  # `clean_up_tokenization_spaces`, as the folder has it


SEVEN_B = Layout(
    specials={
        "<|endoftext|>": 127957,
        "<|startoftext|>": 127958,
        "<|eos|>": 127960,
        "<|pad|>": 127961,
        "<|extra_0|>": 127962,
        "<|extra_4|>": 127966,
        "<|extra_5|>": 127967,
    },
    bos="<|startoftext|>",
    eos="<|eos|>",
    pad="<|pad|>",
    template=CHAT_TEMPLATE,
    unspecial=MARKS,
    nfc=True,
    cleans_up=False,
)
SMALL = Layout(  # HY-MT1.5-1.8B and Hy-MT2-1.8B
    specials={
        "<｜hy_begin▁of▁sentence｜>": 120000,
        "<｜hy_▁pad▁｜>": 120002,
        "<｜hy_User｜>": 120006,
        "<｜hy_Assistant｜>": 120007,
        "<｜hy_place▁holder▁no▁2｜>": 120020,
        "<｜hy_place▁holder▁no▁3｜>": 120021,
    },
    bos="<｜hy_begin▁of▁sentence｜>",
    eos="<｜hy_place▁holder▁no▁2｜>",
    pad="<｜hy_▁pad▁｜>",
    # not the published one, which we have not seen: it renders what is documented
    template="{{ '<｜hy_begin▁of▁sentence｜>' }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '<｜hy_place▁holder▁no▁3｜>' }}"
    "{% elif message['role'] == 'user' %}{{ '<｜hy_User｜>' + message['content'] }}"
    "{% else %}{{ '<｜hy_Assistant｜>' + message['content'] + '<｜hy_place▁holder▁no▁2｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜hy_Assistant｜>' }}{% endif %}",
    unspecial=("<think>", "</think>", "/think", "/no_think"),
    nfc=False,
    cleans_up=True,
)
SEVEN_B_CONFIG = {  # Hy-MT2-7B's config.json
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128167,
    "max_position_embeddings": 262144,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def write_tokenizer(folder: Path, layout: Layout, *, real_ids: bool = True) -> int:
    """tokenizer.json and tokenizer_config.json; `real_ids` False packs the special tokens close, for a small model.
    Returns the size of the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    if layout.nfc:
        tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_TOKENS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 2, trainer)
    written = json.loads(tokenizer.to_str())
    first = 0 if real_ids else min(layout.specials.values()) - TEXT_TOKENS
    written["model"]["vocab"] |= {name: number - first for name, number in layout.specials.items()}
    tokenizer = Tokenizer.from_str(json.dumps(written))
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in layout.specials])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in layout.unspecial])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": layout.bos,
        "eos_token": layout.eos,
        "pad_token": layout.pad,
        "clean_up_tokenization_spaces": layout.cleans_up,
        "chat_template": layout.template,
    }
    write_json(folder / "tokenizer_config.json", config)
    return max(tokenizer.get_vocab().values()) + 1


def write_checkpoint(
    folder: Path,
    *,
    layout: Layout = SEVEN_B,
    tied: bool = True,
    alpha: float = 1000.0,
    dtype: torch.dtype = torch.float32,
    seed: int = 1,
    yiwen: Mapping[str, Any] | None = None,
    **shape: int,
) -> Path:
    """A whole checkpoint, with the config as HY-MT's own folders have it. `shape` takes the place of the small one."""
    vocabulary = write_tokenizer(folder, layout, real_ids=False)
    vocabulary += -vocabulary % 32
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    config = {
        "architectures": ["HunYuanDenseV1ForCausalLM"],
        "model_type": "hunyuan_v1_dense",
        "vocab_size": vocabulary,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 32,  # not hidden_size / heads
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT_TOKENS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "dynamic", "alpha": alpha, "factor": 1.0, "beta_fast": 32, "beta_slow": 1},
        "tie_word_embeddings": tied,
        "use_qk_norm": True,
        "use_cla": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokens[layout.bos],
        "eos_token_id": tokens[layout.eos],
        "pad_token_id": tokens[layout.pad],
        "dtype": str(dtype).removeprefix("torch."),
    }
    config |= shape
    if yiwen is not None:
        config["yiwen"] = dict(yiwen)
    write_json(folder / "config.json", config)
    generation = {"do_sample": True, "temperature": 0.7, "top_p": 0.6, "top_k": 20, "repetition_penalty": 1.05}
    write_json(folder / "generation_config.json", generation | {"eos_token_id": tokens[layout.eos]})
    tensors = {name: tensor.to(dtype) for name, tensor in _weights(config, seed).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@torch.inference_mode()
def scores_of(model: HunYuanDense, ids: Sequence[int], positions: Sequence[int] | None = None) -> Tensor:
    """Scores after each of the ids, with no cache: [tokens, vocab_size]."""
    device = model.cos.device
    at = torch.tensor([positions or range(len(ids))], device=device)
    return model.logits(model(torch.tensor([ids], device=device), at, attend_before))[0]


def attend_before(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every token sees itself and those before it."""
    heads = (part.transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True).transpose(1, 2)


def error(scores: Tensor, true: Tensor) -> float:
    """Relative to the whole of `true`."""
    return float((scores.double() - true.double()).norm() / true.double().norm())


def shard(folder: Path) -> None:
    """Splits `model.safetensors` in two files with an index, one layer torn between them."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = {name: f"model-{1 + 2 * place // len(names):05}-of-00002.safetensors" for place, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": files})
    (folder / "model.safetensors").unlink()


def quantize_int8(folder: Path) -> None:
    """Every matrix in INT8 with a scale a row, in Yiwen's own layout."""
    tensors = load_file(folder / "model.safetensors")
    written = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            scale = tensor.abs().amax(1) / 127
            written[name] = torch.round(tensor / scale[:, None]).to(torch.int8)
            written[name + "_scale"] = scale
        else:
            written[name] = tensor
    save_file(written, folder / "model.safetensors")
    change_config(folder, quantization_config={"quant_method": "int8-rows", "bits": 8})


def quantize_gptq(
    folder: Path,
    *,
    group_size: int,
    act_order: bool = False,
    shared_order: bool = False,
    sym: bool = True,
    v2: bool = False,
    bits: int = 4,
) -> None:
    """Every matrix of the layers in GPTQ; beside it, in `widened`, the same weights widened by hand, in fp32.
    With act-order every matrix has its own random groups, or those of equal width the same (`shared_order`)."""
    dice = torch.Generator().manual_seed(5)
    middle = 2 ** (bits - 1)
    tensors = load_file(folder / "model.safetensors")
    widened, packed = dict(tensors), {}
    for name, weight in tensors.items():
        if weight.ndim == 1 or "layers" not in name:
            packed[name] = weight
            continue
        columns = weight.shape[1]
        size = columns if group_size == -1 else group_size
        group = torch.arange(columns) // size
        if act_order:
            shuffle = torch.Generator().manual_seed(columns) if shared_order else dice
            group = group[torch.randperm(columns, generator=shuffle)]
        groups, rows = columns // size, weight.shape[0]
        scales = torch.stack([weight[:, group == each].abs().amax(1) / (middle - 1) for each in range(groups)]).half()
        zeros = torch.full((groups, rows), middle) if sym else torch.randint(5, 11, (groups, rows), generator=dice)
        whole = (weight.T / scales.float()[group] + zeros[group]).round().clamp(0, 2 * middle - 1).int()
        widened[name] = ((whole - zeros[group]) * scales.float()[group]).T.contiguous()
        stem = name.removesuffix("weight")
        packed[stem + "qweight"] = _pack(whole.T, bits).T.contiguous()
        packed[stem + "qzeros"] = _pack(zeros if v2 else zeros - 1, bits)
        packed[stem + "scales"], packed[stem + "g_idx"] = scales, group.int()
    (folder / "widened").mkdir()
    save_file(widened, folder / "widened" / "model.safetensors")
    (folder / "widened" / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(packed, folder / "model.safetensors")
    quantization = {
        "bits": bits,
        "group_size": group_size,
        "desc_act": act_order,
        "static_groups": act_order,
        "sym": sym,
        "true_sequential": True,
        "lm_head": False,
        "quant_method": "gptq",
        "checkpoint_format": "gptq_v2" if v2 else "gptq",
    }
    change_config(folder, quantization_config=quantization)


def change_config(folder: Path, **changes: object) -> None:
    """A value of None takes the key away."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | changes
    write_json(folder / "config.json", {key: value for key, value in config.items() if value is not None})


def change_tensors(folder: Path, changes: Mapping[str, Tensor | None]) -> None:
    """A value of None takes the tensor away."""
    tensors: dict[str, Tensor | None] = {**load_file(folder / "model.safetensors"), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _weights(config: Mapping[str, Any], seed: int) -> dict[str, Tensor]:
    dice = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=dice) * columns**-0.5

    def norm(size: int) -> Tensor:
        return 0.5 + torch.rand(size, generator=dice)

    hidden, inner, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    wide, narrow = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    tensors = {"model.embed_tokens.weight": matrix(config["vocab_size"], hidden), "model.norm.weight": norm(hidden)}
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = matrix(config["vocab_size"], hidden)
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    head[TEXT_TOKENS:] *= 0.01  # it never says a special token, so that its answers end where a test says
    for index in range(config["num_hidden_layers"]):
        layer = {
            "input_layernorm": norm(hidden),
            "post_attention_layernorm": norm(hidden),
            "self_attn.q_proj": matrix(wide, hidden),
            "self_attn.k_proj": matrix(narrow, hidden),
            "self_attn.v_proj": matrix(narrow, hidden),
            "self_attn.o_proj": matrix(hidden, wide),
            "self_attn.query_layernorm": norm(head_dim),
            "self_attn.key_layernorm": norm(head_dim),
            "mlp.gate_proj": matrix(inner, hidden),
            "mlp.up_proj": matrix(inner, hidden),
            "mlp.down_proj": matrix(hidden, inner),
        }
        tensors |= {f"model.layers.{index}.{name}.weight": tensor for name, tensor in layer.items()}
    return tensors


def _pack(values: Tensor, bits: int) -> Tensor:
    """Eight whole numbers of 4 bits, or four of 8, along the last dimension → one int32, lowest first."""
    several = values.reshape(values.shape[0], -1, 32 // bits).long()
    joined = sum(several[..., place] << (bits * place) for place in range(32 // bits))
    return (joined - ((joined >> 31) << 32)).to(torch.int32)  # type: ignore[union-attr, operator, no-any-return]
