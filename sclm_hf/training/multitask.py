"""Metrics of a classifier for several tasks at once."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..evaluation.metrics import METRICS
from .validation import ComputeMetrics, classification_metrics


def multitask_metrics(label_names: Mapping[str, Sequence[str]]) -> ComputeMetrics:
    """Accuracy, macro-F1 and F1 per label of each task, `<task>_accuracy` and so on, and means over the tasks.

    Args:
        label_names: task -> names of its labels, in the order of the model's heads.
    """
    ends = np.cumsum(list(map(len, label_names.values())))[:-1]

    def compute(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        heads = np.split(logits, ends, axis=1)
        of_task = {
            task: classification_metrics(head, column, names)
            for (task, names), head, column in zip(label_names.items(), heads, labels.T, strict=True)
        }
        metrics = {f"{task}_{name}": value for task, found in of_task.items() for name, value in found.items()}
        return metrics | {name: float(np.mean([found[name] for found in of_task.values()])) for name in METRICS}

    return compute
