"""Networks from deletions in silico."""

import pytest

import sclm_hf
from sclm_hf.errors import ConfigurationError
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


def test_models_that_cannot_be_perturbed_are_refused_before_cells_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("sclm_hf.tasks.networks.inferring.prepare_cells", None)
    folder = make_tiny_checkpoint("scbert", tmp_path / "scbert", genes=GENES)
    with pytest.raises(ConfigurationError, match="cannot be perturbed token by token"):
        sclm_hf.grn(make_cells(), folder, evidence="perturbation")
