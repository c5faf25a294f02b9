import numpy as np
import pytest
import torch

from sclm_hf.errors import CorpusError
from sclm_hf.objectives.cell_classification import CellClassificationCollator

from .objective_cells import cells


def test_labels_go_through_and_cell_ids_do_not():
    batch = cells(4) | {"labels": np.array([0, 2, -100, 1], np.int32)}
    inputs = CellClassificationCollator(num_labels=3)(batch)
    assert inputs["labels"].dtype == torch.int64 and inputs["labels"].tolist() == [0, 2, -100, 1]
    assert set(inputs) == {"input_ids", "expression_values", "attention_mask", "labels"}


def test_missing_and_impossible_labels_are_refused():
    with pytest.raises(CorpusError, match="label_column"):
        CellClassificationCollator(num_labels=3)(cells(4))
    with pytest.raises(CorpusError, match=r"\[3\]"):
        CellClassificationCollator(num_labels=3)(cells(2) | {"labels": np.array([0, 3])})
