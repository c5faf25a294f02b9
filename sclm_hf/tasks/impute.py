"""`impute`: the expression that a model expects of each gene in each cell."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigurationError, ExpressionError
from .running.cell_run import CellRun, Results
from .running.settings import GENES, AddingSettings, setting
from .running.verb import Verb, documented_by

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import scipy.sparse
    import torch
    from anndata import AnnData

    from ..opening.loading import LoadedModel
    from ..tokenization.processing_cell import CellProcessor
    from .running.prepared_cells import PreparedCells

IMPUTE_KEY = "sclm_imputed"


@dataclass(frozen=True, kw_only=True)
class ImputeSettings(AddingSettings):
    """Settings of [`impute`]."""

    genes: "str | Path | Sequence[str] | None" = setting(
        None,
        "names of the genes to impute, separated by commas in one text, or a file with one per line; by default all "
        "that the model knows.",
    )
    score: bool = setting(
        False,
        "also hide a tenth of the counts above 0, of 5,000 cells at most unless the model reads whole samples, and "
        "compare what is predicted of them with the mean of the gene and with that of similar cells.",
    )
    key_added: str | None = setting(None, f"name of the layer; default `{IMPUTE_KEY}`.", flag="--key", recorded=False)

    genes_read = None
    """The model reads all genes, to impute some."""

    def key(self, family: str) -> str:
        """Name of the layer, and of its record."""
        return self.key_added or IMPUTE_KEY

    @property
    def names(self) -> list[str] | None:
        """The names one by one; None for all genes."""
        from .running.gene_names import read_names

        return read_names(self.genes, GENES)


class Imputation(CellRun[ImputeSettings]):
    """Expected log-normalised expression."""

    settings: ImputeSettings
    n_key = "n_imputed"

    def __init__(self, *run: Any) -> None:
        import torch

        super().__init__(*run)
        if self.cells.source.data_name == "raw":
            raise ConfigurationError(
                "The counts are in `raw`, whose genes may be others than those of the layers: put them into a layer, "
                "and name it with `layer` (`--layer`)."
            )
        source = self.cells.source
        if self.settings.score and min(source.n_cells, source.n_genes) < 2:
            raise ExpressionError(
                f"The data are {source.n_cells:,} cells with {source.n_genes:,} genes, and no cells that could be "
                "similar: give at least 2 of both, or leave out the scores (`score=False`)."
            )
        self._columns = self._columns_of(self.settings.names)
        self._ids = torch.from_numpy(self.cells.gene_ids[self._columns])

    def _columns_of(self, names: list[str] | None) -> "np.ndarray":
        """The columns of the genes that are imputed."""
        import numpy as np

        known = np.flatnonzero(self.cells.gene_ids >= 0)
        if names is None:
            return known
        names_there = self.cells.source.genes()[0]
        place = {str(names_there[column]): column for column in known.tolist()}
        if unknown := [name for name in names if name not in place]:
            raise ConfigurationError(
                f"{', '.join(map(repr, unknown[:10]))}: no such gene is both among the names of the data and known to "
                f"`{self.loaded.name}`; mend `genes` (`--genes`)."
            )
        return np.array([place[name] for name in names])

    def forward(self, model: Any, batch: "dict[str, torch.Tensor]") -> "torch.Tensor":
        """(batch, genes) expected log-normalised expression of the genes that are imputed."""
        import torch

        expected = model(**batch).expression_prediction.float()
        ids = self._ids.to(expected.device)
        if model.predicted_expression == "log-normalised":
            return expected[:, ids]
        expected = torch.log1p(expected / expected.sum(dim=1, keepdim=True) * 1e4)
        place = torch.zeros(self.config.vocab_size, dtype=torch.long, device=expected.device)
        place[batch["input_ids"]] = torch.arange(len(batch["input_ids"]), device=expected.device)
        return expected[:, place[ids]]

    def results(self, cells: "slice | np.ndarray", values: "np.ndarray") -> Results:
        """The layer, with NaN for genes that were not imputed."""
        import numpy as np

        layer = np.full((len(values), self.cells.source.n_genes), np.nan, np.float32)
        layer[:, self._columns] = values
        return Results(layers={self.key: layer})

    def facts(self, file: "Path | None") -> dict[str, Any]:
        """How many genes were imputed, and the scores if asked for."""
        facts: dict[str, Any] = {self.n_key: len(self._columns)}
        return facts | self._scores() if self.settings.score else facts

    def _scores(self) -> dict[str, Any]:
        """The scores on hidden counts, of all cells or some that their names choose."""
        import numpy as np

        cells, rows = self._some_cells()
        scores = self.score(
            self.cells.source.read(rows),
            lambda left: self._run_on(left, cells, np.asarray(self.cells.names)[rows]),
            self.settings.seed,
            cell_ids=cells.cell_ids,
            genes=cells.source.genes()[0],
            read=np.flatnonzero(cells.gene_ids >= 0),
            scored=self._columns,
        )
        return {"scores": scores, "n_scored": len(rows)}

    def _some_cells(self) -> "tuple[PreparedCells, np.ndarray]":
        """All cells, or some that their names choose, and their rows."""
        import numpy as np

        from .imputation.scores import chosen_cells

        cells, seed = self.cells, self.settings.seed
        if cells.samples is None:
            rows = chosen_cells(cells.cell_ids, seed)
            labels = None if cells.batch_labels is None else cells.batch_labels[rows]
            cells = replace(cells, cell_ids=cells.cell_ids[rows], lengths=cells.lengths[rows], batch_labels=labels)
        else:
            rows = np.arange(len(cells.lengths))
        return cells, rows

    def score(self, *cells: Any, **how: Any) -> "dict[str, dict[str, float]]":
        """How near to the truth predictions of counts are that the model did not see; see `hidden_scores`."""
        from .imputation.scores import hidden_scores

        return hidden_scores(*cells, **how)

    def _run_on(self, left: "scipy.sparse.csr_matrix", cells: "PreparedCells", names: "Sequence[str]") -> "np.ndarray":
        """What the model predicts where some counts are hidden."""
        import anndata
        import numpy as np
        import pandas as pd

        from ..sources.in_memory import InMemorySource
        from .running.batches import run_cells

        adata = anndata.AnnData(left.astype(np.float32), obs=pd.DataFrame(index=names))
        hidden = InMemorySource(adata, "X", expects=self.loaded.processor.feature_extractor.expects)
        settings = self.settings
        return run_cells(
            self.loaded,
            replace(cells, source=hidden),
            self.forward,
            batch_size=settings.batch_size,
            seed=settings.seed,
            description="hidden counts",
        )


class ImputeVerb(Verb):
    """The verb, whose models predict expression itself."""

    def load(self, model: Any, processor: "CellProcessor | None", settings: ImputeSettings) -> "LoadedModel":
        """Load the model.

        Raises:
            CheckpointError: the family predicts no expression, or this model predicts z-scores.
        """
        from ..registry import FAMILIES
        from .imputation.able import family_of

        family = family_of(model, settings.revision)
        if family not in FAMILIES or not self.serves(FAMILIES[family]):
            able = ", ".join(sorted(one.name for one in FAMILIES.values() if self.serves(one)))
            raise CheckpointError(
                f"`{model if isinstance(model, str) else family}` is a `{family}` model, which predicts no expression "
                f"of genes (bins, ranks or none): `{self.name}` takes models of {able}."
            )
        loaded = super().load(model, processor, settings)
        predicted = getattr(loaded.model, "predicted_expression", None)
        if predicted not in ("counts", "log-normalised"):
            raise CheckpointError(
                f"`{loaded.name}` ({type(loaded.model).__name__}) predicts {predicted or 'no expression'}: "
                f"`{self.name}` needs the model of pre-training on counts, with its decoder."
            )
        return loaded


IMPUTE = ImputeVerb(
    name="impute",
    auto_class="AutoModelForPreTraining",
    settings=ImputeSettings,
    writes=("layers",),
    is_special=True,
    run=Imputation,
    usage='cells = sclm_hf.impute(cells, "{model}")\ncells.layers["sclm_imputed"]',
)


@documented_by(IMPUTE)
def impute(
    adata: "AnnData",
    model: Any,
    processor: "CellProcessor | None" = None,
    *,
    copy: bool = True,
    **settings: Any,
) -> "AnnData":
    """Add the log-normalised expression that a pre-trained `model` expects of each gene.

    Models that predict bins or ranks cannot do it. Without `score` nothing says whether the result is better than the
    mean of similar cells.

    Args:
        adata: cells with raw counts.
        model: folder or repository id of a checkpoint with the decoder of pre-training; or a loaded model.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`ImputeSettings`].
        copy: add to a copy in memory; False adds to `adata` itself (but not to the file of a backed one).

    Returns:
        The AnnData with

        - `layers["sclm_imputed"]`: (n_cells, n_genes) float32, logarithms of 1 + expected counts per 10,000 (among
          the genes that the model reads, where it predicts counts); NaN for genes that were not imputed;
        - `uns["sclm_hf"]["sclm_imputed"]`: `n_imputed` genes; with `score` also `scores`, for `model`, `similar cells`
          and `gene mean` the `pearson` correlation with hidden log-normalised counts and the `rmse`, and `n_scored`
          cells; and model, versions, settings and coverage of the genes.

    Raises:
        CheckpointError: the model predicts no expression, or cannot be read.
        ConfigurationError: a gene is not known, or settings do not fit.
        GeneCoverageError: the model knows too few of the genes.
        ExpressionError: the data are not what the model's encoding expects, or too few to hide some.
    """
    return IMPUTE.add_to(adata, model, processor, settings, copy=copy)
