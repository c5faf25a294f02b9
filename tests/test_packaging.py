"""What a wheel holds beside modules; dependencies, extras and the recipe for conda."""

import ast
import configparser
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import sclm_hf

from .bare_site import required

setuptools = pytest.importorskip("setuptools")

ROOT = Path(sclm_hf.__file__).parents[1]


def test_a_wheel_holds_the_mark_of_types_and_the_files_of_data(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    distribution = setuptools.Distribution({"script_name": "setup.py"})
    distribution.parse_config_files()
    build = distribution.get_command_obj("build_py")
    build.build_lib = str(tmp_path)
    build.ensure_finalized()
    files = {Path(name).relative_to(tmp_path).as_posix() for name in build.get_outputs(include_bytecode=False)}
    assert {"sclm_hf/py.typed", "sclm_hf/__init__.py"} <= files
    assert {f"sclm_hf/templates/{kind}_card.md" for kind in ("adapter", "dataset", "model")} <= files
    assert any(name.startswith("sclm_hf/tokenization/genes/data/") for name in files)


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg")
    return found


def requirements(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.split("\n") if line]


def brought_by(extra: str, setup: configparser.ConfigParser) -> dict[str, Requirement]:
    """What an extra asks for itself or through others of ours: name -> requirement."""
    found = {}
    for one in requirements(setup["options.extras_require"][extra]):
        if one.name == "sclm_hf":
            for name in one.extras:
                found |= brought_by(name, setup)
        else:
            found[canonicalize_name(one.name)] = one
    return found


# of those that a machine for tests need not have
NOT_INSTALLED = {
    "cell_eval": "cell-eval",
    "faiss": "faiss-cpu",
    "gradio": "gradio",
    "harmonypy": "harmonypy",
    "mudata": "mudata",
    "scib_metrics": "scib-metrics",
    "scvi": "scvi-tools",
}


def required_modules() -> set[tuple[str, str, str]]:
    """(file, module, extra) of every `require("module", extra="extra")` of the package."""
    found = set()
    for path in (ROOT / "sclm_hf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "require" and node.args:
                values = [node.args[0], *(keyword.value for keyword in node.keywords)]
                if all(isinstance(value, ast.Constant) for value in values):
                    found.add((path.name, *(value.value for value in values)))
    return found


def test_what_a_message_says_to_install_brings_what_is_missing(setup):
    """`require(module, extra=…)` tells a user to install an extra: it must exist, and bring the module."""
    distributions = packages_distributions()
    base = [one.name for one in requirements(setup["options"]["install_requires"])]
    extras = setup["options.extras_require"]
    brought = {name: {canonicalize_name(one) for one in brought_by(name, setup)} for name in extras}
    brought = {name: names | required([*names, *base]) for name, names in brought.items()}
    found = required_modules()
    assert len(found) > 40
    for file, module, extra in found:
        top = module.partition(".")[0]
        names = {canonicalize_name(name) for name in distributions.get(top, [NOT_INSTALLED.get(top, top)])}
        assert names & brought[extra], f"{file}: `{module}` is not brought by [{extra}]"


@pytest.mark.parametrize(("missing", "asked"), [("accelerate", "import sclm_hf; sclm_hf.fit")])
def test_who_lacks_an_extra_is_told_which(missing, asked):
    code = f"import sys; sys.modules[{missing!r}] = None; {asked}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.endswith(f"`{missing}` is needed here and not installed: run `pip install 'sclm_hf[train]'`."), last


def test_the_lowest_versions_are_those_of_setup(setup):
    """`python -m tests.wheels --lowest` tries them; torch is the one that a machine has."""
    lowest = {}
    for line in (ROOT / "constraints-lowest.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            lowest[canonicalize_name(name)] = version
    asked = {canonicalize_name(one.name): one for one in requirements(setup["options"]["install_requires"])}
    asked |= brought_by("anndata", setup) | brought_by("cli", setup)
    del asked["torch"]
    for name, one in asked.items():
        floor = next(part.version for part in one.specifier if part.operator == ">=")
        found = lowest.pop(name)
        assert found == floor or found.startswith(f"{floor}."), name


def test_everything_that_an_extra_asks_for_has_a_pin_that_it_allows(setup):
    """`pip install --constraint constraints.txt ".[extra]"` gives the same today and tomorrow."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[canonicalize_name(name)] = version
    asked = [requirements(setup["options"]["install_requires"])]
    asked += [brought_by(extra, setup).values() for extra in setup["options.extras_require"]]
    for one in {one for some in asked for one in some}:
        assert one.specifier.contains(pins[canonicalize_name(one.name)]), one


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_run_what_the_makefile_has_on_the_pythons_of_setup(path, setup):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    supported = setup["options"]["python_requires"]
    for name, job in yaml.safe_load(path.read_text())["jobs"].items():
        made = [step["run"] for step in job["steps"] if "run" in step]
        assert made and all(re.match(r"make ([\w-]+)", line)[1] in targets for line in made), name
        for python in job.get("strategy", {"matrix": {"python": []}})["matrix"]["python"]:
            assert SpecifierSet(supported).contains(python), name
        uses = [step["uses"] for step in job["steps"] if "uses" in step]
        assert all(re.fullmatch(r"actions/[\w-]+@v\d+", one) for one in uses), name


CONDA_NAMES = {"torch": "pytorch", "huggingface-hub": "huggingface_hub"}


def as_conda(one: Requirement) -> str:
    """A requirement as a recipe writes it, its lower bound first."""
    bounds = sorted(map(str, one.specifier), reverse=True)
    return f"{CONDA_NAMES.get(one.name, one.name)} {','.join(bounds)}"


def test_the_recipe_for_conda_says_what_setup_says(setup):
    recipe = yaml.safe_load((ROOT / "conda" / "recipe" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == sclm_hf.__version__
    run = requirements(setup["options"]["install_requires"]) + list(brought_by("cli", setup).values())
    python = f"python {setup['options']['python_requires']}"
    assert sorted(recipe["requirements"]["run"]) == sorted([python, *map(as_conda, run)])
    optional = {
        name: as_conda(one)
        for extra in ("corpora", "train", "evaluation")
        for name, one in brought_by(extra, setup).items()
    }
    constraints = recipe["requirements"]["run_constraints"]
    assert constraints and set(constraints) <= set(optional.values())
    assert {line.partition(" ")[0] for line in constraints} >= {"anndata", "scanpy", "zarr", "numcodecs"}
    entry = setup["options.entry_points"]["console_scripts"].strip()
    assert recipe["build"]["python"]["entry_points"] == [entry]
    assert recipe["about"]["license"] == setup["metadata"]["license"]
    assert recipe["about"]["summary"].strip() == setup["metadata"]["description"]


def test_those_who_check_types_see_the_public_names():
    """Names are found when they are used, which no checker follows: `__init__` imports them under TYPE_CHECKING."""
    tree = ast.parse((ROOT / "sclm_hf" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and node.test.id == "TYPE_CHECKING")
    seen = {alias.name: f"sclm_hf.{node.module}" for node in block.body for alias in node.names}
    models = ("sclm_hf.modeling.", "sclm_hf.specialists.")
    assert seen == {name: home for name, home in sclm_hf._NAMES.items() if not home.startswith(models)}
