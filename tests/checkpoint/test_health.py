"""Verdicts: what a checkpoint says of its network's health, what opening one makes of it, and sums that hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.checkpoint import files, health, load, save
from modelpar.checkpoint.health import Verdict
from modelpar.comm.grid import Grid
from modelpar.errors import CheckpointError, ModelparWarning
from modelpar.kernels.products.bounds import largest_sum_of
from modelpar.kernels.states import pack
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import NetworkSpec
from modelpar.training.recovery import Snapshot, SurvivorState, rebuild
from modelpar.training.state import Position, TrainingRun


@pytest.fixture(scope="module")
def grid() -> Iterator[Grid]:
    with Grid(MPI.COMM_SELF) as grid:
        yield grid


@pytest.fixture
def network(grid: Grid) -> DeepBeliefNetwork:
    network = DeepBeliefNetwork(NetworkSpec((5, 4, 3), classes=2), grid)
    run = TrainingRun.of(network)
    run.velocity["rbm.0"] = network.rbms[0].parameters.like()
    return network


def header_of(path: Path) -> files.Header:
    return files.read_header(path, MPI.COMM_SELF)


@pytest.mark.parametrize("verdict", [Verdict(), Verdict(("a bias is “nan”", "RBM 0 has collapsed"))])
def test_a_verdict_is_read_as_it_was_written(verdict: Verdict) -> None:
    assert set(json.loads(verdict.text)) == {"healthy", "reasons"}
    assert Verdict.recorded({health.KEY: verdict.text}) == verdict


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "null", '{"healthy": true}', '{"healthy": 1, "reasons": []}', "[" * 9000,
             '{"healthy": true, "reasons": {}}']
)  # fmt: skip
def test_what_is_no_verdict_says_nothing(text: str) -> None:
    assert Verdict.recorded({health.KEY: text}) is None
    assert Verdict.recorded({}) is None


def test_unhealthy_without_a_reason_is_unhealthy() -> None:
    verdict = Verdict.recorded({health.KEY: '{"healthy": false, "reasons": []}'})
    assert verdict is not None
    assert not verdict.healthy


@pytest.mark.parametrize(
    ("where", "value", "reason"),
    [
        ("rbm.1.W", np.nan, "RBM 1: a weight is no longer a finite number"),
        ("rbm.0.W", -np.inf, "RBM 0: a weight is no longer a finite number"),
        ("rbm.0.W", -1500.0, "RBM 0: weights explode (the largest is 1.5e+03)"),
        ("output.W", 4e36, "the output layer: weights explode (the largest is 4e+36)"),
        ("rbm.0.c", np.inf, "a bias is no longer a finite number"),
        ("velocity", np.nan, "a velocity, or another value that training needs, is no longer a finite number"),
    ],
)
def test_values_tell(network: DeepBeliefNetwork, where: str, value: float, reason: str) -> None:
    assert health.judge(network).healthy
    parts = {part.name: part.parameters for part in network.parts()}
    parameters = parts[where[:-2]] if where != "velocity" else TrainingRun.of(network).velocity["rbm.0"]
    (parameters.c if where.endswith("c") else parameters.W).flat[1] = value
    assert health.judge(network).reasons == (reason,)


def test_a_verdict_tells_what_training_has_noted_too(network: DeepBeliefNetwork, tmp_path: Path) -> None:
    TrainingRun.of(network).ailments.update(replicas="replicas differ", collapse="RBM 0 has collapsed")
    verdict = save(network, tmp_path / "noted")
    assert verdict.reasons == ("RBM 0 has collapsed", "replicas differ")
    assert Verdict.recorded(header_of(tmp_path / "noted").metadata) == verdict
    with pytest.raises(CheckpointError, match=r"noted holds a network that is not healthy: RBM 0 has collapsed$"):
        load(tmp_path / "noted", network.grid, healthy=True)
    with pytest.warns(ModelparWarning, match="is not healthy: RBM 0 has collapsed"):
        again = load(tmp_path / "noted", network.grid)
    assert health.judge(again) == verdict, "who goes on from it does not know"


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("to_train", [True, False])
def test_values_that_are_no_numbers_are_not_opened(
    network: DeepBeliefNetwork, tmp_path: Path, value: float, to_train: bool
) -> None:
    network.rbms[1].W[2, 1] = value
    assert not save(network, tmp_path / "broken").healthy
    with pytest.raises(CheckpointError, match=r"broken has values in rbm.1.W that are not finite numbers") as refused:
        load(tmp_path / "broken", network.grid, to_train=to_train)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("largest", [0.5, 4.5e36])
def test_a_file_without_a_verdict_is_judged_by_its_values(
    network: DeepBeliefNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: float
) -> None:
    network.rbms[0].W[0, 0] = largest
    write = files.write

    def before(path, grid, blocks, metadata, status, **how):  # type: ignore[no-untyped-def]
        del metadata[health.KEY]
        write(path, grid, blocks, metadata, status, **how)

    monkeypatch.setattr(files, "write", before)
    save(network, tmp_path / "old")
    assert Verdict.recorded(header_of(tmp_path / "old").metadata) is None
    if largest < health.EXPLODED:
        load(tmp_path / "old", network.grid, healthy=True)
        return
    with pytest.raises(CheckpointError, match=r"old holds a network that is not healthy: RBM 0: weights explode"):
        load(tmp_path / "old", network.grid, healthy=True)


# -- sums that hold ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_train", [True, False])
def test_large_sums_of_a_loaded_network(grid: Grid, tmp_path: Path, to_train: bool) -> None:
    """4096 units with weights of 0.51 each way: a sum of 2089, which an int32 of 2^-20 does not hold."""
    network = DeepBeliefNetwork(NetworkSpec((4096, 2)), grid)
    rbm = network.rbms[0]
    rbm.W[:] = 0.51, -0.51
    assert save(network, tmp_path / "wide").healthy
    [rbm] = load(tmp_path / "wide", grid, to_train=to_train).rbms
    on = pack(np.ones((4096, 3)))
    assert np.array_equal(rbm.hidden_given_visible(on), [[1] * 3, [0] * 3])
    states = [rbm.sample_hidden(on, purpose, 0, 0) for purpose in (1, 2)]  # type: ignore[arg-type]
    assert all(state.sums().tolist() == [3, 0] for state in states)
    rows = DeepBeliefNetwork(NetworkSpec((2, 4096)), grid).rbms[0]
    rows.W[:] = [[0.51], [-0.51]]
    rows.refresh()
    assert np.array_equal(rows.visible_given_hidden(on), [[1] * 3, [0] * 3])


def test_sums_that_may_have_wrapped_are_not_healthy(network: DeepBeliefNetwork) -> None:
    rbm, run = network.rbms[0], TrainingRun.of(network)
    rbm.W[:, 2] = 900
    [reason] = health.judge(network).reasons
    assert "RBM 0: weights grow so fast that summed inputs may have wrapped (up to 4.5e+03" in reason
    run.position = Position("finetune")
    assert health.judge(network).healthy, "fine-tuning has no sums of states"
    run.position = Position()
    rbm.refresh()
    assert health.judge(network).healthy
    assert largest_sum_of(rbm.weights.rooms[0]) >= 4500


def test_the_scale_of_sums_goes_with_a_checkpoint(network: DeepBeliefNetwork, tmp_path: Path) -> None:
    rbm = network.rbms[0]
    save(network, tmp_path / "usual")
    rbm.make_room(rbm.bounds()._replace(up=5000 * 1024), 2)
    rooms = rbm.weights.rooms
    assert rooms[0] > 5 == rbm.weights.least_rooms[0]
    save(network, tmp_path / "coarse")
    assert load(tmp_path / "coarse", network.grid).rbms[0].weights.rooms == rooms
    assert "rooms" not in header_of(tmp_path / "usual").metadata["training"]
    survivor = SurvivorState(0, {Position().sort_key: Snapshot.of(network)})
    rebuilt = rebuild(survivor, network.spec, network.grid, network.layout)
    assert rebuilt is not None
    assert rebuilt.rbms[0].weights.rooms == rooms, "a run that lost a rank goes on with another scale"


@pytest.mark.parametrize(
    "rooms", [[], 3, {"rbm.0": [1]}, {"rbm.0": [0, 5]}, {"rbm.0": [5, 2.5]}, {"rbm.0": [5, 2**80]}]
)
def test_a_scale_that_no_one_writes_is_refused(
    network: DeepBeliefNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rooms: object
) -> None:
    write = files.write

    def changed(path, grid, blocks, metadata, status, **how):  # type: ignore[no-untyped-def]
        metadata["training"] = json.dumps({**json.loads(metadata["training"]), "rooms": rooms})
        write(path, grid, blocks, metadata, status, **how)

    monkeypatch.setattr(files, "write", changed)
    save(network, tmp_path / "odd")
    with pytest.raises(CheckpointError, match="does not say where training stood"):
        load(tmp_path / "odd", network.grid)
