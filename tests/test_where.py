"""Where a module is tested: in the file of its name, or in one that names it among its ``Modules:``."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = {file.relative_to(ROOT / "tests").as_posix(): file for file in (ROOT / "tests").rglob("test_*.py")}


def own_files(module: str) -> set[str]:
    """modelpar/comm/grid -> comm/test_grid.py, comm/test_grid_on_ranks.py"""
    folder, _, name = module.removeprefix("modelpar/").rpartition("/")
    return {f"{folder}/test_{name}{end}.py".removeprefix("/") for end in ("", "_on_ranks")}


def modules_of(source: str) -> list[str]:
    """Those that the docstring of a test file names."""
    _, _, names = (ast.get_docstring(ast.parse(source)) or "").partition("Modules: ")
    return re.split(r",\s+", names.strip()) if names else []


def test_what_is_named() -> None:
    assert modules_of('"""Of two.\n\nModules: a/b,\na/c\n"""\nx = "Modules: d"') == ["a/b", "a/c"]
    assert modules_of('"""Of none."""') == []


def test_every_module_has_its_tests() -> None:
    files = [path for top in ("modelpar", "partitioners") for path in (ROOT / top).rglob("*.py")]
    modules = {path.relative_to(ROOT).with_suffix("").as_posix() for path in files if not path.name.startswith("__")}
    named = [name for file in TESTS.values() for name in modules_of(file.read_text("utf-8"))]
    assert len(named) == len(set(named)), "a module is named in one file"
    own = {module for module in modules if own_files(module) & TESTS.keys()}
    assert set(named) == modules - own, "tests/PACKAGE/test_MODULE.py, or a name after `Modules:` in another file"
