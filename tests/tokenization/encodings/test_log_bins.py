"""Bins of the logarithm, and the recorded preprocessing of the original scBERT."""

import numpy as np
import pytest
from scipy import sparse

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.errors import ConfigurationError

from ..golden import GOLDEN


def processor(genes, **settings):
    tokens = {gene: number for number, gene in enumerate([*genes, "<cls>", "<pad>"])}
    tokenizer = GeneTokenizer.from_genes(tokens, special_tokens=("<cls>", "<pad>"))
    return CellProcessor(ExpressionFeatureExtractor.for_family("scbert", **settings), tokenizer)


def encode(of, matrix, genes, **how):
    mapping = of.map_genes(genes)
    return of.encode(matrix, mapping.gene_ids, cell_ids=np.arange(matrix.shape[0]), **how)


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN / "scbert" / "preprocess" / "io_preprocess.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_recorded_counts_become_the_recorded_ids(recorded):
    kept = np.isin(recorded["all_cells"], recorded["kept_cells"])
    batch = encode(processor(recorded["ref_genes"]), recorded["raw_counts"][kept], recorded["raw_genes"])
    np.testing.assert_array_equal(batch["expression_values"], recorded["input_ids"])
    assert (batch["input_ids"] == np.arange(len(recorded["ref_genes"]) + 1)).all()
    assert batch["attention_mask"].all()


def test_recorded_logarithms_become_the_recorded_ids(recorded):
    of = processor(recorded["ref_genes"], expects="normalized")
    batch = encode(of, sparse.csr_matrix(recorded["preprocessed"]), recorded["ref_genes"])
    np.testing.assert_array_equal(batch["expression_values"], recorded["input_ids"])


def test_published_filter_leaves_cells_with_200_known_genes(recorded):
    """The filter is the user's; this says that what we count as known genes is what it counts."""
    of = processor(recorded["ref_genes"])
    matrix = sparse.csr_matrix(recorded["raw_counts"])
    gene_ids = of.map_genes(recorded["raw_genes"]).gene_ids
    known = np.diff(matrix[:, gene_ids >= 0].indptr)
    assert recorded["all_cells"][known >= 200].tolist() == recorded["kept_cells"].tolist()


def test_edges_of_bins_are_those_of_the_published_steps():
    """scanpy's normalize_total and log1p(base=2) in float32, then clip and cut."""
    rng = np.random.default_rng(0)
    genes = [f"GENE{i}" for i in range(60)]
    counts = rng.integers(0, 40, (500, 60)).astype(np.float32) * rng.integers(0, 2, (500, 60))
    # totals that are multiples of 10,000 put counts right on the edges
    counts[:, 0] += 10_000 * rng.integers(1, 4, 500) - counts.sum(1)
    scaled = counts / (counts.sum(1, keepdims=True) / np.float32(10_000))
    logarithms = np.log1p(scaled)
    np.divide(logarithms, np.log(2), out=logarithms, casting="same_kind")
    expected = np.minimum(logarithms, 5).astype(np.int64)
    batch = encode(processor(genes), sparse.csr_matrix(counts), genes)
    np.testing.assert_array_equal(batch["expression_values"][:, :-1], expected)


def test_genes_stand_in_the_order_of_the_vocabulary_and_missing_ones_are_not_expressed():
    genes = ["GENE0", "GENE1", "GENE2", "GENE3"]
    of = processor(genes)
    batch = encode(of, np.array([[0, 9_999, 1.0], [5, 0, 0]]), ["GENE3", "GENE0", "OTHER"])
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3, 4]] * 2
    assert batch["expression_values"].tolist() == [[5, 0, 0, 0, 0], [0, 0, 0, 5, 0]]
    assert of.lengths(np.ones((2, 1)), np.array([2])).tolist() == [5, 5]


def test_threads_change_nothing():
    genes = [f"GENE{i}" for i in range(50)]
    counts = np.random.default_rng(1).poisson(1.0, (33, 50)).astype(np.float32)
    one = encode(processor(genes), counts, genes)
    two = encode(processor(genes), counts, genes, num_threads=2)
    np.testing.assert_array_equal(one["expression_values"], two["expression_values"])


@pytest.mark.parametrize(
    "settings", [{"max_length": 100}, {"include_zero_genes": False}, {"cls_value": -2.0}, {"target_sum": 0.0}]
)
def test_settings_that_contradict_the_encoding(settings):
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        ExpressionFeatureExtractor.for_family("scbert", **settings)
