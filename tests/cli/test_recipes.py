"""`--recipe`: settings of verbs in a file."""

import dataclasses
from pathlib import Path

import anndata
import pytest
import yaml
from typer.testing import CliRunner

from sclm_hf.cli.main import app, make_app
from sclm_hf.cli.options import read_recipe
from sclm_hf.tasks import get_verb

from ..tasks.tiny import make_cells, save_checkpoint
from .test_main import commands

RECIPES = Path(__file__).parents[2] / "training_scripts" / "recipes"


def embed(tmp_path, recipe, *flags):
    make_cells().write_h5ad(tmp_path / "in.h5ad")
    (tmp_path / "recipe.yaml").write_text(recipe)
    model = save_checkpoint(tmp_path / "model")
    files = [str(tmp_path / name) for name in ("in.h5ad", "out.h5ad")]
    given = ["--model", str(model), "--recipe", str(tmp_path / "recipe.yaml"), *flags]
    return CliRunner().invoke(make_app(), ["embed", *files, *given])


def test_a_recipe_gives_settings_and_flags_win(tmp_path):
    done = embed(tmp_path, "batch_size: 7\nseed: 3\nkey_added: X_1\n", "--seed", "5")
    assert done.exit_code == 0, done.output
    settings = anndata.read_h5ad(tmp_path / "out.h5ad").uns["sclm_hf"]["X_1"]["settings"]
    assert (settings["batch_size"], settings["seed"]) == (7, 5)


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ("bath_size: 3", "Did you mean `batch_size`"),
        ("batch_size: true", "must be a text or a number, written as for its flag, got True"),
        ("batch_key: [a, b]", "written as for its flag, got ['a', 'b']"),
        ("batch_size: 0", "Invalid value for '--batch-size'"),
        ("- batch_size", "must be a mapping of settings, got list"),
        ("a: [", "Cannot read the recipe"),
    ],
)
def test_what_is_no_recipe_is_refused_before_the_work(tmp_path, recipe, told):
    done = embed(tmp_path, recipe)
    assert done.exit_code and told in " ".join(done.output.replace("│", " ").split()), done.output
    assert not (tmp_path / "out.h5ad").exists()


def test_every_verb_takes_a_recipe():
    verbs = {name: command.params for name, command in commands(app).items()}
    without = {name for name, options in verbs.items() if not any(one.name == "recipe" for one in options)}
    assert not without & {"annotate", "cluster", "embed", "evaluate", "explain", "grn", "impute", "integrate", "map"}
    assert not without & {"multimodal", "perturb", "predict-perturbation", "search", "spatial"}


@pytest.mark.parametrize("verb", ["integrate", "multimodal"])
def test_recipes_of_verbs_are_understood(verb):
    found = sorted(RECIPES.glob(f"{verb}_*.yaml"))
    assert found
    for path in found:
        settings = get_verb(verb).settings
        read_recipe(path, dataclasses.fields(settings))
        recipe = yaml.safe_load(path.read_text())
        settings(**{"batch_key": "batch", "head": "head", **recipe} if verb == "multimodal" else recipe)
