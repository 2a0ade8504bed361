"""Recipes: what they say, what they may not."""

from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.tools.training import recipe
from engine.tools.training.recipe import read_recipe, shape_of

OURS = sorted((Path(recipe.__file__).parents[1] / "recipes").glob("*.toml"))
SOUND = """
[data]
rows = 1
row_tokens = 64
longest_example = 64
label_share = 0.5
[optimizer]
kind = "adamw"
adam_lr = 1e-3
adam_betas = [0.9, 0.98]
clip_norm = 1.0
label_smoothing = 0.0
warmup_steps = 1
schedule = "cosine"
"""


def written(tmp_path, text):
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    return tmp_path / "recipe.toml"


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_every_recipe_of_ours_is_sound(path):
    found = read_recipe(path)
    assert found["data"]["rows"] > 0
    assert bool(shape_of(found)) == path.stem.startswith("yiwen-mini")


def test_a_recipe_is_what_differs_from_its_base(tmp_path):
    base = read_recipe(written(tmp_path, SOUND))
    (tmp_path / "other.toml").write_text('base = "recipe.toml"\n[optimizer]\nadam_lr = 1.0\n')
    assert read_recipe(tmp_path / "other.toml") == base | {"optimizer": base["optimizer"] | {"adam_lr": 1.0}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows = [", "is not TOML"),
        (SOUND + "[speed]\n", "has a section 'speed'; a recipe has card, data, mix, model, optimizer"),
        (SOUND + "momentum = 1\n", r"says 'momentum' in \[optimizer\], which means nothing there"),
        (SOUND + "[mix]\nsongs = 0.1\n", r"says 'songs' in \[mix\]"),
        (SOUND.replace("rows = 1\n", ""), r"does not say rows in \[data\]"),
        (SOUND.replace("adamw", "muon"), "does not say muon_lr, muon_weight_decay in .optimizer., for Muon"),
        (SOUND.replace("cosine", "wsd"), "does not say decay_from"),
    ],
)
def test_what_is_no_recipe_is_one_sentence(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        read_recipe(written(tmp_path, text))


def test_a_part_of_a_shape_is_none():
    with pytest.raises(ConfigError, match=r"does not say .*hidden_size"):
        shape_of({"model": {"layers": 3}})
