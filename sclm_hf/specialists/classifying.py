"""Processors of task-specific models that name cells from their RNA, and what these models answer."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from transformers import BatchFeature

from ..errors import ConfigurationError
from .cells import Counts, highly_variable, of_genes, read_counts, read_labels
from .processing import Examples, SpecialistProcessor


@dataclass
class ExpressionProcessor(SpecialistProcessor):
    """Expression of the genes that a model was trained on, (cells, genes).

    A subclass says in `choose_genes` which these are, and in `values` what of their counts the model reads.

    Attributes:
        genes: their names, in the order of the model.
        labels: the names of cells, in the order of the model's classes.
        label_key: the column of `obs` that they are from.
        layer: the layer with the counts; None = as everywhere: `layers["counts"]`, `raw`, `X`.
    """

    learnt: ClassVar[tuple[str, ...]] = ("genes", "labels")

    input_name: ClassVar[str] = "expression_values"
    """What the model calls its input."""

    genes: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    label_key: str = ""
    layer: str | None = None

    @classmethod
    def fit(cls, cells: Any, *, label_key: str | None = None, layer: str | None = None, **settings: Any) -> Self:
        counts = read_counts(cells, layer)
        _, labels = read_labels(cells, label_key)
        processor = cls(labels=labels, label_key=label_key, layer=layer, **settings)
        processor.genes = processor.choose_genes(counts)
        return processor

    def choose_genes(self, counts: Any) -> list[str]:
        """The genes that a new model reads."""
        raise NotImplementedError

    def values(self, counts: Any) -> np.ndarray:
        """(cells, genes) float32, what the model reads of the counts of its genes."""
        raise NotImplementedError

    def config_settings(self) -> dict[str, Any]:
        names = dict(enumerate(self.labels))
        return {
            "num_genes": len(self.genes),
            "id2label": names,
            "label2id": {name: number for number, name in names.items()},
        }

    def __call__(self, cells: Any, *, return_tensors: str | None = None) -> BatchFeature:
        """`expression_values`, (cells, genes) float32.

        Raises:
            GeneCoverageError: fewer than half of the genes are measured.
            ExpressionError: the values are no counts.
        """
        counts = of_genes(read_counts(cells, self.layer), self.genes, "model")
        return BatchFeature({"expression_values": self.values(counts)}, tensor_type=return_tensors)

    def examples(self, cells: Any, seed: int) -> Examples:
        numbers, names = read_labels(cells, self.label_key)
        if new := sorted(set(names) - set(self.labels)):
            raise ConfigurationError(f"The label {new[0]!r} is not among those of the processor: fit a new one.")
        place = {name: number for number, name in enumerate(self.labels)}
        numbers = np.array([place[name] for name in names])[numbers]
        return Examples.of_arrays(**{self.input_name: self(cells)[self.input_name]}, labels=numbers)

    def results(self, verb: str, model: Any, cells: Any, **settings: Any) -> dict[str, Any]:
        outputs = list(run(model, self(cells)))
        if verb == "embed":
            embedded = np.concatenate([one.cell_embedding.float().cpu().numpy() for one in outputs])
            return {"obsm": {settings.get("key_added") or f"X_{model.config.model_type}": embedded}}
        probabilities = np.concatenate([one.logits.float().softmax(-1).cpu().numpy() for one in outputs])
        return {"probabilities": probabilities, "labels": self.labels}


@dataclass
class LogExpressionProcessor(ExpressionProcessor):
    """Log-normalised expression of the most variable genes, (cells, genes).

    Attributes:
        n_top_genes: how many genes a new model reads, at most.
        target_sum: counts per cell before the logarithm.
    """

    n_top_genes: int = 2000
    target_sum: float = 1e4

    def choose_genes(self, counts: Counts) -> list[str]:
        return highly_variable(counts, self.n_top_genes, self.target_sum)

    def values(self, counts: Counts) -> np.ndarray:
        return counts.log_normalized(self.target_sum).toarray()


@torch.no_grad()
def run(model: Any, batch: BatchFeature, size: int = 64) -> Iterator[Any]:
    """The outputs of a model for the cells of a batch, a few at a time."""
    n_cells = len(next(iter(batch.values())))
    for start in range(0, n_cells, size):
        part = {name: torch.as_tensor(values[start : start + size]).to(model.device) for name, values in batch.items()}
        yield model(**part)
