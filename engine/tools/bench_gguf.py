"""A checkpoint as a GGUF for llama.cpp: matrices in Q4_0, the embedding in Q8_0, norms in fp32.

It has no tokenizer, since whoever times an engine hands it ids.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.inference import checkpoint
from engine.inference.model import HunYuanDense, ModelConfig

_NAMES = {  # what stands in a layer of our model → llama.cpp's names of its parts
    "input_norm": ("attn_norm",),
    "qkv": ("attn_q", "attn_k", "attn_v"),
    "query_norm": ("attn_q_norm",),
    "key_norm": ("attn_k_norm",),
    "output": ("attn_output",),
    "mlp_norm": ("ffn_norm",),
    "gate_up": ("ffn_gate", "ffn_up"),
    "down": ("ffn_down",),
}


def write_gguf(folder: Path, target: Path) -> None:
    """`folder` holds a checkpoint in bf16, fp16 or fp32. A whole model is in memory in fp32 meanwhile."""
    import gguf  # a peer's package: whoever does not compare needs none

    model = checkpoint.load_model(folder, checkpoint.read_config(folder), torch.float32, "cpu")
    writer = begun(model.config, target)
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    for name, tensor in tensors(model):
        form = gguf.GGMLQuantizationType.Q4_0
        if tensor.ndim == 1:
            form = gguf.GGMLQuantizationType.F32
        elif name in ("token_embd.weight", "output.weight"):
            form = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(tensor.numpy(), form), raw_dtype=form)
    finish(writer)


def begun(config: ModelConfig, target: Path) -> Any:
    """A `gguf.GGUFWriter` that has the model's sizes; tokenizer and tensors are still to come, and `finish`."""
    import gguf

    writer = gguf.GGUFWriter(target, "hunyuan-dense")
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    return writer


def finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(model: HunYuanDense) -> Iterator[tuple[str, Tensor]]:
    config = model.config
    heads = [config.heads * config.head_dim] + 2 * [config.kv_heads * config.head_dim]
    weights = {name.removesuffix(".weight"): tensor for name, tensor in model.state_dict().items()}
    for place, weight in weights.items():
        if place in (names := {"embedding": "token_embd", "norm": "output_norm", "head": "output"}):
            yield f"{names[place]}.weight", weight
            continue
        _, layer, name = place.split(".")
        parts = _NAMES[name]
        rows = heads if len(parts) == 3 else len(parts) * [len(weight) // len(parts)]
        for part, tensor in zip(parts, weight.split(rows), strict=True):
            yield f"blk.{layer}.{part}.weight", tensor.contiguous()
