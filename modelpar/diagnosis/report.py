"""All measures of one network on one data set."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.chains.gibbs import Chains
from modelpar.collective.agreement import agree
from modelpar.diagnosis.autocorrelation import TENTH, autocorrelation, integrated_time, sweeps_below
from modelpar.diagnosis.moments import Agreement, Moments, compare, moments, random_triples, rms, three_body
from modelpar.diagnosis.neighbours import AdversarialAccuracy, adversarial_accuracy
from modelpar.diagnosis.overfitting import FreeEnergyGap, free_energy_gap
from modelpar.diagnosis.sampling import Walk, in_proportion, resample, spread_evenly, values_of, whole
from modelpar.diagnosis.spectrum import effective_rank, singular_values
from modelpar.errors import DataError
from modelpar.kernels.products.product import Activations
from modelpar.likelihood.score import log_unnormalised
from modelpar.model.network import DeepBeliefNetwork
from modelpar.values import plain

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Samples = tuple[Activations, IntArray]  # (n_visible_owned, samples of this replica), and ids that key their draws

UNITS = 1024  # visible units whose moments are compared
NEIGHBOURS = 2000  # samples of each set whose nearest neighbours are looked for
TRIPLES = 10_000
RECORDED = 1 << 26  # bytes of the states that are recorded over all sweeps
FEWEST = 8  # chains that are recorded in any case
TIMES = 16  # at which chains are compared with data, besides the start
SHOWN_CHAINS, SHOWN_TIMES = 6, 12  # of the picture
MEETING = 2.0  # times the distance between samples of one distribution: chains have met
RANDOM, DATA, RUN, EQUILIBRIUM = range(4)  # the walks, whose draws are apart


@dataclass(frozen=True)
class Distances:
    """Distances of chains from the data, or from others, in means and covariances: (times,) each."""

    means: Doubles
    pairs: Doubles


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` measures; the same on every rank, but for ``seconds``.

    sweeps               (times,) at which chains were compared with data
    distances            by where chains started: ``random``, ``data``, and ``run`` where they went on from a training's
    between              of the chains from random starts to those from data
    floor                the distance of as many samples of the data from the others: (means, pairs)
    meeting_time         sweeps from which on both starts are as near as twice what samples of one distribution are in
                         their means; None where they never are
    autocorrelation      (lags,) None where no unit ever changes
    autocorrelation_time in sweeps, of chains at equilibrium; too small where ``window`` is None
    mixing_time          sweeps until the autocorrelation is below 1/e; ``mixing_time_tenth``: below 0.1
    data, samples        moments of the chosen visible units; of samples, those of chains from random starts
    moments              how they agree: ``means``, ``pairs``, and ``triples`` where these were asked for
    triples              (2, triples) of data and samples
    free_energies        by set: ``training``, ``held_out``, ``samples``; of a stack minus the bound on log p*
    mean_free_energies   by set, by the weights of its samples
    spectrum             singular values of each RBM's weights; None of too large a matrix
    shown                (times, n_visible, chains) means of some chains from random starts; None where not asked for
    doubts               what a number should not be taken for, in words
    """

    n_chains: int
    n_sweeps: int
    n_samples: int
    chains_from: str
    sweeps: IntArray
    distances: Mapping[str, Distances]
    between: Distances
    floor: tuple[float, float]
    meeting_time: int | None
    autocorrelation: Doubles | None
    autocorrelation_time: float | None
    window: int | None
    mixing_time: int | None
    mixing_time_tenth: int | None
    data: Moments
    samples: Moments
    moments: Mapping[str, Agreement]
    triples: Doubles
    neighbours: AdversarialAccuracy | None
    neighbours_of_training: AdversarialAccuracy | None
    gap: FreeEnergyGap | None
    free_energies: Mapping[str, Doubles]
    mean_free_energies: Mapping[str, float]
    spectrum: list[Doubles | None]
    shown: Array | None
    shown_sweeps: IntArray
    seconds: float = field(compare=False)
    doubts: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Flat plain values for ``--json``; None in place of NaN and infinities."""
        lags = np.unique(np.geomspace(1, max(self.n_sweeps, 2), 100).astype(np.int64)) - 1
        rho = self.autocorrelation
        lags = lags[lags < (0 if rho is None else len(rho))]
        top = self.spectrum[-1]
        values: dict[str, Any] = {
            "samples": self.n_samples, "chains": self.n_chains, "sweeps": self.n_sweeps,
            "chains_from": self.chains_from,
            "mixing_time": self.mixing_time, "mixing_time_tenth": self.mixing_time_tenth,
            "autocorrelation_time": self.autocorrelation_time, "autocorrelation_window": self.window,
            "meeting_time": self.meeting_time,
            "moments": {name: asdict(agreement) for name, agreement in self.moments.items()},
            "adversarial_accuracy": _accuracies(self.neighbours),
            "adversarial_accuracy_training": _accuracies(self.neighbours_of_training),
            "free_energy_gap": None if self.gap is None else self.gap.gap,
            "free_energy_gap_error": None if self.gap is None else self.gap.error,
            "mean_free_energy": self.mean_free_energies,
            "effective_rank": None if top is None else effective_rank(top),
            "spectrum": top,
            "autocorrelation": None if rho is None else {"lags": lags, "values": rho[lags]},
            "distance": {
                "sweeps": self.sweeps,
                **{start: {"means": d.means, "pairs": d.pairs} for start, d in self.distances.items()},
                "between": {"means": self.between.means, "pairs": self.between.pairs},
                "floor": {"means": self.floor[0], "pairs": self.floor[1]},
            },
            "doubts": list(self.doubts),
            "seconds": self.seconds,
        }  # fmt: skip
        return {name: finite(value) for name, value in values.items()}


def finite(value: Any) -> Any:
    """The same for JSON: lists in place of arrays, None in place of NaN and infinities."""
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value


def diagnose(
    network: DeepBeliefNetwork, held_out: Samples, training: Samples | None = None, chains: Chains | None = None, *,
    n_chains: int = 500, n_sweeps: int = 1000, seed: int = 0, triples: bool = False, pictures: bool = False,
    weights: Doubles | None = None, training_weights: Doubles | None = None,
) -> Diagnosis:  # fmt: skip
    """Measure how well a network generates samples like ``held_out``, and whether its chains mix.

    Of a stack, autocorrelation, mixing and the last spectrum are of the top RBM; all that is compared with data is of
    visible states that the lower RBMs draw down from it.

    held_out, training   states, or values of Gaussian units, and ids of the samples of this replica, as ``score`` takes
                         them; the training set where it is known
    chains       of the top RBM, as training carried them: they are at equilibrium sooner than others
    n_chains     of each start
    n_sweeps     that they make; as many again are recorded for the autocorrelation
    triples      whether three-body correlations are compared too
    pictures     whether samples over time are kept
    weights, training_weights   of the samples of this replica: moments, free energies and their gap are means by them,
                 and chains from data start at samples, and neighbours are of samples, in proportion; None: all alike
    Collective.  Raises DataError where there are fewer than two samples, SpecError for counts out of range.
    """
    started = time.perf_counter()
    grid = network.grid
    n_chains = plain.integer_number("n_chains", n_chains, at_least=2)
    n_sweeps = plain.integer_number("n_sweeps", n_sweeps, at_least=2)
    seed = plain.integer_number("seed", seed, at_least=0, at_most=1 << 30)
    given = training is not None, chains is not None, weights is not None, training_weights is not None
    agree(grid.comm, "diagnose", n_chains=n_chains, n_sweeps=n_sweeps, seed=seed, triples=triples, given=given)
    n_samples = grid.replica_comm.allreduce(held_out[0].shape[1])
    if n_samples < 2:
        raise DataError(f"there are {n_samples} samples to compare with, but at least 2 are needed")
    draws = [(walk << 60) + (seed << 32) for walk in range(4)]
    doubts: list[str] = []

    unnormalised, top = log_unnormalised(network, *held_out, seed)
    energies = {"held_out": -_all(network, unnormalised)}
    gap = None
    if training is not None:
        energies["training"] = -_all(network, log_unnormalised(network, *training, seed)[0])
        training_weights = None if training_weights is None else _all(network, training_weights)
    weights = None if weights is None else _all(network, weights)
    if training is not None:
        gap = free_energy_gap(energies["training"], energies["held_out"], training_weights, weights)

    units = spread_evenly(network.spec.layers[0], UNITS)
    values = whole(network, held_out[0], units)
    data, floor = moments(values, weights), _floor(values, n_chains, weights)
    times = np.unique(np.r_[0, np.round(np.geomspace(1, n_sweeps, TIMES)).astype(np.int64)])
    walks = {"random": Walk.random(network, n_chains, draws[RANDOM])}
    walks["data"] = Walk(network, resample(network, top, _wanted(n_samples, n_chains, weights)), n_chains, draws[DATA])
    if chains is not None:
        some = spread_evenly(chains.n_all, n_chains)
        walks["run"] = Walk.of_hidden(network, resample(network, chains.h, some), len(some), draws[RUN])
    seen: dict[str, list[Moments]] = {name: [] for name in walks}
    shown, shown_times = [], times[spread_evenly(len(times), SHOWN_TIMES)]
    for name, walk in walks.items():
        for now in times:
            walk.move(int(now) - walk.sweeps)
            seen[name].append(moments(whole(network, walk.generated(), units)))
            if pictures and name == "random" and now in shown_times:
                shown.append(walk.means(SHOWN_CHAINS))
    distances = {name: _distances([data] * len(times), seen[name]) for name in walks}
    between = _distances(seen["random"], seen["data"])
    # two sets of n_chains differ more than one of them from the data
    apart = MEETING * floor[0] * math.sqrt(2 * data.n / (data.n + n_chains))

    generated = walks["random"].generated()
    here = np.arange(generated.shape[1]) + sum(grid.replica_comm.allgather(generated.shape[1])[: grid.replica])
    energies["samples"] = -_all(network, log_unnormalised(network, generated, here, seed)[0])
    last = seen["random"][-1]
    agreement = {"means": compare(data.means, last.means), "pairs": compare(data.pairs, last.pairs)}
    three = np.zeros((2, 0))
    if triples:
        chosen = random_triples(len(units), TRIPLES, seed)
        three = np.stack([three_body(values, chosen, weights), three_body(whole(network, generated, units), chosen)])
        agreement["triples"] = compare(*three)
    neighbours = _neighbours(network, held_out[0], generated, weights)
    of_training = None if training is None else _neighbours(network, training[0], generated, training_weights)
    by_set = {"held_out": weights, "training": training_weights}
    means = {name: float(np.average(x, weights=by_set.get(name))) for name, x in energies.items() if len(x)}

    source = "run" if "run" in walks else "data"
    rho = _recorded(network, walks[source], n_sweeps, draws[EQUILIBRIUM])
    tau, window = (None, None) if rho is None else integrated_time(rho)
    if rho is not None and window is None:
        doubts.append(f"the autocorrelation time is too small: {n_sweeps} sweeps are few beside it; use more --sweeps")
    if rho is None:
        doubts.append("no visible unit ever changes: there is no autocorrelation")
    spectrum = [singular_values(rbm, *network.spec.layers[i : i + 2]) for i, rbm in enumerate(network.rbms)]
    if any(values is None for values in spectrum):
        doubts.append("a matrix is too large for its spectrum")
    return Diagnosis(
        n_chains=n_chains, n_sweeps=n_sweeps, n_samples=n_samples, chains_from=source, sweeps=times,
        distances=distances, between=between, floor=floor, meeting_time=_from_then_on(times, between.means <= apart),
        autocorrelation=rho, autocorrelation_time=tau, window=window,
        mixing_time=None if rho is None else sweeps_below(rho),
        mixing_time_tenth=None if rho is None else sweeps_below(rho, TENTH),
        data=data, samples=last, moments=agreement, triples=three,
        neighbours=neighbours, neighbours_of_training=of_training, gap=gap, free_energies=energies,
        mean_free_energies=means, spectrum=spectrum,
        shown=np.stack(shown) if shown else None, shown_sweeps=shown_times,
        seconds=time.perf_counter() - started, doubts=tuple(doubts),
    )  # fmt: skip


def _all(network: DeepBeliefNetwork, values: Doubles) -> Doubles:
    """Of all replicas, the same on every rank.  Collective."""
    return np.asarray(network.grid.comm.bcast(np.concatenate(network.grid.replica_comm.allgather(values))))


def _wanted(n_samples: int, n_chains: int, weights: Doubles | None) -> IntArray:
    """Samples at which chains start; where there are too few, they come again, and so do those of large weight."""
    if weights is not None:
        return in_proportion(weights, n_chains)
    return np.arange(n_chains) % n_samples if n_samples < n_chains else spread_evenly(n_samples, n_chains)


def _floor(values: Array, n_chains: int, weights: Doubles | None) -> tuple[float, float]:
    """Distances (means, pairs) of ``n_chains`` samples of the data from the others, as if these were all of them."""
    n, effective = values.shape[1], values.shape[1]
    some = np.zeros(n, bool)
    some[spread_evenly(n, max(1, min(n_chains, n // 2)))] = True
    if weights is None:
        first, others = moments(values[:, some]), moments(values[:, ~some])
    else:
        first, others = (moments(values[:, these], weights[these]) for these in (some, ~some))
        effective = weights.sum() ** 2 / (weights @ weights)
    scale = math.sqrt((1 / n_chains + 1 / effective) / (1 / first.n + 1 / others.n))
    return scale * rms(first.means, others.means), scale * rms(first.pairs, others.pairs)


def _distances(a: list[Moments], b: list[Moments]) -> Distances:
    return Distances(
        np.array([rms(x.means, y.means) for x, y in zip(a, b, strict=True)]),
        np.array([rms(x.pairs, y.pairs) for x, y in zip(a, b, strict=True)]),
    )


def _from_then_on(times: IntArray, near: npt.NDArray[np.bool_]) -> int | None:
    """The first time from which on all are near."""
    far = np.flatnonzero(~near)
    first = 0 if not len(far) else int(far[-1]) + 1
    return int(times[first]) if first < len(times) else None


def _neighbours(
    network: DeepBeliefNetwork, data: Activations, samples: Activations, weights: Doubles | None
) -> AdversarialAccuracy | None:
    """Of as many samples of both as there are, at most NEIGHBOURS; None where that is less than two.  Collective.

    Weighted samples of the data come in proportion, but none of them twice: it would be its own neighbour.
    """
    grid = network.grid
    counts = [grid.replica_comm.allreduce(v.shape[1]) for v in (data, samples)]
    n = min(*counts, NEIGHBOURS)
    of_data = spread_evenly(counts[0], n) if weights is None else np.unique(in_proportion(weights, n))
    if len(of_data) < 2:
        return None
    truth, synthetic = (
        resample(network, data, of_data),
        resample(network, samples, spread_evenly(counts[1], len(of_data))),
    )
    return adversarial_accuracy(truth, synthetic, grid.shard_comm, grid.replica_comm)


def _recorded(network: DeepBeliefNetwork, walk: Walk, n_sweeps: int, first_draw: int) -> Doubles | None:
    """The autocorrelation of visible units of the top RBM over as many sweeps, of some chains.  Collective."""
    grid = network.grid
    units = spread_evenly(network.spec.layers[-2], UNITS)
    itemsize = network.dtype.itemsize if walk.rbm.gaussian else 1
    recorded = walk.some(
        spread_evenly(walk.n_all, max(FEWEST, RECORDED // (n_sweeps * len(units) * itemsize))), first_draw
    )
    series = []
    for _ in range(n_sweeps):
        recorded.move(1)
        series.append(values_of(recorded.v, walk.rbm.visible_ids, units)[1])
    rho = autocorrelation(np.stack(series), n_sweeps, (grid.shard_comm, grid.replica_comm))
    rho = grid.comm.bcast(rho)  # sums of real values may differ in a last bit
    return None if rho is None else np.asarray(rho)


def _accuracies(of: AdversarialAccuracy | None) -> dict[str, float] | None:
    return None if of is None else {"truth": of.truth, "synthetic": of.synthetic}
