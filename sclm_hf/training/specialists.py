"""Training of task-specific models: cells in memory, the published recipe, the one loop."""

import dataclasses
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.errors import StrictDataclassError

from ..corpora.fingerprint import Fingerprint, fingerprint_of
from ..corpora.training_manifest import TrainingManifest
from ..errors import ConfigurationError, unknown_name
from ..logging import warn
from ..objectives.complete import CompleteCollator
from ..opening.specialists import get_specialist, load_part
from ..registry.specialists import Specialist
from ..sources.in_memory import InMemorySource
from ..specialists.processing import Examples, SpecialistProcessor, wrong_state
from .arguments import TrainingConfig
from .checkpoints import check_output_dir
from .examples import TrainingExamples
from .label_columns import check_label_column
from .loop import TrainingResult, train
from .manifest import save_manifest


def fit(
    specialist: str,
    cells: Any,
    output_dir: str | Path,
    *,
    model_config: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    **settings: Any,
) -> TrainingResult:
    """Train a task-specific model on cells, as published, and save it with its processor.

    The folder opens with `Auto*`, and the verbs that `sclm-hf models` names for the model take it.

    Args:
        specialist: its name, for example `"ciform"`.
        cells: an AnnData with raw counts; for several modalities a MuData, or modality -> AnnData of the same cells.
        output_dir: folder to write.
        model_config: settings of the configuration, such as `{"patch_size": 256}`.
        training: settings of [`TrainingConfig`](sclm_hf.training.arguments.TrainingConfig) that replace the published
            ones, such as `{"num_train_epochs": 5}`.
        seed: seed of new weights and of all draws.
        **settings: those of the processor and its `fit`, such as `label_key`.

    Returns:
        The run.

    Raises:
        ConfigurationError: there is no such model or setting, or the cells do not fit it.
        ExpressionError: the values are no counts.
        SclmError: see [`train`].
    """
    record = get_specialist(specialist)
    config = _training_config(record, output_dir, seed, training or {})
    check_output_dir(config)
    processor_class = load_part(record, record.processor)
    _check_settings(processor_class, settings, record)
    if settings.get("label_key") is not None:
        _check_labels(cells, settings["label_key"])
    processor = processor_class.fit(cells, **settings)
    # a step takes no more than an epoch
    processor.check_epochs(config.max_steps if config.max_steps > 0 else config.num_train_epochs)
    model = _new_model(record, processor, model_config or {}, seed)
    manifest = _manifest(processor, cells)
    labels = _labels(cells, settings.get("label_key"))
    examples = SpecialistExamples(processor, processor.examples(cells, seed), seed, fingerprint_of(manifest, labels))
    result = train(model, examples, CompleteCollator(), config, processor=processor)
    if result.is_main_process:
        save_manifest(result, manifest, None)
    return result


class SpecialistExamples(TrainingExamples):
    """What a processor of a task-specific model makes of cells, for the loop.

    Args:
        processor: the processor.
        examples: what it made.
        seed: seed of all draws.
        cells: the fingerprint of the cells.
    """

    def __init__(
        self, processor: SpecialistProcessor, examples: Examples, seed: int, cells: Fingerprint | None = None
    ) -> None:
        super().__init__(seed)
        self._processor, self._examples, self._cells = processor, examples, cells or {}

    def __len__(self) -> int:
        return self._examples.size

    def batch(self, examples: np.ndarray, epoch: int) -> dict[str, Any]:
        return self._examples.make(examples, epoch)

    def identity(self) -> str:
        return json.dumps([dataclasses.asdict(self._processor), self._cells], sort_keys=True)

    def fingerprint(self) -> Fingerprint:
        return self._cells


def _training_config(
    record: Specialist, output_dir: str | Path, seed: int, changes: Mapping[str, Any]
) -> TrainingConfig:
    known = [field.name for field in dataclasses.fields(TrainingConfig)]
    for name in changes:
        if name not in known:
            raise unknown_name(name, known, " in `training`")
        if name in ("output_dir", "seed"):
            raise ConfigurationError(f"Say `{name}` beside `training`, not in it.")
    if wrong := wrong_state(TrainingConfig, changes):
        raise ConfigurationError(f"`training` (`--training`): {wrong}")
    return TrainingConfig(**(record.recipe | dict(changes)), output_dir=str(output_dir), seed=seed)


def _check_settings(
    processor_class: type[SpecialistProcessor], settings: Mapping[str, Any], record: Specialist
) -> None:
    names = inspect.signature(processor_class.fit).parameters
    fields = {field.name for field in dataclasses.fields(processor_class)} - set(processor_class.learnt)
    known = sorted(fields | {name for name, one in names.items() if one.kind is one.KEYWORD_ONLY})
    for name in settings:
        if name not in known:
            raise unknown_name(name, known, f" of {record.title}")
    # None where that is the default is left to `fit`, which says what it needs
    given = {name: value for name, value in settings.items() if value is not None or name not in names}
    if wrong := wrong_state(processor_class, given):
        raise ConfigurationError(f"{record.title}: {wrong}")


def _labels(cells: Any, column: str | None) -> np.ndarray | None:
    """(n_cells,) labels to learn, None where there are none."""
    return cells.obs[column].to_numpy() if column in getattr(cells, "obs", ()) else None


def _check_labels(cells: Any, column: str) -> None:
    """Refuse names of cells and measurements as labels, and warn of labels that a single cell has."""
    if column not in getattr(cells, "obs", ()):
        return  # what there is instead is said by the processor
    labels = cells.obs[column].dropna().astype(str)
    counts = labels[labels != ""].value_counts()
    check_label_column(column, sorted(counts.index), int(counts.sum()), "`label_key` (`--label-key`)")
    if single := sorted(counts.index[counts == 1]):
        warn(
            f"A single cell has the label {', '.join(map(repr, single[:10]))} of `obs[{column!r}]`: little can be "
            "learnt from one. Give more cells of the kind, or leave it out."
        )


def _new_model(record: Specialist, processor: SpecialistProcessor, changes: Mapping[str, Any], seed: int) -> Any:
    from accelerate.utils import set_seed

    config_class = load_part(record, record.config)
    known = [field.name for field in dataclasses.fields(config_class)]
    for name in changes:
        if name not in known:
            raise unknown_name(name, known, " in `model_config`")
    try:
        config = config_class(**(processor.config_settings() | dict(changes)))
        # what the sizes say of one another is looked at here, where the user can mend it
        config.validate()
    except StrictDataclassError as error:
        raise ConfigurationError(f"`model_config` of {record.title}: {_reason(error)}") from error
    set_seed(seed)
    return load_part(record, next(iter(record.auto_classes.values())))(config)


def _reason(error: BaseException) -> str:
    """The innermost message of an error of validation."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def _manifest(processor: SpecialistProcessor, cells: Any) -> TrainingManifest:
    """The cells, by the counts of their first modality."""
    first = cells if not processor.modalities else cells[processor.modalities[0]]
    source = InMemorySource(first, getattr(processor, "layer", None))
    return TrainingManifest.of_rows(source, np.arange(source.n_cells))
