"""Which perturbed cells are run together."""

import numpy as np
import pytest

from sclm_hf.tasks.perturbation.runs import _first_of_one_length


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([9, 8, 8, 8], 1),
        ([8, 8, 8, 7], 3),
        ([8, 8], 2),
        ([9, 8, 7, 6, 5], 5),
        ([5], 1),
        ([9, 9, 8, 8, 8, 8, 5], 2),
    ],
)
def test_cells_of_one_length_are_run_without_others_where_they_are_half(lengths, expected):
    assert _first_of_one_length(np.array(lengths)) == expected
