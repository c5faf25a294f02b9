"""Every number of the original Geneformer, reproduced through the converter and `from_pretrained`.

Tolerances: 1e-5 absolute, losses 1e-5, norms of gradients 1e-4 relative; the original ran with transformers 4.44.
Of the recorded files these are not compared here: `state_emb_*`, random vectors that are inputs of `isp.json`, which
`tests/tasks/test_perturb_golden.py` compares; `cells.dataset`, which holds what `cells.json` and `input_ids` hold; and
`generation_config.json`, which an encoder has no use for.
"""

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from sclm_hf import (
    GeneformerForMaskedLM,
    GeneformerForMultiTaskClassification,
    GeneformerForSequenceClassification,
    GeneformerForTokenClassification,
    GeneformerModel,
)
from sclm_hf.modeling.common.legacy import read_pickle
from sclm_hf.modeling.geneformer.modeling_geneformer import mean_over_genes

from .golden_geneformer import GOLDEN, KINDS, convert_case, golden_arrays, golden_json

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", params=["case_a", "case_b"])
def case(request):
    return request.param


@pytest.fixture(scope="module")
def arrays(case):
    return golden_arrays(case)


@pytest.fixture(scope="module")
def converted(case, tmp_path_factory):
    folder = tmp_path_factory.mktemp(case)
    return {kind: convert_case(case, kind, folder) for kind in KINDS}


@pytest.fixture(params=["eager", "sdpa"])
def attention(request):
    return request.param


def inputs(arrays, order=slice(None)):
    return {"input_ids": arrays["input_ids"][order], "attention_mask": arrays["attention_mask"][order]}


def real_positions(arrays, order=slice(None)):
    return arrays["attention_mask"][order].bool()


@pytest.mark.parametrize("kind", ["model", "model_v4_6"])
def test_hidden_states_and_embeddings(converted, arrays, kind, attention):
    model = AutoModel.from_pretrained(converted[kind], attn_implementation=attention).eval()
    assert type(model) is GeneformerModel
    output = model(**inputs(arrays), output_hidden_states=True)
    real = real_positions(arrays)
    recorded = [arrays[f"hidden_{number}"] for number in range(model.config.num_hidden_layers + 1)]
    assert f"hidden_{len(recorded)}" not in arrays
    for ours, theirs in zip(output.hidden_states, recorded, strict=True):
        assert_close(ours[real], theirs[real], **TOLERANCE)
    assert_close(output.last_hidden_state[real], recorded[-1][real], **TOLERANCE)
    assert_close(output.gene_embeddings, arrays["embeddings_word_only"], **TOLERANCE)


def test_recorded_cells(case, arrays):
    ids, mask = arrays["input_ids"], arrays["attention_mask"].bool()
    assert [row[real].tolist() for row, real in zip(ids, mask, strict=True)] == golden_json(case, "cells")["input_ids"]
    assert (ids[~mask] == 0).all()


STOCK = {
    "model": (BertForMaskedLM, GeneformerForMaskedLM, "mlm_logits_first3cells"),
    "cell_classifier": (
        BertForSequenceClassification,
        GeneformerForSequenceClassification,
        "cell_classifier__logits",
    ),
    "gene_classifier": (BertForTokenClassification, GeneformerForTokenClassification, "gene_classifier__logits"),
}


@pytest.mark.parametrize("kind", STOCK)
def test_stock_classes_read_our_folders_and_ours_read_those_of_the_release(case, converted, arrays, kind):
    stock_class, our_class, name = STOCK[kind]
    recorded = arrays[name]
    cells = slice(0, len(recorded))
    stock, info = stock_class.from_pretrained(converted[kind], output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ours, info = our_class.from_pretrained(GOLDEN / case / kind, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    real = real_positions(arrays, cells) if recorded.ndim == 3 else slice(None)
    for model in (stock, ours):
        assert_close(model.eval()(**inputs(arrays, cells)).logits[real], recorded[real], **TOLERANCE)


def test_attentions(converted, arrays):
    model = AutoModel.from_pretrained(converted["model"], attn_implementation="eager").eval()
    output = model(**inputs(arrays, slice(0, 2)), output_attentions=True)
    real = real_positions(arrays, slice(0, 2))
    assert len(output.attentions) == model.config.num_hidden_layers
    for number, ours in enumerate(output.attentions):
        theirs = arrays[f"attention_{number}_first2cells"]
        assert_close(ours.transpose(1, 2)[real], theirs.transpose(1, 2)[real], **TOLERANCE)


@pytest.mark.parametrize("kind", ["model", "model_v4_6"])
def test_masked_genes(converted, arrays, kind, attention):
    model = AutoModelForMaskedLM.from_pretrained(converted[kind], attn_implementation=attention).eval()
    logits = model(**inputs(arrays, slice(0, 3))).logits
    real = real_positions(arrays, slice(0, 3))
    assert_close(logits[real], arrays["mlm_logits_first3cells"][real], **TOLERANCE)

    labels = arrays["mlm_labels"]
    output = model(arrays["mlm_input_ids"], arrays["attention_mask"], labels=labels)
    output.loss.backward()
    assert_close(output.loss, arrays["mlm_loss"], **TOLERANCE)
    assert_close(output.logits[labels != -100], arrays["mlm_logits_at_masked"], **TOLERANCE)
    gradients = {
        "grad__word_embeddings": model.bert.embeddings.word_embeddings.weight.grad,
        "grad__layer0_query": model.bert.encoder.layer[0].attention.self.query.weight.grad,
    }
    for name, gradient in gradients.items():
        assert_close(gradient, arrays[name], atol=1e-6, rtol=1e-4)
        assert_close(gradient.norm(), arrays[name].norm(), atol=0, rtol=1e-4)


def test_cell_classifier(converted, arrays):
    model = AutoModelForSequenceClassification.from_pretrained(converted["cell_classifier"]).eval()
    output = model(**inputs(arrays), labels=arrays["cell_classifier__labels"])
    assert_close(output.logits, arrays["cell_classifier__logits"], **TOLERANCE)
    assert_close(output.loss, arrays["cell_classifier__loss"], **TOLERANCE)


def test_gene_classifier(converted, arrays):
    model = AutoModelForTokenClassification.from_pretrained(converted["gene_classifier"]).eval()
    output = model(**inputs(arrays), labels=arrays["gene_classifier__labels"])
    real = real_positions(arrays)
    assert_close(output.logits[real], arrays["gene_classifier__logits"][real], **TOLERANCE)
    assert_close(output.loss, arrays["gene_classifier__loss"], **TOLERANCE)


@pytest.mark.parametrize("pooling", ["cls", "attnpool"])
def test_multi_task(converted, arrays, pooling):
    model = GeneformerForMultiTaskClassification.from_pretrained(converted[f"mtl_{pooling}"]).eval()
    # the case does not record them; they are the only ones that give both recorded losses
    labels = torch.stack([torch.arange(6) % 3, torch.arange(6) % 2], dim=1)
    output = model(**inputs(arrays), labels=labels)
    for number, logits in enumerate(output.logits):
        assert_close(logits, arrays[f"mtl_{pooling}__logits{number}"], **TOLERANCE)
    assert_close(output.losses.double(), arrays[f"mtl_{pooling}__losses"], **TOLERANCE)
    assert_close(output.loss, arrays[f"mtl_{pooling}__loss"], **TOLERANCE)


@pytest.mark.parametrize(("layer", "name"), [(-2, "layerm1"), (-1, "layer0")])
@pytest.mark.parametrize("pooling", ["cell", "cls"])
def test_cell_embeddings(converted, arrays, layer, name, pooling):
    if f"emb_{pooling}_{name}" not in arrays:
        pytest.skip("V1 has no <cls>")
    settings = {"pooling": {"cell": "mean", "cls": "cls"}[pooling], "cell_embedding_layer": layer}
    model = GeneformerModel.from_pretrained(converted["model"], **settings).eval()
    order = arrays[f"emb_{pooling}_{name}__cell_id_order"]
    ours = model(**inputs(arrays, order)).cell_embedding
    assert_close(ours, arrays[f"emb_{pooling}_{name}"], **TOLERANCE)
    assert_close(ours, arrays[f"emb_{pooling}_{name}__df"], **TOLERANCE)


@pytest.mark.parametrize(("layer", "name"), [(-2, "layerm1"), (-1, "layer0")])
def test_gene_embeddings(case, converted, arrays, layer, name):
    model = AutoModel.from_pretrained(converted["model"]).eval()
    order = arrays[f"emb_cell_{name}__cell_id_order"]
    states = model(**inputs(arrays, order), output_hidden_states=True).hidden_states[layer]
    real, ids = real_positions(arrays, order), arrays["input_ids"][order]
    assert_close(states[real], arrays[f"emb_gene_{name}"][real], **TOLERANCE)
    tokens = read_pickle(GOLDEN / case / "token_dictionary.pkl")
    genes = golden_json(case, "meta")[f"emb_gene_{name}__by_gene_index"]
    by_gene = torch.stack([states[real & (ids == tokens[gene])].mean(0) for gene in genes])
    assert_close(by_gene, arrays[f"emb_gene_{name}__by_gene"], **TOLERANCE)


def test_summaries_of_cells(converted, arrays):
    model = AutoModel.from_pretrained(converted["model"]).eval()
    encoded = model(**inputs(arrays), output_hidden_states=True).hidden_states[-2]
    special = model.config.has_special_tokens
    means = mean_over_genes(encoded, arrays["attention_mask"], special)
    assert_close(means.mean(0, keepdim=True), arrays["emb_cell_exact_mean"], **TOLERANCE)
    # of an even number of cells numpy takes the mean of the two in the middle, and so does the original
    median = means.quantile(0.5, dim=0, keepdim=True)
    assert_close(median, arrays["emb_cell_exact_median"], **TOLERANCE)
    # from t-digests, which keep so few cells exactly
    assert_close(means.mean(0, keepdim=True), arrays["emb_cell_mean"], **TOLERANCE)
    assert_close(median, arrays["emb_cell_median"], **TOLERANCE)
