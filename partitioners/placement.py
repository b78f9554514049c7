"""Placement files: a partition and how it was made, in an .npz that any NumPy reads.

Arrays ``layer0``, ``layer1``, ... (n_units of the layer,) int32 owners, ``n_parts``, and ``made``, a JSON object.
Later formats say their number there, as ``format``; files without it are of format 1, which this is.
"""

from __future__ import annotations

import json
import lzma
import math
import operator
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from partitioners.arguments import AnyPath, path_of
from partitioners.graph import MOST_LAYERS, GraphError
from partitioners.partition import Partition, plain
from partitioners.reading import cannot_read, check_room, open_regular
from partitioners.writing import atomic_file

FORMAT = 1
EXPECTED = "layer0, layer1, ..., n_parts and made are expected"
MOST_BYTES_MADE = 1 << 20  # of the description, and of headers
MEMORY_OF_DIRECTORY = 24  # bytes that a byte of an archive takes, if all of it were its directory
MEMORY_OF_BYTE = 6  # bytes that a byte of an owner takes, at most: its 32 bits become 64, and are compared
# raised by numpy, zipfile and json for files that are damaged, or of another kind
DAMAGED = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, EOFError, RuntimeError, MemoryError,
    SyntaxError, tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


def save_placement(path: AnyPath, partition: Partition, made: Mapping[str, Any] | None = None) -> None:
    """Write a partition; ``made`` describes how it was made: method, seed, volume and the like.

    The file is written completely or not at all.  Raises GraphError where it cannot be written, and for what is not a
    partition.
    """
    target, partition = path_of(path), plain(partition)
    try:
        description = np.array(json.dumps(dict(made or {}), sort_keys=True, default=_plain_value))
    except (TypeError, ValueError) as error:
        raise GraphError(f"the description of a partition must be what JSON can represent: {error}") from None
    arrays = {f"layer{i}": owner.astype(np.int32) for i, owner in enumerate(partition.owners)}
    with atomic_file(target) as file:
        np.savez_compressed(file, allow_pickle=False, n_parts=np.int64(partition.n_parts), made=description, **arrays)


def load_placement(path: AnyPath) -> tuple[Partition, dict[str, Any]]:
    """A partition and how it was made, as ``save_placement`` wrote them.

    Raises GraphError where the file cannot be read or is not a placement, or needs more memory than is free.
    """
    path = path_of(path)
    try:
        with open_regular(path) as opened:
            check_room(path, MEMORY_OF_DIRECTORY * os.fstat(opened.fileno()).st_size)
            with zipfile.ZipFile(opened) as archive:
                arrays = _arrays(path, archive)
        n_parts, made = operator.index(arrays.pop("n_parts")[()]), json.loads(str(arrays.pop("made")[()]))
        owners = tuple(arrays.pop(f"layer{i}") for i in range(len(arrays)))
    except GraphError:
        raise
    except OSError as error:
        raise cannot_read(path, error) from None
    except DAMAGED:
        raise GraphError(f"{path} is not a placement file: {EXPECTED}") from None
    for i, owner in enumerate(owners):
        if owner.ndim != 1 or not np.issubdtype(owner.dtype, np.integer):
            raise GraphError(f"{path} is not a placement file: layer{i} is {owner.dtype} of shape {owner.shape}")
        if owner.size and (owner.min() < 0 or owner.max() >= n_parts):
            wrong = int(owner.min() if owner.min() < 0 else owner.max())
            raise GraphError(f"{path}: a unit of layer {i} is owned by part {wrong}, but there are {n_parts} parts")
    if isinstance(made, dict) and made.get("format", FORMAT) != FORMAT:
        raise GraphError(
            f"{path} is a placement file of format {str(made['format'])[:20]}, but this version reads format {FORMAT}; "
            "use the version that wrote it, or a later one"
        )
    if not owners or not isinstance(made, dict):
        raise GraphError(f"{path} is not a placement file: {EXPECTED}")
    try:
        return plain(Partition(owners, n_parts)), made
    except GraphError as error:
        raise GraphError(f"{path} is not a placement file: {error}") from None


def _arrays(path: Path, archive: zipfile.ZipFile) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an archive by their names; none is read before all are known to be small enough.

    Raises GraphError where memory does not suffice, and one of ``DAMAGED`` where they are not those of a placement.
    """
    members = archive.infolist()
    if len(members) > MOST_LAYERS + 2:
        raise ValueError("too many members")
    sizes = {member.filename.removesuffix(".npy"): member.file_size for member in members}
    if len(sizes) != len(members) or sizes["made"] > MOST_BYTES_MADE or sizes["n_parts"] > MOST_BYTES_MADE:
        raise ValueError("names that come twice, or a long description")
    check_room(path, MEMORY_OF_BYTE * sum(sizes.values()))
    return {name: _array(archive, member) for name, member in zip(sizes, members, strict=True)}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """One array, whose shape and type its own header tells and whose bytes are as many as the archive says."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(file, max_header_size=MOST_BYTES_MADE)
        n_bytes = math.prod(shape) * dtype.itemsize
        if dtype.kind not in "iuU" or len(shape) > 1 or n_bytes > member.file_size:
            raise ValueError("no integers, and no text")
        content = file.read(n_bytes + 1)  # to the end, where the checksum is compared
    if len(content) != n_bytes:
        raise ValueError("other bytes than its shape tells")
    return np.frombuffer(content, dtype).reshape(shape)


def _plain_value(value: Any) -> Any:
    """NumPy's numbers and arrays as values for JSON.  Raises TypeError for all others."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not")
