"""Who owns which unit: from a partitioner of ``partitioners``, or from a placement file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

import partitioners
from modelpar import faults
from modelpar.collective.agreement import agree
from modelpar.errors import LayoutError, SpecError, together
from modelpar.ownership.build_connections import connect, coordinates_of
from modelpar.ownership.connections import Connections, mask_of
from modelpar.ownership.layout import NetworkLayout, UnitLayout, layout_words
from modelpar.spec import NetworkSpec
from modelpar.values import plain
from modelpar.values.forms import AnyPath, path_text
from partitioners import Complete, GraphError, Partition, UnitGraph
from partitioners.placement import load_placement

IntArray = npt.NDArray[np.int64]

WITHOUT_LINKS = ("block", "strided", "random", "tiles", "strips")  # partitioners that use no connections


def place(
    spec: NetworkSpec, n_shards: int, comm: MPI.Comm, *, partitioner: str | None = None, file: AnyPath | None = None,
    connections: Sequence[Connections | None] | None = None,
) -> NetworkLayout:  # fmt: skip
    """The owners of a network's layers without the output layer, and its connections; the same on every rank.

    Matrix layouts are those of ``spec.layout``; ``auto`` is left to the network, or to ``plan.resolve``, which know the
    grid.  Collective.

    partitioner   a name that ``partitioners.method`` knows; default: tiles of the plane for local connections, else
                  blocks
    file          a placement file, in place of a partitioner
    connections   those of every RBM; default: from the spec

    Rank 0 partitions or reads.  Raises SpecError or LayoutError on every rank, DisagreementError where they bring
    different arguments.
    """
    agree(comm, "place", spec=spec, n_shards=n_shards, partitioner=partitioner, file=file, connections=connections)
    n_shards = plain.integer_number("n_shards", n_shards, at_least=1)
    faults.at("place units")
    if partitioner is not None and file is not None:
        raise SpecError("--partitioner and --partition exclude each other: one places units, the other has placed them")
    connections = tuple(connections) if connections is not None else connect(spec, comm)
    partition: Partition | None = None
    with together(comm):
        if comm.rank == 0:
            partition = (
                _read(path_text(file), spec, n_shards)
                if file is not None
                else _partitioned(spec, connections, n_shards, partitioner)
            )
    partition = comm.bcast(partition)
    assert partition is not None
    visible, *layers = (UnitLayout.from_owners(owner, n_shards) for owner in partition.owners)
    visible = visible.with_whole(spec.visible_kind.unit_of_layout)  # partitioners know units, and no sites
    return NetworkLayout((visible, *layers), _words(spec), connections)


def _words(spec: NetworkSpec) -> tuple[str, ...]:
    """The words of ``spec.layout`` for the matrices between the layers; it may have one more, for the output layer."""
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


def _partitioned(
    spec: NetworkSpec, connections: Sequence[Connections | None], n_shards: int, name: str | None
) -> Partition:
    if name is None:
        name = "tiles" if coordinates_of(spec) is not None else "block"
    try:
        method = partitioners.method(name)
        return method(graph_of(spec, connections, links=name not in WITHOUT_LINKS), n_shards, seed=spec.seed)
    except GraphError as error:
        raise SpecError(f"--partitioner: {error}") from None


def graph_of(spec: NetworkSpec, connections: Sequence[Connections | None], *, links: bool = True) -> UnitGraph:
    """The unit graph of a network without its output layer; a unit's weight is the number of its connections.

    links   False leaves out which units are connected, and saves the memory that every connection takes
    """
    weights = [np.zeros(n, np.int64) for n in spec.layers]
    edges: list[Any] = []
    for i, ((lower, upper), own) in enumerate(zip(pairwise(spec.layers), connections, strict=True)):
        below, above = (upper, lower) if own is None else own.degrees()
        weights[i] += below
        weights[i + 1] += above
        complete = own is None or not links
        edges.append(Complete(lower, upper) if complete else partitioners.Sparse.from_mask(mask_of(own)))  # type: ignore[arg-type]
    coordinates = coordinates_of(spec)
    planes = None if coordinates is None else tuple(coordinates)
    return UnitGraph(spec.layers, tuple(edges), np.concatenate(weights), planes)
