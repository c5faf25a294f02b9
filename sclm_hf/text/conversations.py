"""Questions about cells and their answers, made from a corpus as it streams."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpora.contents import Contents
from ..errors import ConfigurationError, require
from ..tokenization.encodings.keys import Stream, cell_keys, uniforms_for
from .cell_words import CellWords, CellWriter
from .neutral import neutralise
from .templates import Which, load_templates

if TYPE_CHECKING:
    from datasets import IterableDataset
    from transformers import PreTrainedTokenizerBase

    from ..corpora.cell_corpus import CellStream

Row = dict[str, Any]


class Conversations:
    """The cells of a corpus as rows `prompt` and `completion`, which TRL and transformers' chat templates share.

    The wording of a cell's question depends on the cell, the seed of the corpus and the epoch alone: it is the same
    in any batch, worker or resumed run.

    Args:
        corpus: cells that a `sentence_processor` encodes.
        task: name of the task, or a YAML file with its wordings.
        organism: what prompts call the species.
        columns: slot -> column of `obs` that fills it, of the columns that the corpus was opened with;
            `label_column` fills `cell_type` unless told otherwise.
        templates: which wordings: `"train"`, `"held_out"` or `"all"`.
        system: a message before each question.
        tokenizer: tokenizer of the model, whose special tokens data may not contain.
        cells_as: writes cells, such as [`~code_words.CodeWords`], whose processor then encodes those of the corpus; by
            default as the names of their genes.

    Raises:
        ConfigurationError: there is no such task, or the corpus was opened without a column that it needs.
        ExpressionError: two genes have the same name in capitals.
    """

    def __init__(
        self,
        corpus: "CellStream",
        task: str = "annotate",
        *,
        organism: str = "human",
        columns: Mapping[str, str] | None = None,
        templates: Which = "train",
        system: str | None = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        cells_as: CellWriter | None = None,
    ) -> None:
        self.corpus, self.task = corpus, load_templates(task)
        self.templates = self.task.choose(templates)
        self.words = cells_as or CellWords(corpus.processor, tokenizer)
        self.organism = neutralise(organism, tokenizer)
        self.system = [] if system is None else [{"role": "system", "content": system}]
        fields = {slot: f"labels_{column}" for slot, column in (columns or {}).items()}
        self._fields = {slot: fields.get(slot, "labels") for slot in self.task.columns}
        self._names = {
            slot: [neutralise(name, tokenizer) for name in _names_of(corpus, slot, field)]
            for slot, field in self._fields.items()
        }

    @property
    def answers(self) -> list[str]:
        """The possible answers of a task whose answer is a column, as prompts and completions write them.

        Raises:
            ConfigurationError: the answer of the task is something else.
        """
        slot = self.templates[0].answer.strip("{}")
        if slot not in self._names:
            raise ConfigurationError(f"The answers of `{self.task.task}` are no list of labels.")
        return self._names[slot]

    def rows(self, batch: Mapping[str, np.ndarray], epoch: int = 0) -> list[Row]:
        """A conversation per cell of a batch of the corpus.

        Args:
            batch: its arrays.
            epoch: number of the epoch, which varies the wording.
        """
        sentences = self.words.sentences(batch)
        keys = cell_keys(batch["cell_ids"], self.corpus.seed, epoch)
        draws = uniforms_for(keys, Stream.QUESTION, 1)[:, 0]
        chosen = (draws * len(self.templates)).astype(np.int64)
        numbers = {slot: np.asarray(batch[field]) for slot, field in self._fields.items()}
        return [
            self._row(
                sentence,
                int(batch["cell_ids"][cell]),
                int(chosen[cell]),
                {slot: self._names[slot][values[cell]] for slot, values in numbers.items()},
            )
            for cell, sentence in enumerate(sentences)
        ]

    def prompt(self, sentence: str, template: int = 0, **slots: str) -> list[dict[str, str]]:
        """The messages of a question about a cell.

        Args:
            sentence: the cell.
            template: number of the wording.
            **slots: the values of columns, where prompts have them.
        """
        text = self.templates[template].render_prompt(**self._slots(sentence), **slots)
        return [*self.system, {"role": "user", "content": text}]

    def to_dataset(self, epoch: int = 0) -> "IterableDataset":
        """The conversations of an epoch, streamed in the order of `corpus.to_dataset(epoch)`.

        Like that, it is shared by the workers of a `DataLoader`, resumed by its `state_dict`, and goes on to the
        next epoch with `set_epoch`.

        Raises:
            MissingDependencyError: `datasets` is not installed.
        """
        require("datasets", extra="train")
        from .dataset import conversations_dataset

        return conversations_dataset(self, epoch)

    def _row(self, sentence: str, cell_id: int, template: int, values: dict[str, str]) -> Row:
        slots = self._slots(sentence) | values
        prompt, answer = self.templates[template].render(**slots)
        return {
            "prompt": [*self.system, {"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": answer}],
            "cell_id": cell_id,
            "label": next(iter(values.values()), ""),
            "task": self.task.task,
            "template": self.templates[template].name,
        }

    def _slots(self, sentence: str) -> dict[str, Any]:
        return {"sentence": sentence, "organism": self.organism, "n_genes": sentence.count(" ") + 1}


def _names_of(corpus: Contents, slot: str, field: str) -> Sequence[str]:
    """The values that fill a slot, in the order of their numbers."""
    names = {"labels": corpus.label_names, "batch_labels": corpus.batch_names}
    names |= {f"labels_{column}": values for column, values in corpus.task_names.items()}
    if field not in corpus.numbered:
        raise ConfigurationError(
            f"The task needs a column of `obs` for `{slot}`: open the corpus with `label_column`, or with "
            f"`task_columns` and pass `columns={{{slot!r}: …}}`."
        )
    return names[field]


def batches_of(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Rows, `size` at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
