"""Embeddings of genes as a table with their names: those that a model starts from, or means over cells."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...errors import ConfigurationError, require
from ...opening.loading import LoadedModel, load_model
from ..running.prepared_cells import PreparedCells, prepare_cells
from ..running.provenance import make_record, model_record
from ..running.sums import run_sums

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

    from ...sources.cell_source import CellSource
    from ...tokenization.genes.gene_vocabulary import GeneVocabulary
    from ...tokenization.processing_cell import CellProcessor
    from ..files.pieces import Pieces

_GENES_AT_A_TIME = 4096


def gene_embeddings(
    model: Any,
    genes: str | Sequence[str] | None = None,
    *,
    cells: "AnnData | CellSource | None" = None,
    processor: "CellProcessor | None" = None,
    layer: str | None = None,
    species: str | None = None,
    batch_key: str | None = None,
    batch_size: int = 64,
    device: Any = None,
    dtype: Any = None,
    seed: int = 0,
    revision: str | None = None,
) -> "DataFrame":
    """The embeddings that a model has of genes, by name.

    Args:
        model: folder or repository id of a checkpoint or an adapter; or a loaded model.
        genes: names, looked up like those of data: by name, Ensembl id, previous symbol and alias; all genes of the
            model unless given.
        cells: cells with raw counts; each embedding is then the mean, over those that the gene is read in, of what the
            last layer says of it.
        processor: the processor; by default the one saved with the model.
        layer, species, batch_key, batch_size, seed: how `cells` are read, as for [`sclm_hf.embed`].
        device, dtype, revision: as for [`sclm_hf.embed`].

    Returns:
        A data frame (genes, hidden) of float32, indexed by the names given or those of the vocabulary. Without `cells`
        the embeddings are those that values are added to, of UCE those of proteins. With `cells`, genes that none of
        them has are left out if no names were given. `attrs["gene_embeddings"]` says how they were made: model,
        revision, settings, versions, how many genes of the vocabulary are there, and with `cells` how the genes of
        these met it.

    Raises:
        ConfigurationError: a gene is not known, or in none of the cells; or the tokens of the model are no genes.
        CheckpointError: the model cannot be read.
        Others as for [`sclm_hf.embed`], with `cells`.
    """
    loaded = load_model(model, "AutoModel", processor=processor, device=device, dtype=dtype, revision=revision)
    vocabulary = loaded.processor.tokenizer.gene_vocabulary
    names, ids = _all_genes(vocabulary) if genes is None else _named_genes(loaded, genes)
    settings = {"species": species, "batch_key": batch_key, "batch_size": batch_size, "seed": seed}
    if cells is None:
        record = model_record(loaded, {})
        vectors = _static(loaded, ids)
    else:
        prepared = prepare_cells(cells, loaded, layer=layer, species=species, batch_key=batch_key)
        record = make_record(loaded, prepared, settings)
        vectors, seen = mean_embeddings(loaded, prepared, ids, batch_size=batch_size, seed=seed)
        if genes is not None and not seen.all():
            raise _not_there(np.asarray(names)[~seen], "is in none of the cells", "are in none of the cells")
        names, vectors = np.asarray(names, object)[seen], vectors[seen]
    pandas = require("pandas", extra="anndata")
    table = pandas.DataFrame(vectors, index=pandas.Index(names, name="gene"))
    held = {"n_genes": len(table), "n_genes_in_vocabulary": len(_all_genes(vocabulary)[0])}
    table.attrs["gene_embeddings"] = {**record, "from": "the model" if cells is None else "cells", **held}
    return table


def mean_embeddings(
    loaded: LoadedModel,
    prepared: PreparedCells,
    ids: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    pieces: "Pieces | None" = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Means over cells of what the last layer says of genes.

    Args:
        loaded: the model and its processor.
        prepared: the cells.
        ids: (genes,) ids of the genes.
        batch_size, seed, pieces: as for [`run_sums`].

    Returns:
        (genes, hidden) float32 means, 0 for a gene that no cell was read with; and (genes,) whether one was.

    Raises:
        ConfigurationError: the model gives no vector for each gene of a cell.
    """
    means = _Means(ids, loaded.processor.tokenizer.gene_vocabulary.size, loaded.name)
    run_sums(loaded, prepared, means, batch_size=batch_size, seed=seed, description="gene embeddings", pieces=pieces)
    return means.of(ids)


def _all_genes(vocabulary: "GeneVocabulary") -> tuple[list[str], np.ndarray]:
    by_id = sorted((number, name) for name, number in vocabulary.items() if name not in vocabulary.special_tokens)
    return [name for _, name in by_id], np.array([number for number, _ in by_id], np.int64)


def _named_genes(loaded: LoadedModel, genes: str | Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The genes of that name, and their ids."""
    names = [genes] if isinstance(genes, str) else list(genes)
    if not names:
        raise ConfigurationError("`genes` (`--genes`) is empty: name some, or leave it out for all.")
    # names of one gene point to the first of them
    ids = loaded.processor.tokenizer.gene_vocabulary.map_genes(names).gene_ids
    if (ids == -1).any():
        unknown = [name for name, number in zip(names, ids, strict=True) if number == -1]
        raise _not_there(unknown, f"is no gene of `{loaded.name}`", f"are no genes of `{loaded.name}`")
    return names, ids[np.where(ids < -1, -2 - ids, np.arange(len(ids)))]


def _not_there(names: Sequence[str], one: str, several: str) -> ConfigurationError:
    shown = ", ".join(map(repr, map(str, names[:10]))) + (" …" if len(names) > 10 else "")
    return ConfigurationError(f"{shown} {one if len(names) == 1 else several}: leave out of `genes` (`--genes`).")


def _static(loaded: LoadedModel, ids: np.ndarray) -> np.ndarray:
    model: Any = loaded.model.base_model
    with torch.inference_mode():
        parts = [
            model.embed_genes(torch.from_numpy(ids[start : start + _GENES_AT_A_TIME]).to(model.device))
            for start in range(0, len(ids), _GENES_AT_A_TIME)
        ]
    return torch.cat(parts).float().cpu().numpy()


class _Means:
    """Means of what the last layer says of genes; see `Sums`.

    Args:
        ids: (genes,) ids of the genes.
        n_ids: size of the vocabulary.
        name: what the model is called.
    """

    def __init__(self, ids: np.ndarray, n_ids: int, name: str) -> None:
        self._ids, self._name = np.unique(ids), name
        self._place_of = torch.full((n_ids,), -1)
        self._place_of[torch.from_numpy(self._ids)] = torch.arange(len(self._ids))
        self._sums: torch.Tensor | None = None
        self._counts = torch.zeros(len(self._ids), dtype=torch.float64)

    def add(self, model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Add the genes of a batch; returns a 0 for each cell."""
        hidden, ids = model(**batch).last_hidden_state, batch["input_ids"]
        if hidden is None or hidden.shape[:-1] != ids.shape:
            raise ConfigurationError(
                f"`{self._name}` ({type(model).__name__}) gives no vector for each gene of a cell: leave out `cells` "
                "(`--cells`)."
            )
        places = self._place_of.to(ids.device)[ids]
        real = places >= 0
        if "attention_mask" in batch:
            real &= batch["attention_mask"].bool()
        places, hidden = places[real].cpu(), hidden[real].double().cpu()
        if self._sums is None:
            self._sums = torch.zeros(len(self._ids), hidden.shape[-1], dtype=torch.float64)
        self._sums.index_add_(0, places, hidden)
        self._counts += torch.bincount(places, minlength=len(self._ids))
        return torch.zeros(len(real), 1)

    def state(self) -> dict[str, np.ndarray]:
        """The sums and how many cells are in them."""
        assert self._sums is not None, "no batch was added"
        return {"sums": self._sums.numpy(), "counts": self._counts.numpy()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        self._sums, self._counts = torch.from_numpy(state["sums"]), torch.from_numpy(state["counts"])

    def of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(genes, hidden) means, and whether each gene was seen."""
        assert self._sums is not None, "no batch was added"
        places = np.searchsorted(self._ids, ids)
        counts = self._counts[places]
        means = self._sums[places] / counts.clamp(min=1)[:, None]
        return means.float().numpy(), (counts > 0).numpy()
