"""Recipes: every family has its own, and what they say is understood."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sclm_hf.opening.perturbation import new_perturbation_model, new_set_model
from sclm_hf.registry import FAMILIES, get_family
from sclm_hf.training.arguments import TrainingConfig, parse_arguments
from sclm_hf.training.pretrain import create_collator, create_model, create_processor
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments
from sclm_hf.training.settings.perturbation import PerturbationArguments
from sclm_hf.training.settings.pretrain import PretrainArguments

from .training.h5ad_files import write_h5ad

RECIPES = Path(__file__).parents[1] / "training_scripts" / "recipes"
PRETRAIN = sorted(RECIPES.glob("pretrain_*.yaml"))
FINETUNE = sorted(RECIPES.glob("finetune_*.yaml"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    return [str(write_h5ad(folder / f"{name}.h5ad", 40, seed=seed)) for seed, name in enumerate("ab")]


def read(recipe, *flags):
    kind = PretrainArguments if recipe.name.startswith("pretrain") else FinetuneArguments
    return parse_arguments((DataArguments, kind, TrainingConfig), ["--config", str(recipe), *flags])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_has_its_recipes(family):
    known = get_family(family)
    sizes = ("",) if known.is_fitted else ("", "_small")
    kinds = ("pretrain", "finetune") if known.objectives else ("finetune",)
    expected = {f"{kind}_{family}{size}" for kind in kinds for size in sizes}
    assert expected <= {path.stem for path in (*PRETRAIN, *FINETUNE)}


@pytest.mark.parametrize("recipe", PRETRAIN, ids=lambda path: path.stem)
def test_recipes_of_pretraining_open(recipe, files):
    data, arguments, config = read(recipe, "--train_files", *files)
    family = get_family(arguments.family)
    assert family.name in recipe.stem and config.output_dir.startswith(family.name)
    if not recipe.stem.endswith("_small"):
        arguments.model_config = {**json.loads(arguments.model_config or "{}"), **family.tiny}
    processor = create_processor(data, arguments)
    if arguments.objective == "supervised":
        assert create_model(arguments, processor, classes=["B", "T"]).config.num_labels == 2
    else:
        create_collator(arguments, processor)
        assert create_model(arguments, processor).num_parameters() > 0


@pytest.mark.parametrize("recipe", FINETUNE, ids=lambda path: path.stem)
def test_recipes_of_finetuning_are_understood(recipe):
    flags = [] if "linear" in recipe.stem else ["--model_name_or_path", "folder"]
    data, arguments, _ = read(recipe, *flags, "--train_files", "cells.h5ad", "--label_column", "cell_type")
    assert data.train_files == ["cells.h5ad"] and arguments.label_column == "cell_type"


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*_small.yaml")), ids=lambda path: path.stem)
def test_small_recipes_say_how_long_they_take(recipe):
    comments = [line for line in recipe.read_text().splitlines() if line.startswith("#")]
    assert re.search(r"\d[\d.]* (seconds|minutes)", "\n".join(comments))


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("predict_perturbation_*.yaml")), ids=lambda path: path.stem)
def test_recipes_of_perturbations_are_understood(recipe):
    arguments, config = parse_arguments((PerturbationArguments, TrainingConfig), ["--config", str(recipe)])
    settings = json.loads(arguments.model_config or "{}")
    if "_set" in recipe.stem:
        assert new_set_model(["A"], ["B"], np.zeros((1, 2), np.float32), settings).num_parameters() > 0
    else:
        assert new_perturbation_model("scgpt", ["A"], {**get_family("scgpt").tiny, **settings})
    assert config.learning_rate > 0
