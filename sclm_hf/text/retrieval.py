"""Evidence for questions about cells: labelled neighbours, marker sets and definitions, each with an id to cite.

Neighbours are found by the cosine of any cell embedding, exactly; cells of the query's own donor or data set are left
out, or the answer would be looked up instead of inferred. Marker sets score by what they share with the genes of the
query: the sum of the genes' idf over cell types, those that speak against the type subtracted, over the root of the
size of the set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse

from ..cell_index import CellIndex, directions, read_cells, read_facts, read_table, write_table
from ..corpora.labels.cell_ontology import Definition
from ..corpora.labels.ontology import simplified
from ..errors import CheckpointError, ConfigurationError
from ..files import new_folder
from ..tokenization.expression_matrix import match_length
from .neutral import neutralise
from .parsing import cited_ids
from .rules import MarkerSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FORMAT = "sclm_hf evidence 1"


class Document(NamedTuple):
    """A piece of evidence.

    Attributes:
        id: what a text cites it by: C and a number for a cell, M for a marker set, D for a definition. The same piece
            has the same id in every search of the same index.
        label: the cell type that it is about.
        text: what it says.
        score: cosine of a cell, score of a marker set, 0 for a definition.
    """

    id: str
    label: str
    text: str
    score: float

    def to_dict(self, tokenizer: "PreTrainedTokenizerBase | None" = None) -> dict[str, str]:
        """The document as chat templates take it, with nothing in it that could act as a marker."""
        return {
            "id": self.id,
            "title": neutralise(f"[{self.id}] {self.label}", tokenizer),
            "text": neutralise(self.text, tokenizer),
        }


class Citations(NamedTuple):
    """What a text cites.

    Attributes:
        known: ids of documents that it was given.
        unknown: ids of none of these: made up.
        supporting: those of `known` that are about the label answered.
    """

    known: tuple[str, ...]
    unknown: tuple[str, ...]
    supporting: tuple[str, ...]


@dataclass
class Index(CellIndex):
    """Evidence that can be searched; see [`Index.build`]."""

    genes: np.ndarray = field(kw_only=True)
    markers: tuple[MarkerSet, ...] = ()
    definitions: tuple[Definition, ...] = ()
    _by_name: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        numbered = list(enumerate(self.definitions))
        self._by_name = {simplified(name): number for number, one in reversed(numbered) for name in one.names}
        # what one type is called comes before what is a synonym of another
        self._by_name |= {simplified(one.label): number for number, one in numbered}
        self._weights, self._gene_of = _weights(self.markers)

    @classmethod
    def build(
        cls,
        embeddings: np.ndarray,
        labels: Sequence[str],
        *,
        cells: Sequence[str] | None = None,
        sentences: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        markers: Sequence[MarkerSet] = (),
        definitions: Sequence[Definition] = (),
        n_genes: int = 10,
        backend: str = "exact",
    ) -> "Index":
        """Index labelled cells, marker sets and definitions; each may be empty.

        Args:
            embeddings: (cells, size) any embedding of the cells, for example `obsm["X_scgpt"]` of
                [`sclm_hf.embed`]; only directions count.
            labels: (cells,) cell types.
            cells: (cells,) their names; numbers unless given.
            sentences: (cells,) from [`~sentences.cell_sentences`]: their first genes are shown with the neighbours.
            groups: (cells,) the donor or data set of each cell, which queries of the same one do not see.
            markers: see [`~rules.marker_sets`].
            definitions: see [`~sclm_hf.corpora.labels.cell_ontology.definitions`].
            n_genes: how many genes of a cell are shown.
            backend: `"exact"` compares with every cell in numpy; `"faiss"` does the same in faiss, which is faster;
                `"approximate"` is faster still, and may miss some.

        Raises:
            ConfigurationError: an embedding is zero, not finite or not a vector, or there is no such `backend`.
            ExpressionError: lengths do not match.
        """
        embeddings = np.asarray(embeddings, np.float32)
        n_cells = len(labels)
        for what, given in (
            ("embeddings", embeddings),
            ("cells", cells),
            ("sentences", sentences),
            ("groups", groups),
        ):
            match_length(what, range(n_cells) if given is None else given, n_cells, "label")
        shown = [""] * n_cells if sentences is None else [" ".join(one.split()[:n_genes]) for one in sentences]
        return cls(
            directions(embeddings),
            np.array([str(one) for one in labels], object),
            np.array([str(one) for one in (range(n_cells) if cells is None else cells)], object),
            None if groups is None else np.array([str(one) for one in groups], object),
            backend,
            tuple(markers),
            tuple(definitions),
            genes=np.array(shown, object),
        )

    def search(
        self,
        embeddings: np.ndarray | None = None,
        sentences: Sequence[str] | None = None,
        *,
        groups: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        k: int = 5,
        n_markers: int = 3,
        n_definitions: int = 3,
    ) -> list[list[Document]]:
        """Evidence for each query cell, the best of each kind first.

        Args:
            embeddings: (queries, size) in the space of the index, for neighbours.
            sentences: (queries,) cell sentences, for marker sets; all of their genes count, whatever their case.
            groups: (queries,) donors or data sets, needed where the index has some.
            names: (queries,) names of the queries, for an index that may hold them: none is its own neighbour.
            k: how many neighbours.
            n_markers: at most how many marker sets; those that score 0 or less are left out.
            n_definitions: at most how many definitions, of the labels of the neighbours and marker sets.

        Returns:
            One list of documents per query.

        Raises:
            ConfigurationError: there is nothing to search with, `groups` is missing, embeddings have another size, or
                a number is negative.
            ExpressionError: lengths do not match.
        """
        if embeddings is None and sentences is None:
            raise ConfigurationError("Give `embeddings`, `sentences` or both to search with.")
        if min(k, n_markers, n_definitions) < 0:
            raise ConfigurationError(f"Numbers of documents must be 0 or more, got {k}, {n_markers}, {n_definitions}.")
        n = len(sentences if embeddings is None else embeddings)
        match_length("sentences", range(n) if sentences is None else sentences, n, "query")
        cells = [[] for _ in range(n)] if embeddings is None else self._neighbours(embeddings, groups, names, k)
        sets = [[] for _ in range(n)] if sentences is None else self._marker_sets(sentences, n_markers)
        return [
            [*found, *others, *self._defined([*found, *others], n_definitions)]
            for found, others in zip(cells, sets, strict=True)
        ]

    def _neighbours(
        self, embeddings: np.ndarray, groups: Sequence[str] | None, names: Sequence[str] | None, k: int
    ) -> list[list[Document]]:
        if self.groups is not None and groups is None:
            raise ConfigurationError(
                "The index knows the donor or data set of each cell: give `groups`, those of the queries, so that "
                "none finds its own."
            )
        own = [None] * len(embeddings) if names is None else [str(one) for one in names]
        match_length("names", own, len(embeddings), "query")
        rows, scores = self.nearest(embeddings, k + (names is not None), None if self.groups is None else groups)
        return [
            [
                self._cell(row, score)
                for row, score in zip(*found, strict=True)
                if np.isfinite(score) and self.cells[row] != name
            ][:k]
            for *found, name in zip(rows, scores, own, strict=True)
        ]

    def _cell(self, row: int, score: float) -> Document:
        shown = f" Highest genes: {self.genes[row]}." if self.genes[row] else ""
        text = f"A cell labelled {self.labels[row]} is similar to this one (cosine {score:.2f}).{shown}"
        return Document(f"C{row}", self.labels[row], text, float(score))

    def _marker_sets(self, sentences: Sequence[str], n: int) -> list[list[Document]]:
        words = [set(text.upper().split()) for text in sentences]
        genes = [sorted(self._gene_of[one] for one in found & self._gene_of.keys()) for found in words]
        indptr, ids = np.cumsum([0, *map(len, genes)]), np.array([one for found in genes for one in found], np.int64)
        has = scipy.sparse.csr_matrix((np.ones(len(ids)), ids, indptr), shape=(len(genes), len(self._gene_of)))
        scores = (has @ self._weights).toarray()
        best = np.argsort(-scores, axis=1, kind="stable")[:, :n]
        return [
            [self._marker_set(one, found, row[one]) for one in chosen if row[one] > 0]
            for found, chosen, row in zip(words, best, scores, strict=True)
        ]

    def _marker_set(self, number: int, genes: set[str], score: float) -> Document:
        markers = self.markers[number]
        found = [gene for gene in markers.positive if gene.upper() in genes]
        against = [gene for gene in markers.negative if gene.upper() in genes]
        text = f"{len(found)} of {len(markers.positive)} markers of {markers.label} are expressed: {', '.join(found)}."
        if against:
            text += f" Against it: {', '.join(against)}."
        return Document(f"M{number}", markers.label, f"{text} {markers.source}".strip(), float(score))

    def _defined(self, documents: Sequence[Document], n: int) -> list[Document]:
        names = dict.fromkeys(simplified(one.label) for one in documents)
        numbers = dict.fromkeys(self._by_name[name] for name in names if name in self._by_name)
        chosen = ((number, self.definitions[number]) for number in list(numbers)[:n])
        return [Document(f"D{number}", one.label, f"{one.id}: {one.text}", 0.0) for number, one in chosen]

    def save(self, folder: str | Path) -> None:
        """Write the index: embeddings, and the lists of `"approximate"`, as safetensors, all else as Parquet.

        Raises:
            ConfigurationError: the folder is there already.
            MissingDependencyError: `pyarrow` is not installed.
        """
        with new_folder(Path(folder)) as unfinished:
            unfinished.mkdir()
            self.write(unfinished, {"format": _FORMAT}, genes=self.genes)
            markers = _columns(self.markers, ("label", "positive", "negative", "source"))
            write_table(unfinished / "markers.parquet", **markers)
            definitions = _columns(self.definitions, ("id", "label", "text", "synonyms"))
            write_table(unfinished / "definitions.parquet", **definitions)

    @classmethod
    def load(cls, folder: str | Path, *, backend: str = "exact") -> "Index":
        """Open an index that [`save`](Index.save) wrote.

        Raises:
            CheckpointError: the folder holds no such index, or files that do not fit one another.
            MissingDependencyError: `pyarrow` is not installed.
        """
        folder = Path(folder)
        read_facts(folder, _FORMAT)
        embeddings, columns = read_cells(folder)
        markers, definitions = (read_table(folder / f"{name}.parquet") for name in ("markers", "definitions"))
        try:
            sets = tuple(MarkerSet(a, tuple(b), tuple(c), d) for a, b, c, d in zip(*markers.values(), strict=True))
            defined = tuple(Definition(a, b, c, tuple(d)) for a, b, c, d in zip(*definitions.values(), strict=True))
            labels, names, genes = columns["label"], columns["cell"], columns["genes"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"The index `{folder}` cannot be read: {error}.") from error
        return cls(embeddings, labels, names, columns.get("group"), backend, sets, defined, genes=genes, folder=folder)


def evidence_prompt(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, Any]], documents: Sequence[Document]
) -> str:
    """The text of a prompt with its evidence, ready for the answer.

    Evidence goes through the chat template where that reads `documents`, else before the first question, see
    [`with_evidence`].

    Raises:
        ConfigurationError: the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise ConfigurationError("The tokenizer has no `chat_template`: put evidence in with `with_evidence`.")
    messages, through_template = list(messages), None
    if "documents" in str(tokenizer.chat_template):
        through_template = [one.to_dict(tokenizer) for one in documents]
    else:
        messages = with_evidence(messages, documents, tokenizer)
    return tokenizer.apply_chat_template(
        messages, documents=through_template, tokenize=False, add_generation_prompt=True
    )


def with_evidence(
    messages: Sequence[Mapping[str, Any]],
    documents: Sequence[Document],
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> list[dict[str, Any]]:
    """The messages with the evidence before the first question, one document per line."""
    lines = [f"{one['title']}: {one['text']}" for one in (document.to_dict(tokenizer) for document in documents)]
    asked = next((place for place, message in enumerate(messages) if message["role"] == "user"), None)
    if asked is None or not lines:
        return [dict(message) for message in messages]
    evidence = "\n".join(["Evidence, to be cited by its id in brackets:", *lines, "", messages[asked]["content"]])
    return [
        {**message, "content": evidence} if place == asked else dict(message) for place, message in enumerate(messages)
    ]


def check_citations(text: str, documents: Sequence[Document], label: str | None = None) -> Citations:
    """Which of the documents a text cites, and what it cites that was not among them.

    Args:
        text: what was written.
        documents: the evidence that it was given.
        label: the label that it answers.
    """
    label_of = {one.id: simplified(one.label) for one in documents}
    cited = cited_ids(text)
    known = tuple(one for one in cited if one in label_of)
    supporting = tuple(one for one in known if label is not None and label_of[one] == simplified(label))
    return Citations(known, tuple(one for one in cited if one not in label_of), supporting)


def _weights(markers: Sequence[MarkerSet]) -> tuple[scipy.sparse.csr_matrix, dict[str, int]]:
    """(genes, sets) what a gene adds to the score of each set, and the number of each gene."""
    number_of: dict[str, int] = {}
    entries = [
        (
            number_of.setdefault(gene.upper(), len(number_of)),
            column,
            sign / np.sqrt(len({*one.positive, *one.negative})),
        )
        for column, one in enumerate(markers)
        for sign, genes in ((1.0, one.positive), (-1.0, one.negative))
        for gene in dict.fromkeys(genes)
    ]
    rows, columns, values = (
        (np.array(one) for one in zip(*entries, strict=True)) if entries else (np.empty(0, int),) * 3
    )
    table = scipy.sparse.csr_matrix((values, (rows, columns)), shape=(len(number_of), len(markers)))
    idf = np.log(len(markers) / np.maximum(np.diff(table.indptr), 1)) + 1
    return scipy.sparse.csr_matrix(table.multiply(idf[:, None])), number_of


def _columns(records: Sequence[Any], names: Sequence[str]) -> dict[str, list[Any]]:
    values = {name: [getattr(one, name) for one in records] for name in names}
    return {name: [list(one) if isinstance(one, tuple) else one for one in given] for name, given in values.items()}
