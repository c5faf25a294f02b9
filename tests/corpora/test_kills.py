"""Readers that are killed at random points hand out, all together, what one that is left alone does."""

import os
import signal
import sys
import time

import anndata
import numpy as np
import pytest

from sclm_hf import CellCorpus, mix
from sclm_hf.corpora.building.build import build_corpus

from .conftest import make_cells

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")

SMALL = {"block_size": 8, "window_size": 48, "group_size": 12, "label_column": "cell_type"}
BATCH, EPOCH = 12, 3
PAUSE = 0.002


@pytest.fixture(scope="module")
def mixture(tmp_path_factory, processor):
    """.h5ad, zarr and Parquet, mixed by weight, filtered and split."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, size in (("a", 500), ("b", 400), ("c", 700), ("d", 300)):
        make_cells(size, size).write_h5ad(folder / f"{name}.h5ad")
    anndata.read_h5ad(folder / "b.h5ad").write_zarr(folder / "b.zarr")
    build_corpus([folder / "c.h5ad", folder / "d.h5ad"], folder / "shards", obs_columns=["cell_type"], shard_size=128)
    corpora = [
        CellCorpus(folder / "a.h5ad", processor, split="train", split_by="cell_type", validation_share=0.1, **SMALL),
        CellCorpus(folder / "b.zarr", processor, where={"donor": ["d1", "d2"]}, **SMALL),
        CellCorpus(folder / "shards", processor, **SMALL),
    ]
    return mix(corpora, weights=[1, 1, 2])


def record_of(batch) -> bytes:
    """What a batch holds, in as many bytes as any other: cell ids and a hash of everything."""
    ids = np.zeros(BATCH, np.int64)
    ids[: len(batch["cell_ids"])] = batch["cell_ids"]
    content = b"".join(np.asarray(batch[name]).tobytes() for name in sorted(batch))
    return ids.tobytes() + hash_of(content)


def hash_of(content: bytes) -> bytes:
    from hashlib import blake2b

    return blake2b(content, digest_size=16).digest()


def read(corpus, path, start, world_size, num_workers) -> None:
    """Append the batches of all ranks to a file, in the order in which ranks that step together use them."""
    share = {"epoch": EPOCH, "start": start, "world_size": world_size, "num_workers": num_workers}
    ranks = [iter(corpus.loader(BATCH, rank=rank, **share)) for rank in range(world_size)]
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for rank in range(10**9):
        batch = next(ranks[rank % world_size], None)
        if batch is None:
            return
        os.write(file, record_of(batch))
        time.sleep(PAUSE)


def killed_reader(corpus, path, start, world_size, num_workers, rng, size) -> None:
    """Start a reader and kill it after a random number of batches and a bit."""
    child = os.fork()
    if child == 0:
        read(corpus, path, start, world_size, num_workers)
        os._exit(0)
    wanted = size() + int(rng.integers(1, 12)) * len(record_of({"cell_ids": []}))
    deadline = time.monotonic() + 60
    while size() < wanted and time.monotonic() < deadline and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 3 * PAUSE))
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


@pytest.mark.parametrize("n_kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_readers_lose_and_double_nothing(mixture, tmp_path, n_kills):
    whole = [record_of(batch) for batch in mixture.batches(BATCH, epoch=EPOCH)]
    length, rng, kills, epoch = len(whole[0]), np.random.default_rng(n_kills), 0, 0
    while kills < n_kills:
        path = tmp_path / f"epoch_{epoch}"
        path.touch()
        while kills < n_kills and path.stat().st_size < (len(whole) - 1) * length:
            start = path.stat().st_size // length * BATCH
            world_size, num_workers = int(rng.integers(1, 4)), int(rng.integers(0, 3))
            killed_reader(mixture, path, start, world_size, num_workers, rng, lambda path=path: path.stat().st_size)
            assert path.stat().st_size % length == 0
            kills += 1
        read(mixture, path, min(path.stat().st_size // length * BATCH, len(mixture)), 2, 1)
        content = path.read_bytes()
        assert [content[place : place + length] for place in range(0, len(content), length)] == whole
        epoch += 1
    assert len(set(whole)) == len(whole)
