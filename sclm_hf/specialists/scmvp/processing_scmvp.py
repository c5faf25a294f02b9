"""What scMVP reads: counts of RNA, and open peaks of the same cells."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy import sparse
from transformers import BatchFeature

from sclm_hf.errors import ConfigurationError, ExpressionError, require

from ..cells import Counts, highly_variable, of_genes, read_counts
from ..pairing import paired
from ..processing import Examples, SpecialistProcessor

CELLS_AT_ONCE = 64


@dataclass
class ScMVPProcessor(SpecialistProcessor):
    """Counts of RNA, (cells, genes), and open peaks as 1, (cells, peaks), of the same cells.

    The original takes all genes; peaks that are open in too few or too many cells say little.

    Attributes:
        genes: names of the genes, in the order of the model.
        peaks: names of the peaks, in the order of the model.
        layer: the layer with the counts of both; None = as everywhere: `layers["counts"]`, `raw`, `X`.
        n_top_genes: how many of the most variable genes a new model reads; None = all that a cell has.
        least_open: least share of cells that a peak is open in.
        most_open: largest share of cells that a peak is open in.
        warmup_epochs: epochs in which the latent is drawn to the mixture more and more; 0 = at once, as the published
            code does, whose warm-up has no effect.
    """

    modalities: ClassVar[tuple[str, ...]] = ("rna", "atac")
    learnt: ClassVar[tuple[str, ...]] = ("genes", "peaks")

    genes: list[str] = field(default_factory=list)
    peaks: list[str] = field(default_factory=list)
    layer: str | None = None
    n_top_genes: int | None = None
    least_open: float = 0.001
    most_open: float = 0.1
    warmup_epochs: int = 10

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0:
            raise ConfigurationError(f"`warmup_epochs` must be 0 or more, got {self.warmup_epochs}.")

    @classmethod
    def fit(cls, cells: Any, **settings: Any) -> Self:
        processor = cls(**settings)
        rna, atac = processor._counts(cells)
        processor.genes = highly_variable(rna, processor.n_top_genes or len(rna.genes))
        share = np.asarray((atac.matrix > 0).mean(axis=0)).ravel()
        kept = (share >= processor.least_open) & (share <= processor.most_open) & (share > 0)
        if kept.sum() < 2:
            raise ConfigurationError(
                f"{int(kept.sum())} peaks are open in {processor.least_open:.1%} to {processor.most_open:.1%} of the "
                "cells: set `least_open` and `most_open` to shares between which there are some."
            )
        processor.peaks = [name for name, one in zip(atac.genes, kept, strict=True) if one]
        return processor

    def config_settings(self) -> dict[str, Any]:
        return {"num_genes": len(self.genes), "num_peaks": len(self.peaks)}

    def __call__(self, cells: Any, *, return_tensors: str | None = None) -> BatchFeature:
        """`rna`, (cells, genes), and `atac`, (cells, peaks), both float32.

        Raises:
            ConfigurationError: a modality is missing, or has other cells.
            GeneCoverageError: fewer than half of the genes or of the peaks are measured.
            ExpressionError: the values are no counts, or a cell has none of the model's genes or peaks.
        """
        rna, atac = self._read(cells)
        return BatchFeature({"rna": rna.toarray(), "atac": atac.toarray()}, tensor_type=return_tensors)

    def examples(self, cells: Any, seed: int) -> Examples:
        rna, atac = self._read(cells)

        def make(rows: np.ndarray, epoch: int) -> dict[str, Any]:
            weight = min(1.0, (epoch + 1) / self.warmup_epochs) if self.warmup_epochs else 1.0
            return {"rna": rna[rows].toarray(), "atac": atac[rows].toarray(), "kl_weight": np.float32(weight)}

        return Examples(rna.shape[0], make)

    def results(self, verb: str, model: Any, cells: Any, *, key_added: str) -> dict[str, dict[str, Any]]:
        outputs = list(self._run(model, cells))
        joint, components, rna, atac = (
            np.concatenate([output[name].float().cpu().numpy() for output in outputs])
            for name in ("cell_embedding", "components", "rna_mean", "atac_mean")
        )
        pandas = require("pandas", extra="anndata")
        names = [str(number) for number in range(components.shape[1])]
        most_likely = pandas.Categorical.from_codes(components.argmax(axis=1), categories=names)
        return {
            "obs": {f"{key_added}_component": most_likely},
            "obsm": {
                f"{key_added}_joint": joint,
                f"{key_added}_predicted": atac,
                f"{key_added}_rna": rna,
                f"{key_added}_components": components,
            },
            "facts": {"features": np.array(self.peaks, object), "genes": np.array(self.genes, object)},
        }

    @torch.no_grad()
    def _run(self, model: Any, cells: Any) -> Iterator[Any]:
        """The outputs of the model, a few cells at a time."""
        rna, atac = self._read(cells)
        for start in range(0, rna.shape[0], CELLS_AT_ONCE):
            rows = slice(start, start + CELLS_AT_ONCE)
            batch = [torch.from_numpy(one[rows].toarray()).to(model.device) for one in (rna, atac)]
            yield model(*batch)

    def _read(self, cells: Any) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """The counts of the model's genes, and its open peaks as 1."""
        rna, atac = self._counts(cells)
        found = of_genes(rna, self.genes, "model"), of_genes(atac, self.peaks, "model", "peaks")
        for one, what in zip(found, ("gene", "peak"), strict=True):
            empty = int((np.diff(one.matrix.indptr) == 0).sum())
            if empty:
                raise ExpressionError(
                    f"{empty:,} of {one.matrix.shape[0]:,} cells have counts of no {what} that the model reads: leave "
                    "them out of both modalities."
                )
        return found[0].matrix, (found[1].matrix > 0).astype(np.float32)

    def _counts(self, cells: Any) -> tuple[Counts, Counts]:
        rna, atac = paired(cells, self.modalities, "scMVP")
        return read_counts(rna, self.layer, what="RNA"), read_counts(atac, self.layer, what="ATAC")
