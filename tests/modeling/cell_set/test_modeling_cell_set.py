import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel

from sclm_hf import embed
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.opening.perturbation import new_set_model, open_perturbation_model, predicts_perturbations

from ...tasks.tiny import make_cells

GENES, PERTURBED = list("abcdef"), ["a", "x"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def model(**settings):
    torch.manual_seed(0)
    made = new_set_model(GENES, PERTURBED, np.array([[1.0, 0], [0, 1]], np.float32), {**SIZES, **settings}).eval()
    torch.nn.init.normal_(made.decoder.weight, std=0.3)
    return made


def batch():
    torch.manual_seed(1)
    return {"expression_values": torch.rand(2, 5, 6), "perturbation_features": torch.tensor([[1.0, 0], [1.0, 1]])}


def test_a_new_model_changes_no_cell():
    untrained = new_set_model(GENES, PERTURBED, np.zeros((2, 2), np.float32), SIZES).eval()
    assert_close(untrained(**batch()).expression_prediction, batch()["expression_values"])


def test_the_order_of_cells_does_not_matter_and_their_company_does():
    inputs, order = batch(), torch.tensor([3, 0, 4, 1, 2])
    one = model()(**inputs).expression_prediction
    inputs["expression_values"] = inputs["expression_values"][:, order]
    assert_close(model()(**inputs).expression_prediction, one[:, order])
    inputs["expression_values"] = inputs["expression_values"][:, :2]
    assert not torch.allclose(model()(**inputs).expression_prediction, one[:, order[:2]], atol=1e-5)


def test_perturbations_differ_and_combinations_are_sums_of_features():
    made = model()
    assert_close(made.features_of(("a", "x")), torch.tensor([1.0, 1.0]))
    same = batch()["expression_values"][:1].expand(2, -1, -1)
    one, other = made(same, batch()["perturbation_features"]).expression_prediction
    assert not torch.allclose(one, other, atol=1e-5)
    with pytest.raises(ConfigurationError, match="no features of q"):
        made.features_of(("q",))


def test_the_loss_is_the_energy_distance_and_that_of_the_means():
    inputs = batch()
    cells, real = inputs["expression_values"], torch.rand(2, 4, 6)
    untrained = new_set_model(GENES, PERTURBED, np.zeros((2, 2), np.float32), {**SIZES, "mean_weight": 0.5}).eval()

    def distance(one, other, number):
        return sum((x - y).norm() for x in one for y in other) / number

    expected = [
        2 * distance(x, y, 20) - distance(x, x, 20) - distance(y, y, 12) + 0.5 * ((x.mean(0) - y.mean(0)) ** 2).sum()
        for x, y in zip(cells, real, strict=True)
    ]
    assert_close(untrained(**inputs, labels=real).loss, torch.stack(expected).mean())


def test_attention_implementations_agree():
    eager = model()
    eager.set_attn_implementation("eager")
    assert_close(model()(**batch()).expression_prediction, eager(**batch()).expression_prediction)


def test_it_is_saved_with_the_features_that_it_knows(tmp_path):
    model().save_pretrained(tmp_path)
    again, processor = open_perturbation_model(str(tmp_path))
    assert processor is None and predicts_perturbations(str(tmp_path)) and again.config.perturbed_genes == PERTURBED
    assert_close(again(**batch()).expression_prediction, model()(**batch()).expression_prediction)


def test_auto_classes_open_it_and_embed_refuses_it(tmp_path):
    model().save_pretrained(tmp_path)
    assert_close(AutoModel.from_pretrained(tmp_path)(**batch()).expression_prediction, model()(**batch())[0])
    with pytest.raises(CheckpointError, match="cell_set"):
        embed(make_cells(), str(tmp_path))


def test_other_genes_settings_and_damage_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"\(sets, cells, 6\)"):
        model()(torch.rand(1, 3, 5), torch.rand(1, 2))
    with pytest.raises(ConfigurationError, match=r"`hiden_size`.*`hidden_size`"):
        new_set_model(GENES, PERTURBED, np.zeros((2, 2), np.float32), {"hiden_size": 3})
    broken = model()
    broken.decoder.bias.data[0] = torch.nan
    broken.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"finite|NaN"):
        open_perturbation_model(str(tmp_path))
