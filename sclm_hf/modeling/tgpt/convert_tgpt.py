"""Reads a released tGPT folder: a GPT-2 of transformers 4 with its tokenizer."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from sclm_hf.errors import CheckpointError
from sclm_hf.modeling.common.conversion import (
    Dropped,
    LoadingReport,
    WeightMap,
    convert_weights,
    empty_output,
    load_strictly,
)
from sclm_hf.modeling.common.legacy import read_json_object, read_weights
from sclm_hf.modeling.common.word_level import read_word_level
from sclm_hf.tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from sclm_hf.tokenization.processing_cell import CellProcessor
from sclm_hf.tokenization.ranking_tokenizer import ranking_tokenizer

from .configuration_tgpt import TGPTConfig
from .modeling_tgpt import TGPTForCausalLM

SPECIAL_TOKENS = ("<pad>", "</b>", "</s>", "<unk>")

_BLOCK = "transformer.h.{}."
_SAME = (
    "transformer.wte.weight",
    "transformer.wpe.weight",
    *(
        f"{module}.{kind}"
        for kind in ("weight", "bias")
        for module in (
            *(_BLOCK + part for part in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")),
            "transformer.ln_f",
        )
    ),
    "lm_head.weight",
)
WEIGHT_MAP: WeightMap = {
    **{name: name for name in _SAME},
    _BLOCK + "attn.bias": Dropped("the causal mask, a constant that transformers makes itself"),
    _BLOCK + "attn.masked_bias": Dropped("the value of masked scores, a constant of old versions of transformers"),
}


def convert_checkpoint(source: Path, output: Path) -> LoadingReport:
    """Convert a released tGPT folder into one that `Auto*.from_pretrained` opens, processor included.

    Args:
        source: folder with `config.json`, `pytorch_model.bin` or `model.safetensors`, and `tokenizer.json`.
        output: folder to write: configuration, safetensors, tokenizer, processor and `loading_report.json`.

    Returns:
        What became of every tensor.

    Raises:
        CheckpointError: a file is missing, unsafe or damaged; a tensor is unknown, missing or of another shape; the
            tokenizer does not fit the weights.
    """
    source, output = Path(source), Path(output)
    settings = read_json_object(source / "config.json")
    weights_file, tensors = read_weights(source)
    tokens = read_word_level(source / "tokenizer.json", SPECIAL_TOKENS)
    report = LoadingReport("tgpt", ["config.json", weights_file, "tokenizer.json"], TGPTForCausalLM.__name__)
    config = build_config(settings, report)
    weights = convert_weights(tensors, WEIGHT_MAP, report)
    table = weights.get("transformer.wte.weight")
    if table is not None and not torch.equal(weights.setdefault("lm_head.weight", table), table):
        raise CheckpointError("`lm_head.weight` differs from the gene embeddings that it is tied to: damaged weights.")
    if max(tokens.values()) >= config.vocab_size:
        raise CheckpointError(
            f"`tokenizer.json` has ids up to {max(tokens.values())}, and the model has {config.vocab_size} gene "
            "embeddings: take both from the same release."
        )
    model = TGPTForCausalLM(config)
    load_strictly(model, weights)
    processor = build_processor(tokens)
    report.notes.append("it holds no classifier: `AutoModelForSequenceClassification` starts one at random")

    empty_output(output)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    report.save(output)
    return report


def build_config(settings: dict[str, Any], report: LoadingReport) -> TGPTConfig:
    """The configuration that `config.json` tells."""
    # bookkeeping of transformers, written anew on saving
    ignored = {"model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path"}
    known = {field.name for field in fields(TGPTConfig)}
    unused = sorted(settings.keys() - known - ignored)
    if unused:
        report.notes.append(f"settings of `config.json` without a meaning here: {', '.join(unused)}")
    return TGPTConfig(**{name: value for name, value in settings.items() if name in known - ignored})


def build_processor(tokens: dict[str, int]) -> CellProcessor:
    """The processor of the published procedure: `</b>`, the 62 most expressed genes, `</s>`."""
    special_tokens = (*SPECIAL_TOKENS, *(token for token in tokens if token.startswith("extra_id_")))
    extractor = ExpressionFeatureExtractor.for_family("tgpt")
    tokenizer = ranking_tokenizer(
        tokens,
        special_tokens,
        first="</b>",
        last="</s>",
        bos_token="</b>",
        model_input_names=extractor.model_input_names,
    )
    return CellProcessor(extractor, tokenizer)
