"""Is training still healthy?  Measures of an RBM on a few samples, and the errors that stop a broken run."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import faults
from modelpar.comm.grid import Grid
from modelpar.data.feed import Feed
from modelpar.errors import TrainingError
from modelpar.kernels.reductions import squared_error
from modelpar.likelihood.pseudo_likelihood import pseudo_log_likelihood
from modelpar.model.rbm import RBM
from modelpar.training.feeds import sample_chunks

Array = npt.NDArray[np.floating]

PROBE = 512  # samples on which an RBM is measured after each epoch,
PIECE = 128  # over all replicas, at once: the buffers of a wide layer grow with it
DEAD, SATURATED = 0.001, 0.999  # a unit whose activation never leaves this side, on all of the probe, learns nothing
COLLAPSED = 0.95  # part of the hidden units that may be dead or saturated before training is stopped
EXPLODED = 1000.0  # weights of useful RBMs stay far below (Hinton 2010, section 8)


def measure(rbm: RBM, feed: Feed, n_visible: int, grid: Grid, at_once: int = PIECE) -> dict[str, float]:
    """Measures of ``rbm`` on the first samples of its data, the same on every rank.  Collective.

    at_once   samples that are propagated together, at most

    pseudo_likelihood  mean pseudo-log-likelihood of a sample, in nats (Bernoulli visible units only)
    mean_activation    of the hidden units
    dead_units         part of the hidden units that are always off; ``saturated_units``: always on
    largest_weight     absolute value
    probe_error        mean squared error of a mean-field reconstruction
    """
    faults.at("score")
    n_probe = min(PROBE, feed.n_samples)
    lowest, highest = np.full(len(rbm.c), 1.0, rbm.W.dtype), np.zeros(len(rbm.c), rbm.W.dtype)
    total, error, likelihood = np.zeros(len(rbm.c)), 0.0, 0.0
    for samples in sample_chunks(n_probe, grid.replica, grid.n_replicas, min(PIECE, at_once)):
        v: Array = np.empty((feed.n_units, len(samples)), rbm.W.dtype)
        feed.fill(samples, int(samples[0]) if len(samples) else 0, v)
        if not rbm.gaussian:
            likelihood += _sum_of_likelihoods(rbm, v, samples)
        p = rbm.hidden_given_visible(v)
        np.minimum(lowest, p.min(axis=1, initial=1.0), out=lowest)
        np.maximum(highest, p.max(axis=1, initial=0.0), out=highest)
        total += p.sum(axis=1, dtype=np.float64)
        error += squared_error(v, rbm.visible_given_hidden(p))
    measures = {} if rbm.gaussian else {"pseudo_likelihood": likelihood / n_probe}
    for extreme, op in ((lowest, MPI.MIN), (highest, MPI.MAX), (total, MPI.SUM)):
        grid.replica_comm.Allreduce(MPI.IN_PLACE, extreme, op)
        rbm.traffic.add_allreduce("replica", extreme, grid.n_replicas)
    n_hidden, activation, dead, saturated = grid.shard_comm.allreduce(
        np.array([len(total), total.sum(), (highest < DEAD).sum(), (lowest > SATURATED).sum()], float)
    )
    measures["probe_error"] = grid.comm.allreduce(error) / (n_probe * n_visible)
    measures["mean_activation"] = float(activation / (n_hidden * n_probe))
    measures["dead_units"], measures["saturated_units"] = float(dead / n_hidden), float(saturated / n_hidden)
    measures["largest_weight"] = grid.comm.allreduce(_largest(rbm.W), MPI.MAX)
    return measures


def _sum_of_likelihoods(rbm: RBM, v: Array, samples: npt.NDArray[np.int64]) -> float:
    """Pseudo-log-likelihoods of all replicas' samples of this piece, added up.  Collective."""
    n = rbm.replica_comm.allreduce(len(samples))
    return pseudo_log_likelihood(rbm, v, samples) * n if n else 0.0


def check_rbm(index: int, measures: dict[str, float], rate: str = "--learning-rate") -> None:
    """Raise TrainingError, on every rank alike, where the measures tell of a breakdown.   rate: what mends it"""
    name = f"RBM {index}"
    for what in ("reconstruction_error", "probe_error", "largest_weight"):
        if not np.isfinite(measures.get(what, 0.0)):
            raise TrainingError(f"{name}: {what.replace('_', ' ')} is {measures[what]}; use a smaller {rate}")
    if measures["largest_weight"] > EXPLODED:
        raise TrainingError(
            f"{name}: weights explode (the largest is {measures['largest_weight']:.3g}); use a smaller {rate}"
        )
    lost = measures["dead_units"] + measures["saturated_units"]
    if lost > COLLAPSED:
        raise TrainingError(
            f"{name} has collapsed: {measures['dead_units']:.0%} of its hidden units are always off and "
            f"{measures['saturated_units']:.0%} always on; use a smaller {rate} or a larger --weight-decay"
        )


def check_weights(what: str, weights: list[Array], comm: MPI.Comm) -> None:
    """Raise TrainingError on every rank where weights of any rank are not finite or have exploded.  Collective."""
    largest = comm.allreduce(max(map(_largest, weights)), MPI.MAX)
    if not largest < EXPLODED:
        raise TrainingError(
            f"{what}: weights explode (the largest is {largest:.3g}); use a smaller --finetune-learning-rate"
        )


def check_finite(what: str, values: list[Array], comm: MPI.Comm, rate: str = "--learning-rate") -> None:
    """Raise TrainingError on every rank if any rank's values have a NaN or infinity.  Collective.

    rate   the option that mends it
    """
    fine = all(bool(np.isfinite(array).all()) for array in values)
    if not comm.allreduce(fine, MPI.LAND):
        raise TrainingError(f"{what}: a bias is no longer a finite number; use a smaller {rate}")


def _largest(W: Array) -> float:
    """Largest absolute value, infinity where there is a NaN, without a copy of W."""
    if not W.size:
        return 0.0
    low, high = float(W.min()), float(W.max())
    return float("inf") if np.isnan(low) or np.isnan(high) else max(-low, high)
