"""One picklable function of a batch of cells, and what hands it to engines."""

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pandas as pd
import pytest

import sclm_hf
from sclm_hf.corpora.building.build import build_corpus
from sclm_hf.errors import ConfigurationError, CorpusError
from sclm_hf.tasks.engines import cell_embedder
from sclm_hf.tasks.engines.adapters import embed_dask, embed_dataset, embed_frame, embed_ray, embed_spark
from sclm_hf.tasks.engines.cell_embedder import CellEmbedder

from ..tiny import make_cells, save_checkpoint

CELLS = make_cells()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def expected(model):
    return sclm_hf.embed(CELLS, model).obsm["X_scgpt"]


@pytest.fixture(scope="module")
def embedder(model):
    return sclm_hf.CellEmbedder(model, CELLS.var_names)


def as_frame(cells=CELLS):
    """The columns of Parquet corpora."""
    rows = [cells.X[row] for row in range(cells.n_obs)]
    columns = {"gene_index": [row.indices for row in rows], "counts": [row.data for row in rows]}
    return pd.DataFrame({"cell_name": cells.obs_names.to_numpy(object), **columns})


def check(names, embeddings, expected):
    """Each cell has its embedding, whatever it shared a batch with."""
    order = CELLS.obs_names.get_indexer(list(names))
    assert sorted(order) == list(range(23))
    np.testing.assert_allclose(np.stack(list(embeddings)), expected[order], atol=1e-5, rtol=0)


def test_a_batch_of_all_cells_gives_the_numbers_of_embed(embedder, expected):
    frame = as_frame()
    result = embedder({name: frame[name].to_numpy() for name in frame})
    np.testing.assert_array_equal(result["embedding"], expected)
    assert list(result["cell_name"]) == list(CELLS.obs_names) and result["embedding"].dtype == np.float32


def test_dense_counts_give_the_same(embedder, expected):
    result = embedder({"cell_name": CELLS.obs_names.to_numpy(), "counts": CELLS.X.toarray()})
    np.testing.assert_array_equal(result["embedding"], expected)


def test_the_pickle_is_small_and_the_model_is_opened_once_in_a_process(embedder, expected, monkeypatch):
    opened, load = [], cell_embedder.EMBED.load
    cell_embedder._load.cache_clear()
    monkeypatch.setattr(type(cell_embedder.EMBED), "load", lambda self, *args: opened.append(args) or load(*args))
    content = pickle.dumps(embedder)
    frame = as_frame()
    results = [embed_frame(frame[start : start + 6], pickle.loads(content)) for start in (18, 0, 6, 12)]
    assert len(content) < 5000 and len(opened) == 1
    joined = pd.concat(results)
    check(joined["cell_name"], joined["embedding"], expected)


def test_threads_of_a_process_take_turns(embedder, expected, monkeypatch):
    inside, overlapped, run_rows = threading.Semaphore(1), [], cell_embedder.run_rows

    def watched(*args, **kwargs):
        is_alone = inside.acquire(blocking=False)
        overlapped.append(not is_alone)
        # others get time to come in
        time.sleep(0.05)
        found = run_rows(*args, **kwargs)
        if is_alone:
            inside.release()
        return found

    monkeypatch.setattr(cell_embedder, "run_rows", watched)
    frame = as_frame()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda start: embed_frame(frame[start : start + 6], embedder), (18, 0, 6, 12)))
    assert overlapped == [False] * 4
    joined = pd.concat(results)
    check(joined["cell_name"], joined["embedding"], expected)


def test_no_cells_have_no_embeddings(embedder):
    assert len(embed_frame(as_frame()[:0], embedder)) == 0
    assert embedder({"cell_name": np.array([], object)})["embedding"].shape == (0, 32)


def test_datasets_map_it_over_a_parquet_corpus(model, embedder, expected, tmp_path):
    CELLS.write_h5ad(tmp_path / "cells.h5ad")
    build_corpus(tmp_path / "cells.h5ad", tmp_path / "corpus")
    (shard,) = (tmp_path / "corpus" / "data").rglob("*.parquet")
    for streaming in (False, True):
        cells = datasets.load_dataset(
            "parquet", data_files=str(shard), split="train", streaming=streaming, cache_dir=str(tmp_path / "cache")
        )
        rows = list(embed_dataset(cells, embedder, batch_size=5))
        assert set(rows[0]) == {"cell_name", "embedding"}
        check([row["cell_name"] for row in rows], [row["embedding"] for row in rows], expected)


def test_dask_maps_it_over_partitions_of_a_parquet_corpus(embedder, expected, tmp_path):
    dask, dataframe = pytest.importorskip("dask"), pytest.importorskip("dask.dataframe")
    as_frame()[:9].to_parquet(tmp_path / "0.parquet")
    as_frame()[9:].to_parquet(tmp_path / "1.parquet")
    with dask.config.set({"dataframe.convert-string": False}):
        cells = dataframe.read_parquet(tmp_path)
        result = embed_dask(cells, embedder).compute(scheduler="synchronous")
    assert cells.npartitions == 2
    check(result["cell_name"], result["embedding"], expected)


def test_lists_that_dask_made_text_of_are_refused(embedder):
    dataframe = pytest.importorskip("dask.dataframe")
    with pytest.raises(CorpusError, match=r"say `dask.config.set\(\{'dataframe.convert-string': False\}\)` before"):
        embed_dask(dataframe.from_pandas(as_frame(), npartitions=3), embedder)


class InPandas:
    """What a Spark data frame does with a function over data frames."""

    def __init__(self, frame):
        self.frame, self.columns = frame, list(frame)

    def select(self, *columns):
        return InPandas(self.frame[list(columns)])

    def mapInPandas(self, function, schema):
        assert schema == "cell_name string, embedding array<float>"
        function = pickle.loads(pickle.dumps(function))
        return pd.concat(function(iter([self.frame[:9], self.frame[9:9], self.frame[9:]])))


def test_spark_gets_a_function_over_data_frames(embedder, expected):
    result = embed_spark(InPandas(as_frame().assign(donor="a")), embedder)
    check(result["cell_name"], result["embedding"], expected)


class InBatches:
    """What a Ray data set does with a class: an actor makes one of it, which gets batches."""

    def __init__(self, frame):
        self.frame = frame

    def map_batches(self, actor, *, fn_constructor_kwargs, batch_format, concurrency):
        assert batch_format == "numpy" and concurrency == 2
        function, frames = actor(**fn_constructor_kwargs), (self.frame[:9], self.frame[9:])
        return [function({name: frame[name].to_numpy() for name in frame}) for frame in frames]


def test_ray_gets_a_class_with_its_arguments(embedder, expected):
    results = embed_ray(InBatches(as_frame()), embedder, concurrency=2)
    names, embeddings = (np.concatenate([one[name] for one in results]) for name in ("cell_name", "embedding"))
    check(names, embeddings, expected)


def broken(change):
    frame = as_frame()
    return change({name: list(frame[name]) for name in frame})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: {"counts": batch["counts"]}, "no column `cell_name`; they have"),
        (lambda batch: {"cell_name": batch["cell_name"]}, "no column `counts`; they have"),
        (lambda batch: batch | {"counts": [row[:-1] for row in batch["counts"]]}, "as long as each other"),
        (lambda batch: batch | {"gene_index": [row + 90 for row in batch["gene_index"]]}, r"must lie in 0..90"),
        (lambda batch: {"cell_name": batch["cell_name"], "counts": np.ones((23, 5))}, r"must be \(23, 91\)"),
    ],
)
def test_batches_that_are_none_are_refused(embedder, change, message):
    with pytest.raises(CorpusError, match=message):
        embedder(broken(change))


def test_settings_are_checked_before_anything_runs():
    with pytest.raises(ConfigurationError, match=r"`bath_size` of `embed`. Did you mean `batch_size`\?"):
        CellEmbedder("never looked at", ["A"], bath_size=3)


def test_models_of_whole_samples_are_refused(tmp_path):
    from sclm_hf.opening.tiny import make_tiny_checkpoint

    model = make_tiny_checkpoint("cellplm", tmp_path / "model", genes=list(CELLS.var_names[:90]))
    with pytest.raises(ConfigurationError, match="reads whole samples of cells, which engines divide"):
        embed_frame(as_frame(), CellEmbedder(model, CELLS.var_names))
