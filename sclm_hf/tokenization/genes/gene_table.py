"""The gene tables that ship with the package: who a gene name means. Read once, when first needed."""

import functools
import gzip
import re
from dataclasses import dataclass
from enum import IntEnum

from .table_files import packed_table

AMBIGUOUS = -1

_ENSEMBL_ID = re.compile(r"(?:\S+_)?(ENS[A-Z]*[0-9]{10,11})(?:\.[0-9]+)?(?:_PAR_Y)?")


class Step(IntEnum):
    """How a gene was recognised; the smaller, the surer."""

    AS_WRITTEN = 0
    ENSEMBL_ID = 1
    SYMBOL = 2
    PREVIOUS_SYMBOL = 3
    ALIAS = 4
    ORTHOLOG = 5
    ORTHOLOG_OF_OTHER_NAME = 6


def ensembl_id_of(name: str) -> str | None:
    """The Ensembl id in `name`, without version; None for other names (`AC004556.3` is a name, not a version).

    The id may follow a symbol that it makes unique (`MATR3_ENSG00000015479`, as in CELLxGENE Census). The Y copy of a
    pseudo-autosomal gene (`_PAR_Y`) counts as the gene.
    """
    # most names hold none, and the pattern takes ten times as long to say so
    found = _ENSEMBL_ID.fullmatch(name) if "ENS" in name else None
    return found[1] if found else None


@dataclass(frozen=True)
class GeneTable:
    """Human genes by every name they have or had.

    Attributes:
        gene_of: name -> index of the gene. The surest way of naming decides: a current symbol means its own gene,
            though it was once another's. Several genes named in the same way make it `AMBIGUOUS`.
        step_of: name -> how it names that gene.
        shared: name that several genes have, in whatever way -> all of them.
        rows: the columns of each gene's row: symbol, Ensembl ids, previous symbols, aliases.
    """

    gene_of: dict[str, int]
    step_of: dict[str, Step]
    shared: dict[str, list[int]]
    rows: list[str]

    def names(self, gene: int) -> list[str]:
        """Every name of the gene with that index."""
        return [name for names in self.rows[gene].split("\t") for name in names.split("|") if name]


@functools.cache
def human_genes() -> GeneTable:
    """HGNC's approved entries brought up to date with GENCODE; see `data/README.md`."""
    rows = _rows("human_genes.tsv.gz")
    symbols, ensembl_ids, previous, aliases = zip(*(row.split("\t") for row in rows), strict=True)
    gene_of: dict[str, int] = {}
    step_of: dict[str, Step] = {}
    shared: dict[str, list[int]] = {}
    columns = {
        Step.ENSEMBL_ID: ensembl_ids,
        Step.SYMBOL: symbols,
        Step.PREVIOUS_SYMBOL: previous,
        Step.ALIAS: aliases,
    }
    for step, column in columns.items():
        for gene, names in enumerate(column):
            for name in names.split("|") if names else ():
                known = gene_of.setdefault(name, gene)
                if known == gene:
                    step_of.setdefault(name, step)
                    continue
                bearers = shared.setdefault(name, [known])
                if gene not in bearers:
                    bearers.append(gene)
                    if step_of[name] == step:
                        gene_of[name] = AMBIGUOUS
    return GeneTable(gene_of, step_of, shared, rows)


@functools.cache
def mouse_orthologs() -> dict[str, tuple[Step, tuple[str, ...]]]:
    """Mouse symbol or Ensembl id -> human symbols of its orthologs: the one of the same name, where there is one."""
    orthologs: dict[str, tuple[Step, tuple[str, ...]]] = {}
    for row in _rows("mouse_orthologs.tsv.gz"):
        symbol, ensembl_id, human_symbols = row.split("\t")
        humans = tuple(human_symbols.split("|"))
        found = (Step.ORTHOLOG_OF_OTHER_NAME, humans)
        if symbol.upper() in humans:
            found = (Step.ORTHOLOG, (symbol.upper(),))
        orthologs[symbol] = found
        if ensembl_id:
            orthologs[ensembl_id] = found
    return orthologs


def _rows(name: str) -> list[str]:
    return gzip.decompress(packed_table(name)).decode("utf-8").split("\n")[1:-1]
