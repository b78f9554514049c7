"""Steps replayed over ranks, against what can be said in a line.

Modules: modelpar/plan/queues
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from modelpar.plan.collectives import Placement, seconds
from modelpar.plan.machine import Link, Machine
from modelpar.plan.queues import Queues
from modelpar.plan.simulate import Replay, cycle_of, simulate
from modelpar.plan.steps import Compute, Move, Step

MACHINE = Machine("tests", 1, 1, 1, Link(1e-6, 5e9), Link(2e-5, 1e9), scatter=0.0)
RNG = np.random.default_rng(0)


def work(*values: float) -> Compute:
    return Compute("products", np.array(values))


def gather(p: int, n: float) -> Move:
    return Move("gather", "shard", "bits", np.full(p, n * (p - 1) / p))


def line(p: int, n_bytes: float = 1000.0) -> Move:
    """A halo between neighbours of a row of shards."""
    pairs = sparse.diags_array([np.full(p - 1, n_bytes)] * 2, offsets=[-1, 1], shape=(p, p)).tocsr()
    return Move("halo", "shard", "bits", np.asarray(pairs.sum(0)).reshape(-1), pairs)


def clocks(step: Step, p: int, machine: Machine = MACHINE, ranks_per_node: int = 1) -> np.ndarray:
    replay = Replay(machine, Placement.blocks(1, p, ranks_per_node))
    replay.run(step, 0.0, RNG)
    return replay.clocks


@pytest.mark.parametrize("n", [1e3, 1e5, 4e6])
@pytest.mark.parametrize("p", [2, 4, 7, 16])
@pytest.mark.parametrize("verb", ["gather", "reduce", "allreduce"])
@pytest.mark.parametrize("mpi", ["mpich", "openmpi"])
def test_ranks_that_begin_together_take_the_closed_form(verb: str, p: int, n: float, mpi: str) -> None:
    received = 2 * (p - 1) / p * n if verb == "allreduce" else (p - 1) / p * n
    move, where = Move(verb, "shard", "bits", np.full(p, received)), Placement.blocks(1, p, 1)
    result = simulate([(move,)], MACHINE, where, mpi=mpi)
    folds = verb != "gather" and p == 7  # some ranks are ahead where others are folded in
    assert result.step == pytest.approx(seconds(move, where, MACHINE, mpi), rel=0.05 if folds else 1e-9)


def test_replicas_may_compute_for_times_of_their_own() -> None:
    both = Compute("products", np.array([[1.0, 2.0], [4.0, 3.0]]))
    replay = Replay(MACHINE, Placement(np.array([[0, 1], [2, 3]])))
    replay.run((both,), 0.0, RNG)
    assert replay.clocks.tolist() == [1.0, 2.0, 4.0, 3.0]
    same = Replay(MACHINE, Placement(np.array([[0, 1], [2, 3]])))
    same.run((work(1.0, 2.0),), 0.0, RNG)
    assert same.clocks.tolist() == [1.0, 2.0, 1.0, 2.0]


def test_two_ranks_share_the_device_of_their_node() -> None:
    """Both send n bytes to another node: the device takes 2 n / bandwidth; within the node nothing would wait."""
    nodes, n = np.array([0, 0, 1, 1]), np.full(2, 1e7)
    left, arrived = Queues(MACHINE, nodes).deliver(np.array([0, 1]), np.array([2, 3]), n, 1.0, np.zeros(2))
    assert arrived.tolist() == pytest.approx([2e-5 + 0.01, 2e-5 + 0.02])
    assert left.max() == pytest.approx(0.02)
    # one from each of two nodes to a third one: its device is shared
    _, arrived = Queues(MACHINE, np.array([0, 1, 2])).deliver(np.array([0, 1]), np.array([2, 2]), n, 1.0, np.zeros(2))
    assert arrived.tolist() == pytest.approx([2e-5 + 0.01, 2e-5 + 0.02])
    # both ways at once: a device sends and receives
    _, arrived = Queues(MACHINE, np.array([0, 1])).deliver(np.array([0, 1]), np.array([1, 0]), n, 1.0, np.zeros(2))
    assert arrived.tolist() == pytest.approx([2e-5 + 0.01] * 2)


def test_a_device_takes_messages_in_the_order_in_which_they_come() -> None:
    """Against a queue written as a loop, with pauses, over several rounds."""
    rng, n_nodes = np.random.default_rng(1), 3
    nodes = np.repeat(np.arange(n_nodes), 4)
    for _ in range(20):
        m = 9
        source = rng.integers(0, 12, m)
        target = (source + 4 + rng.integers(0, 4, m)) % 12  # always on another node, or the next but one
        far = nodes[source] != nodes[target]
        source, target = source[far], target[far]
        n, ready = rng.uniform(1e5, 1e6, len(source)), rng.uniform(0, 3e-3, len(source))
        _, arrived = Queues(MACHINE, nodes).deliver(source, target, n, 1.0, ready)
        out, into, expected = np.zeros(n_nodes), np.zeros(n_nodes), np.zeros(len(source))
        begun = np.zeros(len(source))
        for i in np.argsort(ready):
            begun[i] = max(ready[i], out[nodes[source[i]]])
            out[nodes[source[i]]] = begun[i] + n[i] / 1e9
        for i in np.argsort(begun):
            start = max(begun[i] + 2e-5, into[nodes[target[i]]])
            into[nodes[target[i]]] = expected[i] = start + n[i] / 1e9
        assert np.allclose(arrived, expected)


@pytest.mark.parametrize("scatter", [0.0, 0.05, 0.5])
def test_a_device_never_carries_more_than_it_can(scatter: float) -> None:
    """However ranks drift apart: sums of 16 ranks on 4 nodes, of which 12/15 leave each node."""
    p, n = 16, 8e6
    move = Move("reduce", "shard", "integers", np.full(p, n * (p - 1) / p))
    machine = replace(MACHINE, scatter=scatter)
    result = simulate([(work(*[0.01] * p), move, move)], machine, Placement.blocks(1, p, 4), repeats=4)
    least = 2 * 4 * n / p * 12 / 1e9
    assert result.step >= least
    assert result.step < 0.01 + 1.6 * least + 0.1 * scatter


def test_oversubscribed_switches_slow_what_crosses_them() -> None:
    """Seven rounds of eight messages of 1 MB through switches that carry a quarter of what eight devices send."""
    where, move = Placement.blocks(1, 8, 1), gather(8, 8e6)
    result = simulate([(move,)], replace(MACHINE, oversubscription=4.0), where).step
    assert result == pytest.approx(7 * 8 * 1e6 / (8 * 1e9 / 4), rel=0.03)


@pytest.mark.parametrize("n", [1e3, 4e6])
def test_a_straggler_delays_all_by_its_delay(n: float) -> None:
    """In a collective in which all need all."""
    p, late = 8, 0.5
    even = clocks((work(*[1.0] * p), gather(p, n)), p)
    uneven = clocks((work(*[1.0] * 3, 1.0 + late, *[1.0] * (p - 4)), gather(p, n)), p)
    assert uneven.max() - even.max() == pytest.approx(late, rel=1e-3)
    assert (uneven - even).min() > late * 0.99


def test_a_halo_hands_a_delay_to_neighbours_only() -> None:
    """And to theirs with the next one: a wave."""
    p, late = 9, 0.5
    step: Step = (work(*[1.0] * 4, 1.0 + late, *[1.0] * 4), line(p))
    even = clocks((work(*[1.0] * p), line(p)), p)
    assert np.flatnonzero(clocks(step, p) - even > late / 2).tolist() == [3, 4, 5]
    again = clocks((*step, line(p)), p) - clocks((work(*[1.0] * p), line(p), line(p)), p)
    assert np.flatnonzero(again > late / 2).tolist() == [2, 3, 4, 5, 6]


def test_what_is_begun_behind_a_computation_is_hidden_by_it() -> None:
    p = 4
    move = replace(gather(p, 4e6), behind=1)
    alone = clocks((gather(p, 4e6),), p).max()
    assert clocks((move, work(*[10 * alone] * p)), p).max() == pytest.approx(10 * alone)
    assert clocks((move, work(*[alone / 2] * p)), p).max() == pytest.approx(alone)
    assert clocks((gather(p, 4e6), work(*[alone / 2] * p)), p).max() == pytest.approx(1.5 * alone)
    half = work(*[alone / 2] * p)
    assert clocks((replace(move, behind=2), half, half, half), p).max() == pytest.approx(1.5 * alone)
    assert clocks((move, work(*[0.0] * p), half, half), p).max() == pytest.approx(2 * alone)


def test_waiting_has_its_causes() -> None:
    """Exchange, imbalance and scatter add up, and each is nothing where its cause is."""
    p = 16
    where, n = Placement.blocks(1, p, 1), 1e5
    even: Step = (work(*[0.1] * p), gather(p, n))
    uneven: Step = (work(*np.linspace(0.08, 0.12, p)), gather(p, n))
    result = simulate([even], MACHINE, where)
    assert result.imbalance == result.scatter == 0
    assert result.exchange == pytest.approx(seconds(gather(p, n), where, MACHINE), rel=1e-9)
    result = simulate([uneven], MACHINE, where)
    assert result.compute == pytest.approx(0.1)
    assert result.imbalance == pytest.approx(0.02, rel=0.02)
    assert result.scatter == 0
    result = simulate([uneven], replace(MACHINE, scatter=0.05), where, repeats=20)
    assert result.scatter > 0.001
    assert sum(result.parts.values()) == pytest.approx(result.step)
    assert result.range[0] < result.step < result.range[1]


def test_the_largest_of_scattered_times_counts() -> None:
    """p ranks that wait for each other: the mean of the largest of p lognormal factors, drawn by itself."""
    p, scatter = 64, 0.1
    result = simulate(
        [(work(*[1.0] * p), gather(p, 64.0))], replace(MACHINE, scatter=scatter), Placement.blocks(1, p, 1), repeats=200
    )  # fmt: skip
    variance = np.log1p(scatter**2)
    largest = np.random.default_rng(5).lognormal(-variance / 2, np.sqrt(variance), (4000, p)).max(1).mean()
    assert result.step == pytest.approx(largest, rel=0.01)


def test_replicas_by_all_reduce_wait_for_each_other_and_by_a_server_for_its_device() -> None:
    n, replicas = 1e7, 8
    move = Move("push", "replica", "floats", np.array([n]))
    busy = simulate([(work(0.01), move)], MACHINE, Placement.blocks(replicas, 1, 1, n_servers=1), warm_up=5, repeats=1)
    assert busy.step == pytest.approx(replicas * n / 1e9, rel=0.02)  # its link is the limit
    calm = simulate([(work(1.0), move)], MACHINE, Placement.blocks(replicas, 1, 1, n_servers=1), warm_up=5, repeats=1)
    assert calm.step == pytest.approx(1.0 + n / 1e9, rel=0.02)  # replicas come one after the other, and keep to it


def test_a_straggler_holds_up_no_replica_of_a_server() -> None:
    """Replicas have the same pieces, so lateness comes from scatter: the mean replica's time, not the slowest's."""
    machine, small = replace(MACHINE, scatter=0.3), np.array([1000.0])
    times = {}
    for name, moves in {
        "server": [Move("push", "replica", "floats", small), Move("fetch", "replica", "floats", small)],
        "allreduce": [Move("allreduce", "replica", "floats", small)],
    }.items():
        where = Placement.blocks(32, 1, 1, n_servers=1 if name == "server" else 0)
        times[name] = simulate([(work(1.0), *moves)], machine, where, repeats=20).step
    assert times["server"] == pytest.approx(1.0, rel=0.03)
    assert times["allreduce"] > 1.5


def test_what_a_step_has_on_average_happens_now_and_then() -> None:
    """Local SGD's average, of which every step has its share."""
    step: Step = (work(1.0), Move("average", "replica", "floats", np.array([100.0])))
    cycle = cycle_of(step, 4)
    assert [len(one) for one in cycle] == [1, 1, 1, 2]
    last = cycle[-1][1]
    assert isinstance(last, Move)
    assert last.received.tolist() == [400]
    assert cycle_of(step, 1) == [step]


def test_thousands_of_ranks() -> None:
    p = 4096
    where = Placement.blocks(1, p, 16)
    result = simulate([(work(*[0.1] * p), gather(p, 3e5))], replace(MACHINE, scatter=0.05), where)
    assert 0.1 < result.step < 0.2
