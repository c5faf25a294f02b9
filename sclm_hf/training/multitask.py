"""Metrics of a classifier for several tasks at once."""

from collections.abc import Mapping

import numpy as np

from .validation import ComputeMetrics, classification_metrics


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
