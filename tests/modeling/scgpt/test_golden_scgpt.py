"""Every number of the original scGPT, reproduced through the converter and `from_pretrained`.

Tolerances: 1e-5 absolute (the recorded runs agree among themselves to 2e-6); sums over many genes and losses of
several hundred are compared relative to their size.
"""

import json

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

from sclm_hf import ScGPTForMaskedExpression, ScGPTForPerturbation
from sclm_hf.modeling.common.losses import (
    contrastive_cell_embedding,
    elastic_cell_similarity,
    masked_relative_error,
)

from .golden_scgpt import GOLDEN, convert_case, convert_variant, golden_arrays, variant_names

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
EXTRA = {"case_a": "extra_cls_decoder.pt", "case_b": None}


@pytest.fixture(scope="module", params=["case_a", "case_b"])
def case(request):
    return request.param


@pytest.fixture(scope="module")
def arrays(case):
    return golden_arrays(f"{case}/io.npz")


@pytest.fixture(scope="module")
def converted(case, tmp_path_factory):
    return convert_case(case, tmp_path_factory.mktemp(case), extra=EXTRA[case])


@pytest.fixture(params=["eager", "sdpa"])
def model(converted, request):
    return AutoModelForPreTraining.from_pretrained(converted, attn_implementation=request.param).eval()


def inputs(arrays, prefix=""):
    """Model inputs of the padded batch (no prefix), or of `nopad_` and `mixed_`."""
    source = prefix if f"{prefix}input_gene_ids" in arrays else ""
    labels = arrays.get(f"{prefix}batch_labels", arrays.get("batch_labels"))
    batch = {"input_ids": arrays[f"{source}input_gene_ids"], "expression_values": arrays[f"{source}input_values"]}
    if source == "":
        batch["attention_mask"] = (~arrays["src_key_padding_mask"]).long()
    if labels is not None:
        batch["batch_labels"] = labels
    return batch


@pytest.mark.parametrize("prefix", ["eval_", "nopad_", "mixed_", "fast_", "flash_"])
def test_outputs(model, arrays, prefix):
    if f"{prefix}mlm_output" not in arrays:
        pytest.skip(f"this case records no {prefix} outputs")
    batch = inputs(arrays, prefix)
    real = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
    output = model(**batch)
    encoded = model.model(**batch)
    assert_close(encoded.last_hidden_state[real], arrays[f"{prefix}transformer_output"][real], **TOLERANCE)
    assert_close(output.cell_embedding, arrays[f"{prefix}cell_emb"], **TOLERANCE)
    assert_close(output.expression_prediction[real], arrays[f"{prefix}mlm_output"][real], **TOLERANCE)
    assert_close(output.cell_expression_prediction[real], arrays[f"{prefix}mvc_output"][real], **TOLERANCE)
    assert_close(output.logits, arrays[f"{prefix}cls_output"], **TOLERANCE)
    for ours, theirs in [
        ("nonzero_probability", "mlm_zero_probs"),
        ("cell_nonzero_probability", "mvc_zero_probs"),
    ]:
        if f"{prefix}{theirs}" in arrays:
            assert_close(output[ours][real], arrays[f"{prefix}{theirs}"][real], **TOLERANCE)
    if f"{prefix}dab_output" in arrays:
        assert_close(output.batch_logits, arrays[f"{prefix}dab_output"], **TOLERANCE)
    similarity = elastic_cell_similarity(output.cell_embedding, model_threshold(arrays))
    assert_close(similarity, arrays[f"{prefix}loss_ecs"], **TOLERANCE)
    contrastive = contrastive_cell_embedding(output.cell_embedding, output.cell_embedding)
    assert_close(contrastive, arrays[f"{prefix}loss_cce"], **TOLERANCE)


def model_threshold(arrays):
    return 0.8 if "batch_labels" in arrays else 0.3


def test_intermediate_states(model, arrays):
    batch = inputs(arrays)
    real = batch["attention_mask"].bool()
    encoded = model.model(**batch, output_hidden_states=True)
    assert_close(encoded.gene_embeddings, arrays["eval_gene_emb"], **TOLERANCE)
    assert_close(model.model.embeddings.values(batch["expression_values"]), arrays["eval_value_emb"], **TOLERANCE)
    assert_close(encoded.hidden_states[0], arrays["eval_total_emb"], **TOLERANCE)
    for index, hidden_state in enumerate(encoded.hidden_states[1:]):
        assert_close(hidden_state[real], arrays[f"eval_layer_{index}"][real], **TOLERANCE)


def set_objective(model, arrays):
    model.config.use_ecs = True
    model.config.ecs_threshold = model_threshold(arrays)


def labelled(arrays, config):
    batch = inputs(arrays)
    masked = arrays["input_values"] == config.mask_value
    batch["labels"] = torch.where(masked, arrays["target_values"], -100.0)
    if "batch_labels" in arrays:
        batch["cell_type_labels"] = arrays["celltype_labels"]
    return batch


TERMS = {
    "expression": "gep",
    "cell_expression": "gepc",
    "nonzero": "nzlp",
    "cell_nonzero": "mvc_nzlp",
    "classification": "cls",
    "elastic_similarity": "ecs_term",
    "batch_discriminator": "dab",
}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_losses(model, arrays, mode):
    set_objective(model, arrays)
    model.config.hidden_dropout_prob = 0.0
    model.train(mode == "train")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    output = model(**labelled(arrays, model.config))
    for ours, theirs in TERMS.items():
        if f"{mode}_loss_{theirs}" in arrays:
            assert_close(output.loss_terms[ours], arrays[f"{mode}_loss_{theirs}"], rtol=1e-5, atol=1e-5)
    assert_close(output.loss, arrays[f"{mode}_loss_total"], rtol=1e-5, atol=1e-5)


def test_relative_error(converted):
    arrays = golden_arrays("case_a/io.npz")
    if "case_a" not in str(converted):
        pytest.skip("recorded for case_a only")
    model = AutoModelForPreTraining.from_pretrained(converted).eval()
    batch = labelled(arrays, model.config)
    prediction = model(**batch).expression_prediction
    assert_close(masked_relative_error(prediction, batch["labels"]), arrays["eval_mre"], rtol=1e-5, atol=1e-5)


def test_training_step(converted, case, arrays):
    """Gradients, running statistics and one Adam step equal the original's (dropout 0)."""
    model = AutoModelForPreTraining.from_pretrained(converted, attn_implementation="eager", hidden_dropout_prob=0.0)
    set_objective(model, arrays)
    model.train()
    model(**labelled(arrays, model.config)).loss.backward()
    with torch.no_grad():
        # the recorded step also ran the contrastive second view, whose loss it left out of the sum
        model.model(**inputs(arrays))

    gradients = original_gradients(model)
    norms = json.loads((GOLDEN / case / "train_grad_norms.json").read_text())
    for name, norm in norms.items():
        # a bias before batch normalisation has no gradient but rounding, hence the absolute part
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-3), name
    for key, expected in arrays.items():
        if key.startswith("train_after__dsbn"):
            _, _, domain, buffer = key.split("__")[1].split(".")
            ours = getattr(model.model.domain_norm, buffer)[int(domain)]
            assert_close(ours, expected, rtol=1e-5, atol=1e-6)

    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    clipped = original_gradients(model)
    for key, expected in arrays.items():
        if key.startswith("train_grad__"):
            assert_close(clipped[key.removeprefix("train_grad__")], expected, **TOLERANCE)
    torch.optim.Adam(model.parameters(), lr=1e-3).step()
    stepped = arrays["train_after_adam__transformer_encoder.layers.0.linear1.weight"]
    assert_close(model.model.layers[0].linear1.weight.detach(), stepped, rtol=0, atol=1e-5)


def original_gradients(model):
    """Gradients under the original's names, through the converter's own table."""
    from sclm_hf.modeling.scgpt.convert_scgpt import WEIGHT_MAP

    ours = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    gradients = {}
    for original, target in WEIGHT_MAP.items():
        if "Wqkv" in original or "_impl" in original:
            continue
        names = (target,) if isinstance(target, str) else target
        for first in range(10):
            for second in range(10):
                parts = [ours.get(name.format(first, second)) for name in names]
                if all(part is not None for part in parts):
                    gradients[original.format(first, second)] = torch.cat(parts)
    return gradients


def test_generation_from_cell_embedding(model, arrays):
    batch = inputs(arrays)
    real = batch["attention_mask"].bool()
    kwargs = {key: batch[key] for key in ("input_ids", "attention_mask", "batch_labels") if key in batch}
    for name, values in [("generate_novalues", None), ("generate_values", batch["expression_values"])]:
        generated = model.generate_expression(arrays["eval_cell_emb"], expression_values=values, **kwargs)
        assert_close(generated[real], arrays[name][real], **TOLERANCE)


@pytest.mark.parametrize("padding", ["pad", "nopad"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_generative_pretraining(tmp_path, padding, attention):
    arrays = {
        key.removeprefix(f"{padding}__"): value
        for key, value in golden_arrays("case_a/io_generative.npz").items()
        if key.startswith(f"{padding}__")
    }
    folder = convert_case("case_a", tmp_path)
    model = ScGPTForMaskedExpression.from_pretrained(folder, attn_implementation=attention).eval()
    pad = model.config.pad_token_id
    known, generated = arrays["pcpt_gene"] != pad, arrays["gen_gene"] != pad
    real = torch.cat([known, generated], dim=1)
    batch = {
        "input_ids": arrays["pcpt_gene"],
        "expression_values": arrays["pcpt_expr"],
        "attention_mask": known.long(),
        "generation_ids": arrays["gen_gene"],
        "generation_attention_mask": generated.long(),
    }
    targets = torch.where(generated, arrays["gen_expr_target"], -100.0)
    labels = torch.cat([torch.full(known.shape, -100.0), targets], dim=1)

    encoded = model.model(**batch, output_hidden_states=True)
    for index, hidden_state in enumerate(encoded.hidden_states[1:]):
        expected = torch.cat([arrays[f"pcpt_layer_{index}"], arrays[f"gen_layer_{index}"]], dim=1)
        assert_close(hidden_state[real], expected[real], **TOLERANCE)
    output = model(**batch, labels=labels, generate_from_cell_embedding=True)
    predictions = torch.cat([arrays["pcpt_preds"], arrays["gen_preds"]], dim=1)
    assert_close(output.expression_prediction[real], predictions[real], **TOLERANCE)
    assert_close(output.cell_embedding, arrays["cell_emb"], **TOLERANCE)
    assert_close(output.cell_expression_prediction[real], arrays["mvc_output"][real], **TOLERANCE)
    for ours, theirs in [("expression", "mse"), ("cell_expression", "mvc"), ("generation_from_cell", "gen")]:
        assert_close(output.loss_terms[ours], arrays[f"loss_{theirs}"], rtol=1e-5, atol=1e-5)

    alone = model(arrays["pcpt_gene"], arrays["pcpt_expr"], known.long())
    assert_close(alone.cell_embedding, arrays["pcpt_only_cell_emb"], **TOLERANCE)
    assert_close(alone.expression_prediction[known], arrays["pcpt_only_preds"][known], **TOLERANCE)


@pytest.mark.parametrize("name", variant_names())
def test_variant(tmp_path, name):
    folder = convert_variant(name, tmp_path)
    arrays = golden_arrays("variants/io.npz")
    ids, values = arrays[f"{name}__gene_ids"], arrays[f"{name}__values"]
    batch = {"input_ids": ids, "expression_values": values, "attention_mask": (ids != 30).long()}
    if f"{name}__batch_labels" in arrays:
        batch["batch_labels"] = arrays[f"{name}__batch_labels"]
    model = ScGPTForMaskedExpression.from_pretrained(folder).eval()
    real = batch["attention_mask"].bool()
    output = model(**batch)
    encoded = model.model(**batch)
    assert_close(encoded.last_hidden_state[real], arrays[f"{name}__transformer_output"][real], **TOLERANCE)
    assert_close(output.expression_prediction[real], arrays[f"{name}__mlm_output"][real], **TOLERANCE)
    assert_close(output.cell_embedding, arrays[f"{name}__cell_emb"], **TOLERANCE)
    assert_close(output.logits, arrays[f"{name}__cls_output"], **TOLERANCE)
    mvc = arrays.get(f"{name}__mvc_output", arrays.get(f"{name}__mvc_module_output"))
    assert_close(output.cell_expression_prediction[real], mvc[real], **TOLERANCE)
    assert_close(elastic_cell_similarity(output.cell_embedding, 0.3), arrays[f"{name}__loss_ecs"], **TOLERANCE)


PERTURBATION_ARGS = {
    "pad0": {"pert_pad_id": 0},
    "default_mvc_adaptive": {"decoder_adaptive_bias": True},
    "act": {"pert_pad_id": 0, "decoder_activation": "Softplus"},
}


def perturbation_model(case, name, tmp_path):
    args = PERTURBATION_ARGS[name]
    folder = convert_case(case, tmp_path, weights=f"pert/{name}.pt", pad_value=0, **args)
    return ScGPTForPerturbation.from_pretrained(folder).eval(), golden_arrays(f"{case}/pert/io.npz")


@pytest.mark.parametrize("name", PERTURBATION_ARGS)
def test_perturbation(tmp_path, case, name):
    model, arrays = perturbation_model(case, name, tmp_path)
    values, flags = arrays["ori_gene_values"], arrays["pert_flags"]
    ids = arrays["gene_ids"].expand(len(values), -1)
    output = model(ids, values, flags, do_sample=False, labels=torch.zeros_like(values))
    encoded = model.model(ids, values, extra_embeddings=model.perturbations(flags))
    assert_close(encoded.last_hidden_state, arrays[f"{name}__transformer_output"], **TOLERANCE)
    assert_close(output.expression_prediction, arrays[f"{name}__decoder_pred"], **TOLERANCE)
    for ours, theirs in [
        ("expression_prediction", "mlm_output"),
        ("expression_prediction", "pred_perturb_all"),
        ("nonzero_probability", "decoder_zero_probs"),
        ("nonzero_probability", "mlm_zero_probs"),
        ("cell_expression_prediction", "mvc_output"),
        ("cell_nonzero_probability", "mvc_zero_probs"),
        ("loss", "loss_mse_vs_zero"),
        ("logits", "cls_output"),
    ]:
        if f"{name}__{theirs}" in arrays:
            assert_close(output[ours], arrays[f"{name}__{theirs}"], **TOLERANCE)
    if f"{name}__loss_ecs" in arrays:
        similarity = elastic_cell_similarity(output.cell_embedding, 0.3)
        assert_close(similarity, arrays[f"{name}__loss_ecs"], **TOLERANCE)


@pytest.mark.parametrize("name", ["pad0", "act"])
def test_perturbation_of_the_genes_of_a_batch(tmp_path, case, name):
    """The original's "batch-wise" prediction sees only genes that are non-zero in some cell of the batch."""
    model, arrays = perturbation_model(case, name, tmp_path)
    values, flags = arrays["ori_gene_values"], arrays["pert_flags"]
    kept = (values != 0).any(dim=0)
    output = model(arrays["gene_ids"][kept].expand(len(values), -1), values[:, kept], flags[:, kept])
    assert_close(output.expression_prediction, arrays[f"{name}__pred_perturb_batch-wise"][:, kept], **TOLERANCE)


def test_sampled_zeros_follow_their_probability(tmp_path):
    folder = convert_case("case_a", tmp_path, weights="pert/default_mvc_adaptive.pt", pad_value=0)
    arrays = golden_arrays("case_a/pert/io.npz")
    model = ScGPTForPerturbation.from_pretrained(folder).eval()
    torch.manual_seed(0)
    repeated = [arrays["gene_ids"].expand(400, -1), arrays["ori_gene_values"][:1], arrays["pert_flags"][:1]]
    output = model(*(tensor.expand(400, -1) for tensor in repeated))
    drawn = (output.expression_prediction != 0).float().mean(dim=0)
    assert_close(drawn, output.nonzero_probability[0], atol=0.1, rtol=0)


@pytest.mark.parametrize("naming", ["best_model.pt", "best_model_torch_names.pt", "head", "module."])
def test_key_namings(tmp_path, case, arrays, naming):
    tensors = torch.load(GOLDEN / case / "best_model.pt", weights_only=True)
    expected = AutoModel.from_pretrained(convert_case(case, tmp_path / "released")).eval()
    if naming.endswith(".pt"):
        folder = convert_case(case, tmp_path / "other", weights=naming)
    else:
        rename = {
            "head": lambda key: key.replace("self_attn.", "self_attn._impl."),
            "module.": lambda key: "module." + key,
        }[naming]
        torch.save({rename(key): tensor for key, tensor in tensors.items()}, tmp_path / "renamed.pt")
        folder = convert_case(case, tmp_path / "other", weights=str(tmp_path / "renamed.pt"))
    for name, parameter in AutoModel.from_pretrained(folder).state_dict().items():
        assert torch.equal(parameter, expected.state_dict()[name]), name


def test_classifier_from_auto_class(tmp_path):
    folder = convert_case("case_b", tmp_path)
    arrays = golden_arrays("case_b/io.npz")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    output = model(**inputs(arrays), labels=arrays["celltype_labels"])
    assert_close(output.logits, arrays["eval_cls_output"], **TOLERANCE)
    assert_close(output.loss, arrays["eval_loss_cls"], **TOLERANCE)


@pytest.mark.parametrize("recording", ["preproc_a", "preproc_b"])
@pytest.mark.parametrize("name", ["cont", "ints", "sampled"])
def test_published_embeddings(tmp_path, recording, name):
    """The recorded batches of the original's embedding task give its recorded, L2-normalised vectors."""
    model = AutoModel.from_pretrained(convert_case("case_a", tmp_path)).eval()
    arrays = golden_arrays(f"{recording}/io.npz")
    embeddings = []
    for number in range(3):
        ids, values = (arrays[f"emb__{name}__batch{number}_{part}"] for part in ("gene", "expr"))
        mask = (ids != model.config.pad_token_id).long()
        embeddings.append(model(ids, values, mask).cell_embedding)
    normalized = torch.nn.functional.normalize(torch.cat(embeddings), dim=-1)
    assert_close(normalized, arrays[f"emb__{name}__X_scGPT"], **TOLERANCE)
