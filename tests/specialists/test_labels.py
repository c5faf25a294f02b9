"""Columns of labels that a task-specific model cannot learn from."""

import numpy as np
import pytest

import sclm_hf
from sclm_hf.errors import ConfigurationError, ExpressionError, SclmWarning
from sclm_hf.specialists.cells import read_counts, read_labels
from sclm_hf.training.specialists import _check_labels

from .common import labelled_cells


@pytest.mark.parametrize("column", ["name", "depth"])
def test_names_and_measurements_are_no_labels(column, tmp_path):
    cells = labelled_cells()
    cells.obs["name"], cells.obs["depth"] = cells.obs_names, np.arange(60) / 4
    with pytest.raises(ConfigurationError, match=f"`obs\\['{column}'\\]` holds 60 different .*`--label-key`"):
        sclm_hf.fit("ciform", cells, tmp_path / "model", label_key=column)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("missing", ["", None])
@pytest.mark.parametrize("is_categorical", [False, True])
def test_cells_without_a_label_are_refused(missing, is_categorical):
    cells = labelled_cells()
    cells.obs["cell_type"] = [missing, *cells.obs["cell_type"][1:]]
    if is_categorical:
        cells.obs["cell_type"] = cells.obs["cell_type"].astype("category")
    with pytest.raises(ConfigurationError, match=r"1 cells have no label in `obs\['cell_type'\]`: leave them out"):
        read_labels(cells, "cell_type")
    _check_labels(cells, "cell_type")
    # as it is told
    labelled = cells.obs["cell_type"].notna() & (cells.obs["cell_type"] != "")
    assert len(read_labels(cells[labelled], "cell_type")[0]) == 59


def test_cells_are_one_anndata_with_the_layer_of_training():
    cells = labelled_cells()
    with pytest.raises(ConfigurationError, match=r"got dict: .* one file without `NAME=`"):
        read_counts({"rna": cells})
    with pytest.raises(ExpressionError, match=r"no layer `mine` in the cells, .* told for training .*, but X"):
        read_counts(cells, "mine")


def test_a_label_of_a_single_cell_is_told():
    cells = labelled_cells()
    cells.obs["cell_type"] = ["rare", *cells.obs["cell_type"][1:-1], None]
    with pytest.warns(SclmWarning, match="A single cell has the label 'rare'"):
        _check_labels(cells, "cell_type")
    _check_labels(labelled_cells(), "cell_type")
    _check_labels(labelled_cells(), "absent")
