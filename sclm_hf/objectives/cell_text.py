"""Questions about cells that a language model with soft tokens learns to answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigurationError
from ..tokenization.encodings.keys import Stream, cell_keys, uniforms_for
from ..tokenization.encodings.masks import IGNORED
from .cell_classification import check_classes
from .collation import CellCollator, require_column


@dataclass
class CellTextCollator(CellCollator):
    """Hands the batch on with a question about each cell and its answer; the loss is on the answer alone.

    Which question a cell is asked is drawn anew in every epoch, keyed by its id.

    Args:
        questions: the tokens of each question, `<cell>` included.
        answers: the tokens of the answer for each label, the one that ends it included.
        text_pad_token_id: fills `input_ids`.
        text_processor: the `CellTextProcessor`, which puts cells into the rows of their prompts.

    Gives:
        `input_ids`, `attention_mask` and `labels` (cells, tokens) int64, padded on the right, and the inputs of cells
        as `cell_…` (cells, 1, genes). Cells labelled -100 are left out of the loss.
    """

    questions: tuple[tuple[int, ...], ...] = ()
    answers: tuple[tuple[int, ...], ...] = ()
    text_pad_token_id: int = 0
    text_processor: Any = None

    @classmethod
    def from_processor(
        cls,
        processor: Any,
        questions: Sequence[str] = (),
        answers: Sequence[str] = (),
        **overrides: Any,
    ) -> "CellTextCollator":
        """A collator for the cells of a corpus.

        Args:
            processor: a `CellTextProcessor`.
            questions: what is asked about a cell, one wording or several.
            answers: the answer for each label, in the order of `corpus.label_names`; `text.closed_set.answers_of`
                writes labels as answers.
            **overrides: the collator's own arguments.

        Raises:
            ConfigurationError: there is no question or no answer, or a text holds `<cell>`.
        """
        if not questions or not answers:
            raise ConfigurationError("Give `questions`, one or more, and `answers`, one for each label.")
        conversations = [
            [{"role": "user", "content": [{"type": "cell"}, {"type": "text", "text": f" {question}"}]}]
            for question in questions
        ]
        settings = {
            "questions": tuple(tuple(processor.prompt_ids(one)) for one in conversations),
            "answers": tuple(tuple(processor.answer_ids(conversations[0], answer)) for answer in answers),
            "text_pad_token_id": processor.tokenizer.pad_token_id,
            "text_processor": processor,
        }
        return super().from_processor(processor.cell_processor, **(settings | overrides))

    def collate(self, batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        numbers = require_column(batch, "labels", "the answers are those of the labels").astype(np.int64)
        check_classes(numbers, len(self.answers))
        ids = require_column(batch, "cell_ids", "they key which question a cell is asked")
        draws = uniforms_for(cell_keys(ids, self.seed, epoch), Stream.QUESTION, 1)[:, 0]
        asked = (draws * len(self.questions)).astype(np.int64)
        names = self.text_processor.cell_processor.model_input_names
        cells = {name: values for name, values in batch.items() if name in names}
        pairs = [
            (self.questions[question], () if number == IGNORED else self.answers[number])
            for question, number in zip(asked, numbers, strict=True)
        ]
        return {
            "input_ids": _padded([(*question, *answer) for question, answer in pairs], self.text_pad_token_id),
            "attention_mask": _padded([[1] * (len(question) + len(answer)) for question, answer in pairs], 0),
            "labels": _padded([[IGNORED] * len(question) + list(answer) for question, answer in pairs], IGNORED),
            **self.text_processor.arranged(cells, np.ones(len(numbers), np.int64)),
        }


def _padded(rows: Sequence[Sequence[int]], fill: int) -> np.ndarray:
    """(rows, longest) int64."""
    padded = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded
