"""A conversation about chosen cells with a language model that reads them, with evidence that it may cite."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ConfigurationError
from ..sources.categories import labelled_column
from ..sources.in_memory import InMemorySource
from .chat_models import open_chat_model
from .neutral import neutralise
from .parsing import closest_label, read_answer
from .retrieval import Citations, Document, Index, check_citations
from .sentences import cell_sentences
from .typical_cells import typical_cells

if TYPE_CHECKING:
    import torch
    from anndata import AnnData


class ShownCell(NamedTuple):
    """A cell that is asked about.

    Attributes:
        row: its row in the AnnData.
        name: its name in `obs_names`.
        group: the group that it stands for; None where cells were chosen themselves.
    """

    row: int
    name: str
    group: str | None


class Answer(NamedTuple):
    """What a model answered.

    Attributes:
        question: what was asked.
        text: what it wrote.
        label: the label that this is, of those that the model was trained to give; None where it is none of them.
        cells: the cells asked about, in the order of their numbers in the prompt, from 1.
        documents: the evidence that the prompt held.
        citations: which of the evidence it cites, and what it cites that it was not given.
        n_forgotten: how many of the oldest questions no longer fit in the prompt.
    """

    question: str
    text: str
    label: str | None
    cells: tuple[ShownCell, ...]
    documents: tuple[Document, ...]
    citations: Citations
    n_forgotten: int


@dataclass(frozen=True)
class _Turn:
    question: str
    cells: tuple[ShownCell, ...]
    documents: tuple[Document, ...]
    answer: str = ""


class Chat:
    """Questions about cells of an AnnData, each of which the model reads with those before it and their answers.

    A prompt shows the cells that a question is about once, until others are asked about. A group is shown by its most
    typical cells: those closest to its mean by the cosine of log-normalised counts. Names of groups and genes,
    evidence and questions are written so that nothing in them acts as a marker of the chat template.

    Args:
        cells: cells with raw counts.
        model: folder or repository of a language model, see `open_chat_model`.
        index: evidence, or the folder of an [`Index`]; marker sets are found by the genes of the cells, neighbours by
            `embedding_key`.
        by: column of `obs`: ask about its groups instead of single cells.
        n_typical: how many cells stand for a group.
        embedding_key: embedding in `obsm` that the index was built with.
        group_key: column of `obs` with the donor or data set of each cell, for an index that knows them.
        k: how many neighbours of a cell are evidence; 0 for none.
        organism: what prompts call the species.
        layer, species: as for `annotate`.
        n_genes: genes of a cell's sentence; by default as many as the model was trained with.
        max_new_tokens: most tokens of an answer; so many are kept free in the context of the model.
        temperature: 0 = the most likely token each time; above, tokens are drawn.
        seed: seed of what is drawn.
        device, dtype, revision: as for `annotate`.

    Raises:
        CheckpointError: the model or the index cannot be read.
        ConfigurationError: settings do not fit together.
        CorpusError: `obs` has no such column.
        ExpressionError: the data are not what the model's encoding expects.

    Example:
        >>> chat = Chat(cells, "my_text_annotator", by="leiden")  # doctest: +SKIP
        >>> chat.ask("Which cell type is it?", cells=["3"]).text  # doctest: +SKIP
    """

    def __init__(
        self,
        cells: "AnnData",
        model: Any,
        index: "Index | str | Path | None" = None,
        *,
        by: str | None = None,
        n_typical: int = 1,
        embedding_key: str | None = None,
        group_key: str | None = None,
        k: int = 5,
        organism: str = "human",
        layer: str | None = None,
        species: str | None = None,
        n_genes: int | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        seed: int = 0,
        device: "str | torch.device | None" = None,
        dtype: "str | torch.dtype | None" = None,
        revision: str | None = None,
    ) -> None:
        _check_numbers(n_typical, k, max_new_tokens, temperature)
        self._adata, self._names = cells, list(map(str, cells.obs_names))
        source = InMemorySource(cells, layer)
        self._groups = None if by is None else source.column(by)
        self._by, self._n_typical, self._seed = by, n_typical, seed
        self._index = Index.load(index) if isinstance(index, str | Path) else index
        self._embedding_key, self._group_key, self._k = embedding_key, group_key, k
        self._check_evidence()
        genes = source.genes()[0]
        self._model = open_chat_model(
            model, genes, species=species, n_genes=n_genes, device=device, dtype=dtype, revision=revision
        )
        self._source = InMemorySource(cells, layer, expects=self._model.cells.feature_extractor.expects)
        self._organism = neutralise(organism, self._model.tokenizer)
        self._max_new_tokens, self._temperature = max_new_tokens, temperature
        self._turns: list[_Turn] = []
        self._n_asked = 0

    def ask(self, question: str, cells: Sequence[str] | None = None) -> Answer:
        """Ask a question.

        Args:
            question: the question.
            cells: names of the cells that it is about, or of the groups; by default those of the question before, and
                at the beginning all groups.

        Raises:
            ConfigurationError: the question is empty; there are no such cells; or the question, with the cells and
                their evidence, is longer than the model reads. Nothing has been generated then, and the conversation
                is what it was.
            ExpressionError: a cell expresses no gene that the model knows.
            GeneCoverageError: the model knows too few of the genes.
        """
        asked = neutralise(question, self._model.tokenizer) if isinstance(question, str) else ""
        if not asked:
            raise ConfigurationError("The question is empty.")
        chosen = self._chosen(cells)
        is_new = not self._turns or self._turns[-1].cells != chosen
        turn = _Turn(asked, chosen, self._evidence(chosen) if is_new else self._turns[-1].documents)
        turns, ids = self._fitted([*self._turns, turn])
        shown = [one.row for block in _shown(turns) if block for one in block]
        text = self._model.generate(
            ids,
            self._model.inputs(self._source, np.array(shown), self._seed),
            n_tokens=self._max_new_tokens,
            temperature=self._temperature,
            seed=self._seed + self._n_asked,
        )
        n_forgotten = len(self._turns) + 1 - len(turns)
        self._turns = [*turns[:-1], _Turn(asked, chosen, turn.documents, neutralise(text, self._model.tokenizer))]
        self._n_asked += 1
        label = closest_label(read_answer(text), self._model.labels)
        citations = check_citations(text, turn.documents, label)
        return Answer(question, text, label, chosen, turn.documents, citations, n_forgotten)

    def _chosen(self, names: Sequence[str] | None) -> tuple[ShownCell, ...]:
        """The cells that are asked about."""
        if names is None and self._turns:
            return self._turns[-1].cells
        if not self._names or (self._groups is not None and not self._groups.categories):
            column = "" if self._by is None else f" with a value in `obs[{self._by!r}]`"
            raise ConfigurationError(f"There are no cells{column} to ask about.")
        if self._groups is not None:
            asked = _different(self._groups.categories if names is None else names, "group")
            return tuple(cell for name in asked for cell in self._of_group(name))
        if names is None and len(self._names) > 1:
            raise ConfigurationError(
                f"Say which of the {len(self._names):,} cells the question is about: their names in `obs_names` as "
                "`cells` (`--cells`), or groups of them with `by` (`--by`)."
            )
        asked = _different(self._names if names is None else names, "cell")
        return tuple(ShownCell(self._row(name), name, None) for name in asked)

    def _row(self, name: str) -> int:
        n_found = self._names.count(name)
        if n_found != 1:
            told = "is called" if n_found == 0 else "alone is called"
            raise ConfigurationError(f"No cell {told} {name!r} in `obs_names`, which begin {self._names[:3]}.")
        return self._names.index(name)

    def _of_group(self, name: str) -> list[ShownCell]:
        """The most typical cells of a group."""
        if name not in self._groups.categories:
            there = ", ".join(self._groups.categories[:20])
            raise ConfigurationError(f"`obs[{self._by!r}]` holds no {name!r}; there are {there}.")
        rows = np.flatnonzero(self._groups.codes == self._groups.categories.index(name))
        return [
            ShownCell(int(row), self._names[row], name) for row in typical_cells(self._source, rows, self._n_typical)
        ]

    def _fitted(self, turns: list[_Turn]) -> tuple[list[_Turn], list[int]]:
        """The newest turns that leave room for an answer, and the tokens of their prompt."""
        context = self._model.context_size
        for first in range(len(turns)):
            ids = self._model.prompt_ids(self._messages(turns[first:]), turns[-1].documents)
            if context is None or len(ids) + self._max_new_tokens <= context:
                return turns[first:], ids
        raise ConfigurationError(
            f"The question, its cells and their evidence are {len(ids):,} tokens; the model reads {context:,}, of "
            f"which {self._max_new_tokens:,} are for the answer. Ask about fewer cells (`cells`, `--cells`), or give "
            "less evidence (`k`, `--neighbours`), genes (`n_genes`, `--n-genes`) or room for the answer "
            "(`max_new_tokens`, `--max-new-tokens`)."
        )

    def _messages(self, turns: Sequence[_Turn]) -> list[dict[str, str]]:
        messages = []
        for turn, cells in zip(turns, _shown(turns), strict=True):
            messages.append({"role": "user", "content": f"{self._introduced(cells)}{turn.question}"})
            messages.append({"role": "assistant", "content": turn.answer})
        return messages[:-1]

    def _introduced(self, cells: Sequence[ShownCell]) -> str:
        if not cells:
            return ""
        shown = self._model.shown(self._source, np.array([one.row for one in cells]), self._seed)
        return self._model.introduced(shown, [self._called(n, one) for n, one in enumerate(cells, 1)], self._organism)

    def _called(self, number: int, cell: ShownCell) -> str:
        if cell.group is None:
            return f"Cell {number}"
        return f"Cell {number}, of {neutralise(f'{self._by} {cell.group}', self._model.tokenizer)}"

    def _check_evidence(self) -> None:
        """Refuse what evidence cannot be found with."""
        index = self._index
        if index is None:
            if self._embedding_key or self._group_key:
                raise ConfigurationError("`embedding_key` and `group_key` are for evidence: give `index` (`--index`).")
            return
        if not len(index.cells) and not index.markers:
            raise ConfigurationError("The index holds neither cells nor marker sets, so nothing is found in it.")
        if not self._has_neighbours:
            return
        if self._embedding_key not in self._adata.obsm:
            raise ConfigurationError(
                f"The index finds neighbours by an embedding: name it with `embedding_key` (`--embedding-key`), one "
                f"of {sorted(self._adata.obsm)} in `obsm`; or leave neighbours out with `k=0` (`--neighbours 0`)."
            )
        if index.groups is not None and self._group_key is None:
            raise ConfigurationError(
                "The index knows the donor or data set of each cell: name the column of `obs` with those of your "
                "cells with `group_key` (`--group-key`), so that none finds its own."
            )

    @property
    def _has_neighbours(self) -> bool:
        return self._k > 0 and len(self._index.cells) > 0

    def _evidence(self, cells: Sequence[ShownCell]) -> tuple[Document, ...]:
        """What the index says of the cells, each piece once."""
        if self._index is None:
            return ()
        rows = np.array([one.row for one in cells])
        different, places = np.unique(rows, return_inverse=True)
        counts, sentences = self._source.read(different)[places], None
        if self._index.markers:
            sentences = cell_sentences(counts, self._source.genes()[0], case="keep")
        near = self._has_neighbours
        if not near and sentences is None:
            return ()
        groups = labelled_column(self._source, self._group_key) if near and self._group_key is not None else None
        found = self._index.search(
            self._adata.obsm[self._embedding_key][rows] if near else None,
            sentences,
            groups=None if groups is None else [groups.categories[code] for code in groups.codes[rows]],
            names=[one.name for one in cells],
            k=self._k,
        )
        told: dict[str, Document] = {}
        for number, documents in enumerate(found, 1):
            for one in documents:
                about = f"For cell {number}: " if len(cells) > 1 and not one.id.startswith("D") else ""
                told.setdefault(one.id, one._replace(text=f"{about}{one.text}"))
        return tuple(told.values())


def _shown(turns: Sequence[_Turn]) -> list[tuple[ShownCell, ...]]:
    """The cells that the message of each turn shows: none where they are those of the turn before."""
    return [
        () if number and turns[number - 1].cells == turn.cells else turn.cells for number, turn in enumerate(turns)
    ]


def _different(names: Sequence[str], kind: str) -> list[str]:
    names = [names] if isinstance(names, str) else list(map(str, names))
    if not names or len(set(names)) < len(names):
        raise ConfigurationError(f"`cells` (`--cells`) must name one {kind} or several different ones, got {names}.")
    return names


def _check_numbers(n_typical: int, k: int, max_new_tokens: int, temperature: float) -> None:
    least = {"n_typical": (n_typical, 1), "k": (k, 0), "max_new_tokens": (max_new_tokens, 1)}
    for name, (value, lowest) in {**least, "temperature": (temperature, 0)}.items():
        if not lowest <= value < float("inf"):
            raise ConfigurationError(f"`{name}` must be at least {lowest}, got {value}.")
