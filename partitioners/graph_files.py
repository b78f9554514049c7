"""METIS graph files and hMETIS hypergraph files: to other partitioners, and back.

For METIS, layers are written as multiple constraints: a unit has one weight for each layer, 0 except in its own, so
that a partitioner with many constraints balances every layer.  hMETIS has one weight for each unit; the layers are in a
comment on the first line.  Both number from 1.  Formats: the METIS 5 and hMETIS 1.5 manuals (Karypis and Kumar 1998).

Files may have whatever the manuals allow and a graph of layers can represent: comments anywhere, weights of edges and
nets and sizes of units only where all are 1.  Layers follow from the comment, or from the position of a unit's weight.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from partitioners.arguments import LARGEST, MOST, AnyPath, parts_of, path_of, shown
from partitioners.graph import MOST_LAYERS, GraphError, IntArray, Links, Sparse, UnitGraph
from partitioners.links import offsets_of
from partitioners.partition import Partition, check, check_graph, plain
from partitioners.reading import cannot_read, check_room, open_regular
from partitioners.writing import atomic_file

MEMORY_OF_TEXT = 24  # bytes that a character of numbers takes as Python's objects, at most
MEMORY_OF_UNIT = 64  # bytes
LAYERS = "% layers"
COMMENT = re.compile(r"%\s*layers((?:\s+\d+)+)\s*", re.ASCII)
NUMBERS = re.compile(r"[\d\s+-]*", re.ASCII)


def write_metis(path: AnyPath, graph: UnitGraph) -> None:
    """The units and their connections, each unit with one weight for every layer; complete links become edges.

    Raises GraphError where the file cannot be written.
    """
    check_graph(graph)
    matrix, n_layers = graph.adjacency(), len(graph.layers)
    layer = np.repeat(np.arange(n_layers), graph.layers)

    def lines() -> Iterator[str]:
        yield f"{LAYERS} {' '.join(map(str, graph.layers))}"
        yield f"{graph.n_units} {graph.n_edges} 010 {n_layers}"
        for unit in range(graph.n_units):
            weights = ["0"] * n_layers
            weights[layer[unit]] = str(graph.weights[unit])
            others = matrix.indices[matrix.indptr[unit] : matrix.indptr[unit + 1]] + 1
            yield " ".join([*weights, *map(str, others.tolist())])

    _write(path, lines())


def read_metis(path: AnyPath) -> UnitGraph:
    """The graph of layers in a METIS file, as ``write_metis`` wrote it or another; complete links come back as edges.

    Layers follow from the comment, or else from the position of each unit's weight.  Raises GraphError where the file
    cannot be read, does not determine the layers, joins layers that are not neighbours, or has weights of edges.
    """
    path = path_of(path)
    layers, lines = _read(path)
    header, rows = _headed(lines)
    known = 2 <= len(header) <= 4 and min(header) >= 0 and _is_format((*header, 0)[2], 3)
    if not known or (len(header) == 4 and header[3] > MOST_LAYERS):
        raise GraphError(f"{path} is not a graph of METIS: its first line must be 'units edges [format [weights]]'")
    n_units, n_edges, kind = header[0], header[1], header[2] if len(header) > 2 else 0
    sized, weighted, edge_weighted = kind // 100, kind // 10 % 10, kind % 10
    n_weights = (header[3] if len(header) == 4 else 1) if weighted else 0
    if not n_weights and layers is None:
        raise GraphError(f"{path} has no weights for layers: its first line must be '{LAYERS} ...', or 010 its format")
    if sized or n_weights:
        rows = [row for row in rows if row]  # where units have weights or sizes, an empty line is not a unit
    while len(rows) > n_units and not rows[-1]:
        rows.pop()
    own = sized + n_weights
    if len(rows) != n_units or any(len(row) < own for row in rows):
        raise GraphError(f"{path} has {len(rows)} lines of units, but {n_units} with {own} weights are announced")
    step = 1 + edge_weighted
    if any((len(row) - own) % step for row in rows):
        raise GraphError(f"{path} has units with an odd number of neighbours and weights of edges")
    if (sized and any(row[0] != 1 for row in rows)) or (step > 1 and any(set(row[own + 1 :: 2]) - {1} for row in rows)):
        raise GraphError(f"{path} has weights of edges or sizes of units other than 1, which are not counted here")
    weights = _numbers(path, (word for row in rows for word in row[sized:own])).reshape(n_units, n_weights)
    sizes, unit_weights = _layers_and_weights(path, weights, layers)
    counts = np.array([(len(row) - own) // step for row in rows], np.int64)
    others = _numbers(path, (other for row in rows for other in row[own::step])) - 1
    graph = _from_ends(path, sizes, np.repeat(np.arange(n_units), counts), others, unit_weights)
    if graph.n_edges != n_edges:
        raise GraphError(f"{path} has {graph.n_edges} edges, but {n_edges} are announced")
    return graph


def _layers_and_weights(
    path: Path, weights: IntArray, layers: tuple[int, ...] | None
) -> tuple[tuple[int, ...], IntArray]:
    """(units of every layer, weight of every unit) from (n_units, n_weights) and the layers of the comment."""
    n_units, n_weights = weights.shape
    if layers is not None and sum(layers) != n_units:
        raise GraphError(f"{path} has layers of {layers}, but {n_units} units")
    if layers is not None and n_weights < 2 and len(layers) != n_weights:
        return layers, weights[:, 0] if n_weights else np.ones(n_units, np.int64)
    if layers is not None and len(layers) != n_weights:
        raise GraphError(f"{path} has {len(layers)} layers, but {n_weights} weights for every unit")
    if (np.count_nonzero(weights, axis=1) > 1).any():
        raise GraphError(f"{path} has units with weights in several layers, but each is in one")
    sums = weights.sum(axis=1)
    known = np.flatnonzero(sums)
    own_layer = np.argmax(weights != 0, axis=1)
    if layers is not None:
        if (own_layer != np.repeat(np.arange(n_weights), layers))[known].any():
            raise GraphError(f"{path} has layers of {layers}, but a unit with a weight in another layer")
        return layers, sums
    # a unit without weight is between others: its layer is clear if both are in the same one
    before = np.searchsorted(known, np.arange(n_units), side="right") - 1
    low = np.where(before >= 0, np.append(own_layer[known], 0)[before], 0)
    after = np.searchsorted(known, np.arange(n_units))
    high = np.append(own_layer[known], n_weights - 1)[after]
    if (low != high).any():
        wrong = int(np.argmax(low != high))
        raise GraphError(
            f"{path} does not tell the layer of unit {wrong + 1}, by its weights: name them in a line '{LAYERS} ...'"
        )
    if (np.diff(low) < 0).any():
        raise GraphError(f"{path} has units of a lower layer after those of an upper one")
    return tuple(np.bincount(low, minlength=n_weights).tolist()), sums


def write_hmetis(path: AnyPath, graph: UnitGraph) -> None:
    """The nets of all units: for each RBM those of lower units, then those of upper units.

    The sender comes first in its net.  Complete links become nets, too.  Raises GraphError where the file cannot be
    written.
    """
    check_graph(graph)
    lines = [
        " ".join(map(str, [unit + 1, *others]))
        for i, link in enumerate(graph.links)
        for nets, here, there in ((link.up, i, i + 1), (link.down, i + 1, i))
        for unit, others in _sending(nets, int(graph.offsets[here]), int(graph.offsets[there]))
    ]
    head = [f"{LAYERS} {' '.join(map(str, graph.layers))}", f"{len(lines)} {graph.n_units} 10"]
    _write(path, [*head, *lines, *map(str, graph.weights.tolist())])


def read_hmetis(path: AnyPath) -> UnitGraph:
    """The graph of layers in an hMETIS file with a comment on layers, as ``write_hmetis`` wrote it.

    A net's first unit is connected with all its others.  Raises GraphError where the file cannot be read, has no
    layers, joins layers that are not neighbours, or has weights of nets.
    """
    path = path_of(path)
    layers, lines = _read(path)
    rows = [row for row in lines if row]
    header, rows = (rows[0], rows[1:]) if rows else ([], [])
    if layers is None or not 2 <= len(header) <= 3 or min(header) < 0 or not _is_format((*header, 0)[2], 2):
        raise GraphError(f"{path} is not of ours: '{LAYERS} ...' and 'nets units 10' must be its first lines")
    n_nets, n_units, kind = (*header, 0)[:3]
    weighted, net_weighted = kind // 10, kind % 10
    n_weights = n_units if weighted else 0
    if len(rows) != n_nets + n_weights or sum(layers) != n_units or any(len(row) != 1 for row in rows[n_nets:]):
        raise GraphError(
            f"{path} has {len(rows)} lines and layers of {layers}, but {n_nets} nets and {n_weights} weights"
        )
    nets = rows[:n_nets]
    if net_weighted:
        if any(row[0] != 1 for row in nets):
            raise GraphError(f"{path} has weights of nets other than 1, which are not counted here")
        nets = [row[1:] for row in nets]
    if not all(nets):
        raise GraphError(f"{path} has nets without units")
    check_room(path, MEMORY_OF_UNIT * n_units)  # hMETIS has no line for a unit without a net
    senders = np.repeat(_numbers(path, (row[0] for row in nets)) - 1, [len(row) - 1 for row in nets])
    others = _numbers(path, (other for row in nets for other in row[1:])) - 1
    weights = _numbers(path, (row[0] for row in rows[n_nets:])) if weighted else np.ones(n_units, np.int64)
    return _from_ends(path, layers, senders, others, weights)


def write_parts(path: AnyPath, partition: Partition) -> None:
    """The part of every unit, one a line, as in the output files of METIS and hMETIS.

    Raises GraphError where the file cannot be written.
    """
    _write(path, (str(part) for owner in plain(partition).owners for part in owner.tolist()))


def read_parts(path: AnyPath, graph: UnitGraph, n_parts: int) -> Partition:
    """A partition from an output file of METIS, hMETIS or the like.  Raises GraphError unless it fits the graph."""
    check_graph(graph)
    path, n_parts = path_of(path), parts_of(n_parts)
    rows = [row for row in _read(path)[1] if row]
    if any(len(row) != 1 for row in rows):
        raise GraphError(f"{path} has lines of several numbers, but needs one a line: the part of a unit")
    owner = _numbers(path, (row[0] for row in rows))
    if len(owner) != graph.n_units:
        raise GraphError(f"{path} has {len(owner)} parts of units, but the graph has {graph.n_units} units")
    if len(owner) and (owner.min() < 0 or owner.max() >= n_parts):
        raise GraphError(f"{path} has parts {owner.min()} to {owner.max()}, but they must be 0 to {n_parts - 1}")
    return check(graph, Partition(tuple(np.split(owner, graph.offsets[1:-1])), n_parts))


def _sending(nets: Links, first: int, other: int) -> Iterator[tuple[int, list[int]]]:
    """Each unit that has neighbours, with these, numbered from 1."""
    units, neighbours = nets.edges()
    for start, end in pairwise([*np.flatnonzero(np.diff(units, prepend=-1)).tolist(), len(units)]):
        yield first + int(units[start]), (other + neighbours[start:end] + 1).tolist()


def _write(path: AnyPath, lines: Iterable[str]) -> None:
    with atomic_file(path_of(path), "w") as file:
        file.writelines(line + "\n" for line in lines)


def _read(path: Path) -> tuple[tuple[int, ...] | None, list[list[int]]]:
    """(layers of the comment, or None; the numbers of each line that is not a comment)."""
    with open_regular(path) as file:
        check_room(path, MEMORY_OF_TEXT * os.fstat(file.fileno()).st_size)
        try:
            text = file.read().decode("utf-8-sig", errors="replace")
        except OSError as error:
            raise cannot_read(path, error) from None
    layers: tuple[int, ...] | None = None
    numbers: list[list[int]] = []
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        try:
            if line.lstrip().startswith("%"):
                comment = COMMENT.fullmatch(line.strip())
                if comment and layers is None:
                    layers = tuple(map(int, comment[1].split()))
            elif not NUMBERS.fullmatch(line):  # Python accepts more, as 1_000
                raise ValueError
            else:
                numbers.append([int(word) for word in line.split()])
        except ValueError:  # of an integer of thousands of digits too
            raise GraphError(f"{path} has words that are not integers") from None
    if layers is not None and len(layers) > MOST_LAYERS:
        raise GraphError(f"{path} has {len(layers)} layers, but at most {MOST_LAYERS} are possible")
    if layers is not None and sum(layers) > MOST:
        raise GraphError(
            f"{path} has layers of {shown(sum(layers))} units together, but at most {MOST} can be partitioned"
        )
    return layers, numbers


def _headed(lines: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """The first line that is not empty, and all after it; empty ones among them are units without neighbours."""
    for i, line in enumerate(lines):
        if line:
            return line, lines[i + 1 :]
    return [], []


def _is_format(number: int, digits: int) -> bool:
    """Whether a number has at most ``digits`` digits, all 0 or 1."""
    return re.fullmatch(rf"[01]{{1,{digits}}}", str(number)) is not None


def _numbers(path: Path, numbers: Iterable[int]) -> IntArray:
    """(n,) int64.  Raises GraphError where a number needs more bits."""
    try:
        return np.array(list(numbers), np.int64)
    except OverflowError:
        raise GraphError(f"{path} has numbers above {LARGEST}") from None


def _from_ends(path: Path, layers: tuple[int, ...], units: IntArray, others: IntArray, weights: IntArray) -> UnitGraph:
    """The graph with these ends of edges, each edge at least once, in either direction."""
    n_units = sum(layers)
    check_room(path, MEMORY_OF_UNIT * n_units)
    if len(others) and (min(others.min(), units.min()) < 0 or max(others.max(), units.max()) >= n_units):
        raise GraphError(f"{path} joins units that it does not have: they are 1 to {n_units}")
    layer = np.repeat(np.arange(len(layers)), layers)
    offsets = offsets_of(layers)
    below, above = np.minimum(units, others), np.maximum(units, others)
    if np.any(layer[above] - layer[below] != 1):
        raise GraphError(f"{path} joins units of layers that are not neighbours")
    links = []
    for i in range(len(layers) - 1):
        selected = layer[below] == i
        links.append(
            Sparse.from_edges(below[selected] - offsets[i], above[selected] - offsets[i + 1], layers[i], layers[i + 1])
        )
    try:
        return UnitGraph(layers, tuple(links), weights)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None
