"""Models as programs: graphs for `torch.export` and ONNX, which run without the code of the model."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError, ConfigurationError, require
from ..files import new_folder
from ..logging import quiet_transformers
from ..opening.families import read_config
from ..opening.files import ADAPTER_CONFIG, find_file
from ..opening.inference import independent_cells
from ..opening.kinds import AUTO_CLASSES
from ..opening.loading import load_model
from ..opening.names import resolve_name
from ..registry import FAMILIES

if TYPE_CHECKING:
    import torch

    from ..tokenization.processing_cell import CellProcessor

PROGRAMS = {"torch-export": ("DynamoExporter", ()), "onnx": ("OnnxExporter", ("onnx", "onnxscript", "onnxruntime"))}
"""Format -> exporter of transformers, and the packages that it needs."""

TASKS = ("embed", "annotate")
"""What a program can be made for: the bare model, or its classifier of cells."""

_TOLERANCE = 1e-4
_GENES = 64


def export_program(
    model: str | Path, output: str | Path, *, format: str = "onnx", task: str = "embed", revision: str | None = None
) -> Path:
    """Write a model as a program, with its processor and its configuration.

    The program takes any number of cells and of genes that the model takes, treats each cell alone, as the verb does,
    and is compared with the model before it is kept. It does not look for faults of its inputs: the processor does.

    Args:
        model: folder or repository of a model of one of the families; it runs in float32.
        output: folder to write; it must be empty or not exist.
        format: `"torch-export"` (`model.pt2`) or `"onnx"` (`model.onnx`).
        task: `"embed"`, or `"annotate"` for the classifier of cells.
        revision: branch, tag or commit on the Hub.

    Returns:
        `output`, which `transformers.exporters.ExportedModel.from_pretrained` opens.

    Raises:
        CheckpointError: the model cannot be read, is of no family, or cannot be written as a program.
        ConfigurationError: there is no such format or task, or something is at `output` already.
        MissingDependencyError: a package that the format needs is not installed.
    """
    exporter = _exporter(format)
    if task not in TASKS:
        raise ConfigurationError(f"`task` (`--task`) must be one of {', '.join(map(repr, TASKS))}, got {task!r}.")
    _check_family(str(model), revision)
    loaded = load_model(str(model), AUTO_CLASSES[task], device="cpu", revision=revision)
    first, second = _samples(loaded.processor)
    with new_folder(Path(output)) as unfinished, independent_cells(loaded.model):
        with _quiet():
            exported = _exported(exporter, loaded.model, first, loaded.name)
            exported.save_pretrained(unfinished)
            for batch in (first, second):
                _compare(exported, loaded.model, batch)
        loaded.processor.save_pretrained(unfinished)
    return Path(output)


def _exporter(format: str) -> Any:
    if format not in PROGRAMS:
        raise ConfigurationError(f"`format` must be one of {', '.join(map(repr, PROGRAMS))}, got {format!r}.")
    name, packages = PROGRAMS[format]
    for package in packages:
        require(package, extra="onnx")
    from transformers import exporters

    with _quiet():
        return getattr(exporters, name)()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the reports of the exporters: nobody but their authors can act on them."""
    with quiet_transformers(), contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _check_family(name: str, revision: str | None) -> None:
    revision = resolve_name(name, revision)
    if find_file(name, ADAPTER_CONFIG, revision) is not None:
        raise CheckpointError(
            f"`{name}` holds an adapter: export the whole model, which training writes around `adapter/`, or save "
            "`merge_adapter(load_adapter(...))` of `sclm_hf.adapters.lora` with its processor."
        )
    model_type = read_config(name, revision).get("model_type")
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"`{name}` is a `{model_type}` model, which is not written as a program: expected one of "
            f"{', '.join(sorted(FAMILIES))}. `sclm-hf export with-code` writes a folder that brings its code."
        )


def _samples(processor: "CellProcessor") -> "list[dict[str, torch.Tensor]]":
    """Two batches of made-up cells that differ in the number of cells and of genes; one cell is shorter."""
    vocabulary = processor.tokenizer.gene_vocabulary
    special = set(processor.tokenizer.all_special_tokens)
    names = [name for name in vocabulary if name not in special][:_GENES]
    random = np.random.default_rng(0)
    batches = []
    for n_cells, n_genes in ((3, len(names)), (5, max(2, len(names) * 2 // 3))):
        counts = random.poisson(2.0, (n_cells, n_genes)).astype(np.float32) + 1
        counts[0, n_genes // 2 :] = 0
        batches.append(dict(processor(counts, gene_names=names[:n_genes], return_tensors="pt")))
    return batches


def _exported(exporter: Any, model: Any, batch: "dict[str, torch.Tensor]", name: str) -> Any:
    try:
        return exporter.export(model, batch, {"dynamic": True})
    # whatever a tracer of other people's code meets
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"`{name}` could not be written as a program ({lines[0]}): please report this with the versions that "
            "`sclm-hf doctor` prints."
        ) from error


def _compare(exported: Any, model: Any, batch: "dict[str, torch.Tensor]") -> None:
    """The program's results are the model's."""
    import torch

    with torch.no_grad():
        expected = model(**batch)
    found = exported(**batch)
    for name, value in expected.items():
        if torch.is_tensor(value) and not torch.allclose(found[name], value, atol=_TOLERANCE, rtol=_TOLERANCE):
            raise CheckpointError(
                f"The program's `{name}` differs from the model's by {(found[name] - value).abs().max():.3g}: it is "
                "not kept. Please report this with the versions that `sclm-hf doctor` prints."
            )
