"""Embeddings of genes, by name."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel
from typer.testing import CliRunner

import sclm_hf
from sclm_hf.cli.main import make_app
from sclm_hf.errors import ConfigurationError
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.registry import FAMILIES

from ..tiny import GENES, make_cells, make_model, make_processor, save_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("scgpt"))


def test_each_gene_has_what_the_encoder_adds_values_to(model):
    table = sclm_hf.gene_embeddings(model)
    assert list(table.index) == GENES and table.shape == (90, 32)
    batch = make_processor()(make_cells(1), return_tensors="pt")
    with torch.no_grad():
        expected = make_model()(**batch).gene_embeddings[0, 1:]
    ids = batch["input_ids"][0, 1:]
    names = [make_processor().tokenizer.convert_ids_to_tokens(int(one)) for one in ids]
    np.testing.assert_allclose(table.loc[names], expected, atol=1e-6)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_has_some(family, tmp_path):
    folder = make_tiny_checkpoint(family, tmp_path / family)
    table = sclm_hf.gene_embeddings(folder, ["MS4A1", "CD3D"])
    assert list(table.index) == ["MS4A1", "CD3D"] and np.isfinite(table).all().all()
    ids = torch.tensor([AutoModel.from_pretrained(folder).config.vocab_size - 1])
    assert AutoModel.from_pretrained(folder).embed_genes(ids).shape == (1, table.shape[1])
    assert not np.allclose(table.loc["MS4A1"], table.loc["CD3D"])


def test_unknown_genes_are_named(model):
    assert list(sclm_hf.gene_embeddings(model, "GENE7").index) == ["GENE7"]
    with pytest.raises(ConfigurationError, match=r"'NOTHING', 'MORE' are no genes of .*leave out of `genes`"):
        sclm_hf.gene_embeddings(model, ["GENE1", "NOTHING", "MORE"])
    with pytest.raises(ConfigurationError, match="is empty"):
        sclm_hf.gene_embeddings(model, [])


def test_means_over_cells_are_those_of_the_last_layer(model):
    cells = make_cells(9)
    table = sclm_hf.gene_embeddings(model, cells=cells, batch_size=4)
    batch = make_processor()(cells, return_tensors="pt")
    with torch.no_grad():
        hidden = make_model()(**batch).last_hidden_state
    number = make_processor().tokenizer.convert_tokens_to_ids("GENE3")
    is_gene = (batch["input_ids"] == number) & batch["attention_mask"].bool()
    np.testing.assert_allclose(table.loc["GENE3"], hidden[is_gene].mean(0), atol=1e-5)
    assert "UNKNOWN1" not in table.index


def test_genes_that_no_cell_has_are_left_out_or_refused(model):
    cells = make_cells(3)[:, GENES[:50]].copy()
    assert set(sclm_hf.gene_embeddings(model, cells=cells).index) <= set(GENES[:50])
    with pytest.raises(ConfigurationError, match="'GENE80' is in none of the cells"):
        sclm_hf.gene_embeddings(model, ["GENE80"], cells=cells)


def test_a_model_whose_tokens_are_cells_has_no_means(tmp_path):
    cells = make_cells(5)
    folder = make_tiny_checkpoint("cellplm", tmp_path / "cellplm", genes=GENES)
    with pytest.raises(ConfigurationError, match="no vector for each gene"):
        sclm_hf.gene_embeddings(folder, cells=cells)


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".parquet"])
def test_the_command_writes_the_table(model, tmp_path, suffix):
    output = tmp_path / f"genes{suffix}"
    arguments = ["gene-embeddings", str(output), "--model", model]
    done = CliRunner().invoke(make_app(), [*arguments, "--genes", "GENE2, GENE1"])
    assert done.exit_code == 0, done.output
    separators = {".tsv": "\t", ".csv": ","}
    is_text = suffix in separators
    table = pd.read_csv(output, sep=separators[suffix], index_col="gene") if is_text else pd.read_parquet(output)
    np.testing.assert_allclose(table, sclm_hf.gene_embeddings(model, ["GENE2", "GENE1"]), rtol=1e-6)
    record = json.loads((tmp_path / "genes.json").read_text())["gene_embeddings"]
    assert record["model"] == model and record["n_genes"] == 2 and record["n_genes_in_vocabulary"] == len(GENES)
    assert record["from"] == "the model" and "sclm_hf" in record["versions"] and "coverage" not in record
    for kept in (output, tmp_path / "genes.json"):
        again = CliRunner().invoke(make_app(), arguments)
        assert again.exit_code == 1 and "--overwrite" in again.output
        kept.unlink()
    wrong = CliRunner().invoke(make_app(), ["gene-embeddings", str(tmp_path / "a.txt"), "--model", model])
    assert wrong.exit_code == 1 and ".csv" in wrong.output


def test_means_over_cells_say_how_the_genes_of_these_met_the_model(model, tmp_path):
    make_cells(9).write_h5ad(tmp_path / "cells.h5ad")
    arguments = ["gene-embeddings", str(tmp_path / "genes.csv"), "--model", model, "--layer", "X"]
    done = CliRunner().invoke(make_app(), [*arguments, "--cells", str(tmp_path / "cells.h5ad")])
    assert done.exit_code == 0 and "genes.json" in done.output, done.output
    record = json.loads((tmp_path / "genes.json").read_text())["gene_embeddings"]
    assert record["coverage"]["n_missing"] == 1 and record["data"] == "X"
    assert record["from"] == "cells" and record["settings"]["batch_size"] == 64
