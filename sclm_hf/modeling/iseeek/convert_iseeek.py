"""Reads a released iSEEEK folder: a BERT of transformers 4 with its tokenizer."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from sclm_hf.errors import CheckpointError
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
from sclm_hf.modeling.common.legacy import WEIGHT_FILES, read_json_object, read_weights
from sclm_hf.modeling.common.word_level import read_pickled_words, read_word_level
from sclm_hf.tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from sclm_hf.tokenization.genes.ranking_tokenizer import ranking_tokenizer
from sclm_hf.tokenization.processing_cell import CellProcessor

from .configuration_iseeek import ISEEEKConfig
from .modeling_iseeek import ISEEEKForMaskedLM

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKEN_FILES = ("tokenizer.json", "iSEEEK_vocab.pkl")

_LAYER = "bert.encoder.layer.{}."
_DECODER = "cls.predictions.decoder"
_TIED = {
    f"{_DECODER}.weight": "bert.embeddings.word_embeddings.weight",
    f"{_DECODER}.bias": "cls.predictions.bias",
}
_SAME = (
    *(f"bert.embeddings.{table}_embeddings.weight" for table in ("word", "position", "token_type")),
    *(
        f"{module}.{kind}"
        for kind in ("weight", "bias")
        for module in (
            "bert.embeddings.LayerNorm",
            *(_LAYER + f"attention.self.{part}" for part in ("query", "key", "value")),
            *(_LAYER + part for part in ("attention.output.dense", "attention.output.LayerNorm")),
            *(_LAYER + part for part in ("intermediate.dense", "output.dense", "output.LayerNorm")),
            *("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", _DECODER),
        )
    ),
    "cls.predictions.bias",
)
WEIGHT_MAP: WeightMap = {
    **{name: name for name in _SAME},
    "bert.embeddings.position_ids": Dropped("0, 1, 2, …: transformers makes them itself since version 4.31"),
    **{f"bert.pooler.dense.{kind}": Dropped("the pooler, which nothing here uses") for kind in ("weight", "bias")},
}


@converter
def convert_checkpoint(source: Path, output: Path) -> LoadingReport:
    """Convert a released iSEEEK folder into one that `Auto*.from_pretrained` opens, processor included.

    Args:
        source: folder with `config.json`, `model.safetensors` or `pytorch_model.bin`, and the vocabulary:
            `tokenizer.json`, or the pickle of the authors' older release, `iSEEEK_vocab.pkl`.
        output: folder to write: configuration, safetensors, tokenizer, processor and `loading_report.json`.

    Returns:
        What became of every tensor.

    Raises:
        CheckpointError: a file is missing, unsafe or damaged; a tensor is unknown, missing or of another shape; the
            tokenizer does not fit the weights.
        ConfigurationError: `output` is no empty folder, or another run is writing it.
    """
    _check_layout(source)
    with damage_is_told(source):
        settings = read_json_object(source / "config.json")
        weights_file, tensors = read_weights(source)
        tokens_file = next(name for name in TOKEN_FILES if (source / name).exists())
        read_tokens = read_pickled_words if tokens_file.endswith(".pkl") else read_word_level
        tokens = read_tokens(source / tokens_file, SPECIAL_TOKENS)
        report = LoadingReport("iseeek", ["config.json", weights_file, tokens_file], ISEEEKForMaskedLM.__name__)
        config = build_config(settings, report)
        weights = convert_weights(tensors, WEIGHT_MAP, source / weights_file, report)
        for name, tied in _TIED.items():
            if tied in weights and not torch.equal(weights.setdefault(name, weights[tied]), weights[tied]):
                raise CheckpointError(
                    f"`{name}` in `{source / weights_file}` differs from `{tied}`, which iSEEEK ties: damaged weights."
                )
        if max(tokens.values()) >= config.vocab_size:
            raise CheckpointError(
                f"`{tokens_file}` has ids up to {max(tokens.values())}, and the model has {config.vocab_size} gene "
                "embeddings: take both from the same release."
            )
        model = build_model(ISEEEKForMaskedLM, config, weights, source / weights_file)
        processor = build_processor(tokens)
    report.notes.append("it holds no classifier: `AutoModelForSequenceClassification` starts one at random")

    write_checkpoint(output, model, processor, report)
    return report


def _check_layout(source: Path) -> None:
    """Refuse what is not laid out as one of the releases."""
    there = {entry.name for entry in source.iterdir()} if source.is_dir() else set()
    lacking = [names for names in (("config.json",), WEIGHT_FILES, TOKEN_FILES) if there.isdisjoint(names)]
    if lacking:
        raise CheckpointError(
            f"`{' or '.join(lacking[0])}` is missing from `{source}` (found there: "
            f"{', '.join(sorted(there)) or 'nothing, or the folder does not exist'}). Expected a folder of "
            f"transformers: `config.json`, the weights as {' or '.join(WEIGHT_FILES)}, and the vocabulary as "
            f"{' or '.join(TOKEN_FILES)}. The TorchScript export of the authors is a program and is not read."
        )


def build_config(settings: dict[str, Any], report: LoadingReport) -> ISEEEKConfig:
    """The configuration that `config.json` tells."""
    # bookkeeping of transformers, written anew on saving
    ignored = {"model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path"}
    ignored |= {"position_embedding_type", "gradient_checkpointing"}
    known = {field.name for field in fields(ISEEEKConfig)}
    unused = sorted(settings.keys() - known - ignored)
    if unused:
        report.notes.append(f"settings of `config.json` without a meaning here: {', '.join(unused)}")
    return ISEEEKConfig(**{name: value for name, value in settings.items() if name in known - ignored})


def build_processor(tokens: dict[str, int]) -> CellProcessor:
    """The processor of the published procedure: `[CLS]`, the 126 most expressed genes, `[SEP]`."""
    roles = {"pad_token": "[PAD]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    tokenizer = ranking_tokenizer(tokens, SPECIAL_TOKENS, first="[CLS]", last="[SEP]", **roles)
    return CellProcessor(ExpressionFeatureExtractor.for_family("iseeek"), tokenizer)
