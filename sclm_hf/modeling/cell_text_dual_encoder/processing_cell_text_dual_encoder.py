"""Cells and texts become batches for a dual encoder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save

from sclm_hf.errors import ConfigurationError
from sclm_hf.tokenization.processing_cell import CellProcessor

CELL_FOLDER = "cell_processor"
"""Where in the folder of a dual encoder the processor of its cells is."""

_FILE = "processor_config.json"


class CellTextDualEncoderProcessor(ProcessorMixin):
    """The processor of the cell encoder and the tokenizer of the text encoder, together.

    Args:
        cell_processor: a `CellProcessor`, of any family.
        tokenizer: of the texts.
    """

    def __init__(self, cell_processor: CellProcessor, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise ConfigurationError("The tokenizer of the texts has no token to pad with: set its `pad_token`.")
            tokenizer.pad_token = tokenizer.eos_token
        self.cell_processor, self.tokenizer = cell_processor, tokenizer
        self.chat_template = None

    def __call__(
        self,
        cells: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        truncation: bool = False,
        return_tensors: str | None = None,
        **settings: Any,
    ) -> BatchFeature:
        """Turn cells, texts or both into a batch for the model.

        Args:
            cells: as for [`CellProcessor.__call__`].
            text: one text or several.
            truncation: cut texts that are longer than the text encoder takes, instead of refusing them.
            return_tensors: `"pt"` or `"np"`; numpy arrays when left out.
            **settings: further arguments of [`CellProcessor.__call__`].

        Returns:
            The inputs of cells under their own names, those of texts as `text_input_ids` and `text_attention_mask`.

        Raises:
            ConfigurationError: there is nothing to encode, or a text is empty or too long.
            SclmError: as for [`CellProcessor.__call__`].
        """
        if cells is None and text is None:
            raise ConfigurationError("There is nothing to encode: give `cells`, `text` or both.")
        batch = {} if cells is None else dict(self.cell_processor(cells, **settings))
        if text is not None:
            batch |= self.encode_texts([text] if isinstance(text, str) else text, truncation=truncation)
        return BatchFeature(batch, tensor_type=return_tensors)

    def encode_texts(self, texts: Sequence[str], *, truncation: bool = False) -> dict[str, Any]:
        """`text_input_ids` and `text_attention_mask`, (texts, words) int64, padded to the longest.

        Raises:
            ConfigurationError: there is none, or one is empty or longer than the text encoder takes.
        """
        texts = list(texts)
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ConfigurationError(f"Texts must be sentences or words, one or more and none empty; got {texts[:5]}.")
        encoded = self.tokenizer(texts, padding=True, truncation=truncation, return_tensors="np")
        lengths, most = encoded["attention_mask"].sum(axis=1), self.tokenizer.model_max_length
        if lengths.max() > most:
            longest = texts[int(lengths.argmax())]
            raise ConfigurationError(
                f"The text {longest[:60]!r}… has {lengths.max():,} tokens, and the text encoder takes {most:,}: "
                "shorten it, or cut it with `truncation=True`."
            )
        return {f"text_{name}": encoded[name].astype("int64") for name in ("input_ids", "attention_mask")}

    @property
    def model_input_names(self) -> list[str]:
        """The inputs of cells, then those of texts."""
        return [*self.cell_processor.model_input_names, "text_input_ids", "text_attention_mask"]

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **settings: Any) -> list[str]:
        """Save the tokenizer of texts in a folder, and the processor of cells in its subfolder `cell_processor`."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer._set_processor_class(type(self).__name__)
        self.tokenizer.save_pretrained(folder)
        self.cell_processor.save_pretrained(folder / CELL_FOLDER)
        facts = {"processor_class": type(self).__name__}
        if self._auto_class is not None:
            custom_object_save(self, folder, config=facts)
        (folder / _FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        if push_to_hub:
            self.push_to_hub(settings.pop("repo_id", folder.name), **settings)
        return [str(folder / _FILE)]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **settings: Any
    ) -> "CellTextDualEncoderProcessor":
        """Open what [`save_pretrained`] saved; nothing that the folder brings is run."""
        kept = {name: settings[name] for name in ("revision", "token", "cache_dir") if name in settings}
        return cls(
            AutoProcessor.from_pretrained(
                pretrained_model_name_or_path, subfolder=CELL_FOLDER, trust_remote_code=False, **kept
            ),
            AutoTokenizer.from_pretrained(pretrained_model_name_or_path, trust_remote_code=False, **kept),
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(\n{self.cell_processor!r},\n{self.tokenizer!r})"


__all__ = ["CellTextDualEncoderProcessor"]
