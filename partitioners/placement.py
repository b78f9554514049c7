"""Partitions in files: numpy's .npz with ``layer0``, ``layer1``, ... (the part of every unit) and what made them."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from partitioners.graph import GraphError
from partitioners.partition import Partition

ABOUT, PARTS, LAYER = "about", "n_parts", "layer"


def save_placement(path: str | Path, partition: Partition, about: dict[str, Any] | None = None) -> None:
    """Write a partition, and what is to be known about it (JSON), whole or not at all.

    Raises OSError where the file cannot be written.
    """
    target = Path(path)
    arrays: dict[str, Any] = {f"{LAYER}{i}": np.asarray(owner, np.int32) for i, owner in enumerate(partition.owners)}
    arrays |= {PARTS: np.array(partition.n_parts), ABOUT: np.array(json.dumps(about or {}, sort_keys=True))}
    partial = target.with_name(target.name + ".partial")
    try:
        with open(partial, "wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def load_placement(path: str | Path) -> tuple[Partition, dict[str, Any]]:
    """A partition and what is known about it.

    Raises OSError where the file cannot be read, GraphError where it holds no partition.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        n_parts = int(arrays[PARTS])
        layers = [arrays[f"{LAYER}{i}"] for i in range(sum(name.startswith(LAYER) for name in arrays))]
        about = json.loads(str(arrays[ABOUT]))
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        raise GraphError(f"{path} holds no partition; write one with save_placement, or modelpar partition") from None
    if not layers or not all(_fits(owner, n_parts) for owner in layers):
        raise GraphError(f"{path} holds no partition: its layers must each have one part, 0 to {n_parts - 1}, a unit")
    return Partition(tuple(owner.astype(np.int64) for owner in layers), n_parts), about


def _fits(owner: npt.NDArray[Any], n_parts: int) -> bool:
    if owner.ndim != 1 or owner.dtype.kind not in "iu":
        return False
    return not owner.size or bool(owner.min() >= 0 and owner.max() < n_parts)
