"""Resolve the requested layout: the owners of every layer, and the layout of each matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from mpi4py import MPI

from modelpar.comm.grid import Grid
from modelpar.errors import LayoutError
from modelpar.machine.memory import available_bytes
from modelpar.ownership.build_connections import connect
from modelpar.ownership.connections import Connections
from modelpar.ownership.layout import AUTO, SPARSE, AutoContext, NetworkLayout, UnitLayout, layout_words
from modelpar.plan.memory import memory_bytes
from modelpar.spec import NetworkSpec

SHARE_OF_DUAL = 0.25  # of a node's free memory that the blocks of dual layouts may take before ``auto`` avoids them


def resolve(
    spec: NetworkSpec, grid: Grid, owners: NetworkLayout | None = None, *,
    connections: Sequence[Connections | None] | None = None,
) -> NetworkLayout:  # fmt: skip
    """The layout of a network over the shards of ``grid``, with nothing left open; the same on every rank.

    owners        who owns which unit, and the layouts that were asked for, as ``place`` and ``NetworkLayout`` make
                  them; contiguous blocks and ``spec.layout`` where None.  The output layer may be left out: its classes
                  are split into blocks
    connections   those of every RBM; of ``owners`` or, where these say nothing of them, from the spec where None

    Whoever has placed the units, a matrix that is left to ``auto`` gets the layout of :class:`AutoContext`.  A layout
    that is decided already comes back as it is.  Collective over the grid.  Raises, on every rank, LayoutError where
    the owners do not fit the network or the grid, SpecError where connections cannot be made.
    """
    sizes = (*spec.layers, spec.classes) if spec.classes else spec.layers
    if owners is None:
        together = spec.visible_kind.unit_of_layout
        owners = NetworkLayout.blocks(sizes, grid.n_shards, spec.layout, together=together)
    layers, asked = owners.layers, owners.matrix_layouts
    if spec.classes and len(layers) == len(spec.layers):
        layers, asked = (*layers, UnitLayout.blocks(spec.classes, grid.n_shards)), (*asked, _asked_of_output(spec))
    _check(spec, sizes, layers, grid.n_shards)
    if connections is None:
        connections = owners.connections[: len(spec.patterns)] or connect(spec, grid.comm)
    n_rbms = len(spec.layers) - 1
    if len(connections) != n_rbms:
        raise LayoutError(f"there are connections of {len(connections)} RBMs, but the network has {n_rbms}")
    # that of an RBM whose connections were listed, and now are complete, was never asked for
    is_open = [word in (AUTO, SPARSE) and listed is None for word, listed in zip(asked, connections, strict=False)]
    context = auto_context(spec, grid) if any(is_open) else AutoContext()
    layouts = []
    for i, (lower, upper) in enumerate(pairwise(sizes)):
        if i == n_rbms:
            # trained by gradients only, for which a dual layout is a column layout
            layouts.append({AUTO: AutoContext().choose(lower, upper), "dual": "column"}.get(asked[i], asked[i]))
        elif connections[i] is not None:
            layouts.append(SPARSE)
        else:
            layouts.append(context.choose(lower, upper) if is_open[i] else asked[i])
    if SPARSE not in layouts:
        return NetworkLayout(layers, tuple(layouts))
    return NetworkLayout(layers, tuple(layouts), (*connections, *[None] * (len(layouts) - n_rbms)))


def _asked_of_output(spec: NetworkSpec) -> str:
    """The layout that ``spec.layout`` asks for the output layer's matrix.

    One word stands for all matrices, a list may name one for each.
    """
    words = [word.strip() for word in spec.layout.split(",")]
    return layout_words(words[-1], 1)[0] if len(words) in (1, len(spec.layers)) else AUTO


def _check(spec: NetworkSpec, sizes: tuple[int, ...], layers: tuple[UnitLayout, ...], n_shards: int) -> None:
    found_sizes = tuple(layer.n_units for layer in layers)
    if found_sizes != sizes:
        raise LayoutError(
            f"the layout is for layers of {_dashed(found_sizes)} units, but the network has {_dashed(sizes)}"
        )
    for layer in layers:
        if layer.n_shards != n_shards:
            raise LayoutError(f"the layout is for {layer.n_shards} shards, but the grid has {n_shards} model shards")
    categories = spec.visible_kind.categories
    if categories and layers[0].splits(categories):
        raise LayoutError(
            f"the layout gives units of one site to several shards, but the {categories} units of a site of --visible "
            f"{spec.visible} must have one owner; place them with modelpar.ownership.placement.place"
        )
    if spec.classes and not np.array_equal(layers[-1].ordering, np.arange(spec.classes)):
        raise LayoutError("the output layer must be split into contiguous blocks of classes")


def auto_context(spec: NetworkSpec, grid: Grid) -> AutoContext:
    """The inputs of the automatic choice of layouts, the same on every rank.  Collective."""
    needed = memory_bytes(replace(spec, layout="dual"), grid.n_shards, 1) * grid.node_comm.size
    fits = needed < SHARE_OF_DUAL * grid.node_comm.bcast(available_bytes())
    return AutoContext(grid.n_shards, grid.far, grid.comm.allreduce(fits, MPI.LAND))


def _dashed(sizes: tuple[int, ...]) -> str:
    return "-".join(map(str, sizes))
