"""Data that are states and take time to read are kept packed in the user's cache directory, and read from there again.

What is kept is one packed ``.npz`` for each source, scale and threshold, in ``packed`` of the cache directory.  Its
name is a hash of the source's path, size, time of change and content, so a changed file is another source; the file
has it too, so that no other can take its place.  Only this user can read the folder and what is in it, as the source
may be private, and what others could have written is not believed.
``MODELPAR_NO_CACHE=1`` turns all this off; a folder that cannot be written, a full disk or a damaged file only mean
that the source is read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.data.columns import Columns
from modelpar.data.dataset import EagerTable, Source
from modelpar.data.doubts import HALF_OF_BYTES
from modelpar.data.packed import PackedColumns, keeps_states, packed_rows, values_type, width
from modelpar.data.packed_files import PackedTable, is_packed, key_in, open_packed, save_bits
from modelpar.errors import DataError
from modelpar.formats.archive import Archive
from modelpar.machine.caches import obstacle, user_folder
from modelpar.machine.memory import available_bytes

VARIABLE = "MODELPAR_NO_CACHE"
VERSION = 3  # of what is kept: a change makes old files void
LEAST = 1 << 20  # values: fewer are read in milliseconds

_SHARE_OF_MEMORY = 0.25  # of what is left, that the bits of one source may take while they are made


def packed_folder() -> Path | None:
    """Where this user's packed data lie; None without a home.  Whatever is in it can be deleted at any time.

    They can be large, and the temporary folder may be memory: nothing is kept there.
    """
    folder = user_folder()
    return None if folder is None else folder / "packed"


def from_cache(
    sources: Sequence[Source], level: float | None, comm: MPI.Comm | None = None, digests: Sequence[str] = ("", "")
) -> list[Source]:
    """The same sources, with tables from the cache where their values are states, or become such by a threshold.

    level     the threshold on scaled values, None where there is none
    digests   of the content of each source

    The first rank of a node reads what is not kept so far, all columns of it, and writes it.  Collective over ``comm``
    where one is given.  Raises nothing: in doubt a source stays what it is.
    """
    node = None if comm is None else comm.Split_type(MPI.COMM_TYPE_SHARED)
    paths: list[Path | None] = []
    if node is None or node.rank == 0:
        paths = [_find_or_make(source, digest, level) for source, digest in zip(sources, digests, strict=False)]
    if node is not None:
        paths = node.bcast(paths)
        node.Free()
    opened = [None if path is None else _opened(path, source, level)
              for source, path in zip(sources, paths, strict=True)]  # fmt: skip
    return [
        source if table is None else replace(source, table=table) for source, table in zip(sources, opened, strict=True)
    ]


def _find_or_make(source: Source, digest: str, level: float | None) -> Path | None:
    """The file of a source, made if need be.  None where there is none and it cannot be."""
    table = source.table
    if os.environ.get(VARIABLE, "0") not in ("", "0") or not isinstance(table, EagerTable) or table.path is None:
        return None
    if table.n_samples * table.n_units < LEAST or (level is not None and not keeps_states(level)):
        return None
    with suppress(OSError, DataError):
        folder = packed_folder()
        if folder is None:
            return None
        path = folder / f"{_key(table.path, table.name, digest, source.scale, level)}.npz"
        if _opened(path, source, level, check=True) is not None:
            return path
        if obstacle(folder) or not _made_private(folder):
            return None
        packed = _packed(table, source.scale, level)
        if packed is not None:
            path.unlink(missing_ok=True)  # whatever it is, or leads to
            save_bits(path, packed, (table.n_samples, table.n_units), key=path.stem, private=True)
            return path
    return None


def _made_private(folder: Path) -> bool:
    """Whether the folder is this user's own, and nobody else's business from now on.  Raises OSError."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or not _is_own(status):
        return False
    if stat.S_IMODE(status.st_mode) & 0o077:
        folder.chmod(0o700)
    return True


def _is_trusted(path: Path) -> bool:
    """Whether nobody but this user could have written a file, or put it there."""
    try:
        folder, file = path.parent.lstat(), path.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(folder.st_mode) or not stat.S_ISREG(file.st_mode):
        return False
    return all(_is_own(status) and not status.st_mode & 0o022 for status in (folder, file))


def _is_own(status: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def _key(path: Path, name: str, digest: str, scale: float, level: float | None) -> str:
    """A name for what a source is now.  Raises OSError."""
    state = path.stat()
    about = [
        VERSION, path.resolve(), name.removeprefix(str(path)), state.st_size, state.st_mtime_ns, digest, scale, level,
    ]  # fmt: skip
    return hashlib.sha256("\n".join(map(str, about)).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _opened(path: Path, source: Source, level: float | None, *, check: bool = False) -> PackedTable | None:
    """The table of a cache file; None where there is none, others could have written it, or it is damaged.

    check   read it all to see whether it is
    """
    table = source.table
    if not _is_trusted(path):
        return None
    try:
        archive = Archive(path)
        if key_in(archive) != path.stem or (check and not archive.is_whole()):
            return None
        kept = open_packed(archive).table if is_packed(archive) else None
    except DataError:
        return None
    if not isinstance(kept, PackedTable) or (kept.n_samples, kept.n_units) != (table.n_samples, table.n_units):
        return None
    kept.name, kept.level, kept.original = table.name, level, None if level is None else table
    return kept if kept.high == source.scale else None


def _bits_of(
    columns: Columns, rows: npt.NDArray[np.int64], factors: npt.NDArray[np.float64], level: float | None
) -> npt.NDArray[np.uint8] | None:
    """The states of all rows as bits; None where values are none."""
    if isinstance(columns, PackedColumns) and columns.are_states(np.zeros(1), factors, level):
        return columns.bits
    return packed_rows(columns, rows, scale=factors, level=level, check=True)


def _packed(table: EagerTable, scale: float, level: float | None) -> PackedColumns | None:
    """All values as bits; None where they are not states, should be refused, or take less memory as they are.

    Raises DataError where values cannot be read; whoever needs them will see it again.
    """
    if table.n_samples * width(table.n_units) + 16 * table.n_units > _SHARE_OF_MEMORY * available_bytes():
        return None
    bits = np.empty((table.n_samples, width(table.n_units)), np.uint8)
    start, highest, dtype = 0, 0.0, np.dtype(np.uint8)
    factors: npt.NDArray[np.float64] = np.full(table.n_units, scale)
    for n, columns in table.pieces():
        if getattr(columns, "nbytes", bits.nbytes) < bits.nbytes:
            return None  # a sparse matrix with few entries
        rows = np.arange(n)
        part = _bits_of(columns, rows, factors, level)
        if part is None:
            return None
        bits[start : start + n] = part
        if highest <= HALF_OF_BYTES and scale == 255:  # what checks of the values must see
            highest = max(highest, float(columns.summary(rows).high.max()))
        start, dtype = start + n, values_type(columns)
    alike = not bits.any() or bool((bits == np.packbits(np.ones(table.n_units, bool), bitorder="little")).all())
    if alike or (scale == 255 and highest <= HALF_OF_BYTES):
        return None
    return PackedColumns(bits, table.n_units, high=scale, dtype=dtype)
