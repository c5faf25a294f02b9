"""What was written to files, for the terminal."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..logging import counted

if TYPE_CHECKING:
    from ..errors import SclmError
    from ..tasks.files.file_to_file import Written


def print_files(
    run: "Callable[[], Sequence[Written]]",
    show: Callable[[dict[str, Any], Any], None],
    *,
    as_json: bool = False,
    told: Sequence[str] | None = None,
    more: Callable[[Path], dict[str, Any]] | None = None,
) -> None:
    """Write files, and print what was added to each; if there are several, also a table of their outcomes.

    Args:
        run: writes the files.
        show: see [`print_results`].
        as_json: print a line of JSON for each file instead, see [`print_json`].
        told: see [`print_json`].
        more: what the JSON of a file says beside its record; None = nothing.

    Raises:
        typer.Exit: some could not be used.
    """
    import typer

    from ..errors import FilesError

    failed: Mapping[Path, SclmError] = {}
    try:
        written = run()
    except FilesError as error:
        written, failed = error.written, error.failed
    for path, key in written:
        if as_json:
            print_json(path, key, told, {} if more is None else more(path))
        else:
            print_results(path, key, show)
    if as_json:
        for path, error in failed.items():
            print(json.dumps({"file": str(path), "error": str(error)}))
    elif len(written) + len(failed) > 1:
        _print_table(written, failed)
    if failed:
        typer.secho(
            f"Error: {len(failed)} of {len(written) + len(failed)} files could not be used. Mend these and repeat the "
            "command, which goes on with them.",
            fg="red",
            err=True,
        )
        raise typer.Exit(1)


def _print_table(written: "Sequence[Written]", failed: "Mapping[Path, SclmError]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..tasks.files.results import read_record

    table = Table()
    for name in ("file", "cells", "result"):
        table.add_column(name, justify="right" if name == "cells" else "left", overflow="fold")
    for path, key in written:
        table.add_row(Text(path.name), f"{read_record(path, key)[1]:,}", Text(str(path)))
    for path, error in failed.items():
        table.add_row(Text(path.name), "", Text(str(error)))
    Console().print(table)


def print_results(path: str | Path, key: str, show: Callable[[dict[str, Any], Any], None]) -> None:
    """Print how genes met the vocabulary of the model, what is particular about the verb, and the number of cells.

    Args:
        path: the file; its data are not read.
        key: name of the record in `uns["sclm_hf"]`.
        show: prints what is particular, given the record and the column `key` of `obs` or None.
    """
    from ..tasks.files.results import read_record

    record, n_cells, column = read_record(path, key)
    if "coverage" in record:
        _print_coverage(record)
    show(record, column)
    print(f"Wrote {path} with {counted(n_cells, 'cell')}.")


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


def _shorten(examples: str, limit: int = 60) -> str:
    return examples if len(examples) <= limit else examples[:limit].rsplit(";", 1)[0] + "; …"


def print_json(
    path: str | Path, key: str, told: Sequence[str] | None = None, more: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Print a line of JSON: the name of the file, its number of cells, and what its record says.

    Args:
        path: the file; its data are not read.
        key: name of the record in `uns["sclm_hf"]`.
        told: names of what is printed of the record; None = all of it, and how many cells have each label.
        more: what is printed beside it.
    """
    from ..tasks.files.results import read_record

    record, n_cells, column = read_record(path, key)
    kept = {name: plain(value) for name, value in record.items() if told is None or name in told}
    if told is None and hasattr(column, "value_counts"):
        kept["n_labelled"] = {str(label): int(number) for label, number in column.value_counts().items() if number}
    print(json.dumps({"file": str(path), "n_cells": n_cells, **kept, **more}))


_SEPARATORS = {".tsv": "\t", ".csv": ","}


def check_table(output: Path) -> Path:
    """Where the record of a table will stand.

    Raises:
        ConfigurationError: tables of this suffix are not written.
    """
    from ..errors import ConfigurationError

    if output.suffix not in (*_SEPARATORS, ".parquet"):
        raise ConfigurationError(f"`{output}` must be named `….tsv`, `….csv` or `….parquet`: that is what is written.")
    return output.with_suffix(".json")


def check_written(*written: Path | None, read: "Sequence[Path | None]", overwrite: bool) -> None:
    """Make sure that files can be written later.

    Raises:
        ConfigurationError: one is also read, or written twice; or it cannot be written, or is there and not to be
            replaced.
    """
    from ..files import check_apart, check_output_file, check_replaced

    check_apart(written, read)
    for path in filter(None, written):
        check_output_file(path)
        check_replaced(path, overwrite=overwrite)


def write_table(table: Any, output: Path) -> None:
    """Write a data frame, and beside it what its `attrs` say as JSON."""
    from ..files import written_whole

    with written_whole(output) as unfinished:
        if output.suffix in _SEPARATORS:
            has_names = table.index.name is not None
            table.to_csv(unfinished, sep=_SEPARATORS[output.suffix], index=has_names)
        else:
            table.to_parquet(unfinished)
    with written_whole(output.with_suffix(".json")) as unfinished:
        unfinished.write_text(json.dumps(plain(table.attrs), indent=2) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Arrays, numbers, lists and mappings of them as JSON holds them: NaN, which it does not have, as null."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
