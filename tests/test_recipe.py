"""Recipes: what they say, what they may not."""

from dataclasses import fields
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.inference.model import ModelConfig
from engine.tools.corpus import Mix
from engine.tools.training import recipe
from engine.tools.training.recipe import read_recipe, shape_of
from tests.recipes import ADAMW

OURS = sorted((Path(recipe.__file__).parents[1] / "recipes").glob("*.toml"))


def written(tmp_path, text):
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    return tmp_path / "recipe.toml"


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_every_recipe_of_ours_is_sound(path):
    found = read_recipe(path)
    assert found["data"]["rows"] > 0
    assert bool(shape_of(found)) == path.stem.startswith("yiwen-mini")


def test_a_recipe_is_what_differs_from_its_base(tmp_path):
    base = read_recipe(written(tmp_path, ADAMW))
    (tmp_path / "other.toml").write_text('base = "recipe.toml"\n[optimizer]\nadam_lr = 1.0\n')
    assert read_recipe(tmp_path / "other.toml") == base | {"optimizer": base["optimizer"] | {"adam_lr": 1.0}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows = [", "is not TOML"),
        (ADAMW + "[speed]\n", "has a section 'speed'; a recipe has card, data, mix, model, optimizer"),
        (ADAMW + "momentum = 1\n", r"says 'momentum' in \[optimizer\], which means nothing there"),
        (ADAMW + "[mix]\nsongs = 0.1\n", r"says 'songs' in \[mix\]"),
        (ADAMW.replace("rows = 2\n", ""), r"does not say rows in \[data\]"),
        (ADAMW.replace("adamw", "muon"), "does not say muon_lr, muon_weight_decay in .optimizer., for Muon"),
        (ADAMW.replace("cosine", "wsd"), "does not say decay_from"),
        (ADAMW.replace("cosine", "steps"), "says schedule = 'steps' in .optimizer.; it must be 'wsd' or 'cosine'"),
        (ADAMW.replace("rows = 2\n", 'rows = "eight"\n'), "says rows = 'eight' in .data.; it must be a whole number"),
        (ADAMW.replace("rows = 2\n", "rows = true\n"), "says rows = True"),
        (ADAMW.replace("[0.9, 0.98]", "[0.9]"), "it must be two numbers from 0 to below 1"),
        (ADAMW.replace("2e-2", "nan"), "says adam_lr = nan in .optimizer.; it must be a number above 0"),
        (ADAMW + "decay_from = 1.0\n", "says decay_from = 1.0"),
        (ADAMW + "[mix]\nlangs = { fr = -1 }\n", "it must be numbers by name"),
        ("rows = 1\n" + ADAMW, "says 'rows' outside of any section"),
        ('base = "recipe.toml"\n' + ADAMW, "has the base 'recipe.toml', which leads back to it"),
        ('base = "none.toml"\n' + ADAMW, r"none\.toml' cannot be read \(No such file or directory\); check the path"),
    ],
)
def test_what_is_no_recipe_is_one_sentence(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        read_recipe(written(tmp_path, text))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": None}, r"does not say hidden_size"),
        ({"kv_heads": 3}, "8 heads are no multiple of its 3 kv_heads"),
        ({"head_dim": 63}, "head_dim is 63; it must be even"),
    ],
)
def test_what_is_no_shape_is_one_sentence(changes, said):
    found = read_recipe(next(path for path in OURS if path.stem == "yiwen-mini"))
    model = {name: value for name, value in (found["model"] | changes).items() if value is not None}
    with pytest.raises(ConfigError, match=said):
        shape_of(found | {"model": model})


def test_a_model_from_scratch_is_told_its_languages():
    found = read_recipe(next(path for path in OURS if path.stem == "yiwen-mini"))
    del found["data"]["langs"]
    with pytest.raises(ConfigError, match="does not say langs"):
        shape_of(found)


def test_the_names_are_those_of_a_shape_and_of_a_mix():
    assert {*recipe._SHAPE, "tied_head"} == {field.name for field in fields(ModelConfig)}
    assert recipe._MAY["mix"].keys() == {field.name for field in fields(Mix)}
