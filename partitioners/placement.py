"""Placement files: a partition and how it was made, in an .npz that any NumPy reads.

Arrays ``layer0``, ``layer1``, ... (n_units of the layer,) int32 owners, ``n_parts``, and ``made``, a JSON object.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from partitioners.graph import GraphError
from partitioners.partition import Partition
from partitioners.writing import whole_file


def save_placement(path: str | os.PathLike[str], partition: Partition, made: Mapping[str, Any] | None = None) -> None:
    """Write a partition; ``made`` says how it was found: method, seed, volume and the like.

    There whole or not at all, so that a reader never sees half a file.  Raises GraphError where it cannot be written.
    """
    arrays = {f"layer{i}": owner.astype(np.int32) for i, owner in enumerate(partition.owners)}
    told = np.array(json.dumps(dict(made or {}), sort_keys=True))
    with whole_file(path) as file:
        np.savez_compressed(file, allow_pickle=False, n_parts=np.int64(partition.n_parts), made=told, **arrays)


def load_placement(path: str | os.PathLike[str]) -> tuple[Partition, dict[str, Any]]:
    """A partition and how it was made, as ``save_placement`` wrote them.

    Raises GraphError where the file cannot be read or is no placement.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            n_parts, made = int(file["n_parts"]), json.loads(str(file["made"]))
            layers = sum(name.startswith("layer") for name in file.files)
            owners = tuple(np.asarray(file[f"layer{i}"]) for i in range(layers))
    except OSError as error:
        raise GraphError(f"{path} cannot be read: {error.strerror or 'not an .npz file'}") from None
    except (ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error):
        raise GraphError(f"{path} is no placement file: layer0, layer1, ..., n_parts and made are expected") from None
    for i, owner in enumerate(owners):
        if owner.ndim != 1 or not np.issubdtype(owner.dtype, np.integer):
            raise GraphError(f"{path} is no placement file: layer{i} is {owner.dtype} of shape {owner.shape}")
        if owner.size and (owner.min() < 0 or owner.max() >= n_parts):
            wrong = int(owner.min() if owner.min() < 0 else owner.max())
            raise GraphError(f"{path}: a unit of layer {i} is owned by part {wrong}, but there are {n_parts} parts")
    if not owners or not isinstance(made, dict):
        raise GraphError(f"{path} is no placement file: layer0, layer1, ..., n_parts and made are expected")
    return Partition(tuple(owner.astype(np.int64) for owner in owners), n_parts), made
