"""The rule by which a gene of the data finds its name in the vocabulary of a model."""

import functools
from collections.abc import Collection, Mapping
from typing import NamedTuple

from .gene_table import AMBIGUOUS, Step, ensembl_id_of, human_genes, mouse_orthologs


class Resolution(NamedTuple):
    """What a name of the data is in the vocabulary.

    Attributes:
        token: the name in the vocabulary; None when the gene is not used.
        step: how it was found.
        ambiguous: it is not used because the name may mean several genes.
    """

    token: str | None
    step: Step | None = None
    ambiguous: bool = False


class GeneResolver:
    """Finds names of the data in one vocabulary.

    The name as written comes first: vocabularies are older than today's symbols, and each is its own authority. Then
    the data's name is taken to the gene it means (by Ensembl id, symbol, previous symbol, alias), the names of the
    vocabulary likewise, and the two meet at the gene. So either side may hold the older name, or Ensembl ids.

    Args:
        genes: names of the genes in the vocabulary; of several names for a gene the surest counts, then the first.
        aliases: further Ensembl ids (or names) -> name in the vocabulary, as the model's authors give them.
    """

    def __init__(self, genes: Collection[str], aliases: Mapping[str, str] | None = None) -> None:
        self.genes = genes
        self._aliases = aliases or {}

    def resolve(self, name: str, ensembl_id: str = "") -> Resolution:
        """Find a human gene by its name and, where known, its Ensembl id; white space around them is ignored."""
        name = name.strip()
        if name in self.genes:
            return _as_written(name)
        return self._first_found(self._through_gene, name, ensembl_id)

    def resolve_mouse(self, name: str, ensembl_id: str = "") -> Resolution:
        """Find a mouse gene: as written, else by its human ortholog."""
        name = name.strip()
        if name in self.genes:
            return _as_written(name)
        return self._first_found(self._through_ortholog, name, ensembl_id)

    def _first_found(self, find, name: str, ensembl_id: str) -> Resolution:
        ambiguous = False
        for candidate in (ensembl_id_of(ensembl_id.strip()), ensembl_id_of(name) or name):
            if candidate:
                token = self._token_of_id.get(candidate) or self._aliases.get(candidate)
                found = find(candidate) if token is None else Resolution(token, Step.ENSEMBL_ID)
                if found.token is not None:
                    return found
                ambiguous = ambiguous or found.ambiguous
        return Resolution(None, ambiguous=ambiguous)

    def _through_gene(self, name: str) -> Resolution:
        table = human_genes()
        gene = table.gene_of.get(name)
        if gene is None:
            return Resolution(None)
        token = self._token_of_gene.get(gene)
        if token is not None:
            return Resolution(token, table.step_of[name])
        # the gene that the name means first is not there. If another gene of that name is, or if this gene's name is
        # there but means another gene by now, a match would be a guess
        ambiguous = any(bearer in self._token_of_gene for bearer in table.shared.get(name, ())) or (
            gene != AMBIGUOUS and any(other in self.genes for other in table.names(gene))
        )
        return Resolution(None, ambiguous=ambiguous)

    def _through_ortholog(self, name: str) -> Resolution:
        step, human_symbols = mouse_orthologs().get(name, (None, ()))
        found = [self.resolve(symbol) for symbol in human_symbols]
        if len(found) == 1 and found[0].token is not None:
            return found[0]._replace(step=step)
        return Resolution(None, ambiguous=any(one.token is not None or one.ambiguous for one in found))

    @functools.cached_property
    def _token_of_id(self) -> dict[str, str]:
        by_id = {ensembl_id_of(token): token for token in reversed(self.genes)}
        return {ensembl_id: token for ensembl_id, token in by_id.items() if ensembl_id}

    @functools.cached_property
    def _token_of_gene(self) -> dict[int, str]:
        table = human_genes()
        tokens: dict[int, str] = {}
        steps: dict[int, Step] = {}
        names = [(ensembl_id_of(token) or token, token) for token in self.genes]
        for name, token in [*names, *self._aliases.items()]:
            gene = table.gene_of.get(name, AMBIGUOUS)
            if gene != AMBIGUOUS and (gene not in tokens or table.step_of[name] < steps[gene]):
                tokens[gene] = token
                steps[gene] = table.step_of[name]
        return tokens


def _as_written(name: str) -> Resolution:
    # an id as written is as sure as one with a version, or one beside a name
    return Resolution(name, Step.AS_WRITTEN if ensembl_id_of(name) is None else Step.ENSEMBL_ID)
