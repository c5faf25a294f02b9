"""Harmony through its own package."""

import numpy as np
import pytest

from sclm_hf.errors import ConfigurationError
from sclm_hf.evaluation.integration.harmony import harmony
from sclm_hf.evaluation.integration.neighbours import batch_mixing

pytest.importorskip("harmonypy", reason="harmonypy is in the extra `integration`")


# with as many cells as dimensions the package takes rows for columns
@pytest.mark.parametrize(("n_cells", "size"), [(200, 7), (80, 80)])
def test_batches_mix_and_the_same_seed_gives_the_same(n_cells, size):
    batches = np.resize(["a", "b"], n_cells)
    embedding = np.random.default_rng(0).normal(size=(n_cells, size)) + (batches == "a")[:, None]
    corrected = harmony(embedding, batches)
    assert corrected.shape == embedding.shape and corrected.dtype == np.float32
    assert batch_mixing(corrected, batches) > batch_mixing(embedding, batches) + 0.1
    np.testing.assert_array_equal(corrected, harmony(embedding, batches))


def test_too_few_cells_are_refused():
    with pytest.raises(ConfigurationError, match="needs 60, got 30"):
        harmony(np.zeros((30, 2)), ["a"] * 30)
