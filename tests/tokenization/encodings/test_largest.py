"""Long cells that keep the genes of the largest z-scores."""

import numpy as np
import pytest

from sclm_hf import CellCorpus, CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.errors import ConfigurationError

from ...corpora.conftest import GENES, make_cells

RNG = np.random.default_rng(0)
MEANS = dict(zip(GENES, RNG.uniform(0, 5, 40).tolist(), strict=True))
DEVIATIONS = dict(zip(GENES, RNG.uniform(0, 2, 40).tolist(), strict=True))


def make_processor(encoding, **settings):
    statistics = {"gene_means": MEANS, "gene_deviations": DEVIATIONS, "truncation": "zscore", "max_length": 9}
    extractor = ExpressionFeatureExtractor(encoding=encoding, **statistics | settings)
    return CellProcessor(extractor, GeneTokenizer.from_genes(GENES))


def rows_of(batch) -> list[dict[int, float]]:
    """Gene -> value of each cell, in the order of its tokens."""
    values = batch.get("expression_values", np.zeros(batch["input_ids"].shape))
    real = batch["attention_mask"] == 1
    return [
        dict(zip(*(part[keep].tolist() for part in row), strict=True))
        for *row, keep in zip(batch["input_ids"], values, real, strict=True)
    ]


@pytest.mark.parametrize("encoding", ["bins", "continuous", "rank", "zscored"])
def test_the_genes_of_the_largest_z_scores_are_kept_with_their_values_in_their_order(encoding):
    cells = make_cells(50, 3)
    counts, vocabulary = cells.X.toarray(), make_processor(encoding).tokenizer.gene_vocabulary
    z = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4) - np.array(list(MEANS.values()))
    z /= np.maximum(np.array(list(DEVIATIONS.values())), 0.1)
    z[(counts == 0) & (encoding != "zscored")] = -np.inf
    truncation = "head" if encoding == "rank" else "sample"
    whole = rows_of(make_processor(encoding, max_length=None, truncation=truncation)(cells))
    cut = rows_of(make_processor(encoding)(cells))
    for row, (all_genes, kept) in enumerate(zip(whole, cut, strict=True)):
        n = min(8, int(np.isfinite(z[row]).sum()))
        largest = {vocabulary[GENES[gene]] for gene in np.argsort(-z[row])[:n]} | {vocabulary["<cls>"]}
        assert set(kept) == largest
        assert list(kept.items()) == [(gene, value) for gene, value in all_genes.items() if gene in largest]


def test_lengths_and_streams_agree(tmp_path):
    cells, processor = make_cells(50, 3), make_processor("bins")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    lengths = processor.lengths(cells.X, processor.map_genes(GENES).gene_ids)
    batch = processor(cells)
    np.testing.assert_array_equal(lengths, batch["attention_mask"].sum(1))
    (streamed,) = CellCorpus(tmp_path, processor, shuffle=False, group_by_length=False).batches(50)
    np.testing.assert_array_equal(streamed["input_ids"], batch["input_ids"])
    np.testing.assert_array_equal(streamed["expression_values"], batch["expression_values"])


def test_statistics_are_asked_for():
    processor = make_processor("bins", gene_means=None, gene_deviations=None)
    with pytest.raises(ConfigurationError, match="`truncation='zscore'` needs `gene_means`"):
        processor(make_cells(5))
