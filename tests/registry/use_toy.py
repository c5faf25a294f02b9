"""Goes through the verbs with the toy family, in the folder that the command names, and prints what came out."""

import json
import sys
from pathlib import Path

import anndata
import numpy as np
import transformers

import sclm_hf
from sclm_hf.adapters.lora import add_lora
from sclm_hf.hub.card import render_card, start_facts
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.pretrain import pretrain
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.pretrain import PretrainArguments

KINDS = ("Config", "Model", "ModelForPreTraining", "Tokenizer", "FeatureExtractor", "Processor")

folder = Path(sys.argv[1])
base = make_tiny_checkpoint("toy", folder / "base", task="pretrain")
opened = {f"Auto{kind}": getattr(transformers, f"Auto{kind}").from_pretrained(base) for kind in KINDS}
genes = list(opened["AutoTokenizer"].gene_vocabulary)[3:23]
cells = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (12, 20)).astype(np.float32) + np.eye(12, 20))
cells.var_names = genes
cells.write_h5ad(folder / "cells.h5ad")
batch = opened["AutoProcessor"](cells.X, gene_names=genes, return_tensors="pt")
classifier = make_tiny_checkpoint("toy", folder / "classifier", task="annotate")
adapted = add_lora(transformers.AutoModelForSequenceClassification.from_pretrained(classifier))
result = pretrain(
    DataArguments([str(folder / "cells.h5ad")]),
    PretrainArguments(family="toy", model_config=json.dumps({"hidden_size": 8})),
    TrainingConfig(str(folder / "trained"), max_steps=1, logging_steps=1, use_cpu=True),
)
found = {
    "package": sclm_hf.__file__,
    "opened": {name: type(one).__name__ for name, one in opened.items()},
    "inputs": sorted(batch),
    "embedded": sclm_hf.embed(cells, base, device="cpu").obsm["X_toy"].shape,
    "annotated": len(sclm_hf.annotate(cells, classifier, device="cpu").obs["sclm_prediction"]),
    "adapted": adapted.targeted_module_names,
    "losses": [record["loss"] for record in result.history if "loss" in record],
    "card": str(render_card(start_facts(folder / "trained", license="mit"))),
}
print(json.dumps(found))
