"""`sclm-hf finetune` as a newcomer runs it: all labels of a tissue that no training set had, defaults, held-out cells.

    SCLM_DATA=../shared/data python benchmarks/new_tissue.py --models evidence --output new_tissue.json

The models are those that `benchmarks/evidence.py` left in its `--folder`, pre-trained without the target. Four fifths
of the target's cells are given with their labels to `finetune`, which saves an annotator (the model and the partners
that help it); `annotate` labels the last fifth, with the partners and without. Beside it the baselines fitted on the
same four fifths.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import anndata
import numpy as np
from evidence import BASELINES, DATA, TARGETS, add, common_labels, differences, log_probabilities
from machine import describe_machine

from sclm_hf import annotate
from sclm_hf.evaluation.metrics import Predictions
from sclm_hf.evaluation.reports import ResultsTable, compare
from sclm_hf.evaluation.splits import Split, stratified_splits
from sclm_hf.opening.partners import PARTNERS_FILE, read_weights
from sclm_hf.training.verbs import finetune
from sclm_hf.versions import package_versions

RECIPES = Path(__file__).parents[1] / "training_scripts" / "recipes"


def main() -> None:
    arguments = parse()
    tables = {}
    if arguments.output.exists():
        tables = json.loads(arguments.output.read_text())["targets"]
    for name in arguments.targets:
        for head in arguments.heads:
            key = f"{name}, {head}"
            if key not in tables:
                tables[key] = evaluate(name, head, arguments)
                save(tables, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--targets", nargs="+", default=["retina", "heart", "pancreas"], choices=list(TARGETS))
    parser.add_argument("--heads", nargs="+", default=["lora"], choices=["lora", "probe", "linear_beside", "full"])
    parser.add_argument("--recipe", default=None, help="of fine-tuning; by default none: the defaults of finetune")
    parser.add_argument("--models", type=Path, required=True, help="the --folder of evidence.py")
    parser.add_argument("--pretrained", default="pretrain_cellplm_small", help="the recipe of evidence.py")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of pre-training, split, fine-tuning")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    if len(arguments.seeds) < 2:
        parser.error("intervals over seeds need two of --seeds at least")
    return arguments


def evaluate(name: str, head: str, arguments: argparse.Namespace) -> dict:
    target = TARGETS[name]
    cells = anndata.read_h5ad(DATA / f"{target.file}.h5ad")
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    fewest = argparse.Namespace(per_label=5, split="random")
    cells = cells[np.isin(labels, common_labels(cells, labels, target, fewest))].copy()
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    cells.obs["cell_type"] = labels
    methods: dict[str, list[Predictions]] = {}
    seconds, weights = [], []
    names = np.unique(labels)
    saved, alone = f"finetune, {head}, as saved", f"finetune, {head}, model alone"
    for seed, split in zip(arguments.seeds, stratified_splits(labels, seeds=arguments.seeds), strict=True):
        for method, baseline in BASELINES.items():
            scores = log_probabilities(baseline(), cells.X, labels, names, split.train, split.test)
            add(methods, method, seed, split, labels, scores)
        begin = time.process_time()
        folder = finetuned(cells, split, pretrained(name, seed, arguments), head, seed, arguments)
        seconds.append(time.process_time() - begin)
        weights.append(read_weights(folder / PARTNERS_FILE))
        test = cells[split.test].copy()
        del test.obs["cell_type"]
        for method in (saved, alone):
            found = annotate(test, str(folder), partners=method == saved).obs["sclm_prediction"]
            one = Predictions(f"seed {seed}, {split.name}", split.test, labels[split.test], found.to_numpy(str))
            methods.setdefault(method, []).append(one)
    results = compare(methods, metrics=["macro_f1"], units=["cells", "splits"])
    for method in (*BASELINES, alone):
        results += differences(methods, saved, method)
    table = ResultsTable(target.file, "defaults", "cell type annotation", results, tuple(arguments.seeds))
    print(table.to_markdown(), flush=True)
    return {
        "table": json.loads(json.dumps(table, default=vars)),
        "cpu_seconds": seconds,
        "weights": weights,
        "machine": describe_machine(),
    }


def pretrained(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    found = sorted(arguments.models.glob(f"{arguments.pretrained}-*-{name}-model-{seed}/training_manifest.parquet"))
    if len(found) != 1:
        raise SystemExit(
            f"{arguments.models} holds {len(found)} models of {arguments.pretrained} without {name}, seed {seed}: run "
            "evidence.py first."
        )
    return found[0].parent


def finetuned(
    cells: anndata.AnnData, split: Split, model: Path, head: str, seed: int, arguments: argparse.Namespace
) -> Path:
    """The folder of the annotator that `finetune` saves."""
    output = arguments.models / f"new_tissue-{model.name}-{head}"
    file = output.with_name(f"{output.name}.h5ad")
    shutil.rmtree(output, ignore_errors=True)
    cells[split.train].copy().write_h5ad(file)
    recipe = ["--config", str(RECIPES / arguments.recipe)] if arguments.recipe else []
    finetune(
        [
            *recipe,
            *("--model_name_or_path", str(model), "--train_files", str(file), "--label_column", "cell_type"),
            *("--head", head, "--seed", str(seed), "--output_dir", str(output)),
        ]
    )
    return output


def save(tables: dict, arguments: argparse.Namespace) -> None:
    content = {
        "settings": {key: value for key, value in vars(arguments).items() if key not in ("models", "output")},
        "versions": package_versions("torch", "transformers", "scikit-learn", "numpy", "anndata"),
        "targets": tables,
    }
    arguments.output.write_text(json.dumps(content, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
