"""What speaks for an edge: how alike a model's vectors of two genes are, or how they go together over cells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...evaluation.baselines.networks import boosted_trees, correlations
from ...registry.specialists import SPECIALISTS
from ..genes.gene_embeddings import gene_embeddings
from ..perturb import PERTURB
from ..perturbation.perturbing import check_model
from .attention import attention_between, check_attention
from .deletions import shifts_by_deletion
from .genes import NetworkGenes
from .specialists import score_by_specialist

if TYPE_CHECKING:
    from anndata import AnnData

    from ...opening.loading import LoadedModel
    from ...opening.specialists import LoadedSpecialist
    from ..grn import GrnSettings


@dataclass(frozen=True)
class NetworkCells:
    """Cells that a network is made from.

    Attributes:
        adata: the cells.
        expression: (cells, genes) float32 log-normalised expression of the genes of the network.
        genes: these genes.
        tokens: (genes,) their ids in the vocabulary; None without a model.
        loaded: the model, also a task-specific one; None without one.
        settings: the settings.
    """

    adata: "AnnData"
    expression: np.ndarray
    genes: NetworkGenes
    tokens: np.ndarray | None
    loaded: "LoadedModel | LoadedSpecialist | None"
    settings: "GrnSettings"

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of regulators and targets among the genes, as rows and columns of scores."""
        return np.ix_(self.genes.regulators, self.genes.targets)

    def take(self, rows: np.ndarray) -> "NetworkCells":
        """Some of the cells."""
        return NetworkCells(
            self.adata[rows], self.expression[rows], self.genes, self.tokens, self.loaded, self.settings
        )

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
    return _cosines(gene_embeddings(cells.loaded.model, _names(cells), processor=cells.loaded.processor), cells)


def _context(cells: NetworkCells) -> np.ndarray:
    settings = cells.settings
    table = gene_embeddings(
        cells.loaded.model,
        cells=cells.adata,
        processor=cells.loaded.processor,
        layer=settings.layer,
        species=settings.species,
        batch_key=settings.batch_key,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    return _cosines(table.reindex(_names(cells)), cells)


def _names(cells: NetworkCells) -> list[str]:
    """What the vocabulary calls the genes."""
    return cells.names_of(cells.tokens.tolist())


def _cosines(table, cells: NetworkCells) -> np.ndarray:
    """(regulators, targets) cosines of vectors."""
    vectors = table.to_numpy(np.float64)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return (unit[cells.genes.regulators] @ unit[cells.genes.targets].T).astype(np.float32)


def _trees(cells: NetworkCells) -> np.ndarray:
    return boosted_trees(cells.expression, cells.genes.regulators, cells.genes.targets, seed=cells.settings.seed)


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
