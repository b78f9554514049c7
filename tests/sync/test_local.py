"""Local SGD by itself: when replicas are alike, when they are averaged, and what an outer step is."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.comm.exchange import Traffic
from modelpar.spec import SyncSpec
from modelpar.sync import LocalSGD, Share, Work
from modelpar.weights.parameters import Parameters


class Mirrored:
    """Two replicas, the other of which has all values with the other sign: their mean is 0."""

    size, rank = 2, 1

    def __init__(self):
        self.n_sums = 0

    def Bcast(self, values, root=0):
        """Alike at the beginning."""

    def Allreduce(self, _in_place, values):
        self.n_sums += 1
        values[:] = 0


class Alone:
    size, rank = 1, 0

    def Bcast(self, values, root=0):
        """Nobody else."""

    def Allreduce(self, _in_place, values):
        """The sum over one."""


def begun(comm, done=0, **how):
    """(strategy, work, number of refreshes so far)"""
    parameters, refreshed = Parameters((3, 2), 3, 2, np.float64), []
    work = Work({"rbm.0": parameters}, {"rbm.0": parameters.like()}, {}, {}, lambda: refreshed.append(1), done)
    local = LocalSGD(comm, Traffic(), SyncSpec("local", **how))
    local.begin(work)
    return local, work, refreshed


@pytest.mark.parametrize("period", [1, 2, 5])
@pytest.mark.parametrize("done", [0, 3])
def test_averages_come_every_so_many_steps_of_the_stage(period, done):
    """Counted from the beginning of the stage, not from where this call goes on."""
    comm = Mirrored()
    local, _, refreshed = begun(comm, done, period=period)
    assert local.alike
    averaged = []
    for step in range(done, done + 12):
        before = len(refreshed)
        for share in local.shares(step, step + 1, step, 0.1):
            assert share == Share(step, 1, 2)
        if len(refreshed) > before:
            averaged.append(step + 1)
        assert local.alike == (averaged[-1:] == [step + 1])
    assert averaged == [n for n in range(done + 1, done + 13) if n % period == 0]
    assert comm.n_sums == 2 * len(averaged)  # parameters and velocities


def test_an_average_is_of_parameters_and_velocities():
    local, work, _ = begun(Mirrored(), period=1)
    for _ in local.shares(0, 1, 0, 0.1):
        work.parts["rbm.0"].flat[:] = work.velocity["rbm.0"].flat[:] = 3
    assert not work.parts["rbm.0"].flat.any()
    assert not work.velocity["rbm.0"].flat.any()


def test_nothing_is_averaged_twice():
    comm = Mirrored()
    local, work, _ = begun(comm, period=10)
    local.settle()
    assert comm.n_sums == 0
    next(shares := local.shares(0, 2, 0, 0.1))
    next(shares)  # the first step is done
    work.parts["rbm.0"].flat[:] = 1
    local.settle()
    local.settle()
    assert comm.n_sums == 2
    assert local.alike


@pytest.mark.parametrize(("rate", "momentum"), [(1.0, 0.5), (0.5, 0.0), (0.75, 0.25)])
def test_an_outer_step_takes_the_change_for_a_gradient(rate, momentum):
    local, work, _ = begun(Alone(), period=1, outer_rate=rate, outer_momentum=momentum)
    parameters, expected, outer = work.parts["rbm.0"].flat, 0.0, 0.0
    for step, change in enumerate([1.0, 0.5, -2.0]):
        for _ in local.shares(step, step + 1, step, 0.1):
            parameters += change
        outer = momentum * outer + change
        expected += rate * (change + momentum * outer)
        assert np.allclose(parameters, expected, rtol=1e-12)
    assert np.allclose(work.outer["rbm.0"].flat, outer, rtol=1e-12)


def test_a_step_is_the_mean_over_own_samples():
    local, _, _ = begun(Mirrored())
    assert local.reduction.size == 1
    assert local.reduction.means((5, 3), (10, 6)) == (5, 3, 1.0)
    assert local.in_step
