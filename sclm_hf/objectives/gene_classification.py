"""Gene classification: a class for some genes, the same in every cell.

Source: Theodoris et al., Nature 618, 616-624 (2023), doi:10.1038/s41586-023-06139-9: dosage-sensitive and -insensitive
transcription factors, and other classes of genes that are told apart by their context.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ConfigurationError
from ..tokenization.encodings.masks import IGNORED
from .collation import CellCollator


@dataclass
class GeneClassificationCollator(CellCollator):
    """Adds the classes of genes as `labels`.

    Args:
        gene_classes: id of a gene -> its class, 0, 1, …; genes that are not there are ignored.

    Gives:
        The batch without `cell_ids`, and `labels` (cells, genes) int64: the class of each gene, -100 for genes without
        one, special tokens and padding.
    """

    narrow = True

    gene_classes: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.gene_classes or min(self.gene_classes.values()) < 0:
            raise ConfigurationError("`gene_classes` must give at least one gene a class, counted from 0.")
        self._class_of = np.full(max(self.gene_classes) + 1, IGNORED)
        self._class_of[list(self.gene_classes)] = list(self.gene_classes.values())

    @classmethod
    def from_processor(
        cls, processor: Any, *, classes: Mapping[str, list[str]] | None = None, **overrides: Any
    ) -> "GeneClassificationCollator":
        """A collator for the tokens of `processor`.

        Args:
            processor: the processor of the model.
            classes: name of a class -> names of its genes; numbered in this order.
            **overrides: the collator's own arguments.

        Raises:
            ConfigurationError: a gene is in two classes, or no gene is known to the model.
        """
        if classes is not None:
            overrides["gene_classes"] = _numbered(processor.tokenizer.gene_vocabulary, classes)
        return super().from_processor(processor, **overrides)

    def collate(self, batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        ids = batch["input_ids"]
        known = (ids < len(self._class_of)) & self.not_special(batch)
        labels = np.where(known, self._class_of[np.minimum(ids, len(self._class_of) - 1)], IGNORED)
        inputs = {name: values for name, values in batch.items() if name not in ("cell_ids", "labels")}
        return inputs | {"labels": labels}


def _numbered(vocabulary: Any, classes: Mapping[str, list[str]]) -> dict[int, int]:
    numbers: dict[int, int] = {}
    for number, genes in enumerate(classes.values()):
        found = vocabulary.map_genes(genes).gene_ids
        for gene, token in zip(genes, found.tolist(), strict=True):
            if token >= 0 and numbers.setdefault(token, number) != number:
                raise ConfigurationError(f"The gene `{gene}` is in two classes: leave it in one.")
    return numbers
