import numpy as np
import pytest
import scipy.sparse

from sclm_hf.errors import ExpressionError
from sclm_hf.tokenization.expression_filter import published_filter


def test_genes_go_first():
    # the last cell is large enough only with the gene that no other cell has
    matrix = np.array([[1, 2, 0], [3, 1, 0], [0, 1, 5]])
    kept = published_filter(matrix, min_cells=2, min_genes=2)
    assert kept.genes.tolist() == [True, True, False]
    assert kept.cells.tolist() == [True, True, False]
    assert kept.summary() == (
        "1 of 3 genes left out, expressed in fewer than 2 cells; then 1 of 3 cells, with fewer than 2 such genes"
    )


def test_stored_zeros_are_zeros():
    matrix = scipy.sparse.csr_matrix((np.array([0.0, 1.0, 1.0]), [0, 1, 1], [0, 2, 3]), (2, 2))
    assert published_filter(matrix, min_cells=1, min_genes=1).genes.tolist() == [False, True]


@pytest.mark.parametrize(("limits", "what"), [({"min_cells": 4}, "gene"), ({"min_cells": 1, "min_genes": 4}, "cell")])
def test_nothing_left(limits, what):
    with pytest.raises(ExpressionError, match=f"No {what} is left"):
        published_filter(np.ones((3, 3)), **limits)
