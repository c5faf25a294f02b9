"""A file in shards, and its parts joined again."""

import json

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from sclm_hf import ScGPTForSequenceClassification
from sclm_hf.cli.main import make_app
from sclm_hf.errors import ConfigurationError, CorpusError, SclmWarning
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.tasks.files.merging import merge_shards
from sclm_hf.tasks.running import batches

from ..tiny import make_cells, save_checkpoint


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(batches, "BLOCK_SIZE", 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model"), ScGPTForSequenceClassification)


@pytest.fixture
def source(tmp_path):
    cells = make_cells()
    cells.obs["kind"] = pd.Categorical(["a", "b", "c"] * 7 + ["a", "b"])
    cells.write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


def run_shards(verb, source, model, n_shards, **settings):
    """The files of the shards."""
    destination = source.with_name("out.h5ad")
    shards = [f"{number}/{n_shards}" for number in range(1, n_shards + 1)]
    return [run_files(verb, source, destination, model, shard=shard, **settings)[0].path for shard in shards]


def stored(path, place):
    """Every array below a group of a file, as it is stored."""
    arrays = {}
    with h5py.File(path) as file:
        file[place].visititems(lambda name, item: arrays.update({name: item[()]} if hasattr(item, "dtype") else {}))
    return arrays


@pytest.mark.parametrize("n_shards", [2, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 4))])
@pytest.mark.parametrize("verb", ["embed", "annotate"])
def test_merged_shards_are_the_same_to_the_last_bit_as_one_run(verb, n_shards, source, model, tmp_path):
    ((whole, key),) = run_files(verb, source, tmp_path / "whole.h5ad", model)
    parts = run_shards(verb, source, model, n_shards)
    merged = merge_shards(tmp_path / "merged.h5ad", parts[::-1], source)
    assert merged.key == key
    for place in ("obs", "obsm", "uns", "X"):
        expected, found = stored(whole, place), stored(merged.path, place)
        assert list(found) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=f"{place}/{name}")
            assert found[name].dtype == array.dtype if hasattr(array, "dtype") else found[name] == array
    assert run_files(verb, source, merged.path, model) == [merged], "the run of all cells finds itself finished"


@pytest.mark.slow
def test_map_by_shards_counts_the_unknown_of_all(source, model, tmp_path):
    reference = make_cells(60, seed=3)
    reference.obs_names = [f"reference {number}" for number in range(60)]
    reference.obs["type"] = ["a", "b"] * 30
    index = {"reference": reference, "label_key": "type", "index": tmp_path / "index", "unknown_quantile": 0.5}
    ((whole, key),) = run_files("map", source, tmp_path / "whole.h5ad", model, **index)
    parts = run_shards("map", source, model, 3, **index)
    merged = anndata.read_h5ad(merge_shards(tmp_path / "merged.h5ad", parts, source).path)
    expected = anndata.read_h5ad(whole)
    pd.testing.assert_frame_equal(merged.obs, expected.obs)
    assert merged.uns["sclm_hf"][key]["n_unknown"] == expected.uns["sclm_hf"][key]["n_unknown"] > 0


def test_without_the_input_a_merged_file_holds_names_and_results(source, model, tmp_path):
    merged = anndata.read_h5ad(merge_shards(tmp_path / "merged.h5ad", run_shards("embed", source, model, 2)).path)
    assert merged.X is None and list(merged.obs_names) == list(make_cells().obs_names)
    assert merged.obsm["X_scgpt"].shape == (23, 32)


def test_each_shard_has_its_own_file_with_its_cells_only(source, model):
    first, second = run_shards("embed", source, model, 2)
    assert (first.name, second.name) == ("out.1-of-2.h5ad", "out.2-of-2.h5ad")
    assert anndata.read_h5ad(first).n_obs + anndata.read_h5ad(second).n_obs == 23
    assert anndata.read_h5ad(second).obs_names[-1] == "cell 22" and anndata.read_h5ad(first).n_vars == 0


def test_a_shard_that_was_stopped_goes_on_and_one_that_is_finished_is_not_run_again(source, model, monkeypatch):
    run, ran = batches._run_rows, []

    def stops(loaded, cells, rows, *others):
        ran.append(rows[0])
        if rows[0] == 16 and len(ran) < 3:
            raise KeyboardInterrupt
        return run(loaded, cells, rows, *others)

    monkeypatch.setattr(batches, "_run_rows", stops)
    with pytest.raises(KeyboardInterrupt):
        run_files("embed", source, source.with_name("out.h5ad"), model, shard="2/2")
    for _ in range(2):
        run_files("embed", source, source.with_name("out.h5ad"), model, shard="2/2")
    assert ran == [12, 16, 16, 20]


def test_lost_and_doubled_cells_are_refused(source, model, tmp_path):
    parts = run_shards("embed", source, model, 4)
    with pytest.raises(ConfigurationError, match=r"of 23 are lost: no part holds 1 shard, 2/4. Name .*`--shard 2/4`"):
        merge_shards(tmp_path / "merged.h5ad", [parts[0], *parts[2:]])
    with pytest.raises(ConfigurationError, match="both hold cell 'cell 4': name each shard once"):
        merge_shards(tmp_path / "merged.h5ad", [*parts, parts[1]])
    assert not (tmp_path / "merged.h5ad").exists()


def test_a_merged_file_is_found_finished_and_another_is_not_replaced(source, model, tmp_path):
    parts = run_shards("embed", source, model, 2)
    merged = merge_shards(tmp_path / "merged.h5ad", parts, source)
    written = merged.path.stat().st_mtime_ns
    assert merge_shards(merged.path, parts, source) == merged and merged.path.stat().st_mtime_ns == written
    with pytest.raises(ConfigurationError, match=r"exists and is not the result .* `overwrite` \(`--overwrite`\)"):
        merge_shards(merged.path, parts)
    assert merge_shards(merged.path, parts, overwrite=True) == merged == merge_shards(merged.path, parts)
    assert anndata.read_h5ad(merged.path).X is None


def test_parts_of_other_runs_are_refused_by_what_differs(source, model, tmp_path):
    parts = run_shards("embed", source, model, 2)
    ((thirds, _),) = run_files("embed", source, tmp_path / "out.h5ad", model, shard="2/3")
    ((seeded, _),) = run_files("embed", source, tmp_path / "seeded.h5ad", model, shard="2/2", seed=1)
    other = save_checkpoint(tmp_path / "other", ScGPTForSequenceClassification, dropout=0.3)
    ((of_other, _),) = run_files("embed", source, tmp_path / "of_other.h5ad", other, shard="2/2")
    make_cells(23, seed=1).write_h5ad(tmp_path / "cells.h5ad")
    ((cells, _),) = run_files("embed", tmp_path / "cells.h5ad", tmp_path / "cells_out.h5ad", model, shard="2/2")
    differing = {thirds: "shards", seeded: "seed", of_other: "model", cells: "coverage of the genes, source"}
    for path, differs in differing.items():
        with pytest.raises(ConfigurationError, match=f"parts of one run; they differ in {differs}"):
            merge_shards(tmp_path / "merged.h5ad", [parts[0], path])


def test_what_is_no_part_and_another_input_are_refused(source, model, tmp_path):
    parts = run_shards("embed", source, model, 2)
    with pytest.raises(CorpusError, match="holds no results of a shard: expected a file that `--shard` wrote"):
        merge_shards(tmp_path / "merged.h5ad", [source])
    make_cells(20).write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(ConfigurationError, match=r"other.h5ad` is not the file that .* name `in.h5ad` as it was"):
        merge_shards(tmp_path / "merged.h5ad", parts, tmp_path / "other.h5ad")
    with pytest.raises(ConfigurationError, match="Name the files of the shards"):
        merge_shards(tmp_path / "merged.h5ad", [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "value", "what"), [("device", "cuda", "device"), ("settings/batch_size", 7, "batch sizes")]
)
def test_parts_made_in_other_ways_are_merged_with_a_warning(place, value, what, source, model, tmp_path):
    parts = run_shards("embed", source, model, 2)
    with h5py.File(parts[1], "r+") as file:
        record = file["uns/sclm_hf/X_scgpt"]
        del record[place]
        anndata.io.write_elem(record, place, value)
    with pytest.warns(SclmWarning, match=f"made with different {what}: their results may differ in the last digits"):
        merge_shards(tmp_path / "merged.h5ad", parts)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2"])
def test_shards_that_do_not_exist_are_refused(shard, source, model):
    with pytest.raises(ConfigurationError, match=r"`shard` \(`--shard`\) must be the number of a shard, from 1"):
        run_files("embed", source, source.with_name("out.h5ad"), model, shard=shard)


def test_more_shards_than_blocks_folders_and_verbs_that_need_all_cells_are_refused(source, model, tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"23 cells, which are run in 6 blocks of 4: .* at most 6 shards, got 7"
    ):
        run_files("embed", source, tmp_path / "out.h5ad", model, shard="1/7")
    with pytest.raises(ConfigurationError, match="is a folder of files"):
        run_files("embed", tmp_path, tmp_path / "out", model, shard="1/2")
    with pytest.raises(ConfigurationError, match="`evaluate` needs all cells"):
        run_files("evaluate", source, tmp_path / "out.h5ad", model, shard="1/2", label_key="kind")


def test_the_commands_run_shards_and_merge_them(source, model, tmp_path):
    def run(*arguments):
        result = CliRunner().invoke(make_app(), list(map(str, arguments)))
        assert result.exit_code == 0, result.output
        return result.output

    for shard in ("1/2", "2/2"):
        run("embed", source, tmp_path / "out.h5ad", "--model", model, "--shard", shard)
    parts = [tmp_path / f"out.{number}-of-2.h5ad" for number in (1, 2)]
    output = run("merge", tmp_path / "merged.h5ad", *parts, "--input", source)
    assert f"Wrote {tmp_path / 'merged.h5ad'} with 23 cells of 2 shards." in output
    told = json.loads(run("merge", tmp_path / "merged.h5ad", *parts, "--input", source, "--json"))
    assert told["file"] == str(tmp_path / "merged.h5ad") and told["n_cells"] == 23
