"""What docstrings show is what comes out; what needs a model or files says that it is not run."""

import doctest
import importlib
from pathlib import Path

import pytest

import sclm_hf

ROOT = Path(sclm_hf.__file__).parent
MODULES = [
    ".".join(("sclm_hf", *path.relative_to(ROOT).with_suffix("").parts))
    for path in sorted(ROOT.rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_give_what_they_say(name):
    assert not doctest.testmod(importlib.import_module(name)).failed
