"""Cells a second that annbatch streams, for `streaming.py`; runs where `annbatch[zarrs]` is installed (Python 3.12).

    python benchmarks/peer_annbatch.py FOLDER COLLECTION BATCH_SIZE

The .h5ad files of FOLDER are converted to COLLECTION first, unless it is there.
"""

import json
import sys
import time
from pathlib import Path

import zarr
from annbatch import DatasetCollection, Loader

CHUNK_SIZE, PRELOADED_CHUNKS = 512, 32


def main(folder: str, collection: str, batch_size: str) -> None:
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    if not Path(collection).exists():
        DatasetCollection(collection).add_adatas([str(path) for path in sorted(Path(folder).glob("*.h5ad"))])
    loader = Loader(batch_size=int(batch_size), chunk_size=CHUNK_SIZE, preload_nchunks=PRELOADED_CHUNKS, shuffle=True)
    loader.use_collection(DatasetCollection(collection, mode="r"))
    rates = []
    # the first epoch warms up
    for _ in range(2):
        begin = time.perf_counter()
        n_cells = sum(batch["X"].shape[0] for batch in loader)
        rates.append(n_cells / (time.perf_counter() - begin))
    print(json.dumps({"cells_per_s": max(rates), "cells": n_cells}))


if __name__ == "__main__":
    main(*sys.argv[1:])
