"""What integration is worth on real cells of several batches: scIB's scores, simple methods first.

Principal components, Harmony on them, then a small model as it is, untrained, with Harmony, fine-tuned without labels,
and fine-tuned with the labels of four fifths of the cells. Without labels all cells are scored; the model that labels
taught and all others also on the fifth whose labels nobody saw, which is the same for all of them. The seed is that of
PCA, Harmony, training and of what is held out.

Files joined by `+` are one data set, of the genes that both have. scVI (`--baselines pca harmony scvi`; extra `scvi`)
is trained on the cells with its defaults.

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
from sclm_hf.errors import SclmWarning
from sclm_hf.evaluation.integration.harmony import harmony
from sclm_hf.evaluation.integration.representations import principal_components
from sclm_hf.evaluation.integration.scores import integration_scores
from sclm_hf.evaluation.integration.scvi import check_scvi, scvi_embedding
from sclm_hf.tokenization.expression_matrix import select_counts
from sclm_hf.versions import package_versions

CELL_LINES = "celllines_mixology_celseq2_dropseq"
FILES = (
    "pbmc_3tech_symphony_1200",
    CELL_LINES,
    f"{CELL_LINES}+celllines_10x_cellbench_895",
    "pancreas_3batch_cepo_528",
)
BASELINES = ("pca", "harmony", "scvi")
BATCH, LABEL, SEEN = "batch", "cell_type", "sclm_seen_in_training"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", default=FILES)
    parser.add_argument("--model", required=True)
    parser.add_argument("--untrained", required=True, help="the same model before its training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--baselines", nargs="+", default=["pca", "harmony"], choices=BASELINES)
    parser.add_argument("--n-steps", type=int, default=150)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", SclmWarning)
    done = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    if "scvi" in arguments.baselines:
        check_scvi(10**6)
    done["machine"] = describe_machine()
    packages = ["scib-metrics", "harmonypy", "torch", "numpy", "scikit-learn"]
    done["versions"] = package_versions(*packages, *(["scvi-tools"] if "scvi" in arguments.baselines else []))
    done["settings"] = {"model": Path(arguments.model).name, "n_steps": arguments.n_steps, "head": "lora"}
    runs = done.setdefault("runs", {})
    for file in arguments.files:
        for seed in arguments.seeds:
            if str(seed) not in runs.setdefault(file, {}):
                runs[file][str(seed)] = run(file, seed, arguments)
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
    batches, labels = cells.obs[BATCH].to_numpy(str), cells.obs[LABEL].to_numpy(str)
    counts = select_counts(cells)[0]
    # PCR compares with them, whatever the baselines
    components = principal_components(counts, seed=seed)
    known = {
        "PCA": ("pca", lambda: components),
        "PCA + Harmony": ("harmony", lambda: harmony(components, batches, seed=seed)),
        "scVI": ("scvi", lambda: scvi_embedding(counts, batches, seed=seed)),
    }
    embeddings, seconds, training = {}, {}, {}
    for name, (called, embed) in known.items():
        if called in arguments.baselines:
            start = time.process_time()
            embeddings[name] = embed()
            seconds[name] = round(time.process_time() - start, 1)

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
    scores: dict[str, dict] = {"all": {}, "unseen": {}}
    for method, embedding in embeddings.items():
        if "with labels" not in method:
            scores["all"][method] = integration_scores(embedding, batches, labels, components)
        if not unseen.all():
            part = embedding[unseen], batches[unseen], labels[unseen], components[unseen]
            scores["unseen"][method] = integration_scores(*part)
    return {"n_cells": len(labels), "n_unseen": int(unseen.sum()), "scores": scores, "cpu_seconds": seconds} | {
        "training": training
    }


def read_cells(file: str) -> anndata.AnnData:
    """The cells of a file, or of several joined by `+`."""
    folder = Path(os.environ["SCLM_DATA"])
    parts = {name: anndata.read_h5ad(folder / f"{name}.h5ad") for name in file.split("+")}
    if len(parts) == 1:
        return parts[file]
    return anndata.concat(parts, join="inner", index_unique=" of ")


def means(seeds: dict[str, dict]) -> dict:
    """Means over the seeds of the scores, and the range of `total`."""
    table: dict[str, dict] = {}
    for which in ("all", "unseen"):
        runs = [one["scores"][which] for one in seeds.values() if one["scores"][which]]
        for method in runs[0] if runs else ():
            found = [one[method] for one in runs]
            mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
            totals = [one["total"] for one in found]
            table.setdefault(which, {})[method] = mean | {"lowest": min(totals), "highest": max(totals)}
    return table


if __name__ == "__main__":
    main()
