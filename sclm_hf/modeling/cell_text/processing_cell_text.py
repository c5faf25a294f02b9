"""Prompts with cells become batches for a language model that reads cells."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoProcessor, AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save

from sclm_hf.errors import ConfigurationError
from sclm_hf.files import read_json_object
from sclm_hf.tokenization.processing_cell import CellProcessor

CELL_TOKEN = "<cell>"
CELL_FOLDER = "cell_processor"
"""Where in the folder of a model the processor of its cells is."""

PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ message['content'] + (eos_token or '') }}"
    "{% else %}{{ message['content'] + '\\n' }}{% endif %}{% endfor %}"
)
"""A chat template for language models that come without one: a line for each message, answers as they are."""

_FILE = "processor_config.json"

Messages = Sequence[Mapping[str, Any]]


class CellTextProcessor(ProcessorMixin):
    """The processor of the cell encoder and the tokenizer of the language model, together.

    Args:
        cell_processor: a `CellProcessor`, of any family.
        tokenizer: of the language model; it has the token `<cell>`.
        num_cell_tokens: soft tokens of a cell.

    Raises:
        ConfigurationError: the tokenizer lacks `<cell>`, or a token to pad with.
    """

    def __init__(
        self, cell_processor: CellProcessor, tokenizer: PreTrainedTokenizerBase, num_cell_tokens: int = 8
    ) -> None:
        if CELL_TOKEN not in tokenizer.get_vocab():
            raise ConfigurationError(
                f"The tokenizer has no token `{CELL_TOKEN}`: join models with `new_cell_text_model`, or call "
                f"`tokenizer.add_special_tokens({{'extra_special_tokens': ['{CELL_TOKEN}']}})`."
            )
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise ConfigurationError("The tokenizer has no token to pad with: set its `pad_token`.")
            tokenizer.pad_token = tokenizer.eos_token
        # answers begin where prompts end
        tokenizer.padding_side = "left"
        self.cell_processor, self.tokenizer, self.num_cell_tokens = cell_processor, tokenizer, num_cell_tokens
        self.chat_template = tokenizer.chat_template

    def __call__(
        self,
        text: str | Sequence[str],
        cells: Any = None,
        *,
        add_special_tokens: bool = True,
        return_tensors: str | None = None,
        **settings: Any,
    ) -> BatchFeature:
        """Turn prompts and their cells into a batch for the model.

        Args:
            text: one prompt or several, with `<cell>` wherever a cell stands.
            cells: as for [`CellProcessor.__call__`], in the order of the placeholders of all prompts.
            add_special_tokens: whether the tokenizer puts its own around a prompt; chat templates write them.
            return_tensors: `"pt"` or `"np"`; numpy arrays when left out.
            **settings: further arguments of [`CellProcessor.__call__`].

        Returns:
            `input_ids` and `attention_mask` (prompts, tokens), padded on the left, and the inputs of cells, whose
            names begin with `cell_`: (prompts, cells, genes), prompts with fewer cells padded with empty ones.

        Raises:
            ConfigurationError: there are more placeholders than cells, or more cells than placeholders; or a prompt is
                longer than the language model reads.
            SclmError: as for [`CellProcessor.__call__`]; also of a cell that expresses no gene.
        """
        texts = [text] if isinstance(text, str) else list(text)
        counts = np.array([one.count(CELL_TOKEN) for one in texts])
        n_cells = 0 if cells is None else _number_of(cells)
        if counts.sum() != n_cells:
            more = "placeholders than cells" if counts.sum() > n_cells else "cells than placeholders"
            raise ConfigurationError(
                f"There are more {more}: the prompts hold `{CELL_TOKEN}` {counts.sum()} times, for {n_cells} cells."
            )
        batch = self.encode_texts(texts, add_special_tokens=add_special_tokens)
        if n_cells:
            batch |= self.arranged(dict(self.cell_processor(cells, **settings)), counts)
        return BatchFeature(batch, tensor_type=return_tensors)

    def encode_texts(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> dict[str, np.ndarray]:
        """`input_ids` and `attention_mask` (prompts, tokens) int64 of prompts, padded on the left.

        Raises:
            ConfigurationError: there is none, or one is longer than the language model reads.
        """
        if not texts:
            raise ConfigurationError("There are no prompts: give one or more.")
        expanded = [one.replace(CELL_TOKEN, CELL_TOKEN * self.num_cell_tokens) for one in texts]
        encoded = self.tokenizer(
            expanded, padding=True, padding_side="left", add_special_tokens=add_special_tokens, return_tensors="np"
        )
        longest, most = int(encoded["attention_mask"].sum(axis=1).max()), self.tokenizer.model_max_length
        if longest > most:
            raise ConfigurationError(
                f"A prompt has {longest:,} tokens, the {self.num_cell_tokens} of each cell included, and the language "
                f"model reads {most:,}: give fewer cells or words."
            )
        return {name: encoded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}

    def arranged(self, cells: Mapping[str, Any], counts: np.ndarray) -> dict[str, np.ndarray]:
        """Encoded cells in the rows of their prompts.

        Args:
            cells: (cells, genes) arrays as the processor of cells makes them.
            counts: (prompts,) number of the cells of each prompt.

        Returns:
            `cell_…` -> (prompts, most cells of a prompt, genes).
        """
        n_cells, most = int(counts.sum()), int(counts.max())
        rows = np.repeat(np.arange(len(counts)), counts)
        columns = np.arange(n_cells) - np.repeat(np.cumsum(counts) - counts, counts)
        arranged = {}
        for name, values in cells.items():
            values = np.asarray(values)
            # the genes of a sample are those of all its cells
            is_shared = self.cell_processor.context == "sample" and name == "input_ids"
            values = np.broadcast_to(values, (n_cells, len(values))) if is_shared else values
            padded = np.zeros((len(counts), most, *values.shape[1:]), values.dtype)
            if is_shared:
                padded[:] = values[0]
            padded[rows, columns] = values
            arranged[f"cell_{name}"] = padded
        return arranged

    def apply_chat_template(
        self,
        conversation: Messages | Sequence[Messages],
        chat_template: str | None = None,
        *,
        cells: Any = None,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
        return_tensors: str | None = None,
        return_dict: bool = True,
        **settings: Any,
    ) -> str | list[str] | BatchFeature:
        """Write conversations as the language model reads them, with its own chat template.

        The content of a message is a text, or a list of `{"type": "cell"}` and `{"type": "text", "text": …}`.

        Args:
            conversation: the messages of one conversation, or of several.
            chat_template: instead of that of the tokenizer.
            cells: see [`__call__`], for `tokenize`.
            tokenize: return a batch for the model instead of text.
            add_generation_prompt: end with what precedes an answer.
            return_tensors: see [`__call__`].
            return_dict: without effect: a batch is one.
            **settings: further arguments of [`CellProcessor.__call__`].

        Raises:
            ConfigurationError: the tokenizer has no chat template; a message holds something else; or a text holds
                `<cell>`; and see [`__call__`].
        """
        is_one = isinstance(conversation[0], Mapping)
        texts = [
            self.prompt_text(one, chat_template, add_generation_prompt=add_generation_prompt)
            for one in ([conversation] if is_one else conversation)
        ]
        if not tokenize:
            return texts[0] if is_one else texts
        return self(texts, cells, add_special_tokens=False, return_tensors=return_tensors, **settings)

    def prompt_text(
        self, messages: Messages, chat_template: str | None = None, *, add_generation_prompt: bool = True
    ) -> str:
        """One conversation as text; errors are those of [`apply_chat_template`]."""
        template = chat_template or self.chat_template
        if template is None:
            raise ConfigurationError(
                "The tokenizer has no chat template: set `processor.chat_template`, or write prompts as text."
            )
        return self.tokenizer.apply_chat_template(
            [flat_message(message) for message in messages],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )

    def prompt_ids(self, messages: Messages) -> list[int]:
        """The tokens of a prompt, ready for its answer; errors are those of [`apply_chat_template`]."""
        text = self.prompt_text(messages)
        expanded = text.replace(CELL_TOKEN, CELL_TOKEN * self.num_cell_tokens)
        return self.tokenizer(expanded, add_special_tokens=False)["input_ids"]

    def answer_ids(self, messages: Messages, answer: str) -> list[int]:
        """The tokens of an answer to a prompt, up to the one that ends it.

        Raises:
            ConfigurationError: the answer has no token or holds `<cell>`, or the chat template writes a prompt
                differently once it is answered.
        """
        if CELL_TOKEN in answer:
            raise ConfigurationError(f"The answer {answer[:60]!r} holds `{CELL_TOKEN}`, which stands for a cell.")
        prompt = self.prompt_text(messages)
        answered = [*messages, {"role": "assistant", "content": answer}]
        whole = self.prompt_text(answered, add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise ConfigurationError(
                "The chat template of the tokenizer writes a prompt differently once it is answered: give "
                "the tokenizer another `chat_template`, in which `add_generation_prompt` writes what "
                "precedes every answer."
            )
        ids = self.tokenizer(whole[len(prompt) :], add_special_tokens=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        if not ids or ids[0] == end:
            raise ConfigurationError(f"The answer {answer!r} has no token: give another one.")
        return ids[: ids.index(end) + 1] if end in ids else ids

    @property
    def model_input_names(self) -> list[str]:
        """The inputs of the language model, then those of cells."""
        cells = [f"cell_{name}" for name in self.cell_processor.model_input_names]
        return ["input_ids", "attention_mask", *cells]

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **settings: Any) -> list[str]:
        """Save the tokenizer in a folder, and the processor of cells in its subfolder `cell_processor`."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.chat_template = self.chat_template
        self.tokenizer._set_processor_class(type(self).__name__)
        self.tokenizer.save_pretrained(folder)
        self.cell_processor.save_pretrained(folder / CELL_FOLDER)
        facts = {"processor_class": type(self).__name__, "num_cell_tokens": self.num_cell_tokens}
        if self._auto_class is not None:
            custom_object_save(self, folder, config=facts)
        (folder / _FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        if push_to_hub:
            self.push_to_hub(settings.pop("repo_id", folder.name), **settings)
        return [str(folder / _FILE)]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **settings: Any) -> "CellTextProcessor":
        """Open what [`save_pretrained`] saved; nothing that the folder brings is run."""
        from transformers.utils.hub import cached_file

        kept = {name: settings[name] for name in ("revision", "token", "cache_dir") if name in settings}
        name = str(pretrained_model_name_or_path)
        facts = read_json_object(Path(cached_file(name, _FILE, **kept)))
        cells = AutoProcessor.from_pretrained(name, subfolder=CELL_FOLDER, trust_remote_code=False, **kept)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **kept)
        return cls(cells, tokenizer, facts.get("num_cell_tokens", 8))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(\n{self.cell_processor!r},\n{self.tokenizer!r})"


def flat_message(message: Mapping[str, Any]) -> dict[str, str]:
    """A message whose content is text, with `<cell>` where a cell stands, as every chat template reads it.

    Raises:
        ConfigurationError: it holds something else than cells and texts, or a text holds `<cell>`.
    """
    content = message["content"]
    if isinstance(content, str):
        return {"role": message["role"], "content": content}
    return {"role": message["role"], "content": "".join(map(_flat_item, content))}


def _flat_item(item: Mapping[str, Any]) -> str:
    if item.get("type") == "cell":
        return CELL_TOKEN
    if item.get("type") != "text":
        raise ConfigurationError(
            f"A message holds cells and texts, `{{'type': 'cell'}}` and `{{'type': 'text', 'text': …}}`; got {item}."
        )
    if CELL_TOKEN in item["text"]:
        raise ConfigurationError(
            f"The text {item['text'][:60]!r} holds `{CELL_TOKEN}`, which stands for a cell: write "
            "`{'type': 'cell'}` in its place, or another word."
        )
    return item["text"]


def _number_of(cells: Any) -> int:
    """How many cells an AnnData, a data frame, a matrix, a row or rows of shards are."""
    if isinstance(cells, Mapping):
        return 1 if isinstance(cells["dataset"], str) else len(cells["dataset"])
    shape = cells.shape if hasattr(cells, "shape") else np.shape(cells)
    return 1 if len(shape) == 1 else int(shape[0])


__all__ = ["CellTextProcessor"]
