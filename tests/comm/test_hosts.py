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

# Steps of training of two replicas of two shards: the bytes that a step counts by axis, and those of the link.
STEPS = f"""
import json

from modelpar.bench.step import CD1, training_spec

with Grid(comm, model_shards=2, replicas=2) as grid:
    bench = CD1({(512, 4096, 64)}, grid, layout="column")
    training = training_spec("4", 512)
    bench.update(training)
    before = bench.network.traffic.total(comm)
    over = over_the_link(lambda: [bench.update(training) for _ in range(5)])
    after = bench.network.traffic.total(comm)
    far = bench.network.traffic.total(comm, "far")
    hosts = comm.allgather(os.stat("/proc/self/ns/net").st_ino)
    links = dict(zip(hosts, comm.allgather(over)))
    counted = {{
        axis: sum(n - before[axis].get(verb, {{}}).get(kind, 0)
                for verb, kinds in after[axis].items() for kind, n in kinds.items())
        for axis in after
    }}
if comm.rank == 0:
    print("SENT " + json.dumps({{"counted": counted, "far": far, "links": list(links.values()), "order": hosts}}))
"""
# how mpiexec deals the ranks out: in turn, or host after host
ORDERS = {"in turn": "{0},{1}", "host after host": "{0}:2,{1}:2"}


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


def told(there: Any, program: Path, order: str, word: str) -> Any:
    """What four ranks of a program on two hosts tell, in a line of JSON after a word."""
    launched = [
        "ip", "netns", "exec", there.names[0], *jobs.launcher(), "-localhost", there.addresses[0], "-launcher", "ssh",
        "-launcher-exec", there.script, "-hosts", order.format(*there.addresses), "-n", "4", sys.executable, program,
    ]  # fmt: skip
    # without UCX_TLS, MPICH finds that both "hosts" share their memory
    output = jobs.run(launched, limit=LIMIT, PYTHONPATH=str(EXAMPLE.parents[1]), UCX_TLS="tcp,self").check().output
    return json.loads(next(line for line in output.splitlines() if line.startswith(word)).removeprefix(word))


@pytest.mark.parametrize("order", ORDERS)
def test_a_step_sends_between_hosts_what_replicas_exchange(two_hosts: Any, tmp_path: Path, order: str) -> None:
    """Counted by the kernel at each link, beside what the engine counts by axis."""
    (tmp_path / "rank.py").write_text(RANK.partition("def gathered")[0] + STEPS)
    sent = told(two_hosts, tmp_path / "rank.py", ORDERS[order], "SENT ")
    first, second, third, fourth = sent["order"]
    assert {"in turn": first == third != second == fourth, "host after host": first == second != third == fourth}[order]
    counted = sent["counted"]
    assert counted["shard"] > 6 * counted["replica"] > 0, "activations are most of what moves"
    assert sent["far"]["shard"] == {}
    for over_the_link in sent["links"]:  # each host sends what the other receives: half of all
        assert 1 < over_the_link / (counted["replica"] / 2) < 1.15, "with headers and acknowledgements"


def test_shards_of_a_replica_share_a_host(two_hosts: Any, tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    seats = told(two_hosts, tmp_path / "rank.py", ORDERS["in turn"], "SEATS ")

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
