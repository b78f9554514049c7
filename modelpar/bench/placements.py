"""The cost of a partition in the engine: bytes and seconds of an update of all RBMs, for ``partitioners.compare``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
from mpi4py import MPI

from modelpar.bench.step import CD1, training_spec
from modelpar.bench.timing import in_turn
from modelpar.comm.grid import Grid
from modelpar.draws import Purpose
from modelpar.errors import raise_together
from modelpar.ownership.connections import Connections, Listed
from modelpar.ownership.costs import halo_bytes
from modelpar.ownership.layout import NetworkLayout, UnitLayout
from modelpar.patterns import PRUNED
from modelpar.plan.resolve import resolve
from modelpar.spec import NetworkSpec, TrainingSpec
from partitioners import GraphError, Partition, Rates, Sparse, UnitGraph, block, method
from partitioners.arguments import integer, seed_of
from partitioners.auto import Search
from partitioners.compare import Result, Watcher, compare
from partitioners.networks import Network, network

REPEATS, SECONDS = 3, 0.05  # of the clock on one RBM
MESSAGES = 64, 1 << 20  # bytes


def run(
    names: Iterable[str], methods: Sequence[str], parts: Sequence[int], *, comm: MPI.Comm, seed: int = 0,
    batch: int = 256, budget: float | None = None, progress: Watcher | None = None,
) -> Iterator[Result]:  # fmt: skip
    """Results of ``partitioners.compare`` with the engine's measurements on rank 0, none elsewhere.  Collective.

    names     of networks; parts: at most as many as there are ranks
    budget    seconds for each search of a method in rounds; progress: called on rank 0, see ``partitioners.compare``

    On as many ranks as there are parts, and summed over all RBMs, it measures ``bytes`` of one pass up and one down
    (predicted as ``predicted_bytes``), ``step_bytes`` of an update by CD-1 (``step_predicted`` by ``halo_bytes``), and
    ``step_seconds`` of that update.  ``predicted_seconds`` is by rates that are measured here: of each network's update
    on one rank, and of messages between two.
    Raises GraphError on every rank for unknown names and invalid numbers.
    """
    error: Exception | None = None
    try:
        known = {name: network(name) for name in names}
        seed, batch = seed_of(seed), integer("batch", batch, 1)
        Search(budget).checked()
        parts = [integer("the number of parts", n, 1, comm.size) for n in parts]
        for name in methods:
            method(name)
    except GraphError as caught:
        error, known = caught, {}
    raise_together(comm, error)
    between_ranks = _link(comm)
    teams = {n: comm.Split(0 if comm.rank < n else MPI.UNDEFINED, comm.rank) for n in sorted(set(parts))}
    try:
        if comm.rank == 0:

            def measured(one: Network, partition: Partition) -> dict[str, float]:
                comm.bcast((one.name, partition))
                return measure(one.graph, partition, teams[partition.n_parts], batch)

            def rates(one: Network) -> Rates:
                alone = measure(one.graph, block(one.graph, 1), MPI.COMM_SELF, batch)["step_seconds"]
                connections = max(1, sum(link.n_edges for link in one.graph.links))
                return between_ranks._replace(connection=alone / connections / batch)

            yield from compare(
                known.values(), methods, parts, seed=seed, batch=batch, measured=measured, rates=rates, budget=budget,
                progress=progress,
            )  # fmt: skip
            comm.bcast(None)
        else:
            while task := comm.bcast(None):
                name, partition = task
                if comm.rank < partition.n_parts:
                    measure(known[name].graph, partition, teams[partition.n_parts], batch)
    finally:
        for team in teams.values():
            if team != MPI.COMM_NULL:
                team.Free()


def measure(graph: UnitGraph, partition: Partition, comm: MPI.Comm, batch: int) -> dict[str, float]:
    """Bytes and seconds of a network's updates with a partition, one rank of ``comm`` a part.  Collective."""
    totals = dict.fromkeys(("bytes", "step_bytes", "step_predicted", "step_seconds"), 0.0)
    training = training_spec(TrainingSpec.statistics, batch)
    with Grid(comm, model_shards=comm.size) as grid:
        for i, (lower, upper) in enumerate(pairwise(graph.layers)):
            link = graph.links[i]
            connections: Connections | None = Listed.from_mask(link.mask) if isinstance(link, Sparse) else None
            spec = NetworkSpec((lower, upper), connections="dense" if connections is None else PRUNED)
            owners = tuple(UnitLayout.from_owners(owner, comm.size) for owner in partition.owners[i : i + 2])
            layout = resolve(spec, grid, NetworkLayout(owners, ("dual",)), connections=[connections])
            bench = CD1((batch, lower, upper), grid, spec=spec, owners=layout)
            for name, value in _measured(bench, training, comm).items():
                totals[name] += value
    return totals


def _measured(bench: CD1, training: TrainingSpec, comm: MPI.Comm) -> dict[str, float]:
    rbm, weights = bench.rbm, bench.rbm.weights
    bench.update(training)
    before = _received(bench, comm)
    rbm.sample_visible(rbm.sample_hidden(bench.v0, Purpose.HIDDEN, 0, 0), Purpose.VISIBLE, 0, 0)
    after = _received(bench, comm)
    bench.update(training)
    stepped = _received(bench, comm)
    seconds = median(in_turn({"": lambda: bench.update(training)}, repeats=REPEATS, seconds=SECONDS, comm=comm)[""])
    up, down = (comm.allreduce(n) for n in weights.halo_units)
    return {
        "bytes": float(after - before), "step_bytes": float(stepped - after), "step_seconds": seconds,
        "step_predicted": float(halo_bytes(up, down, bench.n_mine, planes=training.planes)),
    }  # fmt: skip


def _link(comm: MPI.Comm) -> Rates:
    """The rates of messages between ranks 0 and 1, by messages of two sizes that go to and fro.  Collective."""
    if comm.size == 1:
        return Rates()
    times = []
    for n_bytes in MESSAGES:
        sent, received = np.zeros(n_bytes, np.uint8), np.zeros(n_bytes, np.uint8)

        def to_and_fro(sent: Any = sent, received: Any = received) -> None:
            if comm.rank < 2:
                comm.Sendrecv(sent, 1 - comm.rank, recvbuf=received, source=1 - comm.rank)

        times.append(median(in_turn({"": to_and_fro}, repeats=REPEATS, seconds=SECONDS, comm=comm)[""]))
    short, long = times
    byte = max(0.0, (long - short) / (MESSAGES[1] - MESSAGES[0]))
    return Rates(byte=byte, message=max(0.0, short - byte * MESSAGES[0]))


def _received(bench: CD1, comm: MPI.Comm) -> int:
    total = bench.network.traffic.total(comm)["shard"]
    return sum(n for kinds in total.values() for n in kinds.values())
