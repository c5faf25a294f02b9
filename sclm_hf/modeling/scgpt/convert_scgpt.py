"""Reads a released scGPT folder: `best_model.pt`, `args.json` and `vocab.json`."""

from pathlib import Path
from typing import Any

from torch import Tensor

from sclm_hf.errors import CheckpointError
from sclm_hf.modeling.common.conversion import (
    LoadingReport,
    Stacked,
    WeightMap,
    build_model,
    convert_weights,
    converter,
    damage_is_told,
    write_checkpoint,
)
from sclm_hf.modeling.common.legacy import read_json_object, read_state_dict
from sclm_hf.tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from sclm_hf.tokenization.genes.gene_vocabulary import SPECIAL_TOKENS, GeneVocabulary
from sclm_hf.tokenization.genes.tokenization_gene import GeneTokenizer
from sclm_hf.tokenization.processing_cell import CellProcessor

from .configuration_scgpt import ScGPTConfig
from .modeling_scgpt import ScGPTForMaskedExpression, ScGPTForPerturbation

ORIGINAL_FILES = ("best_model.pt", "args.json", "vocab.json")

_LAYER, _OURS = "transformer_encoder.layers.{}.", "model.layers.{}."
_QKV = tuple(_OURS + f"self_attn.{part}_proj." for part in "qkv")
_QKV_WEIGHT, _QKV_BIAS = tuple(name + "weight" for name in _QKV), tuple(name + "bias" for name in _QKV)

WEIGHT_MAP: WeightMap = {
    "encoder.embedding.weight": "model.embeddings.genes.weight",
    "encoder.enc_norm.weight": "model.embeddings.gene_norm.weight",
    "encoder.enc_norm.bias": "model.embeddings.gene_norm.bias",
    "value_encoder.linear{}.weight": "model.embeddings.values.linear{}.weight",
    "value_encoder.linear{}.bias": "model.embeddings.values.linear{}.bias",
    "value_encoder.norm.weight": "model.embeddings.values.norm.weight",
    "value_encoder.norm.bias": "model.embeddings.values.norm.bias",
    "value_encoder.embedding.weight": "model.embeddings.values.embedding.weight",
    "value_encoder.enc_norm.weight": "model.embeddings.values.norm.weight",
    "value_encoder.enc_norm.bias": "model.embeddings.values.norm.bias",
    "flag_encoder.weight": "model.embeddings.flags.weight",
    "pert_encoder.weight": "perturbations.weight",
    "batch_encoder.embedding.weight": "context.batches.embedding.weight",
    "batch_encoder.enc_norm.weight": "context.batches.norm.weight",
    "batch_encoder.enc_norm.bias": "context.batches.norm.bias",
    "mod_encoder.embedding.weight": "context.modalities.embedding.weight",
    "mod_encoder.enc_norm.weight": "context.modalities.norm.weight",
    "mod_encoder.enc_norm.bias": "context.modalities.norm.bias",
    "dsbn.bns.{}.running_mean": Stacked("model.domain_norm.running_mean"),
    "dsbn.bns.{}.running_var": Stacked("model.domain_norm.running_var"),
    "dsbn.bns.{}.num_batches_tracked": Stacked("model.domain_norm.num_batches_tracked"),
    "bn.weight": "model.domain_norm.weight",
    "bn.bias": "model.domain_norm.bias",
    "bn.running_mean": "model.domain_norm.running_mean",
    "bn.running_var": "model.domain_norm.running_var",
    "bn.num_batches_tracked": "model.domain_norm.num_batches_tracked",
    # the three namings of fused attention: released, torch's own, and the later flash wrapper
    _LAYER + "self_attn.Wqkv.weight": _QKV_WEIGHT,
    _LAYER + "self_attn.Wqkv.bias": _QKV_BIAS,
    _LAYER + "self_attn.in_proj_weight": _QKV_WEIGHT,
    _LAYER + "self_attn.in_proj_bias": _QKV_BIAS,
    _LAYER + "self_attn._impl.Wqkv.weight": _QKV_WEIGHT,
    _LAYER + "self_attn._impl.Wqkv.bias": _QKV_BIAS,
    _LAYER + "self_attn.out_proj.weight": _OURS + "self_attn.o_proj.weight",
    _LAYER + "self_attn.out_proj.bias": _OURS + "self_attn.o_proj.bias",
    _LAYER + "self_attn._impl.out_proj.weight": _OURS + "self_attn.o_proj.weight",
    _LAYER + "self_attn._impl.out_proj.bias": _OURS + "self_attn.o_proj.bias",
    _LAYER + "linear{}.weight": _OURS + "linear{}.weight",
    _LAYER + "linear{}.bias": _OURS + "linear{}.bias",
    _LAYER + "norm{}.weight": _OURS + "norm{}.weight",
    _LAYER + "norm{}.bias": _OURS + "norm{}.bias",
    "decoder.fc.{}.weight": "expression_decoder.value.{}.weight",
    "decoder.fc.{}.bias": "expression_decoder.value.{}.bias",
    "decoder.zero_logit.{}.weight": "expression_decoder.nonzero.{}.weight",
    "decoder.zero_logit.{}.bias": "expression_decoder.nonzero.{}.bias",
    "decoder.coeff_decoder.fc.{}.weight": "coefficient_decoder.value.{}.weight",
    "decoder.coeff_decoder.fc.{}.bias": "coefficient_decoder.value.{}.bias",
    "decoder.coeff_decoder.zero_logit.{}.weight": "coefficient_decoder.nonzero.{}.weight",
    "decoder.coeff_decoder.zero_logit.{}.bias": "coefficient_decoder.nonzero.{}.bias",
    "decoder.bias_decoder.fc.{}.weight": "bias_decoder.value.{}.weight",
    "decoder.bias_decoder.fc.{}.bias": "bias_decoder.value.{}.bias",
    "decoder.bias_decoder.zero_logit.{}.weight": "bias_decoder.nonzero.{}.weight",
    "decoder.bias_decoder.zero_logit.{}.bias": "bias_decoder.nonzero.{}.bias",
    "cls_decoder._decoder.{}.weight": "classifier.layers.{}.weight",
    "cls_decoder._decoder.{}.bias": "classifier.layers.{}.bias",
    "cls_decoder.out_layer.weight": "classifier.output.weight",
    "cls_decoder.out_layer.bias": "classifier.output.bias",
    "mvc_decoder.gene2query.weight": "cell_expression_decoder.gene_query.weight",
    "mvc_decoder.gene2query.bias": "cell_expression_decoder.gene_query.bias",
    "mvc_decoder.W.weight": "cell_expression_decoder.bilinear.weight",
    "mvc_decoder.W_zero_logit.weight": "cell_expression_decoder.nonzero_bilinear.weight",
    "mvc_decoder.W_zero_logit.bias": "cell_expression_decoder.nonzero_bilinear.bias",
    "mvc_decoder.fc{}.weight": "cell_expression_decoder.linear{}.weight",
    "mvc_decoder.fc{}.bias": "cell_expression_decoder.linear{}.bias",
    "mvc_decoder.hidden_activation.weight": "cell_expression_decoder.activation.weight",
    "grad_reverse_discriminator._decoder.{}.weight": "batch_discriminator.layers.{}.weight",
    "grad_reverse_discriminator._decoder.{}.bias": "batch_discriminator.layers.{}.bias",
    "grad_reverse_discriminator.out_layer.weight": "batch_discriminator.output.weight",
    "grad_reverse_discriminator.out_layer.bias": "batch_discriminator.output.bias",
}

# settings that tensors do not show -> our name; read from args.json where it has them
_OPTIONAL_ARGS = {
    "cell_emb_style": "pooling",
    "ecs_threshold": "ecs_threshold",
    "ecs_thres": "ecs_threshold",
    "dab_weight": "batch_discriminator_weight",
    "pert_pad_id": "perturbation_pad_id",
    "decoder_activation": "decoder_activation",
    "decoder_adaptive_bias": "decoder_adaptive_bias",
    "n_input_bins": "num_input_bins",
}


@converter
def convert_checkpoint(source: Path, output: Path) -> LoadingReport:
    """Convert a released scGPT folder into one that `Auto*.from_pretrained` opens.

    Args:
        source: folder with `best_model.pt`, `args.json` and `vocab.json`.
        output: folder to write: configuration, safetensors, tokenizer, processor and `loading_report.json`.

    Returns:
        What became of every tensor.

    Raises:
        CheckpointError: a file is missing, unsafe or damaged; a tensor is unknown, missing or of another shape; the
            vocabulary does not fit the weights.
        ConfigurationError: `output` is no empty folder, or another run is writing it.
    """
    with damage_is_told(source):
        args = read_json_object(source / "args.json")
        tensors = read_state_dict(source / "best_model.pt")
        vocabulary = read_vocabulary(source / "vocab.json", rows=_shape(tensors, "encoder.embedding.weight")[0])
        with damage_is_told(source / "args.json"):
            config = build_config(args, tensors, vocabulary)
        model_class = ScGPTForPerturbation if "pert_encoder.weight" in tensors else ScGPTForMaskedExpression
        report = LoadingReport("scgpt", list(ORIGINAL_FILES), architecture=model_class.__name__)
        weights = convert_weights(tensors, WEIGHT_MAP, source / "best_model.pt", report)
        model = build_model(model_class, config, weights, source / "best_model.pt")
    perturbation = model_class is ScGPTForPerturbation
    with damage_is_told(source / "args.json"):
        processor = build_processor(config, args, vocabulary, perturbation=perturbation)
    if not config.use_classifier:
        report.notes.append("it holds no cell classifier: `AutoModelForSequenceClassification` starts it at random")
    if perturbation:
        report.notes.append("open it as `ScGPTForPerturbation`: other heads start at random")
    if processor.feature_extractor.expects != "counts":
        report.notes.append("it takes normalised values, not counts, and its processor checks that")

    write_checkpoint(output, model, processor, report)
    return report


def read_vocabulary(path: Path, rows: int) -> GeneVocabulary:
    """Read `vocab.json`, append the special tokens that it lacks, and check it against the embedding's rows."""
    token_to_id = read_json_object(path, once=True)
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in token_to_id.values()):
        raise CheckpointError(f"`{path}` must map gene names to integers.")
    for token in SPECIAL_TOKENS:
        if token not in token_to_id:
            token_to_id[token] = max(token_to_id.values(), default=-1) + 1
    with damage_is_told(path):
        vocabulary = GeneVocabulary(token_to_id)
    if vocabulary.size != rows:
        raise CheckpointError(
            f"`{path}` does not fit the weights: its ids (special tokens included) reach {vocabulary.size - 1}, and "
            f"the gene embedding in `best_model.pt` has {rows} rows. Use the vocab.json that was released with these "
            "weights."
        )
    return vocabulary


def build_config(args: dict[str, Any], tensors: dict[str, Tensor], vocabulary: GeneVocabulary) -> ScGPTConfig:
    """The configuration that `args.json` and the shapes of the tensors tell together."""
    if args.get("pad_token", "<pad>") != "<pad>":
        raise CheckpointError(f"`args.json` says `pad_token` is {args['pad_token']!r}; expected '<pad>'.")
    absent = [name for name in ("embsize", "nheads", "d_hid", "nlayers") if name not in args]
    if absent:
        raise CheckpointError(f"`args.json` lacks {', '.join(absent)}: expected the file released with the weights.")
    special = vocabulary.special_tokens
    settings = {
        "vocab_size": vocabulary.size,
        "hidden_size": args["embsize"],
        "num_attention_heads": args["nheads"],
        "intermediate_size": args["d_hid"],
        "num_hidden_layers": args["nlayers"],
        "hidden_dropout_prob": args.get("dropout", 0.2),
        "pad_token_id": special["<pad>"],
        "cls_token_id": special["<cls>"],
        "num_bins": args.get("n_bins", 51),
        "pad_value": args.get("pad_value", -2),
        "mask_value": args.get("mask_value", -1),
        # only the flash layer of the original obeys pre_norm, and only it writes `Wqkv`
        "norm_style": "pre" if args.get("pre_norm") and _has(tensors, "self_attn.Wqkv", "_impl.Wqkv") else "post",
        "use_flag_embedding": "flag_encoder.weight" in tensors,
        "explicit_zero_prob": _has(tensors, "zero_logit."),
    }
    settings |= {ours: args[theirs] for theirs, ours in _OPTIONAL_ARGS.items() if theirs in args}
    settings |= _value_settings(tensors) | _batch_settings(args, tensors) | _classifier_settings(args, tensors)
    settings["mvc_style"] = _mvc_style(args, tensors)
    return ScGPTConfig(**settings)


def build_processor(
    config: ScGPTConfig, args: dict[str, Any], vocabulary: GeneVocabulary, *, perturbation: bool = False
) -> CellProcessor:
    """The processor of the published procedure, with the checkpoint's bins, lengths and special values.

    Embedding and annotation take bins of counts behind a `<cls>`; perturbation takes normalised values of all genes.
    """
    settings = {
        "max_length": args.get("max_seq_len", 1200),
        "pad_value": config.pad_value,
        "cls_value": config.pad_value,
        "mask_value": config.mask_value,
    }
    style = args.get("input_style", "binned")
    if style not in ("binned", "normed_raw", "log1p"):
        raise CheckpointError(f"`args.json` says `input_style` is {style!r}: expected binned, normed_raw or log1p.")
    if perturbation:
        settings |= {"encoding": "continuous", "expects": "normalized", "add_cls": False, "include_zero_genes": True}
    elif style == "binned":
        settings["n_bins"] = config.num_bins
    else:
        settings |= {"encoding": "continuous", "expects": "normalized"}
    extractor = ExpressionFeatureExtractor.for_family("scgpt", **settings)
    return CellProcessor(extractor, GeneTokenizer.from_genes(vocabulary))


def _value_settings(tensors: dict[str, Tensor]) -> dict[str, Any]:
    if "value_encoder.linear1.weight" in tensors:
        return {"value_style": "continuous"}
    if "value_encoder.embedding.weight" in tensors:
        return {
            "value_style": "category",
            "num_value_embeddings": _shape(tensors, "value_encoder.embedding.weight")[0],
        }
    return {"value_style": "scaling"}


def _batch_settings(args: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    domains = [name for name in tensors if name.startswith("dsbn.bns.") and name.endswith("running_mean")]
    domain_norm = "dsbn" if domains else "batchnorm" if "bn.weight" in tensors else None
    if args.get("domain_spec_batchnorm") == "do_affine":
        domain_norm = "do_affine"
    discriminator = "grad_reverse_discriminator.out_layer.weight"
    counts = [len(domains)]
    counts += [tensors[name].shape[0] for name in ("batch_encoder.embedding.weight", discriminator) if name in tensors]
    modalities = tensors.get("mod_encoder.embedding.weight")
    return {
        "domain_norm": domain_norm,
        "use_batch_labels": "batch_encoder.embedding.weight" in tensors,
        "use_batch_discriminator": discriminator in tensors,
        "num_batch_labels": max(counts),
        "num_modalities": 0 if modalities is None else modalities.shape[0],
        "multiomic_decoder": modalities is not None,
    }


def _classifier_settings(args: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    if "cls_decoder.out_layer.weight" not in tensors:
        return {"classifier_num_layers": args.get("n_layers_cls", 3)}
    hidden = [name for name in tensors if name.startswith("cls_decoder._decoder.") and tensors[name].ndim == 2]
    return {
        "use_classifier": True,
        "classifier_num_layers": len(hidden) + 1,
        "num_labels": _shape(tensors, "cls_decoder.out_layer.weight")[0],
    }


def _mvc_style(args: dict[str, Any], tensors: dict[str, Tensor]) -> str | None:
    if "mvc_decoder.gene2query.weight" not in tensors:
        return None
    if "mvc_decoder.W.weight" in tensors:
        return args.get("mvc_decoder_style", "inner product")
    hidden_size = _shape(tensors, "mvc_decoder.gene2query.weight")[1]
    return "sum query" if _shape(tensors, "mvc_decoder.fc1.weight")[1] == hidden_size else "concat query"


def _has(tensors: dict[str, Tensor], *parts: str) -> bool:
    return any(part in name for name in tensors for part in parts)


def _shape(tensors: dict[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise CheckpointError(f"`best_model.pt` lacks `{name}`: it is not an scGPT checkpoint, or it is incomplete.")
    return tuple(tensors[name].shape)
