"""What the task-specific models are worth on real data, each beside the strongest simple methods for its task.

    SCLM_DATA=FOLDER python benchmarks/specialists.py --output benchmarks/results/specialists.json

The models are trained as published (`sclm_hf.fit`) unless the study's name says otherwise. Every study is run with
each seed, which is that of the model; a run that was stopped goes on there. The table gives means over seeds, and half
of the distance between the lowest and the highest where there are several.
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
    """The means, as a table in Markdown."""
    lines = []
    for model, of_model in runs.items():
        for study, records in of_model.items():
            found = [record["scores"] for record in records.values()]
            names = list(next(iter(found[0].values())))
            lines += ["", f"**{model}**: {study} ({len(found)} seeds)", "", f"| method | {' | '.join(names)} |"]
            lines.append("|---" * (len(names) + 1) + "|")
            for method in found[0]:
                lines.append(f"| {method} | {' | '.join(_cell([one[method] for one in found], n) for n in names)} |")
    return "\n".join(lines)


def _cell(scores: list[dict[str, float]], name: str) -> str:
    values = np.array([one.get(name, np.nan) for one in scores])
    if np.isnan(values).all():
        return ""
    spread = (values.max() - values.min()) / 2
    return f"{values.mean():.3f}" + (f" ± {spread:.3f}" if spread > 0 else "")


if __name__ == "__main__":
    main()
