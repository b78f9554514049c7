"""From what a network's spec says of connections to the connections: generators, files, and where units lie."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from scipy import sparse

from modelpar.collective import messages
from modelpar.errors import SpecError, together
from modelpar.ownership.connections import Connections, Listed, Local
from modelpar.patterns import PRUNED, Pattern, parse_grid
from modelpar.spec import NetworkSpec
from partitioners import generators
from partitioners.graph import GraphError

Array = npt.NDArray[Any]
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error)
LAYER_SEEDS = 1 << 20  # seeds of one layer's connections are so far from those of the next


def connect(spec: NetworkSpec, comm: MPI.Comm) -> tuple[Connections | None, ...]:
    """The connections of every RBM, None where they are complete; the same on every rank.  Collective.

    Raises SpecError on every rank where a pattern does not fit the layers, or its file cannot be read.
    """
    grids = grids_of(spec)
    return tuple(_connected(spec, i, pattern, grids[i], comm) for i, pattern in enumerate(spec.patterns))


def connect_described(spec: NetworkSpec) -> tuple[Connections | None, ...]:
    """The connections of RBMs that are described by their spec alone, receptive fields; None for all others."""
    found: list[Connections | None] = []
    for i, (pattern, grid) in enumerate(zip(spec.patterns, grids_of(spec), strict=False)):
        found.append(_fields(spec, i, pattern, grid) if pattern.kind == "local" and grid is not None else None)
    return tuple(found)


def expected(spec: NetworkSpec) -> tuple[int | None, ...]:
    """About how many connections each RBM will have, None where they are complete; before anything is made.

    A file is not looked into: its connections count as none.
    """
    found: list[int | None] = []
    for (n_visible, n_hidden), pattern, grid in zip(pairwise(spec.layers), spec.patterns, grids_of(spec), strict=False):
        numbers = pattern.numbers
        if pattern.dense:
            found.append(None)
        elif pattern.kind == "local" and grid is not None:
            found.append(n_hidden * grid[0] * int(numbers[0]) ** 2)
        elif pattern.kind in ("random", "small-world", "scale-free"):
            found.append(n_hidden * int(numbers[0]))
        elif pattern.kind == "erdos-renyi":
            found.append(round(n_visible * n_hidden * numbers[0]))
        elif pattern.kind == "radix-net":
            found.append(n_hidden * max(pattern.radices) * int(numbers[0]))
        else:
            found.append(0)
    return tuple(found)


def grids_of(spec: NetworkSpec) -> tuple[tuple[int, int, int] | None, ...]:
    """(maps, rows, columns) of every layer that has a place in the plane, for as long as connections are local.

    Raises SpecError where fields do not fit a layer.
    """
    if all(pattern.kind != "local" for pattern in spec.patterns):
        return (None,) * len(spec.layers)
    found: list[tuple[int, int, int] | None] = [parse_grid(spec.visible_grid, spec.layers[0])]
    for i, pattern in enumerate(spec.patterns):
        below = found[-1]
        if pattern.kind != "local":
            found.append(None)
            continue
        if below is None:
            raise SpecError(f"--connections has local for RBM {i}, but the layer below it lies on no grid")
        above, across = Local(*below, 1, *_whole(pattern.numbers)).grid
        maps, left = divmod(spec.layers[i + 1], above * across)
        if left or not maps:
            near = max(1, round(spec.layers[i + 1] / (above * across))) * above * across
            raise SpecError(
                f"--connections: fields of RBM {i} have {above}x{across} positions, so the layer above it has a "
                f"multiple of {above * across} units, but --layers has {spec.layers[i + 1]}; use {near}"
            )
        found.append((maps, above, across))
    return tuple(found)


def places_of(spec: NetworkSpec) -> list[Array] | None:
    """(n_units, 2) row and column of every unit of every layer, in the frame of the visible ones.

    Units of layers that lie on no grid are spread over the plane.  None where no layer's connections are local.
    """
    grids = grids_of(spec)
    if grids[0] is None:
        return None
    _, height, width = grids[0]
    places: list[Array] = []
    step, start = 1.0, 0.0
    for i, grid in enumerate(grids):
        if grid is None:
            columns = max(1, round((spec.layers[i] * width / height) ** 0.5))
            row, column = np.divmod(np.arange(spec.layers[i]), columns)
            rows = -(-spec.layers[i] // columns)
            places.append(np.stack([row * (height / rows), column * (width / columns)], axis=1))
            continue
        if i:
            field, stride = _whole(spec.patterns[i - 1].numbers)
            start += (field - 1) / 2 * step
            step *= stride
        maps, rows, columns = grid
        row, column = np.divmod(np.arange(rows * columns), columns)
        places.append(np.tile(np.stack([row, column], axis=1) * step + start, (maps, 1)))
    return places


def _connected(
    spec: NetworkSpec, i: int, pattern: Pattern, grid: tuple[int, int, int] | None, comm: MPI.Comm
) -> Connections | None:
    if pattern.dense:
        return None
    n_visible, n_hidden = spec.layers[i : i + 2]
    if pattern.kind == PRUNED:
        raise SpecError("--connections pruned is what modelpar prune makes of a network; open its checkpoint")
    if pattern.kind == "local":
        assert grid is not None  # grids_of has looked
        return _fields(spec, i, pattern, grid)
    if pattern.kind == "mask":
        listed = _read_mask(pattern.path, comm)
    else:
        try:
            listed = Listed.from_mask(_generated(spec, i, pattern, n_visible, n_hidden))
        except GraphError as error:
            raise SpecError(f"--connections, RBM {i}: {error}") from None
    if (listed.n_visible, listed.n_hidden) != (n_visible, n_hidden):
        raise SpecError(
            f"--connections: the mask of RBM {i} joins {listed.n_visible} with {listed.n_hidden} units, but --layers "
            f"has {n_visible} and {n_hidden}"
        )
    return listed


def _fields(spec: NetworkSpec, i: int, pattern: Pattern, grid: tuple[int, int, int]) -> Local:
    field, stride = _whole(pattern.numbers)
    above, across = Local(*grid, 1, field, stride).grid
    return Local(*grid, spec.layers[i + 1] // (above * across), field, stride)


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


def _read_mask(path: str, comm: MPI.Comm) -> Listed:
    """An .npy or .npz file of one array, or a matrix that scipy.sparse.save_npz wrote; rank 0 reads.  Collective."""
    mask: Listed | None = None
    path = os.path.expanduser(path)
    with together(comm):
        if comm.rank == 0:
            try:
                mask = Listed.from_mask(_loaded(path), f"--connections: {path}")
            except OSError as error:
                raise SpecError(f"--connections: {path} cannot be read: {error.strerror or error}") from None
            except DAMAGED as error:
                told = f"{path} is no mask ({str(error).splitlines()[0] if str(error) else 'it is empty'})"
                raise SpecError(f"--connections: {told}; give .npy, or scipy.sparse's .npz") from None
    mine: list[Array] | None = None
    if mask is not None:
        mine = [mask.offsets, mask.visible, np.array([mask.n_visible])]
    offsets, visible, (n_visible,) = messages.told(comm, mine)
    return Listed(offsets, visible, int(n_visible))


def _loaded(path: str) -> Any:
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        return loaded
    with loaded:
        if "format" in loaded.files:
            return sparse.load_npz(path)
        if len(loaded.files) != 1:
            raise ValueError(f"it has the arrays {', '.join(loaded.files) or 'none'}, not one")
        return loaded[loaded.files[0]]


def _whole(numbers: tuple[float, ...]) -> tuple[int, int]:
    return int(numbers[0]), int(numbers[1])
