"""Batches of cells as batches of conversations, with a loss on the answers alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..tokenization.encodings.masks import IGNORED
from .conversations import Conversations
from .packing import packed_rows
from .rendering import answer_ids, padding_id, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class ConversationCollator:
    """Turns batches of a corpus into inputs of a language model.

    Args:
        conversations: makes the conversations.
        tokenizer: of the language model.
        is_encoder_decoder: prompts go to the encoder and answers are the `labels`; else answers follow their prompts.
        max_length: most tokens of a prompt with its answer.
        pack_tokens: put conversations into rows of up to so many tokens, none of which sees another; 0 = one
            conversation per row. For models that [`~packing.require_packable`] accepts.
    """

    conversations: Conversations
    tokenizer: "PreTrainedTokenizerBase"
    is_encoder_decoder: bool = False
    max_length: int | None = None
    pack_tokens: int = 0

    def __call__(self, batch: Mapping[str, Any], epoch: int = 0) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` and `labels`, (cells, tokens) int64, padded on the right.

        With `pack_tokens`, (rows, tokens), and `position_ids`, which begin anew with each conversation, instead of the
        mask.

        Raises:
            ConfigurationError: a conversation is too long, or the tokenizer has nothing to pad with.
        """
        rows = self.conversations.rows({name: np.asarray(values) for name, values in batch.items()}, epoch)
        return self.collate_rows(rows)

    def forward_arguments(self, step: int) -> dict[str, Any]:
        """Extra arguments of the model's forward at an optimizer step."""
        # with a cache, transformers does not look for several conversations in a row
        return {"use_cache": False} if self.pack_tokens else {}

    def collate_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The same from rows of conversations; arguments and errors as for a call."""
        answers = [answer_ids(self.tokenizer, row["prompt"], row["completion"][0]["content"]) for row in rows]
        longest = max(map(len, answers), default=0)
        most = None if self.max_length is None else self.max_length - longest
        prompts = prompt_ids(self.tokenizer, [row["prompt"] for row in rows], most=most)
        fill = padding_id(self.tokenizer)
        if self.is_encoder_decoder:
            return {
                "input_ids": _padded(prompts, fill),
                "attention_mask": _padded([[1] * len(ids) for ids in prompts], 0),
                "labels": _padded(answers, IGNORED),
            }
        pairs = list(zip(prompts, answers, strict=True))
        if self.pack_tokens:
            return _packed(pairs, fill, self.pack_tokens)
        return {
            "input_ids": _padded([prompt + answer for prompt, answer in pairs], fill),
            "attention_mask": _padded([[1] * len(prompt + answer) for prompt, answer in pairs], 0),
            "labels": _padded([[IGNORED] * len(prompt) + answer for prompt, answer in pairs], IGNORED),
        }


def _packed(pairs: Sequence[tuple[list[int], list[int]]], fill: int, most: int) -> dict[str, torch.Tensor]:
    """Prompts and answers, several of them in a row."""
    lengths = [len(prompt) + len(answer) for prompt, answer in pairs]
    ids, labels, positions = [], [], []
    for row in packed_rows(lengths, most):
        ids.append([token for number in row for part in pairs[number] for token in part])
        labels.append([label for number in row for label in [IGNORED] * len(pairs[number][0]) + pairs[number][1]])
        positions.append([position for number in row for position in range(lengths[number])])
    return {
        "input_ids": _padded(ids, fill),
        # not 0, which is where a conversation begins
        "position_ids": _padded(positions, 1),
        "labels": _padded(labels, IGNORED),
    }


def _padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """(rows, longest) int64."""
    padded = np.full((len(rows), max(map(len, rows), default=0)), fill, np.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(padded)
