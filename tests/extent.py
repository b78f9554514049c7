"""A plugin for pytest: how much of the tests runs, and a line at the end that says what was left out.

``--quick``      what takes minutes: without the mark ``slow``, and thinned as ``--all`` is; where nothing is named
``--all``        every test; of one with three or more parameters not the combinations that add no new pair of their
                 values (``pairs.covering``); inside MPI jobs see ``beyond_pairs``
``--products``   every combination too; where files or tests are named
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests import jobs, pairs

QUICK, ALL, PRODUCTS = "--quick", "--all", "--products"
GRIDS = ("shape", "n_shards")  # parameters that tell how the ranks of a job are arranged
MINUTES = {ALL: 20, PRODUCTS: 30}  # on two cores, roughly

_LEFT_OUT = pytest.StashKey[int]()


def quick(cases: Iterable[Any], n: int = 1) -> list[Any]:
    """Parameters of a test of which only the first ``n`` are for the quick suite; tuples are several at once."""
    return [
        case if i < n else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for i, case in enumerate(cases)
    ]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("modelpar")
    for option, text in (
        (QUICK, "without the tests that take long [where none is named]"),
        (ALL, "all tests, with all pairs of values of their parameters"),
        (PRODUCTS, "all tests, with all combinations of values [where files or tests are named]"),
    ):
        group.addoption(option, dest="extent", action="store_const", const=option, help=text)
    group.addoption(
        "--second-mpi", action="store_true", help="all files of ranks passed with another MPI: fewer numbers of ranks"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Decide once, for the workers of pytest-xdist too, which get the options as they are then."""
    if config.option.extent is None:
        config.option.extent = PRODUCTS if names_files(config) else QUICK


def names_files(config: pytest.Config) -> bool:
    """Whether files or tests are named on the command line, and no folder."""
    given = config.args_source is pytest.Config.ArgsSource.ARGS
    return given and not any(Path(argument.partition("::")[0]).is_dir() for argument in config.args)


@pytest.hookimpl(tryfirst=True)  # before -k and -m: pairs are those of all cases
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.extent == PRODUCTS:
        return
    n_ranks = 0
    if jobs.IN_JOB:
        from mpi4py import MPI

        n_ranks = MPI.COMM_WORLD.size
    unneeded = beyond_pairs(items, n_ranks, second_mpi=config.option.second_mpi)
    without_slow = config.option.extent == QUICK
    left_out = [item for item in items if item in unneeded or (without_slow and item.get_closest_marker("slow"))]
    gone = set(left_out)
    items[:] = [item for item in items if item not in gone]
    config.stash[_LEFT_OUT] = len(left_out)
    if hasattr(config, "workeroutput"):
        config.workeroutput["left_out"] = len(left_out)
    config.hook.pytest_deselected(items=left_out)


def beyond_pairs(items: list[pytest.Item], n_ranks: int = 0, *, second_mpi: bool = False) -> set[pytest.Item]:
    """The cases of tests that bring no pair of values which the others lack; ``n_ranks``: of the MPI job, 0 for none.

    Pairs of values are those of the job on 2 ranks; on other numbers of ranks each value runs on each grid.  Of the
    grids of 4 ranks and more, those of one replica or one shard are like those of 2 and 3, and run one case of each
    test.  A test with the mark ``every_grid`` has its pairs everywhere.  Where all of that ran with another MPI, each
    value runs once: the numbers are the same, and the calls of MPI do not depend on pairs.
    """
    cases = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and len(item.callspec.params) > 1:
            cases[item.parent, item.originalname].append(item)
    unneeded: set[pytest.Item] = set()
    for group in cases.values():
        names = sorted(group[0].callspec.params)
        values = [[_key(value) for _, value in sorted(item.callspec.params.items())] for item in group]
        in_job = n_ranks not in (0, 2) and not any(True for _ in group[0].iter_markers("every_grid"))
        grid = next((names.index(name) for name in GRIDS if name in names), None) if in_job else None
        if n_ranks and second_mpi:
            needed = pairs.singles(values)
        elif grid is not None:
            like_fewer = {_key(value) for value in ((1, n_ranks), (n_ranks, 1), 1, n_ranks)} if n_ranks > 3 else set()
            needed = pairs.with_grids(values, grid, like_fewer)
        else:
            needed = pairs.covering(values) if len(names) > 2 else [*range(len(group))]
        unneeded.update(set(group) - {group[i] for i in needed})
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
    if not left_out:
        return
    if config.option.extent == QUICK:
        terminalreporter.write_line(
            f"The quick suite: {left_out} more cases were left out, long ones and products of parameters. "
            f"All tests, in about {MINUTES[ALL]} minutes on two cores:  pytest {ALL}"
        )
    else:
        terminalreporter.write_line(
            f"{left_out} more combinations of parameters were left out, whose pairs all ran. "
            f"All of them, in about {MINUTES[PRODUCTS]} minutes on two cores:  pytest {PRODUCTS}"
        )
