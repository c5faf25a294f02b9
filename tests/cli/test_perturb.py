import json
from pathlib import Path

import anndata
import numpy as np
import pytest
from typer.testing import CliRunner

from sclm_hf import perturb
from sclm_hf.cli.main import app

from ..tasks.tiny import make_cells, save_checkpoint


@pytest.fixture
def files(tmp_path):
    cells = make_cells()
    cells.obs["state"] = ["ill", "well"] * 11 + ["ill"]
    cells.write_h5ad(tmp_path / "in.h5ad")
    return str(tmp_path / "in.h5ad"), str(tmp_path / "out.h5ad"), save_checkpoint(tmp_path / "model")


def test_perturb_writes_what_the_function_gives(files):
    source, target, model = files
    arguments = ["perturb", source, target, "--model", model, "--mode", "overexpress", "--gene", "GENE1"]
    result = CliRunner().invoke(app, [*arguments, "--gene", "GENE2"])
    assert result.exit_code == 0, result.output
    expected = perturb(anndata.read_h5ad(source), model, genes=["GENE1", "GENE2"], mode="overexpress")
    written = anndata.read_h5ad(target)
    np.testing.assert_allclose(written.X, expected.X, atol=1e-6)
    assert written.var_names.tolist() == ["GENE1", "GENE2"]
    assert "counts covered" in result.output and "GENE2" in result.output


def test_json_is_one_object_with_the_effects_as_a_list(files):
    source, target, model = files
    genes = ["--gene", "GENE1", "--gene", "GENE2", "--mode", "overexpress"]
    states = ["--state-key", "state", "--start-state", "ill", "--goal-state", "well"]
    result = CliRunner().invoke(app, ["perturb", source, target, "--model", model, *genes, *states, "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    effects = record["effects"]
    assert record["file"] == target and {one["perturbation"] for one in effects} == {"GENE1", "GENE2"}
    assert all(0 < one["similarity"] < 1 and one["p_value"] is None for one in effects)
    assert effects[0]["shift_well"] >= effects[1]["shift_well"]


def test_states_with_a_slash_are_written_so_that_they_can_be_read(files):
    source, target, model = files
    cells = anndata.read_h5ad(source)
    cells.obs["state"] = cells.obs["state"].astype(str).replace("well", "NK/T")
    cells.write_h5ad(source)
    states = ["--state-key", "state", "--start-state", "ill", "--goal-state", "NK/T"]
    arguments = ["perturb", source, target, "--model", model, "--gene", "GENE1", "--mode", "overexpress"]
    result = CliRunner().invoke(app, [*arguments, *states, "--volcano", target + ".png"])
    assert result.exit_code == 0, result.output
    written = anndata.read_h5ad(target)
    assert set(written.layers) == {"shift_ill", "shift_NK|T"} and "shift_NK|T" in written.var


def test_groups_and_states(files):
    source, target, model = files
    states = ["--state-key", "state", "--start-state", "ill", "--goal-state", "well"]
    arguments = [
        "perturb",
        source,
        target,
        "--model",
        model,
        "--group",
        "pathway=GENE1, GENE2",
        "--mode",
        "overexpress",
    ]
    more = ["--table", target + ".tsv", "--volcano", target + ".png"]
    result = CliRunner().invoke(app, [*arguments, *states, "--donor-key", "batch", *more])
    assert Path(target + ".png").stat().st_size and "shift to well" in Path(target + ".tsv").read_text()
    assert result.exit_code == 0, result.output
    assert "1 of 1 perturbation has no p value: it takes 3 donors" in result.output
    written = anndata.read_h5ad(target)
    assert "obs['batch']" in written.uns["sclm_hf"]["perturb"]["test"]["unit"]
    assert written.var.loc["pathway", "genes"] == "GENE1; GENE2"
    assert set(written.layers) == {"shift_ill", "shift_well"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gene", "GENE1", "--group", "a=GENE1"], "exclude"),
        (["--group", "GENE1,GENE2"], "NAME=GENE,GENE"),
        (["--state-key", "state"], "--start-state"),
        (["--volcano", "volcano.png"], "draws shifts towards a state"),
    ],
)
def test_arguments_that_do_not_go_together(files, arguments, message):
    source, target, _ = files
    result = CliRunner().invoke(app, ["perturb", source, target, "--model", "never looked at", *arguments])
    assert result.exit_code == 1 and message in result.stderr


@pytest.mark.parametrize("link", [False, True])
def test_the_source_is_never_written_over(files, tmp_path, link):
    source, _, model = files
    before, target = Path(source).read_bytes(), tmp_path / "same.h5ad"
    if link:
        target.hardlink_to(source)
    arguments = ["perturb", source, str(target) if link else source, "--model", model, "--overwrite"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and "is the source itself" in result.stderr
    assert Path(source).read_bytes() == before


@pytest.mark.parametrize("flag", ["--table", "--volcano"])
def test_a_second_output_is_replaced_only_on_request(files, tmp_path, flag):
    source, target, _ = files
    second = tmp_path / "second.png"
    second.write_text("kept")
    states = ["--state-key", "state", "--start-state", "ill", "--goal-state", "well"]
    arguments = ["perturb", source, target, "--model", "never looked at", *states, flag, str(second)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and "--overwrite" in result.stderr and second.read_text() == "kept"


@pytest.mark.parametrize("place", ["in.h5ad", "out.h5ad"])
def test_a_second_output_is_neither_the_cells_nor_the_first(files, place):
    source, target, _ = files
    arguments = ["perturb", source, target, "--model", "never looked at"]
    result = CliRunner().invoke(app, [*arguments, "--table", str(Path(source).with_name(place))])
    assert result.exit_code == 1 and "named for something else too" in result.output
