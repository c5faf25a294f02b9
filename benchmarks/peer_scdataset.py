"""Cells a second that scDataset streams, for `streaming.py`; runs where `scdataset` is installed.

python benchmarks/peer_scdataset.py FOLDER BATCH_SIZE
"""

import json
import sys
import time
import warnings
from pathlib import Path

import anndata
from anndata.experimental import AnnCollection
from scdataset import BlockShuffling, scDataset
from scdataset.transforms import adata_to_mindex

FETCH_FACTOR, BLOCK_SIZE, SECONDS = 256, 64, 40


def main(folder: str, batch_size: str) -> None:
    warnings.filterwarnings("ignore")
    files = [anndata.read_h5ad(path, backed="r") for path in sorted(Path(folder).glob("*.h5ad"))]
    batches = scDataset(
        AnnCollection(files, join_vars="inner"),
        BlockShuffling(block_size=BLOCK_SIZE),
        batch_size=int(batch_size),
        fetch_factor=FETCH_FACTOR,
        fetch_transform=adata_to_mindex,
    )
    begin, n_cells = time.perf_counter(), 0
    for batch in batches:
        n_cells += batch["X"].shape[0]
        if time.perf_counter() - begin > SECONDS:
            break
    print(json.dumps({"cells_per_s": n_cells / (time.perf_counter() - begin), "cells": n_cells}))


if __name__ == "__main__":
    main(*sys.argv[1:])
