"""The processor that was saved with a model."""

from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigurationError
from ..logging import quiet_transformers
from .files import damage_is_told, require_readable
from .names import resolve_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..tokenization.processing_cell import CellProcessor


_ABSENT = "holds no processor: save one there, or pass `processor` in Python"


def load_processor(name: str, revision: Any = None) -> "CellProcessor":
    """The processor saved with a model, an adapter or a corpus; nothing that it brings is run.

    Args:
        name: folder or repository; `"in memory"` for a model that was never saved.
        revision: branch, tag or commit on the Hub.

    Raises:
        CheckpointError: there is none, it cannot be read, or its tokenizer lacks a special token that it asks for.
        ConfigurationError: the model was never saved.
    """
    from transformers import AutoProcessor

    if name == "in memory":
        raise ConfigurationError(
            "A model that was not loaded from a folder has no processor of its own: pass `processor`."
        )
    revision = resolve_name(name, revision)
    require_readable(name, revision)
    with damage_is_told(name, _ABSENT), quiet_transformers():
        try:
            opened = AutoProcessor.from_pretrained(name, revision=revision, trust_remote_code=False)
            processor = check_processor(of_cells(opened), name)
            processor.check_tokens()
        except ConfigurationError as error:
            raise CheckpointError(f"The processor of `{name}` cannot be used: {error}") from error
    return processor


def of_cells(processor: Any) -> Any:
    """The processor of the cells, where `processor` is one of cells and texts."""
    return getattr(processor, "cell_processor", processor)


def check_processor(processor: Any, name: str) -> "CellProcessor":
    """`processor`, if it is one of cells.

    Raises:
        CheckpointError: it is something else.
    """
    from ..tokenization.processing_cell import CellProcessor

    if not isinstance(processor, CellProcessor):
        raise CheckpointError(
            f"The processor for `{name}` must be a CellProcessor, got {type(processor).__name__}: save one beside the "
            "model, or pass `processor` in Python."
        )
    if not hasattr(processor.tokenizer, "gene_vocabulary"):
        raise CheckpointError(
            f"The tokenizer for `{name}` must be a GeneTokenizer, got {type(processor.tokenizer).__name__}: save one "
            "beside the model."
        )
    return processor


def check_vocabulary(model: "PreTrainedModel", processor: "CellProcessor", name: str = "in memory") -> None:
    """Refuse a model that lacks embeddings for some ids of the processor's vocabulary.

    Args:
        model: the model, or the PEFT model around it.
        processor: the processor, of cells or of cells and texts.
        name: folder or repository of the model.

    Raises:
        CheckpointError: it has too few gene embeddings.
    """
    needed = of_cells(processor).tokenizer.gene_vocabulary.size
    there = getattr(model.get_input_embeddings(), "num_embeddings", needed)
    if there < needed:
        which = "" if name == "in memory" else f" of `{name}`"
        raise CheckpointError(
            f"The vocabulary has ids up to {needed - 1}, and the model{which} has {there} gene embeddings: "
            f"use the processor that was saved with the model, or `model.resize_token_embeddings({needed})`."
        )
