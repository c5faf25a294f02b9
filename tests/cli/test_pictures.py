"""Pictures beside what verbs write."""

import anndata
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from sclm_hf.cli.main import make_app
from sclm_hf.evaluation.plots import plot_confusion, plot_distances
from sclm_hf.opening.tiny import make_tiny_checkpoint

from ..tasks.tiny import GENES, make_cells, save_checkpoint

PNG, PDF = b"\x89PNG", b"%PDF"


def command(*arguments):
    return CliRunner().invoke(make_app(), [str(one) for one in arguments])


def labelled(n_cells=60):
    cells = make_cells(n_cells)
    cells.obs["kind"] = np.array(["a", "b", "c"])[np.arange(n_cells) % 3]
    return cells


def test_map_draws_distances(tmp_path):
    reference = labelled(40)
    reference.obs_names = [f"reference {name}" for name in reference.obs_names]
    reference.write_h5ad(tmp_path / "r.h5ad")
    make_cells().write_h5ad(tmp_path / "in.h5ad")
    model, plot = save_checkpoint(tmp_path / "model"), tmp_path / "map.pdf"
    flags = ["--model", model, "--reference", tmp_path / "r.h5ad", "--label-key", "kind", "--plot"]
    refused = command("map", tmp_path / "in.h5ad", tmp_path / "out.h5ad", *flags, tmp_path / "r.h5ad")
    assert refused.exit_code == 1 and "named for something else" in " ".join(refused.output.split())
    done = command("map", tmp_path / "in.h5ad", tmp_path / "out.h5ad", *flags, plot)
    assert done.exit_code == 0 and plot.read_bytes().startswith(PDF), done.output
    # a shard is a file of its own
    done = command("map", tmp_path / "in.h5ad", tmp_path / "s.h5ad", *flags, tmp_path / "s.png", "--shard", "1/1")
    assert done.exit_code == 0 and (tmp_path / "s.png").read_bytes().startswith(PNG), done.output


@pytest.mark.parametrize(("verb", "flags"), [("impute", ["--score"]), ("denoise", [])])
def test_what_models_expect_is_drawn_as_scores(tmp_path, verb, flags):
    model = make_tiny_checkpoint("cellplm", tmp_path / "model", task="pretrain", genes=GENES)
    make_cells(60).write_h5ad(tmp_path / "in.h5ad")
    files = [verb, tmp_path / "in.h5ad", tmp_path / "out.h5ad", "--model", model, "--plot", tmp_path / "scores.png"]
    refused = command(*files, *([] if flags else ["--no-score"]))
    assert refused.exit_code == 1 and "ask for both, or for neither" in refused.output
    assert not (tmp_path / "out.h5ad").exists()
    done = command(*files, *flags)
    assert done.exit_code == 0 and (tmp_path / "scores.png").read_bytes().startswith(PNG), done.output


@pytest.mark.filterwarnings("ignore:Whether cells with the labels")
def test_evaluate_draws_which_labels_are_taken_for_which(tmp_path):
    cells = labelled()
    cells.obs["guess"] = pd.Categorical(["a"] * 59 + [None])
    cells.write_h5ad(tmp_path / "in.h5ad")
    files = ["evaluate", tmp_path / "in.h5ad", tmp_path / "out.h5ad", "--plot", tmp_path / "labels.svg"]
    done = command(*files, "--prediction", "guess", "--label-key", "kind", "--no-baselines")
    assert done.exit_code == 0, done.output
    drawn = (tmp_path / "labels.svg").read_text()
    assert "<svg" in drawn
    assert anndata.read_h5ad(tmp_path / "out.h5ad").uns["sclm_hf"]["guess_scores"]["n_unassigned"] == 1


def test_multimodal_draws_the_scores_of_predictors_where_there_are_some(tmp_path):
    rna = make_cells(60)
    rna.write_h5ad(tmp_path / "rna.h5ad")
    proteins = np.random.default_rng(0).poisson(5, (60, 4)).astype(np.float32)
    other = anndata.AnnData(proteins, obs=pd.DataFrame(index=rna.obs_names))
    other.write_h5ad(tmp_path / "protein.h5ad")
    model, plot, head = save_checkpoint(tmp_path / "model"), tmp_path / "scores.png", tmp_path / "head"
    flags = ["--model", model, "--plot", plot]
    alone = command("multimodal", tmp_path / "rna.h5ad", tmp_path / "o.h5ad", *flags, "--head", head)
    assert alone.exit_code == 1 and "give OTHER" in alone.output
    files = [tmp_path / "rna.h5ad", tmp_path / "protein.h5ad", tmp_path / "out.h5ad"]
    done = command("multimodal", *files, *flags, "--kind", "protein")
    assert done.exit_code == 0 and plot.read_bytes().startswith(PNG), done.output


def test_a_folder_has_no_picture(tmp_path):
    make_cells().write_h5ad(tmp_path / "in.h5ad")
    flags = ["--model", "never looked at", "--reference", tmp_path / "in.h5ad", "--plot", tmp_path / "a.png"]
    told = command("map", tmp_path, tmp_path / "mapped", *flags)
    assert told.exit_code == 1 and "draws the cells of one .h5ad file" in " ".join(told.output.split())


def test_verbs_without_a_picture_have_no_such_flag():
    assert "--plot" not in command("embed", "--help").output


def test_labels_that_are_only_predicted_have_a_column_and_no_row():
    axes = plot_confusion(np.array([[0, 0, 0], [1, 3, 0], [0, 2, 2]]), ["unknown", "a", "b"], title="t")
    rows, columns = ([text.get_text() for text in ticks] for ticks in (axes.get_yticklabels(), axes.get_xticklabels()))
    assert columns[-1] == "unknown" and rows == columns[:-1]


def test_distances_have_a_row_for_each_label_and_unknown_cells_the_last():
    axes = plot_distances([0.1, 0.2, 0.5], ["z", "b", "unknown"], 0.3, unknown="unknown")
    assert [text.get_text() for text in axes.get_yticklabels()] == ["b (1)", "z (1)", "unknown (1)"]
    assert axes.get_xlabel() and axes.get_ylabel()
