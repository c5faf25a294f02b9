"""`sclm_hf.pl`: pictures of cells that carry results, in scanpy's manner; all return axes.

>>> sclm_hf.pl.confusion(adata, "cell_type")  # doctest: +SKIP
>>> sclm_hf.pl.umap(adata, "sclm_prediction").figure.savefig("labels.png")  # doctest: +SKIP

Figures are made outside pyplot: a notebook shows `axes.figure`. The functions `plot_…` take arrays and tables, and are
those that the command line draws with.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError
from ...evaluation.plots import (
    plot_calibration,
    plot_cell_values,
    plot_cells,
    plot_confusion,
    plot_coverage,
    plot_distances,
    plot_explanation,
    plot_integration,
    plot_lines,
    plot_methods,
    plot_network,
    plot_tissue,
    plot_training,
    plot_volcano,
    umap_layout,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

__all__ = [
    "calibration",
    "confusion",
    "plot_calibration",
    "plot_cell_values",
    "plot_cells",
    "plot_confusion",
    "plot_coverage",
    "plot_distances",
    "plot_explanation",
    "plot_integration",
    "plot_lines",
    "plot_methods",
    "plot_network",
    "plot_tissue",
    "plot_training",
    "plot_volcano",
    "umap",
    "umap_layout",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def umap(
    adata: "AnnData", color: str = "sclm_prediction", *, basis: str = "X_umap", title: str | None = None
) -> "Axes":
    """Cells on a plane, coloured by a column of `obs`.

    Args:
        adata: cells with places in `obsm`, as `scanpy.tl.umap` adds them.
        color: column of `obs`: labels, or numbers from 0 to 1 such as `sclm_confidence`.
        basis: name of the (cells, 2) places in `obsm`.
        title: title; by default the name of the column.

    Returns:
        The axes. Cells without a value are grey; with more than ten labels each has its number on its cells.

    Raises:
        ConfigurationError: there is no such column, or there are no such places.
    """
    values = _column(adata, color, "color")
    if basis not in adata.obsm:
        raise ConfigurationError(
            f"`obsm` has no {basis!r}; it has {sorted(map(str, adata.obsm))}. `scanpy.pp.neighbors(adata, "
            "use_rep=…)` and `scanpy.tl.umap(adata)` make `X_umap`."
        )
    points = np.asarray(adata.obsm[basis])[:, :2]
    title = color if title is None else title
    if values.dtype.kind == "f":
        return plot_cell_values(points, values.to_numpy(), title=title, scale=color)
    return plot_cells(points, values, title=title)


def confusion(
    adata: "AnnData", label_key: str, prediction_key: str = "sclm_prediction", *, title: str | None = None
) -> "Axes":
    """Which labels are taken for which: rows are labels, columns predictions.

    Where no prediction has the name of a label, as with another nomenclature, columns have an order of their own
    and there is no recall.

    Args:
        adata: cells with both.
        label_key: column of `obs` with the labels; cells without one are left out.
        prediction_key: column of `obs` with the predictions.
        title: title; by default the two columns.

    Returns:
        The axes.

    Raises:
        ConfigurationError: there is no such column.
    """
    table = _pairs(adata, label_key, prediction_key)
    labels, predicted = sorted(set(table["label"])), sorted(set(table["prediction"]))
    others = None if set(labels) & set(predicted) else predicted
    if others is None:
        labels = predicted = sorted({*labels, *predicted})
    matrix = np.zeros((len(labels), len(predicted)), int)
    rows, columns = (
        table[name].map({one: place for place, one in enumerate(names)})
        for name, names in (("label", labels), ("prediction", predicted))
    )
    np.add.at(matrix, (rows, columns), 1)
    title = f"{prediction_key} against {label_key}" if title is None else title
    return plot_confusion(matrix, labels, title=title, predicted_names=others)


def calibration(
    adata: "AnnData",
    label_key: str,
    prediction_key: str = "sclm_prediction",
    confidence_key: str = "sclm_confidence",
) -> "Axes":
    """How often cells of a confidence are labelled rightly.

    Args:
        adata: cells with labels, predictions and confidences.
        label_key, prediction_key, confidence_key: their columns of `obs`; cells without a label are left out.

    Returns:
        The axes; the title says the expected calibration error.

    Raises:
        ConfigurationError: there is no such column, no cell with all of them, or no prediction is named like
            a label.
    """
    table = _pairs(adata, label_key, prediction_key)
    if not set(table["label"]) & set(table["prediction"]):
        raise ConfigurationError(
            f"No prediction has the name of a label ({sorted(set(table['prediction']))[:3]} against "
            f"{sorted(set(table['label']))[:3]}): rename one of them first, for example with "
            "`adata.obs[…].replace({…})`."
        )
    confidence = _column(adata, confidence_key, "confidence_key")[table.index]
    return plot_calibration(confidence.to_numpy(float), (table["label"] == table["prediction"]).to_numpy())


def _column(adata: "AnnData", key: str, setting: str) -> Any:
    if key not in adata.obs:
        raise ConfigurationError(f"`obs` has no column {key!r} (`{setting}`); it has {list(adata.obs.columns)}.")
    return adata.obs[key].reset_index(drop=True)


def _pairs(adata: "AnnData", label_key: str, prediction_key: str) -> Any:
    """A table of labels and predictions as text, of the cells that have both."""
    import pandas as pd

    labels, predictions = _column(adata, label_key, "label_key"), _column(adata, prediction_key, "prediction_key")
    table = pd.DataFrame({"label": labels, "prediction": predictions}).dropna()
    return table.astype(str)
