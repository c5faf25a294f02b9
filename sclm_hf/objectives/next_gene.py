"""Next gene: predict each gene of a ranking from those before it.

Source: Shen et al., "Generative pretraining from large-scale transcriptomes for single-cell deciphering", iScience 26,
106536 (2023), doi:10.1016/j.isci.2023.106536.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigurationError
from ..tokenization.encodings.masks import IGNORED, gene_labels
from .collation import CellCollator


@dataclass
class NextGeneCollator(CellCollator):
    """Asks for the tokens themselves in `labels`; the head compares each with the prediction one position before.

    As published, the token that ends a cell is to be predicted too, and padding is not. The first token, of which
    nothing is known, is left out here: the original keeps it, and its head never looks at it, but it would be counted
    where losses are divided by the number of targets.

    Gives:
        The batch without `cell_ids`, and `labels` (cells, genes) int64: the token, -100 at the first position and at
        padding.
    """

    narrow = True

    objective = "next_gene"

    @classmethod
    def from_processor(cls, processor: Any, **overrides: Any) -> "NextGeneCollator":
        """A collator for the tokens of `processor`; `overrides` are the collator's own arguments.

        Raises:
            ConfigurationError: the encoding does not rank genes, so that none is the next.
        """
        encoding = processor.feature_extractor.value_encoding
        if not encoding.ranks_genes:
            raise ConfigurationError(
                f"The next gene is that of a ranking, and the encoding {encoding.name!r} has none: use 'rank'."
            )
        return super().from_processor(processor, **overrides)

    def collate(self, batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        inputs = {name: values for name, values in batch.items() if name not in ("cell_ids", "labels")}
        labels = gene_labels(batch["input_ids"], batch["attention_mask"].astype(bool))
        labels[:, 0] = IGNORED
        return inputs | {"labels": labels}
