"""Data over several ranks: each reads its own columns, splits are the same, and one rank's failure is everyone's."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelpar.data import (
    DataFeed,
    Minibatches,
    cache,
    check_range,
    column_moments,
    named,
    open_dataset,
    write_packed,
)
from modelpar.data.packed_files import PackedTable
from modelpar.errors import DataError, ModelparError
from modelpar.kernels.states import unpack
from modelpar.machine import caches
from modelpar.ownership.layout import UnitLayout
from modelpar.spec import DataSpec

pytestmark = pytest.mark.ranks

GREY = np.random.default_rng(7).integers(0, 256, (60, 13), dtype=np.uint8)


@pytest.fixture
def folder(comm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all ranks."""
    return Path(comm.bcast(str(tmp_path_factory.mktemp("data")) if comm.rank == 0 else None))


def mine(comm: Any, n_units: int) -> np.ndarray[Any, Any]:
    """Scattered units, the same partition on every rank."""
    owner = np.random.default_rng(5).integers(0, comm.size, n_units)
    return UnitLayout.from_owners(owner, comm.size).owned(comm.rank)


@pytest.mark.parametrize("name", ["digits", "bars:4", "patterns:9"])
def test_ranks_together_feed_what_one_rank_feeds(comm: Any, agree: Any, name: str) -> None:
    data, alone = open_dataset(name, comm, seed=3), open_dataset(name, seed=3)
    ids, every = mine(comm, data.n_visible), np.arange(data.n_visible)
    agree(np.array_equal(data.train.rows, alone.train.rows))
    check_range(data, ids, "bernoulli", comm=comm)
    for mean, whole in zip(column_moments(data.train, ids, comm=comm), column_moments(alone.train, every), strict=True):
        agree(np.array_equal(mean, whole[ids]))
    samples = Minibatches(len(data.train), 32, 3).indices(1, 2)
    for binarise in ("none", "stochastic", "0.5"):
        feed = DataFeed(data.train, ids, scale=data.scale, binarise=binarise, seed=4, comm=comm)
        reference = DataFeed(alone.train, every, scale=data.scale, binarise=binarise, seed=4)
        out, wanted = np.empty((len(ids), 32), np.float32), np.empty((data.n_visible, 32), np.float32)
        feed.fill(samples, 64, out)
        reference.fill(samples, 64, wanted)
        agree(np.array_equal(out, wanted[ids]))


def test_a_file_that_one_rank_lacks_is_an_error_on_all(comm: Any, agree: Any, folder: Path) -> None:
    path = folder / f"{'x' if comm.rank < comm.size - 1 else 'missing'}.npy"
    if comm.rank == 0 and comm.size > 1:
        np.save(path, GREY)
    comm.barrier()
    with pytest.raises(ModelparError, match=r"missing\.npy does not exist"):
        open_dataset(str(path), comm)
    agree(True)


def test_damage_found_while_reading_is_an_error_on_all(comm: Any, agree: Any, folder: Path) -> None:
    path = folder / "x.gz"
    if comm.rank == 0:
        content = bytes([0, 0, 8, 2]) + b"".join(n.to_bytes(4, "big") for n in GREY.shape) + GREY.tobytes()
        packed = bytearray(gzip.compress(content))
        packed[len(packed) // 2] ^= 0xFF  # the length at the end still fits: only unpacking shows it
        path.write_bytes(packed)
    comm.barrier()
    data = open_dataset(str(path), comm)
    ids = mine(comm, 13) if comm.rank else np.arange(0)  # the first rank owns nothing and so reads nothing
    if comm.size > 1:
        with pytest.raises(ModelparError, match=r"x\.gz is"):
            DataFeed(data.train, ids, comm=comm)
        with pytest.raises(ModelparError, match=r"x\.gz is"):
            column_moments(data.train, ids, comm=comm)
    agree(True)


@pytest.mark.parametrize("value", [np.nan, 1.5])
def test_a_value_in_one_ranks_columns_is_an_error_on_all(comm: Any, agree: Any, folder: Path, value: float) -> None:
    path = folder / "x.npy"
    if comm.rank == 0:
        values = GREY / 255
        values[:, 7] = value
        np.save(path, values)
    comm.barrier()
    data = open_dataset(str(path), comm)
    with pytest.raises(ModelparError, match="finite" if np.isnan(value) else "up to|to 1.5"):
        check_range(data, mine(comm, 13), "bernoulli", comm=comm)
    agree(True)


def test_states_in_bytes_are_told_from_dark_columns_of_grey_values(comm: Any, agree: Any, folder: Path) -> None:
    if comm.rank == 0:
        np.save(folder / "states.npy", GREY > 127)
        np.save(folder / "bytes.npy", (GREY > 127).astype(np.uint8))
        dark = (GREY > 127).astype(np.uint8)
        dark[:, 0] = 200  # one bright unit: then the others' ones are dark grey
        np.save(folder / "dark.npy", dark)
    comm.barrier()
    for name in ("states", "dark"):
        check_range(open_dataset(str(folder / f"{name}.npy"), comm), mine(comm, 13), "bernoulli", comm=comm)
    with pytest.raises(ModelparError, match="only 0 and 1"):
        check_range(open_dataset(str(folder / "bytes.npy"), comm), mine(comm, 13), "bernoulli", comm=comm)
    agree(True)


def test_a_named_set_that_is_absent_is_an_error_on_all(comm: Any, agree: Any, folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MODELPAR_DATA", str(folder))
    monkeypatch.setattr(named, "cache_folder", lambda: folder / "cache")
    with pytest.raises(ModelparError, match="download train-images"):
        open_dataset("mnist", comm)
    agree(True)


@pytest.fixture
def own_cache(comm: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory for all ranks, in which small data sets are kept too."""
    monkeypatch.setattr(caches.platformdirs, "user_cache_path", lambda name: folder / "cache" / name)
    monkeypatch.setattr(cache, "LEAST", 1)
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    return folder / "cache" / "modelpar" / "packed"


STATES = GREY > 127


@pytest.mark.parametrize("binarise", ["none", "stochastic", "0.5"])
def test_ranks_together_have_the_states_that_one_rank_has(
    comm: Any, agree: Any, folder: Path, own_cache: Path, binarise: str
) -> None:
    if comm.rank == 0:
        np.save(folder / "grey.npy", GREY)
        np.savez_compressed(folder / "states.npz", data=STATES)
        np.savez_compressed(folder / "grey.npz", data=GREY)
        write_packed(folder / "packed.npz", STATES)
    comm.barrier()
    for name in ("grey.npy", "states.npz", "grey.npz", "packed.npz"):
        spec = DataSpec(data=str(folder / name), binarise=binarise)
        data, alone = open_dataset(spec, comm, seed=3), open_dataset(spec, seed=3)
        ids, every = mine(comm, 13), np.arange(13)
        feed = DataFeed(data.train, ids, scale=data.scale, binarise=binarise, seed=4, comm=comm)
        reference = DataFeed(alone.train, every, scale=data.scale, binarise=binarise, seed=4)
        agree(feed.binary == reference.binary == (binarise != "none" or "grey" not in name))
        if feed.binary:
            samples = np.arange(len(data.train))[::-1]
            agree(np.array_equal(feed.states(samples, 64).words, reference.states(samples, 64).words[ids]))


def test_one_value_in_one_ranks_columns_is_known_to_all(comm: Any, agree: Any, folder: Path) -> None:
    if comm.rank == 0:
        values = STATES.astype(np.float32)
        np.save(folder / "states.npy", values)
        values[-1, 7] = 0.5
        np.save(folder / "almost.npy", values)
    comm.barrier()
    for name in ("states", "almost"):
        data = open_dataset(DataSpec(data=str(folder / f"{name}.npy"), test_fraction=0.0), comm)
        ids = mine(comm, 13)
        feed = DataFeed(data.train, ids, comm=comm)
        agree(feed.binary == (name == "states"))
        out = np.empty((len(ids), 60), np.float32)
        feed.fill(np.arange(60), 0, out)  # also where a rank's own columns are states, but not those of others
        wanted = STATES.astype(np.float32)
        if name == "almost":
            wanted[-1, 7] = 0.5
        agree(np.array_equal(out, wanted.T[ids]))


def test_one_rank_of_a_node_fills_the_cache_for_all(
    comm: Any, agree: Any, folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if comm.rank == 0:
        np.savez_compressed(folder / "states.npz", data=STATES)
    comm.barrier()
    made: list[Path] = []
    save_bits = cache.save_bits
    monkeypatch.setattr(
        cache, "save_bits", lambda path, *rest, **more: (made.append(path), save_bits(path, *rest, **more))
    )
    for _ in range(2):
        table = open_dataset(str(folder / "states.npz"), comm).train.table
        agree(isinstance(table, PackedTable))
    agree(comm.allreduce(len(made)) == 1)  # by the second opening nothing was left to be made
    agree(len(list(own_cache.iterdir())) == 1)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_in_any_ranks_part_is_an_error_on_all(comm: Any, agree: Any, folder: Path, place: float) -> None:
    path = folder / f"bits-{place}.npz"
    if comm.rank == 0:
        write_packed(path, np.random.default_rng(0).random((500, 64)) < 0.5)
    comm.barrier()
    open_dataset(str(path), comm)
    comm.barrier()
    if comm.rank == 0:
        content = bytearray(path.read_bytes())
        content[300 + int(4000 * place * 0.9)] ^= 1
        path.write_bytes(content)
    comm.barrier()
    said = ""
    try:
        open_dataset(str(path), comm)
    except ModelparError as error:
        said = str(error)
    agree("is corrupt: its checksum is" in said, said)


def test_other_files_on_other_ranks_are_told_apart(comm: Any, agree: Any, folder: Path) -> None:
    """One of them packed: what its ranks check of it is no call that the others do not make."""
    if comm.rank == 0:
        write_packed(folder / "packed.npz", STATES)
        np.save(folder / "plain.npy", STATES)
    comm.barrier()
    said = ""
    try:
        open_dataset(str(folder / ("plain.npy" if comm.rank else "packed.npz")), comm)
    except ModelparError as error:
        said = str(error)
    agree(comm.size == 1 or "every rank must bring the same" in said, said)


def test_a_cache_that_some_ranks_cannot_see_is_no_error(
    comm: Any, agree: Any, folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if comm.rank == 0:
        np.savez_compressed(folder / "states.npz", data=STATES)
    comm.barrier()
    if comm.rank == comm.size - 1 and comm.size > 1:
        monkeypatch.setattr(cache, "_opened", lambda *_, **__: None)
    data = open_dataset(DataSpec(data=str(folder / "states.npz"), test_fraction=0.0), comm)
    ids = mine(comm, 13)
    feed = DataFeed(data.train, ids, comm=comm)
    agree(feed.binary)
    agree(np.array_equal(unpack(feed.states(np.arange(60), 0)), STATES.T[ids]))


def test_ranks_share_the_pairs_of_sequences(comm: Any, agree: Any) -> None:
    """And find the weights that one rank finds; what is no such data is refused on all."""
    sites = np.random.default_rng(2).integers(0, 3, (700, 8))
    one_hot = (sites[:, :, None] == np.arange(3)).reshape(700, 24)
    how: dict[str, Any] = {"weights": "auto", "identity": 0.75, "visible": "categorical:3"}
    data, alone = open_dataset(one_hot, comm, **how), open_dataset(one_hot, **how)
    for split, whole in ((data.train, alone.train), (data.test, alone.test)):
        assert split is not None
        assert whole is not None
        agree(np.array_equal(split.weights, whole.weights) and len(np.unique(split.weights)) > 3)
    ids = mine(comm, 24)
    with pytest.raises(DataError, match="each rank has columns of its own"):
        open_dataset(one_hot[:, ids], comm, columns=ids, **how)
    with pytest.raises(DataError, match="have the value -1 for sample 2"):
        open_dataset(one_hot, comm, weights=[1.0, 1.0, -1.0, *[1.0] * 697])
