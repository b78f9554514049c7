"""Gradients, chains, penalties and averages where replicas take steps or shares of their own: against plain NumPy."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.chains import tempered_chains
from modelpar.chains.gibbs import Chains
from modelpar.checkpoint import load, save
from modelpar.data import open_dataset
from modelpar.errors import SpecError
from modelpar.spec import NetworkSpec, SyncSpec, TrainingSpec
from modelpar.sync.work_queue import Tickets
from modelpar.training.trainer import pretrain
from tests import networks, reference, small

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} shards x {0[1]} replicas".format)
STRATEGIES = {
    "server": SyncSpec("server"),
    "meetings": SyncSpec("server", meet_every=3, fetch_every=2, push_every=2),
    "adagrad": SyncSpec("server", adagrad=True),
    "warm": SyncSpec("server", warm_start=3),
    "local": SyncSpec("local", period=3),
    "outer": SyncSpec("local", period=2, outer_momentum=0.5),
}
strategies = pytest.mark.parametrize("name", STRATEGIES)
# 11 chains and a last minibatch of 4: shares are uneven, and some have no samples at all
TRAINING = TrainingSpec(epochs=2, batch_size=12, learning_rate=0.25, momentum=0.5, weight_decay=0.05, chains=11,
                        chain_steps=2, statistics="float", centred=False)  # fmt: skip
ALL = {"centred": True, "clip": 0.1, "l1": 0.02, "average": 3}
OF_UNITS = {"l1": 0.01, "l1b": 0.02, "group_lasso": 0.05, "average": 3}


# -- the same in NumPy -------------------------------------------------------------------------------------------------


def own_step(twin, v0, n, o, share, n_shares, *, of_all=None):
    """A step of one replica: its own samples against its own chains, which ``twin.chains`` are.

    of_all   samples of the minibatch, of which the step is a share; None: it is a step of its own
    """
    update = twin.n_updates
    twin.n_updates += 1
    first = update * o.n_chains + o.n_chains * share // n_shares + (0 if of_all is None else share << 50)
    h = twin.chains
    for k in range(1, o.sweeps + 1):
        v1 = twin.draw_visible(twin.visible(h), reference.CHAIN, 2 * k - 1, first)
        p1 = twin.hidden(v1)
        h = twin.draw_hidden(p1, reference.CHAIN, 2 * k, first)
    twin.chains = h
    p0 = twin.hidden(v0)
    s0, s1 = p0, p1
    if o.statistics != "float":
        s0 = twin.statistic(p0, reference.HIDDEN, 0, n, int(o.statistics))
        s1 = twin.statistic(p1, reference.CHAIN, 2 * k, first, int(o.statistics))
    gradients = [0 * x for x in (twin.W, twin.b, twin.c)]
    if v0.shape[1]:
        kind = reference.standardised_gradients if o.standardised else reference.centred_gradients
        gradients = kind(v0, s0, v1, s1, mask=twin.mask) if o.centred or o.standardised else plain(twin, v0, s0, v1, s1)
        of_visible = reference.step_of_visible_biases(*gradients[:2], s0, s1, o)
        gradients[1] = gradients[1] + (o.visible_bias_rate - 1) * of_visible
    part, fraction = (1.0, 1) if of_all is None else (v0.shape[1] / of_all, n_shares)
    decay = o.learning_rate * o.weight_decay / fraction
    reference.step((twin.W, twin.b, twin.c), twin.velocity, gradients, part * o.learning_rate, o.momentum, decay, 1)
    norm = np.sqrt((twin.velocity[0] ** 2).sum())
    if o.clip and norm > o.clip / fraction:
        twin.W -= (1 - o.clip / fraction / norm) * twin.velocity[0]
        twin.velocity[0] *= o.clip / fraction / norm


def plain(twin, v0, s0, v1, s1):
    phases = [(v @ s.T / v.shape[1] * twin.mask, v.mean(axis=1), s.mean(axis=1)) for v, s in ((v0, s0), (v1, s1))]
    return [a - b for a, b in zip(*phases, strict=True)]


def shrink(twin, o):
    reference.shrink(twin.W, o.learning_rate, o, twin.mask)


def parameters(twin):
    return twin.W, twin.b, twin.c


def add_to_average(average, twin, number, horizon):
    for mean, x in zip(average, parameters(twin), strict=True):
        mean += (x - mean) / min(number, horizon)


def begun(network, data, o, n_replicas):
    """(the twin as training begins, minibatches, those of a replica's samples)"""
    [twin] = networks.twin(network)
    columns = small.columns(data)
    twin.b[:] = reference.visible_biases(columns, False)
    twin.start_chains(o.n_chains)
    order = small.order(5, columns.shape[1])

    def minibatches():
        for _, n, positions in reference.minibatches(order, 0, o):
            cuts = [min(len(positions), o.batch_size * r // n_replicas) for r in range(n_replicas + 1)]
            yield columns[:, positions], n, [slice(a, b) for a, b in pairwise(cuts)]

    return twin, minibatches()


def slices(n, n_replicas):
    return [slice(n * r // n_replicas, n * (r + 1) // n_replicas) for r in range(n_replicas)]


def as_server(twin, minibatches, o, n_replicas):
    """Replicas that meet after every step, of which each has taken one share."""
    average, chains = [0 * x for x in parameters(twin)], twin.chains
    for update, (v0, n, cuts) in enumerate(minibatches):
        start, velocity = deepcopy(parameters(twin)), [V / n_replicas for V in twin.velocity]
        twin.velocity = [0 * V for V in velocity]
        moved = []
        for r, (cut, mine) in enumerate(zip(cuts, slices(o.n_chains, n_replicas), strict=True)):
            other = deepcopy(twin)
            for x, y in zip(parameters(other), start, strict=True):
                x[...] = y
            other.velocity, other.chains, other.n_updates = deepcopy(velocity), chains[:, mine], update
            own_step(other, v0[:, cut], n + cut.start, o, r, n_replicas, of_all=v0.shape[1])
            add_to_average(average, other, update * n_replicas + r + 1, max(o.average, 1) * n_replicas)
            for x, y, old in zip(parameters(twin), parameters(other), start, strict=True):
                x += y - old
            twin.velocity = [V + own for V, own in zip(twin.velocity, other.velocity, strict=True)]
            moved.append(other.chains)
        chains = np.concatenate(moved, axis=1)
        shrink(twin, o)
    return average


def as_local(twin, minibatches, o, n_replicas, period):
    """Replicas that average every ``period`` steps, and where an epoch ends."""
    own = [deepcopy(twin) for _ in range(n_replicas)]
    averages = [[0 * x for x in parameters(twin)] for _ in own]
    for r, mine in enumerate(slices(o.n_chains, n_replicas)):
        own[r].chains = own[r].chains[:, mine]
    last = -(-small.N_TRAIN // o.batch_size)
    for update, (v0, n, cuts) in enumerate(minibatches, start=1):
        for r, cut in enumerate(cuts):
            own_step(own[r], v0[:, cut], n + cut.start, o, r, n_replicas)
        if update % period == 0 or update % last == 0:
            for group in ([parameters(one) for one in own], [one.velocity for one in own], averages):
                for copies in zip(*group, strict=True):
                    mean = np.mean(copies, axis=0)
                    for x in copies:
                        x[...] = mean
        for one, average in zip(own, averages, strict=True):
            shrink(one, o)
            add_to_average(average, one, update, max(o.average, 1))
    for x, y in zip(parameters(twin), parameters(own[0]), strict=True):
        x[...] = y
    return averages[0]


OPTIONS = [
    {}, {"centred": True}, {"standardised": True}, {"clip": 0.1}, {"l1": 0.02}, {"average": 3}, ALL, OF_UNITS,
    {**ALL, "statistics": "3"}, {**ALL, "standardised": True, "statistics": "3"},
    {"visible_bias_rate": 3.0}, {**ALL, "visible_bias_rate": 3.0},
]  # fmt: skip


@shapes
@pytest.mark.parametrize("how", [{"layout": "column"}, {"layout": "dual"}, {"connections": "random:4"}], ids=str)
@pytest.mark.parametrize("changes", OPTIONS, ids=lambda changes: " ".join(changes) or "plain")
@pytest.mark.parametrize("strategy", ["server", "local"])
def test_steps_of_replicas_are_the_formula(comm, agree, monkeypatch, shape, changes, how, strategy):
    network = networks.sharded(comm, NetworkSpec((13, 9), dtype="float64", seed=5, **how), shape, "random")
    data, training, n_replicas = small.dataset(13), replace(TRAINING, **changes), shape[1]
    twin, minibatches = begun(network, data, training, n_replicas)
    calls = []

    def take(tickets):  # each replica its own share, on what all have fetched, and then the end
        calls.append(0)
        network.grid.replica_comm.Barrier()
        tickets.last = tickets._told(network.grid.replica + n_replicas * (len(calls) % 2 == 0))
        return tickets.last

    monkeypatch.setattr(Tickets, "take", take)
    sync = SyncSpec("server", meet_every=1) if strategy == "server" else SyncSpec("local", period=3)
    for _ in pretrain(network, data, training, sync):
        pass
    more = () if strategy == "server" else (3,)
    average = (as_server if strategy == "server" else as_local)(twin, minibatches, training, n_replicas, *more)
    if training.average:
        for x, y in zip(parameters(twin), average, strict=True):
            x[...] = np.where((x == 0) & (x.ndim > 1), 0, y)  # weights that L1 has left at 0 stay there
    rounded = training.centred or training.standardised  # offsets are, to multiples of 2^-16 or 2^-14
    agree(small.close_network(network, [twin], 2e-4 if rounded else 1e-11))


# -- at any pace -------------------------------------------------------------------------------------------------------


def alike(network, values) -> bool:
    whole = network.grid.replica_comm.allgather(values)
    return all(np.array_equal(one, whole[0]) for one in whole)


@shapes
@strategies
@pytest.mark.parametrize("how", [{"layout": "row"}, {"layout": "dual"}, {"connections": "random:4"}], ids=str)
def test_replicas_meet_with_one_model_and_one_average(comm, agree, shape, name, how):
    """And with exact zeros, but not with nothing else."""
    network = networks.sharded(comm, NetworkSpec((13, 9), seed=5, weight_scale=0.1, **how), shape, "strided")
    # Adagrad takes steps of about its rate whatever the gradients are, and without momentum
    # of few connections the order in which replicas push decides how many come to 0: such that it is not none
    of_adagrad = 0.02, (0.08 if "connections" in how else 0.03)
    rate, l1 = of_adagrad if name == "adagrad" else (0.25, 0.1)
    training = replace(TRAINING, **ALL | {"l1": l1}, learning_rate=rate)
    rbm = network.rbms[0]
    for record in pretrain(network, small.dataset(13), training, STRATEGIES[name]):
        if record.kind == "epoch" and record.epoch == 1:
            agree(alike(network, rbm.parameters.flat), "parameters")
            agree(alike(network, network.run.average["rbm.0"].flat), "averages")
            agree(not np.array_equal(network.run.average["rbm.0"].flat, rbm.parameters.flat), "the average is one")
            zeros = network.grid.shard_comm.allreduce(int((rbm.W == 0).sum()))
            n_weights = network.grid.shard_comm.allreduce(rbm.W.size)
            agree(n_weights / 50 < zeros < n_weights, f"{zeros} zeros of {n_weights} weights")
            if rbm.parameters.rows is not None:
                before = rbm.parameters.rows.copy()
                rbm.refresh()
                agree(np.array_equal(rbm.parameters.rows, before), "both blocks are the same matrix")
    agree(alike(network, rbm.parameters.flat) and bool(np.isfinite(rbm.parameters.flat).all()))


@shapes
@strategies
@pytest.mark.parametrize("changes", [{}, {"chain_restart": True}, {"chain_method": "pt", "chain_temperatures": 3}],
                         ids=lambda changes: "-".join(changes) or "gibbs")  # fmt: skip
def test_no_draw_of_a_chain_comes_twice(comm, agree, monkeypatch, shape, name, changes):
    """Whoever takes which share of an update: chains are keyed by their ids, the update, and the share."""
    network = networks.sharded(comm, NetworkSpec((13, 9), seed=5), shape, "blocks")
    seen: list[int] = []
    for kind in (Chains, tempered_chains.TemperedChains):
        original = kind.advance

        def advance(self, rbm, first_draw, spec, original=original):
            seen.extend(first_draw + i for i in range(self.h.batch))
            return original(self, rbm, first_draw, spec)

        monkeypatch.setattr(kind, "advance", advance)
    for _ in pretrain(network, small.dataset(13), replace(TRAINING, **changes), STRATEGIES[name]):
        pass
    everything = list(chain.from_iterable(network.grid.replica_comm.allgather(seen)))
    agree(len(set(everything)) == len(everything), "a draw comes twice")
    agree(len(everything) > 0)


@shapes
@strategies
def test_ladders_of_replicas_have_the_same_levels(comm, agree, monkeypatch, shape, name):
    """Parameters are kept where replicas are alike, however they parted in between; even and odd pairs take turns."""
    monkeypatch.setattr(tempered_chains, "LOOK_EVERY", 2)
    monkeypatch.setattr(tempered_chains, "GROW_BELOW", 0.99)
    network = networks.sharded(comm, NetworkSpec((13, 9), seed=5), shape, "blocks")
    training = replace(TRAINING, epochs=5, chain_method="ptt", chain_temperatures=4, chain_steps=1, centred=True)
    turns, levels = [], 0
    original = tempered_chains.sweep

    def sweep(levels, walkers, number, purpose, **how):
        turns.append(how["turn"])
        return original(levels, walkers, number, purpose, **how)

    monkeypatch.setattr(tempered_chains, "sweep", sweep)
    for record in pretrain(network, small.dataset(13), training, STRATEGIES[name]):
        if record.kind == "epoch":
            kept = network.run.chains.kept
            levels = len(kept)
            agree(all(alike(network, one.flat) for one in kept) and alike(network, len(kept)), "levels")
            agree({"swap_acceptance", "round_trips"} <= record.measures.keys(), f"{record.measures}")
    agree(levels > 1, f"{levels} levels")
    agree(all(b - a == 1 for a, b in pairwise(turns)), f"{turns}")


@strategies
def test_options_go_on_from_a_checkpoint_at_any_grid(comm, agree, tmp_path, name):
    """Stopped where a replica may be in the middle of a period, and taken up by other strategies and replicas."""
    path = comm.bcast(tmp_path) / "step.safetensors"
    data, training = small.dataset(13), replace(TRAINING, **ALL, epochs=3)
    network = networks.sharded(comm, NetworkSpec((13, 9), seed=5), SHAPES[0], "blocks")
    for record in pretrain(network, data, training, STRATEGIES[name]):
        if record.kind == "step" and record.step >= 4:
            save(network, path)
            break
    kept = network.run.average["rbm.0"].flat.copy()
    agree(alike(network, kept))
    for other, shape in zip(["local", "server", "allreduce"], [SHAPES[-1], SHAPES[0], SHAPES[-1]], strict=True):
        again = load(path, networks.grid_of(comm.size, shape))
        agree(again.run.chains.n_all == 11)
        if shape == SHAPES[0]:
            agree(np.allclose(again.run.average["rbm.0"].flat, kept, rtol=0, atol=0), "the average")
        sync = STRATEGIES.get(other, SyncSpec())
        records = list(pretrain(again, data, training, sync))
        agree(records[-1].epoch == 3 and records[-1].kind == "epoch", other)
        agree(alike(again, again.rbms[0].parameters.flat) and not again.run.average)


@pytest.mark.slow
def test_a_server_learns_what_an_allreduce_learns(comm, agree):
    data = open_dataset("digits", comm)
    errors = {}
    for sync in (SyncSpec(), SyncSpec("server"), SyncSpec("local")):
        network = networks.sharded(comm, NetworkSpec((64, 32), seed=3), SHAPES[0], "blocks")
        training = TrainingSpec(epochs=5, chains=40, average=20, learning_rate=0.1)
        records = list(pretrain(network, data, training, sync))
        errors[sync.sync] = comm.bcast(records[-1].measures["probe_error"])
    agree(max(errors.values()) < 1.03 * min(errors.values()), f"{errors}")


@pytest.mark.parametrize("changes", [{"chains": 1}, {"chains": 0, "persistent": True, "batch_size": 1}], ids=str)
@pytest.mark.parametrize("sync", ["local", "server"])
def test_a_replica_by_itself_needs_a_chain(comm, changes, sync):
    if comm.size == 1:
        pytest.skip("one replica has it")
    network = networks.sharded(comm, NetworkSpec((13, 9)), SHAPES[0], "blocks")
    with pytest.raises(SpecError, match=f"use at least {comm.size}"):
        next(pretrain(network, small.dataset(13), replace(TRAINING, **changes), SyncSpec(sync)))
