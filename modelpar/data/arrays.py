"""NumPy's files: ``.npy``, memory-mapped where its order allows, and ``.npz``, read in chunks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from modelpar.data.dataset import LoadedTable, MappedTable, Source, Table, check_shape, image_shape_of, scale_of
from modelpar.data.mapped import MappedFile
from modelpar.data.reading import StreamedTable, check_count, check_labels
from modelpar.data.sample_weights import WEIGHTS_KEY
from modelpar.errors import DataError
from modelpar.files.regular import open_regular
from modelpar.formats.archive import Archive
from modelpar.formats.npy import Header, read_header
from modelpar.formats.reading import check_size, reading

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

DATA_KEYS = ("data", "x", "samples")
LABEL_KEYS = ("labels", "y", "target", "targets")


def open_npy(path: Path) -> Source:
    """Samples in a ``.npy`` file (samples, ...).  Reads the header.  Raises DataError."""
    name = str(path)
    with reading(path), open_regular(path) as file:
        header = read_header(file, name)
        scale = _check(header, name)
        check_size(name, os.fstat(file.fileno()).st_size, header.size)
    table: Table
    n_samples, n_units = header.shape[0], math.prod(header.shape[1:])
    order: Any = "F" if header.fortran else "C"
    if header.fortran:
        # Whole columns lie together on disk: copy the wanted ones.
        table = LoadedTable(name, header.shape, header.dtype, lambda: _mapped(path, header, header.shape, order)[0])
    elif header.dtype.isnative and (header.dtype.kind in "bf" or header.dtype == np.uint8):
        table = MappedTable(name, *_mapped(path, header, (n_samples, n_units), order))
    else:

        @contextmanager
        def open_rows() -> Iterator[IO[bytes]]:
            with open_regular(path) as file:
                file.seek(header.n_bytes)
                yield file

        table = StreamedTable(name, n_samples, n_units, header.dtype, open_rows, path)
    return Source(table, scale, image_shape_of(header.shape))


def _mapped(path: Path, header: Header, shape: tuple[int, ...], order: Any) -> tuple[Array, MappedFile]:
    file = MappedFile(path, header.size)
    return file.array(header.dtype, header.n_bytes, shape, order), file


def _check(header: Header, name: str) -> float:
    """Raise DataError where an array cannot be samples; else the raw value that means 1.0."""
    scale = scale_of(header.dtype, name)
    check_shape(header.shape, name)
    return scale


def _source(archive: Archive, data: str, labels: str | None) -> Source:
    """Samples and their labels out of two arrays."""
    header, name = archive.headers[data], archive.where(data)
    scale = _check(header, name)
    table: Table
    if header.fortran:
        table = LoadedTable(name, header.shape, header.dtype, lambda: archive.load(data), archive.path)
    else:
        n_samples, n_units = header.shape[0], math.prod(header.shape[1:])
        table = StreamedTable(name, n_samples, n_units, header.dtype, archive.values(data), archive.path)
    classes = None if labels is None else labels_in(archive, labels, header.shape[0])
    return Source(table, scale, image_shape_of(header.shape), classes)


def labels_in(archive: Archive, key: str, n_samples: int) -> IntArray:
    """Labels out of an array, read where their number fits.  Raises DataError."""
    name = archive.where(key)
    check_count(archive.headers[key].shape, n_samples, name)
    return check_labels(archive.load(key), n_samples, name)


def open_npz(archive: Archive) -> Source:
    """Samples, labels and test set in a ``.npz`` file, by the names of its arrays.  Reads headers and labels.

    ``x_train, y_train, x_test, y_test``; else ``data``, ``x`` or ``samples``, or the only array of two dimensions or
    more, with ``labels``, ``y`` or ``target``; of arrays without names the first, with the second as labels where that
    has one integer a sample.  Raises DataError.
    """
    if "x_train" in archive.headers:
        train = _source(archive, "x_train", archive.key_of(("y_train",)))
        if "x_test" not in archive.headers:
            return train
        test = _source(archive, "x_test", archive.key_of(("y_test",)))
        return Source(train.table, train.scale, train.image_shape, train.labels, test)
    labels = archive.key_of(LABEL_KEYS)
    data = archive.key_of(DATA_KEYS)
    if data is None:
        others = labels, WEIGHTS_KEY
        wide = [key for key, header in archive.headers.items() if len(header.shape) > 1 and key not in others]
        if wide == ["arr_0", "arr_1"] and _may_label(archive.headers["arr_1"], archive.headers["arr_0"]):
            wide = wide[:1]
        if len(wide) != 1:
            names = ", ".join(sorted(archive.headers)) or "none"
            raise DataError(
                f"{archive.path} has the arrays {names}, so it is not clear which are the samples; name them data "
                "(and labels)"
            )
        data = wide[0]
    if labels is None and data == "arr_0" and _may_label(archive.headers.get("arr_1"), archive.headers[data]):
        labels = "arr_1"
    return _source(archive, data, labels)


def _may_label(header: Header | None, samples: Header) -> bool:
    """Whether an array without a name, as ``numpy.savez(file, samples, labels)`` writes it, has a class a sample."""
    if header is None or not samples.shape or not header.shape:
        return False
    one_each = header.shape in ((samples.shape[0],), (samples.shape[0], 1))
    return one_each and header.dtype.kind in "uib"
