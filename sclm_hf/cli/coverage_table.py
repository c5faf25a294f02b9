"""What was added to a file, for the terminal."""

from pathlib import Path


def print_results(path: str | Path, key: str) -> None:
    """Print how genes met the vocabulary of the model, how alike embeddings are, how many cells have which label.

    Args:
        path: the file; its data are not read.
        key: name of the record in `uns["sclm_hf"]`.
    """
    from ..tasks.result_files import read_record

    record, n_cells, labels = read_record(path, key)
    _print_coverage(record)
    _print_collapse(record)
    if labels is not None:
        for label, number in labels.value_counts().sort_values(ascending=False).items():
            print(f"{number:>8,}  {label}")
    print(f"Wrote {path} with {n_cells:,} cells.")


def _print_coverage(record: dict) -> None:
    from rich.console import Console
    from rich.table import Table

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


def _print_collapse(record: dict) -> None:
    from ..evaluation.collapse import Collapse

    if "collapse" not in record:
        return
    collapse = Collapse(**record["collapse"])
    says = " These hardly tell cells apart: was the model trained?" if collapse.is_likely else ""
    print(f"Embeddings: {collapse}.{says}")


def _shorten(examples: str, limit: int = 60) -> str:
    return examples if len(examples) <= limit else examples[:limit].rsplit(";", 1)[0] + "; …"
