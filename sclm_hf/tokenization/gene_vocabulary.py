"""Gene names become ids: the vocabulary of a model, and the report of what it covers."""

import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, ConfigurationError, GeneCoverageError
from ..logging import warn

SPECIAL_TOKENS = ("<pad>", "<cls>", "<eoc>")


@dataclass(frozen=True)
class GeneCoverage:
    """What became of the gene names of a data set. Every name is in exactly one of the five groups.

    Attributes:
        n_genes: number of columns of the data.
        matched: names found as they are written.
        renamed: pairs (as given, as in the vocabulary).
        ambiguous: names that point to several genes; not used.
        duplicated: names whose gene another column stands for already; not used.
        missing: names of genes that the vocabulary does not have; not used.
        count_share: share of the counts that lies in the columns used; share of columns when no counts were given.
    """

    n_genes: int
    matched: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    ambiguous: tuple[str, ...]
    duplicated: tuple[str, ...]
    missing: tuple[str, ...]
    count_share: float

    def summary(self) -> str:
        """One line for people."""
        used = len(self.matched) + len(self.renamed)
        return (
            f"{used:,} of {self.n_genes:,} genes used ({len(self.renamed):,} under another name), "
            f"{self.count_share:.1%} of counts covered; not used: {len(self.missing):,} missing, "
            f"{len(self.ambiguous):,} ambiguous, {len(self.duplicated):,} duplicated"
        )

    def to_dict(self) -> dict[str, Any]:
        """The numbers, and at most ten examples of each group but the first, ready for JSON."""
        groups = ("matched", "renamed", "ambiguous", "duplicated", "missing")
        numbers = {f"n_{group}": len(getattr(self, group)) for group in groups}
        examples = {group: [_plain(item) for item in getattr(self, group)[:10]] for group in groups[1:]}
        return {"n_genes": self.n_genes, **numbers, "count_share": self.count_share, "examples": examples}

    def check(self, minimum: float = 0.30, warn_below: float = 0.60) -> None:
        """Refuse data that the model hardly knows.

        Args:
            minimum: smallest share of counts that is accepted.
            warn_below: share of counts below which the user is warned.

        Raises:
            GeneCoverageError: less than `minimum` of the counts is covered.
        """
        if self.count_share >= warn_below:
            return
        message = f"Few genes of the data are known to the model: {self.summary()}."
        if self.count_share < minimum:
            raise GeneCoverageError(f"{message} At least {minimum:.0%} of counts must be covered.")
        warn(message)


@dataclass(frozen=True)
class GeneMapping:
    """Columns of a data set in terms of a vocabulary.

    Attributes:
        gene_ids: (n_genes,) int64, the id of each column; -1 = the column is not used.
        coverage: what became of the names.
    """

    gene_ids: np.ndarray
    coverage: GeneCoverage


class GeneVocabulary(Mapping[str, int]):
    """The genes that a model knows, and their ids.

    Args:
        token_to_id: name of a gene (or special token) -> id. Ids may have gaps.
        special_tokens: names that are no genes; only those present count.

    Raises:
        ConfigurationError: the vocabulary is empty, a name is not a string or holds white space, an id is not a whole
            number from 0 on, or two names share an id.
    """

    def __init__(self, token_to_id: Mapping[str, int], special_tokens: Iterable[str] = SPECIAL_TOKENS) -> None:
        self._token_to_id = _checked(token_to_id)
        self.size = max(self._token_to_id.values()) + 1
        self.special_tokens = {
            token: self._token_to_id[token] for token in dict.fromkeys(special_tokens) if token in self._token_to_id
        }

    @classmethod
    def from_genes(cls, genes: Iterable[str], special_tokens: Iterable[str] = SPECIAL_TOKENS) -> "GeneVocabulary":
        """Number the special tokens, then `genes`, in the order given."""
        special_tokens = tuple(special_tokens)
        return cls(dict(zip(special_tokens, range(len(special_tokens)), strict=True)), special_tokens).add_genes(genes)

    @classmethod
    def from_file(cls, path: str | Path, special_tokens: Iterable[str] = SPECIAL_TOKENS) -> "GeneVocabulary":
        """Read a JSON object name -> id, as the authors of scGPT and Geneformer publish theirs.

        Raises:
            CheckpointError: the file is no such object, or names a gene twice.
        """
        try:
            entries = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_unique)
            if not isinstance(entries, dict):
                raise ConfigurationError(f"it holds a {type(entries).__name__}, no object")
            return cls(entries, special_tokens)
        except (ConfigurationError, ValueError) as error:
            raise CheckpointError(f"`{path}` is no vocabulary (a JSON object gene -> id): {error}.") from error

    def save(self, path: str | Path) -> None:
        """Write a JSON object name -> id, sorted by id."""
        entries = dict(sorted(self._token_to_id.items(), key=operator.itemgetter(1)))
        Path(path).write_text(json.dumps(entries, indent=0), encoding="utf-8")

    def add_genes(self, genes: Iterable[str]) -> "GeneVocabulary":
        """A new vocabulary with `genes` at the ids from `size` on; ids that exist stay.

        Raises:
            ConfigurationError: a gene is in the vocabulary already, or twice among `genes`.
        """
        entries = dict(self._token_to_id)
        for index, gene in enumerate(genes, start=self.size):
            if gene in entries:
                raise ConfigurationError(f"The gene `{gene}` is already in the vocabulary: add each gene once.")
            entries[gene] = index
        return GeneVocabulary(entries, self.special_tokens)

    def map_genes(
        self,
        names: Sequence[str],
        *,
        ensembl_ids: Sequence[str] | None = None,
        species: str = "human",
        counts: np.ndarray | None = None,
    ) -> GeneMapping:
        """Find the id of each column of a data set.

        Args:
            names: (n_genes,) gene names, for example `adata.var_names`.
            ensembl_ids: (n_genes,) Ensembl ids where the data have them beside the names.
            species: `"human"`, or `"mouse"` to go through orthologs.
            counts: (n_genes,) total counts of each column; decides among duplicates and weighs the coverage.

        Returns:
            The ids and the coverage report. Nothing is checked against a threshold: see `GeneCoverage.check`.
        """
        gene_ids = np.full(len(names), -1, dtype=np.int64)
        seen: set[int] = set()
        groups: dict[str, list] = {"matched": [], "duplicated": [], "missing": []}
        for column, name in enumerate(names):
            token_id = None if name in self.special_tokens else self._token_to_id.get(name)
            group = "missing" if token_id is None else "duplicated" if token_id in seen else "matched"
            groups[group].append(name)
            if group == "matched":
                gene_ids[column] = token_id
                seen.add(token_id)
        weights = np.ones(len(names)) if counts is None else np.asarray(counts, dtype=np.float64)
        share = float(weights[gene_ids >= 0].sum() / weights.sum()) if weights.sum() else 0.0
        tuples = {group: tuple(found) for group, found in groups.items()}
        return GeneMapping(gene_ids, GeneCoverage(len(names), renamed=(), ambiguous=(), count_share=share, **tuples))

    def __getitem__(self, token: str) -> int:
        return self._token_to_id[token]

    def __iter__(self) -> Iterator[str]:
        return iter(self._token_to_id)

    def __len__(self) -> int:
        return len(self._token_to_id)

    def __repr__(self) -> str:
        genes = len(self) - len(self.special_tokens)
        return f"GeneVocabulary({genes:,} genes, special tokens {list(self.special_tokens)}, size {self.size:,})"


def _checked(token_to_id: Mapping[str, int]) -> dict[str, int]:
    """`token_to_id` as a dict of whole numbers, after the checks that `GeneVocabulary` promises."""
    entries: dict[str, int] = {}
    owners: dict[int, str] = {}
    for token, index in token_to_id.items():
        if not isinstance(token, str) or not token or token.split() != [token]:
            raise ConfigurationError(f"Gene names must be strings without white space, got {token!r}")
        whole = _whole_number(index)
        if whole is None or whole < 0:
            raise ConfigurationError(f"The id of `{token}` must be a whole number from 0 on, got {index!r}")
        if whole in owners:
            raise ConfigurationError(f"`{owners[whole]}` and `{token}` share the id {whole}; ids must be unique")
        owners[whole] = token
        entries[token] = whole
    if not entries:
        raise ConfigurationError("A vocabulary needs at least one gene or special token")
    return entries


def _whole_number(value: Any) -> int | None:
    """`value` as an int; published dictionaries write some ids as floats (2.0)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    return int(value) if value == value // 1 else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ConfigurationError(f"`{twice}` is there twice")
    return entries


def _plain(item: str | tuple[str, str]) -> str | list[str]:
    return item if isinstance(item, str) else list(item)
