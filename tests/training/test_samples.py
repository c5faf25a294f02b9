"""Training on whole samples."""

import numpy as np
import pytest

from sclm_hf import CellCorpus, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.errors import ConfigurationError
from sclm_hf.tokenization.processing_sample import SampleProcessor
from sclm_hf.training.data import DataArguments, open_corpora

from ..corpora.conftest import GENES, make_cells


@pytest.fixture(scope="module")
def processor() -> SampleProcessor:
    tokenizer = GeneTokenizer.from_genes(GENES, special_tokens=())
    return SampleProcessor(ExpressionFeatureExtractor.for_family("cellplm"), tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files of three samples each."""
    folder = tmp_path_factory.mktemp("samples")
    for seed, name in enumerate(("one", "two")):
        cells = make_cells(40, seed)
        cells.obs["batch"] = np.random.default_rng(seed).choice(["a", "b", "c"], 40)
        cells.write_h5ad(folder / f"{name}.h5ad")
    return folder


def cells_of(corpus) -> set[tuple[int, ...]]:
    return {tuple(batch["cell_ids"].tolist()) for batch in corpus.batches(1000)}


@pytest.mark.parametrize(("share", "n_held_out"), [(0.3, 2), (0.01, 1), (0.99, 5)])
def test_an_evaluation_holds_out_whole_samples(folder, processor, share, n_held_out):
    corpus, held_out = open_corpora(DataArguments([str(folder)], eval_share=share), processor, seed=1)
    kept, rest = cells_of(corpus), cells_of(held_out)
    assert kept | rest == cells_of(CellCorpus(folder, processor))
    assert (len(kept), len(rest)) == (6 - n_held_out, n_held_out)


def test_the_only_sample_is_not_split(processor, tmp_path):
    make_cells(9).write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ConfigurationError, match=r"would split the only sample.*`eval_files`"):
        open_corpora(DataArguments([str(tmp_path)], eval_share=0.3), processor)
