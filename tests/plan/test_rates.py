"""Rates between and beyond the sizes that were measured, against closed forms."""

from __future__ import annotations

import math

import pytest

from modelpar.ownership.layout import NetworkLayout
from modelpar.plan.rates import WAKING, CoreRates, Rates, Table, built_in
from modelpar.plan.steps import Compute, step_of
from modelpar.spec import NetworkSpec, SyncSpec, TrainingSpec

TABLE = Table((100.0, 10_000.0), (64.0, 128.0, 512.0), ((1.0, 2.0, 8.0), (3.0, 4.0, 6.0)))


@pytest.mark.parametrize(
    ("size", "samples", "expected"),
    [
        (100, 64, 1.0),
        (10_000, 512, 6.0),
        (1000, 64, 2.0),  # half way in the logarithm
        (100, 96, 1.5),
        (1, 128, 2.0),  # the smallest size that was measured
        (10**6, 128, 4.0),
        (100, 1024, 8.0 + 512 * 6 / 384),  # on along the last line
        (100, 0, 0.0),  # along the first one, and not below 0
        (10_000, 32, 2.5),
    ],
)
def test_a_table_is_interpolated(size: float, samples: float, expected: float) -> None:
    assert TABLE.at(size, samples) == pytest.approx(expected)


def test_a_line_goes_on_from_its_ends() -> None:
    line = built_in().of(1).seconds("product.up", 1e6, 5000)
    assert line == pytest.approx(1e6 * (0.44 + 0.003 * 5000) * 1e-9)


def test_what_was_not_measured_takes_the_nearest() -> None:
    rates = CoreRates({"learn.1": Table((1.0,), (1.0,), ((1.0,),)), "learn.4": Table((1.0,), (1.0,), ((4.0,),)),
                       "listed.up": Table((1.0,), (1.0,), ((2.0,),))})  # fmt: skip
    assert rates.seconds("learn.3", 1) == 4.0
    assert rates.seconds("learn.8", 1) == 4.0
    assert rates.seconds("learn.float", 10) == 40.0
    assert rates.seconds("scattered.up", 3) == rates.seconds("listed.down", 3) == 6.0
    with pytest.raises(KeyError):
        rates.seconds("nothing", 1)


def test_weights_beside_others_have_the_rate_of_all_together() -> None:
    rates = CoreRates({"update": TABLE})
    assert rates.seconds("update", 100, 64, among=10) == pytest.approx(100 * 2.0)
    assert rates.seconds("update", 100, 64) == pytest.approx(100 * 1.0)


def test_bits_are_counted_word_by_word() -> None:
    """100 samples of one bit take as long as 128; their products do not."""

    def seconds(samples: int, part: str) -> float:
        training = TrainingSpec(batch_size=samples, statistics="1", reconstruction="states")
        layout = NetworkLayout.blocks((700, 500), 1, "column")
        step = step_of(NetworkSpec((700, 500)), 0, training, SyncSpec(), layout, 1, built_in(), 1)
        return sum(float(piece.seconds[0]) for piece in step if isinstance(piece, Compute) and piece.part == part)

    assert seconds(100, "statistics") == seconds(128, "statistics") < seconds(129, "statistics")
    assert seconds(100, "products") < seconds(128, "products")


def test_more_threads_than_were_measured_share_what_is_worth_waking_them() -> None:
    rates = Rates({(1, 1): {"update": Table((1.0,), (1.0,), ((1e-6,),))}, (2, 1): {"update": TABLE}})
    assert rates.of(8, 1).more == 4.0
    alone = Rates({(1, 1): rates.tables[1, 1]}).of(4)
    assert alone.seconds("update", 100_000) == pytest.approx(0.1 / 4)
    assert alone.seconds("update", 120) == pytest.approx(1.2e-4 / (1.2e-4 / WAKING))
    assert alone.seconds("update", 10) == pytest.approx(1e-5)
    assert rates.of(1, 8).tables is rates.tables[1, 1]
    assert math.isclose(built_in(2.0).of(1).seconds("update", 1), built_in().of(1).seconds("update", 1) / 2)
