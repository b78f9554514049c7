"""Centred and standardised gradients of an RBM, as corrections of its plain statistics.

With offsets mu and lambda, the means of a visible and a hidden unit over data and model, the centred statistics of the
weights are ``G = <(v - mu)(h - lambda)>_data - <(v - mu)(h - lambda)>_model`` (Montavon and Mueller 2012; Melchior,
Fischer and Wiskott 2016).  Those of the biases, where the parameters stay those of an uncentred RBM, are
``<v>_data - <v>_model - G lambda`` and ``<h>_data - <h>_model - G^T mu`` (Cho, Raiko and Ilin 2013, equation 9;
Melchior et al., section 3.1).  Written out,

    G = C - mu dh^T - dv lambda^T,    C = <v h^T>_data - <v h^T>_model,  dv, dh the differences of the means

so the kernels of the uncentred statistics stay as they are: the weights need the means of their units only, and the
biases ``C lambda`` and ``C^T mu``, that is a sum over each sample's units and one over the samples.  Where statistics
are integers the offsets of these sums are rounded to multiples of 2^-16 and the sums are exact, at every grid alike.
Of listed connections each unit has its own at hand, and sums G over them in a fixed order.

The biases of the centred RBM are b + W lambda, whose gradient is dv: what b loses by G lambda, W lambda gains.  So they
can have a rate of their own, by as much more of dv in the step of b.

The standardised gradient is that of units divided by their standard deviations s and t too (after Tang and Sutskever
2011, who did so to the data; LeCun et al. 1998, section 4.3).  An RBM of ``v' = (v - mu) / s`` and
``h' = (h - lambda) / t`` with parameters W', b' and c' is the plain one with

    W_ij = W'_ij / (s_i t_j),    b = b' / s - W lambda,    c = c' / t - W^T mu

Its gradient is ``<v' h'>_data - <v' h'>_model = G_ij / (s_i t_j)``, and that of b' is ``dv / s``; a step of it with the
offsets held changes W by another 1 / (s t), and b by ``db' / s - dW lambda``:

    dW_ij = G_ij / (s_i^2 t_j^2),    db_i = dv_i / s_i^2 - sum_j dW_ij lambda_j
                                          = (dv_i - sum_j G_ij lambda_j / t_j^2) / s_i^2

and likewise c.  That is the centred gradient over both variances, where the biases need ``C (lambda / t^2)`` in place
of ``C lambda``.  Variances are m (1 - m) of Bernoulli units with the mean m over data and model, and of Gaussian units
those of their values.  They count relative to 1/4, the largest of a state, and to 1 of Gaussian units, so that rates
mean about what they mean for the centred gradient, and not below FLOOR: a unit that never changes must not learn
without limit.

Hidden units with real values have no largest variance: it grows with the square of their weights, and so would the
change of energies that a step of a constant rate makes, until chains cannot follow.  Theirs is that of the means, which
are the statistic, and of a unit without any input about its mean.  Tubiana, Cocco and Monasson (2019) keep it at 1 by
batch normalisation.  Their potentials' shape parameters multiply |h| and h^2, whose gradients count over the variance
and over its square.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.collective import messages
from modelpar.kernels.products.product import Activations
from modelpar.kernels.states import Packed, over_samples, over_units
from modelpar.sync import Reduction
from modelpar.weights.parameters import Parameters
from modelpar.weights.penalties import UnitMeans
from modelpar.weights.statistics import Statistics, real_values

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

STEPS = float(1 << 16)  # of an offset in a sum over units: exact in float64 for 2^20 units and 2^13 samples of 8 bits
SCALED_STEPS = float(1 << 14)  # of an offset over a variance, which is larger
FLOOR = 0.04  # of a variance, relative to the largest one: of a standard deviation 1/5


class _Means:
    """Means over data and model of some units of one side: their offsets, and the differences.

    weight   1 / variance, relative to the largest variance and at least FLOOR, where units are standardised; else 1
    """

    def __init__(self, data: Array, model: Array, unit: float, divisors: tuple[int, int]) -> None:
        first, second = (np.asarray(x, np.float64) * unit / n for x, n in zip((data, model), divisors, strict=True))
        self.offset, self.difference = 0.5 * (first + second), first - second
        self.weight, self.is_scaled = np.ones(len(self.offset)), False

    def standardise(self, squares: Array | None = None, more: float = 0.0) -> None:
        """squares   mean squares over data and model, of units with real values;   more   variance about their means"""
        m = self.offset
        variance = 4.0 * m * (1.0 - m) if squares is None else squares - m * m + more
        self.weight, self.is_scaled = 1.0 / np.maximum(variance, FLOOR), True

    @property
    def gradient(self) -> Doubles:
        """Of the biases of the centred RBM."""
        return self.difference * self.weight

    @property
    def weighted(self) -> Doubles:
        return self.offset * self.weight

    @property
    def steps(self) -> tuple[Doubles, Doubles, float]:
        """(weighted offsets, differences) as integer multiples of 1 / STEPS; what 1 of the former stands for"""
        steps = SCALED_STEPS if self.is_scaled else STEPS
        return np.rint(self.weighted * steps), np.rint(self.difference * STEPS), 1.0 / steps


def centre(
    velocity: Parameters, statistics: Statistics, reduction: Reduction, divisors: tuple[int, int], carry: float,
    rate: float,
) -> UnitMeans:  # fmt: skip
    """velocity = carry * velocity + rate * (what the centred gradient has more than the uncentred one).

    divisors   samples and chains that the phases are means over
    Returns the offsets.  Of complete connections.  Collective over the shards, and over the replicas that ``reduction``
    sums over.
    """
    visible, hidden = _means(statistics, reduction, divisors)
    _centre_weights(velocity, statistics, visible, hidden, carry, rate)
    _centre_biases(velocity, statistics, reduction, divisors, visible[-1], hidden[-1], carry, rate)
    for beside in (velocity.potential, velocity.precision):  # whose gradients do not depend on offsets
        beside *= velocity.flat.dtype.type(carry)
    return UnitMeans(visible[-1].offset, hidden[-1].offset, visible[-1].gradient)


def correct(
    gradient: Parameters, statistics: Statistics, reduction: Reduction, divisors: tuple[int, int], rate: float, *,
    standardised: bool, gaussian: bool, real_hidden: float = 0.0,
) -> UnitMeans:  # fmt: skip
    """Make rate * (uncentred gradient), summed over the replicas, the same of the centred or standardised one.

    divisors   as in :func:`centre`; gaussian: whether visible units are.   Of any connections.
    standardised   by the deviations of all units, those of ``real_hidden`` included
    real_hidden   variance of a hidden unit with real values that has no input, where hidden units are standardised as
                  such, even if no others are; 0 where not
    Returns the offsets, and such hidden units' deviations.  Collective over the shards, and over the replicas that
    ``reduction`` sums over.
    """
    visible, hidden = _means(statistics, reduction, divisors)
    if standardised:
        squares = _squares(statistics, reduction, divisors, 0) if gaussian else [None] * len(visible)
        for v, mean_squares in zip(visible, squares, strict=True):
            v.standardise(mean_squares)
    if standardised or real_hidden:
        squares = _squares(statistics, reduction, divisors, 1) if real_hidden else [None] * len(hidden)
        for v, h, mean_squares in zip(visible, hidden, squares, strict=True):
            h.standardise(mean_squares, real_hidden)
            v.is_scaled = True  # offsets of both sides are multiples of the same step
    _centre_weights(gradient, statistics, visible, hidden, 1.0, rate)
    sums = statistics.weights.sums_of_own(gradient.W, visible[0].weighted, hidden[0].weighted)
    if sums is None:
        _centre_biases(gradient, statistics, reduction, divisors, visible[-1], hidden[-1], 1.0, rate)
    else:
        gradient.b -= sums[0]
        gradient.c -= sums[1]
    if standardised or real_hidden:
        for G, v, h in zip(gradient.blocks, visible, hidden, strict=False):
            statistics.weights.scale_outer(G, v.weight, h.weight)
        gradient.b *= visible[-1].weight.astype(gradient.b.dtype)
        gradient.c *= hidden[-1].weight.astype(gradient.c.dtype)
        for power, values in enumerate(gradient.potential, 1):
            values *= (hidden[-1].weight ** power).astype(values.dtype)
    of_incoming = hidden[0 if gradient.W.ndim == 2 else -1]  # the columns of W, or the owned units of lists
    return UnitMeans(
        visible[-1].offset, hidden[-1].offset, visible[-1].gradient,
        1 / np.sqrt(of_incoming.weight) if real_hidden else None,
    )  # fmt: skip


def difference_of_means(statistics: Statistics, reduction: Reduction, divisors: tuple[int, int]) -> Doubles:
    """<v>_data - <v>_model of the owned visible units: the uncentred gradient of their biases, before a rate.

    Collective over the replicas that ``reduction`` sums over.
    """
    phases = statistics.row_sums(statistics.data.v), statistics.row_sums(statistics.model.v)
    both = np.concatenate(phases).astype(np.int64 if statistics.integer else np.float64)
    reduction.sum(both)
    data, model = np.split(both, 2)
    return _Means(data, model, 1.0, divisors).difference


def _centre_weights(
    velocity: Parameters, statistics: Statistics, visible: list[_Means], hidden: list[_Means], carry: float, rate: float
) -> None:
    for V, v, h in zip(velocity.blocks, visible, hidden, strict=False):
        rows, columns = (rate * v.offset, rate * v.difference), (h.difference, h.offset)
        statistics.weights.subtract_outer(V, carry, rows, columns)


def _centre_biases(
    velocity: Parameters, statistics: Statistics, reduction: Reduction, divisors: tuple[int, int], v: _Means, h: _Means,
    carry: float, rate: float,
) -> None:  # fmt: skip
    """velocity = carry * velocity - rate * (G lambda, G^T mu), with the weighted offsets.   v, h: of the owned units"""
    unit = _unit(statistics)
    (mu, dv, step), (la, dh, _) = v.steps, h.steps
    v_steps, h_steps = np.rint(v.offset * STEPS), np.rint(h.offset * STEPS)
    values = [
        (_values(phase.v, statistics), _values(phase.s, statistics)) for phase in (statistics.data, statistics.model)
    ]
    # of every sample, over this shard's units
    own = [_over_units(s, la) for _, s in values] + [_over_units(x, mu) for x, _ in values]
    dots = np.array([la @ h_steps, la @ dh, mu @ v_steps, mu @ dv])
    sums = np.concatenate([*own, dots])
    with reduction.traffic.status.waiting("allreduce"):
        messages.allreduce(statistics.shard_comm, sums)
    reduction.traffic.add_allreduce("shard", sums, statistics.shard_comm.size)
    above0, above1, below0, below1, dots = np.split(sums, np.cumsum([len(x) for x in own]))
    (v0, s0), (v1, s1) = values
    sides = (v0, above0), (v1, above1), (s0, below0), (s1, below1)
    products = np.concatenate([_over_samples(x, sums) for x, sums in sides])
    reduction.sum(products)
    n_v, n_h = len(mu), len(la)
    of_v0, of_v1, of_h0, of_h1 = np.split(products * unit * step, [n_v, 2 * n_v, 2 * n_v + n_h])
    n_samples, n_chains = divisors
    lala, ladh, mumu, mudv = (dots * (step / STEPS)).tolist()
    with np.errstate(over="ignore", invalid="ignore"):  # a training that breaks down is found by the health checks
        for bias, change in (
            (velocity.b, of_v0 / n_samples - of_v1 / n_chains - v.offset * ladh - v.difference * lala),
            (velocity.c, of_h0 / n_samples - of_h1 / n_chains - h.difference * mumu - h.offset * mudv),
        ):
            bias *= bias.dtype.type(carry)
            bias -= (rate * change).astype(bias.dtype)


def _unit(statistics: Statistics) -> float:
    """What 1 of the hidden side's sums means."""
    if not statistics.integer:
        return 1.0
    return 1.0 / ((1 << statistics.planes) - 1) if statistics.planes else 1.0 / float(statistics.scale)


def _pairs(statistics: Statistics) -> list[Any]:
    """((v0, s0), (v1, s1)) of the units of each block, and of the owned units."""
    owned = (statistics.data.v, statistics.data.s), (statistics.model.v, statistics.model.s)
    return [*statistics.pairs, owned]


def _squares(statistics: Statistics, reduction: Reduction, divisors: tuple[int, int], side: int) -> list[Doubles]:
    """Mean squares over data and model of the visible (``side`` 0) or hidden (1) units of each of ``_pairs``, over all
    replicas."""
    values = [real_values(phase[side], np.float64) for pair in _pairs(statistics) for phase in pair]
    sums = [np.einsum("ij,ij->i", v, v, dtype=np.float64) for v in values]
    total = np.concatenate(sums)
    reduction.sum(total)
    parts = np.split(total, np.cumsum([len(x) for x in sums])[:-1])
    return [0.5 * (a / divisors[0] + b / divisors[1]) for a, b in zip(parts[::2], parts[1::2], strict=True)]


def _means(
    statistics: Statistics, reduction: Reduction, divisors: tuple[int, int]
) -> tuple[list[_Means], list[_Means]]:
    """(of the visible units, of the hidden ones) of each of ``_pairs``, over all replicas."""
    pairs, unit = _pairs(statistics), _unit(statistics)
    sums = [statistics.row_sums(x) for (v0, s0), (v1, s1) in pairs for x in (v0, v1, s0, s1)]
    total = np.concatenate(sums).astype(np.int64 if statistics.integer else np.float64)
    reduction.sum(total)
    parts = np.split(total, np.cumsum([len(x) for x in sums])[:-1])
    visible = [_Means(parts[i], parts[i + 1], 1.0, divisors) for i in range(0, len(parts), 4)]
    hidden = [_Means(parts[i + 2], parts[i + 3], unit, divisors) for i in range(0, len(parts), 4)]
    return visible, hidden


def _values(x: Activations, statistics: Statistics) -> tuple[Activations, float]:
    """(packed, or real numbers in float64 (units, samples); what 1 of them counts): integers where statistics are."""
    if isinstance(x, Packed):
        return x, 1.0 if statistics.integer else 1.0 / ((1 << x.planes) - 1)
    return (np.rint(x * statistics.scale) if statistics.integer else x).astype(np.float64, copy=False), 1.0


def _over_units(values: tuple[Activations, float], weights: Doubles) -> Doubles:
    x, unit = values
    sums = over_units(x, weights) if isinstance(x, Packed) else np.asarray(weights @ x)
    return sums if unit == 1.0 else sums * unit


def _over_samples(values: tuple[Activations, float], weights: Doubles) -> Doubles:
    x, unit = values
    sums = over_samples(x, weights) if isinstance(x, Packed) else np.asarray(x @ weights)
    return sums if unit == 1.0 else sums * unit
