"""Data from memory over several ranks: the model that a file of the same values makes, to the last bit, whether every
rank brings all columns or only its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI
from scipy import sparse

from modelpar import (
    DeepBeliefNetwork,
    FineTuneSpec,
    NetworkSpec,
    TrainingSpec,
    evaluate,
    fine_tune,
    open_dataset,
    pretrain,
    save,
)
from modelpar.comm.grid import Grid
from modelpar.data import DataFeed
from modelpar.errors import DataError, DisagreementError
from tests.networks import grids

pytestmark = pytest.mark.ranks

UNITS = 13
RNG = np.random.default_rng(8)
KINDS: dict[str, Any] = {
    "states": RNG.random((60, UNITS)) < 0.4,
    "grey": RNG.integers(0, 256, (60, UNITS), dtype=np.uint8),
    "levels": (RNG.integers(0, 17, (60, UNITS)) / 16).astype(np.float32),
}
Y = RNG.integers(0, 3, 60)


@pytest.fixture
def folder(comm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all ranks."""
    return Path(comm.bcast(str(tmp_path_factory.mktemp("data")) if comm.rank == 0 else None))


def trained(grid: Grid, data: Any, network: DeepBeliefNetwork, path: Path) -> tuple[bytes, dict[str, float]]:
    for _ in pretrain(network, data, TrainingSpec(epochs=2, batch_size=20)):
        pass
    for _ in fine_tune(network, data, FineTuneSpec(epochs=1)):
        pass
    measures = evaluate(network, data, data.test)
    assert network.run is not None
    network.run.data = None  # what a file is known by, which arrays are not
    save(network, path)
    return path.read_bytes(), measures


@pytest.mark.parametrize(("kind", "layout"), [("states", "column"), ("grey", "row"), ("levels", "column")])
def test_the_same_model_as_from_files(comm: Any, agree: Any, folder: Path, kind: str, layout: str) -> None:
    x, options = KINDS[kind], {"test_fraction": 0.2, "validation_fraction": 0.1, "seed": 3}
    if comm.rank == 0:
        np.savez(folder / "x.npz", data=x, labels=Y)
    comm.Barrier()
    for shards, replicas in grids(comm):
        grid = Grid(comm, model_shards=shards, replicas=replicas)
        made = []
        for form in ("file", "array", "sparse", "own"):
            network = DeepBeliefNetwork(NetworkSpec((UNITS, 7, 5), classes=3, layout=layout, seed=2), grid)
            mine = network.visible_ids[::-1]  # in any order
            if form == "file":
                data = open_dataset(folder / "x.npz", comm, **options)
            elif form == "array":
                data = open_dataset(np.asfortranarray(x), Y, comm, **options)
            elif form == "sparse":
                data = open_dataset(sparse.csc_matrix(x), Y, comm, **options)
            else:
                own = sparse.coo_array(x[:, mine]) if layout == "row" else x[:, mine]
                data = open_dataset(own, Y[:, None].astype(float), comm, columns=mine, **options)
            agree(data.n_visible == UNITS)
            made.append(trained(grid, data, network, folder / "m.safetensors"))
        agree(all(one == made[0] for one in made), f"{kind}, {layout}, {shards} x {replicas}")
        grid.free()


def test_own_test_sets_and_what_others_have(comm: Any, agree: Any) -> None:
    x, grid = KINDS["levels"], Grid(comm)
    network = DeepBeliefNetwork(NetworkSpec((UNITS, 4)), grid)
    mine = network.visible_ids
    data = open_dataset(x[:, mine], Y, comm, columns=mine, test=(x[:9, mine], Y[:9]))
    agree(data.test is not None and len(data.test) == 9 and data.test.table.n_units == UNITS)
    others = np.setdiff1d(np.arange(UNITS), mine)
    if comm.size > 1:
        with pytest.raises(DataError, match="visible_ids"):
            DataFeed(data.train, others, comm=comm)
    # a rank may own nothing
    first = mine if comm.size == 1 else np.arange(UNITS) if comm.rank == 0 else np.arange(0)
    agree(open_dataset(x[:, first].astype(np.float64), Y, comm, columns=first).n_visible == UNITS)
    grid.free()


def test_ranks_that_bring_the_same_argument_in_another_form(comm: Any, agree: Any, folder: Path) -> None:
    x, last = KINDS["levels"], comm.rank == comm.size - 1
    if comm.rank == 0:
        np.save(folder / "x.npy", x)
        for i, values in enumerate((x, x[::-1])):
            (folder / str(i)).mkdir(exist_ok=True)
            np.savez_compressed(folder / str(i) / "x.npz", data=values)
    comm.Barrier()
    path = folder / "x.npy"
    agree(open_dataset(bytes(path) if last else path, Y, comm).n_visible == UNITS)
    agree(open_dataset(x.tolist() if last else x.astype(float), Y, comm).n_visible == UNITS)
    calls: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"X": path}, {"X": x}), ({"X": "digits"}, {"X": x}), ({"X": x, "y": Y}, {"X": x}),
        ({"X": x, "test": path}, {"X": x}), ({"X": x, "test": (x, Y)}, {"X": x, "test": x}),
        ({"X": x, "columns": np.arange(UNITS)}, {"X": x}),
    ]  # fmt: skip
    for one, other in calls if comm.size > 1 else []:
        for mine in ((one, other)[last], (other, one)[last]):
            with pytest.raises(DisagreementError):
                open_dataset(comm=comm, **mine)
    # a name that is another file to another rank, whose values are not read before training
    before = Path.cwd()
    os.chdir(folder / str(int(last and comm.size > 1)))
    try:
        if comm.size > 1:
            with pytest.raises(DisagreementError, match=r"the content of x\.npz"):
                open_dataset("x.npz", Y, comm)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_that_several_ranks_hand_over_are_the_same(comm: Any, agree: Any, kind: str) -> None:
    x, last = KINDS[kind], comm.rank == comm.size - 1
    every, changed = np.arange(UNITS), x.copy()
    changed[7, 3] = x.min() if x[7, 3] > x.min() else x.max()
    forms = [np.asfortranarray(x), sparse.coo_array(x), x[:, ::-1]]
    mine = forms[comm.rank % 3]
    ids = every[::-1] if comm.rank % 3 == 2 else every
    agree(open_dataset(mine, Y, comm, columns=ids).n_visible == UNITS)
    for other in (changed, x[::-1], np.roll(x, 1, axis=0), sparse.csr_matrix(changed)) if comm.size > 1 else ():
        with pytest.raises(DisagreementError, match="is not that on rank"):
            open_dataset(other if last else x, Y, comm, columns=every)
        with pytest.raises(DisagreementError, match="is not that on rank"):
            open_dataset(x, Y, comm, columns=every, test=other if last else x)


def test_what_is_wrong_on_one_rank_is_raised_on_all(comm: Any) -> None:
    x, last = KINDS["levels"], comm.rank == comm.size - 1
    mine = np.arange(UNITS) if comm.size == 1 else np.arange(comm.rank, UNITS, comm.size)
    masked = np.ma.masked_less(x, 2)
    with pytest.raises(DataError, match="masked"):
        open_dataset(masked if last else x, Y, comm)
    with pytest.raises((DataError, DisagreementError), match=r"labels|y is"):
        open_dataset(x, Y[:5] if last else Y, comm)
    with pytest.raises(DataError, match="no rank"):
        open_dataset(x[:, mine[mine > 0]], Y, comm, columns=mine[mine > 0])
    with pytest.raises(DataError, match="columns"):
        open_dataset(x[:, mine[1:]] if last else x[:, mine], Y, comm, columns=mine)
    if comm.size > 1:
        with pytest.raises(DataError, match="samples"):
            open_dataset(x[: 59 if last else 60, mine], None, comm, columns=mine)
        with pytest.raises(DataError, match=r"1\.0"):
            open_dataset(x[:, mine].astype(np.uint8) if last else x[:, mine], Y, comm, columns=mine)
        network = DeepBeliefNetwork(NetworkSpec((UNITS, 4)), Grid(comm))
        rows = len(network.visible_ids)
        with pytest.raises(DataError, match="units"):
            network.reconstruct(np.ones((rows + last, 3)))
        with pytest.raises(DisagreementError, match="samples is"):
            network.propagate_up(np.ones((rows, 3 + last)))
    assert MPI.Is_initialized()
