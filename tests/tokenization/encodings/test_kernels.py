"""How kernels are compiled, seen in their sources."""

import ast
from pathlib import Path

import sclm_hf

ROOT = Path(sclm_hf.__file__).parents[1]
TREES = {
    path.relative_to(ROOT): ast.parse(path.read_text())
    for folder in ("sclm_hf", "tests", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "encodings" in str(path.relative_to(ROOT)) or "encodings" in path.read_text()
}


def _decorated(node: ast.AST, *names: str) -> bool:
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else ()
    return any(ast.unparse(decorator).split("(")[0] in names for decorator in decorators)


def _parts(tree: ast.Module) -> set[str]:
    return {node.name for node in tree.body if _decorated(node, "part")}


def _imported(tree: ast.Module, parts: dict[str, set[str]]) -> set[str]:
    found = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module)
    return {
        name.name for node in found for name in node.names if name.name in parts.get(node.module.split(".")[-1], ())
    }


def _names_in_python(node: ast.AST) -> set[str]:
    """Names that are read outside of compiled functions."""
    if _decorated(node, "kernel", "part", "njit"):
        return set()
    if isinstance(node, ast.Name):
        return {node.id}
    return {name for child in ast.iter_child_nodes(node) for name in _names_in_python(child)}


def test_parts_are_read_in_compiled_functions_only():
    """They have no entry from Python: a call of one would crash the process."""
    parts = {path.stem: _parts(tree) for path, tree in TREES.items() if _parts(tree)}
    assert "smallest" not in parts["masks"]
    assert "write_cell" in parts["cells"]
    for path, tree in TREES.items():
        assert not (_parts(tree) | _imported(tree, parts)) & _names_in_python(tree), path


def test_no_kernel_asks_for_what_takes_seconds_to_compile():
    slow = {"argsort", "flatnonzero", "full", "partition", "sort", "unique"}
    for path, tree in TREES.items():
        kernels = [node for node in ast.walk(tree) if _decorated(node, "kernel", "part", "njit")]
        called = [node.func for kernel in kernels for node in ast.walk(kernel) if isinstance(node, ast.Call)]
        assert not slow & {name.attr for name in called if isinstance(name, ast.Attribute)}, path
