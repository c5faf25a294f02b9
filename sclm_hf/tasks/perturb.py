"""`perturb`: what deleting or over-expressing genes does to cells, in silico."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from .running.settings import RunSettings, setting
from .running.verb import Verb, documented_by

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from ..opening.loading import LoadedModel
    from ..sources.cell_source import CellSource
    from ..tokenization.processing_cell import CellProcessor
    from .files.pieces import Pieces

Genes = str | Sequence[str] | Mapping[str, Sequence[str]]

MODES = ("delete", "overexpress")


@dataclass(frozen=True)
class States:
    """Cells go from one state towards others.

    Args:
        key: column of `obs` with the states.
        start: only cells of this state are perturbed.
        goal: the state that they should move to.
        others: further states to measure against.
        embeddings: state -> (cell_embedding_size,); by default the mean over the cells of the state.
    """

    key: str
    start: str
    goal: str
    others: tuple[str, ...] = ()
    embeddings: "Mapping[str, np.ndarray] | None" = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.start, self.goal, *self.others)


@dataclass(frozen=True, kw_only=True)
class PerturbSettings(RunSettings):
    """Settings of [`perturb`].

    Raises:
        ConfigurationError: settings contradict one another, or a value is out of range.
    """

    genes: Genes = setting(
        "all",
        "`all`, each gene among a cell's tokens by itself (over-expression leaves out the top one, which stays where "
        "it is); or names of genes; or name of a group -> names of genes to perturb together.",
        flag=None,
    )
    mode: str = setting("delete", "`delete` or `overexpress`.")
    combine: int = setting(1, "perturb all combinations of this many of the genes together.", least=1)
    anchor: str | None = setting(None, "gene that is perturbed together with each of the others.")
    states: States | None = setting(
        None,
        "cell states; the result then has the shifts towards each, and only cells of the first are perturbed.",
        flag=None,
    )
    donor_key: str | None = setting(
        None,
        "column of `obs` with donors, or other independent units: the shifts of a donor's cells count as one value, "
        "their mean, when they are tested, and intervals come from drawing donors. Otherwise each cell counts, as if "
        "cells of one donor were independent, and p values and intervals are too small where they are not.",
    )
    similarity: str | None = setting(
        None,
        "what is compared before and after: `genes`, the mean similarity of the genes that were not perturbed, or "
        "`cell`, the cell embedding. By default as published for the model: `genes` where the cell embedding is a "
        "mean over genes, else `cell`.",
    )
    gene_effects: bool = setting(False, "add the effects on single genes.", recorded=False)
    max_cells: int | None = setting(
        None,
        "perturb at most this many of the cells; with `seed` 42 those that the authors' code takes.",
        least=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        genes, combine = self.genes, self.combine
        if self.mode not in MODES:
            raise ConfigurationError(f"`mode` (`--mode`) must be one of {', '.join(MODES)}, got {self.mode!r}.")
        if self.similarity not in (None, "genes", "cell"):
            raise ConfigurationError(
                f"`similarity` (`--similarity`) must be 'genes' or 'cell', got {self.similarity!r}."
            )
        if isinstance(genes, str) and genes != "all":
            raise ConfigurationError(f"`genes` must be 'all' or a list of names, got {genes!r}: write [{genes!r}].")
        if len(genes) == 0:
            raise ConfigurationError("`genes` is empty: name the genes to perturb, or say 'all'.")
        if combine > 1 and not isinstance(genes, Sequence):
            raise ConfigurationError(f"`combine` (`--combine`) must be 1 with groups of genes, got {combine}.")
        if combine > 1 and (genes == "all" or combine > len(genes)):
            raise ConfigurationError(f"`combine={combine}` needs at least as many names in `genes` (`--gene`).")

    def to_record(self) -> dict[str, Any]:
        """What the results depend on, by name, as text or numbers."""
        states = None if self.states is None else "; ".join((self.states.key, *self.states.names))
        genes = self.genes if isinstance(self.genes, str) else "; ".join(self.genes)
        return {**super().to_record(), "genes": genes, "states": states}

    def depends_on(self) -> dict[str, Any]:
        """What the results depend on: also the genes of groups, embeddings of states, and whether genes are told."""
        groups = {name: list(some) for name, some in self.genes.items()} if isinstance(self.genes, Mapping) else None
        given, embeddings = self.states, None
        if given is not None and given.embeddings:
            embeddings = {name: [float(one) for one in given.embeddings[name]] for name in given.names}
        more = {"groups": groups, "embeddings of states": embeddings, "gene_effects": self.gene_effects}
        return {**super().depends_on(), **more}


class PerturbVerb(Verb):
    """The verb."""

    def make(
        self, cells: "CellSource", loaded: "LoadedModel", settings: PerturbSettings, pieces: "Pieces | None"
    ) -> "AnnData":
        """See [`perturb`]."""
        from .perturbation.perturbing import perturb_source

        return perturb_source(cells, self, loaded, settings, pieces)


PERTURB = PerturbVerb(
    name="perturb",
    auto_class="AutoModel",
    is_special=True,
    by_pieces=True,
    settings=PerturbSettings,
    usage='effects = sclm_hf.perturb(cells, "{model}", genes=["GATA1"])\neffects.var[["n_cells", "similarity"]]',
)


@documented_by(PERTURB)
def perturb(adata: "AnnData", model: Any, processor: "CellProcessor | None" = None, **settings: Any) -> "AnnData":
    """Perturb genes of cells in silico, and measure how far the model moves each cell.

    As in Theodoris et al., Nature 618, 616-624 (2023): a deleted gene leaves the cell, an over-expressed one goes to
    the top of its ranking, expressed or not. A deletion is run in the cells that express all of its genes, an
    over-expression in all cells. With an encoding that has values, an over-expressed gene gets the cell's highest.

    A cell may express more genes than the model reads. To delete a named gene that was left out of such a cell, it is
    first put back in place of the gene that would have been left out next; this step is our own. With `genes="all"`,
    only genes that were not left out are perturbed, as published, and `var` says in how many of the cells that express
    them.

    Args:
        adata: cells with raw counts.
        model: folder or repository id of a checkpoint or an adapter; or a loaded model.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`PerturbSettings`].

    Returns:
        A new AnnData of the perturbed cells and the perturbations that were run. `X` holds cosine similarities of each
        cell to itself before, NaN where a perturbation was not run; `layers["shift_<state>"]` (`|` for `/`) the
        similarity to a state, minus the one before; `var` the genes, the number of cells that each was run in
        (`n_cells`) and of those that express its genes (`n_expressing`), and means; that of the similarity, or with
        states of the shift to the goal, with the ends `_low` and `_high` of a 95 % bootstrap interval over cells or
        donors. With states also `p_value`, Wilcoxon's rank sum of the shifts to the goal against those of all other
        perturbations in the result, over `n_units` cells or donors, `fdr` (Benjamini and Hochberg) and `effect`, the
        rank-biserial correlation from -1 to 1; NaN with fewer than 3 units or 10 other perturbations. The test asks
        whether a gene shifts cells differently from genes in general, not whether it shifts them at all.
        `uns["gene_effects"]` has for each perturbation and other gene the number of cells and the mean similarity, and
        of a model in memory that has its decoder of expression the mean `change` of what it predicts, in its own
        units, with the standard error;
        `uns["sclm_hf"]["perturb"]` model, versions, settings, coverage and, under `"interval"` and `"test"`, what was
        drawn and compared. [`effect_table`](sclm_hf.tasks.perturbation.effects.effect_table) sorts it and names its
        columns in words, and [`plot_volcano`](sclm_hf.evaluation.plots.plot_volcano) draws it.

    Raises:
        ConfigurationError: settings contradict one another, the model or `obs`; or no cell can be perturbed this way.
        GeneCoverageError: the model does not know a gene to perturb, or too few of the data's.
        CheckpointError: the model cannot be read or is incomplete.
        ExpressionError: the data are not what the model's encoding expects.
    """
    from .perturbation.perturbing import perturb_cells

    return perturb_cells(adata, PERTURB, model, processor, PERTURB.choose(settings))
