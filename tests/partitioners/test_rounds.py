"""Searches in rounds: what ends them, what a budget leaves reproducible, and what they find of what is known."""

from __future__ import annotations

import importlib
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitioners import GraphError, auto, block, communication_volume, fastest, feasible, from_masks, generators
from partitioners.annealing import improved
from partitioners.auto import BOUND, ENOUGH, PATIENCE, STALE, TIME, Progress
from partitioners.nets import cost, flat, least_cost, limits, loads, nets_of
from partitioners.random import random
from partitioners.refinement import mean_unit_cost
from partitioners.repair import repaired


@pytest.fixture
def short_rounds(monkeypatch):
    for name in ("FEWEST", "MOST"):
        monkeypatch.setattr(importlib.import_module("partitioners.auto"), name, 4_000_000)


def random_network(seed, layers=(60, 50, 40), density=0.08):
    rng = np.random.default_rng(seed)
    return from_masks([rng.random(shape) < density for shape in pairwise(layers)])


def blocks(n_blocks: int, size: int, seed: int):
    """Complete pieces of size x size, their units in random order: at as many parts nothing has to travel."""
    rng = np.random.default_rng(seed)
    mask = np.kron(np.eye(n_blocks, dtype=bool), np.ones((size, size), bool))
    return from_masks([mask[rng.permutation(len(mask))][:, rng.permutation(len(mask))]])


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), n_parts=st.integers(2, 3))
def test_no_feasible_partition_costs_less_than_the_bound(seed, n_parts):
    graph = random_network(seed, (4, 4), 0.7)
    nets, allowed = nets_of(graph), limits(graph, n_parts)
    owners = [np.array(owner, np.int32) for owner in product(range(n_parts), repeat=8)]
    costs = [
        cost(nets, one, n_parts)
        for one in owners
        if (loads(nets, one, n_parts, 2).max(axis=1) <= allowed).all()
    ]  # fmt: skip
    assert least_cost(nets, allowed) <= min(costs)


def test_the_bound_is_met_between_complete_layers():
    graph = from_masks([np.ones((8, 6), bool)])
    assert least_cost(nets_of(graph), limits(graph, 2)) == 8 + 6


def test_many_small_parts_of_a_ring_are_found():
    """Blocks of a ring are about the best there is: shuffled, a search from random owners comes near at 64 parts."""
    mask = generators.small_world(512, 512, degree=4, rewired=0.0, seed=1).toarray()
    rng = np.random.default_rng(1)
    ordered = from_masks([mask])
    known = communication_volume(ordered, block(ordered, 64)).total
    graph = from_masks([mask[rng.permutation(512)][:, rng.permutation(512)]])
    nets, allowed = nets_of(graph), limits(graph, 64)
    start = repaired(nets, flat(random(graph, 64, seed=1)), 64, allowed)
    found = improved(nets, start, 64, allowed, lookups=200_000_000, hot=0.2 * mean_unit_cost(nets), seed=1)
    assert (loads(nets, found, 64, 2) <= allowed[:, None]).all()
    assert cost(nets, start, 64) > 10 * known
    assert cost(nets, found, 64) <= 1.25 * known


def test_why_searches_end(short_rounds):
    ends: list[Progress] = []

    def of(graph, n_parts, **limits_):
        told: list[Progress] = []
        partition = auto(graph, n_parts, progress=told.append, **limits_)
        assert feasible(graph, partition)
        assert told[-1].volume == communication_volume(graph, partition).total
        assert [one.rounds for one in told] in (
            [*range(told[-1].rounds + 1)],
            [*range(told[-1].rounds + 1), told[-1].rounds],  # halted within a round
        )
        assert sorted((one.volume for one in told), reverse=True) == [one.volume for one in told]
        ends.append(told[-1])
        return told[-1]

    assert of(blocks(4, 4, seed=2), 4)[:2] == (0, 0)
    assert ends[-1].stopped == BOUND
    three = from_masks([np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]], bool)])
    assert of(three, 3, rounds=50).stopped in (STALE, BOUND)
    assert ends[-1].rounds in (0, PATIENCE)
    assert of(random_network(1), 5, rounds=1)[0] == 1
    assert ends[-1].stopped == ENOUGH
    assert of(random_network(1), 5, budget=1e-9)[0] == 0
    assert ends[-1].stopped == TIME


def test_the_rounds_of_a_budget_give_its_answer_again(short_rounds):
    graph, told = random_network(2), list[Progress]()
    within = auto(graph, 5, seed=3, budget=0.5, progress=told.append)
    again = auto(graph, 5, seed=3, rounds=told[-1].rounds)
    assert all(map(np.array_equal, within.owners, again.owners))


@pytest.mark.parametrize("method", [auto, fastest])
@pytest.mark.parametrize("wrong", [{"budget": 0}, {"budget": float("nan")}, {"budget": "1"}, {"rounds": -1}])
def test_impossible_limits(method, wrong):
    with pytest.raises(GraphError, match=r"the budget is|the number of rounds"):
        method(random_network(1), 2, **wrong)
