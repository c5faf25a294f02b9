"""A fitted head on disk: weights as safetensors, the rest as JSON."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError, ConfigurationError
from ...files import new_folder, read_json_object, require_regular_file
from .predictors import Ridge

WEIGHTS, FACTS = "head.safetensors", "head.json"
_FORMAT = "sclm_hf multimodal head 1"


@dataclass(frozen=True)
class Head:
    """A ridge regression on embeddings of a model, and what it predicts.

    Attributes:
        ridge: the regression.
        facts: `kind`, `features`, `model`, a hash of the model and its processor, `model_name` and `n_cells`.
    """

    ridge: Ridge
    facts: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write it to a new folder."""
        from safetensors.numpy import save_file

        tensors = {name: np.ascontiguousarray(value, np.float64) for name, value in vars(self.ridge).items()}
        with new_folder(folder) as unfinished:
            unfinished.mkdir()
            save_file(tensors, unfinished / WEIGHTS)
            (unfinished / FACTS).write_text(json.dumps({"format": _FORMAT, **self.facts}, indent=2), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Head":
        """Read what [`save`] wrote.

        Raises:
            ConfigurationError: there is no such folder.
            CheckpointError: a file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if not folder.is_dir():
            raise ConfigurationError(
                f"There is no head `{folder}`: fit one on paired cells, with `other` (the file OTHER) and `head` "
                "(`--head`)."
            )
        facts = read_json_object(folder / FACTS)
        require_regular_file(folder / WEIGHTS)
        try:
            ridge = Ridge(**load_file(folder / WEIGHTS))
        except (OSError, SafetensorError, TypeError, ValueError) as error:
            raise CheckpointError(f"The head `{folder}` cannot be read: {error}. Fit it anew.") from error
        features = facts.get("features")
        if facts.get("format") != _FORMAT or not isinstance(features, list) or ridge.biases.shape != (len(features),):
            raise CheckpointError(f"The files of the head `{folder}` do not fit one another: fit it anew.")
        return cls(ridge, facts)
