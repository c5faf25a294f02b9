"""What an agent is told: the commands of SKILL.md work literally, in the order in which they stand there."""

import re
import shlex
import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
from typer.testing import CliRunner

from sclm_hf.cards import TEMPLATES
from sclm_hf.cli.main import app
from sclm_hf.opening.processors import load_processor

CHECKPOINT = Path(__file__).parents[2] / "model_cards" / "checkpoints" / "scgpt-blood-small"
SKILL = (TEMPLATES / "SKILL.md").read_text(encoding="utf-8")


def commands():
    return [line for block in re.findall(r"```bash\n(.*?)```", SKILL, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def place(tmp_path, monkeypatch):
    shutil.copytree(CHECKPOINT, tmp_path / "model")
    genes = [name for name in load_processor(str(CHECKPOINT)).tokenizer.gene_vocabulary if not name.startswith("<")]
    genes = list(dict.fromkeys(["CD3D", "NKG7", *genes[:150]]))
    random = np.random.default_rng(0)
    for name, n_cells in (("cells", 120), ("reference", 90)):
        counts = random.poisson(random.gamma(1, 1, (3, len(genes)))[np.arange(n_cells) % 3]).astype(np.float32)
        counts[:, 0] += 1
        cells = anndata.AnnData(counts)
        cells.obs_names, cells.var_names = [f"{name}{number}" for number in range(n_cells)], genes
        cells.obs["cell_type"] = [f"type {number % 3}" for number in range(n_cells)]
        cells.write_h5ad(tmp_path / f"{name}.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_commands_work_as_they_stand(place):
    assert len(commands()) >= 7
    for command in commands():
        program, *arguments = shlex.split(command)
        assert program == "sclm-hf"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception}"
    found = anndata.read_h5ad("annotated.h5ad")
    assert {"sclm_prediction", "sclm_confidence"} <= set(found.obs)
    assert anndata.read_h5ad("embedded.h5ad").obsm["X_scgpt"].shape == (120, 64)
    assert list(anndata.read_h5ad("effects.h5ad").var_names) == ["CD3D", "NKG7"]


def test_it_is_printed_or_written(tmp_path):
    assert CliRunner().invoke(app, ["skill"]).stdout == SKILL
    assert CliRunner().invoke(app, ["skill", str(tmp_path / "skills")]).exit_code == 0
    assert (tmp_path / "skills" / "SKILL.md").read_text(encoding="utf-8") == SKILL


def test_its_head_is_what_agents_look_for():
    head = SKILL.split("---")[1]
    assert "\nname: sclm-hf\n" in head and "\ndescription: " in head
