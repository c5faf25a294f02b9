"""`predict_perturbation`: cells after perturbations that were not measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigurationError
from .running.settings import RunSettings, setting
from .running.verb import Verb, documented_by

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from pandas import DataFrame

    from ..tokenization.processing_cell import CellProcessor
    from .files.pieces import Pieces

METHODS = ("mean", "additive", "nearest", "linear", "ridge", "set", "model")


@dataclass(frozen=True, kw_only=True)
class PredictPerturbationSettings(RunSettings):
    """Settings of [`predict_perturbation`].

    Raises:
        ConfigurationError: a value is out of range, or it is not said what to predict.
    """

    perturbations: "str | Sequence[str] | None" = setting(
        None,
        "what to predict: names of genes, and of several joined by the separator; in the command separated by commas. "
        "Cells that had one of them are not learnt from.",
    )
    split: "str | Path | None" = setting(
        None,
        "file in STATE's TOML format that says which perturbations are learnt from, which choose the checkpoint "
        "(`val`) and which are predicted (`test`).",
    )
    hold_out: float | None = setting(
        None, "share of the perturbations to predict, drawn by `seed`, to see how well it works.", least=0, most=1
    )
    dataset: str | None = setting(None, "name of the data set in the split; by default the only one.")
    method: str | None = setting(
        None,
        "`mean`, `additive`, `nearest`, `linear` or `ridge`, simple predictors that are fitted in seconds; `set`, a "
        "new transformer over sets of control cells; `model`, the one given. By default `model` if one is given, else "
        "`ridge`, which without `features` predicts perturbations of genes that were not measured as the mean of the "
        "seen ones, and says so.",
    )
    features: "str | Path | DataFrame | None" = setting(
        None,
        "vectors of genes, by which unseen perturbations are told from seen ones: a .csv or .tsv table with one gene "
        "per row; or folder or repository of a model, whose gene embeddings are taken. By default principal "
        "components of the expression, which only measured genes have.",
    )
    perturbation_key: str = setting("perturbation", "column of `obs` with what was done to each cell.")
    control: str = setting("control", "value of that column that means nothing was done.")
    separator: str = setting("+", "what joins the genes that are perturbed together.")
    cell_type_key: str | None = setting(
        None, "column of `obs` with cell types: each is predicted from controls of its own."
    )
    n_cells: int | None = setting(
        None,
        "cells to predict for each perturbation, from as many control cells; by default as many as a perturbation has "
        "in the data (median), and at most all control cells.",
        least=2,
    )
    recipe: "str | Path | None" = setting(
        None, "YAML file with the settings of training, see `training_scripts/recipes`.", recorded=False
    )
    trained: "str | Path | None" = setting(None, "folder for the model that is trained.", recorded=False)
    truth: "str | Path | None" = setting(
        None,
        "`.h5ad` file to write the real cells of the predicted perturbations to, as `cell-eval run -ar` takes it.",
        recorded=False,
        written=True,
    )
    write_split: "str | Path | None" = setting(
        None,
        "file to write to which perturbations were predicted, in STATE's TOML format.",
        recorded=False,
        written=True,
    )
    cell_eval: Literal["vcc", "full"] | None = setting(
        None,
        "score with cell-eval, by the metrics of the Virtual Cell Challenge (`vcc`) or all (`full`), beside the mean "
        "and the ceiling.",
        recorded=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("perturbations", "split", "hold_out") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigurationError(
                "Say what to predict by one of `perturbations` (`--perturbations`), `split` (`--split`) and "
                f"`hold_out` (`--hold-out`); got {' and '.join(given) or 'none'}."
            )
        if self.method not in (None, *METHODS):
            raise ConfigurationError(
                f"`method` (`--method`) must be one of {', '.join(METHODS)}, got {self.method!r}."
            )
        if self.cell_eval not in (None, "vcc", "full"):
            raise ConfigurationError(f"`cell_eval` (`--cell-eval`) must be 'vcc' or 'full', got {self.cell_eval!r}.")
        if self.batch_key is not None or self.dtype not in (None, "float32"):
            raise ConfigurationError(
                "Perturbations are predicted in float32 and without batches: leave out `dtype` (`--dtype`) and "
                "`batch_key` (`--batch-key`)."
            )
        if not self.separator:
            raise ConfigurationError("`separator` (`--separator`) is empty: say what joins genes, such as '+'.")
        if self.perturbations is not None and not self.names:
            raise ConfigurationError("`perturbations` (`--perturbations`) is empty: name what to predict.")

    @property
    def names(self) -> list[str]:
        """The perturbations one by one."""
        given = self.perturbations.split(",") if isinstance(self.perturbations, str) else self.perturbations
        return [name.strip() for name in given or ()]

    def to_record(self) -> dict[str, Any]:
        """What the results depend on, by name."""
        kept = super().to_record()
        if hasattr(self.features, "columns"):
            kept["features"] = "a table"
        return kept | {"perturbations": None if self.perturbations is None else "; ".join(self.names)}

    def depends_on(self) -> dict[str, Any]:
        """What the results depend on: also the folder of the model, and what a recipe, split or features hold."""
        from .files.fingerprint import stamp_of

        kept = {name: value if value is None else str(value) for name, value in super().depends_on().items()}
        for name in ("split", "recipe", "features"):
            kept[name] = stamp_of(getattr(self, name))
        return kept | {"trained": str(self.trained), "revision": self.revision}


class PredictPerturbationVerb(Verb):
    """The verb."""

    def make_of_file(
        self, path: "Path", model: Any, settings: PredictPerturbationSettings, pieces: "Pieces"
    ) -> "AnnData":
        """See [`predict_perturbation`]."""
        from ..sources.opening import open_source
        from .files.h5ad import read_frames
        from .prediction.predicting import predict_cells

        cells = read_frames(path)
        source = open_source(path.stem, path, layer=settings.layer, expects="any")
        return predict_cells(cells, model, None, settings, pieces, source)


PREDICT_PERTURBATION = PredictPerturbationVerb(
    name="predict_perturbation",
    auto_class="AutoModel",
    is_special=True,
    trains=True,
    settings=PredictPerturbationSettings,
    usage='predicted = sclm_hf.predict_perturbation(cells, "{model}", hold_out=0.2, trained="perturbation_model")\n'
    'predicted.uns["sclm_hf"]["predict_perturbation"]["scores"]',
)


@documented_by(PREDICT_PERTURBATION)
def predict_perturbation(
    adata: "AnnData", model: Any = None, processor: "CellProcessor | None" = None, **settings: Any
) -> "AnnData":
    """Predict cells after perturbations, single or combined, from control cells and other perturbations.

    Published models often do no better than the mean of the seen perturbations, so the simple predictors are always
    fitted too, and stand first in the table of scores; each can make the prediction (`method`). A model is scGPT's for
    perturbations (Cui et al., 2024), where each gene has a flag that says whether it is perturbed, and the perturbed
    genes are never cut off; or a transformer over sets of control cells. An encoder, or a new model, is trained on the
    seen perturbations first, and kept in `trained`.

    From a file the command keeps at most 2**28 values in memory (2 GB), beside the means of all perturbations and the
    result, which holds all controls; of larger screens training reads its cells as it needs them.

    Args:
        adata: cells of a screen, controls among them, with raw counts or log-normalised values.
        model: folder or repository id of a trained model, or of an encoder that is trained first; the name of a
            family, for a new one; or a loaded model. None for other methods.
        processor: the processor of a loaded model.
        **settings: the fields of [`PredictPerturbationSettings`].

    Returns:
        A new AnnData with the genes of `adata`, which `cell-eval run -ap` takes as it is:

        - `X`: log-normalised expression, of the control cells as they are in `adata` (or as their counts give it,
          10,000 per cell) and of the predicted cells; predictions are 0 or more;
        - `obs`: the perturbation, the cell type, `sclm_predicted`, and `sclm_control_cell`, the control cell that a
          predicted one was made from;
        - `uns["sclm_hf"]["predict_perturbation"]`: `method`; `by_mean`, perturbations that got the mean of those seen
          for want of features; `spread` of the predictions as a share of that of the seen perturbations; `scores`
          where the data have cells of the predicted perturbations: columns `method`, `pearson_delta`, `mae`,
          `discrimination` and `spread`, the last row being the `ceiling`, one half of the real cells against the
          other; `cell_eval`, with `metric`, `baseline` (the mean), `predicted` and `ceiling`.

    Raises:
        ConfigurationError: there are no controls, or controls only; names, settings or the split do not fit; or
            nothing is left to learn from.
        GeneCoverageError: the model or the features do not know a perturbed gene.
        ExpressionError: values are negative, not finite, or neither counts nor log-normalised.
        CheckpointError: the model cannot be read, or predicts no perturbations.
        MissingDependencyError: cell-eval is asked for and not installed.
    """
    from .prediction.predicting import predict_cells

    return predict_cells(adata, model, processor, PREDICT_PERTURBATION.choose(settings))
