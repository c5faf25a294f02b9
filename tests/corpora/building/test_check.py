import json
import os
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sclm_hf import CellCorpus
from sclm_hf.corpora.building.build import build_corpus, hash_file
from sclm_hf.corpora.building.check import check_corpus
from sclm_hf.errors import CorpusError
from sclm_hf.sources.opening import open_source

from ..conftest import make_cells

SHARD = "data/cells/00001.parquet"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_cells(200).write_h5ad(folder / "cells.h5ad")
    build_corpus(folder / "cells.h5ad", folder / "out", obs_columns=["cell_type"], shard_size=64)
    return folder / "out"


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "out")


def test_a_zarr_folder_has_nothing_to_check(tmp_path):
    make_cells(9).write_zarr(tmp_path / "cells.zarr")
    (problem,) = check_corpus(tmp_path / "cells.zarr")
    assert "cells.zarr` is a zarr folder" in problem and "corpus info" in problem


def change_manifest(folder, change):
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    (folder / "manifest.json").write_text(json.dumps(content))


def shards_of(content):
    return content["datasets"]["cells"]["shards"]


def change_column(folder, name, change, kind=None, row_group_size=32):
    """Rewrite a shard with a changed column, and with its new checksum in the manifest."""
    file = pq.ParquetFile(folder / SHARD)
    table, metadata = file.read(), file.metadata.metadata
    column = pa.array(change(table[name].to_pylist()), kind or table.schema.field(name).type)
    table = table.set_column(table.schema.get_field_index(name), name, column)
    with pq.ParquetWriter(folder / SHARD, table.schema, store_schema=False) as writer:
        writer.write_table(table, row_group_size=row_group_size)
        writer.add_key_value_metadata({"sclm_hf": metadata[b"sclm_hf"].decode()})

    def update(content):
        shard = content["datasets"]["cells"]["shards"][1]
        shard.update(n_bytes=(folder / SHARD).stat().st_size, sha256=hash_file(folder / SHARD))

    change_manifest(folder, update)


def test_a_sound_folder_has_no_problems(sound):
    assert check_corpus(sound) == []


def truncate(folder):
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-50])


def flip(folder):
    content = bytearray((folder / SHARD).read_bytes())
    content[len(content) // 4] ^= 255
    (folder / SHARD).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / SHARD).unlink(), "is missing"),
        (truncate, r"has [\d,]+ bytes, the manifest says"),
        (flip, "checksum"),
        (
            lambda folder: (folder / "data/cells/extra.parquet").write_bytes(b""),
            r"extra\.parquet` is not in the manifest",
        ),
        (lambda folder: (folder / "README.md").unlink(), r"README\.md` is missing"),
        (lambda folder: (folder / "genes.parquet").write_bytes(b"no"), r"genes\.parquet.*cannot be read as Parquet"),
        (
            lambda folder: (folder / "manifest.json").unlink(),
            r"holds no `manifest\.json`: expected a folder",
        ),
        (lambda folder: (folder / "manifest.json").write_text('{"format": '), "is not valid JSON"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), r"manifest\.json` is not valid JSON"),
        (lambda folder: (folder / "manifest.json").write_text("[" * 200_000), r"manifest\.json` is nested too deeply"),
        (lambda folder: (folder / SHARD).unlink() or os.mkfifo(folder / SHARD), r"00001\.parquet` is a pipe"),
        (
            lambda folder: (folder / SHARD).unlink() or (folder / SHARD).symlink_to(__file__),
            r"00001\.parquet` is a symbolic link that leads out of",
        ),
    ],
)
def test_broken_files_are_named(folder, change, message):
    change(folder)
    assert any(re.search(message, problem) for problem in check_corpus(folder))


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("cell_id", lambda ids: [ids[0] + 1, *ids[1:]], "cell ids are not those of the names of its cells"),
        ("gene_index", lambda rows: [[40], *rows[1:]], "row 0.*leave the 40 genes|differ in length"),
        ("gene_index", lambda rows: [row[::-1] for row in rows], "do not ascend"),
        ("counts", lambda rows: [[0] * len(row) for row in rows], "counts of 0"),
        ("counts", lambda rows: [row[:-1] for row in rows], "differ in length"),
        ("counts", lambda rows: [[1000] * len(row) for row in rows], "largest count is 1000"),
        ("cell_name", lambda names: ["same"] * len(names), r"more than one cell of the same name, such as \['same'\]"),
        ("dataset", lambda names: ["other"] * len(names), "not all of its cells are of the data set `cells`"),
    ],
)
def test_wrong_content_is_named_even_with_the_right_checksum(folder, column, change, message):
    change_column(folder, column, change)
    problems = check_corpus(folder)
    assert len(problems) == 1
    with pytest.raises(CorpusError, match=message):
        raise CorpusError(problems[0])


ELSEWHERE = (
    "../x.parquet",
    "/etc/x.parquet",
    "data/cells/../../x.parquet",
    "data/other/x.parquet",
    "data/cells/x.txt",
    "data\\cells\\x.parquet",
    "C:/data/x.parquet",
    "data//cells/x.parquet",
    "data/cells/..\\x.parquet",
    "",
)


@pytest.mark.parametrize("file", ELSEWHERE)
def test_paths_that_lead_elsewhere_are_refused(folder, file, processor):
    change_manifest(folder, lambda content: content["datasets"]["cells"]["shards"][0].update(file=file))
    with pytest.raises(CorpusError, match=r"manifest\.json` is damaged.*it may lead elsewhere"):
        CellCorpus(folder, processor)
    assert len(check_corpus(folder)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["datasets"].update({"../x": content["datasets"].pop("cells")}), "name of a data set"),
        (lambda content: content.update(format="sclm_hf corpus 9"), "does not say `format"),
        (lambda content: content.update(row_group_size="32"), "`row_group_size` is '32', not int"),
        (lambda content: content["datasets"]["cells"]["shards"][0].update(n_cells=-1), "`n_cells` is negative"),
        (lambda content: content["datasets"]["cells"]["shards"][0].pop("sha256"), "sha256"),
        (lambda content: content.update(datasets=[]), "is damaged"),
        (lambda content: content.update(more=1), "more"),
        (lambda content: shards_of(content).append(shards_of(content)[0]), r"names `data/.*00000\.parquet` 2 times"),
        (lambda content: shards_of(content)[0].update(n_cells=2**40), r"cannot hold 1,099,511,627,776 cells"),
        (lambda content: content.update(obs_columns=[["cell_type"]]), "`obs_columns` is .*not a list of text"),
    ],
)
def test_damaged_manifests_are_named(folder, processor, change, message):
    change_manifest(folder, change)
    with pytest.raises(CorpusError, match=message):
        CellCorpus(folder, processor)
    assert len(check_corpus(folder)) == 1


def test_streams_notice_what_is_broken(folder, processor):
    corpus = CellCorpus(folder, processor)
    os.utime(folder / SHARD, ns=(1, 1))
    with pytest.raises(CorpusError, match=r"00001\.parquet` changed"):
        list(corpus.batches(12))
    truncate(folder)
    with pytest.raises(CorpusError, match=r"00001\.parquet` has .* bytes, but the manifest says"):
        CellCorpus(folder, processor)
    size = json.loads((folder / "manifest.json").read_text())["datasets"]["cells"]["shards"][1]["n_bytes"]
    (folder / SHARD).write_bytes(np.random.default_rng(0).bytes(size))
    with pytest.raises(CorpusError, match=r"00001\.parquet` cannot be read as Parquet"):
        list(CellCorpus(folder, processor, lazy=True).batches(12))
    (folder / SHARD).unlink()
    with pytest.raises(CorpusError, match=r"00001\.parquet` cannot be read"):
        CellCorpus(folder, processor)


def test_few_shards_are_open_at_a_time(folder, processor, monkeypatch):
    expected = [batch["cell_ids"].tolist() for batch in CellCorpus(folder, processor).batches(12)]
    monkeypatch.setattr("sclm_hf.sources.shards.parquet._MAX_OPEN_SHARDS", 1)
    corpus = CellCorpus(folder, processor)
    assert [batch["cell_ids"].tolist() for batch in corpus.batches(12)] == expected
    assert len(corpus.sources[0]._open) == 1


def test_one_shard_is_no_corpus(folder, processor):
    with pytest.raises(CorpusError, match=r"is one shard: name the folder"):
        CellCorpus(folder / SHARD, processor)


def test_something_else_than_a_folder_of_shards_is_named(tmp_path):
    make_cells(5).write_h5ad(tmp_path / "cells.h5ad")
    for path in (tmp_path / "cells.h5ad", tmp_path / "nowhere", tmp_path):
        (problem,) = check_corpus(path)
        assert problem.startswith(f"`{path}` holds no `manifest.json`: expected a folder of shards")


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [("counts", -1, pa.int32()), ("counts", float("nan"), pa.float32()), ("gene_index", 0.5, pa.float32())],
)
def test_numbers_of_other_types_are_not_cut_to_counts(folder, processor, column, value, kind):
    change_column(folder, column, lambda rows: [[value] * len(row) for row in rows], pa.list_(kind))
    with pytest.raises(CorpusError, match=r"00001\.parquet`: its schema is"):
        list(CellCorpus(folder, processor).batches(16))
    assert len(check_corpus(folder)) == 1


def test_row_groups_of_other_sizes_would_give_the_wrong_cells(folder, processor):
    change_column(folder, "counts", lambda rows: rows, row_group_size=40)
    with pytest.raises(CorpusError, match=r"00001\.parquet`: its number of cells of row group 0 is 40, expected 32"):
        list(CellCorpus(folder, processor).batches(16))
    assert len(check_corpus(folder)) == 1


def test_cells_without_a_name_are_refused_where_names_are_needed(folder):
    change_column(folder, "cell_name", lambda names: [None, *names[1:]])
    source = open_source("cells", folder / "data" / "cells")
    with pytest.raises(CorpusError, match="1 of its cells have no `cell_name`"):
        source.obs_names()


def test_names_that_repeat_are_not_read_as_many_texts(folder):
    """A dictionary holds a long text once, however many rows of a small shard have it."""
    change_column(folder, "cell_name", lambda names: ["x" * 100_000] * len(names))
    source = open_source("cells", folder / "data" / "cells")
    with pytest.raises(CorpusError, match="63 of its cells have the `cell_name` of another one"):
        source.obs_names()
    assert re.search(r"more than one cell of the same name.*\(1 in all\)", check_corpus(folder)[0])


def test_columns_of_text_hold_each_value_once(folder):
    change_column(folder, "cell_type", lambda values: ["x" * 100_000, None] * (len(values) // 2))
    column = open_source("cells", folder / "data" / "cells").column("cell_type")
    assert column.categories[column.codes[64]] == "x" * 100_000 and column.codes[65] == -1
    assert len({id(text) for text in column.categories}) == len(column.categories)


def test_a_row_group_of_more_counts_than_genes_is_refused(folder):
    change_column(folder, "counts", lambda rows: [[1] * 41] * len(rows))
    change_column(folder, "gene_index", lambda rows: [[0] * 41] * len(rows))
    source = open_source("cells", folder / "data" / "cells")
    with pytest.raises(CorpusError, match=r"00001\.parquet`: its row group 0 claims to hold 1,312 counts"):
        source.read(np.arange(70))
