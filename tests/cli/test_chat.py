import io

import pytest

from sclm_hf.cli.chat import _converse
from sclm_hf.errors import ConfigurationError


def test_questions_in_another_encoding_are_refused_and_none_are_no_error(monkeypatch):
    for piped, refused in ((b"", False), (b"\xff?\n", True)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped), encoding="utf-8"))
        if refused:
            with pytest.raises(ConfigurationError, match="must be text in utf-8"):
                _converse(None, None, None)
        else:
            _converse(None, None, None)
