"""A data set registered as a benchmark: `eval.yaml`, by which the Hub gathers the scores of models on its page.

The form is that of https://huggingface.co/docs/hub/eval-results. Models bring scores in `.eval_results/*.yaml`, see
[`evaluation_results`]; those for a task of this file stand on the leaderboard of the data set.
"""

from pathlib import Path

from ..errors import ConfigurationError, require
from ..evaluation.metrics import METRICS
from ..files import write_text
from ..sources.shards.manifest import read_manifest
from .evaluation_results import task_id

BENCHMARK_FILE = "eval.yaml"
TASK = "Cell type annotation"


def write_benchmark(folder: str | Path, *, label_column: str) -> Path:
    """Write `eval.yaml` into a folder of shards, with a task for each metric of naming cells.

    Args:
        folder: what `build_corpus` wrote.
        label_column: column of `obs` with the labels that models are to predict.

    Returns:
        The file.

    Raises:
        CorpusError: it is no such folder.
        ConfigurationError: its shards do not carry the column, or cells have fewer than two labels there.
    """
    yaml = require("yaml", extra="hub")
    folder = Path(folder)
    manifest = read_manifest(folder)
    if label_column not in manifest.obs_columns:
        kept = ", ".join(map(repr, manifest.obs_columns)) or "none"
        raise ConfigurationError(
            f"The shards in `{folder}` carry no column {label_column!r} (they carry {kept}): build them with "
            f"`sclm-hf corpus build … --obs-column {label_column}`."
        )
    known = [labels for one in manifest.datasets.values() if (labels := one.labels.get(label_column)) is not None]
    if len(known) == len(manifest.datasets) and len({label for labels in known for label in labels}) < 2:
        raise ConfigurationError(
            f"Cells in `{folder}` have fewer than two labels in {label_column!r}: there is nothing to tell apart."
        )
    about = manifest.description or f"{manifest.n_cells:,} cells ({manifest.organism})."
    content = {
        "name": manifest.title,
        "description": f"{about} Models name the cells; the truth is in `{label_column}`.",
        "evaluation_framework": "sclm_hf",
        "tasks": [{"id": task_id(TASK, metric), "config": "default", "split": "train"} for metric in METRICS],
    }
    write_text(folder / BENCHMARK_FILE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return folder / BENCHMARK_FILE
