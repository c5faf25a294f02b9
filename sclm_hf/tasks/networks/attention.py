"""Attention between genes: rank-normalised in each cell, averaged over cells, with one layer in memory at a time.

After Cui et al. (scGPT), Nature Methods 21, 1470-1480 (2024), doi:10.1038/s41592-024-02201-0, "attention-based target
gene selection": the weights of a head become ranks within each row, these become ranks within each column, and the
result is averaged over heads and over the cells of a condition. Differently, a cell is read as `embed` reads it, with
the genes that it expresses, so that ranks are divided by their number, and means are over the cells that hold both.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ConfigurationError
from ...registry import FAMILIES
from ..running.prepared_cells import prepare_cells
from ..running.sums import run_sums
from .genes import FEWEST_CELLS

if TYPE_CHECKING:
    from ...opening.loading import LoadedModel
    from .evidence import NetworkCells

MOST_WEIGHTS = 2**25
"""Weights of one layer that are in memory at a time, unless those of a single cell are more."""


def find_attention(loaded: "LoadedModel", remedy: str) -> list[nn.Module]:
    """The attention of each layer.

    Args:
        loaded: the model.
        remedy: what to do where there is none.

    Raises:
        ConfigurationError: the model has no weight for each pair of genes.
    """
    model = loaded.model
    recorded = getattr(model, "_can_record_outputs", None) or {}
    kind = recorded.get("attentions")
    if kind is None or not model._supports_attention_backend:
        title = FAMILIES[model.config.model_type].title
        raise ConfigurationError(f"`{loaded.name}` ({title}) has no attention between each pair of genes: {remedy}.")
    kind = getattr(kind, "target_class", kind)
    return [module for module in model.modules() if isinstance(module, kind)]


def check_attention(loaded: "LoadedModel", layers: str) -> list[nn.Module]:
    """The attention of each layer asked for.

    Args:
        loaded: the model.
        layers: `"last"`, `"all"`, or the number of a layer, 0 being the first.

    Raises:
        ConfigurationError: the model has no weight for each pair of genes, or no such layer.
    """
    found = find_attention(loaded, "take other `evidence` (`--evidence`), for example `embeddings`")
    if layers == "all":
        return found
    number = len(found) - 1 if layers == "last" else int(layers)
    if number >= len(found):
        raise ConfigurationError(
            f"`attention_layers` (`--attention-layers`) asks for layer {number}, and `{loaded.name}` has the layers 0 "
            f"to {len(found) - 1}."
        )
    return [found[number]]


def attention_between(cells: "NetworkCells") -> np.ndarray:
    """How strongly targets attend to regulators.

    Returns:
        (regulators, targets) float32 from 0 to 1, means over cells; NaN for pairs that fewer than 10 cells hold.

    Raises:
        ConfigurationError: there is no other pair.
    """
    loaded, settings = cells.loaded, cells.settings
    prepared = prepare_cells(cells.source, loaded, species=settings.species, batch_key=settings.batch_key)
    means = _RankMeans(loaded, cells.tokens, check_attention(loaded, settings.attention_layers))
    per_cell = loaded.model.config.num_attention_heads * int(prepared.lengths.max()) ** 2
    with watched(loaded.model, means.layers, means.look):
        run_sums(
            loaded,
            prepared,
            means,
            batch_size=max(1, min(settings.batch_size, MOST_WEIGHTS // per_cell)),
            seed=settings.seed,
            description="attention",
            pieces=cells.pieces_named("attention"),
        )
    scores = means.of_pairs().T[cells.pairs].astype(np.float32)
    if np.isnan(scores).all():
        raise ConfigurationError(
            f"No regulator and target are read together in {FEWEST_CELLS} cells: give more cells, or genes that more "
            "of them express (`genes`, `--genes`)."
        )
    return scores


@contextmanager
def watched(model: Any, layers: list[nn.Module], look: Callable[..., None]) -> Iterator[None]:
    """Compute attention so that its weights can be seen, layer by layer.

    Args:
        model: the model.
        layers: attention modules.
        look: called as a forward hook of each; the second output is (batch, heads, tokens, tokens) weights.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with ExitStack() as stack:
            for module in layers:
                stack.callback(module.register_forward_hook(look).remove)
            yield
    finally:
        model.set_attn_implementation(before)


class _RankMeans:
    """Means over cells of rank-normalised attention; see `Sums`.

    Args:
        loaded: the model.
        tokens: (genes,) ids of the genes.
        layers: attention modules, over which means are taken too.
    """

    def __init__(self, loaded: "LoadedModel", tokens: np.ndarray, layers: list[nn.Module]) -> None:
        vocabulary = loaded.processor.tokenizer.gene_vocabulary
        self.layers = layers
        self._place_of = np.full(vocabulary.size, -1)
        self._place_of[tokens] = np.arange(len(tokens))
        self._special = list(vocabulary.special_tokens.values())
        self._sums, self._counts = (np.zeros((len(tokens), len(tokens))) for _ in range(2))
        self._positions: list[np.ndarray] = []
        self._found: list[list[Tensor]] = []

    def add(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """Add the cells of a batch; returns a 0 for each."""
        ids = batch["input_ids"].cpu().numpy()
        real = ~np.isin(ids, self._special)
        if "attention_mask" in batch:
            real &= batch["attention_mask"].cpu().numpy().astype(bool)
        self._positions, self._found = [np.flatnonzero(one) for one in real], [[] for _ in ids]
        model(**batch)
        for one, positions, found in zip(ids, self._positions, self._found, strict=True):
            places = self._place_of[one[positions]]
            chosen = places >= 0
            pairs, within = np.ix_(places[chosen], places[chosen]), np.ix_(chosen, chosen)
            ranks = torch.stack(found).double().mean(0).cpu().numpy()[within]
            # a pair that the model cannot see, as of a decoder a gene that comes later
            np.add.at(self._sums, pairs, np.nan_to_num(ranks))
            np.add.at(self._counts, pairs, np.isfinite(ranks))
        return torch.zeros(len(ids), 1)

    def state(self) -> dict[str, np.ndarray]:
        """The sums and how many cells are in them."""
        return {"sums": self._sums, "counts": self._counts}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        self._sums, self._counts = state["sums"], state["counts"]

    def look(self, module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        """Take the weights of a layer, (batch, heads, tokens, tokens), cell by cell."""
        for weights, positions, found in zip(output[1], self._positions, self._found, strict=True):
            places = torch.from_numpy(positions).to(weights.device)
            weights = weights[:, places][:, :, places]
            # equal ranks of different rows must not go by the order of the tokens
            ranks = _ranks(_ranks(weights).transpose(1, 2)).transpose(1, 2).mean(0)
            found.append(ranks.masked_fill((weights == 0).all(0), torch.nan))

    def of_pairs(self) -> np.ndarray:
        """(genes, genes) means of the attention of each to each other."""
        np.fill_diagonal(self._counts, 0)
        known = self._counts >= FEWEST_CELLS
        return np.divide(self._sums, self._counts, out=np.full_like(self._sums, np.nan), where=known)


def _ranks(values: Tensor) -> Tensor:
    """Ranks within the last dimension, from 0 to 1; equal values have the mean of theirs."""
    values = values.contiguous()
    ordered = values.sort().values
    ends = torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True) - 1
    return ends.float() / max(2 * (values.shape[-1] - 1), 1)
