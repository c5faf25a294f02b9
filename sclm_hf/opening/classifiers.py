"""Pre-trained models with a classifier on top, which training adapts or trains."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..registry import FAMILIES
from .families import family_of
from .kinds import AUTO_CLASSES, labels_tasks
from .weights import open_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def open_classifier(name: str, label_names: Sequence[str]) -> "PreTrainedModel":
    """Open a pre-trained model with a classifier for `label_names`; one that it lacks starts at random.

    Args:
        name: folder or repository of the model.
        label_names: names of the labels in the order of their numbers.

    Raises:
        CheckpointError: see [`open_model`].
        ConfigurationError: the family has no classifier.
    """
    return open_model(
        name,
        AUTO_CLASSES["annotate"],
        new_head=True,
        id2label=dict(enumerate(label_names)),
        label2id={label: i for i, label in enumerate(label_names)},
    )


def open_multitask_classifier(
    name: str, task_names: Mapping[str, Sequence[str]], weights: Sequence[float] | None = None
) -> "PreTrainedModel":
    """Open a pre-trained model with a classifier for each task; those that it lacks start at random.

    Args:
        name: folder or repository of the model.
        task_names: task -> names of its labels in the order of their numbers.
        weights: of the tasks' losses; 1 by default.

    Raises:
        CheckpointError: see [`open_model`].
        ConfigurationError: the family has no head for several tasks.
    """
    family, _ = family_of(name)
    model_class = next(filter(labels_tasks, family.models), None)
    if model_class is None:
        able = sorted(one.title for one in FAMILIES.values() if any(map(labels_tasks, one.models)))
        raise ConfigurationError(
            f"{family.title} has no head for several tasks; {', '.join(able)} has. Give one `label_column`."
        )
    return open_model(
        name,
        model_class,
        new_head=True,
        task_names=list(task_names),
        label_names_per_task=[list(names) for names in task_names.values()],
        num_labels_per_task=[len(names) for names in task_names.values()],
        task_weights=None if weights is None else list(weights),
    )
