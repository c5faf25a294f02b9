"""How well language models above an encoder of cells name the cells of a platform or donor that they never saw.

The encoder is a small CellPLM that the committed recipe pre-trains on the labels of other data sets, the target and
its relatives left out (see `evidence.py`). On the cells of the other groups are trained: a probe on it, alone and with
the partners that are saved with it; a small Llama that reads its cells as soft tokens (projector, then the Llama); and
a dual encoder with a small text encoder and a description of each label. Beside them, PCA and z-scored logistic
regression. A tenth of the training cells is held out for temperatures. Labels with fewer than 15 cells are left out.
CellPLM sees the cells of a sample together, so that a step learns from a whole platform.

    SCLM_DATA=../shared/data python benchmarks/cell_text_encoders.py --output FILE.json
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import anndata
import evidence
import numpy as np
from cell_text import FEWEST, baselines, scores
from machine import describe_machine

from sclm_hf import annotate
from sclm_hf.text.language_models import small_language_model
from sclm_hf.training.align import align
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.finetune import finetune
from sclm_hf.training.finetune_cell_text import QUESTIONS, finetune_cell_text
from sclm_hf.training.settings.align import AlignArguments
from sclm_hf.training.settings.cell_text import CellTextArguments
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments

TARGET, LABEL, GROUP, TEST = "symphony", "cell_type", "platform", "10x 3' v1"
DESCRIPTIONS = {
    "B": "A lymphocyte that carries immunoglobulin on its surface and may become a cell that makes antibodies.",
    "DC": "A leukocyte with long processes that takes up antigens and presents them to T cells.",
    "Mono_CD14": "A classical monocyte, high in CD14: a phagocyte of the blood.",
    "Mono_CD16": "A non-classical monocyte, high in CD16, that patrols the walls of vessels.",
    "NK": "A natural killer cell: a lymphocyte without antigen receptor that kills infected cells and tumour cells.",
    "T_CD4": "A helper T cell with CD4, whose receptor reads peptides on MHC class II.",
    "T_CD8": "A cytotoxic T cell with CD8, whose receptor reads peptides on MHC class I.",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of pre-training and training")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--variants", nargs="+", default=["probe", "soft", "dual"])
    parser.add_argument("--folder", type=Path, default=Path("evidence"), help="pre-trained encoders")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    arguments.recipe = "pretrain_cellplm_small.yaml"
    arguments.folder.mkdir(parents=True, exist_ok=True)
    cells = anndata.read_h5ad(evidence.DATA / f"{evidence.TARGETS[TARGET].file}.h5ad")
    cells = cells[cells.obs.groupby(LABEL, observed=True)[LABEL].transform("size") >= FEWEST].copy()
    is_test = cells.obs[GROUP].astype(str).to_numpy() == TEST
    train, test = cells[~is_test].copy(), cells[is_test].copy()
    result = {
        "settings": {"seeds": arguments.seeds, "epochs": arguments.epochs, "test": f"{GROUP} {TEST}"},
        "file": evidence.TARGETS[TARGET].file,
        "n_train": train.n_obs,
        "n_test": test.n_obs,
        "machine": describe_machine(),
        "baselines": baselines(train, test, LABEL),
        "models": [],
    }
    for seed in arguments.seeds:
        encoder = evidence.train(TARGET, "model", seed, arguments)
        for variant in arguments.variants:
            result["models"] += trained(variant, str(encoder), train, test, arguments.epochs, seed)
            print(json.dumps(result["models"][-1]), flush=True)
            if arguments.output:
                arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def trained(
    variant: str, encoder: str, train: anndata.AnnData, test: anndata.AnnData, epochs: int, seed: int
) -> list[dict]:
    """The scores of a model that is trained above an encoder."""
    with tempfile.TemporaryDirectory() as folder:
        is_held_out = np.random.default_rng(seed).permutation(train.n_obs) < train.n_obs // 10
        train[~is_held_out].copy().write_h5ad(f"{folder}/train.h5ad")
        train[is_held_out].copy().write_h5ad(f"{folder}/eval.h5ad")
        data = DataArguments([f"{folder}/train.h5ad"], eval_files=[f"{folder}/eval.h5ad"])
        config = TrainingConfig(
            output_dir=f"{folder}/model",
            seed=seed,
            num_train_epochs=epochs,
            per_device_train_batch_size=16,
            learning_rate=1e-3,
            use_cpu=True,
        )
        started = time.process_time()
        if variant == "probe":
            finetune(data, FinetuneArguments(encoder, LABEL, head="probe"), config)
        elif variant == "soft":
            language_model(train.obs[LABEL].astype(str), seed, f"{folder}/language")
            soft = CellTextArguments(cell_model=encoder, projector_epochs=10)
            finetune_cell_text(data, FinetuneArguments(f"{folder}/language", LABEL, head="full"), soft, config)
        else:
            descriptions = Path(folder, "descriptions.json")
            descriptions.write_text(json.dumps(DESCRIPTIONS))
            align(data, AlignArguments(encoder, LABEL, labels=str(descriptions)), config)
        seconds = time.process_time() - started
        labels = DESCRIPTIONS if variant == "dual" else None
        kinds = {"probe, alone": False, "probe, with partners": True} if variant == "probe" else {variant: True}
        return [
            {
                "model": name,
                "seed": seed,
                **judged(test, f"{folder}/model", labels, partners),
                "training_cpu_seconds": seconds,
            }
            for name, partners in kinds.items()
        ]


def judged(test: anndata.AnnData, model: str, labels: dict[str, str] | None, partners: bool) -> dict[str, float]:
    """The scores of a model on the cells held out."""
    labelled = annotate(test, model, labels=labels, partners=partners, device="cpu", copy=True)
    classes = np.array(labelled.uns["sclm_hf"]["sclm_prediction"]["label_names"], dtype=str)
    logits = np.log(np.maximum(labelled.obsm["sclm_probabilities"], 1e-12))
    return scores(test.obs[LABEL].to_numpy(str), classes, np.asarray(logits))


def language_model(labels, seed: int, folder: str) -> None:
    """Write a small Llama that knows the words of the questions and the labels."""
    words = [word for question in QUESTIONS for word in question.format(organism="human").replace(":", " ").split()]
    words = [word.strip(".,?") for word in words]
    model, tokenizer = small_language_model([], labels, tasks=(), other_words=words, seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
