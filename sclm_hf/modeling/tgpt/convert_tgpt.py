"""Reads tGPT as released, a GPT-2 of transformers 4 with its tokenizer, and what the authors' training leaves."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
from sclm_hf.modeling.common.legacy import (
    WEIGHT_FILES,
    as_state_dict,
    read_json_object,
    read_torch_file,
    read_weights,
)
from sclm_hf.modeling.common.word_level import read_word_level
from sclm_hf.tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from sclm_hf.tokenization.genes.ranking_tokenizer import ranking_tokenizer
from sclm_hf.tokenization.processing_cell import CellProcessor

from .configuration_tgpt import TGPTConfig
from .modeling_tgpt import TGPTForCausalLM

SPECIAL_TOKENS = ("<pad>", "</b>", "</s>", "<unk>")
CHECKPOINT_FILE = "checkpoint.pth"
"""What the authors' training resumes from: the weights beside the optimizer's state."""
TOKENIZER_FOLDER = "gpt2tokenizer"
"""Where the authors' repository keeps the tokenizer."""

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


@converter
def convert_checkpoint(source: Path, output: Path) -> LoadingReport:
    """Convert tGPT as released or trained into a folder that `Auto*.from_pretrained` opens, processor included.

    Args:
        source: folder with the weights (`model.safetensors` or `pytorch_model.bin` as released; or what the authors'
            training writes, one `model_{epoch}.pth` or `checkpoint.pth`), `config.json` and `tokenizer.json`. The
            latter is also looked for in a folder `gpt2tokenizer` in it or beside it; without `config.json` a model of
            the released width is taken to have the released number of heads. Or the file of weights in such a folder.
        output: folder to write: configuration, safetensors, tokenizer, processor and `loading_report.json`.

    Returns:
        What became of every tensor.

    Raises:
        CheckpointError: a file is missing, unsafe or damaged; a tensor is unknown, missing or of another shape; the
            tokenizer does not fit the weights.
        ConfigurationError: `output` is no empty folder, or another run is writing it.
    """
    weights_path = find_weights(source)
    source = weights_path.parent
    tokens_path = find_tokenizer(source)
    files = [path.name for path in (source / "config.json", weights_path, tokens_path) if path.is_file()]
    with damage_is_told(source):
        report = LoadingReport("tgpt", files, TGPTForCausalLM.__name__)
        tensors = read_tensors(weights_path, report)
        tokens = read_word_level(tokens_path, SPECIAL_TOKENS)
        has_config = (source / "config.json").is_file()
        settings = read_json_object(source / "config.json") if has_config else sizes_of(tensors, weights_path, report)
        config = build_config(settings, report)
        weights = convert_weights(tensors, WEIGHT_MAP, weights_path, report)
        table = weights.get("transformer.wte.weight")
        if table is not None and not torch.equal(weights.setdefault("lm_head.weight", table), table):
            raise CheckpointError(
                f"`lm_head.weight` in `{weights_path}` differs from the gene embeddings that it is tied to: damaged "
                "weights."
            )
        if max(tokens.values()) >= config.vocab_size:
            raise CheckpointError(
                f"`tokenizer.json` has ids up to {max(tokens.values())}, and the model has {config.vocab_size} gene "
                "embeddings: take both from the same release."
            )
        model = build_model(TGPTForCausalLM, config, weights, weights_path)
        processor = build_processor(tokens)
    report.notes.append("it holds no classifier: `AutoModelForSequenceClassification` starts one at random")

    write_checkpoint(output, model, processor, report)
    return report


def find_weights(source: Path) -> Path:
    """The file of weights: `source` itself, or the one in it.

    Raises:
        CheckpointError: there is none, or several epochs of a training.
    """
    if source.is_file():
        return source
    released = [source / name for name in WEIGHT_FILES if (source / name).is_file()]
    epochs = sorted(source.glob("model_*.pth"))
    if not released and len(epochs) > 1:
        raise CheckpointError(
            f"`{source}` holds weights of {len(epochs)} epochs ({', '.join(path.name for path in epochs[:5])}): give "
            "the path of one of these files instead of the folder."
        )
    resumed = [path for path in (source / CHECKPOINT_FILE,) if path.is_file()]
    if not (found := released or epochs or resumed):
        there = sorted(entry.name for entry in source.iterdir()) if source.is_dir() else []
        raise CheckpointError(
            f"The weights are missing from `{source}` (found there: "
            f"{', '.join(there) or 'nothing, or the folder does not exist'}). Expected {' or '.join(WEIGHT_FILES)}, "
            f"as released, or `model_{{epoch}}.pth` or `{CHECKPOINT_FILE}`, as the authors' training writes."
        )
    return found[0]


def find_tokenizer(folder: Path) -> Path:
    """`tokenizer.json`, in the folder of the weights or in the authors' folder of the tokenizer.

    Raises:
        CheckpointError: it is in none of these places.
    """
    places = (folder, folder / TOKENIZER_FOLDER, folder.resolve().parent / TOKENIZER_FOLDER)
    for place in places:
        if (place / "tokenizer.json").is_file():
            return place / "tokenizer.json"
    looked = ", ".join(f"`{place}`" for place in places)
    raise CheckpointError(f"`tokenizer.json` is missing from the release (looked in {looked}): it names the genes.")


def read_tensors(path: Path, report: LoadingReport) -> dict[str, Tensor]:
    """The tensors of a file of weights; what else a resumable training keeps in it is reported as dropped.

    Raises:
        CheckpointError: the file is damaged, unsafe or holds something else.
    """
    if path.suffix == ".safetensors":
        return read_weights(path.parent)[1]
    # the training keeps its command line, which is plain data
    content = read_torch_file(path, allowed=[argparse.Namespace])
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        return as_state_dict(content, path)
    report.dropped |= {name: "state of the training" for name in content if name != "model"}
    return as_state_dict(content["model"], path)


def sizes_of(tensors: dict[str, Tensor], path: Path, report: LoadingReport) -> dict[str, Any]:
    """What `config.json` would say of a model of the released width, whose tensors are read from `path`.

    Raises:
        CheckpointError: it is of another width, so that the tensors do not tell the number of heads.
    """
    released = TGPTConfig()
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    table, positions = (shapes.get(f"transformer.{name}.weight") for name in ("wte", "wpe"))
    if table is None or positions is None:
        raise CheckpointError(f"`{path}` lacks the embeddings of genes or positions: no tGPT, or incomplete.")
    if table[1] != released.n_embd:
        raise CheckpointError(
            f"`config.json` is missing, and the tensors do not tell the number of heads of a model {table[1]} wide "
            f"(released: {released.n_embd}): put the `config.json` that the training wrote beside the weights."
        )
    report.notes.append(f"`config.json` is not there: sizes are those of the tensors, with {released.n_head} heads")
    layers = {name.split(".")[2] for name in shapes if name.startswith("transformer.h.")}
    inner = shapes.get("transformer.h.0.mlp.c_fc.weight", (0, None))[1]
    return {"vocab_size": table[0], "n_positions": positions[0], "n_layer": len(layers), "n_inner": inner}


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
