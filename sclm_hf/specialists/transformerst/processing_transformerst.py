"""What TransformerST reads: expression of spots, and graphs of those that are near."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from transformers import BatchFeature

from sclm_hf.errors import ConfigurationError, require

from ..cells import highly_variable, of_genes, read_counts
from ..processing import Examples, SpecialistProcessor
from .neighbours_transformerst import (
    edges_between,
    interpolate,
    nearest_spots,
    read_coordinates,
    read_numbers,
    with_colours,
)

PRUNING = ("intended", "none")
N_COMPONENTS = 50
N_ALIKE = 10
"""Neighbours in expression, among which the first labels are found."""


@dataclass
class TransformerSTProcessor(SpecialistProcessor):
    """Log-normalised expression, (spots, genes), and two graphs of spots, (2, edges) each.

    Both graphs join the nearest spots of a slice. With pruning, the first one loses edges that are long for their
    spot, and the second one also those between spots of different first labels (Leiden on expression alone). In the
    published code nothing is lost, and both are the same.

    Attributes:
        genes: names of the genes, in the order of the model.
        n_top_genes: how many genes a new model reads, at most; chosen as scanpy does by default, where the original
            takes the flavour "seurat_v3".
        target_sum: counts per spot before the logarithm.
        layer: the layer with the counts; None = as everywhere: `layers["counts"]`, `raw`, `X`.
        spatial_key: name in `obsm` of the coordinates.
        sample_key: column of `obs` that tells slices apart; None = all spots are of one.
        histology_key: name in `obsm` of colours, (spots, channels), the mean of the image around each spot; None = no
            image.
        n_neighbours: nearest spots that each is joined with.
        pruning: "intended" or "none", see above.
        leiden_resolution: of the first labels.
        cluster_from_epoch: epoch from which the clusters of the model are trained too, the second stage; None = never.
    """

    learnt: ClassVar[tuple[str, ...]] = ("genes",)

    genes: list[str] = field(default_factory=list)
    n_top_genes: int = 3000
    target_sum: float = 1e4
    layer: str | None = None
    spatial_key: str = "spatial"
    sample_key: str | None = None
    histology_key: str | None = None
    n_neighbours: int = 20
    pruning: str = "intended"
    leiden_resolution: float = 0.6
    cluster_from_epoch: int | None = None

    def __post_init__(self) -> None:
        if self.pruning not in PRUNING:
            raise ConfigurationError(f"`pruning` must be one of {', '.join(PRUNING)}, got {self.pruning!r}.")
        if self.n_neighbours < 1:
            raise ConfigurationError(f"`n_neighbours` must be at least 1, got {self.n_neighbours}.")
        if self.leiden_resolution <= 0:
            raise ConfigurationError(f"`leiden_resolution` must be above 0, got {self.leiden_resolution}.")

    @classmethod
    def fit(cls, cells: Any, **settings: Any) -> Self:
        processor = cls(**settings)
        counts = read_counts(cells, processor.layer, what="the spots")
        processor._neighbours(cells)
        processor.genes = highly_variable(counts, processor.n_top_genes, processor.target_sum)
        return processor

    def check_epochs(self, n_epochs: float) -> None:
        first = self.cluster_from_epoch
        if first is not None and not 0 <= first < n_epochs:
            raise ConfigurationError(
                f"`cluster_from_epoch` must be from 0 to below the number of epochs, {n_epochs:g}, or no clusters are "
                f"trained; got {first}: lower it, or train for longer (`num_train_epochs`, `--epochs`)."
            )

    def config_settings(self) -> dict[str, Any]:
        return {"num_genes": len(self.genes)}

    def __call__(
        self,
        cells: Any,
        *,
        sample_key: str | None = None,
        spatial_key: str | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """`expression_values`, (spots, genes) float32; `spatial_edges` and `pruned_edges`, (2, edges) int64.

        Args:
            cells: the spots.
            sample_key, spatial_key: those of these spots, where they are called otherwise than in training; the first
                is empty where all spots are of one slice.
            return_tensors: `"pt"` for torch.

        Raises:
            ConfigurationError: spots have no coordinates, or a slice has too few spots.
            GeneCoverageError: fewer than half of the genes are measured.
            ExpressionError: the values are no counts.
        """
        numbers, distances = self._neighbours(cells, sample_key, spatial_key)
        values = self.expression(cells)
        near = same = np.ones_like(numbers, bool)
        if self.pruning == "intended":
            near = distances <= distances.mean(axis=1, keepdims=True) + distances.std(axis=1, keepdims=True)
            labels = first_labels(values, self.leiden_resolution)
            same = labels[numbers] == labels[:, None]
        batch = {
            "expression_values": values,
            "spatial_edges": edges_between(numbers, near),
            "pruned_edges": edges_between(numbers, near & same),
        }
        return BatchFeature(batch, tensor_type=return_tensors)

    def expression(self, cells: Any) -> np.ndarray:
        """(spots, genes) float32 log-normalised expression of the model's genes."""
        counts = of_genes(read_counts(cells, self.layer, what="the spots"), self.genes, "model")
        return counts.log_normalized(self.target_sum).toarray()

    def between_spots(self, cells: Any, points: np.ndarray) -> np.ndarray:
        """(points, genes) log-normalised expression at points of the tissue, from the five nearest spots.

        This is the published super-resolution, which uses no trained weight.

        Args:
            cells: spots of one slice.
            points: (points, dimensions) in the units of the coordinates.
        """
        coordinates = read_coordinates(cells, self.spatial_key)
        points = np.asarray(points, np.float64)
        if points.ndim != 2 or points.shape[1] != coordinates.shape[1]:
            raise ConfigurationError(f"`points` must be (points, {coordinates.shape[1]}), got {points.shape}.")
        return interpolate(self.expression(cells), coordinates, points).astype(np.float32)

    def examples(self, cells: Any, seed: int) -> Examples:
        batch = dict(self(cells))
        if self.cluster_from_epoch is None:
            return Examples.whole(batch)

        def make(rows: np.ndarray, epoch: int) -> dict[str, Any]:
            step = epoch - self.cluster_from_epoch
            return batch if step < 0 else batch | {"cluster_step": np.int64(step)}

        return Examples(1, make)

    def results(
        self,
        verb: str,
        model: Any,
        cells: Any,
        *,
        key_added: str | None = None,
        sample_key: str | None = None,
        spatial_key: str | None = None,
        **settings: Any,
    ) -> dict[str, dict[str, Any]]:
        batch = self(cells, sample_key=sample_key, spatial_key=spatial_key, return_tensors="pt").to(model.device)
        with torch.no_grad():
            output = model(**batch)
        key = key_added or "transformerst"
        embedding = output.cell_embedding.float().cpu().numpy()
        found = {"obsm": {key if verb == "embed" and key_added else f"X_{key}": embedding}}
        if self.cluster_from_epoch is not None:
            pandas = require("pandas", extra="anndata")
            clusters = output.clusters.argmax(dim=1).cpu().numpy()
            names = [str(number) for number in range(model.config.num_clusters)]
            found["obs"] = {f"{key}_cluster": pandas.Categorical.from_codes(clusters, categories=names)}
        return found

    def _neighbours(
        self, cells: Any, sample_key: str | None = None, spatial_key: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest spots of each, and their distances."""
        coordinates = read_coordinates(cells, spatial_key or self.spatial_key)
        if self.histology_key is not None:
            if self.histology_key not in cells.obsm:
                raise ConfigurationError(
                    f"`obsm` has no {self.histology_key!r} (`histology_key`): no colours of spots."
                )
            coordinates = with_colours(coordinates, read_numbers(cells, self.histology_key))
        slices = self._slices(cells, self.sample_key if sample_key is None else sample_key)
        return nearest_spots(coordinates, slices, self.n_neighbours)

    def _slices(self, cells: Any, key: str | None) -> np.ndarray:
        if not key:
            return np.full(cells.n_obs, "")
        if key not in cells.obs:
            raise ConfigurationError(
                f"`obs` has no column {key!r} (`sample_key`) that tells slices apart: where all spots are of one, "
                f"add it (`adata.obs[{key!r}] = 'one'`), or tell `spatial` so (`sample_key=None`, `--sample-key ''`)."
            )
        if cells.obs[key].isna().any():
            raise ConfigurationError(f"{int(cells.obs[key].isna().sum()):,} spots are of no slice in `obs[{key!r}]`.")
        return cells.obs[key].astype(str).to_numpy()


def first_labels(values: np.ndarray, resolution: float) -> np.ndarray:
    """(spots,) Leiden clusters of expression alone, before anything is trained.

    Args:
        values: (spots, genes) log-normalised expression.
        resolution: of Leiden.

    Raises:
        MissingDependencyError: scanpy or igraph is not installed.
    """
    scanpy, anndata = require("scanpy", extra="evaluation"), require("anndata", extra="anndata")
    require("igraph", extra="evaluation")
    cells = anndata.AnnData(values)
    scanpy.pp.pca(cells, n_comps=min(N_COMPONENTS, *(size - 1 for size in values.shape)), random_state=0)
    scanpy.pp.neighbors(cells, n_neighbors=min(N_ALIKE, len(values) - 1), random_state=0)
    scanpy.tl.leiden(cells, resolution, random_state=0, flavor="igraph", n_iterations=2, directed=False)
    return cells.obs["leiden"].astype(int).to_numpy()
