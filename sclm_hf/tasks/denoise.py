"""`denoise`: what a model makes of the counts of genes that were measured."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ExpressionError
from .impute import Imputation, ImputeSettings, ImputeVerb
from .running.settings import setting
from .running.verb import documented_by

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from anndata import AnnData

    from ..tokenization.processing_cell import CellProcessor
    from .imputation.posterior import Prior
    from .running.cell_run import Results

DENOISE_KEY = "sclm_denoised"


@dataclass(frozen=True, kw_only=True)
class DenoiseSettings(ImputeSettings):
    """Settings of [`denoise`]."""

    genes: "str | Path | Sequence[str] | None" = setting(
        None,
        "names of the genes to denoise, separated by commas in one text, or a file with one per line; by default all "
        "that the model knows.",
    )
    score: bool = setting(
        True,
        "also hold out a tenth of the reads, of 5,000 cells at most unless the model reads whole samples, and compare "
        "what is made of the others with similar cells, the mean of the gene and the counts as they are.",
        flag="--score/--no-score",
    )
    with_counts: bool = setting(
        False,
        "add the counts of the cell to what the model makes of them, as far as they tell more: the mean of the "
        "posterior of a gamma prior whose mean is the prediction, 0 where that is negative.",
    )
    key_added: str | None = setting(None, f"name of the layer; default `{DENOISE_KEY}`.", flag="--key", recorded=False)

    def key(self, family: str) -> str:
        """Name of the layer, and of its record."""
        return self.key_added or DENOISE_KEY


class Denoising(Imputation):
    """The run of `impute`, scored on reads instead of on genes that are hidden."""

    settings: DenoiseSettings
    n_key = "n_denoised"

    def __init__(self, *run: Any) -> None:
        from .clustering.markers import holds_counts

        super().__init__(*run)
        expects = self.loaded.processor.feature_extractor.expects
        self._prior: Prior | None = None
        asked = self.settings.score or self.settings.with_counts
        if asked and expects != "counts" and not holds_counts(self.cells.source):
            raise ExpressionError(
                "The data are no counts, of which reads could be held out or added: leave out the scores "
                "(`score=False`, `--no-score`) and `with_counts` (`--with-counts`), or name a layer with counts "
                "(`layer`, `--layer`)."
            )

    def results(self, cells: "slice | np.ndarray", values: "np.ndarray") -> "Results":
        """The layer; where it is asked for, with the counts of the cells added."""
        return super().results(cells, self._with_counts(cells, values) if self.settings.with_counts else values)

    def _with_counts(self, cells: "slice | np.ndarray", values: "np.ndarray") -> "np.ndarray":
        """(cells, genes) log-normalised posterior means, which add up to what the predictions do."""
        import numpy as np

        from .imputation.posterior import Prior

        if self._prior is None:
            some, rows = self._some_cells()
            counts = self.cells.source.read(rows)
            predicted = self._run_on(counts, some, np.asarray(self.cells.names)[rows])
            predicted = np.maximum(np.expm1(predicted, dtype=np.float64), 0)
            self._prior = Prior.of_cells(predicted, self._observed(rows))
        predicted = np.maximum(np.expm1(values, dtype=np.float64), 0)
        found = self._prior.posterior_means(predicted, self._observed(np.arange(self.cells.source.n_cells)[cells]))
        totals = found.sum(axis=1, keepdims=True)
        # a cell without counts of these genes keeps its prediction
        scaled = found * (predicted.sum(axis=1, keepdims=True) / np.where(totals > 0, totals, 1))
        return np.log1p(np.where(totals > 0, scaled, predicted)).astype(np.float32)

    def _observed(self, rows: "np.ndarray") -> "np.ndarray":
        """(rows, genes) counts of the genes that are denoised."""
        import numpy as np

        ascending = np.sort(rows)
        counts = self.cells.source.read(ascending)[:, self._columns].toarray().astype(np.float64)
        return counts[np.searchsorted(ascending, rows)]

    def score(self, *cells: Any, **how: Any) -> "dict[str, dict[str, float]]":
        """How well the reads that are left tell those that were held out; see `thinned_scores`."""
        from .imputation.thinned import thinned_scores

        return thinned_scores(*cells, **how)


DENOISE = ImputeVerb(
    name="denoise",
    auto_class="AutoModelForPreTraining",
    settings=DenoiseSettings,
    writes=("layers",),
    is_special=True,
    run=Denoising,
    usage='cells = sclm_hf.denoise(cells, "{model}")\ncells.layers["sclm_denoised"]',
)


@documented_by(DENOISE)
def denoise(
    adata: "AnnData",
    model: Any,
    processor: "CellProcessor | None" = None,
    *,
    copy: bool = True,
    **settings: Any,
) -> "AnnData":
    """Add the log-normalised expression that a pre-trained `model` makes of the counts of measured genes.

    These are the values of [`impute`]; what differs is the question that the scores answer: whether they are nearer to
    what the cell would have shown, had it been sequenced again, than its counts are, and than the mean over similar
    cells is. Denoised values are no counts: do not test for differential expression on them.

    Args:
        adata: cells with raw counts.
        model: folder or repository id of a checkpoint with the decoder of pre-training; or a loaded model.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`DenoiseSettings`].
        copy: add to a copy in memory; False adds to `adata` itself (but not to the file of a backed one).

    Returns:
        The AnnData with

        - `layers["sclm_denoised"]`: (n_cells, n_genes) float32, logarithms of 1 + expected counts per 10,000 (among
          the genes that the model reads, where it predicts counts); NaN for genes that the model does not know or
          that were not asked for;
        - `uns["sclm_hf"]["sclm_denoised"]`: `n_denoised` genes; unless `score` is False also `scores`, for `model` and
          `similar cells`, both alone and `with counts`, `gene mean` and `counts` the `correlation` with held-out
          reads, gene by gene, and their `error` as a multiple of the gene mean's, and `n_scored` cells; and model,
          versions, settings and coverage of the genes.

    Raises:
        CheckpointError: the model predicts no expression, or cannot be read.
        ConfigurationError: a gene is not known, or settings do not fit.
        GeneCoverageError: the model knows too few of the genes.
        ExpressionError: the data are not what the model's encoding expects, or too few to hold some out.
    """
    return DENOISE.add_to(adata, model, processor, settings, copy=copy)
