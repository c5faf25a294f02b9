"""Labels carried from one platform or species to another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from ..errors import require
from ..evaluation.splits import Split
from ..tokenization.genes.gene_vocabulary import GeneVocabulary
from .cells import LABEL, labels_of, of_variable_genes, read_cells, written
from .experiment import Experiment, Piece
from .models import UNTRAINED, baselines, embedding, fine_tuned, pretrained, probed, tested
from .tables import annotation_page

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Side:
    """The cells to learn from, or to label.

    Attributes:
        file: name of the data set.
        column: column of `obs` that chooses cells; all where it is empty.
        values: what that column says of them.
        labels: label -> what both sides call it; others are left out. Empty = labels stay as they are.
        species: as for `CellProcessor.map_genes`.
    """

    file: str
    column: str = ""
    values: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    species: str | None = None


PBMC, LINES, PANCREAS = "pbmc_3tech_symphony_1200", "celllines_mixology_celseq2_dropseq", "pancreas_3batch_cepo_528"
TRANSFERS = {
    "10x 3' v2 to 3' v1": (Side(PBMC, "batch", ("3pv2",)), Side(PBMC, "batch", ("3pv1",))),
    "10x 3' to 5'": (Side(PBMC, "batch", ("3pv1", "3pv2")), Side(PBMC, "batch", ("5p",))),
    "CEL-seq2 to Drop-seq": (Side(LINES, "platform", ("CEL-seq2",)), Side(LINES, "platform", ("Drop-seq",))),
    "CEL-seq2 to 10x": (Side(LINES, "platform", ("CEL-seq2",)), Side("celllines_10x_cellbench_895")),
    "inDrop to full length": (Side(PANCREAS, "batch", ("batch 1",)), Side(PANCREAS, "batch", ("batch 4", "batch 5"))),
    "human heart to mouse brain": (
        Side(
            "heart_san_multiome_1k",
            labels={"endothelial cell": "endothelial", "mural cell": "mural", "myeloid cell": "myeloid"},
        ),
        Side(
            "mouse_brain_merfish_1k",
            labels={
                "endothelial cell": "endothelial",
                "pericyte": "mural",
                "smooth muscle cell": "mural",
                "microglial cell": "myeloid",
            },
            species="mouse",
        ),
    ),
    "human glioma to mouse brain": (
        Side(
            "oligodendroglioma_ss2_184",
            labels={"Microglia/Macrophage": "microglia", "Oligodendrocytes (non-malignant)": "oligodendrocyte"},
        ),
        Side(
            "mouse_brain_merfish_1k",
            labels={"microglial cell": "microglia", "oligodendrocyte": "oligodendrocyte"},
            species="mouse",
        ),
    ),
    "human heart to chicken embryo": (
        Side(
            "heart_san_multiome_1k",
            labels={"regular atrial cardiac myocyte": "heart", "fibroblast": "other mesenchyme"},
        ),
        Side("chicken_embryo_1k", labels={"Cardiac_Mesoderm": "heart", "Head_Mesenchyme": "other mesenchyme"}),
    ),
}


def run(piece: Piece) -> dict[str, Any]:
    """Labels of the cells of one side, by methods that learn from the other."""
    source, target = (_read(piece, side) for side in TRANSFERS[piece.setting])
    cells, split = joined(source, target, TRANSFERS[piece.setting][1].species, piece.size.n_genes)
    file = written(cells[split.train], piece, "train")
    predicted = baselines(cells, split)
    models = {
        "scGPT untrained": pretrained(piece, "dense", [file], *UNTRAINED, name="untrained"),
        "scGPT pre-trained": pretrained(piece, "dense", [file]),
    }
    for name, model in models.items():
        predicted[f"{name}, probe"] = probed(embedding(cells, model), labels_of(cells), split)
    predicted["scGPT pre-trained, fine-tuned"] = fine_tuned(piece, models["scGPT pre-trained"], cells, split)
    return tested(cells, split, predicted) | {"n_genes": cells.n_vars, "n_train": len(split.train)}


def _read(piece: Piece, side: Side) -> "AnnData":
    """The cells of a side, all of the file before the number of cells is cut."""

    def chosen(cells: "AnnData") -> "AnnData":
        if side.column:
            cells = cells[cells.obs[side.column].isin(side.values)]
        if side.labels:
            cells = cells[cells.obs[LABEL].isin(side.labels)].copy()
            cells.obs[LABEL] = [side.labels[name] for name in cells.obs[LABEL]]
        return cells

    return read_cells(piece, side.file, chosen)


def joined(source: "AnnData", target: "AnnData", species: str | None, n_genes: int) -> "tuple[AnnData, Split]":
    """Cells of both sides, with the genes and labels that both have; the source teaches, the target is tested.

    Args:
        source: the cells to learn from.
        target: the cells to label.
        species: that of the target.
        n_genes: genes to keep, those that vary most in the source.
    """
    anndata = require("anndata", extra="anndata")
    columns = GeneVocabulary.from_genes(source.var_names, ()).map_genes(list(target.var_names), species=species)
    known = np.flatnonzero(columns.gene_ids >= 0)
    shape = target.n_vars, source.n_vars
    mapping = scipy.sparse.csr_matrix((np.ones(len(known), np.float32), (known, columns.gene_ids[known])), shape)
    shared = np.unique(columns.gene_ids[known])
    genes = source.var_names.get_indexer(of_variable_genes(source[:, shared], n_genes).var_names)
    counts = scipy.sparse.vstack([source.X[:, genes], (target.X @ mapping)[:, genes]], format="csr")
    names = np.concatenate([labels_of(source), labels_of(target)])
    is_source = np.arange(len(names)) < source.n_obs
    kept = np.isin(names, list(set(names[is_source]) & set(names[~is_source])))
    kept &= np.asarray(counts.sum(axis=1)).ravel() > 0
    cells = anndata.AnnData(counts[kept])
    cells.var_names = source.var_names[genes]
    cells.obs_names = [f"cell {number}" for number in range(cells.n_obs)]
    cells.obs[LABEL] = names[kept]
    rows = is_source[kept]
    return cells, Split("transfer", np.flatnonzero(rows), np.flatnonzero(~rows))


EXPERIMENT = Experiment(
    name="transfer",
    title="From one platform or species to another",
    question="Do labels learnt on one platform or species hold on another, and does a model carry them better than "
    "linear methods on the shared genes?",
    datasets=tuple(dict.fromkeys(side.file for sides in TRANSFERS.values() for side in sides)),
    settings=tuple(TRANSFERS),
    run=run,
    report=partial(annotation_page, reference="PCA + LR"),
    methods=(
        "Each setting: all methods learn from the cells of the first side, pre-training included, and label those of "
        "the second, which none of them saw. Both sides have the genes and labels that both measure and know.",
        "Zero-shot (probe): logistic regression on the frozen embedding; `untrained` = before the first step. "
        "Fine-tuned: all weights learn the labels, in five times as many steps.",
        "Genes of mouse are mapped to human ones through orthologs, those of chicken by their symbols. Labels of "
        "different studies were matched by hand: endothelial, mural (pericytes, smooth muscle) and myeloid cells "
        "(microglia) of heart and brain; microglia and oligodendrocytes of a glioma (full length) and of brain "
        "(MERFISH); cardiac myocytes and fibroblasts of adult heart for cardiac mesoderm and head mesenchyme of "
        "chicken, which is a stretch.",
    ),
)
