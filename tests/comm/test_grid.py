"""The shape of a grid from what was asked for, and the placement of its shards over nodes; without MPI."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelpar.comm.grid import grid_shape, placement
from modelpar.errors import GridError


@pytest.mark.parametrize(
    ("n_ranks", "model_shards", "replicas", "shape"),
    [
        (6, None, None, (6, 1)),
        (6, 2, None, (2, 3)),
        (6, None, 2, (3, 2)),
        (6, 3, 2, (3, 2)),
        (1, None, None, (1, 1)),
        (3, 3, None, (3, 1)),
    ],
)
def test_one_size_fixes_the_other(n_ranks, model_shards, replicas, shape):
    assert grid_shape(n_ranks, model_shards, replicas) == shape


@pytest.mark.parametrize(
    ("n_ranks", "model_shards", "replicas", "expected"),
    [
        (6, 4, None, "4 model shards do not divide the 6 ranks"),
        (6, None, 4, "4 replicas do not divide the 6 ranks"),
        (6, 2, 2, "need 4 ranks, but 6 were started; use mpirun -n 4"),
        (1, 2, 2, "but 1 was started; use mpirun -n 4"),
        (6, 0, None, "--model-shards is 0"),
        (6, 3, -2, "--replicas is -2"),
    ],
)
def test_shapes_that_do_not_fit(n_ranks, model_shards, replicas, expected):
    with pytest.raises(GridError, match=expected):
        grid_shape(n_ranks, model_shards, replicas)


def nodes_of_replicas(nodes, n_shards):
    """The nodes of the shards of every replica."""
    place = placement(nodes, n_shards)
    assert sorted(place) == list(range(len(nodes))), "every rank has one place"
    return [[nodes[rank] for rank in place[i : i + n_shards]] for i in range(0, len(place), n_shards)]


@pytest.mark.parametrize(
    ("nodes", "n_shards", "expected"),
    [
        ([0, 0, 2, 2], 2, [[0, 0], [2, 2]]),  # in blocks
        ([0, 1, 0, 1], 2, [[0, 0], [1, 1]]),  # ranks dealt to nodes in turn
        ([0, 0, 0, 3], 2, [[0, 0], [0, 3]]),  # the last replica has to span both
        ([0, 0, 0, 3, 3, 3], 2, [[0, 0], [3, 3], [0, 3]]),
        ([0, 0, 2, 2], 4, [[0, 0, 2, 2]]),
        ([0, 1, 2], 1, [[0], [1], [2]]),
    ],
)
def test_shards_of_a_replica_share_a_node(nodes, n_shards, expected):
    assert nodes_of_replicas(nodes, n_shards) == expected


@given(st.integers(1, 4), st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_as_many_replicas_as_fit_lie_on_one_node(n_shards, nodes):
    nodes = [node for node in nodes for _ in range(n_shards)][::-1]
    nodes = nodes[::2] + nodes[1::2]
    whole = sum(len(set(its)) == 1 for its in nodes_of_replicas(nodes, n_shards))
    assert whole >= sum(nodes.count(node) // n_shards for node in set(nodes))
