"""Cell classification: one label per cell."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CorpusError
from ..tokenization.encodings.masks import IGNORED
from .collation import CellCollator, require_column


@dataclass
class CellClassificationCollator(CellCollator):
    """Hands the batch on with `labels` (cells,) int64; cells labelled -100 are ignored.

    Args:
        num_labels: number of classes; labels outside are an error. None skips the check.
        left_out: what the model does not read.
    """

    narrow = True

    num_labels: int | None = None
    left_out: tuple[str, ...] = ("cell_ids",)

    @classmethod
    def from_processor(cls, processor: Any, **overrides: Any) -> "CellClassificationCollator":
        """As for [`CellCollator`]; the batches of a model of samples only tell which cells belong together."""
        left_out = ("cell_ids", "batch_labels") if processor.context == "sample" else ("cell_ids",)
        return super().from_processor(processor, **({"left_out": left_out} | overrides))

    def collate(self, batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        labels = require_column(batch, "labels", "classification needs one label per cell").astype(np.int64)
        if self.num_labels is not None:
            check_classes(labels, self.num_labels)
        inputs = {name: values for name, values in batch.items() if name not in self.left_out}
        return inputs | {"labels": labels}


def check_classes(labels: np.ndarray, num_labels: int, task: str = "") -> None:
    """Refuse labels other than 0 to `num_labels - 1` and -100; `task` names the task in the message.

    Raises:
        CorpusError: there are such labels.
    """
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= num_labels))]
    if len(wrong):
        raise CorpusError(
            f"Labels {sorted(set(wrong.tolist()))[:5]}{task} do not fit the model's {num_labels} classes (0 to "
            f"{num_labels - 1}): build the corpus with the model's `label_names`."
        )
