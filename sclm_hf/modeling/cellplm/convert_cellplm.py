"""Reads an original CellPLM checkpoint: `<prefix>.config.json` and `<prefix>.best.ckpt`."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from sclm_hf.errors import CheckpointError, MissingFileError
from sclm_hf.modeling.common.conversion import (
    Dropped,
    LoadingReport,
    WeightMap,
    build_model,
    convert_weights,
    converter,
    damage_is_told,
    write_checkpoint,
)
from sclm_hf.modeling.common.legacy import as_state_dict, read_json_object, read_torch_file, require_file
from sclm_hf.tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from sclm_hf.tokenization.genes.tokenization_gene import GeneTokenizer
from sclm_hf.tokenization.processing_sample import SampleProcessor

from .configuration_cellplm import UNSUPPORTED, CellPLMConfig
from .modeling_cellplm import (
    CellPLMForExpressionRegression,
    CellPLMForImputation,
    CellPLMForMaskedExpression,
    CellPLMForSampleClassification,
    CellPLMForSequenceClassification,
    CellPLMModel,
    CellPLMPreTrainedModel,
)

CONFIG_SUFFIX, WEIGHTS_SUFFIX = ".config.json", ".best.ckpt"

_UNUSED = Dropped("the original never uses it")
_LAYER, _OURS = "encoder.layers.{}.", "model.layers.{}."
_LATENT, _OUR_LATENT = "latent.layers.1.", "model.latent."
_COVARIATE, _OUR_COVARIATE = "decoder.covariate_layers.{}.", "decoder.covariates.{}."


def _both(original: str, ours: str, kinds: tuple[str, ...] = ("weight", "bias")) -> WeightMap:
    return {f"{original}.{kind}": f"{ours}.{kind}" for kind in kinds}


def _attention(names: tuple[str, str, str, str]) -> WeightMap:
    parts = zip(names, ("q_proj", "k_proj", "v_proj", "o_proj"), strict=True)
    return {
        original: ours
        for name, part in parts
        for original, ours in _both(f"{_LAYER}self_attn.{name}", f"{_OURS}self_attn.{part}").items()
    }


def _covariate(name: str) -> WeightMap:
    original, ours = f"{_COVARIATE}{name}", f"{_OUR_COVARIATE}{name}"
    return {
        f"{original}.0.weight": f"{ours}.embedding.weight",
        f"{original}.1.weight": f"{ours}.activation.weight",
        **_both(f"{original}.2", f"{ours}.norm"),
    }


WEIGHT_MAP: WeightMap = {
    "embedder.norm0.weight": _UNUSED,
    "embedder.norm0.bias": _UNUSED,
    "embedder.pe_enc.missing_pe": _UNUSED,
    "embedder.pe_enc.pe_enc.weight": _UNUSED,
    "embedder.pe_enc.pe_enc.0.weight": _UNUSED,
    "embedder.pe_enc.pe_enc.0.bias": _UNUSED,
    "embedder.pe_enc.pe_enc.1.weight": _UNUSED,
    "embedder.feat_enc.emb": "model.embeddings.genes.weight",
    **_both("embedder.extra_linear.0", "model.embeddings.linear"),
    **_both("embedder.extra_linear.3", "model.embeddings.norm"),
    **_both("pre_latent_norm.norm", "model.norm"),
    **_attention(("query_projection", "key_projection", "value_projection", "out_projection")),
    **_attention(("q_proj", "k_proj", "v_proj", "out_proj")),
    **_attention(("to_q", "to_k", "to_v", "to_out")),
    _LAYER + "self_attn.fast_attention.projection_matrix": _OURS + "self_attn.features.projection",
    **_both(_LAYER + "_ff_block.0", _OURS + "linear1"),
    **_both(_LAYER + "_ff_block.3", _OURS + "linear2"),
    **_both(_LAYER + "norm1", _OURS + "norm1"),
    **_both(_LAYER + "norm2", _OURS + "norm2"),
    **{
        f"{_LAYER}layer.self_attn.in_proj_{kind}": tuple(f"{_OURS}self_attn.{part}_proj.{kind}" for part in "qkv")
        for kind in ("weight", "bias")
    },
    **_both(_LAYER + "layer.self_attn.out_proj", _OURS + "self_attn.o_proj"),
    **_both(_LAYER + "layer.linear1", _OURS + "linear1", ("weight", "bias", "sigma", "u", "spectral_norm")),
    **_both(_LAYER + "layer.linear2", _OURS + "linear2", ("weight", "bias", "sigma", "u", "spectral_norm")),
    _LAYER + "layer.norm1.weight": _OURS + "norm1.weight",
    _LAYER + "layer.norm2.weight": _OURS + "norm2.weight",
    **_both(_LAYER + "0", _OURS + "block.linear"),
    _LAYER + "1.weight": _OURS + "block.activation.weight",
    **_both(_LAYER + "3", _OURS + "block.norm"),
    **_both(_LATENT + "inference.inference_qyx.0.logits", _OUR_LATENT + "cluster"),
    **_both(_LATENT + "inference.inference_qzyx.0", _OUR_LATENT + "hidden"),
    **_both(_LATENT + "inference.inference_qzyx.2.mu", _OUR_LATENT + "mean"),
    **_both(_LATENT + "inference.inference_qzyx.2.var", _OUR_LATENT + "variance"),
    **_both(_LATENT + "inference.y_mu", _OUR_LATENT + "prior_mean"),
    **_both(_LATENT + "inference.y_var", _OUR_LATENT + "prior_variance"),
    **_both(_LATENT + "hid_2mu", _OUR_LATENT + "mean"),
    **_both(_LATENT + "hid_2sigma", _OUR_LATENT + "log_variance"),
    **_both(_LATENT + "lat_2lat.0", _OUR_LATENT + "linear"),
    **_both(_LATENT + "hid_2cont.0", _OUR_LATENT + "continuous"),
    **_both(_LATENT + "hid_2cat.0", _OUR_LATENT + "categorical"),
    **_both("latent.layers.2.lat_2lat.0", _OUR_LATENT + "merge"),
    **_both("decoder.layers.{}.0", "decoder.layers.{}.linear"),
    "decoder.layers.{}.1.weight": "decoder.layers.{}.activation.weight",
    **_both("decoder.layers.{}.3", "decoder.layers.{}.norm"),
    **_covariate("batch"),
    **_covariate("dataset"),
    **_covariate("platform"),
    **_both("decoder.out_layer.dec_1", "decoder.hidden"),
    **_both("decoder.out_layer.dec_mean.0", "decoder.mean"),
    "decoder.out_layer.dec_disp": "decoder.dispersion.weight",
    **_both("decoder.out_layer.0", "decoder.output"),
    "decoder.out_layer.1.weight": "decoder.activation.weight",
    "decoder.batch_emb.weight": "decoder.batches.weight",
    **_both("decoder.layer_norm", "decoder.norm"),
    "head.cls": _UNUSED,
    **_both("head.output_layer", "head"),
}

_OWN = "latent.warm_up.steps"
"""What the original does not save."""
_OBJECTIVES = {"imputation": "imputation", "denoising": "denoising", "perturbation_prediction": "perturbation"}


@converter
def convert_checkpoint(source: Path, output: Path) -> LoadingReport:
    """Convert an original CellPLM checkpoint into one that `Auto*.from_pretrained` opens.

    Args:
        source: `<prefix>.config.json` beside `<prefix>.best.ckpt`, or a folder with one such pair. The vocabulary
            stands in the settings; a fine-tuned model's classes are numbered, in the sorted order of their names.
        output: folder to write: configuration, safetensors, tokenizer, processor and `loading_report.json`.

    Returns:
        What became of every tensor.

    Raises:
        CheckpointError: a file is missing, unsafe or damaged; a setting is of a kind that no release has; a tensor is
            unknown, missing or of another shape.
        ConfigurationError: `output` is no empty folder, or another run is writing it.
    """
    path = _config_file(source)
    weights_path = path.with_name(path.name.removesuffix(CONFIG_SUFFIX) + WEIGHTS_SUFFIX)
    settings = read_json_object(path)
    require_file(weights_path)
    content = read_torch_file(weights_path)
    if not isinstance(content, dict) or "model_state_dict" not in content:
        raise CheckpointError(f"`{weights_path}` lacks `model_state_dict`: it is not a CellPLM checkpoint.")
    report = LoadingReport("cellplm", [path.name, weights_path.name])
    report.dropped = {key: "state of the training" for key in content if key != "model_state_dict"}
    tensors = as_state_dict(content["model_state_dict"], weights_path)
    with damage_is_told(path):
        model_class = _model_class(settings)
        config = build_config(settings, tensors)
    with damage_is_told(weights_path):
        weight_map = WEIGHT_MAP | _head_names(tensors, model_class)
        weights = convert_weights(_our_shapes(tensors), weight_map, weights_path, report)
        model = build_model(model_class, config, weights, weights_path, own=(_OWN,))
    with damage_is_told(path):
        processor = build_processor(settings["gene_list"])
    if any(name.endswith(_OWN) for name in model.state_dict()):
        report.notes.append("the weight of the latent variable's loss begins at 0, as the original's after a load")
    report.architecture = model_class.__name__
    write_checkpoint(output, model, processor, report)
    return report


def build_config(settings: dict[str, Any], tensors: dict[str, Tensor]) -> CellPLMConfig:
    """The configuration that the original's settings make; what they leave out has the original's default.

    Raises:
        CheckpointError: a setting is of a kind that no release has.
    """
    for name, why in UNSUPPORTED.items():
        if settings.get(name, False):
            raise CheckpointError(f"The checkpoint was made with `{name}` ({why}), which no release has.")
    head = settings.get("head_type")
    fields: dict[str, Any] = {
        "vocab_size": len(settings["gene_list"]),
        "hidden_size": settings["enc_hid"],
        "num_hidden_layers": settings["enc_layers"],
        "num_attention_heads": settings.get("enc_head", 8),
        "encoder_type": settings.get("enc_mod", "flowformer"),
        "hidden_dropout_prob": settings["model_dropout"],
        "norm": settings.get("norm", "layernorm"),
        "latent_type": "ae" if settings["latent_mod"] == "merge" else settings["latent_mod"],
        "cell_embedding_size": settings["post_latent_dim"],
        "num_clusters": settings.get("num_clusters", 16),
        "latent_loss_floor": settings["lamda"],
        "gaussian_loss_weight": settings["w_li"],
        "cluster_loss_weight": settings["w_en"],
        "decoder_type": "nbmlp" if head else settings["dec_mod"],
        "decoder_hidden_size": settings["dec_hid"],
        "num_decoder_layers": 2 if head else settings["dec_layers"],
        "num_batches": settings.get("batch_num", 0),
        "num_datasets": settings.get("dataset_num", 0),
        "num_platforms": settings.get("platform_num", 0),
        "num_head_layers": settings["dec_layers"] if head else 1,
        "head_hidden_size": settings["dec_hid"],
        "head_dropout": settings["model_dropout"],
    }
    if fields["encoder_type"] == "performer":
        size = tensors["encoder.layers.0.self_attn.fast_attention.projection_matrix"].shape
        fields |= {"num_random_features": size[0], "head_dim": size[1]}
    if fields["latent_type"] == "split":
        names = {"num_continuous": "hid_2cont.0", "num_categories": "hid_2cat.0"}
        fields |= {name: tensors[f"{_LATENT}{part}.weight"].shape[0] for name, part in names.items()}
    if head in ("annotation", "patient_classification"):
        fields["num_labels"] = settings["out_dim"]
    elif head in _OBJECTIVES:
        fields |= {"num_outputs": settings["out_dim"], "head_objective": _OBJECTIVES[head]}
    return CellPLMConfig(**fields)


def build_processor(genes: list[str]) -> SampleProcessor:
    """The processor of the published procedure, for these genes."""
    tokenizer = GeneTokenizer.from_genes(genes, special_tokens=())
    return SampleProcessor(ExpressionFeatureExtractor.for_family("cellplm"), tokenizer)


def _model_class(settings: dict[str, Any]) -> type[CellPLMPreTrainedModel]:
    head = settings.get("head_type")
    if head is None:
        imputes = settings.get("objective") == "imputation"
        return CellPLMForImputation if imputes else CellPLMForMaskedExpression
    known = {
        "annotation": CellPLMForSequenceClassification,
        "patient_classification": CellPLMForSampleClassification,
        "embedder": CellPLMModel,
        **dict.fromkeys(_OBJECTIVES, CellPLMForExpressionRegression),
    }
    if head not in known:
        raise CheckpointError(f"The checkpoint has a head `{head}`: expected one of {', '.join(known)}, or none.")
    return known[head]


def _our_shapes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    name = "decoder.out_layer.dec_disp"
    return tensors | ({name: tensors[name].unsqueeze(1)} if name in tensors else {})


def _head_names(tensors: dict[str, Tensor], model_class: type[CellPLMPreTrainedModel]) -> WeightMap:
    """The original numbers the layers of a head by whether there is dropout."""
    ours = "classifier" if model_class is CellPLMForSequenceClassification else "head"
    numbers = sorted({int(match[1]) for name in tensors if (match := re.match(r"head\.mlp\.(\d+)\.", name))})
    names: WeightMap = {}
    for place, number in enumerate(numbers):
        names |= _both(f"head.mlp.{number}", f"{ours}.layers.{place}")
    if model_class is CellPLMModel:
        names |= {name: _bare(target) for name, target in WEIGHT_MAP.items() if not isinstance(target, Dropped)}
    return names


def _bare(target: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """The name that a tensor of a model with a head has in the bare model."""
    return target.removeprefix("model.") if isinstance(target, str) else tuple(map(_bare, target))


def _config_file(source: Path) -> Path:
    if source.name.endswith(CONFIG_SUFFIX):
        require_file(source)
        return source
    found = sorted(source.glob(f"*{CONFIG_SUFFIX}")) if source.is_dir() else []
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise MissingFileError(
            f"`{source}` must be a folder with one `<prefix>{CONFIG_SUFFIX}` (found: {names}) and its "
            f"`<prefix>{WEIGHTS_SUFFIX}`, or the path of the one that is meant."
        )
    return found[0]
