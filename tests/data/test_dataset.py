"""Data: feeds against plain NumPy, splits, labels, statistics, minibatches.  Damaged files are in test_reading.

Modules: modelpar/data/arrays, modelpar/data/digits, modelpar/data/feed, modelpar/data/gather_dense,
modelpar/data/minibatches, modelpar/data/sparse, modelpar/data/synthetic
"""

from __future__ import annotations

import gzip
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from modelpar.data import DataFeed, Minibatches, Split, check_range, column_moments, open_dataset
from modelpar.draws import Purpose, Stream, permutation, uniform
from modelpar.spec import DataSpec

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (203, 5, 60), dtype=np.uint8)  # 300 units: more than a panel of the kernel, no multiple
STATES = RNG.random((203, 300)) < 0.3
REAL = RNG.random((203, 300))
CLASSES = RNG.integers(0, 4, 203)

UNITS = {
    "all": np.arange(300),
    "block": np.arange(17, 290),
    "strided": np.arange(1, 300, 3),
    "scattered": RNG.permutation(300)[:41],
    "one": np.array([299]),
    "none": np.arange(0),
}


def idx_bytes(values: np.ndarray[Any, Any], code: int = 8) -> bytes:
    """The bytes of an IDX file, written down from its description."""
    sizes = b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    return bytes([0, 0, code, values.ndim]) + sizes + values.astype(values.dtype.newbyteorder(">")).tobytes()


def write_idx(path: Path, values: np.ndarray[Any, Any]) -> None:
    path.write_bytes(idx_bytes(values))


def write_idx_gzip(path: Path, values: np.ndarray[Any, Any]) -> None:
    path.write_bytes(gzip.compress(idx_bytes(values), 1))


def write_idx_floats(path: Path, values: np.ndarray[Any, Any]) -> None:
    path.write_bytes(idx_bytes(values.astype(np.float32), 0x0D))


def write_npz(path: Path, values: np.ndarray[Any, Any]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, anything=values, labels=CLASSES)


def write_npz_fortran(path: Path, values: np.ndarray[Any, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, X=np.asfortranarray(values))


def write_npy(path: Path, values: np.ndarray[Any, Any]) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def write_npy_fortran(path: Path, values: np.ndarray[Any, Any]) -> None:
    with path.open("wb") as file:
        np.save(file, np.asfortranarray(values))


def write_csr(path: Path, values: np.ndarray[Any, Any]) -> None:
    with path.open("wb") as file:
        scipy.sparse.save_npz(file, scipy.sparse.csr_array(values.reshape(len(values), -1)))


def write_csc(path: Path, values: np.ndarray[Any, Any]) -> None:
    with path.open("wb") as file:
        scipy.sparse.save_npz(file, scipy.sparse.csc_array(values.reshape(len(values), -1)))


FORMATS: list[tuple[Callable[[Path, np.ndarray[Any, Any]], None], np.ndarray[Any, Any]]] = [
    (write_idx, GREY), (write_idx_gzip, GREY), (write_idx_floats, REAL.astype(np.float32)),
    (write_npy, GREY), (write_npy, STATES), (write_npy, REAL), (write_npy, REAL.astype(np.float32)),
    (write_npy, REAL.astype(">f4")), (write_npy, STATES.astype(np.int64)), (write_npy_fortran, GREY),
    (write_npy_fortran, REAL), (write_npz, GREY), (write_npz, REAL), (write_npz, STATES), (write_npz_fortran, GREY),
    (write_csr, STATES), (write_csr, STATES.astype(np.int64)), (write_csr, REAL * STATES), (write_csr, GREY),
    (write_csc, REAL * STATES),
]  # fmt: skip


def label(value: Any) -> str:
    """Of a writer or of an array, for the names of tests."""
    return getattr(value, "__name__", None) or str(value.dtype)


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize(("write", "values"), FORMATS, ids=label)
def test_feed_equals_numpy(tmp_path: Path, write: Any, values: Any, units: str) -> None:
    write(tmp_path / "file", values)
    data = open_dataset(str(tmp_path / "file"), seed=3)
    flat, ids = values.reshape(203, 300), UNITS[units]
    scale = 255.0 if values.dtype == np.uint8 else 1.0
    assert (data.n_visible, data.scale, data.name) == (300, scale, "file")
    offset, divisor = RNG.random(len(ids)), RNG.random(len(ids)) + 1
    feed = DataFeed(data.train, ids, offset=offset, scale=divisor)
    samples = RNG.permutation(len(data.train))[:131]
    rows = data.train.rows[samples]
    for dtype, digits in (("float32", 6), ("float64", 13)):
        out = np.full((len(ids), 131), np.nan, dtype)
        feed.fill(samples, 0, out)
        wanted = (flat[rows][:, ids].astype(np.float64) - offset) / divisor
        np.testing.assert_allclose(out, wanted.T, rtol=10.0**-digits * 5, atol=10.0**-digits * 300)


@pytest.mark.parametrize("write", [write_idx_gzip, write_npy, write_npz, write_csr])
def test_raw_bytes_and_scaled_ones_are_exact(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "file", GREY)
    data = open_dataset(str(tmp_path / "file"))
    out = np.empty((300, 70), np.float32)
    data.train.table.columns(np.arange(300)).fill(np.arange(70), out)
    assert np.array_equal(out, GREY.reshape(203, 300)[:70].T)
    DataFeed(data.train, np.arange(300), scale=data.scale).fill(np.arange(70), 0, out)
    wanted = GREY.reshape(203, 300)[data.train.rows[:70]].astype(np.float32) / np.float32(255)
    np.testing.assert_allclose(out, wanted.T, rtol=1e-6)
    assert out.max() <= 1.0


@pytest.mark.parametrize("batch", [0, 1, 7, 8, 9, 63, 64, 65, 203])
def test_any_batch_size(tmp_path: Path, batch: int) -> None:
    write_npy(tmp_path / "file", GREY)
    columns = open_dataset(str(tmp_path / "file")).train.table.columns(np.arange(3, 280))
    rows = RNG.integers(0, 203, batch)
    out = np.empty((277, batch))
    columns.fill(rows, out)
    assert np.array_equal(out, GREY.reshape(203, 300)[rows, 3:280].T)


def test_a_batch_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_npy(tmp_path / "file", GREY)
    feed = DataFeed(open_dataset(str(tmp_path / "file")).train, np.arange(10))
    with pytest.raises(ValueError, match="must be C-contiguous"):
        feed.fill(np.arange(4), 0, np.empty((4, 10)).T)


def test_stochastic_binarisation_draws_by_unit_and_counter() -> None:
    data = open_dataset("digits")
    ids = np.array([3, 20, 36, 37, 60])
    samples = np.array([5, 900, 17])
    draws = np.empty((5, 3))
    uniform(Stream(11, 0, Purpose.DATA), ids, 1234, draws)
    grey, states = np.empty((5, 3)), np.empty((5, 3))
    DataFeed(data.train, ids, scale=16).fill(samples, 1234, grey)
    DataFeed(data.train, ids, scale=16, binarise="stochastic", seed=11).fill(samples, 1234, states)
    assert np.array_equal(states, draws < grey)


def test_threshold_is_on_scaled_values() -> None:
    data = open_dataset("digits")
    out, grey = np.empty((64, 100), np.float32), np.empty((64, 100), np.float32)
    DataFeed(data.train, np.arange(64), scale=16, binarise="0.5").fill(np.arange(100), 0, out)
    data.train.table.columns(np.arange(64)).fill(data.train.rows[:100], grey)
    assert np.array_equal(out, grey > 8)
    assert (grey == 8).any()


@pytest.mark.parametrize(("write", "values"), FORMATS, ids=label)
def test_moments_equal_numpy_and_do_not_depend_on_the_grid(tmp_path: Path, write: Any, values: Any) -> None:
    write(tmp_path / "file", values)
    train = open_dataset(str(tmp_path / "file")).train
    mean, std = column_moments(train, np.arange(300))
    wanted = values.reshape(203, 300)[train.rows].astype(np.float64)
    np.testing.assert_allclose(mean, wanted.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(std, wanted.std(axis=0), rtol=1e-10)
    if values.dtype.kind in "bu":
        assert np.array_equal(mean, wanted.sum(axis=0) / len(wanted))
    for start in range(3):
        part_mean, part_std = column_moments(train, np.arange(start, 300, 3))
        assert np.array_equal(part_mean, mean[start::3])
        assert np.array_equal(part_std, std[start::3])


def test_a_small_spread_beside_a_large_mean_survives(tmp_path: Path) -> None:
    values = 1e8 + RNG.standard_normal((500, 4))
    write_npy(tmp_path / "file", values)
    spec = DataSpec(data=str(tmp_path / "file"), test_fraction=0.0)
    _, std = column_moments(open_dataset(spec).train, np.arange(4))
    np.testing.assert_allclose(std, (values - 1e8).std(axis=0), rtol=1e-6)


def test_digits_are_those_of_uci() -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    data = open_dataset("digits", seed=5)
    assert (data.n_visible, data.n_classes, data.image_shape, data.scale) == (64, 10, (8, 8), 16)
    out = np.empty((64, 1797), np.float32)
    data.train.table.columns(np.arange(64)).fill(np.arange(1797), out)
    assert np.array_equal(out.T, digits.data)
    assert data.test is not None
    for split in (data.train, data.test):
        assert split.labels is not None
        assert np.array_equal(split.labels, digits.target[split.rows])


def test_splits_are_disjoint_complete_and_follow_the_seed() -> None:
    spec = DataSpec(data="digits", test_fraction=0.25, validation_fraction=0.1)
    data, again, other = (open_dataset(spec, seed=seed) for seed in (1, 1, 2))
    splits = [data.train, data.validation, data.test]
    assert [len(split) for split in splits if split] == [1797 - 449 - 135, 135, 449]
    assert np.array_equal(np.sort(np.concatenate([split.rows for split in splits if split])), np.arange(1797))
    assert data.test
    assert again.test
    assert other.test
    assert np.array_equal(data.test.rows, again.test.rows)
    assert not np.array_equal(data.test.rows, other.test.rows)
    whole = open_dataset(DataSpec(data="digits", test_fraction=0.0))
    assert (len(whole.train), whole.test, whole.validation) == (1797, None, None)


def test_labels_and_test_set_from_files_of_any_format(tmp_path: Path) -> None:
    write_npy(tmp_path / "x.npy", GREY)
    write_idx_gzip(tmp_path / "y.gz", CLASSES.astype(np.uint8))
    write_idx(tmp_path / "test", GREY[:20])
    np.savez(tmp_path / "test_y.npz", target=CLASSES[:20, None])
    spec = DataSpec(data=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.gz"), test_data=str(tmp_path / "test"),
                    test_labels=str(tmp_path / "test_y.npz"))  # fmt: skip
    data = open_dataset(spec)
    assert (len(data.train), data.n_classes, data.image_shape) == (203, 4, (5, 60))
    assert labels_of(data.train) == CLASSES.tolist()
    assert data.test
    assert labels_of(data.test) == CLASSES[:20].tolist()


def labels_of(split: Split | None) -> list[int]:
    """The labels, which must be there."""
    assert split is not None
    assert split.labels is not None
    return list(split.labels)


def test_npz_as_keras_names_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", x_train=GREY[:150], y_train=CLASSES[:150], x_test=GREY[150:], y_test=CLASSES[150:])
    data = open_dataset(str(tmp_path / "m.npz"))
    assert data.test
    assert labels_of(data.train) == CLASSES[:150].tolist()
    assert labels_of(data.test) == CLASSES[150:].tolist()
    out = np.empty((300, 53))
    data.test.table.columns(np.arange(300)).fill(np.arange(53), out)
    assert np.array_equal(out.T, GREY[150:].reshape(53, 300))


def test_memory_mapped_files_are_not_copied(tmp_path: Path) -> None:
    write_npy(tmp_path / "x.npy", GREY)
    write_idx(tmp_path / "x", GREY)
    for name in ("x.npy", "x"):
        columns: Any = open_dataset(str(tmp_path / name)).train.table.columns(np.arange(4, 9))
        base = columns.source
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, mmap.mmap)


def test_eager_files_keep_only_the_columns_asked_for_and_read_them_once(tmp_path: Path) -> None:
    write_idx_gzip(tmp_path / "x.gz", GREY)
    table = open_dataset(str(tmp_path / "x.gz")).train.table
    columns: Any = table.columns(np.arange(4, 9))
    assert columns.source.shape == (203, 5)
    assert table.columns(np.arange(4, 9)) is columns
    write_csr(tmp_path / "s.npz", STATES)
    sparse: Any = open_dataset(str(tmp_path / "s.npz")).train.table.columns(np.arange(4, 9))
    assert sparse.matrix.nnz == STATES[:, 4:9].sum()


@pytest.mark.parametrize("size", ["2", "5", "4x7", "9x3"])
def test_bars_and_stripes(size: str) -> None:
    data = open_dataset(f"bars:{size}")
    assert data.image_shape
    assert data.n_classes == 2
    for split in (data.train, data.test):
        assert isinstance(split, Split)
        assert split.labels is not None
        out = np.empty((data.n_visible, len(split)))
        DataFeed(split, np.arange(data.n_visible)).fill(np.arange(len(split)), 0, out)
        pictures = out.T.reshape(-1, *data.image_shape)
        straight = np.where(split.labels[:, None, None] == 0, pictures[:, :1, :], pictures[:, :, :1])
        assert np.array_equal(pictures, np.broadcast_to(straight, pictures.shape))
        assert (np.ptp(out, axis=0) == 1).all()
        assert 0.45 < split.labels.mean() < 0.55


def test_patterns_are_shifted_copies_with_little_noise_and_made_column_by_column() -> None:
    data = open_dataset("patterns:16")
    out = np.empty((256, len(data.train)), np.float32)
    DataFeed(data.train, np.arange(256)).fill(np.arange(len(data.train)), 0, out)
    some = np.array([200, 3, 77])
    part = np.empty((3, len(data.train)), np.float32)
    DataFeed(open_dataset("patterns:16").train, some).fill(np.arange(len(data.train)), 0, part)
    assert np.array_equal(part, out[some])
    table: Any = data.train.table
    pictures = out.T.reshape(-1, 16, 16)
    for i in range(0, 200, 9):
        clean = np.kron(table.cells[table.labels[i]].reshape(4, 4), np.ones((4, 4)))
        clean = np.roll(clean, (table.row_shifts[i], table.column_shifts[i]), axis=(0, 1))
        assert (pictures[i] != clean).mean() < 0.08
    assert len(np.unique(table.cells, axis=0)) == data.n_classes == 10
    assert set(np.unique(table.row_shifts)) == {-2, -1, 0, 1, 2}


def test_minibatches_are_a_permutation_cut_into_pieces() -> None:
    batches = Minibatches(103, 25, seed=9)
    assert batches.n_steps == 5
    for epoch in (0, 3, 0):
        pieces = [batches.indices(epoch, step) for step in range(5)]
        assert [len(piece) for piece in pieces] == [25, 25, 25, 25, 3]
        assert np.array_equal(np.concatenate(pieces), permutation(9, epoch, 103))
    with pytest.raises(ValueError, match="steps 0 to 4"):
        batches.indices(0, 5)


@pytest.mark.parametrize("n", [0, 1, 3, 100])
@pytest.mark.parametrize("n_replicas", [1, 2, 3, 7])
def test_shares_tile_a_minibatch(n: int, n_replicas: int) -> None:
    shares = [np.arange(n)[Minibatches.slice_of(n, replica, n_replicas)] for replica in range(n_replicas)]
    assert np.array_equal(np.concatenate(shares), np.arange(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """MNIST in $MODELPAR_DATA, in the cache directory, or beside the repository; skipped where it is absent."""
    beside = ROOT.parent / "shared" / "data"
    if (beside / "mnist").is_dir() and "MODELPAR_DATA" not in os.environ:
        monkeypatch.setenv("MODELPAR_DATA", str(beside))
    else:
        request.getfixturevalue("mnist_path")


@pytest.mark.usefixtures("mnist")
def test_real_mnist() -> None:
    data = open_dataset("mnist")
    assert data.test
    assert (len(data.train), len(data.test), data.n_visible, data.n_classes) == (60000, 10000, 784, 10)
    assert (data.image_shape, data.scale) == ((28, 28), 255)
    assert data.train.labels is not None
    assert data.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    ids = np.arange(784)
    check_range(data, ids, "bernoulli")
    mean, _ = column_moments(data.train, ids)
    assert mean.mean() == pytest.approx(33.318421, abs=1e-6)  # the well-known mean of 0.1306604762738429 x 255
