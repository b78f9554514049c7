"""Is training still healthy?  Measures of an RBM on a few samples, and the errors that stop a broken run."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import faults
from modelpar.checkpoint import health
from modelpar.checkpoint.health import EXPLODED, are_finite, largest_weight
from modelpar.comm.grid import Grid
from modelpar.data.feed import Feed
from modelpar.errors import TrainingError, warn
from modelpar.kernels.products.product import Activations
from modelpar.kernels.reductions import squared_error
from modelpar.likelihood.pseudo_likelihood import pseudo_log_likelihood
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.training.feeds import sample_chunks
from modelpar.training.state import TrainingRun

Array = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]

LOOK_EVERY = 100  # updates between two looks at an RBM in training, beside those after 1, 2, 4, 8, ... updates
GROWTH = 2  # times its present bound that a summed input may come to until the next look
GLANCE = 128  # samples on which units are looked at between the ends of epochs
PROBE = 512  # samples on which an RBM is measured after each epoch,
PIECE = 128  # over all replicas, at once: the buffers of a wide layer grow with it
DEAD, SATURATED = 0.001, 0.999  # a unit whose activation never leaves this side, on all of the probe, learns nothing
COLLAPSED = 0.95  # part of the hidden units that may be dead or saturated before training is stopped
FALLS = 3  # epochs one after another, after which a pseudo-likelihood that falls is warned of
TUNING_RATE = "--finetune-learning-rate"


def measure(rbm: RBM, feed: Feed, n_visible: int, grid: Grid, at_once: int = PIECE) -> dict[str, float]:
    """Measures of ``rbm`` on the first samples of its data, by their weights, the same on every rank.  Collective.

    at_once   samples that are propagated together, at most

    pseudo_likelihood  mean pseudo-log-likelihood of a sample, in nats (Bernoulli visible units only)
    mean_activation    of the hidden units
    dead_units         part of the hidden units that are always off; ``saturated_units``: always on
    largest_weight     absolute value
    probe_error        mean squared error of a mean-field reconstruction
    """
    faults.at("score")
    n_probe = min(PROBE, feed.n_samples)
    lowest, highest = _no_extremes(rbm)
    total, error, likelihood = np.zeros(len(rbm.c)), 0.0, 0.0
    weights = np.ones(n_probe) if feed.weights is None else feed.weights[:n_probe]
    weight = float(weights.sum())
    for samples in sample_chunks(n_probe, grid.replica, grid.n_replicas, min(PIECE, at_once)):
        v: Array = np.empty((feed.n_units, len(samples)), rbm.W.dtype)
        feed.fill(samples, int(samples[0]) if len(samples) else 0, v)
        if not rbm.gaussian:
            likelihood += sum_of_likelihoods(rbm, v, samples, weights[samples])
        p = rbm.hidden_given_visible(v)
        _extend(lowest, highest, p)
        of_piece = None if feed.weights is None else weights[samples]
        total += p.sum(axis=1, dtype=np.float64) if of_piece is None else p @ of_piece
        error += sum_of_errors(v, rbm.visible_given_hidden(p), of_piece)
    measures = {} if rbm.gaussian else {"pseudo_likelihood": likelihood / weight}
    measures["dead_units"], measures["saturated_units"] = _idle(lowest, highest, rbm, grid, n_probe)
    grid.replica_comm.Allreduce(MPI.IN_PLACE, total)
    rbm.traffic.add_allreduce("replica", total, grid.n_replicas)
    n_hidden, activation = grid.shard_comm.allreduce(np.array([len(total), total.sum()]))
    measures["probe_error"] = grid.comm.allreduce(error) / (weight * n_visible)
    measures["mean_activation"] = float(activation / (n_hidden * weight))
    measures["largest_weight"] = grid.comm.allreduce(largest_weight(rbm.W), MPI.MAX)
    return measures


def _extend(lowest: Array, highest: Array, p: Array) -> None:
    """Extremes (units,) of means over all samples so far, by those of more samples p (units, batch)."""
    np.minimum(lowest, p.min(axis=1, initial=np.inf), out=lowest)
    np.maximum(highest, p.max(axis=1, initial=-np.inf), out=highest)


def _no_extremes(rbm: RBM) -> tuple[Array, Array]:
    """(lowest, highest) means of the owned hidden units over no samples."""
    n, dtype = len(rbm.c), rbm.W.dtype
    if rbm.hidden_units is None:
        return np.ones(n, dtype), np.zeros(n, dtype)
    return np.full(n, np.inf, dtype), np.full(n, -np.inf, dtype)


def _idle(lowest: Array, highest: Array, rbm: RBM, grid: Grid, n: int) -> tuple[float, float]:
    """Parts of all hidden units that are always off, and always on, by the extremes of this replica's samples; with
    real values those that never change from one of n samples to another count as off, and none as on.

    The same on every rank; the extremes become those of all samples.  Collective.
    """
    for extreme, op in ((lowest, MPI.MIN), (highest, MPI.MAX)):
        grid.replica_comm.Allreduce(MPI.IN_PLACE, extreme, op)
        rbm.traffic.add_allreduce("replica", extreme, grid.n_replicas)
    if rbm.hidden_units is None:
        dead, saturated = highest < DEAD, lowest > SATURATED
    else:
        dead, saturated = (highest - lowest < DEAD) & (n > 1), np.zeros(len(lowest), bool)
    counts = np.array([len(lowest), dead.sum(), saturated.sum()], float)
    n_hidden, n_dead, n_saturated = grid.shard_comm.allreduce(counts)
    return float(n_dead / n_hidden), float(n_saturated / n_hidden)


def sum_of_errors(v: Array, made: Array, weights: Doubles | None) -> float:
    """Squared errors of ``made``, both (units, batch), added up over units and, by their weights, over samples."""
    return float(squared_error(v, made) if weights is None else ((v - made) ** 2).sum(axis=0) @ weights)


def sum_of_likelihoods(rbm: RBM, v: Array, samples: npt.NDArray[np.int64], weights: Doubles) -> float:
    """Pseudo-log-likelihoods of all replicas' samples of this piece, added up by their weights.  Collective."""
    weight = rbm.replica_comm.allreduce(float(weights.sum()))
    return pseudo_log_likelihood(rbm, v, samples, weights=weights) * weight if weight else 0.0


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
    if why := collapse(index, measures["dead_units"], measures["saturated_units"]):
        raise TrainingError(f"{why}; use a smaller {rate} or a larger --weight-decay")


def collapse(index: int, dead: float, saturated: float) -> str:
    """Why an RBM with these parts of its hidden units always off and always on learns nothing; empty where it may."""
    if dead + saturated <= COLLAPSED:
        return ""
    return f"RBM {index} has collapsed: {dead:.0%} of its hidden units are always off and {saturated:.0%} always on"


class Falls:
    """Warns, once for an RBM, of a pseudo-likelihood that falls from epoch to epoch.

    Chains of their own that lag behind steps which are too large for them do this long before any weight is large: the
    whole network moves away from the data.
    """

    def __init__(self, rbm: RBM) -> None:
        self._rbm, self._seen = rbm, list[float]()

    def see(self, measures: dict[str, float], comm: MPI.Comm) -> None:
        """Those of the epoch that has ended, the same on every rank of ``comm``."""
        self._seen.append(measures.get("pseudo_likelihood", np.nan))
        last = self._seen[-FALLS - 1 :]
        if len(last) > FALLS and all(b < a for a, b in pairwise(last)) and last[-1] < self._seen[0]:
            self._seen.clear()
            self._seen.append(-np.inf)  # nothing is below it
            warn(
                comm,
                f"RBM {self._rbm.index}: the pseudo-log-likelihood has fallen for {FALLS} epochs, from {last[0]:.4g} "
                f"to {last[-1]:.4g}, below that of the first epoch; use a smaller {rate_of(self._rbm)}",
            )


def check_finite(what: str, values: list[Array], comm: MPI.Comm, rate: str = "--learning-rate") -> None:
    """Raise TrainingError on every rank if any rank's values have a NaN or infinity.  Collective.

    rate   the option that mends it
    """
    if not are_finite(values, comm):
        raise TrainingError(f"{what}: a bias is no longer a finite number; use a smaller {rate}")


# -- between the ends of epochs ----------------------------------------------------------------------------------------


def look_is_due(before: int, now: int) -> bool:
    """Whether a look falls into the updates of a stage after ``before``, up to ``now``.

    It depends on nothing else, so a run that was taken up again looks when it would have looked.
    """
    return now // LOOK_EVERY > before // LOOK_EVERY or now.bit_length() > before.bit_length()


def look(network: DeepBeliefNetwork, rbm: RBM, feed: Feed | None) -> None:
    """Look at an RBM in training: note whether its units have collapsed, and have sums that hold its weights.

    feed   of its data; None where its units were found to be fine just now

    Where summed inputs could wrap before the next look, the scale of their integers becomes coarser, on all ranks and
    at every grid alike.  Collective over the grid.
    Raises TrainingError, on every rank, where weights have exploded or sums may have wrapped since the last look.
    """
    rate, run = rate_of(rbm), TrainingRun.of(network)
    own = rbm.parameters
    check_finite(f"RBM {rbm.index}", [own.b, own.c, own.potential, own.precision], network.grid.comm, rate)
    bounds = network.bounds(rbm)
    if why := health.of_rbm(rbm, bounds, network.grid.comm):
        raise TrainingError(f"{why}; use a smaller {rate}")
    rbm.make_room(bounds, GROWTH)
    run.ailments.pop("collapse", None)
    if feed is not None and (why := collapse(rbm.index, *idle_units(rbm, feed, network.grid, network.samples_at_once))):
        run.ailments["collapse"] = why


def idle_units(rbm: RBM, feed: Feed, grid: Grid, at_once: int = PIECE) -> tuple[float, float]:
    """Parts of the hidden units that are off, and on, for all of a few samples; the same on every rank.  Collective.

    Where data are states so are these samples, and in exact mode the parts are then the same at every grid.
    """
    lowest, highest = _no_extremes(rbm)
    n = min(GLANCE, feed.n_samples)
    for samples in sample_chunks(n, grid.replica, grid.n_replicas, min(PIECE, at_once)):
        first = int(samples[0]) if len(samples) else 0
        v: Activations
        if feed.binary:
            v = feed.states(samples, first)
        else:
            v = values = np.empty((feed.n_units, len(samples)), rbm.W.dtype)
            feed.fill(samples, first, values)
        _extend(lowest, highest, rbm.hidden_given_visible(v))
    return _idle(lowest, highest, rbm, grid, n)


def rate_of(rbm: RBM) -> str:
    """The option that sets the learning rate of an RBM."""
    return "--gaussian-learning-rate" if rbm.gaussian else "--learning-rate"


def check_values(network: DeepBeliefNetwork) -> None:
    """Raise TrainingError, on every rank, where values of a network are not those of a healthy one.

    Collective over the grid.
    """
    reasons = health.of_values(network)
    if reasons:
        position = TrainingRun.of(network).position
        in_pretraining = position.stage == "pretrain" and position.layer < len(network.rbms)
        rate = rate_of(network.rbms[position.layer]) if in_pretraining else TUNING_RATE
        raise TrainingError(f"{reasons[0]}; use a smaller {rate}")
