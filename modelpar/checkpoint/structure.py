"""Weights in a checkpoint: a matrix, or, where connections are listed, their values and the units that they connect.

Listed connections are counted hidden unit after hidden unit, ascending visible units inside each, as CSC has them in
scipy.sparse.  ``rbm.0.W`` has their values, ``rbm.0.degrees`` their number for each hidden unit and ``rbm.0.visible``
their visible units.  For receptive fields, which the network's definition describes, the last two are left out, and the
values are (hidden units, units of a field).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.checkpoint.checksum import checksum
from modelpar.checkpoint.files import TensorBlock
from modelpar.checkpoint.header import EARLIER, Header
from modelpar.checkpoint.ids import Ids
from modelpar.collective import messages
from modelpar.errors import CheckpointError, together
from modelpar.model.network import Part
from modelpar.model.rbm import RBM
from modelpar.ownership.build_connections import connect_described
from modelpar.ownership.connections import Connections, Listed
from modelpar.spec import NetworkSpec
from modelpar.values.offsets import offsets_of
from modelpar.weights.parameters import Parameters
from modelpar.weights.protocol import Piece

Array = npt.NDArray[Any]


def block(name: str, piece: Piece) -> TensorBlock:
    """A tensor of weights, or of lists of connections, and this shard's piece of it."""
    rows = Ids.of_runs(*piece.rows) if isinstance(piece.rows, tuple) else piece.rows
    return TensorBlock(name, piece.shape, piece.values, rows, piece.columns)


def parameter_blocks(name: str, part: Part, parameters: Parameters, shape: tuple[int, ...]) -> list[TensorBlock]:
    """``NAME.W``, ``NAME.b`` and ``NAME.c``: parameters that have the shapes of a part's.

    shape   (units below, units above) of the part
    """
    result = [block(f"{name}.W", part.weights.piece(parameters.W))]
    if part.visible_ids is not None:
        result.append(TensorBlock(f"{name}.b", shape[:1], parameters.b, part.visible_ids, None))
    result.append(TensorBlock(f"{name}.c", shape[1:], parameters.c, part.hidden_ids, None))
    return result


def blocks(rbm: RBM, *, described: bool = False) -> list[TensorBlock]:
    """This shard's part of the lists of connections; ``described``: also of those that the spec describes."""
    lists = rbm.weights.lists(described=described)
    return [block(f"rbm.{rbm.index}.{name}", piece) for name, piece in lists.items()]


def read(path: str | Path, header: Header, spec: NetworkSpec, comm: MPI.Comm) -> tuple[Connections | None, ...] | None:
    """The connections of every RBM of a checkpoint; None where all are complete.  Rank 0 reads.  Collective.

    Raises CheckpointError on every rank where the lists are missing or are not lists of connections.
    """
    if all(pattern.dense for pattern in spec.patterns):
        return None
    listed_rbms = [i for i, pattern in enumerate(spec.patterns) if not pattern.dense and pattern.kind != "local"]
    listed: list[Array] | None = None
    with together(comm):
        if comm.rank == 0:
            listed = [array for i in listed_rbms for array in _lists(path, header, i, *spec.layers[i : i + 2])]
    listed = messages.bcast_arrays(comm, listed)
    connections = list(connect_described(spec))
    for i, degrees, visible in zip(listed_rbms, listed[::2], listed[1::2], strict=True):
        offsets = offsets_of(degrees)
        connections[i] = Listed(offsets, visible, spec.layers[i])
    return tuple(connections)


def _lists(path: str | Path, header: Header, i: int, n_visible: int, n_hidden: int) -> tuple[Array, Array]:
    arrays = []
    for name in (f"rbm.{i}.degrees", f"rbm.{i}.visible"):
        if name not in header.tensors:
            raise CheckpointError(f"{path} has no {name}, which connections of RBM {i} need; it is incomplete")
        dtype, shape, start, _ = header.tensors[name]
        arrays.append(np.fromfile(path, dtype, math.prod(shape), offset=start))
        if checksum(arrays[-1]) != header.checksums[name]:
            raise CheckpointError(f"{path} is damaged: {name} does not match its checksum; {EARLIER}")
    degrees, visible = arrays
    fits = len(degrees) == n_hidden and degrees.min(initial=0) >= 0 and degrees.sum() == len(visible)
    if not fits or visible.min(initial=0) < 0 or visible.max(initial=0) >= n_visible:
        raise CheckpointError(f"{path} is damaged: its lists of connections of RBM {i} do not fit its layers")
    return degrees, visible
