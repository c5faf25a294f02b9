"""What a run will take: tokens, memory and hours, before it starts."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError
from ...opening.specialists import specialist_of
from ...sources.opening import open_source
from ..embed import EMBED
from ..files.results import check_source
from ..integrate import IntegrateSettings
from ..perturb import PERTURB
from ..running import batches
from ..running.prepared_cells import PreparedCells, prepare_cells
from ..running.provenance import check_adata

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

    from ...opening.loading import LoadedModel
    from ...tokenization.genes.gene_coverage import GeneCoverage
    from ...tokenization.processing_cell import CellProcessor

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a weight, by dtype."""

_MEASURED_BATCHES = 3


@dataclass(frozen=True)
class Cost:
    """What one way to use a model takes.

    Attributes:
        n_trained: parameters that are trained.
        activation_bytes: of the batch with the most tokens, in the dtype that ran: all that is kept for the backward
            pass in training; the inputs and outputs of the largest layer otherwise, without what it holds inside.
        seconds: time for all cells once, on the device that ran, as many tokens a second as in the measured batches.
    """

    n_trained: int
    activation_bytes: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What runs of a model over cells will take.

    Attributes:
        n_cells: number of cells.
        n_tokens: tokens of all cells.
        longest: tokens of the longest cell.
        coverage: what becomes of the genes.
        n_parameters: parameters of the model, and tensors that are never trained.
        dtype, device: what the batches were measured in and on.
        n_measured: cells that were run; times are extrapolated from them.
        costs: of `embed`, which are also those of other verbs that run every cell once (`annotate`, `map`, `cluster`,
            `impute`, `integrate` without fine-tuning); of `perturb`, where the family can, which deletes each gene of
            every cell by itself; of `finetune full`; and, where the family has layers to adapt, of `finetune lora` and
            `integrate fine_tune` (its default steps, then every cell once).
    """

    n_cells: int
    n_tokens: int
    longest: int
    coverage: "GeneCoverage"
    n_parameters: int
    dtype: str
    device: str
    n_measured: int
    costs: dict[str, Cost]

    def memory(self, use: str, dtype: str) -> int:
        """Bytes of weights, gradients, the two moments of AdamW and activations.

        Args:
            use: one of `costs`.
            dtype: of the weights and activations; what is trained has gradients and moments in float32.
        """
        cost, size = self.costs[use], BYTES[dtype]
        return self.n_parameters * size + cost.n_trained * 12 + cost.activation_bytes * size // BYTES[self.dtype]


def estimate(
    cells: "AnnData | str | Path", model: Any, processor: "CellProcessor | None" = None, **settings: Any
) -> Estimate:
    """Say what verbs and fine-tuning will take; a few batches are run, and nothing is written.

    All cells are read once, and what [`embed`] would refuse is refused. Times are extrapolated from batches of the
    longest, the median and the shortest cells; fine-tuning is measured without its heads. What is not run through the
    model is not counted: neighbours, clusters, scores, and the cells of a reference that has no index yet.

    Args:
        cells: an AnnData, or the path of a file, an AnnData zarr folder or a data set of Parquet shards.
        model: folder or repository id of a checkpoint or an adapter; or a loaded model, which stays as it is.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`EmbedSettings`], for example `batch_size`, `device` or `dtype`.

    Raises:
        ConfigurationError: the model reads whole samples of cells, or is a task-specific one, for which there is no
            estimate.
        Others as for [`embed`].
    """
    chosen = EMBED.choose(settings)
    is_path = isinstance(cells, (str, Path))
    if is_path:
        if Path(cells).exists():
            check_source(Path(cells), EMBED.writes)
    else:
        check_adata(cells)
    if (specialist := specialist_of(model, chosen.revision)) is not None:
        raise ConfigurationError(
            f"{specialist.title} is a task-specific model, which reads cells by itself: there is no estimate "
            f"for it. `sclm-hf fit {specialist.name}` shows while it trains how long it will take."
        )
    loaded = EMBED.load(model, processor, chosen)
    if loaded.processor.context == "sample":
        raise ConfigurationError(
            f"The model of `{loaded.name}` reads whole samples of cells: there is no estimate for it; run a file of a "
            "few samples."
        )
    if is_path:
        path = Path(cells)
        cells = open_source(path.stem, path, layer=chosen.layer, expects=loaded.processor.feature_extractor.expects)
    prepared = prepare_cells(
        cells,
        loaded,
        layer=chosen.layer,
        species=chosen.species,
        batch_key=chosen.batch_key,
        genes=chosen.genes_read,
    )
    places = _measured(prepared.lengths, chosen.batch_size)
    return Estimate(
        n_cells=len(prepared.lengths),
        n_tokens=int(prepared.lengths.sum()),
        longest=int(prepared.lengths.max()),
        coverage=prepared.coverage,
        n_parameters=sum(one.numel() for one in _tensors(loaded.model)),
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        device=loaded.model.device.type,
        n_measured=len(np.unique(np.concatenate(places))),
        costs=_costs(loaded, prepared, places, chosen.seed),
    )


def _tensors(model: Any) -> "list[torch.Tensor]":
    return [*model.parameters(), *model.frozen_tables().values()]


def _measured(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Rows of a few batches, those of the longest cells first."""
    order = np.argsort(-lengths, kind="stable")
    size = min(len(order), batch_size, max(1, batches.MAX_TOKENS // int(lengths.max())))
    starts = np.linspace(0, len(order) - size, _MEASURED_BATCHES).astype(int)
    return [order[start : start + size] for start in np.unique(starts)]


def _costs(loaded: "LoadedModel", cells: PreparedCells, places: list[np.ndarray], seed: int) -> dict[str, Cost]:
    """What each use takes."""
    import torch

    from ...modeling.common.outputs import cells_alone, embedding_of
    from ...registry import FAMILIES

    encoded = [_batch(loaded, cells, rows, seed) for rows in places]
    ratio = cells.lengths.sum() / sum(cells.lengths[rows].sum() for rows in places)

    def embed(batch: dict[str, Any]) -> None:
        with torch.inference_mode():
            embedding_of(loaded.model(**batch, **cells_alone(loaded.model)), loaded.model.config).float().cpu()

    def train(batch: dict[str, Any]) -> None:
        embedding_of(trained(**batch), loaded.model.config).float().sum().backward()
        trained.zero_grad(set_to_none=True)

    with _largest_layer(loaded.model) as largest:
        embed(encoded[0])
    once = Cost(0, largest[0], ratio * _seconds(embed, encoded, loaded.model.device))
    costs, family = {"embed": once}, FAMILIES.get(loaded.model.config.model_type)
    if family is not None and PERTURB.serves(family):
        costs["perturb"] = replace(once, seconds=once.seconds * _deletions(loaded, cells))
    # a model that the caller has keeps its weights without gradients
    trained = copy.deepcopy(loaded.model).train().requires_grad_(True)
    costs["finetune full"] = _training_cost(train, trained, encoded, ratio)
    # an adapter has its own
    if family is not None and family.lora_target_modules and not hasattr(trained, "peft_config"):
        from ...adapters.lora import add_lora

        trained = add_lora(trained).train()
        lora = costs["finetune lora"] = _training_cost(train, trained, encoded, ratio)
        epochs = IntegrateSettings.n_steps * IntegrateSettings.train_batch_size / len(cells.lengths)
        costs["integrate fine_tune"] = replace(lora, seconds=lora.seconds * epochs + once.seconds)
    return costs


def _deletions(loaded: "LoadedModel", cells: PreparedCells) -> float:
    """Tokens of all cells as they are and without each of their genes, as a multiple of those of all cells."""
    lengths = cells.lengths.astype(np.float64)
    n_genes = lengths - loaded.processor.feature_extractor.n_special_tokens
    return float((lengths + n_genes * (lengths - 1)).sum() / lengths.sum())


def _batch(loaded: "LoadedModel", cells: PreparedCells, rows: np.ndarray, seed: int) -> "dict[str, torch.Tensor]":
    """The inputs of a batch, on the device."""
    import torch

    arrays = loaded.processor.padded(cells.tokens(loaded.processor, rows, seed))
    if cells.batch_labels is not None:
        arrays["batch_labels"] = cells.batch_labels[rows]
    return {name: torch.from_numpy(array).to(loaded.model.device) for name, array in arrays.items()}


def _training_cost(step: Callable, model: Any, encoded: list, ratio: float) -> Cost:
    import torch

    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(encoded[0])
    n_trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    return Cost(n_trained, sum(kept.values()), ratio * _seconds(step, encoded, model.device))


def _seconds(step: Callable, encoded: list, device: "torch.device") -> float:
    """How long some batches take."""
    import torch

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    finish()
    start = time.perf_counter()
    for batch in encoded:
        step(batch)
    finish()
    return time.perf_counter() - start


@contextmanager
def _largest_layer(model: Any) -> Iterator[list[int]]:
    """Bytes of the inputs and outputs of the layer that has most, once the context ends."""
    import torch

    largest = [0]

    def look(layer: Any, inputs: tuple, output: Any) -> None:
        tensors = [one for one in (*inputs, output) if isinstance(one, torch.Tensor)]
        largest[0] = max(largest[0], sum(one.numel() * one.element_size() for one in tensors))

    hooks = [layer.register_forward_hook(look) for layer in model.modules() if not list(layer.children())]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()
