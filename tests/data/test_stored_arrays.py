"""Arrays in HDF5 files: the values that were saved, the columns of a rank, and what is refused.

Modules: modelpar/formats/hdf5
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelpar.data import Dataset, open_dataset
from modelpar.data.packed import PackedColumns
from modelpar.errors import DataError
from modelpar.files.paths import split_inner

h5py = pytest.importorskip("h5py", reason="h5py is not installed")

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(8)
STATES = RNG.random((101, 37)) < 0.3
GREY = RNG.integers(0, 256, (101, 6, 5), dtype=np.uint8)


def values_of(data: Dataset, units: Array | None = None) -> Array:
    ids = np.arange(data.n_visible) if units is None else units
    values = np.empty((len(ids), data.train.table.n_samples))
    data.train.table.columns(ids).fill(np.arange(values.shape[1]), values)
    return values.T


def opened(path: Any, **options: Any) -> Dataset:
    return open_dataset(str(path), test_fraction=0.0, **options)


def problem(path: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        values_of(opened(path, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "how"),
    [(STATES, {}), (STATES.astype("f4"), {"chunks": (10, 7), "compression": "gzip"}), (GREY, {}),
     (STATES.astype(">i4"), {}), (GREY.reshape(101, -1) / 255, {"chunks": (101, 1)}),
     (GREY, {"chunks": (1, 6, 5), "shuffle": True})],
    ids=["bool", "packed floats", "pictures", "other bytes", "columns", "samples"],
)  # fmt: skip
def test_values_are_those_that_were_saved(tmp_path: Path, values: Array, how: dict[str, Any]) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["other"] = np.ones(4)
        file.create_dataset("group/values", data=values, **how)
    expected = values.reshape(101, -1).astype(float)
    for where in (path, f"{path}:group/values", f"{path}:/group/values"):
        data = opened(where)
        assert data.name == "x.h5"
        assert data.image_shape == ((6, 5) if values.ndim == 3 else None)
        assert np.array_equal(values_of(data), expected)
        units = RNG.permutation(data.n_visible)[:5]
        assert np.array_equal(values_of(data, units), expected[:, units])
        assert np.array_equal(values_of(data, np.arange(3, 9)), expected[:, 3:9])
    assert isinstance(data.train.table.columns(np.arange(4)), PackedColumns) == (len(np.unique(values)) == 2)


def test_states_of_sites(tmp_path: Path) -> None:
    sites = RNG.integers(0, 4, (30, 9))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["sites"] = sites
    data = opened(tmp_path / "x.h5", visible="categorical:4")
    assert np.array_equal(values_of(data), (sites[:, :, None] == np.arange(4)).reshape(30, -1))


def test_a_recording_is_read_in_pieces(tmp_path: Path) -> None:
    """20 000 x 4000 states take 10 MB as bits, and 80 MB as the file has them."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        array = file.create_dataset("spikes", (20_000, 4000), "u1", chunks=(500, 4000), compression="lzf")
        for start in range(0, 20_000, 500):
            array[start : start + 500] = np.random.default_rng(start).random((500, 4000)) < 0.05
    tracemalloc.start()
    try:
        columns: Any = opened(path, scale=1).train.table.columns(np.arange(4000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert columns.bits.nbytes == 20_000 * 500
    assert peak < columns.bits.nbytes + (50 << 20)
    last = np.random.default_rng(19_500).random((500, 4000)) < 0.05
    assert np.array_equal(columns.bits[19_500:], np.packbits(last, axis=1, bitorder="little"))


def test_what_is_refused(tmp_path: Path) -> None:
    path, outside = tmp_path / "x.h5", tmp_path / "outside.h5"
    with h5py.File(outside, "w") as file:
        file["values"] = STATES
    with h5py.File(path, "w") as file:
        file["a"], file["b"], file["line"], file["words"] = STATES, GREY, np.ones(9), np.array([[b"x", b"y"]])
        file["soft"], file["out"] = h5py.SoftLink("/a"), h5py.ExternalLink(str(outside), "/values")
        file.create_dataset("far", (9, 9), "u1", external=[(str(outside), 0, 81)])
        file.create_dataset("huge", (10**6, 10**6), "u1", chunks=(10, 10))
        file.create_dataset("chunk", (2**16, 2**15), "u1", chunks=(2**16, 2**15), compression="gzip")
        file.create_group("group/empty")
    for inner, wanted in (
        ("", "the arrays a, b, chunk, far, huge, words; name one, as in x.h5:a"), ("c", "has no array 'c'"),
        ("a/b", "has no array"), ("group", "as a group"), ("line", "1 dimension"), ("soft", "by a link"),
        ("out", "by a link"), ("far", "in another file"), ("huge", "not the bytes"), ("chunk", "not the bytes"),
        ("words", "values of type"),
    ):  # fmt: skip
        assert wanted in problem(f"{path}:{inner}" if inner else path)
    content = outside.read_bytes()
    for damaged in (content[:1000], content[:8] + bytes(200) + content[208:]):
        outside.write_bytes(damaged)
        assert "cannot be read as HDF5" in problem(outside)
    with h5py.File(tmp_path / "open.h5", "w", libver="latest") as file:
        file["values"] = STATES
        file.flush()
        (tmp_path / "killed.h5").write_bytes((tmp_path / "open.h5").read_bytes())  # as its writer would leave it
    assert "has it open to write, or ended while it had" in problem(tmp_path / "killed.h5")
    assert "does not exist" in problem(tmp_path / "y.h5:values")
    np.save(tmp_path / "x.npy", STATES)
    assert "has no parts" in problem(f"{tmp_path / 'x.npy'}:values")


def test_names_in_files(tmp_path: Path) -> None:
    odd = tmp_path / "a:b"
    with odd.open("wb") as file:
        np.save(file, STATES)
    assert split_inner(odd) == (str(odd), "")
    assert split_inner(f"{odd}:x:y") == (str(odd), "x:y")
    assert split_inner("no/such.h5:x/y") == ("no/such.h5", "x/y")
    assert split_inner("bars:8") == ("bars:8", "")
    assert np.array_equal(values_of(opened(odd)), STATES)


def test_other_arrays_of_a_file_are_other_data(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"], file["b"] = STATES, ~STATES
    marks = [opened(f"{tmp_path / 'x.h5'}:{name}").fingerprint for name in ("a", "b", "/a")]
    assert marks[0] is not None
    assert marks[0] == marks[2] != marks[1]
