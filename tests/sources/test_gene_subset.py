"""Some genes of a source."""

import pickle

import anndata
import numpy as np
import pandas as pd
import pytest

from sclm_hf.errors import ConfigurationError
from sclm_hf.sources.gene_subset import GeneSubset
from sclm_hf.sources.in_memory import InMemorySource


@pytest.fixture
def source():
    var = pd.DataFrame({"ensembl_id": [f"ENSG0000000000{number}" for number in range(4)]}, index=list("abcd"))
    return InMemorySource(anndata.AnnData(np.arange(12, dtype="float32").reshape(3, 4) + 1, var=var))


def test_a_subset_has_its_genes_and_all_else_of_the_source(source):
    some = GeneSubset(source, ["d", "ENSG00000000001"], setting="`genes`")
    names, ids = some.genes()
    assert list(names) == ["b", "d"] and list(ids) == ["ENSG00000000001", "ENSG00000000003"] and some.n_genes == 2
    np.testing.assert_array_equal(some.read(np.array([0, 2])).toarray(), [[2, 4], [10, 12]])
    assert some.n_cells == 3 and some.name == source.name and list(some.obs_names()) == list(source.obs_names())
    assert pickle.loads(pickle.dumps(some)).n_genes == 2


def test_genes_that_are_not_there_are_named(source):
    with pytest.raises(ConfigurationError, match=r"`genes`: 2 of 3 genes are not in .*, such as 'x', 'y'"):
        GeneSubset(source, ["a", "y", "x"], setting="`genes`")
