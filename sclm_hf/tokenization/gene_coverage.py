"""The report of what became of the gene names of a data set, and what to do when the model knows few of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import GeneCoverageError
from ..logging import warn


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
        species: the species that the names were taken for.
    """

    n_genes: int
    matched: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    ambiguous: tuple[str, ...]
    duplicated: tuple[str, ...]
    missing: tuple[str, ...]
    count_share: float
    species: str = "human"

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
        return {
            "species": self.species,
            "n_genes": self.n_genes,
            **numbers,
            "count_share": self.count_share,
            "examples": examples,
        }

    def check(self, minimum: float = 0.30, warn_below: float = 0.60) -> None:
        """Refuse data that the model hardly knows.

        Args:
            minimum: smallest share of counts that is accepted.
            warn_below: share of counts below which the user is warned.

        Raises:
            GeneCoverageError: less than `minimum` of the counts is covered; the message lists examples and says what
                to do.
        """
        if self.count_share >= warn_below:
            return
        message = f"The model knows few of the genes in the data: {self.summary()}."
        advice = _advice(self.missing + self.ambiguous, self.species)
        if self.count_share < minimum:
            raise GeneCoverageError(f"{message} At least {minimum:.0%} of counts must be covered.{advice}")
        warn(message + advice)


def _plain(item: str | tuple[str, str]) -> str | list[str]:
    return item if isinstance(item, str) else list(item)


def _advice(names: Sequence[str], species: str) -> str:
    """What to do when most of `names`, which the vocabulary lacks, are not genes of its kind."""
    if not names:
        return ""
    examples = ", ".join(f"`{name}`" for name in names[:5])
    mouse = sum(name.startswith("ENSMUSG") or (name[:1].isupper() and name[1:2].islower()) for name in names)
    if sum(name.isdecimal() for name in names) > len(names) / 2:
        remedy = "They are numbers: make the column of `adata.var` that holds gene names its index."
    elif mouse > len(names) / 2 and species != "mouse":
        remedy = 'They look like mouse genes: pass `species="mouse"`.'
    else:
        remedy = (
            "Check that these are gene symbols or Ensembl ids (make the right column of `adata.var` its index, or "
            'pass `ensembl_ids`), and pass `species="mouse"` for mouse data.'
        )
    return f" Not found: {examples}. {remedy}"
