"""Whether a checkpoint is of the network that was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.checkpoint import files
from modelpar.cli.config import Settings
from modelpar.cli.options import shown_value
from modelpar.cli.recorded_paths import without_files
from modelpar.ownership.build_connections import connect
from modelpar.ownership.connections import Listed
from modelpar.patterns import MASK
from modelpar.spec import NetworkSpec, option_name

COMPARED = (
    "layers", "connections", "visible_grid", "classes", "visible", "variances", "hidden", "dtype", "exact", "seed",
)  # fmt: skip


def difference(stored: NetworkSpec, asked: NetworkSpec) -> str:
    """In what a checkpoint's network is not the one that was asked for; empty where it is.  Not collective."""
    for name in COMPARED:
        theirs, ours = getattr(stored, name), getattr(asked, name)
        if name == "connections" and without_files(theirs) == without_files(ours):
            continue  # masks are compared by their connections
        if theirs != ours:
            return f"its {option_name(name)} is {shown_value(theirs)}, but {shown_value(ours)} was asked for"
    return ""


def other_connections(path: Path, stored: NetworkSpec, asked: NetworkSpec, settings: Settings, comm: MPI.Comm) -> str:
    """How a mask that is asked for by name differs from the checkpoint's; empty where it does not.  Collective."""
    named = settings.asked.get("network", {}).get("connections")
    if named is None or MASK not in named:
        return ""
    theirs = checkpoint.structure.read(path, files.read_header(path, comm), stored, comm)
    for i, (a, b) in enumerate(zip(theirs or (), connect(asked, comm), strict=False)):
        if isinstance(a, Listed) and isinstance(b, Listed) and not (
            np.array_equal(a.offsets, b.offsets) and np.array_equal(a.visible, b.visible)
        ):  # fmt: skip
            return f"RBM {i} has other connections than {named} names"
    return ""
