"""What domains of tissue by a model's embeddings are worth, simple methods first.

Layers of the mouse olfactory bulb (260 spots, Spatial Transcriptomics, Ståhl et al., Science 2016): agreement with the
five layers, all methods told that there are five, and none told. Four slices of a breast cancer (1,031 spots), whose
regions are not labelled: agreement with the slice, which should be low, as slices of one tumour have the same regions.
The model is a small one of human blood, so this is also what an encoder of another tissue, and for the bulb of another
species, is worth; the same model before its training stands beside it. The seed is that of PCA, k-means and Leiden.

    SCLM_DATA=FOLDER python benchmarks/spatial.py --model FOLDER --untrained FOLDER --output FILE.json

With a model whose tokens are cells, `--neighbourhood 6` also reads each spot with the six nearest, beside whole
slices. `benchmarks/spatial_cellplm.yaml` trains a small one.
"""

import argparse
import json
import os
import warnings
from pathlib import Path

import anndata
import numpy as np
from machine import describe_machine

import sclm_hf
from sclm_hf.errors import ConfigurationError, SclmWarning
from sclm_hf.versions import package_versions

BULB = ("spatial_mob_260", {"label_key": "cell_type", "species": "mouse"})
BREAST = ("spatial_st_breast_4slices", {"label_key": "batch", "sample_key": "batch"})
TASKS = {
    "bulb, five domains": (*BULB, {"domains": 5}),
    "bulb, resolution chosen": (*BULB, {}),
    "breast, five domains, against the slice": (*BREAST, {"domains": 5}),
}
SCORES = ("n_domains", "ari", "nmi", "coherence")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--untrained", required=True, help="the same model before its training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="TASK")
    parser.add_argument("--neighbourhood", type=int, help="spots that a model whose tokens are cells reads with each")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", SclmWarning)
    done = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    done["machine"] = describe_machine()
    done["versions"] = package_versions("scanpy", "igraph", "torch", "numpy", "scikit-learn")
    done["model"] = Path(arguments.model).name
    runs = done.setdefault("runs", {})
    for task in arguments.tasks:
        for seed in arguments.seeds:
            if str(seed) not in runs.setdefault(task, {}):
                runs[task][str(seed)] = run(task, seed, arguments)
                arguments.output.write_text(json.dumps(done, indent=1) + "\n")
    done["means"] = {task: means(seeds) for task, seeds in runs.items()}
    arguments.output.write_text(json.dumps(done, indent=1) + "\n")
    for task, methods in done["means"].items():
        print(f"\n{task}")
        for method, scores in methods.items():
            print(f"{method:<36}" + " ".join(f"{name} {value:.3f}" for name, value in scores.items()))


def run(task: str, seed: int, arguments: argparse.Namespace) -> dict:
    """The scores of every method; one that cannot make as many domains as asked for is not there."""
    file, about, wanted = TASKS[task]
    cells = anndata.read_h5ad(Path(os.environ["SCLM_DATA"]) / f"{file}.h5ad")
    found: dict[str, dict] = {}
    ways = [("untrained", arguments.untrained, {}), ("model", arguments.model, {})]
    if arguments.neighbourhood is not None:
        around = {"neighbourhood": arguments.neighbourhood}
        ways += [(f"{name}, neighbourhoods", model, around) for name, model, _ in ways]
    for name, model, way in ways:
        try:
            result = sclm_hf.spatial(cells, model, seed=seed, **about, **wanted, **way)
        except ConfigurationError as error:
            if "No resolution gives" not in str(error):
                raise
            continue
        record = result.uns["sclm_hf"]["sclm_domain"]
        columns = [record["scores"][score].tolist() for score in SCORES]
        rows = zip(record["scores"]["method"], *columns, strict=True)
        found |= {method.replace("model", name): dict(zip(SCORES, row, strict=True)) for method, *row in rows}
        found["labels"] = {"coherence": record["label_coherence"]}
    return {"n_cells": cells.n_obs, "scores": found}


def means(seeds: dict[str, dict]) -> dict:
    """Method -> mean of each score over the seeds in which it gave domains, and their number."""
    runs = [one["scores"] for one in seeds.values()]
    table = {}
    for method in dict.fromkeys(name for one in runs for name in one):
        found = [one[method] for one in runs if method in one]
        table[method] = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        table[method]["n_seeds"] = len(found)
    return table


if __name__ == "__main__":
    main()
