"""Cells through a model, in batches of like length or in whole samples."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import SclmError
from ...logging import progress_bar, warn
from ...opening.inference import independent_cells
from ...tokenization.encodings.cells import CellTokens
from .prepared_cells import PreparedCells
from .samples import halve_chunks, sample_inputs

BLOCK_SIZE = 4096
"""Cells that are run one block after the other."""

MAX_TOKENS = 2**17
"""Tokens per batch, unless a single cell has more, and fewer on a CPU: batches of long cells get smaller, results stay
the same."""

MAX_TOKENS_ENCODED = 2**23
"""Tokens that are encoded at a time, unless a single batch has more; they take 8 bytes each."""

if TYPE_CHECKING:
    import torch

    from ...opening.loading import LoadedModel
    from ..files.pieces import Pieces

    Forward = Callable[[Any, dict[str, torch.Tensor]], torch.Tensor]


def run_cells(
    loaded: "LoadedModel",
    cells: PreparedCells,
    forward: "Forward",
    *,
    batch_size: int = 64,
    seed: int = 0,
    description: str,
) -> np.ndarray:
    """Run every cell and collect what `forward` gives.

    Arguments and errors are those of [`run_blocks`].

    Returns:
        (n_cells, …) float32, in the order of the cells.
    """
    blocks = run_blocks(loaded, cells, forward, batch_size=batch_size, seed=seed, description=description)
    return collected(blocks, len(cells.lengths))


def collected(blocks: Iterable[tuple[slice | np.ndarray, np.ndarray]], n_cells: int) -> np.ndarray:
    """(n_cells, …) values that come block by block, in the order of the cells."""
    results: np.ndarray | None = None
    for block, values in blocks:
        if results is None:
            results = np.empty((n_cells, *values.shape[1:]), np.float32)
        results[block] = values
    return results


def run_blocks(
    loaded: "LoadedModel",
    cells: PreparedCells,
    forward: "Forward",
    *,
    batch_size: int = 64,
    seed: int = 0,
    description: str = "",
    pieces: "Pieces | None" = None,
    bar: Any = None,
) -> Iterator[tuple[slice | np.ndarray, np.ndarray]]:
    """Run the cells block by block.

    The longest cells of a block run first, so that a batch that does not fit in memory fails at once and is halved.
    For models that read whole samples, a block is a sample, which the model computes in chunks when memory runs out.

    Args:
        loaded: the model and its processor.
        cells: the cells.
        forward: model and inputs of a batch -> (batch, …) tensor. It runs in inference mode.
        batch_size: cells per batch to begin with; fewer where they have more than `MAX_TOKENS` tokens together, or
            on a CPU more than its caches hold. Has no effect on samples.
        seed: seed of what is random about a cell.
        description: what the progress bar says.
        pieces: keeps the results of blocks; those that it has are not computed again.
        bar: a progress bar that counts these cells with others; by default one of their own, with `description`.

    Returns:
        An iterator over (cells of the block, their (cells, …) float32 results), in the order of the cells, or of the
        samples.

    Raises:
        SclmError: a single cell does not fit in memory, the model gives values that are not finite, or a piece cannot
            be kept.
    """
    run = _run_rows if cells.samples is None else _run_sample
    if bar is None:
        shown = progress_bar(total=len(cells.lengths[cells.part]), desc=description, unit="cell")
    else:
        shown = contextlib.nullcontext(bar)
    with independent_cells(loaded.model), shown as bar:
        for number, (block, size) in enumerate(_blocks(cells)):
            values = None if pieces is None else pieces.load(number, size)
            if values is None:
                rows = np.arange(len(cells.lengths))[block] if isinstance(block, slice) else block
                values, batch_size = run(loaded, cells, rows, forward, batch_size, seed, bar)
                finite = np.isfinite(values).reshape(size, -1).all(axis=1)
                if not finite.all():
                    refuse_not_finite(loaded, finite, cells.names[block])
                if pieces is not None:
                    pieces.save(number, values)
            else:
                bar.update(size)
            yield block, values


def _blocks(cells: PreparedCells) -> Iterator[tuple[slice | np.ndarray, int]]:
    """The cells that are run and kept as one piece, and how many they are."""
    if cells.samples is not None:
        yield from ((rows, len(rows)) for rows in cells.samples.places)
        return
    first, last, _ = cells.part.indices(len(cells.lengths))
    for start in range(first, last, BLOCK_SIZE):
        stop = min(start + BLOCK_SIZE, last)
        yield slice(start, stop), stop - start


def run_rows(
    loaded: "LoadedModel", cells: PreparedCells, rows: np.ndarray, forward: "Forward", *, batch_size: int, seed: int
) -> np.ndarray:
    """Run some of the cells, each of which the model sees alone; arguments and errors as for [`run_blocks`].

    Args:
        rows: (rows,) which cells.

    Returns:
        (rows, …) float32.
    """
    with independent_cells(loaded.model), progress_bar(disable=True) as bar:
        values, _ = _run_rows(loaded, cells, rows, forward, batch_size, seed, bar)
    refuse_not_finite(loaded, np.isfinite(values).reshape(len(rows), -1).all(axis=1), cells.names[rows])
    return values


def _run_rows(
    loaded: "LoadedModel",
    cells: PreparedCells,
    rows: np.ndarray,
    forward: "Forward",
    batch_size: int,
    seed: int,
    bar: Any,
) -> tuple[np.ndarray, int]:
    """Results of cells, and the batch size that memory allowed."""
    order = np.argsort(-cells.lengths[rows], kind="stable")
    from ...modeling.common.cpu import tokens_at_a_time

    most = tokens_at_a_time(loaded.model, MAX_TOKENS)
    results: np.ndarray | None = None
    done = n_encoded = 0
    while done < len(order):
        longest = int(cells.lengths[rows[order[done]]])
        places = order[done : done + min(batch_size, max(1, most // longest))]
        if done + len(places) > n_encoded:
            first, n_encoded = done, done + max(len(places), MAX_TOKENS_ENCODED // longest)
            tokens = cells.tokens(loaded.processor, rows[order[first:n_encoded]], seed)
        encoded = np.arange(len(places)) + done - first
        values = _try_batch(loaded, cells, rows[places], tokens, encoded, forward)
        if values is None:
            batch_size = halved(len(places), longest)
            continue
        if results is None:
            results = np.empty((len(order), *values.shape[1:]), np.float32)
        results[places] = values
        done += len(places)
        bar.update(len(places))
    return results, batch_size


def _run_sample(
    loaded: "LoadedModel",
    cells: PreparedCells,
    rows: np.ndarray,
    forward: "Forward",
    batch_size: int,
    seed: int,
    bar: Any,
) -> tuple[np.ndarray, int]:
    """Results of the cells of a sample, and the batch size as it was."""
    inputs = sample_inputs(loaded, cells, rows, seed)
    while (values := _try_inputs(loaded.model, inputs, forward)) is None:
        halve_chunks(loaded.model.config, len(rows))
    bar.update(len(rows))
    return values, batch_size


def _try_batch(
    loaded: "LoadedModel",
    cells: PreparedCells,
    rows: np.ndarray,
    tokens: CellTokens,
    places: np.ndarray,
    forward: "Forward",
) -> np.ndarray | None:
    """What `forward` gives for one batch; None when memory ran out.

    Args:
        loaded, cells, forward: as for `run_blocks`.
        rows: (batch,) rows of the cells.
        tokens: encoded cells.
        places: (batch,) where those of the batch are among them.
    """
    import torch

    arrays = loaded.processor.padded(tokens, places)
    if cells.batch_labels is not None:
        arrays["batch_labels"] = cells.batch_labels[rows]
    return _try_inputs(loaded.model, {name: torch.from_numpy(array) for name, array in arrays.items()}, forward)


def _try_inputs(model: Any, inputs: "dict[str, torch.Tensor]", forward: "Forward") -> np.ndarray | None:
    """What `forward` gives for the inputs; None when memory ran out."""
    import torch

    from ...modeling.common.cpu import fast_on_cpu

    try:
        with torch.inference_mode(), fast_on_cpu(model):
            batch = {name: tensor.to(model.device) for name, tensor in inputs.items()}
            return forward(model, batch).float().cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # outside of the handler, which would keep the batch's tensors alive
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def refuse_not_finite(loaded: "LoadedModel", finite: np.ndarray, names: Sequence[str]) -> None:
    """Raise if what a model gave for some cells is NaN or infinite.

    Args:
        loaded: the model.
        finite: (cells,) bool.
        names: (cells,) names of the cells.

    Raises:
        SclmError: a value is not finite; the message names the first cells and the likely cause.
    """
    import torch

    if finite.all():
        return
    weights = [name for name, weight in loaded.model.named_parameters() if not weight.isfinite().all()]
    if weights:
        cause = f"its weights hold such values too (`{weights[0]}`): the checkpoint is damaged, take another one."
    elif loaded.model.dtype == torch.float16:
        cause = "float16 ends at 65,504: pass `dtype='bfloat16'` or `'float32'` (`--dtype`)."
    else:
        cause = "look for extreme values among the data of these cells, and at what the model was trained on."
    first = ", ".join(repr(str(name)) for name in np.asarray(names)[~finite][:3])
    raise SclmError(
        f"The model of `{loaded.name}` gave values that are NaN or infinite for {(~finite).sum():,} of "
        f"{len(finite):,} cells, such as {first}: {cause}"
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or the computer, ran out of memory."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(
        words in str(error).lower() for words in ("not enough memory", "out of memory", "can't allocate memory")
    )


def halved(batch_size: int, n_tokens: int) -> int:
    """Halve a batch size for which memory ran out, with a warning.

    Raises:
        SclmError: it is a single cell.
    """
    if batch_size == 1:
        raise SclmError(
            f"Memory ran out with a single cell of {n_tokens:,} tokens: use `dtype='bfloat16'` (`--dtype bfloat16`), "
            "a device with more memory, or a smaller `max_length` in the `processor_config.json` of the model."
        )
    warn(f"Memory ran out with {batch_size} cells of {n_tokens:,} tokens: going on with {batch_size // 2} per batch.")
    return batch_size // 2
