"""Scores of an RBM while it trains: of which parameters, of which samples, when, and with how many temperatures."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, Grid, NetworkSpec, TrainingSpec, pretrain
from modelpar.training import scoring
from modelpar.training.scoring import Scorer, score_split
from tests import networks, reference, small
from tests.likelihood.cases import exact_log_partition, log_sum_over_hidden

pytestmark = pytest.mark.ranks

shapes = pytest.mark.parametrize("shape", networks.grids(MPI.COMM_WORLD), ids=str)
SCORED = TrainingSpec(epochs=3, batch_size=10, learning_rate=0.3, score_every=2, score_temperatures=50)


def whole(network, parameters) -> reference.RBM:
    """W, b and c of the first RBM on every rank, from ``parameters`` like its own."""
    rbm = network.rbms[0]
    W, b, c = np.zeros(network.spec.layers[:2]), np.zeros(network.spec.layers[0]), np.zeros(network.spec.layers[1])
    W[np.ix_(rbm.weights.visible_rows, rbm.weights.hidden_columns)] = parameters.W
    b[rbm.visible_ids], c[rbm.hidden_ids] = parameters.b, parameters.c
    return reference.RBM(*(rbm.shard_comm.allreduce(x) for x in (W, b, c)))


@shapes
@pytest.mark.parametrize("average", [0, 3])
@pytest.mark.parametrize("layout", ["row", "dual"])
def test_scores_are_of_the_model_that_a_run_would_leave(comm, agree, shape, average, layout):
    """The average where there is one, which leaves the last parameters, bit by bit, for the training to go on with."""
    network = networks.sharded(comm, NetworkSpec((13, 7, 5), layout=layout, dtype="float64"), shape, "random")
    data, scored, last = small.dataset(13, held_out=True), [], None
    rbm, v = network.rbms[0], small.columns(data, data.validation)
    for record in pretrain(network, data, replace(SCORED, average=average)):
        blocks = [x.copy() for x in (rbm.parameters.flat, *rbm.parameters.blocks)]
        if record.kind == "step":
            last = blocks
            continue
        if record.layer == 0 and record.step < record.steps:
            agree(all(map(np.array_equal, blocks, last)))
        if "log_likelihood" in record.measures:
            scored.append((record.layer, record.epoch))
            if record.layer == 0:
                it = whole(network, network.run.average.get("rbm.0", rbm.parameters))
                expected = (log_sum_over_hidden(it, v) - exact_log_partition(it)).mean()
                agree(math.isclose(record.measures["log_likelihood"], expected, rel_tol=1e-9))
    agree(scored == [(0, 2), (0, 3), (1, 2), (1, 3)])
    of_stack = score_split(network, data, data.validation, n_betas=50)
    names = "log_likelihood", "log_likelihood_low", "log_likelihood_high"
    values = of_stack.log_likelihood, of_stack.low, of_stack.high
    agree(np.allclose([record.measures[name] for name in names], values, rtol=1e-9))


@shapes
@pytest.mark.parametrize("average", [3, 0])
def test_an_average_is_not_lost_where_fewer_epochs_are_asked_for(comm, agree, shape, average):
    network = networks.sharded(comm, NetworkSpec((13, 7), layout="dual"), shape, "strided")
    data, training = small.dataset(13), TrainingSpec(epochs=4, batch_size=10, average=3)
    for record in pretrain(network, data, training):
        if (record.kind, record.epoch) == ("epoch", 2):
            break
    kept, last = network.run.average["rbm.0"].flat.copy(), network.rbms[0].parameters.flat.copy()
    agree(not comm.allreduce(np.array_equal(kept, last), MPI.LAND))
    agree(not list(pretrain(network, data, replace(training, epochs=1, average=average))))
    agree(np.array_equal(network.rbms[0].parameters.flat, kept if average else last))


@shapes
@pytest.mark.parametrize("sizes", [(13, 7, 5), (26, 24, 23)], ids=["enumerated", "annealed"])
@pytest.mark.parametrize("layout", ["column", "row"])
def test_exact_runs_record_the_same_scores_at_every_grid(comm, agree, shape, layout, sizes):
    training = replace(SCORED, epochs=1, pass_up="states", average=3)
    spec = NetworkSpec(sizes, layout=layout, exact=True, weight_scale=0.3)

    def scores(grid):
        network = DeepBeliefNetwork(spec, grid, networks.layout_of(spec, grid.n_shards, "random"))
        records = list(pretrain(network, small.dataset(sizes[0], held_out=True), training))
        return [x for r in records for name, x in r.measures.items() if name.startswith("log_likelihood")]

    with Grid(MPI.COMM_SELF) as alone:
        expected = scores(alone)
    result = scores(networks.grid_of(comm.size, shape))
    agree(len(expected) == 6 and result == expected, f"{result} {expected}")


@shapes
def test_temperatures_take_a_share_of_the_time(comm, agree, shape, monkeypatch):
    def scorer(exact=False, **changes):
        network = networks.sharded(comm, NetworkSpec((13, 7), exact=exact), shape, "blocks")
        return Scorer(network, small.dataset(13), TrainingSpec(score_every=1, **changes), 1, 20.0)

    def temperatures(it, seconds):
        asked = []
        result = SimpleNamespace(log_likelihood=-1.0, low=-math.inf, high=0.0, method="ais+reverse-ais")
        monkeypatch.setattr(scoring, "share_of_split", lambda *_: (None, None))
        monkeypatch.setattr(scoring, "score", lambda *_, n_betas, **__: asked.append(n_betas) or result)
        measures = it.measures(seconds)
        agree(0 <= measures.pop("score_seconds") < 5)
        agree(measures == {"log_likelihood": -1.0, "log_likelihood_high": 0.0})
        it._pace = 0.002  # in place of what that took
        return asked[0]

    it = scorer()
    agree([temperatures(it, at) for at in (25.0, 75.0, 76.0, 9999.0)] == [300, 2500, 300, 10000])
    it = scorer(score_share=0.5)
    agree([temperatures(it, at) for at in (25.0, 35.0)] == [300, 2500])
    agree([temperatures(scorer(exact=True), 25.0), temperatures(scorer(score_temperatures=7), 25.0)] == [300, 7])
