"""Where training stands: its order, its sums, and copies that go their own way."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.chains.gibbs import Chains
from modelpar.checkpoint import load, save
from modelpar.comm.grid import Grid
from modelpar.kernels.states import pack
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.pruning import pruned
from modelpar.spec import FineTuneSpec, NetworkSpec, TrainingSpec
from modelpar.training.evaluation import evaluate
from modelpar.training.state import Position, Sum, TrainingRun
from modelpar.training.trainer import fine_tune, pretrain
from modelpar.weights.parameters import Parameters
from tests import small


class Ranks:
    """A communicator of ``size`` ranks that all hold the same."""

    def __init__(self, size):
        self.size = size

    def allreduce(self, values):
        return values * self.size

    def bcast(self, value):
        return value


class Six:
    """Two replicas of three shards."""

    comm, replica_comm = Ranks(6), Ranks(2)


@pytest.fixture
def grid():
    with Grid(MPI.COMM_SELF) as made:
        yield made


def test_positions_in_their_order():
    stations = [
        Position(), Position(step=1), Position(epoch=1), Position(layer=1), Position("finetune"),
        Position("finetune", epoch=2, step=5), Position("done"),
    ]  # fmt: skip
    assert all(earlier.sort_key < later.sort_key for earlier, later in pairwise(stations))


def test_sums_carry_over_whom_they_add_up():
    position = Position(sums={"n": Sum(4.0), "error": Sum(0.5, over_shards=True)})
    assert position.total_sums(Six()) == {"error": 3.0, "n": 8.0}


def named(value):
    parameters = Parameters((2, 3), 2, 3, np.float64, (1, 3))
    parameters.flat[:] = parameters.rows[:] = value
    return {"rbm.0": parameters}


def test_a_copy_stays_as_it_was():
    kinds = ("velocity", "outer", "squares", "best", "average", "last")
    run = TrainingRun(Position(sums={"n": Sum(1.0)}), chains=Chains(pack(np.ones((3, 2))), 0, 2), binarise="0.5")
    for i, kind in enumerate(kinds):
        setattr(run, kind, named(i + 1.0))
    run.staleness[2] = 7
    copy = run.copy()
    run.position.step, run.position.sums["n"] = 9, Sum(5.0)
    for kind in kinds:
        getattr(run, kind)["rbm.0"].flat[:] = -1
        getattr(run, kind)["rbm.0"].rows[:] = -1
    run.chains.h = pack(np.zeros((3, 2)))
    assert (copy.position.step, copy.position.sums, copy.binarise) == (0, {"n": Sum(1.0)}, "0.5")
    for i, kind in enumerate(kinds):
        kept = getattr(copy, kind)["rbm.0"]
        assert (kept.flat == i + 1).all()
        assert (kept.rows == i + 1).all()
    assert (copy.chains.h.sums() == 2).all()
    assert copy.staleness[2] == 7
    assert copy.sync is None


def test_what_begins_anew_keeps_nothing_but_what_later_use_needs():
    chains = Chains(pack(np.ones((3, 2))), 0, 2)
    run = TrainingRun(Position("finetune", epoch=3), named(1.0), outer=named(1.0), squares=named(1.0), best=named(1.0),
                      best_accuracy=0.9, epochs_since_best=2, binarise="0.5", record_digests=True, chains=chains,
                      last=(last := named(1.0)))  # fmt: skip
    run.stand_at(Position("pretrain", epoch=2))  # whose RBM has been trained before
    kept = {"chains": chains, "last": last}
    assert run == TrainingRun(Position("pretrain", epoch=2), binarise="0.5", record_digests=True, **kept)
    run.stand_at(Position("done"))
    assert run == TrainingRun(Position("done"), binarise="0.5", record_digests=True)


def test_a_network_is_its_parameters_until_it_is_trained(grid):
    network = DeepBeliefNetwork(NetworkSpec((13, 9)), grid)
    assert network.run is None
    run = TrainingRun.of(network)
    assert run is TrainingRun.of(network) is network.run
    assert run == TrainingRun()


def test_what_is_pruned_is_a_network_of_its_own_that_takes_the_same_data(grid):
    network = DeepBeliefNetwork(NetworkSpec((13, 9), classes=3), grid)
    run = TrainingRun.of(network)
    run.binarise, run.position = "0.5", Position("done")
    smaller = pruned(network, 0.5)
    assert TrainingRun.of(smaller) == TrainingRun(binarise="0.5")
    assert run.position == Position("done")


@pytest.mark.filterwarnings("ignore:the network answers class:modelpar.errors.ModelparWarning")  # after few epochs
def test_scripts_go_on_with_what_they_load(grid, tmp_path):
    """Saved by a script in the middle of fine-tuning, and taken up by another call: the same network in the end."""
    data, spec = small.dataset(13, held_out=True), NetworkSpec((13, 9), classes=3)
    training, tuning = TrainingSpec(epochs=1, batch_size=12), FineTuneSpec(epochs=2, batch_size=12)
    network = DeepBeliefNetwork(spec, grid)
    list(pretrain(network, data, training))
    for record in fine_tune(network, data, tuning):
        if record.kind == "step" and record.step == 3:
            save(network, tmp_path / "middle")
    again = load(tmp_path / "middle", grid)
    assert again.run.position.sort_key == (1, 0, 0, 3)
    assert list(pretrain(again, data, training)) == []
    list(fine_tune(again, data, tuning))
    assert again.run == network.run
    assert evaluate(again, data, data.test) == evaluate(network, data, data.test)
    for one, other in zip(again.parts(), network.parts(), strict=True):
        assert np.array_equal(one.parameters.flat, other.parameters.flat)
