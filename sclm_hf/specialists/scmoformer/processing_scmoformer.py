"""What scMoFormer reads: a graph of cells, genes and proteins."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy import sparse
from transformers import BatchFeature

from sclm_hf.errors import ConfigurationError, require
from sclm_hf.logging import warn

from ..cells import Counts, highly_variable, of_genes, read_counts
from ..pairing import centred_log_ratios, modality_of
from ..processing import Examples, SpecialistProcessor
from .edges_scmoformer import edge_arrays, random_walk_positions, read_edges

UNLABELLED = -100.0
FEWEST_TOGETHER = 50
SVD_SEED = 10
"""As published."""


@dataclass
class ScMoFormerProcessor(SpecialistProcessor):
    """The graph of some cells with all genes and proteins of the model.

    Cells are joined with the genes that they express, genes and proteins with those of tables that `fit` is given (the
    original takes protein interactions of STRING, which the package does not hold), and genes with the proteins that
    they code for. Cells that are given together are one graph, in which they also attend to one another, so that what
    is predicted for a cell depends on the others, and by much where they are few or of other kinds: give together
    those of a sample, and compare no predictions that were made in other company.

    Components of expression are those of the cells of training, and cells that come later are projected on them; so
    the model answers for cells that it has not seen. As published, cells without proteins may take part in training:
    give RNA of more cells than proteins.

    Attributes:
        genes: names of the genes, in the order of the model.
        proteins: names of the proteins, in the order of the model.
        components: (genes, n_components) float32 components of expression, as base64.
        scales: (n_components,) their singular values over the cells of training.
        typical: typical size of the features of cells, and of genes.
        gene_edges: source, target and weight of each edge between genes.
        protein_edges: the same between proteins.
        coding: gene and protein of each pair in which the first codes for the second.
        layer: the layer with the counts of RNA; None = as everywhere: `layers["counts"]`, `raw`, `X`.
        n_top_genes: how many of the most variable genes a new model reads; None = all, as published.
        target_sum: counts per cell before the logarithm.
        n_components: how many components.
        n_positions: how many numbers tell where a gene or a protein is in its graph.
        scale_features: whether features of cells and of genes are divided by their typical size; as published they are
            not, and those of genes are in the thousands.
        cells_per_graph: most cells that are trained on together, in graphs that are drawn once.
    """

    modalities: ClassVar[tuple[str, ...]] = ("rna", "protein")
    learnt: ClassVar[tuple[str, ...]] = (
        "genes",
        "proteins",
        "components",
        "scales",
        "typical",
        "gene_edges",
        "protein_edges",
        "coding",
    )

    genes: list[str] = field(default_factory=list)
    proteins: list[str] = field(default_factory=list)
    components: str = ""
    scales: list[float] = field(default_factory=list)
    typical: list[float] = field(default_factory=lambda: [1.0, 1.0])
    gene_edges: list[list[float]] = field(default_factory=list)
    protein_edges: list[list[float]] = field(default_factory=list)
    coding: list[list[int]] = field(default_factory=list)
    layer: str | None = None
    n_top_genes: int | None = 2000
    target_sum: float = 1e4
    n_components: int = 128
    n_positions: int = 10
    scale_features: bool = True
    cells_per_graph: int = 3000

    def __post_init__(self) -> None:
        for name in ("n_components", "n_positions", "cells_per_graph"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"`{name}` must be 1 or more, got {getattr(self, name)}.")

    @classmethod
    def fit(
        cls,
        cells: Any,
        *,
        gene_table: Any = None,
        protein_table: Any = None,
        protein_genes: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Self:
        """The processor of a new model for these cells.

        Args:
            cells: RNA and proteins; cells of the first that have no proteins are in the graph only.
            gene_table: edges between genes, a table or a `.csv` or `.tsv` file with the columns `source`, `target`
                and, where they weigh, `weight`; None = none.
            protein_table: the same between proteins.
            protein_genes: protein -> the gene that codes for it; those that are not named, the gene of the same name.
            **settings: the fields.
        """
        processor = cls(**settings)
        rna, protein = processor._pair(cells)
        counts = read_counts(rna, processor.layer, what="RNA")
        processor.genes = highly_variable(counts, processor.n_top_genes or len(counts.genes), processor.target_sum)
        processor.proteins = list(map(str, protein.var_names))
        if len(processor.proteins) < 2:
            raise ConfigurationError("There are fewer than 2 proteins: each is normalised over all of its cell.")
        processor._learn_components(counts)
        processor.gene_edges = read_edges(gene_table, processor.genes, "gene_table")
        processor.protein_edges = read_edges(protein_table, processor.proteins, "protein_table")
        processor.coding = processor._coding({} if protein_genes is None else protein_genes)
        return processor

    def check_learnt(self) -> None:
        if len(base64.b64decode(self.components)) != 4 * len(self.genes) * len(self.scales):
            raise ValueError("`components` must be a float32 number for each of `genes` and of `scales`.")
        if not np.isfinite(self._loadings()).all() or len(self.typical) != 2 or min(self.typical) <= 0:
            raise ValueError("`components` must be finite, and `typical` two numbers above 0.")
        for name, most in (("gene_edges", len(self.genes)), ("protein_edges", len(self.proteins))):
            for edge in getattr(self, name):
                if len(edge) != 3 or not all(0 <= end < most and end == int(end) for end in edge[:2]):
                    raise ValueError(f"`{name}` must be source, target and weight, the first two below {most:,}.")
        for pair in self.coding:
            if len(pair) != 2 or not 0 <= pair[0] < len(self.genes) or not 0 <= pair[1] < len(self.proteins):
                raise ValueError("`coding` must be numbers of a gene and a protein.")

    def config_settings(self) -> dict[str, Any]:
        return {
            "num_genes": len(self.genes),
            "num_proteins": len(self.proteins),
            "feature_size": len(self.scales),
            "position_size": self.n_positions,
        }

    def __call__(self, cells: Any, *, return_tensors: str | None = None) -> BatchFeature:
        """The graph of cells, an AnnData of RNA or modality -> AnnData: the arguments of the model by name.

        Raises:
            GeneCoverageError: fewer than half of the genes are measured.
            ExpressionError: the values are no counts.
        """
        rna = modality_of(cells, "rna", self.modalities, "scMoFormer") if _is_mapping(cells) else cells
        batch = self._cells(self._expression(read_counts(rna, self.layer, what="RNA"))) | self._rest()
        return BatchFeature(batch, tensor_type=return_tensors)

    def examples(self, cells: Any, seed: int) -> Examples:
        rna, protein = self._pair(cells)
        expression = self._expression(read_counts(rna, self.layer, what="RNA"))
        labels = np.full((rna.n_obs, len(self.proteins)), UNLABELLED, np.float32)
        place = rna.obs_names.get_indexer(protein.obs_names)
        counts = of_genes(read_counts(protein, what="proteins"), self.proteins, "model", "proteins")
        labels[place] = centred_log_ratios(counts.matrix.toarray())
        n_graphs = -(-rna.n_obs // self.cells_per_graph)
        graphs = np.array_split(np.random.default_rng(seed).permutation(rna.n_obs), n_graphs)
        rest = self._rest()

        def make(numbers: np.ndarray, epoch: int) -> dict[str, Any]:
            rows = np.concatenate([graphs[number] for number in numbers])
            return self._cells(expression[rows]) | rest | {"labels": labels[rows]}

        return Examples(n_graphs, make)

    def results(self, verb: str, model: Any, cells: Any, *, key_added: str | None = None) -> dict[str, dict[str, Any]]:
        batch = self(cells, return_tensors="pt")
        if (n_cells := len(batch["expression"])) < FEWEST_TOGETHER:
            warn(
                f"scMoFormer reads cells together, and what it says of one depends much on the others where they are "
                f"few, as these {n_cells:,} are: give {FEWEST_TOGETHER} or more, as all cells of a sample."
            )
        with torch.no_grad():
            output = model(**batch.to(model.device))
        last = output.cell_embedding[:, -model.config.hidden_size :].float().cpu().numpy()
        if verb == "embed":
            return {"obsm": {key_added or "X_scmoformer": last}}
        return {
            "obsm": {f"{key_added}_predicted": output.logits.float().cpu().numpy(), f"{key_added}_joint": last},
            "facts": {
                "features": np.array(self.proteins, object),
                "n_edges": {
                    "genes": len(self.gene_edges),
                    "proteins": len(self.protein_edges),
                    "genes with proteins": len(self.coding),
                },
            },
        }

    def _pair(self, cells: Any) -> tuple[Any, Any]:
        """RNA, and the proteins of some of its cells."""
        rna, protein = (modality_of(cells, name, self.modalities, "scMoFormer") for name in self.modalities)
        lost = protein.obs_names.difference(rna.obs_names)
        if len(lost) or not protein.n_obs:
            raise ConfigurationError(
                f"{len(lost):,} of {protein.n_obs:,} cells with proteins have no RNA, such as "
                f"{lost[0] if len(lost) else '(there are none)'!r}: give the same cell the same name in both, and "
                "keep those that RNA has."
            )
        return rna, protein

    def _expression(self, counts: Counts) -> sparse.csr_matrix:
        return of_genes(counts, self.genes, "model").log_normalized(self.target_sum)

    def _learn_components(self, counts: Counts) -> None:
        decomposition = require("sklearn.decomposition", extra="evaluation")
        expression = self._expression(counts)
        n_components = min(self.n_components, *(size - 1 for size in expression.shape))
        if n_components < 1:
            raise ConfigurationError(f"{expression.shape[0]} cells and {expression.shape[1]} genes are too few.")
        svd = decomposition.TruncatedSVD(n_components, random_state=SVD_SEED)
        projected = svd.fit_transform(expression)
        self.components = base64.b64encode(svd.components_.T.astype("<f4").tobytes()).decode()
        self.scales = [float(one) for one in svd.singular_values_]
        if self.scale_features:
            sizes = [np.sqrt(np.square(one).mean()) for one in (projected, self._gene_features())]
            self.typical = [float(size) for size in sizes]

    def _loadings(self) -> np.ndarray:
        """(genes, n_components) components of expression."""
        return np.frombuffer(base64.b64decode(self.components), "<f4").reshape(len(self.genes), -1)

    def _gene_features(self) -> np.ndarray:
        """(genes, n_components) the features of the cells of training, summed with expression as weight."""
        return self._loadings() * np.square(np.array(self.scales, np.float32)) / np.float32(self.typical[1])

    def _cells(self, expression: sparse.csr_matrix) -> dict[str, np.ndarray]:
        """What the model reads of cells."""
        features = np.asarray(expression @ self._loadings(), np.float32) / np.float32(self.typical[0])
        return {"expression": expression.toarray(), "cell_features": features}

    def _rest(self) -> dict[str, np.ndarray]:
        """What the model reads of genes and proteins."""
        (gene_edges, gene_weights), (protein_edges, protein_weights) = map(
            edge_arrays, (self.gene_edges, self.protein_edges)
        )
        coding = np.zeros((len(self.genes), len(self.proteins)), np.float32)
        for gene, protein in self.coding:
            coding[gene, protein] = 1
        return {
            "gene_features": self._gene_features(),
            "gene_positions": random_walk_positions(gene_edges, gene_weights, len(self.genes), self.n_positions),
            "protein_positions": random_walk_positions(
                protein_edges, protein_weights, len(self.proteins), self.n_positions
            ),
            "gene_edges": gene_edges,
            "gene_weights": gene_weights,
            "protein_edges": protein_edges,
            "protein_weights": protein_weights,
            "gene_protein": coding,
        }

    def _coding(self, protein_genes: Mapping[str, str]) -> list[list[int]]:
        if not isinstance(protein_genes, Mapping):
            raise ConfigurationError(
                '`protein_genes` must be a mapping of protein -> gene, as text `--set \'protein_genes={"CD3": '
                f'"CD3E"}}\'`; got {protein_genes!r}.'
            )
        if unknown := sorted(set(protein_genes) - set(self.proteins)):
            raise ConfigurationError(f"`protein_genes` names {unknown[0]!r}, which is none of the proteins.")
        place = {name: number for number, name in enumerate(self.genes)}
        genes = [protein_genes.get(name, name) for name in self.proteins]
        return [[place[gene], number] for number, gene in enumerate(genes) if gene in place]


def _is_mapping(cells: Any) -> bool:
    return isinstance(cells, Mapping) or hasattr(cells, "mod")
