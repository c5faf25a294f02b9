"""What processors of task-specific models share: state that travels as JSON, and what others ask of them."""

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

import numpy as np
from transformers import BatchFeature
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import PushToHubMixin, cached_file

from ..errors import CheckpointError
from ..files import read_json_object, write_text

PROCESSOR_FILE = "processor_config.json"
_ABOVE_ZERO = ("n_top_genes", "n_neighbours", "target_sum", "sequence_length", "half_distance")


@dataclass(frozen=True)
class Examples:
    """What a task-specific model is trained on, in the form that the training loop takes.

    Attributes:
        size: number of examples; a whole graph is one.
        make: (numbers of examples, epoch) -> the inputs of the model, `labels` included, as arrays or tensors. What
            it draws depends on these alone.
    """

    size: int
    make: Callable[[np.ndarray, int], dict[str, Any]]

    @classmethod
    def of_arrays(cls, **arrays: np.ndarray) -> "Examples":
        """Examples that are rows of arrays of equal length."""
        size = len(next(iter(arrays.values())))
        return cls(size, lambda rows, epoch: {name: values[rows] for name, values in arrays.items()})

    @classmethod
    def whole(cls, batch: dict[str, Any]) -> "Examples":
        """A single example, such as the graph of all cells."""
        return cls(1, lambda rows, epoch: batch)


@dataclass
class SpecialistProcessor(PushToHubMixin):
    """Makes the input of a task-specific model from cells.

    A subclass is a dataclass whose fields are what it has learnt from the cells of training, as JSON holds it, and its
    settings. Cells are an AnnData, or what looks like one; `cells` of several modalities are a MuData, or a mapping of
    modality -> AnnData of the same cells.
    """

    modalities: ClassVar[tuple[str, ...]] = ()
    """The modalities that it reads, in order; none where it reads one AnnData."""

    learnt: ClassVar[tuple[str, ...]] = ()
    """The fields that `fit` finds out, and that are no settings."""

    _auto_class: ClassVar[str | None] = None

    @classmethod
    @abstractmethod
    def fit(cls, cells: Any, **settings: Any) -> Self:
        """The processor of a new model for these cells.

        Args:
            cells: the cells to train on.
            **settings: those of the processor, and columns of `obs`, such as `label_key`.
        """

    @abstractmethod
    def config_settings(self) -> dict[str, Any]:
        """What the configuration of a new model takes from the processor."""

    @abstractmethod
    def examples(self, cells: Any, seed: int) -> Examples:
        """What a model is trained on.

        Args:
            cells: the cells that the processor was fitted on.
            seed: seed of all draws.
        """

    @abstractmethod
    def __call__(self, cells: Any, **settings: Any) -> BatchFeature:
        """The input of the model for cells."""

    @abstractmethod
    def results(self, verb: str, model: Any, cells: Any, **settings: Any) -> Any:
        """What a verb adds to cells: place of an AnnData (`"obs"`, `"obsm"`, …) -> name -> value; or its table.

        What the record in `uns["sclm_hf"]` shall say beside is under `"facts"`. For `annotate` it is
        `"probabilities"`, (cells, labels), and `"labels"`, their names, of which the verb makes columns. For `grn`,
        which names `regulators` and `targets`, it is a (regulators, targets) array, higher = more likely an edge, NaN
        = not known; or a data frame with the columns `regulator`, `target` and `score`.

        Args:
            verb: one of those that the record of the model names.
            model: the model, in evaluation mode.
            cells: the cells.
            **settings: those that the record names for the verb.
        """

    def seen_pairs(self, regulators: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        """(regulators, targets) bool, pairs of genes that the model was told of in training: no test of what it knows.

        Args:
            regulators, targets: names of genes.
        """
        return np.zeros((len(regulators), len(targets)), bool)

    def check_learnt(self) -> None:
        """Refuse learnt fields that contradict one another, as those of an edited file may.

        Raises:
            ValueError: says which.
        """

    def check_epochs(self, n_epochs: float) -> None:
        """Refuse settings of which a training of so many epochs makes nothing.

        Raises:
            ConfigurationError: says which.
        """

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """Say that the class came with a folder, whose code it takes along; transformers calls this."""
        cls._auto_class = auto_class

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Write `processor_config.json`, and the code that came with the folder it was read from."""
        state = {"processor_class": type(self).__name__, **asdict(self)}
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        if self._auto_class is not None:
            custom_object_save(self, save_directory, config=state)
        write_text(Path(save_directory) / PROCESSOR_FILE, json.dumps(state, ensure_ascii=False) + "\n")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **settings: Any) -> Self:
        """Read a processor from a folder or a repository; of the settings, `revision` and `cache_dir` count.

        Raises:
            CheckpointError: there is none, or it is of another model.
        """
        name = str(pretrained_model_name_or_path)
        where = {key: settings[key] for key in ("revision", "cache_dir") if settings.get(key) is not None}
        try:
            file = cached_file(name, PROCESSOR_FILE, **where)
        except OSError as error:
            raise CheckpointError(f"`{name}` has no `{PROCESSOR_FILE}`: {error}") from error
        state = read_json_object(Path(file), CheckpointError)
        if state.pop("processor_class", None) != cls.__name__:
            raise CheckpointError(f"`{PROCESSOR_FILE}` of `{name}` is not of a `{cls.__name__}`.")
        # where the code is, of a folder that brings it
        state.pop("auto_map", None)
        known = {one.name for one in fields(cls)}
        if unknown := sorted(set(state) - known):
            raise CheckpointError(
                f"`{PROCESSOR_FILE}` of `{name}` holds {unknown[0]!r}, which `{cls.__name__}` has not."
            )
        if wrong := wrong_state(cls, state):
            raise CheckpointError(f"`{PROCESSOR_FILE}` of `{name}` is damaged: {wrong}")
        try:
            processor = cls(**state)
            processor.check_learnt()
            return processor
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"`{PROCESSOR_FILE}` of `{name}` is damaged: {error}") from error


def wrong_state(owner: type, state: Mapping[str, Any]) -> str | None:
    """What is wrong with values for fields of a processor, or of another dataclass; None if nothing is.

    Args:
        owner: the dataclass.
        state: field -> value; fields that it has not are not looked at.
    """
    kinds = get_type_hints(owner)
    for field in fields(owner):
        if field.name not in state:
            continue
        value, kind = state[field.name], kinds[field.name]
        if not _is_of(value, kind):
            shown = getattr(kind, "__name__", None) if get_origin(kind) is None else str(kind)
            return f"`{field.name}` must be {shown}, got {_shortened(value)}."
        if kind == list[str] and len(set(value)) < len(value):
            return f"`{field.name}` names {next(one for one in value if value.count(one) > 1)!r} twice."
        if isinstance(value, int | float) and field.name in _ABOVE_ZERO and value <= 0:
            return f"`{field.name}` must be above 0, got {value}."
    return None


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is what an annotation says, and numbers in it finite."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_is_of(value, one) for one in parts)
    if origin is list:
        return isinstance(value, list) and all(_is_of(one, parts[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is_of(key, parts[0]) and _is_of(value[key], parts[1]) for key in value)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + " …"
