"""From a name or a path to a data set: which reader, which labels, which rows for which split."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelpar.data.arrays import LABEL_KEYS, NPY_START, ZIP_START, Archive, open_npy, open_npz, read_header
from modelpar.data.cache import from_cache
from modelpar.data.dataset import Dataset, Source, Split, agreed
from modelpar.data.digits import open_digits
from modelpar.data.idx import is_gzip, is_idx, open_idx, read_idx
from modelpar.data.named import SETS, find_named, open_folder
from modelpar.data.packed_files import is_packed, open_packed
from modelpar.data.reading import check_labels, check_size, reading
from modelpar.data.sparse import is_sparse, open_sparse
from modelpar.data.synthetic import KINDS, open_synthetic
from modelpar.draws import permutation
from modelpar.errors import DataError
from modelpar.spec import DataSpec

if TYPE_CHECKING:
    from mpi4py import MPI

IntArray = npt.NDArray[np.int64]

# The orders that choose test and validation samples; training counts epochs from 0 and never meets them.
_TEST_EPOCH, _VALIDATION_EPOCH = 2**32 - 1, 2**32 - 2


def open_dataset(spec: DataSpec | str, comm: MPI.Comm | None = None, *, seed: int = 1) -> Dataset:
    """Open a data set by name or path: ``digits``, ``mnist``, ``fashion-mnist``, ``bars:SIDE``, ``patterns:SIDE``, a
    file (.npy, .npz, sparse .npz, IDX), or a folder with four IDX files named as those of MNIST.

    Reads headers and labels only.  A set without a test set is split by an order drawn from ``seed``, and so is the
    validation set from the training set; splits are the same at every grid.

    Collective over ``comm`` where one is given; files of named sets are found and verified by its first rank.
    Raises DataError, on every rank.
    """
    if isinstance(spec, str):
        spec = DataSpec(data=spec)
    folder: Path | None = None
    with agreed(comm):
        if spec.data in SETS and (comm is None or comm.rank == 0):
            folder = find_named(spec.data)
    if comm is not None:
        folder = comm.bcast(folder)
    with agreed(comm):
        source = open_folder(folder) if folder is not None else _open(spec.data)
        other = source.test if spec.test_data is None else _open(spec.test_data)
    source, *tests = from_cache([source] if other is None else [source, other], spec.threshold, comm)
    with agreed(comm):
        return _assemble(spec, source, tests[0] if tests else None, seed)


def _assemble(spec: DataSpec, source: Source, other: Source | None, seed: int) -> Dataset:
    """Labels from files, splits, and the checks that need all of it.   ``other``: the test set"""
    n_samples, n_units = source.table.n_samples, source.table.n_units
    labels = source.labels if spec.labels is None else read_labels(Path(spec.labels).expanduser(), n_samples)
    everything = np.arange(n_samples)
    train_rows, test = everything, None
    if spec.test_data is None and spec.test_labels is not None and source.test is None:
        raise DataError(f"test labels {spec.test_labels} were given without test data; add the test data")
    if other is not None:
        _check_test(source, other)
        test_labels = other.labels
        if spec.test_labels is not None:
            test_labels = read_labels(Path(spec.test_labels).expanduser(), other.table.n_samples)
        test = Split(other.table, np.arange(other.table.n_samples), test_labels)
    else:
        train_rows, aside = _set_aside(everything, spec.test_fraction, seed, _TEST_EPOCH)
        test = _split(source, aside, labels)
    train_rows, aside = _set_aside(train_rows, spec.validation_fraction, seed, _VALIDATION_EPOCH)
    if not len(train_rows):
        raise DataError(
            f"{spec.data} has {n_samples} samples, of which none is left for training; set a smaller part aside"
        )
    train = Split(source.table, train_rows, _of(labels, train_rows))
    validation = _split(source, aside, labels)
    known = [
        split.labels.max() for split in (train, validation, test) if split is not None and split.labels is not None
    ]
    n_classes = int(max(known)) + 1 if labels is not None else 0
    name = spec.data if _is_name(spec.data) else Path(spec.data).name
    return Dataset(name, n_units, n_classes, source.image_shape, train, validation, test, source.scale, spec.binarise)


def _check_test(source: Source, test: Source) -> None:
    train_table, table = source.table, test.table
    if table.n_units != train_table.n_units:
        raise DataError(
            f"{table.name} has {table.n_units} units, but {train_table.name} has {train_table.n_units}; test and "
            "training data need the same width"
        )
    if test.scale != source.scale:
        raise DataError(
            f"{table.name} means 1.0 by {test.scale:g}, but {train_table.name} by {source.scale:g}; save test and "
            "training data as the same type"
        )


def _set_aside(rows: IntArray, fraction: float, seed: int, epoch: int) -> tuple[IntArray, IntArray]:
    """(rows that stay, rows set aside), each ascending."""
    order = permutation(seed, epoch, len(rows))
    n = round(len(rows) * fraction)
    return np.sort(rows[order[n:]]), np.sort(rows[order[:n]])


def _split(source: Source, rows: IntArray, labels: IntArray | None) -> Split | None:
    return Split(source.table, rows, _of(labels, rows)) if len(rows) else None


def _of(labels: IntArray | None, rows: IntArray) -> IntArray | None:
    return None if labels is None else labels[rows]


def _is_name(data: str) -> bool:
    return data == "digits" or data in SETS or data.partition(":")[0] in KINDS


def _open(data: str) -> Source:
    """Open what a name or path stands for.  Raises DataError."""
    if data == "digits":
        return open_digits()
    if data in SETS:
        return open_folder(find_named(data))
    if data.partition(":")[0] in KINDS and not Path(data).exists():
        return open_synthetic(data)
    path = Path(data).expanduser()
    if path.is_dir():
        return open_folder(path)
    if not path.exists():
        raise DataError(_unknown(data, path))
    start = _first_bytes(path)
    if start.startswith(NPY_START):
        return open_npy(path)
    if start.startswith(ZIP_START):
        archive = Archive(path)
        if is_packed(archive):
            return open_packed(archive)
        return open_sparse(archive) if is_sparse(archive) else open_npz(archive)
    if is_gzip(start) or is_idx(start):
        return open_idx(path)
    raise DataError(_foreign(path, start))


def read_labels(path: Path, n_samples: int) -> IntArray:
    """Labels from a file of any known format, int64 (n_samples,).  Raises DataError."""
    start = _first_bytes(path)
    labels: npt.NDArray[Any]
    if start.startswith(NPY_START):
        with reading(path), open(path, "rb") as file:
            header = read_header(file, str(path))
            if not header.dtype.hasobject:
                check_size(str(path), os.fstat(file.fileno()).st_size, header.size)
        try:
            with reading(path):
                labels = np.load(path, allow_pickle=False)
        except ValueError:
            raise DataError(
                f"{path} holds Python objects or values of no size, but labels must be integers; save them again"
            ) from None
    elif start.startswith(ZIP_START):
        archive = Archive(path)
        key = archive.key_of(LABEL_KEYS) or (next(iter(archive.headers)) if len(archive.headers) == 1 else None)
        if key is None:
            raise DataError(
                f"{path} has the arrays {', '.join(sorted(archive.headers)) or 'none'}, so it is not clear which are "
                "the labels; name them labels"
            )
        labels = archive.load(key)
    elif is_gzip(start) or is_idx(start):
        labels = read_idx(path)
    else:
        raise DataError(_foreign(path, start))
    return check_labels(labels, n_samples, str(path))


def _first_bytes(path: Path) -> bytes:
    with reading(path), open(path, "rb") as file:
        start = file.read(8)
    if not start:
        raise DataError(f"{path} is empty; get a new copy")
    return start


def _foreign(path: Path, start: bytes) -> str:
    return (
        f"{path} begins with {start[:4].hex(' ')}, which is none of .npy, .npz and IDX (plain or gzip); "
        "convert it with numpy.save"
    )


def _unknown(data: str, path: Path) -> str:
    """What to say about a name that is neither a data set nor a file."""
    names = ["digits", *SETS, *(f"{kind}:8" for kind in KINDS)]
    looks_like_path = path.suffix != "" or len(path.parts) > 1
    if looks_like_path:
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = [str(path.parent / found) for found in difflib.get_close_matches(path.name, beside)]
        return f"{data} does not exist" + (f"; did you mean {' or '.join(near)}?" if near else "")
    near = difflib.get_close_matches(data.lower(), names + list(KINDS), cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{data!r} is neither a data set nor a file; {hint}Data sets are {', '.join(names)}"
