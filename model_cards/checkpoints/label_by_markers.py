"""Coarse labels by marker genes, for cells whose published labels may not be passed on.

    python model_cards/checkpoints/label_by_markers.py cells.h5ad labelled.h5ad

A cell gets the label whose markers it expresses most, if these are clearly above those of the other labels; other
cells get none, and `--unlabelled drop` leaves them out of training. Names are those of the ontology `blood`.
"""

import sys

import anndata
import numpy as np

from sclm_hf.evaluation.baselines.baseline import log1p_cp10k

MARKERS = {
    "T cell": ["CD3D", "CD3E", "CD3G", "TRAC", "CD2"],
    "natural killer cell": ["NKG7", "GNLY", "KLRD1", "KLRF1", "NCAM1"],
    "B cell": ["MS4A1", "CD79A", "CD79B", "CD19"],
    "plasma cell": ["JCHAIN", "MZB1", "SDC1", "TNFRSF17"],
    "macrophage": ["CD68", "C1QA", "C1QB", "MARCO", "MSR1"],
    "neutrophil": ["FCGR3B", "CSF3R", "CXCR2"],
    "epithelial cell": ["EPCAM", "KRT8", "KRT18", "KRT19", "TPPP3"],
    "mast cell": ["TPSB2", "TPSAB1", "CPA3", "KIT"],
}
LEAST_SCORE, LEAST_LEAD = 0.25, 0.1
T_OR_NK = "T or NK cell"


def marker_scores(cells: anndata.AnnData) -> np.ndarray:
    """(n_cells, n_labels) mean expression of the markers, each as a share of its 99th percentile, at most 1.2."""
    expression = log1p_cp10k(cells.X).tocsc()
    scores = []
    for genes in MARKERS.values():
        values = expression[:, cells.var_names.get_indexer(cells.var_names.intersection(genes))].toarray()
        highest = np.maximum(np.quantile(values, 0.99, axis=0), 0.5)
        scores.append(np.clip(values / highest, 0, 1.2).mean(axis=1))
    return np.array(scores).T


def label(cells: anndata.AnnData) -> np.ndarray:
    """(n_cells,) label of each cell, None where its markers do not say."""
    scores = marker_scores(cells)
    second, first = np.sort(scores, axis=1)[:, -2:].T
    names = np.array(list(MARKERS), dtype=object)[scores.argmax(axis=1)]
    lymphoid = scores[:, :2]
    # cytotoxic T cells express the markers of both
    both = (lymphoid.min(axis=1) > LEAST_SCORE) & (lymphoid.max(axis=1) == first)
    names[both] = T_OR_NK
    names[~both & ((first < LEAST_SCORE) | (first - second < LEAST_LEAD))] = None
    return names


if __name__ == "__main__":
    source, output = sys.argv[1:]
    cells = anndata.read_h5ad(source)
    cells.obs["cell_type"] = label(cells)
    cells.write_h5ad(output)
