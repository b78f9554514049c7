"""What layouts cost, against sums written out by hand; and what the automatic choice makes of it."""

from __future__ import annotations

import pytest

from modelpar.ownership.costs import COUNT, UPDATE, StepCosts, dual_pays
from modelpar.ownership.layout import AutoContext


def test_bytes_received_by_one_of_two_ranks() -> None:
    """256 samples are 4 words of 8 bytes; half of the units are the other rank's."""
    step = StepCosts(n_visible=100, n_hidden=60, n_shards=2, batch=256, planes=3)
    assert step.received("column") == {"bits": 50 * 32, "integers": 50 * 4 * 256}
    assert step.received("row") == {"bits": 30 * 32 * 7, "integers": 2 * 30 * 4 * 256}
    assert step.received("dual") == {"bits": 50 * 32 + 30 * 32 * 7, "integers": 0}


def test_one_plane_is_the_state_and_travels_once() -> None:
    assert StepCosts(100, 60, 2, 256, planes=1).received("dual")["bits"] == 50 * 32 + 30 * 32 * 2


def test_one_shard_receives_nothing() -> None:
    assert all(sum(StepCosts(100, 60, 1).received(held).values()) == 0 for held in ("column", "row", "dual"))


def test_seconds_are_bytes_over_bandwidth_and_a_pass_over_the_block() -> None:
    step = StepCosts(100, 60, 2, 256, planes=3)
    weight = UPDATE + COUNT * 2 * 3 * 256
    assert step.seconds("column", 1e6) == pytest.approx((50 * 32 + 50 * 1024) / 1e6 + weight * 3000)
    assert step.seconds("dual", 1e6) == pytest.approx((50 * 32 + 30 * 32 * 7) / 1e6 + 2 * weight * 3000)


def test_dual_pays_where_sums_outweigh_a_second_block() -> None:
    assert dual_pays(784, 500, 2, "column")
    assert dual_pays(4096, 4096, 2, "column")
    assert not dual_pays(784, 4096, 2, "column")  # the second block is wide, the sums it saves are few


@pytest.mark.parametrize(
    ("context", "chosen"),
    [
        (AutoContext(), ["row", "column"]),
        (AutoContext(2, far=False, dual_fits=True), ["row", "column"]),
        (AutoContext(2, far=True, dual_fits=False), ["row", "column"]),
        (AutoContext(2, far=True, dual_fits=True), ["dual", "column"]),
    ],
)
def test_auto_is_dual_only_far_apart_where_it_fits_and_pays(context: AutoContext, chosen: list[str]) -> None:
    assert [context.choose(784, 500), context.choose(500, 8000)] == chosen
