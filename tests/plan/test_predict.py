"""The time of a step from its pieces: what is slowest counts, and parts add up."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from modelpar.plan.collectives import Placement
from modelpar.plan.machine import Curve, Link, Machine, of_members
from modelpar.plan.predict import WAITING, largest_of, predict
from modelpar.plan.steps import Compute, Move

MACHINE = Machine("test", 2, 4, 1 << 30, Link(0.0, 1e9), Link(1.0, 1e9), scatter=0.0,
                  verbs={"gather bits 2": Curve((0.0, 100.0), (1.0, 3.0))})  # fmt: skip
ON_ONE = Placement.blocks(1, 2, 2)


def of(*seconds: float, part: str = "products") -> Compute:
    return Compute(part, np.array(seconds))


def gather(n_bytes: float, *, behind: int = 0) -> Move:
    return Move("gather", "shard", "bits", np.array([n_bytes, n_bytes]), behind=behind)


def test_the_slowest_shard_counts_between_exchanges() -> None:
    found = predict((of(1, 2), of(2, 1), gather(50), of(5, 1)), ON_ONE, MACHINE)
    assert found.seconds == pytest.approx(3 + 2 + 5)
    assert found.parts["products"] == pytest.approx(1.5 + 1.5 + 3)
    assert found.parts["gather shard"] == 2
    assert found.parts[WAITING] == pytest.approx(2)
    assert sum(found.parts.values()) == pytest.approx(found.seconds)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([[0, 1]], 20.0),  # one rank on each node: as measured
        ([[0, 1], [0, 1]], 1 + 2e-7),  # two groups share the links: as messages
        ([[0, 0], [1, 1]], 2.0),  # within each node
    ],
)
def test_an_exchange_between_nodes_is_as_measured_where_no_other_shares_their_links(
    nodes: list[list[int]], expected: float
) -> None:
    curve = Curve((0.0, 200.0), (10.0, 20.0))
    machine = replace(MACHINE, verbs={**MACHINE.verbs, of_members("gather bits", 2, between=True): curve})
    found = predict((gather(50 if expected == 2.0 else 200),), Placement(np.array(nodes)), machine)
    assert found.seconds == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("work", "expected"), [(1.0, 2.0), (5.0, 5.0)])
def test_an_exchange_behind_work_takes_what_is_left_of_it(work: float, expected: float) -> None:
    assert predict((gather(50, behind=1), of(work, work)), ON_ONE, MACHINE).seconds == pytest.approx(expected)


@pytest.mark.parametrize(("first", "second", "expected"), [(0.5, 0.5, 2.0), (0.5, 2.0, 2.5), (0.0, 3.0, 3.0)])
def test_an_exchange_may_be_needed_after_the_next_but_one(first: float, second: float, expected: float) -> None:
    step = gather(50, behind=2), of(first, first), of(second, second), of(1.0, 1.0)
    assert predict(step, ON_ONE, MACHINE).seconds == pytest.approx(expected + 1)


def test_the_slowest_of_several_ranks_is_later_than_their_mean() -> None:
    step = of(1, 1), gather(50)
    scattered = predict(step, ON_ONE, replace(MACHINE, scatter=0.1))
    assert scattered.seconds == pytest.approx(predict(step, ON_ONE, MACHINE).seconds + 0.1 * largest_of(2))
    draws = np.random.default_rng(0).normal(size=(20_000, 16)).max(axis=1).mean()
    assert largest_of(16) == pytest.approx(draws, rel=0.02)
    assert largest_of(1) == 0


@pytest.mark.parametrize(("nodes", "verb"), list(product([1, 2], ["gather", "reduce"])))
def test_messages_count_where_nothing_was_measured(nodes: int, verb: str) -> None:
    placement = Placement.blocks(1, 2, 2 // nodes)
    move = Move(verb, "shard", "integers", np.array([1e9, 1e9]))
    machine = replace(MACHINE, verbs={})
    assert predict((move,), placement, machine).seconds >= 1.0 + (nodes - 1)
