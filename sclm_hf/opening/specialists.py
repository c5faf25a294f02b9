"""Task-specific models: from a name, or a model in memory, to the model and its processor."""

import importlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..adapters.settings import find_base
from ..errors import CheckpointError, ConfigurationError, SclmError, unknown_name
from ..registry.specialists import SPECIALISTS, Specialist
from .families import read_config
from .files import damage_is_told, find_file
from .kinds import is_adapted
from .loading import as_dtype, check_device, default_device, open_checkpoint
from .names import resolve_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..specialists.processing import SpecialistProcessor


_PROCESSOR_FILE = "processor_config.json"


@dataclass(frozen=True)
class LoadedSpecialist:
    """A task-specific model, what makes its input, and what it was called.

    Attributes:
        model: in evaluation mode, on its device.
        processor: makes its input from cells.
        record: what the package knows about it.
        name: folder or repository; `"in memory"` for a model that was never saved.
        revision: commit on the Hub; empty for a folder and for a model in memory.
    """

    model: "PreTrainedModel"
    processor: "SpecialistProcessor"
    record: Specialist
    name: str
    revision: str


def get_specialist(name: str) -> Specialist:
    """The task-specific model called `name` (a `model_type`).

    Raises:
        ConfigurationError: there is none; the message lists those that exist.
    """
    if name not in SPECIALISTS:
        raise unknown_name(name, list(SPECIALISTS), " among the task-specific models")
    return SPECIALISTS[name]


def load_part(record: Specialist, name: str) -> Any:
    """A class of a task-specific model: its configuration, its processor or one of its models."""
    modules = {record.config: record.configuration_module, record.processor: record.processor_module}
    return getattr(importlib.import_module(modules.get(name, record.modeling_module)), name)


def specialist_of(model: Any, revision: str | None = None) -> Specialist | None:
    """The record of a task-specific model: a folder, a repository or one in memory; None for what is none."""
    if isinstance(model, str) or hasattr(model, "__fspath__"):
        name = str(model)
        # whoever opens it as another model says what is wrong, when its turn has come
        with suppress(SclmError):
            return SPECIALISTS.get(read_config(name, resolve_name(name, revision)).get("model_type"))
        return None
    return SPECIALISTS.get(getattr(getattr(model, "config", None), "model_type", None))


def is_specialist(model: Any, revision: str | None = None) -> bool:
    """Whether a folder, a repository or a model in memory is a task-specific model; not what cannot be read."""
    return specialist_of(model, revision) is not None


def load_specialist(
    model: Any,
    *,
    processor: Any = None,
    device: Any = None,
    dtype: Any = None,
    revision: str | None = None,
) -> LoadedSpecialist:
    """Load a task-specific model and its processor, or take a loaded model as it is.

    Args:
        model: folder or repository id, of an adapter as well, which is merged; or a loaded model, beside its
            `processor`.
        processor: the processor; by default the one saved with the model, or with the base of an adapter.
        device, dtype, revision: as for `opening.loading.load_model`.

    Raises:
        CheckpointError: the folder cannot be read, lacks weights, or holds no processor.
        ConfigurationError: a model in memory comes without its processor.
    """
    check_device(device)
    if not isinstance(model, str) and not hasattr(model, "__fspath__"):
        record = SPECIALISTS[model.config.model_type]
        if not isinstance(processor, load_part(record, record.processor)):
            raise ConfigurationError(
                f"A {record.title} model in memory needs its processor: pass the `{record.processor}` that it was "
                "trained with, or the folder of both."
            )
        if wrong := _contradiction(processor, model.config):
            raise ConfigurationError(f"The processor does not fit the {record.title} model: {wrong}")
        loaded = model if device is None else model.to(device)
        return LoadedSpecialist(loaded.eval(), processor, record, "in memory", "")
    name = str(model)
    revision = resolve_name(name, revision)
    settings = read_config(name, revision)
    record = SPECIALISTS[settings["model_type"]]
    if processor is None:
        processor = load_specialist_processor(record, name, revision)
    if processor is None:
        raise CheckpointError(
            f"`{name}` has no processor, as a model converted from the original's tensors has none: train one with "
            f"`sclm-hf fit {record.name}`, or pass a `{record.processor}`."
        )
    loaded = open_checkpoint(name, next(iter(record.auto_classes)), as_dtype(dtype), revision)
    if is_adapted(loaded):
        from ..adapters.lora import merge_adapter

        loaded = merge_adapter(loaded)
    if wrong := _contradiction(processor, loaded.config):
        raise CheckpointError(f"The processor does not fit the model `{name}`: {wrong}")
    loaded = loaded.to(device or default_device()).eval()
    return LoadedSpecialist(loaded, processor, record, name, getattr(revision, "resolved", None) or "")


def load_specialist_processor(record: Specialist, name: str, revision: Any = None) -> "SpecialistProcessor | None":
    """The processor saved with a model, or else with the base of an adapter; None where there is none.

    Raises:
        CheckpointError: it is damaged, or an adapter without one names no base.
    """
    if find_file(name, _PROCESSOR_FILE, revision) is None and (base := find_base(name, revision)):
        name, revision = base
    if find_file(name, _PROCESSOR_FILE, revision) is None:
        return None
    with damage_is_told(name):
        return load_part(record, record.processor).from_pretrained(name, revision=revision)


def _contradiction(processor: "SpecialistProcessor", config: Any) -> str | None:
    """In which size, or in which names of labels, a processor and a configuration differ; None if in none."""
    for name, expected in processor.config_settings().items():
        found = getattr(config, name)
        if isinstance(expected, dict):
            if name == "id2label" and (wrong := _other_label(expected, found)):
                return wrong
            expected, found = len(expected), len(found)
        elif type(expected) is not int or found is None:
            continue
        if found != expected:
            return f"`{name}` of the configuration has {found:,} where the processor has {expected:,}."
    return None


def _other_label(expected: dict[int, str], found: dict[int, str]) -> str | None:
    """Which label a configuration calls otherwise; None if none, or where it has no names or other numbers of labels.

    Args:
        expected: of the processor.
        found: of the configuration; one without names has those that transformers makes up.
    """
    are_names = any(label != f"LABEL_{number}" for number, label in found.items())
    if are_names and found.keys() == expected.keys():
        for number, label in expected.items():
            if found[number] != label:
                return f"label {number} is {found[number]!r} in the configuration and {label!r} in the processor."
    return None
