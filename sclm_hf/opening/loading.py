"""From what a user names (a folder, a repository, a model in memory) to a model and its processor, ready to run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigurationError
from ..registry import COMPOSITES, FAMILIES
from .files import ADAPTER_CONFIG, find_file
from .kinds import AUTO_CLASSES, foreign_family, is_classifier
from .names import resolve_name
from .processors import check_processor, check_vocabulary, load_processor, of_cells

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..tokenization.processing_cell import CellProcessor
    from .partners import Partners


@dataclass(frozen=True)
class LoadedModel:
    """A model with what is needed to feed it and to say later what it was.

    Attributes:
        model: on its device, in its dtype.
        processor: the processor of its vocabulary.
        name: folder or repository; `"in memory"` for a model that was never saved.
        revision: commit on the Hub; empty for a folder and for a model in memory.
        partners: classifiers that label cells together with this one, where they were asked for.
        reference: the labelled cells that cells are mapped to, a `tasks.mapping.reference.Reference`.
    """

    model: "PreTrainedModel"
    processor: "CellProcessor"
    name: str
    revision: str
    partners: "Partners | None" = None
    reference: Any = None


def load_model(
    model: Any,
    kind: str,
    *,
    processor: "CellProcessor | None" = None,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    revision: str | None = None,
) -> LoadedModel:
    """Load a model and its processor, or take a loaded model as it is.

    Args:
        model: folder or repository id of a checkpoint or of an adapter; or a loaded model.
        kind: transformers' Auto class that says which head is wanted, for example `"AutoModel"`.
        processor: the processor; by default the one saved with the model.
        device: where to run; by default CUDA, else MPS, else CPU, and for a loaded model where it is. A loaded model
            is moved there and stays there, as with transformers' pipelines.
        dtype: of the weights; float32 by default on every device, because a cell's result is then the same to 1e-5
            whatever it shares a batch with. `"bfloat16"` halves the memory and is good to about two digits; it is
            faster on GPUs and on CPUs with fast instructions for it. A loaded model keeps its own.
        revision: branch, tag or commit on the Hub.

    Raises:
        CheckpointError: the checkpoint cannot be read, lacks weights that the class needs (nothing is left at random),
            or does not fit the processor's vocabulary.
        ConfigurationError: settings that a loaded model contradicts, or a device that the machine does not have.
    """
    check_device(device)
    if isinstance(model, str) or hasattr(model, "__fspath__"):
        name = str(model)
        # one commit for all files, and for the record of what ran
        revision = resolve_name(name, revision)
        loaded = open_checkpoint(name, kind, as_dtype(dtype), revision)
        device = device or default_device()
    else:
        loaded = model
        config = getattr(model, "config", None)
        if (model_type := getattr(config, "model_type", type(model).__name__)) not in FAMILIES | COMPOSITES:
            raise foreign_family("The model in memory", model_type)
        name = getattr(config, "_name_or_path", "") or "in memory"
        if dtype is not None and as_dtype(dtype) != model.dtype:
            raise ConfigurationError(
                f"`dtype` asks for {as_dtype(dtype)} and the model in memory is {model.dtype}: convert it "
                "(`model.to`)."
            )
        if kind == AUTO_CLASSES["annotate"] and not is_classifier(model):
            raise CheckpointError(
                f"The task needs a model with a classification head, got {type(model).__name__}: fine-tune one with "
                f"`sclm-hf finetune`, or load it with `{kind}`."
            )
    if kind == AUTO_CLASSES["embed"] and loaded.config.model_type == "cell_text":
        raise CheckpointError(
            f"`{name}` is a cell-text model, which answers questions about cells and gives no embeddings of them: use "
            "`annotate` (`sclm-hf annotate`), or embed with the model that it was made from (its `--cell_model`)."
        )
    processor = load_processor(name, revision) if processor is None else check_processor(of_cells(processor), name)
    check_vocabulary(loaded, processor, name)
    if device is not None:
        loaded.to(device)
    return LoadedModel(loaded, processor, name, getattr(revision, "resolved", None) or "")


def default_device() -> str:
    """`"cuda"` where there is one, else `"mps"`, else `"cpu"`."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def as_dtype(dtype: "str | torch.dtype | None") -> "torch.dtype":
    """The dtype of a name; float32 for None.

    Raises:
        ConfigurationError: weights are not kept in it.
    """
    import torch

    if dtype is None:
        return torch.float32
    resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if resolved not in (torch.float32, torch.bfloat16, torch.float16):
        raise ConfigurationError(f"`dtype` (`--dtype`) must be 'float32', 'bfloat16' or 'float16', got {dtype!r}.")
    return resolved


def open_checkpoint(name: str, kind: str, dtype: "torch.dtype", revision: str | None) -> "PreTrainedModel":
    """The model of a folder or repository, with its adapter around it where that is one."""
    if find_file(name, ADAPTER_CONFIG, revision) is not None:
        from ..adapters.lora import load_adapter

        return load_adapter(name, dtype=dtype, revision=revision)
    from .weights import open_model

    return open_model(name, kind, dtype=dtype, revision=revision)


def check_device(device: "str | torch.device | None") -> None:
    """Refuse a device that the machine does not have.

    Raises:
        ConfigurationError: it does not.
    """
    import torch

    try:
        torch.empty(0, device=device)
    # torch raises an AssertionError where CUDA is missing
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ConfigurationError(
            f"`device={device!r}` cannot be used on this machine ({str(error).splitlines()[0]}): leave `device` "
            f"(`--device`) out for `{default_device()}`."
        ) from error
