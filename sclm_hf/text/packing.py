"""Several conversations in one row of a batch, none of which sees another.

This saves the padding, and costs attention over the whole row. Measured on one core with a two-layer Llama of width
128: where a few long conversations stand among short ones, a step takes between a half and a fifth of the time; where
all are about as long, as cells with as many genes are, it takes as long as before in rows of 128 to 512 tokens, and
longer in rows of 1,024 or more.
"""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def packed_rows(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Which conversations share a row: each goes into the first row that has room for it.

    Args:
        lengths: tokens of each conversation.
        most: tokens of a row; a conversation that has more gets a row of its own.

    Returns:
        The numbers of the conversations of each row.
    """
    rows, room = [], []
    for number, length in enumerate(lengths):
        row = next((row for row, left in enumerate(room) if length <= left), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(most)
        rows[row].append(number)
        room[row] -= length
    return rows


@torch.no_grad()
def require_packable(model: "PreTrainedModel") -> None:
    """Refuse a model in which conversations of one row would see each other.

    transformers keeps them apart by `position_ids` that begin anew with each, where neither an `attention_mask` nor a
    cache is given; whether the model's attention does so is tried on a few tokens.

    Raises:
        ConfigurationError: it is a sequence-to-sequence model, takes no positions, or mixes conversations.
    """
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    if takes_positions and not model.config.is_encoder_decoder and not _mixes(model):
        return
    raise ConfigurationError(
        f"{type(model).__name__} does not keep the conversations of a row apart: leave out `pack_tokens` "
        "(`--pack_tokens`)."
    )


def _mixes(model: "PreTrainedModel") -> bool:
    """Whether a token's logits depend on a conversation before it in its row."""
    was_training = model.training
    model.eval()
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]], device=model.device)
    together = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, 5:]
    alone = model(input_ids=ids[:, 5:], use_cache=False).logits
    model.train(was_training)
    return not torch.allclose(together, alone, rtol=1e-2, atol=1e-3 * float(alone.abs().max()))
