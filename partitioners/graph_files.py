"""METIS graph files and hMETIS hypergraph files: to other partitioners, and back.

Layers are written as METIS writes several balances: one weight a unit and layer, 0 but in its own, so that a
partitioner with many constraints balances every layer.  hMETIS knows one weight a unit; there the layers stand in a
comment on the first line.  Both count from 1.  Formats: the METIS 5 and hMETIS 1.5 manuals (Karypis and Kumar 1998).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from partitioners.graph import GraphError, IntArray, Links, Sparse, UnitGraph
from partitioners.partition import Partition
from partitioners.writing import whole_file, write_text

LAYERS = "% layers"


def write_metis(path: str | os.PathLike[str], graph: UnitGraph) -> None:
    """The units and their connections, each unit with one weight for every layer; complete links are written out.

    Raises GraphError where the file cannot be written.
    """
    matrix, n_layers = graph.adjacency(), len(graph.layers)
    layer = np.repeat(np.arange(n_layers), graph.layers)
    with whole_file(path, "w") as file:
        file.write(f"{LAYERS} {' '.join(map(str, graph.layers))}\n")
        file.write(f"{graph.n_units} {graph.n_edges} 010 {n_layers}\n")
        for unit in range(graph.n_units):
            weights = ["0"] * n_layers
            weights[layer[unit]] = str(graph.weights[unit])
            others = matrix.indices[matrix.indptr[unit] : matrix.indptr[unit + 1]] + 1
            file.write(" ".join([*weights, *map(str, others.tolist())]) + "\n")


def read_metis(path: str | os.PathLike[str]) -> UnitGraph:
    """The graph that ``write_metis`` wrote; links that are complete come back as edges.

    Layers come from the comment, or else from which of its weights each unit has.  Raises GraphError where the file
    cannot be read, is of another kind, or joins layers that are not neighbours.
    """
    layers, lines = _read(path)
    header = next(lines, [])
    if len(header) != 4 or header[2] != 10:
        raise GraphError(f"{path} has no weights for layers: its first line must be 'units edges 010 layers'")
    n_units, n_edges, n_layers = header[0], header[1], header[3]
    rows = list(lines)
    if len(rows) != n_units or any(len(row) < n_layers for row in rows):
        raise GraphError(f"{path} has {len(rows)} lines of units, but {n_units} with {n_layers} weights are announced")
    weights = np.array([row[:n_layers] for row in rows], np.int64).reshape(n_units, n_layers)
    sizes = layers or tuple(np.bincount(np.argmax(weights, axis=1), minlength=n_layers).tolist())
    if sum(sizes) != n_units or len(sizes) != n_layers:
        raise GraphError(f"{path} has layers of {sizes}, but {n_units} units and {n_layers} weights each")
    counts = np.array([len(row) - n_layers for row in rows], np.int64)
    others = np.array([other - 1 for row in rows for other in row[n_layers:]], np.int64)
    graph = _from_ends(path, sizes, np.repeat(np.arange(n_units), counts), others, weights.sum(axis=1))
    if graph.n_edges != n_edges:
        raise GraphError(f"{path} has {graph.n_edges} edges, but {n_edges} are announced")
    return graph


def write_hmetis(path: str | os.PathLike[str], graph: UnitGraph) -> None:
    """The nets of all units: for each RBM those that lower units send on, then those of upper units.

    The sender stands first in its net.  Complete links are written out.  Where the weights are 0, they stay so.
    Raises GraphError where the file cannot be written.
    """
    lines = [
        " ".join(map(str, [unit + 1, *others]))
        for i, link in enumerate(graph.links)
        for nets, here, there in ((link.up, i, i + 1), (link.down, i + 1, i))
        for unit, others in _sending(nets, int(graph.offsets[here]), int(graph.offsets[there]))
    ]
    with whole_file(path, "w") as file:
        file.write(f"{LAYERS} {' '.join(map(str, graph.layers))}\n")
        file.write(f"{len(lines)} {graph.n_units} 10\n")
        file.writelines(line + "\n" for line in lines)
        file.writelines(f"{weight}\n" for weight in graph.weights.tolist())


def read_hmetis(path: str | os.PathLike[str]) -> UnitGraph:
    """The graph that ``write_hmetis`` wrote: a net's first unit is connected with all others of it.

    Raises GraphError where the file cannot be read, is of another kind, or joins layers that are not neighbours.
    """
    layers, lines = _read(path)
    header = next(lines, [])
    if len(header) != 3 or header[2] != 10 or not layers:
        raise GraphError(f"{path} is not of ours: '{LAYERS} ...' and 'nets units 10' must be its first lines")
    rows = list(lines)
    n_nets, n_units = header[:2]
    if len(rows) != n_nets + n_units or sum(layers) != n_units or any(len(row) != 1 for row in rows[n_nets:]):
        raise GraphError(
            f"{path} has {len(rows)} lines and layers of {layers}, but {n_nets} nets and {n_units} weights"
        )
    senders = np.repeat([row[0] - 1 for row in rows[:n_nets]], [len(row) - 1 for row in rows[:n_nets]])
    others = np.array([other - 1 for row in rows[:n_nets] for other in row[1:]], np.int64)
    weights = np.array([row[0] for row in rows[n_nets:]], np.int64)
    return _from_ends(path, layers, senders.astype(np.int64), others, weights)


def write_parts(path: str | os.PathLike[str], partition: Partition) -> None:
    """The part of every unit, one a line: what METIS and hMETIS write as their answer.

    Raises GraphError where the file cannot be written.
    """
    write_text(path, "".join(f"{part}\n" for owner in partition.owners for part in owner.tolist()))


def read_parts(path: str | os.PathLike[str], graph: UnitGraph, n_parts: int) -> Partition:
    """An answer of METIS, hMETIS or their like.  Raises GraphError where it is not one for this graph."""
    _, lines = _read(path)
    owner = np.array([row[0] for row in lines], np.int64)
    if len(owner) != graph.n_units:
        raise GraphError(f"{path} has {len(owner)} parts of units, but the graph has {graph.n_units} units")
    if len(owner) and (owner.min() < 0 or owner.max() >= n_parts):
        raise GraphError(f"{path} has parts {owner.min()} to {owner.max()}, but they must be 0 to {n_parts - 1}")
    return Partition(tuple(np.split(owner, graph.offsets[1:-1])), n_parts)


def _sending(nets: Links, first: int, other: int) -> Iterator[tuple[int, list[int]]]:
    """Each unit with neighbours, and these counted from 1."""
    units, neighbours = nets.edges()
    starts = np.flatnonzero(np.diff(units, prepend=-1))
    for start, piece in zip(starts, np.split(neighbours, starts[1:]), strict=True):
        yield first + int(units[start]), (other + piece + 1).tolist()


def _read(path: str | os.PathLike[str]) -> tuple[tuple[int, ...], Iterator[list[int]]]:
    """(layers of the comment, numbers of each line that is no comment)."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig", errors="backslashreplace")
        lines = text.splitlines()
        layers = next((line[len(LAYERS) :] for line in lines if line.startswith(LAYERS)), "")
        numbers = [[int(word) for word in line.split()] for line in lines if not line.startswith("%")]
        return tuple(int(word) for word in layers.split()), iter(numbers)
    except OSError as error:
        raise GraphError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise GraphError(f"{path} has words that are no whole numbers") from None


def _from_ends(
    path: str | os.PathLike[str], layers: tuple[int, ...], units: IntArray, others: IntArray, weights: IntArray
) -> UnitGraph:
    """From both ends of all edges, each at least once."""
    n_units = sum(layers)
    if len(others) and (min(others.min(), units.min()) < 0 or max(others.max(), units.max()) >= n_units):
        raise GraphError(f"{path} joins units that it does not have: they are 1 to {n_units}")
    layer = np.repeat(np.arange(len(layers)), layers)
    offsets = np.concatenate([[0], np.cumsum(layers)]).astype(np.int64)
    below, above = np.minimum(units, others), np.maximum(units, others)
    if np.any(layer[above] - layer[below] != 1):
        raise GraphError(f"{path} joins units of layers that are not neighbours")
    links = []
    for i in range(len(layers) - 1):
        mine = layer[below] == i
        links.append(
            Sparse.from_edges(below[mine] - offsets[i], above[mine] - offsets[i + 1], layers[i], layers[i + 1])
        )
    return UnitGraph(layers, tuple(links), weights)
