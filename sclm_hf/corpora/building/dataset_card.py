"""The card of a folder of shards: what a reader asks, and the header from which `datasets` and the Hub read it."""

from typing import Any

from ...cards import render
from ...sources.shards.manifest import GENES_FILE, Manifest
from ...sources.shards.schema import integer_type

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_MOST_VALUES = 12
_MOST_CLASSES = 1000


def render_card(manifest: Manifest, genes_bytes: int) -> str:
    """`README.md` of a folder of shards; `genes_bytes` is the size of its table of genes."""
    import yaml

    text = render(
        "dataset_card",
        header=yaml.safe_dump(_header(manifest, genes_bytes), sort_keys=False, allow_unicode=True),
        manifest=manifest,
        facts=_facts(manifest).items(),
        datasets=_datasets(manifest),
        labels=_labels(manifest),
    )
    return text + "\n"


def size_category(n_rows: int) -> str:
    """What the Hub calls data of so many rows."""
    return next((name for size, name in _SIZES if n_rows < size), "n>10M")


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
        "size_categories": [size_category(manifest.n_cells)],
        "configs": configs,
        "dataset_info": info,
    }


def _train(path: str) -> list[dict[str, str]]:
    return [{"split": "train", "path": path}]


def _info(name: str, features: list[dict[str, Any]], rows: int, n_bytes: int) -> dict[str, Any]:
    splits = [{"name": "train", "num_bytes": n_bytes, "num_examples": rows}]
    return {"config_name": name, "features": features, "splits": splits}


_GENE_FEATURES: list[dict[str, Any]] = [
    {"name": "dataset", "dtype": "string"},
    {"name": "gene_index", "dtype": "int32"},
    {"name": "gene_name", "dtype": "string"},
    {"name": "ensembl_id", "dtype": "string"},
]


def _features(manifest: Manifest) -> list[dict[str, Any]]:
    """Features wide enough for every shard: `datasets` widens the columns of those that are narrower."""
    largest = max(shard.largest_count for dataset in manifest.datasets.values() for shard in dataset.shards)
    n_genes = max(dataset.n_genes for dataset in manifest.datasets.values())
    return [
        {"name": "cell_name", "dtype": "string"},
        {"name": "dataset", "dtype": "string"},
        {"name": "cell_id", "dtype": "int64"},
        {"name": "gene_index", "list": integer_type(n_genes - 1).name},
        {"name": "counts", "list": integer_type(largest).name},
        *({"name": name, "dtype": _obs_type(manifest, name)} for name in manifest.obs_columns),
    ]


def _obs_type(manifest: Manifest, name: str) -> str | dict[str, Any]:
    """The type of a column of `obs`: classes with the same numbers in every configuration, if their names are known.

    The shards hold text, which `datasets` turns into numbers of classes as it reads.
    """
    found = [dataset.labels.get(name) for dataset in manifest.datasets.values()]
    values = sorted({value for labels in found for value in labels or ()})
    if None in found or not 0 < len(values) <= _MOST_CLASSES:
        return "string"
    return {"class_label": {"names": {str(number): value for number, value in enumerate(values)}}}


def _facts(manifest: Manifest) -> dict[str, str]:
    n_bytes = sum(shard.n_bytes for dataset in manifest.datasets.values() for shard in dataset.shards)
    assays = {value for dataset in manifest.datasets.values() for value in dataset.labels.get("assay", {})}
    return {
        "cells": f"{manifest.n_cells:,}",
        "data sets": f"{len(manifest.datasets):,}",
        "values": "raw counts",
        "organism": manifest.organism,
        "assay": ", ".join(sorted(assays)) or "not stated",
        "licence": manifest.license,
        "size": f"{n_bytes / 1e6:,.1f} MB",
        "written by": f"sclm_hf {manifest.sclm_hf}",
    }


def _datasets(manifest: Manifest) -> list[tuple[Any, ...]]:
    return [
        (name, one.n_cells, one.n_genes, len(one.shards), one.source, one.n_filtered, one.n_empty)
        for name, one in manifest.datasets.items()
    ]


def _labels(manifest: Manifest) -> list[tuple[Any, ...]]:
    """Each column with the number of its values, and the most frequent of them."""
    rows = []
    for column in manifest.obs_columns:
        totals: dict[str, int] = {}
        for dataset in manifest.datasets.values():
            for value, number in dataset.labels.get(column, {}).items():
                totals[value] = totals.get(value, 0) + number
        listed = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
        text = ", ".join(f"{value} ({number:,})" for value, number in listed[:_MOST_VALUES])
        rows.append((column, len(totals), text + (", …" if len(listed) > _MOST_VALUES else "")))
    return rows
