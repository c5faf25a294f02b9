import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from sclm_hf import ScGPTForSequenceClassification, annotate, embed
from sclm_hf.corpora.building.build import build_corpus
from sclm_hf.errors import ConfigurationError, CorpusError, ExpressionError, FilesError, SclmError
from sclm_hf.files import sole_writer
from sclm_hf.tasks.files import file_to_file, pieces, results
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.tasks.running import batches

from ..tiny import make_cells, make_model, make_processor, save_checkpoint


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(batches, "BLOCK_SIZE", 5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model"), ScGPTForSequenceClassification)


@pytest.fixture
def source(tmp_path):
    cells = make_cells()
    cells.obs["kind"] = pd.Categorical(["a", "b", "c"] * 7 + ["a", "b"])
    cells.obsm["X_pca"] = np.ones((23, 2))
    cells.write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


@pytest.fixture
def runs(monkeypatch):
    """Numbers of cells that went through the model, batch by batch."""
    counted, run = [], batches._try_batch
    monkeypatch.setattr(batches, "_try_batch", lambda *args: counted.append(len(args[2])) or run(*args))
    return counted


def test_a_file_gets_what_the_function_gives_and_keeps_what_it_had(source, model, tmp_path):
    expected = embed(anndata.read_h5ad(source), model)
    ((path, _),) = run_files("embed", source, tmp_path / "out.h5ad", model)
    written = anndata.read_h5ad(path)
    np.testing.assert_array_equal(written.obsm["X_scgpt"], expected.obsm["X_scgpt"])
    np.testing.assert_array_equal(written.X.toarray(), expected.X.toarray())
    pd.testing.assert_frame_equal(written.obs, expected.obs)
    assert set(written.obsm) == {"X_pca", "X_scgpt"}
    record = written.uns["sclm_hf"]["X_scgpt"]
    assert (
        record["settings"] == expected.uns["sclm_hf"]["X_scgpt"]["settings"]
        and record["data"] == expected.uns["sclm_hf"]["X_scgpt"]["data"] == "X"
    )
    assert record["coverage"] == expected.uns["sclm_hf"]["X_scgpt"]["coverage"]
    assert sorted(os.listdir(tmp_path)) == ["in.h5ad", "out.h5ad"]


@pytest.mark.parametrize(
    ("place", "remedy"),
    [
        ("raw", 'name with `layer` (`--layer`) where raw counts are ("X");'),
        ('layers["counts"]', 'name with `layer` (`--layer`) where raw counts are ("X");'),
        ("X", "there are no other data in it: take the file from before normalisation;"),
    ],
)
def test_errors_name_the_file_and_where_in_it_the_data_are(model, tmp_path, place, remedy):
    cells = make_cells()
    logged = cells.copy()
    logged.X = logged.X.log1p()
    if place == "raw":
        cells.raw = logged
    elif place == "X":
        cells = logged
    else:
        cells.layers["counts"] = logged.X
    cells.write_h5ad(tmp_path / "in.h5ad")
    message = re.escape(f"of the values in {place} are fractional: {remedy}")
    for run in (
        lambda: embed(cells, model),
        lambda: run_files("embed", tmp_path / "in.h5ad", tmp_path / "out.h5ad", model),
    ):
        with pytest.raises(ExpressionError, match=message) as caught:
            run()
    assert str(caught.value).startswith(f"`{tmp_path / 'in.h5ad'}`: ")


def test_a_file_whose_names_are_nullable_strings_has_as_many_cells(source, model, tmp_path):
    with h5py.File(source, "r+") as file:
        names, attributes = (
            file["obs/_index"][:],
            {"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"},
        )
        del file["obs/_index"]
        file.create_group("obs/_index").attrs.update(attributes)
        file["obs/_index/values"], file["obs/_index/mask"] = names, np.zeros(23, bool)
    ((path, key),) = run_files("embed", source, tmp_path / "out.h5ad", model)
    assert results.read_record(path, key)[1] == 23


def test_labels_stand_in_obs_beside_what_was_there(source, model, tmp_path):
    expected = annotate(anndata.read_h5ad(source), model, unassigned_threshold=0.4)
    ((path, _),) = run_files("annotate", source, tmp_path / "out.h5ad", model, unassigned_threshold=0.4)
    written = anndata.read_h5ad(path)
    pd.testing.assert_frame_equal(written.obs, expected.obs)
    np.testing.assert_array_equal(written.obsm["sclm_probabilities"], expected.obsm["sclm_probabilities"])
    assert list(written.uns["sclm_hf"]["sclm_prediction"]["label_names"]) == ["B cell", "CD4+/CD25 T Reg", "NK"]
    run_files("embed", path, tmp_path / "both.h5ad", model)
    assert set(anndata.read_h5ad(tmp_path / "both.h5ad").uns["sclm_hf"]) == {"sclm_prediction", "X_scgpt"}


@pytest.mark.parametrize("stop", [0, 1, 3, 4])
def test_a_stopped_run_goes_on_where_it_was(source, model, tmp_path, runs, monkeypatch, stop):
    save = pieces.Pieces.save

    def save_or_stop(self, number, piece):
        if number == stop:
            raise KeyboardInterrupt
        save(self, number, piece)

    monkeypatch.setattr(pieces.Pieces, "save", save_or_stop)
    with pytest.raises(KeyboardInterrupt):
        run_files("embed", source, tmp_path / "out.h5ad", model)
    assert not (tmp_path / "out.h5ad").exists()
    monkeypatch.setattr(pieces.Pieces, "save", save)
    runs.clear()
    run_files("embed", source, tmp_path / "out.h5ad", model)
    assert sum(runs) == 23 - 5 * stop
    expected = embed(anndata.read_h5ad(source), model).obsm["X_scgpt"]
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_scgpt"], expected)


@pytest.mark.parametrize("call", ["copyfile", "replace"])
def test_no_space_for_the_copy_loses_no_result(source, model, tmp_path, runs, monkeypatch, call):
    def full(*args):
        raise OSError(28, "No space left on device")

    module = shutil if call == "copyfile" else os
    with monkeypatch.context() as patched, pytest.raises(SclmError, match="No space left"):
        original = getattr(module, call)
        patched.setattr(module, call, lambda a, b: full() if "out.h5ad.partial" not in str(b) else original(a, b))
        run_files("embed", source, tmp_path / "out.h5ad", model)
    assert sorted(os.listdir(tmp_path)) == ["in.h5ad", "out.h5ad.partial"]
    runs.clear()
    run_files("embed", source, tmp_path / "out.h5ad", model)
    assert not runs and (tmp_path / "out.h5ad").exists()


def test_no_space_for_the_copy_is_told_before_a_model_is_loaded(source, tmp_path, monkeypatch):
    monkeypatch.setattr(results.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(ConfigurationError, match="make room"):
        run_files("embed", source, tmp_path / "out.h5ad", "never looked at")
    assert os.listdir(tmp_path) == ["in.h5ad"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room is made where the system can")
def test_no_space_for_the_results_is_told_before_hdf5_writes(source, model, tmp_path, runs):
    import resource

    limits, room = resource.getrlimit(resource.RLIMIT_FSIZE), source.stat().st_size + 2000
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(SclmError, match=r"File too large.*make room"):
            run_files("embed", source, tmp_path / "out.h5ad", model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(os.listdir(tmp_path)) == ["in.h5ad", "out.h5ad.partial"]
    runs.clear()
    assert run_files("embed", source, tmp_path / "out.h5ad", model) and not runs


def test_no_space_for_a_piece_is_told_and_the_others_stay(source, model, tmp_path, runs, monkeypatch):
    fsync, calls = os.fsync, []

    def fsync_or_full(file):
        calls.append(file)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        fsync(file)

    monkeypatch.setattr(os, "fsync", fsync_or_full)
    with pytest.raises(SclmError, match="make room"):
        run_files("embed", source, tmp_path / "out.h5ad", model)
    runs.clear()
    run_files("embed", source, tmp_path / "out.h5ad", model)
    assert sum(runs) == 23 - 10


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_a_damaged_piece_is_computed_again(source, model, tmp_path, runs, monkeypatch, damage):
    expected = embed(anndata.read_h5ad(source), model).obsm["X_scgpt"]
    with monkeypatch.context() as patched, pytest.raises(SclmError):
        patched.setattr(results.shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        run_files("embed", source, tmp_path / "out.h5ad", model)
    piece = tmp_path / "out.h5ad.partial" / "00000002.npz"
    content, middle = piece.read_bytes(), piece.stat().st_size // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    piece.write_bytes({"cut": content[:-7], "flipped": flipped, "emptied": b""}[damage])
    runs.clear()
    run_files("embed", source, tmp_path / "out.h5ad", model)
    assert sum(runs) == 5
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_scgpt"], expected)


_KILLED = """
import os, signal, sys
from sclm_hf.tasks.running import batches
from sclm_hf.tasks.files.file_to_file import run_files
source, destination, model, after = sys.argv[1:]
batches.BLOCK_SIZE, replace = 5, os.replace
def replace_and_die(old, new):
    if after == "copy" and str(new) == destination:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(old, new)
    if str(new).endswith({"piece": "01.npz", "rename": "/out.h5ad"}.get(after, "?")):
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace_and_die
run_files("embed", source, destination, model)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("after", "left"), [("piece", 13), ("copy", 0), ("rename", 0)])
def test_a_killed_run_goes_on_where_it_was(source, model, tmp_path, runs, after, left):
    path = tmp_path / "out.h5ad"
    root = str(Path(file_to_file.__file__).parents[3])
    killed = subprocess.run([sys.executable, "-c", _KILLED, source, path, model, after], cwd=root)
    assert killed.returncode == -signal.SIGKILL and path.exists() == (after == "rename")
    run_files("embed", source, path, model)
    assert sum(runs) == left and sorted(os.listdir(tmp_path)) == ["in.h5ad", "out.h5ad"]
    expected = embed(anndata.read_h5ad(source), model).obsm["X_scgpt"]
    np.testing.assert_allclose(anndata.read_h5ad(path).obsm["X_scgpt"], expected, atol=1e-6)


def test_a_run_killed_before_its_fingerprint_is_no_other_run(source, model, tmp_path):
    (tmp_path / "out.h5ad.partial").mkdir()
    assert run_files("embed", source, tmp_path / "out.h5ad", model)


def test_pieces_of_another_run_stay_when_the_file_is_finished(source, model, tmp_path):
    run_files("embed", source, tmp_path / "out.h5ad", model)
    other = tmp_path / "out.h5ad.partial"
    pieces.Pieces(other, {"seed": 1}).save(0, np.ones((5, 2)))
    run_files("embed", source, tmp_path / "out.h5ad", model)
    assert (other / "00000000.npz").exists()


def test_a_model_with_other_labels_is_another_model(source, model, tmp_path):
    other = Path(shutil.copytree(model, tmp_path / "other"))
    run_files("annotate", source, tmp_path / "out.h5ad", model)
    config = json.loads((other / "config.json").read_text())
    config |= {"id2label": {"0": "x", "1": "y", "2": "z"}, "label2id": {"x": 0, "y": 1, "z": 2}}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match="overwrite"):
        run_files("annotate", source, tmp_path / "out.h5ad", other)


@pytest.mark.parametrize("change", ["seed", "source", "model"])
def test_pieces_of_another_run_are_refused(source, model, tmp_path, monkeypatch, change):
    with monkeypatch.context() as patched, pytest.raises(SclmError):
        patched.setattr(results.shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        run_files("embed", source, tmp_path / "out.h5ad", model)
    how = {"seed": 1} if change == "seed" else {}
    if change == "source":
        make_cells(seed=1).write_h5ad(source)
    if change == "model":
        other = make_model(ScGPTForSequenceClassification)
        other.base_model.get_input_embeddings().weight.data[5] += 1
        other.save_pretrained(tmp_path / "other")
        make_processor().save_pretrained(tmp_path / "other")
        model = tmp_path / "other"
    with pytest.raises(ConfigurationError, match=change):
        run_files("embed", source, tmp_path / "out.h5ad", model, **how)
    run_files("embed", source, tmp_path / "out.h5ad", model, **how, overwrite=True)


def test_a_stopped_run_goes_on_with_smaller_batches(source, model, tmp_path, runs, monkeypatch):
    expected = embed(anndata.read_h5ad(source), model).obsm["X_scgpt"]
    with monkeypatch.context() as patched, pytest.raises(SclmError):
        patched.setattr(results.shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        run_files("embed", source, tmp_path / "out.h5ad", model)
    (tmp_path / "out.h5ad.partial" / "00000002.npz").unlink()
    runs.clear()
    run_files("embed", source, tmp_path / "out.h5ad", model, batch_size=2)
    assert sum(runs) == 5
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_allclose(written.obsm["X_scgpt"], expected, atol=1e-6)
    # and what is done with other batches is done
    runs.clear()
    run_files("embed", source, tmp_path / "out.h5ad", model, batch_size=3)
    assert not runs


def test_of_a_folder_only_the_unfinished_files_are_done(source, model, tmp_path, runs):
    folder, results = tmp_path / "cells", tmp_path / "results"
    folder.mkdir()
    for name in ("a", "b"):
        shutil.copy(source, folder / f"{name}.h5ad")
    written = run_files("embed", folder, results, model)
    assert [path for path, _ in written] == [results / "a.h5ad", results / "b.h5ad"] and sum(runs) == 46
    runs.clear()
    assert run_files("embed", folder, results, model) == written and not runs
    make_cells(9).write_h5ad(folder / "b.h5ad")
    with pytest.raises(FilesError, match=r"b\.h5ad` exists and is not the result") as caught:
        run_files("embed", folder, results, model)
    assert caught.value.written == written[:1]
    run_files("embed", folder, results, model, overwrite=True)
    assert sum(runs) == 9


def test_what_is_written_is_named_as_what_it_is(source, model, tmp_path):
    with pytest.raises(ConfigurationError, match=r"out\.csv` must be named `….h5ad`"):
        run_files("embed", source, tmp_path / "out.csv", model)
    build_corpus({"a": source, "b": source}, tmp_path / "shards")
    told = r"shards` is a folder of files and .*out\.h5ad`.*name a folder for all 2 data sets, or one .*data.a`"
    with pytest.raises(ConfigurationError, match=told):
        run_files("embed", tmp_path / "shards", tmp_path / "out.h5ad", model)
    assert sorted(os.listdir(tmp_path)) == ["in.h5ad", "shards"]


def test_zarr_and_shards_give_results_without_the_data(source, model, tmp_path):
    cells = anndata.read_h5ad(source)
    expected = embed(cells, model).obsm["X_scgpt"]
    cells.write_zarr(tmp_path / "in.zarr")
    build_corpus(source, tmp_path / "shards")
    shards = tmp_path / "shards"
    for number, path in enumerate((tmp_path / "in.zarr", shards / "data" / "in", shards)):
        run_files("embed", path, tmp_path / f"{number}.h5ad", model)
        written = anndata.read_h5ad(tmp_path / f"{number}.h5ad")
        assert written.X is None and list(written.obs_names) == list(cells.obs_names)
        np.testing.assert_array_equal(written.obsm["X_scgpt"], expected)


def test_the_source_is_never_written_to(source, model):
    with pytest.raises(ConfigurationError, match="source itself"):
        run_files("embed", source, source, model, overwrite=True)


def test_a_key_that_hdf5_takes_for_a_path_is_refused(source, model, tmp_path):
    with pytest.raises(ConfigurationError, match=r"must be a name without `/`.*got 'X/a'"):
        run_files("embed", source, tmp_path / "out.h5ad", model, key_added="X/a")
    assert not (tmp_path / "out.h5ad").exists()


def test_of_a_folder_the_good_files_are_done_and_the_bad_ones_named(source, model, tmp_path, runs):
    folder, results = tmp_path / "cells", tmp_path / "results"
    folder.mkdir()
    for name in ("a", "c", "e"):
        shutil.copy(source, folder / f"{name}.h5ad")
    (folder / "b.h5ad").write_text("no HDF5")
    unknown = make_cells(5)
    unknown.var_names = [f"other{number}" for number in range(91)]
    unknown.write_h5ad(folder / "d.h5ad")
    with pytest.raises(FilesError, match=r"2 of 5 files.*\n- `.*b\.h5ad`: .*\n- `.*d\.h5ad`: ") as caught:
        run_files("embed", folder, results, model)
    assert [path.name for path, _ in caught.value.written] == ["a.h5ad", "c.h5ad", "e.h5ad"]
    assert [path.name for path in caught.value.failed] == ["b.h5ad", "d.h5ad"]
    assert sorted(os.listdir(results)) == ["a.h5ad", "c.h5ad", "e.h5ad"] and sum(runs) == 69


def test_a_folder_of_bad_files_needs_no_model(tmp_path):
    (tmp_path / "cells").mkdir()
    for name in ("a", "b"):
        (tmp_path / "cells" / f"{name}.h5ad").write_text("no HDF5")
    with pytest.raises(FilesError, match="2 of 2 files"):
        run_files("embed", tmp_path / "cells", tmp_path / "results", "never looked at")


def edited(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def linked(place):
    def change(file):
        if place in file:
            del file[place]
        file[place] = h5py.ExternalLink("victim.h5ad", place)

    return change


@pytest.mark.parametrize(
    "place", ["obsm", "obs", "uns", "varm", "obsp", "layers", "obsm/X_scgpt", "uns/sclm_hf", "raw"]
)
@pytest.mark.parametrize("verb", ["embed", "annotate"])
def test_results_go_into_no_other_file(source, tmp_path, place, verb):
    victim = Path(shutil.copy(source, tmp_path / "victim.h5ad"))
    before = victim.read_bytes()
    edited(source, linked(place))
    with pytest.raises(CorpusError, match=rf"in\.h5ad`: `/{place}` is an external link"):
        run_files(verb, source, tmp_path / "out.h5ad", "never looked at")
    assert victim.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["in.h5ad", "victim.h5ad"]


def test_a_source_that_got_links_during_the_work_is_refused(source, model, tmp_path, monkeypatch):
    victim, copy = Path(shutil.copy(source, tmp_path / "victim.h5ad")), shutil.copyfile
    before = victim.read_bytes()
    monkeypatch.setattr(shutil, "copyfile", lambda a, b: copy(a, b) and edited(b, linked("obsm")))
    with pytest.raises(CorpusError, match="external link"):
        run_files("embed", source, tmp_path / "out.h5ad", model)
    assert victim.read_bytes() == before and not (tmp_path / "out.h5ad").exists()


def without_column_order(file):
    del file["obs"].attrs["column-order"]


def without_obsm(file):
    del file["obsm"]


def with_text_for_records(file):
    file["uns/sclm_hf"] = "text"


def with_text_for_uns(file):
    del file["uns"]
    file["uns"] = "text"


def with_a_link_that_leads_nowhere(file):
    del file["obsm"]
    file["obsm"] = h5py.SoftLink("/nowhere")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without_column_order, "no attribute 'column-order'"),
        (without_obsm, "no group obsm"),
        (with_text_for_records, "must be a mapping of records"),
        (with_text_for_uns, "no group uns"),
        (with_a_link_that_leads_nowhere, "no group obsm"),
    ],
)
def test_what_cannot_be_added_to_is_told_before_a_model_is_loaded(source, tmp_path, change, told):
    edited(source, change)
    with pytest.raises(ConfigurationError, match=rf"in\.h5ad`.*{told}"):
        run_files("annotate", source, tmp_path / "out.h5ad", "never looked at")
    assert os.listdir(tmp_path) == ["in.h5ad"]


@pytest.mark.parametrize("verb", ["embed", "annotate"])
def test_a_file_that_is_not_there_is_told_before_a_model_is_loaded(tmp_path, verb):
    with pytest.raises(CorpusError, match=r"absent\.h5ad` does not exist"):
        run_files(verb, tmp_path / "absent.h5ad", tmp_path / "out.h5ad", "never looked at")


@pytest.mark.parametrize(
    ("verb", "settings"),
    [
        ("map", {"reference": "other.h5ad", "label_key": "batch"}),
        ("multimodal", {"other": "other.h5ad", "kind": "protein"}),
        ("predict_perturbation", {"split": "other.h5ad"}),
        ("predict_perturbation", {"hold_out": 0.5, "truth": "other.h5ad"}),
        ("predict_perturbation", {"hold_out": 0.5, "write_split": "source"}),
    ],
)
def test_no_other_file_of_a_run_is_written_over(source, tmp_path, verb, settings):
    other = Path(shutil.copy(source, tmp_path / "other.h5ad"))
    places = {"other.h5ad": other, "source": source}
    named = {name: places.get(value, value) for name, value in settings.items()}
    with pytest.raises(ConfigurationError, match="named for something else too"):
        run_files(verb, source, other, "never looked at", overwrite=True, **named)


def test_a_file_that_anndata_could_not_open_afterwards_is_refused(source, model, tmp_path):
    edited(source, lambda file: file.create_group("uns/sclm_hf/other").attrs.update({"encoding-type": "unheard of"}))
    with pytest.raises(CorpusError, match="unheard of"):
        run_files("embed", source, tmp_path / "out.h5ad", "never looked at")


def test_a_link_and_a_pipe_are_no_place_for_results(source, tmp_path):
    victim = Path(shutil.copy(source, tmp_path / "victim.h5ad"))
    (tmp_path / "link.h5ad").symlink_to(victim)
    (tmp_path / "dangling.h5ad").symlink_to(tmp_path / "other.h5ad")
    os.mkfifo(tmp_path / "pipe.h5ad")
    for name, told in (("link", "is a link to .*victim"), ("dangling", "is a link to"), ("pipe", "is a pipe")):
        with pytest.raises(ConfigurationError, match=told):
            run_files("embed", source, tmp_path / f"{name}.h5ad", "never looked at", overwrite=True)
    assert victim.read_bytes() == source.read_bytes() and not (tmp_path / "other.h5ad").exists()


def test_a_link_in_place_of_the_unfinished_file_is_not_followed(source, model, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".out.h5ad.tmp").symlink_to(victim)
    run_files("embed", source, tmp_path / "out.h5ad", model)
    assert victim.read_text() == "precious" and sorted(os.listdir(tmp_path)) == ["in.h5ad", "out.h5ad", "victim"]


def test_a_second_run_into_an_output_is_told_at_once(source, tmp_path):
    with sole_writer(tmp_path / "out.h5ad"), pytest.raises(ConfigurationError, match=rf"process {os.getpid()} on"):
        run_files("embed", source, tmp_path / "out.h5ad", "never looked at")
    (tmp_path / "cells").mkdir()
    shutil.move(source, tmp_path / "cells" / "a.h5ad")
    with sole_writer(tmp_path / "results"), pytest.raises(ConfigurationError, match="results` is being written"):
        run_files("annotate", tmp_path / "cells", tmp_path / "results", "never looked at")


def test_a_second_process_is_told_who_writes_and_leaves_the_output_alone(source, tmp_path):
    output = tmp_path / "out.h5ad"
    code = "import sys; from sclm_hf import cli; cli.run()"
    command = [sys.executable, "-c", code, "embed", str(source), str(output), "--model", "never looked at"]
    with sole_writer(output):
        second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 1 and f"is being written by process {os.getpid()} on" in second.stderr
    assert "Traceback" not in second.stderr and os.listdir(tmp_path) == ["in.h5ad"]


def test_annotations_of_two_models_stand_side_by_side(source, model, tmp_path):
    run_files("annotate", source, tmp_path / "one.h5ad", model)
    ((_, key),) = run_files("annotate", tmp_path / "one.h5ad", tmp_path / "two.h5ad", model, key_added="second")
    written = anndata.read_h5ad(tmp_path / "two.h5ad")
    pd.testing.assert_series_equal(written.obs["second"], written.obs["sclm_prediction"], check_names=False)
    assert key == "second" and {"second_confidence", "sclm_confidence"} < set(written.obs)
    assert {"second_probabilities", "sclm_probabilities"} < set(written.obsm)
    assert set(written.uns["sclm_hf"]) == {"sclm_prediction", "second"}
    with pytest.raises(ConfigurationError, match="'_index' holds the names of the cells"):
        run_files("annotate", source, tmp_path / "three.h5ad", "never looked at", key_added="_index")


def test_pieces_go_into_no_other_folder(source, model, tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "out.h5ad.partial").symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigurationError, match=r"out\.h5ad\.partial`, where results are kept, is a link"):
        run_files("embed", source, tmp_path / "out.h5ad", model)
    assert not list((tmp_path / "victim").iterdir())


def test_a_folder_that_cannot_be_made_is_told_before_a_model_is_loaded(source, tmp_path):
    (tmp_path / "cells").mkdir()
    shutil.move(source, tmp_path / "cells")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"file/results` cannot be made"):
        run_files("embed", tmp_path / "cells", tmp_path / "file" / "results", "never looked at")


def test_a_result_whose_record_lies_elsewhere_is_none(source, model, tmp_path):
    run_files("embed", source, tmp_path / "victim.h5ad", model)
    shutil.copy(source, tmp_path / "out.h5ad")
    edited(tmp_path / "out.h5ad", linked("uns/sclm_hf"))
    with pytest.raises(ConfigurationError, match="is not the result of this command"):
        run_files("embed", source, tmp_path / "out.h5ad", model)
    with pytest.raises(CorpusError, match="external link"):
        results.read_record(tmp_path / "out.h5ad", "X_scgpt")
