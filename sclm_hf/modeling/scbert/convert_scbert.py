"""Reads an original scBERT checkpoint: one `.pth` file, and the names of its genes in `genes.txt`."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sclm_hf.errors import CheckpointError, MissingFileError
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
from sclm_hf.tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from sclm_hf.tokenization.genes.tokenization_gene import GeneTokenizer
from sclm_hf.tokenization.processing_cell import CellProcessor

from .configuration_scbert import ScBERTConfig
from .modeling_scbert import ScBERTForMaskedExpression, ScBERTForSequenceClassification

GENES_FILE = "genes.txt"
LABELS_FILE = "labels.txt"

_ATTENTION, _FEED_FORWARD = "performer.net.layers.{}.0.", "performer.net.layers.{}.1."
_OURS = "model.layers.{}."

WEIGHT_MAP: WeightMap = {
    "token_emb.weight": "model.embeddings.values.weight",
    "pos_emb.emb.weight": "model.embeddings.genes.weight",
    "performer.calls_since_last_redraw": "model.redraw.calls",
    _ATTENTION + "norm.weight": _OURS + "norm1.weight",
    _ATTENTION + "norm.bias": _OURS + "norm1.bias",
    _ATTENTION + "fn.fast_attention.projection_matrix": _OURS + "self_attn.features.projection",
    _ATTENTION + "fn.to_q.weight": _OURS + "self_attn.q_proj.weight",
    _ATTENTION + "fn.to_k.weight": _OURS + "self_attn.k_proj.weight",
    _ATTENTION + "fn.to_v.weight": _OURS + "self_attn.v_proj.weight",
    _ATTENTION + "fn.to_out.weight": _OURS + "self_attn.o_proj.weight",
    _ATTENTION + "fn.to_out.bias": _OURS + "self_attn.o_proj.bias",
    _FEED_FORWARD + "norm.weight": _OURS + "norm2.weight",
    _FEED_FORWARD + "norm.bias": _OURS + "norm2.bias",
    _FEED_FORWARD + "fn.fn.w1.weight": _OURS + "linear1.weight",
    _FEED_FORWARD + "fn.fn.w1.bias": _OURS + "linear1.bias",
    _FEED_FORWARD + "fn.fn.w2.weight": _OURS + "linear2.weight",
    _FEED_FORWARD + "fn.fn.w2.bias": _OURS + "linear2.bias",
    "norm.weight": "model.norm.weight",
    "norm.bias": "model.norm.bias",
    "to_out.weight": "expression_decoder.weight",
    "to_out.bias": "expression_decoder.bias",
    "to_out.conv1.weight": "classifier.gene_reduction.weight",
    "to_out.conv1.bias": "classifier.gene_reduction.bias",
    "to_out.fc1.weight": "classifier.linear1.weight",
    "to_out.fc1.bias": "classifier.linear1.bias",
    "to_out.fc2.weight": "classifier.linear2.weight",
    "to_out.fc2.bias": "classifier.linear2.bias",
    "to_out.fc3.weight": "classifier.output.weight",
    "to_out.fc3.bias": "classifier.output.bias",
}


@converter
def convert_checkpoint(source: Path, output: Path) -> LoadingReport:
    """Convert an original scBERT checkpoint, pre-trained or fine-tuned, into one that `Auto*.from_pretrained` opens.

    Args:
        source: folder with one `.pth` file and `genes.txt`, the model's genes in their order, one per line: the
            `var_names` of the file that the authors release beside the weights (`panglao_10000.h5ad`). For a
            fine-tuned model `labels.txt` may name its classes in order, one per line.
        output: folder to write: configuration, safetensors, tokenizer, processor and `loading_report.json`.

    Returns:
        What became of every tensor.

    Raises:
        CheckpointError: a file is missing, unsafe or damaged; a tensor is unknown, missing or of another shape; genes
            or labels do not fit the weights.
        ConfigurationError: `output` is no empty folder, or another run is writing it.
    """
    path = _weights_file(source)
    genes = read_names(source / GENES_FILE)
    content = read_torch_file(path)
    nested = isinstance(content, dict) and "model_state_dict" in content
    tensors = as_state_dict(content["model_state_dict"] if nested else content, path)
    model_class = ScBERTForSequenceClassification if "to_out.fc3.weight" in tensors else ScBERTForMaskedExpression
    report = LoadingReport("scbert", [path.name, GENES_FILE], architecture=model_class.__name__)
    if nested:
        report.dropped = {key: "state of the training" for key in content if key != "model_state_dict"}
    with damage_is_told(path):
        config = build_config(tensors, genes)
    if model_class is ScBERTForSequenceClassification:
        _name_labels(config, source, report)
    with damage_is_told(path):
        weights = convert_weights(_our_shapes(tensors, config, report), WEIGHT_MAP, path, report)
        model = build_model(model_class, config, weights, path)
    with damage_is_told(source / GENES_FILE):
        processor = build_processor(config, genes)
    if model_class is ScBERTForMaskedExpression:
        report.notes.append("it holds no cell classifier: `AutoModelForSequenceClassification` starts it at random")

    write_checkpoint(output, model, processor, report)
    return report


def read_names(path: Path) -> list[str]:
    """The names in a text file, one per line.

    Raises:
        CheckpointError: the file is missing, empty or no text, or names something twice.
    """
    require_file(path)
    try:
        names = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"`{path}` is no text ({error}): expected one name per line.") from error
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise CheckpointError(f"`{path}` is empty: expected one name per line.")
    if twice := sorted(name for name, number in Counter(names).items() if number > 1):
        raise CheckpointError(f"`{path}` names {twice[0]!r} twice: expected each name once, in the model's order.")
    return names


def build_config(tensors: dict[str, Tensor], genes: list[str]) -> ScBERTConfig:
    """The configuration that the shapes of the tensors tell, for `genes`."""
    num_bins, hidden_size = _shape(tensors, "token_emb.weight")
    prefix = "performer.net.layers.0."
    num_features, head_dim = _shape(tensors, prefix + "0.fn.fast_attention.projection_matrix")
    positions = len(genes) + 1
    for name, axis in (("pos_emb.emb.weight", 0), ("to_out.fc1.weight", 1)):
        if name in tensors and tensors[name].shape[axis] != positions:
            raise CheckpointError(
                f"`{GENES_FILE}` names {len(genes):,} genes, and the weights are for "
                f"{tensors[name].shape[axis] - 1:,}: give the `var_names` of the file released with these weights."
            )
    layers = {int(name.split(".")[3]) for name in tensors if name.startswith("performer.net.layers.")}
    settings: dict[str, Any] = {}
    if "to_out.fc3.weight" in tensors:
        settings["num_labels"] = _shape(tensors, "to_out.fc3.weight")[0]
    return ScBERTConfig(
        vocab_size=positions + 1,
        cls_token_id=len(genes),
        pad_token_id=positions,
        hidden_size=hidden_size,
        num_hidden_layers=max(layers) + 1,
        num_attention_heads=_shape(tensors, prefix + "0.fn.to_q.weight")[0] // head_dim,
        head_dim=head_dim,
        num_random_features=num_features,
        intermediate_size=_shape(tensors, prefix + "1.fn.fn.w1.weight")[0],
        # the last row of the value table is the mask's
        num_bins=num_bins - 1,
        **settings,
    )


def build_processor(config: ScBERTConfig, genes: list[str]) -> CellProcessor:
    """The processor of the published procedure, for these genes and bins."""
    values = {"n_bins": config.num_bins, "mask_value": float(config.mask_value), "pad_value": float(config.pad_value)}
    tokens = {gene: number for number, gene in enumerate([*genes, "<cls>", "<pad>"])}
    tokenizer = GeneTokenizer.from_genes(tokens, special_tokens=("<cls>", "<pad>"))
    return CellProcessor(ExpressionFeatureExtractor.for_family("scbert", **values), tokenizer)


def _our_shapes(tensors: dict[str, Tensor], config: ScBERTConfig, report: LoadingReport) -> dict[str, Tensor]:
    """The tensors with gene table and classifier in our shapes."""
    tensors = dict(tensors)
    if "pos_emb.emb.weight" in tensors:
        table = tensors["pos_emb.emb.weight"]
        if not torch.equal(table.float().to(table.dtype), table):
            report.notes.append("its gene table is kept in single precision: outputs change by up to 1e-6")
    else:
        table = torch.zeros(config.num_positions, config.hidden_size)
        report.notes.append("it was built without gene2vec: its gene embeddings are zero, and genes are alike to it")
    tensors["pos_emb.emb.weight"] = torch.cat([table, table.new_zeros(1, config.hidden_size)])
    if "to_out.conv1.weight" in tensors:
        tensors["to_out.conv1.weight"] = tensors["to_out.conv1.weight"].flatten(1)
    return tensors


def _name_labels(config: ScBERTConfig, source: Path, report: LoadingReport) -> None:
    if not (source / LABELS_FILE).exists():
        report.notes.append(f"there is no `{LABELS_FILE}`: its classes are numbered, not named")
        return
    labels = read_names(source / LABELS_FILE)
    if len(labels) != config.num_labels:
        raise CheckpointError(
            f"`{LABELS_FILE}` names {len(labels)} classes, and the classifier has {config.num_labels}: give those of "
            "the authors' `label_dict`, in its order."
        )
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    report.source.append(LABELS_FILE)


def _weights_file(source: Path) -> Path:
    found = sorted(source.glob("*.pth")) if source.is_dir() else []
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise MissingFileError(
            f"`{source}` must be a folder with one `.pth` file (found: {names}) and `{GENES_FILE}`, the names of the "
            "model's genes in their order, one per line."
        )
    return found[0]


def _shape(tensors: dict[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise CheckpointError(f"The file lacks `{name}`: it is not an scBERT checkpoint, or it is incomplete.")
    return tuple(tensors[name].shape)
