"""Predicted expression, to which the counts of a cell are added as far as they tell more.

Rates of a gene have a gamma prior in each cell, whose mean is the prediction; what is given is the mean of the
posterior. Source: Huang et al., "SAVER: gene expression recovery for single-cell RNA sequencing", Nature Methods 15,
539-542 (2018), https://doi.org/10.1038/s41592-018-0033-z, where the prior mean is a regression on other genes, and the
spread is found by maximum likelihood; here by moments.
"""

from typing import NamedTuple

import numpy as np

_MOST = 1e12
"""Shape of a gene without any spread beyond what chance gives, whose prediction stays as it is."""

_LEAST = 0.01
"""Of a gene's mean share, what a cell is expected to have at least: counts could not mend a prediction of 0."""


class Prior(NamedTuple):
    """Gamma priors of the rates of genes.

    Attributes:
        shapes: (genes,) 1 / the squared coefficient of variation around the prediction.
        least: (genes,) the smallest share of a cell's counts that is expected.
    """

    shapes: np.ndarray
    least: np.ndarray

    @classmethod
    def of_cells(cls, predicted: np.ndarray, counts: np.ndarray) -> "Prior":
        """The priors that some cells tell.

        Args:
            predicted: (cells, genes) expected expression, on any scale of a cell, 0 or more.
            counts: (cells, genes) of the same cells.
        """
        least = _LEAST * counts.sum(axis=0) / max(counts.sum(), 1)
        expected = _expected(predicted, counts, least)
        beyond_chance, squares = ((counts - expected) ** 2 - expected).sum(axis=0), (expected**2).sum(axis=0)
        told = beyond_chance > squares / _MOST
        return cls(np.where(told, squares / np.where(told, beyond_chance, 1), _MOST), least)

    def posterior_means(self, predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """(cells, genes) expected counts; arguments as for [`of_cells`], of these or other cells."""
        expected = _expected(predicted, counts, self.least)
        total = self.shapes + expected
        return expected * (self.shapes + counts) / np.where(total > 0, total, 1)


def _expected(predicted: np.ndarray, counts: np.ndarray, least: np.ndarray) -> np.ndarray:
    """The prediction, with as many counts in a cell as it has."""
    totals = predicted.sum(axis=1, keepdims=True)
    shares = np.maximum(predicted / np.where(totals > 0, totals, 1), least)
    return shares * counts.sum(axis=1, keepdims=True)
