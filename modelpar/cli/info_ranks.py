"""``modelpar info --ranks``: what every node of a job has, and in what the nodes differ."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from mpi4py import MPI
from rich.table import Table
from rich.text import Text

from modelpar.cli.info import collect
from modelpar.cli.progress import size_text
from modelpar.cli.terminal import make_console
from modelpar.comm.cores import Placement
from modelpar.files.paths import in_one_line

# What should be the same on all nodes, and why
ALIKE = {
    "modelpar": "install one version everywhere",
    "python": "use one environment everywhere",
    "numpy": "sums of floats may differ in their last bits",
    "mpi4py": "use one environment everywhere",
    "mpi": "start all ranks by one MPI",
    "cpu": "every step waits for the slowest",
    "kernels": "every step waits for the slowest",
    "blas": "every step waits for the slowest, and sums of floats may differ in their last bits",
    "cores": "every step waits for the node with the fewest",
    "ranks": "shards of a replica may come to lie on two nodes: give every node as many ranks",
    "threads": "every step waits for the ranks with the fewest",
}
LEAST_MEMORY = 0.5  # of that of the node with most: parts of a network are about as large on every rank


def show(comm: MPI.Comm, placement: Placement, environment: dict[str, str], *, as_json: bool) -> None:
    """Print a line a node, and what differs.  Collective."""
    facts = collect(comm, placement, environment)
    ranks = comm.allgather(_facts_of_rank(comm, placement, facts))
    nodes = nodes_of(ranks)
    lines = [*differences(nodes), *warnings_of(ranks)]
    if as_json:
        print(json.dumps({"nodes": nodes, "warnings": lines}, indent=1), flush=True)
        return
    console = make_console()
    console.print(_table(nodes))
    for line in lines:
        console.print(f"warning: {line}", markup=False, soft_wrap=True)


def _facts_of_rank(comm: MPI.Comm, placement: Placement, facts: dict[str, Any]) -> dict[str, Any]:
    """What this rank tells the others.  Collective."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    first = node.bcast(comm.rank)
    node.Free()
    same = {name: facts[name] for name in ("modelpar", "python", "numpy", "mpi4py", "mpi", "cpu")}
    return {
        "rank": comm.rank, "node": first, "host": MPI.Get_processor_name(), **same,
        "kernels": " ".join(facts["kernels"]),
        "blas": " ".join(sorted({f"{library['library']}:{library['core_type']}" for library in facts["blas"]})),
        "cores": placement.cores, "threads": placement.threads, "memory_available": facts["memory_available"],
        "processors": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        "warnings": facts["warnings"],
    }  # fmt: skip


def nodes_of(ranks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The facts of each node, from those of all ranks; values in which ranks of one node differ are joined by `` | ``.

    ``ranks``: numbers of the node's ranks; ``masks``: processors that each of them may use
    """
    nodes = []
    for first in sorted({rank["node"] for rank in ranks}):
        own = [rank for rank in ranks if rank["node"] == first]
        node: dict[str, Any] = {"host": own[0]["host"], "ranks": [rank["rank"] for rank in own]}
        for name in ("modelpar", "python", "numpy", "mpi4py", "mpi", "cpu", "kernels", "blas", "cores", "threads"):
            found = list(dict.fromkeys(rank[name] for rank in own))
            node[name] = found[0] if len(found) == 1 else " | ".join(map(str, found))
        node["memory_available"] = min(rank["memory_available"] for rank in own)
        node["masks"] = [as_ranges(rank["processors"]) for rank in own]
        nodes.append(node)
    return nodes


def differences(nodes: list[dict[str, Any]]) -> list[str]:
    """A line for each thing in which nodes differ that should be alike."""
    lines = []
    for name, why in ALIKE.items():
        values: dict[Any, list[str]] = {}
        for node in nodes:
            value = len(node["ranks"]) if name == "ranks" else node[name]
            values.setdefault(value, []).append(node["host"])
        if len(values) > 1:
            shown = "; ".join(f"{value} on {_named(hosts)}" for value, hosts in values.items())
            lines.append(f"nodes differ in {name}: {shown}: {why}")
    most = max(nodes, key=lambda node: node["memory_available"])
    for node in nodes:
        if node["memory_available"] < LEAST_MEMORY * most["memory_available"]:
            lines.append(
                f"{node['host']} has {size_text(node['memory_available'])} of memory left, {most['host']} "
                f"{size_text(most['memory_available'])}: what fits there does not fit here"
            )
    return lines


def warnings_of(ranks: Iterable[dict[str, Any]]) -> list[str]:
    """What does not fit together on single ranks, each line once, with the ranks."""
    lines: dict[str, list[int]] = {}
    for rank in ranks:
        for line in rank["warnings"]:
            lines.setdefault(line, []).append(rank["rank"])
    return [f"rank {as_ranges(found)}: {line}" for line, found in lines.items()]


def as_ranges(numbers: list[int]) -> str:
    """``0-3,8`` of 0, 1, 2, 3, 8, in ascending order"""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in parts)


def _named(hosts: list[str]) -> str:
    return ", ".join(hosts[:3]) + (f" and {len(hosts) - 3} more" if len(hosts) > 3 else "")


def _table(nodes: list[dict[str, Any]]) -> Table:
    table = Table(
        title=f"{sum(len(node['ranks']) for node in nodes)} ranks on {len(nodes)} node(s)", title_justify="left"
    )
    for head in ("node", "ranks", "cores", "threads a rank", "processors of each rank", "memory left", "what is there"):
        table.add_column(head, overflow="fold")
    for node in nodes:
        masks = list(dict.fromkeys(node["masks"]))
        table.add_row(*(
            Text(in_one_line(cell)) for cell in (
                node["host"], as_ranges(node["ranks"]), str(node["cores"]), str(node["threads"]),
                f"{masks[0]} (all)" if len(masks) == 1 else " ".join(node["masks"]),
                size_text(node["memory_available"]),
            )
        ), Text("\n".join(in_one_line(str(node[name])) for name in ("cpu", "kernels", "blas", "mpi"))))  # fmt: skip
    return table
