"""What a run leaves behind: a folder that the Auto classes open."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..files import model_replaced
from ..logging import quiet_transformers
from ..objectives.contrastive import Contrast
from ..objectives.integration import BatchIntegration
from ..objectives.supervised import Supervision
from ..opening.kinds import inner_model, is_adapted
from ..opening.processors import check_vocabulary
from ..tokenization.processing_cell import CellProcessor


def kept_model(model: nn.Module) -> nn.Module:
    """What of a trained module is saved: a model, without what only its loss needed."""
    return model.kept if isinstance(model, (BatchIntegration, Contrast, Supervision)) else model


def check_model(model: nn.Module, processor: Any = None) -> None:
    """Refuse a model that could not be saved after training, or that does not know all ids of its processor.

    Raises:
        ConfigurationError: it is an adapter on a base that was never saved.
        CheckpointError: it has too few gene embeddings.
    """
    if is_adapted(model):
        from ..adapters.lora import base_reference

        base_reference(model)
    if isinstance(processor, CellProcessor):
        check_vocabulary(model, processor)


def note_batches(model: nn.Module, names: Sequence[str] | None) -> None:
    """Write into the configuration which batches the model's batch labels stand for, where it has a place for them."""
    config = getattr(inner_model(model), "config", None)
    if names is not None and hasattr(config, "batch_names"):
        config.batch_names = list(names)


def save_trained(model: nn.Module, directory: Path, processor: Any = None, *, merged: bool = True) -> None:
    """Save model and processor, each folder whole or not at all.

    A plain model goes to `directory`. With a LoRA adapter, the adapter goes to `directory/adapter`, and the model with
    the adapter merged to `directory` unless `merged` is False.

    Args:
        model: the model, or the PEFT model around it; left as it is.
        directory: the folder.
        processor: saved in each folder that is written.
        merged: see above.
    """
    if is_adapted(model):
        from ..adapters.lora import merge_adapter, save_adapter

        place = directory / "adapter"
        # beside it, for the adapter names its base as seen from there
        with quiet_transformers(), model_replaced(place, directory / ".adapter.tmp") as unfinished:
            if (place / "README.md").exists():
                shutil.copy(place / "README.md", unfinished)
            save_adapter(model, unfinished, processor=processor)
        if not merged:
            return
        model = merge_adapter(model)
    with quiet_transformers(), model_replaced(directory, directory / ".model.tmp") as unfinished:
        model.save_pretrained(unfinished)
        if processor is not None:
            processor.save_pretrained(unfinished)
