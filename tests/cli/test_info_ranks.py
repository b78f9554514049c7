"""``modelpar info --ranks``: nodes that differ are told, each difference once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mpi4py import MPI

from modelpar.cli import run
from modelpar.cli.info_ranks import as_ranges, differences, nodes_of, warnings_of

SAME = {"modelpar": "1.0", "python": "3.11.7", "numpy": "2.1", "mpi4py": "4.1", "mpi": "MPICH 5", "cpu": "fast"}


def of_rank(rank: int, node: int, **other: Any) -> dict[str, Any]:
    facts = {
        "kernels": "tiles registers", "blas": "openblas:SkylakeX", "cores": 4, "threads": 2,
        "memory_available": 8 << 30, "processors": [2 * rank, 2 * rank + 1], "warnings": [],
    }  # fmt: skip
    return {"rank": rank, "node": node, "host": f"n{node}", **SAME, **facts, **other}


def test_alike_nodes_give_no_line() -> None:
    nodes = nodes_of([of_rank(rank, rank // 2 * 2) for rank in range(4)])
    assert [node["ranks"] for node in nodes] == [[0, 1], [2, 3]]
    assert nodes[1]["masks"] == ["4-5", "6-7"]
    assert differences(nodes) == []


def test_every_difference_is_one_line() -> None:
    slow = {"kernels": "tables", "cpu": "slow", "memory_available": 3 << 30}
    nodes = nodes_of([of_rank(0, 0), of_rank(1, 0), of_rank(2, 2, **slow), of_rank(3, 2, **slow | {"threads": 1}),
                      of_rank(4, 4, **slow)])  # fmt: skip
    assert nodes[1]["threads"] == "2 | 1"
    lines = differences(nodes)
    assert [line.split(":")[0] for line in lines[:4]] == [
        "nodes differ in cpu", "nodes differ in kernels", "nodes differ in ranks", "nodes differ in threads"
    ]  # fmt: skip
    assert "fast on n0; slow on n2, n4" in lines[0]
    assert "2 on n0, n2; 1 on n4" in lines[2]
    assert [line.split()[0] for line in lines[4:]] == ["n2", "n4"]
    assert "3.0 GiB of memory left, n0 8.0 GiB" in lines[4]


def test_warnings_name_their_ranks() -> None:
    assert as_ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    ranks = [of_rank(0, 0, warnings=["bound"]), of_rank(1, 0), of_rank(2, 0, warnings=["bound", "slow"])]
    assert warnings_of(ranks) == ["rank 0,2: bound", "rank 2: slow"]


def test_the_command_prints_nodes(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(MPI.COMM_SELF, ["info", "--ranks", "--json", "--threads", "1"]) == 0
    [node] = json.loads(capfd.readouterr().out)["nodes"]
    assert node["ranks"] == [0]
    assert node["threads"] == 1
    assert run(MPI.COMM_SELF, ["info", "--ranks", "--threads", "1"]) == 0
    assert "1 ranks on 1 node(s)" in capfd.readouterr().out
