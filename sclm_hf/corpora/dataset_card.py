"""The card of a folder of shards: what a reader asks, and the header from which `datasets` and the Hub read it."""

from typing import Any

from ..sources.shards.manifest import GENES_FILE, Manifest
from ..sources.shards.schema import integer_type

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_MOST_VALUES = 12


def render_card(manifest: Manifest, genes_bytes: int) -> str:
    """`README.md` of a folder of shards; `genes_bytes` is the size of its table of genes."""
    import yaml

    header = yaml.safe_dump(_header(manifest, genes_bytes), sort_keys=False, allow_unicode=True)
    parts = [f"---\n{header}---", f"# {manifest.title}"]
    parts += [manifest.description] if manifest.description else []
    parts += [_facts(manifest), _datasets(manifest), _labels(manifest), _schema(manifest), _usage(manifest)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(manifest: Manifest, genes_bytes: int) -> dict[str, Any]:
    configs = [{"config_name": "default", "data_files": _train("data/*/*.parquet"), "default": True}]
    configs += [{"config_name": name, "data_files": _train(f"data/{name}/*.parquet")} for name in manifest.datasets]
    configs.append({"config_name": "genes", "data_files": _train(GENES_FILE)})
    every = [shard for dataset in manifest.datasets.values() for shard in dataset.shards]
    shards = {"default": every, **{name: dataset.shards for name, dataset in manifest.datasets.items()}}
    info = []
    for name, some in shards.items():
        n_cells, n_bytes = sum(shard.n_cells for shard in some), sum(shard.n_bytes for shard in some)
        info.append(_info(name, _features(manifest), n_cells, n_bytes))
    n_genes = sum(dataset.n_genes for dataset in manifest.datasets.values())
    info.append(_info("genes", _GENE_FEATURES, n_genes, genes_bytes))
    return {
        "license": manifest.license,
        "pretty_name": manifest.title,
        "tags": ["biology", "single-cell", "transcriptomics", "scRNA-seq", "sclm_hf"],
        "size_categories": [next((name for size, name in _SIZES if manifest.n_cells < size), "n>10M")],
        "configs": configs,
        "dataset_info": info,
    }


def _train(path: str) -> list[dict[str, str]]:
    return [{"split": "train", "path": path}]


def _info(name: str, features: list[dict[str, str]], rows: int, n_bytes: int) -> dict[str, Any]:
    splits = [{"name": "train", "num_bytes": n_bytes, "num_examples": rows}]
    return {"config_name": name, "features": features, "splits": splits}


_GENE_FEATURES = [
    {"name": "dataset", "dtype": "string"},
    {"name": "gene_index", "dtype": "int32"},
    {"name": "gene_name", "dtype": "string"},
    {"name": "ensembl_id", "dtype": "string"},
]


def _features(manifest: Manifest) -> list[dict[str, str]]:
    """Features wide enough for every shard: `datasets` widens the columns of those that are narrower."""
    largest = max(shard.largest_count for dataset in manifest.datasets.values() for shard in dataset.shards)
    n_genes = max(dataset.n_genes for dataset in manifest.datasets.values())
    return [
        {"name": "cell_name", "dtype": "string"},
        {"name": "dataset", "dtype": "string"},
        {"name": "cell_id", "dtype": "int64"},
        {"name": "gene_index", "list": integer_type(n_genes - 1).name},
        {"name": "counts", "list": integer_type(largest).name},
        *({"name": name, "dtype": "string"} for name in manifest.obs_columns),
    ]


def _facts(manifest: Manifest) -> str:
    n_bytes = sum(shard.n_bytes for dataset in manifest.datasets.values() for shard in dataset.shards)
    assays = {value for dataset in manifest.datasets.values() for value in dataset.labels.get("assay", {})}
    rows = {
        "cells": f"{manifest.n_cells:,}",
        "data sets": f"{len(manifest.datasets):,}",
        "values": "raw counts",
        "organism": manifest.organism,
        "assay": ", ".join(sorted(assays)) or "not stated",
        "licence": manifest.license,
        "size": f"{n_bytes / 1e6:,.1f} MB",
        "written by": f"sclm_hf {manifest.sclm_hf}",
    }
    return _table(("", ""), [[name, value] for name, value in rows.items()])


def _datasets(manifest: Manifest) -> str:
    rows = [
        [
            name,
            f"{one.n_cells:,}",
            f"{one.n_genes:,}",
            f"{len(one.shards):,}",
            one.source,
            f"{one.n_filtered:,}",
            f"{one.n_empty:,}",
        ]
        for name, one in manifest.datasets.items()
    ]
    head = ("data set", "cells", "genes", "shards", "made from", "left out by filters", "left out without counts")
    return "## Data sets\n\n" + _table(head, rows)


def _labels(manifest: Manifest) -> str:
    rows = []
    for column in manifest.obs_columns:
        totals: dict[str, int] = {}
        for dataset in manifest.datasets.values():
            for value, number in dataset.labels.get(column, {}).items():
                totals[value] = totals.get(value, 0) + number
        listed = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
        text = ", ".join(f"{value} ({number:,})" for value, number in listed[:_MOST_VALUES])
        rows.append([column, f"{len(totals):,}", text + (", …" if len(listed) > _MOST_VALUES else "")])
    return "## Labels\n\n" + _table(("column", "values", "cells"), rows) if rows else ""


def _schema(manifest: Manifest) -> str:
    return (
        "## Schema\n\n"
        "One row a cell. `gene_index` holds the cell's expressed genes as ascending places in the gene table of its "
        "`dataset`, `counts` their raw counts. The gene tables are the configuration `genes`, and stand in the "
        "metadata of each Parquet file under `sclm_hf`. `cell_id` names a cell where something random is drawn for "
        "it. Columns of `obs` are text."
    )


def _usage(manifest: Manifest) -> str:
    name = next(iter(manifest.datasets))
    return f"""## Use

```python
from datasets import load_dataset

cells = load_dataset("path/to/this/folder", "{name}", split="train", streaming=True)
genes = load_dataset("path/to/this/folder", "genes", split="train")
```

```python
from sclm_hf import CellCorpus

corpus = CellCorpus("path/to/this/folder", processor)  # tokenised, shuffled, padded batches
```

`sclm-hf corpus check path/to/this/folder` verifies every file."""


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
