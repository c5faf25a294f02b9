"""What transCluster reads: linear discriminant scores of cells, rounded to ids."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from transformers import BatchFeature

from ...errors import ConfigurationError, require
from ...logging import warn
from ..cells import Counts, highly_variable, of_genes, read_counts, read_labels
from ..classifying import ExpressionProcessor


@dataclass
class TransClusterProcessor(ExpressionProcessor):
    """Ids of discriminant scores, (cells, components).

    The projection is fitted to the cells of training and their types, and never to cells that are to be named. A score
    becomes `round(score - lowest) + 1`, where the lowest is over all scores of training cells, and is kept from 1 to
    `vocab_size - 1`; the original does not say how it made ids of scores. Unlike the original, which took all genes as
    they were, expression is log-normalised and of variable genes unless told otherwise.

    Attributes:
        means: (genes,) expression that is subtracted.
        projection: (genes, components) weights of genes in scores.
        lowest: the lowest score of training cells.
        n_components: scores of a cell; None = one less than there are types, at most as many as there are genes.
        vocab_size: ids, padding included.
        n_top_genes: how many of the most variable genes a new model reads; None = all.
        target_sum: counts per cell before the logarithm; None = counts as they are.
        shrinkage: how far the covariance of genes is drawn to a diagonal one: 0 to 1, or "auto" (Ledoit and Wolf);
            None = not at all, as published. Where there are fewer cells than genes, scores that are not drawn tell
            the types of training cells apart better than those of others.
    """

    learnt: ClassVar[tuple[str, ...]] = ("genes", "labels", "means", "projection", "lowest")
    input_name: ClassVar[str] = "input_ids"

    means: list[float] = field(default_factory=list)
    projection: list[list[float]] = field(default_factory=list)
    lowest: float = 0.0
    n_components: int | None = None
    vocab_size: int = 200
    n_top_genes: int | None = 2000
    target_sum: float | None = 1e4
    shrinkage: float | str | None = "auto"

    @classmethod
    def fit(cls, cells: Any, *, label_key: str | None = None, layer: str | None = None, **settings: Any) -> Self:
        processor = super().fit(cells, label_key=label_key, layer=layer, **settings)
        processor._check()
        expression = processor.expression(read_counts(cells, layer))
        processor._fit_projection(expression, read_labels(cells, label_key)[0])
        ids = processor._rounded(expression)
        if (above := float((ids >= processor.vocab_size).mean())) > 0:
            warn(
                f"{above:.1%} of the scores of training cells are above the highest of {processor.vocab_size} ids, "
                f"and count as that: set `vocab_size` to {int(ids.max()) + 1} to tell all apart."
            )
        return processor

    def choose_genes(self, counts: Counts) -> list[str]:
        if self.n_top_genes is None:
            return list(counts.genes)
        return highly_variable(counts, self.n_top_genes, self.target_sum or 1e4)

    def expression(self, counts: Counts) -> np.ndarray:
        """(cells, genes) float64, what is projected."""
        known = of_genes(counts, self.genes, "model")
        values = known.matrix if self.target_sum is None else known.log_normalized(self.target_sum)
        return values.toarray().astype(np.float64)

    def scores(self, expression: np.ndarray) -> np.ndarray:
        """(cells, components) discriminant scores."""
        return (expression - np.array(self.means)) @ np.array(self.projection)

    def __call__(self, cells: Any, *, return_tensors: str | None = None) -> BatchFeature:
        """`input_ids`, (cells, components) int64.

        Raises:
            GeneCoverageError: fewer than half of the genes are measured.
            ExpressionError: the values are no counts.

        Warns:
            SclmWarning: scores are outside of those that have an id.
        """
        ids = self._rounded(self.expression(read_counts(cells, self.layer)))
        if outside := int(((ids < 1) | (ids >= self.vocab_size)).sum()):
            warn(
                f"{outside:,} of {ids.size:,} scores of these cells ({outside / ids.size:.1%}) are outside the "
                f"{self.vocab_size} ids of transCluster, and count as the lowest or the highest: the more there are, "
                "the less the cells are like those of training."
            )
        return BatchFeature({"input_ids": np.clip(ids, 1, self.vocab_size - 1)}, tensor_type=return_tensors)

    def check_learnt(self) -> None:
        widths = {len(row) for row in self.projection}
        if not len(self.genes) == len(self.means) == len(self.projection) or len(widths) != 1 or 0 in widths:
            raise ValueError("`genes`, `means` and the rows of `projection` must be as many, and the rows as long.")

    def config_settings(self) -> dict[str, Any]:
        settings = super().config_settings()
        del settings["num_genes"]
        return settings | {"vocab_size": self.vocab_size, "num_components": len(self.projection[0])}

    def _rounded(self, expression: np.ndarray) -> np.ndarray:
        return np.round(self.scores(expression) - self.lowest).astype(np.int64) + 1

    def _check(self) -> None:
        most = min(len(self.labels) - 1, len(self.genes))
        if self.n_components is not None and not 1 <= self.n_components <= most:
            raise ConfigurationError(
                f"`n_components` must be 1 to {most}, as {len(self.labels)} types of {len(self.genes):,} genes have "
                f"no more discriminant scores; got {self.n_components}."
            )
        if self.vocab_size < 3:
            raise ConfigurationError(f"`vocab_size` must be at least 3, got {self.vocab_size}.")
        amount = self.shrinkage
        if not (amount in (None, "auto") or (isinstance(amount, int | float) and 0 <= amount <= 1)):
            raise ConfigurationError(f"`shrinkage` must be 0 to 1, 'auto' or None, got {amount!r}.")

    def _fit_projection(self, expression: np.ndarray, labels: np.ndarray) -> None:
        analysis = require("sklearn.discriminant_analysis", extra="evaluation").LinearDiscriminantAnalysis
        if len(expression) <= len(self.labels):
            raise ConfigurationError(
                f"{len(expression)} cells of {len(self.labels)} labels are too few: give several cells of each label, "
                "as discriminants are found from how these differ."
            )
        given = {} if self.shrinkage is None else {"solver": "eigen", "shrinkage": self.shrinkage}
        try:
            fitted = analysis(n_components=self.n_components, **given).fit(expression, labels)
        except np.linalg.LinAlgError as error:
            more = "give more cells of each label" if self.shrinkage == "auto" else "take more, or 'auto'"
            raise ConfigurationError(
                f"With a `shrinkage` of {self.shrinkage} the covariance of {len(self.genes):,} genes cannot be "
                f"inverted: {more}."
            ) from error
        # only one of the solvers centres what it projects, which makes no difference to ids
        centre = expression.mean(axis=0)
        n_scores = fitted.transform(expression[:1]).shape[1]
        self.means = centre.tolist()
        self.projection = fitted.scalings_[:, :n_scores].tolist()
        self.lowest = float(self.scores(expression).min())
