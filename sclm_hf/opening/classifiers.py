"""Pre-trained models with a classifier on top, which training adapts or trains."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..modeling.common.probe import Probe, has_common_heads, probe_leaves
from ..modeling.common.soundness import without_memory
from ..registry import FAMILIES
from .families import class_of, family_of, read_config
from .kinds import AUTO_CLASSES, labels_cells, labels_tasks
from .weights import open_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def open_classifier(name: str, label_names: Sequence[str], *, linear_beside: bool = False) -> "PreTrainedModel":
    """Open a pre-trained model with a classifier for `label_names`; one that it lacks starts at random.

    Args:
        name: folder or repository of the model.
        label_names: names of the labels in the order of their numbers.
        linear_beside: put a linear path from genes to labels beside the encoder, see `modeling.common.gene_bag`.

    Raises:
        CheckpointError: see [`open_model`].
        ConfigurationError: the family has no classifier.
    """
    model = open_model(
        name,
        AUTO_CLASSES["annotate"],
        new_head=True,
        probe_leaves=None,
        linear_beside=linear_beside,
        id2label=dict(enumerate(label_names)),
        label2id={label: i for i, label in enumerate(label_names)},
    )
    # groups of the labels that the checkpoint had
    if hasattr(model.config, "label_parents"):
        del model.config.label_parents
    return model


def open_probe(name: str, label_names: Sequence[str]) -> "PreTrainedModel":
    """Open a pre-trained model with a probe for `label_names`, still to be fitted, in the place of its classifier.

    The probe of a checkpoint that classifies cells also reads the log-probabilities of its classes.

    Args:
        name: folder or repository of the model.
        label_names: names of the labels in the order of their numbers.

    Raises:
        CheckpointError: see [`open_model`].
        ConfigurationError: the family has no classifier of cells, or none that takes a probe.
    """
    family, _ = family_of(name)
    model_class = class_of(family, AUTO_CLASSES["annotate"])
    if not has_common_heads(model_class):
        raise ConfigurationError(
            f"`{model_class.__name__}` takes no probe: its `forward` lacks `modeling.common.probe.with_common_heads`."
        )
    settings = read_config(name)
    classifies = any(map(labels_cells, settings.get("architectures") or ())) and settings.get("probe_leaves") != []
    encoder = open_model(name, AUTO_CLASSES["annotate" if classifies else "embed"])
    config = encoder.config
    if not classifies:
        config.probe_leaves = []
    elif probe_leaves(config) is None:
        config.probe_leaves = [config.id2label[number] for number in range(config.num_labels)]
    config.id2label = dict(enumerate(label_names))
    config.label2id = {label: number for number, label in enumerate(label_names)}
    model = without_memory(model_class, config)
    parts = dict(encoder.named_children()) if classifies else {model.base_model_prefix: encoder}
    for part in parts:
        setattr(model, part, parts[part])
    n_leaves = len(config.probe_leaves)
    model.probe = Probe(model.classified_size + n_leaves, len(label_names), n_leaves)
    # that of the encoder, which some families copy
    model.config = config
    return model.eval()


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
