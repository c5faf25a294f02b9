import numpy as np
import pytest

from sclm_hf import CellCorpus
from sclm_hf.corpora.gene_svd import gene_svd, zscored_blocks
from sclm_hf.corpora.statistics import gene_statistics

from .conftest import make_processor


@pytest.fixture(scope="module")
def corpus(folder):
    return CellCorpus(folder, make_processor())


@pytest.fixture(scope="module")
def statistics(corpus):
    return gene_statistics(corpus)


def test_vectors_are_those_of_the_z_scored_cells(corpus, statistics):
    cells = np.zeros((0, corpus.processor.tokenizer.gene_vocabulary.size))
    for genes, values in zscored_blocks(corpus, statistics, 1000):
        cells = np.concatenate([cells, np.zeros((len(values), cells.shape[1]))])
        cells[-len(values) :, genes] = values
    assert cells.shape[0] == len(corpus) and abs(cells.mean(0)).max() < 1e-5
    vectors, values = gene_svd(corpus, statistics, 8)
    _, expected, right = np.linalg.svd(cells, full_matrices=False)
    # all but the first are nearly as long as one another
    np.testing.assert_allclose(values[:4], expected[:4], rtol=0.01)
    assert abs(vectors[:, 0] @ right[0]) > 0.9999
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(8), atol=1e-5)
    special = list(corpus.processor.tokenizer.gene_vocabulary.special_tokens.values())
    assert (vectors[special] == 0).all() and (vectors.max(0) == np.abs(vectors).max(0)).all()


def test_there_are_no_more_vectors_than_genes_or_cells(folder, corpus, statistics):
    assert gene_svd(corpus, statistics, 100)[0].shape[1] == 40
    assert gene_svd(corpus, statistics, 100, n_cells=20)[0].shape[1] <= 20


def test_it_is_the_same_every_time(corpus, statistics):
    np.testing.assert_array_equal(gene_svd(corpus, statistics, 5)[0], gene_svd(corpus, statistics, 5)[0])
