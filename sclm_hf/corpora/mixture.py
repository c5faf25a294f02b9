"""Several corpora as one, each with its share of the cells."""

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigurationError
from ..tokenization.encodings.keys import cell_keys
from .cell_corpus import CellCorpus, CellStream
from .contents import Contents
from .order.plan import BlockSequence, block_ids

if TYPE_CHECKING:
    from ..tokenization.genes.gene_vocabulary import GeneCoverage

_SAME = ("processor", "seed", "block_size", "window_size", "group_size", "shuffle", "group_by_length", "augment")


def mix(corpora: Sequence[CellCorpus], weights: Sequence[float] | None = None) -> "MixedCorpus":
    """Stream several corpora as one, in shares that weights decide; see [`MixedCorpus`].

    Example:

        >>> cells = [CellCorpus("blood/", processor), CellCorpus("brain/", processor)]  # doctest: +SKIP
        >>> corpus = mix(cells, weights=[1, 3])  # doctest: +SKIP
        >>> for batch in corpus.loader(64):  # doctest: +SKIP
        ...     print(batch["input_ids"].shape)
    """
    return MixedCorpus(corpora, weights)


class MixedContents(Contents):
    """Cells of several corpora; arguments, attributes and errors are those of [`MixedCorpus`]."""

    def __init__(self, corpora: Sequence[CellCorpus], weights: Sequence[float] | None = None) -> None:
        self.corpora = list(corpora)
        _check_alike(self.corpora)
        first = self.corpora[0]
        for name in (*_SAME, "label_names", "batch_names", "task_names", "ontology"):
            setattr(self, name, getattr(first, name))
        self.shares = _shares([len(corpus) for corpus in self.corpora], weights)
        self._homes = [(corpus, index) for corpus in self.corpora for index in range(len(corpus.sources))]
        self.sources = [corpus.sources[index] for corpus, index in self._homes]
        self.sizes = [corpus.sizes[index] for corpus, index in self._homes]
        self.dropped = {name: counts for corpus in self.corpora for name, counts in corpus.dropped.items()}
        self.numbered = {
            field: [codes for corpus in self.corpora for codes in corpus.numbered[field]] for field in first.numbered
        }
        if self.ontology is not None:
            self._number_labels_alike()

    def __len__(self) -> int:
        """Number of cells of an epoch."""
        return sum(self.shares)

    @property
    def coverage(self) -> "dict[str, GeneCoverage]":
        """Source name -> what became of its genes; as for `CellCorpus`."""
        return {name: coverage for corpus in self.corpora for name, coverage in corpus.coverage.items()}

    def plan(self, window_size: int, epoch: int) -> BlockSequence:
        parts, ids, first_source = [], [], 0
        for corpus, share in zip(self.corpora, self.shares, strict=True):
            epochs_a_pass = len(corpus) // share
            begin = epoch % epochs_a_pass * share
            sources, starts, stops = corpus.plan(window_size, epoch // epochs_a_pass).blocks(begin, begin + share)
            ids.append(np.empty(len(sources), np.uint64))
            for source in np.unique(sources):
                place = sources == source
                ids[-1][place] = block_ids(corpus.sources[source].name, starts[place])
            parts.append((sources + first_source, starts, stops))
            first_source += len(corpus.sources)
        sources, starts, stops = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        order = np.argsort(cell_keys(np.concatenate(ids), self.seed, epoch), kind="stable")
        return BlockSequence(sources[order], starts[order], stops[order], window_size)

    def _number_labels_alike(self) -> None:
        """Number the labels over all corpora: with an ontology, each may have names of its own."""
        names = sorted({name for corpus in self.corpora for name in corpus.label_names})
        self.label_names, numbers = names, {name: number for number, name in enumerate(names)}
        dtype = np.min_scalar_type(-len(names) - 1)
        self.numbered["labels"] = [
            np.array([numbers[name] for name in corpus.label_names], dtype)[codes]
            for corpus in self.corpora
            for codes in corpus.numbered["labels"]
        ]

    @property
    def cells_id(self) -> str:
        return repr(([corpus.cells_id for corpus in self.corpora], self.shares))

    def opened(self, index: int):
        corpus, index = self._homes[index]
        return corpus.opened(index)

    def gene_ids(self, index: int) -> np.ndarray:
        corpus, index = self._homes[index]
        return corpus.gene_ids(index)

    def rows_at(self, index: int, positions: np.ndarray) -> np.ndarray:
        corpus, index = self._homes[index]
        return corpus.rows_at(index, positions)


class MixedCorpus(MixedContents, CellStream):
    """Corpora whose blocks are shuffled together, each corpus with its share of the cells of an epoch.

    An epoch is as long as it can be without a cell coming twice: the corpus that is the first to be used up is handed
    out whole. The others go on in the next epoch where this one left them, and are shuffled anew when what is left of
    them is less than their share. An epoch is a pure function of its number and is resumed like that of any corpus.

    Args:
        corpora: what to mix; all with the same processor, seed, sizes and names of labels (with an ontology, that one
            instead of the names), and shuffled.
        weights: positive numbers, the share of each corpus up to a factor; by default their numbers of cells, which
            makes every cell come once per epoch.

    Attributes:
        corpora: as given.
        shares: cells of each corpus in an epoch.
        label_names, batch_names, task_names, ontology, leaf_names, label_sets, sources, dropped: as for `CellCorpus`.

    Raises:
        ConfigurationError: there is nothing to mix, corpora differ in what must be the same, share the name of a
            source or are not shuffled, or a weight is not positive or so small that it gives a corpus no cell.
    """


def _check_alike(corpora: list[CellCorpus]) -> None:
    if not corpora:
        raise ConfigurationError("There is no corpus to mix.")
    if any(corpus.balance for corpus in corpora):
        raise ConfigurationError(
            "Corpora with `balance_labels` cannot be mixed: it decides the share of each source. Open one "
            "`CellCorpus` on the files of all of them, without weights (`--train_weights`)."
        )
    if any(corpus.samples for corpus in corpora):
        raise ConfigurationError(
            "Corpora of whole samples cannot be mixed: open one `CellCorpus` on the files of all of them."
        )
    for number, corpus in enumerate(corpora):
        if not corpus.shuffle or isinstance(corpus, MixedCorpus):
            kind = "a mixture" if isinstance(corpus, MixedCorpus) else "not shuffled"
            raise ConfigurationError(f"Corpus {number} is {kind}: only shuffled corpora of files can be mixed.")
        for name in (
            *_SAME,
            *([] if corpora[0].ontology else ["label_names"]),
            "batch_names",
            "task_names",
            "ontology",
        ):
            mine, theirs = getattr(corpora[0], name), getattr(corpus, name)
            if mine is not theirs and (name == "processor" or mine != theirs):
                raise ConfigurationError(
                    f"Corpora that are mixed must have the same `{name}`: corpus 0 has {mine!r:.200}, corpus {number} "
                    f"{theirs!r:.200}. Open them with the same `{name}`."
                )
    names = [source.name for corpus in corpora for source in corpus.sources]
    doubled = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if doubled:
        raise ConfigurationError(
            f"The corpora share the source names {doubled[:5]}, by which cells are put in order: open one with "
            "a mapping name -> path."
        )


def _shares(sizes: list[int], weights: Sequence[float] | None) -> list[int]:
    """Cells of each corpus in an epoch: by weight, rounded down; the first to be used up is handed out whole."""
    weights = sizes if weights is None else list(weights)
    if len(weights) != len(sizes) or not all(weight > 0 and np.isfinite(weight) for weight in weights):
        raise ConfigurationError(f"Expected {len(sizes)} positive `weights`, one per corpus, got {weights}.")
    exact = [Fraction(weight) for weight in weights]
    most = min(size / weight for size, weight in zip(sizes, exact, strict=True))
    shares = [int(weight * most) for weight in exact]
    if not all(shares):
        raise ConfigurationError(
            f"The weights {weights} leave corpus {shares.index(0)} no cell in an epoch of {sum(shares)}: give it more."
        )
    return shares
