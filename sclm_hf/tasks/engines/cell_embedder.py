"""A model as one function of a batch of cells, for engines that bring it to many workers."""

import functools
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from ...errors import ConfigurationError, CorpusError, require
from ..embed import EMBED, EmbedSettings
from ..running.batches import run_rows
from ..running.prepared_cells import prepare_cells

if TYPE_CHECKING:
    from ...opening.loading import LoadedModel

NAME, GENE_INDEX, COUNTS, EMBEDDING = "cell_name", "gene_index", "counts", "embedding"

# engines with threads, as dask by default, would open the model in each and change it under one another; both torch
# and the kernels use the cores of one call
_ONE_AT_A_TIME = threading.Lock()


class CellEmbedder:
    """Gives the embeddings of [`embed`] for batches of cells as dictionaries of arrays.

    It is small to pickle where `model` is a folder or repository: each worker process opens that at its first batch,
    and keeps it; threads of a process take turns. The columns are those of Parquet corpora (`sclm-hf corpus build`),
    which engines read by themselves.

    Args:
        model: folder or repository id of a checkpoint or an adapter; or a loaded model.
        genes: (n_genes,) names of the genes that counts belong to.
        ensembl_ids: (n_genes,) their Ensembl ids, if there are any.
        **settings: the fields of [`EmbedSettings`], for example `batch_size` or `device`.

    Raises:
        ConfigurationError: there is no such setting, or a value is out of range.
    """

    def __init__(
        self, model: Any, genes: Sequence[str], ensembl_ids: Sequence[str] | None = None, **settings: Any
    ) -> None:
        self.model, self.settings = model, EMBED.choose(settings)
        self.genes = list(map(str, genes))
        self.ensembl_ids = None if ensembl_ids is None else list(map(str, ensembl_ids))
        self.arguments = {"model": model, "genes": self.genes, "ensembl_ids": self.ensembl_ids, **settings}

    @property
    def columns(self) -> list[str]:
        """Names of the columns that it reads."""
        return [NAME, GENE_INDEX, COUNTS, *([self.settings.batch_key] if self.settings.batch_key else [])]

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Embed cells.

        Args:
            batch: `cell_name` (cells,); `gene_index` (cells,) of arrays of places among `genes`, and `counts` (cells,)
                of as many raw counts; or `counts` alone, (cells, n_genes). Also the column `batch_key`, if asked for.

        Returns:
            `cell_name` (cells,), and `embedding` (cells, cell_embedding_size) float32.

        Raises:
            CorpusError: a column is missing or does not fit the others.
            ConfigurationError: the model reads whole samples, which a batch may divide.
            Others as for [`embed`].
        """
        with _ONE_AT_A_TIME:
            return self._embedded(batch)

    def _embedded(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        loaded = _load(self.model, self.settings)
        if loaded.processor.context == "sample":
            raise ConfigurationError(
                f"The model of `{loaded.name}` reads whole samples of cells, which engines divide: use `embed`."
            )
        names = np.asarray(batch[NAME]) if NAME in batch else _missing(NAME, batch)
        if not len(names):
            return {NAME: names, EMBEDDING: np.zeros((0, loaded.model.config.cell_embedding_size), np.float32)}
        settings = self.settings
        cells = prepare_cells(
            self._cells(names, batch), loaded, species=settings.species, batch_key=settings.batch_key
        )
        run = EMBED.start(loaded, cells, settings)
        rows = np.arange(len(names))
        values = run_rows(loaded, cells, rows, run.forward, batch_size=settings.batch_size, seed=settings.seed)
        return {NAME: names, EMBEDDING: values}

    def _cells(self, names: np.ndarray, batch: Mapping[str, Any]) -> Any:
        """The cells of a batch as an AnnData."""
        anndata, pandas = require("anndata", extra="anndata"), require("pandas", extra="anndata")
        key = self.settings.batch_key
        obs = pandas.DataFrame({key: batch[key]} if key in batch else {})
        obs.index = names.astype(str)
        ensembl_ids = {} if self.ensembl_ids is None else {"ensembl_id": self.ensembl_ids}
        var = pandas.DataFrame(ensembl_ids, index=self.genes)
        return anndata.AnnData(self._matrix(len(names), batch), obs=obs, var=var)

    def _matrix(self, n_cells: int, batch: Mapping[str, Any]) -> scipy.sparse.csr_matrix:
        counts, n_genes = batch[COUNTS] if COUNTS in batch else _missing(COUNTS, batch), len(self.genes)
        if GENE_INDEX not in batch:
            dense = np.stack([np.asarray(row) for row in counts])
            if dense.shape != (n_cells, n_genes):
                raise CorpusError(f"`{COUNTS}` must be ({n_cells}, {n_genes}) without `{GENE_INDEX}`: {dense.shape}.")
            return scipy.sparse.csr_matrix(dense, dtype=np.float32)
        lengths = [list(map(len, column)) for column in (batch[GENE_INDEX], counts)]
        if lengths[0] != lengths[1] or len(lengths[0]) != n_cells:
            raise CorpusError(f"`{GENE_INDEX}` and `{COUNTS}` must be as long as each other in each of the cells.")
        places = np.concatenate([np.asarray(row, np.int64) for row in batch[GENE_INDEX]])
        if places.size and not 0 <= places.min() <= places.max() < n_genes:
            raise CorpusError(f"`{GENE_INDEX}` must lie in 0..{n_genes - 1}: {places.min()}..{places.max()}.")
        values = np.concatenate([np.asarray(row, np.float32) for row in counts])
        return scipy.sparse.csr_matrix((values, places, np.cumsum([0, *lengths[0]])), (n_cells, n_genes))


@functools.lru_cache(maxsize=1)
def _load(model: Any, settings: EmbedSettings) -> "LoadedModel":
    """The model, kept in the process: engines may send the function anew with every task."""
    return EMBED.load(model, None, settings)


def _missing(column: str, batch: Mapping[str, Any]) -> Any:
    raise CorpusError(
        f"The cells have no column `{column}`; they have {sorted(batch)}: expected `{NAME}`, `{COUNTS}` and, unless "
        f"these are dense, `{GENE_INDEX}`."
    )
