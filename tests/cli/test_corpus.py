import pytest
import yaml
from typer.testing import CliRunner

from sclm_hf import CellCorpus
from sclm_hf.cli.main import app
from sclm_hf.errors import ConfigurationError
from sclm_hf.hub.evaluation_results import to_entries
from sclm_hf.hub.folder import read_folder

from ..corpora.conftest import GENES, make_cells, make_processor
from ..hub.test_card import METHOD, make_facts, make_table


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


def test_a_corpus_becomes_a_benchmark_whose_tasks_are_those_of_cards(tmp_path):
    make_cells(50).write_h5ad(tmp_path / "a.h5ad")
    options = ["--obs-column", "cell_type", "--title", "Fifty", "--description", "Cells: made up.", "--license", "mit"]
    assert run("build", tmp_path / "a.h5ad", tmp_path / "out", *options).exit_code == 0
    done = run("benchmark", tmp_path / "out", "--label-key", "cell_type")
    assert done.exit_code == 0 and "eval.yaml is written" in done.output.replace("\n", ""), done.output
    told = yaml.safe_load((tmp_path / "out" / "eval.yaml").read_text())
    assert (told["name"], told["evaluation_framework"]) == ("Fifty", "sclm_hf")
    assert told["description"] == "Cells: made up. Models name the cells; the truth is in `cell_type`."
    header = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---")[1])
    splits = {one["config_name"]: [file["split"] for file in one["data_files"]] for one in header["configs"]}
    assert all(task["split"] in splits[task["config"]] for task in told["tasks"])
    entries = to_entries(make_facts(results=[make_table()]).results, METHOD)
    assert {one.task_id for one in entries} == {task["id"] for task in told["tasks"]}
    with pytest.raises(ConfigurationError, match=r"say `sclm-hf card .* --model me/out`"):
        read_folder(tmp_path / "out", "me/out", repo_type="dataset")
    carded = CliRunner().invoke(app, ["card", str(tmp_path / "out"), "--model", "me/out"])
    assert carded.exit_code == 0, carded.output
    assert "eval.yaml" in read_folder(tmp_path / "out", "me/out", repo_type="dataset").files
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'load_dataset("me/out", "a"' in card and 'snapshot_download("me/out", repo_type="dataset")' in card
    assert run("check", tmp_path / "out").exit_code == 0 and len(CellCorpus(tmp_path / "out", make_processor())) == 50
    assert "--obs-column donor" in run("benchmark", tmp_path / "out", "--label-key", "donor").stderr.replace("\n", " ")


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
