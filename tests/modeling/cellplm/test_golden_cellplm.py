"""Every number of the original CellPLM, reproduced through the converter and `Auto*`.

`coord` and `mod.pe_*` are not compared: the original computes positions and adds nothing of them.
"""

import json
import shutil

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
from sclm_hf.modeling.cellplm.decoders_cellplm import DECODERS
from sclm_hf.modeling.cellplm.encoders_cellplm import make_layers
from sclm_hf.modeling.cellplm.modeling_cellplm import CellPLMForImputation, CellPLMHead, regression
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


def inner_values(model, **inputs):
    """The output, and what embeddings, attention and layers gave."""
    seen, hooks = {}, []

    def keep(name):
        return lambda _, __, output: seen.update({name: output})

    base = model.model
    hooks.append(base.embeddings.register_forward_hook(keep("embedder")))
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
        assert_close(
            found[name], expected.to(found[name].dtype), **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}"
        )
