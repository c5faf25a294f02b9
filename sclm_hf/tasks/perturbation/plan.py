"""Which perturbations there are, and which cells each is run in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ConfigurationError, GeneCoverageError
from ...logging import counted
from ...opening.loading import LoadedModel
from ..running.prepared_cells import PreparedCells
from .cells import TokenCells
from .runs import Run

if TYPE_CHECKING:
    from ...tokenization.processing_cell import CellProcessor
    from ..perturb import PerturbSettings


GENES_TO_PERTURB = "`genes`, `--gene` or `--group`"


def named_perturbations(
    loaded: LoadedModel,
    cells: PreparedCells,
    settings: "PerturbSettings",
) -> list[tuple[str, tuple[int, ...]]]:
    """Name and tokens of each perturbation.

    Raises:
        ConfigurationError: a perturbation names one gene twice.
        GeneCoverageError: the model does not know a gene.
    """
    genes, (names, ensembl_ids) = settings.genes, cells.source.genes()
    front = () if settings.anchor is None else (settings.anchor,)
    token_of = _token_finder(loaded.processor, cells.coverage.species, names, ensembl_ids, cells.gene_ids)
    anchored = tuple(token_of(front, "`anchor`, `--anchor`"))
    if genes == "all":
        known = np.flatnonzero(cells.gene_ids >= 0)
        groups = [(str(names[column]), (int(cells.gene_ids[column]),)) for column in known]
        groups = [(name, tokens) for name, tokens in groups if tokens != anchored]
    elif isinstance(genes, Mapping):
        groups = [(name, tuple(token_of(members))) for name, members in genes.items()]
    else:
        tokens = dict(zip(genes, token_of(genes), strict=True))
        # the correction for many tests would count it twice
        if len(set(tokens.values())) < len(genes):
            raise ConfigurationError(f"`genes` names one gene twice: {', '.join(genes[:20])}; leave one out.")
        groups = [
            ("+".join(some), tuple(tokens[gene] for gene in some)) for some in combinations(genes, settings.combine)
        ]
    named = [("+".join((*front, name)), (*anchored, *tokens)) for name, tokens in groups]
    if twice := [name for name, tokens in named if len(set(tokens)) < len(tokens)]:
        raise ConfigurationError(f"The perturbation `{twice[0]}` names one gene twice: leave one out.")
    return named


def _token_finder(
    processor: "CellProcessor",
    species: str,
    names: Sequence[str],
    ensembl_ids: Sequence[str] | None,
    gene_ids: np.ndarray,
) -> Callable[..., list[int]]:
    """Finds tokens of genes by column name, then by Ensembl id, then as genes of data are resolved."""
    tokens = np.where(gene_ids < -1, gene_ids[np.where(gene_ids < -1, -2 - gene_ids, 0)], gene_ids)
    by_name = _columns_of(names)
    by_id = {} if ensembl_ids is None else _columns_of(ensembl_ids)

    def token_of(name: str) -> int:
        columns = by_name.get(name) or by_id.get(name)
        if columns is None:
            return int(processor.map_genes([name], species=species).gene_ids[0])
        found = sorted(set(tokens[columns].tolist()) - {-1})
        if len(found) > 1:
            remedy = "name one by its Ensembl id" if ensembl_ids is not None else "rename them"
            raise ConfigurationError(f"`{name}` is the name of {len(found)} genes of the data: {remedy}.")
        return found[0] if found else -1

    def find(wanted: Sequence[str], flags: str = GENES_TO_PERTURB) -> list[int]:
        found = [token_of(name) for name in wanted]
        if missing := [name for name, token in zip(wanted, found, strict=True) if token < 0]:
            there = [name for name in missing if name in by_name or name in by_id]
            reasons = {
                "neither in the data nor known to the model": [name for name in missing if name not in there],
                "in the data but not read by the model": there,
            }
            told = "; ".join(
                f"{', '.join(map(repr, some[:5]))}{', …' if len(some) > 5 else ''} "
                f"{'is' if len(some) == 1 else 'are'} {reason}"
                for reason, some in reasons.items()
                if some
            )
            raise GeneCoverageError(
                f"{len(missing)} of {counted(len(wanted), 'gene')} to perturb ({flags}) cannot be used: {told}. Use "
                "names or Ensembl ids of the model's vocabulary."
            )
        return found

    return find


def _columns_of(names: Sequence[str]) -> dict[str, list[int]]:
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        columns.setdefault(str(name), []).append(column)
    return columns


class PerturbationPlan:
    """Which perturbation is run in which cell.

    Args:
        perturbations: name and tokens of each.
        mode: `"delete"`, run in the cells that express all of the genes; or `"overexpress"`, run in all.
        expressed_only: run a perturbation only where its last gene is among the tokens, over-expression not of the
            top gene.
        processor: its vocabulary tells genes from special tokens.
    """

    def __init__(
        self,
        perturbations: list[tuple[str, tuple[int, ...]]],
        mode: str,
        expressed_only: bool,
        processor: "CellProcessor",
    ) -> None:
        self._perturbations, self._mode = perturbations, mode
        self._special = np.array(list(processor.tokenizer.gene_vocabulary.special_tokens.values()), np.int64)
        # by the gene that tells perturbations of expressed genes apart
        self._number_of = {tokens[-1]: n for n, (_, tokens) in enumerate(perturbations)} if expressed_only else None

    def of_cell(self, cells: TokenCells, cell: int) -> Iterator[Run]:
        """The runs of one cell, which is among `cells`."""
        ids = cells.kept[cell].ids
        genes = ids[~np.isin(ids, self._special)]
        present = set(cells.expressed(cell).tolist())
        if self._number_of is None:
            numbers = range(len(self._perturbations))
        else:
            ranked = genes[1:] if self._mode == "overexpress" else genes
            numbers = [self._number_of[gene] for gene in ranked.tolist() if gene in self._number_of]
        for number in numbers:
            tokens = self._perturbations[number][1]
            # a perturbation that would leave no gene is not run
            if self._mode == "overexpress" or (present.issuperset(tokens) and len(tokens) < genes.size):
                yield Run(cell, number, tokens)

    def runs(self, cells: TokenCells) -> list[Run]:
        """The runs of cells, the longest cell first."""
        order = sorted(cells.kept, key=lambda number: -cells.kept[number].ids.size)
        return [run for cell in order for run in self.of_cell(cells, cell)]

    def n_runs(self, cells: TokenCells) -> np.ndarray:
        """(cells,) how many perturbations are run in each of `cells`."""
        return np.array([sum(1 for _ in self.of_cell(cells, cell)) for cell in cells.kept], np.int64)

    def n_expressing(self, cells: TokenCells, numbers: Sequence[int]) -> np.ndarray:
        """(perturbations,) how many of the cells `numbers`, which are among `cells`, express all genes of each."""
        counts = np.zeros(len(self._perturbations), np.int64)
        for cell in numbers:
            present = set(cells.expressed(cell).tolist())
            by_last = self._number_of
            numbers = range(len(counts)) if by_last is None else [by_last[gene] for gene in present if gene in by_last]
            counts[[number for number in numbers if present.issuperset(self._perturbations[number][1])]] += 1
        return counts
