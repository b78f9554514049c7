"""Who owns which unit: from a partitioner of ``partitioners``, or from a file that one has written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

import partitioners
from modelpar.collective.agreement import agree
from modelpar.errors import LayoutError, SpecError, together
from modelpar.ownership.build_connections import connect, places_of
from modelpar.ownership.connections import Connections, mask_of
from modelpar.ownership.layout import NetworkLayout, UnitLayout, layout_words
from modelpar.spec import NetworkSpec
from modelpar.values import plain
from modelpar.values.forms import AnyPath
from partitioners import Complete, GraphError, Partition, UnitGraph
from partitioners.placement import load_placement

IntArray = npt.NDArray[np.int64]

BY_PLACE = ("block", "strided", "random", "tiles", "strips")  # partitioners that look at units only, not at connections


def place(
    spec: NetworkSpec, n_shards: int, comm: MPI.Comm, *, partitioner: str | None = None, file: AnyPath | None = None,
    connections: Sequence[Connections | None] | None = None,
) -> NetworkLayout:  # fmt: skip
    """The owners of a network's layers without the output layer, and its connections; the same on every rank.

    How each matrix is held is as ``spec.layout`` says; ``auto`` is left to the network, or to ``plan.resolve``, which
    know the grid.  Collective.

    partitioner   a name that ``partitioners.method`` knows; where None, tiles of the plane for local connections and
                  blocks for all others
    file          a placement file, in place of a partitioner
    connections   those of every RBM; from the spec where None

    Rank 0 partitions or reads.  Raises SpecError or LayoutError on every rank, DisagreementError where they bring
    different arguments.
    """
    agree(comm, "place", spec=spec, n_shards=n_shards, partitioner=partitioner, file=file, connections=connections)
    n_shards = plain.whole_number("n_shards", n_shards, at_least=1)
    if partitioner is not None and file is not None:
        raise SpecError("--partitioner and --partition exclude each other: one places units, the other has placed them")
    wired = tuple(connections) if connections is not None else connect(spec, comm)
    found: Partition | None = None
    with together(comm):
        if comm.rank == 0:
            found = (
                _read(os.fsdecode(file), spec, n_shards)
                if file is not None
                else _made(spec, wired, n_shards, partitioner)
            )
    found = comm.bcast(found)
    assert found is not None
    layers = tuple(UnitLayout.from_owners(owner, n_shards) for owner in found.owners)
    return NetworkLayout(layers, _words(spec), wired)


def _words(spec: NetworkSpec) -> tuple[str, ...]:
    """What ``spec.layout`` says of the matrices between the layers; it may say something of the output layer's too."""
    n = len(spec.layers) - 1
    with_output = spec.classes and spec.layout.count(",") == n
    return layout_words(spec.layout, n + 1)[:n] if with_output else layout_words(spec.layout, n)


def _read(file: str, spec: NetworkSpec, n_shards: int) -> Partition:
    try:
        partition, _ = load_placement(os.path.expanduser(file))
    except GraphError as error:
        raise SpecError(f"--partition: {error}") from None
    layers = tuple(len(owner) for owner in partition.owners)
    if layers != spec.layers:
        given, wanted = ("-".join(map(str, sizes)) for sizes in (layers, spec.layers))
        raise LayoutError(f"--partition: {file} is for layers of {given} units, but the network has {wanted}")
    if partition.n_parts != n_shards:
        raise LayoutError(
            f"--partition: {file} has {partition.n_parts} parts, but the grid has {n_shards} model shards; use "
            f"--model-shards {partition.n_parts}, or modelpar partition --parts {n_shards}"
        )
    return partition


def _made(spec: NetworkSpec, wired: Sequence[Connections | None], n_shards: int, name: str | None) -> Partition:
    places = places_of(spec)
    if name is None:
        name = "tiles" if places is not None else "block"
    try:
        method = partitioners.method(name)
        return method(graph_of(spec, wired, links=name not in BY_PLACE), n_shards, seed=spec.seed)
    except GraphError as error:
        raise SpecError(f"--partitioner: {error}") from None


def graph_of(spec: NetworkSpec, wired: Sequence[Connections | None], *, links: bool = True) -> UnitGraph:
    """The unit graph of a network without its output layer; a unit weighs its connections.

    links   False leaves out which units are connected, which takes memory for every connection
    """
    weights = [np.zeros(n, np.int64) for n in spec.layers]
    edges: list[Any] = []
    for i, ((lower, upper), wires) in enumerate(zip(pairwise(spec.layers), wired, strict=True)):
        below, above = (upper, lower) if wires is None else wires.degrees()
        weights[i] += below
        weights[i + 1] += above
        complete = wires is None or not links
        edges.append(Complete(lower, upper) if complete else partitioners.Sparse.from_mask(mask_of(wires)))  # type: ignore[arg-type]
    places = places_of(spec)
    return UnitGraph(spec.layers, tuple(edges), np.concatenate(weights), None if places is None else tuple(places))
