"""Networks to and from checkpoints: between any two grids, and training that goes on as if it had not stopped.

A job of n ranks also makes the grids of fewer ranks, from a part of its communicator; the other ranks then wait.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI
from safetensors.numpy import load_file, save_file

from modelpar.chains.gibbs import Chains
from modelpar.checkpoint import files, load, save, tensors
from modelpar.comm.grid import Grid
from modelpar.errors import CheckpointError, LayoutError, ModelparError
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.layout import NetworkLayout
from modelpar.spec import FineTuneSpec, NetworkSpec, TrainingSpec
from modelpar.training.state import Position, Sum, TrainingRun
from modelpar.training.trainer import fine_tune, pretrain
from tests import networks, small

pytestmark = pytest.mark.ranks

WORLD = MPI.COMM_WORLD
SHAPES = [(n, m) for n in range(1, 5) for m in range(1, 5) if n * m <= WORLD.size]
WHOLE = networks.grids(WORLD)
# how a network is held where a checkpoint is written, and where it is opened
HOLDS = ("column,row,column", "row,column,row")
SPEC = NetworkSpec((13, 9, 3), classes=3, seed=5)
N_CHAINS = 11


@pytest.fixture(scope="module")
def grids():
    """A grid of every shape; None on the ranks that have no part in it."""
    made = {}
    for n, m in SHAPES:
        part = WORLD.Split(0 if WORLD.rank < n * m else MPI.UNDEFINED)
        made[n, m] = Grid(part, model_shards=n, replicas=m) if part != MPI.COMM_NULL else None
    return made


def wait() -> None:
    """A barrier in which the ranks that have no part in a grid leave the cores to the others."""
    request = WORLD.Ibarrier()
    while not request.Test():
        time.sleep(0.002)


@pytest.fixture
def folder(comm, tmp_path):
    """One folder for all ranks."""
    return Path(comm.bcast(tmp_path))


def layout_of(spec: NetworkSpec, n_shards: int, owners: str, layout: str) -> NetworkLayout:
    """Owners of ``owners`` but for the classes, which must be in blocks."""
    its = [networks.owners(owners, n, n_shards, i) for i, n in enumerate(spec.layers)]
    if spec.classes:
        its.append(networks.owners("blocks", spec.classes, n_shards))
    return NetworkLayout.from_owners(its, n_shards, layout)


def fill_state(network: DeepBeliefNetwork) -> None:
    """A state in the middle of pre-training in which every tensor of a checkpoint has other values."""
    state = TrainingRun.of(network)
    error = Sum(0.1 if network.grid.comm.rank == 0 else 0.0, over_shards=True)
    samples = Sum(17.0 if network.grid.replica == 0 else 0.0)
    state.position = Position("pretrain", 1, 2, 1, 3.5, {"squared_error": error, "samples": samples})
    parts = {part.name: part.parameters for part in network.parts()}
    state.velocity = {name: parts[name].like() for name in ("rbm.1", "output")}
    state.best = {name: parts[name].like() for name in parts}
    state.best_accuracy, state.epochs_since_best = 0.1 + 0.2, 3
    state.binarise = "stochastic"
    chains = np.empty((len(network.rbms[1].hidden_ids), N_CHAINS), network.dtype)
    for i, block in enumerate(tensors(network, {"chains": chains})):
        whole = whole_tensor(i, block.shape)
        if block.name == "chains":  # states
            whole = np.floor(whole - 1)
        block.block[...] = block_of(whole, block.rows, block.columns)
    state.chains = Chains.of_replica(chains, network.grid.replica, network.grid.n_replicas)


def whole_tensor(i: int, shape: tuple[int, ...]) -> np.ndarray:
    """Tensor number ``i``, the same on every rank; 1.5 and up, so that input scales are legal."""
    return 1.5 + np.random.default_rng(i).random(shape)


def block_of(whole: np.ndarray, rows: np.ndarray, columns: np.ndarray | None) -> np.ndarray:
    return whole[rows] if columns is None else whole[np.ix_(rows, columns)]


def holds_all(network: DeepBeliefNetwork, arrays: dict[str, np.ndarray]) -> bool:
    """Whether the network's tensors are, bit for bit, those of a file that was read without MPI."""
    mine = tensors(network)
    return {block.name for block in mine} == set(arrays) and all(
        np.array_equal(block.block, block_of(arrays[block.name], block.rows, block.columns)) for block in mine
    )


@pytest.mark.parametrize("held", HOLDS)
def test_written_at_every_grid_and_opened_at_every_other(agree, grids, folder, held):
    """All grids write the same bytes, whatever the owners and layouts; so what any opens, each of them has written."""
    for i, shape in enumerate(SHAPES):
        if (grid := grids[shape]) is not None:
            network = DeepBeliefNetwork(SPEC, grid, layout_of(SPEC, shape[0], networks.OWNERS[i % 4], HOLDS[i % 2]))
            fill_state(network)
            save(network, folder / f"from-{i}")
    wait()
    written = (folder / "from-0").read_bytes()
    for i, shape in enumerate(SHAPES):
        agree((folder / f"from-{i}").read_bytes() == written, f"bytes differ from {shape}")
    arrays = load_file(folder / "from-0")
    agree("velocity.rbm.1.W" in arrays and "best.output.c" in arrays and arrays["chains"].shape == (3, N_CHAINS))
    for i, shape in enumerate(SHAPES):
        fine = True
        if (grid := grids[shape]) is not None:
            layout = layout_of(SPEC, shape[0], networks.OWNERS[(i + 1) % 4], held)
            network = load(folder / f"from-{(i + 3) % len(SHAPES)}", grid, layout)
            fine = holds_all(network, arrays) and network.spec == SPEC and network.run.binarise == "stochastic"
            save(network, folder / f"again-{i}")
        wait()
        agree(fine, f"values differ at {shape}")
        agree((folder / f"again-{i}").read_bytes() == written, f"what {shape} has loaded it writes otherwise")


def test_the_state_comes_back(agree, grids, folder, comm):
    if (one := grids[1, 1]) is not None:
        network = DeepBeliefNetwork(SPEC, one)
        fill_state(network)
        save(network, folder / "it")
    wait()
    shape = WHOLE[-1]
    state = load(folder / "it", grids[shape]).run
    position = state.position
    agree((position.stage, position.layer, position.epoch, position.step) == ("pretrain", 1, 2, 1))
    agree(state.best_accuracy == 0.1 + 0.2 and state.epochs_since_best == 3)
    agree(sorted(state.velocity) == ["output", "rbm.1"] and sorted(state.best) == ["output", "rbm.0", "rbm.1"])
    grid = grids[shape]
    agree(grid.comm.allreduce(position.sums["squared_error"].value) == 0.1)
    agree(grid.replica_comm.allreduce(position.sums["samples"].value) == 17)


# -- training that goes on -------------------------------------------------------------------------------------------

TRAINING = TrainingSpec(epochs=2, batch_size=16, momentum_epochs=1, schedule="linear", learning_rate=0.2)
TUNING = FineTuneSpec(epochs=3, batch_size=16, learning_rate=2.5, schedule="constant", patience=2, dropout=0.2)


class Case:
    """A run, and where it is interrupted: (stage, layer, kind of record, updates done, why there)."""

    def __init__(self, spec, kind, training, tuning, stops, binarise="none"):
        self.spec, self.training, self.tuning, self.stops = spec, training, tuning, stops
        self.data = replace(small.dataset(13, kind=kind, held_out=True), binarise=binarise)

    def start(self, grid, owners="random"):
        network = DeepBeliefNetwork(self.spec, grid, layout_of(self.spec, grid.n_shards, owners, self.spec.layout))
        networks.twin(network)
        return network

    def records(self, network):
        yield from pretrain(network, self.data, self.training)
        if self.tuning:
            yield from fine_tune(network, self.data, self.tuning)


CASES = {
    "CD, sparsity, states passed up, early stopping": Case(
        NetworkSpec((13, 9, 5), classes=3, seed=5, layout="column,row,column"), "levels",
        replace(TRAINING, sparsity_cost=0.3, pass_up="states"), TUNING,
        [
            ("pretrain", 0, "step", 2),  # in the first epoch
            ("pretrain", 0, "step", 3),  # its last update, before its end
            ("pretrain", 0, "epoch", 6),  # between RBMs
            ("pretrain", 1, "epoch", 3),  # between epochs
            ("finetune", -1, "step", 1),
            ("finetune", -1, "epoch", 6),  # with the best parameters so far
        ],
        binarise="stochastic",
    ),
    "PCD, Gaussian units": Case(
        NetworkSpec((13, 9, 5), seed=5, visible="gaussian", layout="row,column"), "real",
        replace(TRAINING, persistent=True, gaussian_learning_rate=0.02, cache="recompute"), None,
        [("pretrain", 0, "step", 4), ("pretrain", 0, "epoch", 6), ("pretrain", 1, "step", 5)],
    ),
}  # fmt: skip


def flats(network):
    """Copies of all that this rank holds of the trained network."""
    return [part.parameters.flat.copy() for part in network.parts()]


def run_and_save(case, network, stops, folder):
    """The uninterrupted run, with a checkpoint written at every stop; (what came after each stop, all parameters)"""
    seen, after = [], {}
    for record in case.records(network):
        seen.append(record)
        mark = (record.stage, record.layer, record.kind, record.step)
        if mark in stops:
            save(network, folder / f"stop-{stops.index(mark)}")
            after[mark] = len(seen)
    assert len(after) == len(stops), f"the run passed only {sorted(after)}"
    return {stop: seen[n:] for stop, n in after.items()}, flats(network)


def comparable(records):
    """Records without the clock; sums of an epoch that was cut may round otherwise, so measures are compared apart."""
    return [replace(record, seconds=0.0, measures={}) for record in records]


def same_measures(mine, theirs):
    return all(
        a.measures.keys() == b.measures.keys()
        and np.allclose([*a.measures.values()], [*b.measures.values()], rtol=1e-6, equal_nan=True)
        for a, b in zip(mine, theirs, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", WHOLE, ids="{0[0]} shards x {0[1]} replicas".format)
def test_k_steps_and_the_rest_are_all_steps_bit_for_bit(agree, grids, folder, shape, name):
    case, grid = CASES[name], grids[shape]
    # where there are several grids they share the stops
    stops = case.stops[WHOLE.index(shape) % 2 :: 2] if len(WHOLE) > 1 else case.stops
    rest, parameters = run_and_save(case, case.start(grid), stops, folder)
    for i, stop in enumerate(stops):
        network = load(folder / f"stop-{i}", grid, layout_of(case.spec, shape[0], "random", case.spec.layout))
        records = list(case.records(network))
        agree(comparable(records) == comparable(rest[stop]), f"other records after {stop}")
        agree(same_measures(records, rest[stop]), f"other measures after {stop}")
        agree(all(map(np.array_equal, flats(network), parameters)), f"other parameters after {stop}")


@pytest.mark.slow
def test_a_run_that_had_lost_patience_does_not_go_on(agree, grids, folder):
    """The checkpoint is of the very record after which the run stopped."""
    grid = grids[WHOLE[-1]]
    case = CASES["CD, sparsity, states passed up, early stopping"]
    tuning, training = replace(TUNING, epochs=30), replace(TRAINING, epochs=0)
    network = case.start(grid)
    list(pretrain(network, case.data, training))
    for record in fine_tune(network, case.data, tuning):
        if record.kind == "epoch":
            save(network, folder / "last")
    agree(record.epoch < tuning.epochs, "patience was never lost")
    resumed = load(folder / "last", grid, network.layout)
    agree(not list(fine_tune(resumed, case.data, tuning)), "training went on")
    agree(all(map(np.array_equal, flats(resumed), flats(network))))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_going_on_at_another_grid_stays_close(agree, comm, grids, folder, name):
    """In float64, where no draw is near enough to a probability to fall otherwise."""
    known, shape = CASES[name], WHOLE[-1]
    case = Case(replace(known.spec, dtype="float64"), "levels", known.training, known.tuning, known.stops)
    case.data = known.data
    network = case.start(grids[shape])
    run_and_save(case, network, case.stops[-1:], folder)
    save(network, folder / "end")
    arrays = load_file(folder / "end")
    for i, other in enumerate(SHAPES):
        fine = True
        if (grid := grids[other]) is not None:
            held = ",".join(HOLDS[i % 2].split(",")[: len(case.spec.layers) - 1 + bool(case.spec.classes)])
            network = load(folder / "stop-0", grid, layout_of(case.spec, other[0], networks.OWNERS[i % 4], held))
            for _ in case.records(network):
                pass
            fine = all(
                np.allclose(b.block, block_of(arrays[b.name], b.rows, b.columns), rtol=0, atol=1e-11)
                for b in tensors(network)
            )
        wait()
        agree(fine, f"parameters differ at {other}")


# -- files that are no checkpoint of this network --------------------------------------------------------------------


def message_of(comm, action) -> tuple[type | None, str]:
    """The kind of error and what it says; the same words on every rank."""
    try:
        action()
    except ModelparError as error:
        return type(error), str(error)
    return None, ""


def changed(name: str, metadata: dict[str, str]) -> dict[str, str]:
    if name == "other format":
        return {**metadata, "modelpar": "99"}
    if name == "no network":
        return {key: value for key, value in metadata.items() if key != "network"}
    if name == "unknown option":
        return {**metadata, "network": metadata["network"].replace('"seed"', '"sead"')}
    if name == "impossible network":
        return {**metadata, "network": metadata["network"].replace("[13, 9, 3]", "[13]")}
    if name == "other layers":
        return {**metadata, "network": metadata["network"].replace("[13, 9, 3]", "[13, 8, 3]")}
    if name == "more layers":
        return {**metadata, "network": metadata["network"].replace("[13, 9, 3]", "[13, 9, 3, 3]")}
    if name == "no training":
        return {key: value for key, value in metadata.items() if key != "training"}
    if name == "training of another kind":
        return {**metadata, "training": "[1, 2]"}
    if name == "unknown part":
        return {**metadata, "training": metadata["training"].replace('"updates": []', '"updates": ["rbm.7"]')}
    return {**metadata, "training": metadata["training"].replace('"best_accuracy"', '"best"')}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("other format", "format 99"),
        ("no network", "does not understand"),
        ("unknown option", "sead"),
        ("impossible network", "--layers"),
        ("other layers", "rbm.0.W"),
        ("more layers", "rbm."),
        ("no training", "where training stood"),
        ("training of another kind", "where training stood"),
        ("unknown part", "where training stood"),
        ("incomplete state", "where training stood"),
    ],
)
def test_checkpoints_that_do_not_fit(agree, comm, grids, folder, name, expected):
    """Files that are whole, with all checksums right, but say something else than this version writes."""
    grid = grids[WHOLE[-1]]
    network = DeepBeliefNetwork(SPEC, grid)
    save(network, folder / "good")
    known = files.read_header(folder / "good", comm).metadata
    metadata = {key: known[key] for key in ("modelpar", "network", "training")}
    files.write(folder / "bad", grid, tensors(network), changed(name, metadata))
    kind, message = message_of(comm, lambda: load(folder / "bad", grid))
    agree(kind is CheckpointError and expected in message, f"{kind}: {message}")
    agree("\n" not in message and comm.bcast(message) == message, "messages differ")


@pytest.mark.parametrize("what", ["foreign", "missing", "text", "truncated", "damaged"])
def test_files_that_are_no_checkpoints(agree, comm, grids, folder, what):
    path, grid = folder / "file", grids[WHOLE[-1]]
    if what in ("truncated", "damaged"):
        save(DeepBeliefNetwork(SPEC, grid), path)
        comm.barrier()
    if comm.rank == 0:
        if what == "foreign":
            save_file({"rbm.0.W": np.zeros((13, 9), np.float32)}, path, {"format": "pt"})
        elif what == "text":
            path.write_text("weights and biases\n" * 9)
        elif what == "truncated":
            path.write_bytes(path.read_bytes()[:-8])
        elif what == "damaged":
            whole = bytearray(path.read_bytes())
            whole[-200] ^= 4
            path.write_bytes(whole)
    comm.barrier()
    kind, message = message_of(comm, lambda: load(path, grid))
    agree(kind is CheckpointError and str(path) in message and "\n" not in message, f"{kind}: {message}")
    agree(comm.bcast(message) == message, "messages differ")


def test_a_layout_of_another_network(agree, comm, grids, folder):
    grid = grids[WHOLE[-1]]
    save(DeepBeliefNetwork(SPEC, grid), folder / "it")
    other = NetworkLayout.blocks((13, 8, 3), grid.n_shards)
    kind, message = message_of(comm, lambda: load(folder / "it", grid, other))
    agree(kind is LayoutError and "13-8-3" in message, message)


def test_a_network_without_output_layer_has_no_output_tensors(agree, comm, grids, folder):
    grid = grids[WHOLE[0]]
    save(DeepBeliefNetwork(replace(SPEC, classes=0), grid), folder / "it")
    names = set(load_file(folder / "it"))
    agree(not any("output" in name or "velocity" in name or "best" in name or "chains" in name for name in names))
    agree(load(folder / "it", grid).output is None)
