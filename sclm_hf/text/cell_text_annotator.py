"""A language model that reads cells as soft tokens, with a closed set of labels, as a classifier of cells."""

import copy
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from ..errors import ConfigurationError
from ..modeling.cell_text.configuration_cell_text import CellTextConfig
from ..modeling.cell_text.processing_cell_text import CellTextProcessor
from ..opening.cell_text_models import open_cell_text_processor
from ..opening.files import ADAPTER_CONFIG, find_file
from ..opening.kinds import inner_model
from ..opening.loading import LoadedModel, as_dtype
from ..opening.weights import open_model
from ..tokenization.processing_cell import CellProcessor
from .candidates import answers_after, told_apart
from .closed_set import (
    CANDIDATES_FILE,
    Candidates,
    answers_of,
    loaded_annotator,
    model_type_with_candidates,
    read_candidates,
)

if TYPE_CHECKING:
    from ..modeling.cell_text.modeling_cell_text import CellTextForConditionalGeneration

_CHUNK = 64
"""Prompts that are read at a time, however large the sample that they are from, unless memory runs out."""


class CellTextAnnotator(nn.Module):
    """A cell-text model that gives a logit for each label: its log-likelihood per token, over the temperature.

    Args:
        model: the cell-text model.
        processor: its processor.
        candidates: the question, which follows the cell, and the labels.

    Raises:
        ConfigurationError: labels are the same tokens, or the question is too long.
    """

    def __init__(
        self, model: "CellTextForConditionalGeneration", processor: CellTextProcessor, candidates: Candidates
    ) -> None:
        super().__init__()
        self.model, self.processor, self.candidates = model, processor, candidates
        self.config = copy.deepcopy(model.config)
        self.config.id2label = dict(enumerate(candidates.labels))
        self.config.label2id = {label: number for number, label in enumerate(candidates.labels)}
        self.config.chunk_size = _CHUNK
        # what answers depend on is in the record of a model
        self.config.candidates = dataclasses.asdict(candidates)
        before = [] if candidates.system is None else [{"role": "system", "content": candidates.system}]
        asked = [{"type": "cell"}, {"type": "text", "text": f" {candidates.prompt}"}]
        prompt = [*before, {"role": "user", "content": asked}]
        self._prompt = processor.prompt_ids(prompt)
        self._answers = self._tokens_of_answers(prompt)
        self._refuse_long(len(self._prompt) + max(map(len, self._answers)))

    @property
    def cell_processor(self) -> CellProcessor:
        """What encodes the cells."""
        return self.processor.cell_processor

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self.model.dtype

    def frozen_tables(self) -> dict[str, torch.Tensor]:
        """Tensors besides its weights: none, for an encoder that has some is refused."""
        return {}

    def forward(self, **batch: torch.Tensor) -> SequenceClassifierOutput:
        """`logits` (cells, labels) of encoded cells, each of which is asked about alone."""
        arrays = {name: _dense(values).cpu().numpy() for name, values in batch.items()}
        n_cells = len(arrays["attention_mask"])
        cells = self.processor.arranged(arrays, np.ones(n_cells, np.int64))
        cells = {name: torch.from_numpy(values).to(self.device) for name, values in cells.items()}
        size = self.config.chunk_size
        scores = [
            self._scored({name: values[start : start + size] for name, values in cells.items()})
            for start in range(0, n_cells, size)
        ]
        return SequenceClassifierOutput(logits=torch.cat(scores) / self.candidates.temperature)

    def _scored(self, cells: dict[str, torch.Tensor]) -> torch.Tensor:
        """(cells, labels) log-likelihoods of the answers, per token."""
        prompts = torch.tensor(self._prompt, device=self.device).expand(len(next(iter(cells.values()))), -1)
        return answers_after(self.model, prompts, torch.ones_like(prompts), self._answers, **cells)

    def _tokens_of_answers(self, prompt: list[dict[str, Any]]) -> list[list[int]]:
        """The tokens of the labels, with the end of a turn only where a label is the beginning of another."""
        answers = answers_of(self.candidates.labels, self.processor.tokenizer)
        whole = [self.processor.answer_ids(prompt, answer) for answer in answers]
        return told_apart(whole, self.candidates.labels, self.processor.tokenizer.eos_token_id)

    def _refuse_long(self, n_tokens: int) -> None:
        longest = getattr(self.config.text_config, "max_position_embeddings", None)
        if longest is not None and n_tokens > longest:
            raise ConfigurationError(
                f"The question and its longest answer have {n_tokens:,} tokens, and the language model reads "
                f"{longest:,}: ask a shorter one."
            )


def _dense(values: torch.Tensor) -> torch.Tensor:
    # large samples come without their zeros
    return values if values.layout == torch.strided else values.to_dense()


def is_cell_text_annotator(model: Any, revision: Any = None) -> bool:
    """Whether a folder or repository holds a cell-text model with candidates, or is one in memory."""
    if isinstance(model, CellTextAnnotator):
        return True
    return model_type_with_candidates(model, revision) == CellTextConfig.model_type


def load_cell_text_annotator(
    model: Any,
    *,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    revision: str | None = None,
) -> LoadedModel:
    """A cell-text model with candidates, ready to run; nothing that it brings is executed.

    Args:
        model: folder or repository of the model, or of an adapter of one; or a [`CellTextAnnotator`].
        device: where to run; by default CUDA, else MPS, else CPU.
        dtype: of the weights; float32 by default.
        revision: branch, tag or commit on the Hub.

    Raises:
        CheckpointError: it cannot be read, or its weights are not whole.
    """
    return loaded_annotator(model, CellTextAnnotator, functools.partial(_open, dtype), device, revision)


def _open(dtype: "str | torch.dtype | None", name: str, revision: Any) -> CellTextAnnotator:
    opened, processor = open_cell_text_model(name, dtype=dtype, revision=revision)
    return CellTextAnnotator(opened, processor, read_candidates(find_file(name, CANDIDATES_FILE, revision)))


def open_cell_text_model(
    name: str, *, dtype: "str | torch.dtype | None" = None, revision: Any = None
) -> "tuple[CellTextForConditionalGeneration, CellTextProcessor]":
    """A cell-text model, or an adapter of one, and its processor; arguments and errors as for the annotator."""
    if find_file(name, ADAPTER_CONFIG, revision) is not None:
        # peft is asked for where there is an adapter only
        from ..adapters.lora import load_adapter

        opened = load_adapter(name, dtype=as_dtype(dtype), revision=revision)
    else:
        opened = open_model(name, "AutoModelForMultimodalLM", dtype=as_dtype(dtype), revision=revision)
    return inner_model(opened), open_cell_text_processor(name, revision)


def save_cell_text_annotator(
    folder: str | Path,
    model: "CellTextForConditionalGeneration",
    processor: CellTextProcessor,
    labels: Sequence[str],
    question: str,
    **settings: Any,
) -> None:
    """Save a trained cell-text model so that `annotate` labels cells with it.

    Args:
        folder: folder to write.
        model: the model.
        processor: its processor.
        labels: the labels among which it chooses.
        question: what follows the cell.
        **settings: further fields of [`Candidates`].
    """
    candidates = Candidates(labels=list(labels), prompt=question, **settings)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    candidates.save(folder)
