"""Scores of genes beside their definitions."""

import numpy as np
import pytest
import torch

from sclm_hf import ScGPTForSequenceClassification
from sclm_hf.opening.inference import independent_cells
from sclm_hf.opening.loading import LoadedModel
from sclm_hf.tasks.explanation.curves import curves
from sclm_hf.tasks.explanation.gradients import integrated_gradients
from sclm_hf.tasks.explanation.knock_outs import knock_outs
from sclm_hf.tasks.explanation.reading import ClassCell, ClassReader, log_odds
from sclm_hf.tasks.explanation.rollout import attention_rollout
from sclm_hf.tasks.perturbation.tokens import TokenCell

from ..tiny import make_model, make_processor


@pytest.fixture(scope="module")
def loaded():
    return LoadedModel(make_model(ScGPTForSequenceClassification), make_processor(), "in memory", "")


@pytest.fixture
def reader(loaded):
    with independent_cells(loaded.model):
        yield ClassReader(loaded, [f"cell {number}" for number in range(9)])


def make_cell(loaded, genes, number=0, label=1):
    """`<cls>` and genes with ever higher values."""
    vocabulary = loaded.processor.tokenizer.gene_vocabulary
    ids = np.array([vocabulary["<cls>"], *(vocabulary[f"GENE{gene}"] for gene in genes)])
    values = np.array([-2.0, *range(1, len(genes) + 1)], np.float32)
    return ClassCell(number, label, TokenCell(ids, values), np.arange(1, len(ids)), len(genes))


def logits(loaded, cell, **options):
    """What the model itself says."""
    ids, values = (torch.from_numpy(one)[None] for one in (cell.tokens.ids, cell.tokens.values))
    with torch.no_grad():
        return loaded.model(ids, values, torch.ones_like(ids), **options)


def test_log_odds_are_those_of_the_probability():
    values = torch.tensor([[1.0, 2, 3], [0, -1, 5]])
    chosen = values.softmax(1)[[0, 1], [2, 0]]
    torch.testing.assert_close(log_odds(values, [2, 0]), torch.logit(chosen))


def test_a_knock_out_is_the_log_odds_lost_without_the_gene(loaded, reader):
    cell = make_cell(loaded, [3, 5, 8])
    (scores,) = knock_outs(reader, [cell])
    for place, score in zip(cell.genes, scores, strict=True):
        now, then = (log_odds(logits(loaded, one).logits, [1]) for one in (cell, cell.without(np.array([place]))))
        assert score == pytest.approx(float(now - then), abs=1e-5)


def test_integrated_gradients_add_up_to_the_change_with_many_steps(loaded, reader):
    cells = [make_cell(loaded, [3, 5, 8]), make_cell(loaded, range(20), 1, 2)]
    scores, sums, changes = integrated_gradients(reader, cells, 200)
    np.testing.assert_allclose([one.sum() for one in scores], sums, rtol=1e-4)
    np.testing.assert_allclose(sums, changes, atol=2e-2 * np.abs(changes).max())


def test_integrated_gradients_of_what_the_first_layer_does_not_read_apart_are_0(loaded, reader):
    one = make_cell(loaded, [3])
    (scores,), _, changes = integrated_gradients(reader, [one], 3)
    # a single gene is the mean of the cell's genes
    np.testing.assert_allclose([*scores, *changes], 0, atol=1e-6)


def test_rollout_multiplies_the_attention_of_all_layers_from_the_token_that_is_read(loaded, reader):
    cell = make_cell(loaded, [3, 5, 8, 13])
    (scores,) = attention_rollout(reader, [cell])
    before = loaded.model.config._attn_implementation
    loaded.model.set_attn_implementation("eager")
    attentions = logits(loaded, cell, output_attentions=True).attentions
    loaded.model.set_attn_implementation(before)
    rolled = np.eye(5)
    for layer in attentions:
        rolled = (layer[0].mean(0).numpy() + np.eye(5)) / 2 @ rolled
    # scGPT reads the class from `<cls>`
    np.testing.assert_allclose(scores, rolled[0, 1:] / rolled[0, 1:].sum(), rtol=1e-4)


@pytest.mark.parametrize("score", [knock_outs, attention_rollout, lambda *given: integrated_gradients(*given, 4)[0]])
def test_a_cell_is_scored_the_same_beside_others(loaded, reader, score):
    cells = [make_cell(loaded, genes, number) for number, genes in enumerate([[3, 5], range(30), range(9)])]
    for cell, found in zip(cells, score(reader, cells), strict=True):
        np.testing.assert_allclose(found, score(reader, [cell])[0], atol=1e-5)


def test_curves_delete_the_highest_first_and_leave_one_gene(loaded, reader):
    cell = make_cell(loaded, range(11))
    found = curves(reader, [cell], [np.arange(11.0)])

    def probability(places):
        kept = cell.without(np.setdiff1d(cell.genes, places))
        return float(logits(loaded, kept).logits.softmax(1)[0, 1])

    assert found.deletion[0, 0] == pytest.approx(probability(cell.genes), abs=1e-5)
    assert found.deletion[0, 4] == pytest.approx(probability(cell.genes[:-4]), abs=1e-5)
    assert found.deletion[0, -1] == pytest.approx(probability(cell.genes[:1]), abs=1e-5)
    assert found.insertion[0, 0] == pytest.approx(probability(cell.genes[-1:]), abs=1e-5)
    assert found.insertion[0, 4] == pytest.approx(probability(cell.genes[-5:]), abs=1e-5)


def test_genes_that_are_not_scored_stay_on_the_curves(loaded, reader):
    cell = make_cell(loaded, range(6))._replace(genes=np.array([2, 4]))
    found = curves(reader, [cell], [np.array([1.0, 0.0])])
    (left,) = reader.log_odds([cell.without(cell.genes)])
    assert found.deletion[0, -1] == pytest.approx(1 / (1 + np.exp(-left))) == found.insertion[0, 0]
