"""Networks without a language model."""

import numpy as np
import scipy.stats

from sclm_hf.evaluation.baselines.networks import boosted_trees, correlations

EXPRESSION = np.random.default_rng(0).gamma(2, size=(60, 6))
EXPRESSION[:, 4] = EXPRESSION[:, 1] + 0.1 * EXPRESSION[:, 0]
EXPRESSION[:, 5] = 1


def test_correlations_are_those_of_scipy_and_0_for_genes_that_do_not_vary():
    rows, columns = np.array([0, 2]), np.array([1, 4, 5])
    for ranks, expected in ((False, scipy.stats.pearsonr), (True, scipy.stats.spearmanr)):
        found = correlations(EXPRESSION, rows, columns, ranks=ranks)
        for row, column in np.ndindex(2, 2):
            pair = EXPRESSION[:, rows[row]], EXPRESSION[:, columns[column]]
            np.testing.assert_allclose(found[row, column], expected(*pair)[0], atol=1e-6)
        assert (found[:, 2] == 0).all()


def test_trees_find_the_regulator_and_never_a_gene_itself():
    found = boosted_trees(EXPRESSION, np.array([0, 1, 2, 4]), np.array([4, 1]), n_trees=20)
    assert found[:, 0].argmax() == 1 and found[3, 0] == 0 and found[1, 1] == 0
    np.testing.assert_array_equal(
        found, boosted_trees(EXPRESSION, np.array([0, 1, 2, 4]), np.array([4, 1]), n_trees=20)
    )
