"""The options: what is accepted, what is refused, and in which words."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from modelpar.errors import SpecError
from modelpar.spec import DataSpec, FineTuneSpec, NetworkSpec, TrainingSpec

ALL = (NetworkSpec, TrainingSpec, FineTuneSpec, DataSpec)


@pytest.mark.parametrize("kind", ALL)
def test_defaults_are_legal_and_frozen(kind):
    spec = kind()
    with pytest.raises(FrozenInstanceError):
        setattr(spec, fields(spec)[0].name, 3)


@pytest.mark.parametrize("kind", ALL)
def test_every_option_has_a_help_text(kind):
    assert all(f.metadata.get("help") for f in fields(kind))


def test_no_two_options_share_a_name_on_the_command_line():
    flags = [kind.flag(f) for kind in ALL for f in fields(kind)]
    assert len(flags) == len(set(flags))
    relied_on = "layers epochs finetune-epochs until-accuracy seed dtype layout data"
    assert {f"--{name}" for name in relied_on.split()} <= set(flags)


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        (NetworkSpec, {"layers": (5,)}, "--layers names 1 layer"),
        (NetworkSpec, {"layers": (5, 0)}, "a layer of 0 units"),
        (NetworkSpec, {"layers": (5, 2.5)}, "a layer of 2.5 units"),
        (NetworkSpec, {"classes": 1}, "--classes is 1"),
        (NetworkSpec, {"classes": -1}, "--classes is -1, but must be at least 0"),
        (NetworkSpec, {"visible": "poisson"}, "--visible is 'poisson', but must be one of bernoulli, gaussian"),
        (NetworkSpec, {"dtype": "float16"}, "float32, float64"),
        (NetworkSpec, {"seed": 2**63}, "--seed"),
        (NetworkSpec, {"seed": -1}, "--seed is -1"),
        (NetworkSpec, {"weight_scale": float("nan")}, "--weight-scale is nan"),
        (TrainingSpec, {"epochs": -1}, "--epochs is -1"),
        (TrainingSpec, {"batch_size": 0}, "--batch-size is 0, but must be at least 1"),
        (TrainingSpec, {"momentum": 1.0}, "--momentum is 1.0, but must be below 1"),
        (TrainingSpec, {"sparsity_target": 0}, "--sparsity-target is 0, but must be above 0"),
        (TrainingSpec, {"gibbs_steps": 0}, "--gibbs-steps"),
        (TrainingSpec, {"final_rate": 1.5}, "at most 1"),
        (TrainingSpec, {"learning_rate": "fast"}, "--learning-rate is 'fast', but must be a finite number"),
        (TrainingSpec, {"learning_rate": float("inf")}, "--learning-rate is inf"),
        (TrainingSpec, {"batch_size": 10.5}, "--batch-size is 10.5, but must be a whole number"),
        (TrainingSpec, {"epochs": True}, "--epochs is True"),
        (TrainingSpec, {"persistent": 1}, "--persistent is 1, but must be true or false"),
        (NetworkSpec, {"seed": None}, "--seed is None"),
        (TrainingSpec, {"statistics": "9"}, "--statistics"),
        (TrainingSpec, {"cache": "disk"}, "auto, keep, recompute"),
        (FineTuneSpec, {"epochs": -1}, "--finetune-epochs is -1"),
        (FineTuneSpec, {"dropout": 1.0}, "--dropout is 1.0, but must be below 1"),
        (FineTuneSpec, {"max_norm": -1}, "--max-norm"),
        (FineTuneSpec, {"schedule": "steps"}, "--finetune-schedule"),
        (FineTuneSpec, {"until_accuracy": 90}, "--until-accuracy is 90, but must be at most 1"),
        (DataSpec, {"binarise": "half"}, "--binarise is 'half'"),
        (DataSpec, {"binarise": "nan"}, "--binarise is 'nan'"),
        (DataSpec, {"test_fraction": 1.0}, "--test-fraction"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(kind, changes, told):
    with pytest.raises(SpecError) as refused:
        kind(**changes)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_bounds_themselves_are_accepted():
    NetworkSpec(layers=(1, 1), seed=2**63 - 1, weight_scale=0, classes=2)
    TrainingSpec(epochs=0, batch_size=1, learning_rate=0, momentum=0, final_rate=0, sparsity_cost=0)
    FineTuneSpec(until_accuracy=None, dropout=0, input_dropout=0.999, patience=0)


@pytest.mark.parametrize(("binarise", "threshold"), [("none", None), ("stochastic", None), ("0.5", 0.5), ("0", 0.0)])
def test_thresholds(binarise, threshold):
    assert DataSpec(binarise=binarise).threshold == threshold
