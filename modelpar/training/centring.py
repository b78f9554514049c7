"""The centred gradient of an RBM, as a correction of its uncentred statistics.

With offsets mu and lambda, the means of a visible and a hidden unit over data and model, the centred statistics of the
weights are ``G = <(v - mu)(h - lambda)>_data - <(v - mu)(h - lambda)>_model`` (Montavon and Mueller 2012; Melchior,
Fischer and Wiskott 2016).  Those of the biases, where the parameters stay those of an uncentred RBM, are
``<v>_data - <v>_model - G lambda`` and ``<h>_data - <h>_model - G^T mu`` (Cho, Raiko and Ilin 2013, equation 9;
Melchior et al., section 3.1).  Written out,

    G = C - mu dh^T - dv lambda^T,    C = <v h^T>_data - <v h^T>_model,  dv, dh the differences of the means

so the kernels of the uncentred statistics stay as they are: the weights need the means of their units only, and the
biases ``C lambda`` and ``C^T mu``, that is a sum over each sample's units and one over the samples.  Where statistics
are integers the offsets of these sums are rounded to multiples of 2^-16 and the sums are exact, at every grid alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.collective import messages
from modelpar.kernels.products.product import Activations
from modelpar.kernels.states import Packed, over_samples, over_units
from modelpar.kernels.statistics.update import subtract_outer
from modelpar.sync import Reduction
from modelpar.weights.parameters import Parameters
from modelpar.weights.statistics import Statistics, real_values

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

STEPS = float(1 << 16)  # of an offset in a sum over units: exact in float64 for 2^20 units and 2^13 samples of 8 bits


class _Means:
    """Means over data and model of some units of one side: their offsets, and the differences."""

    def __init__(self, data: Array, model: Array, unit: float, divisors: tuple[int, int]) -> None:
        first, second = (np.asarray(x, np.float64) * unit / n for x, n in zip((data, model), divisors, strict=True))
        self.offset, self.difference = 0.5 * (first + second), first - second

    @property
    def steps(self) -> tuple[Doubles, Doubles]:
        """Both as integer multiples of 1 / STEPS."""
        return np.rint(self.offset * STEPS), np.rint(self.difference * STEPS)


def centre(
    velocity: Parameters, statistics: Statistics, reduction: Reduction, divisors: tuple[int, int], carry: float,
    rate: float,
) -> None:  # fmt: skip
    """velocity = carry * velocity + rate * (what the centred gradient has more than the uncentred one).

    divisors   samples and chains that the phases are means over
    Collective over the shards, and over the replicas that ``reduction`` sums over.
    """
    unit = _unit(statistics)
    pairs = [*statistics.pairs, ((statistics.data.v, statistics.data.s), (statistics.model.v, statistics.model.s))]
    visible, hidden = _means(pairs, statistics, reduction, divisors, unit)
    for V, v, h in zip(velocity.blocks, visible, hidden, strict=False):
        subtract_outer(V, carry, (rate * v.offset, rate * v.difference), (h.difference, h.offset))
    v, h = visible[-1], hidden[-1]  # of the owned units
    (mu, dv), (la, dh) = v.steps, h.steps
    values = [
        (_values(phase.v, statistics), _values(phase.s, statistics)) for phase in (statistics.data, statistics.model)
    ]
    # of every sample, over this shard's units
    own = [_over_units(s, la) for _, s in values] + [_over_units(x, mu) for x, _ in values]
    dots = np.array([la @ la, la @ dh, mu @ mu, mu @ dv])
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
    of_v0, of_v1, of_h0, of_h1 = np.split(products * unit / STEPS, [n_v, 2 * n_v, 2 * n_v + n_h])
    n_samples, n_chains = divisors
    lala, ladh, mumu, mudv = (dots / STEPS**2).tolist()
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


def _means(
    pairs: list[Any], statistics: Statistics, reduction: Reduction, divisors: tuple[int, int], unit: float
) -> tuple[list[_Means], list[_Means]]:
    """(of the visible units, of the hidden ones) of each pair ((v0, s0), (v1, s1)), over all replicas."""
    sums = [statistics.row_sums(x) for (v0, s0), (v1, s1) in pairs for x in (v0, v1, s0, s1)]
    total = np.concatenate(sums).astype(np.int64 if statistics.integer else np.float64)
    reduction.sum(total)
    parts = np.split(total, np.cumsum([len(x) for x in sums])[:-1])
    visible = [_Means(parts[i], parts[i + 1], 1.0, divisors) for i in range(0, len(parts), 4)]
    hidden = [_Means(parts[i + 2], parts[i + 3], unit, divisors) for i in range(0, len(parts), 4)]
    return visible, hidden


def _values(x: Activations, statistics: Statistics) -> Activations:
    """(units, samples): packed, or integers where the statistics are, in their steps; else real values."""
    if not statistics.integer:
        return real_values(x, np.float64).astype(np.float64, copy=False)
    return x if isinstance(x, Packed) else np.rint(x * statistics.scale).astype(np.float64)


def _over_units(x: Activations, weights: Doubles) -> Doubles:
    return over_units(x, weights) if isinstance(x, Packed) else np.asarray(weights @ x)


def _over_samples(x: Activations, weights: Doubles) -> Doubles:
    return over_samples(x, weights) if isinstance(x, Packed) else np.asarray(x @ weights)
