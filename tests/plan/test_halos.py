"""Units that travel and connections that are computed, for all shards at once, against what each shard finds itself."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.ownership.connections import Connections, Listed, Local
from modelpar.ownership.costs import recompute_pays
from modelpar.ownership.layout import UnitLayout
from modelpar.plan.halos import Halos
from modelpar.weights.shard_lists import Shared

BATCH = 100


def networks() -> dict[str, Connections]:
    rng = np.random.default_rng(0)
    return {
        "fields of three maps": Local(1, 12, 12, 3, 5), "strided": Local(2, 8, 8, 1, 3, 2),
        "scattered": Listed.from_mask(rng.random((60, 50)) < 0.1), "few": Listed.from_mask(rng.random((60, 50)) < 0.02),
    }  # fmt: skip


@pytest.mark.parametrize("n_shards", [1, 2, 5])
@pytest.mark.parametrize("name", networks())
def test_against_each_shards_own_lists(name: str, n_shards: int) -> None:
    connections, rng = networks()[name], np.random.default_rng(n_shards)
    visible, hidden = (
        UnitLayout.from_owners(rng.integers(0, n_shards, n), n_shards)
        for n in (connections.n_visible, connections.n_hidden)
    )
    largest = []
    for recompute in (False, True):
        halos = Halos.of(connections, visible, hidden, recompute=recompute)
        of_shards = [Shared(connections, visible, hidden, p, all_connections=recompute) for p in range(n_shards)]
        sizes = np.array([shared.halo_sizes() for shared in of_shards])
        assert halos.visible.sum(axis=0).tolist() == sizes[:, 0].tolist()
        assert halos.hidden.sum(axis=0).tolist() == sizes[:, 1].tolist()
        weights = [int(shared.starts[-1]) + len(shared.foreign[0]) for shared in of_shards]
        assert halos.weights.tolist() == weights
        assert halos.drawn.tolist() == (hidden.counts + recompute * sizes[:, 1]).tolist()
        assert int(halos.down.sum()) == connections.n_connections
        largest.append(sizes.max(axis=0).tolist())
    (up, down, _), (up_drawn, down_drawn, extra) = largest
    expected = recompute_pays(up, down, up_drawn, down_drawn, extra, batch=BATCH)
    chosen = Halos.between_nodes(connections, visible, hidden, BATCH)
    assert chosen.redrawn == (expected and down > 0)
