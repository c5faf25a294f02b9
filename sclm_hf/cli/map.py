"""`sclm-hf map INPUT OUTPUT --model DIR --reference CELLS --label-key COLUMN`."""

from pathlib import Path
from typing import Any

from .file_verb import file_verb
from .pictures import Picture


def _draw(path: Path, key: str) -> Any:
    from ..evaluation.plots import plot_distances
    from ..tasks.files.results import read_columns, read_record
    from ..tasks.map import UNKNOWN

    found, limit = read_columns(path, [key, f"{key}_distance"]), read_record(path, key)[0]["largest_distance"]
    return plot_distances(found[f"{key}_distance"], found[key], limit, unknown=UNKNOWN)


@file_verb(picture=Picture("how far the cells of each label lie from the reference", _draw))
def map(record: dict[str, Any], labels: Any) -> None:
    """Label the cells of an .h5ad file, or of each in a folder, like their nearest cells in a labelled reference."""
    for label, number in labels.value_counts().sort_values(ascending=False).items():
        if number:
            print(f"{number:>8,}  {label}")
    reference = record["reference"]
    print(
        f"Reference: {int(reference['n_cells']):,} cells of {reference['source']}, of which the same vote labels "
        f"{record['leave_one_out_accuracy']:.1%} as they are. Unknown: further than {record['largest_distance']:.3g}."
    )
