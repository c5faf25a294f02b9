"""`sclm-hf merge OUTPUT PART...`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Overwrite

_Output = Annotated[Path, typer.Argument(help="`.h5ad` file to write.")]
_Parts = Annotated[list[Path], typer.Argument(metavar="PART...", help="Files that `--shard` wrote, in any order.")]
_Input = Annotated[
    Path | None,
    typer.Option(help="The file that the cells came from: OUTPUT is then a copy of it with the results."),
]


def merge(
    output: _Output,
    parts: _Parts,
    *,
    input: _Input = None,
    as_json: Json = False,
    overwrite: Overwrite = False,
) -> None:
    """Join the results of all shards of a file; lost and doubled cells and parts of other runs are refused.

    OUTPUT is what one run of all cells writes; without `--input` it holds the names of the cells and the results.
    """
    from ..logging import counted
    from ..tasks.files.merging import merge_shards
    from ..tasks.files.results import read_record
    from .results import print_json

    path, key = merge_shards(output, parts, input, overwrite=overwrite)
    if as_json:
        print_json(path, key)
        return
    _, n_cells, _ = read_record(path, key)
    print(f"Wrote {path} with {counted(n_cells, 'cell')} of {counted(len(parts), 'shard')}.")
