"""`sclm_hf.pp`: what to look at before a model sees cells."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ...opening.names import resolve_name
from ...opening.processors import load_processor
from ...tokenization.expression_matrix import as_csr, select_counts

if TYPE_CHECKING:
    from anndata import AnnData

    from ...tokenization.genes.gene_vocabulary import GeneCoverage

__all__ = ["coverage"]


def __dir__() -> list[str]:
    return __all__


def coverage(
    adata: "AnnData",
    model: str,
    *,
    layer: str | None = None,
    species: str | None = None,
    key_added: str | None = None,
    revision: str | None = None,
    copy: bool = False,
) -> "GeneCoverage | AnnData":
    """Which genes a model knows: adds a column to `var`, and returns the report.

    Args:
        adata: cells with raw counts.
        model: folder or repository id of a checkpoint.
        layer: the layer that holds the counts; also `"X"` or `"raw"`.
        species: species of the cells, where names do not tell.
        key_added: name of the column of `var`, True for genes that the model knows; by default `sclm_known`.
        revision: branch, tag or commit on the Hub.
        copy: add to a copy, and return that instead of the report.

    Raises:
        CheckpointError: the model cannot be read.
        ExpressionError: there is no such layer.
    """
    processor = load_processor(model, resolve_name(model, revision))
    matrix, names, ensembl_ids, _ = select_counts(adata, layer, expects=processor.feature_extractor.expects)
    counts = np.asarray(as_csr(matrix).sum(axis=0), float).ravel()
    mapping = processor.map_genes(names, ensembl_ids=ensembl_ids, species=species, counts=counts)
    known = dict(zip(map(str, names), (mapping.gene_ids >= 0).tolist(), strict=True))
    target: Any = adata.copy() if copy else adata
    # counts of `raw` may have other genes than `var`
    target.var[key_added or "sclm_known"] = [known.get(str(name), False) for name in _names_like(target, names)]
    return target if copy else mapping.coverage


def _names_like(adata: "AnnData", names: Any) -> Any:
    """(n_vars,) the names of the genes of `var` in the form in which they were looked up."""
    return names if len(names) == adata.n_vars else adata.var_names
