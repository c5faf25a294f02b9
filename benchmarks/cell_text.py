"""How well a language model that reads cells names the cells of a platform or donor that it never saw.

A two-layer Llama, trained from scratch by `sclm-hf finetune --text` on the cells of the other groups; it chooses among
the labels by likelihood. `text` reads a cell as the names of its genes, one token each; `discrete` as words of a
codebook over the embeddings by `--encoder`, fitted on the training cells. A logistic regression on the same embeddings
says what the words lose. `baselines` are PCA and z-scored logistic regression on the counts. Labels with fewer than 15
cells are left out. No cell of the held-out group has a part in codebook or temperature. In a file that is there
already, variants that are not asked for stay as they are.

The encoder of the results is `evidence/pretrain_scgpt_small-symphony-model-0`, which `benchmarks/evidence.py --recipe
pretrain_scgpt_small.yaml --targets symphony --seeds 0 --variants model` leaves and which saw no cell of the file.

    python benchmarks/cell_text.py CELLS.h5ad --label cell_type --group platform --test "10x 3' v1" --output FILE.json
    … --variants discrete --encoder FOLDER
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import anndata
import numpy as np
from machine import describe_machine
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sclm_hf import annotate, embed
from sclm_hf.evaluation.baselines.linear import PCALogisticRegression, ZScoredLogisticRegression
from sclm_hf.evaluation.text_metrics import calibration_scores
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.finetune_text import finetune_text
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments
from sclm_hf.training.settings.text import TextArguments

FEWEST = 15
VARIANTS = ("baselines", "text", "discrete")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("--label", required=True)
    parser.add_argument("--group", required=True, help="column of `obs` with platforms or donors")
    parser.add_argument("--test", required=True, help="the group to label")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--genes", type=int, default=100)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS[:2])
    parser.add_argument("--encoder", type=Path, help="of `discrete`: folder of a model that saw no cell of the file")
    parser.add_argument("--code_words", type=int, default=8)
    parser.add_argument("--codebook_size", type=int, default=64)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    cells = anndata.read_h5ad(arguments.cells)
    cells = cells[
        cells.obs.groupby(arguments.label, observed=True)[arguments.label].transform("size") >= FEWEST
    ].copy()
    is_test = cells.obs[arguments.group].astype(str).to_numpy() == arguments.test
    train, test = cells[~is_test].copy(), cells[is_test].copy()
    there = arguments.output is not None and arguments.output.exists()
    result = json.loads(arguments.output.read_text()) if there else {}
    split = {"file": arguments.cells.name, "n_train": train.n_obs, "n_test": test.n_obs}
    if any(result.get(name, value) != value for name, value in split.items()):
        parser.error(f"{arguments.output} holds results on other cells")
    if not there or "text" in arguments.variants:
        names = ("label", "group", "test", "seeds", "epochs", "genes")
        result["settings"] = {name: str(getattr(arguments, name)) for name in names}
        result |= split | {"machine": describe_machine()}
    if "baselines" in arguments.variants:
        result["baselines"] = baselines(train, test, arguments.label)
    if "text" in arguments.variants:
        reads = TextArguments(text=True, n_genes=arguments.genes)
        result["text"] = [text_model(train, test, arguments, reads, seed) for seed in arguments.seeds]
    if "discrete" in arguments.variants:
        result["discrete"] = discrete(train, test, arguments)
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def scores(labels: np.ndarray, classes: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """What predicted labels and their probabilities are worth."""
    predicted, probabilities = classes[logits.argmax(axis=1)], softmax(logits, axis=1)
    numbers = np.array([list(classes).index(label) for label in labels])
    return {
        "accuracy": accuracy_score(labels, predicted),
        "macro_f1": f1_score(labels, predicted, average="macro"),
        **dataclasses.asdict(calibration_scores(probabilities, numbers)),
    }


def baselines(train: anndata.AnnData, test: anndata.AnnData, label: str) -> dict[str, dict[str, float]]:
    """Scores of the strongest simple baselines."""
    found = {}
    for name, model in (("PCA + LR", PCALogisticRegression()), ("z-scored LR", ZScoredLogisticRegression())):
        model.fit(train.X, train.obs[label].astype(str))
        found[name] = scores(test.obs[label].to_numpy(str), model.classes, model.predict_log_proba(test.X))
    return found


def discrete(train: anndata.AnnData, test: anndata.AnnData, arguments: argparse.Namespace) -> dict:
    """Scores of models that read code words, and of a logistic regression on the embeddings behind these."""
    reads = TextArguments(
        text=True,
        cell_tokens=str(arguments.encoder),
        n_code_words=arguments.code_words,
        codebook_size=arguments.codebook_size,
    )
    runs = [text_model(train, test, arguments, reads, seed) for seed in arguments.seeds]
    embedded = [embed(cells, arguments.encoder, key_added="X").obsm["X"] for cells in (train, test)]
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    logits = probe.fit(embedded[0], train.obs[arguments.label].astype(str)).predict_log_proba(embedded[1])
    return {
        "encoder": arguments.encoder.name,
        "code_words": arguments.code_words,
        "codebook_size": arguments.codebook_size,
        "epochs": arguments.epochs,
        "machine": describe_machine(),
        "runs": runs,
        "logistic regression on the embeddings": scores(
            test.obs[arguments.label].to_numpy(str), probe.classes_.astype(str), logits
        ),
    }


def text_model(
    train: anndata.AnnData, test: anndata.AnnData, arguments: argparse.Namespace, reads: TextArguments, seed: int
) -> dict[str, float]:
    """Scores of a small Llama, whose temperature is fitted on a tenth of the training cells that it did not learn."""
    with tempfile.TemporaryDirectory() as folder:
        train.write_h5ad(f"{folder}/train.h5ad")
        config = TrainingConfig(
            output_dir=f"{folder}/model",
            seed=seed,
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            use_cpu=True,
        )
        started = time.process_time()
        finetune_text(
            DataArguments([f"{folder}/train.h5ad"], eval_share=0.1),
            FinetuneArguments("small", arguments.label, head="full"),
            reads,
            config,
        )
        seconds = time.process_time() - started
        started = time.process_time()
        labelled = annotate(test, f"{folder}/model", copy=True)
        speed = test.n_obs / (time.process_time() - started)
    classes = np.array(labelled.uns["sclm_hf"]["sclm_prediction"]["label_names"], dtype=str)
    logits = np.log(np.maximum(labelled.obsm["sclm_probabilities"], 1e-12))
    found = scores(test.obs[arguments.label].to_numpy(str), classes, np.asarray(logits))
    return {"seed": seed, **found, "training_cpu_seconds": seconds, "annotated_cells_per_cpu_second": speed}


if __name__ == "__main__":
    main()
