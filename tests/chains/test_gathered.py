"""Chains of all replicas together: they go on on other replicas, and with those that have moved since."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.chains.gathered import GatheredChains
from modelpar.chains.gibbs import Chains
from modelpar.chains.ladder import Swaps, Walkers
from modelpar.chains.tempered_chains import TemperedChains
from modelpar.kernels.states import pack, unpack

pytestmark = pytest.mark.ranks

N_HIDDEN, N_ALL, N_LEVELS = 5, 11, 3


def states(seed: int) -> np.ndarray:
    """(levels, units, chains) of all chains"""
    return np.random.default_rng(seed).integers(0, 2, (N_LEVELS, N_HIDDEN, N_ALL), np.uint8)


def chains_of(seed: int, replica: int, n_replicas: int, *, tempered: bool) -> Chains | TemperedChains:
    mine = slice(N_ALL * replica // n_replicas, N_ALL * (replica + 1) // n_replicas)
    if not tempered:
        return Chains(pack(states(seed)[-1][:, mine]), mine.start, N_ALL)
    direction = np.random.default_rng(seed).integers(0, 3, (N_LEVELS, N_ALL)).astype(np.int32)
    walkers = Walkers(
        tuple(pack(level[:, mine]) for level in states(seed)), direction[:, mine], mine.start, N_ALL,
        Swaps.none(N_LEVELS),
    )  # fmt: skip
    return TemperedChains(walkers, "pt", (0.0, 0.5, 1.0))


def same(one: Chains | TemperedChains, other: Chains | TemperedChains) -> bool:
    if isinstance(one, TemperedChains) and isinstance(other, TemperedChains):
        a, b = one.walkers, other.walkers
        levels = all(np.array_equal(unpack(x), unpack(y)) for x, y in zip(a.h, b.h, strict=True))
        return levels and np.array_equal(a.direction, b.direction) and a.first == b.first and one.betas == other.betas
    return np.array_equal(unpack(one.h), unpack(other.h)) and one.first == other.first and one.n_all == other.n_all


@pytest.mark.parametrize("tempered", [False, True])
def test_chains_go_on_on_fewer_replicas(comm, agree, tempered):
    gathered = GatheredChains.of(chains_of(1, comm.rank, comm.size, tempered=tempered), comm)
    for n_replicas in range(1, comm.size + 1):
        again = gathered.of_replica(n_replicas - 1, n_replicas)
        agree(same(again, chains_of(1, n_replicas - 1, n_replicas, tempered=tempered)), f"{n_replicas}")


@pytest.mark.parametrize("tempered", [False, True])
def test_what_others_have_is_put_in(comm, agree, tempered):
    """The last replica is lost: its chains stay where all were gathered, the others are where they are now."""
    gathered = GatheredChains.of(chains_of(1, comm.rank, comm.size, tempered=tempered), comm)
    left = comm.Split(int(comm.rank == comm.size - 1 > 0))
    if comm.size == 1 or comm.rank < comm.size - 1:
        gathered.bring_up_to_date(chains_of(2, comm.rank, comm.size, tempered=tempered), left)
        whole = gathered.of_replica(0, 1)
        before, now = (chains_of(seed, 0, 1, tempered=tempered) for seed in (1, 2))
        lost = slice(N_ALL * (comm.size - 1) // comm.size if comm.size > 1 else N_ALL, N_ALL)
        expected = unpack(now.h).copy()
        expected[:, lost] = unpack(before.h)[:, lost]
        assert np.array_equal(unpack(whole.h), expected)
        if isinstance(whole, TemperedChains) and isinstance(now, TemperedChains) and isinstance(before, TemperedChains):
            for t in range(N_LEVELS):
                expected = unpack(now.walkers.h[t]).copy()
                expected[:, lost] = unpack(before.walkers.h[t])[:, lost]
                assert np.array_equal(unpack(whole.walkers.h[t]), expected)
            direction = now.walkers.direction.copy()
            direction[:, lost] = before.walkers.direction[:, lost]
            assert np.array_equal(whole.walkers.direction, direction)
    agree(True)
    left.Free()
