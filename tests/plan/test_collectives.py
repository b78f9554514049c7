"""Collectives as messages: who ends with what, how many bytes move, and their time in closed form.

Modules: modelpar/plan/rounds
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from modelpar.errors import ModelparError
from modelpar.plan import rounds
from modelpar.plan.collectives import ADD, MPIS, PIECE, Placement, all_rounds, seconds
from modelpar.plan.machine import Link, Machine
from modelpar.plan.rounds import Round
from modelpar.plan.steps import Move

LATENCY, BANDWIDTH = 2e-5, 1e9
MACHINE = Machine("tests", 1, 1, 1, Link(1e-6, 5e9), Link(LATENCY, BANDWIDTH), scatter=0.0)
GATHERS: dict[str, Callable[..., Iterator[Round]]] = {
    "ring": rounds.ring_gather, "doubling": rounds.doubling_gather, "bruck": rounds.bruck_gather,
    "neighbour": rounds.neighbour_gather,
}  # fmt: skip
SCATTERS = {"pairwise": rounds.pairwise_scatter, "ring": rounds.ring_scatter, "halving": rounds.halving_scatter}
SUMS = {"doubling": rounds.doubling_sum, "rabenseifner": rounds.rabenseifner_sum, "ring": rounds.ring_sum}


def fits(name: str, p: int) -> bool:
    return {"doubling": p & (p - 1) == 0, "neighbour": p % 2 == 0}.get(name, True)


def got(messages: Iterator[Round], p: int) -> np.ndarray:
    """(p,) bytes that every rank receives."""
    total = np.zeros(p)
    for source, target, n_bytes, _, _ in messages:
        assert (source != target).all()
        assert len(np.unique(source)) == len(source), "a rank sends one message in a round"
        assert len(np.unique(target)) == len(target), "and receives one"
        np.add.at(total, target, np.broadcast_to(n_bytes, (1, len(target)))[0])
    return total


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=2, max_size=17), st.sampled_from(sorted(GATHERS)))
def test_a_gather_brings_every_rank_the_blocks_of_the_others(blocks: list[int], name: str) -> None:
    sizes = np.array(blocks, float)
    if fits(name, len(sizes)):
        assert np.allclose(got(GATHERS[name](sizes), len(sizes)), sizes.sum() - sizes)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=2, max_size=17), st.sampled_from(sorted(SCATTERS)))
def test_a_reduction_moves_every_block_p_less_1_times(blocks: list[int], name: str) -> None:
    """In all: a partial sum leaves every rank but the owner; folded ranks of halving move theirs once more."""
    sizes = np.array(blocks, float)
    p = len(sizes)
    moved = got(SCATTERS[name](sizes), p).sum()
    folded = p - rounds.largest_power(p)
    if name == "halving" and folded:
        assert moved >= (p - 1) * sizes.sum() - 1e-6 - folded * sizes.sum()
    else:
        assert np.isclose(moved, (p - 1) * sizes.sum())


@pytest.mark.parametrize("p", [2, 3, 4, 6, 8, 13])
@pytest.mark.parametrize("name", SUMS)
def test_a_sum_reaches_every_rank(name: str, p: int) -> None:
    """Of parts that each rank has heard of: replayed with sets where whole vectors move, else by the bytes
    (Rabenseifner 2004)."""
    n = np.array([960.0])
    if name != "doubling":
        power = rounds.largest_power(p)
        expected = {"ring": 2 * (p - 1) * 960.0, "rabenseifner": 2 * (power - 1) * 960.0 + 2 * (p - power) * 960.0}
        assert got(SUMS[name](n, p), p).sum() == pytest.approx(expected[name])
        return
    heard = [{rank} for rank in range(p)]
    for source, target, *_ in SUMS[name](n, p):
        before = [set(x) for x in heard]
        for a, b in zip(source, target, strict=True):
            heard[b] |= before[a]
    assert all(x == set(range(p)) for x in heard)


def test_a_gather_by_blocks_is_complete() -> None:
    """Neighbour exchange and Bruck, block by block: a block of 2^i bytes tells who is meant."""
    for name, p in (("neighbour", 10), ("bruck", 7), ("doubling", 8), ("ring", 5)):
        sizes = 2.0 ** np.arange(p)
        held = [1 << rank for rank in range(p)]
        for source, target, n_bytes, _, _ in GATHERS[name](sizes):
            before = list(held)
            for a, b, n in zip(source, target, np.broadcast_to(n_bytes, (1, p))[0], strict=True):
                assert int(n) & before[a] == int(n), f"{name}: rank {a} sends what it has"
                assert int(n) & before[b] == 0, f"{name}: nothing comes twice"
                held[b] |= int(n)
        assert held == [2**p - 1] * p


def move(verb: str, n: float, p: int, axis: str = "shard") -> Move:
    received = 2 * (p - 1) / p * n if verb == "allreduce" else (p - 1) / p * n
    return Move(verb, axis, "bits", np.full(p if axis == "shard" else 1, received))


def test_textbook_times_of_one_rank_a_node() -> None:
    """Thakur, Rabenseifner and Gropp (2005), with MPICH's choices by size."""
    p, a, b = 8, LATENCY, 1 / BANDWIDTH
    where = Placement.blocks(1, p, 1)
    short, long = 4e5, 8e6

    def time(verb: str, n: float) -> float:
        return seconds(move(verb, n, p), where, MACHINE)

    part = (p - 1) / p
    assert time("gather", short) == pytest.approx(3 * a + part * short * b)  # recursive doubling
    pieces = np.ceil(long / p / PIECE)
    assert time("gather", long) == pytest.approx((p - 1) * (pieces * a + long / p * b))  # ring, in pieces
    assert time("reduce", short) == pytest.approx(3 * a + part * short * (b + ADD))  # recursive halving
    assert time("reduce", long) == pytest.approx((p - 1) * (a + long / p * (b + ADD)))  # pairwise
    assert time("allreduce", long) == pytest.approx(6 * a + part * long * (2 * b + ADD))  # Rabenseifner
    assert time("allreduce", 8) == pytest.approx(3 * (a + 8 * (b + ADD)))  # doubling


def test_ranks_of_a_node_share_its_device() -> None:
    """All four exchange over the same link at once, or one of them does."""
    far, near = Placement.blocks(1, 8, 1), Placement(np.array([[0, 0, 0, 0, 1, 1, 1, 1]]))
    pairs = sparse.csr_array((np.full(4, 1e7), ([0, 1, 2, 3], [4, 5, 6, 7])), shape=(8, 8))
    halo = Move("halo", "shard", "bits", np.asarray(pairs.sum(0)).reshape(-1), pairs)
    assert seconds(halo, far, MACHINE) == pytest.approx(LATENCY + 1e7 / BANDWIDTH)
    assert seconds(halo, near, MACHINE) == pytest.approx(LATENCY + 4e7 / BANDWIDTH)
    thin = replace(MACHINE, oversubscription=4.0)
    assert seconds(halo, far, thin) == pytest.approx(LATENCY + max(1e7, 4 * 4e7 / 8) / BANDWIDTH)


@pytest.mark.parametrize("mpi", MPIS)
@pytest.mark.parametrize("p", [2, 3, 4, 5, 8, 12, 16, 40, 64, 130, 256, 600])
def test_bytes_are_those_that_a_move_receives(p: int, mpi: str) -> None:
    """Whatever algorithm the size chooses; folded ranks of a power of two less move up to twice as much."""
    for verb in ("gather", "reduce", "allreduce"):
        for n in (512.0, 3e4, 3e5, 4e6):
            piece = move(verb, n, p)
            moved = sum(float(r.n_bytes.sum()) for r in all_rounds(piece, Placement.blocks(1, p, 1), mpi))
            ratio = moved / piece.received.sum()
            if verb == "gather" or (verb == "reduce" and p & (p - 1) == 0):
                assert ratio == pytest.approx(1)
            assert 0.9 < ratio <= np.log2(p) + 2


def test_replicas_sum_shard_by_shard_and_nodes_sum_before_they_send() -> None:
    piece = Move("allreduce", "replica", "integers", np.array([4000.0, 8000.0]))
    where = Placement(np.array([[0, 1], [2, 3]]))
    sums = list(all_rounds(piece, where))
    assert {(int(a) % 2, int(b) % 2) for r in sums for a, b in zip(r.source, r.target, strict=True)} == {(0, 0), (1, 1)}
    assert sum(float(r.n_bytes.sum()) for r in sums) == pytest.approx(2 * 12000)
    # four replicas on two nodes: one of each node speaks for it
    four = Placement(np.array([[0], [0], [1], [1]]))
    crossing = [
        (int(a), int(b))
        for r in all_rounds(Move("allreduce", "replica", "integers", np.array([3e6])), four)
        for a, b in zip(r.source, r.target, strict=True)
        if four.node_of_rank()[a] != four.node_of_rank()[b]
    ]
    assert set(crossing) == {(0, 2), (2, 0)}


def test_servers_get_what_is_pushed() -> None:
    piece = Move("push", "replica", "floats", np.array([1000.0, 3000.0]))
    with_servers = Placement.blocks(3, 2, 2, n_servers=2)
    (sent,) = all_rounds(piece, with_servers)
    assert set(sent.target) == {6, 7}
    assert np.bincount(sent.target, sent.n_bytes)[6:].tolist() == [3000, 9000]
    (sent,) = all_rounds(piece, Placement.blocks(3, 2, 2))  # the others host it
    assert sent.n_bytes.sum() == 3 * 4000
    assert all(a != b and a % 2 == b % 2 for a, b in zip(sent.source, sent.target, strict=True))


def test_replicas_stay_together_on_nodes() -> None:
    assert Placement.blocks(4, 2, 5).nodes.tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    assert Placement.blocks(1, 4, 3).nodes.tolist() == [[0, 0, 0, 1]]


def test_an_unknown_mpi() -> None:
    with pytest.raises(ModelparError, match=r"MPI 'lam' are not known; known are mpich and openmpi"):
        seconds(move("gather", 100.0, 2), Placement.blocks(1, 2, 1), MACHINE, "lam")
