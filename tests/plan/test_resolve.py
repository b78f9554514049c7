"""How matrices are held: decided in one place, whoever has placed the units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import partitioners
from modelpar import DeepBeliefNetwork, Grid, load, save
from modelpar.cli import evaluate
from modelpar.cli.config import Settings
from modelpar.cli.train import Attempt
from modelpar.errors import LayoutError
from modelpar.ownership.build_connections import connect
from modelpar.ownership.layout import AUTO, SPARSE, AutoContext, NetworkLayout
from modelpar.ownership.placement import graph_of, place
from modelpar.plan import resolve as plan
from modelpar.plan.resolve import resolve
from modelpar.spec import NetworkSpec

ALONE = MPI.COMM_SELF
SPEC = NetworkSpec((60, 40, 4000), classes=10)  # between nodes a second block pays in the lower matrix only


def grid_of(n_shards: int = 2, *, far: bool = True) -> Any:
    """What ``resolve`` needs of a grid, of more shards than this process has ranks."""
    return SimpleNamespace(n_shards=n_shards, far=far, comm=ALONE, node_comm=ALONE, shard=0)


@pytest.fixture(autouse=True)
def _memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "available_bytes", lambda: 1 << 40)


def owners(spec: NetworkSpec, how: str, folder: Path) -> NetworkLayout | None:
    """As --partition, --partitioner and Python's own arrays give them."""
    if how == "nobody":
        return None
    if how == "partitioner":
        return place(spec, 2, ALONE, partitioner="strided")
    if how == "file":
        made = partitioners.strided(graph_of(spec, connect(spec, ALONE)), 2)
        partitioners.save_placement(folder / "it.npz", made, {})
        return place(spec, 2, ALONE, file=folder / "it.npz")
    sizes = spec.layers if how == "arrays" else (*spec.layers, spec.classes)
    its = [np.arange(n) % 2 for n in sizes[: len(spec.layers)]]
    its += [np.arange(n) * 2 // n for n in sizes[len(spec.layers) :]]
    return NetworkLayout.from_owners(its, 2, spec.layout)


WAYS = ("nobody", "partitioner", "file", "arrays", "arrays with the output layer")


@pytest.mark.parametrize("how", WAYS)
def test_auto_is_chosen_whoever_has_placed_the_units(how: str, tmp_path: Path) -> None:
    placed = owners(SPEC, how, tmp_path)
    assert resolve(SPEC, grid_of(far=False), placed).matrix_layouts == ("row", "column", "row")
    result = resolve(SPEC, grid_of(), placed)
    assert result.matrix_layouts == ("dual", "column", "row")
    if placed is not None:
        assert result.layers[:3] == placed.layers[:3]
    assert resolve(SPEC, grid_of(far=False), result) == result  # what is decided stays


@pytest.mark.parametrize("how", WAYS)
def test_auto_is_not_dual_where_memory_is_short(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "available_bytes", lambda: 1 << 10)
    assert resolve(SPEC, grid_of(), owners(SPEC, how, tmp_path)).matrix_layouts == ("row", "column", "row")


@pytest.mark.parametrize("how", WAYS[:4])
@pytest.mark.parametrize(
    ("layout", "chosen"),
    [
        ("dual", ("dual", "dual", "column")),  # by gradients an output layer learns one block only
        ("column", ("column", "column", "column")),
        ("row,auto,column", ("row", "column", "column")),
        ("auto,row,auto", ("dual", "row", "row")),
    ],
)
def test_words_mean_the_same_whoever_has_placed_the_units(
    layout: str, chosen: tuple[str, ...], how: str, tmp_path: Path
) -> None:
    spec = replace(SPEC, layout=layout)
    if how == "arrays":
        placed: NetworkLayout | None = replace(NetworkLayout.from_owners([np.arange(n) % 2 for n in SPEC.layers], 2),
                                               matrix_layouts=tuple(layout.split(",") * 3)[:2])  # fmt: skip
    else:
        placed = owners(spec, how, tmp_path)
    assert resolve(spec, grid_of(), placed).matrix_layouts == chosen


@pytest.mark.parametrize("how", [*WAYS[:4], "tiles"])
def test_complete_connections_beside_listed_ones(how: str, tmp_path: Path) -> None:
    spec = NetworkSpec((64, 72, 20), classes=3, connections="local:3,dense")
    placed = place(spec, 2, ALONE) if how == "tiles" else owners(spec, how, tmp_path)
    result = resolve(spec, grid_of(), placed)
    assert result.matrix_layouts == (SPARSE, "dual", "row")
    assert [listed is not None for listed in result.connections] == [True, False, False]
    assert resolve(spec, grid_of(far=False), placed).matrix_layouts == (SPARSE, "row", "row")


def test_connections_that_are_given_go_before_those_that_the_owners_have() -> None:
    spec = NetworkSpec((12, 8), connections="random:3")
    sparse = resolve(spec, grid_of())
    dense = resolve(replace(spec, connections="dense"), grid_of(), sparse, connections=[None])
    assert (dense.matrix_layouts, dense.connections) == (("dual",), ())
    again = resolve(spec, grid_of(), dense, connections=sparse.connections)
    assert (again.matrix_layouts, again.connections) == ((SPARSE,), sparse.connections)
    with pytest.raises(LayoutError, match="of 2 RBMs, but the network has 1"):
        resolve(spec, grid_of(), dense, connections=[None, None])


@pytest.mark.parametrize("asked", [{}, {"partitioner": "strided"}, {"partition": "it.npz"}], ids=str)
@pytest.mark.parametrize("connections", ["dense", "random:3,dense"])
def test_trained_from_the_command_line(
    asked: dict[str, str], connections: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = replace(SPEC, layers=(60, 40, 30), connections=connections)
    owners(spec, "file", tmp_path)
    attempt: Any = SimpleNamespace(settings=Settings({"grid": dict(asked)}), crew=SimpleNamespace(layout=None))
    layout = Attempt._layout(attempt, spec, grid_of(), None)
    assert layout.matrix_layouts == ("dual" if connections == "dense" else SPARSE, "dual", "row")


@pytest.mark.parametrize("asked", [{}, {"partitioner": "strided"}, {"partition": "it.npz"}], ids=str)
@pytest.mark.parametrize("connections", ["dense", "random:3,dense"])
def test_every_door_of_a_network(
    asked: dict[str, str], connections: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rank, which takes itself for two of which each has a node."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "auto_context", lambda spec, grid: AutoContext(2, far=True, dual_fits=True))
    spec = NetworkSpec((12, 8, 5), classes=3, connections=connections)
    wanted = ("dual" if connections == "dense" else SPARSE, "dual", "row")
    made = partitioners.strided(graph_of(spec, connect(spec, ALONE)), 1)
    partitioners.save_placement("it.npz", made, {})
    with Grid(ALONE) as grid:
        placed = place(spec, 1, ALONE, partitioner=asked.get("partitioner"), file=asked.get("partition"))
        network = DeepBeliefNetwork(spec, grid, placed if asked else None)
        assert network.layout.matrix_layouts == wanted
        assert [rbm.parameters.rows is not None for rbm in network.rbms] == [name == "dual" for name in wanted[:2]]
        save(network, tmp_path / "it")
        assert load(tmp_path / "it", grid, placed if asked else None).layout.matrix_layouts == wanted
        opened = evaluate.open_network(tmp_path / "it", grid, Settings({"grid": dict(asked)}))
        assert opened.layout.matrix_layouts == wanted


def test_auto_is_still_open_where_the_grid_is_not_known() -> None:
    assert place(SPEC, 2, ALONE, partitioner="block").matrix_layouts == (AUTO, AUTO)
    assert NetworkLayout.from_owners([[0, 1], [1, 1, 0]], 2).matrix_layouts == (AUTO,)
