"""Placement files: a partition and how it was made, in an .npz that any NumPy reads.

Arrays ``layer0``, ``layer1``, ... (n_units of the layer,) int32 owners, ``n_parts``, and ``made``, a JSON object.
Later formats say their number there, as ``format``; files without it are of format 1, which this is.
"""

from __future__ import annotations

import json
import lzma
import operator
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from partitioners.arguments import AnyPath, path_of
from partitioners.graph import GraphError
from partitioners.partition import Partition, plain
from partitioners.writing import atomic_file

FORMAT = 1
# raised by numpy, zipfile and json for files that are damaged, or of another kind
DAMAGED = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, EOFError, RuntimeError, MemoryError,
    SyntaxError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
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

    Raises GraphError where the file cannot be read or is not a placement.
    """
    path = path_of(path)
    try:
        # opened here to be closed: np.load leaves a damaged file open
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            n_parts, made = operator.index(file["n_parts"][()]), json.loads(str(file["made"]))
            layers = sum(name.startswith("layer") for name in file.files)
            owners = tuple(np.asarray(file[f"layer{i}"]) for i in range(layers))
    except OSError as error:
        raise GraphError(f"{path} cannot be read: {error.strerror or 'not an .npz file'}") from None
    except DAMAGED:
        raise GraphError(
            f"{path} is not a placement file: layer0, layer1, ..., n_parts and made are expected"
        ) from None
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
        raise GraphError(f"{path} is not a placement file: layer0, layer1, ..., n_parts and made are expected")
    try:
        return plain(Partition(owners, n_parts)), made
    except GraphError as error:
        raise GraphError(f"{path} is not a placement file: {error}") from None


def _plain_value(value: Any) -> Any:
    """NumPy's numbers and arrays as values for JSON.  Raises TypeError for all others."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not")
