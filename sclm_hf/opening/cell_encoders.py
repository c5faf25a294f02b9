"""The encoder of cells that a model of cells and text is made of."""

from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..registry import get_family
from .processors import load_processor
from .weights import open_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..tokenization.processing_cell import CellProcessor


def open_cell_encoder(name: str, joined: str) -> "tuple[PreTrainedModel, CellProcessor]":
    """A model of cells that reads each cell alone, as `embed` does, and its processor.

    Args:
        name: folder or repository.
        joined: what it becomes part of, for messages.

    Raises:
        CheckpointError: it cannot be read.
        ConfigurationError: it has frozen tables (UCE).
    """
    processor, model = load_processor(name), open_model(name, "AutoModel")
    if model.frozen_tables():
        raise ConfigurationError(
            f"`{name}` has tables that are never saved with other weights, so {joined} cannot hold it: choose a model "
            "of another family."
        )
    for setting, value in get_family(model.config.model_type).embed_overrides.items():
        setattr(model.config, setting, value)
    return model, processor
