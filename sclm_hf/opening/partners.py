"""Partners of a classifier: simpler ones that were saved with it, whose log-probabilities are added to its own.

`partners.json` in the folder of the classifier holds under `weights` the weight of each partner, by the name of its
folder in `partners/`, and under `"model"` that of the classifier itself.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import CheckpointError, HubError
from ..files import read_json_object, write_text
from .files import find_file
from .kinds import AUTO_CLASSES
from .loading import LoadedModel, load_model

if TYPE_CHECKING:
    import numpy as np

PARTNERS_FILE, PARTNERS_FOLDER = "partners.json", "partners"
MODEL = "model"
"""What the classifier itself is called among the weights."""

SAVED = "saved annotator"
"""What the classifier and its partners together are called in tables."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_LEAST = 1e-30
"""Smaller probabilities count as this one: their logarithms are finite in float32."""


class Partner(NamedTuple):
    """A partner.

    Attributes:
        name: name of its folder.
        weight: weight of its log-probabilities, above 0.
        loaded: its model and processor.
    """

    name: str
    weight: float
    loaded: LoadedModel


class Partners(NamedTuple):
    """The partners of a classifier.

    Attributes:
        model_weight: weight of the log-probabilities of the classifier itself.
        partners: the others that have a weight.
    """

    model_weight: float
    partners: tuple[Partner, ...]

    @property
    def weights(self) -> dict[str, float]:
        """The weights by name."""
        return {MODEL: self.model_weight} | {partner.name: partner.weight for partner in self.partners}


def with_partners(loaded: LoadedModel) -> LoadedModel:
    """The classifier with the partners that were saved with it, if any.

    Raises:
        CheckpointError: `partners.json` is damaged, or a partner cannot be read or has other labels.
        HubError: the partners cannot be fetched.
    """
    revision = loaded.revision or None
    if (weights := _weights(loaded)) is None:
        return loaded
    folder, partners = _folder(loaded.name, revision), []
    for name in weights.keys() - {MODEL}:
        if not weights[name]:
            continue
        # of float32 weights whatever the model has: a sum over all genes does not bear half precision
        partner = load_model(folder / PARTNERS_FOLDER / name, AUTO_CLASSES["annotate"], device=loaded.model.device)
        if label_names(partner.model.config) != label_names(loaded.model.config):
            raise CheckpointError(
                f"The partner `{name}` of `{loaded.name}` has other labels than the model: leave partners out "
                "(`partners=False`, `--no-partners`)."
            )
        partners.append(Partner(name, weights[name], partner))
    return dataclasses.replace(loaded, partners=Partners(weights.get(MODEL, 0.0), tuple(sorted(partners))))


def model_weight(loaded: LoadedModel) -> float | None:
    """The weight of a classifier beside the partners that were saved with it; None where there are none.

    Raises:
        CheckpointError: `partners.json` is damaged.
    """
    weights = _weights(loaded)
    return None if weights is None else weights.get(MODEL, 0.0)


def _weights(loaded: LoadedModel) -> dict[str, float] | None:
    """The weights that were saved with a classifier, if any."""
    revision = loaded.revision or None
    # of a model in memory the Hub is not asked
    if revision is None and not Path(loaded.name).is_dir():
        return None
    file = find_file(loaded.name, PARTNERS_FILE, revision)
    return None if file is None else read_weights(file)


def read_weights(file: Path) -> dict[str, float]:
    """The weights that `partners.json` names.

    Raises:
        CheckpointError: the file is damaged, or a name or a weight is none.
    """
    weights = read_json_object(file).get("weights")
    sound = isinstance(weights, dict) and all(
        _NAME.fullmatch(name) and type(weight) in (int, float) and math.isfinite(weight) and weight >= 0
        for name, weight in weights.items()
    )
    if not sound or not sum(weights.values()) > 0:
        raise CheckpointError(
            f"`{file}` must hold `weights`, a mapping from '{MODEL}' and the names of partners to numbers from 0 on, "
            f"not all of them 0; got {json.dumps(weights)[:200]}."
        )
    return {name: float(weight) for name, weight in weights.items()}


def write_partners(folder: Path, weights: Mapping[str, float], facts: Mapping[str, Any]) -> None:
    """Write `partners.json`.

    Args:
        folder: folder of the classifier.
        weights: name -> weight.
        facts: what else it says, such as how the weights were chosen.
    """
    write_text(folder / PARTNERS_FILE, json.dumps({"weights": dict(weights), **facts}, indent=2) + "\n")


def combined(log_probabilities: "Mapping[str, np.ndarray]", weights: Mapping[str, float]) -> "np.ndarray":
    """(n_cells, n_labels) probabilities: softmax of the weighted sum of log-probabilities.

    Args:
        log_probabilities: name -> (n_cells, n_labels).
        weights: name -> weight; names without one have weight 0.
    """
    import numpy as np

    total = sum(weights[name] * values for name, values in log_probabilities.items() if weights.get(name))
    total = np.exp(total - total.max(axis=1, keepdims=True))
    return total / total.sum(axis=1, keepdims=True)


def logarithms(probabilities: "np.ndarray") -> "np.ndarray":
    """Log-probabilities, all of them finite."""
    import numpy as np

    return np.log(np.maximum(probabilities, _LEAST))


def label_names(config: Any) -> list[str]:
    """The labels of a classifier in the order of its classes."""
    return [config.id2label[number] for number in range(config.num_labels)]


def _folder(name: str, revision: str | None) -> Path:
    """The folder of a checkpoint; of one on the Hub, the cached one with its partners."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=f"{PARTNERS_FOLDER}/*"))
    # the errors of the connection have no base of their own
    except Exception as error:
        raise HubError(
            f"The partners of `{name}` could not be fetched ({error}): check the connection, or leave them out "
            "(`partners=False`, `--no-partners`)."
        ) from error
