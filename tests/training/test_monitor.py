"""When training has broken down: measured on RBMs that were broken on purpose, and said in one line with the reason."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.checkpoint import health
from modelpar.comm.grid import Grid
from modelpar.errors import TrainingError
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import NetworkSpec
from modelpar.training import monitor
from modelpar.training.feeds import visible_feed
from modelpar.training.state import Position, TrainingRun
from tests import networks, reference, small

FINE = {
    "reconstruction_error": 0.1, "probe_error": 0.1, "largest_weight": 3.0, "dead_units": 0.3, "saturated_units": 0.3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dead_units": 0.96, "saturated_units": 0.0}, "96% of its hidden units are always off"),
        ({"dead_units": 0.0, "saturated_units": 1.0}, "100% always on"),
        ({"dead_units": 0.5, "saturated_units": 0.46}, "collapsed"),
        ({"reconstruction_error": float("nan")}, "reconstruction error is nan"),
        ({"probe_error": float("inf")}, "probe error is inf"),
        ({"largest_weight": float("inf")}, "largest weight is inf"),
        ({"largest_weight": 1e4}, "explode"),
    ],
)
def test_a_breakdown_stops_with_its_reason(changes, expected):
    with pytest.raises(TrainingError, match="RBM 2") as stopped:
        monitor.check_rbm(2, FINE | changes)
    assert expected in str(stopped.value)
    assert "use a smaller --learning-rate" in str(stopped.value)
    assert "\n" not in str(stopped.value)


def test_what_is_healthy_goes_on():
    monitor.check_rbm(0, FINE)
    monitor.check_rbm(0, FINE | {"dead_units": 0.6, "largest_weight": 900.0})


@pytest.fixture
def rbm():
    """One RBM of 13-7 units on one rank, with dyadic parameters, and its data."""
    with Grid(MPI.COMM_SELF) as grid:
        network = DeepBeliefNetwork(NetworkSpec((13, 7), dtype="float64"), grid)
        [twin] = networks.twin(network)
        data = small.dataset(13, kind="levels")
        yield network.rbms[0], twin, data, visible_feed(network, data, data.train, "none"), grid


@pytest.mark.parametrize(
    ("likelihoods", "warned"),
    [([-5, -6, -7, -8], True), ([-9, -5, -6, -7, -8], False), ([-5, -6, -7, -6.5, -8, -9], False),
     ([np.nan] * 6, False), ([-5, -6, -7, -8, -9, -10, -11, -12], True), ([-9, -5, -6, -7, -10], True)],
)  # fmt: skip
def test_a_likelihood_that_falls_is_warned_of_once(rbm, likelihoods, warned):
    falls = monitor.Falls(rbm[0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for likelihood in likelihoods:
            falls.see({"pseudo_likelihood": likelihood}, MPI.COMM_SELF)
    assert len(caught) == warned
    assert not warned or "--learning-rate" in str(caught[0].message)


def test_measures_are_those_of_the_reference(rbm):
    it, twin, data, feed, grid = rbm
    v = small.columns(data)
    p = twin.hidden(v)
    measures = monitor.measure(it, feed, 13, grid)
    assert measures["mean_activation"] == pytest.approx(p.mean())
    assert measures["probe_error"] == pytest.approx(((v - twin.visible(p)) ** 2).mean())
    assert measures["largest_weight"] == np.abs(twin.W).max()
    assert measures["dead_units"] == measures["saturated_units"] == 0
    monitor.check_rbm(0, measures)


@pytest.mark.parametrize(("bias", "name"), [(-80.0, "dead_units"), (80.0, "saturated_units")])
def test_units_that_never_change_are_counted(rbm, bias, name):
    it, _, _, feed, grid = rbm
    it.c[:3] = bias
    measures = monitor.measure(it, feed, 13, grid)
    assert measures[name] == pytest.approx(3 / 7)
    it.c[:] = bias
    with pytest.raises(TrainingError, match="collapsed"):
        monitor.check_rbm(0, monitor.measure(it, feed, 13, grid))


def test_a_unit_that_is_off_for_all_but_one_sample_is_not_dead(rbm):
    it, _, data, feed, grid = rbm
    it.W[:, 0], it.c[0] = 0.0, -80.0
    it.W[:, 0] = 160.0 * (small.columns(data)[:, 5] - 0.5)
    p = reference.sigmoid(it.W.T @ small.columns(data) + it.c[:, None])[0]
    assert p.max() > monitor.DEAD > p.min(), "the case shows nothing"
    assert monitor.measure(it, feed, 13, grid)["dead_units"] == 0


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(("value", "expected"), [(np.nan, "a smaller"), (-2000.0, "explode"), (np.inf, "a smaller")])
def test_weights_that_are_no_good(rbm, value, expected):
    it, _, _, feed, grid = rbm
    it.W[4, 2] = value
    with pytest.raises(TrainingError, match=expected):
        monitor.check_rbm(0, monitor.measure(it, feed, 13, grid))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bias_that_is_no_number(value):
    good = np.zeros(3)
    monitor.check_finite("RBM 1", [good, good], MPI.COMM_SELF)
    with pytest.raises(TrainingError, match="RBM 1: a bias is no longer a finite number"):
        monitor.check_finite("RBM 1", [good, np.array([0.0, value])], MPI.COMM_SELF)


# -- between the ends of epochs


def test_looks_follow_one_another_alike_however_a_run_is_cut():
    due = {n for n in range(1, 1000) if monitor.look_is_due(n - 1, n)}
    assert {1, 2, 4, 8, 16, 32, 64, 100, 200, 300} <= due
    assert max(np.diff(sorted(due))) == monitor.LOOK_EVERY
    for first, last in ((0, 7), (64, 65), (65, 99), (99, 150), (150, 170)):  # replicas that meet now and then
        assert monitor.look_is_due(first, last) == any(first < n <= last for n in due)


@pytest.fixture
def in_training():
    """``in_training(kind)``: a network of 13-7 units of float32, its RBM, and a feed of ``bits`` or ``levels``."""
    with Grid(MPI.COMM_SELF) as grid:

        def made(kind):
            network = DeepBeliefNetwork(NetworkSpec((13, 7)), grid)
            data = small.dataset(13, kind=kind)
            return network, network.rbms[0], visible_feed(network, data, data.train, "none")

        yield made


@pytest.mark.parametrize("kind", ["bits", "levels"])
@pytest.mark.parametrize(
    ("bias", "word"), [(-80.0, "100% of its hidden units are always off"), (80.0, "100% always on")]
)
def test_a_look_notes_a_collapse_and_that_it_is_over(in_training, kind, bias, word):
    network, rbm, feed = in_training(kind)
    run = TrainingRun.of(network)
    rbm.c[:] = bias
    monitor.look(network, rbm, feed)
    assert word in run.ailments["collapse"]
    assert not health.judge(network).healthy
    rbm.c[:6] = 0
    monitor.look(network, rbm, feed)
    assert health.judge(network).healthy


def test_a_look_has_sums_that_hold_what_weights_grow_to(in_training):
    network, rbm, feed = in_training("bits")
    monitor.look(network, rbm, feed)
    assert rbm.weights.rooms == (13, 7)
    rbm.W[:, 2] = 100  # 13 * 100 < 2016 < 2 * 13 * 100
    monitor.look(network, rbm, feed)
    assert rbm.weights.rooms == (8192, 7)
    rbm.W[:, 2] = 1
    monitor.look(network, rbm, feed)
    assert rbm.weights.rooms == (8192, 7), "parameters of earlier updates may be in use"
    rbm.W[:, 2] = 500
    with pytest.raises(TrainingError, match=r"summed inputs may have wrapped \(up to 6.5e\+03.*--learning-rate$"):
        monitor.look(network, rbm, feed)


@pytest.mark.parametrize(("stage", "rate"), [("pretrain", "--learning-rate"), ("finetune", "--finetune-learning-rate")])
def test_values_that_are_not_healthy_stop_training(in_training, stage, rate):
    network, rbm, feed = in_training("bits")
    TrainingRun.of(network).position = Position(stage)
    monitor.check_values(network)
    rbm.W[0, 0] = 1e9
    with pytest.raises(
        TrainingError, match=rf"RBM 0: weights explode \(the largest is 1e\+09\); use a smaller {rate}$"
    ):
        monitor.check_values(network)
    with pytest.raises(TrainingError, match="explode"):
        monitor.look(network, rbm, feed)
