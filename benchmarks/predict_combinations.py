"""Unseen combinations of two perturbations, predicted by simple methods and by models, in cells that are simulated.

    SCLM_DATA=… python benchmarks/predict_combinations.py --output benchmarks/results/predict_combinations.json

No data set of combinations is at hand, so what is measured are methods on a made-up mechanism, not biology. Expression
levels, depths and names of genes are those of the controls of the THP-1 screen of Papalexi et al. (2021), all else is
simulated. Of 12 perturbed genes 6 hold up program A and 6 program B; each program moves 60 genes, and each perturbed
gene 10 more of its own. Combinations are not additive: losses within a program saturate (1 - (1 - s)(1 - t)), the loss
of A hides 70 % of that of B, and where both are lost a third program appears, their product, which no single
perturbation shows. Counts are negative binomial. Half of the 66 pairs are predicted, from single perturbations alone
or also from the other half of the pairs, by `--cells` cells of each.

The truth is the mean of 1,000 other cells. `beyond_additive` is the share of the squared error of a perfect additive
prediction, the sum of the true single changes, that a method does without: 0 is as good as that sum, 1 perfect, less
worse. Ranges are over seeds, of which each is another mechanism.
"""

import argparse
import itertools
import json
import os
import tempfile
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import scipy.sparse
import yaml
from machine import describe_machine
from predict_perturbation import MODELS, RECIPES, SIMPLE

import sclm_hf
from sclm_hf.errors import SclmWarning
from sclm_hf.evaluation.baselines.baseline import log1p_cp10k
from sclm_hf.evaluation.perturbations.scores import score_each, spread
from sclm_hf.versions import package_versions

DATA = "h5ad/perturb_thp1_papalexi_lowmoi.h5ad"
N_PERTURBED, N_MOVED, N_OWN, N_TRUE = 12, 60, 10, 1000
MASKING, DISPERSION, KNOCK_DOWN = 0.7, 5.0, 0.2
STEPS = {"set model": 1000, "scGPT, small, new": 300}
SETTINGS = ("singles alone", "singles and half of the pairs")
METRICS = ("pearson_delta", "beyond_additive", "mae", "discrimination")


class Simulator:
    """Cells with no, one or two of 12 genes perturbed.

    Args:
        controls: (cells, genes) counts that levels and depths are taken from.
        seed: seed of what the programs and perturbations do.

    Attributes:
        perturbed: (12,) columns of the genes that may be perturbed; the first half holds up program A.
    """

    def __init__(self, controls: scipy.sparse.csr_matrix, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self.depths = np.asarray(controls.sum(axis=1)).ravel()
        levels = np.asarray(controls.mean(axis=0)).ravel() + 1e-3
        self.levels, n_genes = np.log(levels / levels.sum()), len(levels)
        self.perturbed = generator.permutation(np.argsort(-levels)[: n_genes // 2])[:N_PERTURBED]
        self.losses = generator.uniform(0.4, 0.9, N_PERTURBED)
        # A, B and what appears when both are lost
        self.programs = np.stack([self._moved(generator, n_genes, N_MOVED) for _ in range(3)])
        self.own = np.stack([self._moved(generator, n_genes, N_OWN) for _ in range(N_PERTURBED)])

    @staticmethod
    def _moved(generator: np.random.Generator, n_genes: int, n_moved: int) -> np.ndarray:
        weights = np.zeros(n_genes)
        weights[generator.permutation(n_genes)[:n_moved]] = generator.normal(0, 1, n_moved)
        return weights

    def cells(self, numbers: tuple[int, ...], n_cells: int, generator: np.random.Generator) -> np.ndarray:
        """(n_cells, genes) counts of cells in which these of the 12 genes are perturbed."""
        half = N_PERTURBED // 2
        lost = [1 - np.prod([1 - self.losses[one] for one in numbers if (one >= half) == second]) for second in (0, 1)]
        first, second = lost[0], lost[1] * (1 - MASKING * lost[0])
        # programs differ among cells as well, which is how their genes can be told from others in controls
        activities = generator.normal(0, 0.3, (n_cells, 3)) * [1, 1, 0] - [first, second, lost[0] * lost[1]]
        means = self.levels + activities @ self.programs + self.own[list(numbers)].sum(axis=0)
        means[:, self.perturbed[list(numbers)]] += np.log(KNOCK_DOWN)
        means = np.exp(means)
        means *= (generator.choice(self.depths, n_cells) / means.sum(axis=1))[:, None]
        return generator.poisson(means * generator.gamma(DISPERSION, 1 / DISPERSION, means.shape)).astype(np.float32)


def screen_of(simulator: Simulator, genes: np.ndarray, combinations: list, n_cells: int, seed: int) -> anndata.AnnData:
    """A screen: controls, ten times as many as cells of a perturbation, and each of the combinations."""
    generator, names = np.random.default_rng([seed, 1]), genes[simulator.perturbed]
    parts = [simulator.cells((), 10 * n_cells, generator)]
    labels = ["control"] * (10 * n_cells)
    for numbers in combinations:
        parts.append(simulator.cells(numbers, n_cells, generator))
        labels += ["+".join(names[list(numbers)])] * n_cells
    cells = anndata.AnnData(scipy.sparse.csr_matrix(np.concatenate(parts)))
    cells.obs_names, cells.var_names = [f"cell {row}" for row in range(len(labels))], genes
    cells.obs["perturbation"] = labels
    return cells


def mean_of(counts: np.ndarray) -> np.ndarray:
    """(genes,) mean log-normalised expression."""
    return np.asarray(log1p_cp10k(scipy.sparse.csr_matrix(counts)).mean(axis=0), np.float64).ravel()


def run(controls: anndata.AnnData, seed: int, n_cells: int, models: dict) -> dict:
    """Setting -> method -> score -> mean over the pairs that are predicted."""
    simulator, genes = Simulator(controls.X, seed), controls.var_names.to_numpy(str)
    singles = [(number,) for number in range(N_PERTURBED)]
    pairs = list(itertools.combinations(range(N_PERTURBED), 2))
    drawn = np.random.default_rng([seed, 2]).permutation(len(pairs))
    tested, learnt = ([pairs[one] for one in sorted(half)] for half in np.array_split(drawn, 2))
    generator = np.random.default_rng([seed, 3])
    nothing = mean_of(simulator.cells((), 10 * N_TRUE, generator))
    of_singles = [mean_of(simulator.cells(one, N_TRUE, generator)) - nothing for one in singles]
    real = np.stack([mean_of(simulator.cells(pair, N_TRUE, generator)) for pair in tested]) - nothing
    added = np.stack([of_singles[one] + of_singles[other] for one, other in tested])
    again = np.stack([mean_of(simulator.cells(pair, n_cells, generator)) for pair in tested]) - nothing
    names = ["+".join(genes[simulator.perturbed[list(pair)]]) for pair in tested]
    found: dict[str, dict] = {}
    for setting, seen in zip(SETTINGS, (singles, singles + learnt), strict=True):
        cells = screen_of(simulator, genes, seen, n_cells, seed)
        predictions = {"no change": np.zeros_like(real), **predict(cells, names, seed, models)}
        predictions |= {"the true single changes, added": added, f"{n_cells} cells of each pair, measured": again}
        found[setting] = {method: score(shifts, real, added) for method, shifts in predictions.items()}
        print(
            seed, setting, {name: round(one["pearson_delta"], 3) for name, one in found[setting].items()}, flush=True
        )
    return found


def predict(cells: anndata.AnnData, names: list[str], seed: int, models: dict) -> dict[str, np.ndarray]:
    """Method -> (pairs, genes) predicted changes of the mean."""
    control = mean_of(cells.X[(cells.obs["perturbation"] == "control").to_numpy()].toarray())
    ways = {name: (name, None, None) for name in SIMPLE} | models
    found = {}
    for title, (method, model, recipe) in ways.items():
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            trained = {} if recipe is None else {"trained": f"{folder}/model", "recipe": f"{folder}/recipe.yaml"}
            if trained:
                # as many steps whatever is seen
                settings = yaml.safe_load((RECIPES / recipe).read_text(encoding="utf-8")) | {"max_steps": STEPS[title]}
                Path(trained["recipe"]).write_text(yaml.safe_dump(settings), encoding="utf-8")
            result = sclm_hf.predict_perturbation(
                cells, model, method=method, perturbations=names, n_cells=64, seed=seed, **trained
            )
        of = result.obs["perturbation"].astype(str).to_numpy()
        means = [np.asarray(result.X[of == name].mean(axis=0), np.float64).ravel() for name in names]
        found[title] = np.stack(means) - control
        print(f"  {title}: {time.perf_counter() - start:.0f} s", flush=True)
    return found


def score(predicted: np.ndarray, real: np.ndarray, added: np.ndarray) -> dict[str, float]:
    errors, of_added = (((one - real) ** 2).sum(axis=1) for one in (predicted, added))
    each = score_each(predicted, real) | {"beyond_additive": np.array(1 - errors.sum() / of_added.sum())}
    return {name: float(each[name].mean()) for name in METRICS} | {"spread": spread(predicted, real)}


def means(runs: dict[str, dict]) -> dict:
    """Setting -> method -> score -> mean, lowest and highest over the seeds that it was run with."""
    table: dict[str, dict] = {}
    for setting in SETTINGS:
        for method in max((one[setting] for one in runs.values()), key=len):
            rows = [one[setting][method] for one in runs.values() if method in one[setting]]
            table.setdefault(setting, {})[method] = {
                name: {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}
                for name in rows[0]
                for values in [[row[name] for row in rows]]
            }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cells", type=int, default=40)
    parser.add_argument("--simple", action="store_true", help="leave out the models, which take minutes each")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", SclmWarning)
    cells = anndata.read_h5ad(Path(os.environ["SCLM_DATA"]) / DATA)
    controls = cells[cells.obs["perturbation"] == "control"].copy()
    results = {
        "settings": {"cells": arguments.cells, "levels": DATA, "steps": STEPS, "simulated": True},
        "machine": describe_machine(),
        "versions": package_versions("torch", "transformers", "scikit-learn", "numpy", "anndata"),
        "runs": {},
    }
    if arguments.output.exists():
        results["runs"] = json.loads(arguments.output.read_text(encoding="utf-8"))["runs"]
    models = {} if arguments.simple else MODELS
    for seed in arguments.seeds:
        done = results["runs"].get(str(seed))
        if done is None or not done[SETTINGS[0]].keys() >= set(models):
            results["runs"][str(seed)] = run(controls, seed, arguments.cells, models)
            arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    results["table"] = means(results["runs"])
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for setting, methods in results["table"].items():
        print(f"\n{setting}")
        for method, scores in methods.items():
            told = ", ".join(
                f"{name} {one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for name, one in scores.items()
            )
            print(f"{method:38} {told}")


if __name__ == "__main__":
    main()
