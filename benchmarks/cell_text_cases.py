"""The data sets on which `cell_text.py` compares models that read or write cells, and what is held out of them."""

from dataclasses import dataclass, field
from pathlib import Path

import anndata
import evidence
import numpy as np
from scipy.special import log_softmax

from sclm_hf import annotate
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.settings.data import DataArguments

LABEL = "cell_type"
FEWEST = 15
"""Labels with fewer cells are left out."""


@dataclass(frozen=True)
class DataSet:
    """A data set, what is held out of it, and what is known about its labels.

    Attributes:
        target: its name in `evidence.py`.
        group: column of `obs` with platforms or donors.
        test: the group to label.
        descriptions: label -> a description.
        rules: label -> names of cell types in `axiom-sc` that mean it.
    """

    target: str
    group: str
    test: str
    descriptions: dict[str, str]
    rules: dict[str, list[str]]

    @property
    def file(self) -> Path:
        """Its cells."""
        return evidence.DATA / f"{evidence.TARGETS[self.target].file}.h5ad"


_NK = "A natural killer cell: a lymphocyte without antigen receptor that kills infected cells and tumour cells."
_B = "A lymphocyte that carries immunoglobulin on its surface and may become a cell that makes antibodies."
_DC = "A leukocyte with long processes that takes up antigens and presents them to T cells."

DATA_SETS = {
    "symphony": DataSet(
        "symphony",
        "platform",
        "10x 3' v1",
        {
            "B": _B,
            "DC": _DC,
            "Mono_CD14": "A classical monocyte, high in CD14: a phagocyte of the blood.",
            "Mono_CD16": "A non-classical monocyte, high in CD16, that patrols the walls of vessels.",
            "NK": _NK,
            "T_CD4": "A helper T cell with CD4, whose receptor reads peptides on MHC class II.",
            "T_CD8": "A cytotoxic T cell with CD8, whose receptor reads peptides on MHC class I.",
        },
        {
            "B": ["B cell"],
            "DC": ["cDC1", "cDC2", "pDC"],
            "Mono_CD14": ["Monocyte"],
            "Mono_CD16": ["Non classical Mono"],
            "NK": ["NK"],
            "T_CD4": ["CD4 T"],
            "T_CD8": ["CD8 T"],
        },
    ),
    "balf": DataSet(
        "balf",
        "batch",
        "C149",
        {
            "B": _B,
            "Epithelial": "A cell of the sheet that lines airways and alveoli, joined to its neighbours.",
            "Macrophages": "A large phagocyte of tissues that engulfs pathogens, debris and dead cells.",
            "NK": _NK,
            "Neutrophil": "A short-lived granulocyte with a lobed nucleus, the first to arrive at an infection.",
            "T": "A lymphocyte of the thymus, whose receptor reads peptides on MHC molecules.",
            "mDC": _DC,
        },
        {
            "B": ["B cell"],
            "Epithelial": ["AT1", "AT2", "Club cell", "Basal lung", "Ciliated cell", "Goblet lung"],
            "Macrophages": ["Macrophage", "Alveolar Macrophage"],
            "NK": ["NK"],
            "Neutrophil": ["Neutrophil"],
            "T": ["CD4 T", "CD8 T"],
            "mDC": ["cDC1", "cDC2"],
        },
    ),
}


@dataclass
class Case:
    """One training on the cells of a data set: what it may learn from, and what it is judged on.

    A tenth of the cells of the other groups, drawn by the seed, is held out for temperatures and for the choice of
    checkpoints.

    Attributes:
        data_set: the data set.
        seed: of the training and of what is held out.
        settings: those of the command.
        folder: an empty one to work in.
    """

    data_set: DataSet
    seed: int
    settings: dict
    folder: Path
    train: anndata.AnnData = field(init=False)
    held_out: anndata.AnnData = field(init=False)
    test: anndata.AnnData = field(init=False)

    def __post_init__(self) -> None:
        learned, self.test = cells_of(self.data_set, self.settings["most_tested"])
        is_held_out = np.random.default_rng(self.seed).permutation(learned.n_obs) < learned.n_obs // 10
        self.train, self.held_out = learned[~is_held_out].copy(), learned[is_held_out].copy()
        for name, cells in (("train", self.train), ("held_out", self.held_out), ("test", self.test)):
            cells.write_h5ad(self.folder / f"{name}.h5ad")
        # the samples of models that see cells together
        self.data = DataArguments([str(self.folder / "train.h5ad")], eval_files=[str(self.folder / "held_out.h5ad")])

    @property
    def labels(self) -> list[str]:
        """All labels, in the order of the columns of log-probabilities."""
        return sorted(set(self.train.obs[LABEL].astype(str)))

    @property
    def model(self) -> str:
        """The folder of the trained model."""
        return str(self.folder / "model")

    def config(self, **changes) -> TrainingConfig:
        """Settings of a training."""
        return TrainingConfig(
            **{
                "output_dir": self.model,
                "seed": self.seed,
                "num_train_epochs": self.settings["epochs"],
                "max_steps": self.settings["max_steps"],
                "per_device_train_batch_size": 16,
                "learning_rate": 1e-3,
                "use_cpu": True,
                **changes,
            }
        )

    def annotated(self, **settings) -> np.ndarray:
        """(test cells, labels) log-probabilities of the trained model."""
        labelled = annotate(self.test, self.model, device="cpu", copy=True, **settings)
        names = list(labelled.uns["sclm_hf"]["sclm_prediction"]["label_names"])
        probabilities = np.asarray(labelled.obsm["sclm_probabilities"])[:, [names.index(one) for one in self.labels]]
        return log_softmax(np.log(np.maximum(probabilities, 1e-12)), axis=1)


def cells_of(data_set: DataSet, most_tested: int = 0) -> tuple[anndata.AnnData, anndata.AnnData]:
    """The cells of the other groups and those to label, of at most `most_tested`; 0 = all."""
    cells = anndata.read_h5ad(data_set.file)
    cells.obs[LABEL] = cells.obs[LABEL].astype(str)
    cells = cells[cells.obs.groupby(LABEL)[LABEL].transform("size") >= FEWEST].copy()
    is_test = cells.obs[data_set.group].astype(str).to_numpy() == data_set.test
    test = np.flatnonzero(is_test)
    if most_tested:
        test = np.sort(np.random.default_rng(0).permutation(test)[:most_tested])
    return cells[~is_test].copy(), cells[test].copy()
