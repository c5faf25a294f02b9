"""The report of what became of the gene names of a data set, and what to do when the model knows few of them."""

from dataclasses import dataclass
from typing import Any

from ...errors import GeneCoverageError
from ...logging import warn

SPECIES = ("human", "mouse")
GROUPS = ("matched", "renamed", "ambiguous", "duplicated", "missing", "not_genes")


@dataclass(frozen=True)
class GeneCoverage:
    """What became of the gene names of a data set. Every name is in exactly one of the six groups.

    In each group the names with the most counts come first, where counts were given.

    Attributes:
        n_genes: number of columns of the data.
        matched: names found as they are written.
        renamed: pairs (as given, as in the vocabulary).
        ambiguous: names that point to several genes; not used.
        duplicated: names whose gene another column is surer to mean; not used.
        missing: names of genes that the vocabulary does not have; not used.
        count_share: share of the counts that lies in the columns used; share of columns when no counts were given.
        species: the species that the names were taken for.
        not_genes: what is no gene of the organism, with what it is in brackets: spike-ins, transgenes, antibodies,
            hashtags, and whatever a column of `var` says is no gene; not used.
        looks_like: the species that the names or ids tell of, where it is another one; several where they are mixed.
        served: the species whose genes the model can be given.
    """

    n_genes: int
    matched: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    ambiguous: tuple[str, ...]
    duplicated: tuple[str, ...]
    missing: tuple[str, ...]
    count_share: float
    species: str = "human"
    not_genes: tuple[str, ...] = ()
    looks_like: tuple[str, ...] = ()
    served: tuple[str, ...] = SPECIES

    def summary(self) -> str:
        """One line for people."""
        used = len(self.matched) + len(self.renamed)
        genes = "genes" if self.species == SPECIES[0] else f"{self.species} genes"
        return (
            f"{used:,} of {self.n_genes:,} {genes} used ({len(self.renamed):,} under another name), "
            f"{self.count_share:.1%} of counts covered; not used: {len(self.missing):,} missing, "
            f"{len(self.ambiguous):,} ambiguous, {len(self.duplicated):,} duplicated"
            + (f", {len(self.not_genes):,} no genes" if self.not_genes else "")
        )

    def to_dict(self) -> dict[str, Any]:
        """The numbers, and at most ten examples of each group but the first, ready for JSON."""
        numbers = {f"n_{group}": len(getattr(self, group)) for group in GROUPS}
        examples = {group: [_plain(item) for item in getattr(self, group)[:10]] for group in GROUPS[1:]}
        return {
            "species": self.species,
            "n_genes": self.n_genes,
            **numbers,
            "count_share": self.count_share,
            "examples": examples,
        }

    def check(self, minimum: float = 0.30, warn_below: float = 0.60, *, location: str | None = None) -> None:
        """Refuse data that the model hardly knows.

        Args:
            minimum: smallest share of counts that is accepted.
            warn_below: share of counts below which the user is warned.
            location: where the data are, for messages.

        Raises:
            GeneCoverageError: the genes are those of another species, or less than `minimum` of the counts is covered;
                the message lists examples and says what to do.
        """
        place = "" if location is None else f"`{location}`: "
        if self.looks_like:
            raise GeneCoverageError(place + self._of_other_species())
        if self.count_share >= warn_below:
            return
        message = f"{place}The model knows few of the genes in the data: {self.summary()}."
        advice = self._advice()
        if self.count_share < minimum:
            raise GeneCoverageError(f"{message} At least {minimum:.0%} of counts must be covered.{advice}")
        warn(message + advice)

    def _of_other_species(self) -> str:
        names = [*self.missing, *(name for name, _ in self.renamed), *self.ambiguous, *self.matched]
        examples = ", ".join(f"`{name}`" for name in names[:3])
        if len(self.looks_like) > 1:
            return (
                f"The data mix genes of {' and '.join(self.looks_like)} ({examples}): keep the cells and the columns "
                'of one species, such as `adata[cells, adata.var_names.str.startswith("GRCh38_")]`.'
            )
        found = self.looks_like[0]
        if found in self.served:
            remedy = f'pass `species="{found}"` (`--species {found}` of the command)'
        else:
            remedy = (
                f"the model takes genes of {' or '.join(self.served)} (`species=`, `--species`): give it cells of "
                "these, or name the genes by their orthologs there"
            )
        return f"Genes such as {examples} look like {found} genes, not {self.species} ones: {remedy}."

    def _advice(self) -> str:
        """What to do when the vocabulary lacks most of the names."""
        names = [*self.missing, *self.ambiguous]
        if not names or len(self.not_genes) > len(names):
            examples = ", ".join(f"`{name}`" for name in self.not_genes[:5])
            return f" No genes: {examples}. Give the columns that hold gene expression." if examples else ""
        examples = ", ".join(f"`{name}`" for name in names[:5])
        if sum(name.isdecimal() for name in names) > len(names) / 2:
            remedy = "They are numbers: make the column of `adata.var` that holds gene names its index."
        else:
            other = (
                "" if self.species == "mouse" else ', and pass `species="mouse"` (`--species mouse`) for mouse data'
            )
            remedy = (
                "Check that these are gene symbols or Ensembl ids (make the right column of `adata.var` its index, or "
                f"pass `ensembl_ids`){other}."
            )
        return f" Not found: {examples}. {remedy}"


def _plain(item: str | tuple[str, str]) -> str | list[str]:
    return item if isinstance(item, str) else list(item)
