"""T-GEM: the numbers of the original, attention in blocks, training, verbs, and what it refuses."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.testing import assert_close

import sclm_hf
from sclm_hf.errors import ConfigurationError, GeneCoverageError
from sclm_hf.specialists.tgem import modeling_tgem_attention
from sclm_hf.specialists.tgem.configuration_tgem import TGEMConfig
from sclm_hf.specialists.tgem.modeling_tgem import TGEMForSequenceClassification, TGEMModel
from sclm_hf.specialists.tgem.modeling_tgem_attention import attend, attention_weights

from ..common import SpecialistTester, close, golden_arrays, labelled_cells, open_golden


@pytest.mark.parametrize("case", ["case_a", "case_b"])
def test_numbers_of_the_original(case, tmp_path):
    recorded = golden_arrays("tgem", case)
    model = open_golden("tgem", case, tmp_path)
    outputs = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, given, output: outputs.append(output[0]))
    output = model(torch.from_numpy(recorded["expression"]), labels=torch.from_numpy(recorded["labels"]))
    for number, found in enumerate(outputs, 1):
        close(found, recorded[f"attn_out_{number}"])
    close(output.logits.log_softmax(-1), recorded["log_probs"])
    assert output.loss.item() == pytest.approx(float(recorded["loss"]), rel=5e-5)


def _heads(seed=0, shape=(2, 3, 11)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("mask_self", [True, False])
@pytest.mark.parametrize("most", [1, 200, 10**6])
def test_attention_in_blocks_is_exact(mask_self, most, monkeypatch):
    monkeypatch.setattr(modeling_tgem_attention, "_MOST_WEIGHTS", most)
    queries, keys, values = _heads()
    whole = torch.einsum("bhij,bhj->bhi", attention_weights(queries, keys, mask_self=mask_self), values)
    found = attend(queries, keys, values, mask_self=mask_self)
    assert_close(found, whole, atol=1e-12, rtol=0)
    weights = torch.randn(whole.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.autograd.grad((whole * weights).sum(), [queries, keys, values])
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), [queries, keys, values]), expected, strict=True
    ):
        assert_close(one, other, atol=1e-12, rtol=0)


def test_large_scores_stay_finite():
    queries, keys, values = (1e3 * one.detach().float() for one in _heads())
    assert attend(queries, keys, values, mask_self=True).isfinite().all()


def test_attentions_are_those_that_act():
    model = TGEMModel(TGEMConfig(num_genes=6, num_attention_heads=2, num_hidden_layers=2)).eval()
    output = model(torch.rand(3, 6), output_attentions=True)
    assert [one.shape for one in output.attentions] == [(3, 2, 6, 6)] * 2
    assert (output.attentions[0].diagonal(dim1=-2, dim2=-1) == 0).all()
    assert model(torch.rand(3, 6)).attentions is None


def test_flags_change_what_they_say():
    torch.manual_seed(0)
    sizes = {"num_genes": 6, "num_attention_heads": 2, "num_labels": 3}
    expression = torch.rand(2, 6)
    model = TGEMForSequenceClassification(TGEMConfig(**sizes)).eval()
    for flag in ({"mask_self": False}, {"final_activation": "gelu"}):
        other = TGEMForSequenceClassification(TGEMConfig(**sizes, **flag)).eval()
        other.load_state_dict(model.state_dict())
        assert not torch.equal(other(expression).logits, model(expression).logits), flag
    own = TGEMForSequenceClassification(TGEMConfig(**sizes, share_layer_norm=False))
    assert len(model.model.norms) == 1 and len(own.model.norms) == 3


class TestTGEM(SpecialistTester):
    name = "tgem"
    settings = {"label_key": "cell_type"}
    model_config = {"num_attention_heads": 2}
    training = {"num_train_epochs": 10, "learning_rate": 1e-2}

    def cells(self):
        return labelled_cells()


@pytest.mark.slow
def test_it_learns_to_name_cells(tmp_path):
    cells = labelled_cells(120)
    train, test = cells[:60].copy(), cells[60:].copy()
    training = {"num_train_epochs": 20, "learning_rate": 1e-2, "use_cpu": True}
    sclm_hf.fit("tgem", train, tmp_path / "model", label_key="cell_type", training=training)
    found = sclm_hf.annotate(test, str(tmp_path / "model"))
    assert (found.obs["sclm_prediction"].astype(str) == test.obs["cell_type"]).mean() > 0.9


def test_what_does_not_fit_is_refused(tmp_path):
    cells = labelled_cells()
    with pytest.raises(ConfigurationError, match="`final_activation` must be one of none, relu"):
        sclm_hf.fit("tgem", cells, tmp_path / "x", label_key="cell_type", model_config={"final_activation": "tanh"})
    with pytest.raises(StrictDataclassClassValidationError, match="`num_genes` must be at least 2"):
        TGEMConfig(num_genes=1).validate()
    with pytest.raises(ConfigurationError, match=r"must be \(cells, 6 genes\)"):
        TGEMModel(TGEMConfig(num_genes=6))(torch.rand(3, 5))
    TestTGEM().fit(tmp_path / "model")
    cells.var_names = [f"OTHER{number}" for number in range(cells.n_vars)]
    with pytest.raises(GeneCoverageError, match="0 of the 40 genes"):
        sclm_hf.annotate(cells, str(tmp_path / "model"))
