"""`annotate`: a label, its probability and those of all other labels for each cell."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ConfigurationError, require
from ..opening.loading import load_model
from .embed import check_key
from .inference import check_run, prepare_cells, run_cells
from .running.provenance import check_adata, check_target, record, take_target

if TYPE_CHECKING:
    import torch
    from anndata import AnnData
    from pandas import Categorical
    from transformers.utils import ModelOutput

    from ..tokenization.processing_cell import CellProcessor

UNASSIGNED = "unassigned"
PREDICTION = "sclm_prediction"


class Keys(NamedTuple):
    """Names of the results: two columns of `obs`, and the probabilities in `obsm`."""

    prediction: str
    confidence: str
    probabilities: str

    @classmethod
    def of(cls, key_added: str | None) -> "Keys":
        """The names that follow from the one that was given, if one was."""
        stem = "sclm" if key_added in (None, PREDICTION) else key_added
        return cls(key_added or PREDICTION, f"{stem}_confidence", f"{stem}_probabilities")


def annotate(
    adata: "AnnData",
    model: Any,
    processor: "CellProcessor | None" = None,
    *,
    key_added: str | None = None,
    unassigned_threshold: float = 0.0,
    layer: str | None = None,
    species: str = "human",
    batch_key: str | None = None,
    batch_size: int = 64,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    seed: int = 0,
    revision: str | None = None,
    copy: bool = True,
) -> "AnnData":
    """Add the labels that a fine-tuned `model` predicts for the cells of `adata`.

    Args:
        adata: cells; the data are looked for in `layer`, else `layers["counts"]`, `raw`, `X`.
        model: folder or repository id of a checkpoint with a classification head, or of an adapter; or a loaded model.
        processor: the processor; by default the one saved with the model.
        key_added: name of the labels in `obs`, so that those of several models stand side by side; their probabilities
            are `<key_added>_confidence` and `<key_added>_probabilities` then. By default `"sclm_prediction"`.
        unassigned_threshold: cells whose highest probability is below it are called `"unassigned"`; between 0 and 1.
        layer, species, batch_key, batch_size, device, dtype, seed, revision, copy: as for `embed`.

    Returns:
        The AnnData with `obs["sclm_prediction"]` (categorical), `obs["sclm_confidence"]` (the highest probability),
        `obsm["sclm_probabilities"]` (n_cells, n_labels) float32, whose columns stand in the order of
        `uns["sclm_hf"]["sclm_prediction"]["label_names"]`, and with the provenance beside that; or the names that
        follow from `key_added`.

    Raises:
        CheckpointError: the model has no trained classification head, or cannot be read.
        ConfigurationError: the threshold is not between 0 and 1.
        GeneCoverageError: the model knows too few of the genes.
        ExpressionError: the data are not what the model's encoding expects.
    """
    check_adata(adata)
    check_target(adata, copy=copy)
    check_key(key_added)
    keys = Keys.of(key_added)
    _check_columns(adata, keys)
    check_threshold(unassigned_threshold)
    check_run(batch_size, seed)
    loaded = load_model(model, "annotate", processor=processor, device=device, dtype=dtype, revision=revision)
    result = take_target(adata, copy=copy)
    cells = prepare_cells(result, loaded, layer=layer, species=species, batch_key=batch_key)
    how = {"batch_size": batch_size, "seed": seed, "description": "annotate"}
    probabilities = run_cells(loaded, cells, probabilities_of, **how)
    label_names = label_names_of(loaded.model.config)
    labels, confidence = predictions(probabilities, label_names, unassigned_threshold)
    result.obs[keys.prediction], result.obs[keys.confidence] = labels, confidence
    result.obsm[keys.probabilities] = probabilities
    settings = {
        "layer": layer,
        "species": species,
        "batch_key": batch_key,
        "batch_size": batch_size,
        "seed": seed,
        "unassigned_threshold": unassigned_threshold,
    }
    record(result, keys.prediction, loaded, cells, settings)
    result.uns["sclm_hf"][keys.prediction]["label_names"] = np.array(label_names, dtype=object)
    return result


def _check_columns(adata: "AnnData", keys: Keys) -> None:
    """Refuse names of columns that would take the place of the names of the cells."""
    if clash := {adata.obs.index.name, "_index"} & set(keys):
        raise ConfigurationError(
            f"{clash.pop()!r} is what the names of the cells are called in `obs`: give another `key_added` (`--key`)."
        )


def check_threshold(unassigned_threshold: float) -> None:
    """Refuse a threshold that is no probability."""
    if not 0 <= unassigned_threshold <= 1:
        raise ConfigurationError(f"`unassigned_threshold` must lie between 0 and 1, got {unassigned_threshold}.")


def label_names_of(config: Any) -> list[str]:
    """The labels that a model was trained for, in the order of its classes."""
    return [config.id2label[index] for index in range(config.num_labels)]


def probabilities_of(output: "ModelOutput") -> "torch.Tensor":
    """(batch, n_labels) probabilities of the labels."""
    return output.logits.float().softmax(dim=-1)


def predictions(
    probabilities: np.ndarray, label_names: list[str], unassigned_threshold: float
) -> "tuple[Categorical, np.ndarray]":
    """The label of each cell (`"unassigned"` where none is probable enough) and its probability.

    Args:
        probabilities: (n_cells, n_labels).
        label_names: names of the columns.
        unassigned_threshold: as for [`annotate`].
    """
    pandas = require("pandas", extra="anndata")
    confidence = probabilities.max(axis=1)
    names = np.array([*label_names, UNASSIGNED], dtype=object)
    codes = np.where(confidence < unassigned_threshold, len(label_names), probabilities.argmax(axis=1))
    categories = list(dict.fromkeys([*label_names, *([UNASSIGNED] if unassigned_threshold > 0 else [])]))
    return pandas.Categorical(names[codes], categories=categories), confidence
