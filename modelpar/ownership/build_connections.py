"""The connections that a network's spec asks for: from generators and files; and the coordinates of its units."""

from __future__ import annotations

import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.collective import messages
from modelpar.errors import DataError, SpecError, together
from modelpar.files.regular import open_regular
from modelpar.formats.archive import ZIP_START, Archive
from modelpar.formats.npy import NPY_START, Header, load_npy
from modelpar.formats.reading import reading
from modelpar.formats.sparse import format_in, is_sparse, rows_in, shape_in
from modelpar.ownership.connections import Connections, Listed, Local, check_mask_type, check_mask_values
from modelpar.patterns import PRUNED, Pattern, parse_image_shape
from modelpar.spec import NetworkSpec
from partitioners import generators
from partitioners.graph import GraphError

Array = npt.NDArray[Any]
LAYER_SEEDS = 1 << 20  # difference between the seeds of successive layers


def connect(spec: NetworkSpec, comm: MPI.Comm) -> tuple[Connections | None, ...]:
    """The connections of every RBM, None where they are complete; the same on every rank.  Collective.

    Raises SpecError on every rank where a pattern does not fit the layers, or its file cannot be read.
    """
    shapes = image_shapes(spec)
    return tuple(_connected(spec, i, pattern, shapes[i], comm) for i, pattern in enumerate(spec.patterns))


def connect_described(spec: NetworkSpec) -> tuple[Connections | None, ...]:
    """The connections of RBMs that are described by their spec alone, receptive fields; None for all others."""
    connections: list[Connections | None] = []
    for i, (pattern, shape) in enumerate(zip(spec.patterns, image_shapes(spec), strict=False)):
        connections.append(_fields(spec, i, pattern, shape) if pattern.kind == "local" and shape is not None else None)
    return tuple(connections)


def expected_counts(spec: NetworkSpec) -> tuple[int | None, ...]:
    """About how many connections each RBM will have, None where they are complete; nothing is built for it.

    Files are not read: their connections count as 0.
    """
    counts: list[int | None] = []
    layers, shapes = pairwise(spec.layers), image_shapes(spec)
    for (n_visible, n_hidden), pattern, shape in zip(layers, spec.patterns, shapes, strict=False):
        numbers = pattern.numbers
        if pattern.dense:
            counts.append(None)
        elif pattern.kind == "local" and shape is not None:
            counts.append(n_hidden * shape[0] * int(numbers[0]) ** 2)
        elif pattern.kind in ("random", "small-world", "scale-free"):
            counts.append(n_hidden * int(numbers[0]))
        elif pattern.kind == "erdos-renyi":
            counts.append(round(n_visible * n_hidden * numbers[0]))
        elif pattern.kind == "radix-net":
            counts.append(n_hidden * max(pattern.radices) * int(numbers[0]))
        else:
            counts.append(0)
    return tuple(counts)


def image_shapes(spec: NetworkSpec) -> tuple[tuple[int, int, int] | None, ...]:
    """(maps, rows, columns) of every layer below or above local connections, and of the input; None of others.

    Raises SpecError where fields do not fit a layer.
    """
    if all(pattern.kind != "local" for pattern in spec.patterns):
        return (None,) * len(spec.layers)
    shapes: list[tuple[int, int, int] | None] = [parse_image_shape(spec.visible_grid, spec.layers[0])]
    for i, pattern in enumerate(spec.patterns):
        below = shapes[-1]
        if pattern.kind != "local":
            shapes.append(None)
            continue
        if below is None:
            raise SpecError(f"--connections has local for RBM {i}, but the layer below it lies on no grid")
        above, across = Local(*below, 1, *_field_and_stride(pattern)).positions
        maps, remainder = divmod(spec.layers[i + 1], above * across)
        if remainder or not maps:
            near = max(1, round(spec.layers[i + 1] / (above * across))) * above * across
            raise SpecError(
                f"--connections: fields of RBM {i} have {above}x{across} positions, so the layer above it has a "
                f"multiple of {above * across} units, but --layers has {spec.layers[i + 1]}; use {near}"
            )
        shapes.append((maps, above, across))
    return tuple(shapes)


def coordinates_of(spec: NetworkSpec) -> list[Array] | None:
    """(n_units, 2) row and column of every unit of every layer, in the frame of the visible units.

    Units of layers without an image shape are spread over the plane.  None where no layer's connections are local.
    """
    shapes = image_shapes(spec)
    if shapes[0] is None:
        return None
    _, height, width = shapes[0]
    coordinates: list[Array] = []
    step, start = 1.0, 0.0
    for i, shape in enumerate(shapes):
        if shape is None:
            columns = max(1, round((spec.layers[i] * width / height) ** 0.5))
            row, column = np.divmod(np.arange(spec.layers[i]), columns)
            rows = -(-spec.layers[i] // columns)
            coordinates.append(np.stack([row * (height / rows), column * (width / columns)], axis=1))
            continue
        if i:
            field, stride = _field_and_stride(spec.patterns[i - 1])
            start += (field - 1) / 2 * step
            step *= stride
        maps, rows, columns = shape
        row, column = np.divmod(np.arange(rows * columns), columns)
        coordinates.append(np.tile(np.stack([row, column], axis=1) * step + start, (maps, 1)))
    return coordinates


def _connected(
    spec: NetworkSpec, i: int, pattern: Pattern, shape: tuple[int, int, int] | None, comm: MPI.Comm
) -> Connections | None:
    if pattern.dense:
        return None
    n_visible, n_hidden = spec.layers[i : i + 2]
    if pattern.kind == PRUNED:
        raise SpecError("--connections pruned is what modelpar prune makes of a network; open its checkpoint")
    if pattern.kind == "local":
        assert shape is not None  # image_shapes raises otherwise
        return _fields(spec, i, pattern, shape)
    if pattern.kind == "mask":
        listed = _read_mask(spec, i, pattern.path, comm)
    else:
        try:
            listed = Listed.from_mask(_generated(spec, i, pattern, n_visible, n_hidden))
        except GraphError as error:
            raise SpecError(f"--connections, RBM {i}: {error}") from None
    _check_units(i, (listed.n_visible, listed.n_hidden), spec)
    return listed


def _fields(spec: NetworkSpec, i: int, pattern: Pattern, shape: tuple[int, int, int]) -> Local:
    field, stride = _field_and_stride(pattern)
    above, across = Local(*shape, 1, field, stride).positions
    return Local(*shape, spec.layers[i + 1] // (above * across), field, stride)


def _generated(spec: NetworkSpec, i: int, pattern: Pattern, n_visible: int, n_hidden: int) -> Any:
    seed, numbers = spec.seed + LAYER_SEEDS * i, pattern.numbers
    if pattern.kind == "random":
        return generators.fixed_degree(n_visible, n_hidden, degree=int(numbers[0]), seed=seed)
    if pattern.kind == "erdos-renyi":
        return generators.erdos_renyi(n_visible, n_hidden, density=numbers[0], seed=seed)
    if pattern.kind == "small-world":
        return generators.small_world(n_visible, n_hidden, degree=int(numbers[0]), rewired=numbers[1], seed=seed)
    if pattern.kind == "scale-free" and numbers[0] > n_visible:
        raise GraphError(f"{int(numbers[0])} connections a unit were asked for, but there are {n_visible} units below")
    if pattern.kind == "scale-free":
        return generators.scale_free(n_visible, n_hidden, degree=int(numbers[0]), seed=seed)
    units = math.prod(pattern.radices) * int(numbers[0])
    if n_visible != units or n_hidden != units:
        raise GraphError(f"this RadiX-Net has layers of {units} units, but --layers has {n_visible} and {n_hidden}")
    return generators.radix_net(pattern.radices, copies=int(numbers[0]), n_layers=len(spec.layers))[i]


def _check_units(i: int, shape: tuple[int, ...], spec: NetworkSpec) -> None:
    if shape != spec.layers[i : i + 2]:
        raise SpecError(
            f"--connections: the mask of RBM {i} joins {shape[0]} with {shape[1]} units, but --layers has "
            f"{spec.layers[i]} and {spec.layers[i + 1]}"
        )


def _read_mask(spec: NetworkSpec, i: int, path: str, comm: MPI.Comm) -> Listed:
    """An .npy or .npz file of one array, or a matrix that scipy.sparse.save_npz wrote; rank 0 reads.  Collective."""
    mask: Listed | None = None
    with together(comm):
        if comm.rank == 0:
            try:
                mask = _loaded(spec, i, Path(os.path.expanduser(path)))
            except DataError as error:
                raise SpecError(f"--connections: {error}") from None
    arrays: list[Array] | None = None
    if mask is not None:
        arrays = [mask.offsets, mask.visible, np.array([mask.n_visible])]
    offsets, visible, (n_visible,) = messages.bcast_arrays(comm, arrays)
    return Listed(offsets, visible, int(n_visible))


def _loaded(spec: NetworkSpec, i: int, path: Path) -> Listed:
    """The mask of RBM i.  Values are read where the shape is that of the layers.  Raises SpecError, DataError."""
    name = f"--connections: {path}"

    def check(header: Header) -> None:
        check_mask_type(header.shape, header.dtype, name)
        _check_units(i, header.shape, spec)

    with reading(path), open_regular(path) as file:
        start = file.read(len(NPY_START))
    if start == NPY_START:
        return Listed.from_mask(load_npy(path, check), name)
    if not start.startswith(ZIP_START):
        begins = f"begins with {start[:4].hex(' ')}" if start else "is empty"
        raise SpecError(f"{name} is not a mask: it {begins}; give .npy, or scipy.sparse's .npz")
    archive = Archive(path)
    if is_sparse(archive):
        shape, dtype = shape_in(archive), archive.headers["data"].dtype
        check_mask_type(shape, dtype, name)
        _check_units(i, shape, spec)
        rows = rows_in(archive, format_in(archive), (shape[0], shape[1]), transposed=True)
        check_mask_values(rows, name)
        return Listed.from_rows(rows)
    if len(archive.headers) != 1:
        names = ", ".join(archive.headers) or "none"
        raise SpecError(f"{name} is not a mask: it has the arrays {names}, not one; save the mask alone")
    [key] = archive.headers
    check(archive.headers[key])
    return Listed.from_mask(archive.load(key), name)


def _field_and_stride(pattern: Pattern) -> tuple[int, int]:
    return int(pattern.numbers[0]), int(pattern.numbers[1])
