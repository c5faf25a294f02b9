"""The main job once, on real cells that come with the dependencies.

    make demo
    python training_scripts/demo.py --output demo_output
    python training_scripts/demo.py --output demo_output --quick    # the same way with fewer splits and steps

1. writes two `.h5ad` files: 700 labelled PBMCs (scanpy) and 559 whole-transcriptome immune cells (celltypist);
2. makes sure that the small checkpoint of the repository has seen none of them, and embeds the PBMCs with it;
3. teaches it cell types with `finetune --head probe`, from five labels per type and from four fifths of the cells, on
   five draws each, and likewise its untrained twin;
4. compares them with three linear methods on the same cells;
5. saves an annotator with card and pictures, and reloads it in a fresh process;
6. pre-trains a small model of its own for a minute, to show how that goes.
"""

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from importlib.metadata import distribution, version
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse
import yaml
from rich.console import Console
from rich.table import Table
from transformers import AutoModel, AutoModelForSequenceClassification, AutoProcessor, AutoTokenizer
from transformers.utils import logging

from sclm_hf import CellCorpus, annotate, embed
from sclm_hf.app.cells import built_in_cells
from sclm_hf.corpora.training_manifest import TrainingManifest, read_manifest
from sclm_hf.evaluation.baselines.baseline import predict_splits
from sclm_hf.evaluation.baselines.linear import (
    PCALogisticRegression,
    ScaledPCALogisticRegression,
    ZScoredLogisticRegression,
)
from sclm_hf.evaluation.collapse import measure_collapse
from sclm_hf.evaluation.metrics import Predictions, class_scores, confusion_matrix
from sclm_hf.evaluation.plots import plot_cells, plot_confusion, plot_training, umap_layout
from sclm_hf.evaluation.reports import ResultsTable, compare
from sclm_hf.evaluation.splits import Split, few_shot_splits, stratified_splits
from sclm_hf.hub.card import CardFacts, TrainingData, write_card
from sclm_hf.tasks.files.h5ad import write_h5ad
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.finetune import finetune
from sclm_hf.training.loop import TrainingResult
from sclm_hf.training.pretrain import pretrain
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments
from sclm_hf.training.settings.pretrain import PretrainArguments
from sclm_hf.versions import package_versions

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "model_cards" / "checkpoints" / "scgpt-blood-small"
UNTRAINED = CHECKPOINT.with_name(f"{CHECKPOINT.name}-untrained")
RECIPE = ROOT / "training_scripts" / "recipes" / "pretrain_scgpt_small.yaml"
EMBEDDING = "X_scgpt"
PER_LABEL = 5
SAVED = "probe with partners, as saved"
MODEL, TWIN = "pre-trained, probe alone", "untrained twin, probe alone"
BASELINES = {
    "PCA + logistic regression": PCALogisticRegression(),
    "scaled PCA + logistic regression": ScaledPCALogisticRegression(),
    "z-scored logistic regression": ZScoredLogisticRegression(),
}
FEW, ALL = f"{PER_LABEL} labels per type", "80 % of the labels"
LIMITS = [
    "A demonstration of the whole way: small, trained for minutes, not meant for research.",
    "The labelled cells are of one donor and one platform, and their file holds 765 genes.",
]
console = Console()


@dataclass(frozen=True)
class Extent:
    """How much is done.

    Attributes:
        seeds: a draw of the labels each.
        steps: of pre-training the model of its own.
        command: the command that does this much.
    """

    seeds: tuple[int, ...] = tuple(range(100, 105))
    steps: int = 60
    command: str = "make demo"


QUICK = Extent((100, 101), 4, "python training_scripts/demo.py --quick")


def write_cells(folder: Path) -> dict[str, Path]:
    """Write the two data sets as raw counts."""
    folder.mkdir(parents=True)
    pbmc = built_in_cells()
    pbmc.write_h5ad(folder / "pbmc68k.h5ad")

    # found without importing celltypist, which would set up logging for the whole process
    sample = distribution("celltypist").locate_file("celltypist/data/samples/sample_cell_by_gene.csv")
    table = pd.read_csv(str(sample), index_col=0)
    immune = anndata.AnnData(table.astype("float32"))
    immune.X = scipy.sparse.csr_matrix(immune.X)
    immune.obs["batch"] = "celltypist"
    immune.write_h5ad(folder / "celltypist.h5ad")
    return {"pbmc68k": folder / "pbmc68k.h5ad", "celltypist": folder / "celltypist.h5ad"}


def refuse_seen(paths: dict[str, Path], checkpoint: Path) -> None:
    """Make sure that a checkpoint was trained on none of the cells."""
    cells = TrainingManifest.of(CellCorpus(paths, AutoProcessor.from_pretrained(checkpoint), shuffle=False))
    if seen := int(read_manifest(str(checkpoint)).holds(cells.datasets, cells.cells, cells.counts).sum()):
        raise SystemExit(f"{checkpoint} was trained on {seen} of the demo's cells: it shows nothing here.")


def teach(base: Path, cells: anndata.AnnData, folder: Path, *, partners: bool, seed: int) -> None:
    """What `sclm-hf finetune --head probe` does: a probe learns the labels of `cells`; the model stays as it is."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".h5ad")
    cells.write_h5ad(file)
    finetune(
        DataArguments(train_files=[str(file)]),
        FinetuneArguments(str(base), label_column="cell_type", head="probe", partners=partners),
        TrainingConfig(output_dir=str(folder), use_cpu=True, seed=seed),
    )


def compare_on_splits(
    runs: Path, cells: anndata.AnnData, splits: list[Split], extent: Extent, name: str
) -> tuple[ResultsTable, dict[str, list[Predictions]]]:
    """Scores and predictions of the model, its twin and the baselines for the test cells of every split."""
    labels = cells.obs["cell_type"].to_numpy(str)
    simple = {title: predict_splits(method, cells.X, labels, splits) for title, method in BASELINES.items()}
    methods = {SAVED: [], MODEL: [], TWIN: []}
    for seed, split in zip(extent.seeds, splits, strict=True):
        folders = {SAVED: runs / f"pretrained-{seed}", TWIN: runs / f"untrained-{seed}"}
        teach(CHECKPOINT, cells[split.train], folders[SAVED], partners=True, seed=seed)
        teach(UNTRAINED, cells[split.train], folders[TWIN], partners=False, seed=seed)
        for method in methods:
            tested = annotate(cells[split.test], folders.get(method, folders[SAVED]), partners=method == SAVED)
            predicted = tested.obs["sclm_prediction"].to_numpy(str)
            methods[method].append(Predictions(split.name, split.test, labels[split.test], predicted))
    table = ResultsTable(
        dataset=f"PBMC 68k reduced, {name}",
        dataset_version=f"scanpy {version('scanpy')}",
        task="Cell type annotation",
        results=compare_all(methods | simple),
        seeds=extent.seeds,
        versions=package_versions("torch", "transformers", "scikit-learn", "scanpy"),
        notes=[
            f"Every draw trains anew on {len(splits[0].train)} cells and tests {len(splits[0].test)}; pre-training "
            "saw none of the 700, as its manifest shows.",
            "The untrained twin is the same model before its first step, its gene embeddings started in the same way.",
        ],
    )
    return table, methods


def compare_all(methods: dict[str, list[Predictions]]) -> list:
    """Scores; then what is saved minus the strongest baseline, and the model minus its twin, on the same cells."""
    results = compare(methods)
    scores = {one.method: one.mean for one in results if one.metric == "macro_f1"}
    strongest = max(BASELINES, key=scores.get)
    for method, reference in ((SAVED, strongest), (MODEL, TWIN)):
        both = {one: methods[one] for one in (method, reference)}
        results += [one for one in compare(both, reference=reference) if one.reference]
    return results


def pretrain_own(paths: dict[str, Path], folder: Path, steps: int) -> TrainingResult:
    """A new small model learns without labels, from two views of each cell; its embedding is tested as it goes."""
    recipe = yaml.safe_load(RECIPE.read_text())
    return pretrain(
        DataArguments(train_files=[str(paths["celltypist"])], eval_files=[str(paths["pbmc68k"])], augment="{}"),
        PretrainArguments(
            family="scgpt",
            model_config=recipe["model_config"],
            encoding=recipe["encoding"],
            max_genes=recipe["max_genes"],
            gene_embeddings="svd",
            objective="contrastive",
            probe_column=["cell_type"],
            stop_on_collapse=False,
        ),
        TrainingConfig(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=64,
            per_device_eval_batch_size=128,
            learning_rate=1e-3,
            warmup_steps=0.1,
            logging_steps=max(steps // 25, 1),
            eval_steps=max(steps // 5, 1),
            load_best_model_at_end=False,
            use_cpu=True,
        ),
    )


def draw(plots: Path, cells: anndata.AnnData, methods: dict[str, dict], splits: dict[str, list[Split]]) -> None:
    """UMAPs of the embeddings and confusion matrices."""
    labels = cells.obs["cell_type"].to_numpy(str)
    few = np.isin(np.arange(cells.n_obs), splits[FEW][0].train)
    places = umap_layout(cells.obsm[EMBEDDING])
    plot_cells(places, labels, plots / "umap_pretrained.png", title="Pre-trained, no label of these cells", marked=few)
    twin = umap_layout(cells.obsm["X_untrained"])
    plot_cells(twin, labels, plots / "umap_untrained.png", title="The same model before its first step", marked=few)
    plot_cells(
        places,
        cells.obs["sclm_prediction"].to_numpy(str),
        plots / "umap_predicted.png",
        title="Labels that the saved annotator gives",
        marked=np.isin(np.arange(cells.n_obs), splits[ALL][0].train),
    )
    names = sorted(set(labels))
    for file, name in (("few", FEW), ("all", ALL)):
        times = np.bincount(np.concatenate([split.test for split in splits[name]]), minlength=cells.n_obs)
        plot_confusion(
            confusion_matrix(methods[name][SAVED], names),
            names,
            plots / f"confusion_{file}.png",
            title=f"{SAVED.capitalize()}: {name}",
            note=f"{len(splits[name])} draws; {(times > 0).sum()} of {cells.n_obs} cells were tested, each "
            f"{times[times > 0].min()} to {times.max()} times",
        )


def describe(
    output: Path, tables: list[ResultsTable], tested: list[Predictions], n_cells: int, extent: Extent
) -> None:
    """Write the card of the annotator."""
    base = CardFacts.load(CHECKPOINT / "card_facts.json")
    pbmc = TrainingData("pbmc68k, probe and partners", n_cells, 765, f"scanpy {version('scanpy')}", "BSD-3-Clause")
    facts = CardFacts(
        title="PBMC cell types by a small scGPT",
        family="scgpt",
        license="apache-2.0",
        summary=f"A probe on the frozen checkpoint `{CHECKPOINT.name}`, with linear partners, for PBMC cell types.",
        task="annotate",
        model=str(output / "annotator"),
        training_data=[*base.training_data, pbmc],
        label_names=sorted(set(tested[0].true)),
        settings={"head": "probe", "checkpoint": f"the run of seed {extent.seeds[0]}, {ALL}"},
        results=tables,
        evaluated_method=SAVED,
        class_scores=class_scores(tested),
        pictures={
            "plots/confusion_all.png": f"What was taken for what, {ALL}",
            "plots/confusion_few.png": f"What was taken for what, {FEW}",
            "plots/umap_pretrained.png": "The embedding, coloured by the published labels",
            "plots/umap_untrained.png": "The embedding of the untrained twin",
            "plots/umap_predicted.png": "The embedding, coloured by the labels that this annotator gives",
            "plots/own_pretraining.png": "Another small model, pre-trained for a minute without labels",
        },
        command=extent.command,
        limits=[*LIMITS, f"The labels are scored one by one with {ALL}."],
    )
    write_card(facts, output / "annotator")


def reload(output: Path) -> None:
    """Open everything through Auto classes and compare with what was predicted before; runs in a fresh process."""
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    cells = anndata.read_h5ad(output / "annotated.h5ad")
    folder = output / "annotator"
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    classifier = AutoModelForSequenceClassification.from_pretrained(folder)
    alone = annotate(cells, folder, partners=False).obsm["sclm_probabilities"]
    again = {
        "AutoModel": embed(cells, AutoModel.from_pretrained(folder), processor).obsm[EMBEDDING]
        - cells.obsm[EMBEDDING],
        "AutoModelForSequenceClassification": annotate(cells, classifier, processor, partners=False).obsm[
            "sclm_probabilities"
        ]
        - alone,
        "with partners": annotate(cells, folder).obsm["sclm_probabilities"] - cells.obsm["sclm_probabilities"],
    }
    for name, difference in again.items():
        if np.abs(difference).max() > 1e-5:
            raise SystemExit(f"{name} gives other results after reloading: {np.abs(difference).max():.1e} apart.")
        console.print(f"  {name}: the same to {np.abs(difference).max():.0e}")


def main(output: Path, extent: Extent) -> None:
    started = time.perf_counter()
    os.environ.setdefault("SCLM_NO_PROGRESS", "1")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)

    def say(text: str) -> None:
        console.print(f"[bold cyan]{time.perf_counter() - started:4.0f} s[/]  {text}")

    if output.exists() and not (output / "data" / "pbmc68k.h5ad").exists():
        raise SystemExit(f"{output} exists and is not the output of an earlier demo: name another folder.")
    shutil.rmtree(output, ignore_errors=True)
    say("Writing two data sets of real cells")
    paths = write_cells(output / "data")
    cells = anndata.read_h5ad(paths["pbmc68k"])
    labels = cells.obs["cell_type"].to_numpy(str)

    say(f"Embedding with {CHECKPOINT.name}, which has seen none of these cells")
    refuse_seen(paths, CHECKPOINT)
    cells = embed(cells, CHECKPOINT, key_added=EMBEDDING)
    cells = embed(cells, UNTRAINED, key_added="X_untrained")
    for name, key in (("pre-trained", EMBEDDING), ("untrained twin", "X_untrained")):
        console.print(f"  {name}: effective rank {measure_collapse(cells.obsm[key]).effective_rank:.1f}")

    splits = {
        FEW: few_shot_splits(labels, per_label=PER_LABEL, seeds=extent.seeds),
        ALL: stratified_splits(labels, seeds=extent.seeds),
    }
    tables, methods = {}, {}
    for name, some in splits.items():
        say(f"Teaching cell types: {name}, {len(some)} draws, pre-trained and untrained")
        tables[name], methods[name] = compare_on_splits(output / "runs" / name, cells, some, extent, name)
        content = {name: dataclasses.asdict(table) for name, table in tables.items()}
        (output / "results.json").write_text(json.dumps(content, indent=2) + "\n")
    shutil.copytree(output / "runs" / ALL / f"pretrained-{extent.seeds[0]}", output / "annotator")
    shutil.rmtree(output / "runs")

    say("Annotating, pictures and card")
    cells = annotate(cells, output / "annotator")
    write_h5ad(cells, output / "annotated.h5ad")
    plots = output / "annotator" / "plots"
    draw(plots, cells, methods, splits)

    say("Pre-training a small model of its own, without labels")
    own = pretrain_own(paths, output / "own_model", extent.steps)
    plot_training(own.history, plots / "own_pretraining.png", title="Without labels, on 559 cells")
    describe(output, list(tables.values()), methods[ALL][SAVED], len(splits[ALL][0].train), extent)

    say("Reloading everything in a fresh process")
    subprocess.run([sys.executable, __file__, "--output", str(output), "--reload"], check=True)
    say("Done")
    summarize(output, tables)


def summarize(output: Path, tables: dict[str, ResultsTable]) -> None:
    """Print what was measured and where everything lies."""
    for table in tables.values():
        console.print(table.to_rich())
    places = Table(title="Where everything lies", title_justify="left", show_header=False)
    for place, what in {
        "data/": "the two data sets as .h5ad",
        "annotator/": "the annotator: safetensors, tokenizer, processor, partners, manifest, card, .eval_results",
        "annotator/plots/": "UMAPs, confusion matrices, loss and probe of pre-training",
        "own_model/": "the model that was pre-trained for a minute, to show how that goes",
        "annotated.h5ad": "the PBMCs with embeddings, predictions and provenance",
        "results.json": "the numbers above",
    }.items():
        places.add_row(str(output / place), what)
    console.print(places)
    # nothing has put the environment's commands on the PATH
    example = [Path(sys.executable).with_name("sclm-hf"), "annotate", output / "data" / "pbmc68k.h5ad", "out.h5ad"]
    example += ["--model", output / "annotator"]
    console.print(f"Next: {shlex.join(map(str, example))}", soft_wrap=True, markup=False, highlight=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder to write or replace")
    parser.add_argument("--quick", action="store_true", help="fewer draws and steps: shows that everything runs")
    parser.add_argument("--reload", action="store_true", help="only check the results of an earlier run")
    arguments = parser.parse_args()
    if arguments.reload:
        reload(arguments.output)
    else:
        main(arguments.output, QUICK if arguments.quick else Extent())
