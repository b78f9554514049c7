"""A recording of a whole brain, from a known RBM: is it found again, and how long does an update take?

    python examples/recording.py simulate --out recording.h5
    mpirun -n 2 python examples/recording.py train --data recording.h5 --out found --json
    mpirun -n 2 python examples/recording.py train --data recording.h5 --start random --sweeps 15 --updates 40 --json
    mpirun -n 2 python examples/recording.py compare --data recording.h5 --out found --json

`simulate` places 44 055 neurons in space and draws 5500 time points from an RBM with 200 dReLU hidden units, each
connected to the 100 neurons of a ball (after van der Plas et al. 2023), by Gibbs sampling.  `train` trains another one
on them, by PCD with minibatches and as many chains of 256, and an L1 penalty (the third line: only its speed): a rank
has some of the neurons, and only hidden values travel.  `compare` reads the model again.  Extras: hdf5, and plots.

Printed: seconds of an update and hours of 200 000; Pearson's r of true and found weights, after hidden units are
matched one to one, whatever their signs and scales (`weight_correlation` of all weights, `matched_units` of how many
units it is above 0.9); and r and slope of the connected correlations of pairs of neurons, of samples over data.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from modelpar import (
    DataSpec,
    DeepBeliefNetwork,
    Grid,
    NetworkLayout,
    NetworkSpec,
    TrainingSpec,
    load,
    open_dataset,
    pretrain,
    save,
)
from modelpar.analysis import pictures
from modelpar.analysis.frequencies import chosen_units, compare_statistics, pair_statistics
from modelpar.analysis.of_network import sampled_states, states_of_split, whole_parameters
from modelpar.draws import Purpose
from modelpar.errors import ModelparError
from modelpar.formats.hdf5 import h5py_module
from modelpar.kernels.states import Packed, count_ones
from modelpar.model.real_hidden import nothing_on

BRAIN = np.array([250.0, 420.0, 140.0])  # half axes of an ellipsoid in micrometres: a larval zebrafish's, about
STRENGTH = 6.0  # variance of a hidden unit's input, over what it were if neurons were independent
GAIN = 1.0  # of a hidden unit's input by what it does to its neurons, at most: far above 1 it has two states for good
RATES = 0.04, 0.25  # of firing
CHAINS, BALANCING = 128, 400  # that biases are found by, and their sweeps
AT_ONCE = 500  # chains that are sampled
SWEEPS, APART = 100, 20  # before the first state of a chain is taken, and between two of them
PLACES, NEAREST = 6, 30  # where patterns are looked for, for each hidden unit, and neurons that each begins with
REGION, ROUNDS = 200, 5  # neurons that a pattern may have, and how often it moves to where it is strongest
CHANCE, FIRST_GAIN = 3.5, 0.5  # standard deviations of a correlation that are no evidence; gain of the first weights
ALIKE = 0.3, 0.5, 0.99  # cosine of two patterns from which on they are one; more where some lack
PAIRS_OF = 1500  # neurons whose pairs are compared
WARM_UP = 5  # updates that are not timed


@dataclass(frozen=True)
class Truth:
    """The RBM that a recording is from: W (neurons, units), b (neurons,), c (units,), potential (2, units); and how
    often the neurons fire (neurons,), and where they are (neurons, 3)."""

    W: Any
    b: Any
    c: Any
    potential: Any
    rates: Any
    positions: Any

    @classmethod
    def drawn(cls, n_neurons: int, n_units: int, ball: int, seed: int) -> Truth:
        rng = np.random.default_rng(seed)
        inside = rng.normal(size=(n_neurons, 3))
        inside *= rng.random((n_neurons, 1)) ** (1 / 3) / np.linalg.norm(inside, axis=1, keepdims=True)
        positions = inside * BRAIN
        rates = np.exp(rng.uniform(*np.log(RATES), n_neurons))
        biases, asymmetry = np.log(rates / (1 - rates)), rng.normal(0, 0.15, n_units)
        W = np.zeros((n_neurons, n_units))
        for j, centre in enumerate(far_apart(positions, n_units)):
            distances = np.linalg.norm(positions - positions[centre], axis=1)
            near = np.argsort(distances)[:ball]
            weights = rng.uniform(0.5, 1.5, ball) * (1 - 0.5 * distances[near] / distances[near].max())
            weights *= np.where(rng.random(ball) < 0.2, -1, 1)  # some are silent while the others fire
            W[near, j] = weights * np.sqrt(GAIN / strongest(weights, biases[near], asymmetry[j]))
        potential = np.stack([rng.normal(0, 0.3, n_units), asymmetry])
        return cls(W, biases, -rates @ W, potential, rates, positions)

    @classmethod
    def read(cls, path: str | Path) -> Truth:
        with h5py_module().File(path) as file:
            return cls(*(file[name][:] for name in cls.__dataclass_fields__))

    def network(self, grid: Grid, seed: int) -> DeepBeliefNetwork:
        """It itself, to be sampled from."""
        network = DeepBeliefNetwork(NetworkSpec(self.W.shape, hidden="drelu", layout="row", seed=seed), grid)
        rbm = network.rbms[0]
        rbm.W[:] = self.W[rbm.visible_ids]
        rbm.b[:], rbm.c[:] = self.b[rbm.visible_ids], self.c[rbm.hidden_ids]
        rbm.parameters.potential[:] = self.potential[:, rbm.hidden_ids]
        network.refresh()
        return network


def far_apart(positions: Any, n: int, first: int = 0) -> list[int]:
    """Neurons of which each is the one that is furthest from all before it."""
    chosen, distances = [first], np.full(len(positions), np.inf)
    while len(chosen) < n:
        distances = np.minimum(distances, np.linalg.norm(positions - positions[chosen[-1]], axis=1))
        chosen.append(int(distances.argmax()))
    return chosen


def strongest(weights: Any, biases: Any, asymmetry: float) -> float:
    """The largest gain of a hidden unit at any value: its variance given its neurons, 1 + tanh of the asymmetry above 0
    and 1 - it below, times that of their input to it."""
    h = np.linspace(-1, 1, 400) * 10 / np.abs(weights).mean()
    rates = 1 / (1 + np.exp(-biases[:, None] - weights[:, None] * h))
    return float(((1 + np.sign(h) * np.tanh(asymmetry)) * (weights**2 @ (rates * (1 - rates)))).max())


def simulate(asked: argparse.Namespace) -> None:
    truth = Truth.drawn(asked.neurons, asked.hidden_units, asked.ball, asked.seed)
    with Grid(MPI.COMM_WORLD) as grid:
        network = truth.network(grid, asked.seed)
        truth = balance(network, truth)
        spikes = sampled_states(network, asked.times, SWEEPS, chains=AT_ONCE, apart=APART)
    if MPI.COMM_WORLD.rank == 0:
        with h5py_module().File(asked.out, "w") as file:
            chunks = min(256, asked.times), min(1024, asked.neurons)
            file.create_dataset("spikes", data=spikes.astype(bool), chunks=chunks, compression=1)
            for name, values in vars(truth).items():
                file.create_dataset(name, data=values, compression=1)
        rates = spikes.mean(axis=0)
        print(f"{asked.out}: {spikes.shape[0]} times, {spikes.shape[1]} neurons, which fire in {rates.mean():.1%} of "
              f"them, {rates.min():.1%} to {rates.max():.1%}")  # fmt: skip


def balance(network: DeepBeliefNetwork, truth: Truth) -> Truth:
    """Let neurons fire at their rates and the inputs of hidden units vary as they should: chains move, and biases and
    scales of weights follow, by less and less.  Returns what the network is then.  Of one rank."""
    rbm, rates = network.rbms[0], truth.rates
    h = nothing_on(rbm, CHAINS)
    for k in range(BALANCING):
        pace = 1 / (4 + k / 8)
        v = rbm.sample_visible(h, Purpose.FANTASY, 2 * k, 1 << 40)
        assert isinstance(v, Packed)
        apart = (rbm.W**2 * (rates * (1 - rates))[:, None]).sum(axis=0)  # the variance if neurons were independent
        strength = rbm.hidden_input(v).var(axis=1) / apart
        found = count_ones(v.rows).sum(axis=1) / CHAINS
        rbm.b[:] += pace * (rates - found) / (rates * (1 - rates))
        rbm.W[:] *= 1 + 0.1 * pace * np.clip(STRENGTH / strength - 1, -1, 1)
        rbm.c[:] = -rates @ rbm.W
        network.refresh()
        h = rbm.sample_hidden(v, Purpose.FANTASY, 2 * k + 1, 1 << 40)
    return replace(truth, W=rbm.W.copy(), b=rbm.b.copy(), c=rbm.c.copy())


def train(asked: argparse.Namespace) -> None:
    comm = MPI.COMM_WORLD
    recording = open_dataset(
        DataSpec(f"{asked.data}:spikes", test_fraction=0, sample_weights="none"), comm=comm, seed=asked.seed
    )  # fmt: skip
    spec = NetworkSpec(
        (recording.n_visible, asked.hidden_units), hidden="drelu", layout="row", weight_scale=asked.weight_scale,
        seed=asked.seed,
    )  # fmt: skip
    training = TrainingSpec(
        updates=asked.updates, batch_size=asked.batch_size, chains=asked.batch_size, gibbs_steps=asked.sweeps,
        chain_start="data", learning_rate=asked.learning_rate, schedule=asked.schedule, l1=asked.l1, l1b=asked.l1b,
        hidden_scale="unit", weight_decay=0,
    )  # fmt: skip
    with Grid(comm, model_shards=comm.size, replicas=1) as grid:
        network, times = DeepBeliefNetwork(spec, grid), []
        if asked.start == "neighbours":
            start_near(network, recording, asked.data)
        truth = Truth.read(asked.data) if asked.out else None
        for record in pretrain(network, recording, training):
            if comm.bcast(bool(times) and times[-1] - times[0] > 60 * asked.minutes):
                break
            if record.kind != "step":
                continue
            times.append(time.perf_counter())
            if asked.out and not asked.json and len(times) % asked.every == 0:
                W, n = whole_parameters(network).W, len(times)
                if comm.rank == 0:
                    of_units = np.abs(matched(truth.W, W)[2])
                    low, middle, high = np.percentile(of_units, [10, 50, 90])
                    print(f"update {n}: {(times[-1] - times[0]) / max(n - 1, 1):.3f} s each, {(W != 0).mean():.1%} of "
                          f"the weights are left, r of units {low:.2f}, {middle:.2f}, {high:.2f} (quantiles)",
                          flush=True)  # fmt: skip
        timed = times[WARM_UP:] if len(times) > 2 * WARM_UP else times
        a_update = (timed[-1] - timed[0]) / max(len(timed) - 1, 1)
        result = {"updates": len(times), "seconds_per_update": a_update, "hours_of_200000": a_update * 200000 / 3600}
        if asked.out is not None:
            if comm.rank == 0:
                asked.out.mkdir(parents=True, exist_ok=True)
                (asked.out / "times.json").write_text(json.dumps(result))
            comm.barrier()
            save(network, asked.out / "model.safetensors")
            result |= compared(asked, network, recording)
    say(result, asked.json)


def start_near(network: DeepBeliefNetwork, recording: Any, path: str) -> None:
    """First weights from neighbours that fire together: small random ones would take thousands of updates to part.

    A pattern begins at one of ``PLACES`` places for each hidden unit, with the first principal component of the neurons
    nearest to it.  Its weights are correlations of neurons around its centre with its course in time, as far as chance
    does not explain them; they make another course and another centre, and so on.  The strongest are kept that differ.
    Collective.
    """
    rbm, comm, n_units = network.rbms[0], network.grid.comm, network.spec.layers[1]
    spikes = states_of_split(network, recording, recording.train)
    W = None
    if comm.rank == 0:
        with h5py_module().File(path) as file:
            positions = file["positions"][:]
        W = patterns(spikes, positions, n_units)
    W = comm.bcast(W)
    rates = np.clip(spikes.mean(axis=0), 1e-3, 1 - 1e-3)
    W *= np.sqrt(FIRST_GAIN / ((W**2).T @ (rates * (1 - rates))))
    rbm.W[:] = W[rbm.visible_ids]
    rbm.c[:] = (-rates @ W)[rbm.hidden_ids]
    network.refresh()


def patterns(spikes: Any, positions: Any, n: int) -> Any:
    """(neurons, n) weights that are 0 but for the neurons of a region each."""
    n_times, n_neurons = spikes.shape
    rates, spikes = spikes.mean(axis=0), np.asfortranarray(spikes)  # columns are taken
    deviation, tree = np.sqrt(rates * (1 - rates)) + 1e-6, cKDTree(positions)

    def around(centre: Any, size: int) -> tuple[Any, Any]:
        near = tree.query(centre, min(size, n_neurons))[1]
        return near, ((spikes[:, near] - rates[near]) / deviation[near]).astype(np.float32)

    found = []
    for place in far_apart(positions, min(PLACES * n, n_neurons), first=n_neurons // 2):
        centre = positions[place]
        _, z = around(centre, NEAREST)
        course = z @ np.linalg.eigh(z.T @ z / n_times)[1][:, -1]
        for _ in range(ROUNDS):
            near, z = around(centre, REGION)
            r = z.T @ (course / course.std()) / n_times
            r = np.sign(r) * np.maximum(np.abs(r) - CHANCE / np.sqrt(n_times), 0)
            if not r.any():
                break
            course, centre = z @ r, r**2 @ positions[near] / (r @ r)
        else:
            weights = r / deviation[near]
            found.append((float(r @ r), near, weights / np.linalg.norm(weights)))
    found.sort(key=lambda one: -one[0])
    W, taken = np.zeros((n_neurons, n)), 0
    for most in ALIKE:
        for _, near, weights in found:
            if taken < n and (np.abs(weights @ W[near, :taken]) < most).all():
                W[near, taken] = weights
                taken += 1
    return W


def compare(asked: argparse.Namespace) -> None:
    comm = MPI.COMM_WORLD
    with Grid(comm, model_shards=comm.size, replicas=1) as grid:
        recorded = (len(Truth.read(asked.data).W), asked.hidden_units)
        network = load(asked.out / "model.safetensors", grid, NetworkLayout.blocks(recorded, comm.size, "row"))
        recording = open_dataset(
            DataSpec(f"{asked.data}:spikes", test_fraction=0, sample_weights="none"), comm=comm, seed=asked.seed
        )  # fmt: skip
        result = compared(asked, network, recording)
    say(result, asked.json)


def compared(asked: argparse.Namespace, network: DeepBeliefNetwork, recording: Any) -> dict[str, Any]:
    """What is found, and its pictures, on rank 0.  Collective."""
    W = whole_parameters(network).W
    spikes = states_of_split(network, recording, recording.train)
    sampled = sampled_states(network, asked.sampled, APART, apart=APART, start="chains")
    if MPI.COMM_WORLD.rank > 0:
        return {}
    truth = Truth.read(asked.data)
    mine, found, r = matched(truth.W, W)
    units = chosen_units(len(W), PAIRS_OF)
    of_data, of_samples = (pair_statistics(states[:, units], 1) for states in (spikes, sampled))
    agreement = compare_statistics(of_data, of_samples)
    x, y = same_scale(truth.W[:, mine]), same_scale(W[:, found] * np.sign(r))
    for name, draw in {
        "weights": lambda: matched_weights(x, y, np.abs(r)),
        "units": lambda: units_in_space(truth, mine, W[:, found] * np.sign(r), np.abs(r)),
        "pairs": lambda: pictures.agreement(of_data, of_samples, agreement),
    }.items():
        try:
            draw().savefig(asked.out / f"{name}.png", dpi=110)
        except ModelparError as error:  # matplotlib is not installed
            print(f"no {name}.png: {error}", flush=True)
    return {
        "weight_correlation": float(np.corrcoef(x.ravel(), y.ravel())[0, 1]),
        "weight_correlation_median": float(np.median(np.abs(r))), "matched_units": int((np.abs(r) > 0.9).sum()),
        "weights_left": float((W != 0).mean()), "weights_true": float((truth.W != 0).mean()),
        "rate_error": agreement.site_frequency_error, "pair_correlation": agreement.pairs.r,
        "pair_slope": agreement.pairs.slope,
    }  # fmt: skip


def matched(true: Any, found: Any) -> tuple[Any, Any, Any]:
    """(units of ``true``, of ``found``, Pearson's r of their weights), one to one so that the sum of |r| is largest."""
    x, y = (same_scale(W - W.mean(axis=0)) for W in (true, np.asarray(found, np.float64)))
    r = x.T @ y
    mine, other = linear_sum_assignment(-np.abs(r))
    return mine, other, r[mine, other]


def same_scale(W: Any) -> Any:
    """Each unit's weights at length 1: what is a weight's scale and what a hidden value's is not in the data."""
    lengths = np.linalg.norm(W, axis=0)
    return W / np.where(lengths > 0, lengths, 1)


def matched_weights(x: Any, y: Any, r: Any) -> Any:
    """Found weights over true ones, and r of all units."""
    made = pictures.figure(7.4, 3.6)
    left, right = made.subplots(1, 2)
    shown = (x != 0) | (y != 0)
    end = float(np.abs(x).max()) * 1.1
    left.hexbin(
        x[shown], y[shown], gridsize=90, bins="log", cmap="viridis_r", mincnt=1, linewidths=0.1,
        extent=(-end, end, -end, end),
    )  # fmt: skip
    left.plot([-end, end], [-end, end], color=pictures.GREY, linewidth=0.8)
    left.set(xlabel="true weight", ylabel="found weight", title="weights, units at length 1")
    right.plot(np.sort(r)[::-1], color=pictures.BLUE)
    right.set(xlabel="hidden units, the best first", ylabel="r with its true unit", ylim=(0, 1.02))
    return made


def units_in_space(truth: Truth, mine: Any, found: Any, r: Any) -> Any:
    """True weights above, found ones below, of six units, over the neurons seen from above."""
    made = pictures.figure(9, 6)
    ranked = np.argsort(-r)
    chosen = ranked[np.linspace(0, len(ranked) - 1, min(6, len(ranked))).astype(int)]
    rows = made.subplots(2, len(chosen), sharex=True, sharey=True, squeeze=False)
    x, y, _ = truth.positions.T
    for column, k in enumerate(chosen):
        for axes, W, what in ((rows[0], truth.W[:, mine[k]], "true"), (rows[1], found[:, k], "found")):
            end = float(np.abs(W).max()) or 1.0
            there = np.abs(W) > 0.1 * end
            axes[column].scatter(x[::8], y[::8], s=0.2, color="#dddddd", linewidths=0, rasterized=True)
            axes[column].scatter(
                x[there], y[there], s=1.5, c=W[there], cmap="RdBu_r", vmin=-end, vmax=end, linewidths=0, rasterized=True
            )  # fmt: skip
            axes[column].set_title(what if what == "true" else f"found, r = {r[k]:.2f}")
            axes[column].set(aspect="equal", xticks=[], yticks=[])
    return made


def say(result: dict[str, Any], as_json: bool) -> None:
    if MPI.COMM_WORLD.rank == 0:
        lines = [json.dumps(result)] if as_json else [f"{k.replace('_', ' ')}: {v:.4g}" for k, v in result.items()]
        print("\n".join(lines), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(required=True)
    made = parts.add_parser("simulate", help="write a recording and its truth")
    made.add_argument("--out", required=True, help="HDF5 file to write")
    made.add_argument("--neurons", type=int, default=44055)
    made.add_argument("--times", type=int, default=5500)
    made.add_argument("--hidden-units", type=int, default=200)
    made.add_argument("--ball", type=int, default=100, help="neurons that a hidden unit is connected to")
    made.set_defaults(run=simulate)
    learnt = parts.add_parser("train", help="train an RBM on it, and compare")
    learnt.add_argument("--updates", type=int, default=400)
    learnt.add_argument("--learning-rate", type=float, default=0.1)
    learnt.add_argument("--schedule", default="exponential")
    learnt.add_argument("--batch-size", type=int, default=256, help="time points of a minibatch, and chains")
    learnt.add_argument("--sweeps", type=int, default=5, help="of each chain, for each update")
    learnt.add_argument("--l1", type=float, default=0.01)
    learnt.add_argument("--l1b", type=float, default=0.0)
    learnt.add_argument("--weight-scale", type=float, default=0.01, help="standard deviation of the first weights")
    learnt.add_argument("--start", default="neighbours", help="first weights: neighbours that fire together, or random")
    learnt.add_argument("--every", type=int, default=100, help="updates between two lines that say how far it is")
    learnt.add_argument("--minutes", type=float, default=1e9, help="after which training stops")
    learnt.set_defaults(run=train)
    again = parts.add_parser("compare", help="compare again, from the model's file")
    again.set_defaults(run=compare)
    for part in (learnt, again):
        part.add_argument("--hidden-units", type=int, default=200)
        part.add_argument("--data", required=True, help="what simulate has written")
        part.add_argument("--out", type=Path, required=part is again, help="folder for the model and pictures")
        part.add_argument("--sampled", type=int, default=2560, help="time points that the chains of training go on for")
        part.add_argument("--json", action="store_true", help="print one JSON object")
    for part in (made, learnt, again):
        part.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    asked = arguments()
    asked.run(asked)
