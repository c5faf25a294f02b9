"""Modules become files of one folder."""

import ast
import re
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports

from sclm_hf import FAMILIES
from sclm_hf.errors import ConfigurationError
from sclm_hf.hub.flat_modules import THIRD_PARTY, flatten, third_party
from sclm_hf.hub.remote_code import ENTRY, code_of
from sclm_hf.registry import COMPOSITES

ATTENTION = "sclm_hf.modeling.common.attention"


def test_every_form_of_import_leads_to_the_file_beside():
    text = '''"""Says `from .files import x` within a line."""
import json
from pathlib import Path

from sclm_hf.errors import (
    ConfigurationError as Wrong,
    require,
)
from ..logging import warn  # stays
from .names import resolve_name


def late():
    from sclm_hf.modeling.common.attention import eager_attention_forward
'''
    module = "sclm_hf.opening.made_up"
    found = flatten([module], {module: text, "sclm_hf.opening.names": "resolve_name = None\n"})
    assert found[module] == text.replace("from sclm_hf.errors", "from .sclm_errors").replace(
        "from ..logging import warn", "from .sclm_logging import warn"
    ).replace("from .names", "from .sclm_opening_names").replace(
        f"from {ATTENTION}", "from .sclm_modeling_common_attention"
    )
    assert {"sclm_hf.errors", "sclm_hf.logging", ATTENTION, f"{ATTENTION}.flow"} < found.keys()
    assert list(found) == sorted(found)


def test_imports_of_a_package_are_relative_to_itself():
    found = flatten([ATTENTION])
    assert "from .sclm_modeling_common_attention_eager import eager_attention_forward" in found[ATTENTION]
    assert "from .sclm_modeling_common_attention_recomputation import" in found[f"{ATTENTION}.flow"]


@pytest.mark.parametrize("names", [*((family,) for family in FAMILIES), *((kind, "uce") for kind in COMPOSITES)])
def test_transformers_finds_all_files_of_a_model_and_python_can_read_them(names, tmp_path):
    code = code_of(*names)
    for name, text in code.items():
        (tmp_path / name).write_text(text)
        relative = [node.module for node in ast.walk(ast.parse(text)) if getattr(node, "level", 0)]
        assert sorted(set(relative)) == sorted(get_relative_imports(tmp_path / name))
        assert not re.search(r"^\s*(from|import) (sclm_hf|\.\.)", text, flags=re.MULTILINE), name
    reached = {Path(file).name for file in get_relative_import_files(tmp_path / f"{ENTRY}.py")}
    assert reached | {f"{ENTRY}.py"} == set(code)
    assert set(third_party(code.values())) <= THIRD_PARTY


@pytest.mark.parametrize(
    ("text", "says"),
    {
        "import sclm_hf.errors": "line 2.*`import sclm_hf.errors`.*expected `from … import …`",
        "from sclm_hf import errors": "`from sclm_hf import errors`",
        "from . import names": "`from sclm_hf.opening import names` names no class",
        "from .names import *": r"`from sclm_hf.opening.names import \*`",
        "from .nowhere import a": "there is no module `sclm_hf.opening.nowhere`",
        "from .names import a": "imports `a` of `sclm_hf.opening.names`, which defines no such name",
        "import anndata": "imports `anndata`.*expected some of .*torch",
        "def late():\n    from scanpy.pp import pca": "imports `scanpy`",
        "from importlib import resources": "`importlib.resources` finds files",
        "import importlib.resources": "`importlib.resources` finds files",
        "import importlib\nimportlib.import_module('a')": "line 3.*`import_module` finds",
        "from importlib import import_module\nimport_module('a')": "`import_module` finds",
        "where = __file__": "`__file__` finds",
        "a = 1; from .names import b": "transformers and Python differ on whether it imports `sclm_opening_names`",
        'a = """\nfrom .names import b\n"""': "transformers and Python differ on whether it imports `names`",
    }.items(),
)
def test_what_does_not_survive_the_move_is_refused_by_name(text, says):
    module = "sclm_hf.opening.made_up"
    with pytest.raises(ConfigurationError, match=f"(?s)`{module}`.*{says}"):
        flatten([module], {module: f'"""Made up."""\n{text}\n', "sclm_hf.opening.names": ""})


def test_two_modules_cannot_share_a_file():
    made_up = {"sclm_hf.modeling_common_losses": "a = 1\n"}
    with pytest.raises(ConfigurationError, match="both would be `sclm_modeling_common_losses"):
        flatten([*made_up, "sclm_hf.modeling.common.losses"], made_up)
