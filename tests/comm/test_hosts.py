"""Ranks on two hosts, which are network namespaces: the shards of a replica share a host, so activations stay there.

The launcher deals ranks out host by host, so that neighbours in rank order are on different hosts: a grid in rank order
would send everything over the link between them.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import jobs

pytestmark = [pytest.mark.jobs, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "examples" / "hosts.py"
LIMIT = 60  # seconds for the job, which takes about 3
PAYLOAD = 1 << 23  # bytes that every rank contributes to an exchange

# What a rank does: where it sits, and the bytes that its host sends over the link for exchanges along each axis.
RANK = f"""
import json
import os
from pathlib import Path

import numpy as np
from mpi4py import MPI

from modelpar.comm.grid import Grid

comm = MPI.COMM_WORLD


def sent():
    lines = [line.split(":") for line in Path("/proc/self/net/dev").read_text().splitlines() if ":" in line]
    return sum(int(numbers.split()[8]) for name, numbers in lines if name.strip() != "lo")


def over_the_link(exchange):
    comm.barrier()
    before = sent()
    comm.barrier()
    exchange()
    comm.barrier()
    return sent() - before


def gathered(axis):
    axis.Allgather(np.ones({PAYLOAD}, np.uint8), np.empty({PAYLOAD} * axis.size, np.uint8))


with Grid(comm, model_shards=2, replicas=2) as grid, Grid(comm, model_shards=4) as one_model:
    pairs = comm.Split(comm.rank // 2)
    mine = {{
        "rank": comm.rank,
        "host": os.stat("/proc/self/ns/net").st_ino,
        "replica": grid.replica,
        "shard": grid.shard,
        "far": [grid.far, grid.replicas_far, one_model.far, one_model.replicas_far],
        "along shards": over_the_link(lambda: gathered(grid.shard_comm)),
        "along replicas": over_the_link(lambda: gathered(grid.replica_comm)),
        "in rank order": over_the_link(lambda: gathered(pairs)),
    }}
    pairs.Free()
told = comm.gather(mine)
if comm.rank == 0:
    print("SEATS " + json.dumps(told))
"""


@pytest.fixture
def two_hosts() -> Iterator[Any]:
    """The names and addresses of two hosts, and what stands for ssh between them."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("network namespaces need Linux and root")
    if not shutil.which("ip") or not shutil.which("tc"):
        pytest.skip("network namespaces need the commands ip and tc, of iproute2")
    if len(jobs.launcher()) > 1:
        pytest.skip("ranks enter namespaces by options of MPICH's mpiexec")
    made = runpy.run_path(str(EXAMPLE))
    hosts = made["hosts"](2, "1gbit")
    try:
        there = hosts.__enter__()
    except SystemExit as refused:
        pytest.skip(f"namespaces cannot be made here: {refused}")
    try:
        yield there
    finally:
        hosts.__exit__(None, None, None)


def test_shards_of_a_replica_share_a_host(two_hosts: Any, tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    here = two_hosts.addresses[0]
    launched = [
        "ip", "netns", "exec", two_hosts.names[0], *jobs.launcher(), "-localhost", here, "-launcher", "ssh",
        "-launcher-exec", two_hosts.script, "-hosts", ",".join(two_hosts.addresses), "-n", "4",
        sys.executable, tmp_path / "rank.py",
    ]  # fmt: skip
    # without UCX_TLS, MPICH finds that both "hosts" share their memory
    output = jobs.run(launched, limit=LIMIT, PYTHONPATH=str(EXAMPLE.parents[1]), UCX_TLS="tcp,self").check().output
    seats = json.loads(next(line for line in output.splitlines() if line.startswith("SEATS "))[6:])

    host = {seat["rank"]: seat["host"] for seat in seats}
    assert host[0] == host[2] != host[1] == host[3], "ranks are dealt out to the hosts in turn"
    by_replica = {n: {seat["host"] for seat in seats if seat["replica"] == n} for n in (0, 1)}
    assert [len(by_replica[n]) for n in (0, 1)] == [1, 1], "a replica is on one host"
    assert by_replica[0] != by_replica[1]
    assert sorted((seat["replica"], seat["shard"]) for seat in seats) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(seat["far"] == [False, True, True, True] for seat in seats)
    for seat in seats:
        assert seat["along shards"] < PAYLOAD / 8, "activations stay on the host"
        assert seat["along replicas"] > PAYLOAD, "updates travel"
        assert seat["in rank order"] > PAYLOAD, "and so would activations, if replicas were made of ranks in order"
