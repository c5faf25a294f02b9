"""scVI through its own package, which is imported only when it is asked for."""

import sys

import numpy as np
import pytest
import scipy.sparse

from sclm_hf.errors import ConfigurationError, MissingDependencyError
from sclm_hf.evaluation.integration.scvi import scvi_embedding


def counts(n_cells=120, n_genes=30):
    return scipy.sparse.csr_matrix(np.random.default_rng(0).poisson(2.0, (n_cells, n_genes)).astype(np.float32))


def test_who_lacks_it_is_told_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scvi", None)
    with pytest.raises(MissingDependencyError, match=r"sclm_hf\[scvi\]"):
        scvi_embedding(counts(), ["a", "b"] * 60)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_whatever_was_drawn_before():
    pytest.importorskip("scvi", reason="scvi-tools is in the extra `scvi`")
    batches = np.resize(["a", "b"], 120)
    first = scvi_embedding(counts(), batches, n_genes=20, n_epochs=3)
    drawn = np.random.random(3)  # noqa: NPY002 -- scVI draws from it
    again = scvi_embedding(counts(), batches, n_genes=20, n_epochs=3)
    assert first.shape == (120, 10) and first.dtype == np.float32 and len(drawn) == 3
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, scvi_embedding(counts(), batches, n_genes=20, n_epochs=3, seed=1))
    with pytest.raises(ConfigurationError, match="needs 20 cells"):
        scvi_embedding(counts(10), batches[:10])
