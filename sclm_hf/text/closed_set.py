"""The question about a cell and the labels among which a language model chooses, as they are saved beside it."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigurationError
from ..files import read_json_object, write_text
from ..opening.families import encoder_family, read_config
from ..opening.files import find_file
from ..opening.loading import LoadedModel, check_device, default_device
from ..opening.names import resolve_name
from ..registry import COMPOSITES, Family
from .neutral import neutralise

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

CANDIDATES_FILE = "candidates.json"

CELLS_FOLDER = "cells"
"""Folder of the processor of cells, beside the tokenizer of a language model; also of their encoder and codebook."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What `candidates.json` holds: the question about a cell, and the answers among which the model chooses.

    Attributes:
        labels: the answers, as they stood in `obs`.
        prompt: the wording of the question.
        organism: what it calls the species.
        system: a message before it.
        temperature: log-likelihoods are divided by it before they become probabilities.
    """

    labels: list[str]
    prompt: str
    organism: str = "human"
    system: str | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        are_texts = isinstance(self.labels, list) and all(isinstance(one, str) and one.strip() for one in self.labels)
        if not are_texts or len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ConfigurationError("`labels` must be two or more different texts, none of them blank.")
        if not all(isinstance(one, str) for one in (self.prompt, self.organism, self.system or "")):
            raise ConfigurationError("`prompt`, `organism` and `system` must be texts.")
        if not isinstance(self.temperature, (int, float)) or not 0 < self.temperature < float("inf"):
            raise ConfigurationError(f"`temperature` must be above 0, got {self.temperature!r}.")

    def save(self, folder: str | Path) -> None:
        """Write them to a folder."""
        write_text(Path(folder) / CANDIDATES_FILE, json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def read_candidates(path: Path) -> Candidates:
    """What [`Candidates.save`] wrote.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    read = read_json_object(path)
    try:
        return Candidates(**read)
    except (TypeError, ConfigurationError) as error:
        raise CheckpointError(f"`{path}` cannot be used: {error}") from error


def model_type_with_candidates(model: Any, revision: Any = None) -> str | None:
    """The `model_type` of a folder or repository that holds candidates; None of any other, and of what is no name."""
    if not isinstance(model, str) and not hasattr(model, "__fspath__"):
        return None
    name = str(model)
    revision = resolve_name(name, revision)
    if find_file(name, CANDIDATES_FILE, revision) is None:
        return None
    return read_config(name, revision).get("model_type")


def is_language_model(model: Any, revision: Any = None) -> bool:
    """Whether a folder or repository holds a language model that reads cells as text, with candidates."""
    model_type = model_type_with_candidates(model, revision)
    return model_type is not None and model_type not in COMPOSITES


def loaded_annotator(
    model: Any,
    kind: type,
    open_annotator: Callable[[str, Any], Any],
    device: "str | torch.device | None",
    revision: str | None,
) -> LoadedModel:
    """A model with candidates, ready to run.

    Args:
        model: folder or repository, or such a model itself.
        kind: its class, which has a `cell_processor`.
        open_annotator: (name, revision) -> the model of a folder or repository.
        device: where to run; by default CUDA, else MPS, else CPU; of a model in memory, where it is.
        revision: branch, tag or commit on the Hub.
    """
    check_device(device)
    if isinstance(model, kind):
        model = model if device is None else model.to(device)
        return LoadedModel(model, model.cell_processor, "in memory", "")
    name = str(model)
    revision = resolve_name(name, revision)
    annotator = open_annotator(name, revision).to(device or default_device()).eval()
    return LoadedModel(annotator, annotator.cell_processor, name, getattr(revision, "resolved", None) or "")


def text_encoder_family(folder: Path) -> Family | None:
    """The family of the encoder within a language model that reads code words; None of one that reads names of genes.

    Raises:
        CheckpointError: the encoder is of no family.
    """
    cells = folder / CELLS_FOLDER
    return encoder_family(str(cells)) if (cells / "config.json").exists() else None


def answers_of(labels: Sequence[str], tokenizer: "PreTrainedTokenizerBase | None") -> list[str]:
    """Labels as prompts and answers write them."""
    return [neutralise(label, tokenizer) for label in labels]
