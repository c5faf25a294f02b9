"""What DeepMAPS reads: a graph of cells and genes, joined where a gene has a value in a cell."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy import sparse
from transformers import BatchFeature

from sclm_hf.errors import ConfigurationError, ExpressionError, require

from ..cells import Counts, highly_variable, of_genes, read_counts
from ..pairing import modality_of, paired
from ..potential import HALF_DISTANCE, read_gene_positions, regulatory_potential
from ..processing import Examples, SpecialistProcessor
from ..transductive import inputs_of, names_of, rows_of
from .sampling_deepmaps import BudgetSampler

TITLE = "DeepMAPS"
GENE_TO_CELL, CELL_TO_GENE, SELF = range(3)
OTHERS = ("protein", "atac")
MOST_AT_ONCE, N_PARTS = 500_000, 64
PREFIX = {"protein": "p_"}


@dataclass
class DeepMAPSProcessor(SpecialistProcessor):
    """The graph of the cells of training and their genes, with the values that make it.

    Values are, of RNA alone, log-normalised counts; with proteins, whose names get the prefix `p_`, centred log ratios
    of both together; with open chromatin, counts plus those of the peaks near a gene, by their regulatory potential,
    log-normalised.

    Attributes:
        genes: names of the genes and proteins, in the order of the model.
        peaks: names of the peaks.
        cells: names of the cells of training, in the order of the model's inputs.
        other: the modality beside RNA; None for RNA alone.
        positions: gene -> chromosome and start, where there are peaks.
        layer: the layer with the counts; None = as everywhere: `layers["counts"]`, `raw`, `X`.
        n_top_genes: how many of the most variable genes a new model reads, at most.
        least_share: least share of the cells that a gene or a protein is seen in.
        half_distance: bases over which the regulatory potential of a peak halves.
        n_parts: how many parts of the graph an epoch goes through, drawn once, published are 50 to 80; 0 = the whole
            graph as one. By default the whole graph, if it has up to 500,000 values, else 64.
        n_seeds: genes that a part starts from.
        depth: how many times nodes are drawn for a part.
        width: how many of each type each time.
        n_components: describe cells and genes by so many components of the values, whatever the numbers of cells and
            genes; None = by the values themselves, as published, whose number is bound to the cells of training.
        decoding: when the decoders are trained: in the first `n_decoding` epochs, after which the encoders stay as
            they are (`"before"`), or in every other epoch (`"alternate"`). Published are both, with 2,000 epochs
            before.
        n_decoding: see there.
        self_edges: whether training has edges from each node to itself, as the original, in which they mean nothing
            and still take their share of the attention (with `unmatched_edges="zero_logit"` of the configuration).
        one_way_results: whether results come from a graph with edges from genes to cells alone, as in the original;
            else from the graph of training.
    """

    learnt: ClassVar[tuple[str, ...]] = ("genes", "peaks", "cells", "other", "positions")

    genes: list[str] = field(default_factory=list)
    peaks: list[str] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    other: str | None = None
    positions: dict[str, list] = field(default_factory=dict)
    layer: str | None = None
    n_top_genes: int = 2000
    least_share: float = 0.1
    half_distance: float = HALF_DISTANCE
    n_parts: int | None = None
    n_seeds: int = 64
    depth: int = 4
    width: int = 8
    n_components: int | None = None
    decoding: str = "before"
    n_decoding: int = 50
    self_edges: bool = False
    one_way_results: bool = False

    def __post_init__(self) -> None:
        if self.decoding not in ("alternate", "before"):
            raise ConfigurationError(f'`decoding` must be "alternate" or "before", got {self.decoding!r}.')
        for name, least in {"n_top_genes": 2, "n_parts": 0, "n_seeds": 1, "depth": 1, "width": 1}.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ConfigurationError(f"`{name}` must be {least} or more, got {getattr(self, name)}.")

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("rna", self.other) if self.other else ()

    @classmethod
    def fit(cls, cells: Any, *, gene_positions: Any = None, **settings: Any) -> Self:
        processor = cls(**settings)
        processor.other = _other(cells)
        read = processor._counts(cells)
        processor.cells = names_of(processor._rna(cells), TITLE)
        genes = processor._often(read[0])
        if processor.other == "protein":
            of_rna = highly_variable(genes, processor.n_top_genes)
            _check_unprefixed(of_rna)
            processor.genes = [*of_rna, *_prefixed(processor._often(read[1]))]
        elif processor.other == "atac":
            processor.peaks = read[1].genes
            processor.positions = read_gene_positions(gene_positions, genes.genes)
            placed = of_genes(genes, list(processor.positions), "model")
            processor.genes = highly_variable(placed, processor.n_top_genes)
            processor.positions = {name: processor.positions[name] for name in processor.genes}
        else:
            processor.genes = highly_variable(genes, processor.n_top_genes)
        return processor

    def check_learnt(self) -> None:
        if self.other not in (None, *OTHERS):
            raise ValueError(f"`other` must be one of {', '.join(map(repr, OTHERS))}, or null; got {self.other!r}.")
        is_protein = [name.startswith(PREFIX["protein"]) for name in self.genes]
        if self.other == "protein" and is_protein != sorted(is_protein):
            raise ValueError(f"`genes` must name proteins, with the prefix {PREFIX['protein']!r}, after all genes.")

    def config_settings(self) -> dict[str, Any]:
        return {
            "gene_input_size": self.n_components or len(self.cells),
            "cell_input_size": self.n_components or len(self.genes),
            "detaches_codes": self.decoding == "before",
        }

    def __call__(self, cells: Any, *, return_tensors: str | None = None) -> BatchFeature:
        """`cell_inputs`, `gene_inputs`, `edge_index` and `edge_type` of the whole graph.

        Raises:
            ConfigurationError: they are not the cells of training, or the modalities are others.
            GeneCoverageError: fewer than half of the genes are measured.
            ExpressionError: the values are no counts, or a cell has none of the genes.
        """
        values = self.values(cells)
        relations = (GENE_TO_CELL,) if self.one_way_results else (GENE_TO_CELL, CELL_TO_GENE)
        edge_index, edge_type = graph_of(values, relations)
        genes, own = inputs_of(values, self.n_components)
        batch = {"cell_inputs": own, "gene_inputs": genes, "edge_index": edge_index, "edge_type": edge_type}
        return BatchFeature(batch, tensor_type=return_tensors)

    def values(self, cells: Any) -> sparse.csr_matrix:
        """(genes, cells) float32, in the order of training."""
        order = rows_of(self.cells, names_of(self._rna(cells), TITLE), TITLE)
        read = self._counts(cells)
        if self.other == "protein":
            values = _centred(self._joined(*read))
        elif self.other == "atac":
            values = self._activity(*read).log_normalized(1e4)
        else:
            values = of_genes(read[0], self.genes, "model").log_normalized(1e4)
        values = values[order]
        empty = np.flatnonzero(np.diff(values.indptr) == 0)
        if len(empty):
            raise ExpressionError(
                f"{len(empty):,} of {values.shape[0]:,} cells have none of the {values.shape[1]:,} genes that the "
                f"model reads, for example {self.cells[empty[0]]}, and would be joined to nothing: leave them out."
            )
        return sparse.csr_matrix(values.T)

    def examples(self, cells: Any, seed: int) -> Examples:
        values = self.values(cells)
        relations = (GENE_TO_CELL, CELL_TO_GENE, *((SELF,) if self.self_edges else ()))
        gene_inputs, cell_inputs = inputs_of(values, self.n_components)
        parts = self._parts(values, seed)

        def make(rows: np.ndarray, epoch: int) -> dict[str, Any]:
            if len(rows) != 1:
                raise ConfigurationError(
                    "A step of DeepMAPS takes one graph: leave `per_device_train_batch_size` at 1."
                )
            genes, own = parts[rows[0]]
            part = values[genes][:, own]
            edge_index, edge_type = graph_of(part, relations)
            return {
                "cell_inputs": cell_inputs[own],
                "gene_inputs": gene_inputs[genes],
                "edge_index": edge_index,
                "edge_type": edge_type,
                "labels": part.toarray(),
                "decode": np.bool_(self._decodes(epoch)),
            }

        return Examples(len(parts), make)

    def results(self, verb: str, model: Any, cells: Any, *, key_added: str | None = None, **settings: Any) -> Any:
        if verb == "grn":
            return self._network(model, cells, settings["regulators"], settings["targets"])
        if verb == "embed" and self.other is not None:
            raise ConfigurationError(
                f"This DeepMAPS was trained on {' and '.join(self.modalities)}, and `embed` reads RNA alone: use "
                f"`multimodal` (`sclm_hf.multimodal(rna, {self.other}, model)`, or `sclm-hf multimodal RNA "
                f"{self.other.upper()} OUTPUT --model DIR`), which gives cells their joint embedding."
            )
        embedding = self._run(model, cells).cell_embedding.float().cpu().numpy()
        given = names_of(self._rna(cells), TITLE)
        place = {name: row for row, name in enumerate(self.cells)}
        embedding = embedding[[place[name] for name in given]]
        key = f"{key_added}_joint" if verb == "multimodal" else key_added or "X_deepmaps"
        return {"obsm": {key: embedding}}

    def _network(self, model: Any, cells: Any, regulators: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        """(regulators, targets) float32, how alike two genes are embedded: absolute correlations.

        NaN where the model does not read a gene.
        """
        if self.other is not None:
            raise ConfigurationError(
                f"This DeepMAPS was trained on {' and '.join(self.modalities)}, and `grn` reads RNA alone: train one "
                "on RNA, or ask this one in Python (`processor.gene_embedding`, `processor.active_genes`)."
            )
        table = self.gene_embedding(model, cells)
        table = table.sub(table.mean(axis=1), axis=0)
        table = table.div(np.maximum(np.linalg.norm(table, axis=1), 1e-12), axis=0)
        one, other = (table.reindex(list(names)).to_numpy(np.float64) for names in (regulators, targets))
        return np.abs(one @ other.T).astype(np.float32)

    def gene_embedding(self, model: Any, cells: Any) -> Any:
        """The embeddings of the genes and proteins, a DataFrame with their names as the index."""
        pandas = require("pandas", extra="anndata")
        return pandas.DataFrame(self._run(model, cells).gene_embedding.float().cpu().numpy(), index=self.genes)

    def active_genes(
        self, model: Any, cells: Any, label_key: str, *, attention_layer: int = -1, n_deviations: float = 1.6
    ) -> Any:
        """The genes that the cells of a type attend to above others.

        The logits of attention of each head are scaled to 0 to 1, all heads together; the score of a gene in a cell is
        their norm over heads, that of a type the mean over its cells that have the gene.

        Args:
            model: the model.
            cells: the cells of training.
            label_key: the column of `obs` with types or clusters.
            attention_layer: whose attention; the original takes the last layer (-1), or, where inputs are codes that
                were made before, the first (0).
            n_deviations: how many standard deviations above the mean of its type a score must be.

        Returns:
            A DataFrame with `condition`, `gene`, `score` and `n_cells`, of the type that have the gene; strongest
            first.

        Raises:
            ConfigurationError: there is no such column.
        """
        pandas = require("pandas", extra="anndata")
        rna = self._rna(cells)
        if label_key not in rna.obs:
            raise ConfigurationError(
                f"`obs` has no column {label_key!r}: the types must be one of {', '.join(map(str, rna.obs.columns))}."
            )
        labels = dict(zip(names_of(rna, TITLE), rna.obs[label_key].astype(str), strict=True))
        types, codes = np.unique([labels[name] for name in self.cells], return_inverse=True)
        output, batch = self._run(model, cells, also_batch=True)
        chosen = batch["edge_type"] == GENE_TO_CELL
        logits = output.attentions[attention_layer].float().cpu().numpy()[chosen]
        strength = np.linalg.norm((logits - logits.min()) / max(np.ptp(logits), 1e-12), axis=1)
        genes, own = batch["edge_index"][0, chosen], batch["edge_index"][1, chosen] - len(self.genes)
        table = pandas.DataFrame({"condition": types[codes[own]], "gene": genes, "score": strength})
        scores = table.groupby(["condition", "gene"], observed=True)["score"].agg(["mean", "size"]).reset_index()
        scores.columns = ["condition", "gene", "score", "n_cells"]
        by_type = scores.groupby("condition")["score"]
        least = by_type.transform("mean") + n_deviations * by_type.transform("std").fillna(0)
        active = scores[scores["score"] > least].sort_values(["condition", "score"], ascending=[True, False])
        active["gene"] = [self.genes[number] for number in active["gene"]]
        return active.reset_index(drop=True)

    @torch.no_grad()
    def _run(self, model: Any, cells: Any, *, also_batch: bool = False) -> Any:
        batch = self(cells)
        output = model(**{name: torch.as_tensor(values).to(model.device) for name, values in batch.items()})
        return (output, batch) if also_batch else output

    def _parts(self, values: sparse.csr_matrix, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Numbers of the genes and of the cells of each part."""
        n_parts = self.n_parts
        if n_parts is None:
            n_parts = 0 if values.nnz <= MOST_AT_ONCE else N_PARTS
        if not n_parts:
            return [tuple(np.arange(size) for size in values.shape)]
        sampler = BudgetSampler(values, self.depth, self.width)
        draws = [np.random.default_rng([seed, part]) for part in range(n_parts)]
        return [sampler.draw(self.n_seeds, rng) for rng in draws]

    def _decodes(self, epoch: int) -> bool:
        return epoch < self.n_decoding if self.decoding == "before" else epoch % 2 == 1

    def _rna(self, cells: Any) -> Any:
        return cells if self.other is None else modality_of(cells, "rna", self.modalities, TITLE)

    def _counts(self, cells: Any) -> tuple[Counts, ...]:
        if self.other is None:
            if isinstance(getattr(cells, "mod", cells), Mapping):
                raise ConfigurationError("This DeepMAPS was trained on RNA alone: give the AnnData of RNA.")
            return (read_counts(cells, self.layer),)
        rna, other = paired(cells, self.modalities, TITLE)
        return read_counts(rna, self.layer, what="RNA"), read_counts(other, self.layer, what=self.other)

    def _often(self, counts: Counts) -> Counts:
        """The genes that enough cells have."""
        share = np.asarray((counts.matrix > 0).mean(axis=0)).ravel()
        kept = np.flatnonzero(share >= self.least_share)
        if len(kept) < 2:
            raise ConfigurationError(
                f"{len(kept)} of {len(share):,} genes are seen in {self.least_share:.0%} of the cells: give a lower "
                "`least_share`."
            )
        return Counts(counts.matrix[:, kept], [counts.genes[number] for number in kept], counts.totals)

    def _joined(self, rna: Counts, proteins: Counts) -> sparse.csr_matrix:
        """(cells, genes and proteins) counts."""
        prefix = PREFIX["protein"]
        of_rna = [name for name in self.genes if not name.startswith(prefix)]
        of_proteins = [name.removeprefix(prefix) for name in self.genes if name.startswith(prefix)]
        parts = of_genes(rna, of_rna, "model").matrix, of_genes(proteins, of_proteins, "model").matrix
        return sparse.csr_matrix(sparse.hstack(parts))

    def _activity(self, rna: Counts, atac: Counts) -> Counts:
        """Counts of genes, and those of the open peaks near them."""
        genes, peaks = of_genes(rna, self.genes, "model"), of_genes(atac, self.peaks, "model")
        potential = regulatory_potential(self.genes, self.positions, self.peaks, self.half_distance)
        activity = genes.matrix + (peaks.matrix > 0).astype(np.float32) @ potential.T
        return Counts(sparse.csr_matrix(activity), self.genes, np.asarray(activity.sum(axis=1)).ravel())


def graph_of(values: sparse.csr_matrix, relations: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Edges (2, edges) int64 between genes, and after them cells, that have a value; and the relation of each.

    Args:
        values: (genes, cells).
        relations: which relations the graph has, in order.
    """
    genes, cells = values.nonzero()
    cells = cells + values.shape[0]
    nodes = np.arange(sum(values.shape))
    made: dict[int, Callable[[], np.ndarray]] = {
        GENE_TO_CELL: lambda: np.stack([genes, cells]),
        CELL_TO_GENE: lambda: np.stack([cells, genes]),
        SELF: lambda: np.stack([nodes, nodes]),
    }
    edges = [made[relation]() for relation in relations]
    types = [np.full(one.shape[1], relation) for relation, one in zip(relations, edges, strict=True)]
    return np.concatenate(edges, axis=1).astype(np.int64), np.concatenate(types).astype(np.int64)


def _centred(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """log(1 + counts divided by the exponential of the cell's mean log(1 + count)), as Seurat does; zeros stay."""
    means = np.asarray(counts.log1p().mean(axis=1)).ravel()
    return sparse.csr_matrix((sparse.diags_array(np.exp(-means)) @ counts).log1p(), dtype=np.float32)


def _other(cells: Any) -> str | None:
    """The modality beside RNA.

    Raises:
        ConfigurationError: there is none that DeepMAPS reads, or there are several.
    """
    given = getattr(cells, "mod", cells)
    if not isinstance(given, Mapping):
        return None
    names = {"prot": "protein"}
    found = [names.get(name, name) for name in given if name != "rna"]
    if len(found) != 1 or found[0] not in OTHERS or "rna" not in given:
        raise ConfigurationError(
            "DeepMAPS reads RNA alone, an AnnData; or 'rna' and one of 'protein' and 'atac' of the same cells; got "
            f"{', '.join(map(repr, given)) or 'nothing'}."
        )
    return found[0]


def _check_unprefixed(genes: Sequence[str]) -> None:
    """Refuse genes that would be taken for proteins."""
    prefix = PREFIX["protein"]
    if alike := [name for name in genes if name.startswith(prefix)]:
        raise ConfigurationError(
            f"The gene {alike[0]!r} is named like a protein, which DeepMAPS tells by the prefix {prefix!r}: rename it "
            f"(`rna.var_names = rna.var_names.str.replace('^{prefix}', '', regex=True)`), or leave it out."
        )


def _prefixed(proteins: Counts) -> list[str]:
    return [PREFIX["protein"] + name for name in proteins.genes]
