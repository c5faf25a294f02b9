"""Language models that know nothing of cells, from folders and repositories; nothing that they bring is run."""

from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import CheckpointError
from ..logging import quiet_transformers
from .files import damage_is_told, require_readable
from .names import resolve_name
from .weights import require_finite


def open_language_model(
    name: str, *, dtype: torch.dtype = torch.float32, revision: Any = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal or sequence-to-sequence language model and its tokenizer.

    Args:
        name: folder or repository.
        dtype: of the weights.
        revision: branch, tag or commit on the Hub.

    Raises:
        CheckpointError: it cannot be read, is no language model, lacks weights, or holds some that are not finite.
    """
    revision = resolve_name(name, revision)
    require_readable(name, revision)
    with damage_is_told(name), quiet_transformers():
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        auto_class, kinds = (
            (AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING)
            if config.is_encoder_decoder
            else (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING)
        )
        if type(config) not in kinds:
            raise CheckpointError(
                f"`{name}` is a `{config.model_type}` model, which writes no text: give a causal or "
                "sequence-to-sequence language model, and a model of cells, if any, as `cell_model` (`--cell_model`) "
                "or `cell_tokens` (`--cell_tokens`)."
            )
        model, info = auto_class.from_pretrained(
            name,
            config=config,
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"`{name}` lacks {len(missing)} of the weights that {type(model).__name__} needs, for example "
            f"`{missing[0]}`: it is no whole model."
        )
    require_finite(name, model)
    return model.eval(), tokenizer


def open_causal_model(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer; errors as for [`open_language_model`].

    Raises:
        CheckpointError: it is a sequence-to-sequence model.
    """
    model, tokenizer = open_language_model(name)
    if model.config.is_encoder_decoder:
        raise CheckpointError(f"`{name}` is a sequence-to-sequence model: expected a causal language model.")
    return model, tokenizer
