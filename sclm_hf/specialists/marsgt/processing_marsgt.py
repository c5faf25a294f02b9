"""What MarsGT reads: a graph of cells, genes and peaks, joined where there are counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy import sparse
from transformers import BatchFeature

from sclm_hf.errors import ConfigurationError, ExpressionError, require
from sclm_hf.logging import warn

from ..cells import Counts, of_genes, read_counts
from ..pairing import paired
from ..potential import HALF_DISTANCE, read_gene_positions, regulatory_potential
from ..processing import Examples, SpecialistProcessor
from ..transductive import inputs_of, names_of, rows_of
from .clusters_marsgt import initial_clusters, numbered_by_size
from .sampling_marsgt import draw_features

TITLE = "MarsGT"
GENE_TO_CELL, CELL_TO_GENE, PEAK_TO_CELL, CELL_TO_PEAK = range(4)


@dataclass
class MarsGTProcessor(SpecialistProcessor):
    """The graph of the cells of training, their genes and their peaks.

    Attributes:
        cells: names of the cells of training, in the order of the model's inputs.
        genes: names of the genes, in the order of the model.
        peaks: names of the peaks.
        positions: gene -> chromosome and start.
        clusters: number of the initial cluster of each cell.
        layer: the layer with the counts of both; None = as everywhere: `layers["counts"]`, `raw`, `X`.
        least_share: least share of the cells that a gene or a peak is seen in; 0 takes all that are seen.
        half_distance: bases over which the regulatory potential of a peak halves.
        n_neighbours: neighbours of each cell for the initial clusters; by default as published, by their number.
        resolution: of Leiden for them; by default as published.
        n_components: describe cells, genes and peaks by so many components of the counts, whatever the numbers of
            cells and genes; None = by the counts themselves, as published, whose number is bound to the cells of
            training.
        n_first_epochs: epochs of the first stage, in which cells of an initial cluster are drawn together; then genes,
            peaks and their pairs are learnt too.
        n_drawn: how many genes and how many peaks are drawn for each cell of a step, at most.
        least_count: fewer counts of a gene count as 0 when genes are drawn, each with probability as 1 + counts.
        leaves_out_own_number: whether the gene and the peak whose number is that of the cell are never drawn for it,
            as in the published code.
        one_way_results: whether results come from a graph with edges to cells alone, those of peaks with the relation
            number of edges from cells to genes, as in the published code; else from edges of all four relations.
        rare_share: largest share of the cells that a rare cluster has.
    """

    modalities: ClassVar[tuple[str, ...]] = ("rna", "atac")
    learnt: ClassVar[tuple[str, ...]] = ("cells", "genes", "peaks", "positions", "clusters")

    cells: list[str] = field(default_factory=list)
    genes: list[str] = field(default_factory=list)
    peaks: list[str] = field(default_factory=list)
    positions: dict[str, list] = field(default_factory=dict)
    clusters: list[int] = field(default_factory=list)
    layer: str | None = None
    least_share: float = 0.0
    half_distance: float = HALF_DISTANCE
    n_neighbours: int | None = None
    resolution: float | None = None
    n_components: int | None = None
    n_first_epochs: int = 100
    n_drawn: int = 20
    least_count: int = 5
    leaves_out_own_number: bool = False
    one_way_results: bool = False
    rare_share: float = 0.03

    def __post_init__(self) -> None:
        for name, least in {"n_neighbours": 2, "n_drawn": 1}.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ConfigurationError(f"`{name}` must be {least} or more, got {getattr(self, name)}.")
        if self.resolution is not None and self.resolution <= 0:
            raise ConfigurationError(f"`resolution` must be above 0, got {self.resolution}.")

    @classmethod
    def fit(cls, cells: Any, *, gene_positions: Any = None, **settings: Any) -> Self:
        processor = cls(**settings)
        rna, atac = processor._counts(cells)
        processor.cells = names_of(_rna(cells), TITLE)
        processor.genes, processor.peaks = (_seen(one, processor.least_share) for one in (rna, atac))
        processor.positions = read_gene_positions(gene_positions, processor.genes)
        # peaks without a place, and peaks far from all genes, are told now
        processor._potential()
        found = initial_clusters(rna, processor.n_neighbours, processor.resolution)
        processor.clusters = found.tolist()
        if found.max() == 0:
            warn(
                "All cells are in one initial cluster, so that MarsGT will find one: raise `resolution` (`--set "
                "resolution=1`) if there are several kinds of cells."
            )
        return processor

    def check_learnt(self) -> None:
        if len(self.clusters) != len(self.cells):
            raise ValueError("`clusters` must be as many as `cells`.")

    def config_settings(self) -> dict[str, Any]:
        return {
            "cell_input_size": self.n_components or len(self.genes),
            "feature_input_size": self.n_components or len(self.cells),
        }

    def __call__(self, cells: Any, *, return_tensors: str | None = None) -> BatchFeature:
        """`cell_inputs`, `gene_inputs`, `peak_inputs`, `edge_index` and `edge_type` of the whole graph.

        Raises:
            ConfigurationError: a modality is missing, or they are not the cells of training.
            GeneCoverageError: fewer than half of the genes or of the peaks are measured.
            ExpressionError: the values are no counts, or a cell has none of the genes or none of the peaks.
        """
        rna, atac = self._read(cells)
        batch = _graph(rna, atac, self.one_way_results) | self._inputs(rna, atac)
        return BatchFeature(batch, tensor_type=return_tensors)

    def examples(self, cells: Any, seed: int) -> Examples:
        rna, atac = self._read(cells)
        potential, clusters = self._potential(), np.array(self.clusters, np.int64)
        by_cell, inputs = (rna.T.tocsr(), atac.T.tocsr()), self._inputs(rna, atac)

        def make(rows: np.ndarray, epoch: int) -> dict[str, Any]:
            draws = [[np.random.default_rng([seed, epoch, row, kind]) for row in rows] for kind in range(2)]
            genes, peaks = (
                draw_features(one, rows, rng, self.n_drawn, least, self.leaves_out_own_number)
                for one, rng, least in zip(by_cell, draws, (self.least_count, 0), strict=True)
            )
            own_rna, own_atac = rna[genes][:, rows], atac[peaks][:, rows]
            batch = _graph(own_rna, own_atac) | {
                "cell_inputs": inputs["cell_inputs"][rows],
                "gene_inputs": inputs["gene_inputs"][genes],
                "peak_inputs": inputs["peak_inputs"][peaks],
                "labels": clusters[rows],
            }
            if epoch >= self.n_first_epochs:
                batch["expression"], batch["accessibility"] = own_rna.toarray(), own_atac.toarray()
                batch["potential"] = potential[genes][:, peaks].toarray()
            return batch

        return Examples(len(self.cells), make)

    def results(self, verb: str, model: Any, cells: Any, *, key_added: str | None = None) -> dict[str, dict[str, Any]]:
        pandas = require("pandas", extra="anndata")
        embedding, codes = self._found(model, cells)
        place = {name: row for row, name in enumerate(self.cells)}
        order = [place[name] for name in names_of(_rna(cells), TITLE)]
        shares = np.bincount(codes) / len(codes)
        key = key_added or "sclm_cluster"
        labels = pandas.Categorical(codes[order].astype(str), categories=[str(code) for code in range(len(shares))])
        return {
            "obs": {key: labels, f"{key}_is_rare": shares[codes[order]] <= self.rare_share},
            "obsm": {"X_marsgt": embedding[order]},
            "facts": {"shares": shares, "n_rare": int((shares <= self.rare_share).sum())},
        }

    def regulation(self, model: Any, cells: Any) -> Any:
        """Which peaks go with which genes in each cluster.

        Args:
            model: the model.
            cells: the cells of training.

        Returns:
            A DataFrame with `condition`, the cluster as `cluster` names it; `regulator`, the peak; `target`, the gene;
            and `score`, the mean counts of the gene times those of the peak in the cells of the cluster times their
            regulatory potential, where it is above 0; strongest first.
        """
        pandas = require("pandas", extra="anndata")
        codes = self._found(model, cells)[1]
        rna, atac = self._read(cells)
        pairs = self._potential().tocoo()
        tables = []
        for code in range(codes.max() + 1):
            means = [np.asarray(one[:, codes == code].mean(axis=1)).ravel() for one in (rna, atac)]
            scores = means[0][pairs.row] * means[1][pairs.col] * pairs.data
            kept = np.flatnonzero(scores > 0)
            kept = kept[np.argsort(-scores[kept], kind="stable")]
            names = {
                "regulator": np.array(self.peaks, object)[pairs.col[kept]],
                "target": np.array(self.genes, object)[pairs.row[kept]],
            }
            tables.append(pandas.DataFrame({"condition": str(code), **names, "score": scores[kept]}))
        return pandas.concat(tables, ignore_index=True)

    @torch.no_grad()
    def _found(self, model: Any, cells: Any) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (cells, hidden) and clusters (cells,), 0 being the largest, in the order of training."""
        batch = {name: torch.as_tensor(values).to(model.device) for name, values in self(cells).items()}
        # a model that drops out at prediction says the same twice
        with torch.random.fork_rng():
            torch.manual_seed(0)
            embedding = model(**batch).cell_embedding.float().cpu().numpy()
        return embedding, numbered_by_size(embedding.argmax(axis=1))

    def _inputs(self, rna: sparse.csr_matrix, atac: sparse.csr_matrix) -> dict[str, np.ndarray]:
        """What describes all cells, genes and peaks."""
        genes, cells = inputs_of(rna, self.n_components)
        return {"cell_inputs": cells, "gene_inputs": genes, "peak_inputs": inputs_of(atac, self.n_components)[0]}

    def _potential(self) -> sparse.csr_matrix:
        return regulatory_potential(self.genes, self.positions, self.peaks, self.half_distance)

    def _counts(self, cells: Any) -> tuple[Counts, Counts]:
        rna, atac = paired(cells, self.modalities, TITLE)
        return read_counts(rna, self.layer, what="RNA"), read_counts(atac, self.layer, what="ATAC")

    def _read(self, cells: Any) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """(genes, cells) and (peaks, cells) counts, in the order of training."""
        order = rows_of(self.cells, names_of(_rna(cells), TITLE), TITLE)
        rna, atac = self._counts(cells)
        found = (
            of_genes(rna, self.genes, "model").matrix[order],
            of_genes(atac, self.peaks, "model", "peaks").matrix[order],
        )
        for one, what in zip(found, ("genes", "peaks"), strict=True):
            empty = np.flatnonzero(np.diff(one.indptr) == 0)
            if len(empty):
                raise ExpressionError(
                    f"{len(empty):,} of {one.shape[0]:,} cells have none of the {one.shape[1]:,} {what} that the "
                    f"model reads, for example {self.cells[empty[0]]}, and would be joined to none: leave them out."
                )
        return tuple(sparse.csr_matrix(one.T) for one in found)


def _graph(rna: sparse.csr_matrix, atac: sparse.csr_matrix, one_way: bool = False) -> dict[str, np.ndarray]:
    """The edges between cells, which are the first nodes, genes and peaks that have counts of one another.

    Args:
        rna: (genes, cells).
        atac: (peaks, cells).
        one_way: whether there are edges to cells alone, with the relations of the published code.
    """
    (genes, cells_of_genes), (peaks, cells_of_peaks) = rna.nonzero(), atac.nonzero()
    n_genes, n_cells = rna.shape
    to_cells = [np.stack([n_cells + genes, cells_of_genes]), np.stack([n_cells + n_genes + peaks, cells_of_peaks])]
    if one_way:
        edges = dict(zip((GENE_TO_CELL, CELL_TO_GENE), to_cells, strict=True))
    else:
        both = [to_cells[0], to_cells[0][::-1], to_cells[1], to_cells[1][::-1]]
        edges = dict(zip((GENE_TO_CELL, CELL_TO_GENE, PEAK_TO_CELL, CELL_TO_PEAK), both, strict=True))
    types = [np.full(one.shape[1], relation) for relation, one in edges.items()]
    return {
        "edge_index": np.concatenate(list(edges.values()), axis=1).astype(np.int64),
        "edge_type": np.concatenate(types).astype(np.int64),
    }


def _rna(cells: Any) -> Any:
    given = getattr(cells, "mod", cells)
    return given["rna"] if isinstance(given, Mapping) else given


def _seen(counts: Counts, least_share: float) -> list[str]:
    """The names of what enough cells have.

    Raises:
        ConfigurationError: these are fewer than 2.
    """
    share = np.asarray((counts.matrix > 0).mean(axis=0)).ravel()
    kept = [name for name, one in zip(counts.genes, share, strict=True) if one > 0 and one >= least_share]
    if len(kept) < 2:
        raise ConfigurationError(
            f"{len(kept)} of {len(share):,} names, such as {counts.genes[0]!r}, are seen in {least_share:.0%} of the "
            "cells: give a lower `least_share`."
        )
    return kept
