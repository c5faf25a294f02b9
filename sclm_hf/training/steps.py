"""The batches of each optimizer step, and what all processes must agree on before its forward pass."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from ..corpora.pipeline.narrow import NarrowBatch
from ..errors import require
from ..modeling.common.losses import counts
from .examples import Batch as Sized

accelerate = require("accelerate", extra="train")

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Step:
    """The batches of one optimizer step.

    Attributes:
        batches: this process's batches, each with its weight in the loss: 1, or 0 for a filler that only keeps the
            processes in step where the others have one batch more.
        cells: cells in the step, all processes together.
        items: labels that count (not -100), all processes together; at least 1.
        n_batches: batches in the step, all processes together, fillers left out.
        interrupted: a process has been asked to stop.
    """

    batches: list[tuple[Batch, float]]
    cells: int
    items: int
    n_batches: int
    interrupted: bool = False


def started_processes() -> int:
    """How many processes the launcher has started for this run."""
    names = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]
    return accelerate.utils.get_int_from_env(names, 1)


def steps(
    batches: Iterable[Batch],
    size: int,
    accelerator: accelerate.Accelerator,
    filler: Callable[[], Batch],
    is_interrupted: Callable[[], bool],
) -> Iterator[Step]:
    """Group this process's batches into steps of `size`; the last step of an epoch may be shorter.

    All processes get the same number of steps with the same number of batches.

    Args:
        batches: what the corpus hands out to this process; `{}` where only other processes have a batch.
        size: batches per step and process.
        accelerator: sums the counts over the processes.
        filler: makes a batch for a process that runs out before the others.
        is_interrupted: tells whether this process has been asked to stop.
    """
    batches = iter(batches)
    while True:
        mine = list(islice(batches, size))
        cells = sum(count_cells(batch) for batch in mine)
        items = sum(count_items(batch) for batch in mine)
        # with one process, counting on the CPU avoids a GPU sync with the previous step
        device = accelerator.device if accelerator.num_processes > 1 else "cpu"
        n_batches = sum(map(bool, mine))
        counts = torch.tensor([[len(mine), n_batches, cells, items, is_interrupted()]], device=device)
        counts = accelerator.gather(counts)
        _, n_batches, cells, items, interrupted = counts.sum(dim=0).tolist()
        if n_batches == 0:
            return
        mine += [{}] * (int(counts[:, 0].max()) - len(mine))
        weighted = [(batch, 1.0) if batch else (filler(), 0.0) for batch in mine]
        yield Step(weighted, cells, max(items, 1), n_batches, bool(interrupted))


def count_cells(batch: Batch) -> int:
    """Cells in a batch; the first axis of the mask in every family, also where tokens are cells."""
    if isinstance(batch, Sized):
        return batch.size
    if "attention_mask" not in batch and "position_ids" in batch:
        # several cells in a row, each of which begins at position 0
        return int((batch["position_ids"] == 0).sum())
    return len(batch["attention_mask"]) if batch else 0


def count_items(batch: Batch) -> int:
    """Labels that the loss counts, without -100 and sets that say nothing; cells where the batch has no labels."""
    return int(counts(batch["labels"]).sum()) if "labels" in batch else count_cells(batch)


def narrow_batches(loader: Iterable[Batch]) -> Iterable[Batch]:
    """The batches of a loader, in narrow types where it has them: a fourth of the bytes to move to an accelerator."""
    return loader.narrow() if hasattr(loader, "narrow") else loader


def on_device(batch: Batch, device: torch.device) -> Batch:
    """A batch as the model takes it, moved in narrow types and widened on `device`."""
    batch = accelerate.utils.send_to_device(batch, device)
    return batch.widened() if isinstance(batch, NarrowBatch) else batch
