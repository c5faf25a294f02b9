"""Cell classification: one label a cell."""

from dataclasses import dataclass

import torch

from ..errors import CorpusError
from .collation import IGNORED, CellCollator, require_column


@dataclass
class CellClassificationCollator(CellCollator):
    """Hands the batch on without `cell_ids`, with `labels` (cells,) int64; cells labelled -100 are ignored.

    Args:
        num_labels: number of classes; labels outside are an error. None skips the check.
    """

    num_labels: int | None = None

    def collate(self, batch: dict[str, torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
        labels = require_column(batch, "labels", "classification needs one label a cell").long()
        real = labels[labels != IGNORED]
        if self.num_labels is not None and ((real < 0) | (real >= self.num_labels)).any():
            wrong = sorted(set(real[(real < 0) | (real >= self.num_labels)].tolist()))
            raise CorpusError(
                f"Labels {wrong[:5]} do not fit the model's {self.num_labels} classes (0 to {self.num_labels - 1}): "
                "build the corpus with the model's `label_names`."
            )
        inputs = {name: tensor for name, tensor in batch.items() if name != "cell_ids"}
        return inputs | {"labels": labels}
