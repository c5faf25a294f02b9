"""Columns of labels that a task-specific model cannot learn from."""

import numpy as np
import pytest

import sclm_hf
from sclm_hf.errors import ConfigurationError, SclmWarning
from sclm_hf.training.specialists import _check_labels

from .common import labelled_cells


@pytest.mark.parametrize("column", ["name", "depth"])
def test_names_and_measurements_are_no_labels(column, tmp_path):
    cells = labelled_cells()
    cells.obs["name"], cells.obs["depth"] = cells.obs_names, np.arange(60) / 4
    with pytest.raises(ConfigurationError, match=f"`obs\\['{column}'\\]` holds 60 different .*`--label-key`"):
        sclm_hf.fit("ciform", cells, tmp_path / "model", label_key=column)
    assert not (tmp_path / "model").exists()


def test_a_label_of_a_single_cell_is_told():
    cells = labelled_cells()
    cells.obs["cell_type"] = ["rare", *cells.obs["cell_type"][1:-1], None]
    with pytest.warns(SclmWarning, match="A single cell has the label 'rare'"):
        _check_labels(cells, "cell_type")
    _check_labels(labelled_cells(), "cell_type")
    _check_labels(labelled_cells(), "absent")
