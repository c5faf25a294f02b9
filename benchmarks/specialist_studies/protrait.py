"""PROTRAIT on a made-up genome with planted motifs: whether it learns, and nothing about real DNA.

The data sets at hand come without a genome, and the registries of packages have none that is small. Cells of three
types open peaks that hold a motif of their type, and a few others; half of the cells have a label.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData

import sclm_hf
from sclm_hf.evaluation.baselines.linear import PCALogisticRegression
from sclm_hf.opening.specialists import load_specialist

from . import fitted, scores_of

MOTIFS = ("TGACTCAT", "GGGACTTT", "CACGTGAC")
LENGTH, APART, K = 144, 300, 6


def planted(folder: Path, n_cells: int, n_peaks: int, background: float, opened: float, seed: int) -> AnnData:
    """Cells, and in the folder `genome.fa`, where each peak holds its motif once or twice at any place."""
    random = np.random.default_rng(seed)
    genome = random.choice(list("ACGT"), APART * (n_peaks + 2))
    kinds, types = np.arange(n_peaks) % len(MOTIFS), np.arange(n_cells) % len(MOTIFS)
    middles = APART * (np.arange(n_peaks) + 1)
    for middle, kind in zip(middles, kinds, strict=True):
        for place in random.integers(-60, 52, size=random.integers(1, 3)):
            genome[middle + place : middle + place + 8] = list(MOTIFS[kind])
    (folder / "genome.fa").write_text(">chr1\n" + "".join(genome) + "\n")
    share = background + (opened - background) * (types[:, None] == kinds)
    cells = AnnData((random.random((n_cells, n_peaks)) < share).astype(np.float32))
    cells.obs_names = [f"cell{row}" for row in range(n_cells)]
    cells.var_names = [f"chr1:{middle - 60}-{middle + 60}" for middle in middles]
    cells.obs["cell_type"] = [f"type {number}" for number in types]
    return cells


def motifs(seed: int, opened: float, n_cells: int = 120, n_peaks: int = 1200) -> dict[str, dict[str, float]]:
    """AUROC of held-out peaks over cells, and accuracy of the types of cells without a label."""
    folder = Path(tempfile.mkdtemp())
    cells = planted(folder, n_cells, n_peaks, 0.03, opened, seed)
    cells = cells[np.asarray(cells.X.sum(axis=1)).ravel() > 0].copy()
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    is_known = np.random.default_rng([seed, 1]).random(len(truth)) < 0.5
    is_test = np.random.default_rng([seed, 2]).random(n_peaks) < 1 / 6
    train = cells[:, ~is_test].copy()
    train.obs["cell_type"] = np.where(is_known, truth, None)
    model = fitted(
        "protrait",
        train,
        seed,
        genome=folder / "genome.fa",
        label_key="cell_type",
        sequence_length=LENGTH,
        model_config={"hidden_size": 48, "num_attention_heads": 4, "pool_sizes": [3, 2, 2]},
        training={"num_train_epochs": 20, "use_cpu": True},
    )
    loaded = load_specialist(model)
    read = loaded.processor(cells.var_names[is_test], genome=folder / "genome.fa", return_tensors="pt")
    with torch.no_grad():
        predicted = loaded.model(**read).logits.numpy()
    everything = loaded.processor(cells.var_names, genome=folder / "genome.fa")["input_ids"]
    open_of = np.asarray(cells.X).T
    regression = kmer_regression(everything, open_of, is_test)
    annotated = sclm_hf.annotate(train[~is_known].copy(), model).obs["sclm_prediction"].astype(str).to_numpy()
    baseline = PCALogisticRegression().fit(train.X[is_known], truth[is_known]).predict(train.X[~is_known])
    return {
        f"ridge regression of {K}-mers": {"auroc": auroc(regression, open_of[is_test])},
        "PCA + logistic regression": scores_of(truth[~is_known], baseline),
        "protrait": {"auroc": auroc(predicted, open_of[is_test]), **scores_of(truth[~is_known], annotated)},
    }


def kmer_regression(ids: np.ndarray, open_of: np.ndarray, is_test: np.ndarray) -> np.ndarray:
    """(test peaks, cells) from how often each k-mer is in a peak, the penalty chosen among training peaks."""
    from sklearn.linear_model import RidgeCV

    words = sum(ids[:, place : ids.shape[1] - K + 1 + place] * 4 ** (K - 1 - place) for place in range(K))
    counts = np.stack([np.bincount(one, minlength=4**K)[: 4**K] for one in words]).astype(np.float32)
    fitted_one = RidgeCV(alphas=10.0 ** np.arange(0, 6)).fit(counts[~is_test], open_of[~is_test])
    return fitted_one.predict(counts[is_test])


def auroc(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The mean over peaks that some cells open and some do not, as published."""
    from sklearn.metrics import roc_auc_score

    is_told = (truth.max(axis=1) > 0) & (truth.min(axis=1) == 0)
    return float(np.mean([roc_auc_score(*one) for one in zip(truth[is_told] > 0, predicted[is_told], strict=True)]))


STUDIES = {
    f"made-up genome, peaks open in {share:.0%} of the cells of their type, 48 wide, 3 layers, 20 epochs": partial(
        motifs, opened=share
    )
    for share in (0.4, 0.15)
}
