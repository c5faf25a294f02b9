"""Cell types that are given as texts: zero-shot annotation with a dual encoder of cells and text."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...corpora.labels.descriptions import Labels, read_descriptions
from ...modeling.cell_text_dual_encoder.modeling_cell_text_dual_encoder import (
    CellTextDualEncoderModel,
    Tokens,
    cell_tokens,
)
from ...modeling.cell_text_dual_encoder.processing_cell_text_dual_encoder import CellTextDualEncoderProcessor
from ...modeling.common.outputs import CellClassifierOutput
from ...opening.dual_encoders import open_dual_encoder
from ...opening.loading import LoadedModel


class DescribedTypes(nn.Module):
    """A dual encoder that labels cells by the text that fits best.

    Args:
        model: the dual encoder.
        processor: its processor.
        texts: label -> texts; the direction of a label is the mean of theirs.
    """

    def __init__(
        self,
        model: CellTextDualEncoderModel,
        processor: CellTextDualEncoderProcessor,
        texts: Mapping[str, Sequence[str]],
    ) -> None:
        super().__init__()
        self.encoder = model.eval()
        self.config = copy.deepcopy(model.config)
        self.config.id2label = dict(enumerate(texts))
        self.config.label2id = {name: number for number, name in enumerate(texts)}
        every = [text for several in texts.values() for text in several]
        shares = [torch.full((1, len(several)), 1 / len(several)) for several in texts.values()]
        self.register_buffer("shares", torch.block_diag(*shares))
        self.to(model.device)
        with torch.inference_mode():
            batch = {name: torch.from_numpy(one) for name, one in processor.encode_texts(every).items()}
            features = model.get_text_features(**{name: one.to(model.device) for name, one in batch.items()})
            directions = F.normalize(self.shares.to(features.pooler_output.dtype) @ features.pooler_output, dim=-1)
        self.register_buffer("directions", directions.clone())
        self.register_buffer("words", features.last_hidden_state.clone())
        self.register_buffer("word_mask", batch["text_attention_mask"].to(model.device))

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.dtype

    def frozen_tables(self) -> dict[str, Tensor]:
        return {}

    def forward(self, **cells: Tensor) -> CellClassifierOutput:
        """The logits of the labels, (cells, labels): with a matching head, logarithms of LangCell's mixture."""
        features = self.encoder.get_cell_features(**cells)
        logits = self.encoder.similarities(features.pooler_output, self.directions)
        if self.encoder.matching_head is not None:
            pairs = self.encoder.match_logits(
                cell_tokens(features, cells.get("attention_mask")), Tokens(self.words, self.word_mask.bool())
            )
            matches = pairs.sigmoid() @ self.shares.T.float()
            share = self.config.similarity_weight
            logits = (share * logits.softmax(dim=1) + (1 - share) * matches.softmax(dim=1)).log()
        return CellClassifierOutput(logits=logits, cell_embedding=features.pooler_output)


def load_described(
    model: Any,
    labels: Labels,
    processor: CellTextDualEncoderProcessor | None = None,
    *,
    device: Any = None,
    dtype: Any = None,
    revision: str | None = None,
) -> LoadedModel:
    """A dual encoder that labels cells by texts; arguments and errors as for [`open_dual_encoder`], and:

    Args:
        labels: see [`read_descriptions`].
    """
    texts = read_descriptions(labels)
    loaded, whole = open_dual_encoder(model, processor, device=device, dtype=dtype, revision=revision)
    described = DescribedTypes(loaded.model, whole, texts)
    return LoadedModel(described, loaded.processor, loaded.name, loaded.revision)


def load_queries(
    model: Any, queries: Sequence[str], processor: CellTextDualEncoderProcessor | None = None, **options: Any
) -> LoadedModel:
    """A dual encoder that knows what is looked for; arguments and errors as for [`load_described`]."""
    loaded, whole = open_dual_encoder(model, processor, **options)
    described = DescribedTypes(loaded.model, whole, {text: [text] for text in queries})
    return LoadedModel(described, loaded.processor, loaded.name, loaded.revision)
