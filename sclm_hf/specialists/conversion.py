"""Converters of task-specific models: tensors under the original's names, and a `config.json` with their sizes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..logging import quiet_transformers
from ..modeling.common.conversion import (
    LoadingReport,
    WeightMap,
    build_model,
    convert_weights,
    converter,
    damage_is_told,
)
from ..modeling.common.legacy import read_json_object, read_weights


def make_converter(
    model_class: type[PreTrainedModel],
    read_config: Callable[[dict[str, Any]], PreTrainedConfig],
    weight_map: WeightMap | Callable[[dict[str, Any]], WeightMap],
    *,
    read_tensor: Callable[[str, Tensor], Tensor] | None = None,
) -> Callable[..., LoadingReport]:
    """The `convert_checkpoint(source, output)` of a task-specific model.

    The folder that it writes has no processor, as the originals keep none: what they read lies in their scripts.

    Args:
        model_class: the class whose weights the original saved.
        read_config: the settings of the source's `config.json` -> our configuration.
        weight_map: the table of names; or the settings -> the table.
        read_tensor: (original name, tensor) -> the tensor in torch's layout, where the original has another.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor is unknown, missing or of another shape.
        ConfigurationError: the output is no empty folder, or another run is writing it.
    """

    @converter
    def convert_checkpoint(source: Path, output: Path) -> LoadingReport:
        with damage_is_told(source):
            settings = read_json_object(source / "config.json")
            weights_file, tensors = read_weights(source)
            if read_tensor is not None:
                tensors = {name: read_tensor(name, tensor) for name, tensor in tensors.items()}
            config = read_config(settings)
            report = LoadingReport(config.model_type, ["config.json", weights_file], model_class.__name__)
            names = weight_map(settings) if callable(weight_map) else weight_map
            weights = convert_weights(tensors, names, source / weights_file, report)
            model = build_model(model_class, config, weights, source / weights_file)
        with quiet_transformers():
            model.save_pretrained(output)
        report.save(output)
        return report

    return convert_checkpoint


def keras_tensor(name: str, tensor: Tensor) -> Tensor:
    """A tensor of Keras in torch's layout.

    Kernels end in (input, output) there, those of convolutions after the axes that they slide along.
    """
    if not name.endswith(".kernel"):
        return tensor
    return tensor.permute(-1, -2, *range(tensor.ndim - 2))
