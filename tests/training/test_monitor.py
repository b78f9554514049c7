"""When training has broken down: measured on RBMs that were broken on purpose, and said in one line with the reason."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.comm.grid import Grid
from modelpar.errors import TrainingError
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import NetworkSpec
from modelpar.training import monitor
from modelpar.training.feeds import visible_feed
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
