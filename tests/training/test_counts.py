"""The counts of a corpus as one matrix."""

import logging

import anndata as ad
import numpy as np
import pytest

from sclm_hf.corpora.cell_corpus import CellCorpus
from sclm_hf.opening.tiny import make_processor
from sclm_hf.tokenization.genes.gene_vocabulary import GeneVocabulary
from sclm_hf.training.counts import counts_in_order, labels_in_order

from .h5ad_files import GENES, write_h5ad

OTHERS = [*GENES[5:], "OTHER1", "OTHER2"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counts")
    return [write_h5ad(folder / "a.h5ad", 30), write_h5ad(folder / "b.h5ad", 20, seed=1, genes=OTHERS)]


def test_counts_are_those_of_the_files_with_a_column_for_each_gene(files):
    corpus = CellCorpus(files, make_processor("scgpt", GENES), label_column="cell_type", rows={"a": np.arange(3, 30)})
    genes = GeneVocabulary.from_genes([*reversed(OTHERS), *GENES[:5]], ())
    counts, measured = counts_in_order(corpus, genes)
    a, b = (ad.read_h5ad(file).to_df() for file in files)
    expected = [one.reindex(columns=list(genes), fill_value=0).to_numpy() for one in (a[3:], b)]
    np.testing.assert_array_equal(counts.toarray(), np.concatenate(expected))
    np.testing.assert_array_equal(measured.datasets, np.repeat([0, 1], [27, 20]))
    known = [[gene in one.columns for gene in genes] for one in (a, b)]
    np.testing.assert_array_equal(measured.genes, known)
    assert counts_in_order(corpus, GeneVocabulary.from_genes(GENES[5:], ()))[1] is None


def test_counts_and_labels_stand_in_the_order_of_batches_also_where_cells_come_in_samples(files):
    for family in ("scgpt", "cellplm"):
        corpus = CellCorpus(
            files, make_processor(family, GENES), label_column="cell_type", batch_column="cell_type", shuffle=False
        )
        batches = list(corpus.batches(100))
        labels = np.concatenate([batch["labels"] for batch in batches])
        np.testing.assert_array_equal(labels_in_order(corpus), labels)
        assert counts_in_order(corpus, GeneVocabulary.from_genes(GENES, ()))[0].shape == (50, 40)


def test_genes_that_a_file_lacks_are_told_once_per_file(files, caplog):
    corpus = CellCorpus(files, make_processor("scgpt", GENES), label_column="cell_type", shuffle=False)
    logging.getLogger("sclm_hf").addHandler(caplog.handler)
    counts_in_order(corpus, GeneVocabulary.from_genes(GENES, ()))
    logging.getLogger("sclm_hf").removeHandler(caplog.handler)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["`b` lacks 5 of 40 genes"]
