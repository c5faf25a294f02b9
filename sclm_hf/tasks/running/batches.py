"""Cells of an AnnData through a model: checked as a whole, run in batches of like length or in whole samples."""

import contextlib
import functools
import numbers
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, ExpressionError, SclmError
from ...logging import progress_bar, warn
from ...registry import get_family
from ...sources.categories import labelled_column, numbers_of, values_of
from ...sources.cell_source import CellSource
from ...sources.in_memory import InMemorySource
from ...sources.samples import Samples, find_samples
from ...sources.soundness import cells_named
from ...sources.survey import row_blocks, survey_cells
from ...tokenization.encodings.cells import CellTokens, joined
from .samples import halve_chunks, sample_inputs

BLOCK_SIZE = 4096
"""Cells that are run one block after the other."""

MAX_TOKENS = 2**17
"""Tokens a batch, unless a single cell has more: batches of long cells get smaller, results stay the same."""

MAX_TOKENS_ENCODED = 2**23
"""Tokens that are encoded at a time, unless a single batch has more; they take 8 bytes each."""

_BATCH_KEY = "`batch_key` (`--batch-key`)"

if TYPE_CHECKING:
    import torch
    from anndata import AnnData
    from transformers.utils import ModelOutput

    from ...opening.loading import LoadedModel
    from ...tokenization.gene_vocabulary import GeneCoverage
    from ...tokenization.processing_cell import CellProcessor
    from ..files.pieces import Pieces


@dataclass(frozen=True)
class PreparedCells:
    """The cells of a source, checked and mapped to a vocabulary.

    Attributes:
        source: where the cells are read.
        gene_ids: (n_genes,) int64, -1 = column not used.
        cell_ids: (n_cells,) uint64, made from the names of the cells.
        lengths: (n_cells,) int64, tokens of each cell.
        batch_labels: (n_cells,) int64, or None.
        coverage: what became of the genes.
        samples: which cells the model must see together; None where it sees each alone.
    """

    source: CellSource
    gene_ids: np.ndarray
    cell_ids: np.ndarray
    lengths: np.ndarray
    batch_labels: np.ndarray | None
    coverage: "GeneCoverage"
    samples: Samples | None = None

    @functools.cached_property
    def names(self) -> Sequence[str]:
        """(n_cells,) names of the cells."""
        return self.source.obs_names()

    def tokens(self, processor: "CellProcessor", rows: np.ndarray, seed: int) -> CellTokens:
        """The tokens of cells, in the order given; a block of them is read at a time.

        Args:
            processor: encodes them.
            rows: (cells,) different rows.
            seed: seed of what is random about a cell.
        """
        order = np.argsort(rows)
        parts = [order[block] for block in row_blocks(len(rows))]
        return joined([self._encoded(processor, rows[part], seed) for part in parts], parts)

    def _encoded(self, processor: "CellProcessor", rows: np.ndarray, seed: int) -> CellTokens:
        """The tokens of cells that are read together, in ascending order."""
        matrix, ids = self.source.read(rows), self.cell_ids[rows]

        def encode(places: np.ndarray) -> CellTokens:
            return processor.tokens(matrix, self.gene_ids, cell_ids=ids[places], rows=places, seed=seed, check=False)

        with cells_named(self.source, rows, encode):
            return encode(np.arange(len(rows)))


def check_run(batch_size: int, seed: int) -> None:
    """Refuse, before a model is loaded, settings that would fail when the first cells run."""
    if not isinstance(batch_size, numbers.Integral) or batch_size < 1:
        raise ConfigurationError(f"`batch_size` must be at least 1 and a whole number, got {batch_size!r}.")
    if not isinstance(seed, numbers.Integral):
        raise ConfigurationError(f"`seed` must be a whole number, got {seed!r}.")


def prepare_cells(
    cells: "AnnData | CellSource",
    loaded: "LoadedModel",
    *,
    layer: str | None = None,
    species: str = "human",
    batch_key: str | None = None,
) -> PreparedCells:
    """Map the genes of cells, and refuse now what would fail later; the cells are read once.

    Args:
        cells: an AnnData, or a source that was opened.
        loaded: the model and its processor.
        layer: where the data of an AnnData are, as for `select_counts`; a source was opened with it.
        species: `"human"`, or `"mouse"` to go through orthologs.
        batch_key: column of `obs` with the batches, for models trained with batch labels: their names where
            `config.batch_names` holds these, else their numbers. For models of samples, the column that tells samples
            apart; by default `obs["batch"]`, without which all cells are one sample.

    Raises:
        ConfigurationError: batch labels are missing, not wanted or out of range, or samples cannot be told apart.
        CorpusError: the source is damaged, or a cell has no value in a column that is needed.
        ExpressionError: there are no cells, values are not what the encoding expects, or a cell has no known gene.
        GeneCoverageError: the model knows too few of the genes.
    """
    processor, config = loaded.processor, loaded.model.config
    if hasattr(cells, "obs"):
        if not cells.n_obs:
            raise ExpressionError("There are no cells: the AnnData has 0 rows.")
        cells = InMemorySource(cells, layer, expects=processor.feature_extractor.expects)
    samples = find_samples(cells, batch_key, setting=_BATCH_KEY) if processor.context == "sample" else None
    batch_labels = _batch_labels(cells, batch_key, config) if samples is None else None
    surveyed = survey_cells(cells, processor, species)
    return PreparedCells(
        cells, surveyed.gene_ids, cells.cell_ids(), surveyed.lengths, batch_labels, surveyed.coverage, samples
    )


def _batch_labels(source: CellSource, batch_key: str | None, config: Any) -> np.ndarray | None:
    """(n_cells,) int64 batch labels for a model that needs them, None for one that does not."""
    needed = getattr(config, "needs_batch_labels", False)
    if not needed and batch_key is None:
        return None
    if not needed:
        raise ConfigurationError(f"The model was trained without batch labels: leave out {_BATCH_KEY}.")
    names = getattr(config, "batch_names", None)
    columns = source.column_names()
    if batch_key not in columns:
        raise ConfigurationError(
            f"The model was trained with {config.num_batch_labels} batch labels: name with {_BATCH_KEY} the column of "
            f"`obs` that holds their {'names' if names else 'numbers'}, got {batch_key!r}; there are {columns}."
        )
    column = labelled_column(source, batch_key)
    numbers = _numbers_of_names if names else _whole_numbers
    return numbers_of(column, numbers(sorted(values_of(column)), config, batch_key))


def _numbers_of_names(values: list[str], config: Any, batch_key: str) -> dict[str, int]:
    """Value -> its place among the names of the batches."""
    names = config.batch_names
    numbers = {name: number for number, name in enumerate(names)}
    if unknown := [value for value in values if value not in numbers]:
        raise ConfigurationError(
            f"`obs[{batch_key!r}]` holds {unknown[:5]}: expected names of the {len(names)} batches of the training, "
            f"{names[:5]}{' …' if len(names) > 5 else ''}. Give cells of other batches the name of one of these."
        )
    return numbers


def _whole_numbers(values: list[str], config: Any, batch_key: str) -> dict[str, int]:
    """Value -> the whole number that it is."""
    try:
        numbers = {value: float(value) for value in values}
        sound = all(number in range(config.num_batch_labels) for number in numbers.values())
    except ValueError:
        sound = False
    if not sound:
        raise ConfigurationError(
            f"`obs[{batch_key!r}]` must hold whole numbers from 0 to {config.num_batch_labels - 1}, as in training; "
            f"it holds {values[:5]}."
        )
    return {value: int(number) for value, number in numbers.items()}


def run_cells(
    loaded: "LoadedModel",
    cells: PreparedCells,
    read: "Callable[[ModelOutput], torch.Tensor]",
    **how: Any,
) -> np.ndarray:
    """Run every cell and collect what `read` takes from the model's output.

    Arguments and errors are those of [`run_blocks`].

    Returns:
        (n_cells, …) float32, in the order of the cells.
    """
    results: np.ndarray | None = None
    for block, values in run_blocks(loaded, cells, read, **how):
        if results is None:
            results = np.empty((len(cells.lengths), *values.shape[1:]), np.float32)
        results[block] = values
    return results


def run_blocks(
    loaded: "LoadedModel",
    cells: PreparedCells,
    read: "Callable[[ModelOutput], torch.Tensor]",
    *,
    batch_size: int = 64,
    seed: int = 0,
    description: str,
    pieces: "Pieces | None" = None,
) -> Iterator[tuple[slice | np.ndarray, np.ndarray]]:
    """Run the cells block by block.

    Of a block the longest cells go first, so that a batch that does not fit in memory shows at once. Then the batch is
    halved. Where cells belong together, a block is a sample, which the model computes in pieces when memory runs out.

    Args:
        loaded: the model and its processor.
        cells: the cells.
        read: output of the model -> (batch, …) tensor.
        batch_size: cells a batch to begin with; fewer where they have more than `MAX_TOKENS` tokens together. Of no
            effect on samples.
        seed: seed of what is random about a cell.
        description: what the progress bar says.
        pieces: keeps the results of blocks; those that it has are not computed again.

    Returns:
        An iterator over (cells of the block, their (cells, …) float32 results), in the order of the cells, or of the
        samples.

    Raises:
        SclmError: a single cell does not fit in memory, the model gives values that are not finite, or a piece cannot
            be kept.
    """
    check_run(batch_size, seed)
    run = _run_block if cells.samples is None else _run_sample
    with independent_cells(loaded.model), progress_bar(total=len(cells.lengths), desc=description, unit="cell") as bar:
        for number, (block, size) in enumerate(_blocks(cells)):
            values = None if pieces is None else pieces.load(number, size)
            if values is None:
                values, batch_size = run(loaded, cells, block, read, batch_size, seed, bar)
                finite = np.isfinite(values).reshape(size, -1).all(axis=1)
                if not finite.all():
                    refuse_not_finite(loaded, finite, cells.names[block])
                if pieces is not None:
                    pieces.save(number, values)
            else:
                bar.update(size)
            yield block, values


def _blocks(cells: PreparedCells) -> Iterator[tuple[slice | np.ndarray, int]]:
    """What is run and kept as one piece, and its number of cells."""
    if cells.samples is not None:
        yield from ((rows, len(rows)) for rows in cells.samples.places)
        return
    n_cells = len(cells.lengths)
    for start in range(0, n_cells, BLOCK_SIZE):
        stop = min(start + BLOCK_SIZE, n_cells)
        yield slice(start, stop), stop - start


def _run_block(
    loaded: "LoadedModel", cells: PreparedCells, block: slice, read: Callable, batch_size: int, seed: int, bar: Any
) -> tuple[np.ndarray, int]:
    """Results of the cells of a block, and the batch size that memory allowed."""
    order = block.start + np.argsort(-cells.lengths[block], kind="stable")
    results: np.ndarray | None = None
    done = n_encoded = 0
    while done < len(order):
        longest = int(cells.lengths[order[done]])
        rows = order[done : done + min(batch_size, max(1, MAX_TOKENS // longest))]
        if done + len(rows) > n_encoded:
            first, n_encoded = done, done + max(len(rows), MAX_TOKENS_ENCODED // longest)
            tokens = cells.tokens(loaded.processor, order[first:n_encoded], seed)
        values = _try_batch(loaded, cells, rows, tokens, np.arange(len(rows)) + done - first, read)
        if values is None:
            batch_size = halved(len(rows), longest)
            continue
        if results is None:
            results = np.empty((len(order), *values.shape[1:]), np.float32)
        results[rows - block.start] = values
        done += len(rows)
        bar.update(len(rows))
    return results, batch_size


def _run_sample(
    loaded: "LoadedModel", cells: PreparedCells, rows: np.ndarray, read: Callable, batch_size: int, seed: int, bar: Any
) -> tuple[np.ndarray, int]:
    """Results of the cells of a sample, and the batch size as it was."""
    inputs = sample_inputs(loaded, cells, rows, seed)
    while (values := _try_inputs(loaded.model, inputs, read)) is None:
        halve_chunks(loaded.model.config, len(rows))
    bar.update(len(rows))
    return values, batch_size


def _try_batch(
    loaded: "LoadedModel",
    cells: PreparedCells,
    rows: np.ndarray,
    tokens: CellTokens,
    places: np.ndarray,
    read: Callable,
) -> np.ndarray | None:
    """What `read` takes from one batch; None when memory ran out.

    Args:
        loaded, cells, read: as for `run_blocks`.
        rows: (batch,) rows of the cells.
        tokens: encoded cells.
        places: (batch,) where those of the batch are among them.
    """
    import torch

    arrays = loaded.processor.padded(tokens, places)
    if cells.batch_labels is not None:
        arrays["batch_labels"] = cells.batch_labels[rows]
    return _try_inputs(loaded.model, {name: torch.from_numpy(array) for name, array in arrays.items()}, read)


def _try_inputs(model: Any, inputs: "dict[str, torch.Tensor]", read: Callable) -> np.ndarray | None:
    """What `read` takes from the output of a model; None when memory ran out."""
    import torch

    try:
        with torch.inference_mode():
            batch = {name: tensor.to(model.device) for name, tensor in inputs.items()}
            return read(model(**batch)).float().cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # outside of the handler, which would keep the batch's tensors alive
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def refuse_not_finite(loaded: "LoadedModel", finite: np.ndarray, names: Sequence[str]) -> None:
    """Refuse what a model gave for cells where it is NaN or infinite.

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
    """Half of a batch size that memory did not allow, with a warning.

    Raises:
        SclmError: it is a single cell.
    """
    if batch_size == 1:
        raise SclmError(
            f"Memory ran out with a single cell of {n_tokens:,} tokens: use a smaller `max_length` of the processor, "
            "`dtype='bfloat16'`, or a device with more memory."
        )
    warn(f"Memory ran out with {batch_size} cells of {n_tokens:,} tokens: going on with {batch_size // 2} a batch.")
    return batch_size // 2


@contextlib.contextmanager
def independent_cells(model: Any) -> Iterator[None]:
    """Evaluation mode, and every cell independent of its batch-mates and of chance; afterwards all is as before."""
    overrides = get_family(model.config.model_type).embed_overrides
    # chunks get smaller when memory runs out
    names = (*overrides, *(name for name in ("chunk_size",) if hasattr(model.config, name)))
    saved = {name: getattr(model.config, name) for name in names}
    training = model.training
    model.eval()
    for name, value in overrides.items():
        setattr(model.config, name, value)
    try:
        yield
    finally:
        for name, value in saved.items():
            setattr(model.config, name, value)
        model.train(training)
