"""Gene names become ids: the vocabulary of a model."""

import functools
import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError, ConfigurationError, ExpressionError
from ...files import read_json_object
from .gene_columns import is_gene, kind_of, labelled
from .gene_coverage import GROUPS, SPECIES, GeneCoverage
from .gene_resolution import GeneResolver, Resolution
from .gene_species import species_of_ids, species_of_symbols
from .gene_table import ensembl_id_of

SPECIAL_TOKENS = ("<pad>", "<cls>", "<eoc>")
_NOT_KNOWN = {"", "None", "nan", "<NA>"}


@dataclass(frozen=True)
class GeneMapping:
    """Columns of a data set in terms of a vocabulary.

    Attributes:
        gene_ids: (n_genes,) int64, the id of each column; -1 = the column is not used, `-2 - other` = it is added to
            column `other`, which means the same gene.
        coverage: what became of the names.
    """

    gene_ids: np.ndarray
    coverage: GeneCoverage

    def weighed(self, counts: np.ndarray | None) -> "GeneMapping":
        """The same columns for other cells: `counts` (n_genes,) are what these have in all; None weighs all alike."""
        weights = np.ones(len(self.gene_ids)) if counts is None or not counts.sum() else counts
        share = float(weights[self.gene_ids != -1].sum() / weights.sum()) if weights.size else 0.0
        return replace(self, coverage=replace(self.coverage, count_share=share))


class GeneVocabulary(Mapping[str, int]):
    """The genes that a model knows, and their ids.

    Args:
        token_to_id: name of a gene (or special token) -> id. Ids may have gaps.
        special_tokens: names that are no genes; only those present count.
        aliases: further Ensembl ids (or names) of genes -> their name in the vocabulary, as the model's authors give
            them; used where an id is not in the vocabulary itself.

    Raises:
        ConfigurationError: the vocabulary is empty, a name is not a string or holds white space, an id is not a whole
            number from 0 on, two names share an id, or an alias is of a gene that is not there.
    """

    def __init__(
        self,
        token_to_id: Mapping[str, int],
        special_tokens: Iterable[str] = SPECIAL_TOKENS,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._token_to_id = _checked(token_to_id)
        self.aliases = dict(aliases or {})
        if lost := [alias for alias, name in self.aliases.items() if name not in self._token_to_id]:
            raise ConfigurationError(
                f"The alias `{lost[0]}` is of `{self.aliases[lost[0]]}`, which is not in the vocabulary: leave it out."
            )
        self.size = max(self._token_to_id.values()) + 1
        self.special_tokens = {
            token: self._token_to_id[token] for token in dict.fromkeys(special_tokens) if token in self._token_to_id
        }

    @classmethod
    def from_genes(cls, genes: Iterable[str], special_tokens: Iterable[str] = SPECIAL_TOKENS) -> "GeneVocabulary":
        """Number the special tokens, then `genes`, in the order given."""
        special_tokens = tuple(special_tokens)
        return cls(_extended({}, (*special_tokens, *_as_names(genes)), start=0), special_tokens)

    @classmethod
    def from_file(cls, path: str | Path, special_tokens: Iterable[str] = SPECIAL_TOKENS) -> "GeneVocabulary":
        """Read a JSON object name -> id, as the authors of scGPT and Geneformer publish theirs.

        Raises:
            CheckpointError: the file cannot be read, is no such object, or names a gene twice.
        """
        try:
            return cls(read_json_object(Path(path), object_pairs_hook=_unique), special_tokens)
        except ConfigurationError as error:
            raise CheckpointError(f"`{path}` is no vocabulary (a JSON object gene -> id): {error}.") from error

    def save(self, path: str | Path) -> None:
        """Write a JSON object name -> id, sorted by id."""
        entries = dict(sorted(self._token_to_id.items(), key=operator.itemgetter(1)))
        Path(path).write_text(json.dumps(entries, indent=0), encoding="utf-8")

    def add_genes(self, genes: Iterable[str]) -> "GeneVocabulary":
        """A new vocabulary with `genes` at the ids from `size` on; ids that exist stay.

        Raises:
            ConfigurationError: a gene is in the vocabulary already, or twice among `genes`.
            ExpressionError: `genes` is a single string, or holds something else than strings.
        """
        entries = _extended(self._token_to_id, _as_names(genes), start=self.size)
        return GeneVocabulary(entries, self.special_tokens, self.aliases)

    def map_genes(
        self,
        names: Sequence[str],
        *,
        ensembl_ids: Sequence[str] | None = None,
        species: str | None = None,
        counts: np.ndarray | None = None,
    ) -> GeneMapping:
        """Find the id of each column of a data set.

        A name is looked for in this vocabulary as it is written; else the gene it means is looked for under its other
        names, found by Ensembl id, symbol, previous symbol or alias, in this order (`GeneResolver`). A name that may
        mean several genes is not used. When several columns mean one gene, those found by the surest step keep it, and
        are added up in the place of the first. Names and ids alone decide, never the cells at hand.

        Args:
            names: (n_genes,) gene names, for example `adata.var_names`.
            ensembl_ids: (n_genes,) Ensembl ids where the data have them beside the names; missing ones may be empty,
                None or NaN.
            species: `"human"`, or `"mouse"` to go through orthologs; by default the one that Ensembl ids name, and
                human where there are none.
            counts: (n_genes,) total counts of each column; they weigh the coverage.

        Returns:
            The ids and the coverage report. Nothing is checked against a threshold: see `GeneCoverage.check`.

        Raises:
            ExpressionError: the arguments differ in length, or hold something else than names or counts.
            ConfigurationError: the species is unknown.
        """
        names = _as_names(names)
        ids = [""] * len(names) if ensembl_ids is None else _as_ensembl_ids(ensembl_ids, len(names))
        weights = None if counts is None else _as_counts(counts, len(names))
        if species is None:
            named = named_species(names, ids)
            species = named if named in SPECIES and (named,) != self._own_species else SPECIES[0]
        if species not in SPECIES:
            raise ConfigurationError(f"There is no species `{species}`: expected one of {', '.join(SPECIES)}.")
        resolve = self._resolver.resolve_mouse if species == "mouse" else self._resolver.resolve
        found = [resolve(name, ensembl_id) for name, ensembl_id in zip(names, ids, strict=True)]
        keepers = _keepers(found)
        gene_ids = np.full(len(names), -1, dtype=np.int64)
        for column, (token, step, _) in enumerate(found):
            if token is not None and step == found[keepers[token]].step:
                gene_ids[column] = self._token_to_id[token] if column == keepers[token] else -2 - keepers[token]
        # so that what is made of them once holds for later calls
        gene_ids.flags.writeable = False
        report = _coverage(names, found, gene_ids != -1, weights)
        looks_like = self._other_species(names, ids, species)
        return GeneMapping(
            gene_ids, GeneCoverage(n_genes=len(names), species=species, looks_like=looks_like, **report)
        )

    def _other_species(self, names: Sequence[str], ids: Sequence[str], species: str) -> tuple[str, ...]:
        """The species that the genes tell of, where it is another one than `species`."""
        found = species_of_ids(names, ids) or species_of_symbols(names)
        if found in ((), (species,)):
            return ()
        # nobody is asked to name the species of a vocabulary that was made from the same data
        return () if species == SPECIES[0] and found == self._own_species else found

    @functools.cached_property
    def _own_species(self) -> tuple[str, ...]:
        genes = list(self._resolver.genes)
        return species_of_ids(genes, [""] * len(genes)) or species_of_symbols(genes)

    @functools.cached_property
    def _resolver(self) -> GeneResolver:
        return GeneResolver(
            {token: index for token, index in self._token_to_id.items() if token not in self.special_tokens},
            self.aliases,
        )

    def __getitem__(self, token: str) -> int:
        return self._token_to_id[token]

    def __iter__(self) -> Iterator[str]:
        return iter(self._token_to_id)

    def __len__(self) -> int:
        return len(self._token_to_id)

    def __repr__(self) -> str:
        genes = len(self) - len(self.special_tokens)
        return f"GeneVocabulary({genes:,} genes, special tokens {list(self.special_tokens)}, size {self.size:,})"


def named_species(names: Sequence[str], ensembl_ids: Sequence[str] | None = None) -> str | None:
    """The species that the Ensembl ids of a data set name; None where they name none, or several.

    Arguments and errors are those of [`GeneVocabulary.map_genes`].
    """
    names = _as_names(names)
    ids = [""] * len(names) if ensembl_ids is None else _as_ensembl_ids(ensembl_ids, len(names))
    found = species_of_ids(names, ids)
    return found[0] if len(found) == 1 else None


def _extended(entries: Mapping[str, int], genes: Iterable[str], start: int) -> dict[str, int]:
    """`entries` and `genes`, these numbered from `start` on."""
    entries = dict(entries)
    for index, gene in enumerate(genes, start=start):
        if gene in entries:
            raise ConfigurationError(f"The gene `{gene}` is already in the vocabulary: add each gene once.")
        entries[gene] = index
    return entries


def _checked(token_to_id: Mapping[str, int]) -> dict[str, int]:
    """`token_to_id` as a dict of whole numbers, after the checks that `GeneVocabulary` promises."""
    entries: dict[str, int] = {}
    owners: dict[int, str] = {}
    for token, index in token_to_id.items():
        if not isinstance(token, str) or not token or token.split() != [token]:
            raise ConfigurationError(
                f"Gene names must be strings without white space, got {token!r}: rename or leave out this gene, in "
                "the data too."
            )
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


def _as_names(names: Iterable[str]) -> list[str]:
    if isinstance(names, str):
        raise ExpressionError(f"Gene names must be a sequence of strings, got the single string {names!r}.")
    names = list(names)
    for column, name in enumerate(names):
        if not isinstance(name, str):
            raise ExpressionError(
                f"Gene names must be strings; number {column} is {name!r} ({type(name).__name__}). If the "
                "names lie in a column of `adata.var`, make it the index: `adata.var_names = adata.var[column]`."
            )
    return names


def _as_ensembl_ids(ensembl_ids: Sequence[str], n_genes: int) -> list[str]:
    ids = ["" if str(one) in _NOT_KNOWN else one for one in ensembl_ids]
    if len(ids) != n_genes:
        raise ExpressionError(f"There are {n_genes:,} gene names and {len(ids):,} Ensembl ids: expected one for each.")
    given = [one for one in ids if one != ""]
    wrong = [one for one in given if not isinstance(one, str)]
    if wrong or (given and not any(ensembl_id_of(one.strip()) for one in given)):
        raise ExpressionError(
            f"`ensembl_ids` must hold Ensembl ids such as ENSG00000141510, got {(wrong or given)[0]!r}: pass another "
            "column, or leave it out."
        )
    return ids


def _as_counts(counts: np.ndarray, n_genes: int) -> np.ndarray:
    weights = np.asarray(counts, dtype=np.float64)
    if weights.shape != (n_genes,):
        raise ExpressionError(
            f"`counts` must hold one total for each of the {n_genes:,} genes, got shape {weights.shape}."
        )
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ExpressionError("`counts` must be finite and not negative: give the sum of raw counts of each gene.")
    return weights


def _keepers(found: Sequence[Resolution]) -> dict[str, int]:
    """Name in the vocabulary -> the column that keeps it: the first of those found by the surest step."""
    keepers: dict[str, int] = {}
    for column, (token, step, _) in enumerate(found):
        if token is not None and step < found[keepers.setdefault(token, column)].step:
            keepers[token] = column
    return keepers


def _coverage(
    names: Sequence[str], found: Sequence[Resolution], used: np.ndarray, weights: np.ndarray | None
) -> dict[str, Any]:
    """The groups of a coverage report, names with the most counts first, and the share of counts covered."""
    groups: dict[str, list] = {group: [] for group in GROUPS}
    if weights is None or not weights.sum():
        weights = np.ones(len(names))
    for column in np.argsort(-weights, kind="stable").tolist():
        name, resolution = names[column], found[column]
        if used[column]:
            is_same = resolution.token == name
            groups["matched" if is_same else "renamed"].append(name if is_same else (name, resolution.token))
        elif resolution.token is not None:
            groups["duplicated"].append(name)
        elif resolution.ambiguous:
            groups["ambiguous"].append(name)
        elif (kind := kind_of(name)) is not None:
            groups["not_genes"].append(labelled(name, kind) if is_gene(name) else name)
        else:
            groups["missing"].append(name)
    share = float(weights[used].sum() / weights.sum()) if len(names) else 0.0
    return {"count_share": share, **{group: tuple(members) for group, members in groups.items()}}
