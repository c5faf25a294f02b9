"""Rebuild the gene tables that ship with the package (`sclm_hf/tokenization/genes/data`).

    python training_scripts/build_gene_table.py FOLDER_WITH_SOURCES

The folder holds the four sources that `sclm_hf/tokenization/genes/data/README.md` names. The same sources give the
same tables.
"""

import argparse
import csv
import gzip
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "sclm_hf" / "tokenization" / "genes" / "data"
HGNC = "hgnc_symbols_aliases.csv.gz"
HUMAN = "human_genes_gencode.csv.gz"
MOUSE = "mouse_genes_gencode.csv.gz"
ORTHOLOGS = "Ensembl105_Human2Mouse_Genes.csv"


@dataclass
class Gene:
    """One human gene and everything that it is or was called."""

    symbol: str
    ensembl_ids: list[str] = field(default_factory=list)
    previous: list[str] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)

    def rename(self, symbol: str) -> None:
        self.previous = [self.symbol, *(name for name in self.previous if name != symbol)]
        self.aliases = [name for name in self.aliases if name != symbol]
        self.symbol = symbol


def read_hgnc(path: Path) -> list[Gene]:
    """Approved entries; withdrawn ones are dropped."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [
            Gene(
                row["Approved symbol"],
                _split(row["Ensembl gene ID"]),
                _split(row["Previous symbol"]),
                _split(row["Alias symbol"]),
            )
            for row in csv.DictReader(file)
            if row["Status"] == "Approved"
        ]


def read_gencode(path: Path) -> dict[str, str]:
    """Ensembl id -> symbol, where the symbol names this one gene: `Y_RNA` stands for hundreds."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        symbols = {row["ensembl_id"]: row["symbol"] for row in csv.DictReader(file)}
    bearers = Counter(symbols.values())
    return {gene: symbol for gene, symbol in symbols.items() if symbol != gene and bearers[symbol] == 1}


def add_gencode(genes: list[Gene], gencode: dict[str, str]) -> list[Gene]:
    """Bring the HGNC entries up to date with GENCODE, which is newer.

    A GENCODE symbol that HGNC approves takes its Ensembl id along. Any other symbol is the new name of the gene that
    holds the id, unless GENCODE has that gene's own symbol elsewhere; then, and for ids that HGNC lacks, it is a gene
    of its own.
    """
    by_symbol = {gene.symbol: gene for gene in genes}
    by_id: dict[str, list[Gene]] = {}
    for gene in genes:
        for ensembl_id in gene.ensembl_ids:
            by_id.setdefault(ensembl_id, []).append(gene)
    named = set(gencode.values())
    added = []
    for ensembl_id, symbol in gencode.items():
        holders = by_id.get(ensembl_id, [])
        if symbol not in by_symbol and len(holders) == 1 and holders[0].symbol not in named:
            holders[0].rename(symbol)
            continue
        target = by_symbol.get(symbol)
        if target is None:
            target = Gene(symbol)
            added.append(target)
        for holder in holders:
            if holder is not target:
                holder.ensembl_ids.remove(ensembl_id)
        if ensembl_id not in target.ensembl_ids:
            target.ensembl_ids.append(ensembl_id)
    return [*genes, *added]


def read_orthologs(path: Path, mouse: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Rows of the mouse table: symbol, its Ensembl id where known, its human orthologs."""
    humans: dict[str, set[str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for human_symbol, mouse_symbol in csv.reader(file):
            if human_symbol and mouse_symbol:
                humans.setdefault(mouse_symbol, set()).add(human_symbol)
    ensembl_ids = {symbol: ensembl_id for ensembl_id, symbol in mouse.items()}
    for symbol in sorted(humans):
        yield symbol, ensembl_ids.get(symbol, ""), "|".join(sorted(humans[symbol]))


def write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    text = "".join("\t".join(row) + "\n" for row in (header, *rows))
    path.write_bytes(gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0))
    print(f"{path.name}: {text.count(chr(10)) - 1:,} rows, {path.stat().st_size / 1e6:.2f} MB")


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split("|") if name.strip()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, help="folder with the four source files")
    parser.add_argument("--output", type=Path, default=DATA, help="where the tables go (default: into the package)")
    arguments = parser.parse_args()
    sources, output = arguments.sources, arguments.output

    genes = add_gencode(read_hgnc(sources / HGNC), read_gencode(sources / HUMAN))
    rows = sorted(
        (gene.symbol, "|".join(gene.ensembl_ids), "|".join(gene.previous), "|".join(gene.aliases)) for gene in genes
    )
    write_table(output / "human_genes.tsv.gz", ("symbol", "ensembl_ids", "previous", "aliases"), rows)
    orthologs = read_orthologs(sources / ORTHOLOGS, read_gencode(sources / MOUSE))
    write_table(output / "mouse_orthologs.tsv.gz", ("symbol", "ensembl_id", "human_symbols"), orthologs)


if __name__ == "__main__":
    main()
