"""The pictures of a report: training, embeddings, confusions, effects, networks, explanations, tissue.

They are drawn without a display. Colours are those of Petroff's ten, which people with colour-blindness tell apart;
labels differ in shape as well.
"""

from .cells import plot_cell_values, plot_cells, plot_tissue, umap_layout
from .genes import plot_coverage, plot_explanation, plot_network, plot_volcano
from .labels import order_of_labels, plot_calibration, plot_confusion, plot_distances
from .scores import plot_integration, plot_lines, plot_methods, plot_training

__all__ = [
    "order_of_labels",
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
    "umap_layout",
]
