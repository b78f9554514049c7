"""States in clusters far apart, as in Decelle, Furtlehner and Seoane (2021) and Bereux et al. (2023).

A point x of the plane is drawn from one of five clusters of unequal weights, and every unit is then drawn by itself
with probability sigmoid(SCALE * x . d), where the two numbers of its direction d are 1 or -1.  On its way from one
cluster to another a chain must flip tens of units that the model wants where they are.
"""

from __future__ import annotations

import numpy as np
from scipy import special

N_UNITS = 200
SCALE = 2.0
CENTRES = np.array([(-1.0, -1.0), (-1.0, 1.0), (1.0, -0.8), (0.9, 0.9), (0.0, 0.0)])
WEIGHTS = np.array([0.35, 0.25, 0.2, 0.12, 0.08])
SPREAD = 0.06  # standard deviation of the points around a centre, in each direction
NODES = 9  # of the quadrature over a cluster, in each direction


def directions() -> np.ndarray:
    """Those of all units, (2, units)."""
    return np.random.default_rng(0).choice([-1.0, 1.0], (2, N_UNITS))


def samples(n: int, seed: int) -> np.ndarray:
    """States, (n, units)."""
    rng = np.random.default_rng(seed)
    x = CENTRES[rng.choice(len(WEIGHTS), n, p=WEIGHTS)] + SPREAD * rng.standard_normal((n, 2))
    return (rng.random((n, N_UNITS)) < special.expit(SCALE * x @ directions())).astype(np.float32)


def log_likelihood(v: np.ndarray) -> float:
    """Mean log-likelihood of states (n, units) under the distribution itself, by Gauss-Hermite quadrature over x."""
    at, weights = np.polynomial.hermite_e.hermegauss(NODES)
    around = SPREAD * np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
    x = (CENTRES[:, None] + around).reshape(-1, 2)
    of_x = np.outer(WEIGHTS, np.outer(weights, weights).ravel() / weights.sum() ** 2).ravel()
    fields = SCALE * x @ directions()
    terms = v @ fields.T - np.logaddexp(0, fields).sum(axis=1) + np.log(of_x)
    return float(special.logsumexp(terms, axis=1).mean())
