"""Averages of parameters: what is left of old values, and what replicas have together where they part and meet."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.comm.exchange import Traffic
from modelpar.sync.average import Average, kept
from modelpar.weights.parameters import Parameters


def part_of(seed: int) -> dict[str, Parameters]:
    parameters = Parameters((2, 3), 2, 3, np.float64)
    parameters.flat[:] = np.random.default_rng(seed).normal(size=parameters.flat.shape)
    return {"it": parameters}


def test_an_average_is_that_of_all_at_first_and_then_forgets():
    average, expected, seen = Average({}, 4), np.empty(0), []
    for update in range(1, 10):
        parts = part_of(update)
        average.add(parts, update)
        seen.append(parts["it"].flat.copy())
        expected = seen[0] if update == 1 else expected + (seen[-1] - expected) / min(update, 4)
        if update <= 4:
            assert np.allclose(average.values["it"].flat, np.mean(seen, axis=0))
    assert np.allclose(average.values["it"].flat, expected)


@pytest.mark.parametrize("horizon", [1, 3, 7])
def test_what_is_left_of_old_values(horizon):
    for before in range(6):
        for after in range(before, 15):
            steps = [1 - 1 / min(number, horizon) for number in range(before + 1, after + 1)]
            assert np.isclose(kept(before, after, horizon), np.prod(steps))


class Together:
    """A communicator that gives its replicas' sums, which are known beforehand, one after another."""

    def __init__(self, sums):
        self.size, self.sums, self.brought = 3, list(sums), []

    def Allreduce(self, _in_place, values):
        self.brought.append(values.copy())
        values[:] = self.sums.pop(0)


@pytest.mark.parametrize("done", [0, 2, 9])
@pytest.mark.parametrize("order", ["000000", "012012", "110100", "222201"], ids=str)
def test_shares_of_all_replicas_make_one_average(done, order):
    """By whoever they were taken, and one replica may take none: that of all shares in their order."""
    start, n_shares, horizon = part_of(0), 3, 2
    replicas = [Average({"it": start["it"].like()} if done else {}, horizon) for _ in range(n_shares)]
    for one in replicas:
        if done:
            one.values["it"].flat[:] = 5.0
        one.part(start, done, n_shares)
    expected = np.full(start["it"].flat.shape, 5.0) if done else start["it"].flat.copy()
    for number, replica in enumerate(order, start=done * n_shares + 1):
        parts = part_of(number)
        replicas[int(replica)].add_share(parts, number)
        expected += (parts["it"].flat - expected) / min(number, horizon * n_shares)
    last = done * n_shares + len(order)
    weights = [one.weight * kept(one._last, last, horizon * n_shares) for one in replicas]
    assert np.isclose(sum(weights), n_shares)
    values = [one.values["it"].flat.copy() for one in replicas]
    mean = sum(w * x for w, x in zip(weights, values, strict=True)) / sum(weights)
    assert np.allclose(mean, expected)
    for one, weight, x in zip(replicas, weights, values, strict=True):
        comm = Together([sum(weights), mean])
        one.meet(comm, Traffic(), last)
        assert np.allclose(comm.brought[0], weight)
        assert np.allclose(comm.brought[1], weight / sum(weights) * x)
        assert np.allclose(one.values["it"].flat, expected)
        assert one.weight == 1
