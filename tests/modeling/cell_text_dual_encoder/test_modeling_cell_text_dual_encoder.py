import anndata as ad
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import AutoModel, AutoProcessor

from sclm_hf import FAMILIES, CellTextDualEncoderConfig, CellTextDualEncoderModel
from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.cell_text_dual_encoder.modeling_cell_text_dual_encoder import (
    contrastive_loss,
    pairs_to_match,
    pool,
)

from ...dual_encoders import TEXTS, tiny_dual_encoder
from ...training.h5ad_files import write_h5ad


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return ad.read_h5ad(write_h5ad(tmp_path_factory.mktemp("cells") / "cells.h5ad", 6))


def batch(processor, cells, **inputs):
    return processor(cells, list(TEXTS.values()), return_tensors="pt") | inputs


@pytest.mark.parametrize("settings", [{}, {"projection": "mlp", "matching_layers": 1}])
def test_it_is_saved_and_opened_by_auto_classes(tmp_path, cells, settings):
    model, processor = tiny_dual_encoder(tmp_path, **settings)
    model.eval().save_pretrained(tmp_path / "both")
    processor.save_pretrained(tmp_path / "both")
    opened, again = (one.from_pretrained(tmp_path / "both") for one in (AutoModel, AutoProcessor))
    assert type(opened) is CellTextDualEncoderModel and type(again) is type(processor)
    output = opened.eval()(**batch(again, cells))
    assert_close(output.logits, model(**batch(processor, cells)).logits)
    assert output.logits.shape == (6, 3) and output.cell_embedding.shape == (6, 12)
    assert_close(output.text_embedding.norm(dim=1), torch.ones(3))


def test_it_starts_from_the_weights_of_its_cell_encoder(tmp_path):
    model, _ = tiny_dual_encoder(tmp_path)
    for name, tensor in AutoModel.from_pretrained(tmp_path / "cells").state_dict().items():
        assert torch.equal(model.cell_model.state_dict()[name], tensor)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"uce"}))
def test_any_family_with_weights_of_its_own_encodes_the_cells(tmp_path, cells, family):
    model, processor = tiny_dual_encoder(tmp_path, family)
    output = model(**batch(processor, cells, labels=torch.tensor([0, 1, 2, 0, 1, 2])))
    output.loss.backward()
    assert torch.isfinite(output.loss) and output.logits.shape == (6, 3)


def test_a_family_whose_tables_are_not_saved_with_weights_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="choose a model of another family"):
        tiny_dual_encoder(tmp_path, "uce")


def test_the_loss_is_that_of_clip_where_every_cell_has_a_text_of_its_own():
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(5)
    expected = (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2
    assert_close(contrastive_loss(logits, torch.eye(5, dtype=torch.bool)), expected)


def test_cells_of_the_same_kind_do_not_count_against_each_other():
    together = torch.tensor([[True, False], [True, False], [False, True]])
    perfect = torch.where(together, 50.0, -50.0)
    # of one text, each of its two cells has half
    expected = (0 + (torch.log(torch.tensor(2.0)) + 0) / 2) / 2
    assert_close(contrastive_loss(perfect, together), expected)
    assert contrastive_loss(perfect, torch.zeros_like(together)) == 0


def test_texts_of_one_label_are_all_right():
    together = torch.tensor([[True, True, False]])
    likes_both, likes_one = torch.tensor([[9.0, 9.0, 0.0]]), torch.tensor([[9.0, 0.0, 0.0]])
    assert contrastive_loss(likes_both, together) < contrastive_loss(likes_one, together)


def test_pairs_to_match_are_the_likeliest_right_and_the_likeliest_wrong_text():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0], [9.0, 9.0, 9.0]])
    together = torch.tensor([[True, False, False], [False, False, True], [False, False, False]])
    pairs, targets = pairs_to_match(logits, together)
    assert pairs.tolist() == [[0, 0], [1, 2], [0, 2], [1, 1]] and targets.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(("pooling", "expected"), [("mean", 2.5), ("last", 3.0), ("cls", 2.0)])
def test_padding_changes_no_pooling(pooling, expected):
    states = torch.tensor([[7.0, 2.0, 3.0], [2.0, 3.0, 7.0]]).unsqueeze(-1)
    mask = torch.tensor([[False, True, True], [True, True, False]])
    assert pool(states, mask, pooling).tolist() == [[expected], [expected]]


def test_padding_a_batch_changes_nothing(tmp_path, cells):
    model, processor = tiny_dual_encoder(tmp_path)
    model.eval()
    together = model(**processor(text=list(TEXTS.values()), return_tensors="pt")).text_embedding
    for text, expected in zip(TEXTS.values(), together, strict=True):
        assert_close(model(**processor(text=text, return_tensors="pt")).text_embedding[0], expected)


def test_a_locked_tower_stays_and_its_projection_learns(tmp_path, cells):
    model, processor = tiny_dual_encoder(tmp_path)
    model.lock("cell")
    model(**batch(processor, cells, labels=torch.tensor([0, 1, 2, 0, 1, 2]))).loss.backward()
    assert all(parameter.grad is None for parameter in model.cell_model.parameters())
    assert model.cell_projection.linear.weight.grad.abs().sum() > 0
    with pytest.raises(ConfigurationError, match="'cell' or 'text'"):
        model.lock("both")


def test_gradients_reach_every_parameter(tmp_path, cells):
    model, processor = tiny_dual_encoder(tmp_path, projection="mlp", matching_layers=1)
    model(**batch(processor, cells, labels=torch.tensor([0, 1, 2, 0, 1, 2]))).loss.backward()
    towers = ("cell_model.", "text_model.")
    without = [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
    assert not [name for name in without if not name.startswith(towers)]
    assert not [name for name in without if name.startswith("text_model.")]


def test_a_cell_that_counts_not_changes_no_loss(tmp_path, cells):
    model, processor = tiny_dual_encoder(tmp_path)
    model.eval()
    losses = [model(**batch(processor, cells[:n], labels=torch.tensor([0, 1, 2, -100][:n]))).loss for n in (3, 4)]
    assert_close(losses[0], losses[1])


def test_what_cannot_be_is_refused(tmp_path, cells):
    model, processor = tiny_dual_encoder(tmp_path)
    with pytest.raises(ConfigurationError, match="nothing to encode"):
        model()
    with pytest.raises(ConfigurationError, match="give both, cells and texts"):
        model(**processor(cells, return_tensors="pt"), labels=torch.zeros(6).long())
    for text, named in (([], "none empty"), (["  "], "none empty"), ("word " * 300, "shorten it")):
        with pytest.raises(ConfigurationError, match=named):
            processor(text=text)
    assert processor(text="word " * 300, truncation=True)["text_input_ids"].shape == (1, 256)
    with pytest.raises(StrictDataclassError, match="multiple of"):
        CellTextDualEncoderConfig(projection_dim=10, matching_layers=1, matching_heads=4)
