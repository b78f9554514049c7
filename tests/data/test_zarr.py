"""Arrays in Zarr stores of both formats: the values that were saved, the columns of a rank, and what is refused.

Modules: modelpar/formats/zarr
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelpar.data.packed import PackedColumns
from modelpar.formats import zarr as reader
from tests.data.test_stored_arrays import GREY, RNG, STATES, opened, problem, values_of

zarr = pytest.importorskip("zarr", reason="zarr is not installed")

Array = np.ndarray[Any, Any]
FORMATS = pytest.mark.parametrize("version", [2, 3])


def saved(path: Path, values: Array, version: int, inner: str = "", **how: Any) -> Path:
    """A store with one array, of this format."""
    group = zarr.open_group(path, mode="a", zarr_format=version) if inner else None
    where = {"store": path} if group is None else {"store": path, "name": inner}
    how = {"chunks": tuple(max(1, n // 3) for n in values.shape), **how}
    array = zarr.create_array(**where, shape=values.shape, dtype=values.dtype, zarr_format=version, **how)
    array[...] = values
    return path


@FORMATS
@pytest.mark.parametrize(
    ("values", "how"),
    [(STATES, {}), (STATES.astype("f4"), {"chunks": (10, 7)}), (GREY, {}), (STATES.astype(">i4"), {}),
     (GREY.reshape(101, -1) / 255, {"chunks": (101, 1), "compressors": None})],
    ids=["bool", "floats", "pictures", "other bytes", "columns"],
)  # fmt: skip
def test_values_are_those_that_were_saved(tmp_path: Path, values: Array, how: dict[str, Any], version: int) -> None:
    path = saved(tmp_path / "x.zarr", values, version, "group/values", **how)
    expected = values.reshape(101, -1).astype(float)
    for where in (path, f"{path}:group/values", f"{path}:/group/values", path / "group" / "values"):
        data = opened(where)
        assert data.image_shape == ((6, 5) if values.ndim == 3 else None)
        assert np.array_equal(values_of(data), expected)
        units = RNG.permutation(data.n_visible)[:5]
        assert np.array_equal(values_of(data, units), expected[:, units])
    assert isinstance(data.train.table.columns(np.arange(4)), PackedColumns) == (len(np.unique(values)) == 2)


def test_shards_and_sites(tmp_path: Path) -> None:
    sites = RNG.integers(0, 4, (30, 9))
    path = saved(tmp_path / "x.zarr", sites, 3, chunks=(5, 3), shards=(10, 9))
    data = opened(path, visible="categorical:4")
    assert np.array_equal(values_of(data), (sites[:, :, None] == np.arange(4)).reshape(30, -1))


@FORMATS
def test_only_the_chunks_of_a_ranks_columns_are_read(tmp_path: Path, version: int) -> None:
    path = saved(tmp_path / "x.zarr", STATES, version, chunks=(50, 10), chunk_key_encoding={
        "name": "default" if version == 3 else "v2", "separator": "/"})  # fmt: skip
    for chunk in path.glob("**/*"):  # all but the second column of chunks
        if chunk.is_file() and chunk.name in ("0", "2", "3"):
            chunk.write_bytes(b"damaged")
    data = opened(path)
    assert np.array_equal(values_of(data, np.arange(11, 19)), STATES[:, 11:19])
    assert "cannot be read as Zarr" in problem(path)


def changed(path: Path, **values: Any) -> Path:
    """A store's metadata with other values."""
    for name in ("zarr.json", ".zarray"):
        if (path / name).exists():
            about = json.loads((path / name).read_text())
            (path / name).write_text(json.dumps(about | values))
    return path


@FORMATS
@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")  # of the words
def test_what_is_refused(tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.zarr"
    for name, values in (("a", STATES), ("b", GREY), ("line", np.ones(9)), ("words", np.array([["x", "y"]]))):
        saved(path, values, version, name)
    grid = {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2**16, 2**15]}}}
    pickled: dict[str, Any] = {"filters": [{"id": "pickle"}]}
    if version == 3:
        pickled = {"codecs": [{"name": "bytes"}, {"name": "numcodecs.pickle"}]}
    wide = {"chunks": [2**16, 2**15]} if version == 2 else grid
    for name, values in (("huge", {"shape": [10**12, 37]}), ("chunk", wide), ("pickle", pickled),
                         ("negative", {"shape": [-5, 37]}), ("odd", {"shape": "x"})):  # fmt: skip
        shutil.copytree(path / "a", path / name)
        changed(path / name, **values)
    (path / "group").mkdir()
    for inner, wanted in (
        ("", "name one, as in x.zarr:"), ("c", "has no array 'c'"), ("../x.zarr/a", "no dots alone"),
        ("group", "has no"),
        ("line", "1 dimension"), ("words", "values of type"), ("huge", "not the bytes"), ("chunk", "not the bytes"),
        ("pickle", "packed by"), ("negative", ""), ("odd", ""),
    ):  # fmt: skip
        assert wanted in problem(f"{path}:{inner}" if inner else path), inner
    assert "as a group; name an array in it" in problem(f"{tmp_path}/y.zarr:g" if saved(
        tmp_path / "y.zarr", STATES, version, "g/a") else "")  # fmt: skip
    metadata = path / "a" / ("zarr.json" if version == 3 else ".zarray")
    whole = metadata.read_bytes()
    for content in (b"", whole[:40], b"[" * 100_000, b"[]"):
        metadata.write_bytes(content)
        assert "is damaged, it is no JSON object" in problem(f"{path}:a")
    metadata.write_bytes(whole)
    files = [file for file in (path / "a").rglob("*") if file != metadata and file.is_file()]
    chunk = max(files, key=lambda file: file.stat().st_size)
    content = chunk.read_bytes()
    for damaged in (content[:5], b"", bytes(len(content))):
        chunk.write_bytes(damaged)
        assert "cannot be read as Zarr" in problem(f"{path}:a")
    chunk.unlink()
    os.mkfifo(chunk)
    assert "a pipe" in problem(f"{path}:a")
    (tmp_path / "empty.zarr").mkdir()
    assert "four files" in problem(tmp_path / "empty.zarr")
    monkeypatch.setitem(sys.modules, "zarr", None)
    assert "pip install 'modelpar[zarr]'" in problem(f"{path}:b")


def test_a_store_is_known_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = []
    for name, values in (("x", STATES), ("copy", STATES), ("other", ~STATES)):
        marks.append(opened(saved(tmp_path / name, values, 3)).fingerprint)
    assert marks[0] == marks[1] != marks[2]
    monkeypatch.setattr("modelpar.data.fingerprint.WHOLE", 10)
    assert opened(tmp_path / "x").fingerprint != opened(tmp_path / "other").fingerprint
    assert reader.is_zarr(tmp_path / "x")
    assert not reader.is_zarr(tmp_path)
