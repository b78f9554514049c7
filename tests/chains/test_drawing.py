"""States drawn from means, against one draw a unit or a site."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from modelpar import NetworkSpec
from modelpar.chains.drawing import drawn_states
from modelpar.draws import Purpose, Stream, uniform

Q, SITES, N = 5, 3, 400


def uniform_of(unit: int, seed: int, first: int) -> np.ndarray:
    u = np.empty((1, N))
    uniform(Stream(seed, 0, Purpose.FANTASY, (1 << 16) - 1), np.array([unit]), first, u)
    return u[0]


def test_sites_have_one_draw_each() -> None:
    """Against the sum of the probabilities of the states before it, of sites in any order."""
    p = np.random.default_rng(1).dirichlet(np.ones(Q), (SITES, N))  # (sites, samples, states)
    means = p.transpose(0, 2, 1).reshape(SITES * Q, N).astype(np.float32)
    spec = NetworkSpec((SITES * Q, 2), visible=f"categorical:{Q}", seed=4)
    network = SimpleNamespace(spec=spec, visible_ids=np.r_[5:10, 0:5, 10:15])
    states = drawn_states(network, means, 9).reshape(SITES, Q, N)  # type: ignore[arg-type]
    for site, first in enumerate((5, 0, 10)):
        u = uniform_of(first, 4, 9)
        for k in range(N):
            until = np.cumsum(means[site * Q : site * Q + Q, k].astype(float))
            chosen = np.searchsorted(until, u[k] * until[-1], "right")
            assert states[site, :, k].tolist() == [int(a == chosen) for a in range(Q)]


def test_units_of_two_states() -> None:
    means = np.random.default_rng(2).random((3, N)).astype(np.float64)
    for visible, low in (("bernoulli", 0), ("spin", -1)):
        network = SimpleNamespace(spec=NetworkSpec((3, 2), visible=visible, seed=7), visible_ids=np.array([2, 0, 1]))
        states = drawn_states(network, means, 5)  # type: ignore[arg-type]
        for row, unit in enumerate((2, 0, 1)):
            assert np.array_equal(states[row], np.where(uniform_of(unit, 7, 5) < means[row], 1, low))
