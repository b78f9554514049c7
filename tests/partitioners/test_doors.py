"""What is handed to ``partitioners``: the right result for whatever is valid, one line of GraphError for all else.

Modules: partitioners/arguments, partitioners/generators, partitioners/graph_files, partitioners/links,
partitioners/writing
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import zipfile
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse as scipy_sparse

from partitioners import (
    METHODS,
    Complete,
    GraphError,
    Partition,
    Sparse,
    UnitGraph,
    dense,
    empty_parts,
    feasible,
    from_masks,
    generators,
    graph_files,
    load_placement,
    measure,
    method,
    predicted_bytes,
    refined,
    save_placement,
    sparse,
    step_seconds,
    traffic,
)
from partitioners.__main__ import main
from partitioners.annealing import improved
from partitioners.compare import compare, problems
from partitioners.methods import EXTRAS
from partitioners.nets import flat, limits, nets_of
from partitioners.networks import Network, local_network, network
from partitioners.partition import part_weights
from partitioners.repair import repaired
from partitioners.step_time import Rates

NONE = ([], [])
EYE = np.eye(2, dtype=bool)
OWN = [name for name in METHODS if name not in EXTRAS]


@pytest.fixture
def short_searches(monkeypatch):
    # a method hides the module of its name in the package
    for module, name, value in [
        ("auto", "FEWEST", 100_000), ("auto", "MOST", 100_000), ("refinement", "LOOKUPS", 100_000),
        ("multilevel", "LOOKUPS", 10_000), ("bisection", "FOR_UNIT", 100),
    ]:  # fmt: skip
        monkeypatch.setattr(importlib.import_module(f"partitioners.{module}"), name, value)


def same(one: UnitGraph, other: UnitGraph) -> bool:
    ends = [[np.concatenate(link.edges()).tolist() for link in graph.links] for graph in (one, other)]
    return one.layers == other.layers and ends[0] == ends[1] and np.array_equal(one.weights, other.weights)


def one_line(wrong, expected: str = "") -> None:
    with pytest.raises(GraphError) as caught:
        wrong()
    assert "\n" not in str(caught.value)
    assert expected in str(caught.value)


@st.composite
def networks(draw):
    """Layers of any size, none among them, some without connections, weights of any size, places or none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    layers = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    edges = [np.nonzero(rng.random(shape) < density) for shape in pairwise(layers)]
    heaviest = draw(st.sampled_from([1, 2, 2**40, 2**58]))
    made = sparse(layers, edges, rng.integers(0, heaviest, sum(layers)))
    if draw(st.booleans()):
        return made
    return UnitGraph(made.layers, made.links, made.weights, tuple(rng.random((n, 2)) for n in layers))


# -- graphs ------------------------------------------------------------------------------------------------------------


def node(**attributes) -> nx.Graph:
    graph = nx.Graph()
    graph.add_node("a", layer=0)
    graph.add_node("b", **attributes)
    return graph


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (lambda: dense(()), "at least one"),
        (lambda: dense((3, -1)), "layer 1 is -1"),
        (lambda: dense((3, 2.0)), "layer 1 is 2.0, but must be an integer"),
        (lambda: dense((2**31, 2)), "2147483648"),
        (lambda: dense(7), "layers are 7"),
        (lambda: dense((2, 2), [1, 1, 1, float("nan")]), "integers"),
        (lambda: dense((2, 2), [1.0, 1.0, 1.0, 1.0]), "integers"),
        (lambda: dense((2, 2), [[1], [1, 1]]), "integers"),
        (lambda: dense((2, 2), ["1", "1", "1", "1"]), "integers"),
        (lambda: dense((2, 2), 3), "shape ()"),
        (lambda: dense((2, 2), [2**62, 2**62, 0, 0]), "9223372036854775808 together"),
        (lambda: dense((2, 2), np.array([2**63, 0, 0, 0], np.uint64)), "more than 64 bits"),
        (lambda: dense((2, 2), [2**70, 0, 0, 0]), "more than 64 bits"),
        (lambda: Complete(2, -1), "n_upper is -1"),
        (lambda: Sparse(np.array([0, 1]), np.array([3]), 3), "upper unit 3"),
        (lambda: Sparse(np.array([0, 2]), np.array([0]), 3), "offsets"),
        (lambda: Sparse(np.array([], int), np.array([], int), 3), "offsets"),
        (lambda: sparse((2, 2), []), "1 pairs"),
        (lambda: sparse((2, 2), [([0, 1], [0])]), "2 lower and 1 upper"),
        (lambda: sparse((2, 2), [([0.5], [0])]), "lower units must be integers"),
        (lambda: sparse((2, 2), [([np.nan], [0])]), "lower units must be integers"),
        (lambda: sparse((2, 2), [([[0]], [[0]])]), "shape (1, 1)"),
        (lambda: from_masks([]), "no masks"),
        (lambda: from_masks(None), "masks are None, but must be a list"),
        (lambda: from_masks(Complete(2, 2)), "masks are Complete"),
        (lambda: from_masks({}), "masks are {}"),
        (lambda: from_masks("ab"), "masks are 'ab'"),
        (lambda: from_masks(np.float64(3)), f"masks are {np.float64(3)!r}"),
        (lambda: from_masks(scipy_sparse.eye_array(3)), "masks are <"),
        (lambda: from_masks([EYE], None, 3), "coordinates are 3, but must be a list"),
        (lambda: UnitGraph((1, 1), None, np.ones(2, int)), "links are None, but must be a list"),
        (lambda: UnitGraph((1, 1), Complete(1, 1), np.ones(2, int)), "links are Complete"),
        (lambda: from_masks([np.ones((2, 3)), np.ones((4, 2))]), "mask 0 has 3 upper units, but mask 1 has 4 lower"),
        (lambda: from_masks([scipy_sparse.eye_array(3), Complete(2, 2)]), "mask 0 has 3 upper"),
        (lambda: from_masks(np.ones((2, 2))), "shape (2,)"),
        (lambda: from_masks([np.ones(3)]), "shape (3,)"),
        (lambda: from_masks([scipy_sparse.coo_array(np.ones(3))]), "shape (3,)"),
        (lambda: from_masks([np.ones((2, 2, 2))]), "shape (2, 2, 2)"),
        (lambda: from_masks([[[1, 0], [1]]]), "must be a matrix"),
        (lambda: from_masks([None]), "shape ()"),
        (lambda: from_masks([np.array([["a"]])]), "numbers or booleans"),
        (lambda: from_masks([np.array([[np.nan, 1]])]), "NaN"),
        (lambda: from_masks([scipy_sparse.csc_array(np.array([[np.nan, 1]]))]), "NaN"),
        (lambda: from_masks([np.ma.masked_equal([[0, 1]], 1)]), "masked"),
        (lambda: from_masks([EYE], None, [np.zeros((2, 2))]), "1 layers, but there are 2"),
        (lambda: from_masks([EYE], None, [np.zeros((2, 3))] * 2), "shape (2, 3)"),
        (lambda: from_masks([EYE], None, [np.zeros((2, 1))] * 2), "shape (2, 1)"),
        (lambda: from_masks([EYE], None, [np.full((2, 2), np.inf)] * 2), "finite"),
        (lambda: from_masks([EYE], None, [[["x", "y"]] * 2] * 2), "two numbers"),
        (lambda: from_masks([EYE], None, [None, None]), "coordinates of layer 0"),
        (lambda: UnitGraph((1, 1), (None,), np.ones(2, int)), "links 0 are None"),
        (lambda: UnitGraph.from_networkx(nx.Graph()), "no layers"),
        (lambda: UnitGraph.from_networkx([(0, 1)]), "not a graph of networkx"),
        (lambda: UnitGraph.from_networkx(node(layer=1.0)), "has layer 1.0"),
        (lambda: UnitGraph.from_networkx(node(layer=-1)), "has layer -1"),
        (lambda: UnitGraph.from_networkx(node(layer=10**12)), "has layer 1000000000000"),
        (lambda: UnitGraph.from_networkx(node(layer=1, weight=0.5)), "weight of node 'b' is 0.5"),
        (lambda: UnitGraph.from_networkx(node(layer=1, weight=-1)), "weight of node 'b' is -1"),
        (lambda: UnitGraph.from_networkx(node(layer=1, weight=2**64)), "more than 64 bits"),
    ],
)  # fmt: skip
def test_graphs_that_cannot_be(wrong, expected):
    one_line(wrong, expected)


@pytest.mark.parametrize("position", [(1, 2, 3), (1,), 4, "xy", (np.nan, 0), (1, None)])
def test_positions_are_pairs(position):
    """Two nodes with three numbers each are six numbers, which are no three pairs."""
    graph = nx.Graph()
    graph.add_node(0, layer=0, position=position)
    graph.add_node(1, layer=1, position=position)
    one_line(lambda: UnitGraph.from_networkx(graph), "the position of node 0")


def test_positions_count_only_if_all_nodes_have_one():
    graph = nx.Graph()
    graph.add_node(0, layer=0, position=(1, 2))
    graph.add_node(1, layer=1, position=None)
    assert UnitGraph.from_networkx(graph).coordinates is None
    graph.nodes[1]["position"] = np.array([3, 4])
    assert [places.tolist() for places in UnitGraph.from_networkx(graph).coordinates] == [[[1, 2]], [[3, 4]]]


def test_networkx_graphs_of_any_kind():
    """Directions, repeated edges and names of nodes do not count; an edge of a node with itself cannot be."""
    plain = nx.MultiDiGraph()
    plain.add_node((0, "x"), layer=np.int8(1))
    plain.add_nodes_from(["p", "q"], layer=False, weight=np.uint8(3))
    plain.add_edges_from([("p", (0, "x")), ((0, "x"), "p"), ("p", (0, "x"))])
    graph = UnitGraph.from_networkx(plain)
    assert graph.layers == (2, 1)
    assert graph.weights.tolist() == [3, 3, 1]
    assert [ends.tolist() for ends in graph.links[0].edges()] == [[0], [0]]
    plain.add_edge("p", "p")
    one_line(lambda: UnitGraph.from_networkx(plain), "joins layers 0 and 0")


@given(networks())
def test_networkx_and_back_with_empty_layers_and_places(graph):
    back = UnitGraph.from_networkx(graph.to_networkx())
    assert same(back, graph)
    if graph.coordinates is not None and graph.n_units:
        assert all(np.array_equal(a, b) for a, b in zip(back.coordinates, graph.coordinates, strict=True))


FORMS = {
    **{form: getattr(scipy_sparse, f"{form}_array") for form in ("csr", "csc", "coo", "bsr", "dia", "lil", "dok")},
    "matrix": scipy_sparse.csr_matrix, "list": lambda mask: mask.tolist(), "fortran": np.asfortranarray,
    "big": lambda mask: mask.astype(">f8"), "half": lambda mask: mask.astype(np.float16),
    "read only": lambda mask: np.frombuffer(mask.astype(np.uint8).tobytes(), np.uint8).reshape(mask.shape),
    "complex": lambda mask: 1j * mask, "strided": lambda mask: np.repeat(mask, 2, axis=1)[:, ::2],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_masks_of_every_form(form):
    mask = np.random.default_rng(3).random((6, 4)) < 0.4
    given_mask = FORMS[form](mask)
    actual = from_masks([given_mask])
    assert np.array_equal(actual.links[0].mask.toarray(), mask)
    assert same(actual, from_masks([mask]))


def test_masks_with_duplicates_and_zeros_are_left_as_they_are():
    rows, columns, values = [0, 0, 1, 1, 1, 2], [1, 1, 2, 0, 2, 0], [1, 1, 2, 0, -2, 3]
    for made in (
        scipy_sparse.coo_array((values, (rows, columns)), shape=(3, 3)),
        scipy_sparse.csr_array((values, columns, [0, 2, 5, 6]), shape=(3, 3)),
    ):
        before = made.copy()
        graph = from_masks([made])
        assert [ends.tolist() for ends in graph.links[0].edges()] == [[0, 2], [1, 0]]
        assert graph.weights.tolist() == [1, 0, 1, 1, 1, 0]
        assert made.nnz == before.nnz
        assert np.array_equal(made.data, before.data)


def test_neighbours_in_any_order():
    actual = Sparse([0, 3, 3, 5], [2, 0, 2, 1, 0], np.int8(3))
    assert (actual.offsets.tolist(), actual.neighbours.tolist(), actual.n_upper) == ([0, 2, 2, 4], [0, 2, 0, 1], 3)
    assert UnitGraph([3, np.int64(3)], [actual], np.ones(6, np.uint8)).layers == (3, 3)


# -- methods -----------------------------------------------------------------------------------------------------------

SMALL = {
    "one unit": sparse((1,), []),
    "a pair": sparse((1, 1), [([0], [0])]),
    "no units": sparse((0, 0), [NONE]),
    "an empty layer": sparse((3, 0, 2), [NONE, NONE]),
    "no connections": sparse((4, 3), [NONE]),
    "isolated units": sparse((6, 5), [([0, 0, 1], [0, 1, 1])]),
    "no weights": sparse((6, 5), [([0, 0, 1], [0, 1, 1])], np.zeros(11, int)),
    "heavy": sparse((6, 5), [([0, 0, 1], [0, 1, 1])], np.full(11, 2**59)),
    "one heavy": sparse((6, 5), [([0, 0, 1, 5], [0, 1, 1, 4])], [*[1] * 10, 2**63 - 11]),
    "complete and not": from_masks([np.eye(3), Complete(3, 4)]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("name", [*OWN, "strided+refined"])
def test_every_method_places_the_smallest_networks(name, kind, short_searches):
    """With any number of parts, of any kind of integer, and any seed."""
    graph, rng = SMALL[kind], np.random.default_rng(1)
    graph = UnitGraph(graph.layers, graph.links, graph.weights, tuple(rng.random((n, 2)) for n in graph.layers))
    tried = [(np.int8(2), 2**63 - 1), (40, np.uint64(2**64 - 1)), (np.array(5), 2**70), (1, 0)]
    for n_parts, seed in tried[:2] if name in ("auto", "fastest") else tried:
        actual = method(name)(graph, n_parts, seed=seed)
        assert actual.n_parts == int(n_parts)
        assert type(actual.n_parts) is int
        assert [owner.dtype for owner in actual.owners] == [np.int64] * len(graph.layers)
        assert part_weights(graph, actual).sum() == sum(graph.weights.tolist())
        assert step_seconds(graph, actual) >= 0
        if "refined" in name or name == "auto":
            assert feasible(graph, actual)


@pytest.mark.parametrize("name", [*OWN, *EXTRAS])
def test_what_no_method_can_do(name):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    graph, run = local_network(5, [3], [1]), method(name)
    one_line(lambda: run(graph, 0, seed=0), "0 parts were asked for")
    one_line(lambda: run(graph, -3, seed=0), "-3 parts were asked for")
    for n_parts in (2.0, None, "2", 2**31, [2]):
        one_line(lambda n=n_parts: run(graph, n, seed=0), "the number of parts is")
    for seed in (-1, None, 0.5, "1"):
        one_line(lambda seed=seed: run(graph, 2, seed=seed), "the seed is")
    one_line(lambda: run(nx.path_graph(3), 2, seed=0), "must be a UnitGraph")


@pytest.mark.parametrize("name", EXTRAS)
def test_methods_by_others_take_weights_and_seeds_of_any_size(name):
    pytest.importorskip(EXTRAS[name])
    ring = np.eye(12, dtype=bool) | np.roll(np.eye(12, dtype=bool), 1, axis=1)
    light, heavy = from_masks([ring], np.full(24, 3)), from_masks([ring], np.full(24, 3 * 2**52))
    actual = [method(name)(graph, 2, seed=seed) for graph, seed in ((light, 5), (heavy, 5), (light, 2**70))]
    for partition in actual:
        assert sorted(np.bincount(flat(partition), minlength=2)) == [12, 12]
    assert measure(light, actual[0]).volume.total == measure(heavy, actual[1]).volume.total
    assert method(name)(light, 100, seed=1).n_parts == 100


@given(st.lists(st.integers(0, 2**58), min_size=1, max_size=20), st.integers(1, 9))
def test_blocks_of_heavy_units_are_exact(weights, n_parts):
    """The part into which the start of a unit falls, by fractions; beyond 64 bits it was a negative part."""
    graph = sparse((len(weights),), [], weights)
    (owner,) = method("block")(graph, n_parts, seed=0).owners
    total = sum(weights)
    if total:
        starts = [sum(weights[:i]) for i in range(len(weights))]
        assert owner.tolist() == [min(int(Fraction(start * n_parts, total)), n_parts - 1) for start in starts]


def test_numbers_that_fit_stay_as_they_were():
    """Where products reach 64 bits, the same proportions are cut as where they do not."""
    light = from_masks([np.ones((9, 8), bool)], np.arange(17))
    heavy = from_masks([np.ones((9, 8), bool)], np.arange(17) * 2**55)
    for name in ("block", "strided", "random"):
        for n_parts in (2, 3, 7, 300):
            one, other = (method(name)(graph, n_parts, seed=4) for graph in (light, heavy))
            assert all(np.array_equal(a, b) for a, b in zip(one.owners, other.owners, strict=True))


@pytest.mark.parametrize(
    ("owners", "n_parts", "expected"),
    [
        ((np.zeros(2), np.zeros(2)), 2, "owners of layer 0 must be integers"),
        ((np.zeros((2, 1), int), np.zeros(2, int)), 2, "shape (2, 1)"),
        (([0, 1], [0, -1]), 2, "owned by part -1"),
        (([0, 1], [0, 1]), 1, "owned by part 1"),
        (([0, 1], [0, 1]), 0, "0 parts"),
        (([0, 1], [0, 1]), 2.5, "the number of parts is 2.5"),
        (([0, 1],), 2, "the graph has (2, 2)"),
        (None, 2, "the partition is"),
    ],
)
def test_partitions_that_cannot_be(owners, n_parts, expected):
    graph, partition = from_masks([EYE]), Partition(owners, n_parts)
    for judge in (measure, feasible, traffic, step_seconds, part_weights):
        one_line(lambda judge=judge: judge(graph, partition), expected)
    one_line(lambda: refined(graph, partition, seed=0), expected)
    one_line(lambda: measure(graph, None), "must be owners of layers")


def test_partitions_of_any_whole_numbers():
    graph = from_masks([EYE])
    plain = measure(graph, Partition((np.array([0, 1]), np.array([1, 0])), 2))
    for owners in ([[0, 1], [1, 0]], (np.array([0, 1], np.uint8), np.array([1, 0], ">i2"))):
        actual = measure(graph, Partition(owners, np.int16(2)))
        assert (actual.volume.total, actual.edge_cut) == (plain.volume.total, plain.edge_cut) == (4, 2)


def test_searches_look_at_owners_first():
    graph = from_masks([EYE])
    nets, allowed = nets_of(graph), limits(graph, 2)
    for owner in (np.array([0, 1, 2, 0]), np.array([0, 1, -1, 0])):
        one_line(lambda owner=owner: repaired(nets, owner, 2, allowed), "the parts are 0 to 1")
        one_line(lambda owner=owner: improved(nets, owner, 2, allowed, lookups=10, hot=0.1, seed=1), "the parts are")
    one_line(lambda: repaired(nets, np.zeros(3, int), 2, allowed), "owners must be 4 integers")
    one_line(lambda: limits(graph, 0), "0 parts")


def test_parts_that_own_nothing_are_told_of():
    """And cost nothing: a million parts have 10^12 pairs."""
    graph = from_masks([np.ones((3, 2), bool)])
    many = method("strided")(graph, 1_000_000, seed=0)
    assert empty_parts(many).tolist() == [999_997, 999_998]
    assert measure(graph, many).volume == measure(graph, method("strided")(graph, 3, seed=0)).volume
    assert predicted_bytes(graph, many, 64).total == 8 * measure(graph, many).volume.total
    assert step_seconds(graph, many) == step_seconds(graph, method("strided")(graph, 3, seed=0))
    (result,) = compare([Network("small", "", graph)], ["strided"], [4])
    assert result.as_json()["empty_parts"] == [1, 2]
    assert problems([result]) == ["small, 4 parts, strided: 2 parts own no unit of layer 1"]
    assert problems(list(compare([Network("small", "", graph)], ["strided"], [2]))) == []


@pytest.mark.parametrize("batch", [0, -5, 1.5, None])
def test_batches_have_samples(batch):
    graph = from_masks([EYE])
    partition = method("block")(graph, 2, seed=0)
    one_line(lambda: predicted_bytes(graph, partition, batch), "batch is")
    one_line(lambda: step_seconds(graph, partition, batch=batch, rates=Rates()), "batch is")
    one_line(lambda: next(compare([Network("x", "", graph)], ["block"], [2], batch=batch)), "batch is")
    one_line(lambda: next(compare([Network("x", "", graph)], ["block"], [2], seed=-1)), "the seed is -1")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: method(None), lambda: network(3), lambda: network(["dense"]),
        lambda: generators.from_edges([0], [2], 2, 2), lambda: generators.from_edges([0.5], [1], 2, 2),
        lambda: generators.from_edges([0, 1], [1], 2, 2), lambda: generators.from_edges([], [], -1, 2),
        lambda: generators.local(4, 4, field=0, maps=1), lambda: generators.local(4, 4, field=2.0, maps=1),
        lambda: generators.local(4, 4, field=2, maps=0), lambda: generators.local(4, 4, field=2, maps=1, stride=0),
        lambda: generators.erdos_renyi(3, 3, density=1.5, seed=0),
        lambda: generators.erdos_renyi(3, 3, density=np.nan, seed=0),
        lambda: generators.erdos_renyi(3, 3, density=None, seed=0),
        lambda: generators.erdos_renyi(3, -3, density=0.5, seed=0),
        lambda: generators.erdos_renyi(3, 3, density=0.5, seed=-1),
        lambda: generators.fixed_degree(3, 3, degree=4, seed=0),
        lambda: generators.fixed_degree(3, 3, degree=1.0, seed=0),
        lambda: generators.fixed_degree(3, 3, degree=1, seed=None),
        lambda: generators.small_world(3, 3, degree=2, rewired=-0.1, seed=0),
        lambda: generators.small_world(0, 3, degree=1, rewired=0, seed=0),
        lambda: generators.scale_free(3, 3, degree=-1, seed=0), lambda: generators.scale_free(0, 3, degree=1, seed=0),
        lambda: generators.scale_free(3, 3, degree=2, exponent=np.nan, seed=0),
        lambda: generators.scale_free(3, 3, degree=2, exponent="3", seed=0),
        lambda: generators.radix_net([], copies=1, n_layers=2),
        lambda: generators.radix_net([2.5], copies=1, n_layers=2),
        lambda: generators.radix_net([2], copies=0, n_layers=2),
        lambda: generators.radix_net([2], copies=1, n_layers=1),
        lambda: generators.radix_net([2**40], copies=1, n_layers=2),
        lambda: generators.radix_net([2], copies=1, n_layers=2, shuffle=-1),
        lambda: local_network(8, [3, 3], [2]), lambda: local_network(8, [3], [2], [1, 1]),
        lambda: local_network(0, [1], [1]),
        lambda: local_network(8, [9], [1]), lambda: local_network(8, [], []),
    ],
)  # fmt: skip
def test_networks_that_cannot_be_made(wrong):
    one_line(wrong)


def test_networks_without_units_or_connections():
    for made in (
        generators.erdos_renyi(0, 3, density=0.5, seed=0), generators.fixed_degree(0, 3, degree=0, seed=0),
        generators.small_world(0, 3, degree=0, rewired=0.5, seed=0), generators.scale_free(0, 3, degree=0, seed=0),
        generators.from_edges([], [], 0, 3),
    ):  # fmt: skip
        assert (made.shape, made.nnz) == ((0, 3), 0)
    assert generators.scale_free(4, 0, degree=2, seed=2**70).shape == (4, 0)


# -- files -------------------------------------------------------------------------------------------------------------


@given(graph=networks())
def test_graph_files_hold_any_graph(graph, tmp_path_factory):
    """And say what the manuals say: counts first, every edge twice, units from 1, a net of each unit that sends."""
    metis, hmetis = (tmp_path_factory.mktemp("graphs") / kind for kind in ("graph", "hypergraph"))
    graph_files.write_metis(metis, graph)
    graph_files.write_hmetis(hmetis, graph)
    assert same(graph_files.read_metis(metis), graph)
    assert same(graph_files.read_hmetis(hmetis), graph)
    metis_lines, hmetis_lines = (path.read_text().splitlines()[1:] for path in (metis, hmetis))
    plain = graph.to_networkx()
    n, n_layers = graph.n_units, len(graph.layers)
    assert metis_lines[0] == f"{n} {plain.number_of_edges()} 010 {n_layers}"
    assert len(metis_lines) == n + 1
    for unit, line in enumerate(metis_lines[1:]):
        words = [int(word) for word in line.split()]
        assert sorted(words[n_layers:]) == sorted(other + 1 for other in plain[unit])
        assert words[plain.nodes[unit]["layer"]] == sum(words[:n_layers]) == graph.weights[unit]
    layer_of = nx.get_node_attributes(plain, "layer")
    nets = sum(len({layer_of[other] for other in plain[unit]}) for unit in plain)
    assert hmetis_lines[0] == f"{nets} {n} 10"
    assert [int(word) for line in hmetis_lines[1 + nets :] for word in line.split()] == graph.weights.tolist()
    sent = {(int(line.split()[0]), int(other)) for line in hmetis_lines[1 : 1 + nets] for other in line.split()[1:]}
    assert sent == {(a + 1, b + 1) for one in plain.edges() for a, b in (one, one[::-1])}


METIS = ["% layers 2 2", "4 3 010 2", "2 0 3 4", "1 0 4", "0 1 1", "0 2 1 2"]
HMETIS = ["% layers 2 2", "4 4 10", "1 3 4", "2 4", "3 1", "4 1 2", "2", "1", "1", "2"]


def ways_to_write(lines):
    """The same file in other ways that the manuals allow, or editors make."""
    text = "\n".join(lines)
    return {
        "no end": text, "CRLF": text.replace("\n", "\r\n") + "\r\n", "blank at the end": text + "\n\n \n",
        "blank first": "\n" + text, "blank between": text.replace("\n", "\n\n"), "BOM": "\ufeff" + text,
        "comments": text.replace("\n", "\n% of layers and units\n  %\n"), "tabs": text.replace(" ", "\t"),
        "spaces": "\n".join(f"  {line}   " for line in lines), "other comments": "%% layers: 7\n%\n" + text,
        "leading zeros": text.replace(" 4", " 004"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["metis", "hmetis"])
def test_files_in_every_way_that_the_manuals_allow(kind, tmp_path):
    graph = from_masks([np.array([[1, 1], [0, 1]], bool)])
    for way, text in ways_to_write(METIS if kind == "metis" else HMETIS).items():
        (tmp_path / "file").write_bytes(text.encode())
        assert same(getattr(graph_files, f"read_{kind}")(tmp_path / "file"), graph), way


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("% layers 2 2\n4 3\n3 4\n4\n1\n1 2\n", [1, 1, 1, 1]),  # no format
        ("% layers 2 2\n4 3 0\n3 4\n4\n1\n1 2\n", [1, 1, 1, 1]),
        ("% layers 2 2\n4 3 1\n3 1 4 1\n4 1\n1 1\n1 1 2 1\n", [1, 1, 1, 1]),  # weights of edges
        ("% layers 2 2\n4 3 10\n7 3 4\n8 4\n9 1\n0 1 2\n", [7, 8, 9, 0]),  # one weight
        ("% layers 2 2\n4 3 011 1\n7 3 1 4 1\n8 4 1\n9 1 1\n0 1 1 2 1\n", [7, 8, 9, 0]),
        ("% layers 2 2\n4 3 100\n1 3 4\n1 4\n1 1\n1 1 2\n", [1, 1, 1, 1]),  # sizes
        ("% layers 2 2\n4 3 111 2\n1 7 0 3 1 4 1\n1 8 0 4 1\n1 0 9 1 1\n1 0 0 1 1 2 1\n", [7, 8, 9, 0]),
        ("4 3 10 2\n7 0 3 4\n8 0 4\n0 9 1\n0 5 1 2\n", [7, 8, 9, 5]),  # layers by weights
        ("4 3 10 2\n7 0 3 4\n8 0 4\n0 9 1\n0 0 1 2\n", [7, 8, 9, 0]),
    ],
)
def test_metis_files_of_every_format(text, weights, tmp_path):
    (tmp_path / "file").write_text(text)
    graph = graph_files.read_metis(tmp_path / "file")
    assert graph.layers == (2, 2)
    assert [ends.tolist() for ends in graph.links[0].edges()] == [[0, 0, 1], [0, 1, 1]]
    assert graph.weights.tolist() == weights


def test_an_empty_line_is_a_unit_without_neighbours(tmp_path):
    """Where units have no numbers of their own."""
    (tmp_path / "file").write_text("% layers 2 2\n4 1\n\n4\n% unit 3:\n\n2\n")
    graph = graph_files.read_metis(tmp_path / "file")
    assert [ends.tolist() for ends in graph.links[0].edges()] == [[1], [1]]


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("% layers 1 2\n2 3\n1 2 3\n2 1\n", [1, 1, 1]),
        ("% layers 1 2\n2 3 1\n1 1 2 3\n1 2 1\n", [1, 1, 1]),
        ("% layers 1 2\n2 3 11\n1 1 2 3\n1 2 1\n4\n5\n6\n", [4, 5, 6]),
        ("%layers 1 2\n1 3 10\n1 2 3\n4\n5\n6\n", [4, 5, 6]),
    ],
)
def test_hmetis_files_of_every_format(text, weights, tmp_path):
    (tmp_path / "file").write_text(text)
    graph = graph_files.read_hmetis(tmp_path / "file")
    assert [ends.tolist() for ends in graph.links[0].edges()] == [[0, 0], [0, 1]]
    assert graph.weights.tolist() == weights


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("metis", "", "its first line must be"),
        ("metis", "% layers 1 1\n2 1 2\n2\n1\n", "not a graph of METIS"),
        ("metis", "% layers 1 1\n2 1 1010\n2\n1\n", "not a graph of METIS"),
        ("metis", "% layers 1 1\n-2 1\n2\n1\n", "not a graph of METIS"),
        ("metis", "% layers 1 1\n2 1 010 2 5\n", "not a graph of METIS"),
        ("metis", "% layers 0 0\n0 0 010 1000000000000\n", "not a graph of METIS"),
        ("metis", "2 1\n2\n1\n", "no weights for layers"),
        ("metis", "% layers 1 2\n2 1\n2\n1\n", "but 2 units"),
        ("metis", "% layers 1 1\n2 1 1\n2 5\n1 5\n", "weights of edges"),
        ("metis", "% layers 1 1\n2 1 1\n2 1 1\n1 1\n", "odd number"),
        ("metis", "% layers 1 1\n2 1 100\n3 2\n1 1\n", "sizes of units other than 1"),
        ("metis", "% layers 1 1\n2 1 10 2\n1 0 2\n1 0 1\n", "a weight in another layer"),
        ("metis", "% layers 1 1\n2 1 10 3\n1 0 0 2\n0 1 0 1\n", "3 weights for every unit"),
        ("metis", "% layers 1 1\n2 1 10 2\n1 1 2\n0 1 1\n", "weights in several layers"),
        ("metis", "2 1 10 2\n0 1 2\n1 0 1\n", "after those of an upper one"),
        ("metis", "3 0 10 2\n1 0\n0 0\n0 1\n", "does not tell the layer of unit 2"),
        ("metis", "% layers 1 1\n2 1\n0\n1\n", "they are 1 to 2"),
        ("metis", "% layers 1 1\n2 1\n2\n1 2\n", "not neighbours"),
        ("metis", "% layers 1 1\n2 1 10\n-1 2\n1 1\n", "weight -1"),
        ("metis", "% layers 1 1\n2 1 10\n99999999999999999999 2\n1 1\n", "numbers above"),
        ("metis", "% layers 1 1\n2 1 10\n9223372036854775807 2\n1 1\n", "together"),
        ("metis", "% layers 1 1\n2 1 10\n1_0 2\n1 1\n", "not integers"),
        ("metis", "% layers 1 1\n2 1 10\n1.0 2\n1 1\n", "not integers"),
        ("metis", "% layers 1 1\n2 1 10\n1-0 2\n1 1\n", "not integers"),
        ("metis", "% layers 1 1\n2 1 10\n\u0661 2\n1 1\n", "not integers"),
        ("metis", "% layers 9999999999 1\n2 1\n2\n1\n", "at most 2147483647"),
        ("hmetis", "", "is not of ours"),
        ("hmetis", "% layers 1 1\n1 2 2\n1 2\n", "is not of ours"),
        ("hmetis", "% layers 1 1\n1 2 1\n3 1 2\n", "weights of nets other than 1"),
        ("hmetis", "% layers 1 1\n1 2 1\n1\n", "nets without units"),
        ("hmetis", "% layers 1 1\n1 2\n1 3\n", "they are 1 to 2"),
        ("hmetis", "% layers 1 1\n1 2\n0 1\n", "they are 1 to 2"),
        ("hmetis", "% layers 1 1\n1 2 10\n1 2\n1 1\n1\n", "but 1 nets and 2 weights"),
        ("hmetis", "% layers 2 1\n1 3\n1 2\n", "not neighbours"),
    ],
)  # fmt: skip
def test_files_that_cannot_be(kind, text, expected, tmp_path):
    (tmp_path / "file").write_text(text, encoding="utf-8")
    one_line(lambda: getattr(graph_files, f"read_{kind}")(tmp_path / "file"), expected)


def test_parts_in_every_way(tmp_path):
    graph = sparse((2, 1), [NONE])
    for text in ("0\n1\n1\n", "\n0\n\n1\n1\n\n", "% parts\n 0 \r\n1\r\n%\n1", "\ufeff0\n1\n1"):
        (tmp_path / "parts").write_bytes(text.encode())
        actual = graph_files.read_parts(tmp_path / "parts", graph, np.int8(2))
        assert [owner.tolist() for owner in actual.owners] == [[0, 1], [1]]
    for text, expected in (
        ("0\n1\n", "2 parts of units"), ("0\n1\n1\n0\n", "4 parts of units"), ("0\n1\n2\n", "must be 0 to 1"),
        ("0\n1\n-1\n", "must be 0 to 1"), ("0 1 1\n", "several numbers"), ("0\n1\nx\n", "not integers"),
        ("", "0 parts of units"), ("0\n1\n99999999999999999999\n", "numbers above"),
    ):  # fmt: skip
        (tmp_path / "parts").write_text(text)
        one_line(lambda expected=expected: graph_files.read_parts(tmp_path / "parts", graph, 2), expected)
    one_line(lambda: graph_files.read_parts(tmp_path / "parts", graph, 0), "0 parts were asked for")
    one_line(lambda: graph_files.write_parts(tmp_path / "parts", Partition(([0, 5],), 2)), "owned by part 5")


class Somewhere(os.PathLike):
    """A path that is only that."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def test_paths_of_every_kind(tmp_path):
    graph = from_masks([EYE])
    partition = method("block")(graph, 2, seed=0)
    for path in (Somewhere(tmp_path / "a"), str(tmp_path / "b"), os.fsencode(tmp_path / "c"), tmp_path / "d"):
        graph_files.write_metis(path, graph)
        assert same(graph_files.read_metis(path), graph)
        graph_files.write_hmetis(path, graph)
        assert same(graph_files.read_hmetis(path), graph)
        graph_files.write_parts(path, partition)
        assert graph_files.read_parts(path, graph, 2).owners[0].tolist() == [0, 1]
        save_placement(path, partition)
        assert load_placement(path)[0].owners[1].tolist() == [0, 1]
    for path in (None, 3.0, "a\0b"):
        one_line(lambda path=path: graph_files.write_metis(path, graph), "not a path")
        one_line(lambda path=path: graph_files.read_hmetis(path), "not a path")
        one_line(lambda path=path: load_placement(path), "not a path")
        one_line(lambda path=path: save_placement(path, partition), "not a path")
    for path, why in ((tmp_path, "is a directory"), (tmp_path / "no" / "folder", "cannot be written")):
        one_line(lambda path=path: graph_files.write_hmetis(path, graph), why)
        one_line(lambda path=path: graph_files.write_parts(path, partition), why)
        one_line(lambda path=path: graph_files.read_metis(path), "cannot be read")
        one_line(lambda path=path: load_placement(path))
        one_line(lambda path=path: save_placement(path, partition), why)


def test_placements_keep_numbers_of_any_kind(tmp_path):
    made = {"volume": np.int64(3), "seconds": np.float32(0.5), "layers": np.array([2, 1])}
    save_placement(tmp_path / "p", Partition(([0, 1], np.array([1], ">u2")), np.int8(2)), made)
    actual, about = load_placement(tmp_path / "p")
    assert [owner.tolist() for owner in actual.owners] == [[0, 1], [1]]
    assert about == {"volume": 3, "seconds": 0.5, "layers": [2, 1]}
    before = (tmp_path / "p").read_bytes()
    one_line(lambda: save_placement(tmp_path / "p", actual, {"graph": object()}), "JSON")
    one_line(lambda: save_placement(tmp_path / "p", Partition(([0, 2],), 2)), "owned by part 2")
    one_line(lambda: save_placement(tmp_path / "p", None), "the partition is None")
    assert (tmp_path / "p").read_bytes() == before


@pytest.mark.parametrize(
    "changed",
    [
        {"n_parts": 2.7}, {"n_parts": np.inf}, {"n_parts": [2]}, {"n_parts": 0}, {"n_parts": -1}, {"n_parts": "2"},
        {"n_parts": 2**40}, {"made": "[1]"}, {"made": "["}, {"made": "[" * 100_000}, {"made": 3},
        {"layer0": [0.0, 1.0]}, {"layer0": [[0, 1]]}, {"layer0": ["a"]}, {"layer3": [0]}, {"layers": [0]},
        {"layer0": np.array([2**63], np.uint64)}, {"layer0": [0, -1]},
    ],
)  # fmt: skip
def test_placements_that_cannot_be(changed, tmp_path):
    np.savez(tmp_path / "p.npz", **{"layer0": [0, 1], "layer1": [1], "n_parts": 2, "made": "{}", **changed})
    one_line(lambda: load_placement(tmp_path / "p.npz"), "p.npz")


def test_placements_that_are_damaged_or_of_another_kind(tmp_path):
    save_placement(tmp_path / "p.npz", Partition((np.arange(200) % 3, [1]), 3), {"method": "x"})
    whole = (tmp_path / "p.npz").read_bytes()
    assert load_placement(tmp_path / "p.npz")[0].n_parts == 3
    rng = np.random.default_rng(7)
    for _ in range(300):
        broken = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(broken), rng.integers(1, 4)):
            broken[place] = rng.integers(256)
        (tmp_path / "broken.npz").write_bytes(bytes(broken))
        with suppress(GraphError):  # or it does not matter, or is as it was
            load_placement(tmp_path / "broken.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as file:
        file.writestr("layer0.npy", "no array")
    huge = (
        b"\x93NUMPY\x01\x00" + (header := b"{'descr': '<i8', 'fortran_order': False, 'shape': (1099511627776,)}\n")[:0]
    )
    huge += len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "huge.zip", "w") as file:
        file.writestr("n_parts.npy", huge)
    (tmp_path / "empty").write_bytes(b"")
    for name in ("array.npy", "text.zip", "huge.zip", "empty"):
        one_line(lambda name=name: load_placement(tmp_path / name), name)


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_says_what_cannot_be_done(tmp_path, monkeypatch):
    """A method without its library is named with its extra, brackets and all; parts without units are counted."""
    monkeypatch.setitem(sys.modules, "kahip", None)
    arguments = ["compare", "--networks", "dense", "--methods", "block,kahip", "--parts", "2,500", "--seed", str(2**70)]
    outcome = CliRunner().invoke(main, [*arguments, "--json", str(tmp_path / "r.json")])
    assert outcome.exit_code == 0, outcome.output
    assert "pip install 'modelpar[kahip]'" in outcome.output
    assert "dense, 500 parts, block: 100 parts own no unit of layer 0" in outcome.output
    actual = json.loads((tmp_path / "r.json").read_text())
    assert [one["empty_parts"] for one in actual if one["method"] == "block"] == [[0, 0, 0], [100, 0, 100]]
    assert actual[0]["seed"] == 2**70
