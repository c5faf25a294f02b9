"""What the task-specific models are worth on real data, each beside the strongest simple methods for its task.

    SCLM_DATA=FOLDER python benchmarks/specialists.py --output benchmarks/results/specialists.json

On a busy machine set `NUMBA_NUM_THREADS` as `OMP_NUM_THREADS`: what scanpy runs by numba takes as many threads as
there are cores, torch takes them over, and they wait for one another most of the time.

The models are trained as published (`sclm_hf.fit`) unless the study's name or its file says otherwise. Every study is
run with each seed, which is that of the model; a run that was stopped goes on there. The table that it prints gives
means over seeds with half of the distance between the lowest and the highest; of a single seed, the 95 % bootstrap
interval over cells (of STGRNS, over regulators) where the study has one. All scores of all methods are in the file.
"""

import argparse
import importlib
import json
import pkgutil
import time
import warnings
from pathlib import Path

import numpy as np
import specialist_studies
from machine import describe_machine

from sclm_hf.errors import SclmWarning
from sclm_hf.versions import package_versions

SCORES = (
    "auprc_ratio",
    "auroc",
    "macro_f1",
    "pearson_of_proteins",
    "pearson_of_hidden_reads",
    "F1 of rare types",
    "ari",
    "ARI",
    "coherence",
)
"""The table shows the first of these that a study has; high is good."""


def studies() -> dict[str, dict]:
    """Model -> study -> function of the seed."""
    names = sorted(module.name for module in pkgutil.iter_modules(specialist_studies.__path__))
    return {name: importlib.import_module(f"specialist_studies.{name}").STUDIES for name in names}


def main() -> None:
    known = studies()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(known), default=list(known))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", SclmWarning)
    done = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    done["machine"] = describe_machine()
    done["versions"] = package_versions("torch", "transformers", "scikit-learn", "scanpy", "numpy", "anndata")
    runs = done.setdefault("runs", {})
    for model in arguments.models:
        for study, run in known[model].items():
            for seed in arguments.seeds:
                records = runs.setdefault(model, {}).setdefault(study, {})
                if str(seed) in records:
                    continue
                start = time.perf_counter()
                scores = run(seed)
                records[str(seed)] = {"seconds": round(time.perf_counter() - start, 1), "scores": scores}
                arguments.output.write_text(json.dumps(done, indent=1) + "\n")
                print(f"{model}: {study}, seed {seed}: {records[str(seed)]['seconds']:.0f} s", flush=True)
    print(table(runs))


def table(runs: dict) -> str:
    """A row for each study, in Markdown: the strongest simple method, and the model; the better one is bold."""
    lines = ["| model | study | score | strongest simple method | the model |", "|---|---|---|---|---|"]
    for model, of_model in sorted(runs.items()):
        for study, records in sorted(of_model.items()):
            found = [record["scores"] for record in records.values()]
            *simple, own = found[0]
            name = next(one for one in SCORES if one in found[0][own])

            def mean(method: str, found: list = found, name: str = name) -> float:
                return round(float(np.mean([one[method][name] for one in found])), 3)

            best = max((method for method in simple if name in found[0][method]), key=mean)
            shown = [_cell([one[method] for one in found], name) for method in (best, own)]
            if mean(best) != mean(own):
                place = int(mean(own) > mean(best))
                shown[place] = f"**{shown[place]}**"
            seeds = "" if len(found) == 1 else f"; {len(found)} seeds"
            escaped = best.replace("|", "\\|")
            lines.append(f"| `{model}` | {study}{seeds} | {name} | {escaped}: {shown[0]} | {shown[1]} |")
    return "\n".join(lines)


def _cell(scores: list[dict[str, float]], name: str) -> str:
    """The mean with half of the distance between the lowest and the highest; of a single seed, with its interval."""
    values = np.array([one[name] for one in scores])
    if np.ptp(values) > 0:
        return f"{values.mean():.3f} ± {np.ptp(values) / 2:.3f}"
    ends = [scores[0].get(f"{name}_{end}") for end in ("low", "high")]
    return f"{values.mean():.3f}" + ("" if None in ends else f" ({ends[0]:.3f} to {ends[1]:.3f})")


if __name__ == "__main__":
    main()
