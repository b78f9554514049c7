"""Visible biases before the first update, from the means of the data."""

from __future__ import annotations

import math

import numpy as np

from modelpar.data.feed import Feed
from modelpar.data.missing import MissingValues
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.training.completion import KnownFeed
from modelpar.training.feeds import mean_of


def set_visible_biases(
    network: DeepBeliefNetwork, rbm: RBM, feed: Feed, missing: MissingValues | None = None
) -> None:  # fmt: skip
    """log(p / (1 - p)) of each unit's mean p (Hinton 2010, section 8), log p for units of a site, or the mean itself
    for Gaussian ones, times their precisions: of the values that are known."""
    if missing is None:
        mean = mean_of(network, feed)
    else:
        known = mean_of(network, KnownFeed(feed, missing, ones=True))
        mean = mean_of(network, KnownFeed(feed, missing)) / np.maximum(known, 0.5 / max(feed.n_samples, 1))
    categories = rbm.visible.categories
    if rbm.gaussian:
        rbm.b[:] = mean if rbm.precision is None else mean * rbm.precision
    elif categories:
        n = feed.n_samples  # half a sample more of each category keeps those finite that never occur
        p = (np.asarray(mean, np.float64) * n + 0.5) / (n + 0.5 * categories)
        rbm.b[:] = [math.log(x) for x in p.tolist()]
    else:
        p = np.clip(mean, 0.001, 0.999)  # a pixel that is never on must not outweigh the others
        # value by value: NumPy's vector loops may round otherwise in another position
        rbm.b[:] = [math.log(x / (1 - x)) for x in p.tolist()]
