"""States drawn from the means that sampling ends with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar import draws
from modelpar.draws import Purpose, Stream
from modelpar.model.network import DeepBeliefNetwork

Array = npt.NDArray[Any]

DRAWN = (1 << 16) - 1  # repeat of the stream of fantasies that no step of Gibbs sampling has


def drawn_states(network: DeepBeliefNetwork, means: Array, first: int) -> Array:
    """States of the owned visible units drawn from their means (n_visible_owned, samples): 0 and 1, or -1 and 1.

    Of a categorical site the states' probabilities are added up in their order until they exceed one draw for the site;
    of Gaussian units, which have no states, it is the means, in the unit of the data.

    first   draw counter of the first sample.  Not collective.
    """
    kind, ids = network.spec.visible_kind, network.visible_ids
    stream = Stream(network.spec.seed, 0, Purpose.FANTASY, DRAWN)
    if kind.gaussian:
        return np.asarray(means * network.input_scale[:, None] + network.input_offset[:, None])
    if kind.categories:
        q = kind.categories
        uniform = np.empty((len(ids) // q, means.shape[1]))
        draws.uniform(stream, np.ascontiguousarray(ids[::q]), first, uniform)
        until = np.cumsum(means.reshape(-1, q, means.shape[1]), axis=1, dtype=np.float64)
        chosen = np.minimum((until <= uniform[:, None] * until[:, -1:]).sum(axis=1), q - 1)
        return np.asarray(chosen[:, None] == np.arange(q)[:, None], np.int8).reshape(means.shape)
    states = np.empty_like(means)
    draws.sample_bernoulli(means, stream, ids, first, states)
    return np.asarray(2 * states - 1 if kind.name == "spin" else states, np.int8)
