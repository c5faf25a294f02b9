"""Where the gene embeddings of a new model start."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file

from sclm_hf import CellCorpus
from sclm_hf.corpora.gene_svd import gene_svd
from sclm_hf.corpora.statistics import gene_statistics
from sclm_hf.errors import ConfigurationError
from sclm_hf.opening.new_models import new_config, new_model
from sclm_hf.opening.tiny import make_processor
from sclm_hf.registry import FAMILIES
from sclm_hf.training.gene_embeddings import read_gene_embeddings, start_gene_embeddings
from sclm_hf.training.settings.pretrain import PretrainArguments

from ..corpora.conftest import GENES, make_cells

VECTORS = np.random.default_rng(0).normal(size=(30, 4))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    cells = make_cells(60, 1)
    cells.obs["batch"] = "one"
    cells.write_h5ad(folder / "cells.h5ad")
    return folder


def started(family, file, start):
    """A new model, the table that it was drawn with, and that with which it starts."""
    torch.manual_seed(0)
    processor = make_processor(family, GENES)
    model = new_model(new_config(family, processor, FAMILIES[family].tiny), "pretrain")
    table = model.get_input_embeddings().weight
    drawn = table.detach().clone()
    corpus = CellCorpus(file, processor)
    start_gene_embeddings(model, corpus, str(start))
    return corpus, drawn.numpy(), table.detach().numpy()


@pytest.mark.parametrize("family", ["cellplm", "geneformer", "scbert", "scfoundation", "scgpt", "tgpt"])
def test_svd_starts_any_table_of_genes(family, file):
    corpus, drawn, table = started(family, file, "svd")
    vocabulary = corpus.processor.tokenizer.gene_vocabulary
    genes = [vocabulary[gene] for gene in GENES]
    vectors = gene_svd(corpus, gene_statistics(corpus), table.shape[1])[0][genes]
    scale = table[genes][0, 0] / vectors[0, 0]
    np.testing.assert_allclose(table[genes], vectors * scale, rtol=1e-4, atol=1e-6)
    assert scale >= 0.999 and table[genes].std() > 0.9 * drawn.std()
    others = np.setdiff1d(np.arange(len(table)), genes)
    np.testing.assert_array_equal(table[others], drawn[others])


def test_a_fixed_table_is_refused(file):
    with pytest.raises(ConfigurationError, match="no gene embeddings to be trained"):
        torch.manual_seed(0)
        processor = make_processor("scgpt", GENES)
        model = new_model(new_config("scgpt", processor, FAMILIES["scgpt"].tiny), "pretrain")
        model.get_input_embeddings().weight.requires_grad_(False)
        start_gene_embeddings(model, CellCorpus(file, processor), "svd")


def write(path):
    if path.suffix == ".csv":
        pd.DataFrame(VECTORS, index=GENES[:30]).to_csv(path)
    elif path.suffix == ".safetensors":
        save_file(dict(zip(GENES[:30], VECTORS, strict=True)), path)
    else:
        np.savez(path, genes=np.array(GENES[:30]), embeddings=VECTORS)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".npz", ".safetensors"])
def test_a_file_fills_the_first_columns_of_its_genes(file, tmp_path, suffix):
    corpus, drawn, table = started("scgpt", file, write(tmp_path / f"genes{suffix}"))
    vocabulary = corpus.processor.tokenizer.gene_vocabulary
    genes = [vocabulary[gene] for gene in GENES]
    np.testing.assert_allclose(table[genes[:30], :4], VECTORS, rtol=1e-5)
    np.testing.assert_array_equal(table[genes[:30], 4:], drawn[genes[:30], 4:])
    np.testing.assert_array_equal(table[genes[30:]], drawn[genes[30:]])


def test_wider_ones_come_as_principal_components(file, tmp_path):
    wide = np.random.default_rng(1).normal(size=(40, 3)) @ np.random.default_rng(2).normal(size=(3, 200))
    np.savez(tmp_path / "wide.npz", genes=np.array(GENES), embeddings=wide)
    corpus, _, table = started("scgpt", file, tmp_path / "wide.npz")
    genes = [corpus.processor.tokenizer.gene_vocabulary[gene] for gene in GENES]
    distances = np.linalg.norm(wide[:1] - wide, axis=1)
    np.testing.assert_allclose(np.linalg.norm(table[genes[:1]] - table[genes], axis=1), distances, rtol=1e-3)


def test_what_is_no_start_is_said_before_cells_are_read(tmp_path):
    with pytest.raises(ConfigurationError, match="must be 'svd', or a file that ends in"):
        PretrainArguments(gene_embeddings="pca")
    with pytest.raises(ConfigurationError, match="describe a new model"):
        PretrainArguments("model", gene_embeddings="svd")
    (tmp_path / "words.csv").write_text("gene,a\nGENE0,none\n")
    with pytest.raises(ConfigurationError, match="cannot be read as gene embeddings"):
        read_gene_embeddings(tmp_path / "words.csv")
