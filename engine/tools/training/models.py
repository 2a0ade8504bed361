"""The model that a run trains: begun from a recipe's shape or from a checkpoint, and written. Knows no loop.

`asked`: the arguments of `engine.tools.train`.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from engine.errors import ConfigError
from engine.inference import checkpoint
from engine.inference.model import HunYuanDense, ModelConfig
from engine.tools import convert, int4
from engine.tools.training import lora, memory
from engine.tools.training.packing import Encoder
from engine.tools.training.precision import Precision
from engine.tools.training.recipe import Recipe, shape_of
from engine.tools.training.trainee import initialise
from engine.types import Family

Start = Mapping[str, Any] | None  # config.json of the checkpoint that a run goes on from


def begin(
    recipe: Recipe,
    asked: argparse.Namespace,
    start: Start,
    encode: Encoder,
    precision: Precision,
    device: torch.device,
) -> HunYuanDense:
    """On the device, with what is trained wanting gradients. Raises `ConfigError` where it will not fit."""
    config = _config(recipe, asked, start)
    _check_ids(config, encode, recipe["data"])
    in_int4 = bool(start and (start.get("quantization_config") or {}).get("bits") == 4)
    _check_memory(config, recipe, asked, precision, device, held_in_int4=bool(asked.lora) and (asked.qlora or in_int4))
    if start is None:
        model = HunYuanDense(config)
        initialise(model, asked.seed)
        model.to(device, precision.weights)
    else:
        dtype = precision.frozen if asked.lora else precision.weights
        # on the CPU widened, unless asked otherwise: there is memory, and to widen each time takes longer than the rest
        kept = lora.FrozenInt4 if asked.lora and in_int4 and (asked.qlora or device.type == "cuda") else None
        # what is to be rounded may be too large for the card as it is
        model = checkpoint.load_model(asked.start, start, dtype, "cpu" if asked.qlora else str(device), kept)
    for layer in model.layers:
        layer.dropout = recipe["model"].get("dropout", 0.0)
    if asked.lora:
        if asked.qlora:
            lora.hold_in_int4(model, device)
            model.to(device)
        lora.add(model, asked.lora, *_alpha_and_dropout(recipe, asked), precision.weights, asked.seed)
    else:
        model.requires_grad_(True)
        if asked.int4:
            int4.round_in_training(model, asked.int4)
    model.reset_rotation()
    return model.to(device).train()


def teacher(
    recipe: Recipe,
    asked: argparse.Namespace,
    start: Start,
    encode: Encoder,
    precision: Precision,
    device: torch.device,
) -> HunYuanDense | None:
    """The model to learn from, on the device; its tokens must be the same. Raises `ConfigError`."""
    if asked.teacher is None:
        return None
    described = checkpoint.read_config(asked.teacher)
    sizes = checkpoint.model_config(described).vocab_size, _config(recipe, asked, start).vocab_size
    tokens = Encoder(asked.teacher).tokenizer, encode.tokenizer
    if sizes[0] != sizes[1] or len({each.to_str() for each in tokens}) > 1:
        raise ConfigError(
            f"The teacher {str(asked.teacher)!r} has other tokens than the model in training; give one with the same "
            "tokenizer.json."
        )
    return checkpoint.load_model(asked.teacher, described, precision.frozen, str(device)).requires_grad_(False)


def write(
    model: HunYuanDense, recipe: Recipe, asked: argparse.Namespace, start: Start, encode: Encoder, family: Family
) -> None:
    """As it is, into `asked.out`: an adapter, or a checkpoint with tokenizer and what the engine reads beside."""
    if asked.lora:
        lora.save(model, asked.out, str(asked.start), *_alpha_and_dropout(recipe, asked))
        return
    card = recipe.get("card", {})
    ids = {"bos_token_id": encode.begin, "eos_token_id": encode.end, "pad_token_id": encode.pad}
    if start:
        ours = checkpoint.transformers_config(model.config).keys() | convert.FORM
        extra = {name: value for name, value in start.items() if name not in ours}
        extra["yiwen"] = {"family": family, **extra.get("yiwen", {}), **card}
    else:
        languages = ["en", *recipe["data"]["langs"]]
        extra = ids | {"yiwen": {"family": family, "languages": languages, "hub": "en", **card}}
    shard_bytes = int(asked.shard_mb * 1e6)
    if asked.int4:
        int4.save_model(model, asked.out, asked.int4, extra, shard_bytes)
    else:
        checkpoint.save_model(model, asked.out, torch.bfloat16, extra, shard_bytes)
    convert.copy_companions(asked.start or asked.tokenizer, asked.out)
    if asked.tokenizer != asked.start:
        convert.copy_companions(asked.tokenizer, asked.out)
    if not start:
        generation = ids | {"do_sample": False, "max_new_tokens": 512}
        (asked.out / "generation_config.json").write_text(json.dumps(generation, indent=1), encoding="utf-8")


def _config(recipe: Recipe, asked: argparse.Namespace, start: Start) -> ModelConfig:
    shape = shape_of(recipe)
    if start is None:
        if not shape:
            raise ConfigError("The recipe says nothing of a model's shape; name a checkpoint to begin with, --start.")
        return ModelConfig(**shape, tied_head=True)
    config = checkpoint.model_config(start)
    if shape:
        _check_shape(asked.start, config, shape)
    return config


def _check_shape(start: Path, found: ModelConfig, wanted: Mapping[str, Any]) -> None:
    differing = [
        f"{name} {has}, not {wanted[name]}" for name, has in asdict(found).items() if wanted.get(name, has) != has
    ]
    if differing:
        raise ConfigError(
            f"{str(start)!r} is not of the recipe's shape ({'; '.join(differing)}); give the recipe of that model."
        )


def _check_ids(config: ModelConfig, encode: Encoder, data: Mapping[str, Any]) -> None:
    """Before a card is asked for rows of the embedding, or for positions, that the model has not."""
    largest = max(encode.tokenizer.get_vocab(with_added_tokens=True).values())
    if largest >= config.vocab_size:
        raise ConfigError(
            f"The tokenizer's ids go up to {largest:,}, and the model has {config.vocab_size:,} of them; give the "
            "tokenizer the model was made with, or a recipe with as large a vocab_size."
        )
    longest = min(data["longest_example"], data["row_tokens"])
    if longest > config.max_positions:
        raise ConfigError(
            f"Examples may have {longest:,} tokens, and the model has {config.max_positions:,} positions; give fewer "
            "--row-tokens, or a recipe with a smaller longest_example."
        )


def _check_memory(
    config: ModelConfig,
    recipe: Recipe,
    asked: argparse.Namespace,
    precision: Precision,
    device: torch.device,
    held_in_int4: bool,
) -> None:
    if device.type != "cuda":
        return
    free_bytes, _ = torch.cuda.mem_get_info(device)
    kind, data = recipe["optimizer"]["kind"], recipe["data"]
    batch = (data["rows"], data["row_tokens"], data["label_share"])
    anew = asked.gradient_checkpointing
    memory.check(memory.Asked(config, precision, asked.lora, held_in_int4, anew, kind, *batch), free_bytes)


def _alpha_and_dropout(recipe: Recipe, asked: argparse.Namespace) -> tuple[float, float]:
    settings = recipe["optimizer"]
    return float(settings.get("lora_alpha", 2.0)) * asked.lora, float(settings.get("lora_dropout", 0.0))
