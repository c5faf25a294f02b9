import runpy
import signal
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForPreTraining, AutoModelForSequenceClassification
from typer.testing import CliRunner

from sclm_hf.cli.main import app
from sclm_hf.files import sole_writer
from sclm_hf.training.callbacks import LossLog
from sclm_hf.training.checkpoints import CheckpointFolder

from ..training.h5ad_files import write_h5ad

SCRIPTS = Path(__file__).parents[2] / "training_scripts"
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return write_h5ad(tmp_path_factory.mktemp("cells") / "cells.h5ad", 40)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    settings = {"model_config": SMALL, "per_device_train_batch_size": 16, "max_steps": 2, "use_cpu": True}
    path.write_text(yaml.safe_dump(settings))
    return path


def test_pretrain_then_finetune(cells, recipe, tmp_path):
    pretrained, finetuned = tmp_path / "pretrained", tmp_path / "finetuned"
    done = run("pretrain", "--config", recipe, "--train_files", cells, "--output_dir", pretrained)
    assert done.exit_code == 0, done.output
    assert f"finished after 2 steps; the model is in {pretrained}" in done.output
    assert AutoModelForPreTraining.from_pretrained(pretrained).config.hidden_size == 16
    flags = ("--model_name_or_path", pretrained, "--label_column", "cell_type", "--max_steps", "2", "--use_cpu")
    done = run("finetune", "--train_files", cells, *flags, "--output_dir", finetuned, "--eval_share", "0.2")
    assert done.exit_code == 0, done.output
    assert "macro_f1" in done.output
    assert AutoModelForSequenceClassification.from_pretrained(finetuned).config.id2label[0] == "B cell"
    assert (finetuned / "adapter" / "adapter_model.safetensors").exists()


def test_the_scripts_do_what_the_command_does(cells, recipe, tmp_path, monkeypatch, capsys):
    losses = []
    done = run(
        "pretrain", "--config", recipe, "--train_files", cells, "--output_dir", tmp_path / "a", "--logging_steps", 1
    )
    assert done.exit_code == 0, done.output
    argv = ["--config", recipe, "--train_files", cells, "--output_dir", tmp_path / "b", "--logging_steps", 1]
    monkeypatch.setattr(sys, "argv", ["pretrain.py", *map(str, argv)])
    runpy.run_path(str(SCRIPTS / "pretrain.py"), run_name="__main__")
    assert "finished after 2 steps" in capsys.readouterr().out
    for folder in ("a", "b"):
        lines = (tmp_path / folder / "training_log.jsonl").read_text().splitlines()
        losses.append([yaml.safe_load(line)["loss"] for line in lines])
    assert losses[0] == losses[1] and len(losses[0]) == 2
    flags = ["--model_name_or_path", tmp_path / "b", "--label_column", "cell_type", "--max_steps", 1, "--use_cpu"]
    argv = ["--train_files", cells, *flags, "--output_dir", tmp_path / "c"]
    monkeypatch.setattr(sys, "argv", ["finetune.py", *map(str, argv)])
    runpy.run_path(str(SCRIPTS / "finetune.py"), run_name="__main__")
    assert "finished after 1 steps" in capsys.readouterr().out


def test_help_lists_the_settings_and_errors_are_one_message(cells, tmp_path):
    helped = run("pretrain", "--help")
    assert helped.exit_code == 0
    for setting in ("--train_files", "--objective", "--learning_rate", "--config"):
        assert setting in helped.output
    wrong = run("pretrain", "--train_files", cells, "--learning_rat", "1")
    assert wrong.exit_code == 1 and "Did you mean `--learning_rate`" in wrong.output
    wrong = run("finetune", "--train_files", cells, "--model_name_or_path", tmp_path, "--label_column", "x")
    assert wrong.exit_code == 1 and "holds no processor" in wrong.output


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_what_is_missing_or_taken_is_told_before_a_model_is_opened(cells, tmp_path, verb):
    labels = ("--label_column", "x") if verb == "finetune" else ()
    common = (verb, "--model_name_or_path", "never looked at", *labels, "--output_dir", tmp_path / "out")
    missing = run(*common, "--train_files", cells, "--eval_files", tmp_path / "absent.h5ad")
    assert missing.exit_code == 1 and "absent.h5ad` does not exist" in missing.stderr
    with sole_writer(tmp_path / "out"):
        taken = run(*common, "--train_files", cells)
    assert taken.exit_code == 1 and "is being written by process" in taken.stderr


def test_sigterm_ends_training_in_good_order(cells, recipe, tmp_path, monkeypatch):
    append = LossLog.append

    def append_and_stop(self, record):
        append(self, record)
        if record["step"] == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(LossLog, "append", append_and_stop)
    stopped = run(
        "pretrain", "--config", recipe, "--train_files", cells, "--output_dir", tmp_path / "out", "--logging_steps=1",
        "--max_steps=9",
    )  # fmt: skip
    assert stopped.exit_code == 143 and "Stopped by SIGTERM" in stopped.stderr, stopped.output
    assert CheckpointFolder(tmp_path / "out" / "checkpoints").last() is not None
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "out" / "model.safetensors").exists()
