"""Dask, Ray and Spark themselves, where they are installed, with their own workers."""

import os
import shutil
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import sclm_hf
from sclm_hf.tasks.engines.adapters import embed_dask, embed_ray, embed_spark
from sclm_hf.tasks.engines.cell_embedder import CellEmbedder

from ..tiny import make_cells, save_checkpoint

pytestmark = pytest.mark.slow

CELLS = make_cells(48)
AT_ONCE = 12


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    model = save_checkpoint(tmp_path_factory.mktemp("model"))
    return CellEmbedder(model, CELLS.var_names, device="cpu", batch_size=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Four Parquet files in the columns of corpora, a dozen cells each."""
    folder = tmp_path_factory.mktemp("cells")
    rows = [CELLS.X[row] for row in range(CELLS.n_obs)]
    table = pyarrow.table(
        {
            "cell_name": CELLS.obs_names.to_list(),
            "gene_index": [row.indices for row in rows],
            "counts": [row.data for row in rows],
        }
    )
    for start in range(0, CELLS.n_obs, AT_ONCE):
        pyarrow.parquet.write_table(table.slice(start, AT_ONCE), folder / f"{start:02}.parquet")
    return folder


@pytest.fixture(scope="module")
def expected(embedder):
    """What `embed` gives; a forward pass of one cell has the same bits whatever the engine put beside it."""
    return sclm_hf.embed(CELLS, embedder.model, device="cpu", batch_size=1).obsm["X_scgpt"]


def check(names, embeddings, expected):
    order = CELLS.obs_names.get_indexer(list(names))
    assert sorted(order) == list(range(CELLS.n_obs))
    found = np.stack(list(embeddings))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected[order])


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_dask_gives_the_same_bits_in_this_process_its_threads_and_others(embedder, files, expected, scheduler):
    dask, dataframe = pytest.importorskip("dask"), pytest.importorskip("dask.dataframe")
    with dask.config.set({"dataframe.convert-string": False}):
        cells = dataframe.read_parquet(files)
        assert cells.npartitions == CELLS.n_obs // AT_ONCE
        result = embed_dask(cells, embedder).compute(scheduler=scheduler, num_workers=2)
    check(result["cell_name"], result["embedding"], expected)


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine, with a place for reading beside two actors, which keep theirs."""
    pytest.importorskip("ray.data", reason="Ray is in the extra `ray`")
    import ray

    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield ray
    ray.shutdown()


def test_actors_of_ray_give_the_same_bits(ray, embedder, files, expected):
    cells = ray.data.read_parquet(str(files))
    rows = embed_ray(cells, embedder, concurrency=2, batch_size=AT_ONCE).take_all()
    assert set(rows[0]) == {"cell_name", "embedding"}
    check([row["cell_name"] for row in rows], [row["embedding"] for row in rows], expected)


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    """Spark on this machine, with two workers of Python."""
    pytest.importorskip("pyspark.sql", reason="Spark is in the extra `spark`")
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("Spark needs Java")
    from pyspark.sql import SparkSession

    settings = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
        "spark.log.level": "ERROR",
        # each file is a partition of its own, as the large ones of a cluster are
        "spark.sql.files.openCostInBytes": str(128 * 2**20),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        session = SparkSession.builder.master("local[2]").config(map=settings).getOrCreate()
        yield session
        session.stop()


@pytest.mark.parametrize("at_once", [5, 10_000])
def test_workers_of_spark_give_the_same_bits(spark, embedder, files, expected, at_once):
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", at_once)
    cells = spark.read.parquet(str(files))
    assert cells.rdd.getNumPartitions() == CELLS.n_obs // AT_ONCE
    result = embed_spark(cells, embedder)
    assert result.columns == ["cell_name", "embedding"]
    rows = result.collect()
    check([row["cell_name"] for row in rows], [np.float32(row["embedding"]) for row in rows], expected)
