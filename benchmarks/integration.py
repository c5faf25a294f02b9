"""What integration is worth on real cells of several batches: scIB's scores, simple methods first.

Principal components of the 2,000 most variable genes, Harmony on them and on those of 200, then a small model as it
is, untrained, with Harmony, fine-tuned without labels, and fine-tuned with the labels of four fifths of the cells.
Without labels all cells are scored; the model that labels taught and all others also on the fifth whose labels nobody
saw, which is the same for all of them. The seed is that of PCA, Harmony, training and of what is held out.

Files joined by `+` are one data set, of the genes that both have. scVI (`--baselines pca harmony harmony200 scvi`;
extra `scvi`) is trained on the cells with its defaults. scAnchor is not among them: it is told what to do by a file of
settings, which its wheel lacks.

    SCLM_DATA=FOLDER python benchmarks/integration.py --model FOLDER --untrained FOLDER --output FILE.json
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
from machine import describe_machine

import sclm_hf
from sclm_hf.corpora.order.even_splits import hold_out_evenly
from sclm_hf.errors import SclmWarning
from sclm_hf.evaluation.integration.harmony import harmony
from sclm_hf.evaluation.integration.representations import principal_components
from sclm_hf.evaluation.integration.scores import integration_scores
from sclm_hf.evaluation.integration.scvi import check_scvi, scvi_embedding
from sclm_hf.sources.in_memory import InMemorySource
from sclm_hf.tasks.integration.batches import read_batches, read_labels
from sclm_hf.tokenization.expression_matrix import select_counts
from sclm_hf.training.integration import HELD_OUT
from sclm_hf.versions import package_versions

FILES = ("pbmc_3tech_symphony_1200", "celllines_mixology_celseq2_dropseq", "pancreas_3batch_cepo_528")
BASELINES = {
    "pca": "PCA",
    "harmony": "PCA + Harmony",
    "harmony200": "PCA of 200 genes + Harmony",
    "scvi": "scVI",
}
BATCH, LABEL, SEEN = "batch", "cell_type", "sclm_seen_in_training"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", default=FILES)
    parser.add_argument("--model", required=True)
    parser.add_argument("--untrained", required=True, help="the same model before its training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--baselines", nargs="+", default=["pca", "harmony", "harmony200"], choices=BASELINES)
    parser.add_argument("--n-steps", type=int, default=150)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", SclmWarning)
    done = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    if "scvi" in arguments.baselines:
        check_scvi(10**6)
    machine = describe_machine()
    packages = ["scib-metrics", "harmonypy", "torch", "numpy", "scikit-learn"]
    done["versions"] = package_versions(*packages, *(["scvi-tools"] if "scvi" in arguments.baselines else []))
    done["settings"] = {"model": Path(arguments.model).name, "n_steps": arguments.n_steps, "head": "lora"}
    runs = done.setdefault("runs", {})
    for file in arguments.files:
        for seed in arguments.seeds:
            if str(seed) not in runs.setdefault(file, {}):
                runs[file][str(seed)] = {"machine": machine, **run(file, seed, arguments)}
            add_baselines(runs[file][str(seed)], file, seed, arguments.baselines)
            arguments.output.write_text(json.dumps(done, indent=1) + "\n")
    done["means"] = {file: means(seeds) for file, seeds in runs.items() if seeds}
    arguments.output.write_text(json.dumps(done, indent=1) + "\n")
    for file, table in done["means"].items():
        print(f"\n{file}")
        for which, methods in table.items():
            for method, scores in methods.items():
                print(f"{which:>7} {method:<38}" + " ".join(f"{name} {value:.3f}" for name, value in scores.items()))


def run(file: str, seed: int, arguments: argparse.Namespace) -> dict:
    """The scores of every method, on all cells and on those whose labels nobody saw."""
    cells = read_cells(file)
    batches = cells.obs[BATCH].to_numpy(str)
    seconds, training = {}, {}
    embeddings = baselines(cells, seed, arguments.baselines, seconds)

    def integrate(method: str, model: str, **settings) -> anndata.AnnData:
        start = time.process_time()
        result = sclm_hf.integrate(cells, model, batch_key=BATCH, seed=seed, key_added="X", **settings)
        seconds[method] = round(time.process_time() - start, 1)
        record = result.uns["sclm_hf"]["X"]
        if "training" in record:
            training[method] = {name: np.asarray(one).tolist() for name, one in record["training"].items()}
        embeddings[method] = result.obsm["X"]
        return result

    steps = {"mode": "fine_tune", "n_steps": arguments.n_steps}
    integrate("untrained, zero-shot", arguments.untrained)
    integrate("zero-shot", arguments.model)
    integrate("zero-shot + Harmony", arguments.model, harmony=True)
    integrate("fine-tuned", arguments.model, **steps)
    taught = integrate("fine-tuned with labels", arguments.model, label_key=LABEL, **steps)
    unseen = ~taught.obs[SEEN].to_numpy(bool)
    embeddings["fine-tuned with labels + Harmony"] = harmony(taught.obsm["X"], batches, seed=seed)
    return {
        "n_cells": cells.n_obs,
        "n_unseen": int(unseen.sum()),
        "scores": scores_of(cells, embeddings, unseen, seed),
        "cpu_seconds": seconds,
        "training": training,
    }


def add_baselines(found: dict, file: str, seed: int, asked: list[str]) -> None:
    """Add the baselines that were not run with the others, on the same cells."""
    if asked := [name for name in asked if BASELINES[name] not in found["scores"]["all"]]:
        cells = read_cells(file)
        unseen = held_out(cells, seed) if found["scores"]["unseen"] else np.ones(cells.n_obs, bool)
        added = scores_of(cells, baselines(cells, seed, asked, found["cpu_seconds"]), unseen, seed)
        for which, scores in added.items():
            found["scores"][which] |= scores


def baselines(cells: anndata.AnnData, seed: int, asked: list[str], seconds: dict[str, float]) -> dict[str, np.ndarray]:
    """Method -> (n_cells, size); notes how long each took."""
    counts, batches = select_counts(cells)[0], cells.obs[BATCH].to_numpy(str)
    embed = {
        "pca": lambda: principal_components(counts, seed=seed),
        "harmony": lambda: harmony(principal_components(counts, seed=seed), batches, seed=seed),
        "harmony200": lambda: harmony(principal_components(counts, n_genes=200, seed=seed), batches, seed=seed),
        "scvi": lambda: scvi_embedding(counts, batches, seed=seed),
    }
    found = {}
    for name in asked:
        start = time.process_time()
        found[BASELINES[name]] = embed[name]()
        seconds[BASELINES[name]] = round(time.process_time() - start, 1)
    return found


def held_out(cells: anndata.AnnData, seed: int) -> np.ndarray:
    """(n_cells,) bool: the cells whose labels fine-tuning does not see."""
    source = InMemorySource(cells)
    batches, labels = read_batches(source, BATCH), read_labels(source, LABEL)
    groups = batches.numbers * (len(labels.names) + 1) + labels.numbers
    rows = np.arange(cells.n_obs)
    masks, _ = hold_out_evenly([source], [rows], [groups], HELD_OUT, seed, leave_out=source.column_names())
    return masks[source.name]


def scores_of(cells: anndata.AnnData, embeddings: dict, unseen: np.ndarray, seed: int) -> dict[str, dict]:
    """Scores on all cells, of what no labels taught, and on those whose labels nobody saw."""
    batches, labels = cells.obs[BATCH].to_numpy(str), cells.obs[LABEL].to_numpy(str)
    components = principal_components(select_counts(cells)[0], seed=seed)
    scores: dict[str, dict] = {"all": {}, "unseen": {}}
    for method, embedding in embeddings.items():
        if "with labels" not in method:
            scores["all"][method] = integration_scores(embedding, batches, labels, components)
        if not unseen.all():
            part = embedding[unseen], batches[unseen], labels[unseen], components[unseen]
            scores["unseen"][method] = integration_scores(*part)
    return scores


def read_cells(file: str) -> anndata.AnnData:
    """The cells of a file, or of several joined by `+`."""
    folder = Path(os.environ["SCLM_DATA"])
    parts = {name: anndata.read_h5ad(folder / f"{name}.h5ad") for name in file.split("+")}
    if len(parts) == 1:
        return parts[file]
    return anndata.concat(parts, join="inner", index_unique=" of ")


def means(seeds: dict[str, dict]) -> dict:
    """Means over the seeds that a method was run with of the scores, and the range of `total`."""
    table: dict[str, dict] = {}
    for which in ("all", "unseen"):
        runs = [one["scores"][which] for one in seeds.values() if one["scores"][which]]
        for method in max(runs, key=len, default=()):
            found = [one[method] for one in runs if method in one]
            mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
            totals = [one["total"] for one in found]
            table.setdefault(which, {})[method] = mean | {"lowest": min(totals), "highest": max(totals)}
    return table


if __name__ == "__main__":
    main()
