"""Each method against what it must find: networks whose best cut is known, networkx, and sums over cuts.

Modules: partitioners/bisection, partitioners/block, partitioners/kahip, partitioners/kernighan_lin,
partitioners/libraries, partitioners/metis, partitioners/mtkahypar, partitioners/nets, partitioners/random,
partitioners/repair, partitioners/spectral, partitioners/strided
"""

from __future__ import annotations

import importlib
import sys
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse as scipy_sparse

from partitioners import GraphError, UnitGraph, dense, feasible, from_masks, generators, measure, method
from partitioners.bisection import bisected, restricted
from partitioners.methods import EXTRAS
from partitioners.nets import Nets, by_layers, cost, limits, nets_of
from partitioners.repair import repaired
from partitioners.spectral import fiedler


@pytest.fixture(autouse=True)
def short_searches(monkeypatch):
    # a method hides the module of its name in the package
    for module, name, value in [
        ("auto", "FEWEST", 2_000_000), ("auto", "MOST", 2_000_000), ("refinement", "LOOKUPS", 2_000_000),
        ("multilevel", "LOOKUPS", 2_000_000), ("bisection", "FOR_UNIT", 2_000),
    ]:  # fmt: skip
        monkeypatch.setattr(importlib.import_module(f"partitioners.{module}"), name, value)


def two_blocks(seed: int = 5, size: int = 8) -> UnitGraph:
    """Two networks side by side, completely connected in themselves, their units mixed up."""
    half = np.kron(np.eye(2, dtype=bool), np.ones((size, size), bool))
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(2 * size) for _ in range(3)]
    return from_masks([half[np.ix_(below, above)] for below, above in pairwise(orders)])


def random_network(seed: int, layers=(16, 14, 12), density: float = 0.3) -> UnitGraph:
    rng = np.random.default_rng(seed)
    return from_masks([rng.random(shape) < density for shape in pairwise(layers)])


@pytest.mark.parametrize("name", ["spectral", "kernighan_lin", "multilevel", "auto", "metis", "kahip", "mtkahypar"])
def test_what_is_not_connected_is_cut_there(name):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    graph = two_blocks()
    result = method(name)(graph, 2, seed=1)
    assert measure(graph, result).volume.total == 0
    assert [np.bincount(owner).tolist() for owner in result.owners] == [[8, 8]] * 3


@pytest.mark.parametrize("name", ["assignment", "auto"])
def test_a_radix_net_whose_parts_hold_one_node_each(name):
    """8 nodes of 2 copies on 8 parts: a node's state is needed by two nodes above, and one of them is at home."""
    masks = generators.radix_net([2, 2, 2], copies=2, n_layers=5, shuffle=4)
    graph = from_masks(masks)
    result = method(name)(graph, 8, seed=1)
    assert feasible(graph, result)
    assert measure(graph, result).volume.total == 4 * 2 * 16


def test_the_second_eigenvector_is_that_of_networkx():
    """The slowest vibration of a path, the same for the normalised Laplacian I - A as for the adjacency A."""
    path = nx.path_graph(21)
    result = fiedler(scipy_sparse.csr_array(nx.to_scipy_sparse_array(path, dtype=float)), np.random.default_rng(1))
    expected = nx.fiedler_vector(path, normalized=True, seed=1) / np.sqrt([d for _, d in path.degree()])
    result, expected = result / np.linalg.norm(result), expected / np.linalg.norm(expected)
    assert abs(result @ expected) == pytest.approx(1, abs=1e-3)


@given(st.integers(0, 2**31))
def test_costs_add_up_over_cuts(seed):
    """What a partition costs is what its first cut costs, and then each side by itself."""
    graph = random_network(seed)
    nets = nets_of(graph)
    owner = np.random.default_rng(seed).integers(0, 4, graph.n_units).astype(np.int32)
    sides = [np.flatnonzero(owner // 2 == side) for side in (0, 1)]
    pieces = sum(cost(restricted(nets, units), owner[units], 4) for units in sides)
    assert cost(nets, owner // 2, 2) + pieces == cost(nets, owner, 4)


@pytest.mark.parametrize("n_parts", [1, 2, 3, 5, 7])
def test_bisection_gives_every_part_its_share(n_parts):
    graph = random_network(3, (70, 60, 50), 0.1)
    allowed, nets = limits(graph, n_parts), nets_of(graph)
    owner = bisected(nets, n_parts, allowed, seed=1)
    assert set(owner.tolist()) == set(range(n_parts))
    assert feasible(graph, by_layers(repaired(nets, owner, n_parts, allowed), graph, n_parts))


@given(st.integers(0, 2**31), st.integers(2, 5))
def test_repair_ends_within_the_limits_wherever_it_starts(seed, n_parts):
    rng = np.random.default_rng(seed)
    graph = random_network(seed, (12, 9, 7), 0.5)
    start = rng.integers(0, rng.integers(1, n_parts + 1), graph.n_units).astype(np.int32)
    result = repaired(nets_of(graph), start, n_parts, limits(graph, n_parts))
    assert feasible(graph, by_layers(result, graph, n_parts))


@pytest.mark.parametrize("name", ["random", "kernighan_lin", "spectral", "metis", "kahip", "mtkahypar"])
def test_methods_followed_by_refinement(name):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    graph = random_network(2, (40, 40, 30), 0.1)
    plain, refined = (method(one)(graph, 3, seed=1) for one in (name, f"{name}+refined"))
    assert feasible(graph, refined)
    if feasible(graph, plain):
        assert measure(graph, refined).volume.total <= measure(graph, plain).volume.total


@pytest.mark.parametrize("name", EXTRAS)
def test_an_extra_that_is_missing_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, EXTRAS[name], None)
    with pytest.raises(GraphError, match=rf"pip install 'modelpar\[{name}\]'"):
        method(name)(two_blocks(), 2)


@pytest.mark.parametrize(
    "name", ["spectral", "kernighan_lin", "assignment", "multilevel", "refined", "auto", "fastest"]
)
def test_there_must_be_parts(name):
    with pytest.raises(GraphError, match="0 parts"):
        method(name)(two_blocks(), 0)


@pytest.mark.parametrize("name", ["best", "auto+best", "+refined"])
def test_methods_that_there_are_not(name):
    with pytest.raises(GraphError, match="there is no method"):
        method(name)


def test_complete_links_need_no_memory():
    """A complete link of 4 x 10^8 edges above a sparse one: only the sparse one has nets."""
    below = generators.fixed_degree(60, 20_000, degree=3, seed=1)
    whole = dense((20_000, 20_000)).links[0]
    graph = from_masks([below, whole])
    nets = nets_of(graph)
    assert isinstance(nets, Nets)
    assert len(nets.costs) == 20_000 + 60
    assert feasible(graph, method("assignment")(graph, 2, seed=1))
