"""Step sizes over the epochs of a stage."""

from __future__ import annotations

from math import cos, pi

import pytest

from modelpar.spec import SCHEDULES, FineTuneSpec, TrainingSpec
from modelpar.training.schedule import StepSize, step_size
from tests import reference


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.8, 0.8, 0.8, 0.8, 0.8]),
        ("linear", [0.8, 0.65, 0.5, 0.35, 0.2]),
        ("cosine", [0.8, 0.5 + 0.3 * cos(pi / 4), 0.5, 0.5 - 0.3 * cos(pi / 4), 0.2]),
        ("exponential", [0.8, 0.8 * 0.25**0.25, 0.4, 0.8 * 0.25**0.75, 0.2]),
    ],
)
def test_rates_fall_from_the_base_to_its_fraction(schedule, rates):
    spec = TrainingSpec(epochs=5, schedule=schedule, final_rate=0.25)
    assert [step_size(spec, 0.8, epoch).rate for epoch in range(5)] == pytest.approx(rates)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("epochs", [1, 2, 7])
@pytest.mark.parametrize("final_rate", [0.0, 0.1, 1.0])
def test_the_reference_has_the_same_rates(schedule, epochs, final_rate):
    spec = FineTuneSpec(epochs=epochs, schedule=schedule, final_rate=final_rate, momentum_epochs=2)
    for epoch in range(epochs):
        size = step_size(spec, 0.3, epoch)
        assert (size.rate, size.momentum) == pytest.approx(reference.step_size(spec, 0.3, epoch))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_single_epoch_has_the_base_rate(schedule):
    assert step_size(TrainingSpec(epochs=1, schedule=schedule), 0.3, 0).rate == pytest.approx(0.3)


def test_momentum_and_decay():
    spec = TrainingSpec(epochs=4, initial_momentum=0.5, momentum=0.9, momentum_epochs=2, weight_decay=0.01)
    assert [step_size(spec, 1.0, epoch).momentum for epoch in range(4)] == [0.5, 0.5, 0.9, 0.9]
    assert step_size(spec, 0.2, 3) == StepSize(0.2, 0.9, 0.01)
    assert [step_size(TrainingSpec(), 1.0, epoch).momentum for epoch in (0, 9)] == [0.9, 0.9]


@pytest.mark.parametrize("own", [{"chains": 5}, {"persistent": True}, {"chain_restart": True}], ids=str)
def test_chains_of_their_own_follow_slowly(own):
    spec = TrainingSpec(**own)
    assert (spec.rate(), step_size(spec, 1.0, 0).momentum) == (0.05, 0.0)
    given = TrainingSpec(**own, learning_rate=0.2, momentum=0.7, gaussian_learning_rate=0.3)
    assert (given.rate(), given.rate(gaussian=True), step_size(given, 1.0, 0).momentum) == (0.2, 0.3, 0.7)
    assert TrainingSpec().rate() == 0.1
    assert (spec.rate(gaussian=True), TrainingSpec().rate(gaussian=True)) == (0.01, 0.002)
