"""The zero-sum gauge of categorical units.

Adding a number to all weights between a site and a hidden unit, and taking it off the hidden unit's bias, leaves the
model what it is, as one of the site's units is always 1; so does a number added to all biases of a site.  Of all these
parameters training keeps those whose sums over the categories of a site are 0: penalties then depend on the model
alone, and couplings can be read off the weights (Tubiana, Cocco and Monasson 2019, methods).

An update is projected: what it adds to all categories of a site alike is left out, which the hidden units' biases learn
anyway.  Weights of connections that are listed have no gauge, as some of a site's may be missing.
"""

from __future__ import annotations

import numpy as np

from modelpar.kernels.states import pack
from modelpar.kernels.statistics.sites import centre_sites
from modelpar.units import Visible
from modelpar.weights.parameters import Parameters
from modelpar.weights.protocol import Weights


def project(parameters: Parameters, visible: Visible) -> None:
    """Take the means over the categories of every site off the weights and the visible biases.  Not collective."""
    if not visible.categories or parameters.W.ndim == 1:
        return
    for block in parameters.blocks:
        centre_sites(block, visible.categories)
    centre_sites(parameters.b.reshape(-1, 1), visible.categories)


def enter(parameters: Parameters, visible: Visible, weights: Weights) -> None:
    """Bring parameters into the gauge, with the hidden biases that keep the model what it is.

    In exact mode the same bits at every grid.  Collective over the shards.
    """
    if not visible.categories or parameters.W.ndim == 1:
        return
    every_unit = pack(np.ones((len(parameters.b), 1)))
    sums = weights.up(parameters, weights.spread_visible(every_unit))
    parameters.c += (sums[:, 0] / visible.categories).astype(parameters.c.dtype)
    project(parameters, visible)
