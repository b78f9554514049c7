"""Exact mode: the same bytes at every grid, layout, partition and choice of kernels, in mid-epoch and at the end.

Every rank trains alone as well, on a grid of itself, and what the grids of this job leave is compared with that byte
by byte; what it leaves alone is held to a constant (tests/exact.py), which is the same for jobs of any number of
ranks, either MPI, any processor, compiled or not.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.comm.grid import Grid
from modelpar.data import Dataset, Split
from modelpar.data.dataset import MappedTable
from modelpar.errors import SpecError
from modelpar.kernels import threads
from modelpar.kernels.digest import MODULUS, digest
from modelpar.kernels.llvm.vectors import compiled
from modelpar.kernels.products import dispatch
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.layout import NetworkLayout
from modelpar.spec import FineTuneSpec, NetworkSpec
from modelpar.training import monitor
from modelpar.training.feeds import mean_of, real_values, visible_feed
from modelpar.training.optimizer import Optimizer
from modelpar.training.trainer import fine_tune, pretrain
from tests import exact, networks, small

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
LAYOUTS = ("column", "row", "dual", "dual,row")
OWNERS = ("blocks", "random")
KERNELS = ("tiles", "registers", "tables", "lists", "blas")
THERE = dispatch.available()  # on this processor
PLACES = list(exact.PLACES)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} shards x {0[1]} replicas".format)


@pytest.fixture
def folder(comm, tmp_path):
    """The same folder on all ranks."""
    return Path(comm.bcast(tmp_path))


@pytest.fixture
def alone(tmp_path_factory, monkeypatch):
    """``alone(training)``: what it leaves on a grid of one rank, by the kernels that are chosen for it."""

    def alone(training: exact.Training) -> exact.Outcome:
        with monkeypatch.context() as context:
            context.delenv(dispatch.VARIABLE, raising=False)
            return _alone(training.name, tmp_path_factory.mktemp("alone"))

    return alone


@cache
def grid_of_one() -> Grid:
    return Grid(MPI.COMM_SELF)


OUTCOMES: dict[str, exact.Outcome] = {}


def _alone(name: str, folder: Path) -> exact.Outcome:
    if name not in OUTCOMES:
        training = exact.TRAININGS[name]
        OUTCOMES[name] = exact.run(training.network(grid_of_one()), training, folder)
    return OUTCOMES[name]


@pytest.mark.parametrize("name", exact.TRAININGS)
def test_one_rank_alone_leaves_what_every_rank_everywhere_does(agree, alone, name):
    agree(alone(exact.TRAININGS[name]).fingerprint == exact.TRAININGS[name].fingerprint)


@pytest.fixture
def _no_measures(monkeypatch):
    """What an epoch's end measures takes as long as its training, and is compared nowhere."""
    fine = {"probe_error": 0.0, "largest_weight": 0.0, "dead_units": 0.0, "saturated_units": 0.0}
    monkeypatch.setattr(monitor, "measure", lambda *_: dict(fine))


@pytest.mark.every_grid
@pytest.mark.usefixtures("_no_measures")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "owners"),
    [(shape, owners) for shape, owners in product(SHAPES, OWNERS) if shape[0] > 1 or owners == OWNERS[0]],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]} shards x {value[1]} replicas",
)
def test_one_training_in_every_way(comm, agree, folder, alone, monkeypatch, shape, layout, owners, kernel):
    """A checkpoint is written at one place of each run, which takes longer than the training; digests tell the rest."""
    if kernel not in THERE:
        pytest.skip(f"no kernel {kernel} on this processor, or without compilation")
    monkeypatch.setenv(dispatch.VARIABLE, kernel)
    training, number = exact.EVERYWHERE, LAYOUTS.index(layout) + 2 * OWNERS.index(owners) + KERNELS.index(kernel)
    network = training.network(networks.grid_of(comm.size, shape), layout, owners)
    result = exact.run(network, training, folder, [PLACES[number % len(PLACES)]])
    agree(result.parts_from(alone(training)) == "", result.parts_from(alone(training)))


@shapes
@pytest.mark.parametrize("layout", ["column", "row", "dual"])
def test_idle_units_are_counted_alike_everywhere(comm, agree, shape, layout):
    def parts(grid, layout):
        network = exact.EVERYWHERE.network(grid, layout)
        rbm, data = network.rbms[0], exact.EVERYWHERE.dataset
        rbm.W[:] *= 10
        rbm.c[:] = np.linspace(-30, 30, exact.EVERYWHERE.layers[1])[rbm.hidden_ids]
        rbm.refresh()
        return monitor.idle_units(rbm, visible_feed(network, data, data.train, data.binarise), grid)

    mine, expected = parts(networks.grid_of(comm.size, shape), layout), parts(grid_of_one(), "column")
    agree(min(expected) > 0, "the case shows nothing")
    agree(mine == expected, f"{mine}, not {expected}")


@shapes
@pytest.mark.parametrize("layout", ["column", "row", "dual"])
def test_weights_whose_sums_need_a_coarser_scale(comm, agree, folder, tmp_path_factory, shape, layout):
    """The scale follows the weights by the same rule at every grid, and goes with a checkpoint of mid-epoch."""
    training = replace(exact.TRAININGS["CD-1 of states"], layers=(64, 9), binarise="stochastic")

    def trained(grid, folder, layout="column"):
        spec = NetworkSpec(training.layers, layout=layout, seed=11, exact=True, weight_scale=40.0)
        network = DeepBeliefNetwork(spec, grid)
        return network, exact.run(network, training, folder, ["in mid-epoch of the first RBM", "at the end"])

    network, result = trained(networks.grid_of(comm.size, shape), folder, layout)
    rooms = network.rbms[0].weights.rooms
    agree(rooms[0] > 64, "the case shows nothing")
    alone, expected = trained(grid_of_one(), tmp_path_factory.mktemp("alone"))
    agree(rooms == alone.rbms[0].weights.rooms, f"{rooms}")
    agree(result.parts_from(expected) == "", result.parts_from(expected))
    again = checkpoint.load(folder / "0.safetensors", networks.grid_of(comm.size, shape))
    after = Path(comm.bcast(tmp_path_factory.mktemp("after")))
    agree(exact.run(again, training, after, ["at the end"]).parts_from(expected) == "", "going on")


# Every layout with every training, each time with another kernel; every kernel with every layout, over the trainings.
SOME_WAYS = [
    (name, layout, OWNERS[(i + j) // 2 % 2], KERNELS[(i + j) % 4], PLACES[(i + 2 * j) % 4])
    for (i, name), (j, layout) in product(enumerate(exact.TRAININGS), enumerate(LAYOUTS))
    if name != exact.EVERYWHERE.name
]


@pytest.mark.every_grid
@pytest.mark.usefixtures("_no_measures")
@pytest.mark.parametrize(("name", "layout", "owners", "kernel", "place"), SOME_WAYS)
@shapes
def test_every_training_in_some_ways(
    comm, agree, folder, alone, monkeypatch, shape, name, layout, owners, kernel, place
):
    training = exact.TRAININGS[name]
    monkeypatch.setenv(dispatch.VARIABLE, kernel if kernel in THERE else "auto")
    network = training.network(networks.grid_of(comm.size, shape), layout, owners)
    result = exact.run(network, training, folder, [place])
    agree(result.parts_from(alone(training)) == "", result.parts_from(alone(training)))


@pytest.mark.parametrize("cached", ["keep", "recompute"])
@shapes
def test_kept_and_recomputed_activations_leave_the_same(comm, agree, folder, alone, shape, cached):
    training = exact.TRAININGS["PCD of 3 bits, drawn data"]
    network = training.network(networks.grid_of(comm.size, shape), "column,dual", "random")
    result = exact.run(network, training, folder, ["at the end"], cache=cached)
    agree(result.parts_from(alone(training)) == "", result.parts_from(alone(training)))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("PCD of 3 bits, drawn data", PLACES[0]),
        ("CD-2 of 3 bits, drawn data", PLACES[1]),
        ("CD-1 of probabilities, data above a threshold", PLACES[2]),
        ("tempered chains", PLACES[0]),
        ("weighted samples, chains that start at the data", PLACES[0]),
    ],
)
@shapes
def test_going_on_at_another_grid_and_layout(comm, agree, folder, alone, shape, name, place):
    """From a checkpoint of one rank, and from one that the next grid has written."""
    training = exact.TRAININGS[name]
    path = folder / "from.safetensors"
    if comm.rank == 0:
        path.write_bytes(alone(training).files[place])
    later = PLACES[PLACES.index(place) + 1 :]
    for turn, layout in enumerate(("dual,column", "row,dual")):
        comm.barrier()
        here = SHAPES[(SHAPES.index(shape) + turn) % len(SHAPES)]
        grid = networks.grid_of(comm.size, here)
        spec = NetworkSpec(training.layers, layout=layout)
        network = checkpoint.load(path, grid, networks.layout_of(spec, grid.n_shards, "random"))
        result = exact.run(network, training, folder, later)
        agree(result.digests and result.parts_from(alone(training)) == "", result.parts_from(alone(training)))
        if comm.rank == 0 and len(later) > 1:
            path.write_bytes(result.files[later[0]])
        later = later[1:]
        if not later:
            break


@pytest.mark.skipif(not compiled(), reason="threads are for compiled kernels")
@shapes
def test_the_number_of_threads_does_not_matter(comm, agree, folder, alone, shape, monkeypatch):
    monkeypatch.setattr(threads, "WAKING", 1)
    training = exact.TRAININGS["wide"]
    threads.set_threads(2)
    try:
        network = training.network(networks.grid_of(comm.size, shape), "dual,column", "blocks")
        result = exact.run(network, training, folder, ["at the end"])
    finally:
        threads.set_threads(1)
    agree(result.parts_from(alone(training)) == "", result.parts_from(alone(training)))


@shapes
def test_means_are_the_same_to_the_last_bit(comm, agree, shape):
    """Of values whose sums float64 would round; in the visible biases a difference in the last bit rarely shows."""
    values = np.random.default_rng(4).random((exact.N_SAMPLES, 13)) ** 30
    split = Split(MappedTable("powers", values), np.arange(len(values)))
    data = Dataset("powers", 13, 0, None, split, None, None, 1.0)

    def means(grid):
        network = exact.EVERYWHERE.network(grid, owners="random")
        return network.visible_ids, mean_of(network, real_values(network, data, split))

    _, expected = means(grid_of_one())
    ids, result = means(networks.grid_of(comm.size, shape))
    agree(np.array_equal(result, expected[ids]) and np.allclose(expected, values.mean(axis=0)), f"{result} {expected}")


def test_another_seed_is_another_training(agree, alone):
    """The comparisons above can fail: all that they compare depends on what is drawn."""
    training = exact.EVERYWHERE
    spec = NetworkSpec(training.layers, seed=12, exact=True, weight_scale=0.3)
    network = DeepBeliefNetwork(spec, grid_of_one())
    first = next(pretrain(network, training.dataset, training.spec)).digests
    expected = alone(training).digests[0][2]
    agree(set(first) == set(expected) == {"v0", "h0", "v1", "h1", "W", "b", "c"})
    agree(all(first[name] != expected[name] for name in first), f"{first} {expected}")


# -- fine-tuning -----------------------------------------------------------------------------------------------------

TUNING = FineTuneSpec(epochs=2, batch_size=70, dropout=0.2, input_dropout=0.1, weight_decay=0.001)
CLASSIFIER = NetworkSpec((13, 9, 6), classes=3, seed=11, exact=True, weight_scale=0.3)


def tuned(grid, folder, layout, owners) -> exact.Outcome:
    """Fine-tuned from the start, and saved in mid-epoch and at the end, with digests of all gradients.  Collective."""
    spec = replace(CLASSIFIER, layout=layout)
    its_owners = [networks.owners(owners, n, grid.n_shards, i) for i, n in enumerate(spec.layers)]
    its_owners.append(networks.owners("blocks", spec.classes, grid.n_shards))
    network = DeepBeliefNetwork(spec, grid, NetworkLayout.from_owners(its_owners, grid.n_shards, layout))
    files, digests = {}, []
    with pytest.MonkeyPatch.context() as context:
        context.setattr(Optimizer, "learn", listened_to(network, digests))
        for record in fine_tune(network, exact.EVERYWHERE.dataset, TUNING):
            if record.kind == "step":
                digests.append([record.layer, record.step, record.digests])
            if (record.kind, record.step) in (("step", 3), ("epoch", 4)):
                checkpoint.save(network, folder / "tuned.safetensors")
                contents = (folder / "tuned.safetensors").read_bytes() if grid.comm.rank == 0 else None
                files[record.kind] = grid.comm.bcast(contents)
    return exact.Outcome(files, digests)


def listened_to(network, digests):
    """``learn`` that leaves digests of the gradients, in float64: rounded to weights, errors of 1e-16 rarely show."""
    layers = {id(layer.parameters): layer for layer in (*network.rbms, network.output)}
    learn, grid = Optimizer.learn, network.grid

    def listening(optimizer, parameters, velocity, gradient, size, n_samples):
        weights = layers[id(parameters)].weights
        whole = grid.replica_comm.allreduce(gradient.W)
        mine = digest(whole, weights.visible_rows, weights.hidden_columns)
        digests.append(["gradient", whole.dtype.name, sum(grid.shard_comm.allgather(mine)) % MODULUS])
        learn(optimizer, parameters, velocity, gradient, size, n_samples)

    return listening


@pytest.mark.parametrize("layout", ["column", "row", "dual", "dual,row,column"])
@pytest.mark.parametrize("owners", OWNERS)
@shapes
def test_fine_tuning_in_every_layout(comm, agree, folder, tmp_path, shape, owners, layout):
    """No constant here: exponentials and logarithms are NumPy's, which may round otherwise on another processor."""
    if "tuned" not in OUTCOMES:
        OUTCOMES["tuned"] = tuned(grid_of_one(), tmp_path, "column", "blocks")
    expected = OUTCOMES["tuned"]
    result = tuned(networks.grid_of(comm.size, shape), folder, layout, owners)
    agree(len(result.files) == 2 and result.parts_from(expected) == "", result.parts_from(expected))


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network_changes", "training_changes", "kind", "expected"),
    [
        ({"visible": "gaussian"}, {}, "real", "--visible gaussian"),
        ({"dtype": "float64"}, {}, "bits", "--dtype float64"),
        ({}, {"reconstruction": "probabilities"}, "bits", "--reconstruction probabilities"),
        ({}, {"pass_up": "probabilities"}, "bits", "--pass-up probabilities"),
        ({}, {"sparsity_cost": 0.1}, "bits", "sparsity penalty"),
        ({}, {}, "levels", "use --binarise stochastic"),
    ],
    ids=str,
)
def test_what_cannot_be_exact_is_refused_on_all_ranks(comm, agree, network_changes, training_changes, kind, expected):
    spec = NetworkSpec((13, 9, 6), exact=True, **network_changes)
    network = DeepBeliefNetwork(spec, networks.grid_of(comm.size, SHAPES[-1]))
    before = [part.parameters.flat.copy() for part in network.parts()]
    training = exact.Training("", "", {"batch_size": 16, **training_changes}).spec
    with pytest.raises(SpecError, match="--exact cannot be kept") as caught:
        next(pretrain(network, small.dataset(13, kind=kind), training))
    agree(expected in str(caught.value), str(caught.value))
    agree(comm.bcast(str(caught.value)) == str(caught.value))
    after = [part.parameters.flat for part in network.parts()]
    agree(all(np.array_equal(*pair) for pair in zip(before, after, strict=True)), "something was changed")


def test_probabilities_passed_up_by_the_only_rbm_are_no_matter(agree):
    network = DeepBeliefNetwork(NetworkSpec((13, 9), exact=True), grid_of_one())
    training = exact.Training("", "", {"batch_size": 16, "pass_up": "probabilities"}).spec
    agree(len(list(pretrain(network, small.dataset(13), training))) > 0)
