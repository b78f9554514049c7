"""A plugin for pytest: how much of the tests runs, the quick suite or all of it, and a line at the end that says so.

The quick suite leaves out

- what bears the mark ``slow``;
- of a test with three or more parameters, the combinations that add no new pair of their values (``pairs.covering``).

Files and tests that are named on the command line run whole, unless ``--quick`` is given too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests import pairs

ALL, QUICK = "--all", "--quick"
MINUTES = 30  # that all tests take on two cores, roughly

_LEFT_OUT = pytest.StashKey[int]()


def quick(cases: Iterable[Any], n: int = 1) -> list[Any]:
    """Parameters of a test of which only the first ``n`` are for the quick suite; tuples are several at once."""
    return [
        case if i < n else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for i, case in enumerate(cases)
    ]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("modelpar")
    for option, told in (
        (ALL, "all tests with all their parameters [where files or tests are named]"),
        (QUICK, "without those that take long [where none is named]"),
    ):
        group.addoption(option, dest="extent", action="store_const", const=option, help=told)


def pytest_configure(config: pytest.Config) -> None:
    """Decide once, for the workers of pytest-xdist too, which get the options as they are then."""
    if config.option.extent is None:
        config.option.extent = ALL if names_files(config) else QUICK


def names_files(config: pytest.Config) -> bool:
    """Whether files or tests are named on the command line, and no folder."""
    given = config.args_source is pytest.Config.ArgsSource.ARGS
    return given and not any(Path(argument.partition("::")[0]).is_dir() for argument in config.args)


def is_everything(config: pytest.Config) -> bool:
    return config.option.extent == ALL


@pytest.hookimpl(tryfirst=True)  # before -k and -m: pairs are those of all cases
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if is_everything(config):
        return
    unneeded = beyond_pairs(items)
    left_out = [item for item in items if item in unneeded or item.get_closest_marker("slow")]
    gone = set(left_out)
    items[:] = [item for item in items if item not in gone]
    config.stash[_LEFT_OUT] = len(left_out)
    if hasattr(config, "workeroutput"):
        config.workeroutput["left_out"] = len(left_out)
    config.hook.pytest_deselected(items=left_out)


def beyond_pairs(items: list[pytest.Item]) -> set[pytest.Item]:
    """The cases of tests that bring no pair of values which the others lack."""
    cases = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and len(item.callspec.params) > 2:
            cases[item.parent, item.originalname].append(item)
    unneeded: set[pytest.Item] = set()
    for group in cases.values():
        values = [[_key(value) for _, value in sorted(item.callspec.params.items())] for item in group]
        unneeded.update(set(group) - {group[i] for i in pairs.covering(values)})
    return unneeded


def _key(value: object) -> Hashable:
    """The same for the same value of a parameter, which is one object in all the cases that have it."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error: object) -> None:  # type: ignore[no-untyped-def]
    """A worker of pytest-xdist has ended; all of them collect the same."""
    node.config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash.get(_LEFT_OUT, 0)
    if left_out:
        terminalreporter.write_line(
            f"The quick suite: {left_out} more cases were left out, long ones and products of parameters. "
            f"All of them, in about {MINUTES} minutes on two cores:  pytest {ALL}"
        )
