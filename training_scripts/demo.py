"""The whole way once, on real cells that come with the dependencies.

    make demo
    python training_scripts/demo.py --output demo_output
    python training_scripts/demo.py --output demo_output --quick    # the same way in few steps; learns nothing

1. writes two `.h5ad` files: 700 labelled PBMCs (scanpy) and 559 whole-transcriptome immune cells (celltypist);
2. pre-trains a small scGPT on the cells that no split tests;
3. on five seeded splits teaches it cell types with LoRA, and likewise its twin with random weights;
4. compares both with logistic regression on z-scored counts, the strongest simple method, on the same splits;
5. saves a checkpoint folder with card, plots and adapter, and reloads all of it in a fresh process.
"""

import argparse
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
import scanpy
import scipy.sparse
from rich.console import Console
from rich.table import Table
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
    set_seed,
)
from transformers.utils import logging

from sclm_hf import (
    CellCorpus,
    CellProcessor,
    ExpressionFeatureExtractor,
    GeneTokenizer,
    ScGPTConfig,
    ScGPTForMaskedExpression,
    ScGPTForSequenceClassification,
    annotate,
    embed,
)
from sclm_hf.adapters.lora import add_lora
from sclm_hf.evaluation.baselines.baseline import predict_splits
from sclm_hf.evaluation.baselines.linear import ZScoredLogisticRegression
from sclm_hf.evaluation.metrics import Predictions, confusion_matrix
from sclm_hf.evaluation.plots import plot_cells, plot_confusion, plot_loss, umap_layout
from sclm_hf.evaluation.reports import ResultsTable, compare
from sclm_hf.evaluation.splits import Split, stratified_splits
from sclm_hf.hub.card import CardFacts, TrainingData, write_card
from sclm_hf.objectives.cell_classification import CellClassificationCollator
from sclm_hf.objectives.generative_expression import GenerativeExpressionCollator
from sclm_hf.tasks.files.h5ad import write_h5ad
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.loop import train
from sclm_hf.versions import package_versions

BATCH_SIZE = 16
MAX_LENGTH = 128
ARCHITECTURE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    # on a CPU, attention with dropout takes four times as long
    "hidden_dropout_prob": 0.0,
}
MODEL, TWIN, BASELINE = "scGPT + LoRA", "untrained twin + LoRA", "z-scored logistic regression"
LIMITS = [
    "A demonstration of the whole way: small, trained for minutes, not meant for research.",
    "Immune cells of two small data sets only; one donor has the labelled cells.",
    f"The labelled data hold 765 genes; of a cell at most {MAX_LENGTH - 1} expressed genes are read, drawn at random.",
    "Settings were chosen on the splits of seeds 0 to 14, which divide the same 700 cells in other ways.",
]
console = Console()


@dataclass(frozen=True)
class Extent:
    """How much is done.

    Attributes:
        seeds: one split each. Settings were chosen on the splits of seeds 0 to 14, so the numbers come from others.
        pretraining_steps: batches that the model is pre-trained on.
        finetuning_epochs: how often fine-tuning sees its cells.
        command: the command that does this much.
    """

    seeds: tuple[int, ...] = tuple(range(100, 105))
    pretraining_steps: int = 800
    finetuning_epochs: int = 10
    command: str = "make demo"


QUICK = Extent((100, 101), 20, 1, "python training_scripts/demo.py --quick")


def write_cells(folder: Path) -> dict[str, Path]:
    """Write the two data sets as raw counts."""
    folder.mkdir(parents=True)
    reduced = scanpy.datasets.pbmc68k_reduced()
    # raw.X is log1p of counts scaled to 10,000 per cell; undoing that gives whole numbers to within 0.1 %
    scaled = np.expm1(reduced.raw.X.toarray().astype("float64"))
    counts = np.rint(scaled * reduced.obs["n_counts"].to_numpy()[:, None] / 1e4)
    labels = pd.DataFrame({"cell_type": reduced.obs["bulk_labels"].astype(str)})
    pbmc = anndata.AnnData(scipy.sparse.csr_matrix(counts.astype("float32")), labels, reduced.raw.var[[]])
    pbmc.write_h5ad(folder / "pbmc68k.h5ad")

    # found without importing celltypist, which would set up logging for the whole process
    sample = distribution("celltypist").locate_file("celltypist/data/samples/sample_cell_by_gene.csv")
    table = pd.read_csv(str(sample), index_col=0)
    immune = anndata.AnnData(table.astype("float32"))
    immune.X = scipy.sparse.csr_matrix(immune.X)
    immune.write_h5ad(folder / "celltypist.h5ad")
    return {"pbmc68k": folder / "pbmc68k.h5ad", "celltypist": folder / "celltypist.h5ad"}


def make_processor(paths: dict[str, Path]) -> CellProcessor:
    """Genes that ten cells of a data set express, and scGPT's published encoding with shorter cells."""
    genes = set()
    for path in paths.values():
        cells = anndata.read_h5ad(path)
        genes.update(cells.var_names[cells.X.getnnz(axis=0) >= 10])
    extractor = ExpressionFeatureExtractor.for_family("scgpt", max_length=MAX_LENGTH)
    return CellProcessor(extractor, GeneTokenizer.from_genes(sorted(genes)))


def make_model(processor: CellProcessor) -> ScGPTForMaskedExpression:
    """A small scGPT with random weights."""
    set_seed(0)
    vocabulary = processor.tokenizer.gene_vocabulary
    special = {"pad_token_id": vocabulary["<pad>"], "cls_token_id": vocabulary["<cls>"]}
    return ScGPTForMaskedExpression(ScGPTConfig(vocab_size=vocabulary.size, **special, **ARCHITECTURE))


def pretrain(model: ScGPTForMaskedExpression, corpus: CellCorpus, folder: Path, steps: int):
    """Generative pre-training: from some genes of a cell, predict the values of the others."""
    config = TrainingConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=1e-3,
        warmup_steps=0.1,
        logging_steps=10,
    )
    collator = GenerativeExpressionCollator.from_processor(corpus.processor)
    return train(model, corpus, collator, config, processor=corpus.processor)


def finetune(
    base: Path, path: Path, rows: np.ndarray, label_names: list[str], folder: Path, *, seed: int, epochs: int
):
    """Teach the model saved in `base` the labels of some cells, with LoRA on its attention.

    Classifier and gene embeddings are trained in full: a few hundred cells teach a model little about its genes.
    """
    set_seed(seed)
    model = ScGPTForSequenceClassification.from_pretrained(
        base, id2label=dict(enumerate(label_names)), label2id={name: i for i, name in enumerate(label_names)}
    )
    processor = CellProcessor.from_pretrained(base)
    corpus = CellCorpus(
        {"pbmc68k": path},
        processor,
        label_column="cell_type",
        label_names=label_names,
        rows={"pbmc68k": rows},
        seed=seed,
    )
    config = TrainingConfig(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=2e-3,
        warmup_steps=0.1,
        logging_steps=5,
        seed=seed,
    )
    collator = CellClassificationCollator.from_processor(processor, num_labels=len(label_names))
    return train(add_lora(model, train_gene_embeddings=True), corpus, collator, config, processor=processor)


def compare_on_splits(output: Path, path: Path, cells: anndata.AnnData, splits: list[Split], extent: Extent):
    """Predictions of the model, its twin and the baseline for the test cells of every split."""
    labels = cells.obs["cell_type"].to_numpy(str)
    label_names = sorted(set(labels))
    methods = {MODEL: [], TWIN: [], BASELINE: predict_splits(ZScoredLogisticRegression(), cells.X, labels, splits)}
    history = []
    for seed, split in zip(extent.seeds, splits, strict=True):
        for method, base in ((MODEL, output / "pretrained"), (TWIN, output / "untrained")):
            # beside `checkpoint`: the adapter names its base by the way from here
            folder = output / f"run-{base.name}-{seed}"
            epochs = extent.finetuning_epochs
            result = finetune(base, path, split.train, label_names, folder, seed=seed, epochs=epochs)
            predicted = annotate(cells[split.test], folder).obs["sclm_prediction"].to_numpy(str)
            methods[method].append(Predictions(split.name, split.test, labels[split.test], predicted))
            history = history or result.history
    first = output / f"run-pretrained-{extent.seeds[0]}"
    shutil.copytree(first, output / "checkpoint", ignore=shutil.ignore_patterns("checkpoints"))
    for folder in output.glob("run-*"):
        shutil.rmtree(folder)
    table = ResultsTable(
        dataset="PBMC 68k reduced",
        dataset_version=f"scanpy {version('scanpy')}",
        task="Cell type annotation",
        results=[
            *compare(methods, reference=BASELINE),
            *(one for one in compare({MODEL: methods[MODEL], TWIN: methods[TWIN]}, reference=TWIN) if one.reference),
        ],
        seeds=extent.seeds,
        versions=package_versions("torch", "transformers", "peft", "accelerate", "scikit-learn", "scanpy"),
        notes=[
            "Every split trains anew on 560 cells and tests 140; pre-training saw no cell that any split tests.",
            f"The checkpoint is the run of seed {extent.seeds[0]}.",
            "The untrained twin differs in one thing: its weights were not pre-trained.",
        ],
    )
    return table, methods, history


def draw(output: Path, cells: anndata.AnnData, methods: dict, pretraining: list[dict], finetuning: list[dict]) -> None:
    """Loss curves, UMAP of the embeddings and confusion matrix."""
    plots = output / "checkpoint" / "plots"
    for name, history in (("pre-training", pretraining), ("fine-tuning", finetuning)):
        curve = [record["step"] for record in history], [record["loss"] for record in history]
        plot_loss({"training loss": curve}, plots / f"loss_{name}.png", title=name.capitalize())
    labels = cells.obs["cell_type"].to_numpy(str)
    for name, key, title in (
        ("pre-trained", "X_pretrained", "Pre-trained, no labels seen"),
        ("fine-tuned", "X_scgpt", "Fine-tuned on 560 of these cells"),
    ):
        plot_cells(umap_layout(cells.obsm[key]), labels, plots / f"umap_{name}.png", title=title)
    matrix = confusion_matrix(methods[MODEL], sorted(set(labels)))
    plot_confusion(
        matrix,
        sorted(set(labels)),
        plots / "confusion_matrix.png",
        title=f"Test cells of {len(methods[MODEL])} splits",
    )


def describe(output: Path, corpus: CellCorpus, table: ResultsTable, label_names: list[str], extent: Extent) -> None:
    """Write the cards of the pre-trained model and of the checkpoint."""
    pbmc = f"scanpy {version('scanpy')}", "BSD-3-Clause"
    sources = {"pbmc68k": pbmc, "celltypist": (f"celltypist {version('celltypist')}", "MIT")}
    data = [
        TrainingData(f"{source.name}, pre-training", n_cells, source.n_genes, *sources[source.name])
        for source, n_cells in zip(corpus.sources, corpus.sizes, strict=True)
    ]
    common = {
        "family": "scgpt",
        "license": "apache-2.0",
        "coverage": {name: coverage.to_dict() for name, coverage in corpus.coverage.items()},
        "settings": {**ARCHITECTURE, "max_length": MAX_LENGTH, "pre-training steps": extent.pretraining_steps},
        "command": extent.command,
        "limits": LIMITS,
    }
    pretrained = CardFacts(
        title="Small scGPT, pre-trained",
        summary="A small scGPT pre-trained from scratch on a few hundred immune cells.",
        model=str(output / "pretrained"),
        training_data=data,
        **common,
    )
    write_card(pretrained, output / "pretrained")
    tuned = {
        "fine-tuning epochs": extent.finetuning_epochs,
        "LoRA rank": 8,
        "trained in full": "classifier, gene embeddings",
    }
    annotator = CardFacts(
        title="Small scGPT for PBMC cell types",
        summary="A small scGPT, pre-trained from scratch and adapted with LoRA to ten PBMC cell types. The adapter "
        "merged into the model is here, the adapter alone in `adapter/`.",
        task="annotate",
        model=str(output / "checkpoint"),
        training_data=[*data, TrainingData("pbmc68k, fine-tuning", 560, 765, *pbmc)],
        label_names=label_names,
        results=[table],
        evaluated_method=MODEL,
        **{**common, "settings": {**common["settings"], **tuned}},
    )
    write_card(annotator, output / "checkpoint")


def reload(output: Path) -> None:
    """Open everything through Auto classes and compare with what was predicted before; runs in a fresh process."""
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    cells = anndata.read_h5ad(output / "annotated.h5ad")
    AutoModelForPreTraining.from_pretrained(output / "pretrained")
    folder = output / "checkpoint"
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    again = {
        "AutoModel": embed(cells, AutoModel.from_pretrained(folder), processor).obsm["X_scgpt"] - cells.obsm["X_scgpt"]
    }
    classifier = AutoModelForSequenceClassification.from_pretrained(folder)
    for name, model in (("AutoModelForSequenceClassification", classifier), ("base + adapter", folder / "adapter")):
        probabilities = annotate(cells, model, processor).obsm["sclm_probabilities"]
        again[name] = probabilities - cells.obsm["sclm_probabilities"]
    for name, difference in again.items():
        if np.abs(difference).max() > 1e-5:
            raise SystemExit(f"{name} gives other results after reloading: {np.abs(difference).max():.1e} apart.")
        console.print(f"  {name}: the same to {np.abs(difference).max():.0e}")


def main(output: Path, extent: Extent) -> None:
    started = time.perf_counter()
    # new classifiers would be reported each time; the FutureWarning is about peft's use of transformers
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)

    def say(text: str) -> None:
        console.print(f"[bold cyan]{time.perf_counter() - started:4.0f} s[/]  {text}")

    if output.exists() and not (output / "data" / "pbmc68k.h5ad").exists():
        raise SystemExit(f"{output} exists and is not the output of an earlier demo: name another folder.")
    shutil.rmtree(output, ignore_errors=True)
    say("Writing two data sets of real cells")
    paths = write_cells(output / "data")
    cells = anndata.read_h5ad(paths["pbmc68k"])
    splits = stratified_splits(cells.obs["cell_type"], seeds=extent.seeds)

    untested = np.setdiff1d(np.arange(cells.n_obs), np.concatenate([split.test for split in splits]))
    corpus = CellCorpus(paths, make_processor(paths), rows={"pbmc68k": untested})
    say(f"Pre-training a small scGPT on {len(corpus)} cells that no split tests")
    model = make_model(corpus.processor)
    model.save_pretrained(output / "untrained")
    corpus.processor.save_pretrained(output / "untrained")
    pretraining = pretrain(model, corpus, output / "pretrained", extent.pretraining_steps)

    logging.disable_progress_bar()
    say(f"Teaching cell types with LoRA: {len(splits)} splits, pre-trained and untrained")
    table, methods, finetuning = compare_on_splits(output, paths["pbmc68k"], cells, splits, extent)

    say("Embedding, annotating, plots and cards")
    cells = embed(cells, output / "pretrained", key_added="X_pretrained")
    cells = annotate(embed(cells, output / "checkpoint"), output / "checkpoint")
    write_h5ad(cells, output / "annotated.h5ad")
    draw(output, cells, methods, pretraining.history, finetuning)
    describe(output, corpus, table, sorted(set(cells.obs["cell_type"])), extent)
    table.save(output / "results.json")

    say("Reloading everything in a fresh process")
    subprocess.run([sys.executable, __file__, "--output", str(output), "--reload"], check=True)
    say("Done")
    summarize(output, table)


def summarize(output: Path, table: ResultsTable) -> None:
    """Print what was measured and where everything lies."""
    console.print(table.to_rich())
    places = Table(title="Where everything lies", title_justify="left", show_header=False)
    for place, what in {
        "data/": "the two data sets as .h5ad",
        "pretrained/": "the pre-trained model: safetensors, tokenizer, processor, card",
        "checkpoint/": "the annotator: safetensors, tokenizer, processor, card, .eval_results",
        "checkpoint/adapter/": "its LoRA adapter alone",
        "checkpoint/plots/": "loss curves, UMAPs, confusion matrix",
        "annotated.h5ad": "the PBMCs with embeddings, predictions and provenance",
        "results.json": "the numbers above",
    }.items():
        places.add_row(str(output / place), what)
    console.print(places)
    # nothing has put the environment's commands on the PATH
    example = [Path(sys.executable).with_name("sclm-hf"), "annotate", output / "data" / "celltypist.h5ad", "out.h5ad"]
    example += ["--model", output / "checkpoint"]
    console.print(f"Next: {shlex.join(map(str, example))}", soft_wrap=True, markup=False, highlight=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder to write or replace")
    parser.add_argument("--quick", action="store_true", help="few steps: shows that everything runs, learns nothing")
    parser.add_argument("--reload", action="store_true", help="only check the results of an earlier run")
    arguments = parser.parse_args()
    if arguments.reload:
        reload(arguments.output)
    else:
        main(arguments.output, QUICK if arguments.quick else Extent())
