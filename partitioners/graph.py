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

from partitioners.arguments import LARGEST, MOST, csr, in_layer, places_of, shown, sizes_of, whole, wholes
from partitioners.arguments import FloatArray as FloatArray
from partitioners.arguments import GraphError as GraphError
from partitioners.arguments import IntArray as IntArray

MOST_LAYERS = 2**16  # that may be named by nodes of networkx, where layers may be empty


def different(keys: IntArray) -> IntArray:
    """The different keys, ascending: ``np.unique``, whose hash tables take many times as long for millions."""
    keys = np.sort(keys)
    first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]


@dataclass(frozen=True)
class Complete:
    """Every lower unit is connected with every upper unit: a fully connected RBM, in no memory.

    Raises GraphError where a number of units cannot be.
    """

    n_lower: int
    n_upper: int

    def __post_init__(self) -> None:
        for name in ("n_lower", "n_upper"):
            object.__setattr__(self, name, whole(name, getattr(self, name), most=MOST))

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
    """The upper neighbours of every lower unit in CSR; of unit i they are ``neighbours[offsets[i]:offsets[i + 1]]``.

    They ascend, each once: neighbours in another order are sorted.  Raises GraphError where the arrays are no CSR.
    """

    offsets: IntArray  # (n_lower + 1,)
    neighbours: IntArray  # (n_edges,) upper units, counted within their layer
    n_upper: int

    def __post_init__(self) -> None:
        offsets, neighbours = wholes("offsets", self.offsets), wholes("neighbours", self.neighbours)
        n_upper = whole("n_upper", self.n_upper, most=MOST)
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(neighbours) or np.any(np.diff(offsets) < 0):
            raise GraphError(f"offsets must ascend from 0 to the {len(neighbours)} neighbours, but do not")
        in_layer("upper", neighbours, n_upper)
        later = np.ones(len(neighbours) + 1, bool)  # a unit's first neighbour, or one behind the neighbour before it
        np.greater(neighbours[1:], neighbours[:-1], out=later[1:-1])
        later[offsets] = True
        if not later.all():
            shape, ones = (len(offsets) - 1, n_upper), np.ones(len(neighbours), bool)
            found = scipy_sparse.csr_array((ones, neighbours, offsets), shape=shape, copy=True)
            found.sum_duplicates()
            offsets, neighbours = found.indptr.astype(np.int64), found.indices.astype(np.int64)
        for name, value in (("offsets", offsets), ("neighbours", neighbours), ("n_upper", n_upper)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_edges(cls, lower: npt.ArrayLike, upper: npt.ArrayLike, n_lower: int, n_upper: int) -> Sparse:
        """From (n_edges,) lower and (n_edges,) upper units, each counted within its layer; repeated edges count once.

        Raises GraphError where a unit is not in its layer, or there are not as many lower as upper ones.
        """
        n_lower, n_upper = whole("n_lower", n_lower, most=MOST), whole("n_upper", n_upper, most=MOST)
        sources, targets = wholes("lower units", lower), wholes("upper units", upper)
        if len(sources) != len(targets):
            raise GraphError(
                f"edges have {len(sources)} lower and {len(targets)} upper units, but need as many of both"
            )
        in_layer("lower", sources, n_lower)
        in_layer("upper", targets, n_upper)
        keys = different(sources * np.int64(n_upper) + targets)
        sources, neighbours = np.divmod(keys, np.int64(max(n_upper, 1)))
        counts = np.bincount(sources, minlength=n_lower)
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), neighbours, n_upper)

    @classmethod
    def from_mask(cls, mask: Any) -> Sparse:
        """From a mask (n_lower, n_upper), dense or of any format of scipy.sparse: what is not 0 is connected.

        Values that come twice for a pair are summed, as scipy.sparse does.  The mask is left as it is.  Raises
        GraphError where it is no matrix of numbers.
        """
        found = csr(mask)
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
    weights: IntArray  # (n_units,) layer after layer, none negative, all together in 64 bits
    coordinates: tuple[FloatArray, ...] | None = None  # of each layer (n_units, 2): row and column

    def __post_init__(self) -> None:
        layers, links = sizes_of(self.layers), tuple(self.links)
        if len(links) != len(layers) - 1:
            raise GraphError(f"{len(layers)} layers need {len(layers) - 1} links, but {len(links)} came")
        for i, link in enumerate(links):
            if not isinstance(link, (Complete, Sparse)):
                raise GraphError(f"links {i} are {shown(link)}, but must be Complete or Sparse")
            if (link.n_lower, link.n_upper) != layers[i : i + 2]:
                raise GraphError(
                    f"links {i} join {link.n_lower} with {link.n_upper} units, but layers {i} and {i + 1} have "
                    f"{layers[i]} and {layers[i + 1]}"
                )
        weights = wholes("weights", self.weights, sum(layers))
        if len(weights) and weights.min() < 0:
            raise GraphError(f"a unit has weight {int(weights.min())}, but no weight may be negative")
        if weights.sum(dtype=np.float64) > LARGEST // 2 and (total := sum(weights.tolist())) > LARGEST:
            raise GraphError(f"weights are {total} together, but at most {LARGEST}; divide them all by the same number")
        coordinates = None
        if self.coordinates is not None:
            coordinates = tuple(self.coordinates)
            if len(coordinates) != len(layers):
                raise GraphError(f"coordinates came for {len(coordinates)} layers, but there are {len(layers)}")
            coordinates = tuple(
                places_of(f"coordinates of layer {i}", places, n)
                for i, (places, n) in enumerate(zip(coordinates, layers, strict=True))
            )
        for name, value in (("layers", layers), ("links", links), ("weights", weights), ("coordinates", coordinates)):
            object.__setattr__(self, name, value)

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

        Where there are coordinates, nodes have them as ``position``, a pair.  The graph's own attribute ``n_layers``
        tells of layers without units.
        """
        graph = nx.Graph(n_layers=len(self.layers))
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
        """Nodes need an attribute ``layer``, counted from 0, and may have a ``weight`` and a ``position``, a pair.

        Positions count if all nodes have one; other attributes are left out, and so are directions of edges.

        Units are counted layer by layer, in the graph's own order inside each.  Layers that are connected completely
        become Complete links.  Raises GraphError where an edge joins layers that are not neighbours, or an attribute
        is not what it must be.
        """
        if not isinstance(graph, nx.Graph):
            raise GraphError(f"{shown(graph)} is no graph of networkx")
        members: dict[int, list[Any]] = {}
        for node, data in graph.nodes(data=True):
            layer = data.get("layer")
            if not hasattr(layer, "__index__") or not 0 <= whole("a layer", layer, None) < MOST_LAYERS:
                raise GraphError(
                    f"node {shown(node)} has layer {shown(layer)}, but every node needs one, counted from 0"
                )
            members.setdefault(whole("a layer", layer), []).append(node)
        told = whole("n_layers", graph.graph.get("n_layers", 0), most=MOST_LAYERS)
        layers = tuple(len(members.get(layer, [])) for layer in range(max(told, max(members, default=-1) + 1)))
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
        nodes = [node for layer in sorted(members) for node in members[layer]]
        weights = [whole(f"the weight of node {shown(node)}", graph.nodes[node].get("weight", 1)) for node in nodes]
        coordinates = None
        if nodes and all(graph.nodes[node].get("position") is not None for node in nodes):
            places = [
                places_of(f"the position of node {shown(node)}", [graph.nodes[node]["position"]], 1) for node in nodes
            ]
            coordinates = tuple(np.split(np.concatenate(places), np.cumsum(layers)[:-1]))
        return cls(layers, tuple(links), weights, coordinates)  # type: ignore[arg-type]


def dense(layers: Sequence[int], weights: npt.ArrayLike | None = None) -> UnitGraph:
    """The graph of a fully connected network with these layers, in memory for its units only."""
    sizes = sizes_of(layers)
    links = tuple(Complete(lower, upper) for lower, upper in pairwise(sizes))
    return UnitGraph(sizes, links, unit_weights(sizes) if weights is None else weights)  # type: ignore[arg-type]


def sparse(
    layers: Sequence[int],
    edges: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]],
    weights: npt.ArrayLike | None = None,
) -> UnitGraph:
    """The graph of a network with these layers; ``edges`` has (lower, upper) for each pair of neighbouring layers.

    Raises GraphError where edges, weights and layers do not fit each other.
    """
    sizes, ends = sizes_of(layers), list(edges)
    if len(ends) != len(sizes) - 1 or any(len(pair) != 2 for pair in ends):
        raise GraphError(
            f"{len(sizes)} layers need {len(sizes) - 1} pairs of lower and upper units, but {len(ends)} came"
        )
    links = tuple(Sparse.from_edges(pair[0], pair[1], n, m) for pair, (n, m) in zip(ends, pairwise(sizes), strict=True))
    return UnitGraph(sizes, links, unit_weights(sizes) if weights is None else weights)  # type: ignore[arg-type]


def from_masks(
    masks: Sequence[Any],
    weights: npt.ArrayLike | None = None,
    coordinates: Sequence[npt.ArrayLike] | None = None,
) -> UnitGraph:
    """The graph of a network with these connections: for every RBM a mask (n_lower, n_upper), or a Complete link.

    A mask is a scipy.sparse array or a boolean one.  Unless told, a unit weighs its connections, see ``connections``.
    Raises GraphError where masks, weights or coordinates do not fit each other.
    """
    links: list[Links] = [m if isinstance(m, (Complete, Sparse)) else Sparse.from_mask(m) for m in masks]
    if not links:
        raise GraphError("no masks came, but a network has at least one RBM")
    for i, (below, above) in enumerate(pairwise(links)):
        if below.n_upper != above.n_lower:
            raise GraphError(
                f"mask {i} has {below.n_upper} upper units, but mask {i + 1} has {above.n_lower} lower ones: they are "
                f"the same layer"
            )
    sizes = (links[0].n_lower, *(link.n_upper for link in links))
    own = connections(sizes, links) if weights is None else weights
    return UnitGraph(sizes, tuple(links), own, coordinates)  # type: ignore[arg-type]


def sums_of(groups: IntArray, values: IntArray, n_groups: int) -> IntArray:
    """(n_groups,) the sum of the values of each group, exact where ``np.bincount`` would round."""
    found = np.zeros(n_groups, np.int64)
    np.add.at(found, groups, values)
    return found


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
