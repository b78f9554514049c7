"""The pseudo-likelihood of an RBM, which needs no log Z."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from modelpar import draws
from modelpar.collective.agreement import agree
from modelpar.errors import DataError, SpecError
from modelpar.kernels.products.product import Activations
from modelpar.likelihood.energy import (
    Array,
    Doubles,
    IntArray,
    ShardedRBM,
    free_energy,
    mean_over_replicas,
    on_whole_grid,
    softplus,
    stream_of,
    sum_over_shards,
    visible_values,
    whole_grid,
)
from modelpar.values import plain
from modelpar.values.forms import plain_array

SITES = 0  # repeat of the stream of Purpose.SCORE


def pseudo_log_likelihood(
    rbm: ShardedRBM, v: Activations, samples: IntArray, seed: int | None = None, weights: Doubles | None = None
) -> float:
    """Mean over all replicas' samples of n_visible log p(v_i | all others), with one unit i drawn for each sample.

    An unbiased estimate of the pseudo-log-likelihood (Besag 1975), in nats; of categorical units a site stands for the
    unit, and there are n_visible / categories of them.  A value between 0 and 1 counts as the
    probability of a one.  NaN without any samples.

    samples   (samples of this replica,) ids of the samples, which key the choice of the unit: ids that come back
              in every epoch choose the same units, so that epochs can be compared
    seed      of the choice; default: the RBM's own
    weights   (samples of this replica,) by which the mean is made; None: all samples count alike
    Raises SpecError where the visible units are Gaussian, DataError where samples or units do not fit.  Collective.
    """
    with on_whole_grid(rbm):
        values = visible_values(rbm, v)
        samples = plain_array(samples, "ids of samples")
        n = values.shape[1]
        if samples.shape != (n,) or (len(samples) and samples.dtype.kind not in "ui"):
            raise DataError(f"ids of samples came as {samples.dtype} of shape {samples.shape}, but v has {n}")
    of_replica = {"samples": samples, "batch": n}
    agree(whole_grid(rbm), "pseudo_log_likelihood", seed=rbm.seed if seed is None else seed, in_replica=of_replica)
    seed = None if seed is None else plain.integer_number("seed", seed, at_least=0)
    if rbm.gaussian:
        raise SpecError(
            "the pseudo-likelihood needs Bernoulli visible units, but these are Gaussian; use the reconstruction error"
        )
    categories = rbm.visible.categories or 1
    n_sites = rbm.shard_comm.allreduce(len(rbm.visible_ids)) // categories
    u = np.empty((1, n), values.dtype)
    draws.uniform(stream_of(rbm, seed, SITES), np.zeros(1, np.int64), np.asarray(samples, np.int64), u)
    sites = np.minimum((u[0].astype(np.float64) * n_sites).astype(np.int64), n_sites - 1)
    if categories > 1:
        return mean_over_replicas(rbm, n_sites * _log_p_of_sites(rbm, values, sites, categories), weights)
    rows, columns = np.nonzero(rbm.visible_ids[:, None] == sites[None, :])  # the sites that are ours
    observed = np.zeros(n)
    observed[columns] = values[rows, columns]
    trial = values.copy()
    trial[rows, columns] = 0
    without = free_energy(rbm, trial)
    trial[rows, columns] = 1
    evidence = without - free_energy(rbm, trial)  # log-odds of a one given the other units
    observed = sum_over_shards(rbm, observed)
    log_p = -observed * softplus(-evidence) - (1 - observed) * softplus(evidence)
    return mean_over_replicas(rbm, n_sites * log_p, weights)


def _log_p_of_sites(rbm: ShardedRBM, values: Array, sites: IntArray, categories: int) -> Doubles:
    """log p(state of a site | all other units) of every sample, (samples,).   sites (samples,)"""
    trial, minus_energies = values.copy(), []
    here = rbm.visible_ids[:, None] // categories == sites[None, :]
    for q in range(categories):
        of_category = here & (rbm.visible_ids[:, None] % categories == q)
        trial[here] = 0
        trial[of_category] = 1
        minus_energies.append(-free_energy(rbm, trial))
    return np.asarray(-free_energy(rbm, values) - logsumexp(minus_energies, axis=0))
