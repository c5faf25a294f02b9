"""Runs perturbed cells through a model: how far each moves from the original cell, and towards which state."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..running.batches import MAX_TOKENS, halved, is_out_of_memory, refuse_not_finite
from .cells import TokenCells
from .sharing import SharedDeletions
from .tokens import PerturbedCell, TokenCell, perturb_cell, ragged

if TYPE_CHECKING:
    import torch

    from ...opening.loading import LoadedModel


_MOST_GENES = 2**14
"""Genes that are compared at a time, unless those of one cell are more."""


class Run(NamedTuple):
    """One perturbation of one cell.

    Attributes:
        cell: number of the cell.
        perturbation: number of the perturbation.
        tokens: genes to perturb together.
    """

    cell: int
    perturbation: int
    tokens: tuple[int, ...]


class RunResults(NamedTuple):
    """What some runs gave.

    Attributes:
        runs: the runs.
        similarities: (runs,) float32 cosine similarities to the cells as they were.
        shifts: state -> (runs,) float32 similarities to it, minus those of the cells as they were.
        effects: which of the runs, which gene that it did not perturb, and the gene's cosine similarity to itself
            before, as three arrays of one length; None unless asked for.
        changes: by how much the expression that the model predicts of these genes changed; None without a decoder.
    """

    runs: list[Run]
    similarities: np.ndarray
    shifts: dict[str, np.ndarray]
    effects: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    changes: np.ndarray | None = None


class _Encoded(NamedTuple):
    """Results of cells on the model's device.

    Attributes:
        cells: (cells, hidden) embeddings.
        genes: (cells, tokens, hidden), as long as the longest; or None.
        predicted: (cells, tokens) predicted expression, as long; or None.
    """

    cells: "torch.Tensor"
    genes: "torch.Tensor | None" = None
    predicted: "torch.Tensor | None" = None

    def take(self, places: "Sequence[int]") -> "_Encoded":
        return _Encoded(*(None if part is None else part[places] for part in self))


class _Batch(NamedTuple):
    """Runs that are encoded together.

    Attributes:
        runs: the runs.
        edited: the perturbed cell of each; empty where they are embedded from what their cells share.
        keys: what tells the reference of each from those of others.
        wanted: key -> reference that was not encoded before.
    """

    runs: list[Run]
    edited: list[PerturbedCell]
    keys: list[tuple]
    wanted: dict[tuple, TokenCell]


@dataclass
class PerturbationRunner:
    """Runs perturbations of cells in batches.

    Args:
        loaded: the model and its processor.
        cells: tokens of every cell.
        mode: `"delete"` or `"overexpress"`.
        similarity: `"genes"`, the mean over genes of their similarities, or `"cell"`, that of the cell embeddings.
        states: state -> (hidden,) cell embedding.
        gene_effects: whether to give similarities of genes.
        batch_size: cells per batch to begin with; halved when memory runs out.
        names: names of the cells.
        batch_labels: (cells,) int64, for models that were trained with batch labels.
    """

    loaded: "LoadedModel"
    cells: TokenCells
    mode: str
    similarity: str
    states: Mapping[str, np.ndarray] = field(default_factory=dict)
    gene_effects: bool = False
    batch_size: int = 64
    names: Sequence[str] = ()
    batch_labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        processor = self.loaded.processor
        self._special = np.array(list(processor.tokenizer.gene_vocabulary.special_tokens.values()), np.int64)
        self._max_length = processor.feature_extractor.max_length or np.iinfo(np.int64).max
        self._known: list[tuple] = []
        self._before: _Encoded | None = None
        self._deletions = SharedDeletions(self.loaded, self.cells, self.batch_labels)

    def __call__(self, runs: Iterable[Run]) -> Iterator[RunResults]:
        """Results of `runs`, batch by batch in their order; runs of one cell are best given one after the other.

        Raises:
            SclmError: a single cell does not fit in memory, or the model gives values that are not finite.
        """
        parts = self._deletions.by_cell(runs) if self._cells_alone() else [(False, iter(runs))]
        for shared, some in parts:
            while (batch := self._next_batch(some, shared)).runs:
                new = list(batch.wanted)
                encoded = self._encode_shared(batch) if shared else self._encode_each(batch)
                self._remember(batch, new, encoded.take(slice(len(new))))
                yield self._compare(batch, encoded.take(slice(len(new), None)))

    def _cells_alone(self) -> bool:
        """Whether genes are deleted, and nothing but the embeddings of cells is looked at."""
        return self.mode == "delete" and self.similarity == "cell" and not self.gene_effects

    def _next_batch(self, runs: Iterator[Run], shared: bool) -> _Batch:
        """As many runs as make a batch together with the references that they need."""
        batch = _Batch([], [], [], {})
        while len(batch.runs) + len(batch.wanted) < max(self.batch_size, 2):
            if (run := next(runs, None)) is None:
                break
            batch.runs.append(run)
            if shared:
                key, reference = (run.cell, 0, None), self.cells.kept[run.cell]
            else:
                one = self._edit(run)
                key, reference = self._reference_key(run, one), one.reference
                batch.edited.append(one)
            batch.keys.append(key)
            if key not in self._known:
                batch.wanted[key] = reference
        return batch

    def _remember(self, batch: _Batch, new: list[tuple], encoded: _Encoded) -> None:
        """Keep the references of a batch, and of those before the ones that it shares."""
        used = set(batch.keys)
        kept = [place for place, key in enumerate(self._known) if key in used]
        parts = [encoded] if self._before is None else [self._before.take(kept), encoded]
        self._known, self._before = [*(self._known[place] for place in kept), *new], _joined(parts)

    def _edit(self, run: Run) -> PerturbedCell:
        # an over-expressed gene that was left out is put in as one that the cell lacks
        put_back = self.mode == "delete"
        cell = self.cells.holding(run.cell, run.tokens) if put_back else self.cells.kept[run.cell]
        return perturb_cell(cell, run.tokens, self.mode, self._special, self._max_length)

    def _reference_key(self, run: Run, one: PerturbedCell) -> tuple:
        put_back = self.mode == "delete" and self.cells.lacks(run.cell, run.tokens)
        return run.cell, one.n_pushed_out, run.tokens if put_back else None

    def _compare(self, batch: _Batch, after: _Encoded) -> RunResults:
        from torch.nn.functional import cosine_similarity

        place_of = {key: place for place, key in enumerate(self._known)}
        places = [place_of[key] for key in batch.keys]
        before = self._before.cells[places]
        shifts = {}
        for state, embedding in self.states.items():
            target = after.cells.new_tensor(embedding)[None]
            moved = cosine_similarity(after.cells, target) - cosine_similarity(before, target)
            shifts[state] = moved.cpu().numpy()
        effects = genes = changes = None
        if after.genes is not None:
            genes, changes, sizes = self._gene_effects(batch.edited, after, places)
        if self.similarity == "genes":
            similarities = np.array([values.mean() for values in np.split(genes, np.cumsum(sizes)[:-1])], np.float32)
        else:
            similarities = cosine_similarity(after.cells, before).cpu().numpy()
        if self.gene_effects:
            tokens = np.concatenate([one.cell.ids[one.positions] for one in batch.edited])
            effects = np.repeat(np.arange(len(sizes)), sizes), tokens, genes
        return RunResults(batch.runs, similarities, shifts, effects, changes)

    def _gene_effects(
        self, edited: list[PerturbedCell], after: _Encoded, places: list[int]
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Similarities of the genes not perturbed and their changes, run after run, and how many each run has."""
        import torch
        from torch.nn.functional import cosine_similarity

        sizes = np.array([one.positions.size for one in edited])
        found, changes = [], []
        # run by run where cells are long: all genes of a batch would be in memory twice
        step = max(1, _MOST_GENES // max(1, int(sizes.max())))
        for start in range(0, len(edited), step):
            part = slice(start, start + step)
            rows = torch.from_numpy(np.repeat(np.arange(len(edited))[part], sizes[part]))
            now = torch.from_numpy(np.concatenate([one.positions for one in edited[part]]))
            then = torch.from_numpy(np.concatenate([one.reference_positions for one in edited[part]]))
            references = torch.tensor(places)[rows]
            found.append(cosine_similarity(after.genes[rows, now], self._before.genes[references, then], dim=-1))
            if after.predicted is not None:
                changes.append(after.predicted[rows, now] - self._before.predicted[references, then])
        return torch.cat(found).cpu().numpy(), torch.cat(changes).cpu().numpy() if changes else None, sizes

    def _encode_shared(self, batch: _Batch) -> _Encoded:
        """The references of a batch that were not encoded before, and its runs, from what their cells share."""
        whole, names = [key[0] for key in batch.wanted], self.names
        try:
            vectors = self._deletions.embed(whole, batch.runs, self.batch_size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            vectors = None
        # outside of the handler, whose error holds on to all that filled the memory
        if vectors is None:
            batch.edited.extend(self._edit(run) for run in batch.runs)
            return self._encode_each(batch)
        rows = [*whole, *(run.cell for run in batch.runs)]
        refuse_not_finite(self.loaded, vectors.isfinite().all(-1).cpu().numpy(), [names[row] for row in rows])
        return _Encoded(vectors)

    def _encode_each(self, batch: _Batch) -> _Encoded:
        """The same, each from its tokens."""
        return self._encode(
            [*batch.wanted.values(), *(one.cell for one in batch.edited)],
            [*(key[0] for key in batch.wanted), *(run.cell for run in batch.runs)],
        )

    def _encode(self, cells: list[TokenCell], numbers: list[int]) -> _Encoded:
        """Encode cells, of which `numbers` are the numbers of those that they were made from."""
        from ...modeling.common.cpu import tokens_at_a_time

        parts: list[_Encoded] = []
        done, most = 0, tokens_at_a_time(self.loaded.model, MAX_TOKENS)
        # the longest first, so that a batch that does not fit in memory fails at once
        order = sorted(range(len(cells)), key=lambda i: -cells[i].ids.size)
        lengths = np.array([cells[i].ids.size for i in order])
        while done < len(cells):
            size = min(self.batch_size, max(1, most // lengths[done]))
            places = order[done : done + _first_of_one_length(lengths[done : done + size])]
            chosen = [cells[i] for i in places]
            found = self._try(chosen, [numbers[i] for i in places])
            if found is None:
                self.batch_size = halved(len(chosen), chosen[0].ids.size)
            else:
                parts.append(found)
                done += len(places)
        encoded = _joined(parts).take(np.argsort(order).tolist())
        finite = encoded.cells.isfinite().all(-1)
        if encoded.genes is not None:
            finite &= encoded.genes.isfinite().all(-1).all(-1)
        refuse_not_finite(self.loaded, finite.cpu().numpy(), [self.names[number] for number in numbers])
        return encoded

    def _try(self, cells: list[TokenCell], numbers: list[int]) -> _Encoded | None:
        """Run a batch; None when memory ran out."""
        import torch

        from ...modeling.common.cpu import fast_on_cpu
        from ...modeling.common.outputs import cells_alone

        model = self.loaded.model
        arrays = self.loaded.processor.padded(ragged(cells))
        if self.batch_labels is not None:
            arrays["batch_labels"] = self.batch_labels[numbers]
        wants_genes = self.similarity == "genes" or self.gene_effects
        try:
            with torch.inference_mode(), fast_on_cpu(model):
                batch = {name: torch.from_numpy(array).to(model.device) for name, array in arrays.items()}
                output = model(**batch, **({"output_hidden_states": True} if wants_genes else cells_alone(model)))
                genes = _gene_states(output, model.config).float() if wants_genes else None
                predicted = predicted_expression(output, batch["input_ids"]) if self.gene_effects else None
                vectors = output.cell_embedding.float()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        if genes is not None:
            lengths = torch.tensor([cell.ids.size for cell in cells], device=genes.device)
            longest = int(lengths.max())
            padding = torch.arange(longest, device=genes.device) >= lengths[:, None]
            genes = genes[:, :longest].masked_fill(padding[..., None], 0)
            predicted = None if predicted is None else predicted[:, :longest].masked_fill(padding, 0)
        return _Encoded(vectors, genes, predicted)


def _first_of_one_length(lengths: np.ndarray) -> int:
    """How many cells of a batch to run first: attention without a mask, of cells of one length, is much faster.

    Args:
        lengths: (cells,) their tokens, the longest first.

    Returns:
        Those before the cells of the most common length, or else these; all where that is not the length of half.
    """
    values, counts = np.unique(lengths, return_counts=True)
    common, number = values[counts.argmax()], int(counts.max())
    n_longer = int((lengths > common).sum())
    return len(lengths) if 2 * number < len(lengths) else n_longer or number


def _joined(parts: list[_Encoded]) -> _Encoded:
    """Results one after the other, as long as the longest."""
    import torch
    from torch.nn.functional import pad

    if len(parts) == 1:
        return parts[0]
    cells = torch.cat([part.cells for part in parts])
    if parts[0].genes is None:
        return _Encoded(cells)
    longest = max(part.genes.shape[1] for part in parts)
    genes = torch.cat([pad(part.genes, (0, 0, 0, longest - part.genes.shape[1])) for part in parts])
    if parts[0].predicted is None:
        return _Encoded(cells, genes)
    predicted = torch.cat([pad(part.predicted, (0, longest - part.predicted.shape[1])) for part in parts])
    return _Encoded(cells, genes, predicted)


def _gene_states(output: Any, config: Any) -> "torch.Tensor":
    """(batch, tokens, hidden) of the layer that the cell embedding is made of."""
    layer = getattr(config, "cell_embedding_layer", -1)
    last = getattr(output, "last_hidden_state", None)
    return last if last is not None and layer in (None, -1) else output.hidden_states[-1 if layer is None else layer]


def predicted_expression(output: Any, input_ids: "torch.Tensor") -> "torch.Tensor | None":
    """(batch, tokens) float32 expression that a model with a decoder predicts of the genes of a cell; else None.

    That made of the cell embedding comes first: the decoder of a gene's own state sees the value that it was given.
    """
    for name in ("cell_expression_prediction", "expression_prediction"):
        found = getattr(output, name, None)
        if found is None or found.ndim != 2:
            continue
        if found.shape != input_ids.shape:
            # of all genes of the vocabulary, behind which special tokens stand
            found = found.gather(1, input_ids.clamp(max=found.shape[1] - 1))
        return found.float()
    return None
