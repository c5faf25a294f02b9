"""Held-out cells that leave cells of every label to train on."""

import numpy as np
import pytest

from sclm_hf.corpora.order.even_splits import hold_out_evenly
from sclm_hf.sources.categories import CategoricalColumn


class Cells:
    """A source of cells with a few columns."""

    def __init__(self, name, **columns):
        self.name, self.columns = name, columns
        self.n_cells = len(next(iter(columns.values())))

    def column_names(self):
        return list(self.columns)

    def column(self, name):
        categories, codes = np.unique(self.columns[name], return_inverse=True)
        return CategoricalColumn(codes, tuple(categories))


def held_out(source, labels, share=0.2, **options):
    masks, by = hold_out_evenly([source], [np.arange(source.n_cells)], [np.asarray(labels)], share, **options)
    return masks[source.name], by


def test_whole_donors_are_held_out_where_there_are_several():
    donors = np.repeat([f"d{i}" for i in range(10)], 20)
    mask, by = held_out(Cells("a", donor_id=donors, cell_type=["x"] * 200), np.arange(200) % 3)
    assert by == "donor_id" and mask.sum() == 40
    assert not set(donors[mask]) & set(donors[~mask])


def test_a_donor_with_all_cells_of_a_label_is_trained_on():
    donors = np.repeat([f"d{i}" for i in range(10)], 20)
    for special in range(10):
        labels = np.where(donors == f"d{special}", 2, np.arange(200) % 2)
        mask, by = held_out(Cells("a", donor=donors), labels)
        assert by == "donor" and set(labels[~mask]) == {0, 1, 2}


@pytest.mark.parametrize("columns", [{"cell_type": ["x"] * 60}, {"batch": ["one", "two"] * 30}])
def test_otherwise_a_share_of_each_label_is_held_out(columns):
    labels = np.repeat([0, 1, 2, 3], [40, 15, 4, 1])
    mask, by = held_out(Cells("a", **columns), labels)
    assert by is None
    assert np.bincount(labels[mask], minlength=4).tolist() == [8, 3, 1, 0]
    np.testing.assert_array_equal(mask, held_out(Cells("a", **columns), labels)[0])
    assert (mask != held_out(Cells("a", **columns), labels, seed=1)[0]).any()


def test_a_column_that_only_some_files_have_is_not_taken():
    sources = [Cells("a", donor=["d"] * 10), Cells("b", cell_type=["x"] * 10)]
    masks, by = hold_out_evenly(sources, [np.arange(10)] * 2, [np.arange(10) % 2] * 2, 0.2)
    assert by is None and sum(mask.sum() for mask in masks.values()) == 4
