"""How the genes of a file met the vocabulary of a model, for the terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData


def print_coverage(adata: "AnnData") -> None:
    """Print the coverage in the newest record of `uns["sclm_hf"]` as a table."""
    from rich.console import Console
    from rich.table import Table

    record = list(adata.uns["sclm_hf"].values())[-1]
    coverage = record["coverage"]
    table = Table(title=f"Genes of {record['data']} in the vocabulary of {record['model']}", title_justify="left")
    table.add_column("genes")
    table.add_column("number", justify="right")
    table.add_column("examples")
    for group in ("matched", "renamed", "ambiguous", "duplicated", "missing"):
        table.add_row(group, f"{coverage[f'n_{group}']:,}", _shorten(coverage["examples"].get(group, "")))
    table.add_section()
    table.add_row("all", f"{coverage['n_genes']:,}", f"{coverage['count_share']:.1%} of counts covered")
    Console().print(table)


def _shorten(examples: str, limit: int = 60) -> str:
    return examples if len(examples) <= limit else examples[:limit].rsplit(";", 1)[0] + "; …"
