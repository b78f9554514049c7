"""``.npz`` files: zip archives of ``.npy`` arrays, of which single ones are read, whole or as a stream."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from modelpar.errors import DataError
from modelpar.files.regular import open_regular
from modelpar.formats.npy import Header, read_array, read_header
from modelpar.formats.reading import MOST_PACKED, check_size, read_exactly, reading, unpacking

Array = npt.NDArray[Any]

ZIP_START = b"PK\x03\x04"
_LOCAL_HEADER = 30  # bytes of a member's header before its name
_SMALL = 1024  # bytes of an array of few values
_MOST_ARRAYS = 1024  # of an archive: the header of each is read
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those that NumPy writes; others have no bound on what they make


@dataclass(frozen=True)
class Stored:
    """An array that an archive has as it is, not compressed: where its ``.npy`` file lies in the archive's."""

    start: int
    n_bytes: int
    crc: int  # that it should have


class Archive:
    """A ``.npz`` file: its arrays by lower-case name, and their headers.  Raises DataError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.headers: dict[str, Header] = {}
        self.members: dict[str, str] = {}
        with self._opened() as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            if len(members) > _MOST_ARRAYS:
                raise DataError(f"{path} has {len(members)} arrays, but {_MOST_ARRAYS} at most are looked through")
            for member in members:
                key = member.filename.removesuffix(".npy").lower()
                self._check(member, key)
                with archive.open(member) as stream:
                    header = read_header(stream, self.where(key))
                if not header.dtype.hasobject:
                    check_size(self.where(key), member.file_size, header.size)
                self.headers[key], self.members[key] = header, member.filename

    def _check(self, member: zipfile.ZipInfo, key: str) -> None:
        if key in self.headers:
            raise DataError(f"{self.path} has two arrays {key!r}, so it is not clear which is meant; save it again")
        if member.compress_type not in _METHODS:
            raise DataError(
                f"{self.where(key)} is corrupt, or packed by method {member.compress_type}, as NumPy does not; save it "
                "again with numpy.savez"
            )
        if member.file_size > MOST_PACKED * member.compress_size:
            raise DataError(
                f"{self.where(key)} is corrupt: {member.compress_size} bytes cannot hold the {member.file_size} that "
                "it tells of; get a new copy"
            )

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        with reading(self.path), unpacking(self.path), open_regular(self.path) as file, zipfile.ZipFile(file) as opened:
            yield opened

    def where(self, key: str) -> str:
        """The name of an array in error messages."""
        return f"array {key!r} of {self.path}"

    def values(self, key: str) -> Callable[[], Any]:
        """Opens an array's stream after its header."""

        @contextmanager
        def open_values() -> Iterator[IO[bytes]]:
            with self._opened() as archive, archive.open(self.members[key]) as stream:
                read_exactly(stream, self.headers[key].n_bytes)
                yield stream

        return open_values

    def load(self, key: str) -> Array:
        """A whole array.  Raises DataError."""
        with self.values(key)() as stream:
            return read_array(stream, self.headers[key], self.where(key))

    def stored(self, key: str) -> Stored | None:
        """Where an array lies that is stored as it is, and can be mapped; None where it is compressed.

        Raises DataError.
        """
        with self._opened() as archive:
            member = archive.getinfo(self.members[key])
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                return None
            size = self.path.stat().st_size
        with reading(self.path), open_regular(self.path) as file:
            file.seek(member.header_offset)
            local = read_exactly(file, _LOCAL_HEADER)
        # of its name, and of what follows
        more = sum(int.from_bytes(local[at : at + 2], "little") for at in (26, 28))
        start = member.header_offset + _LOCAL_HEADER + more
        if local[:4] != ZIP_START or start + member.file_size > size:
            raise DataError(f"{self.where(key)} is corrupt: it is not where it should be; get a new copy")
        return Stored(start, member.file_size, member.CRC)

    def is_whole(self) -> bool:
        """Whether the checksums of all members are right; reads all of the file.  Raises DataError."""
        with self._opened() as archive:
            return archive.testzip() is None

    def key_of(self, names: tuple[str, ...]) -> str | None:
        """The first of ``names`` that is there."""
        return next((name for name in names if name in self.headers), None)


def small_array(archive: Archive, key: str) -> Array:
    """(n,) the values of an array that has a few of them, in any shape.  Raises DataError."""
    header = archive.headers[key]
    if header.values_size > _SMALL:
        raise DataError(f"{archive.where(key)} has the shape {header.shape}, but should have few values; save it again")
    return np.atleast_1d(archive.load(key)).reshape(-1)
