"""Networks that are described against the same ones with their connections listed."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.ownership.connections import Local
from modelpar.ownership.layout import NetworkLayout, UnitLayout
from modelpar.plan.described import Described
from modelpar.plan.halos import Halos
from modelpar.plan.rates import built_in
from modelpar.plan.steps import Compute, Move, step_of
from modelpar.spec import NetworkSpec, SyncSpec, TrainingSpec


def listed(side: int, field: int, maps: int, rows: int, columns: int) -> tuple[NetworkLayout, Local]:
    connections = Local(1, side, side, maps, field)
    tile_rows, tile_columns = (
        np.searchsorted(np.arange(1, parts + 1) * side // parts, np.arange(side), side="right")
        for parts in (rows, columns)
    )
    visible = (tile_rows[:, None] * columns + tile_columns).reshape(-1)
    middles = np.arange(side - field + 1) + field // 2
    hidden = np.tile((tile_rows[middles][:, None] * columns + tile_columns[middles]).reshape(-1), maps)
    layers = tuple(UnitLayout.from_owners(owner, rows * columns) for owner in (visible, hidden))
    return NetworkLayout(layers, ("sparse",), (connections,)), connections


@pytest.mark.parametrize(
    ("side", "field", "maps", "rows", "columns"), [(12, 3, 2, 2, 3), (13, 4, 1, 3, 3), (9, 5, 3, 4, 1)]
)
def test_tiles_are_what_listed_connections_make(side: int, field: int, maps: int, rows: int, columns: int) -> None:
    layout, connections = listed(side, field, maps, rows, columns)
    halos = Halos.of(connections, *layout.layers)
    described = Described.tiles(side, field, maps, rows, columns)
    assert described.n_connections == connections.n_connections
    for name in ("up", "down"):
        assert np.array_equal(getattr(described, name), getattr(halos, name))
    assert np.array_equal(described.held, halos.weights)
    for name in ("visible", "hidden"):
        assert np.array_equal(getattr(described, name).toarray(), getattr(halos, name).toarray())


@pytest.mark.parametrize("planes", [1, 4])
def test_the_step_is_that_of_the_engine(planes: int) -> None:
    layout, _ = listed(12, 3, 2, 2, 3)
    spec = NetworkSpec(layers=(144, 200), connections="local:3", halo="receive")
    training = TrainingSpec(batch_size=100, statistics=str(planes), reconstruction="states", centred=False)
    expected = step_of(spec, 0, training, SyncSpec(), layout, 1, built_in(), 1)
    result = Described.tiles(12, 3, 2, 2, 3).step(built_in().of(1), planes, 100)
    assert [type(piece) for piece in result] == [type(piece) for piece in expected]
    for mine, engine in zip(result, expected, strict=True):
        if isinstance(mine, Compute) and isinstance(engine, Compute):
            assert mine.part == engine.part
            assert np.allclose(mine.seconds, engine.seconds)
        elif isinstance(mine, Move) and isinstance(engine, Move):
            assert (mine.verb, mine.axis, mine.kind) == (engine.verb, engine.axis, engine.kind)
            assert np.array_equal(mine.received, engine.received)
            assert np.array_equal(mine.pairs.toarray(), engine.pairs.toarray())


def test_random_connections_in_expectation() -> None:
    """Against connections that are drawn."""
    n_visible, n_hidden, degree, n_shards = 240, 300, 12, 6
    rng = np.random.default_rng(0)
    connected = np.zeros((n_hidden, n_visible))
    for row in connected:
        row[rng.choice(n_visible, degree, replace=False)] = 1
    owner_v, owner_h = np.arange(n_visible) % n_shards, np.arange(n_hidden) % n_shards
    described = Described.random(n_visible, n_hidden, degree, n_shards)
    of_shard = np.array([connected[owner_h == p].sum(0) > 0 for p in range(n_shards)])  # visible units that are seen
    expected = sum((of_shard[p] & (owner_v != p)).sum() for p in range(n_shards))
    assert described.visible.sum() == pytest.approx(expected, rel=0.03)
    into = np.array([connected[:, owner_v == p].sum(1) > 0 for p in range(n_shards)])
    expected = sum((into[p] & (owner_h != p)).sum() for p in range(n_shards))
    assert described.hidden.sum() == pytest.approx(expected, rel=0.03)
    foreign = (owner_h[:, None] != owner_v) * connected
    assert described.held.sum() == pytest.approx(connected.sum() + foreign.sum(), rel=0.03)
