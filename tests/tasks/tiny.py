"""Tiny cells and checkpoint folders for the tests of tasks and of the command line."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse
import torch

from sclm_hf import (
    CellProcessor,
    ExpressionFeatureExtractor,
    GeneTokenizer,
    ScGPTConfig,
    ScGPTForSequenceClassification,
    ScGPTModel,
)

GENES = [f"GENE{number}" for number in range(90)]
LABELS = {0: "B cell", 1: "CD4+/CD25 T Reg", 2: "NK"}


def make_cells(n_cells: int = 23, seed: int = 0) -> anndata.AnnData:
    """Cells of very different lengths, one gene of which the models do not know."""
    generator = np.random.default_rng(seed)
    shares = generator.uniform(0.05, 0.9, size=(n_cells, 1))
    counts = generator.poisson(3, size=(n_cells, 91)) * (generator.random((n_cells, 91)) < shares)
    counts[:, 0] += 1
    obs = pd.DataFrame({"batch": np.arange(n_cells) % 2}, index=[f"cell {number}" for number in range(n_cells)])
    matrix = scipy.sparse.csr_matrix(counts.astype("float32"))
    return anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=[*GENES, "UNKNOWN1"]))


def make_processor(**overrides) -> CellProcessor:
    extractor = ExpressionFeatureExtractor.for_family("scgpt", **{"max_length": 48, **overrides})
    return CellProcessor(extractor, GeneTokenizer.from_genes(GENES))


def make_model(model_class=ScGPTModel, **overrides):
    torch.manual_seed(0)
    vocabulary = make_processor().tokenizer.gene_vocabulary
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    ids = {"pad_token_id": vocabulary["<pad>"], "cls_token_id": vocabulary["<cls>"]}
    if model_class is ScGPTForSequenceClassification:
        ids |= {"id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}}
    return model_class(ScGPTConfig(vocab_size=vocabulary.size, **sizes, **ids, **overrides)).eval()


def save_checkpoint(folder: Path, model_class=ScGPTModel, **overrides) -> str:
    make_model(model_class, **overrides).save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return str(folder)


def collapsed(model: ScGPTModel) -> ScGPTModel:
    """The model, made to give nearly the same to all cells."""
    with torch.no_grad():
        model.layers[-1].norm2.weight.fill_(1e-3)
        model.layers[-1].norm2.bias.fill_(1)
    return model
