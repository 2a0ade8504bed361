"""A recipe: what is trained on what and how fast, in TOML. Knows which names there are, not what is good.

Sections: `card` (goes into config.json), `model` (its shape, from scratch; `dropout`), `data` (rows and lengths),
`mix` (kinds of examples, `corpus.Mix`), `optimizer` (kind, learning rates, schedule).
"""

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.inference.model import ModelConfig
from engine.tools.corpus import Mix

Recipe = dict[str, dict[str, Any]]

_SHAPE = {field.name for field in fields(ModelConfig)} - {"tied_head"}
_MUON = {"muon_lr", "muon_weight_decay"}
_NEEDED = {
    "data": {"rows", "row_tokens", "longest_example", "label_share"},
    "mix": set[str](),
    "optimizer": {
        *("kind", "adam_lr", "adam_betas", "clip_norm", "label_smoothing", "warmup_steps", "schedule"),
    },
}
_MAY = {
    "model": {*_SHAPE, "dropout"},
    "data": {"langs"},
    "mix": {field.name for field in fields(Mix)},
    "optimizer": {*_MUON, "weight_decay", "decay_from", "lora_alpha", "lora_dropout"},
}


def read_recipe(path: Path) -> Recipe:
    """Where it names a `base`, the recipe of that name beside it, with only what differs in its place.
    Raises `FileNotFoundError`, and `ConfigError` for what is no recipe."""
    recipe = _joined(path)
    known = {"card", *_MAY}
    if unknown := recipe.keys() - known:
        raise ConfigError(f"{str(path)!r} has a section {min(unknown)!r}; a recipe has {', '.join(sorted(known))}.")
    for section, may in _MAY.items():
        values = recipe.setdefault(section, {})
        needed = _NEEDED.get(section, set())
        if unknown := values.keys() - may - needed:
            raise ConfigError(f"{str(path)!r} says {min(unknown)!r} in [{section}], which means nothing there.")
        if missing := needed - values.keys():
            raise ConfigError(f"{str(path)!r} does not say {', '.join(sorted(missing))} in [{section}].")
    optimizer = recipe["optimizer"]
    if optimizer["kind"] == "muon" and (missing := _MUON - optimizer.keys()):
        raise ConfigError(f"{str(path)!r} does not say {', '.join(sorted(missing))} in [optimizer], for Muon.")
    if optimizer["schedule"] == "wsd" and "decay_from" not in optimizer:
        raise ConfigError(f"{str(path)!r} does not say decay_from in [optimizer], for the schedule wsd.")
    return recipe


def shape_of(recipe: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What it says of the model's shape; nothing where it is for any checkpoint. Raises `ConfigError` for a part."""
    shape = {name: value for name, value in recipe["model"].items() if name in _SHAPE}
    if shape and (missing := _SHAPE - shape.keys()):
        raise ConfigError(f"The recipe's [model] does not say {', '.join(sorted(missing))}.")
    return shape


def _joined(path: Path) -> Recipe:
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} is not TOML ({error}).") from error
    if "base" not in recipe:
        return recipe
    base = _joined(path.parent / recipe.pop("base"))
    return base | {section: base.get(section, {}) | values for section, values in recipe.items()}
