"""A linear path from genes to labels beside an encoder."""

import anndata as ad
import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import sclm_hf
from sclm_hf.modeling.common.gene_bag import CELL_NORM, GeneBag
from sclm_hf.opening.classifiers import open_classifier
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.finetune import finetune
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments

from ..training.h5ad_files import GENES, LABELS, write_h5ad

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("geneformer", "tgpt", "uce")]


def test_each_gene_adds_in_proportion_to_its_value():
    bag = GeneBag(10, 3)
    assert not bag.weight.any()
    torch.nn.init.normal_(bag.weight)
    ids, values = torch.tensor([[4, 2, 0], [1, 9, 0]]), torch.tensor([[3.0, -1.0, 5.0], [2.0, 0.0, 7.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0]])
    x = (values.sign() * values.abs().log1p() * mask).double()
    x = CELL_NORM * x / x.norm(dim=1, keepdim=True)
    expected = torch.einsum("cg,cgl->cl", x, bag.weight[ids].double())
    torch.testing.assert_close(bag(ids, values, mask).double(), expected, atol=1e-5, rtol=1e-5)
    whole = torch.zeros(2, 10).scatter(1, ids, values * mask)
    torch.testing.assert_close(bag(None, whole.to_sparse()), bag(ids, values, mask))
    torch.testing.assert_close(bag(torch.arange(10), whole), bag(ids, values, mask))


@pytest.mark.parametrize("family", ["scgpt", "cellplm", *SLOW])
def test_it_starts_at_zero_is_trained_and_comes_back(family, tmp_path):
    file = write_h5ad(tmp_path / "a.h5ad", 40)
    cells = ad.read_h5ad(file)
    cells.obs["batch"] = ["first", "second"] * 20
    cells.write_h5ad(file)
    base = str(make_tiny_checkpoint(family, tmp_path / "base", task="annotate", genes=GENES))
    assert not open_classifier(base, sorted(LABELS), linear_beside=True).gene_bag.weight.any()
    config = TrainingConfig(output_dir=str(tmp_path / "out"), use_cpu=True, max_steps=2, learning_rate=1e-2)
    arguments = FinetuneArguments(base, "cell_type", head="linear_beside", partners=False)
    result = finetune(DataArguments([str(file)], eval_files=[str(file)]), arguments, config)
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()) and model.gene_bag.weight.any()
    for place in ("out", "out/adapter"):
        found = sclm_hf.annotate(ad.read_h5ad(file), str(tmp_path / place), device="cpu")
        names = list(found.uns["sclm_hf"]["sclm_prediction"]["label_names"])
        truth = found.obs["cell_type"].map(names.index).to_numpy()
        loss = -np.log(found.obsm["sclm_probabilities"][np.arange(40), truth]).mean()
        assert result.metrics["eval_loss"] == pytest.approx(loss, abs=1e-4)
