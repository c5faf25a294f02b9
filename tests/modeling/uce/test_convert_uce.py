import json
import pickle
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor, PreTrainedConfig

from sclm_hf import ChromosomeProcessor, UCEConfig
from sclm_hf.errors import CheckpointError
from sclm_hf.hub.folder import read_folder
from sclm_hf.modeling.uce.convert_uce import convert_checkpoint

from .golden_uce import PROTEIN_FILE, convert_case, original_folder


@pytest.fixture
def source(tmp_path):
    """A release folder, to be spoiled."""
    return original_folder("case_a", tmp_path / "release")


def change_weights(source, change):
    tensors = torch.load(source / "4layer_model.torch", weights_only=True)
    change(tensors)
    torch.save(tensors, source / "4layer_model.torch")


def test_folder_opens_through_auto_classes(tmp_path):
    folder = convert_case("case_a", tmp_path)
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, UCEConfig)
    assert (config.vocab_size, config.expression_decoder_sizes) == (139, [48, 32, 16])
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, ChromosomeProcessor)
    assert (processor.feature_extractor.n_draws, processor.feature_extractor.max_length) == (50, 80)
    assert processor.tokenizer.convert_tokens_to_ids(["<pad>", "GN059", "<human:1>"]) == [0, 4, 131]
    _, info = AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not list(folder.glob("*.py"))


def test_every_tensor_is_reported(source, tmp_path):
    tensors = torch.load(source / "4layer_model.torch", weights_only=True)
    report = convert_checkpoint(source, tmp_path / "out")
    assert set(report.used) | set(report.renamed) | set(report.dropped) == set(tensors)
    assert report.renamed["pe_embedding.weight"] == ["protein_embeddings.safetensors"]
    assert "human: 120 genes" in report.summary()
    assert json.loads((tmp_path / "out" / "loading_report.json").read_text())["renamed"] == report.renamed


def test_configuration_has_no_unknown_keys(source, tmp_path):
    convert_checkpoint(source, tmp_path / "out")
    known = {field.name for field in fields(UCEConfig)} | set(PreTrainedConfig().to_dict())
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert set(written) <= known | {"model_type", "transformers_version"}


def test_settings_of_the_release_are_the_defaults(source, tmp_path):
    (source / "config.json").write_text('{"nhead": 4, "CHROM_TOKEN_OFFSET": 131}')
    convert_checkpoint(source, tmp_path / "out")
    extractor = AutoProcessor.from_pretrained(tmp_path / "out").feature_extractor
    assert (extractor.n_draws, extractor.max_length) == (1024, 1536)
    assert AutoConfig.from_pretrained(tmp_path / "out").hidden_dropout_prob == 0.05


@pytest.mark.parametrize(("settings", "asked"), [("{}", "nhead"), ('{"nhead": 4}', "CHROM_TOKEN_OFFSET")])
def test_what_nothing_tells_is_asked_for(source, tmp_path, settings, asked):
    (source / "config.json").write_text(settings)
    with pytest.raises(CheckpointError, match=asked):
        convert_checkpoint(source, tmp_path / "out")


def test_table_of_the_same_proteins_is_that_of_the_weights(source, tmp_path):
    torch.save(torch.zeros(131, 40), source / "all_tokens.torch")
    report = convert_checkpoint(source, tmp_path / "out")
    assert "the table is that of the weights" in report.summary()
    tensors = torch.load(source / "4layer_model.torch", weights_only=True)
    proteins = AutoModel.from_pretrained(tmp_path / "out").get_input_embeddings()
    assert torch.equal(proteins(torch.arange(139)), tensors["pe_embedding.weight"])


@pytest.mark.slow
def test_table_with_the_proteins_of_a_new_species(source, tmp_path):
    released = torch.load(source / "4layer_model.torch", weights_only=True)["pe_embedding.weight"]
    tokens = torch.cat([released[:131], torch.full((2, 40), 7.0)])
    torch.save(tokens, source / "all_tokens.torch")
    torch.save({"Gata1": torch.zeros(2), "Spi1": torch.zeros(2)}, source / "axolotl.pt")
    (source / "species_offsets.pkl").write_bytes(pickle.dumps({"human": 4, "axolotl": 131}))
    with (source / "species_chrom.csv").open("a") as file:
        file.write("axolotl,GATA1,3p,100\naxolotl,SPI1,5q,50\n")
    report = convert_checkpoint(source, tmp_path / "out")
    assert "in place of the 139 rows" in report.summary()
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    gene_ids = processor.map_genes(["spi1", "Gata1"], species="axolotl").gene_ids
    assert gene_ids.tolist() == [132, 131]
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    generator = torch.Generator().manual_seed(23)
    drawn = torch.normal(0.0, 1.0, (8, 40), generator=generator)
    assert_close(model.get_input_embeddings()(torch.arange(141)), torch.cat([tokens, drawn]), rtol=0, atol=0)
    batch = processor.encode(np.array([[4, 2]], np.float32), gene_ids, cell_ids=[0])
    assert processor.tokenizer.convert_tokens_to_ids("<axolotl:3p>") == 133
    assert torch.isfinite(model(torch.from_numpy(batch["input_ids"])).cell_embedding).all()


def test_genes_without_a_place_are_reported_and_not_used(source, tmp_path):
    lines = (source / "species_chrom.csv").read_text().splitlines(keepends=True)
    left_out = lines.pop(1).split(",")[1]
    (source / "species_chrom.csv").write_text("".join(lines))
    report = convert_checkpoint(source, tmp_path / "out")
    assert "human: 1 more genes have no place" in report.summary()
    assert AutoProcessor.from_pretrained(tmp_path / "out").map_genes([left_out]).gene_ids.tolist() == [-1]


@pytest.mark.parametrize("missing", ["species_chrom.csv", "species_offsets.pkl"])
def test_missing_table(source, tmp_path, missing):
    (source / missing).unlink()
    with pytest.raises(CheckpointError, match=f"`{missing}` is missing"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_weights_and_proteins(source, tmp_path):
    (source / "protein_embeddings" / PROTEIN_FILE).unlink()
    with pytest.raises(CheckpointError, match="no protein file"):
        convert_checkpoint(source, tmp_path / "out")
    (source / "4layer_model.torch").unlink()
    with pytest.raises(CheckpointError, match="found: none"):
        convert_checkpoint(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("decoder.3.bias"), "missing: model.decoder.output.bias"),
        (lambda t: t.update({"surprise.weight": torch.zeros(2)}), "surprise.weight"),
        (lambda t: t.update({"decoder.3.bias": torch.zeros(3)}), r"wrongly shaped.*\(3,\) instead of"),
        (lambda t: t.pop("pe_embedding.weight"), "lack `pe_embedding.weight`"),
    ],
)
def test_weights_that_do_not_fit(source, tmp_path, change, message):
    change_weights(source, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_checkpoint(source, tmp_path / "out")
    assert "4layer_model.torch" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("species_offsets.pkl", pickle.dumps(["human"]), "species -> first token"),
        ("species_offsets.pkl", pickle.dumps({"mouse": 4}), "`human`, which `species_offsets.pkl` does not have"),
        ("species_offsets.pkl", pickle.dumps({"human": 20}), "take the rows up to 140"),
        ("species_chrom.csv", b"species,gene_symbol\nhuman,GN001\n", "must hold the columns"),
        ("config.json", b'{"nhead": 4, "CHROM_TOKEN_OFFSET": 136}', "names 5 chromosomes"),
    ],
)
def test_tables_that_do_not_fit(source, tmp_path, name, content, message):
    (source / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_malicious_offsets_are_refused_and_nothing_runs(source, tmp_path):
    class Malicious:
        def __reduce__(self):
            return open, (str(tmp_path / "trace"), "w")

    (source / "species_offsets.pkl").write_bytes(pickle.dumps({"human": Malicious()}))
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "trace").exists()


def test_the_protein_table_is_pushed_with_the_model(tmp_path):
    folder = convert_case("case_a", tmp_path)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert "protein_embeddings.safetensors" in read_folder(folder, "me/uce").files


@pytest.mark.parametrize(
    ("name", "value"),
    [("nhead", "x"), ("nhead", 0), ("nhead", 7), ("nhead", None), ("CHROM_TOKEN_OFFSET", "a"), ("dropout", 3)],
)
def test_settings_of_wrong_kinds_are_told(tmp_path, name, value):
    source = original_folder("case_a", tmp_path / "original")
    settings = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(settings | {name: value}))
    with pytest.raises(CheckpointError, match="make no model"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
