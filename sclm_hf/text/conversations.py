"""Questions about cells and their answers, made from a corpus as it streams."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpora.contents import Contents
from ..errors import ConfigurationError, require, unknown_name
from ..tokenization.encodings.keys import Stream, cell_keys, uniforms_for
from .bins import Bins, binned
from .cell_words import CellWords, CellWriter
from .facts import FACTS, Asked, Ground, Slots
from .neutral import neutralise
from .templates import Which, Wordings, load_templates

if TYPE_CHECKING:
    from datasets import IterableDataset
    from transformers import PreTrainedTokenizerBase

    from ..corpora.cell_corpus import CellStream
    from .rules import MarkerRule

Row = dict[str, Any]


class Conversations:
    """The cells of a corpus as rows `prompt` and `completion`, which TRL and transformers' chat templates share.

    The wording of a cell's question depends on the cell, the seed of the corpus and the epoch alone, and so do the
    other cells in it: they are the same in any batch, worker or resumed run.

    Args:
        corpus: cells that a `sentence_processor` encodes.
        task: name of the task, or a YAML file with its wordings.
        organism: what prompts call the species.
        columns: slot -> column of `obs` that fills it, of the columns that the corpus was opened with;
            `label_column` fills the slots of the task that are not named. `describe` takes further ones, which it
            mentions.
        fixed: slot -> text, for slots of the task that are the same for all cells.
        bins: slot -> label -> upper bound (included), ascending: its column holds numbers, and the labels fill it.
        control: with the task `perturb`, the value of the perturbation that means none. Control cells begin
            questions and are asked none of their own.
        match: columns of `obs` whose values all cells of a question share, such as the cell type of a control cell,
            or the donor of a puzzle.
        cells: with the task `assign`, least and most cells of a puzzle, drawn evenly as far as there are types; by
            default 8 and 15, as published.
        rules: with the task `describe`, rules about markers; what they say of a cell's genes is part of the answer.
        templates: which wordings: `"train"`, `"held_out"` or `"all"`.
        system: a message before each question.
        tokenizer: tokenizer of the model, whose special tokens data may not contain.
        cells_as: writes cells, such as [`~code_words.CodeWords`], whose processor then encodes those of the corpus; by
            default as the names of their genes.

    Raises:
        ConfigurationError: there is no such task; the corpus was opened without a column that it needs; a setting is
            for another task; or no cell can be asked about.
        ExpressionError: two genes have the same name in capitals.

    Warns:
        SclmWarning: some cells cannot be asked about, for example for want of a control cell.
    """

    def __init__(
        self,
        corpus: "CellStream",
        task: str = "annotate",
        *,
        organism: str = "human",
        columns: Mapping[str, str] | None = None,
        fixed: Mapping[str, str] | None = None,
        bins: Mapping[str, Bins] | None = None,
        control: str | None = None,
        match: Sequence[str] = (),
        cells: tuple[int, int] | None = None,
        rules: "Iterable[MarkerRule] | None" = None,
        templates: Which = "train",
        system: str | None = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        cells_as: CellWriter | None = None,
    ) -> None:
        self.corpus, self.task = corpus, load_templates(task)
        self.templates = self.task.choose(templates)
        self.words = cells_as or CellWords(corpus.processor, tokenizer)
        self.system = [] if system is None else [{"role": "system", "content": system}]
        fixed = {"organism": organism, **(fixed or {})}
        self._fixed = {slot: neutralise(text, tokenizer) for slot, text in fixed.items()}
        self._fields = _fields(self.task, columns or {}, fixed, bins or {})
        labels = {slot: _names_of(corpus, slot, field) for slot, field in self._fields.items()}
        labels |= {slot: binned(labels[slot], some, slot) for slot, some in (bins or {}).items()}
        self._names = {slot: [neutralise(name, tokenizer) for name in names] for slot, names in labels.items()}
        _check_settings(self.task, self._fields, control=control, match=match, cells=cells, rules=rules)
        rules = None if rules is None else tuple(rules)
        self._settings = {
            "fixed": self._fixed,
            "system": system,
            # infinity is no number of JSON
            "bins": {slot: {one: str(bound) for one, bound in some.items()} for slot, some in (bins or {}).items()},
            "control": control,
            "match": list(match),
            "cells": cells,
            "rules": None if rules is None else [rule.id for rule in rules],
        }
        self._facts = None
        if self.task.facts is not None:
            ground = Ground(
                corpus=corpus,
                words=self.words,
                fields=self._fields,
                names=self._names,
                labels=labels,
                control=control,
                match=[_match_field(corpus, column) for column in match],
                cells=cells,
                rules=rules,
            )
            self._facts = FACTS[self.task.facts](ground)

    @property
    def record(self) -> dict[str, Any]:
        """What rows depend on besides the cells, by name; for JSON."""
        wordings = json.dumps([dataclasses.astuple(one) for one in self.templates])
        return {
            "task": self.task.task,
            "templates": len(self.templates),
            "wordings": hashlib.sha256(wordings.encode()).hexdigest()[:16],
            "columns": {slot: field.removeprefix("labels_") for slot, field in self._fields.items()},
            "seed": self.corpus.seed,
            **self._settings,
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
        return list(dict.fromkeys(self._names[slot]))

    def rows(self, batch: Mapping[str, np.ndarray], epoch: int = 0) -> list[Row]:
        """A conversation per cell of a batch of the corpus, of those that can be asked about.

        Args:
            batch: its arrays.
            epoch: number of the epoch, which varies the wording and the other cells.
        """
        sentences = self.words.sentences(batch)
        keys = cell_keys(batch["cell_ids"], self.corpus.seed, epoch)
        draws = uniforms_for(keys, Stream.QUESTION, 1)[:, 0]
        chosen = (draws * len(self.templates)).astype(np.int64)
        numbers = {slot: np.asarray(batch[field]) for slot, field in self._fields.items()}
        facts = (
            [{}] * len(sentences) if self._facts is None else self._facts.slots(Asked(batch, sentences, keys, epoch))
        )
        return [
            self._row(
                sentence,
                int(batch["cell_ids"][cell]),
                int(chosen[cell]),
                {slot: self._names[slot][values[cell]] for slot, values in numbers.items()},
                facts[cell],
            )
            for cell, sentence in enumerate(sentences)
            if facts[cell] is not None
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

    def _row(self, sentence: str, cell_id: int, template: int, values: dict[str, str], facts: Slots) -> Row:
        slots = self._slots(sentence) | values | facts
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
        return {**self._fixed, "sentence": sentence, "n_genes": sentence.count(" ") + 1}


def _fields(
    task: Wordings, columns: Mapping[str, str], fixed: Mapping[str, str], bins: Mapping[str, Bins]
) -> dict[str, str]:
    """Slot -> field of the corpus, of the slots that columns fill."""
    slots = [slot for slot in task.columns if slot not in fixed]
    if task.facts == "description":
        slots += [slot for slot in columns if slot not in slots]
    for setting, given in (("columns", columns), ("bins", bins)):
        if unknown := sorted(set(given) - set(slots)):
            raise ConfigurationError(f"`{setting}` names {unknown}: the task `{task.task}` has the slots {slots}.")
    left = [slot for slot in slots if slot not in columns]
    if len(left) > 1:
        raise ConfigurationError(
            f"The slots {left} of the task `{task.task}` would all be filled by the label: name their columns with "
            "`columns` (`--column SLOT=COLUMN`), or give their text with `fixed` (`--fixed SLOT=TEXT`)."
        )
    return {slot: f"labels_{columns[slot]}" if slot in columns else "labels" for slot in slots}


def _check_settings(task: Wordings, fields: Mapping[str, str], **given: Any) -> None:
    """Refuse settings that the task has no use for, and facts that there are not or that lack their column."""
    if task.facts is not None and task.facts not in FACTS:
        raise unknown_name(str(task.facts), list(FACTS), f" as `facts` of the task `{task.task}`")
    taken = FACTS[task.facts].settings if task.facts else ()
    if task.facts and FACTS[task.facts].slot not in fields:
        slot = FACTS[task.facts].slot
        raise ConfigurationError(
            f"The task `{task.task}` tells cells apart by `{slot}`, which cannot be the same for all: name its column "
            f"with `columns` (`--column {slot}=COLUMN`)."
        )
    if unused := [name for name, value in given.items() if value not in (None, (), []) and name not in taken]:
        raise ConfigurationError(f"`{unused[0]}` (`--{unused[0]}`) is not for the task `{task.task}`: leave it out.")


def _match_field(corpus: Contents, column: str) -> str:
    """The field of a column whose values cells of a question share."""
    field = f"labels_{column}"
    if field not in corpus.numbered:
        raise ConfigurationError(
            f"`match` names `obs[{column!r}]`: open the corpus with it among `task_columns`; it has "
            f"{sorted(corpus.task_names)}."
        )
    return field


def _names_of(corpus: Contents, slot: str, field: str) -> Sequence[str]:
    """The values that fill a slot, in the order of their numbers."""
    names = {"labels": corpus.label_names, "batch_labels": corpus.batch_names}
    names |= {f"labels_{column}": values for column, values in corpus.task_names.items()}
    if field not in corpus.numbered:
        raise ConfigurationError(
            f"The task needs a column of `obs` for `{slot}`: open the corpus with `label_column`, or with "
            f"`task_columns` and pass `columns={{{slot!r}: …}}` (`--column {slot}=COLUMN`); where it is the same for "
            f"all cells, `fixed={{{slot!r}: …}}` (`--fixed {slot}=TEXT`)."
        )
    return names[field]


def batches_of(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Rows, `size` at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
