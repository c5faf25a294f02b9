"""Attention between genes, beside what transformers itself gives."""

import numpy as np
import pytest
import scipy.stats
import torch

import sclm_hf
from sclm_hf.errors import ConfigurationError
from sclm_hf.opening.tiny import make_tiny_checkpoint

from ..tiny import GENES, make_cells, make_model, make_processor, save_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("scgpt"))


def expected(cells, layers):
    """(genes, genes) means by the definition, from the attention of all layers at once."""
    model, processor = make_model(), make_processor()
    model.set_attn_implementation("eager")
    names = processor.tokenizer.convert_ids_to_tokens
    sums, counts = np.zeros((90, 90)), np.zeros((90, 90))
    for row in range(cells.n_obs):
        batch = processor(cells[row], return_tensors="pt")
        with torch.no_grad():
            attentions = model(**batch, output_attentions=True).attentions
        genes = [GENES.index(names(int(token))) for token in batch["input_ids"][0, 1:]]
        for layer in layers:
            heads = attentions[layer][0, :, 1:, 1:].numpy()
            ranks = scipy.stats.rankdata(scipy.stats.rankdata(heads, axis=2), axis=1) - 1
            sums[np.ix_(genes, genes)] += ranks.mean(0) / (len(genes) - 1) / len(layers)
        counts[np.ix_(genes, genes)] += 1
    return np.where(counts >= 10, sums / np.maximum(counts, 1), np.nan)


@pytest.mark.parametrize(("layers", "numbers"), [("last", [1]), ("0", [0]), ("all", [0, 1])])
def test_scores_are_means_of_ranks_of_what_targets_attend_to(model, layers, numbers):
    cells = make_cells(30)
    edges = sclm_hf.grn(cells, model, evidence="attention", attention_layers=layers, n_genes=90, batch_size=7)
    means = expected(cells, numbers)
    assert len(edges) == np.isfinite(means[~np.eye(90, dtype=bool)]).sum() > 200
    found = [means[GENES.index(edge.target), GENES.index(edge.regulator)] for edge in edges.itertuples()]
    np.testing.assert_allclose(edges["score"], found, atol=2e-3)


def test_batches_and_memory_leave_scores_as_they_are(model, monkeypatch):
    cells, how = make_cells(30), {"evidence": "attention", "n_genes": 20}
    together = sclm_hf.grn(cells, model, **how)
    monkeypatch.setattr("sclm_hf.tasks.networks.attention.MOST_WEIGHTS", 1)
    alone = sclm_hf.grn(cells, model, **how)
    key = ["regulator", "target"]
    merged = together.merge(alone, on=key, suffixes=("", "_alone"))
    assert len(merged) == len(together) == len(alone)
    np.testing.assert_allclose(merged["score"], merged["score_alone"], atol=1e-3)


def test_the_model_attends_as_before_and_keeps_nothing():
    model, processor = make_model(), make_processor()
    before = model.config._attn_implementation
    sclm_hf.grn(make_cells(40), model, processor, evidence="attention", n_genes=30)
    assert model.config._attn_implementation == before
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("family", ["geneformer", "scfoundation", "tgpt", "uce"])
def test_families_with_softmax_attention_serve_it(family, tmp_path):
    folder = make_tiny_checkpoint(family, tmp_path / family, genes=GENES)
    edges = sclm_hf.grn(make_cells(40), folder, evidence="attention", n_genes=30)
    assert len(edges) and edges["score"].between(0, 1).all()


@pytest.mark.parametrize("family", ["cellplm", "scbert", "linear"])
def test_families_without_attention_between_genes_are_refused_before_cells_are_read(family, tmp_path, monkeypatch):
    folder = make_tiny_checkpoint(family, tmp_path / family, genes=GENES)
    monkeypatch.setattr("sclm_hf.tasks.networks.inferring.prepare_cells", None)
    with pytest.raises(ConfigurationError, match="no attention between each pair of genes"):
        sclm_hf.grn(make_cells(25), folder, evidence="attention")


def test_genes_that_no_cells_hold_together_are_refused(model):
    cells = make_cells(24)
    cells.X = cells.X.toarray()
    cells.X[:12, 1], cells.X[12:, 1], cells.X[:12, 2], cells.X[12:, 2] = 5, 0, 0, 5
    with pytest.raises(ConfigurationError, match="read together in 10 cells"):
        sclm_hf.grn(cells, model, evidence="attention", genes=["GENE1", "GENE2"])


@pytest.mark.parametrize(("layers", "message"), [("2", "has the layers 0 to 1"), ("first", "must be 'last', 'all'")])
def test_layers_that_are_not_there_are_refused(model, layers, message):
    with pytest.raises(ConfigurationError, match=message):
        sclm_hf.grn(make_cells(20), model, evidence="attention", attention_layers=layers)
