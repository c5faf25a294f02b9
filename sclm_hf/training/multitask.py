"""Several tasks at once: the classifier with a head for each, and its metrics."""

import importlib
from collections.abc import Mapping, Sequence

import numpy as np
from transformers import PreTrainedModel

from ..errors import ConfigurationError
from ..opening.weights import family_of, open_model
from ..registry import FAMILIES
from .validation import ComputeMetrics, classification_metrics

_SUFFIX = "ForMultiTaskClassification"


def load_multitask_classifier(
    name: str, task_names: Mapping[str, Sequence[str]], weights: Sequence[float] | None = None
) -> PreTrainedModel:
    """The pre-trained model with a classifier for each task; a classifier that it lacks starts random.

    Args:
        name: folder or repository of the model.
        task_names: task -> names of its classes in the order of their numbers.
        weights: of the tasks' losses; 1 by default.

    Raises:
        ConfigurationError: the family has no head for several tasks.
    """
    family, _ = family_of(name)
    model_class = next((model for model in family.models if model.endswith(_SUFFIX)), None)
    if model_class is None:
        able = sorted(one.title for one in FAMILIES.values() if any(model.endswith(_SUFFIX) for model in one.models))
        raise ConfigurationError(
            f"{family.title} has no head for several tasks; {', '.join(able)} has. Give one `label_column`."
        )
    return open_model(
        name,
        getattr(importlib.import_module(family.modeling_module), model_class),
        new_head=True,
        task_names=list(task_names),
        label_names_per_task=[list(names) for names in task_names.values()],
        num_labels_per_task=[len(names) for names in task_names.values()],
        task_weights=None if weights is None else list(weights),
    )


def multitask_metrics(num_labels: Mapping[str, int]) -> ComputeMetrics:
    """Accuracy and macro-F1 of each task, `<task>_accuracy` and so on, and their means over the tasks.

    Args:
        num_labels: task -> number of its classes, in the order of the model's heads.
    """
    ends = np.cumsum(list(num_labels.values()))[:-1]

    def compute(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        heads = np.split(logits, ends, axis=1)
        of_task = {
            task: classification_metrics(head, column)
            for task, head, column in zip(num_labels, heads, labels.T, strict=True)
        }
        metrics = {f"{task}_{name}": value for task, found in of_task.items() for name, value in found.items()}
        names = next(iter(of_task.values()))
        return metrics | {name: float(np.mean([found[name] for found in of_task.values()])) for name in names}

    return compute
