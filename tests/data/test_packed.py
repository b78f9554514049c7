"""Binary data: bits in memory and in files against plain NumPy, states against what a feed fills, and the cache.

Modules: modelpar/data/bits, modelpar/data/cache, modelpar/data/drawn, modelpar/data/packed_files,
modelpar/data/states
"""

from __future__ import annotations

import errno
import gzip
import mmap
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from modelpar.data import DataFeed, Split, check_range, column_moments, open_dataset, packed_folder, write_packed
from modelpar.data import cache as cache_module
from modelpar.data import states as states_module
from modelpar.data.bits import gather_bits, pack_words, pick_bits, spread_bits
from modelpar.data.columns import DenseColumns
from modelpar.data.dataset import MappedTable
from modelpar.data.packed import LOOKED_AT, Keeper, PackedColumns
from modelpar.data.packed_files import PackedTable
from modelpar.draws import Purpose, Stream, uniform
from modelpar.errors import DataError
from modelpar.kernels import threads
from modelpar.kernels.states import Packed, unpack
from modelpar.machine import caches
from modelpar.spec import DataSpec

Array = np.ndarray[Any, Any]

RNG = np.random.default_rng(11)
N, UNITS = 203, 300
STATES = RNG.random((N, UNITS)) < 0.3
GREY = RNG.integers(0, 256, (N, UNITS), dtype=np.uint8)
GREY[:, :40] = 0  # as the dark edge of pictures
GREY[5, 3], GREY[:, 50] = 255, 51


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache directory for each test, switched on."""
    folder = tmp_path / "user's cache"
    monkeypatch.setattr(caches.platformdirs, "user_cache_path", lambda name: folder / name)
    monkeypatch.delenv(cache_module.VARIABLE, raising=False)
    return folder / "modelpar" / "packed"


def rows_of_bits(states: Array) -> Array:
    """The bits of states (n, units), with ones where a row's last byte has no units: nobody may look at them."""
    bits = np.packbits(states, axis=1, bitorder="little")
    if states.shape[1] % 8:
        bits[:, -1] |= np.uint8(0xFF << states.shape[1] % 8 & 0xFF)
    return bits


def same(packed: Packed, states: Array) -> bool:
    """Whether packed states are those (units, batch), and bits behind the last sample are zero."""
    n_words = -(-states.shape[1] // 64)
    octets = np.zeros((len(states), n_words * 8), np.uint8)
    octets[:, : -(-states.shape[1] // 8)] = np.packbits(states != 0, axis=1, bitorder="little")
    return packed.batch == states.shape[1] and np.array_equal(packed.words[:, 0], octets.view("<u8"))


# -- kernels and columns


@pytest.mark.parametrize("batch", [0, 1, 63, 64, 65, 200])
@pytest.mark.parametrize("n_units", [0, 1, 7, 8, 63, 64, 65, 300, 2049, 4200])
def test_gathered_bits_are_those_of_numpy(n_units: int, batch: int) -> None:
    states = RNG.random((90, n_units)) < 0.4
    rows = RNG.integers(0, 90, batch)
    columns = PackedColumns(rows_of_bits(states), n_units)
    assert same(columns.states(rows), states[rows].T)
    if n_units > 64:
        words = np.empty((n_units - 64, -(-batch // 64)), np.uint64)
        gather_bits(columns.bits, rows, 64, words)
        assert np.array_equal(words, columns.states(rows).rows[64:])


def test_threads_gather_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    states = RNG.random((150, 1000)) < 0.4
    columns = PackedColumns(rows_of_bits(states), 1000)
    threads.set_threads(3)
    try:
        monkeypatch.setattr("modelpar.data.packed._GRAIN", 1)
        assert same(columns.states(np.arange(150)), states.T)
    finally:
        threads.set_threads(1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n_units", "batch"), [(1, 1), (65, 63), (300, 200), (2050, 70)])
def test_packed_rows_are_those_of_numpy(dtype: Any, n_units: int, batch: int) -> None:
    values = RNG.random((n_units, batch)).astype(dtype)
    bits, packed = np.full((batch, -(-n_units // 8)), 0xAA, np.uint8), Packed.empty(n_units, batch)
    assert pack_words(values, 0.5, False, packed.rows)
    assert same(packed, values > 0.5)
    assert pack_words((values > 0.3).astype(dtype), 0.5, True, packed.rows)
    assert same(packed, values > 0.3)
    spread_bits(packed.rows, bits)
    assert np.array_equal(bits, np.packbits(values.T > 0.3, axis=1, bitorder="little"))
    for wrong in (0.5, 2, -1, np.nan, np.inf):
        values = np.zeros((n_units, batch), dtype)
        values[-1, -1] = wrong
        assert not pack_words(values, 0.5, True, packed.rows)


def test_picked_bits_are_those_of_numpy() -> None:
    units = RNG.permutation(UNITS)[:77]
    bits = np.empty((N, 10), np.uint8)
    pick_bits(rows_of_bits(STATES), units, bits)
    assert np.array_equal(bits, np.packbits(STATES[:, units], axis=1, bitorder="little"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("raw", "high"), [(np.uint8, 255), (np.float32, 1), (np.float64, 0.3), (np.uint8, 1)])
def test_packed_columns_fill_the_same_bits_as_dense_ones(raw: Any, high: float, dtype: Any) -> None:
    values = (STATES * np.array(high, raw)).astype(raw)
    keeper = Keeper(N, UNITS, raw)
    keeper.add(values)
    packed, dense = keeper.columns(), DenseColumns(values)
    assert isinstance(packed, PackedColumns)
    rows = RNG.permutation(N)[:71]
    for offset, scale in ((None, None), (RNG.random(UNITS), RNG.random(UNITS) + 0.1)):
        out, wanted = np.empty((UNITS, 71), dtype), np.empty((UNITS, 71), dtype)
        packed.fill(rows, out, offset, scale)
        dense.fill(rows, wanted, offset, scale)
        assert np.array_equal(out, wanted)
    with pytest.raises(ValueError, match="C-contiguous"):
        packed.fill(rows, np.empty((71, UNITS)).T)


def test_the_summary_of_bits_is_that_of_numpy() -> None:
    values = (STATES * 255).astype(np.float64)
    values[:, 3], values[:, 4] = 0, 255
    rows = np.sort(RNG.permutation(N)[:150])
    columns = PackedColumns(rows_of_bits(values > 0), UNITS, high=255)
    result, wanted = columns.summary(rows), DenseColumns(values.astype(np.uint8)).summary(rows)
    assert np.array_equal(result.low, values[rows].min(axis=0))
    assert np.array_equal(result.high, values[rows].max(axis=0))
    assert result.finite.all()
    np.testing.assert_allclose(result.mean, wanted.mean, rtol=1e-15)
    np.testing.assert_allclose(result.std, values[rows].std(axis=0), rtol=1e-13)


@pytest.mark.parametrize("late", [None, 0, 63, 64, 150, 202])
@pytest.mark.parametrize("raw", [np.uint8, np.float32, np.float64])
def test_rows_are_bits_until_a_third_value_comes(raw: Any, late: int | None) -> None:
    values = (STATES * 7).astype(raw)
    if late is not None:
        values[late, 299] = 9
    keeper = Keeper(N, UNITS, raw)
    for start in range(0, N, 50):
        keeper.add(values[start : start + 50])
    columns = keeper.columns()
    assert isinstance(columns, DenseColumns if late is not None else PackedColumns)
    out = np.empty((UNITS, N), raw if raw != np.uint8 else np.float32)
    columns.fill(np.arange(N), out)
    assert np.array_equal(out, values.T)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0, 1e200])
def test_values_that_check_range_must_see_are_not_packed(wrong: float) -> None:
    keeper = Keeper(9, 9, np.float64)
    keeper.add(np.where(np.eye(9) > 0, wrong, 0.0))
    assert isinstance(keeper.columns(), DenseColumns)


# -- feeds


def write_npy(path: Path, values: Array) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def write_npz(path: Path, values: Array) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, data=values)


def write_fortran(path: Path, values: Array) -> None:
    with path.open("wb") as file:
        np.save(file, np.asfortranarray(values))


def write_idx_gzip(path: Path, values: Array) -> None:
    sizes = b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    path.write_bytes(gzip.compress(bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes(), 1))


def write_sparse(path: Path, values: Array) -> None:
    with path.open("wb") as file:
        scipy.sparse.save_npz(file, scipy.sparse.csr_array(values))


def write_bits(path: Path, values: Array) -> None:
    write_packed(path, values)


BINARY = {
    "bool": (write_npy, STATES), "float32": (write_npy, STATES.astype(np.float32)),
    "float64": (write_npy, STATES.astype(np.float64)), "int64": (write_npy, STATES.astype(np.int64)),
    "bytes": (write_npy, STATES.astype(np.uint8) * np.uint8(255)), "archive": (write_npz, STATES),
    "fortran": (write_fortran, STATES), "gzip": (write_idx_gzip, STATES * np.uint8(255)),
    "sparse": (write_sparse, STATES), "sparse grey": (write_sparse, STATES * np.uint8(255)),
    "packed": (write_bits, STATES), "packed bytes": (write_bits, STATES * np.uint8(255)),
}  # fmt: skip
OTHER = {
    "grey": (write_npy, GREY), "grey gzip": (write_idx_gzip, GREY), "grey sparse": (write_sparse, GREY),
    "real": (write_npy, GREY / 255.0), "real float32": (write_npz, (GREY / 255).astype(np.float32)),
    "nearly": (write_npy, np.where(STATES, 1.0 - 1e-12, 0.0)),
}  # fmt: skip
IDS = {"all": np.arange(UNITS), "some": RNG.permutation(UNITS)[:77], "block": np.arange(9, 290), "none": np.arange(0)}


def feed_of(path: Path, units: Array, binarise: str, comm: Any = None) -> tuple[DataFeed, Split]:
    data = open_dataset(DataSpec(data=str(path), test_fraction=0.2), seed=3)
    return DataFeed(data.train, units, scale=data.scale, binarise=binarise, seed=4, comm=comm), data.train


def expected(values: Array, feed: DataFeed, samples: Array, draws: int | Array, binarise: str) -> Array:
    """States (units, batch) by NumPy alone: scaled values are float32 where they are compared."""
    chosen = values[feed.rows[samples]][:, feed.unit_ids].T
    if values.dtype == np.uint8:
        scaled = chosen.astype(np.float32) / np.float32(255)
    else:
        scaled = chosen.astype(np.float64).astype(np.float32)
    if binarise != "stochastic":
        return scaled > np.float32(0.5 if binarise == "none" else binarise)
    drawn = np.empty(scaled.shape, np.float32)
    uniform(Stream(4, 0, Purpose.DATA), feed.unit_ids, draws, drawn)
    return drawn < scaled


@pytest.mark.parametrize("units", IDS)
@pytest.mark.parametrize("binarise", ["none", "stochastic", "0.5"])
@pytest.mark.parametrize("kind", BINARY)
def test_binary_data_are_states(tmp_path: Path, kind: str, binarise: str, units: str) -> None:
    write, values = BINARY[kind]
    write(tmp_path / "file", values)
    feed, _ = feed_of(tmp_path / "file", IDS[units], binarise)
    assert feed.binary
    states = STATES[feed.rows][:, IDS[units]].T
    for batch in (0, 1, 64, 131):
        samples = RNG.permutation(feed.n_samples)[:batch]
        assert same(feed.states(samples, 1234), states[:, samples])
        for dtype in (np.float32, np.float64):
            out = np.full((len(IDS[units]), batch), np.nan, dtype)
            feed.fill(samples, 1234, out)
            assert np.array_equal(out, states[:, samples])


@pytest.mark.parametrize("units", IDS)
@pytest.mark.parametrize("binarise", ["stochastic", "0.3", "0.2", "1.0", "-1"])
@pytest.mark.parametrize("kind", OTHER)
def test_binarised_data_are_states(tmp_path: Path, kind: str, binarise: str, units: str) -> None:
    write, values = OTHER[kind]
    write(tmp_path / "file", values)
    feed, _ = feed_of(tmp_path / "file", IDS[units], binarise)
    assert feed.binary
    for batch, draws in ((0, 0), (1, 2), (63, 0), (64, 9), (131, 2**40 + 3), (70, RNG.integers(0, 2**40, 70))):
        samples = RNG.permutation(feed.n_samples)[:batch]
        wanted = expected(values, feed, samples, draws, binarise)
        assert same(feed.states(samples, draws), wanted)
        for dtype in (np.float32, np.float64):
            out = np.full(wanted.shape, np.nan, dtype)
            feed.fill(samples, draws, out)
            assert np.array_equal(out, wanted)


@pytest.mark.parametrize("kind", OTHER)
def test_other_data_are_no_states(tmp_path: Path, kind: str) -> None:
    write, values = OTHER[kind]
    write(tmp_path / "file", values)
    feed, _ = feed_of(tmp_path / "file", np.arange(UNITS), "none")
    assert not feed.binary
    with pytest.raises(ValueError, match="not only 0 and 1"):
        feed.states(np.arange(3), 0)


def test_one_value_in_the_last_row_tells(tmp_path: Path) -> None:
    values = (RNG.random((LOOKED_AT + 100, 9)) < 0.5).astype(np.float32)
    for wrong in (None, 0.5, np.nan):
        if wrong is not None:
            values[-1, -1] = wrong
        split = Split(MappedTable("values", values), np.arange(len(values)))
        assert DataFeed(split, np.arange(9)).binary == (wrong is None)
        assert DataFeed(split, np.arange(8)).binary


def test_shift_and_scale_count(tmp_path: Path) -> None:
    split = Split(MappedTable("values", STATES.astype(np.float32) * 2 + 3), np.arange(N))
    assert DataFeed(split, np.arange(UNITS), offset=3, scale=2).binary
    assert not DataFeed(split, np.arange(UNITS), offset=3).binary
    assert not DataFeed(split, np.arange(UNITS)).binary
    write_packed(tmp_path / "x.npz", STATES)
    split = open_dataset(str(tmp_path / "x.npz")).train
    assert DataFeed(split, np.arange(UNITS)).binary
    assert not DataFeed(split, np.arange(UNITS), offset=1).binary
    assert not DataFeed(split, np.arange(UNITS), scale=2).binary
    turned = DataFeed(split, np.arange(UNITS), offset=1, scale=-1)
    assert same(turned.states(np.arange(70), 0), ~STATES[split.rows[:70]].T)


@pytest.mark.parametrize("binarise", ["none", "stochastic", "0.2"])
@pytest.mark.parametrize("kind", ["float32", "sparse", "grey", "real"])
def test_without_memory_for_the_bits_states_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, binarise: str
) -> None:
    write, values = {**BINARY, **OTHER}[kind]
    write(tmp_path / "file", values)
    feed, _ = feed_of(tmp_path / "file", np.arange(UNITS), binarise)
    wanted = {batch: unpack(feed.states(np.arange(batch), 5)) for batch in (1, 70) if feed.binary}
    monkeypatch.setattr(states_module, "available_bytes", lambda: 0)
    small, split = feed_of(tmp_path / "file", np.arange(UNITS), binarise)
    assert small.binary == feed.binary
    for batch, states in wanted.items():
        assert same(small.states(np.arange(batch), 5), states)
    assert not any(kept for _, kept in split.states.values())


def test_a_sparse_matrix_of_few_entries_stays_sparse(tmp_path: Path) -> None:
    few = RNG.random((N, 3000)) < 0.002
    write_sparse(tmp_path / "file", few)
    feed, split = feed_of(tmp_path / "file", np.arange(3000), "none")
    assert feed.binary
    assert [kept for _, kept in split.states.values()] == [None]
    assert same(feed.states(np.arange(66), 0), few[feed.rows[:66]].T)


def test_feeds_of_the_same_values_share_their_bits(tmp_path: Path) -> None:
    write_npy(tmp_path / "file", STATES)
    first, split = feed_of(tmp_path / "file", np.arange(UNITS), "none")
    DataFeed(split, np.arange(UNITS), binarise="stochastic")
    assert first.binary
    assert len(split.states) == 1
    for units in (np.arange(9), np.arange(9, 18)):
        other = DataFeed(split, units)
        assert same(other.states(np.arange(70), 0), STATES[split.rows[:70]][:, units].T)
    assert len(split.states) == 3


def test_binary_archives_are_bits_in_memory(tmp_path: Path) -> None:
    write_npz(tmp_path / "file", STATES)
    columns = open_dataset(str(tmp_path / "file")).train.table.columns(np.arange(UNITS))
    assert isinstance(columns, PackedColumns)
    assert columns.nbytes == N * 38


def test_warming_up_makes_no_bits_of_all_samples(tmp_path: Path) -> None:
    write_npy(tmp_path / "file", GREY)
    feed, split = feed_of(tmp_path / "file", np.arange(UNITS), "0.5")
    feed.warm_up(np.float32)
    assert not split.states


def test_states_are_drawn_alike_by_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_npy(tmp_path / "file", GREY)
    feed, _ = feed_of(tmp_path / "file", np.arange(UNITS), "stochastic")
    alone = feed.states(np.arange(131), 7)
    threads.set_threads(3)
    try:
        monkeypatch.setattr(states_module, "GRAIN", 1)
        assert np.array_equal(feed.states(np.arange(131), 7).words, alone.words)
    finally:
        threads.set_threads(1)


def small_results() -> dict[str, Array]:
    """States of every kind on 29 x 70 values, for compiled and for interpreted code."""
    grey = np.random.default_rng(3).integers(0, 256, (29, 70), dtype=np.uint8)
    results = {}
    for name, values in (("grey", grey), ("states", (grey > 99).astype(np.uint8)), ("real", grey / np.float32(255))):
        split = Split(MappedTable(name, values), np.arange(29))
        for binarise in ("none", "stochastic", "0.4"):
            feed = DataFeed(split, np.arange(3, 70), scale=255 if name == "grey" else 1, binarise=binarise, seed=4)
            out = np.empty((67, 25))
            feed.fill(np.arange(25), 6, out)
            results[f"{name} {binarise}"] = out
            if feed.binary:
                results[f"{name} {binarise} words"] = feed.states(np.arange(25), 6).words
        table = PackedTable(name, 29, 70, lambda: (np.packbits(grey > 99, axis=1, bitorder="little"), None))
        results["picked"] = table.columns(np.arange(0, 70, 3)).bits
    return results


def test_interpreted_code_gives_the_same_bits(tmp_path: Path) -> None:
    program = (
        "import warnings; warnings.simplefilter('error')\n"
        "import numpy as np, numba\n"
        "from tests.data import test_packed\n"
        "assert numba.config.DISABLE_JIT\n"
        f"np.savez({str(tmp_path / 'interpreted.npz')!r}, **test_packed.small_results())"
    )
    folders = [str(Path(__file__).parents[2])]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    compiled = small_results()
    with np.load(tmp_path / "interpreted.npz") as interpreted:
        assert set(interpreted) == set(compiled)
        for name, wanted in compiled.items():
            if name not in ("grey none", "real none"):  # no states: a float may differ in its last bit
                assert np.array_equal(interpreted[name], wanted), name


# -- files


def test_a_packed_file_is_plain_numpy(tmp_path: Path) -> None:
    classes = RNG.integers(0, 4, N)
    write_packed(tmp_path / "x.npz", STATES.reshape(N, 15, 20), classes)
    with np.load(tmp_path / "x.npz") as archive:
        assert set(archive) == {"bits", "shape", "scale", "labels"}
        assert np.array_equal(archive["bits"], np.packbits(STATES, axis=1, bitorder="little"))
        assert archive["shape"].tolist() == [N, 15, 20]
        assert archive["labels"].tolist() == classes.tolist()
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npz"]
    data = open_dataset(DataSpec(data=str(tmp_path / "x.npz"), test_fraction=0.0))
    assert (data.n_visible, data.image_shape, data.scale, data.n_classes) == (UNITS, (15, 20), 1.0, 4)
    assert data.train.labels is not None
    assert np.array_equal(data.train.labels, classes)


def base_of(array: Any) -> Any:
    while isinstance(array, np.ndarray):
        array = array.base
    return array


@pytest.mark.parametrize("extra", [0, 1, 2, 3])
def test_stored_bits_are_memory_mapped_and_compressed_ones_loaded(tmp_path: Path, extra: int) -> None:
    arrays: dict[str, Any] = {
        "a" * extra or "b": np.zeros(extra, np.uint8), "bits": rows_of_bits(STATES), "shape": STATES.shape, "scale": 1,
        "z": RNG.integers(0, 256, 20_000, dtype=np.uint8),  # so that mapping the wrong bytes would not fail
    }  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        feed, split = feed_of(tmp_path / "x.npz", np.arange(UNITS), "none")
        columns: Any = split.table.columns(np.arange(UNITS))
        assert isinstance(base_of(columns.bits), mmap.mmap) == (save is np.savez)
        assert same(feed.states(np.arange(65), 0), STATES[feed.rows[:65]].T)
        assert not isinstance(base_of(split.table.columns(np.arange(9)).bits), mmap.mmap)  # type: ignore[attr-defined]


def test_splits_are_written_with_their_labels_and_raw_values(tmp_path: Path) -> None:
    write_npy(tmp_path / "bytes", STATES * np.uint8(255))
    write_npy(tmp_path / "y", RNG.integers(0, 3, N))
    data = open_dataset(DataSpec(data=str(tmp_path / "bytes"), labels=str(tmp_path / "y")))
    write_packed(tmp_path / "x.npz", data.train, image_shape=(20, 15))
    again = open_dataset(DataSpec(data=str(tmp_path / "x.npz"), test_fraction=0.0))
    assert (again.scale, again.image_shape, again.n_classes) == (255, (20, 15), 3)
    assert np.array_equal(again.train.labels, data.train.labels)  # type: ignore[arg-type]
    out, wanted = np.empty((UNITS, len(data.train)), np.float32), np.empty((UNITS, len(data.train)), np.float32)
    DataFeed(again.train, np.arange(UNITS)).fill(np.arange(len(out[0])), 0, out)
    DataFeed(data.train, np.arange(UNITS)).fill(np.arange(len(out[0])), 0, wanted)
    assert np.array_equal(out, wanted)
    assert out.max() == 255
    write_packed(tmp_path / "z.npz", again.train)  # packed from packed
    assert np.array_equal(np.load(tmp_path / "z.npz")["bits"], np.load(tmp_path / "x.npz")["bits"])


@pytest.mark.parametrize("values", [np.zeros((5, 9)), np.ones((5, 9), np.uint8), np.eye(9, dtype=np.int8)])
def test_data_of_one_value_and_small_integers(tmp_path: Path, values: Array) -> None:
    write_packed(tmp_path / "x.npz", values)
    feed, _ = feed_of(tmp_path / "x.npz", np.arange(9), "none")
    assert feed.binary
    assert same(feed.states(np.arange(feed.n_samples), 0), values[feed.rows].T)


@pytest.mark.parametrize(
    ("values", "options", "wanted"),
    [(GREY, {}, "more values than 0 and one other"), (np.where(STATES, np.nan, 0), {}, "more values"),
     (np.where(STATES, np.inf, 0), {}, "more values"), (-STATES.astype(float), {}, "more values"),
     (STATES[0], {}, "at least two"), (STATES.astype(complex), {}, "type complex128"),
     (STATES, {"labels": np.arange(5)}, "5 labels"), (STATES, {"image_shape": (3, 7)}, "pictures of 3 x 7")],
)  # fmt: skip
def test_what_cannot_be_written(tmp_path: Path, values: Array, options: Any, wanted: str) -> None:
    with pytest.raises(DataError, match=wanted) as caught:
        write_packed(tmp_path / "x.npz", values, **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.npz cannot be written \(No such file"):
        write_packed(tmp_path / "missing" / "x.npz", STATES)


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_packed(tmp_path / "x.npz", STATES)
    before = (tmp_path / "x.npz").read_bytes()

    def full(file: Any, **arrays: Any) -> None:
        file.write(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match="No space left"):
        write_packed(tmp_path / "x.npz", ~STATES)
    assert (tmp_path / "x.npz").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npz"]


def problem(path: Path) -> str:
    """The one line of the DataError of opening and reading a file."""
    with pytest.raises(DataError) as caught:
        feed_of(path, np.arange(UNITS), "none")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [({"bits": rows_of_bits(STATES)[:-1]}, "203 samples of 300 units need uint8"),
     ({"bits": STATES}, "need uint8"), ({"bits": np.asfortranarray(rows_of_bits(STATES))}, "need uint8"),
     ({"shape": (N, 0)}, "integers from 1"), ({"shape": (N, 300.0)}, "integers"),
     ({"shape": (N,)}, "at least two"), ({"shape": (N, 2**41)}, "integers"), ({"shape": (N, 305)}, "need uint8"),
     ({"scale": 0}, "one number above 0"),
     ({"scale": np.nan}, "one number above 0"), ({"scale": (1, 2)}, "one number"), ({"scale": "x"}, "one number"),
     ({"labels": np.arange(7)}, "7 labels")],
)  # fmt: skip
def test_packed_files_that_do_not_fit_together(tmp_path: Path, changed: dict[str, Any], wanted: str) -> None:
    good: dict[str, Any] = {"bits": rows_of_bits(STATES), "shape": STATES.shape, "scale": 1}
    np.savez(tmp_path / "x.npz", **{**good, **changed})
    assert wanted in problem(tmp_path / "x.npz")


def test_truncated_packed_files(tmp_path: Path) -> None:
    write_packed(tmp_path / "x.npz", STATES)
    content = (tmp_path / "x.npz").read_bytes()
    for n in (50, len(content) // 2, len(content) - 1):
        (tmp_path / "x.npz").write_bytes(content[:n])
        assert "x.npz is" in problem(tmp_path / "x.npz")


def test_a_flipped_bit_among_the_bits_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write_packed(path, STATES)
    content = bytearray(path.read_bytes())
    content[4000] ^= 4
    path.write_bytes(content)
    assert "array 'bits' of" in (said := problem(path))
    assert "is corrupt: its checksum is" in said


def test_any_changed_byte_around_the_bits_is_one_clear_line_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write_packed(path, STATES[:40, :25])
    content = path.read_bytes()
    for i in [*range(180), *range(len(content) - 250, len(content))]:
        for flip in (1, 0x40, 0xFF):
            changed = bytearray(content)
            changed[i] ^= flip
            path.write_bytes(bytes(changed))
            try:
                data = open_dataset(str(path))
                DataFeed(data.train, np.arange(data.n_visible)).states(np.arange(3), 0)
            except DataError as error:
                assert "\n" not in str(error)  # noqa: PT017
            except ValueError as error:  # a file whose scale was changed holds other values
                assert "not states" in str(error)  # noqa: PT017


# -- the cache


@pytest.fixture
def small_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small data sets are kept as well."""
    monkeypatch.setattr(cache_module, "LEAST", 1)


def states_in(path: Path, binarise: str = "none") -> tuple[Array, Any]:
    """All states of a file by way of open_dataset and a feed, (units, n), and its table."""
    data = open_dataset(DataSpec(data=str(path), test_fraction=0.0, binarise=binarise), seed=3)
    check_range(data, np.arange(data.n_visible), "bernoulli")
    feed = DataFeed(data.train, np.arange(data.n_visible), scale=data.scale, binarise=binarise)
    return unpack(feed.states(np.arange(len(data.train)), 0)), data.train.table


def spoil(path: Path) -> None:
    """Damage a file's content, but neither its size nor its time."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    for i in range(len(content) // 2, len(content) // 2 + 9):
        content[i] ^= 0xFF
    path.write_bytes(bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.usefixtures("small_too")
@pytest.mark.parametrize("kind", ["archive", "gzip", "sparse"])
def test_binary_data_are_read_from_the_cache_the_second_time(tmp_path: Path, own_cache: Path, kind: str) -> None:
    write, values = BINARY[kind]
    write(tmp_path / "file", values)
    for time in range(2):
        states, table = states_in(tmp_path / "file")
        assert np.array_equal(states, STATES.T)
        assert isinstance(table, PackedTable)
        assert len(list(own_cache.iterdir())) == 1
        if time == 0:
            spoil(tmp_path / "file")  # nothing reads its values any more


@pytest.mark.usefixtures("small_too")
def test_an_unreadable_source_is_never_kept(tmp_path: Path, own_cache: Path) -> None:
    write_idx_gzip(tmp_path / "file", STATES * np.uint8(255))
    spoil(tmp_path / "file")
    for _ in range(2):
        with pytest.raises(DataError, match=r"file is|file goes on"):
            states_in(tmp_path / "file")
    assert not list(own_cache.glob("*.npz"))


@pytest.mark.usefixtures("small_too")
def test_grey_data_with_a_threshold_are_kept_for_that_threshold(tmp_path: Path, own_cache: Path) -> None:
    write_idx_gzip(tmp_path / "file", GREY)
    for binarise, n_files in (("0.5", 1), ("0.5", 1), ("0.25", 2)):
        states, table = states_in(tmp_path / "file", binarise)
        assert np.array_equal(states, (GREY / np.float32(255) > float(binarise)).T)
        assert isinstance(table, PackedTable)
        assert len(list(own_cache.iterdir())) == n_files
    # whoever wants other states, or grey values, gets them from the source
    data = open_dataset(DataSpec(data=str(tmp_path / "file"), test_fraction=0.0, binarise="0.5"))
    out = np.empty((UNITS, N), np.float32)
    DataFeed(data.train, np.arange(UNITS), scale=255).fill(np.arange(N), 0, out)
    assert np.array_equal(out, (GREY / np.float32(255)).T)
    other = DataFeed(data.train, np.arange(UNITS), scale=255, binarise="0.75")
    assert same(other.states(np.arange(N), 0), (GREY / np.float32(255) > 0.75).T)
    drawn = DataFeed(data.train, np.arange(UNITS), scale=255, binarise="stochastic", seed=4)
    assert same(drawn.states(np.arange(N), 0), expected(GREY, drawn, np.arange(N), 0, "stochastic"))


@pytest.mark.usefixtures("small_too")
@pytest.mark.parametrize("binarise", ["none", "stochastic", "1.5", "-0.5"])
def test_grey_data_without_such_a_threshold_are_not_kept(tmp_path: Path, own_cache: Path, binarise: str) -> None:
    write_idx_gzip(tmp_path / "file", GREY)
    data = open_dataset(DataSpec(data=str(tmp_path / "file"), binarise=binarise))
    assert not isinstance(data.train.table, PackedTable)
    assert not list(own_cache.glob("*"))


@pytest.mark.usefixtures("small_too")
def test_a_changed_source_is_read_again(tmp_path: Path, own_cache: Path) -> None:
    write_npz(tmp_path / "file", STATES)
    states_in(tmp_path / "file")
    write_npz(tmp_path / "file", ~STATES)
    os.utime(tmp_path / "file", ns=(1, 1))
    assert np.array_equal(states_in(tmp_path / "file")[0], ~STATES.T)
    assert len(list(own_cache.iterdir())) == 2
    write_npz(tmp_path / "file", STATES & (np.arange(UNITS) < 9))  # another size, the same time
    os.utime(tmp_path / "file", ns=(1, 1))
    assert np.array_equal(states_in(tmp_path / "file")[0][9:], np.zeros((UNITS - 9, N)))


@pytest.mark.usefixtures("small_too")
def test_arrays_of_one_archive_are_not_confused(tmp_path: Path, own_cache: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x_train=STATES[:150], x_test=STATES[150:])
    for _ in range(2):
        data = open_dataset(str(tmp_path / "x.npz"))
        for split, values in ((data.train, STATES[:150]), (data.test, STATES[150:])):
            assert split is not None
            assert isinstance(split.table, PackedTable)
            feed = DataFeed(split, np.arange(UNITS))
            assert same(feed.states(np.arange(len(values)), 0), values.T)
    assert len(list(own_cache.iterdir())) == 2


@pytest.mark.usefixtures("small_too")
@pytest.mark.parametrize("how", ["a flipped bit", "cut", "empty", "another file", "no archive"])
def test_a_damaged_cache_file_is_ignored_and_rewritten(tmp_path: Path, own_cache: Path, how: str) -> None:
    write_npz(tmp_path / "file", STATES)
    states_in(tmp_path / "file")
    (kept,) = own_cache.iterdir()
    good = kept.read_bytes()
    if how == "a flipped bit":
        spoil(kept)
    elif how == "another file":
        write_packed(kept, STATES[:-1])
    else:
        kept.write_bytes({"cut": good[:-100], "empty": b"", "no archive": b"x" * len(good)}[how])
    assert np.array_equal(states_in(tmp_path / "file")[0], STATES.T)
    assert kept.read_bytes()[:60] == good[:60]
    with np.load(kept) as archive:
        assert np.array_equal(archive["bits"], np.packbits(STATES, axis=1, bitorder="little"))


@pytest.mark.usefixtures("small_too")
def test_what_is_kept_is_private(tmp_path: Path, own_cache: Path) -> None:
    """A source may be private whose states are kept, and an older version's folder may be open to all."""
    write_npz(tmp_path / "file", STATES)
    (tmp_path / "file").chmod(0o600)
    own_cache.mkdir(parents=True, exist_ok=True)
    own_cache.chmod(0o755)
    states_in(tmp_path / "file")
    (kept,) = own_cache.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (own_cache, kept)] == [0o700, 0o600]


@pytest.mark.usefixtures("small_too")
@pytest.mark.parametrize("how", ["writable by others", "in a folder of others", "a link", "another source's"])
def test_a_cache_file_that_others_could_have_put_there_is_not_believed(
    tmp_path: Path, own_cache: Path, how: str
) -> None:
    write_npz(tmp_path / "file", STATES)
    states_in(tmp_path / "file")
    (kept,) = own_cache.iterdir()
    write_npz(tmp_path / "other", ~STATES)
    states_in(tmp_path / "other")
    (foreign,) = set(own_cache.iterdir()) - {kept}
    shutil.copyfile(foreign, tmp_path / "lie")
    kept.unlink()
    if how == "a link":
        kept.symlink_to(tmp_path / "lie")
    else:
        shutil.copyfile(foreign, kept)
        kept.chmod(0o666 if how == "writable by others" else 0o600)
        if how == "in a folder of others":
            own_cache.chmod(0o777)
    assert np.array_equal(states_in(tmp_path / "file")[0], STATES.T)
    assert (tmp_path / "lie").read_bytes() == foreign.read_bytes()
    assert stat.S_IMODE(kept.lstat().st_mode) == 0o600
    assert stat.S_IMODE(own_cache.stat().st_mode) == 0o700


@pytest.mark.usefixtures("small_too")
def test_a_source_of_the_same_size_and_time_is_another(tmp_path: Path, own_cache: Path) -> None:
    for values in (STATES, ~STATES):
        write_npz(tmp_path / "file", values)
        os.utime(tmp_path / "file", ns=(1, 1))
        assert np.array_equal(states_in(tmp_path / "file")[0], values.T)


def no_permission(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def disk_full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.usefixtures("small_too")
@pytest.mark.parametrize("how", ["no folder", "a file in its place", "read-only", "full"])
def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    write_npz(tmp_path / "file", STATES)
    if how == "no folder":
        monkeypatch.setattr(Path, "mkdir", no_permission)
    elif how == "a file in its place":
        own_cache.parent.mkdir(parents=True)
        own_cache.write_bytes(b"")
    elif how == "read-only":
        monkeypatch.setattr(tempfile, "TemporaryFile", no_permission)
        monkeypatch.setattr(cache_module, "_packed", None)  # nothing is read for a folder that takes nothing
    else:
        monkeypatch.setattr(np, "savez", disk_full)
    states, table = states_in(tmp_path / "file")
    assert np.array_equal(states, STATES.T)
    assert not isinstance(table, PackedTable)
    assert not own_cache.is_dir() or not list(own_cache.iterdir())
    assert own_cache.is_dir() == (how == "full"), "a folder that takes nothing is not left behind"


@pytest.mark.usefixtures("small_too")
def test_the_environment_switches_the_cache_off(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_npz(tmp_path / "file", STATES)
    monkeypatch.setenv("MODELPAR_NO_CACHE", "1")
    assert not isinstance(states_in(tmp_path / "file")[1], PackedTable)
    assert not own_cache.exists()
    monkeypatch.setenv("MODELPAR_NO_CACHE", "0")
    assert isinstance(states_in(tmp_path / "file")[1], PackedTable)
    assert packed_folder() == own_cache
    assert own_cache.exists()


@pytest.mark.parametrize("kind", ["archive", "bool", "packed"])
def test_what_is_small_or_quick_to_read_is_not_kept(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind != "archive":
        monkeypatch.setattr(cache_module, "LEAST", 1)
    write, values = BINARY[kind]
    write(tmp_path / "file", values)
    assert np.array_equal(states_in(tmp_path / "file")[0], STATES.T)
    open_dataset("bars:8")
    assert not own_cache.exists()


@pytest.mark.usefixtures("small_too")
@pytest.mark.parametrize(
    ("values", "wanted"),
    [(STATES.astype(np.uint8), "only 0 and 1"), (STATES * 2.0, "values from 0 to 2"),
     (np.where(STATES, np.nan, 0), "value nan"), (np.where(STATES, -0.5, 1), "from -0.5")],
)  # fmt: skip
@pytest.mark.parametrize("binarise", ["none", "0.5"])
def test_the_cache_hides_no_mistake(tmp_path: Path, own_cache: Path, values: Array, wanted: str, binarise: str) -> None:
    write_npz(tmp_path / "file", values)
    for _ in range(2):
        data = open_dataset(DataSpec(data=str(tmp_path / "file"), binarise=binarise))
        with pytest.raises(DataError, match=wanted):
            check_range(data, np.arange(UNITS), "bernoulli")
    assert not list(own_cache.glob("*.npz"))


@pytest.mark.usefixtures("small_too")
def test_moments_and_splits_do_not_depend_on_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_npz(tmp_path / "file", STATES.astype(np.float32))
    result: list[tuple[Array, ...]] = []
    for switch in ("1", "0", "0"):
        monkeypatch.setenv("MODELPAR_NO_CACHE", switch)
        data = open_dataset(str(tmp_path / "file"), seed=5)
        out = np.empty((UNITS, 9), np.float32)
        mean, std = column_moments(data.train, np.arange(UNITS))
        DataFeed(data.train, np.arange(UNITS), offset=mean, scale=std).fill(np.arange(9), 0, out)
        result.append((data.train.rows, mean, std, out))
    for other in result[1:]:
        for mine, wanted in zip(other, result[0], strict=True):
            assert np.array_equal(mine, wanted)
