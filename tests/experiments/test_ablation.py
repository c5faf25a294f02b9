"""What an ablation takes away, and what it leaves."""

import anndata
import numpy as np
import torch
from scipy.sparse import csr_matrix

from sclm_hf.experiments.ablation import exchange_genes, make_genes_alike, make_ranks_alike, with_shuffled_values
from sclm_hf.opening.loading import load_model
from sclm_hf.opening.tiny import make_tiny_checkpoint

GENES = ["ACTB", "CD4", "LYZ", "NKG7"]


def loaded(tmp_path, family):
    return load_model(make_tiny_checkpoint(family, tmp_path / family, genes=GENES), "AutoModel")


def test_shuffled_values_stay_in_the_cell_and_among_its_genes():
    counts = csr_matrix(np.random.default_rng(0).poisson(1.0, (30, 12)).astype(np.float32))
    shuffled = with_shuffled_values(anndata.AnnData(counts.copy()), 0).X
    np.testing.assert_array_equal(shuffled.indices, counts.indices)
    np.testing.assert_array_equal(shuffled.sum(axis=1), counts.sum(axis=1))
    assert (shuffled != counts).nnz


def test_exchanged_genes_have_embeddings_of_one_another_and_special_tokens_stay(tmp_path):
    one = loaded(tmp_path, "scgpt")
    table = one.model.get_input_embeddings().weight
    before = table.detach().clone()
    exchange_genes(one, 1)
    ids = [one.processor.tokenizer.gene_vocabulary[gene] for gene in GENES]
    assert (table[ids] != before[ids]).any(dim=1).all()
    torch.testing.assert_close(table[ids].sort(0).values, before[ids].sort(0).values)
    others = [row for row in range(len(table)) if row not in ids]
    assert torch.equal(table[others], before[others])


def test_genes_and_ranks_are_made_alike(tmp_path):
    one = loaded(tmp_path, "geneformer")
    make_genes_alike(one, 0)
    make_ranks_alike(one, 0)
    ids = [one.processor.tokenizer.gene_vocabulary[gene] for gene in GENES]
    positions = one.model.embeddings.position_embeddings.weight
    for table in (one.model.get_input_embeddings().weight[ids], positions):
        torch.testing.assert_close(table, table[:1].expand_as(table))
