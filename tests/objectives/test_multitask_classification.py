import numpy as np
import pytest

from sclm_hf.errors import ConfigurationError, CorpusError
from sclm_hf.objectives.multitask_classification import MultiTaskClassificationCollator

from .objective_cells import cells, rows


def batch():
    columns = {"labels_state": np.arange(40) % 3, "labels_donor": np.arange(40) % 2}
    return cells() | columns


def test_labels_stand_side_by_side_in_the_order_of_the_heads():
    inputs = MultiTaskClassificationCollator(num_labels={"donor": 2, "state": 3})(batch())
    assert set(inputs) == {"input_ids", "expression_values", "attention_mask", "labels"}
    np.testing.assert_array_equal(inputs["labels"], np.stack([np.arange(40) % 2, np.arange(40) % 3], axis=1))
    single = [{name: values[0] for name, values in rows(batch(), [i]).items()} for i in (4, 7)]
    assert MultiTaskClassificationCollator(num_labels={"state": 3})(single)["labels"].tolist() == [[1], [1]]


def test_what_does_not_fit_is_named():
    with pytest.raises(CorpusError, match=r"no `labels_tissue`.*'tissue'.*`task_columns`"):
        MultiTaskClassificationCollator(num_labels={"tissue": 2})(batch())
    with pytest.raises(CorpusError, match=r"Labels \[2\] of the task 'state' do not fit the model's 2 classes"):
        MultiTaskClassificationCollator(num_labels={"state": 2})(batch())
    with pytest.raises(ConfigurationError, match="at least one task"):
        MultiTaskClassificationCollator()
