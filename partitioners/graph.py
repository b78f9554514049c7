"""The unit graph of a network: its units, and which of them are connected.

Units are counted layer by layer from the visible one up.  Only units of neighbouring layers are connected, and each
pair of neighbouring layers is either connected completely, which costs no memory whatever its size, or by a list of
edges in CSR.  As a hypergraph, every unit has a net for each neighbouring layer that it sends its value to: itself and
its neighbours there (Çatalyürek and Aykanat 1999: connectivity minus one of a net is the number of values sent).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import numpy.typing as npt
from scipy import sparse as scipy_sparse

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class GraphError(ValueError):
    """A graph, or a partition of one, that cannot be; the message is one line."""


def different(keys: IntArray) -> IntArray:
    """The different keys, ascending: ``np.unique``, whose hash tables take many times as long for millions."""
    keys = np.sort(keys)
    first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]


@dataclass(frozen=True)
class Complete:
    """Every lower unit is connected with every upper unit: a fully connected RBM, in no memory."""

    n_lower: int
    n_upper: int

    @property
    def n_edges(self) -> int:
        return self.n_lower * self.n_upper

    @property
    def up(self) -> Complete:
        """The nets that lower units send on."""
        return self

    @property
    def down(self) -> Complete:
        """The nets that upper units send on: the same links seen from above."""
        return Complete(self.n_upper, self.n_lower)

    def edges(self) -> tuple[IntArray, IntArray]:
        """All edges, (n_edges,) lower and (n_edges,) upper units.  This one does cost memory."""
        lower = np.repeat(np.arange(self.n_lower, dtype=np.int64), self.n_upper)
        return lower, np.tile(np.arange(self.n_upper, dtype=np.int64), self.n_lower)


@dataclass(frozen=True, eq=False)
class Sparse:
    """The upper neighbours of every lower unit in CSR; of unit i they are ``neighbours[offsets[i]:offsets[i + 1]]``."""

    offsets: IntArray  # (n_lower + 1,)
    neighbours: IntArray  # (n_edges,) upper units, counted within their layer
    n_upper: int

    @classmethod
    def from_edges(cls, lower: npt.ArrayLike, upper: npt.ArrayLike, n_lower: int, n_upper: int) -> Sparse:
        """From (n_edges,) lower and (n_edges,) upper units, each counted within its layer; repeated edges count once.

        Raises GraphError where a unit is not in its layer.
        """
        ends = []
        for name, units, size in (("lower", lower, n_lower), ("upper", upper, n_upper)):
            ids = np.asarray(units)
            if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "ui"):
                raise GraphError(
                    f"{name} units of edges came as {ids.dtype} of shape {ids.shape}, not as whole numbers"
                )
            ids = ids.astype(np.int64)
            if ids.size and (ids.min() < 0 or ids.max() >= size):
                wrong = int(ids.min() if ids.min() < 0 else ids.max())
                raise GraphError(f"an edge has {name} unit {wrong}, but that layer's units are 0 to {size - 1}")
            ends.append(ids)
        if len(ends[0]) != len(ends[1]):
            raise GraphError(
                f"edges have {len(ends[0])} lower and {len(ends[1])} upper units, but need as many of both"
            )
        keys = different(ends[0] * np.int64(n_upper) + ends[1])
        sources, neighbours = np.divmod(keys, np.int64(max(n_upper, 1)))
        counts = np.bincount(sources, minlength=n_lower)
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), neighbours, n_upper)

    @classmethod
    def from_mask(cls, mask: Any) -> Sparse:
        """From a mask (n_lower, n_upper), an array or one of scipy.sparse: what is not 0 is connected.

        Raises GraphError where it has no two dimensions, or values that are no numbers, NaN, or masked.
        """
        if not scipy_sparse.issparse(mask):
            if np.ma.is_masked(mask):
                raise GraphError("a mask has masked values, but all must be known; fill them in, as by .filled(0)")
            mask = np.asarray(mask)
        if mask.ndim != 2 or mask.dtype.kind not in "buif":
            raise GraphError(f"a mask came as {mask.dtype} of shape {mask.shape}, but has truth values, lower x upper")
        if not scipy_sparse.issparse(mask):
            if mask.dtype.kind == "f" and np.isnan(mask).any():
                raise GraphError("a mask has NaN, but truth values or numbers are needed")
            mask = mask != 0  # scipy.sparse does not know every type that NumPy does
        found = scipy_sparse.csr_array(mask)
        if not found.has_canonical_format:
            found = found.copy()
            found.sum_duplicates()
        if found.nnz and not found.data.all():
            found = found.copy()
            found.eliminate_zeros()
        return cls(found.indptr.astype(np.int64), found.indices.astype(np.int64), int(found.shape[1]))

    @property
    def mask(self) -> scipy_sparse.csr_array:
        """The same as a boolean mask (n_lower, n_upper)."""
        ones = np.ones(self.n_edges, bool)
        return scipy_sparse.csr_array((ones, self.neighbours, self.offsets), shape=(self.n_lower, self.n_upper))

    @property
    def n_lower(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_edges(self) -> int:
        return len(self.neighbours)

    @property
    def up(self) -> Sparse:
        """The nets that lower units send on."""
        return self

    @cached_property
    def down(self) -> Sparse:
        """The nets that upper units send on: the same links seen from above."""
        return Sparse.from_mask(self.mask.T)

    def edges(self) -> tuple[IntArray, IntArray]:
        """All edges, (n_edges,) lower and (n_edges,) upper units."""
        return np.repeat(np.arange(self.n_lower, dtype=np.int64), np.diff(self.offsets)), self.neighbours


Links = Complete | Sparse


@dataclass(frozen=True, eq=False)
class UnitGraph:
    """The units of a network, what each weighs, and the links between neighbouring layers.

    ``weights`` are whole numbers, so that balances are exact: whatever a unit costs its owner, 1 unless told.
    ``coordinates`` say where units lie in the plane, all layers in one frame, for methods that cut the plane.
    Raises GraphError where the parts do not fit each other.
    """

    layers: tuple[int, ...]  # units of every layer, the visible one first
    links: tuple[Links, ...]  # links[l] connects layer l with layer l + 1
    weights: IntArray  # (n_units,) layer after layer, none negative
    coordinates: tuple[FloatArray, ...] | None = None  # of each layer (n_units, 2): row and column

    def __post_init__(self) -> None:
        if len(self.links) != len(self.layers) - 1:
            raise GraphError(f"{len(self.layers)} layers need {len(self.layers) - 1} links, but {len(self.links)} came")
        for i, link in enumerate(self.links):
            if (link.n_lower, link.n_upper) != self.layers[i : i + 2]:
                raise GraphError(
                    f"links {i} join {link.n_lower} with {link.n_upper} units, but layers {i} and {i + 1} have "
                    f"{self.layers[i]} and {self.layers[i + 1]}"
                )
        if self.weights.shape != (self.n_units,) or not np.issubdtype(self.weights.dtype, np.integer):
            came = f"{self.weights.dtype} of shape {self.weights.shape}"
            raise GraphError(f"weights must be {self.n_units} whole numbers, but came as {came}")
        if self.n_units and self.weights.min() < 0:
            raise GraphError(f"a unit has weight {int(self.weights.min())}, but no weight may be negative")
        if self.coordinates is not None:
            shapes = [places.shape for places in self.coordinates]
            if shapes != [(size, 2) for size in self.layers]:
                raise GraphError(
                    f"coordinates came as {shapes}, but layers of {self.layers} units need two for each unit"
                )

    @property
    def n_units(self) -> int:
        return sum(self.layers)

    @property
    def n_edges(self) -> int:
        return sum(link.n_edges for link in self.links)

    @cached_property
    def offsets(self) -> IntArray:
        """(n_layers + 1,) layer l has the units offsets[l] to offsets[l + 1] - 1 of the whole network."""
        return np.concatenate([[0], np.cumsum(self.layers)]).astype(np.int64)

    def layer_weights(self, layer: int) -> IntArray:
        """(layers[layer],) the weights of one layer's units."""
        return self.weights[self.offsets[layer] : self.offsets[layer + 1]]

    def adjacency(self) -> scipy_sparse.csr_array:
        """Which units of the whole network are connected, (n_units, n_units), ones; complete links are written out."""
        ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for i, link in enumerate(self.links):
            lower, upper = link.edges()
            ends[0].append(lower + self.offsets[i])
            ends[1].append(upper + self.offsets[i + 1])
        below, above = np.concatenate(ends[0]), np.concatenate(ends[1])
        both = np.concatenate([below, above]), np.concatenate([above, below])
        shape = (self.n_units, self.n_units)
        found = scipy_sparse.coo_array((np.ones(len(both[0]), np.int64), both), shape=shape).tocsr()
        found.sort_indices()
        return found

    def to_networkx(self) -> nx.Graph:
        """Nodes 0 to n_units - 1 with attributes ``layer`` and ``weight``; complete links become single edges.

        Where there are coordinates, nodes have them as ``position``, a pair.
        """
        graph = nx.Graph()
        for layer in range(len(self.layers)):
            for unit, weight in enumerate(self.layer_weights(layer).tolist(), start=int(self.offsets[layer])):
                graph.add_node(unit, layer=layer, weight=weight)
        for layer, link in enumerate(self.links):
            lower, upper = link.edges()
            pairs = zip((lower + self.offsets[layer]).tolist(), (upper + self.offsets[layer + 1]).tolist(), strict=True)
            graph.add_edges_from(pairs)
        if self.coordinates is not None:
            positions = enumerate(map(tuple, np.concatenate(self.coordinates).tolist()))
            nx.set_node_attributes(graph, dict(positions), "position")
        return graph

    @classmethod
    def from_networkx(cls, graph: nx.Graph) -> UnitGraph:
        """Nodes need an attribute ``layer``, counted from 0, and may have a ``weight`` and a ``position``.

        Positions count if all nodes have one; other attributes are left out.

        Units are counted layer by layer, in the graph's own order inside each.  Layers that are connected completely
        become Complete links.  Raises GraphError where an edge joins layers that are not neighbours.
        """
        members: dict[int, list[Any]] = {}
        for node, data in graph.nodes(data=True):
            layer = data.get("layer")
            if not isinstance(layer, (int, np.integer)) or layer < 0:
                raise GraphError(f"node {node!r} has layer {layer!r}, but every node needs one, counted from 0")
            members.setdefault(int(layer), []).append(node)
        layers = tuple(len(members.get(layer, [])) for layer in range(max(members, default=-1) + 1))
        place = {node: (layer, i) for layer, nodes in members.items() for i, node in enumerate(nodes)}
        ends: list[tuple[list[int], list[int]]] = [([], []) for _ in layers[1:]]
        for one, other in graph.edges():
            (low, i), (high, j) = sorted((place[one], place[other]))
            if high - low != 1:
                raise GraphError(f"an edge joins layers {low} and {high}, but only neighbouring layers are connected")
            ends[low][0].append(i)
            ends[low][1].append(j)
        links: list[Links] = []
        for (lower, upper), n_lower, n_upper in zip(ends, layers[:-1], layers[1:], strict=True):
            sparse = Sparse.from_edges(lower, upper, n_lower, n_upper)
            links.append(Complete(n_lower, n_upper) if sparse.n_edges == n_lower * n_upper else sparse)
        weights = [graph.nodes[node].get("weight", 1) for layer in sorted(members) for node in members[layer]]
        coordinates = None
        if members and all("position" in data for _, data in graph.nodes(data=True)):
            places = ([graph.nodes[node]["position"] for node in members.get(i, [])] for i in range(len(layers)))
            coordinates = tuple(np.array(layer, np.float64).reshape(-1, 2) for layer in places)
        return cls(layers, tuple(links), np.array(weights) if weights else np.zeros(0, np.int64), coordinates)


def dense(layers: Sequence[int], weights: npt.ArrayLike | None = None) -> UnitGraph:
    """The graph of a fully connected network with these layers, in memory for its units only."""
    sizes = tuple(int(size) for size in layers)
    links = tuple(Complete(lower, upper) for lower, upper in pairwise(sizes))
    return UnitGraph(sizes, links, unit_weights(sizes) if weights is None else np.asarray(weights))


def sparse(
    layers: Sequence[int],
    edges: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]],
    weights: npt.ArrayLike | None = None,
) -> UnitGraph:
    """The graph of a network with these layers; ``edges`` has (lower, upper) for each pair of neighbouring layers."""
    sizes = tuple(int(size) for size in layers)
    pairs = zip(edges, sizes[:-1], sizes[1:], strict=True)
    links = tuple(Sparse.from_edges(lower, upper, n, m) for (lower, upper), n, m in pairs)
    return UnitGraph(sizes, links, unit_weights(sizes) if weights is None else np.asarray(weights))


def from_masks(
    masks: Sequence[Any],
    weights: npt.ArrayLike | None = None,
    coordinates: Sequence[npt.ArrayLike] | None = None,
) -> UnitGraph:
    """The graph of a network with these connections: for every RBM a mask (n_lower, n_upper), or a Complete link.

    A mask is a scipy.sparse array or a boolean one.  Unless told, a unit weighs its connections, see ``connections``.
    Raises GraphError where masks, weights or coordinates do not fit each other.
    """
    links: list[Links] = [m if isinstance(m, Complete) else Sparse.from_mask(m) for m in masks]
    if not links:
        raise GraphError("no masks came, but a network has at least one RBM")
    sizes = (links[0].n_lower, *(link.n_upper for link in links))
    places = None if coordinates is None else tuple(np.asarray(layer, np.float64) for layer in coordinates)
    own = connections(sizes, links) if weights is None else np.asarray(weights)
    return UnitGraph(sizes, tuple(links), own, places)


def connections(layers: Sequence[int], links: Sequence[Links]) -> IntArray:
    """(n_units,) how many connections every unit has, those of the RBM below and of the RBM above together.

    A unit between two RBMs is a hidden unit of the lower and a visible unit of the upper one.  It has one owner, so
    what it weighs is its work in both, though greedy training does them one after the other.
    """
    found = [np.zeros(size, np.int64) for size in layers]
    for i, link in enumerate(links):
        if isinstance(link, Complete):
            found[i] += link.n_upper
            found[i + 1] += link.n_lower
        else:
            found[i] += np.diff(link.offsets)
            found[i + 1] += np.bincount(link.neighbours, minlength=link.n_upper)
    return np.concatenate(found)


def unit_weights(layers: Sequence[int]) -> IntArray:
    """Every unit weighs 1."""
    return np.ones(sum(layers), np.int64)
