"""Modules of this package as files of one folder, as transformers' loader of code needs them.

That loader takes a file and those that it reaches by `from .name import …` in the same folder. It knows neither
sub-folders nor `..`, loses what `from . import name` names, and leaves `from sclm_hf… import` as it is. So every
module becomes a file that is named after its place, and its imports are rewritten. Modules are read as text and never
run.
"""

import ast
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import ConfigurationError

PREFIX = "sclm_"
"""What the names of all files start with."""

THIRD_PARTY = frozenset(
    (
        "filelock",
        "huggingface_hub",
        "numba",
        "numpy",
        "pandas",
        "safetensors",
        "scipy",
        "tokenizers",
        "torch",
        "tqdm",
        "transformers",
    )
)
"""What the files may import besides the standard library; transformers wants all of it installed before it begins."""

_PACKAGE = __name__.partition(".")[0]
_ROOT = Path(__file__).parents[1]
_FROM = re.compile(r"from\s+\S+\s+import\b")
_BY_PATH = {"__file__", "__package__", "__path__", "__import__"}
# it imports what its callers name: packages of others
_IMPORTS_OTHERS = {f"{_PACKAGE}.errors"}


def flatten(modules: Iterable[str], instead: Mapping[str, str] | None = None) -> dict[str, str]:
    """The modules and all that they import, directly or not.

    Args:
        modules: dotted names.
        instead: module -> text that takes the place of its own.

    Returns:
        Dotted name -> text with its imports rewritten, in the order of the names. The file is called
        `flat_name(name) + ".py"`.

    Raises:
        ConfigurationError: a module finds others, or files, in a way that does not survive the move, or a name that is
            not there; or two would get the same file name.
    """
    instead, texts, waiting, named = dict(instead or {}), {}, list(modules), []
    while waiting:
        module = waiting.pop()
        if module not in texts:
            text = instead[module] if module in instead else _source(module).read_text(encoding="utf-8")
            texts[module], imported = _rewrite(module, text)
            if missing := [one for one in imported if one not in instead and not _source(one).exists()]:
                raise ConfigurationError(f"`{module}` cannot be exported: there is no module `{missing[0]}`.")
            waiting += imported
            named += [(module, target, name) for target, names in imported.items() for name in names]
    there = {module: _names_of(text) for module, text in texts.items()}
    for module, target, name in named:
        if name not in there[target]:
            raise ConfigurationError(
                f"`{module}` cannot be exported: it imports `{name}` of `{target}`, which defines no such name."
            )
    names: dict[str, str] = {}
    for module in sorted(texts):
        if (other := names.setdefault(flat_name(module), module)) != module:
            raise ConfigurationError(
                f"`{other}` and `{module}` cannot be exported together: the file of both would be "
                f"`{flat_name(module)}.py`. Rename one."
            )
    return {module: texts[module] for module in sorted(texts)}


def flat_name(module: str) -> str:
    """The name of the file that holds a module, without `.py`."""
    return PREFIX + module.removeprefix(f"{_PACKAGE}.").replace(".", "_")


def third_party(texts: Iterable[str]) -> list[str]:
    """The packages of others that modules import."""
    trees = map(ast.parse, texts)
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return sorted({name.partition(".")[0] for name in names} - sys.stdlib_module_names)


def _source(module: str) -> Path:
    path = _ROOT.joinpath(*module.split(".")[1:])
    file = path.with_suffix(".py")
    return file if file.exists() else path / "__init__.py"


def _names_of(text: str) -> set[str]:
    """Every name that a module gives to something."""
    nodes = list(ast.walk(ast.parse(text)))
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return names | {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}


def _rewrite(module: str, text: str) -> tuple[str, dict[str, list[str]]]:
    """The text with its imports rewritten, and module that it imports -> the names that it takes of it."""
    lines, imported = text.split("\n"), {}
    for node in ast.walk(ast.parse(text)):
        _refuse_lookups(module, node)
        if isinstance(node, ast.Import):
            for alias in node.names:
                _refuse_package(module, node, alias.name)
        elif isinstance(node, ast.ImportFrom):
            target = _absolute(module, node)
            if target.partition(".")[0] != _PACKAGE:
                for name in (target, *(f"{target}.{alias.name}" for alias in node.names)):
                    _refuse_package(module, node, name)
                continue
            _refuse_modules(module, node, target)
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = _FROM.sub(f"from .{flat_name(target)} import", line, count=1)
            imported.setdefault(target, []).extend(alias.name for alias in node.names)
    rewritten = "\n".join(lines)
    _check_seen(module, rewritten, imported)
    return rewritten, imported


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module
    is_package = _source(module).exists() and _source(module).name == "__init__.py"
    parents = module.split(".")
    parents = parents[: len(parents) - node.level + is_package]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _refuse_lookups(module: str, node: ast.AST) -> None:
    """Refuse what finds modules or files by other means than an import."""
    name = getattr(node, "id", None) or getattr(node, "attr", None)
    is_lookup = name in _BY_PATH or (name == "import_module" and module not in _IMPORTS_OTHERS)
    if is_lookup and isinstance(node, (ast.Name, ast.Attribute)):
        raise _unfit(module, node, f"`{name}` finds files or modules by their place in the package")


def _refuse_package(module: str, node: ast.stmt, name: str) -> None:
    package = name.partition(".")[0]
    if package == _PACKAGE:
        raise _unfit(module, node, f"`import {name}` names a module by its place; expected `from … import …`")
    if name == "importlib.resources":
        raise _unfit(module, node, "`importlib.resources` finds files by their place in the package")
    if package not in THIRD_PARTY and package not in sys.stdlib_module_names:
        raise _unfit(
            module,
            node,
            f"it imports `{package}`, which those who load the folder need not have; expected some of "
            f"{', '.join(sorted(THIRD_PARTY))}",
        )


def _refuse_modules(module: str, node: ast.ImportFrom, target: str) -> None:
    """Refuse names that are modules themselves, and stars."""
    for alias in node.names:
        if alias.name == "*" or _source(f"{target}.{alias.name}").exists():
            raise _unfit(
                module, node, f"`from {target} import {alias.name}` names no class, function or value of a module"
            )


def _check_seen(module: str, rewritten: str, imported: Iterable[str]) -> None:
    """Make sure that transformers, which looks for imports by a pattern, sees what is there and nothing else."""
    seen = set(re.findall(r"^\s*from\s+\.(\S+)\s+import", rewritten, flags=re.MULTILINE))
    seen |= set(re.findall(r"^\s*import\s+\.(\S+)\s*$", rewritten, flags=re.MULTILINE))
    if odd := sorted(seen ^ {flat_name(target) for target in imported}):
        raise ConfigurationError(
            f"`{module}` cannot be exported: transformers and Python differ on whether it imports `{odd[0]}`. Write "
            "each import on a line of its own, and none in a docstring."
        )


def _unfit(module: str, node: ast.AST, reason: str) -> ConfigurationError:
    return ConfigurationError(f"`{module}`, line {node.lineno}, cannot be exported: {reason}.")
