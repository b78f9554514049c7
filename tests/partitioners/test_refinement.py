"""Refinement, twins, cuts and generators against counting by hand and against what is known of small networks.

Modules: partitioners/annealing, partitioners/assignment, partitioners/auto, partitioners/coarsening,
partitioners/multilevel, partitioners/spatial
"""

from __future__ import annotations

import importlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse as scipy_sparse

from partitioners import (
    METHODS,
    GraphError,
    Partition,
    auto,
    feasible,
    from_masks,
    generators,
    measure,
    refined,
    tiles,
)
from partitioners.annealing import improved
from partitioners.coarsening import companions, contracted, packed, twins
from partitioners.methods import EXTRAS
from partitioners.nets import by_layers, cost, flat, limits, nets_of
from partitioners.partition import part_weights
from partitioners.repair import repaired


@pytest.fixture(autouse=True)
def short_searches(monkeypatch, request):
    """Small networks need few proposals; a test that is marked as one of known networks has them all."""
    if "best_known" in request.fixturenames:
        return
    # a method hides the module of its name in the package
    for module, name, value in [
        ("auto", "FEWEST", 2_000_000), ("auto", "MOST", 2_000_000), ("refinement", "LOOKUPS", 2_000_000),
        ("multilevel", "LOOKUPS", 200_000), ("bisection", "FOR_UNIT", 500),
    ]:  # fmt: skip
        monkeypatch.setattr(importlib.import_module(f"partitioners.{module}"), name, value)


def places(rows: int, columns: int, maps: int, start: float) -> np.ndarray:
    """(maps * rows * columns, 2) of units that lie on a grid, as the fields see it from ``start``."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    return np.tile(np.stack([row + start, column + start], axis=1), (maps, 1))


def local_network(side: int = 12, field: int = 3, maps: int = 2):
    """side x side -> maps of fields -> maps of fields over all of these."""
    middle, top = side - field + 1, side - 2 * field + 2
    masks = [
        generators.local(side, side, field=field, maps=maps),
        generators.local(middle, middle, field=field, maps=maps, maps_below=maps),
    ]
    start = (field - 1) / 2
    return from_masks(masks, None, [places(side, side, 1, 0), places(middle, middle, maps, start),
                                    places(top, top, maps, 2 * start)])  # fmt: skip


def volume(graph, partition) -> int:
    return measure(graph, partition).volume.total


def random_network(seed: int, layers=(9, 7, 5), density: float = 0.4):
    rng = np.random.default_rng(seed)
    return from_masks([rng.random(shape) < density for shape in pairwise(layers)])


def cost_by_hand(graph, owner) -> int:
    """Connectivity minus one of every net, as sets."""
    nets, parts = nets_of(graph), {}
    for unit in range(graph.n_units):
        for net in nets.nets[nets.starts[unit] : nets.starts[unit + 1]]:
            parts.setdefault(int(net), set()).add(int(owner[unit]))
    return sum(len(result) - 1 for result in parts.values())


# -- generators --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("maps_below", [1, 3])
def test_receptive_fields(stride, maps_below):
    rows, columns, field, maps = 7, 6, 3, 2
    mask = generators.local(rows, columns, field=field, maps=maps, maps_below=maps_below, stride=stride).toarray()
    above, across = (rows - field) // stride + 1, (columns - field) // stride + 1
    expected = np.zeros((maps_below, rows, columns, maps, above, across), bool)
    for r in range(above):
        for c in range(across):
            expected[:, r * stride : r * stride + field, c * stride : c * stride + field, :, r, c] = True
    assert np.array_equal(mask, expected.reshape(maps_below * rows * columns, -1))


def test_fields_that_do_not_fit():
    with pytest.raises(GraphError, match="do not fit"):
        generators.local(4, 4, field=5, maps=1)


def test_random_masks_have_the_degrees_that_were_asked_for():
    fixed = generators.fixed_degree(40, 30, degree=7, seed=1)
    assert np.array_equal(np.asarray(fixed.sum(axis=0)).ravel(), np.full(30, 7))
    assert np.array_equal(fixed.toarray(), generators.fixed_degree(40, 30, degree=7, seed=1).toarray())
    assert not np.array_equal(fixed.toarray(), generators.fixed_degree(40, 30, degree=7, seed=2).toarray())
    free = generators.erdos_renyi(200, 200, density=0.1, seed=1)
    assert abs(free.nnz - 4000) < 4 * np.sqrt(200 * 200 * 0.1 * 0.9)
    ring = generators.small_world(20, 20, degree=4, rewired=0.0, seed=1).toarray()
    assert all(ring[(unit + np.arange(-2, 2)) % 20, unit].all() for unit in range(20))
    degrees = np.asarray(generators.scale_free(300, 300, degree=8, seed=1).sum(axis=1)).ravel()
    assert degrees.max() > 8 * np.median(degrees)


def test_radix_net_joins_every_pair_once():
    """Each input of a mixed-radix topology reaches each output by the same number of paths."""
    masks = generators.radix_net([2, 3], copies=2, n_layers=3)
    paths = np.eye(12, dtype=int)
    for mask in masks:
        assert np.asarray(mask.sum(axis=0)).ravel().tolist() == [mask.nnz // 12] * 12
        paths = paths @ mask.toarray().astype(int)
    assert np.all(paths == paths[0, 0])
    assert paths[0, 0] > 0


# -- nets, limits, repair, annealing -----------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_nets_cost_what_travels(seed, n_parts):
    graph = random_network(seed)
    owner = np.random.default_rng(seed).integers(0, n_parts, graph.n_units).astype(np.int32)
    by_sets = cost_by_hand(graph, owner)
    assert by_sets == measure(graph, by_layers(owner, graph, n_parts)).volume.total
    assert by_sets == cost(nets_of(graph), owner, n_parts)


def test_limits_are_three_per_cent_or_what_heavy_units_allow():
    graph = from_masks([np.ones((100, 4), bool)])
    assert limits(graph, 4).tolist() == [103, 103]  # 3 % above a mean of 100
    assert limits(graph, 3).tolist() == [int(1.03 * 400 / 3), 200]  # four units on three parts: two on one


@given(st.integers(0, 2**31), st.integers(2, 4))
def test_refinement_keeps_the_limits_and_never_costs_more(seed, n_parts):
    graph = random_network(seed, (16, 14, 12))
    allowed, nets = limits(graph, n_parts), nets_of(graph)
    start = repaired(nets, flat(METHODS["random"](graph, n_parts, seed=seed)), n_parts, allowed)
    better = improved(nets, start, n_parts, allowed, lookups=200_000, hot=2.0, seed=seed)
    assert cost_by_hand(graph, better) <= cost_by_hand(graph, start)
    before, after = (part_weights(graph, by_layers(x, graph, n_parts)).max(axis=1) for x in (start, better))
    assert np.all(after <= np.maximum(before, allowed))
    again = improved(nets, start, n_parts, allowed, lookups=200_000, hot=2.0, seed=seed)
    assert np.array_equal(better, again), "deterministic for a seed"


def test_repair_of_a_layer_on_one_part():
    graph = local_network()
    everything = Partition(tuple(np.zeros(size, np.int64) for size in graph.layers), 4)
    assert not feasible(graph, everything)
    assert feasible(graph, refined(graph, everything, seed=1))


def test_refinement_finds_the_only_good_cut():
    """Two cliques of layers, mixed up: apart they cost nothing."""
    half = np.kron(np.eye(2, dtype=bool), np.ones((8, 8), bool))
    rng = np.random.default_rng(5)
    orders = [rng.permutation(16) for _ in range(3)]
    graph = from_masks([half[np.ix_(orders[0], orders[1])], half[np.ix_(orders[1], orders[2])]])
    assert volume(graph, auto(graph, 2, seed=1)) == 0


# -- twins -------------------------------------------------------------------------------------------------------------


def test_twins_are_the_maps_of_a_place():
    graph = local_network(maps=3)
    group = twins(graph, 10**9)
    small = contracted(nets_of(graph), group)
    assert np.array_equal(np.bincount(small.layer), (144, 100, 64))
    assert np.array_equal(np.bincount(group), np.repeat([1, 3, 3], (144, 100, 64)))
    assert np.array_equal(small.weights, np.bincount(group, graph.weights))


@given(st.integers(0, 2**31), st.integers(2, 4))
def test_groups_cost_what_their_units_cost(seed, n_parts):
    graph = random_network(seed, (16, 14, 12), 0.3)
    nets = nets_of(graph)
    group = companions(nets, int(graph.weights.max()) * 2, seed=seed)
    layer = np.repeat(np.arange(3), graph.layers)
    assert all(len(set(layer[group == each])) == 1 for each in range(group.max() + 1))
    assert np.bincount(group).max() <= 2
    small = contracted(nets, group)
    owner = np.random.default_rng(seed).integers(0, n_parts, small.n_units).astype(np.int32)
    assert cost(small, owner, n_parts) == cost_by_hand(graph, owner[group])


def test_groups_are_no_heavier_than_asked():
    graph = from_masks([np.ones((12, 6), bool)])
    group = twins(graph, 13)  # lower units weigh 6, upper ones 12
    assert np.bincount(group).tolist() == [2] * 6 + [1] * 6
    assert np.bincount(twins(graph, [6, 24])).tolist() == [1] * 12 + [2] * 3


@pytest.mark.parametrize("n_parts", [2, 3, 4])
def test_twins_are_packed_so_that_parts_can_be_balanced(n_parts):
    graph = local_network(maps=4)
    group = packed(graph, n_parts)
    small = contracted(nets_of(graph), group)
    start = np.zeros(small.n_units, np.int32)
    assert feasible(graph, by_layers(repaired(small, start, n_parts, limits(graph, n_parts))[group], graph, n_parts))


# -- methods -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in METHODS if name not in EXTRAS])
@pytest.mark.parametrize("n_parts", [1, 2, 3, 5])
def test_every_method_places_every_unit_alike_for_a_seed(name, n_parts):
    graph = local_network(side=8)
    result = METHODS[name](graph, n_parts, seed=3)
    assert result.n_parts == n_parts
    assert [len(owner) for owner in result.owners] == list(graph.layers)
    again = METHODS[name](graph, n_parts, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(result.owners, again.owners, strict=True))
    if name in ("tiles", "strips", "auto"):
        assert feasible(graph, refined(graph, result, seed=1))


def test_tiles_need_coordinates():
    with pytest.raises(GraphError, match="coordinates"):
        tiles(random_network(1), 2)


def test_auto_is_better_than_what_it_starts_from():
    graph = local_network()
    result = auto(graph, 4, seed=1)
    assert feasible(graph, result)
    assert volume(graph, result) <= min(
        volume(graph, refined(graph, METHODS[name](graph, 4, seed=1), seed=1)) for name in ("block", "tiles")
    )
    assert volume(graph, result) < 0.5 * volume(graph, METHODS["strided"](graph, 4))


@pytest.mark.slow
@pytest.mark.parametrize(("n_parts", "best_known"), [(2, 1200)])
def test_auto_on_a_local_network_of_28x28(n_parts, best_known):
    graph = from_masks(
        [generators.local(28, 28, field=5, maps=4), generators.local(24, 24, field=5, maps=4, maps_below=4)],
        None, [places(28, 28, 1, 0), places(24, 24, 4, 2), places(20, 20, 4, 4)],
    )  # fmt: skip
    result = auto(graph, n_parts, seed=1)
    assert feasible(graph, result)
    assert volume(graph, result) <= best_known


def test_masks_may_be_arrays_or_sparse():
    dense = np.random.default_rng(1).random((5, 4)) < 0.5
    first, second = from_masks([dense]), from_masks([scipy_sparse.coo_array(dense)])
    assert np.array_equal(first.links[0].mask.toarray(), second.links[0].mask.toarray())
    assert np.array_equal(first.weights, np.concatenate([dense.sum(axis=1), dense.sum(axis=0)]))
