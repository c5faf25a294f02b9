"""Language models that read cells: new ones, joined of an encoder of cells and a language model."""

from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ConfigurationError
from ..logging import quiet_transformers
from .cell_encoders import open_cell_encoder
from .files import damage_is_told
from .language_models import open_causal_model
from .processors import check_processor

if TYPE_CHECKING:
    from ..modeling.cell_text.modeling_cell_text import CellTextForConditionalGeneration
    from ..modeling.cell_text.processing_cell_text import CellTextProcessor


def new_cell_text_model(
    cell_model: str, text_model: "str | tuple[PreTrainedModel, PreTrainedTokenizerBase]", **settings: Any
) -> "tuple[CellTextForConditionalGeneration, CellTextProcessor]":
    """A language model that reads cells, of two models and a new projector between them.

    The language model gets a token `<cell>`; what it answers to text alone stays what it was.

    Args:
        cell_model: folder or repository of a model of cells, of any family but those with frozen tables (UCE).
        text_model: folder or repository of a causal language model of transformers; or such a model and its
            tokenizer. These are used as they are, and changed.
        **settings: of `CellTextConfig`, such as `num_cell_tokens` and `projector`.

    Returns:
        The model, in evaluation mode, and its processor.

    Raises:
        CheckpointError: a model cannot be read.
        ConfigurationError: the two do not go together.
    """
    from ..modeling.cell_text.configuration_cell_text import CellTextConfig
    from ..modeling.cell_text.modeling_cell_text import CellTextForConditionalGeneration
    from ..modeling.cell_text.processing_cell_text import CELL_TOKEN, PLAIN_TEMPLATE, CellTextProcessor

    cells, cell_processor = open_cell_encoder(cell_model, "a cell-text model")
    language, tokenizer = open_causal_model(text_model) if isinstance(text_model, str) else text_model
    if language.config.is_encoder_decoder:
        raise ConfigurationError(
            f"`{text_model}` reads prompts with an encoder; soft tokens need a causal language model, such as a Llama."
        )
    tokenizer.add_special_tokens({"extra_special_tokens": [CELL_TOKEN]}, replace_extra_special_tokens=False)
    if len(tokenizer) > language.get_input_embeddings().num_embeddings:
        with quiet_transformers():
            language.resize_token_embeddings(len(tokenizer))
    longest = getattr(language.config, "max_position_embeddings", None)
    if longest is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    config = CellTextConfig(
        cell_config=cells.config,
        text_config=language.config,
        cell_token_id=tokenizer.convert_tokens_to_ids(CELL_TOKEN),
        cell_context=cell_processor.context,
        **settings,
    )
    model = CellTextForConditionalGeneration(config)
    model.cell_text.cell_model.load_state_dict(cells.state_dict())
    model.cell_text.language_model.load_state_dict(language.state_dict())
    model.generation_config.update(
        **{name: value for name, value in language.generation_config.to_diff_dict().items() if value is not None},
        suppress_tokens=[config.cell_token_id],
    )
    return model.eval(), CellTextProcessor(cell_processor, tokenizer, config.num_cell_tokens)


def open_cell_text_processor(name: str, revision: Any = None) -> "CellTextProcessor":
    """The processor saved with a cell-text model or an adapter of one; nothing that it brings is run.

    Args:
        name: folder or repository.
        revision: branch, tag or commit on the Hub.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    from ..modeling.cell_text.processing_cell_text import CellTextProcessor

    with damage_is_told(name, "holds no processor of cells and text"), quiet_transformers():
        processor = CellTextProcessor.from_pretrained(name, revision=revision)
        check_processor(processor.cell_processor, name).check_tokens()
    return processor
