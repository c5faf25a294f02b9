from types import SimpleNamespace

import pytest

from sclm_hf.tokenization.encodings.kernels import _FirstCall


def event(module):
    return SimpleNamespace(data={"dispatcher": SimpleNamespace(py_func=SimpleNamespace(__module__=module))})


def test_the_user_is_told_once_that_kernels_are_compiled(capsys):
    first = _FirstCall()
    first.on_start(event("sclm_hf.tokenization.encodings.bins"))
    assert "compiling what reads cells, once on this machine" in capsys.readouterr().err
    first.on_start(event("sclm_hf.tokenization.encodings.rank"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("module", "quiet"), [("scanpy.neighbors", ""), ("sclm_hf.cell_index", "1")])
def test_nothing_is_said_of_other_code_or_where_progress_is_off(capsys, monkeypatch, module, quiet):
    monkeypatch.setenv("SCLM_NO_PROGRESS", quiet)
    _FirstCall().on_start(event(module))
    assert capsys.readouterr().err == ""
