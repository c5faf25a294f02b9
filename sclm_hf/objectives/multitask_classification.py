"""Multi-task classification: one label per cell for each of several tasks, learnt together.

Source: Chen et al., "Quantized multi-task learning for context-specific representations of gene network dynamics",
bioRxiv (2024), doi:10.1101/2024.08.16.608180. The losses of the tasks, weighted, are added up in the model's head.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..errors import ConfigurationError
from .cell_classification import check_classes
from .collation import CellCollator, require_column


@dataclass
class MultiTaskClassificationCollator(CellCollator):
    """Puts the labels of the tasks side by side.

    Args:
        num_labels: task -> number of its classes, in the order of the model's heads; labels outside are an error. The
            labels of a task are looked for in `labels_<task>`, which `CellCorpus` makes of its `task_columns`.

    Gives:
        The batch without `cell_ids` and the tasks' own columns, and `labels` (cells, tasks) int64; -100 is ignored.
    """

    narrow = True

    num_labels: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.num_labels:
            raise ConfigurationError("`num_labels` must name at least one task and the number of its classes.")

    def collate(self, batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        columns = {task: f"labels_{task}" for task in self.num_labels}
        labels = []
        for task, column in columns.items():
            why = f"the task {task!r} needs one label per cell (name the column in `task_columns` of the corpus)"
            labels.append(require_column(batch, column, why).astype(np.int64))
            check_classes(labels[-1], self.num_labels[task], f" of the task {task!r}")
        left_out = {"cell_ids", *columns.values()}
        inputs = {name: values for name, values in batch.items() if name not in left_out}
        return inputs | {"labels": np.stack(labels, axis=1)}
