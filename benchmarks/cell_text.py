"""How well models that read cells as text name the cells of a platform or donor that they never saw.

Data sets: `symphony`, PBMCs of three platforms, one of which is left out; and `balf`, lavage of three donors with
COVID-19, one of whom is left out. Labels with fewer than 15 cells are left out. Variants, each trained once per seed:

- `baselines`: PCA and z-scored logistic regression;
- `probe`: a probe on a small CellPLM that is pre-trained on other data sets (see `evidence.py`), and its partners;
- `text`: a new two-layer Llama that reads the names of genes, one token each, and chooses by likelihood;
- `retrieval`, `reasoning`: the same with labelled neighbours in its prompt, or which first says what rules say;
- `discrete`: the same that reads code words of a pre-trained scGPT, whose codebook is fitted to the training cells;
- `soft`: the same that reads soft tokens of the pre-trained CellPLM;
- `dual`: the pre-trained CellPLM and a small text encoder in a shared space, with a description of each label;
- `smollm2`: SmolLM2-135M with a LoRA (`--smollm2 FOLDER`, see README for how to get it);
- `generation`: the Llama writes cells of each type, which are judged.

    SCLM_DATA=../shared/data python benchmarks/cell_text.py --output benchmarks/results/cell_text.json

A variant of a data set and a seed is a piece. Each that is done lies in `--folder`, and what is there is not run
again; `--output` gets the scores of all pieces there, and keeps those that it holds of other variants. `--list` says
what is missing, with CPU minutes.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from cell_text_cases import DATA_SETS, LABEL, Case, cells_of
from cell_text_intervals import interval
from machine import describe_machine

from sclm_hf.corpora.labels.ontology import Ontology
from sclm_hf.evaluation.metrics import Predictions
from sclm_hf.evaluation.reports import compare
from sclm_hf.evaluation.text_metrics import calibration_scores

MINUTES = {
    "baselines": (0.1, 0.3),
    "probe": (1, 2),
    "text": (1, 2.5),
    "retrieval": (2.5, 4),
    "reasoning": (2, 4),
    "discrete": (1.5, 2),
    "soft": (1, 1.5),
    "dual": (0.5, 1),
    "generation": (3, 5),
    "smollm2": (10, 15),
}
"""Variant -> CPU minutes of a piece of each data set, roughly; the pre-training of an encoder included once."""

VARIANTS = ("baselines", "probe", "text", "retrieval", "reasoning", "discrete", "soft", "dual", "generation")
REFERENCES = ("PCA + LR", "z-scored LR")


def main() -> None:
    arguments = parse()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    settings = settings_of(arguments)
    pieces = [
        (name, variant, seed)
        for name in arguments.data
        for variant in arguments.variants
        # nothing in them is drawn
        for seed in (arguments.seeds[:1] if variant == "baselines" else arguments.seeds)
    ]
    missing = [one for one in pieces if not file_of(arguments, *one).exists()]
    for one in missing:
        if arguments.list:
            print(*one, f"about {minutes(*one[:2])} CPU minutes")
        else:
            run(arguments, settings, *one)
    if not arguments.list:
        report(arguments, settings)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(DATA_SETS), default=list(DATA_SETS))
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS, "smollm2"], default=VARIANTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of pre-training and training")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--genes", type=int, default=100, help="of a sentence")
    parser.add_argument("--projector_epochs", type=int, default=2, help="of `soft`")
    parser.add_argument("--written_cells", type=int, default=20, help="of `generation`: of each label")
    parser.add_argument("--smollm2", help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--smollm2_genes", type=int, default=40)
    parser.add_argument("--smollm2_steps", type=int, default=60)
    parser.add_argument("--max_steps", type=int, default=0, help="instead of epochs, to try a piece; 0 = none")
    parser.add_argument("--most_tested", type=int, default=0, help="cells that are labelled, to try a piece; 0 = all")
    parser.add_argument("--encoders", type=Path, default=Path("evidence"), help="pre-trained encoders")
    parser.add_argument("--folder", type=Path, default=Path("cell_text"), help="pieces")
    parser.add_argument("--list", action="store_true", help="only say which pieces are missing")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if "smollm2" in arguments.variants and not arguments.smollm2:
        parser.error("the variant smollm2 needs --smollm2 FOLDER")
    return arguments


def settings_of(arguments: argparse.Namespace) -> dict:
    """What changes the numbers of a piece."""
    names = ("epochs", "genes", "projector_epochs", "written_cells", "smollm2_genes", "smollm2_steps", "max_steps")
    return {name: getattr(arguments, name) for name in (*names, "most_tested")}


def file_of(arguments: argparse.Namespace, data: str, variant: str, seed: int) -> Path:
    """Where a piece is kept."""
    return arguments.folder / f"{data}-{variant}-{seed}.json"


def minutes(data: str, variant: str) -> str:
    """How long a piece takes, as far as it was measured."""
    return str(MINUTES[variant][list(DATA_SETS).index(data)]) if variant in MINUTES else "?"


def run(arguments: argparse.Namespace, settings: dict, data: str, variant: str, seed: int) -> None:
    """Train and judge a variant, and keep what it says."""
    # the libraries of training take long to open
    import cell_text_generation
    import cell_text_variants

    print(f"{data} {variant} {seed}", flush=True)
    started, machine = time.process_time(), describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        given = settings | {"encoders": str(arguments.encoders), "smollm2": arguments.smollm2}
        case = Case(DATA_SETS[data], seed, given, Path(folder))
        piece = {"settings": settings, "data": data, "variant": variant, "seed": seed, "machine": machine}
        if variant == "generation":
            piece["measures"] = cell_text_generation.generation(case)
        else:
            found = getattr(cell_text_variants, variant)(case)
            piece["methods"] = {method: np.round(scores, 4).tolist() for method, scores in found.items()}
    piece["cpu_seconds"] = round(time.process_time() - started, 1)
    print(f"{data} {variant} {seed}: {piece['cpu_seconds']:.0f} CPU seconds", flush=True)
    path = file_of(arguments, data, variant, seed)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(piece))
    unfinished.replace(path)


def report(arguments: argparse.Namespace, settings: dict) -> None:
    """Print, and write to `--output`, the scores of all pieces that lie in the folder."""
    pieces = [json.loads(path.read_text()) for path in sorted(arguments.folder.glob("*.json"))]
    if others := [one for one in pieces if one["settings"] != settings]:
        raise SystemExit(
            f"{arguments.folder} holds pieces of other settings, such as {others[0]['settings']}: give another "
            "--folder, or the same settings."
        )
    result = {"settings": settings, "data": {}}
    for name, data_set in DATA_SETS.items():
        if own := [one for one in pieces if one["data"] == name]:
            result["data"][name] = summary(data_set, own, settings)
            print(table(name, result["data"][name]))
    if arguments.output:
        if arguments.output.exists():
            add_earlier(result, json.loads(arguments.output.read_text()), str(arguments.output))
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def add_earlier(result: dict, before: dict, file: str) -> None:
    """Add to results what a file holds of variants and data sets without a piece."""
    if before["settings"] != result["settings"]:
        raise SystemExit(f"{file} holds results of other settings, {before['settings']}: give another --output.")
    for name, earlier in before["data"].items():
        found = result["data"].setdefault(name, earlier)
        for part in ("methods", "cpu_seconds"):
            found[part] = earlier[part] | found[part]
        found["machines"] += [one for one in earlier["machines"] if one not in found["machines"]]
        found["generation"] = found["generation"] or earlier["generation"]


def summary(data_set, pieces: list[dict], settings: dict) -> dict:
    """The scores of all methods on a data set."""
    train, test = cells_of(data_set, settings["most_tested"])
    truth, labels = test.obs[LABEL].to_numpy(str), sorted(set(train.obs[LABEL]))
    methods: dict[str, dict[int, np.ndarray]] = {}
    for piece in pieces:
        for method, scores in piece.get("methods", {}).items():
            methods.setdefault(method, {})[piece["seed"]] = np.array(scores)
    seconds = {piece["variant"]: [] for piece in pieces}
    for piece in pieces:
        seconds[piece["variant"]].append(piece["cpu_seconds"])
    return {
        "file": data_set.file.name,
        "test": f"{data_set.group} {data_set.test}",
        "n_train": train.n_obs,
        "n_test": test.n_obs,
        "labels": labels,
        "cpu_seconds": seconds,
        "machines": [piece["machine"] for piece in pieces],
        "methods": {method: scored(method, methods, truth, np.array(labels)) for method in methods},
        "generation": [
            {"seed": piece["seed"]} | piece["measures"] for piece in pieces if piece["variant"] == "generation"
        ],
    }


def scored(method: str, methods: dict[str, dict[int, np.ndarray]], truth: np.ndarray, labels: np.ndarray) -> dict:
    """Scores of a method over its seeds, with intervals over cells, and its differences from the baselines."""
    scores, ontology = methods[method], Ontology.load("blood")
    seeds = sorted(scores)
    alike = np.array([[ontology.similarity(one, other) for other in labels] for one in labels])
    numbers = np.searchsorted(labels, truth)
    probabilities = [np.exp(scores[seed]) / np.exp(scores[seed]).sum(axis=1, keepdims=True) for seed in seeds]

    def mean_of(measure) -> dict[str, float]:
        return interval(
            lambda rows: float(np.mean([measure(one[rows], numbers[rows]) for one in probabilities])), len(truth)
        )

    found = {
        "seeds": seeds,
        "ontology": mean_of(lambda one, true: alike[true, one.argmax(axis=1)].mean()),
        "ece": mean_of(lambda one, true: calibration_scores(one, true).ece),
        "brier": mean_of(lambda one, true: calibration_scores(one, true).brier),
    }
    compared = {method: predictions(scores, seeds, truth, labels)}
    for reference in REFERENCES:
        if reference in methods and reference != method:
            # baselines are the same whatever the seed
            only = next(iter(methods[reference].values()))
            compared[reference] = predictions(dict.fromkeys(seeds, only), seeds, truth, labels)
            for one in compare({name: compared[name] for name in (method, reference)}, reference=reference):
                if one.reference:
                    found[f"{one.metric} minus {reference}"] = {"mean": one.mean, "low": one.low, "high": one.high}
    for one in compare({method: compared[method]}):
        found[one.metric] = {"mean": one.mean, "low": one.low, "high": one.high, "per_seed": one.per_split}
    return found


def predictions(scores: dict[int, np.ndarray], seeds: list[int], truth: np.ndarray, labels: np.ndarray) -> list:
    cells = np.arange(len(truth))
    return [Predictions(f"seed {seed}", cells, truth, labels[scores[seed].argmax(axis=1)]) for seed in seeds]


def table(name: str, found: dict) -> str:
    """The scores as a markdown table."""
    columns = ("accuracy", "macro_f1", "ontology", "ece", "brier", "accuracy minus PCA + LR")
    lines = [f"| {name} | seeds | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    for method, scores in found["methods"].items():
        told = [
            "{mean:.3f} ({low:.3f} to {high:.3f})".format_map(scores[one]) if one in scores else "" for one in columns
        ]
        lines.append(f"| {method} | {len(scores['seeds'])} | " + " | ".join(told) + " |")
    for one in found["generation"]:
        for method in (key for key in one if key != "seed"):
            told = ", ".join(f"{measure} {value['mean']:.3f}" for measure, value in one[method].items())
            lines.append(f"\ngeneration, seed {one['seed']}, {method}: {told}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
