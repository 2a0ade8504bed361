"""A recipe: what is trained on what and how fast, in TOML. Knows which names there are and what may stand there, not
what is good.

Sections: `card` (goes into config.json), `model` (its shape, from scratch; `dropout`), `data` (rows and lengths),
`mix` (kinds of examples, `corpus.Mix`), `optimizer` (kind, learning rates, schedule).
"""

import math
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.files import why
from engine.tools.training.optimizers import KINDS, SCHEDULES

Recipe = dict[str, dict[str, Any]]
_Value = tuple[str, Callable[[Any], bool]]  # in words, and whether it is one


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _one_of(names: tuple[str, ...]) -> _Value:
    return " or ".join(map(repr, names)), lambda value: value in names


_COUNT: _Value = ("a whole number from 1 on", lambda value: type(value) is int and value >= 1)
_WHOLE: _Value = ("a whole number from 0 on", lambda value: type(value) is int and value >= 0)
_ABOVE: _Value = ("a number above 0", lambda value: _number(value) and value > 0)
_AMOUNT: _Value = ("a number from 0 on", lambda value: _number(value) and value >= 0)
_SHARE: _Value = ("a number from 0 to below 1", lambda value: _number(value) and 0 <= value < 1)
_PART: _Value = ("a number above 0, 1 at most", lambda value: _number(value) and 0 < value <= 1)
_BETAS: _Value = (
    "two numbers from 0 to below 1",
    lambda value: isinstance(value, list) and len(value) == 2 and all(map(_SHARE[1], value)),
)
_TEXTS: _Value = ("a list of texts", lambda value: isinstance(value, list) and all(type(each) is str for each in value))
_TIMES: _Value = ("numbers by name", lambda value: isinstance(value, dict) and all(map(_AMOUNT[1], value.values())))

_SHAPE: dict[str, _Value] = {  # `ModelConfig`'s; what is trained from scratch has a tied head
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "layers", "heads", "kv_heads"), _COUNT),
    **{"head_dim": _COUNT, "max_positions": _COUNT, "rope_base": _ABOVE, "rms_norm_eps": _ABOVE},
}
_NEEDED: dict[str, dict[str, _Value]] = {
    "data": {"rows": _COUNT, "row_tokens": _COUNT, "longest_example": _COUNT, "label_share": _PART},
    "optimizer": {
        "kind": _one_of(KINDS),
        "adam_lr": _ABOVE,
        "adam_betas": _BETAS,
        "clip_norm": _ABOVE,
        "label_smoothing": _SHARE,
        "warmup_steps": _WHOLE,
        "schedule": _one_of(SCHEDULES),
    },
}
_MUON: dict[str, _Value] = {"muon_lr": _ABOVE, "muon_weight_decay": _AMOUNT}
_MAY: dict[str, dict[str, _Value]] = {
    "model": _SHAPE | {"dropout": _SHARE},
    "data": {"langs": _TEXTS},
    "mix": dict.fromkeys(("marks", "terms", "context", "join"), _SHARE) | {"langs": _TIMES, "origins": _TIMES},
    "optimizer": _MUON | {"weight_decay": _AMOUNT, "decay_from": _SHARE, "lora_alpha": _ABOVE, "lora_dropout": _SHARE},
}


def read_recipe(path: Path) -> Recipe:
    """Where it names a `base`, the recipe of that name beside it, with only what differs in its place.
    Raises `ConfigError` for what is no recipe."""
    recipe = _joined(path, ())
    known = {"card", *_MAY}
    if unknown := recipe.keys() - known:
        raise ConfigError(f"{str(path)!r} has a section {min(unknown)!r}; a recipe has {', '.join(sorted(known))}.")
    for section, may in _MAY.items():
        values, needed = recipe.setdefault(section, {}), _NEEDED.get(section, {})
        if unknown := values.keys() - may.keys() - needed.keys():
            raise ConfigError(f"{str(path)!r} says {min(unknown)!r} in [{section}], which means nothing there.")
        if missing := needed.keys() - values.keys():
            raise ConfigError(f"{str(path)!r} does not say {', '.join(sorted(missing))} in [{section}].")
        for name, value in values.items():
            words, allowed = (may | needed)[name]
            if not allowed(value):
                raise ConfigError(f"{str(path)!r} says {name} = {value!r} in [{section}]; it must be {words}.")
    optimizer = recipe["optimizer"]
    if optimizer["kind"] == "muon" and (missing := _MUON.keys() - optimizer.keys()):
        raise ConfigError(f"{str(path)!r} does not say {', '.join(sorted(missing))} in [optimizer], for Muon.")
    if optimizer["schedule"] == "wsd" and "decay_from" not in optimizer:
        raise ConfigError(f"{str(path)!r} does not say decay_from in [optimizer], for the schedule wsd.")
    return recipe


def shape_of(recipe: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What it says of the model's shape; nothing where it is for any checkpoint. Raises `ConfigError` for a part."""
    shape = {name: value for name, value in recipe["model"].items() if name in _SHAPE}
    if not shape:
        return shape
    if missing := _SHAPE.keys() - shape.keys():
        raise ConfigError(f"The recipe's [model] does not say {', '.join(sorted(missing))}.")
    if shape["heads"] % shape["kv_heads"]:
        raise ConfigError(f"The recipe's {shape['heads']} heads are no multiple of its {shape['kv_heads']} kv_heads.")
    if shape["head_dim"] % 2:
        raise ConfigError(f"The recipe's head_dim is {shape['head_dim']}; it must be even, for rotary positions.")
    if "langs" not in recipe["data"]:
        raise ConfigError("The recipe's [data] does not say langs, the languages of the model beside English.")
    return shape


def _joined(path: Path, above: tuple[Path, ...]) -> Recipe:
    """`above`: the recipes that led here."""
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The recipe {str(path)!r} cannot be read ({why(error)}); check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} is not TOML ({error}).") from error
    base = recipe.pop("base", None)
    if single := [name for name, values in recipe.items() if not isinstance(values, dict)]:
        raise ConfigError(f"{str(path)!r} says {single[0]!r} outside of any section.")
    if base is None:
        return recipe
    beside = path.parent / str(base)
    if beside in (*above, path):
        raise ConfigError(f"{str(path)!r} has the base {base!r}, which leads back to it.")
    found = _joined(beside, (*above, path))
    return found | {section: found.get(section, {}) | values for section, values in recipe.items()}
