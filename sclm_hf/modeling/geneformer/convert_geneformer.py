"""Reads a released Geneformer folder: `config.json`, the weights, and the pickled dictionaries of the release."""

from collections.abc import Iterable
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
from sclm_hf.modeling.common.legacy import read_json_object, read_pickle, read_weights
from sclm_hf.modeling.common.soundness import require_plausible
from sclm_hf.tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from sclm_hf.tokenization.genes.gene_vocabulary import GeneVocabulary
from sclm_hf.tokenization.genes.tokenization_gene import GeneTokenizer
from sclm_hf.tokenization.processing_cell import CellProcessor

from .configuration_geneformer import GeneformerConfig
from .modeling_geneformer import (
    GeneformerForMaskedLM,
    GeneformerForMultiTaskClassification,
    GeneformerForSequenceClassification,
    GeneformerForTokenClassification,
    GeneformerPreTrainedModel,
)

SPECIAL_TOKENS = ("<pad>", "<mask>", "<cls>", "<eos>")
DICTIONARIES = {
    "tokens": "token_dictionary",
    "medians": "gene_median_dictionary",
    "mapping": "ensembl_mapping_dict",
}
"""What the pickled dictionaries' names start with; the release is in the rest of the name (`gc30M`, `gc104M`)."""

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
            *("bert.pooler.dense", "classifier", "classification_heads.{}"),
        )
    ),
    "cls.predictions.bias",
    "attention_pool.attention_weights",
)

WEIGHT_MAP: WeightMap = {
    **{name: name for name in _SAME},
    "bert.embeddings.position_ids": Dropped("0, 1, 2, …: transformers makes them itself since version 4.31"),
}


@converter
def convert_checkpoint(source: Path, output: Path) -> LoadingReport:
    """Convert a released Geneformer folder into one that `Auto*.from_pretrained` opens, processor included.

    Args:
        source: folder with `config.json` and `model.safetensors` or `pytorch_model.bin`: pre-trained, fine-tuned for
            cells or genes, or multi-task. The pickled dictionaries are looked for in it, then in a folder `geneformer`
            in it, beside it or beside its parent, where the release keeps them.
        output: folder to write: configuration, safetensors, tokenizer, processor and `loading_report.json`.

    Returns:
        What became of every tensor.

    Raises:
        CheckpointError: a file is missing, unsafe or damaged; a tensor is unknown, missing or of another shape; no
            dictionary fits the weights.
        ConfigurationError: `output` is no empty folder, or another run is writing it.
    """
    with damage_is_told(source):
        settings = read_json_object(source / "config.json")
        weights_file, tensors = read_weights(source)
        embedding = tensors.get("bert.embeddings.word_embeddings.weight")
        if embedding is None:
            raise CheckpointError(f"`{weights_file}` lacks the gene embeddings: it is no Geneformer, or incomplete.")
        tokens_file, vocabulary = find_vocabulary(source, rows=embedding.shape[0])
        model_class = _model_class(tensors)
        report = LoadingReport("geneformer", ["config.json", weights_file], architecture=model_class.__name__)
        with damage_is_told(source / "config.json"):
            config = build_config(settings, tensors, vocabulary, report)
        with damage_is_told(source / weights_file):
            weights = convert_weights(tensors, _weight_map(model_class), source / weights_file, report)
            model = build_model(model_class, config, _with_tied(weights, model_class), source / weights_file)
        processor = build_processor(config, vocabulary, tokens_file, report)
    if model_class is GeneformerForMaskedLM:
        report.notes.append("it holds no classifier: `AutoModelForSequenceClassification` starts one at random")

    write_checkpoint(output, model, processor, report)
    return report


def build_config(
    settings: dict[str, Any], tensors: dict[str, Tensor], vocabulary: GeneVocabulary, report: LoadingReport
) -> GeneformerConfig:
    """The configuration that `config.json`, the tensors and the dictionary tell together."""
    if settings.get("position_embedding_type", "absolute") != "absolute":
        raise CheckpointError(
            f"`config.json` says `position_embedding_type` is {settings['position_embedding_type']!r}; expected "
            "'absolute'."
        )
    if settings.get("vocab_size") != vocabulary.size:
        raise CheckpointError(
            f"`config.json` says `vocab_size` is {settings.get('vocab_size')}, and the weights have {vocabulary.size} "
            "gene embeddings: expected the file released with the weights."
        )
    # bookkeeping of transformers, written anew on saving
    ignored = {"model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path"}
    ignored |= {"position_embedding_type", "gradient_checkpointing"}
    known = {field.name for field in fields(GeneformerConfig)} | {"num_labels"}
    unused = sorted(settings.keys() - known - ignored)
    if unused:
        report.notes.append(f"settings of `config.json` without a meaning here: {', '.join(unused)}")
    chosen = {name: value for name, value in settings.items() if name in known - ignored}
    require_plausible("config.json", chosen, {name: tensor.shape for name, tensor in tensors.items()})
    heads = [name for name in tensors if name.startswith("classification_heads.") and name.endswith("weight")]
    if heads:
        chosen["num_labels_per_task"] = [tensors[name].shape[0] for name in sorted(heads, key=_number)]
        chosen["multitask_pooling"] = "attention" if "attention_pool.attention_weights" in tensors else "cls"
    chosen["has_special_tokens"] = "<cls>" in vocabulary
    return GeneformerConfig(**chosen)


def build_processor(
    config: GeneformerConfig, vocabulary: GeneVocabulary, tokens_file: Path, report: LoadingReport
) -> CellProcessor:
    """The processor of the published procedure for the model's dictionary.

    V1: the first `max_position_embeddings` ranks. V2: `<cls>`, ranks, `<eos>`.
    """
    genes = [token for token in vocabulary if token not in vocabulary.special_tokens]
    medians_file = _beside(tokens_file, "medians")
    if medians_file is None:
        raise CheckpointError(
            f"`{DICTIONARIES['medians']}*.pkl` is missing beside `{tokens_file}`: the encoding divides by the genes' "
            "medians, so take it from the same release."
        )
    medians = _dictionary(medians_file, str, (int, float))
    absent = [gene for gene in genes if gene not in medians]
    if absent:
        raise CheckpointError(
            f"`{medians_file}` lacks {len(absent):,} of the {len(genes):,} genes of `{tokens_file.name}`, such as "
            f"{absent[0]}: take both from the same release."
        )
    report.source += [tokens_file.name, medians_file.name]
    if (mapping_file := _beside(tokens_file, "mapping")) is not None:
        report.source.append(mapping_file.name)
    else:
        report.notes.append(
            f"`{DICTIONARIES['mapping']}*.pkl` is not there: outdated Ensembl ids go through HGNC only"
        )
    special = config.has_special_tokens
    extractor = ExpressionFeatureExtractor.for_family(
        "geneformer",
        max_length=config.max_position_embeddings,
        add_cls=special,
        add_eos=special,
        gene_medians={gene: float(medians[gene]) for gene in genes},
    )
    return CellProcessor(extractor, GeneTokenizer.from_genes(vocabulary, special_tokens=()))


def find_vocabulary(source: Path, rows: int) -> tuple[Path, GeneVocabulary]:
    """The token dictionary whose ids fill `rows` gene embeddings, and the file it comes from.

    Raises:
        CheckpointError: there is none, or several fit.
    """
    found = {}
    files = [file for folder in _folders(source) for file in _files(folder, "tokens")]
    for file in files:
        tokens = _dictionary(file, str, int)
        if max(tokens.values(), default=-1) + 1 == rows:
            found[file] = tokens
    if not found:
        looked = ", ".join(f"`{file}`" for file in files) or ", ".join(f"`{folder}`" for folder in _folders(source))
        raise CheckpointError(
            f"No `{DICTIONARIES['tokens']}*.pkl` fits the {rows:,} gene embeddings (looked at {looked}): put the "
            f"token and median dictionaries of the release into `{source}`."
        )
    if len({tuple(sorted(tokens.items())) for tokens in found.values()}) > 1:
        raise CheckpointError(
            f"Several dictionaries fit the {rows:,} gene embeddings: {', '.join(map(str, found))}. Leave the one of "
            "these weights."
        )
    file, tokens = next(iter(found.items()))
    if "<pad>" not in tokens or "<mask>" not in tokens or ("<cls>" in tokens) != ("<eos>" in tokens):
        raise CheckpointError(
            f"`{file}` must name `<pad>` and `<mask>`, and `<cls>` and `<eos>` together or not at all."
        )
    return file, GeneVocabulary(tokens, special_tokens=SPECIAL_TOKENS, aliases=_other_ids(file, tokens))


def _other_ids(tokens_file: Path, tokens: dict[str, int]) -> dict[str, str]:
    """Older Ensembl ids of the dictionary's genes, where the release maps them."""
    mapping_file = _beside(tokens_file, "mapping")
    mapping = {} if mapping_file is None else _dictionary(mapping_file, str, str)
    return {old: gene for old, gene in mapping.items() if gene in tokens and old not in tokens}


def _folders(source: Path) -> list[Path]:
    """Where the release keeps dictionaries, seen from a folder of weights, nearest first."""
    package = [folder / "geneformer" for folder in (source, *source.resolve().parents[:2])]
    near = [source, *package, *(folder / "gene_dictionaries_30m" for folder in package)]
    return [folder for folder in near if folder.is_dir()]


def _files(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.glob(f"{DICTIONARIES[kind]}*.pkl")) + sorted(folder.glob(f"{DICTIONARIES[kind]}*.pickle"))


def _beside(tokens_file: Path, kind: str) -> Path | None:
    """The dictionary of the same release: beside `tokens_file`, with the same ending of the name."""
    ending = tokens_file.name.removeprefix(DICTIONARIES["tokens"])
    same = tokens_file.with_name(DICTIONARIES[kind] + ending)
    return same if same.is_file() else None


def _dictionary(path: Path, key_type: type, value_type: type | tuple[type, ...]) -> dict:
    loaded = read_pickle(path)
    sound = isinstance(loaded, dict) and all(
        isinstance(key, key_type) and isinstance(value, value_type) and not isinstance(value, bool)
        for key, value in loaded.items()
    )
    if not sound:
        raise CheckpointError(f"`{path}` is not the dictionary that its name promises: take it from the release.")
    return loaded


def _model_class(names: Iterable[str]) -> type[GeneformerPreTrainedModel]:
    names = set(names)
    if any(name.startswith("classification_heads.") for name in names):
        return GeneformerForMultiTaskClassification
    if "classifier.weight" in names:
        pooled = "bert.pooler.dense.weight" in names
        return GeneformerForSequenceClassification if pooled else GeneformerForTokenClassification
    return GeneformerForMaskedLM


def _weight_map(model_class: type[GeneformerPreTrainedModel]) -> WeightMap:
    if model_class is GeneformerForSequenceClassification:
        return WEIGHT_MAP
    unused = Dropped("the pooler, which this head does not use")
    return {f"bert.pooler.dense.{kind}": unused for kind in ("weight", "bias")} | {
        name: target for name, target in WEIGHT_MAP.items() if not name.startswith("bert.pooler.")
    }


def _with_tied(weights: dict[str, Tensor], model_class: type[GeneformerPreTrainedModel]) -> dict[str, Tensor]:
    """Add what is stored once and used twice; where a file stores it twice, both must be equal."""
    if model_class is not GeneformerForMaskedLM:
        return weights
    for name, tied in _TIED.items():
        if tied in weights and not torch.equal(weights.setdefault(name, weights[tied]), weights[tied]):
            raise CheckpointError(f"`{name}` differs from `{tied}`, which Geneformer ties: the file is damaged.")
    return weights


def _number(name: str) -> int:
    return int(name.split(".")[1])
