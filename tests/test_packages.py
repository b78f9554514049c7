"""The order of the house: a module imports only from floors below its own, inside functions too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A package stands for all its modules; the longest name that fits a module counts.
FLOORS = {
    "modelpar.errors": 0,
    "modelpar.machine.caches": 1,
    "modelpar.machine.compilation": 2,
    "modelpar.patterns": 1,
    # values that know no MPI
    "modelpar.spec": 2,
    "modelpar.ownership.costs": 1,
    "modelpar.comm.status": 1,
    "modelpar.comm.watchdog": 2,
    "modelpar.ownership.connections": 1,
    "modelpar.ownership.layout": 2,
    "modelpar.ownership.build_connections": 3,
    "modelpar.ownership.placement": 4,
    "modelpar.records": 2,
    "modelpar.streams": 2,
    "modelpar.comm.memory": 2,
    "modelpar.training.digests": 2,
    # local arithmetic
    "modelpar.kernels": 3,
    "modelpar.kernels.threads": 2,
    "modelpar.machine.cores": 3,
    "modelpar.checkpoint.checksum": 3,
    "modelpar.checkpoint.ids": 3,
    "modelpar.draws": 4,
    # what one rank has, and where it stands
    "modelpar.comm.grid": 4,
    "modelpar.weights.parameters": 4,
    "modelpar.training.schedule": 4,
    "modelpar.checkpoint.header": 4,
    "modelpar.checkpoint.blocks": 4,
    "modelpar.checkpoint.local_file": 4,
    "modelpar.data": 5,
    "modelpar.checkpoint.files": 5,
    # what moves between ranks
    "modelpar.comm.exchange": 5,
    "modelpar.comm.halo": 6,
    # the mathematics
    "modelpar.weights.dense": 6,
    "modelpar.weights.shard_lists": 5,
    "modelpar.weights.sparse": 7,
    "modelpar.weights.statistics": 7,
    "modelpar.sync": 8,
    "modelpar.model.rbm": 8,
    "modelpar.model.network": 9,
    "modelpar.model.scores": 9,
    "modelpar.model.backprop": 10,
    # training
    "modelpar.training.feeds": 10,
    "modelpar.training.minibatch_loop": 11,
    "modelpar.training.evaluation": 11,
    "modelpar.training.monitor": 11,
    "modelpar.training.exactness": 12,
    "modelpar.training.trainer": 13,
    "modelpar.checkpoint.structure": 10,
    "modelpar.checkpoint": 13,  # save and load of networks
    # uses of the engine
    "modelpar.training.recovery": 10,
    "modelpar.model.pruning": 10,
    "modelpar.training.warm_up": 14,
    "modelpar.sklearn": 14,
    "modelpar.bench": 14,
    "modelpar.cli": 15,
}
ROOF = ("modelpar", "modelpar.__main__")  # they may import all
TOP = "modelpar.cli"  # it may use the names of the roof, as a user does


def module_of(path: Path) -> str:
    """modelpar/data/__init__.py -> modelpar.data"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for top in ("modelpar", "partitioners") for path in sorted((ROOT / top).rglob("*.py"))}


def room(module: str) -> str | None:
    """The entry of FLOORS that a module belongs to."""
    fits = [name for name in FLOORS if module == name or module.startswith(name + ".")]
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
    mine, found = room(module), []
    for line, other in imports(module, source, is_package):
        if other.split(".")[0] != "modelpar":
            continue
        theirs = room(other)
        if mine is None:
            found.append(f"line {line}: {module} imports nothing of modelpar, but has {other}")
        elif other == "modelpar" and mine == TOP:
            continue
        elif theirs is None:
            found.append(f"line {line}: {module} imports {other}, which is above it")
        elif theirs != mine and FLOORS[theirs] >= FLOORS[mine]:
            found.append(f"line {line}: {module} (floor {FLOORS[mine]}) imports {other} (floor {FLOORS[theirs]})")
    return found


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("modelpar") and name not in ROOF])
def test_every_module_has_a_floor(module: str) -> None:
    assert room(module) is not None, f"{module} has no floor; give it one in FLOORS of this test"


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ROOF])
def test_imports_go_down(module: str) -> None:
    path = MODULES[module]
    found = wrong_imports(module, path.read_text(), path.name == "__init__.py")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", FLOORS)
def test_the_table_names_what_there_is(name: str) -> None:
    assert name in MODULES, f"FLOORS names {name}, which does not exist"


@pytest.mark.parametrize(
    ("module", "source", "is_wrong"),
    [
        ("modelpar.comm.grid", "from modelpar import errors", False),
        ("modelpar.comm.grid", "from modelpar.model.rbm import RBM", True),
        ("modelpar.comm.grid", "def f():\n    import modelpar.training.trainer", True),
        ("modelpar.comm.grid", "from . import rbm", True),
        ("modelpar.comm.grid", "import modelpar", True),
        ("modelpar.comm.grid", "from modelpar.data import Dataset", True),
        ("modelpar.training.trainer", "from modelpar.checkpoint import save", True),
        ("modelpar.data.idx", "from .columns import Columns", False),
        ("modelpar.draws", "from modelpar.kernels import threads", False),
        ("modelpar.cli.train", "from ..trainer import pretrain", False),
        ("modelpar.cli.train", "from modelpar import pretrain", False),
        ("partitioners.graph", "import numpy, networkx", False),
        ("partitioners.graph", "from modelpar.errors import ModelparError", True),
    ],
)
def test_the_reader_of_imports(module: str, source: str, is_wrong: bool) -> None:
    assert bool(wrong_imports(module, source)) == is_wrong
