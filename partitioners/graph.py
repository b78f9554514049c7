"""The unit graph of a network: its units, and which of them are connected.

Units are numbered layer by layer from the visible one up.  Only units of neighbouring layers are connected, each pair
of layers either completely, which takes no memory for edges, or by a list of edges in CSR.  As a hypergraph, every unit
has a net for each neighbouring layer that it sends its value to: itself and its neighbours there (Çatalyürek and
Aykanat 1999: connectivity minus one of a net is the number of values sent).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse as scipy_sparse

from partitioners.arguments import LARGEST, coordinates_of, integer, integers, listed, shown, sizes_of
from partitioners.arguments import FloatArray as FloatArray
from partitioners.arguments import GraphError as GraphError
from partitioners.arguments import IntArray as IntArray
from partitioners.cards import card
from partitioners.links import Complete as Complete
from partitioners.links import Links as Links
from partitioners.links import Sparse as Sparse
from partitioners.links import offsets_of
from partitioners.page import table

if TYPE_CHECKING:
    import networkx as nx  # takes 0.2 seconds, so functions that need it import it

MOST_LAYERS = 2**16  # limit for graphs of networkx, where layers may be empty


@dataclass(frozen=True, eq=False)
class UnitGraph:
    """The units of a network with their weights, and the links between neighbouring layers.

    ``weights`` are integers, so that balances are exact: the cost of a unit to its owner.  ``coordinates`` are those of
    units in the plane, all layers in one frame, for methods that cut the plane.  Raises GraphError where the arguments
    do not fit each other.
    """

    layers: tuple[int, ...]  # units of every layer, the visible one first
    links: tuple[Links, ...]  # links[l] connects layer l with layer l + 1
    weights: IntArray  # (n_units,) layer after layer, none negative, their sum in 64 bits
    coordinates: tuple[FloatArray, ...] | None = None  # for each layer (n_units, 2): row and column

    def __post_init__(self) -> None:
        layers, links = sizes_of(self.layers), tuple(listed("links", self.links, "a list, with those of each RBM"))
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
        weights = integers("weights", self.weights, sum(layers))
        if len(weights) and weights.min() < 0:
            raise GraphError(f"a unit has weight {int(weights.min())}, but no weight may be negative")
        if weights.sum(dtype=np.float64) > LARGEST // 2 and (total := sum(weights.tolist())) > LARGEST:
            raise GraphError(f"weights are {total} together, but at most {LARGEST}; divide them all by the same number")
        coordinates = None
        if self.coordinates is not None:
            coordinates = tuple(listed("coordinates", self.coordinates, "a list, with those of each layer"))
            if len(coordinates) != len(layers):
                raise GraphError(f"coordinates came for {len(coordinates)} layers, but there are {len(layers)}")
            coordinates = tuple(
                coordinates_of(f"coordinates of layer {i}", points, n)
                for i, (points, n) in enumerate(zip(coordinates, layers, strict=True))
            )
        for name, value in (("layers", layers), ("links", links), ("weights", weights), ("coordinates", coordinates)):
            object.__setattr__(self, name, value)

    def _repr_html_(self) -> str:
        """For notebooks: layers, and how each is connected with the next."""
        rows = []
        for i, (n, link) in enumerate(zip(self.layers, (*self.links, None), strict=True)):
            how = "" if link is None else "complete" if isinstance(link, Complete) else "listed"
            edges = "" if link is None else f"{link.n_edges:,}"
            each = "" if link is None or not n else f"{link.n_edges / n:,.1f}"
            rows.append([str(i), f"{n:,}", f"{int(self.layer_weights(i).sum()):,}", how, edges, each])
        heads = ("layer", "units", "weight", "links upwards", "edges", "edges a unit")
        title = f"UnitGraph: {self.n_units:,} units, {self.n_edges:,} edges"
        return card(title, table(heads, rows, numbers=(1, 2, 4, 5)))

    @property
    def n_units(self) -> int:
        return sum(self.layers)

    @property
    def n_edges(self) -> int:
        return sum(link.n_edges for link in self.links)

    @cached_property
    def offsets(self) -> IntArray:
        """(n_layers + 1,) layer l has the units offsets[l] to offsets[l + 1] - 1 of the network."""
        return offsets_of(self.layers)

    def layer_weights(self, layer: int) -> IntArray:
        """(layers[layer],) the weights of one layer's units."""
        return self.weights[self.offsets[layer] : self.offsets[layer + 1]]

    def adjacency(self) -> scipy_sparse.csr_array:
        """(n_units, n_units) ones where units of the network are connected; complete links become single edges."""
        ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for i, link in enumerate(self.links):
            lower, upper = link.edges()
            ends[0].append(lower + self.offsets[i])
            ends[1].append(upper + self.offsets[i + 1])
        below, above = np.concatenate(ends[0]), np.concatenate(ends[1])
        both = np.concatenate([below, above]), np.concatenate([above, below])
        shape = (self.n_units, self.n_units)
        matrix = scipy_sparse.coo_array((np.ones(len(both[0]), np.int64), both), shape=shape).tocsr()
        matrix.sort_indices()
        return matrix

    def to_networkx(self) -> nx.Graph:
        """Nodes 0 to n_units - 1 with attributes ``layer`` and ``weight``; complete links become single edges.

        Where there are coordinates, nodes have them as ``position``, a pair.  The graph's own attribute ``n_layers``
        counts layers without units, too.
        """
        import networkx as nx

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
        """From a graph whose nodes have a ``layer``, counted from 0; ``weight`` and ``position``, a pair, are optional.

        Positions are used if all nodes have one; other attributes and directions of edges are ignored.

        Units are numbered layer by layer, in the graph's own order inside each.  Layers that are connected completely
        become Complete links.  Raises GraphError where an edge joins layers that are not neighbours, or an attribute
        is invalid.
        """
        import networkx as nx

        if not isinstance(graph, nx.Graph):
            raise GraphError(f"{shown(graph)} is not a graph of networkx")
        members: dict[int, list[Any]] = {}
        for node, data in graph.nodes(data=True):
            layer = data.get("layer")
            if not hasattr(layer, "__index__") or not 0 <= integer("a layer", layer, None) < MOST_LAYERS:
                raise GraphError(
                    f"node {shown(node)} has layer {shown(layer)}, but every node needs one, counted from 0"
                )
            members.setdefault(integer("a layer", layer), []).append(node)
        n_layers = integer("n_layers", graph.graph.get("n_layers", 0), most=MOST_LAYERS)
        layers = tuple(len(members.get(layer, [])) for layer in range(max(n_layers, max(members, default=-1) + 1)))
        index = {node: (layer, i) for layer, nodes in members.items() for i, node in enumerate(nodes)}
        ends: list[tuple[list[int], list[int]]] = [([], []) for _ in layers[1:]]
        for one, other in graph.edges():
            (low, i), (high, j) = sorted((index[one], index[other]))
            if high - low != 1:
                raise GraphError(f"an edge joins layers {low} and {high}, but only neighbouring layers are connected")
            ends[low][0].append(i)
            ends[low][1].append(j)
        links: list[Links] = []
        for (lower, upper), n_lower, n_upper in zip(ends, layers[:-1], layers[1:], strict=True):
            sparse = Sparse.from_edges(lower, upper, n_lower, n_upper)
            links.append(Complete(n_lower, n_upper) if sparse.n_edges == n_lower * n_upper else sparse)
        nodes = [node for layer in sorted(members) for node in members[layer]]
        weights = [integer(f"the weight of node {shown(node)}", graph.nodes[node].get("weight", 1)) for node in nodes]
        coordinates = None
        if nodes and all(graph.nodes[node].get("position") is not None for node in nodes):
            points = [
                coordinates_of(f"the position of node {shown(node)}", [graph.nodes[node]["position"]], 1)
                for node in nodes
            ]
            coordinates = tuple(np.split(np.concatenate(points), np.cumsum(layers)[:-1]))
        return cls(layers, tuple(links), weights, coordinates)  # type: ignore[arg-type]


def dense(layers: Sequence[int], weights: npt.ArrayLike | None = None) -> UnitGraph:
    """The graph of a fully connected network with these layers; takes memory for its units only.

    weights   of the units; default: 1 each
    """
    sizes = sizes_of(layers)
    links = tuple(Complete(lower, upper) for lower, upper in pairwise(sizes))
    return UnitGraph(sizes, links, unit_weights(sizes) if weights is None else weights)  # type: ignore[arg-type]


def sparse(
    layers: Sequence[int],
    edges: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]],
    weights: npt.ArrayLike | None = None,
) -> UnitGraph:
    """The graph of a network with these layers; ``edges`` has (lower, upper) for each pair of neighbouring layers.

    ``weights`` default to 1 for each unit.

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

    A mask is a scipy.sparse array or a boolean one.  By default a unit weighs its connections, see ``connections``.
    Raises GraphError where masks, weights or coordinates do not fit each other.
    """
    given = listed("masks", masks, "a list, with one of each RBM")
    links: list[Links] = [m if isinstance(m, (Complete, Sparse)) else Sparse.from_mask(m) for m in given]
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
    sums = np.zeros(n_groups, np.int64)
    np.add.at(sums, groups, values)
    return sums


def connections(layers: Sequence[int], links: Sequence[Links]) -> IntArray:
    """(n_units,) the number of connections of every unit, with the RBM below and the RBM above together.

    A unit between two RBMs is a hidden unit of the lower and a visible unit of the upper one.  It has one owner, so its
    weight is its work in both, though greedy training does them one after the other.
    """
    counts = [np.zeros(size, np.int64) for size in layers]
    for i, link in enumerate(links):
        if isinstance(link, Complete):
            counts[i] += link.n_upper
            counts[i + 1] += link.n_lower
        else:
            counts[i] += np.diff(link.offsets)
            counts[i + 1] += np.bincount(link.neighbours, minlength=link.n_upper)
    return np.concatenate(counts)


def unit_weights(layers: Sequence[int]) -> IntArray:
    """(n_units,) weights of 1 for every unit."""
    return np.ones(sum(layers), np.int64)
