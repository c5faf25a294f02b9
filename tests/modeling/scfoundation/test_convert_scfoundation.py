import json
from dataclasses import fields

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor, PreTrainedConfig
from typer.testing import CliRunner

from sclm_hf import CellProcessor, ScFoundationConfig, ScFoundationForMaskedExpression, ScFoundationModel
from sclm_hf.cli.main import app
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.modeling.scfoundation.convert_scfoundation import MODELS, convert_checkpoint

from .golden_scfoundation import golden_names, release, write_genes

GENES_FILE = "OS_scRNA_gene_index.19264.tsv"


@pytest.fixture
def source(tmp_path):
    """A release folder, to be spoiled."""
    return release("case_a", tmp_path / "release")


def change_weights(source, change):
    content = torch.load(source / "models.ckpt", weights_only=True)
    change(content)
    torch.save(content, source / "models.ckpt")


def test_three_models_open_through_auto_classes(source, tmp_path):
    convert_checkpoint(source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cell", "gene", "loading_report.json", "rde"]
    tables = []
    for name in MODELS:
        folder = tmp_path / "out" / name
        assert type(AutoModel.from_pretrained(folder)) is ScFoundationModel
        model, info = AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
        assert type(model) is ScFoundationForMaskedExpression
        assert not info["missing_keys"] and not info["unexpected_keys"]
        tables.append(model.model.embeddings.genes.weight)
        processor = AutoProcessor.from_pretrained(folder)
        assert isinstance(processor, CellProcessor)
        assert processor.feature_extractor.target_depth == "t4"
        assert not list(folder.glob("*.py"))
    assert not torch.equal(tables[0], tables[1]) and not torch.equal(tables[1], tables[2])


def test_genes_keep_their_places(source, tmp_path):
    convert_checkpoint(source, tmp_path / "out")
    vocabulary = AutoProcessor.from_pretrained(tmp_path / "out" / "cell").tokenizer.gene_vocabulary
    genes = golden_names("case_a")
    assert [vocabulary[gene] for gene in genes] == list(range(120))
    assert vocabulary.special_tokens == {"<T>": 120, "<S>": 121, "<pad>": 122}


def test_every_tensor_is_reported(source, tmp_path):
    content = torch.load(source / "models.ckpt", weights_only=True)
    report = convert_checkpoint(source, tmp_path / "out")
    names = {f"{model}.{name.removeprefix('model.')}" for model in MODELS for name in content[model]["state_dict"]}
    assert set(report.used) | set(report.renamed) | set(report.dropped) == names
    stored = json.loads((tmp_path / "out" / "gene" / "loading_report.json").read_text())
    assert len(stored["renamed"]["encoder.transformer_encoder.1.self_attn.in_proj_weight"]) == 3
    assert len(stored["used"]) + len(stored["renamed"]) == len(content["gene"]["state_dict"])


def test_configuration_has_no_unknown_keys(source, tmp_path):
    convert_checkpoint(source, tmp_path / "out")
    known = {field.name for field in fields(ScFoundationConfig)} | set(PreTrainedConfig().to_dict())
    written = json.loads((tmp_path / "out" / "cell" / "config.json").read_text())
    assert set(written) <= known | {"model_type", "transformers_version"}


def test_every_folder_carries_the_licence(source, tmp_path):
    result = CliRunner().invoke(app, ["convert", "scfoundation", str(source), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    for name in MODELS:
        assert "non-commercial" in (tmp_path / "out" / name / "README.md").read_text()


@pytest.mark.parametrize("missing", ["models.ckpt", GENES_FILE])
def test_missing_file(source, tmp_path, missing):
    (source / missing).unlink()
    with pytest.raises(CheckpointError, match=f"`{missing}` is missing.*found there"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def in_cell(change):
    return lambda content: change(content["cell"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("rde"), "must hold the models cell, gene, rde"),
        (in_cell(lambda c: c.pop("config")), "`config` and `state_dict`"),
        (in_cell(lambda c: c["config"].pop("dataset_config")), "dataset_config"),
        (in_cell(lambda c: c["config"]["model_config"]["mae_autobin"].pop("encoder")), "lack 'encoder'"),
        (in_cell(lambda c: c["config"]["model_config"]["mae_autobin"]["decoder"].update(ff_dropout=0.1)), "differ"),
        (in_cell(lambda c: c["state_dict"].pop("model.to_final.bias")), "missing: expression_head.bias"),
        (in_cell(lambda c: c["state_dict"].update({"model.surprise.weight": torch.zeros(2)})), "surprise.weight"),
        (in_cell(lambda c: c["state_dict"].update({"model.norm.weight": torch.zeros(3)})), r"wrongly shaped.*\(3,\)"),
        (in_cell(lambda c: c["state_dict"].pop("model.pos_emb.weight")), "lacks `pos_emb.weight`"),
    ],
)
def test_weights_that_do_not_fit(source, tmp_path, change, message):
    change_weights(source, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_checkpoint(source, tmp_path / "out")
    assert "models.ckpt" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not the list of genes"),
        ("gene_name\tindex\nGENE0\t1\n", "not the list of genes"),
        ("gene_name\tindex\nGENE0\t0\nGENE0\t1\n", "not the list of genes"),
        (
            "gene_name\tindex\nGENE0\t0\n",
            r"gene_index\.\d+\.tsv` does not fit.* 1 genes.*`OS_scRNA_gene_index\.19264\.tsv` of",
        ),
    ],
)
def test_lists_of_genes_that_do_not_fit(source, tmp_path, content, message):
    (source / GENES_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(source, tmp_path / "out")


def test_two_lists_of_genes(source, tmp_path):
    write_genes(source / "OS_scRNA_gene_index.2.tsv", ["A", "B"])
    with pytest.raises(CheckpointError, match="several lists"):
        convert_checkpoint(source, tmp_path / "out")


def test_output_is_never_overwritten(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="not an empty folder"):
        convert_checkpoint(source, tmp_path / "out")
    assert (tmp_path / "out" / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("encoder", "heads", "x"), ("encoder", "heads", 5), ("decoder", "depth", None), (None, "bin_num", "ten")],
)
def test_settings_of_wrong_kinds_are_told(tmp_path, part, name, value):
    source = release("case_a", tmp_path / "original")
    content = torch.load(source / "models.ckpt", weights_only=True)
    config = content["cell"]["config"]
    # what stands in the second wins
    places = [config["model_config"]["mae_autobin"], config["dataset_config"]["rnaseq"]]
    for settings in [place[part] if part else place for place in places if (part or name) in place]:
        settings[name] = value
    torch.save(content, source / "models.ckpt")
    with pytest.raises(CheckpointError, match="make no model"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
