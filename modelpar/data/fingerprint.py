"""Fingerprints tell one data set from another, whatever its path: shapes, types, and checksums of the content.

Values are known by a CRC-32 of all that a file holds where that is cheap: a zip archive tells those of its arrays, a
gzip file ends in its own, and files of up to 64 MiB are read.  Of larger files pieces are read that are spread over
them, 4 MiB together.  So a ``.npy`` file, the same array in a ``.npz`` and the same IDX file packed or not have one
fingerprint; large files that are packed in one place and not in another are taken to differ.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.data.arrays import LABEL_KEYS
from modelpar.data.dataset import Source, Table, plain_dtype
from modelpar.data.idx import read_header
from modelpar.data.sample_weights import WEIGHTS_KEY
from modelpar.errors import DataError
from modelpar.files.regular import open_regular
from modelpar.formats.archive import ZIP_START
from modelpar.formats.reading import is_gzip, reading, unpacking

WHOLE = 1 << 26  # bytes up to which a file is read from beginning to end: a twentieth of a second
PIECE, PIECES = 1 << 14, 256  # bytes of a piece of a larger one, and how many there are


@dataclass(frozen=True)
class Contents:
    """The content of one table."""

    shape: tuple[int, int]  # samples, units
    type: str  # in which values are kept; empty where that is not known before they are read
    values: str  # a digest
    labels: str  # a digest; empty without labels
    weights: str = ""  # a digest; empty without weights of samples

    def differs(self, other: Contents) -> str:
        """The difference of the values from those of ``other``, for people; empty where there is none."""
        if self.shape != other.shape:
            (n, units), (n_other, units_other) = self.shape, other.shape
            return f"{n} samples of {units} values, not {n_other} of {units_other}"
        if self.type and other.type and self.type != other.type:
            return f"values of type {self.type}, not {other.type}"
        return "" if self.values == other.values else "other values in the same shape"


@dataclass(frozen=True)
class Fingerprint:
    """The values by which a data set is known; an immutable value that knows neither paths nor ranks."""

    train: Contents  # what training samples are taken from
    test: Contents | None  # a test set of its own
    fractions: tuple[float, float]  # of samples set aside for test and validation

    def differs(self, other: Fingerprint) -> str:
        """In what the data are not ``other``, for people; empty where they are."""
        if difference := self.train.differs(other.train):
            return f"it has {difference}"
        if self.train.labels != other.train.labels:
            return _of_labels("", self.train, other.train)
        if self.train.weights != other.train.weights:
            how = "others" if self.train.weights and other.train.weights else "new" if self.train.weights else "missing"
            return f"the weights of its samples are {how}"
        if (self.test is None) != (other.test is None):
            return "a test set was added" if self.test is not None else "the test set is missing"
        if self.test is not None and other.test is not None:
            if difference := self.test.differs(other.test):
                return f"the test set has {difference}"
            if self.test.labels != other.test.labels:
                return _of_labels("test set's ", self.test, other.test)
        return ""

    def as_text(self) -> str:
        """JSON, the same for the same data; it names weights where there are any."""
        values = asdict(self)
        for part in (values["train"], values["test"]):
            if part is not None and not part["weights"]:
                del part["weights"]
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_text(cls, text: str | None) -> Fingerprint | None:
        """From ``as_text``; None where there is none, or none that this version understands."""
        try:
            values = json.loads(text or "")
            train, test = (None if part is None else _contents(part) for part in (values["train"], values["test"]))
            first, second = map(float, values["fractions"])
            return None if train is None else cls(train, test, (first, second))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            return None


def _contents(values: dict[str, Any]) -> Contents:
    n, units = map(int, values["shape"])
    labels, weights = str(values["labels"]), str(values.get("weights", ""))
    return Contents((n, units), str(values["type"]), str(values["values"]), labels, weights)


def _of_labels(whose: str, mine: Contents, other: Contents) -> str:
    if not mine.labels or not other.labels:
        return f"the {whose}labels are {'missing' if other.labels else 'new'}"
    return f"the {whose}labels are others"


def contents(
    source: Source, values: str, labels: npt.NDArray[np.int64] | None, weights: npt.NDArray[np.float64] | None = None
) -> Contents:
    """The fingerprint of a source as its file gives it, before anything of it was cached.   values: of ``values_of``"""
    table = source.table
    label_bytes = b"" if labels is None else np.ascontiguousarray(labels, "<i8").tobytes()
    digest = "" if labels is None else hashlib.blake2b(label_bytes, digest_size=8).hexdigest()
    of_weights = "" if weights is None else _hashed(np.ascontiguousarray(weights, "<f8").tobytes())
    return Contents((table.n_samples, table.n_units), _type_of(table), values, digest, of_weights)


def _type_of(table: Table) -> str:
    kept = getattr(table, "array", table)
    archive = getattr(table, "archive", None)
    dtype = getattr(kept, "dtype", None) if archive is None else archive.headers["data"].dtype
    return "" if dtype is None else plain_dtype(np.dtype(dtype)).name


def values_of(data: str | os.PathLike[str], *, test: bool = False) -> str:
    """A digest of the samples in a file; a name stands for itself.  Reads at most ``WHOLE`` bytes.

    test   of the test set that the file brings
    Raises DataError where the file cannot be read.
    """
    path = Path(os.path.expanduser(data))
    if not path.is_file():
        return f"name:{data}"
    with reading(path), open_regular(path) as file:
        start = file.read(4)
    if start == ZIP_START:
        return _of_archive(path, test)
    return _of_gzip(path) if is_gzip(start) else _of_plain(path)


def values_of_folder(folder: Path) -> str:
    """A digest of the files of a folder: of their names and sizes, and of what they hold, all up to ``WHOLE`` bytes and
    else the beginnings of ``PIECES`` of them.  Raises DataError where one cannot be read."""
    with reading(folder):
        found = [Path(where) / name for where, _, names in os.walk(folder) for name in names]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(found)}
    digest, total = hashlib.blake2b(json.dumps(sizes).encode(), digest_size=8), sum(sizes.values())
    chosen = list(sizes)
    if total > WHOLE:
        chosen = [chosen[i] for i in np.unique(np.linspace(0, len(chosen) - 1, PIECES).astype(np.int64)).tolist()]
    for name in chosen:
        with reading(folder / name), open_regular(folder / name) as file:
            if total > WHOLE:
                digest.update(file.read(PIECE))
            while total <= WHOLE and (part := file.read(1 << 20)):
                digest.update(part)
    return f"files:{digest.hexdigest()}"


def _of_archive(path: Path, test: bool) -> str:
    """The archive's own checksums of the arrays that are not labels or weights, which stand at its end."""
    with reading(path), unpacking(path), open_regular(path) as file, zipfile.ZipFile(file) as archive:
        sums = {member.filename.removesuffix(".npy").lower(): member.CRC for member in archive.infolist()}
    if "x_train" in sums:
        return f"crc32:{sums.get('x_test' if test else 'x_train', 0):08x}"
    named = {*LABEL_KEYS, WEIGHTS_KEY} & set(sums)
    if sums.keys() >= {"arr_0", "arr_1"}:  # numpy.savez(file, samples, labels)
        named.add("arr_1")
    kept = {name: crc for name, crc in sums.items() if name not in named}
    if len(kept) == 1:
        return f"crc32:{next(iter(kept.values())):08x}"
    return f"arrays:{_hashed(json.dumps(sorted(kept.items())).encode())}"


def _of_gzip(path: Path) -> str:
    """The checksum at the end, which is that of all where the file has one part; else of its packed bytes."""
    needed = _unpacked_size(path)
    with reading(path), open_regular(path) as file:
        file.seek(-8, os.SEEK_END)
        crc, size = (int.from_bytes(file.read(4), "little") for _ in range(2))
    return f"crc32:{crc:08x}" if needed is not None and size == needed % 2**32 else f"gzip:{_of_plain(path)}"


def _unpacked_size(path: Path) -> int | None:
    """That an IDX file tells of; None where it tells nothing."""
    try:
        header, _ = read_header(path)
    except DataError:
        return None
    return header.size


def _of_plain(path: Path) -> str:
    with reading(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= WHOLE:
            crc = 0
            while part := file.read(1 << 20):
                crc = zlib.crc32(part, crc)
            return f"crc32:{crc:08x}"
        digest = hashlib.blake2b(str(size).encode(), digest_size=8)
        for at in np.linspace(0, size - PIECE, PIECES).astype(np.int64).tolist():
            file.seek(at)
            digest.update(file.read(PIECE))
    return f"sample:{digest.hexdigest()}"


def _hashed(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
