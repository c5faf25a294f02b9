"""Models as programs of `torch.export` and ONNX."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForSequenceClassification, AutoProcessor
from transformers.exporters import ExportedModel
from typer.testing import CliRunner

from sclm_hf import FAMILIES
from sclm_hf.cli.main import make_app
from sclm_hf.errors import CheckpointError, ConfigurationError, MissingDependencyError
from sclm_hf.hub import programs
from sclm_hf.hub.programs import export_program
from sclm_hf.opening.inference import independent_cells
from sclm_hf.opening.tiny import make_tiny_checkpoint

GENES = [f"GENE{number}" for number in range(90)]


def batch_of(processor, n_cells: int, n_genes: int) -> dict[str, torch.Tensor]:
    """Cells of unequal length, and more of them than the program was made with."""
    counts = np.random.default_rng(5).poisson(1.0, (n_cells, n_genes)).astype(np.float32)
    counts[:, 0] = 1
    return dict(processor(counts, gene_names=GENES[:n_genes], return_tensors="pt"))


def check_program(family: str, format: str, tmp_path, task: str = "embed"):
    """The program of a tiny model, opened again, gives what the model gives for batches of other sizes."""
    model = make_tiny_checkpoint(family, tmp_path / "model", task=task, genes=GENES)
    command = ["export", format, str(model), str(tmp_path / "program"), "--task", task]
    result = CliRunner().invoke(make_app(), command)
    assert result.exit_code == 0 and "ExportedModel" in result.output, result.output
    auto = AutoModelForSequenceClassification if task == "annotate" else AutoModel
    opened, processor = auto.from_pretrained(model), AutoProcessor.from_pretrained(tmp_path / "program")
    program = ExportedModel.from_pretrained(tmp_path / "program", device="cpu")
    for size in ((11, 90), (1, 20)):
        batch = batch_of(processor, *size)
        with independent_cells(opened), torch.no_grad():
            expected = opened(**batch)
        found = program(**batch)
        assert "cell_embedding" in expected and found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    return tmp_path / "program", batch, expected


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_program_gives_what_the_model_gives(family, tmp_path):
    check_program(family, "torch-export", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_an_onnx_program_gives_what_the_model_gives(family, tmp_path):
    """Also where neither transformers nor torch is: ONNX Runtime takes the processor's arrays by their names."""
    runtime = pytest.importorskip("onnxruntime")
    folder, batch, expected = check_program(family, "onnx", tmp_path)
    session = runtime.InferenceSession(folder / "model.onnx")
    inputs = {one.name: batch[one.name].numpy() for one in session.get_inputs()}
    (found,) = session.run(["cell_embedding"], inputs)
    np.testing.assert_allclose(found, expected.cell_embedding.numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_classifier_is_a_program_too(tmp_path):
    check_program("geneformer", "torch-export", tmp_path, "annotate")


def test_a_small_model_is_a_program_in_a_moment(tmp_path):
    check_program("linear", "torch-export", tmp_path)


class Wrong:
    def save_pretrained(self, folder):
        folder.mkdir(exist_ok=True)
        (folder / "model.pt2").write_text("")

    def __call__(self, **batch):
        return {"cell_embedding": torch.zeros(len(batch["input_ids"]), 5)}


def test_a_program_that_differs_is_not_kept(tmp_path, monkeypatch):
    model = make_tiny_checkpoint("linear", tmp_path / "model", genes=GENES)
    monkeypatch.setattr(programs, "_exported", lambda exporter, model, batch, name: Wrong())
    with pytest.raises(CheckpointError, match="`cell_embedding` differs from the model's by"):
        export_program(model, tmp_path / "program", format="torch-export")
    assert not (tmp_path / "program").exists()


def test_what_is_no_program_is_refused(model, adapter, monkeypatch, tmp_path):
    with pytest.raises(CheckpointError, match="holds an adapter: export the whole model"):
        export_program(adapter, tmp_path / "out", format="torch-export")
    with pytest.raises(ConfigurationError, match="`format` must be one of 'torch-export', 'onnx'"):
        export_program(model, tmp_path / "out", format="gguf")
    with pytest.raises(ConfigurationError, match="`--task`"):
        export_program(model, tmp_path / "out", format="torch-export", task="pretrain")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "ciform"}')
    with pytest.raises(CheckpointError, match=r"`ciform` model, which is not written as a program.*with-code"):
        export_program(tmp_path / "other", tmp_path / "out", format="torch-export")
    monkeypatch.setitem(programs.PROGRAMS, "onnx", ("OnnxExporter", ("not_there",)))
    with pytest.raises(MissingDependencyError, match=r"sclm_hf\[onnx\]"):
        export_program(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
