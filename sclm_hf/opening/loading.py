"""From what a user names (a folder, a repository, a model in memory) to a model and its processor, ready to run."""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigurationError, SclmError
from ..registry import FAMILIES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from ..tokenization.processing_cell import CellProcessor

_AUTO_CLASSES = {"embed": "AutoModel", "annotate": "AutoModelForSequenceClassification", "perturb": "AutoModel"}


@dataclass(frozen=True)
class LoadedModel:
    """A model with what is needed to feed it and to say later what it was.

    Attributes:
        model: on its device, in its dtype.
        processor: the processor of its vocabulary.
        name: folder or repository; `"in memory"` for a model that was never saved.
        revision: commit on the Hub; empty for a folder and for a model in memory.
    """

    model: "PreTrainedModel"
    processor: "CellProcessor"
    name: str
    revision: str


def load_model(
    model: Any,
    task: str,
    *,
    processor: "CellProcessor | None" = None,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    revision: str | None = None,
) -> LoadedModel:
    """Load what `task` needs, or take a loaded model as it is.

    Args:
        model: folder or repository id of a checkpoint or of an adapter; or a loaded model.
        task: `"embed"`, `"annotate"` or `"perturb"`.
        processor: the processor; by default the one saved with the model.
        device: where to run; by default CUDA, else MPS, else CPU, and for a loaded model where it is. A loaded model
            is moved there and stays there, as with transformers' pipelines.
        dtype: of the weights; float32 by default on every device, because a cell's result is then the same to 1e-5
            whatever it shares a batch with. `"bfloat16"` is faster and good to about two digits. A loaded model keeps
            its own.
        revision: branch, tag or commit on the Hub.

    Raises:
        CheckpointError: the checkpoint cannot be read, lacks weights that the task needs (nothing is left at random),
            or does not fit the processor's vocabulary.
        ConfigurationError: settings that a loaded model contradicts, or a device that the machine does not have.
    """
    from transformers.utils.hub import resolve_revision

    _check_device(device)
    if isinstance(model, str) or hasattr(model, "__fspath__"):
        name = str(model)
        # one commit for all files, and for the record of what ran
        revision = resolve_revision(name, revision)
        loaded = _from_pretrained(name, task, _dtype(dtype), revision)
        device = device or default_device()
    else:
        loaded = model
        config = getattr(model, "config", None)
        _check_family("The model in memory", getattr(config, "model_type", type(model).__name__))
        name = getattr(config, "_name_or_path", "") or "in memory"
        if dtype is not None and _dtype(dtype) != model.dtype:
            raise ConfigurationError(
                f"`dtype` asks for {_dtype(dtype)} and the model in memory is {model.dtype}: convert it (`model.to`)."
            )
        if task == "annotate" and not _is_classifier(model):
            raise CheckpointError(
                f"`annotate` needs a model with a classification head, got {type(model).__name__}: fine-tune one with "
                "`sclm-hf finetune`, or load it with `AutoModelForSequenceClassification`."
            )
    processor = processor if processor is not None else _load_processor(name, revision)
    _check_processor(processor, name)
    _check_vocabulary(loaded, processor, name)
    if device is not None:
        loaded.to(device)
    return LoadedModel(loaded, processor, name, getattr(revision, "resolved", None) or "")


def default_device() -> str:
    """`"cuda"` where there is one, else `"mps"`, else `"cpu"`."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(dtype: "str | torch.dtype | None") -> "torch.dtype":
    import torch

    if dtype is None:
        return torch.float32
    resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if resolved not in (torch.float32, torch.bfloat16, torch.float16):
        raise ConfigurationError(f"`dtype` must be 'float32', 'bfloat16' or 'float16', got {dtype!r}.")
    return resolved


def _from_pretrained(name: str, task: str, dtype: "torch.dtype", revision: str | None) -> "PreTrainedModel":
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers.utils.peft_utils import find_adapter_config_file

    _check_shard_names(name)
    try:
        if find_adapter_config_file(name, revision=revision) is not None:
            return _from_adapter(name, dtype, revision)
        model, info = _opener(name, _AUTO_CLASSES[task], revision)(
            name,
            dtype=dtype,
            revision=revision,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, StrictDataclassError) as error:
        if isinstance(error, SclmError):
            raise
        raise CheckpointError(
            f"`{name}` is not a checkpoint folder or repository that can be read: {error}"
        ) from error
    if mismatched := sorted(info["mismatched_keys"]):
        key, found, expected = mismatched[0]
        raise CheckpointError(
            f"`{name}` holds {len(mismatched)} weights of another shape than its configuration says, for example "
            f"`{key}` {tuple(found)} instead of {tuple(expected)}."
        )
    if missing := sorted(info["missing_keys"]):
        advice = " Fine-tune it first, for example with `sclm-hf finetune`." if task == "annotate" else ""
        raise CheckpointError(
            f"`{name}` lacks {len(missing)} weights that `{task}` needs, for example `{missing[0]}`; they would be "
            f"random.{advice}"
        )
    return model


def _opener(name: str, auto_class: str, revision: str | None) -> Callable:
    """`from_pretrained` of the Auto class; of ours, for a stock folder whose processor names the family."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(name, revision=revision)
    if config.model_type in FAMILIES:
        return getattr(transformers, auto_class).from_pretrained
    try:
        encoding = _load_processor(name, revision).feature_extractor
        family = FAMILIES[encoding.family]
        model_class = getattr(importlib.import_module(family.modeling_module), family.auto_classes[auto_class])
        is_ours = issubclass(model_class.config_class, type(config))
    except (CheckpointError, AttributeError, KeyError):
        is_ours = False
    if not is_ours:
        _check_family(f"`{name}`", config.model_type)
    # a stock configuration cannot say so
    says = hasattr(model_class.config_class, "has_special_tokens")
    return functools.partial(model_class.from_pretrained, **({"has_special_tokens": encoding.add_cls} if says else {}))


def _check_family(what: str, model_type: str) -> None:
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"{what} is a `{model_type}` model; expected one of the families {', '.join(sorted(FAMILIES))}, or a "
            "stock model beside the processor of one that builds on it."
        )


def _check_shard_names(name: str) -> None:
    """Refuse an index of shards whose names lead out of the folder."""
    from ..modeling.common.legacy import read_json_object

    index = Path(name) / "model.safetensors.index.json"
    if not index.is_file():
        return
    shards = set(read_json_object(index).get("weight_map", {}).values())
    if outside := sorted(str(shard) for shard in shards if Path(str(shard)).name != shard):
        raise CheckpointError(f"`{index}` names the shard `{outside[0]}`; expected file names without a folder.")


def _from_adapter(name: str, dtype: "torch.dtype", revision: str | None) -> "PreTrainedModel":
    from ..adapters.lora import load_adapter

    return load_adapter(name, dtype=dtype, revision=revision)


def _is_classifier(model: Any) -> bool:
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(model).__name__.endswith("ForSequenceClassification")


def _load_processor(name: str, revision: str | None) -> "CellProcessor":
    from transformers import AutoProcessor

    if name == "in memory":
        raise ConfigurationError(
            "A model that was not loaded from a folder has no processor of its own: pass `processor`."
        )
    try:
        return AutoProcessor.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, SclmError):
            raise
        raise CheckpointError(
            f"`{name}` holds no processor: save one there, or pass `processor`. ({error})"
        ) from error


def _check_processor(processor: Any, name: str) -> None:
    from ..tokenization.processing_cell import CellProcessor

    if not isinstance(processor, CellProcessor):
        raise CheckpointError(
            f"The processor for `{name}` must be a CellProcessor, got {type(processor).__name__}: save one beside the "
            "model, or pass `processor`."
        )


def _check_device(device: "str | torch.device | None") -> None:
    import torch

    try:
        torch.empty(0, device=device)
    # torch tells of a missing CUDA by an AssertionError
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ConfigurationError(
            f"`device={device!r}` cannot be used on this machine ({str(error).splitlines()[0]}): leave it out for "
            f"`{default_device()}`."
        ) from error


def _check_vocabulary(model: "PreTrainedModel", processor: "CellProcessor", name: str) -> None:
    needed, there = processor.tokenizer.gene_vocabulary.size, model.get_input_embeddings().num_embeddings
    if needed > there:
        raise CheckpointError(
            f"The vocabulary has ids up to {needed - 1}, and the model of `{name}` has {there} gene embeddings: use "
            "the processor that was saved with the model, or `model.resize_token_embeddings`."
        )
