import math

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

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
