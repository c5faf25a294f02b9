import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from sclm_hf.errors import ExpressionError
from sclm_hf.tasks.running.cell_run import Results


def test_the_room_that_results_take_is_known_before_they_are_written():
    matrix = scipy.sparse.csr_matrix(np.eye(3, dtype="float32"))
    table = pd.DataFrame({"a": np.zeros(4)})
    results = Results(
        obs={"label": pd.Categorical(["a", "b", "a"])},
        obsm={"X": np.zeros((3, 5), np.float32)},
        obsp={"near": matrix},
        uns={"nested": {"table": table, "name": "text"}},
    )
    sparse = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    assert results.n_bytes >= 3 * 5 * 4 + sparse + 4 * 8
    assert Results().n_bytes == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_becomes_no_result(value):
    with pytest.raises(ExpressionError, match="`X` would not be finite"):
        Results(obsm={"X": np.array([[0, value]], np.float32)})
