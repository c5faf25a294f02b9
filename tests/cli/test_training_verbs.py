import runpy
import signal
import sys
from pathlib import Path

import anndata as ad
import pytest
import yaml
from transformers import AutoModelForPreTraining, AutoModelForSequenceClassification
from typer.testing import CliRunner

from sclm_hf.cli.main import app
from sclm_hf.files import sole_writer
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.training.callbacks import LossLog
from sclm_hf.training.checkpoints import CheckpointFolder

from ..training.h5ad_files import GENES, write_h5ad

SCRIPTS = Path(__file__).parents[2] / "training_scripts"
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    path = write_h5ad(tmp_path_factory.mktemp("cells") / "cells.h5ad", 40)
    cells = ad.read_h5ad(path)
    cells.obs["sample"] = ["a", "b"] * 20
    cells.write_h5ad(path)
    return path


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
    flags += ("--eval_share", "0.2", "--split_by", "cell")
    done = run("finetune", "--train_files", cells, *flags, "--output_dir", finetuned)
    assert done.exit_code == 0, done.output
    assert "macro_f1" in done.output
    assert AutoModelForSequenceClassification.from_pretrained(finetuned).config.id2label[0] == "B cell"
    assert (finetuned / "adapter" / "adapter_model.safetensors").exists()


def run_script(verb, *arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"{verb}.py", *map(str, arguments)])
    runpy.run_path(str(SCRIPTS / f"{verb}.py"), run_name="__main__")


def losses(folder):
    return [record["loss"] for record in LossLog(folder / "training_log.jsonl").read()]


@pytest.mark.parametrize(
    ("verb", "family", "task", "flags"),
    [
        ("pretrain", "cellplm", "pretrain", ("--batch_column", "sample")),
        ("finetune", "scgpt", "embed", ("--label_column", "cell_type", "--head", "full", "--no_partners")),
    ],
)
def test_a_script_is_its_verb(cells, tmp_path, monkeypatch, capsys, verb, family, task, flags):
    base = make_tiny_checkpoint(family, tmp_path / "base", task=task, genes=GENES)
    flags = ("--model_name_or_path", base, "--train_files", cells, *flags, "--logging_steps", 1, "--use_cpu")
    # samples are seen in part, and an epoch may draw other parts
    flags += ("--num_train_epochs", 2, "--save_steps", 0)
    done = run(verb, *flags, "--output_dir", tmp_path / "verb")
    assert done.exit_code == 0, done.output
    run_script(verb, *flags, "--output_dir", tmp_path / "script", monkeypatch=monkeypatch)
    assert capsys.readouterr().out == done.stdout.replace(str(tmp_path / "verb"), str(tmp_path / "script"))
    assert losses(tmp_path / "script") == losses(tmp_path / "verb") and len(losses(tmp_path / "verb")) == 4


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_the_help_of_a_script_is_that_of_its_verb(verb, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="0"):
        run_script(verb, "--help", monkeypatch=monkeypatch)
    assert capsys.readouterr().out == run(verb, "--help").stdout


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
    (tmp_path / "no_model").mkdir()
    common = (verb, "--model_name_or_path", tmp_path / "no_model", *labels, "--output_dir", tmp_path / "out")
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
