"""Effective couplings of two sites in an RBM with categorical visible units, once its hidden units are summed out.

What remains is a model of the visible units alone,

    log p(v) = sum_i b_i(v_i) + sum_h K_h(c_h + sum_i W_ih(v_i)) - log Z,

with K_h the cumulant of a hidden unit, log(1 + exp(x)) of a Bernoulli one.  It has interactions of every order, and the
part of them that belongs to two sites is that of an analysis of variance: the mean over all other sites, with the
means over either of the two taken away,

    J_ij(a, b) = M(a, b) - M(a, .) - M(., b) + M(., .),    M(a, b) = < log p(v) | v_i = a, v_j = b >

Cossu, Del Debbio, Giani, Khamseh and Wilson (2019, Phys. Rev. B 100, 064304) do so for binary units, Decelle,
Furtlehner, Navas Gomez and Seoane (2024, SciPost Phys. 16, 095) for categorical ones, with a normal approximation of
the other sites' input.  None is needed here: a second difference of log(1 + exp(x)) is a Fourier integral, because the
second derivative is the logistic density, whose characteristic function is pi t / sinh(pi t),

    J_ij(a, b) = -Re sum_h integral_0^inf dt / (t sinh(pi t)) e^(i t c_h) prod_(k != i, j) phi_kh(t) e_ih(a) e_jh(b)

where e_ih(a) is e^(i t W_ih(a)) less its mean over the states, and phi_kh(t) the mean of e^(i t W_kh) over site k: of
independent sites the mean of a product is the product of the means.  So one product of matrices for each t gives all
pairs, and some tens of t are enough, as the integrand falls like exp(-pi t).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

SMALLEST = 1e-8  # |phi| is kept above this, so that a site can be divided out; what it changes is as small
DEVIATIONS = 8.0  # of a hidden unit's input from its mean, beyond which there is nothing


def zero_sum(J: Array) -> Doubles:
    """Couplings (sites, states, sites, states) whose sums over the states of either site are 0 (Ekeberg et al. 2013).

    The distribution stays the same: what is taken away belongs to the biases.
    """
    J = np.asarray(J, np.float64)
    J = J - J.mean(axis=1, keepdims=True)
    return np.asarray(J - J.mean(axis=3, keepdims=True))


def leading_order(W: Array, n_states: int, variance: Array) -> Doubles:
    """Couplings by the second cumulant of the hidden units, (sites, states, sites, states), in the zero-sum gauge.

    W         (sites * states, hidden)
    variance  (hidden,) of a hidden unit given its mean input, see ``mean_inputs``: p (1 - p) of a Bernoulli unit,
              1 of a Gaussian one of unit variance, for which the result is exact
    """
    centred = _centred(W, n_states)
    n_sites = len(centred) // n_states
    J = (centred * np.asarray(variance, np.float64)) @ centred.T
    return _without_diagonal(J.reshape(n_sites, n_states, n_sites, n_states))


def mean_inputs(W: Array, c: Array, frequencies: Array) -> Doubles:
    """Mean inputs (hidden,) over independent sites.   frequencies (sites, states): of the states of each site"""
    mean_states = np.asarray(frequencies, np.float64).ravel()
    return np.asarray(c + mean_states @ np.asarray(W, np.float64))


def bernoulli_variance(x: Array) -> Doubles:
    """p (1 - p) of Bernoulli units with input x."""
    x = np.abs(np.asarray(x, np.float64))
    return np.asarray(np.exp(-x) / (1 + np.exp(-x)) ** 2)


def two_body(W: Array, c: Array, n_states: int, frequencies: Array | None = None, *, accuracy: float = 1e-6) -> Doubles:
    """Couplings of an RBM with Bernoulli hidden units, all orders of two sites: (sites, states, sites, states).

    W            (sites * states, hidden);  c  (hidden,)
    frequencies  (sites, states) by which the other sites are averaged over; None: all states alike, for which the
                 result is that of the generalised Potts model in the zero-sum gauge
    accuracy     absolute, of a hidden unit's part, about

    In the zero-sum gauge; those of a site with itself are 0.  Memory: three matrices (sites * states)^2 in float64.
    Raises ValueError where the sizes do not fit, or values are not finite.
    """
    W, c = np.asarray(W, np.float64), np.asarray(c, np.float64)
    if W.ndim != 2 or W.shape[0] % n_states or c.shape != W.shape[1:]:
        raise ValueError(f"W of {W.shape} and c of {c.shape} are not those of sites with {n_states} states")
    if not (np.isfinite(W).all() and np.isfinite(c).all()):
        raise ValueError("W or c have values that are not finite")
    n_sites, n_hidden = len(W) // n_states, W.shape[1]
    sites = W.reshape(n_sites, n_states, n_hidden)
    weights = np.full((n_sites, n_states), 1 / n_states) if frequencies is None else np.asarray(frequencies, np.float64)
    if weights.shape != (n_sites, n_states):
        raise ValueError(f"frequencies of {weights.shape} are not those of {n_sites} sites with {n_states} states")
    weights = weights / weights.sum(axis=1, keepdims=True)
    J = np.zeros((len(W), len(W)))
    for t, step in _nodes(_widest_input(sites, c, weights), accuracy):
        waves = np.exp(1j * t * sites)
        phi = (weights[:, :, None] * waves).sum(axis=1)
        phi[np.abs(phi) < SMALLEST] = SMALLEST
        others = np.exp(1j * t * c) * phi.prod(axis=0)  # with i and j, which are divided out
        e = ((waves - waves.mean(axis=1, keepdims=True)) / phi[:, None]).reshape(len(W), n_hidden)
        left = e * (others * (-step / (t * math.sinh(math.pi * t))))
        # the real part of left @ e.T, without complex matrices
        J += np.hstack([left.real, -left.imag]) @ np.hstack([e.real, e.imag]).T
    return _without_diagonal(J.reshape(n_sites, n_states, n_sites, n_states))


def _nodes(widest: float, accuracy: float) -> Iterator[tuple[float, float]]:
    """(t, weight) of the midpoint rule: it repeats the second difference, which falls like exp(-|x|), with a period
    2 pi / step, for which there has to be room."""
    decay = math.log(1 / accuracy)
    step, end = 2 * math.pi / (2 * widest + decay), decay / math.pi + 1
    for k in range(math.ceil(end / step)):
        yield (k + 0.5) * step, step


def _widest_input(sites: Doubles, c: Doubles, weights: Doubles) -> float:
    """What a hidden unit's input comes to at most: the bound of all states, or so many standard deviations."""
    mean = (weights[:, :, None] * sites).sum(axis=1)
    variance = (weights[:, :, None] * (sites - mean[:, None]) ** 2).sum(axis=(0, 1))
    single = np.abs(sites - mean[:, None]).max(axis=1)  # the two sites themselves are not averaged over
    pair = np.sort(single, axis=0)[-2:].sum(axis=0)
    bound = np.minimum(single.sum(axis=0), pair + DEVIATIONS * np.sqrt(variance))
    return float((np.abs(c + mean.sum(axis=0)) + bound).max(initial=0.0))


def _centred(W: Array, n_states: int) -> Doubles:
    sites = np.asarray(W, np.float64).reshape(-1, n_states, np.shape(W)[1])
    return np.asarray((sites - sites.mean(axis=1, keepdims=True)).reshape(np.shape(W)))


def _without_diagonal(J: Doubles) -> Doubles:
    sites = np.arange(len(J))
    J[sites, :, sites, :] = 0
    return J
