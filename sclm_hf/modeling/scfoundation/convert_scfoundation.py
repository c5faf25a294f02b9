"""Reads a released scFoundation folder: `models.ckpt`, which holds three models, and the list of their genes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sclm_hf.errors import CheckpointError
from sclm_hf.modeling.common.conversion import (
    LoadingReport,
    WeightMap,
    build_model,
    convert_weights,
    converter,
    damage_is_told,
    write_checkpoint,
)
from sclm_hf.modeling.common.legacy import as_state_dict, read_torch_file, require_file
from sclm_hf.registry import get_family
from sclm_hf.tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from sclm_hf.tokenization.genes.tokenization_gene import GeneTokenizer
from sclm_hf.tokenization.processing_cell import CellProcessor

from .configuration_scfoundation import ScFoundationConfig
from .modeling_scfoundation import ScFoundationForMaskedExpression

WEIGHTS_FILE = "models.ckpt"
GENES_FILES, RELEASED_GENES_FILE = "OS_scRNA_gene_index.*.tsv", "OS_scRNA_gene_index.19264.tsv"
MODELS = ("cell", "gene", "rde")
"""Cell embedding, gene embedding and read-depth enhancement: keys of the file and sub-folders of the output."""
SPECIAL_TOKENS = ("<T>", "<S>", "<pad>")

_ENCODER, _OURS = "encoder.transformer_encoder.{}.", "model.layers.{}."
_ATTENTION, _FEED_FORWARD = "decoder.performer.net.layers.{}.0.", "decoder.performer.net.layers.{}.1."
_DECODER = "decoder.layers.{}."
_QKV = tuple(_OURS + f"self_attn.{part}_proj." for part in "qkv")

WEIGHT_MAP: WeightMap = {
    "token_emb.mlp.weight": "model.embeddings.values.linear1.weight",
    "token_emb.mlp.bias": "model.embeddings.values.linear1.bias",
    "token_emb.mlp2.weight": "model.embeddings.values.linear2.weight",
    "token_emb.mlp2.bias": "model.embeddings.values.linear2.bias",
    "token_emb.emb.weight": "model.embeddings.values.bins.weight",
    "token_emb.emb_mask.weight": "model.embeddings.values.mask.weight",
    "token_emb.emb_pad.weight": "model.embeddings.values.pad.weight",
    "pos_emb.weight": "model.embeddings.genes.weight",
    _ENCODER + "self_attn.in_proj_weight": tuple(name + "weight" for name in _QKV),
    _ENCODER + "self_attn.in_proj_bias": tuple(name + "bias" for name in _QKV),
    _ENCODER + "self_attn.out_proj.weight": _OURS + "self_attn.o_proj.weight",
    _ENCODER + "self_attn.out_proj.bias": _OURS + "self_attn.o_proj.bias",
    _ENCODER + "linear{}.weight": _OURS + "linear{}.weight",
    _ENCODER + "linear{}.bias": _OURS + "linear{}.bias",
    _ENCODER + "norm{}.weight": _OURS + "norm{}.weight",
    _ENCODER + "norm{}.bias": _OURS + "norm{}.bias",
    "encoder.norm.weight": "model.norm.weight",
    "encoder.norm.bias": "model.norm.bias",
    "decoder_embed.weight": "decoder.projection.weight",
    "decoder_embed.bias": "decoder.projection.bias",
    "decoder.performer.calls_since_last_redraw": "decoder.redraw.calls",
    _ATTENTION + "norm.weight": _DECODER + "norm1.weight",
    _ATTENTION + "norm.bias": _DECODER + "norm1.bias",
    _ATTENTION + "fn.fast_attention.projection_matrix": _DECODER + "self_attn.features.projection",
    _ATTENTION + "fn.to_q.weight": _DECODER + "self_attn.q_proj.weight",
    _ATTENTION + "fn.to_q.bias": _DECODER + "self_attn.q_proj.bias",
    _ATTENTION + "fn.to_k.weight": _DECODER + "self_attn.k_proj.weight",
    _ATTENTION + "fn.to_k.bias": _DECODER + "self_attn.k_proj.bias",
    _ATTENTION + "fn.to_v.weight": _DECODER + "self_attn.v_proj.weight",
    _ATTENTION + "fn.to_v.bias": _DECODER + "self_attn.v_proj.bias",
    _ATTENTION + "fn.to_out.weight": _DECODER + "self_attn.o_proj.weight",
    _ATTENTION + "fn.to_out.bias": _DECODER + "self_attn.o_proj.bias",
    _FEED_FORWARD + "norm.weight": _DECODER + "norm2.weight",
    _FEED_FORWARD + "norm.bias": _DECODER + "norm2.bias",
    _FEED_FORWARD + "fn.fn.w1.weight": _DECODER + "linear1.weight",
    _FEED_FORWARD + "fn.fn.w1.bias": _DECODER + "linear1.bias",
    _FEED_FORWARD + "fn.fn.w2.weight": _DECODER + "linear2.weight",
    _FEED_FORWARD + "fn.fn.w2.bias": _DECODER + "linear2.bias",
    "decoder.norm.weight": "decoder.norm.weight",
    "decoder.norm.bias": "decoder.norm.bias",
    "norm.weight": "decoder.final_norm.weight",
    "norm.bias": "decoder.final_norm.bias",
    "to_final.weight": "expression_head.weight",
    "to_final.bias": "expression_head.bias",
}


@converter
def convert_checkpoint(source: Path, output: Path) -> LoadingReport:
    """Convert the released scFoundation into three folders that `Auto*.from_pretrained` opens.

    Args:
        source: folder with `models.ckpt` and the authors' list of genes, `OS_scRNA_gene_index.19264.tsv`.
        output: folder to write: `cell` (embeds cells), `gene` (embeds genes, and is fine-tuned) and `rde` (read-depth
            enhancement), each with configuration, safetensors, tokenizer, processor and `loading_report.json`.

    Returns:
        What became of every tensor of all three; their names begin with the model's.

    Raises:
        CheckpointError: a file is missing, unsafe or damaged; a tensor is unknown, missing or of another shape; the
            list of genes does not fit the weights.
        ConfigurationError: `output` is no empty folder, or another run is writing it.
    """
    genes_file = _genes_file(source)
    genes = read_genes(genes_file)
    released = _read_models(source / WEIGHTS_FILE)

    files = [WEIGHTS_FILE, genes_file.name]
    whole = LoadingReport("scfoundation", files, architecture=ScFoundationForMaskedExpression.__name__)
    converted = {}
    for name in MODELS:
        report = LoadingReport("scfoundation", [f"{WEIGHTS_FILE}: {name}", genes_file.name], whole.architecture)
        converted[name] = (_build_model(released[name], genes, genes_file, source / WEIGHTS_FILE, report), report)
        _add(report, whole, name)

    with damage_is_told(genes_file):
        processor = build_processor(genes)
    for name, (model, report) in converted.items():
        write_checkpoint(output / name, model, processor, report)
    whole.folders = list(MODELS)
    whole.save(output)
    return whole


def read_genes(path: Path) -> list[str]:
    """The genes in `path`: a table of `gene_name` and `index`, separated by a tab, in the order of the index.

    Raises:
        CheckpointError: the file is missing or no such table.
    """
    require_file(path)
    try:
        header, *rows = path.read_text(encoding="utf-8").splitlines()
        genes, numbers = zip(*(row.split("\t") for row in rows), strict=True)
        sound = header.split("\t") == ["gene_name", "index"] and list(map(int, numbers)) == list(range(len(rows)))
    except ValueError:
        sound = False
    if not sound or len(set(genes)) < len(genes):
        raise CheckpointError(
            f"`{path}` is not the list of genes: expected the columns `gene_name` and `index`, separated by a tab, "
            "with different names numbered from 0 on."
        )
    return list(genes)


def build_config(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor], genes: list[str], genes_file: Path
) -> ScFoundationConfig:
    """The configuration that the merged settings of the checkpoint and its tensors tell together, for `genes`."""
    try:
        encoder, decoder = settings["encoder"], settings["decoder"]
        chosen = {
            "hidden_size": encoder["hidden_dim"],
            "num_hidden_layers": encoder["depth"],
            "num_attention_heads": encoder["heads"],
            "decoder_hidden_size": decoder["hidden_dim"],
            "num_decoder_layers": decoder["depth"],
            "num_decoder_attention_heads": decoder["heads"],
            "decoder_head_dim": decoder["dim_head"],
            "decoder_dropout_prob": _one_dropout(decoder),
            "num_bins": settings["bin_num"],
            "bin_alpha": settings.get("bin_alpha", 1.0),
            "mask_value": float(settings["mask_token_id"]),
            "pad_value": float(settings["pad_token_id"]),
            "classifier_pad_position_id": int(settings["pad_token_id"]),
        }
        positions = settings["seq_len"]
    except KeyError as error:
        raise CheckpointError(f"The settings in `{WEIGHTS_FILE}` lack {error}: expected the released file.") from error
    rows = _shape(tensors, "pos_emb.weight")[0]
    if (positions, rows) != (len(genes) + 2, len(genes) + 3):
        raise CheckpointError(
            f"`{genes_file}` does not fit `{genes_file.with_name(WEIGHTS_FILE)}`: it has {len(genes):,} genes, and "
            f"the weights are for {positions - 2:,} (with {rows:,} rows in their gene table). Take the list released "
            f"with them, `{RELEASED_GENES_FILE}` of the authors' repository ({get_family('scfoundation').repository})."
        )
    return ScFoundationConfig(
        vocab_size=rows,
        num_genes=len(genes),
        intermediate_size=_shape(tensors, "encoder.transformer_encoder.0.linear1.weight")[0],
        decoder_intermediate_size=_shape(tensors, "decoder.performer.net.layers.0.1.fn.fn.w1.weight")[0],
        num_random_features=_shape(tensors, (_ATTENTION + "fn.fast_attention.projection_matrix").format(0))[0],
        **chosen,
    )


def build_processor(genes: list[str]) -> CellProcessor:
    """The processor of the published cell embedding: counts, and 10,000 of them asked for."""
    vocabulary = {name: number for number, name in enumerate([*genes, *SPECIAL_TOKENS])}
    tokenizer = GeneTokenizer.from_genes(vocabulary, special_tokens=SPECIAL_TOKENS)
    return CellProcessor(ExpressionFeatureExtractor.for_family("scfoundation"), tokenizer)


def merge_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's settings, and over them those of the data, of a checkpoint's nested `config`."""
    try:
        name = config["model"]
        return {**config["model_config"][name], **config["dataset_config"]["rnaseq"], "model": name}
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"`config` in `{WEIGHTS_FILE}` is not that of scFoundation ({error} is missing): expected the "
            "released file."
        ) from error


def _read_models(path: Path) -> dict[str, Any]:
    content = read_torch_file(path)
    found = sorted(map(str, content)) if isinstance(content, Mapping) else [type(content).__name__]
    if not set(MODELS) <= set(found):
        raise CheckpointError(f"`{path}` must hold the models {', '.join(MODELS)}; it holds {', '.join(found)[:200]}.")
    return content


def _build_model(
    part: Any, genes: list[str], genes_file: Path, path: Path, report: LoadingReport
) -> ScFoundationForMaskedExpression:
    if not isinstance(part, Mapping) or not {"config", "state_dict"} <= part.keys():
        raise CheckpointError(f"Each model in `{path}` must hold `config` and `state_dict`.")
    with damage_is_told(path):
        settings = merge_settings(part["config"])
    if settings["model"] != "mae_autobin":
        raise CheckpointError(f"`{path}` holds a model `{settings['model']}`: expected 'mae_autobin'.")
    tensors = {_inner_name(name): tensor for name, tensor in as_state_dict(part["state_dict"], path).items()}
    with damage_is_told(path):
        config = build_config(settings, tensors, genes, genes_file)
        weights = convert_weights(tensors, WEIGHT_MAP, path, report)
        model = build_model(ScFoundationForMaskedExpression, config, weights, path)
    report.notes.append("it holds no cell classifier: `AutoModelForSequenceClassification` starts it at random")
    return model


def _inner_name(name: str) -> str:
    """What the original's loader keeps of a name: the part between its first two `model.`."""
    parts = name.split("model.")
    return parts[1] if len(parts) > 1 else name


def _one_dropout(decoder: Mapping[str, Any]) -> float:
    names = ("ff_dropout", "attn_dropout")
    rates = {float(decoder[name]) if name in decoder else 0.0 for name in names}
    if len(rates) > 1:
        raise CheckpointError(f"The decoder's {' and '.join(names)} differ: expected the released settings.")
    return rates.pop()


def _genes_file(source: Path) -> Path:
    found = sorted(source.glob(GENES_FILES))
    if len(found) > 1:
        raise CheckpointError(
            f"`{source}` holds several lists of genes ({', '.join(f.name for f in found)}): keep one."
        )
    return found[0] if found else source / RELEASED_GENES_FILE


def _add(report: LoadingReport, whole: LoadingReport, name: str) -> None:
    whole.renamed |= {f"{name}.{original}": ours for original, ours in report.renamed.items()}
    whole.used += [f"{name}.{original}" for original in report.used]
    whole.notes += [note for note in report.notes if note not in whole.notes]


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise CheckpointError(f"`{WEIGHTS_FILE}` lacks `{name}`: it is no scFoundation, or it is incomplete.")
    return tuple(tensors[name].shape)
