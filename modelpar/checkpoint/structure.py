"""Weights in a checkpoint: a matrix, or, where connections are listed, their values and the units that they connect.

Listed connections are counted hidden unit after hidden unit, ascending visible units inside each, as CSC has them in
scipy.sparse.  ``rbm.0.W`` has their values, ``rbm.0.degrees`` their number for each hidden unit and ``rbm.0.visible``
their visible units.  For receptive fields, which the network's definition describes, the last two are left out, and the
values are (hidden units, units of a field).
"""

from __future__ import annotations

import math
from itertools import pairwise
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
from modelpar.machine.memory import check_room
from modelpar.model.network import Part
from modelpar.model.rbm import RBM
from modelpar.ownership.build_connections import connect_described, image_shapes
from modelpar.ownership.connections import Connections, Listed
from modelpar.spec import NetworkSpec
from modelpar.units.hidden import hidden_units
from modelpar.values.offsets import offsets_of
from modelpar.weights.parameters import Parameters
from modelpar.weights.protocol import Piece

Array = npt.NDArray[Any]

LIST_BYTES = 24  # a listed connection takes while lists are read and compared: visible unit, place, and copies


Shapes = dict[str, tuple[int, ...]]  # of a part's parameters, by ``W``, ``b``, ``c`` and names of others


def check(path: str | Path, header: Header, spec: NetworkSpec) -> None:
    """Raise CheckpointError where a file does not hold the parameters of the network that it defines.

    So a layer, or connections, of any size are believed only where the file has as many bytes: what is taken for them
    is of the size of the file.  Nothing but the header is read.
    """
    for name, shapes in part_shapes(header, spec).items():
        check_parameters(path, header, spec, name, shapes)
    int32 = np.dtype(np.int32)
    for i in _listed(spec):
        check_tensor(path, header, f"rbm.{i}.degrees", int32, (spec.layers[i + 1],))
        check_tensor(path, header, f"rbm.{i}.visible", int32, header.tensors[f"rbm.{i}.W"][1])


def part_shapes(header: Header, spec: NetworkSpec) -> dict[str, Shapes]:
    """The shapes of the parameters of ``rbm.0``, ``rbm.1``, ..., and of ``output`` where there are classes.

    The number of listed connections is that of the file.  Raises SpecError where receptive fields fit no layer.
    """
    result: dict[str, Shapes] = {}
    patterns, images = spec.patterns, image_shapes(spec)
    for i, (n_lower, n_upper) in enumerate(pairwise(spec.layers)):
        pattern, image = patterns[i], images[i]
        weights: tuple[int, ...] = (n_lower, n_upper)
        if pattern.kind == "local" and image is not None:
            weights = (n_upper, image[0] * int(pattern.numbers[0]) ** 2)
        elif not pattern.dense:
            _, shape, _, _ = header.tensors.get(f"rbm.{i}.W", (None, (0,), 0, 0))
            weights = (math.prod(shape),)
        units = hidden_units(spec.hidden_of(i))
        potential = dict.fromkeys(units.learned if units else (), (n_upper,))
        beside = {**potential, **dict.fromkeys(spec.visible_kind.learned if i == 0 else (), (n_lower,))}
        result[f"rbm.{i}"] = {"W": weights, "b": (n_lower,), "c": (n_upper,), **beside}
    if spec.classes:
        result["output"] = {"W": (spec.layers[-1], spec.classes), "c": (spec.classes,)}
    return result


def check_parameters(path: str | Path, header: Header, spec: NetworkSpec, name: str, shapes: Shapes) -> None:
    """Raise CheckpointError where ``NAME.W``, ``NAME.b``, ``NAME.c``, ... are not there, or not of these shapes."""
    for letter, shape in shapes.items():
        check_tensor(path, header, f"{name}.{letter}", np.dtype(spec.dtype), shape)


def _listed(spec: NetworkSpec) -> list[int]:
    """The RBMs whose connections are in lists."""
    return [i for i, pattern in enumerate(spec.patterns) if not pattern.dense and pattern.kind != "local"]


def check_tensor(path: str | Path, header: Header, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Raise CheckpointError where a tensor is not there, or of another type or shape."""
    stored = header.tensors.get(name)
    if stored is None:
        raise CheckpointError(f"{path} has no tensor {name!r}, which its network needs; it is incomplete; {EARLIER}")
    if stored[:2] != (dtype, shape):
        has, needs = f"{stored[0]} {list(stored[1])}", f"{dtype} {list(shape)}"
        raise CheckpointError(f"{path} has tensor {name!r} as {has}, but its network needs {needs}; {EARLIER}")


def memory_bytes(header: Header, spec: NetworkSpec, n_shards: int, *, to_train: bool) -> int:
    """The memory that a shard takes for a network that was checked, with all that the file has of its training, or not.

    ids of units are of 64 bits, twice for each layer: in its layout, and in what the shard owns.
    """
    used = (stop - start for name, (_, _, start, stop) in header.tensors.items() if to_train or name.startswith(_USED))
    return sum(used) // n_shards + 16 * sum(spec.layers)


_USED = ("rbm.", "output.", "input.", "average.")  # in front of names of tensors that are read when not to train


def block(name: str, piece: Piece) -> TensorBlock:
    """A tensor of weights, or of lists of connections, and this shard's piece of it."""
    rows = Ids.of_runs(*piece.rows) if isinstance(piece.rows, tuple) else piece.rows
    return TensorBlock(name, piece.shape, piece.values, rows, piece.columns)


def parameter_blocks(name: str, part: Part, parameters: Parameters, shape: tuple[int, ...]) -> list[TensorBlock]:
    """``NAME.W``, ``NAME.b``, ``NAME.c`` and what units have besides: parameters that have the shapes of a part's.

    shape   (units below, units above) of the part
    """
    result = [block(f"{name}.W", part.weights.piece(parameters.W))]
    if part.visible_ids is not None:
        of_visible = {"b": parameters.b, **dict(zip(part.precision, parameters.precision, strict=True))}
        result += [TensorBlock(f"{name}.{own}", shape[:1], x, part.visible_ids, None) for own, x in of_visible.items()]
    of_hidden = {"c": parameters.c, **dict(zip(part.potential, parameters.potential, strict=True))}
    result += [TensorBlock(f"{name}.{own}", shape[1:], x, part.hidden_ids, None) for own, x in of_hidden.items()]
    return result


def blocks(rbm: RBM, *, described: bool = False) -> list[TensorBlock]:
    """This shard's part of the lists of connections; ``described``: also of those that the spec describes."""
    lists = rbm.weights.lists(described=described)
    return [block(f"rbm.{rbm.index}.{name}", piece) for name, piece in lists.items()]


def read(path: str | Path, header: Header, spec: NetworkSpec, comm: MPI.Comm) -> tuple[Connections | None, ...] | None:
    """The connections of every RBM of a checkpoint; None where all are complete.  Rank 0 reads.  Collective.

    Raises, on every rank, CheckpointError where the lists are missing or are not lists of connections, and
    OutOfMemoryError where they do not fit.
    """
    if not spec.has_lists:
        return None
    check(path, header, spec)
    listed_rbms = _listed(spec)
    listed: list[Array] | None = None
    with together(comm):
        if comm.rank == 0:
            _check_memory(path, header, listed_rbms)
            listed = [array for i in listed_rbms for array in _lists(path, header, i, *spec.layers[i : i + 2])]
    listed = messages.bcast_arrays(comm, listed)
    connections = list(connect_described(spec))
    for i, degrees, visible in zip(listed_rbms, listed[::2], listed[1::2], strict=True):
        offsets = offsets_of(degrees)
        connections[i] = Listed(offsets, visible, spec.layers[i])
    return tuple(connections)


def _check_memory(path: str | Path, header: Header, listed_rbms: list[int]) -> None:
    n_connections = sum(header.tensors[f"rbm.{i}.W"][1][0] for i in listed_rbms)
    check_room(LIST_BYTES * n_connections, f"the lists of connections of {path}")


def _lists(path: str | Path, header: Header, i: int, n_visible: int, n_hidden: int) -> tuple[Array, Array]:
    arrays = []
    for name in (f"rbm.{i}.degrees", f"rbm.{i}.visible"):
        dtype, shape, start, _ = header.tensors[name]
        arrays.append(np.fromfile(path, dtype, math.prod(shape), offset=start))
        if len(arrays[-1]) != shape[0] or checksum(arrays[-1]) != header.checksums[name]:
            raise CheckpointError(f"{path} is damaged: {name} does not match its checksum; {EARLIER}")
    degrees, visible = arrays
    # each within its bounds before any of them are added, so that no sum can wrap
    fits = _within(degrees, 0, n_visible) and int(degrees.sum(dtype=np.int64)) == len(visible)
    if not fits or not _within(visible, 0, n_visible - 1):
        raise CheckpointError(f"{path} is damaged: its lists of connections of RBM {i} do not fit its layers")
    ascends = np.ones(len(visible) + 1, bool)
    np.greater(visible[1:], visible[:-1], out=ascends[1:-1])
    ascends[offsets_of(degrees)] = True  # the first of a hidden unit may be anything
    if not ascends.all():
        raise CheckpointError(
            f"{path} is damaged: its lists of connections of RBM {i} have visible units that do not ascend"
        )
    return degrees, visible


def _within(values: Array, least: int, most: int) -> bool:
    return not len(values) or (int(values.min()) >= least and int(values.max()) <= most)
