"""`explain`: which genes speak for the class that a classifier gives a cell, and whether that means anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from .running.settings import GENES, RunSettings, setting
from .running.verb import Verb, documented_by

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from pandas import DataFrame

    from ..opening.loading import LoadedModel
    from ..sources.cell_source import CellSource
    from ..tokenization.processing_cell import CellProcessor
    from .files.pieces import Pieces

METHODS = ("integrated_gradients", "knock_out", "attention")


@dataclass(frozen=True, kw_only=True)
class ExplainSettings(RunSettings):
    """Settings of [`explain`].

    Raises:
        ConfigurationError: a method is unknown, or a value is out of range.
    """

    methods: str = setting(
        "integrated_gradients",
        "how genes are scored, separated by commas. `integrated_gradients`: gradients on the way from a cell of mean "
        "genes, which together give the whole change of the log-odds; `knock_out`: the log-odds lost when the gene is "
        "deleted (a run per gene and cell: name few, or set `max_cells`); `attention`: attention rollout, without a "
        "sign.",
    )
    label: str | None = setting(
        None, "class that genes speak for, one of the model's; by default the one predicted for each cell."
    )
    genes: "str | Path | Sequence[str] | None" = setting(
        None,
        "names of the genes to score, separated by commas in one text, or a file with one per line; by default all "
        "that the model reads.",
    )
    max_cells: int | None = setting(
        None, "take at most this many cells, drawn with `seed`; of each class that is explained.", least=1
    )
    n_steps: int = setting(32, "steps of `integrated_gradients`.", least=1)
    per_cell: "str | Path | None" = setting(
        None,
        "`.h5ad` file to write too: the score of each gene in each cell, one layer per method.",
        written=True,
        recorded=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [name for name in self.method_names if name not in METHODS]:
            raise ConfigurationError(f"`methods` (`--methods`) are of {', '.join(METHODS)}, got {unknown[0]!r}.")
        if not self.method_names:
            raise ConfigurationError(f"`methods` (`--methods`) names none: take some of {', '.join(METHODS)}.")

    @property
    def method_names(self) -> list[str]:
        """The methods, each once."""
        return list(dict.fromkeys(name.strip() for name in self.methods.split(",") if name.strip()))

    @property
    def gene_names(self) -> "Sequence[str] | None":
        """Names of the genes to score."""
        from .running.gene_names import read_names

        return read_names(self.genes, GENES)

    def to_record(self) -> dict[str, Any]:
        """What the results depend on, by name, as text or numbers."""
        names = self.gene_names
        return {**super().to_record(), "genes": names if names is None else "; ".join(names)}


class ExplainVerb(Verb):
    """The verb."""

    def make(
        self, cells: "CellSource", loaded: "LoadedModel", settings: ExplainSettings, pieces: "Pieces | None"
    ) -> "DataFrame":
        """See [`explain`]."""
        from .explanation.explaining import explain_cells

        return explain_cells(cells, self, loaded, settings, pieces)


EXPLAIN = ExplainVerb(
    name="explain",
    auto_class="AutoModelForSequenceClassification",
    is_special=True,
    settings=ExplainSettings,
    gives_table=True,
    by_pieces=True,
    usage='genes = sclm_hf.explain(cells, "{model}")\ngenes.attrs["curves"]  # is it better than a random order?',
)


@documented_by(EXPLAIN)
def explain(adata: "AnnData", model: Any, processor: "CellProcessor | None" = None, **settings: Any) -> "DataFrame":
    """Score the genes that speak for or against the class of a cell, and test the scores by deleting genes.

    Scores are about the model, not about biology: a gene may speak for a class because the model was trained on few
    cells. Whether they even tell what the model does is shown by curves (Petsiuk et al., BMVC 2018): genes are deleted
    from a cell, the highest score first, and the probability of the class should fall soon (`deletion`, low is good);
    or they are put in one after the other, and it should rise soon (`insertion`, high is good). A random order and the
    order of expression stand beside. Cells with few genes left are unlike those that a model was trained on.

    A gene is scored in the cells in which the model reads it, that is, where it is expressed and not cut off. Methods
    have scales of their own:

    - `integrated_gradients` (Sundararajan et al., ICML 2017): parts of the difference in log-odds of the class between
      the cell and one in which the first layer reads the mean of its genes in place of each; special tokens stay;
    - `knock_out`: log-odds of the class minus those without the gene, deleted as by [`perturb`];
    - `attention` (Abnar and Zuidema, ACL 2020): shares of the attention, rolled out through all layers, of the
      tokens that the class is read from. They are nearly the same whatever the class.

    A task-specific model that reads numbers instead of tokens is explained by these: `integrated_gradients` begin at
    the mean of the cells that are given, a deleted gene has the value 0, and only T-GEM has `attention`, whose entropy
    `attrs["explain"]["attention_entropy"]` then says by layer and head, 1 being that of even attention.

    Args:
        adata: cells with raw counts.
        model: folder or repository id of a checkpoint with a classification head, or of an adapter; or a loaded model.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`ExplainSettings`].

    Returns:
        A data frame of the columns

        - `label`: the class;
        - `method`;
        - `gene`: its name in the data;
        - `attribution`: the mean score over cells, those of each class and method sorted, the highest first;
        - `attribution_low` and `attribution_high`: its 95 % bootstrap interval over cells, as if these were
          independent; NaN with fewer than 3 cells;
        - `n_cells`: cells that it was scored in.

        `attrs["explain"]` says how it was made. `attrs["curves"]` has one record per order of the genes, `random` and
        `expression` first: with `_low` and `_high`, their 95 % intervals over cells, the areas under the curves
        `deletion` and `insertion`, from 0 to 1, and `deletion_gain` and `insertion_gain`, by how much they are better
        than with the random order of the same cells (above 0 = better); and the mean curves `deletion_curve` and
        `insertion_curve`, over `attrs["fractions"]` of the genes.
        [`plot_explanation`](sclm_hf.evaluation.plots.plot_explanation) draws them.

    Raises:
        CheckpointError: the model has no trained classification head, or cannot be read.
        ConfigurationError: the model has one class only, does not know the class, has no tokens that are genes or no
            attention; genes are absent; or no cell can be explained.
        GeneCoverageError: the model knows too few of the genes.
        ExpressionError: the data are not what the model's encoding expects.
    """
    from ..opening.specialists import is_specialist

    if is_specialist(model, settings.get("revision")):
        from .explanation.specialists import explain_by_specialist

        return explain_by_specialist(adata, EXPLAIN, model, processor, settings)
    from .explanation.explaining import explain_classes

    return explain_classes(adata, EXPLAIN, model, processor, EXPLAIN.choose(settings))
