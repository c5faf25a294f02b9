"""`--recipe`: settings of verbs in a file."""

import dataclasses
from pathlib import Path

import anndata
import pytest
import yaml
from typer.testing import CliRunner

from sclm_hf.cli.main import app, make_app
from sclm_hf.cli.options import read_recipe
from sclm_hf.errors import ConfigurationError
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
        ("a: [", "cannot be read as YAML"),
        ("seed: 1\nseed: 2", "says `seed` twice"),
    ],
)
def test_what_is_no_recipe_is_refused_before_the_work(tmp_path, recipe, told):
    done = embed(tmp_path, recipe)
    assert done.exit_code and told in " ".join(done.output.replace("│", " ").split()), done.output
    assert not (tmp_path / "out.h5ad").exists()


def read(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    return read_recipe(tmp_path / "recipe.yaml", dataclasses.fields(get_verb("grn").settings))


def test_numbers_and_dates_stay_as_they_are_written(tmp_path):
    for text in ("010", "1:30", "1.10", "2020-01-01", "1e-3", "'7'"):
        assert read(tmp_path, f"condition_key: {text}") == {"condition_key": text.strip("'")}


@pytest.mark.parametrize(
    "value", ["9" * 5000, "2020-13-45", "!!int abc", "!!timestamp abc", "[" * 3000, "!!python/object:os.system x"]
)
def test_values_that_cannot_be_are_refused_in_a_line(tmp_path, value):
    with pytest.raises(ConfigurationError, match=r"recipe\.yaml` (cannot be read as YAML|is nested too deeply)"):
        read(tmp_path, f"condition_key: {value}")


def test_a_value_that_grows_by_aliases_is_not_written_out(tmp_path):
    parts = ["&a0 [x, x, x, x]", *(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40))]
    with pytest.raises(ConfigurationError) as raised:
        read(tmp_path, f"condition_key: [{', '.join(parts)}]")
    assert len(str(raised.value)) < 1000


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
