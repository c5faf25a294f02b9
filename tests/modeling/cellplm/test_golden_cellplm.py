"""Every number of the original CellPLM, reproduced through the converter and `Auto*`.

`coord` and `mod.pe_*` are not compared: the original computes positions and adds nothing of them. Nor is
`mod.denoising.loss`: the original's is 0 outside of training, ours is that of the training whenever labels are given.
"""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification, AutoProcessor

from sclm_hf import annotate, embed
from sclm_hf.modeling.cellplm.configuration_cellplm import CellPLMConfig
from sclm_hf.modeling.cellplm.convert_cellplm import WEIGHT_MAP
from sclm_hf.modeling.cellplm.modeling_cellplm import DECODERS, CellPLMForImputation, CellPLMHead
from sclm_hf.modeling.cellplm.modeling_cellplm_encoder import make_layers
from sclm_hf.modeling.cellplm.modeling_cellplm_losses import regression
from sclm_hf.modeling.common.conversion import LoadingReport, convert_weights

from .golden_cellplm import (
    ANNOTATION,
    CASES,
    case_folder,
    case_settings,
    convert_case,
    golden_arrays,
    golden_names,
    noise,
)

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
def annotator(case, tmp_path_factory):
    return convert_case(case, tmp_path_factory.mktemp(case), ANNOTATION)


def told(name: str):
    return lambda text: f"{name}: {text}"


def inner_values(model, **inputs):
    """The output, and what embeddings, attention and layers gave."""
    seen, hooks = {}, []

    def keep(name):
        return lambda _, __, output: seen.update({name: output})

    base = model.model
    hooks.append(base.embeddings.register_forward_hook(keep("embedder")))
    hooks.append(base.norm.register_forward_hook(keep("norm")))
    hooks.append(base.embeddings.linear.register_forward_pre_hook(lambda _, args: seen.update(feat_enc=args[0])))
    for number, layer in enumerate(base.layers):
        hooks.append(layer.register_forward_hook(keep(f"encoder_layer_{number}")))
        hooks.append(layer.self_attn.register_forward_hook(keep(f"encoder_layer_{number}_attn")))
    latent = base.latent
    if hasattr(latent, "cluster"):
        hooks.append(latent.cluster.register_forward_hook(keep("gmvae_logits")))
        hooks.append(latent.mean.register_forward_hook(keep("gmvae_mean")))
        hooks.append(latent.variance.register_forward_hook(keep("variance")))
        hooks.append(latent.prior_mean.register_forward_hook(keep("gmvae_y_mean")))
        hooks.append(latent.prior_mean.register_forward_pre_hook(lambda _, a: seen.update(gmvae_categorical=a[0])))
        hooks.append(latent.prior_variance.register_forward_hook(keep("prior_variance")))
    output = model(**inputs)
    for hook in hooks:
        hook.remove()
    if "variance" in seen:
        seen["gmvae_var"] = F.softplus(seen.pop("variance"))
        seen["gmvae_y_var"] = F.softplus(seen.pop("prior_variance"))
        seen["gmvae_prob_cat"] = seen["gmvae_logits"].softmax(-1)
    return output, {name: value.squeeze(0) for name, value in seen.items()}


@pytest.mark.parametrize("part", ["full", "nocov"])
def test_every_step_in_evaluation(model, arrays, part):
    covariates = {"batch_labels": arrays["batch"], "dataset_labels": arrays["dataset"]} if part == "full" else {}
    inputs = {"expression_values": arrays["x"], "labels": arrays["x"], **covariates, **noise(arrays, part)}
    output, seen = inner_values(model, **inputs)
    found = seen | {
        "pre_latent_norm": model.model(expression_values=arrays["x"], **noise(arrays, part)).last_hidden_state,
        "latent": output.cell_embedding,
        "dec_mean": output.expression_prediction,
        "dec_disp": output.dispersion.expand_as(output.expression_prediction),
        "loss": output.loss,
        "latent_loss": output.latent_loss.double(),
        "target_loss": output.expression_loss.double(),
    }
    if "gmvae_var" in seen:
        drawn = found["gmvae_mean"] + torch.sqrt(found["gmvae_var"] + 1e-10) * arrays[f"{part}.noise_gauss"]
        found["gmvae_gaussian"] = drawn
    recorded = {name.removeprefix(f"{part}."): value for name, value in arrays.items() if name.startswith(f"{part}.")}
    compared = {name for name in recorded if not name.startswith("noise_")}
    assert compared <= found.keys()
    for name in compared:
        expected = recorded[name].squeeze(0) if name.endswith("_attn") else recorded[name]
        assert_close(found[name], expected.to(found[name].dtype), **TOLERANCE, msg=told(name))


def weight_names(recorded: dict, case: str) -> dict[str, str]:
    """Name in the original -> ours."""
    report = LoadingReport("cellplm", [])
    convert_weights({name: torch.zeros(3) for name in recorded}, WEIGHT_MAP, Path("weights.ckpt"), report)
    return {name: ours[0] for name, ours in report.renamed.items()}


def test_a_training_step(folder, case, arrays):
    """All dropouts 0, no cell left out; with the recorded masks and draws."""
    changes = {"hidden_dropout_prob": 0.0, "attention_dropout_prob": 0.0}
    model = AutoModelForPreTraining.from_pretrained(folder, **changes).train()
    if model.config.latent_type == "vae":
        model.model.latent.warm_up.steps.fill_(model.config.vae_warmup_steps // 2)
    masked = arrays["train.input_mask"].bool()
    labels = arrays["x"].masked_fill(~masked.any(1, keepdim=True), -100)
    values = arrays["x"].masked_fill(masked, 0)
    assert_close(values, arrays["train.masked_x"])
    covariates = {"batch_labels": arrays["batch"], "dataset_labels": arrays["dataset"]}
    inputs = {"expression_values": values, "masked_positions": masked, "labels": labels, **covariates}
    output, seen = inner_values(model, **inputs, **noise(arrays, "train"))
    output.loss.backward()
    found = seen | {
        "latent": output.cell_embedding,
        "gmvae_gaussian": output.cell_embedding,
        "dec_mean": output.expression_prediction,
        "loss": output.loss,
        "latent_loss": output.latent_loss.double(),
        "target_loss": output.expression_loss.double(),
    }
    recorded = {name.removeprefix("train."): value for name, value in arrays.items() if name.startswith("train.")}
    for name, value in recorded.items():
        if name not in ("input_mask", "masked_x", "pre_latent_norm", "noise_gumbel_u", "noise_gauss"):
            assert_close(
                found[name], value.to(found[name].dtype), **TOLERANCE, msg=lambda text, n=name: f"{n}: {text}"
            )
    norms = json.loads((case_folder(case) / "train_grad_norms.json").read_text())
    parameters, names = dict(model.named_parameters()), weight_names(norms, case)
    for name, norm in norms.items():
        if name not in names:
            continue
        gradient = parameters[names[name]].grad
        measured = 0.0 if gradient is None else gradient.norm().item()
        assert measured == pytest.approx(norm, rel=1e-4, abs=1e-6), name
    assert len(names) > 40


def test_imputation(folder, case, arrays):
    model = CellPLMForImputation.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    ids = torch.tensor(processor.tokenizer.convert_tokens_to_ids(golden_names(case, "subset_genes")))
    assert_close(ids, arrays["imp.input_gene_mask"])
    labels = arrays["subset_x"].masked_fill(~arrays["imp.gene_mask"], -100)
    output = model(ids, arrays["subset_x"], labels=labels, **noise(arrays, "imp"))
    assert_close(output.cell_embedding, arrays["imp.latent"], **TOLERANCE)
    assert_close(output.expression_prediction, arrays["imp.pred"], **TOLERANCE)
    assert_close(output.expression_loss.double(), arrays["imp.target_loss"], **TOLERANCE)
    assert_close(output.loss, arrays["imp.loss"], **TOLERANCE)


def test_annotation(annotator, case, arrays):
    model = AutoModelForSequenceClassification.from_pretrained(annotator).eval()
    processor = AutoProcessor.from_pretrained(annotator)
    ids = torch.tensor(processor.tokenizer.convert_tokens_to_ids(golden_names(case, "subset_genes")))
    mask = arrays["annot.loss_mask"]
    output = model(ids, arrays["subset_x"], labels=arrays["annot.label"].masked_fill(~mask, -100))
    base = AutoModel.from_pretrained(annotator).eval()(ids, arrays["subset_x"])
    assert_close(base.last_hidden_state, arrays["annot.pre_latent_norm"], **TOLERANCE)
    assert_close(base.cell_embedding, arrays["annot.latent"], **TOLERANCE)
    assert_close(output.cell_embedding, arrays["annot.latent"], **TOLERANCE)
    assert_close(output.logits[mask], arrays["annot.logits_masked"], **TOLERANCE)
    assert_close(output.logits[mask].argmax(-1), arrays["annot.pred"])
    assert_close(output.loss, arrays["annot.loss"], **TOLERANCE)


def pipeline_cells(case: str, arrays: dict) -> anndata.AnnData:
    names = [f"cell{number}" for number in range(len(arrays["pipe.x"]))]
    obs = pd.DataFrame({"batch": golden_names(case, "pipe.batch")}, index=names)
    return anndata.AnnData(arrays["pipe.x"].numpy(), obs=obs, var=pd.DataFrame(index=golden_names(case, "pipe.var")))


def test_embed_gives_what_the_published_pipeline_gives(folder, case, arrays):
    """Of the mixture, with the recorded draws; `embed` itself takes the most likely component."""
    cells = pipeline_cells(case, arrays)
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    ids = processor.map_genes(list(cells.var_names)).gene_ids
    known = torch.from_numpy(ids[ids >= 0])
    values = arrays["pipe.x"][:, ids >= 0]
    batches = np.array(golden_names(case, "pipe.batch"))
    draws = arrays.get("pipe.noise_gumbel_u")
    groups = [np.flatnonzero(batches == batch) for batch in np.unique(batches)]
    chunks = [rows[start : start + 5] for rows in groups for start in range(0, len(rows), 5)]
    for name, parts in (
        ("embedding", groups),
        ("embedding_chunk5", chunks),
        ("embedding_nobatch", [np.arange(len(batches))]),
    ):
        found, done = torch.full_like(arrays["pipe.embedding"], torch.nan), 0
        if draws is not None:
            key = {"embedding": "", "embedding_chunk5": "chunk5_", "embedding_nobatch": "nobatch_"}[name]
            draws = arrays[f"pipe.{key}noise_gumbel_u"]
        for rows in parts:
            how = {} if draws is None else {"cluster_uniforms": draws[done : done + len(rows)]}
            found[rows] = model(known, values[rows], **how).cell_embedding.detach()
            done += len(rows)
        assert_close(found, arrays[f"pipe.{name}"], **TOLERANCE)
    if draws is not None:
        order = np.concatenate(groups)
        np.testing.assert_array_equal(arrays["pipe.noise_order"], order)
    ours = embed(cells, folder).obsm["X_cellplm"]
    model.config.stochastic_latent = False
    for rows in groups:
        assert_close(torch.from_numpy(ours[rows]), model(known, values[rows]).cell_embedding.detach(), **TOLERANCE)
    if draws is None:
        np.testing.assert_allclose(ours, arrays["pipe.embedding"], atol=1e-5, rtol=1e-5)


def test_annotate_gives_what_the_published_pipeline_gives(annotator, case, arrays):
    cells = pipeline_cells(case, arrays)
    found = annotate(cells, annotator).obs["sclm_prediction"]
    assert [int(label.removeprefix("LABEL_")) for label in found] == arrays["annot.pipe_pred"].tolist()


@pytest.fixture(scope="module")
def modules(case):
    return torch.load(case_folder(case) / "modules.pt", weights_only=True)


def part_of(modules: dict, prefix: str, named: str) -> dict[str, torch.Tensor]:
    """The tensors of a module that stands alone, named as in a checkpoint, then as ours."""
    tensors = {
        f"{named}.{name[len(prefix) + 1 :]}": value for name, value in modules.items() if name.startswith(f"{prefix}.")
    }
    return convert_weights(tensors, WEIGHT_MAP, Path("weights.ckpt"), LoadingReport("cellplm", []))


@pytest.mark.parametrize("encoder", ["flowformer", "performer", "cosformer", "transformer", "mlp"])
def test_encoders(modules, arrays, encoder):
    config = CellPLMConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1, encoder_type=encoder)
    layers = make_layers(config).eval()
    weights = part_of(modules, f"enc_{encoder}", "encoder")
    layers.load_state_dict({name.removeprefix("model.layers."): value for name, value in weights.items()})
    # its denominators come close to 0, where rounding grows
    tolerance = {"atol": 1e-5, "rtol": 2e-4} if encoder == "cosformer" else TOLERANCE
    for name in ("out", "out_call2"):
        found = layers[0](arrays["mod.enc_in"], None)
        assert_close(found, arrays[f"mod.enc_{encoder}.{name}"], **tolerance)


@pytest.mark.parametrize("decoder", ["mlp", "resmlp"])
def test_decoders(modules, arrays, case, decoder):
    config = CellPLMConfig(
        vocab_size=40,
        hidden_size=32,
        cell_embedding_size=arrays["mod.latent_in"].shape[1],
        decoder_type=decoder,
        num_decoder_layers=3,
        decoder_hidden_size=24,
        num_batches=case_settings(case)["batch_num"],
        num_datasets=0,
    )
    module = DECODERS[decoder](config).eval()
    weights = part_of(modules, f"dec_{decoder}", "decoder")
    if decoder == "mlp":
        weights = {name: value for name, value in weights.items() if not name.startswith("decoder.norm")}
    module.load_state_dict({name.removeprefix("decoder."): value for name, value in weights.items()})
    found, _ = module(arrays["mod.latent_in"], torch.arange(40), {"batch": arrays["batch"]})
    assert_close(found, arrays[f"mod.dec_{decoder}.recon"], **TOLERANCE)


def head(modules: dict, arrays: dict, name: str) -> CellPLMHead:
    size = arrays["mod.latent_in"].shape[1]
    config = CellPLMConfig(cell_embedding_size=size, num_head_layers=2, head_hidden_size=24, head_dropout=0.2)
    found = CellPLMHead(config, 40).eval()
    tensors = {
        key.removeprefix(f"head_{name}."): value for key, value in modules.items() if key.startswith(f"head_{name}.")
    }
    parts = {"mlp.1": "layers.0", "mlp.4": "layers.1"}
    found.load_state_dict({key.replace(key[:5], parts[key[:5]]): value for key, value in tensors.items()})
    return found


def test_heads_over_genes(modules, arrays):
    latent = arrays["mod.latent_in"]
    for name, objective in (
        ("denoising", "denoising"),
        ("perturbation_prediction", "perturbation"),
        ("imputation", "imputation"),
    ):
        recorded = {key: arrays[f"mod.{name}.{key}"] for key in ("label", "input_mask", "gene_mask", "pred")}
        labels, chosen = recorded["label"], recorded["gene_mask"]
        if objective == "imputation":
            labels = labels.masked_fill(~chosen, -100)
        prediction, loss = regression(objective, head(modules, arrays, name)(latent), labels, recorded["input_mask"])
        expected = arrays[f"mod.{name}.train_loss" if objective == "denoising" else f"mod.{name}.loss"]
        assert_close(prediction[:, chosen] if objective == "imputation" else prediction, recorded["pred"], **TOLERANCE)
        assert_close(loss, expected, **TOLERANCE, msg=told(name))


def test_head_over_samples(modules, arrays):
    weights = [modules[f"head_patient_classification.output_layer.{kind}"] for kind in ("weight", "bias")]
    logits = F.linear(arrays["mod.latent_in"].mean(0, keepdim=True), *weights)
    assert_close(logits.argmax(-1), arrays["mod.patient_classification.pred"])
    label = arrays["mod.patient_classification.label"]
    assert_close(F.cross_entropy(logits, label), arrays["mod.patient_classification.loss"], **TOLERANCE)
