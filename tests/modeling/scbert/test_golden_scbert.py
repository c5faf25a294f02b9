"""Every number of the original scBERT, reproduced through the converter and `from_pretrained`.

Of the recorded arrays these are compared elsewhere: `gene2vec_npy`, the checkpoint's table, by the converter's test,
and the preprocessing by `tests/tokenization/encodings/test_log_bins.py`. `lr_schedule` is not compared: the schedule
of the authors' script is no part of the package.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoProcessor,
)

from sclm_hf import CellProcessor, ExpressionFeatureExtractor
from sclm_hf.modeling.common.attention import performer_attention_naive, performer_attention_weights, softmax_kernel
from sclm_hf.modeling.scbert.convert_scbert import WEIGHT_MAP
from sclm_hf.objectives.masked_expression import MaskedExpressionCollator
from sclm_hf.registry import FAMILIES
from sclm_hf.tokenization.encodings.keys import Stream

from .golden_scbert import CASES, FINETUNED, convert_case, golden_arrays, golden_names

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def arrays(case):
    return golden_arrays(case)


@pytest.fixture(scope="module")
def folder(case, tmp_path_factory):
    return convert_case(case, tmp_path_factory.mktemp(case))


@pytest.fixture
def model(folder):
    return AutoModelForPreTraining.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def finetuned(case, tmp_path_factory):
    return convert_case(case, tmp_path_factory.mktemp(case), FINETUNED)


def test_bins(folder, arrays):
    """Of logarithms as recorded, with the bins of the converted checkpoint."""
    converted = AutoProcessor.from_pretrained(folder)
    settings = {"n_bins": converted.feature_extractor.n_bins, "expects": "normalized"}
    processor = CellProcessor(ExpressionFeatureExtractor.for_family("scbert", **settings), converted.tokenizer)
    expression = arrays["expression"].numpy()
    genes = np.arange(expression.shape[1])
    batch = processor.encode(expression, genes, cell_ids=np.arange(len(expression)), check=False)
    np.testing.assert_array_equal(batch["expression_values"], arrays["input_ids"])
    np.testing.assert_array_equal(batch["input_ids"], np.tile(np.arange(len(genes) + 1), (len(expression), 1)))


def recorded_by_hooks(model, expression_values):
    """Output of every attention block and of every layer, before the final norm."""
    seen = {"attention": [], "layer": []}
    hooks = []
    for layer in model.model.layers:
        hooks += [
            layer.self_attn.register_forward_hook(lambda _, __, output: seen["attention"].append(output[0])),
            layer.register_forward_hook(lambda _, __, output: seen["layer"].append(output)),
        ]
    output = model.model(expression_values=expression_values, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    return output, seen


def test_hidden_states(model, arrays):
    output, seen = recorded_by_hooks(model, arrays["input_ids"])
    before = output.hidden_states[0]
    assert_close(before, arrays["hidden_0"], **TOLERANCE)
    for index, (attended, after) in enumerate(zip(seen["attention"], seen["layer"], strict=True)):
        assert_close(attended, arrays[f"attn_branch_{index}"], **TOLERANCE)
        assert_close(before + attended, arrays[f"after_attn_{index}"], **TOLERANCE)
        assert_close(after, arrays[f"hidden_{index + 1}"], **TOLERANCE)
        before = after
    assert_close(output.last_hidden_state, arrays["encodings"], **TOLERANCE)
    assert_close(output.last_hidden_state, arrays["return_encodings"], **TOLERANCE)
    assert_close(output.cell_embedding, arrays["encodings"].mean(dim=1), **TOLERANCE)


def test_first_attention(model, arrays):
    layer = model.model.layers[0]
    attention, tokens = layer.self_attn, layer.norm1(arrays["hidden_0"])
    query, key, value = (
        attention.heads(project(tokens)) for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    projection = attention.features.projection
    for ours, name in ((query, "q"), (key, "k"), (value, "v")):
        assert_close(ours, arrays[f"l0_{name}"], **TOLERANCE)
    assert_close(softmax_kernel(query, projection, is_query=True), arrays["l0_q_prime"], **TOLERANCE)
    assert_close(softmax_kernel(key, projection, is_query=False), arrays["l0_k_prime"], **TOLERANCE)
    assert_close(performer_attention_naive(query, key, value, projection), arrays["l0_attn"], **TOLERANCE)


def test_logits(model, arrays):
    values = arrays["input_ids"]
    genes = torch.arange(values.shape[1]).expand_as(values)
    everything = {"input_ids": genes, "expression_values": values, "attention_mask": torch.ones_like(values)}
    for inputs in ({"expression_values": values}, {"expression_values": values.float()}, everything):
        assert_close(model(**inputs).logits, arrays["logits"], **TOLERANCE)
    assert_close(model.double()(expression_values=values).logits, arrays["logits_fp64"], **TOLERANCE)


def test_one_cell_and_fewer_genes(model, arrays):
    values = arrays["input_ids"]
    assert_close(model(expression_values=values[:1]).logits, arrays["logits_item0_alone"], **TOLERANCE)
    assert_close(model(expression_values=values[:1]).logits, arrays["attn_out_logits"], **TOLERANCE)
    assert_close(model(expression_values=arrays["short_input_ids"]).logits, arrays["short_logits"], **TOLERANCE)
    assert (model(expression_values=values).logits - arrays["logits_each_alone"]).abs().max() > 1e-3
    model.config.key_maximum = "sequence"
    assert_close(model(expression_values=values).logits, arrays["logits_each_alone"], **TOLERANCE)


def attention_map(model, values):
    """The map of the original, all pairs: weights of each layer, asked again after its attention has been added."""
    hidden_states = model.model(expression_values=values, output_hidden_states=True).hidden_states[0]
    maps = []
    for layer in model.model.layers:
        hidden_states = layer.attend(hidden_states)
        attention, tokens = layer.self_attn, layer.norm1(hidden_states)
        query, key = attention.heads(attention.q_proj(tokens)), attention.heads(attention.k_proj(tokens))
        maps.append(performer_attention_weights(query, key, attention.features.projection).mean(dim=1))
        hidden_states = layer.feed_forward(hidden_states)
    return torch.stack(maps).mean(dim=0)


def test_attention_map(model, arrays):
    """The original computes it in half precision, which overflows in some rows of case_b."""
    values, recorded = arrays["input_ids"][:1], arrays["attn_map_fp16"][0].float()
    ours = attention_map(model, values)
    finite = recorded.isfinite()
    assert finite.float().mean() > 0.8
    assert_close(ours[finite], recorded[finite], atol=5e-3, rtol=0)
    whole = finite.all(dim=2)[0]
    assert_close(ours[:, whole].mean(dim=1), recorded[:, whole].mean(dim=1), atol=1e-3, rtol=0)
    vector = ours.mean(dim=1)
    assert_close(model.model.gene_attention(expression_values=values), vector / vector.sum(), **TOLERANCE)


class RecordedDraws(MaskedExpressionCollator):
    """Draws from torch's global generator, in the original's order; the original takes the largest scores."""

    def draws(self, batch, epoch, stream):
        draws = torch.rand(batch["input_ids"].shape).double()
        given = 1 - draws if stream == Stream.MASK else draws
        return super().draws(batch, epoch)._replace(given=given[None].numpy())


def masked(model, values, seed):
    genes = torch.arange(values.shape[1]).expand_as(values)
    batch = {
        "input_ids": genes,
        "expression_values": values,
        "attention_mask": torch.ones_like(values),
        "cell_ids": torch.arange(len(values)),
    }
    config = model.config
    special = (config.pad_token_id, config.cls_token_id)
    collator = RecordedDraws(
        **FAMILIES["scbert"].masking["masked"], mask_value=config.mask_value, special_token_ids=special
    )
    torch.manual_seed(int(seed))
    return collator(batch)


@pytest.mark.parametrize(
    ("original", "replaced", "seed", "labels"),
    [
        ("input_ids", "masked_input_ids", "mask_seed", "labels"),
        ("mask2_input", "mask2_masked", "mask2_seed", "mask2_labels"),
    ],
)
def test_masks(model, arrays, original, replaced, seed, labels):
    inputs = masked(model, arrays[original], arrays[seed])
    assert torch.equal(inputs["expression_values"], arrays[replaced])
    not_asked_for = arrays[labels] == model.config.mask_value
    assert torch.equal(inputs["labels"].long(), arrays[labels].masked_fill(not_asked_for, -100))


def our_name(original: str) -> str:
    layer = next((part for part in original.split(".") if part.isdigit()), "")
    return {theirs.format(layer): ours.format(layer) for theirs, ours in WEIGHT_MAP.items()}[original]


def assert_gradients(model, arrays, case, prefix):
    ours = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    names = golden_names(case, f"{prefix}_grad_names")
    assert {our_name(name) for name in names} == set(ours)
    for name, norm in zip(names, arrays[f"{prefix}_grad_norms"], strict=True):
        assert_close(ours[our_name(name)].double().norm(), norm, rtol=1e-4, atol=1e-8, msg=name)
    for key in [key for key in arrays if key.startswith(f"{prefix}_grad/")]:
        gradient = ours[our_name(key.removeprefix(f"{prefix}_grad/"))]
        assert_close(gradient.flatten(), arrays[key].flatten(), rtol=1e-4, atol=1e-6, msg=key)


def test_pretraining_loss_and_gradients(folder, arrays, case):
    model = AutoModelForMaskedLM.from_pretrained(folder)
    inputs = masked(model, arrays["input_ids"], arrays["mask_seed"])
    output = model.train()(**inputs)
    assert model.model.redraw.calls == arrays["calls_since_last_redraw_after_one_train_forward"]
    assert_close(output.logits, arrays["mlm_logits"], **TOLERANCE)
    assert_close(output.loss.double(), arrays["mlm_loss"], **TOLERANCE)
    output.loss.backward()
    assert_gradients(model, arrays, case, "mlm")


def test_fine_tuning(finetuned, arrays, case):
    model = AutoModelForSequenceClassification.from_pretrained(finetuned)
    model.freeze_as_published()
    output = model(expression_values=arrays["input_ids"], labels=arrays["cell_type_labels"])
    assert_close(output.logits, arrays["cls_logits"], **TOLERANCE)
    assert_close(F.softmax(output.logits, dim=-1), arrays["cls_prob"], **TOLERANCE)
    assert_close(output.loss.double(), arrays["cls_loss"], **TOLERANCE)
    output.loss.backward()
    assert_gradients(model, arrays, case, "cls")
