"""Damaged files of data, labels and masks, and damaged sparse matrices, for every reader of them.

``cases()`` gives (name, write, read): ``write(path, random)`` makes a damaged file out of a valid one, by the draws of
a ``random.Random`` alone; ``read(path)`` opens it as the program does and touches all values.  Only a ModelparError or
an OSError may come out.  What a file asks for is there, or refused: readers stay within the memory of the process.
"""

from __future__ import annotations

import gzip
import io
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from scipy import sparse

from modelpar import DataSpec, NetworkSpec
from modelpar.cli.complete import read_mask
from modelpar.data import DataFeed, check_range, open_dataset, read_labels
from modelpar.data.memory import array_source
from modelpar.machine.memory import check_room
from modelpar.ownership.build_connections import connect
from modelpar.ownership.connections import Listed
from modelpar.sklearn.arrays import prepared

Random = random.Random
Write = Callable[[Path, Random], None]
Read = Callable[[Path], None]
Case = tuple[str, Write, Read]

N, UNITS, HIDDEN = 40, 12, 9  # samples and units of the valid files, hidden units of masks
HUGE = (2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, -1, -(2**31), -(2**63), 10**8)
TYPES = ("u1", "i1", "?", "<i2", "<i8", ">i8", "<u8", "<f4", ">f4", "<f8", "<c16", "<U3", "S5", "V7", "<M8[s]")


def _values(rng: Random, n: int = N, units: int = UNITS, types: tuple[str, ...] = ("u1", "?", "<f4", "<f8")) -> Any:
    generator = np.random.default_rng(rng.getrandbits(32))
    dtype = np.dtype(rng.choice(types))
    if dtype == np.uint8 and rng.random() < 0.5:
        return generator.integers(0, 256, (n, units), dtype=np.uint8)
    if dtype.kind == "f" and rng.random() < 0.5:
        return generator.random((n, units)).astype(dtype)
    return (generator.random((n, units)) < 0.3).astype(dtype)


# -- damage ------------------------------------------------------------------------------------------------------------


def _spoiled(content: bytes, rng: Random) -> bytes:
    """Bytes changed, cut, added, moved, or numbers in them replaced."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            break
        # headers, at both ends, matter most
        place = rng.choice((rng.randrange(len(data)), rng.randrange(min(len(data), 150)),
                            len(data) - 1 - rng.randrange(min(len(data), 400))))  # fmt: skip
        how = rng.randrange(7)
        if how == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif how == 2:
            width = rng.choice((2, 4, 8))
            number = rng.choice(HUGE) % 256**width
            data[place : place + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif how == 3:
            del data[place:]
        elif how == 4:
            data[place:place] = rng.randbytes(rng.choice((1, 4, 100)))
        elif how == 5:
            del data[place : place + rng.choice((1, 2, 8, 64))]
        else:
            start, length = rng.randrange(len(data)), rng.choice((4, 30, 128))
            data[place : place + length] = data[start : start + length]
    return bytes(data)


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _odd_texts(text: str, rng: Random) -> list[str]:
    """What a header is not, or nearly is."""
    objects = "'descr': [('a', '<f8'), ('b', 'O')] or "
    return [
        "(" * 9000, "-" * 9000, "[" * 99 + "]" * 99, "9" * 9000, "{'descr': " * 300, "{}", "\0", "x=1",
        text.replace("(", "[").replace(")", "]"), text[: rng.randrange(len(text))],
        text.replace("'descr'", rng.choice(("'shape'", "b'descr'", "descr"))), text.replace("}", "'z': 1}"),
        text.replace("'shape': (", "'shape': (1.5, "), text.replace("'descr': ", objects),
        f"{{'descr': ({rng.choice(TYPES)!r}, (3, {rng.choice(HUGE)})), 'fortran_order': 0, 'shape': ()}}",
    ]  # fmt: skip


def _header(rng: Random) -> bytes:
    """A ``.npy`` file whose header was written by hand, or asks for what is not there."""
    shape = tuple(rng.choice((*HUGE, 0, 1, N, UNITS)) for _ in range(rng.choice((1, 2, 2, 2, 3, 40))))
    text = f"{{'descr': {rng.choice(TYPES)!r}, 'fortran_order': {rng.choice((True, False))}, 'shape': {shape}, }}"
    if rng.random() < 0.4:
        text = rng.choice(_odd_texts(text, rng))
    version = rng.choice((1, 1, 2, 3, 4))
    length, width = len(text) if rng.random() < 0.8 else rng.choice(HUGE), 2 if version == 1 else 4
    start = b"\x93NUMPY" + bytes([version, 0]) + (length % 256**width).to_bytes(width, "little")
    return start + text.encode() + bytes(rng.choice((0, 9, 4000)))


def _array(array: Any, rng: Random) -> Any:
    """Another array in place of this one: other values, type, shape or length."""
    array = np.array(array)
    flat, how = array.reshape(-1), rng.randrange(8)
    if how == 0 and array.size:
        place = rng.randrange(flat.size)
        if flat.dtype.kind in "iu":
            info = np.iinfo(flat.dtype)
            flat[place] = min(max(rng.choice(HUGE), int(info.min)), int(info.max))
        elif flat.dtype.kind == "f":
            flat[place] = rng.choice((np.nan, np.inf, -1.0, 1e30))
        return flat.reshape(array.shape)
    if how == 1:
        try:
            with np.errstate(all="ignore"):
                return array.astype(rng.choice(TYPES))
        except (TypeError, ValueError):
            return array
    if how == 2:
        return flat[: rng.randrange(array.size + 1)]
    if how == 3:
        return np.concatenate([flat, flat[: rng.randrange(array.size + 1)]])
    if how == 4:
        return array.reshape(rng.choice(((-1, 1), (1, -1), (1, 1, -1))))
    if how == 5:
        return flat[::-1].reshape(array.shape)
    if how == 6:
        return np.array(rng.choice(HUGE[:4]))
    return np.zeros(rng.choice((0, 1, 10**6)), array.dtype)


def _zip(arrays: dict[str, Any], rng: Random) -> bytes:
    """An archive of arrays, in any order, some twice, some as headers only."""
    file = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    names = list(arrays)
    if rng.random() < 0.2:
        rng.shuffle(names)
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in names:
            content = _header(rng) if rng.random() < 0.02 else _npy(arrays[name])
            archive.writestr(f"{name}.npy", content)
            if rng.random() < 0.02:
                archive.writestr(f"{name.upper()}.npy", content)
    return file.getvalue()


def _swapped(arrays: dict[str, Any], rng: Random) -> dict[str, Any]:
    """Arrays changed, exchanged, left out."""
    result = dict(arrays)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(result))
        how = rng.randrange(10)
        if how == 0 and len(result) > 1:
            del result[name]
        elif how == 1:
            other = rng.choice(list(result))
            result[name], result[other] = result[other], result[name]
        else:
            result[name] = _array(result[name], rng)
    return result


# -- files -------------------------------------------------------------------------------------------------------------


def _matrix(rng: Random, shape: tuple[int, int] = (N, UNITS)) -> Any:
    kind = rng.choice(("csr", "csc", "coo", "bsr", "dia"))
    matrix = sparse.csr_array(_values(rng, *shape, types=("u1", "?", "<f4", "<f8", "<i8")))
    return matrix.tobsr((shape[0] // 2 if shape[0] % 2 == 0 else 1, 3)) if kind == "bsr" else matrix.asformat(kind)


def _sparse_arrays(rng: Random, shape: tuple[int, int] = (N, UNITS)) -> dict[str, Any]:
    file = io.BytesIO()
    sparse.save_npz(file, _matrix(rng, shape), compressed=False)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def write_npy(path: Path, rng: Random) -> None:
    """A ``.npy`` file: header and values."""
    array = _values(rng, types=("u1", "?", "<f4", ">f8", "<i8"))
    content = _npy(np.asfortranarray(array) if rng.random() < 0.3 else array)
    path.write_bytes(_header(rng) if rng.random() < 0.4 else _spoiled(content, rng))


def write_npz(path: Path, rng: Random) -> None:
    """An archive of samples and labels, under one of the conventions."""
    data, test = _values(rng), _values(rng, 9)
    labels, test_labels = np.arange(N) % 3, np.arange(9) % 3
    arrays = rng.choice((
        {"data": data, "labels": labels}, {"x": data, "y": labels}, {"arr_0": data, "arr_1": labels}, {"samples": data},
        {"x_train": data, "y_train": labels, "x_test": test, "y_test": test_labels},
        {"data": np.asfortranarray(data), "target": labels.astype(np.uint8)},
        # of which a thousandth is on disk
        {"data": np.zeros((rng.choice((10**3, 10**5)), rng.choice((10, 200))), np.uint8)},
    ))  # fmt: skip
    if rng.random() < 0.5:
        path.write_bytes(_zip(_swapped(arrays, rng), rng))
    else:
        path.write_bytes(_spoiled(_zip(arrays, rng), rng))


def write_idx(path: Path, rng: Random) -> None:
    """An IDX file, plain or gzip, in one part or two."""
    array = _values(rng, types=("u1",))
    shape = [N, 3, 4] if rng.random() < 0.9 else [rng.choice((*HUGE, 0, 1, 70000)) % 2**32 for _ in range(3)]
    code = 8 if rng.random() < 0.8 else rng.choice((0x09, 0x0B, 0x0C, 0x0D, 0x0E, 0, 0xFF))
    content = bytes([0, 0, code, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape) + array.tobytes()
    inner = rng.random() < 0.5
    content = _spoiled(content, rng) if inner else content
    how = rng.randrange(3)
    if how == 0:
        content = gzip.compress(content, mtime=0)
    elif how == 1:
        cut = rng.randrange(len(content) + 1)
        content = gzip.compress(content[:cut], mtime=0) + gzip.compress(content[cut:], mtime=0)
    path.write_bytes(content if inner else _spoiled(content, rng))


def write_sparse(path: Path, rng: Random) -> None:
    """A matrix of any format that scipy saves, its arrays changed or its bytes."""
    arrays = _sparse_arrays(rng)
    if rng.random() < 0.1:
        arrays["shape"] = np.array([rng.choice((*HUGE, N, 0)), rng.choice((*HUGE, UNITS, 0))])
    how = rng.random()
    path.write_bytes(_spoiled(_zip(arrays, rng), rng) if how < 0.3 else _zip(_swapped(arrays, rng), rng))


def write_packed(path: Path, rng: Random) -> None:
    """A packed data set, whose bits are mapped where they are stored as they are."""
    states = _values(rng, types=("?",))
    arrays = {
        "bits": np.packbits(states, axis=1, bitorder="little"), "shape": np.array([N, UNITS]),
        "scale": np.array(rng.choice((1, 255)), rng.choice(("u1", "<f4"))), "labels": np.arange(N) % 3,
    }  # fmt: skip
    how = rng.random()
    path.write_bytes(_spoiled(_zip(arrays, rng), rng) if how < 0.6 else _zip(_swapped(arrays, rng), rng))


def write_labels(path: Path, rng: Random) -> None:
    """Labels in a file of any kind."""
    labels = (np.arange(N) % 3).astype(rng.choice(("u1", "<i8", ">i4", "<f4")))
    how = rng.randrange(4)
    if how == 0:
        content = _header(rng) if rng.random() < 0.3 else _spoiled(_npy(labels), rng)
    elif how == 1:
        content = _spoiled(_zip({"labels": labels}, rng), rng)
    elif how == 2:
        content = _zip({"y": _array(labels, rng)}, rng)
    else:
        plain = bytes([0, 0, 8, 1]) + N.to_bytes(4, "big") + labels.astype(np.uint8).tobytes()
        content = _spoiled(gzip.compress(plain, mtime=0) if rng.random() < 0.5 else plain, rng)
    path.write_bytes(content)


def write_mask(path: Path, rng: Random) -> None:
    """A mask of connections (UNITS, HIDDEN), or of samples (N, UNITS), dense or sparse."""
    how = rng.randrange(5)
    if how == 0:
        content = _header(rng) if rng.random() < 0.3 else _spoiled(_npy(_values(rng, UNITS, HIDDEN)), rng)
    elif how == 1:
        content = _spoiled(_zip({"mask": _values(rng, N, UNITS)}, rng), rng)
    else:
        arrays = _sparse_arrays(rng, (UNITS, HIDDEN))
        content = _zip(_swapped(arrays, rng), rng) if how < 4 else _spoiled(_zip(arrays, rng), rng)
    path.write_bytes(content)


def write_parts(path: Path, rng: Random) -> None:
    """The arrays of a matrix in memory, one or two of which are replaced by others, for :func:`damaged_matrix`."""
    arrays = _sparse_arrays(rng)
    kept = {name: arrays[name] for name in ("format", "shape")}
    parts = _swapped({name: arrays[name] for name in arrays.keys() - {"format", "shape", "_is_array"}}, rng)
    path.write_bytes(_npz({**kept, **parts}))


def _npz(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


# -- readers -----------------------------------------------------------------------------------------------------------


def read_data(path: Path) -> None:
    """As ``modelpar train --data`` does: every value is looked at, and put into minibatches."""
    data = open_dataset(DataSpec(data=str(path), test_fraction=0.2))
    check_room(4096 * data.n_visible, str(path))  # of a network with so many units
    units = np.arange(data.n_visible)
    for split in (data.train, data.validation, data.test):
        if split is not None:
            feed = DataFeed(split, units)
            for start in range(0, min(len(split), 1000), 100):
                rows = np.arange(start, min(start + 100, len(split)))
                feed.fill(rows, 0, np.empty((len(units), len(rows)), np.float32))
    check_range(data, units, "gaussian")


def read_as_labels(path: Path) -> None:
    """As ``--labels`` does."""
    read_labels(path, N)


def read_connections(path: Path) -> None:
    """As ``--connections mask:FILE`` does, and all lists of the connections."""
    _touch(connect(NetworkSpec((UNITS, HIDDEN), connections=f"mask:{path}"), MPI.COMM_SELF)[0])


def _touch(listed: Any) -> None:
    listed.degrees()
    listed.below(np.arange(listed.n_hidden))
    listed.above(np.arange(listed.n_visible))


def read_sample_mask(path: Path) -> None:
    """As ``modelpar sample --mask`` does."""
    read_mask(str(path), N, UNITS)


def damaged_matrix(path: Path) -> Any:
    """A matrix of scipy.sparse with arrays that its constructor would not have taken."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    shape, kind = tuple(arrays.pop("shape").tolist()), arrays.pop("format").item().decode()
    matrix = getattr(sparse, f"{kind}_array")(shape)
    for name, array in arrays.items():
        try:
            setattr(matrix, name, array)
        except (AttributeError, TypeError, ValueError, IndexError):
            continue  # as properties of COO are
    return matrix


def read_matrix(path: Path) -> None:
    """As ``open_dataset`` does with a matrix of the caller."""
    table = array_source(damaged_matrix(path), "X").table
    columns = table.columns(np.arange(table.n_units))
    columns.fill(np.arange(table.n_samples), np.empty((table.n_units, table.n_samples)))
    columns.summary(np.arange(table.n_samples))


def read_matrix_as_mask(path: Path) -> None:
    """As networks do with a mask of the caller."""
    _touch(Listed.from_mask(damaged_matrix(path)))


def read_matrix_of_estimator(path: Path) -> None:
    """As the estimators do with X."""
    prepared(damaged_matrix(path))


def cases() -> Iterator[Case]:
    """(name, write, read) of every reader."""
    for write in (write_npy, write_npz, write_idx, write_sparse, write_packed):
        yield f"data/{write.__name__.removeprefix('write_')}", write, read_data
    yield "data/labels", write_labels, read_as_labels
    yield "mask/connections", write_mask, read_connections
    yield "mask/samples", write_mask, read_sample_mask
    yield "matrix/samples", write_parts, read_matrix
    yield "matrix/connections", write_parts, read_matrix_as_mask
    yield "matrix/estimator", write_parts, read_matrix_of_estimator
