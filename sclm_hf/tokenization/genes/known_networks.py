"""Networks of genes that others have found, as files hold them."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ConfigurationError, require
from ...files import read_json_object

if TYPE_CHECKING:
    from pandas import DataFrame

REGULATOR_COLUMNS = ("regulator", "tf", "source", "from")
TARGET_COLUMNS = ("target", "to")
SIGN_COLUMNS = ("sign", "mor")
SIGNED_BY = ("consensus_stimulation", "consensus_inhibition")
"""OmniPath's two columns; an edge with both or neither has no sign."""

MOST_BYTES = 2**28
"""Of a JSON file."""


def read_network(path: str | Path) -> "DataFrame":
    """Read a known network.

    Args:
        path: a table (`.csv`, `.tsv`, also `.gz`, or `.parquet`) with a column `regulator`, `tf`, `source` or `from`
            and one `target` or `to`, as DoRothEA and OmniPath have them, and a sign in `sign` or `mor`, or in
            OmniPath's two columns, if there is one; or a JSON object of regulator -> targets, whose names may end
            with a blank and a cell line.

    Returns:
        A data frame with the columns `regulator`, `target` and `sign` (1, -1 or NaN), each pair once.

    Raises:
        ConfigurationError: the file cannot be read, or has no such columns or no edges.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigurationError(f"There is no network `{path}`: name a file with `network` (`--network`).")
    table = _of_json(path) if path.suffix == ".json" else _of_table(path)
    table = table.dropna(subset=["regulator", "target"]).drop_duplicates(["regulator", "target"], ignore_index=True)
    if table.empty:
        raise ConfigurationError(f"The network `{path}` has no edges.")
    return table


def _of_json(path: Path) -> "DataFrame":
    pandas = require("pandas", extra="evaluation")
    content = read_json_object(path, ConfigurationError, max_bytes=MOST_BYTES)
    if not all(isinstance(targets, list) for targets in content.values()):
        raise ConfigurationError(f"`{path}` must hold lists of targets by regulator.")
    pairs = [(name.split(" ")[0], str(target), np.nan) for name, targets in content.items() for target in targets]
    return pandas.DataFrame(pairs, columns=["regulator", "target", "sign"])


def _of_table(path: Path) -> "DataFrame":
    pandas = require("pandas", extra="evaluation")
    try:
        if path.suffix == ".parquet":
            table = pandas.read_parquet(path)
        else:
            table = pandas.read_csv(path, sep="\t" if ".tsv" in path.suffixes else ",", low_memory=False)
    except Exception as cause:
        raise ConfigurationError(f"The network `{path}` cannot be read as a table: {cause}.") from cause
    columns = {str(name).lower(): name for name in table.columns}
    found = [next((columns[name] for name in names if name in columns), None) for names in _COLUMNS]
    if found[0] is None or found[1] is None:
        raise ConfigurationError(
            f"The network `{path}` needs a column of regulators ({', '.join(REGULATOR_COLUMNS)}) and one of targets "
            f"({', '.join(TARGET_COLUMNS)}), got {list(map(str, table.columns[:10]))}."
        )
    if found[2] is not None:
        sign = np.sign(pandas.to_numeric(table[found[2]], errors="coerce"))
    elif columns.keys() >= set(SIGNED_BY):
        more, less = (table[columns[name]].map(_IS_TRUE) for name in SIGNED_BY)
        sign = (more - less).replace(0, np.nan)
    else:
        sign = np.nan
    return pandas.DataFrame({"regulator": table[found[0]], "target": table[found[1]], "sign": sign}).astype(
        {"regulator": object, "target": object, "sign": float}
    )


_IS_TRUE = {True: 1.0, False: 0.0, "True": 1.0, "False": 0.0, "true": 1.0, "false": 0.0}
_COLUMNS = (REGULATOR_COLUMNS, TARGET_COLUMNS, SIGN_COLUMNS)
