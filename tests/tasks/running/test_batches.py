import math

import numpy as np
import pytest
import torch

from sclm_hf import ScGPTModel, embed, perturb
from sclm_hf.errors import ConfigurationError, SclmError, SclmWarning
from sclm_hf.tasks.running import batches

from ..tiny import make_cells, make_model, make_processor


def forgetful(model, limit: int, error: Exception):
    """Make `model` run out of memory above `limit` cells."""
    forward = model.forward

    def limited(*args, **kwargs):
        if kwargs["input_ids"].shape[0] > limit:
            raise error
        return forward(*args, **kwargs)

    model.forward = limited
    return model


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
    ids=["torch", "cpu", "numpy"],
)
def test_the_batch_is_halved_when_memory_runs_out(error):
    expected = embed(make_cells(), make_model(), make_processor()).obsm["X_scgpt"]
    with pytest.warns(SclmWarning) as warnings:
        result = embed(make_cells(), forgetful(make_model(), 5, error), make_processor())
    assert [str(one.message).split(": ")[1] for one in warnings] == [
        "going on with 11 per batch.", "going on with 5 per batch.",
    ]  # fmt: skip
    np.testing.assert_allclose(result.obsm["X_scgpt"], expected, atol=1e-5)


def test_batches_of_perturbed_cells_are_halved_likewise():
    how = {"genes": ["GENE0", "GENE1"], "mode": "overexpress", "batch_size": 8}
    expected = perturb(make_cells(), make_model(), make_processor(), **how)
    with pytest.warns(SclmWarning, match="going on with 3 per batch"):
        error = torch.OutOfMemoryError("CUDA out of memory.")
        result = perturb(make_cells(), forgetful(make_model(), 5, error), make_processor(), **how)
    np.testing.assert_allclose(result.X, expected.X, atol=1e-5)


def test_a_cell_that_does_not_fit_alone_is_an_error():
    model = forgetful(make_model(), 0, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.warns(SclmWarning), pytest.raises(SclmError, match="a single cell of 48 tokens"):
        embed(make_cells(), model, make_processor(), batch_size=2)


def test_other_errors_are_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        embed(make_cells(), forgetful(make_model(), 5, RuntimeError("shapes cannot be multiplied")), make_processor())


def test_batches_hold_cells_of_like_length():
    widths, model = [], make_model()
    forward = model.forward
    model.forward = lambda **batch: widths.append(batch["input_ids"].shape[1]) or forward(**batch)
    embed(make_cells(), model, make_processor(), batch_size=4)
    assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1]


def test_batches_of_long_cells_are_smaller(monkeypatch):
    expected = embed(make_cells(), make_model(), make_processor()).obsm["X_scgpt"]
    shapes, model = [], make_model()
    forward = model.forward
    model.forward = lambda **batch: shapes.append(batch["input_ids"].shape) or forward(**batch)
    monkeypatch.setattr(batches, "MAX_TOKENS", 100)
    result = embed(make_cells(), model, make_processor(), batch_size=8)
    assert all(count * length <= 100 for count, length in shapes)
    assert shapes[0][0] == 100 // shapes[0][1] and max(count for count, _ in shapes) > shapes[0][0]
    np.testing.assert_allclose(result.obsm["X_scgpt"], expected, atol=1e-5)
    monkeypatch.setattr(batches, "MAX_TOKENS", 1)
    shapes.clear()
    embed(make_cells(), model, make_processor())
    assert {count for count, _ in shapes} == {1}


def test_batch_size_must_be_positive():
    with pytest.raises(ConfigurationError, match=r"`batch_size` .* must be at least 1"):
        embed(make_cells(), make_model(), make_processor(), batch_size=0)


def of_cells(cells, model, **how):
    return embed(cells, model, make_processor(), batch_size=5, **how)


def perturbed(cells, model, **how):
    return perturb(cells, model, make_processor(), genes=["GENE0"], **how)


@pytest.mark.parametrize("run", [of_cells, perturbed])
def test_results_that_are_not_finite_name_the_cells_and_the_cause(run):
    model, forward = make_model(), ScGPTModel.forward

    def overflowing(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.cell_embedding[kwargs["attention_mask"].sum(1) == kwargs["attention_mask"].sum(1).max(), 0] = math.inf
        return output

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ScGPTModel, "forward", overflowing)
        with pytest.raises(SclmError, match=r"NaN or infinite for .* cells, such as 'cell \d+'.*: look for extreme"):
            run(make_cells(), model)
        with pytest.raises(SclmError, match="float16 ends at 65,504"):
            run(make_cells(), make_model().half())
    model.base_model.get_input_embeddings().weight.data[:] = math.nan
    with pytest.raises(SclmError, match=r"its weights hold such values too \(`.*weight`\)"):
        run(make_cells(), model)
