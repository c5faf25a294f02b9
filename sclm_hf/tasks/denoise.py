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

    from anndata import AnnData

    from ..tokenization.processing_cell import CellProcessor

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
        if self.settings.score and expects != "counts" and not holds_counts(self.cells.source):
            raise ExpressionError(
                "The data are no counts, of which reads could be held out: leave out the scores (`score=False`, "
                "`--no-score`), or name a layer with counts (`layer`, `--layer`)."
            )

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
        - `uns["sclm_hf"]["sclm_denoised"]`: `n_denoised` genes; unless `score` is False also `scores`, for `model`,
          `similar cells`, `gene mean` and `counts` the `correlation` with held-out reads, gene by gene, and their
          `error` as a multiple of the gene mean's, and `n_scored` cells; and model, versions, settings and coverage
          of the genes.

    Raises:
        CheckpointError: the model predicts no expression, or cannot be read.
        ConfigurationError: a gene is not known, or settings do not fit.
        GeneCoverageError: the model knows too few of the genes.
        ExpressionError: the data are not what the model's encoding expects, or too few to hold some out.
    """
    return DENOISE.add_to(adata, model, processor, settings, copy=copy)
