import json
import shutil

import pytest
from typer.testing import CliRunner

from sclm_hf.cli.main import app
from sclm_hf.files import sole_writer

from ..modeling.scgpt.golden_scgpt import GOLDEN

WEIGHTS = {
    "geneformer": ("model.safetensors", "pytorch_model.bin", "token_dictionary"),
    "iseeek": ("model.safetensors", "pytorch_model.bin", "iSEEEK_vocab.pkl"),
    "scbert": (".pth", "genes.txt"),
    "scfoundation": ("models.ckpt", "OS_scRNA_gene_index.19264.tsv"),
    "scgpt": ("best_model.pt", "args.json", "vocab.json"),
    "tgpt": ("model.safetensors", "pytorch_model.bin", "checkpoint.pth"),
    "uce": (".torch", "species_chrom.csv"),
}


def test_convert_writes_folder_report_and_card(tmp_path):
    result = CliRunner().invoke(app, ["convert", "scgpt", str(GOLDEN / "case_a"), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "renamed: 55" in result.output
    assert len(json.loads((tmp_path / "out" / "loading_report.json").read_text())["renamed"]) == 55
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card
    assert "library_name: sclm_hf" in card
    assert "has not been evaluated" in card


def test_a_family_without_checkpoints_says_how_its_models_are_made(tmp_path):
    result = CliRunner().invoke(app, ["convert", "linear", "a", str(tmp_path / "out")])
    assert result.exit_code == 1 and "sclm-hf finetune --model_name_or_path linear" in result.output
    assert not (tmp_path / "out").exists()


def test_unknown_family_and_missing_folder_are_one_line(tmp_path):
    for arguments, message in [
        (["scgtp", "a"], "There is no family `scgtp`"),
        (["scgpt", "nowhere"], "does not exist"),
    ]:
        result = CliRunner().invoke(app, ["convert", *arguments, str(tmp_path / "out")])
        assert result.exit_code == 1
        assert message in result.output
        assert "Traceback" not in result.output


@pytest.mark.parametrize("family", WEIGHTS)
def test_missing_files_are_named_with_the_layout_that_is_taken(family, tmp_path):
    (tmp_path / "source").mkdir()
    result = CliRunner().invoke(app, ["convert", family, str(tmp_path / "source"), str(tmp_path / "out")])
    assert result.exit_code == 1
    # what must be there is in the message, whichever file is missed first
    for name in WEIGHTS[family]:
        assert name in result.output, result.output
    assert not (tmp_path / "out").exists()


def test_a_conversion_that_fails_leaves_nothing_and_one_at_a_time_writes(tmp_path):
    shutil.copytree(GOLDEN / "case_a", tmp_path / "source")
    arguments = ["convert", "scgpt", str(tmp_path / "source"), str(tmp_path / "out")]
    with sole_writer(tmp_path / "out"):
        second = CliRunner().invoke(app, arguments)
    assert second.exit_code == 1 and "is being written by" in second.output
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sclm_hf.hub.card.write_card", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        failed = CliRunner().invoke(app, arguments)
    assert failed.exit_code == 1 and "No space left" in failed.output
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]
    assert CliRunner().invoke(app, arguments).exit_code == 0


def test_a_repository_of_the_hub_is_fetched_and_converted(tmp_path, monkeypatch):
    asked = {}

    def fetch(repository, *, revision, allow_patterns):
        asked.update(repository=repository, revision=revision, patterns=allow_patterns)
        shutil.copytree(GOLDEN / "case_a", tmp_path / "cache" / "inner")
        return tmp_path / "cache"

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    arguments = ["convert", "scgpt", "somebody/scGPT/inner", str(tmp_path / "out"), "--revision", "abc"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert (asked["repository"], asked["revision"]) == ("somebody/scGPT", "abc")
    assert "inner/*.pt" in asked["patterns"] and "*.pkl" in asked["patterns"]
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_what_is_neither_a_path_nor_a_repository_is_said(tmp_path):
    result = CliRunner().invoke(app, ["convert", "scgpt", "../no/where/at/all", str(tmp_path / "out")])
    assert result.exit_code == 1 and "or a repository on the Hub" in result.output.replace("\n", " ")
