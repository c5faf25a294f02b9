"""What a new model of a family starts from: a tokenizer for its genes, and a configuration that fits them."""

import dataclasses
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from ..errors import unknown_name
from ..registry import get_family
from ..tokenization.genes.gene_vocabulary import GeneVocabulary
from ..tokenization.genes.tokenization_gene import GeneTokenizer
from ..tokenization.processing_cell import CellProcessor
from .families import told_by
from .kinds import AUTO_CLASSES

PUBLISHED_RANGE, PUBLISHED_WIDTH, LARGEST_RANGE = 0.02, 256, 0.1
"""Deviation of new weights of BERT and GPT-2, the narrowest model published with it (Geneformer), and the largest
deviation that was measured (`training_scripts/recipes/README.md`)."""


def new_tokenizer(family: str, genes: Iterable[str] | GeneVocabulary) -> GeneTokenizer:
    """A tokenizer of `genes`, numbered in their order, with the special tokens where the family has them.

    Args:
        family: name of the family.
        genes: names in order; or a vocabulary, whose numbers are kept.

    Raises:
        ConfigurationError: there is no such family, or a gene occurs twice.
    """
    known = get_family(family)
    if known.genes_first and not isinstance(genes, GeneVocabulary):
        genes = GeneVocabulary.from_genes(genes, ()).add_genes(known.special_tokens)
    return GeneTokenizer.from_genes(genes, special_tokens=known.special_tokens)


def processor_class(family: str) -> type[CellProcessor]:
    """The class of a family's processor.

    Raises:
        ConfigurationError: there is no such family.
    """
    known = get_family(family)
    return getattr(importlib.import_module(known.processor_module), known.processor)


def new_config(
    family: str, processor: CellProcessor, settings: Mapping[str, Any], *, n_batches: int = 0
) -> PreTrainedConfig:
    """A configuration of `family` that fits a processor.

    Args:
        family: name of the family.
        processor: its vocabulary and encoding.
        settings: what the configuration says beyond them; they win. A family with the `initializer_range` of BERT gets
            that of its width unless it is set, see [`initializer_range`].
        n_batches: number of batch labels.

    Raises:
        ConfigurationError: the family's configuration has no such setting.
    """
    tokenizer, encoding = processor.tokenizer, processor.feature_extractor
    vocabulary = tokenizer.gene_vocabulary
    fitting = {
        "vocab_size": vocabulary.size,
        "num_genes": len(vocabulary) - len(vocabulary.special_tokens),
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "num_bins": encoding.n_bins if encoding.value_encoding.has_bins else None,
        "pad_value": encoding.pad_value,
        "mask_value": encoding.mask_value,
        "num_batch_labels": n_batches,
        "num_batches": n_batches,
        # no column is read as this covariate
        "num_datasets": 0,
        "max_position_embeddings": encoding.max_length,
        # a new model has no pretrained gene table to freeze
        "freeze_gene_embeddings": False,
        **told_by(encoding, get_family(family)),
    }
    known = [field.name for field in dataclasses.fields(AutoConfig.for_model(family))]
    for name in settings:
        if name not in known:
            raise unknown_name(name, known, " in `model_config`")
    chosen = {name: value for name, value in fitting.items() if name in known and value is not None}
    config = AutoConfig.for_model(family, **(chosen | dict(settings)))
    is_default = "initializer_range" not in settings and getattr(config, "initializer_range", 0) == PUBLISHED_RANGE
    if is_default and not get_family(family).is_fitted:
        config.initializer_range = initializer_range(config.hidden_size)
    return config


def initializer_range(width: int) -> float:
    """Deviation of the weights of a new BERT or GPT-2.

    Published models have 0.02, which is for wide ones: one of width 64 did not begin to learn with it in 250 steps,
    and did with 0.05 and with 0.1. Below Geneformer's width the deviation grows as the width falls, to 0.1 at most.

    Args:
        width: `hidden_size` of the model.
    """
    return min(max(PUBLISHED_RANGE, PUBLISHED_RANGE * PUBLISHED_WIDTH / width), LARGEST_RANGE)


def new_model(config: PreTrainedConfig, task: str) -> PreTrainedModel:
    """A model with random weights and the head that `task`, a key of `AUTO_CLASSES`, needs."""
    return getattr(transformers, AUTO_CLASSES[task]).from_config(config)
