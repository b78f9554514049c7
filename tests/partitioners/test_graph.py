"""partitioners against networkx and against counting by hand, set by set."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelpar.ownership.layout import NetworkLayout, UnitLayout
from partitioners import METHODS, Complete, GraphError, Partition, UnitGraph, dense, measure, sparse
from partitioners.partition import check, communication_volume, edge_cut, imbalance

# methods that need neither places in the plane nor a search; those have tests of their own
BY_WEIGHT = {name: METHODS[name] for name in ("block", "strided", "random")}


def random_graph(rng, layers, density):
    """Links of the given density, weights from 0 to 9."""
    edges = [np.nonzero(rng.random((n, m)) < density) for n, m in pairwise(layers)]
    return sparse(layers, edges, rng.integers(0, 10, sum(layers)))


def random_partition(rng, layers, n_parts):
    return Partition(tuple(rng.integers(0, n_parts, n) for n in layers), n_parts)


def volume_by_hand(graph: nx.Graph, owner: dict[int, int], from_layer: int, to_layer: int) -> int:
    """Connectivity minus one of the nets that the units of one layer send to another, as sets."""
    volume = 0
    for node, data in graph.nodes(data=True):
        if data["layer"] == from_layer:
            pins = {node} | {other for other in graph[node] if graph.nodes[other]["layer"] == to_layer}
            volume += len({owner[pin] for pin in pins}) - 1
    return volume


graphs = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "layers": st.lists(st.integers(1, 12), min_size=2, max_size=4).map(tuple),
        "density": st.sampled_from([0.0, 0.2, 0.6, 1.0]),
        "n_parts": st.integers(1, 5),
    }
)


@given(graphs)
def test_measures_equal_counting_by_hand(case):
    rng = np.random.default_rng(case["seed"])
    graph = random_graph(rng, case["layers"], case["density"])
    partition = random_partition(rng, case["layers"], case["n_parts"])
    plain = graph.to_networkx()
    owner = dict(enumerate(np.concatenate(partition.owners).tolist()))

    result = measure(graph, partition)
    n_links = len(case["layers"]) - 1
    assert result.volume.up.tolist() == [volume_by_hand(plain, owner, i, i + 1) for i in range(n_links)]
    assert result.volume.down.tolist() == [volume_by_hand(plain, owner, i + 1, i) for i in range(n_links)]
    assert result.volume.total == sum(result.volume.up) + sum(result.volume.down)
    assert result.edge_cut == sum(owner[a] != owner[b] for a, b in plain.edges())
    parts = range(case["n_parts"])
    for layer in range(len(case["layers"])):
        mine = [(owner[node], data["weight"]) for node, data in plain.nodes(data=True) if data["layer"] == layer]
        sums = [sum(weight for part, weight in mine if part == p) for p in parts]
        expected = max(sums) * len(sums) / sum(sums) - 1 if sum(sums) else 0.0
        assert result.imbalance[layer] == pytest.approx(expected, abs=1e-12)


@given(graphs)
def test_complete_links_measure_as_their_edges_do(case):
    rng = np.random.default_rng(case["seed"])
    compact = dense(case["layers"])
    listed = random_graph(rng, case["layers"], 1.0)
    partition = random_partition(rng, case["layers"], case["n_parts"])
    assert compact.n_edges == listed.n_edges
    assert edge_cut(compact, partition) == edge_cut(listed, partition)
    for mine, theirs in zip(
        communication_volume(compact, partition), communication_volume(listed, partition), strict=True
    ):
        assert np.array_equal(mine, theirs)


def test_edge_cut_and_degrees_equal_networkx():
    rng = np.random.default_rng(5)
    graph = random_graph(rng, (9, 14), 0.4)
    partition = random_partition(rng, (9, 14), 2)
    plain = graph.to_networkx()
    one_side = np.flatnonzero(np.concatenate(partition.owners) == 0).tolist()
    assert edge_cut(graph, partition) == nx.cut_size(plain, one_side)
    assert np.diff(graph.links[0].up.offsets).tolist() == [plain.degree(i) for i in range(9)]
    assert np.diff(graph.links[0].down.offsets).tolist() == [plain.degree(9 + j) for j in range(14)]
    assert nx.is_bipartite(plain)


@given(graphs)
def test_networkx_and_back(case):
    graph = random_graph(np.random.default_rng(case["seed"]), case["layers"], case["density"])
    back = UnitGraph.from_networkx(graph.to_networkx())
    assert back.layers == graph.layers
    assert np.array_equal(back.weights, graph.weights)
    assert nx.utils.graphs_equal(back.to_networkx(), graph.to_networkx())


def test_from_networkx_counts_units_layer_by_layer():
    plain = nx.Graph()
    plain.add_node("top", layer=1, weight=7)
    plain.add_node("left", layer=0)
    plain.add_node("right", layer=0, weight=2)
    plain.add_edge("top", "right")
    graph = UnitGraph.from_networkx(plain)
    assert graph.layers == (2, 1)
    assert graph.weights.tolist() == [1, 2, 7]
    assert [ends.tolist() for ends in graph.links[0].edges()] == [[1], [0]]
    plain.add_edge("left", "top")
    assert isinstance(UnitGraph.from_networkx(plain).links[0], Complete)


@pytest.mark.parametrize("method", BY_WEIGHT.values(), ids=BY_WEIGHT)
@given(case=graphs)
def test_every_layer_is_balanced_by_weight(method, case):
    graph = random_graph(np.random.default_rng(case["seed"]), case["layers"], 0.3)
    n_parts = case["n_parts"]
    partition = method(graph, n_parts, seed=1)
    check(graph, partition)
    for layer, owner in enumerate(partition.owners):
        weights = graph.layer_weights(layer)
        heaviest = max(weights[owner == part].sum() for part in range(n_parts))
        assert heaviest <= weights.sum() / n_parts + weights.max()
    again = method(graph, n_parts, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(again.owners, partition.owners, strict=True))


@pytest.mark.parametrize("method", BY_WEIGHT.values(), ids=BY_WEIGHT)
@pytest.mark.parametrize("n_parts", [1, 2, 3, 4, 9])
def test_equal_units_are_spread_evenly(method, n_parts):
    for weight in (0, 1, 3):
        graph = dense((13, 7, 1), np.full(21, weight))
        for owner in method(graph, n_parts, seed=1).owners:
            counts = np.bincount(owner, minlength=n_parts)
            assert counts.max() - counts.min() <= 1


def test_blocks_are_the_layout_of_the_engine():
    for n_parts in (1, 2, 3, 4, 9):
        for n, owner in zip((13, 7, 1), METHODS["block"](dense((13, 7, 1)), n_parts, seed=1).owners, strict=True):
            assert UnitLayout.from_owners(owner, n_parts) == UnitLayout.blocks(n, n_parts)


@given(graphs)
def test_blocks_are_contiguous(case):
    graph = random_graph(np.random.default_rng(case["seed"]), case["layers"], 0.3)
    for owner in METHODS["block"](graph, case["n_parts"], seed=1).owners:
        assert (np.diff(owner) >= 0).all()


def test_strides():
    partition = METHODS["strided"](dense((7, 4)), 3, seed=1)
    assert partition.owners[0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert METHODS["strided"](dense((4, 1), [1, 5, 1, 3, 1]), 2, seed=1).owners[0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("method", BY_WEIGHT.values(), ids=BY_WEIGHT)
def test_owners_feed_the_engine(method):
    partition = method(dense((13, 7, 5)), 3, seed=1)
    layout = NetworkLayout.from_owners(list(partition.owners), partition.n_parts)
    for layer, owner in zip(layout.layers, partition.owners, strict=True):
        assert np.array_equal(layer.owner, owner)


def test_a_wide_dense_network_stays_compact():
    graph = dense((200_000, 300_000))  # 6e10 edges
    partition = METHODS["block"](graph, 4, seed=1)
    result = measure(graph, partition)
    assert result.edge_cut == 200_000 * 300_000 * 3 // 4
    assert result.volume.up.tolist() == [200_000 * 3]
    assert result.volume.down.tolist() == [300_000 * 3]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (lambda: sparse((2, 2), [([0, 2], [0, 1])]), "an edge has lower unit 2"),
        (lambda: sparse((2, 2), [([0, 1], [0, -1])]), "an edge has upper unit -1"),
        (lambda: UnitGraph((2, 2), (), np.ones(4, int)), "2 layers need 1 links"),
        (lambda: UnitGraph((2, 2), (Complete(2, 3),), np.ones(4, int)), "links 0 join 2 with 3 units"),
        (lambda: dense((2, 2), [1, 1, 1]), "weights must be 4 integers"),
        (lambda: dense((2, 2), [1, 1, 1, 0.5]), "weights must be 4 integers"),
        (lambda: dense((2, 2), [1, 1, 1, -2]), "weight -2"),
        (lambda: UnitGraph.from_networkx(nx.path_graph(2)), "node 0 has layer None"),
        (lambda: METHODS["block"](dense((2, 2)), 0, seed=1), "0 parts"),
        (lambda: imbalance(dense((2, 2)), Partition((np.zeros(2, int),), 1)), "but the graph has (2, 2)"),
        (lambda: edge_cut(dense((1, 1)), Partition((np.array([3]), np.array([0])), 2)), "owned by part 3"),
    ],
)
def test_errors_say_what_came(wrong, expected):
    with pytest.raises(GraphError) as caught:
        wrong()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_neighbouring_layers_are_connected():
    plain = nx.Graph()
    plain.add_nodes_from([(0, {"layer": 0}), (1, {"layer": 1}), (2, {"layer": 2})])
    plain.add_edge(0, 2)
    with pytest.raises(GraphError, match="joins layers 0 and 2"):
        UnitGraph.from_networkx(plain)
