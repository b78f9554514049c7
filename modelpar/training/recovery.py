"""Recovery after a rank was lost: what the others keep, how they agree, and the network that they go on with.

Needs User Level Failure Mitigation (Bland et al. 2013, as in Open MPI 5): an operation with a lost rank fails instead
of ending the job, a communicator can be revoked so that nobody waits on it, and shrunk to those that are left.

A lost rank takes its replica out, for nobody else has its shard of it.  Where replicas take steps together, the others
go back to the last snapshot that all of them have, at most ``EVERY`` steps, and take these steps again with the
samples divided anew among them: nothing is lost, and as draws belong to samples, the run does what it would have done.
Where replicas are at their own pace, they go on from the servers' parameters; those of a lost server are taken from
the replica that fetched them last.  Chains of the lost replica go on from the last snapshot, the others from where they
are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from mpi4py import MPI

from modelpar.chains.gathered import GatheredChains
from modelpar.collective import messages
from modelpar.comm.exchange import Traffic
from modelpar.comm.grid import Grid
from modelpar.errors import ModelparError
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.layout import NetworkLayout
from modelpar.spec import NetworkSpec
from modelpar.sync import Average, Salvage
from modelpar.training.state import TrainingRun, copies
from modelpar.weights.parameters import Parameters

EVERY = 10  # steps between two snapshots: a copy takes about as long as a step

SortKey = tuple[int, int, int, int]  # as ``Position.sort_key``


@dataclass(frozen=True)
class Snapshot:
    """A rank's part of a network and its training, at a step at which all replicas were alike."""

    parts: dict[str, Parameters]
    means: list[np.ndarray]  # mean activations of the RBMs
    run: TrainingRun
    scaling: tuple[np.ndarray, np.ndarray]  # offset and scale of the input
    rooms: list[tuple[int, int]]  # of the RBMs' weights
    chains: GatheredChains | None = None  # of all replicas, where these have chains of their own

    @classmethod
    def of(cls, network: DeepBeliefNetwork, chains: GatheredChains | None = None) -> Snapshot:
        parts = copies({part.name: part.parameters for part in network.parts()})
        means = [rbm.mean_activation.copy() for rbm in network.rbms]
        scaling, rooms = (network.input_offset, network.input_scale), [rbm.weights.rooms for rbm in network.rbms]
        return cls(parts, means, TrainingRun.of(network).copy(), scaling, rooms, chains)


class Snapshots:
    """The last two snapshots of a network, kept in memory: two copies of what this rank trains.

    Ranks may be a step apart when one is lost, so the last one of a rank may not be that of another; the one before is.
    """

    def __init__(self, network: DeepBeliefNetwork) -> None:
        self.network = network
        self.kept: dict[SortKey, Snapshot] = {}

    def keep(self) -> None:
        """Take one now, unless the last one is hardly older.

        The same on all ranks; collective over the replicas where these have chains of their own.
        """
        run = TrainingRun.of(self.network)
        here = run.position.sort_key
        last = max(self.kept, default=None)
        if last is not None and here[:3] == last[:3] and here[3] - last[3] < EVERY:
            return
        replica_comm = self.network.grid.replica_comm
        chains = None if run.chains is None else GatheredChains.of(run.chains, replica_comm)
        self.kept[here] = Snapshot.of(self.network, chains)
        for old in sorted(self.kept)[:-2]:
            del self.kept[old]


@dataclass(frozen=True)
class SurvivorState:
    """The state that a surviving rank brings to the next grid.

    snapshots   by the sort key of their position; salvage and ``now``: where it was at its own pace
    """

    shard: int
    snapshots: dict[SortKey, Snapshot]
    salvage: Salvage | None = None
    now: Snapshot | None = None


def survivor_state(network: DeepBeliefNetwork, snapshots: Snapshots) -> SurvivorState:
    """Return the state of this rank after another one was lost.  Not collective."""
    sync = TrainingRun.of(network).sync
    salvage = None if sync is None else sync.salvage()
    now = Snapshot.of(network) if salvage is not None else None
    return SurvivorState(network.grid.shard, snapshots.kept, salvage, now)


# -- who is left -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Survivors:
    """comm: those that go on, replica by replica, then servers; COMM_NULL on a rank whose replica is gone.

    replicas, servers   how many
    lost                ranks of COMM_WORLD that were lost, and those that stop because their replica is gone
    """

    comm: MPI.Comm
    replicas: int
    servers: int
    lost: list[int]
    idle: list[int]


def regroup(members: MPI.Comm, grid: Grid | None, n_shards: int, world: MPI.Group) -> Survivors:
    """Agree on who is left of ``members`` and can go on.  Collective over those that are left.

    grid    theirs, abandoned before; None where one was being made
    world   the group in which lost ranks are named

    Raises MPI.Exception where none was lost, ModelparError where no replica is complete.
    """
    before = members.group
    members.Revoke()
    left = members.Shrink()
    if left.size == before.size:
        raise MPI.Exception(MPI.ERR_REVOKED)
    gone = MPI.Group.Difference(before, left.group)
    lost = sorted(MPI.Group.Translate_ranks(gone, list(range(gone.size)), world))
    mine = (-2, -2) if grid is None else (grid.replica, grid.shard)
    coordinates = left.allgather(mine)
    if any(replica == -2 for replica, _ in coordinates):  # nothing to lose yet: the first ranks make new replicas
        coordinates = [divmod(rank, n_shards) for rank in range(left.size)]
    n_left = Counter(replica for replica, _ in coordinates if replica >= 0)
    complete = sorted(replica for replica, n in n_left.items() if n == n_shards)
    if not complete:
        raise ModelparError(
            f"rank {', '.join(map(str, lost))} was lost, and no replica is complete any more; go on from the last "
            "checkpoint with --resume"
        )
    servers = [rank for rank, (replica, _) in enumerate(coordinates) if replica == -1]
    if {coordinates[rank][1] for rank in servers} != set(range(n_shards)):  # too few: the replicas host the parameters
        servers = []
    order = [coordinates.index((r, s)) for r in complete for s in range(n_shards)]
    # a server serves the shard of its position modulo the shards
    by_shard = [[rank for rank in servers if coordinates[rank][1] == s] for s in range(n_shards)]
    rounds = min((len(ranks) for ranks in by_shard), default=0)
    order += [by_shard[s][k] for k in range(rounds) for s in range(n_shards)]
    idle = sorted(MPI.Group.Translate_ranks(left.group, [r for r in range(left.size) if r not in order], world))
    chosen = left.rank in order
    comm = left.Split(0 if chosen else MPI.UNDEFINED, order.index(left.rank) if chosen else 0)
    return Survivors(comm, len(complete), rounds * n_shards, lost, idle)


# -- the network that goes on ------------------------------------------------------------------------------------------


def rebuild(state: SurvivorState, spec: NetworkSpec, grid: Grid, layout: NetworkLayout) -> DeepBeliefNetwork | None:
    """The network on the next grid, ready to be trained on; None where the ranks have no snapshot in common.

    Collective over the grid.
    """
    salvaged = state.salvage is not None and state.now is not None
    common = set.intersection(*(set(keys) for keys in grid.comm.allgather(list(state.snapshots))))
    last = state.snapshots[max(common)] if common else None
    if grid.comm.allreduce(salvaged, MPI.LAND):
        return _from_salvage(state, last, spec, grid, layout)
    return None if last is None else _network(last, spec, grid, layout)


def _network(snapshot: Snapshot, spec: NetworkSpec, grid: Grid, layout: NetworkLayout) -> DeepBeliefNetwork:
    network = DeepBeliefNetwork(spec, grid, layout, draw_weights=False)
    for part in network.parts():
        part.parameters.copy_from(snapshot.parts[part.name])
    for rbm, mean, rooms in zip(network.rbms, snapshot.means, snapshot.rooms, strict=True):
        rbm.mean_activation[:], rbm.weights.rooms = mean, rooms
    network.input_offset, network.input_scale = snapshot.scaling
    network.run = run = snapshot.run
    run.chains = None if snapshot.chains is None else snapshot.chains.of_replica(grid.replica, grid.n_replicas)
    return network


def _from_salvage(
    state: SurvivorState, last: Snapshot | None, spec: NetworkSpec, grid: Grid, layout: NetworkLayout
) -> DeepBeliefNetwork:
    """last   of the snapshots that all ranks have, which has the chains of those that were lost"""
    salvage, now = state.salvage, state.now
    assert salvage is not None
    assert now is not None
    comm = grid.replica_comm
    # the replica that fetched last replaces the parts of lost hosts; the other hosts give their own
    freshest = max((version, -rank) for rank, version in enumerate(comm.allgather(salvage.version)))
    base = salvage.base.copy()
    messages.bcast(comm, base, -freshest[1])
    start, values = salvage.hosted
    parts, at = comm.allgather((start, len(values))), 0
    hosted = messages.concatenated(comm, values)
    for start, n in parts:
        base[start : start + n] = hosted[at : at + n]
        at += n
    for name, where in salvage.slices.items():
        now.parts[name].flat[:] = base[where]
    for velocity in now.run.velocity.values():
        messages.allreduce(comm, velocity.flat)  # the parts of replicas at their own pace add up to one velocity
    average = Average(now.run.average, 1)
    average.weight = salvage.weight
    average.meet(comm, Traffic())
    if last is not None and last.chains is not None and now.run.chains is not None:
        last.chains.bring_up_to_date(now.run.chains, comm)
        now = replace(now, chains=last.chains)
    now.run.position.step += grid.comm.allreduce(salvage.steps, MPI.MAX)
    network = _network(now, spec, grid, layout)
    now.run.refresh(network)
    return network
