"""Packed data sets as ordinary ``.npz`` files: written, opened, and never unpacked.

bits    (n_samples, n_units / 8 rounded up) uint8: bit ``u % 8`` of byte ``u // 8`` is unit ``u`` of a sample,
        as ``numpy.packbits(states, axis=1, bitorder="little")`` makes them
shape   (n_samples, *dimensions of a sample): their product is n_units
scale   the raw value of a bit that is set
labels  (n_samples,) integers; may be left out
format  an integer; files without it are of format 1, to which format 2 adds
visible   the kind of visible units that the states are for, as the text categorical:21
alphabet  the letters of the states of categorical units, in their order
weights   (n_samples,) numbers from 0 on; may be left out

The archive has a CRC-32 of each array, as every zip file.  That of bits that are memory-mapped is checked when the data
set is opened, by all ranks of a node together: 0.2 s of one core's time for a GB.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from scipy import sparse

from modelpar.data.arrays import LABEL_KEYS, labels_in
from modelpar.data.bits import pick_bits
from modelpar.data.columns import Columns
from modelpar.data.dataset import EagerTable, Source, Split, Table, agreed, check_shape, image_shape_of
from modelpar.data.mapped import MappedFile
from modelpar.data.memory import array_source
from modelpar.data.packed import PackedColumns, packed_rows, values_type, width
from modelpar.data.reading import check_labels
from modelpar.data.sample_weights import WEIGHTS_KEY, check_weights
from modelpar.errors import DataError
from modelpar.files.outputs import Output
from modelpar.files.paths import identity
from modelpar.formats.archive import Archive, small_array
from modelpar.formats.crc import combined, crc_of
from modelpar.formats.reading import reading
from modelpar.machine.memory import check_room
from modelpar.values.forms import AnyPath

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

MappedBits = tuple[Array, MappedFile | None]

KEYS = {"bits", "shape", "scale"}
FORMAT, FIRST = 2, 1  # the latest, and that of files which need no more than it has, and any version reads
_VISIBLE = re.compile(r"[a-z]{1,20}|categorical:[1-9][0-9]{0,8}")


class PackedTable(EagerTable):
    """States kept as bits (n_samples, n_units / 8 rounded up), in memory or memory-mapped.

    load    gives the bits, and the file that they are mapped to, None where they are in memory
    high    the raw value of a bit that is set; dtype: of the values that were packed
    level, original   the threshold on scaled values that made the bits, and the table with the values themselves;
                      None where the bits are all there is to know
    """

    def __init__(
        self, name: str, n_samples: int, n_units: int, load: Callable[[], MappedBits], *, high: float = 1.0,
        dtype: npt.DTypeLike = np.uint8, level: float | None = None, original: Table | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name, n_samples, n_units)
        self.load, self.high, self.dtype, self.level, self.original = load, high, dtype, level, original

    def read(self, unit_ids: IntArray) -> PackedColumns:
        """All units: the bits themselves; some of them: a copy of theirs."""
        bits, file = self.load()
        if not np.array_equal(unit_ids, np.arange(self.n_units)):
            check_room(self.n_samples * width(len(unit_ids)), self.name)
            picked = np.empty((self.n_samples, width(len(unit_ids))), np.uint8)
            if file is not None:
                file.check()
            source = np.ascontiguousarray(bits).view()
            source.flags.writeable = False
            pick_bits(source, unit_ids, picked)
            bits, file = picked, None
        return PackedColumns(bits, len(unit_ids), high=self.high, dtype=self.dtype, file=file)

    def scaled(self, offset: Array, scale: Array, level: float | None) -> Table:
        """The table whose values make these states: this one, unless they are other than what the bits were made of."""
        same = not offset.any() and bool((scale == self.high).all()) and level == self.level
        return self if self.original is None or same else self.original


def write_packed(
    path: AnyPath, data: Split | Any, labels: npt.ArrayLike | None = None,
    image_shape: tuple[int, int] | None = None, *, visible: str = "", alphabet: str = "",
    weights: npt.ArrayLike | None = None,
) -> None:  # fmt: skip
    """Write samples of two values, 0 and one other, as a packed ``.npz`` file: 1/8 of a byte a value.

    data          an array (n_samples, ...) in any form that ``open_dataset`` takes, or a split, whose labels are the
                  default of ``labels``
    image_shape   (rows, columns) of the picture that one sample is, where the array does not tell
    visible, alphabet   the kind of visible units that the states are for, and the letters of the states of a site,
                  where the file is to say so
    weights       of the samples, where the file is to have them

    The file is there whole or not at all.  Not collective.  Raises DataError for other values, for labels that do not
    fit, and where the file cannot be written.
    """
    name = os.fsdecode(path)
    if isinstance(data, Split):
        file_identity = identity(name)
        if file_identity is not None and file_identity in (
            identity(data.table.name),
            identity(getattr(data.table, "path", None) or ""),
        ):
            raise DataError(f"{name} is the file that these samples come from; write to another")
        shape: tuple[int, ...] = (len(data), data.table.n_units)
        packed = _two_values(data.table.columns(np.arange(shape[1])), data.rows, data.table.name)
        labels = data.labels if labels is None else labels
    else:
        table = array_source(data, f"the array for {name}").table
        shape = tuple(data.shape) if sparse.issparse(data) else np.shape(data)
        packed = _two_values(table.columns(np.arange(table.n_units)), np.arange(table.n_samples), table.name)
    if image_shape is not None:
        if math.prod(image_shape) != packed.n_units:
            raise DataError(
                f"pictures of {' x '.join(map(str, image_shape))} were asked for {name}, but its samples have "
                f"{packed.n_units} values; give rows and columns whose product that is"
            )
        shape = (shape[0], *image_shape)
    classes = None if labels is None else check_labels(labels, shape[0], f"the labels for {name}")
    source = getattr(data.table, "path", None) if isinstance(data, Split) else None
    try:
        save_bits(
            Path(name),
            packed,
            shape,
            classes,
            sources=[source] if source else (),
            visible=visible,
            alphabet=alphabet,
            weights=None if weights is None else check_weights(weights, shape[0], f"the weights for {name}"),
        )
    except OSError as error:
        raise DataError(
            f"{name} cannot be written ({error.strerror or error}); free some space, or name another path"
        ) from None


def save_bits(
    path: Path, packed: PackedColumns, shape: Sequence[int], labels: Array | None = None, *, key: str = "",
    private: bool = False, sources: Sequence[AnyPath] = (), visible: str = "", alphabet: str = "",
    weights: Array | None = None,
) -> None:  # fmt: skip
    """The file, whole or not at all, also where others make the same.  Raises OSError.

    key       by which it can be known again: see :func:`key_in`
    private   only this user may read it
    sources   files that it is made from: where one of them is private, a new file is
    visible, alphabet   as in :class:`modelpar.data.dataset.Dataset`
    weights   of the samples
    """
    arrays: dict[str, Any] = {
        "bits": packed.bits, "shape": np.array(shape, np.int64), "scale": np.array(packed.high, packed.dtype),
    }  # fmt: skip
    if labels is not None:
        arrays["labels"] = labels
    if visible or weights is not None:  # an earlier version would pass over either
        arrays["format"] = np.array(FORMAT)
    if visible:
        arrays["visible"] = np.array(visible.encode())
    if weights is not None:
        arrays[WEIGHTS_KEY] = weights
    if alphabet:
        arrays["alphabet"] = np.array(alphabet.encode())
    if key:
        arrays["key"] = np.array(key.encode())
    output = Output(path, sources=map(os.fsdecode, sources))
    try:
        output.open()
        if private:
            output.partial.chmod(0o600)
        with open(output.partial, "wb") as file:
            np.savez(file, **arrays)  # stored, not compressed: the bits can be memory-mapped
        output.finish()
    finally:
        output.give_up()


def _two_values(columns: Columns, rows: IntArray, name: str) -> PackedColumns:
    """Raises DataError where there is a third value."""
    if isinstance(columns, PackedColumns):
        has_all_rows = np.array_equal(rows, np.arange(len(columns.bits)))
        bits = columns.bits if has_all_rows else columns.bits[rows]
        return PackedColumns(bits, columns.n_units, high=columns.high, dtype=columns.dtype)
    high = float(max(columns.summary(rows).high.max(), 0.0)) if len(rows) and columns.n_units else 0.0
    states = packed_rows(columns, rows, scale=np.full(columns.n_units, high or 1.0)) if math.isfinite(high) else None
    if states is None:
        raise DataError(
            f"{name} has more values than 0 and one other, but a packed file holds states; make them first, for "
            "example by values > 0.5"
        )
    return PackedColumns(states, columns.n_units, high=high or 1.0, dtype=values_type(columns))


def key_in(archive: Archive) -> str:
    """The key that a file was written with; empty without one.  Raises DataError."""
    return _text_in(archive, "key")


def _text_in(archive: Archive, name: str) -> str:
    """An array that is one text; empty where there is none, or it is something else.  Raises DataError."""
    values = small_array(archive, name).tolist() if name in archive.headers else []
    return values[0].decode("latin-1") if len(values) == 1 and isinstance(values[0], bytes) else ""


def is_packed(archive: Archive) -> bool:
    """Whether an archive is a packed data set."""
    return set(archive.headers) >= KEYS


def check_format(archive: Archive) -> None:
    """Raise DataError for a file of a later format."""
    found = small_array(archive, "format").reshape(-1)[:1].tolist() if "format" in archive.headers else [FIRST]
    if found not in ([FIRST], [FORMAT]):
        raise DataError(
            f"{archive.path} is a packed data set of format {str(found)[1:-1][:20]}, but this version reads formats "
            f"{FIRST} and {FORMAT}; use the version of modelpar that wrote it, or a later one"
        )


def open_packed(archive: Archive) -> Source:
    """Samples and labels of a packed file.  Reads headers, labels, and nothing of the bits.  Raises DataError."""
    check_format(archive)
    name = str(archive.path)
    numbers, scale, header = small_array(archive, "shape"), small_array(archive, "scale"), archive.headers["bits"]
    if numbers.dtype.kind not in "iu" or (numbers < 1).any() or (numbers >= 1 << 40).any():
        raise DataError(f"{archive.where('shape')} must be integers from 1, samples first; save it again")
    shape = tuple(int(n) for n in numbers)
    check_shape(shape, name)
    n_units = math.prod(shape[1:])
    if header.dtype != np.uint8 or header.fortran or header.shape != (shape[0], width(n_units)):
        raise DataError(
            f"{archive.where('bits')} is {header.dtype} {header.shape}, but {shape[0]} samples of {n_units} units need "
            f"uint8 {(shape[0], width(n_units))}; pack them by numpy.packbits(states, axis=1, bitorder='little')"
        )
    if scale.size != 1 or scale.dtype.kind not in "buif" or not 0 < float(scale.reshape(())) < np.inf:
        raise DataError(f"{archive.where('scale')} must be one number above 0; save it again")
    high = float(scale.reshape(()))
    dtype = scale.dtype.newbyteorder("=") if scale.dtype.kind == "f" else np.dtype(np.uint8)
    key = archive.key_of(LABEL_KEYS)
    labels = None if key is None else labels_in(archive, key, shape[0])
    table = PackedTable(name, shape[0], n_units, lambda: bits_of(archive), high=high, dtype=dtype)
    visible, alphabet = _kind_in(archive, n_units)
    return Source(table, high, image_shape_of(shape), labels, visible=visible, alphabet=alphabet)


def _kind_in(archive: Archive, n_units: int) -> tuple[str, str]:
    """The kind of units that the file is for, and their alphabet; empty where it does not say.  Raises DataError."""
    visible, alphabet = (_text_in(archive, name) for name in ("visible", "alphabet"))
    n_states = int(visible.partition(":")[2] or 1) if _VISIBLE.fullmatch(visible) else 0
    letters_fit = len(set(alphabet)) == len(alphabet) in (0, n_states) and (not alphabet or alphabet.isprintable())
    if (visible and (not n_states or n_units % n_states)) or not letters_fit:
        raise DataError(
            f"{archive.path} is for {visible!r} units with the letters {alphabet!r}, which do not fit its {n_units} "
            "units; save it again"
        )
    return visible, alphabet


def bits_of(archive: Archive) -> MappedBits:
    """The bits, memory-mapped where the archive stores them as they are, else in memory.  Raises DataError."""
    header, stored = archive.headers["bits"], archive.stored("bits")
    if stored is None:
        return archive.load("bits"), None
    file = MappedFile(archive.path, stored.start + stored.n_bytes)
    return file.array(np.uint8, stored.start + header.n_bytes, header.shape), file


def check_packed(table: Table, comm: MPI.Comm | None, *, same: bool) -> None:
    """Raise DataError, on every rank, where a table is of a packed file whose bits are not those that were written.

    same   whether all ranks have opened one file: those of a node read a part of it each, else each rank all of its own
    Collective over ``comm`` where one is given, whatever the tables are.
    """
    node = comm.Split_type(MPI.COMM_TYPE_SHARED) if comm is not None and same else None
    try:
        with agreed(comm):
            if isinstance(table, PackedTable):
                _check_bits(Path(table.name), node)
    finally:
        if node is not None:
            node.Free()


def _check_bits(path: Path, comm: MPI.Comm | None) -> None:
    """Compares the checksum of stored bits; compressed ones are checked when they are loaded.  Collective."""
    rank, n_ranks = (0, 1) if comm is None else (comm.rank, comm.size)
    stored, mine, n_bytes = None, 0, 0
    with agreed(comm), reading(path):
        stored = Archive(path).stored("bits")
        if stored is not None:
            start, stop = (stored.start + stored.n_bytes * part // n_ranks for part in (rank, rank + 1))
            mine, n_bytes = crc_of(path, start, stop), stop - start
    crc = 0
    for part, n in [(mine, n_bytes)] if comm is None else comm.allgather((mine, n_bytes)):
        crc = combined(crc, part, n)
    if stored is not None and crc != stored.crc:
        raise DataError(
            f"array 'bits' of {path} is corrupt: its checksum is {crc:08x}, but should be {stored.crc:08x}; get a new "
            "copy"
        )
