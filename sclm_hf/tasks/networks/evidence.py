"""What speaks for an edge: how alike a model's vectors of two genes are, or how they go together over cells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...evaluation.baselines.networks import boosted_trees, correlations
from ...logging import progress_bar
from ...registry.specialists import SPECIALISTS
from ...sources.cell_source import CellSource
from ...sources.cell_subset import some_cells
from ..genes.gene_embeddings import gene_embeddings, mean_embeddings
from ..perturb import PERTURB
from ..perturbation.perturbing import check_model
from ..running.prepared_cells import prepare_cells
from .attention import attention_between, check_attention
from .deletions import shifts_by_deletion
from .genes import NetworkGenes
from .specialists import score_by_specialist

if TYPE_CHECKING:
    from anndata import AnnData

    from ...opening.loading import LoadedModel
    from ...opening.specialists import LoadedSpecialist
    from ..files.pieces import Pieces
    from ..grn import GrnSettings

TARGETS_AT_A_TIME = 16
"""Targets of boosted trees that are kept as one piece."""


@dataclass(frozen=True)
class NetworkCells:
    """Cells that a network is made from.

    Attributes:
        source: the cells.
        expression: (cells, genes) float32 log-normalised expression of the genes of the network.
        genes: these genes.
        tokens: (genes,) their ids in the vocabulary; None without a model.
        loaded: the model, also a task-specific one; None without one.
        settings: the settings.
        adata: the cells in memory, for a task-specific model; else None.
        pieces: keeps what was computed; None = nothing is kept.
    """

    source: CellSource
    expression: np.ndarray
    genes: NetworkGenes
    tokens: np.ndarray | None
    loaded: "LoadedModel | LoadedSpecialist | None"
    settings: "GrnSettings"
    adata: "AnnData | None" = None
    pieces: "Pieces | None" = None

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of regulators and targets among the genes, as rows and columns of scores."""
        return np.ix_(self.genes.regulators, self.genes.targets)

    def take(self, rows: np.ndarray) -> "NetworkCells":
        """Some of the cells."""
        return replace(
            self,
            source=some_cells(self.source, rows),
            expression=self.expression[rows],
            adata=None if self.adata is None else self.adata[rows],
        )

    def pieces_named(self, name: str) -> "Pieces | None":
        """The pieces of one kind of evidence."""
        return None if self.pieces is None else self.pieces.named(name)

    def names_of(self, tokens: Sequence[int]) -> list[str]:
        """What the vocabulary calls genes."""
        vocabulary = self.loaded.processor.tokenizer.gene_vocabulary
        name_of = {number: name for name, number in vocabulary.items()}
        return [name_of[token] for token in tokens]

    def correlations(self, *, ranks: bool = False) -> np.ndarray:
        """(regulators, targets) Pearson's, or Spearman's, correlation."""
        return correlations(self.expression, self.genes.regulators, self.genes.targets, ranks=ranks)


class Evidence(NamedTuple):
    """A way to score edges.

    Attributes:
        score: cells -> (regulators, targets) float32, higher = more likely; NaN = not known.
        needs_model: whether it asks a model.
        needs_cells: whether it depends on the cells.
        is_directed: whether an edge from one gene to another may differ from the one back.
        check: refuses a model that cannot tell, before any cell is read.
    """

    score: Callable[[NetworkCells], np.ndarray]
    needs_model: bool = True
    needs_cells: bool = True
    is_directed: bool = False
    check: "Callable[[LoadedModel, GrnSettings], Any]" = lambda loaded, settings: None


def _embeddings(cells: NetworkCells) -> np.ndarray:
    names = cells.names_of(cells.tokens.tolist())
    return _cosines(gene_embeddings(cells.loaded.model, names, processor=cells.loaded.processor).to_numpy(), cells)


def _context(cells: NetworkCells) -> np.ndarray:
    settings = cells.settings
    vectors, seen = mean_embeddings(
        cells.loaded,
        prepare_cells(cells.source, cells.loaded, species=settings.species, batch_key=settings.batch_key),
        cells.tokens,
        batch_size=settings.batch_size,
        seed=settings.seed,
        pieces=cells.pieces_named("context"),
    )
    # a gene may be cut off in all cells
    return _cosines(np.where(seen[:, None], vectors, np.nan), cells)


def _cosines(vectors: np.ndarray, cells: NetworkCells) -> np.ndarray:
    """(regulators, targets) cosines of (genes, hidden) vectors."""
    vectors = vectors.astype(np.float64)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return (unit[cells.genes.regulators] @ unit[cells.genes.targets].T).astype(np.float32)


def _trees(cells: NetworkCells) -> np.ndarray:
    (regulators, targets), pieces = cells.genes[2:], cells.pieces_named("trees")
    parts = []
    with progress_bar(total=len(targets), desc="trees", unit="gene") as bar:
        for number, first in enumerate(range(0, len(targets), TARGETS_AT_A_TIME)):
            some = targets[first : first + TARGETS_AT_A_TIME]
            found = None if pieces is None else pieces.load(number, len(some))
            if found is None:
                found = boosted_trees(cells.expression, regulators, some, seed=cells.settings.seed, bar=bar).T
                if pieces is not None:
                    pieces.save(number, found)
            else:
                bar.update(len(some))
            parts.append(found)
    return np.concatenate(parts).T


def _random(cells: NetworkCells) -> np.ndarray:
    shape = len(cells.genes.regulators), len(cells.genes.targets)
    return np.random.default_rng(cells.settings.seed).random(shape, np.float32)


EVIDENCE = {
    "embeddings": Evidence(_embeddings, needs_cells=False),
    "context": Evidence(_context),
    "attention": Evidence(
        attention_between,
        is_directed=True,
        check=lambda loaded, settings: check_attention(loaded, settings.attention_layers),
    ),
    "perturbation": Evidence(
        shifts_by_deletion, is_directed=True, check=lambda loaded, settings: check_model(loaded, PERTURB)
    ),
    "pearson": Evidence(lambda cells: np.abs(cells.correlations()), needs_model=False),
    "spearman": Evidence(lambda cells: np.abs(cells.correlations(ranks=True)), needs_model=False),
    "trees": Evidence(_trees, needs_model=False, is_directed=True),
    "random": Evidence(_random, needs_model=False, needs_cells=False, is_directed=True),
    **{
        name: Evidence(score_by_specialist, is_directed=record.directed)
        for name, record in SPECIALISTS.items()
        if "grn" in record.verbs
    },
}
