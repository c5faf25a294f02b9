import os
import signal
import sys
import threading
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from tqdm import tqdm

from sclm_hf import CellCorpus
from sclm_hf.corpora.building import build as build_module
from sclm_hf.corpora.building.build import build_corpus
from sclm_hf.corpora.building.check import check_corpus
from sclm_hf.errors import ConfigurationError, CorpusError
from sclm_hf.files import sole_writer
from sclm_hf.sources.shards.manifest import read_manifest

from ..conftest import GENES, make_cells

SMALL = {"block_size": 8, "window_size": 48, "group_size": 12, "label_column": "cell_type"}
HOW = {"obs_columns": ["cell_type", "donor"], "shard_size": 64}


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    make_cells(300, 1).write_h5ad(folder / "one.h5ad")
    other = make_cells(90, 2, [*GENES[::-1], "UNKNOWN"])
    other.var["gene_ids"] = [f"ENSG{number:011}" for number in range(41)]
    other.write_h5ad(folder / "two.h5ad")
    return folder


def files_in(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_shards_stream_as_the_files_that_they_were_made_from(inputs, tmp_path, processor):
    manifest = build_corpus(inputs, tmp_path / "out", **HOW)
    assert manifest.n_cells == 390
    assert [len(dataset.shards) for dataset in manifest.datasets.values()] == [5, 2]
    assert check_corpus(tmp_path / "out") == []
    files, shards = (CellCorpus(path, processor, **SMALL) for path in (inputs, tmp_path / "out"))
    assert (shards.label_names, shards.coverage) == (files.label_names, files.coverage)
    assert shards.order_id(12) == files.order_id(12)
    for want, have in zip(files.batches(12), shards.loader(12, num_workers=1), strict=True):
        for name, values in want.items():
            np.testing.assert_array_equal(have[name].numpy(), values)
    alone = CellCorpus(tmp_path / "out" / "data" / "two", processor, **SMALL)
    assert (len(alone), [source.name for source in alone.sources]) == (90, ["two"])
    assert shards.sources[1].genes() == ([*GENES[::-1], "UNKNOWN"], [f"ENSG{number:011}" for number in range(41)])
    assert shards.sources[0].obs_names().tolist() == [f"cell1_{row}" for row in range(300)]
    with pytest.raises(CorpusError, match="no obs column `kind`; it has"):
        shards.sources[0].column("kind")
    with pytest.raises(CorpusError, match="no layer `counts`"):
        CellCorpus(tmp_path / "out", processor, layer="counts")


def test_the_same_cells_give_the_same_bytes(inputs, tmp_path):
    for name in ("first", "second"):
        build_corpus(inputs, tmp_path / name, title="Cells", **HOW)
    assert files_in(tmp_path / "first") == files_in(tmp_path / "second")


def test_what_is_not_there_or_not_wanted_is_left_out_and_counted(inputs, tmp_path, processor):
    cells = make_cells(200)
    counts = cells.X.toarray()
    counts[[3, 70, 71]] = 0
    cells.X = counts
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(object).where(np.arange(200) != 5)
    cells.obs["cell_type"] = cells.obs["cell_type"].astype("category")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    manifest = build_corpus(tmp_path / "cells.h5ad", tmp_path / "out", **HOW)
    dataset = manifest.datasets["cells"]
    assert (dataset.n_cells, dataset.n_empty, [shard.n_empty for shard in dataset.shards]) == (197, 3, [1, 2, 0, 0])
    assert check_corpus(tmp_path / "out") == []
    column = CellCorpus(tmp_path / "out", processor).sources[0].column("cell_type")
    assert np.flatnonzero(column.codes < 0).tolist() == [4]
    assert sum(dataset.labels["cell_type"].values()) == 196
    part = build_corpus(tmp_path / "cells.h5ad", tmp_path / "part", where={"donor": "d1"}, **HOW)
    assert part.n_cells == sum(cells.obs["donor"].to_numpy()[counts.sum(axis=1) > 0] == "d1")


def test_wide_counts_and_unsorted_rows(tmp_path, processor):
    cells = make_cells(80)
    cells.X.data[0] = 70000
    expected = cells.X.toarray()
    flipped = cells.X.indptr.repeat(2)[1:-1].reshape(-1, 2)
    for start, stop in flipped:
        cells.X.indices[start:stop], cells.X.data[start:stop] = (
            cells.X.indices[start:stop][::-1].copy(),
            cells.X.data[start:stop][::-1].copy(),
        )
    cells.X.has_sorted_indices = False
    cells.write_h5ad(tmp_path / "cells.h5ad")
    manifest = build_corpus(tmp_path / "cells.h5ad", tmp_path / "out", shard_size=64)
    assert [shard.largest_count for shard in manifest.datasets["cells"].shards] == [70000, int(expected[64:].max())]
    source = CellCorpus(tmp_path / "out", processor).sources[0]
    for rows in (np.arange(80), np.array([2, 63, 64, 79]), np.array([], int)):
        matrix = source.read(rows)
        assert matrix.dtype == np.uint32
        np.testing.assert_array_equal(matrix.toarray(), expected[rows])


@pytest.mark.parametrize("stream", [True, False])
def test_datasets_reads_the_folder(inputs, tmp_path, stream):
    datasets = pytest.importorskip("datasets")
    manifest = build_corpus(inputs, tmp_path / "out", license="cc-by-4.0", **HOW)
    cache = {"streaming": stream, "split": "train", "cache_dir": str(tmp_path / "cache")}
    cells = datasets.load_dataset(str(tmp_path / "out"), **cache)
    lists = {name: datasets.List(datasets.Value("uint16")) for name in ("gene_index", "counts")}
    assert cells.features["gene_index"] == lists["gene_index"] and cells.features["counts"] == lists["counts"]
    rows = list(cells)
    assert len(rows) == 390 and {row["dataset"] for row in rows} == {"one", "two"}
    genes = list(datasets.load_dataset(str(tmp_path / "out"), "genes", **cache))
    names = {(gene["dataset"], gene["gene_index"]): gene["gene_name"] for gene in genes}
    for name in manifest.datasets:
        source = anndata.read_h5ad(inputs / f"{name}.h5ad")
        part = list(datasets.load_dataset(str(tmp_path / "out"), name, **cache))
        assert [row["cell_name"] for row in part] == list(source.obs_names)
        for row in (part[0], part[-1]):
            counts = source[row["cell_name"]].to_df().iloc[0]
            found = {names[name, gene]: count for gene, count in zip(row["gene_index"], row["counts"], strict=True)}
            assert found == counts[counts > 0].to_dict()
            cell_type = cells.features["cell_type"].int2str(row["cell_type"])
            assert cell_type == source.obs.loc[row["cell_name"], "cell_type"]


def test_datasets_reads_classes_with_the_numbers_of_the_corpus(inputs, tmp_path, processor):
    datasets = pytest.importorskip("datasets")
    build_corpus(inputs, tmp_path / "out", **HOW)
    corpus = CellCorpus(tmp_path / "out", processor, label_column="cell_type")
    for name in ("default", "one", "two"):
        cells = datasets.load_dataset(str(tmp_path / "out"), name, split="train", cache_dir=str(tmp_path / "cache"))
        assert cells.features["cell_type"] == datasets.ClassLabel(names=corpus.label_names)


def test_columns_of_many_values_stay_text(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr("sclm_hf.corpora.building.dataset_card._MOST_CLASSES", 1)
    build_corpus(inputs, tmp_path / "out", **HOW)
    header = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---")[1])
    assert {"name": "cell_type", "dtype": "string"} in header["dataset_info"][0]["features"]


def test_card_says_what_is_there(inputs, tmp_path):
    cells = make_cells(70)
    cells.obs["assay"] = "10x 3' v3"
    cells.write_h5ad(tmp_path / "cells.h5ad")
    card = {"title": "Blood", "license": "mit", "organism": "Homo sapiens", "description": "Cells of blood."}
    build_corpus(tmp_path / "cells.h5ad", tmp_path / "out", obs_columns=["assay", "cell_type"], **card)
    text = (tmp_path / "out" / "README.md").read_text()
    for part in ("license: mit", "# Blood", "Cells of blood.", "Homo sapiens", "10x 3' v3", "n<1K", "| cells | 70 |"):
        assert part in text
    huggingface_hub = pytest.importorskip("huggingface_hub")
    assert huggingface_hub.DatasetCard(text).data.license == "mit"


def test_a_stopped_build_goes_on_and_ends_with_the_same_bytes(inputs, tmp_path, monkeypatch):
    build_corpus(inputs, tmp_path / "whole", title="Cells", **HOW)
    original, written, stops = build_module.write_shard, [], [2, 3, 6]

    def failing(path, *args):
        if stops and len(written) == stops[0]:
            stops.pop(0)
            path.write_bytes(b"half a shard")
            raise OSError(28, "No space left on device")
        written.append(path)
        return original(path, *args)

    monkeypatch.setattr(build_module, "write_shard", failing)
    while stops:
        with pytest.raises(CorpusError, match=r"\.parquet` cannot be written: No space left"):
            build_corpus(inputs, tmp_path / "out", title="Cells", **HOW)
        assert not (tmp_path / "out" / "manifest.json").exists()
        assert not list((tmp_path / "out").rglob("*.tmp"))
    build_corpus(inputs, tmp_path / "out", title="Cells", **HOW)
    assert len(written) == 7
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")
    build_corpus(inputs, tmp_path / "out", title="Cells", **HOW)
    assert len(written) == 7


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(inputs, tmp_path, monkeypatch):
    build_corpus(inputs, tmp_path / "whole", title="Cells", **HOW)
    original = build_module.write_shard
    monkeypatch.setattr(build_module, "write_shard", lambda *args: (time.sleep(0.02), original(*args))[1])
    rng = np.random.default_rng(0)
    for _ in range(6):
        child = os.fork()
        if child == 0:
            # by default tqdm's lock is shared with this process, which would wait forever for a child killed with it
            # (without bars it is that of this class; other classes of bars may have one of their own)
            tqdm.set_lock(threading.RLock())
            os.environ["SCLM_NO_PROGRESS"] = "1"
            build_corpus(inputs, tmp_path / "out", title="Cells", **HOW)
            os._exit(0)
        time.sleep(rng.uniform(0.02, 0.25))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    monkeypatch.undo()
    build_corpus(inputs, tmp_path / "out", title="Cells", **HOW)
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")


def test_a_folder_with_something_else_is_refused(inputs, tmp_path):
    build_corpus(inputs, tmp_path / "out", **HOW)
    with pytest.raises(ConfigurationError, match="made from other inputs or settings"):
        build_corpus(inputs, tmp_path / "out", obs_columns=["donor"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="is not empty"):
        build_corpus(inputs, tmp_path / "full")
    (tmp_path / "out" / "manifest.json").rename(tmp_path / "out" / "build.json")
    with pytest.raises(ConfigurationError, match="unfinished build from other"):
        build_corpus(inputs, tmp_path / "out", obs_columns=["donor"])


def refused(change):
    cells = make_cells(20)
    change(cells)
    return cells


def double_gene(cells):
    cells.var_names = [*GENES[:-1], GENES[0]]


def double_cell(cells):
    cells.obs_names = ["same", "same", *cells.obs_names[2:]]


def normalise(cells):
    cells.X = cells.X.log1p()


@pytest.mark.filterwarnings("ignore:.*names are not unique")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (double_gene, r"more than one gene of the same name, such as \['GENE0'\].*var_names_make_unique"),
        (double_cell, r"more than one cell of the same name, such as \['same'\].*obs_names_make_unique"),
        (normalise, r"judged by 20 of its cells"),
        (lambda cells: cells.obs.pop("donor"), r"no obs columns \['donor'\]"),
    ],
)
def test_what_makes_no_shards_is_refused_before_anything_is_written(tmp_path, change, message):
    make_cells(20).write_h5ad(tmp_path / "a.h5ad")
    refused(change).write_h5ad(tmp_path / "b.h5ad")
    with pytest.raises(ValueError, match=rf"b\.h5ad`.*{message}"):
        build_corpus([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / "out", **HOW)
    assert not (tmp_path / "out").exists()


def test_impossible_settings_are_refused(inputs, tmp_path):
    with pytest.raises(CorpusError, match="`has space` cannot be the name"):
        build_corpus({"has space": inputs / "one.h5ad"}, tmp_path / "out")
    with pytest.raises(CorpusError, match=r"`\.\./x` cannot be the name"):
        build_corpus({"../x": inputs / "one.h5ad"}, tmp_path / "out")
    with pytest.raises(ConfigurationError, match="`shard_size`"):
        build_corpus(inputs, tmp_path / "out", shard_size=0)
    cells = make_cells(20)
    cells.obs["counts"] = pd.Categorical(["x"] * 20)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ConfigurationError, match=r"holds \['counts'\]"):
        build_corpus(tmp_path / "cells.h5ad", tmp_path / "out", obs_columns=["counts"])


def test_manifest_names_no_path_of_this_machine(inputs, tmp_path):
    build_corpus(inputs, tmp_path / "out", **HOW)
    for name, content in files_in(tmp_path / "out").items():
        assert str(Path.home()).encode() not in content and str(tmp_path).encode() not in content, name
    assert read_manifest(tmp_path / "out").datasets["one"].source == "one.h5ad"


def test_one_build_at_a_time_writes_to_a_folder(inputs, tmp_path):
    with sole_writer(tmp_path / "out"), pytest.raises(ConfigurationError, match="out` is being written by process"):
        build_corpus(inputs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
