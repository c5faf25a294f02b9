"""Networks from deletions in silico."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForPreTraining, AutoProcessor

import sclm_hf
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.opening.tiny import make_tiny_checkpoint

from ..tiny import GENES, make_cells, make_model, make_processor

REGULATORS, TARGETS = GENES[:3], GENES[:6]


def test_scores_are_how_far_deletions_move_targets():
    cells, model, processor = make_cells(40), make_model(), make_processor()
    edges = sclm_hf.grn(cells, model, processor, evidence="perturbation", genes=TARGETS, regulators=REGULATORS)
    effects = sclm_hf.perturb(cells, model, processor, genes=REGULATORS, gene_effects=True).uns["gene_effects"]
    effects = effects[effects["gene"].isin(TARGETS) & (effects["n_cells"] >= 10)]
    similarity = effects.set_index(["perturbation", "gene"])["similarity"]
    assert {*edges["regulator"]} == {*REGULATORS} and len(edges) == len(similarity)
    for edge in edges.itertuples():
        assert edge.score == pytest.approx(1 - similarity[edge.regulator, edge.target], abs=1e-6)


def pretrained(tmp_path, family="scgpt"):
    return make_tiny_checkpoint(family, tmp_path / family, task="pretrain", genes=GENES)


def signs_of(edges):
    return edges.set_index(["regulator", "target"])["sign"]


def test_a_model_tells_signs_by_what_it_predicts_without_the_regulator(tmp_path):
    cells, folder = make_cells(40), pretrained(tmp_path)
    how = {"evidence": "perturbation", "genes": TARGETS, "regulators": REGULATORS}
    edges = sclm_hf.grn(cells, folder, sign="model", **how)
    model = AutoModelForPreTraining.from_pretrained(folder)
    effects = sclm_hf.perturb(cells, model, AutoProcessor.from_pretrained(folder), genes=REGULATORS, gene_effects=True)
    effects = effects.uns["gene_effects"].set_index(["perturbation", "gene"])
    assert set(edges["sign_source"]) == {"model"} and edges["sign"].notna().any()
    for pair, sign in signs_of(edges).items():
        change, error = effects.loc[pair, ["change", "change_error"]]
        clear = abs(change) > 1.96 * error
        assert (sign == -np.sign(change)) if clear else (sign is None or not np.isfinite(float(sign or "nan")))
    correlated = sclm_hf.grn(cells, folder, **how)
    assert set(correlated["sign_source"]) == {"correlation"}
    np.testing.assert_allclose(edges["score"], correlated["score"], atol=1e-6)
    # where the decoder says the opposite, so do the signs
    decoder = model.cell_expression_decoder or model.expression_decoder
    with torch.no_grad():
        last = decoder.bilinear if hasattr(decoder, "bilinear") else decoder.value[-1]
        last.weight.neg_()
    opposite = sclm_hf.grn(cells, model, AutoProcessor.from_pretrained(folder), sign="model", **how)
    assert (signs_of(opposite).dropna() == -signs_of(edges).dropna()).all()


def test_signs_are_asked_of_models_with_a_decoder(tmp_path):
    with pytest.raises(ConfigurationError, match="evidence='perturbation'"):
        sclm_hf.grn(make_cells(), "nowhere", sign="model")
    with pytest.raises(CheckpointError, match="predicts no expression"):
        sclm_hf.grn(make_cells(), make_model(), make_processor(), evidence="perturbation", sign="model")


def test_models_that_cannot_be_perturbed_are_refused_before_cells_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("sclm_hf.tasks.networks.inferring.prepare_cells", None)
    folder = make_tiny_checkpoint("scbert", tmp_path / "scbert", genes=GENES)
    with pytest.raises(ConfigurationError, match="cannot be perturbed token by token"):
        sclm_hf.grn(make_cells(), folder, evidence="perturbation")
