"""Does pre-training teach anything? Few labels on data sets that it never saw, beside the strongest simple baselines.

    SCLM_DATA=../shared/data python benchmarks/evidence.py --output benchmarks/results/evidence.json

For each target a small model is pre-trained with the committed recipe on the labels of other data sets, the target and
its relatives left out; it stays frozen, and a probe learns a few labels of the target. Beside it: PCA and z-scored
logistic regression on the same few labels, the same model before its first step (`twin`), a linear map of CellPLM's
recipe in the place of an encoder with the same foreign labels (`pool`), and the model weighed with the regressions by
cross-validation on the few labels alone (`together`, what `finetune --head probe` saves). `--split` trains on four
fifths of the cells, or leaves a platform, donor or batch out; `--thin` thins the counts of all cells of the target.
Trained models are kept in `--folder`, and a run that was stopped goes on there.

`--variants` also names other objectives with the same encoder, corpus, steps and cells a step, for scGPT's recipe:

    python benchmarks/evidence.py --recipe pretrain_scgpt_small.yaml --targets symphony citeseq \
        --variants model twin masked generative contrastive labels+masked labels+contrastive --output …
"""

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import anndata
import numpy as np
import yaml
from machine import describe_machine

from sclm_hf import CellCorpus
from sclm_hf.corpora.training_manifest import TrainingManifest, read_manifest
from sclm_hf.evaluation.baselines.baseline import Baseline
from sclm_hf.evaluation.baselines.celltypist import CellTypist
from sclm_hf.evaluation.baselines.linear import (
    PCALogisticRegression,
    ScaledPCALogisticRegression,
    ZScoredLogisticRegression,
)
from sclm_hf.evaluation.baselines.neighbours import NearestNeighbours
from sclm_hf.evaluation.collapse import measure_collapse
from sclm_hf.evaluation.ensembles import choose_weights
from sclm_hf.evaluation.metrics import Predictions
from sclm_hf.evaluation.reports import Result, ResultsTable, compare
from sclm_hf.evaluation.splits import Split, few_shot_splits, group_splits, stratified_splits
from sclm_hf.evaluation.thinning import thin_counts
from sclm_hf.objectives.cell_classification import CellClassificationCollator
from sclm_hf.opening.classifiers import open_probe
from sclm_hf.opening.partners import combined
from sclm_hf.opening.processors import load_processor
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.counts import rows_in_order
from sclm_hf.training.partners import folds
from sclm_hf.training.probe import choose_strength, fit_probe, read_features, read_meanings
from sclm_hf.training.verbs import pretrain
from sclm_hf.versions import package_versions

DATA = Path(os.environ.get("SCLM_DATA", "../shared/data")) / "h5ad"
RECIPES = Path(__file__).parents[1] / "training_scripts" / "recipes"
FOREIGN = (
    "pbmc_3tech_symphony_1200",
    "pbmc_3tech_savercat_2k",
    "pbmc_citeseq_400",
    "covid_balf_liao",
    "kang_muscat_labelled",
    "kang_ifnb_2k",
    "pbmc68k_reduced_counts",
    "heart_san_multiome_1k",
    "retina_multiome_1k",
    "wu2020_tcell_200",
)
"""Data sets whose labels teach, unless they are the target or its relatives."""

MOST_TESTED = 10
"""A label is scored if so many cells of it are left to test."""


class Target(NamedTuple):
    """A data set to annotate.

    Attributes:
        file: its name.
        relatives: what else is left out of pre-training: cells of the same study, or perhaps the same cells.
        group: the column that says which cells were measured together.
    """

    file: str
    relatives: tuple[str, ...] = ()
    group: str | None = None


TARGETS = {
    "symphony": Target("pbmc_3tech_symphony_1200", ("pbmc_3tech_savercat_2k",), "platform"),
    "citeseq": Target("pbmc_citeseq_400", ("pbmc_eccite_citefuse_500",), "batch"),
    "balf": Target("covid_balf_liao", group="batch"),
    "kang": Target("kang_muscat_labelled", ("kang_ifnb_2k",), "batch"),
    "pbmc68k": Target("pbmc68k_reduced_counts"),
    "retina": Target("retina_multiome_1k"),
    "heart": Target("heart_san_multiome_1k"),
    "pancreas": Target("pancreas_3batch_cepo_528", group="batch"),
}
PARTNERS = {
    "z-scored LR": ZScoredLogisticRegression,
    "PCA+LR": PCALogisticRegression,
    "scaled PCA+LR": ScaledPCALogisticRegression,
}
"""In the order of `finetune`: of equally good ones the first counts."""

BASELINES = PARTNERS | {"kNN": NearestNeighbours, "CellTypist": CellTypist}
VARIANTS = {
    "model": {},
    "twin": {"max_steps": 1, "learning_rate": 1e-12},
    "pool": {"model_config": {"encoder_type": "none"}},
    "masked": {"objective": "masked"},
    "generative": {"objective": "generative"},
    "contrastive": {"objective": "contrastive"},
    "next gene": {"objective": "next_gene"},
    "masked genes": {"objective": "masked_genes"},
    "labels+masked": {"denoising_weight": 0.3},
    "labels+contrastive": {"objective": "contrastive"},
}
"""Name -> what it changes in the recipe."""

POOL_RECIPE = "pretrain_cellplm_small.yaml"
"""The recipe of `pool`, whatever that of the others: only CellPLM's encoder can be left out."""

OF_LABELS = ("label_column", "ontology", "unknown_labels", "balance_labels")
OF_CLASSES = ("denoising_weight", "embedding_weight", "spread_weight")
"""Settings of a recipe that mean nothing without labels, and without a classifier."""

WITHOUT_LABELS = ("masked", "generative", "contrastive", "next gene", "masked genes")


def main() -> None:
    arguments = parse()
    tables = {}
    if arguments.output.exists():
        tables = read_tables(arguments)
    for name in arguments.targets:
        if name not in tables:
            tables[name] = evaluate(name, arguments)
            save(tables, arguments)
    report(tables)


def read_tables(arguments: argparse.Namespace) -> dict:
    """The tables in `--output`, if they were made with the same settings."""
    stored = json.loads(arguments.output.read_text())
    wanted = json.loads(json.dumps(settings_of(arguments), default=str))
    changed = [key for key in sorted(wanted | stored["settings"]) if wanted.get(key) != stored["settings"].get(key)]
    if changed:
        flags = ", ".join("content of --recipe" if key == "recipe_hash" else f"--{key}" for key in changed)
        raise SystemExit(f"{arguments.output} holds tables made with another {flags}: give another --output.")
    return stored["targets"]


def settings_of(arguments: argparse.Namespace) -> dict:
    """What changes the numbers; of the recipe also its content, which may have been edited since."""
    settings = {key: value for key, value in vars(arguments).items() if key not in ("folder", "output", "targets")}
    return settings | {"recipe_hash": recipe_hash(arguments.recipe)}


def recipe_hash(recipe: str) -> str:
    """The first digits of the hash of a recipe's content."""
    return hashlib.sha256((RECIPES / recipe).read_bytes()).hexdigest()[:8]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--recipe", default="pretrain_cellplm_small.yaml")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of pre-training")
    parser.add_argument("--draws", type=int, default=5, help="draws of the few labels")
    parser.add_argument("--per_label", type=int, default=5)
    parser.add_argument("--thin", type=float, default=1.0, help="share of the counts of the target that is left")
    parser.add_argument("--variants", nargs="+", default=["model", "twin", "pool"], choices=list(VARIANTS))
    parser.add_argument("--split", default="few_shot", choices=["few_shot", "random", "group"])
    parser.add_argument("--folder", type=Path, default=Path("evidence"), help="trained models")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def evaluate(name: str, arguments: argparse.Namespace) -> dict:
    """All methods on the same splits of a target; the seeds of pre-training are splits of their own."""
    target = TARGETS[name]
    cells = anndata.read_h5ad(DATA / f"{target.file}.h5ad")
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    cells = cells[np.isin(labels, common_labels(cells, labels, target, arguments))].copy()
    if arguments.thin < 1:
        cells.X = thin_counts(cells.X, share=arguments.thin, names=list(cells.obs_names)).astype(np.float32)
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    cells.obs["cell_type"] = labels
    file = arguments.folder / f"{name}-{arguments.thin}.h5ad"
    file.parent.mkdir(parents=True, exist_ok=True)
    cells.write_h5ad(file)
    splits = splits_of(cells, labels, target, arguments)
    simple = [fit_simple(cells.X, labels, split) for split in splits]
    methods: dict[str, list[Predictions]] = {}
    embeddings = {}
    for seed in arguments.seeds:
        fitted = {}
        for variant in arguments.variants:
            folder = train(name, variant, seed, arguments)
            refuse_seen(folder, DATA / f"{target.file}.h5ad")
            features, meanings = read_model(folder, file, labels)
            # what comes after the embedding are the leaves
            embedding = features[:, : features.shape[1] - meanings.shape[1]]
            embeddings[f"{variant}, seed {seed}"] = measure_collapse(embedding).to_dict()
            fitted[variant] = [fit_model(features, meanings, labels, split) for split in splits]
        for number, split in enumerate(splits):
            models = {variant: one[number] for variant, one in fitted.items()}
            for method, scores in score_all(models, simple[number], labels, split).items():
                add(methods, method, seed, split, labels, scores)
    notes = [f"{len(splits)} splits ({splits[0].name}, …), pre-training seeds {arguments.seeds}"]
    results = compare(methods, metrics=["macro_f1"], units=["cells", "splits"])
    for variant in arguments.variants:
        if variant != "twin" and "twin" in methods:
            results += differences(methods, variant, "twin")
    for method in [one for one in ("model, together", "model + pool, together") if one in methods]:
        for reference in [one for one in (*BASELINES, "twin", "pool", "pool, together") if one in methods]:
            results += differences(methods, method, reference)
    table = ResultsTable(target.file, "committed recipe", "cell type annotation", results, tuple(arguments.seeds))
    table.notes += notes
    print(table.to_markdown(), flush=True)
    table = json.loads(json.dumps(table, default=vars))
    return {"table": table, "embeddings": embeddings, "machine": describe_machine()}


def common_labels(
    cells: anndata.AnnData, labels: np.ndarray, target: Target, arguments: argparse.Namespace
) -> list[str]:
    """Labels of which enough cells are left to test; with groups, those that all groups have."""
    least = arguments.per_label + MOST_TESTED
    names = [one for one in np.unique(labels) if one != "unassigned" and (labels == one).sum() >= least]
    if arguments.split != "group":
        return names
    if target.group is None:
        raise SystemExit(f"{target.file} has no groups: leave it out of --targets, or give another --split.")
    groups = cells.obs[target.group].astype(str)
    return [one for one in names if groups[labels == one].value_counts().reindex(groups.unique()).min() >= 5]


def splits_of(
    cells: anndata.AnnData, labels: np.ndarray, target: Target, arguments: argparse.Namespace
) -> list[Split]:
    if arguments.split == "few_shot":
        return few_shot_splits(labels, per_label=arguments.per_label, seeds=range(arguments.draws))
    if arguments.split == "random":
        return stratified_splits(labels, seeds=range(arguments.draws))
    return group_splits(cells.obs[target.group].astype(str), name=target.group)


def differences(methods: dict[str, list[Predictions]], method: str, reference: str) -> list[Result]:
    """How far a method is above another, on the same cells and draws."""
    both = {one: methods[one] for one in (method, reference)}
    compared = compare(both, reference=reference, metrics=["macro_f1"], units=["cells", "splits"])
    return [one for one in compared if one.reference]


def train(name: str, variant: str, seed: int, arguments: argparse.Namespace) -> Path:
    """The folder of a model that was pre-trained without the target."""
    file = POOL_RECIPE if variant == "pool" else arguments.recipe
    folder = arguments.folder / f"{Path(file).stem}-{recipe_hash(file)}-{name}-{variant}-{seed}"
    if (folder / "training_manifest.parquet").exists():
        return folder
    left_out = {TARGETS[name].file, *TARGETS[name].relatives}
    files = [str(DATA / f"{one}.h5ad") for one in FOREIGN if one not in left_out]
    recipe = yaml.safe_load((RECIPES / file).read_text())
    changes = dict(VARIANTS[variant])
    changes["model_config"] = recipe["model_config"] | changes.get("model_config", {})
    recipe |= changes
    labels = ["--label_column", "cell_type", "cell_type_derived", "--ontology", "blood+heart+retina+pancreas"]
    labels += ["--unlabelled", "drop"]
    foreign = OF_CLASSES if recipe["objective"] != "supervised" else ()
    if variant in WITHOUT_LABELS:
        labels = []
        foreign += OF_LABELS
    recipe = {key: value for key, value in recipe.items() if key not in foreign}
    changed = arguments.folder / f"{folder.name}.yaml"
    changed.write_text(yaml.safe_dump(recipe))
    begin = time.process_time()
    pretrain(
        [
            *("--config", str(changed), "--train_files", *files, *labels),
            *("--seed", str(seed), "--output_dir", str(folder)),
        ]
    )
    print(f"{folder.name}: {time.process_time() - begin:.0f} CPU-seconds", file=sys.stderr, flush=True)
    return folder


def refuse_seen(folder: Path, file: Path) -> None:
    """Refuse a model that was trained on cells of a target, which are recognised by their counts before thinning."""
    cells = TrainingManifest.of(CellCorpus(file, load_processor(str(folder)), shuffle=False))
    if read_manifest(str(folder)).holds(cells.datasets, cells.cells, cells.counts).any():
        raise SystemExit(f"{folder} was trained on cells of {file}.")


def read_model(folder: Path, file: Path, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n_cells, n_features) features of the target's cells, in the file's order, and what its labels mean."""
    processor = load_processor(str(folder))
    names = sorted(set(labels))
    corpus = CellCorpus(file, processor, label_column="cell_type", label_names=names, shuffle=False)
    model = open_probe(str(folder), names)
    collator = CellClassificationCollator.from_processor(processor, num_labels=len(names))
    config = TrainingConfig(use_cpu=True, per_device_eval_batch_size=256)
    features, numbers = read_features(model, corpus, collator, config)
    rows = np.concatenate([rows for _, rows in rows_in_order(corpus)])
    if not np.array_equal(np.array(names)[numbers], labels[rows]):
        raise SystemExit("The order of the cells is not that of the corpus.")
    return features[np.argsort(rows)], read_meanings(model, names, None)


def fit_simple(counts: np.ndarray, labels: np.ndarray, split: Split) -> tuple[dict, dict]:
    """Name of a baseline -> log-probabilities of the training cells, out of fold, and of the test cells.

    The first only of those that may be partners.
    """
    names = np.unique(labels)
    numbers = np.searchsorted(names, labels)
    folded, tested = {}, {}
    for name, method in BASELINES.items():
        tested[name] = log_probabilities(method(), counts, labels, names, split.train, split.test)
        if name in PARTNERS:
            parts = [(split.train[one], split.train[other]) for one, other in folds(numbers[split.train])]
            folded[name] = np.concatenate(
                [log_probabilities(method(), counts, labels, names, one, other) for one, other in parts]
            )
    return folded, tested


def log_probabilities(
    method: Baseline, counts: np.ndarray, labels: np.ndarray, names: np.ndarray, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    method.fit(counts[train], labels[train])
    found = np.full((len(test), len(names)), -30.0)
    found[:, np.searchsorted(names, method.classes)] = method.predict_log_proba(counts[test])
    return found


def fit_model(
    features: np.ndarray, meanings: np.ndarray, labels: np.ndarray, split: Split
) -> tuple[np.ndarray, np.ndarray]:
    """A probe's log-probabilities of the training cells, out of fold, and of the test cells."""
    names = np.unique(labels)
    numbers, n_labels = np.searchsorted(names, labels), len(names)
    train = split.train
    parts = folds(numbers[train])
    strength, heeded, own = choose_strength(features[train], numbers[train], n_labels, parts, meanings)
    fitted = fit_probe(features[train], numbers[train], n_labels, strength, heeded)
    return own, fitted.log_probabilities(features[split.test])


def score_all(
    models: dict[str, tuple], simple: tuple[dict, dict], labels: np.ndarray, split: Split
) -> dict[str, np.ndarray]:
    """Method -> (n_test, n_labels) log-probabilities: each alone, and models weighed with the partners."""
    folded, tested = simple
    numbers = np.searchsorted(np.unique(labels), labels)[split.train]
    truth = np.concatenate([numbers[test] for _, test in folds(numbers)])
    scores = tested | {variant: predicted for variant, (_, predicted) in models.items()}
    for teams in [*((variant,) for variant in models if variant != "twin"), ("model", "pool")]:
        if set(teams) <= set(models):
            own = {one: folded[one] for one in PARTNERS} | {one: models[one][0] for one in teams}
            weights = choose_weights(own, truth)
            scores[f"{' + '.join(teams)}, together"] = combined({one: scores[one] for one in own}, weights)
    return scores


def add(methods: dict, method: str, seed: int, split: Split, labels: np.ndarray, scores: np.ndarray) -> None:
    predicted = np.unique(labels)[scores.argmax(axis=1)]
    one = Predictions(f"seed {seed}, {split.name}", split.test, labels[split.test], predicted)
    methods.setdefault(method, []).append(one)


def save(tables: dict, arguments: argparse.Namespace) -> None:
    content = {
        "settings": settings_of(arguments),
        "versions": package_versions("torch", "transformers", "scikit-learn", "numpy", "anndata"),
        "targets": tables,
    }
    arguments.output.write_text(json.dumps(content, indent=1, default=str) + "\n")


def report(tables: dict) -> None:
    """Macro-F1 of each method by target, as a markdown table."""
    rows = {}
    for name, one in tables.items():
        for result in one["table"]["results"]:
            if result["reference"] is None and result["unit"] == "cells":
                rows.setdefault(result["method"], {})[name] = result["mean"]
    print("| macro-F1 | " + " | ".join(tables) + " |\n" + "|---|" * (len(tables) + 1))
    for method, scores in rows.items():
        print(f"| {method} | " + " | ".join(f"{scores.get(name, np.nan):.3f}" for name in tables) + " |")


if __name__ == "__main__":
    main()
