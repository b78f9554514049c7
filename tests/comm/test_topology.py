"""Hyperthreads, and ranks that are bound to cores of their own.

Modules: modelpar/comm/binding
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mpi4py import MPI

from modelpar.cli import threads
from modelpar.comm import binding
from modelpar.comm.cores import Placement
from modelpar.comm.topology import cores_of
from modelpar.errors import SpecError

EIGHT = [frozenset({n, n + 8}) for n in range(8)]


def written(root: Path, siblings: dict[int, str], packages: dict[int, str] | None = None) -> Path:
    for processor, text in siblings.items():
        folder = root / f"cpu{processor}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text)
        (folder / "physical_package_id").write_text((packages or {}).get(processor, "0"))
    return root


@pytest.mark.parametrize(
    ("siblings", "allowed", "expected"),
    [
        ({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, {0, 1, 2, 3}, [{0, 2}, {1, 3}]),
        ({0: "0-1\n", 1: "0-1\n", 2: "2-3\n", 3: "2-3\n"}, {0, 1, 2, 3}, [{0, 1}, {2, 3}]),
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, {1, 2, 3}, [{1}, {2, 3}]),  # bound to a part of the first
        ({0: "", 1: "nonsense-"}, {0, 1, 7}, [{0}, {1}, {7}]),
    ],
)
def test_processors_of_one_core(
    siblings: dict[int, str], allowed: set[int], expected: list[set[int]], tmp_path: Path
) -> None:
    assert cores_of(allowed, written(tmp_path, siblings)) == expected


def test_cores_of_a_package_are_neighbours(tmp_path: Path) -> None:
    root = written(tmp_path, {n: str(n) for n in range(4)}, {0: "0", 1: "1", 2: "0", 3: "1"})
    assert cores_of(range(4), root) == [{0}, {2}, {1}, {3}]


def test_every_rank_has_cores_of_its_own() -> None:
    assert binding.shares(EIGHT, [3, 3, 2]) == [(0, 1, 2), (3, 4, 5), (6, 7)]
    assert binding.shares(EIGHT, [1, 1]) == [(0,), (1,)]
    assert binding.shares(EIGHT, [4, 5]) is None


def bound(
    monkeypatch: pytest.MonkeyPatch, how: str, *, n_threads: int = 2, ranks: int = 2, masks: Any = None, cores: int = 8
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """(what the second of two ranks was told, what it was bound to)"""
    calls: list[tuple[int, ...]] = []
    masks = masks or [list(range(16))] * 2
    node = SimpleNamespace(size=2, rank=1, allgather=lambda mine: [(mask, n_threads, cores) for mask in masks])
    monkeypatch.setattr(binding, "cores_of", lambda _: EIGHT)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, processors: calls.append(processors), raising=False)
    told = binding.bind(node, Placement(cores, cores, ranks, n_threads), how)  # type: ignore[arg-type]
    return told, calls


@pytest.mark.parametrize("how", ["core", "auto"])
def test_ranks_are_bound(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bound(monkeypatch, how) == ((2, 3), [(2, 3)])
    apart = [[0, 1], [4, 5]]
    assert bound(monkeypatch, how, masks=apart) == ((4, 5), []), "the launcher has done it"


@pytest.mark.parametrize(
    "more", [{"n_threads": 5}, {"n_threads": 3, "cores": 4}, {"ranks": 3}], ids=["cores", "quota", "another job"]
)
def test_too_few_cores(more: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert bound(monkeypatch, "auto", **more) == ((), [])
    with pytest.raises(SpecError, match=r"--bind core needs a core for each of .* use fewer ranks or --threads"):
        bound(monkeypatch, "core", **more)
    assert bound(monkeypatch, "none", **more) == ((), [])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds nothing")
def test_threads_that_begin_later_are_bound_too() -> None:
    before, seen = os.sched_getaffinity(0), list[set[int]]()
    own = len(cores_of(before))
    try:
        told = binding.bind(MPI.COMM_SELF, Placement(own, own, 1, 1), "core")
        assert len(told) == 1
        thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
        assert seen == [set(told)]
    finally:
        os.sched_setaffinity(0, before)


def test_ranks_that_disagree_are_told() -> None:
    comm = SimpleNamespace(allgather=lambda how: [how, "core"])
    with pytest.raises(SpecError, match="ranks bring different --bind: auto, core"):
        threads._bound(comm, Placement(1, 1, 1, 1), "auto")  # type: ignore[arg-type]
