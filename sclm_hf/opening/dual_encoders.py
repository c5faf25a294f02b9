"""Dual encoders of cells and text: new ones from two models, and those that were saved."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TokenizersBackend,
)

from ..errors import CheckpointError, ConfigurationError
from ..logging import quiet_transformers
from .cell_encoders import open_cell_encoder
from .families import read_config
from .files import damage_is_told, require_readable
from .loading import LoadedModel, load_model
from .names import resolve_name
from .weights import require_finite

if TYPE_CHECKING:
    from ..modeling.cell_text_dual_encoder.modeling_cell_text_dual_encoder import CellTextDualEncoderModel
    from ..modeling.cell_text_dual_encoder.processing_cell_text_dual_encoder import CellTextDualEncoderProcessor

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def new_dual_encoder(
    cell_model: str, text_model: str | tuple[PreTrainedModel, PreTrainedTokenizerBase], **settings: Any
) -> "tuple[CellTextDualEncoderModel, CellTextDualEncoderProcessor]":
    """A dual encoder of two models, with new projections between them.

    Args:
        cell_model: folder or repository of a model of cells, of any family but those with frozen tables (UCE).
        text_model: folder or repository of an encoder or a causal language model of transformers; or such a model and
            its tokenizer, as [`small_text_encoder`] makes.
        **settings: of `CellTextDualEncoderConfig`, such as `projection_dim`.

    Returns:
        The model, and its processor.

    Raises:
        CheckpointError: a model cannot be read.
        ConfigurationError: the two do not go together.
    """
    from ..modeling.cell_text_dual_encoder.configuration_cell_text_dual_encoder import CellTextDualEncoderConfig
    from ..modeling.cell_text_dual_encoder.modeling_cell_text_dual_encoder import CellTextDualEncoderModel
    from ..modeling.cell_text_dual_encoder.processing_cell_text_dual_encoder import CellTextDualEncoderProcessor

    cells, processor = open_cell_encoder(cell_model, "a dual encoder")
    texts, tokenizer = open_text_encoder(text_model) if isinstance(text_model, str) else text_model
    if not hasattr(texts.config, "hidden_size"):
        raise ConfigurationError(
            f"`{text_model}` is no encoder and no causal language model: its configuration has no `hidden_size`."
        )
    config = CellTextDualEncoderConfig(cell_config=cells.config, text_config=texts.config, **settings)
    model = CellTextDualEncoderModel(config)
    model.cell_model.load_state_dict(cells.state_dict())
    model.text_model.load_state_dict(texts.state_dict(), strict=False)
    return model, CellTextDualEncoderProcessor(processor, tokenizer)


def open_dual_encoder(
    model: Any,
    processor: "CellTextDualEncoderProcessor | None" = None,
    *,
    device: Any = None,
    dtype: Any = None,
    revision: str | None = None,
) -> "tuple[LoadedModel, CellTextDualEncoderProcessor]":
    """A dual encoder, ready to run on cells, and its processor of cells and texts.

    Args:
        model: folder or repository; or a loaded model, which needs `processor`.
        processor: by default the one saved with the model.
        device, dtype, revision: as for `load_model`.

    Raises:
        CheckpointError: it cannot be read, or is no dual encoder.
        ConfigurationError: a loaded model comes without its processor.
    """
    from ..modeling.cell_text_dual_encoder.modeling_cell_text_dual_encoder import CellTextDualEncoderModel
    from ..modeling.cell_text_dual_encoder.processing_cell_text_dual_encoder import CellTextDualEncoderProcessor

    is_loaded = isinstance(model, PreTrainedModel)
    model_type = model.config.model_type if is_loaded else read_config(str(model), revision).get("model_type")
    if model_type != CellTextDualEncoderModel.config_class.model_type:
        raise CheckpointError(
            f"`{'The model in memory' if is_loaded else model}` is a `{model_type}` model; texts are compared with "
            "cells by a dual encoder of both: make one with `sclm_hf.opening.dual_encoders.new_dual_encoder`."
        )
    if processor is None and is_loaded:
        raise ConfigurationError("Pass the `processor` of a dual encoder in memory, of cells and texts.")
    cells = None if processor is None else processor.cell_processor
    loaded = load_model(model, "AutoModel", processor=cells, device=device, dtype=dtype, revision=revision)
    if processor is None:
        with damage_is_told(loaded.name), quiet_transformers():
            processor = CellTextDualEncoderProcessor.from_pretrained(
                loaded.name, revision=resolve_name(loaded.name, revision)
            )
    return loaded, processor


def open_text_encoder(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A text encoder and its tokenizer; of a causal language model what comes before its head.

    Args:
        name: folder or repository.

    Raises:
        CheckpointError: it cannot be read, or lacks weights.
    """
    revision = resolve_name(name)
    require_readable(name, revision)
    with damage_is_told(name), quiet_transformers():
        model, info = AutoModel.from_pretrained(
            name,
            revision=revision,
            dtype="float32",
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    # an unused pooler is left behind
    if missing := sorted(key for key in info["missing_keys"] if not key.startswith("pooler.")):
        raise CheckpointError(
            f"`{name}` lacks {len(missing)} of the weights that {type(model).__name__} needs, for example "
            f"`{missing[0]}`: it is no whole model."
        )
    require_finite(name, model)
    return model, tokenizer


def small_text_encoder(
    texts: Iterable[str], *, hidden_size: int = 64, num_hidden_layers: int = 2, max_length: int = 256
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A new BERT whose words are those of `texts`, to be trained from scratch.

    Args:
        texts: whatever it should have words for; any other word is unknown to it.
        hidden_size: width, a multiple of 4.
        num_hidden_layers: number of layers.
        max_length: most words of a text.

    Raises:
        ConfigurationError: there are no words.
    """
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    if not words:
        raise ConfigurationError("A new text encoder needs texts to take its words from, and these have none.")
    vocabulary = {word: number for number, word in enumerate([*_SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=max_length,
        pad_token_id=0,
    )
    wrapped = TokenizersBackend(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    return BertModel(config, add_pooling_layer=False), wrapped
