"""Signs of edges: those of correlation beside those that a model tells when regulators are deleted.

    SCLM_DATA=… python benchmarks/grn_signs.py --model FOLDER --output benchmarks/results/grn_signs.json

Known signs are DoRothEA's (levels A to C) and OmniPath's, edges with both left out. Cells, targets and regulators are
those of `grn.py`. The checkpoint of this repository has no decoder of expression: the model is a small scGPT that is
trained on other PBMCs to predict masked values, both from the gene's own state and from the cell embedding, and kept
in FOLDER. A sign is that of Pearson's correlation, or the opposite of the mean change of the predicted value of the
target when the regulator is deleted. Compared are the known edges whose two genes are read together in 10 cells;
`accuracy` is the share with the right sign, `balanced` the mean of those of activating and of inhibiting edges, 0.5
by chance and for who says activating always. `clear` is what is left where the 95 % interval of the sign leaves out
0, which is what a table of edges shows. Intervals are of 200 draws of regulators, with the cells of the first seed.
"""

import argparse
import json
import os
import subprocess
import tempfile
import warnings
from pathlib import Path

import anndata
import numpy as np
import yaml
from grn import NETWORKS
from machine import describe_machine
from transformers import AutoModelForPreTraining, AutoProcessor

import sclm_hf
from sclm_hf.errors import SclmWarning
from sclm_hf.evaluation.networks import read_network
from sclm_hf.sources.in_memory import InMemorySource
from sclm_hf.tasks.grn import GRN
from sclm_hf.tasks.networks.deletions import CLEAR
from sclm_hf.tasks.networks.edges import signs_of
from sclm_hf.tasks.networks.evidence import NetworkCells
from sclm_hf.tasks.networks.genes import FEWEST_CELLS
from sclm_hf.tasks.networks.inferring import prepare_network
from sclm_hf.versions import package_versions

SIGNED = ("DoRothEA A-C", "OmniPath")
ALWAYS, PEARSON, CELL, GENE = "activating, always", "Pearson", "model, by the cell", "model, by the gene"
TRAINED_ON = ("pbmc_citeseq_400", "pbmc68k_reduced_counts", "covid_balf_liao", "pbmc_3tech_savercat_2k")
RECIPE = {
    "family": "scgpt",
    "model_config": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
    "encoding": {"max_length": 128, "truncation": "sample"},
    "min_files": 2,
    "max_genes": 3000,
    "gene_embeddings": "svd",
    "objective": "masked",
    "max_steps": 100,
    "per_device_train_batch_size": 64,
    "learning_rate": 2e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
}


def train(folder: Path, data: Path) -> None:
    """Train the model, unless it is there."""
    if (folder / "config.json").exists():
        return
    with tempfile.TemporaryDirectory() as place:
        config = Path(place) / "recipe.yaml"
        config.write_text(yaml.safe_dump({**RECIPE, "output_dir": str(folder)}), encoding="utf-8")
        files = [str(data / "h5ad" / f"{name}.h5ad") for name in TRAINED_ON]
        subprocess.run(["sclm-hf", "pretrain", "--config", str(config), "--train_files", *files], check=True)


def signs(arguments: argparse.Namespace, network, seed: int) -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray]:
    """Method -> `sign` and `clear`, (regulators, targets) of 1, -1 or 0; and the known signs, or 0.

    All are about the same edges.
    """
    cells = anndata.read_h5ad(arguments.data / "h5ad" / arguments.cells)
    rows = np.sort(np.random.default_rng(seed).choice(cells.n_obs, arguments.n_cells, replace=False))
    model = AutoModelForPreTraining.from_pretrained(arguments.model)
    processor = AutoProcessor.from_pretrained(arguments.model)
    settings = GRN.choose({"n_genes": arguments.n_genes, "evidence": "perturbation", "sign": "model"})
    regulators = sorted(set(network["regulator"].astype(str)))
    source = InMemorySource(cells[rows].copy())
    run, _ = prepare_network(source, GRN.load(model, processor, settings), settings, None, regulators)
    narrow = cells[rows][:, run.genes.columns].copy()
    correlations = run.correlations()
    found = {
        ALWAYS: {"sign": np.ones_like(correlations), "clear": np.ones_like(correlations)},
        PEARSON: {"sign": np.sign(correlations), "clear": signs_of(correlations, len(rows))},
        CELL: told(run, narrow, seed),
    }
    model.cell_expression_decoder = None
    found[GENE] = told(run, narrow, seed)
    names = [run.genes.names[part].astype(str) for part in (run.genes.regulators, run.genes.targets)]
    row_of, column_of = ({name: place for place, name in enumerate(part)} for part in names)
    known = np.zeros(correlations.shape, np.int8)
    for regulator, target, sign in network[["regulator", "target", "sign"]].dropna().itertuples(index=False):
        if regulator in row_of and target in column_of and regulator != target:
            known[row_of[regulator], column_of[target]] = sign
    # the same edges for all
    known[found[CELL]["sign"] == 0] = 0
    return found, known


def told(run: NetworkCells, cells: anndata.AnnData, seed: int) -> dict[str, np.ndarray]:
    """Signs by the model; 0 where fewer cells hold both genes than `grn` asks for."""
    names = [str(name) for name in run.genes.names[run.genes.regulators]]
    targets = run.names_of(run.tokens[run.genes.targets].tolist())
    model, processor = run.loaded.model, run.loaded.processor
    result = sclm_hf.perturb(cells, model, processor, genes=names, gene_effects=True, seed=seed)
    effects = result.uns["gene_effects"]
    effects = effects[effects["gene"].isin(targets) & (effects["n_cells"] >= FEWEST_CELLS)]
    row_of, column_of = ({name: place for place, name in enumerate(part)} for part in (names, targets))
    places = effects["perturbation"].map(row_of), effects["gene"].map(column_of)
    found = {name: np.zeros((len(names), len(targets)), np.int8) for name in ("sign", "clear")}
    found["sign"][places] = -np.sign(effects["change"])
    found["clear"][places] = -np.sign(effects["change"]) * (effects["change"].abs() > CLEAR * effects["change_error"])
    return found


def agreement(sign: np.ndarray, known: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The share of known signs that is right, and the mean of the shares of either sign."""
    told, drawn = (known != 0) & (sign != 0), np.broadcast_to(weights[:, None], known.shape)
    right = told & (sign == known)
    shares = [drawn[right & (known == one)].sum() / max(drawn[told & (known == one)].sum(), 1e-9) for one in (1, -1)]
    return float(drawn[right].sum() / max(drawn[told].sum(), 1e-9)), float(np.mean(shares))


def compare(arguments: argparse.Namespace, file: str) -> dict:
    """Methods with means over seeds, and intervals over regulators with the cells of the first."""
    network = read_network(arguments.data / "tables" / file)
    by_seed = [signs(arguments, network, seed) for seed in arguments.seeds]
    found, known = by_seed[0]
    generator, rows = np.random.default_rng(0), np.flatnonzero((known != 0).any(axis=1))
    draws = [np.bincount(generator.choice(rows, len(rows)), minlength=len(known)) for _ in range(200)]
    methods = {}
    for method in found:
        methods[method] = {}
        for kind in ("sign", "clear"):
            values = [agreement(one[method][kind], edges, np.ones(len(edges))) for one, edges in by_seed]
            of_draws = [agreement(found[method][kind], known, weights) for weights in draws]
            told = [
                float(((edges != 0) & (one[method][kind] != 0)).sum() / (edges != 0).sum()) for one, edges in by_seed
            ]
            methods[method][kind] = {
                "accuracy": float(np.mean([one[0] for one in values])),
                "balanced": float(np.mean([one[1] for one in values])),
                "balanced_by_seed": [one[1] for one in values],
                "balanced_interval": [float(end) for end in np.quantile([one[1] for one in of_draws], [0.025, 0.975])],
                "told": float(np.mean(told)),
            }
    counts = {"n_edges": int((known != 0).sum()), "n_inhibiting": int((known < 0).sum()), "n_regulators": len(rows)}
    return {**counts, "methods": methods}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SCLM_DATA"), help="by default SCLM_DATA")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model; trained where there is none")
    parser.add_argument("--cells", default="kang_ifnb_2k.h5ad")
    parser.add_argument("--n-cells", type=int, default=300)
    parser.add_argument("--n-genes", type=int, default=120)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.data = Path(arguments.data)
    warnings.simplefilter("ignore", SclmWarning)
    train(arguments.model, arguments.data)
    report = {
        "benchmark": "grn_signs",
        "recipe": RECIPE,
        "trained_on": TRAINED_ON,
        "settings": {name: getattr(arguments, name) for name in ("cells", "n_cells", "n_genes", "seeds")},
        "versions": package_versions("torch", "numpy"),
        "machine": describe_machine(),
        "networks": {},
    }
    for name in SIGNED:
        report["networks"][name] = found = compare(arguments, NETWORKS[name])
        print(
            f"{name}: {found['n_edges']} edges, {found['n_inhibiting']} inhibiting, {found['n_regulators']} regulators"
        )
        for method, kinds in found["methods"].items():
            for kind, one in kinds.items():
                low, high = one["balanced_interval"]
                print(
                    f"  {method:<20} {kind:<6} accuracy {one['accuracy']:.3f} balanced {one['balanced']:.3f} "
                    f"({low:.3f} to {high:.3f}) told {one['told']:.0%}"
                )
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
