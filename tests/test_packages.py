"""The order of the packages: an import goes down, no two packages import each other, and no modules go in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the bottom up: a module imports only from its own package and from those above it in this list.  A module that
# stands alone counts as a package; a package holds all modules below it that are not listed themselves.
PACKAGES = (
    "errors", "faults", "files", "machine", "values", "units", "formats", "records", "streams", "patterns", "spec",
    "collective", "ownership",
    "kernels.llvm", "kernels", "kernels.sampling", "kernels.products", "kernels.statistics", "kernels.listed",
    "kernels.warm_up",
    "draws", "units.hidden", "comm", "plan", "data", "weights", "sync", "model", "chains", "likelihood", "diagnosis",
    "training.state", "training.replicas", "checkpoint", "training", "analysis", "bench", "sklearn", "cli", "display",
)  # fmt: skip
ROOF = ("modelpar", "modelpar.__main__")  # they may import all
TOP = "cli"  # it may use the names of the roof, as a user does


def module_of(path: Path) -> str:
    """modelpar/data/__init__.py -> modelpar.data"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for top in ("modelpar", "partitioners") for path in sorted((ROOT / top).rglob("*.py"))}


def package(module: str) -> str | None:
    """The entry of PACKAGES that a module belongs to."""
    fits = [name for name in PACKAGES if f"{module}.".startswith(f"modelpar.{name}.")]
    return max(fits, key=len, default=None)


def imports(module: str, source: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, module) of every import; of ``from a import b`` it is ``a.b`` where that is a module, else ``a``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parents = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parents, *([base] if base else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield node.lineno, whole if whole in MODULES else base


def wrong_imports(module: str, source: str, is_package: bool = False) -> list[str]:
    """What this module imports and must not."""
    mine, result = package(module), []
    for line, other in imports(module, source, is_package):
        if other.split(".")[0] != "modelpar":
            continue
        theirs = package(other)
        if mine is None:
            result.append(f"line {line}: {module} imports nothing of modelpar, but has {other}")
        elif other == "modelpar" and mine == TOP:
            continue
        elif theirs is None:
            result.append(f"line {line}: {module} imports {other}, which is above it")
        elif PACKAGES.index(theirs) > PACKAGES.index(mine):
            result.append(f"line {line}: {module} (of {mine}) imports {other} (of {theirs}), which comes later")
    return result


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Names that go in a circle along ``arrows``; empty where there is none."""
    left = dict(arrows)
    while left:
        ends = [name for name, targets in left.items() if not targets & left.keys()]
        if not ends:
            return sorted(left)
        for name in ends:
            del left[name]
    return []


def modules_imported(module: str) -> set[str]:
    """What a module imports when it is loaded: imports inside functions wait until all are there."""
    tree = ast.parse(MODULES[module].read_text())
    tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.If)]
    path = MODULES[module]
    return {other for _, other in imports(module, ast.unparse(tree), path.name == "__init__.py") if other in MODULES}


def test_every_module_has_a_package() -> None:
    left = [name for name in MODULES if name.startswith("modelpar.") and name not in ROOF and package(name) is None]
    assert not left, f"{left} have no package; give them a place in PACKAGES of this test"


def test_imports_go_down() -> None:
    result = [
        line
        for module, path in MODULES.items()
        if module not in ROOF
        for line in wrong_imports(module, path.read_text(), path.name == "__init__.py")
    ]
    assert not result, "\n".join(result)


def test_no_circle_of_modules() -> None:
    """Within packages too; ``import_module`` of the roof waits for the name that is asked for."""
    arrows = {module: modules_imported(module) - {module} for module in MODULES if module not in ROOF}
    assert not circle(arrows), circle(arrows)


@pytest.mark.parametrize("name", PACKAGES)
def test_the_list_names_what_there_is(name: str) -> None:
    assert f"modelpar.{name}" in MODULES, f"PACKAGES names {name}, which does not exist"


@pytest.mark.parametrize(
    ("module", "source", "is_wrong"),
    [
        ("modelpar.comm.grid", "from modelpar import errors", False),
        ("modelpar.comm.grid", "from modelpar.model.rbm import RBM", True),
        ("modelpar.comm.grid", "def f():\n    import modelpar.training.trainer", True),
        ("modelpar.comm.grid", "from ..model import rbm", True),
        ("modelpar.comm.grid", "from . import exchange", False),
        ("modelpar.comm.grid", "import modelpar", True),
        ("modelpar.comm.grid", "from modelpar.data import Dataset", True),
        ("modelpar.checkpoint.files", "from modelpar.training.trainer import pretrain", True),
        ("modelpar.kernels.threads", "from modelpar.kernels.products import dense", True),
        ("modelpar.kernels.products.dense", "from modelpar.kernels import threads", False),
        ("modelpar.data.idx", "from .columns import Columns", False),
        ("modelpar.cli.train", "from ..training.trainer import pretrain", False),
        ("modelpar.cli.train", "from modelpar import pretrain", False),
        ("partitioners.graph", "import numpy, networkx", False),
        ("partitioners.graph", "from modelpar.errors import ModelparError", True),
    ],
)
def test_the_reader_of_imports(module: str, source: str, is_wrong: bool) -> None:
    assert bool(wrong_imports(module, source)) == is_wrong


@pytest.mark.parametrize(
    ("arrows", "expected"),
    [
        ({"a": {"b"}, "b": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["a", "b", "c"]),
        ({"a": {"b", "x"}, "b": set()}, []),
    ],
)
def test_the_search_for_circles(arrows: dict[str, set[str]], expected: list[str]) -> None:
    assert circle(arrows) == expected
