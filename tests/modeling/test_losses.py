import math
from types import SimpleNamespace

import pytest
import torch

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.losses import classification_loss, counts, label_set_loss

LOGITS = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, -1.0], [0.5, 0.5, 0.5], [9.0, 1.0, 1.0]])
SETS = torch.tensor([[1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)
CONFIG = SimpleNamespace(problem_type="single_label_classification", num_labels=3)


def test_a_set_is_as_likely_as_its_classes_together():
    probabilities = LOGITS.softmax(dim=1)
    expected = -(math.log(probabilities[0, 0]) + math.log(probabilities[1, 1] + probabilities[1, 2]))
    assert label_set_loss(LOGITS, SETS).item() == pytest.approx(expected / 2)
    assert label_set_loss(LOGITS, SETS, 8).item() == pytest.approx(expected / 8)
    assert counts(SETS).tolist() == [True, True, False, False]


def test_sets_of_one_class_are_class_numbers():
    labels = torch.tensor([2, 0, 1, -100])
    sets = torch.nn.functional.one_hot(labels.clamp(min=0), 3).bool() & (labels != -100).unsqueeze(1)
    torch.testing.assert_close(classification_loss(LOGITS, sets, CONFIG), classification_loss(LOGITS, labels, CONFIG))


def test_gradients_stay_finite_where_nothing_counts():
    logits = LOGITS[2:].clone().requires_grad_()
    label_set_loss(logits, SETS[2:]).backward()
    assert logits.grad.tolist() == torch.zeros(2, 3).tolist()


def test_sets_of_other_classes_are_refused():
    with pytest.raises(ConfigurationError, match="must be"):
        label_set_loss(LOGITS, SETS[:, :2])
