"""Runs perturbed cells through a model: how far each moves from the original cell, and towards which state."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..running.batches import halved, is_out_of_memory, refuse_not_finite
from .cells import TokenCells
from .tokens import PerturbedCell, TokenCell, perturb_cell

if TYPE_CHECKING:
    import torch

    from ...opening.loading import LoadedModel


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


class RunResult(NamedTuple):
    """What a run gave.

    Attributes:
        run: the run.
        similarity: cosine similarity to the cell as it was.
        shifts: state -> similarity to it, minus that of the cell as it was.
        genes: (genes,) tokens that were not perturbed; None unless asked for.
        gene_similarities: (genes,) their cosine similarities to themselves before.
    """

    run: Run
    similarity: float
    shifts: dict[str, float]
    genes: np.ndarray | None
    gene_similarities: np.ndarray | None


class _Encoded(NamedTuple):
    """Results of one cell: (genes, hidden) on the model's device, or None, and (hidden,)."""

    genes: "torch.Tensor | None"
    cell: "torch.Tensor"


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
        self._references: dict[tuple, _Encoded] = {}

    def __call__(self, runs: Iterable[Run]) -> Iterator[RunResult]:
        """Results of `runs`, in their order; runs of one cell are best given one after the other.

        Raises:
            SclmError: a single cell does not fit in memory, or the model gives values that are not finite.
        """
        runs = iter(runs)
        while batch := list(islice(runs, self.batch_size)):
            edited = [self._edit(run) for run in batch]
            self._encode_references(batch, edited)
            after = self._encode([one.cell for one in edited], [run.cell for run in batch])
            for run, one, encoded in zip(batch, edited, after, strict=True):
                yield self._compare(run, one, encoded, self._references[self._reference_key(run, one)])

    def _edit(self, run: Run) -> PerturbedCell:
        # an over-expressed gene that was left out is put in as one that the cell lacks
        put_back = self.mode == "delete"
        cell = self.cells.holding(run.cell, run.tokens) if put_back else self.cells.kept[run.cell]
        return perturb_cell(cell, run.tokens, self.mode, self._special, self._max_length)

    def _reference_key(self, run: Run, one: PerturbedCell) -> tuple:
        put_back = self.mode == "delete" and self.cells.lacks(run.cell, run.tokens)
        return run.cell, one.n_pushed_out, run.tokens if put_back else None

    def _encode_references(self, batch: list[Run], edited: list[PerturbedCell]) -> None:
        """Encode the references of a batch, but for those that the batch before had."""
        pairs = zip(batch, edited, strict=True)
        wanted = {self._reference_key(run, one): one.reference for run, one in pairs}
        known = {key: self._references[key] for key in wanted if key in self._references}
        new = [key for key in wanted if key not in known]
        encoded = self._encode([wanted[key] for key in new], [key[0] for key in new])
        self._references = known | dict(zip(new, encoded, strict=True))

    def _compare(self, run: Run, one: PerturbedCell, after: _Encoded, before: _Encoded) -> RunResult:
        from torch.nn.functional import cosine_similarity

        shifts = {}
        for state, embedding in self.states.items():
            target = after.cell.new_tensor(embedding)
            moved = cosine_similarity(after.cell, target, dim=0) - cosine_similarity(before.cell, target, dim=0)
            shifts[state] = float(moved)
        genes = None
        if after.genes is not None:
            genes = cosine_similarity(after.genes[one.positions], before.genes[one.reference_positions], dim=-1)
        by_genes = self.similarity == "genes"
        similarity = genes.mean() if by_genes else cosine_similarity(after.cell, before.cell, dim=0)
        if not self.gene_effects:
            return RunResult(run, float(similarity), shifts, None, None)
        return RunResult(run, float(similarity), shifts, one.cell.ids[one.positions], genes.cpu().numpy())

    def _encode(self, cells: list[TokenCell], numbers: list[int]) -> list[_Encoded]:
        """Encode cells, of which `numbers` are the numbers of those that they were made from."""
        encoded: list[_Encoded] = []
        # the longest first, so that a batch that does not fit in memory fails at once
        order = sorted(range(len(cells)), key=lambda i: -cells[i].ids.size)
        while len(encoded) < len(cells):
            places = order[len(encoded) : len(encoded) + self.batch_size]
            chosen = [cells[i] for i in places]
            found = self._try(chosen, [numbers[i] for i in places])
            if found is None:
                self.batch_size = halved(len(chosen), chosen[0].ids.size)
            else:
                encoded += found
        encoded = [one for _, one in sorted(zip(order, encoded, strict=True), key=lambda pair: pair[0])]
        finite = [bool(one.cell.isfinite().all()) and _all_finite(one.genes) for one in encoded]
        refuse_not_finite(self.loaded, np.array(finite, bool), [self.names[number] for number in numbers])
        return encoded

    def _try(self, cells: list[TokenCell], numbers: list[int]) -> list[_Encoded] | None:
        """Run a batch; None when memory ran out."""
        import torch

        from ...modeling.common.cpu import fast_on_cpu

        model = self.loaded.model
        arrays = self.loaded.processor.padded(_ragged(cells))
        if self.batch_labels is not None:
            arrays["batch_labels"] = self.batch_labels[numbers]
        wants_genes = self.similarity == "genes" or self.gene_effects
        try:
            with torch.inference_mode(), fast_on_cpu(model):
                batch = {name: torch.from_numpy(array).to(model.device) for name, array in arrays.items()}
                output = model(**batch, output_hidden_states=wants_genes)
                genes = _gene_states(output, model.config).float() if wants_genes else None
                vectors = output.cell_embedding.float()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        # clones: a view would keep the whole batch in memory
        return [
            _Encoded(None if genes is None else genes[i, : cell.ids.size].clone(), vectors[i].clone())
            for i, cell in enumerate(cells)
        ]


def _all_finite(genes: "torch.Tensor | None") -> bool:
    return genes is None or bool(genes.isfinite().all())


def _gene_states(output: Any, config: Any) -> "torch.Tensor":
    """(batch, tokens, hidden) of the layer that the cell embedding is made of."""
    layer = getattr(config, "cell_embedding_layer", -1)
    return output.last_hidden_state if layer in (None, -1) else output.hidden_states[layer]


def _ragged(cells: list[TokenCell]) -> Any:
    """The cells as `CellProcessor.padded` takes them."""
    from ...tokenization.encodings.cells import CellTokens

    lengths = np.array([cell.ids.size for cell in cells], np.int64)
    values = [cell.values for cell in cells if cell.values is not None]
    return CellTokens(
        ids=np.concatenate([cell.ids for cell in cells]).astype(np.int32),
        values=np.concatenate(values).astype(np.float32) if values else np.empty(0, np.float32),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
    )
