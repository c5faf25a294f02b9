"""Cells, corpora and small language models for the tests of text."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from sclm_hf import CellCorpus
from sclm_hf.text.cell_words import CellWords, sentence_processor
from sclm_hf.text.language_models import small_language_model

GENES = [f"GENE{number}" for number in range(24)]
LABELS = ["B cell", "NK", "T cell"]
TINY = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}


def make_cells(n_cells: int = 24, seed: int = 0) -> anndata.AnnData:
    """Counts of three cell types, each with four genes that are raised."""
    generator = np.random.default_rng(seed)
    types = np.arange(n_cells) % 3
    rates = np.full((n_cells, len(GENES)), 1.0)
    for number in range(3):
        rates[types == number, 4 * number : 4 * number + 4] = 20.0
    counts = generator.poisson(rates).astype(np.float32)
    obs = pd.DataFrame(
        {"cell_type": [LABELS[number] for number in types], "donor": [f"d{cell % 2}" for cell in range(n_cells)]},
        [f"{seed}-{cell}" for cell in range(n_cells)],
    )
    return anndata.AnnData(counts, obs, pd.DataFrame(index=GENES))


def write_cells(folder: Path, n_cells: int = 24, seed: int = 0) -> str:
    path = folder / f"cells{seed}.h5ad"
    make_cells(n_cells, seed).write_h5ad(path)
    return str(path)


def open_corpus(folder: Path, n_genes: int = 8, **options) -> CellCorpus:
    processor = sentence_processor(GENES, n_genes)
    return CellCorpus(write_cells(folder), processor, **{"label_column": "cell_type", **options})


def make_language_model(**options):
    words = CellWords(sentence_processor(GENES, 8)).words
    return small_language_model(words, LABELS, other_words=["human"], **(TINY | options))
