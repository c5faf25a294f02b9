import pytest
from typer.testing import CliRunner

from sclm_hf.cli.main import app

from ..corpora.conftest import GENES, make_cells, make_processor


def run(*arguments):
    return CliRunner().invoke(app, ["corpus", *map(str, arguments)])


def test_build_info_and_check(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        make_cells(50, seed).write_h5ad(tmp_path / f"{name}.h5ad")
    options = ["--obs-column", "cell_type", "--obs-column", "donor", "--license", "mit", "--organism", "human"]
    built = run("build", tmp_path / "a.h5ad", f"second={tmp_path / 'b.h5ad'}", tmp_path / "out", *options)
    assert built.exit_code == 0, built.output
    assert "100 cells of 2 data sets in 2 shards" in built.output
    checked = run("check", tmp_path / "out")
    assert checked.exit_code == 0 and "is sound" in checked.output
    make_processor().save_pretrained(tmp_path / "processor")
    told = run("info", tmp_path / "out", "--column", "cell_type", "--model", tmp_path / "processor")
    assert told.exit_code == 0, told.output
    for part in ("second", "100", "100.0%", str(len(GENES)), "cell_type, donor", "NK"):
        assert part in told.output


def test_build_keeps_the_cells_asked_for(tmp_path):
    cells = make_cells(50)
    cells.write_h5ad(tmp_path / "a.h5ad")
    built = run("build", tmp_path / "a.h5ad", tmp_path / "out", "--where", "cell_type=B", "--where", "cell_type=NK")
    assert f"{(cells.obs['cell_type'] != 'T').sum()} cells of 1 data set in 1 shard." in built.output
    assert f"a: {(cells.obs['cell_type'] == 'T').sum()} cells that `--where` excludes" in built.output
    assert "must be COLUMN=VALUE" in run("build", tmp_path / "a.h5ad", tmp_path / "x", "--where", "B").stderr


def test_check_names_what_is_broken_and_fails(tmp_path):
    make_cells(50).write_h5ad(tmp_path / "a.h5ad")
    assert run("build", tmp_path / "a.h5ad", tmp_path / "out").exit_code == 0
    shard = tmp_path / "out" / "data" / "a" / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    result = run("check", tmp_path / "out")
    assert result.exit_code == 1
    assert "00000.parquet` has 100 bytes" in result.stderr and "problems." in result.stderr


def test_our_errors_are_a_message(tmp_path):
    make_cells(50).write_h5ad(tmp_path / "a.h5ad")
    twice = run("info", tmp_path / "a.h5ad", f"a={tmp_path / 'a.h5ad'}")
    assert twice.exit_code == 1 and "Two inputs have the name `a`" in twice.stderr
    missing = run("info", tmp_path / "nothing.h5ad")
    assert missing.exit_code == 1 and missing.stderr.startswith("Error: ") and "does not exist" in missing.stderr


def test_build_writes_conversations(tmp_path):
    datasets = pytest.importorskip("datasets")
    make_cells(50, 1).write_h5ad(tmp_path / "a.h5ad")
    options = ["--instructions", "compare", "--column", "cell_type=cell_type", "--match", "donor", "--n-genes", "5"]
    built = run("build", tmp_path / "a.h5ad", tmp_path / "out", *options, "--license", "mit")
    assert built.exit_code == 0, built.output
    assert "50 conversations of 50 cells in 1 shard." in built.output
    rows = list(datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")))
    assert len(rows) == 50 and rows[0]["prompt"][0]["role"] == "user"
    assert "of type" in rows[0]["completion"][0]["content"] or "Cell 1: " in rows[0]["completion"][0]["content"]


def test_settings_of_conversations_need_conversations(tmp_path):
    make_cells(50).write_h5ad(tmp_path / "a.h5ad")
    alone = run("build", tmp_path / "a.h5ad", tmp_path / "out", "--control", "none")
    assert alone.exit_code == 1 and "`--control` is about conversations" in alone.stderr
    broken = run("build", tmp_path / "a.h5ad", tmp_path / "out", "--instructions", "annotate", "--column", "cell_type")
    assert broken.exit_code == 1 and "`--column` must be SLOT=VALUE" in broken.stderr
    counts = run("build", tmp_path / "a.h5ad", tmp_path / "out", "--instructions", "annotate", "--obs-column", "donor")
    assert counts.exit_code == 1 and "`--obs-column` is about counts" in counts.stderr
    unheard = run("build", tmp_path / "a.h5ad", tmp_path / "out", "--instructions", "sing")
    assert unheard.exit_code == 1 and "sing" in unheard.stderr and not (tmp_path / "out").exists()
