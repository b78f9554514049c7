"""Archives and headers are believed within bounds: what is too much is refused before it is taken.

Modules: modelpar/formats/npy, modelpar/formats/reading, modelpar/formats/sparse, modelpar/formats/crc
"""

from __future__ import annotations

import ast
import gzip
import io
import os
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI
from scipy import sparse

from modelpar import DataSpec, NetworkSpec
from modelpar.cli.complete import read_mask
from modelpar.data import DataFeed, open_dataset, read_labels
from modelpar.errors import DataError, ModelparError
from modelpar.formats.crc import combined, crc_of
from modelpar.machine import memory
from modelpar.ownership.build_connections import connect

ROOT = Path(__file__).parents[2]


def use(path: Path) -> None:
    data = open_dataset(DataSpec(data=str(path), test_fraction=0.0))
    DataFeed(data.train, np.arange(data.n_visible))


def some_columns(path: Path) -> None:
    open_dataset(DataSpec(data=str(path), test_fraction=0.0)).train.table.columns(np.arange(9))


def as_mask(path: Path) -> None:
    connect(NetworkSpec((12, 9), connections=f"mask:{path}"), MPI.COMM_SELF)


READERS: dict[str, Callable[[Path], None]] = {
    "data": use, "labels": lambda path: read_labels(path, 40) and None, "connections": as_mask,
    "mask of samples": lambda path: read_mask(str(path), 40, 12) and None,
    "test labels": lambda path: open_dataset("digits", test=("digits", path)) and None,
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path, reader: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (Path("/dev/zero"), "a device")):
        with pytest.raises(ModelparError, match=f"it is {kind}, not a regular file"):
            READERS[reader](path)


def zipped(path: Path, arrays: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def bombs(folder: Path) -> dict[str, tuple[Callable[[Path], None], Path]]:
    """Files of at most 70 KB that ask for a thousand times as much or more."""
    huge = np.lib.format.magic(1, 0) + b"v\0" + (
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (150000000,), }".ljust(117) + b"\n")  # fmt: skip
    zeros = zlib.compressobj(9, wbits=31)
    packed = zeros.compress(bytes([0, 0, 8, 1]) + (1 << 26).to_bytes(4, "big"))
    packed += b"".join(zeros.compress(bytes(1 << 20)) for _ in range(1 << 6)) + zeros.flush()
    (folder / "labels.gz").write_bytes(packed)
    sparse.save_npz(folder / "tall.npz", sparse.coo_array((np.ones(1), ([0], [0])), shape=(10**8, 9)))
    np.savez_compressed(folder / "diagonals.npz", format=b"dia", shape=(12, 9), data=np.zeros((1, 3 * 10**7), bool),
                        offsets=np.zeros(1, int))  # fmt: skip
    wide = npy(np.zeros((2, 10**7), bool))
    return {
        "labels that are not of the samples": (READERS["labels"], folder / "labels.gz"),
        "a sparse matrix of many rows": (use, folder / "tall.npz"),
        "a mask of many rows": (as_mask, folder / "tall.npz"),
        "a mask of long diagonals": (as_mask, folder / "diagonals.npz"),
        "samples of many values": (some_columns, zipped(folder / "columns.npz", {"data": wide})),
        "a header that lies": (use, zipped(folder / "lie.npz", {"data": huge})),
        "a mask of too many values": (READERS["mask of samples"], zipped(folder / "many.npz", {"mask": wide})),
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bombs")


def test_small_files_do_not_take_large_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 24)
    for name, (read, path) in bombs(folder).items():
        assert path.stat().st_size < 70 << 10, name
        tracemalloc.start()
        try:
            with pytest.raises(ModelparError):
                read(path)
            assert tracemalloc.get_traced_memory()[1] < 1 << 24, name
        finally:
            tracemalloc.stop()


def test_names_that_come_twice_and_too_many_arrays(tmp_path: Path) -> None:
    content = npy(np.eye(9, dtype=bool))
    with pytest.raises(DataError, match="two arrays 'x'"):
        use(zipped(tmp_path / "twice.npz", {"x": content, "X": content}))
    with pytest.raises(DataError, match="2000 arrays, but 1024"):
        use(zipped(tmp_path / "many.npz", {f"a{i}": b"" for i in range(2000)}))


def test_long_headers_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY\x02\x00" + (1 << 31).to_bytes(4, "little") + bytes(100))
    with pytest.raises(DataError, match="damaged header"):
        use(path)


@pytest.mark.parametrize("n", [0, 1, 2, 1000, 1001])
def test_checksums_of_parts(tmp_path: Path, n: int) -> None:
    content = np.random.default_rng(n).bytes(1001)
    (tmp_path / "x").write_bytes(content)
    whole = combined(crc_of(tmp_path / "x", 0, n), crc_of(tmp_path / "x", n, 1001), 1001 - n)
    assert whole == zlib.crc32(content)
    with pytest.raises(EOFError):
        crc_of(tmp_path / "x", 1000, 1002)


def test_a_gzip_file_of_the_wrong_end(tmp_path: Path) -> None:
    content = gzip.compress(bytes([0, 0, 8, 1]) + (40).to_bytes(4, "big") + bytes(40))
    (tmp_path / "y.gz").write_bytes(content[:-4] + (41).to_bytes(4, "little"))
    with pytest.raises(DataError):
        read_labels(tmp_path / "y.gz", 40)


def test_nothing_is_unpickled() -> None:
    """No module loads pickles: not itself, not by NumPy, and not by scipy, which asks nobody."""
    for path in (*(ROOT / "modelpar").rglob("*.py"), *(ROOT / "partitioners").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            assert not {"pickle", "joblib", "marshal", "shelve", "dill"} & set(names), path
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("load_npz", "read_array"), (path, node.lineno)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load":
                allowed = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert allowed.get("allow_pickle") == "False", (path, node.lineno)
