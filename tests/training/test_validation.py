import math

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from sklearn.metrics import accuracy_score, f1_score

from sclm_hf.errors import SclmError
from sclm_hf.objectives.cell_classification import CellClassificationCollator
from sclm_hf.training.validation import classification_metrics, evaluate

from .training_cells import CLS, PAD, CellsInMemory, classifier


def test_logits_that_are_no_numbers_are_not_taken_for_the_first_class():
    AcceleratorState._reset_state()
    model = classifier()
    next(model.parameters()).data[:] = math.nan
    collator = CellClassificationCollator(pad_token_id=PAD, special_token_ids=(CLS, PAD), num_labels=3)
    with pytest.raises(SclmError, match="NaN or infinite for 8 of 8 evaluated cells"):
        evaluate(
            model,
            CellsInMemory(8),
            collator,
            Accelerator(cpu=True),
            batch_size=4,
            compute_metrics=classification_metrics,
        )


def test_metrics_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(50, 5)), generator.integers(-1, 4, 50)
    found = classification_metrics(logits, labels)
    true, predicted = labels[labels >= 0], logits.argmax(1)[labels >= 0]
    assert found["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"))


def test_each_label_that_occurs_has_its_own_score():
    logits, labels = np.eye(4)[[0, 0, 1, 1, 2]], np.array([0, 1, 1, -100, 2])
    found = classification_metrics(logits, labels, ["B", "NK", "T", "absent"])
    assert {name: value for name, value in found.items() if "/" in name} == pytest.approx(
        {"f1/B": 2 / 3, "f1/NK": 2 / 3, "f1/T": 1}
    )
