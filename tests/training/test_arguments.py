from pathlib import Path

import pytest
import yaml
from transformers import HfArgumentParser

from sclm_hf.errors import ConfigurationError
from sclm_hf.objectives import PRETRAINING
from sclm_hf.training.arguments import TrainingConfig, flag_parser, parse_arguments
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.pretrain import OBJECTIVES, PretrainArguments
from sclm_hf.training.verbs import SETTINGS

RECIPES = Path(__file__).parents[2] / "training_scripts" / "recipes"


def write(path, **settings):
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def test_yaml_round_trip(tmp_path):
    config = TrainingConfig(
        output_dir="somewhere", learning_rate=3e-5, report_to=["tensorboard", "trackio"], greater_is_better=False
    )
    config.to_yaml(tmp_path / "recipe.yaml")
    assert TrainingConfig.from_yaml(tmp_path / "recipe.yaml") == config


def test_flags_win_over_the_recipe_and_both_over_the_defaults(tmp_path):
    recipe = write(tmp_path / "r.yaml", learning_rate="1e-3", max_steps=7, train_files=["a", "b"], use_cpu=True)
    argv = ["--config", recipe, "--max_steps", "9", "--train-files", "c", "--no_load_best_model_at_end"]
    data, config = parse_arguments((DataArguments, TrainingConfig), argv)
    assert data.train_files == ["c"] and config.max_steps == 9
    assert config.learning_rate == 1e-3 and config.use_cpu and not config.load_best_model_at_end
    assert config.adam_beta2 == TrainingConfig().adam_beta2


@pytest.mark.parametrize("verb", sorted(SETTINGS))
def test_the_flags_are_those_of_the_parser_of_transformers(verb):
    assert (
        flag_parser(SETTINGS[verb], prog=verb).format_help()
        == HfArgumentParser(SETTINGS[verb], prog=verb).format_help()
    )


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--use_cpu --no-load-best-model-at-end --greater_is_better no",
        "--use_cpu False --load_best_model_at_end=0 --report_to wandb trackio --warmup_steps 0.5 --max_steps=3",
    ],
)
def test_flags_mean_what_the_parser_of_transformers_takes_them_for(flags):
    (theirs,) = HfArgumentParser(TrainingConfig).parse_args_into_dataclasses(flags.split())
    assert parse_arguments((TrainingConfig,), flags.split()) == (theirs,)


def test_all_objectives_can_be_asked_for():
    assert tuple(PRETRAINING) == OBJECTIVES


def test_a_mapping_in_a_recipe_is_the_json_of_the_flag(tmp_path):
    recipe = write(tmp_path / "r.yaml", model_config={"hidden_size": 8, "pooling": "cls"})
    (from_recipe,) = parse_arguments((PretrainArguments,), ["--config", recipe])
    (from_flag,) = parse_arguments((PretrainArguments,), ["--model_config", '{"hidden_size": 8, "pooling": "cls"}'])
    assert from_recipe == from_flag


def test_unknown_settings_are_refused_with_the_valid_ones(tmp_path):
    recipe = write(tmp_path / "r.yaml", learning_rat=1e-3)
    with pytest.raises(ConfigurationError, match=r"`learning_rat`.*Did you mean `learning_rate`.*warmup_steps"):
        parse_arguments((TrainingConfig,), ["--config", recipe])
    with pytest.raises(ConfigurationError, match=r"`--max_step`.*Did you mean `--max_steps`"):
        parse_arguments((TrainingConfig,), ["--max_step", "3"])


def test_the_published_recipe_is_what_was_published_but_for_the_precision_it_names():
    recipe = RECIPES / "pretrain_scgpt.yaml"
    _, arguments, config = parse_arguments(
        (DataArguments, PretrainArguments, TrainingConfig), ["--config", str(recipe), "--train_files", "cells.h5ad"]
    )
    assert arguments.mask_ratio == [0.25, 0.5, 0.75] and arguments.objective == "generative"
    assert (config.per_device_train_batch_size, config.num_train_epochs) == (32, 6)
    assert (config.learning_rate, config.warmup_steps) == (1e-4, 10000)
    assert config.mixed_precision == "bf16" and arguments.vocabulary is None
    stated = recipe.read_text().split("family:")[0]
    assert "bf16 takes the place of the published fp16" in stated and "vocabulary" in stated


def test_unreadable_recipes_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="nowhere"):
        TrainingConfig.from_yaml(tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(ConfigurationError, match="mapping"):
        TrainingConfig.from_yaml(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_device_train_batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("learning_rate", 0.0),
        ("warmup_steps", -1),
        ("mixed_precision", "fp8"),
        ("report_to", ["tensorbord"]),
        ("lr_scheduler_type", "cosinus"),
    ],
)
def test_values_out_of_range_name_the_setting(name, value):
    with pytest.raises(ConfigurationError, match=name):
        TrainingConfig(**{name: value})


def test_contradictions_are_refused():
    with pytest.raises(ConfigurationError, match="not both"):
        DataArguments(["a"], eval_files=["b"], eval_share=0.1)
    with pytest.raises(ConfigurationError, match="model_name_or_path"):
        PretrainArguments(model_name_or_path="folder", vocabulary="genes.json")


def test_a_token_budget_needs_a_number_of_steps():
    with pytest.raises(ConfigurationError, match="give `max_steps`"):
        TrainingConfig(max_tokens_per_batch=1000)
    assert TrainingConfig(max_tokens_per_batch=1000, max_steps=5).per_device_train_batch_size == 32
