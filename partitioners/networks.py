"""Named networks on which methods are compared; the same on every machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from partitioners import generators
from partitioners.arguments import integer, shown
from partitioners.graph import FloatArray, GraphError, UnitGraph, dense, from_masks


class Network(NamedTuple):
    """A graph, its name, and a line about it."""

    name: str
    about: str
    graph: UnitGraph


def local_network(side: int, fields: Sequence[int], maps: Sequence[int], strides: Sequence[int] = ()) -> UnitGraph:
    """Receptive fields on an image of side x side, layer by layer, with coordinates.

    fields, maps, strides: one for each RBM; a field sees all maps below, strides default to 1.  A unit's position is
    the middle of its field, in pixels of the image.  Raises GraphError where a field does not fit, or the numbers of
    fields, maps and strides differ.
    """
    fields, maps, strides = list(fields), list(maps), list(strides) or [1] * len(fields)
    if not len(fields) == len(maps) == len(strides):
        raise GraphError(
            f"{len(fields)} fields came with {len(maps)} maps and {len(strides)} strides, one each are needed"
        )
    side = integer("the side", side, 1)
    masks, coordinates = [], [_coordinates(side, 1, 0.0, 1.0)]
    below, start, step = 1, 0.0, 1.0
    for field, n_maps, stride in zip(fields, maps, strides, strict=True):
        masks.append(generators.local(side, side, field=field, maps=n_maps, maps_below=below, stride=stride))
        side, _ = generators.field_grid(side, side, field, stride)
        start, step, below = start + step * (field - 1) / 2, step * stride, n_maps
        coordinates.append(_coordinates(side, n_maps, start, step))
    return from_masks(masks, None, coordinates)


def _coordinates(side: int, maps: int, start: float, step: float) -> FloatArray:
    """(maps * side * side, 2) row and column of the units of a layer."""
    row, column = np.divmod(np.arange(side * side), side)
    return np.tile(start + step * np.stack([row, column], axis=1), (maps, 1))


def _radixnet() -> UnitGraph:
    return from_masks(generators.radix_net([2] * 6, copies=16, n_layers=9, shuffle=3))


def _erdos() -> UnitGraph:
    layers = (400, 600, 400)
    return from_masks([generators.erdos_renyi(n, m, density=0.05, seed=i) for i, (n, m) in enumerate(pairwise(layers))])


def _smallworld() -> UnitGraph:
    layers = (400, 600, 400)
    pairs = enumerate(pairwise(layers))
    return from_masks([generators.small_world(n, m, degree=20, rewired=0.1, seed=i) for i, (n, m) in pairs])


def _scalefree() -> UnitGraph:
    layers = (400, 600, 400)
    return from_masks([generators.scale_free(n, m, degree=20, seed=i) for i, (n, m) in enumerate(pairwise(layers))])


_KNOWN: dict[str, tuple[str, Callable[[], UnitGraph]]] = {
    "local28": (
        "28x28 -> 4 maps of 24x24 -> 4 maps of 20x20, fields of 5x5 over all maps below",
        lambda: local_network(28, [5, 5], [4, 4]),
    ),
    "stride32": (
        "32x32 -> 6 maps of 14x14 (5x5, every 2) -> 8 maps of 6x6 (4x4, every 2)",
        lambda: local_network(32, [5, 4], [6, 8], [2, 2]),
    ),
    "local128": ("128x128 -> 8 maps of 120x120, fields of 9x9", lambda: local_network(128, [9], [8])),
    "radixnet": ("RadiX-Net, 9 layers of 1024, radix 2 on 64 nodes, 16 copies, shuffled", _radixnet),
    "erdos": ("400-600-400, every pair connected with probability 0.05", _erdos),
    "smallworld": ("400-600-400, 20 nearest on a ring, a tenth rewired", _smallworld),
    "scalefree": ("400-600-400, 20 connections a unit on average, degrees by a power law", _scalefree),
    "dense": ("400-600-400, fully connected", lambda: dense((400, 600, 400))),
}

NETWORKS = tuple(_KNOWN)


def network(name: str) -> Network:
    """The network of that name.  Raises GraphError for an unknown one."""
    if not isinstance(name, str) or name not in _KNOWN:
        raise GraphError(f"there is no network {shown(name)}; there are {', '.join(NETWORKS)}")
    about, build = _KNOWN[name]
    return Network(name, about, build())
