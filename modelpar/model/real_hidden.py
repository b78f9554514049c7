"""The hidden side of an RBM whose hidden units have real values.

Their summed inputs are made as those of states are; values, means and gradients come of them unit by unit, on the shard
that owns the unit, and travel as floats.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from modelpar.kernels.products.product import Activations, Sampled
from modelpar.kernels.sampling.epilogue import add_bias
from modelpar.kernels.states import pack
from modelpar.spec import TrainingSpec
from modelpar.streams import Stream
from modelpar.units.hidden import HiddenUnits, drawn
from modelpar.weights.parameters import Parameters

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


class Owner(Protocol):
    """What is needed of an RBM."""

    parameters: Parameters
    hidden_ids: IntArray


def of_inputs(
    rbm: Owner, units: HiddenUnits, x: Array, stream: Stream, samples: int | IntArray, *,
    means: bool = False, states: bool = True, planes: int = 0,
) -> Sampled:  # fmt: skip
    """Draws given the sums x = W^T v (n_hidden_owned, batch), to which the biases are added in place.

    means, planes   whether it is for statistics: these are means, and gradients of the potentials, whatever the planes
    """
    add_bias(x, rbm.parameters.c.astype(x.dtype, copy=False))
    statistics = means or planes > 0
    result = drawn(
        units, x, rbm.parameters.potential, stream if states else None, rbm.hidden_ids, samples,
        means=statistics, gradient=statistics,
    )  # fmt: skip
    return Sampled(result.means, None, None, 0.0, result.values, result.gradient)


def of_biases(rbm: Owner, units: HiddenUnits, n_samples: int, stream: Stream, samples: int | IntArray) -> Array:
    """Values (n_hidden_owned, n_samples) drawn without any input but the biases."""
    x = np.repeat(rbm.parameters.c[:, None], n_samples, axis=1)
    values = drawn(units, x, rbm.parameters.potential, stream, rbm.hidden_ids, samples).values
    assert values is not None  # they were asked for
    return values


def nothing_on(rbm: Any, n_samples: int) -> Activations:
    """(n_hidden_owned, n_samples) hidden states, or real values, of an RBM of any kind that are all 0."""
    zeros = np.zeros((len(rbm.hidden_ids), n_samples), rbm.parameters.flat.dtype)
    return pack(zeros) if rbm.hidden_units is None else zeros


def variance_alone(rbm: Any, training: TrainingSpec) -> float:
    """The variance of a hidden unit without any input, to which that of its means adds up, where gradients are those of
    units over their deviations; 0 where not, and of states."""
    units = rbm.hidden_units
    if units is None or not training.divides_real_hidden(gaussian=rbm.gaussian):
        return 0.0
    nothing = np.zeros((1, 1))
    return float(units.given(nothing, np.zeros((len(units.learned), 1))).variance()[0, 0])


def means_of(rbm: Owner, units: HiddenUnits, x: Array) -> Array:
    """E[h | v] from W^T v + c (n_hidden_owned, batch)."""
    means = drawn(units, x, rbm.parameters.potential, means=True).means
    assert means is not None  # they were asked for
    return means
