"""The options: what is accepted, what is refused, and in which words.

Modules: modelpar/spec/base, modelpar/spec/data, modelpar/spec/network, modelpar/spec/sync, modelpar/spec/training
"""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, fields
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from modelpar.errors import SpecError
from modelpar.spec import DataSpec, FineTuneSpec, NetworkSpec, SyncSpec, TrainingSpec

ALL = (NetworkSpec, TrainingSpec, FineTuneSpec, DataSpec)


class Index:
    """What ``operator.index`` takes, and nothing more."""

    def __index__(self):
        return 7


class Float:
    """What ``float`` takes, and nothing more, as a tensor of one value."""

    def __float__(self):
        return 0.5


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
    ("kind", "changes", "expected"),
    [
        (NetworkSpec, {"layers": (5,)}, "--layers names 1 layer"),
        (NetworkSpec, {"layers": (5, 0)}, "a layer of 0 units"),
        (NetworkSpec, {"layers": (5, 2.5)}, "a layer of 2.5 units"),
        (NetworkSpec, {"classes": 1}, "--classes is 1"),
        (NetworkSpec, {"classes": -1}, "--classes is -1, but must be at least 0"),
        (
            NetworkSpec,
            {"visible": "poisson"},
            "--visible is 'poisson', but must be one of bernoulli, spin, categorical:Q,",
        ),
        (NetworkSpec, {"dtype": "float16"}, "float32, float64"),
        (NetworkSpec, {"seed": 2**63}, "--seed"),
        (NetworkSpec, {"seed": -1}, "--seed is -1"),
        (NetworkSpec, {"weight_scale": float("nan")}, "--weight-scale is nan"),
        (TrainingSpec, {"epochs": -1}, "--epochs is -1"),
        (TrainingSpec, {"batch_size": 0}, "--batch-size is 0, but must be at least 1"),
        (TrainingSpec, {"momentum": 1.0}, "--momentum is 1.0, but must be below 1"),
        (TrainingSpec, {"sparsity_target": 0}, "--sparsity-target is 0, but must be above 0"),
        (TrainingSpec, {"gibbs_steps": 0}, "--gibbs-steps"),
        (TrainingSpec, {"visible_bias_rate": 0}, "--visible-bias-rate is 0, but must be above 0"),
        (TrainingSpec, {"final_rate": 1.5}, "at most 1"),
        (TrainingSpec, {"learning_rate": "fast"}, "--learning-rate is 'fast', but must be a finite number"),
        (TrainingSpec, {"learning_rate": float("inf")}, "--learning-rate is inf"),
        (TrainingSpec, {"batch_size": 10.5}, "--batch-size is 10.5, but must be an integer"),
        (TrainingSpec, {"epochs": True}, "--epochs is True"),
        (TrainingSpec, {"epochs": np.True_}, "--epochs is True, but must be an integer"),
        (TrainingSpec, {"epochs": np.array(True)}, "--epochs is True, but must be an integer"),
        (TrainingSpec, {"epochs": np.float32(3)}, "--epochs is 3.0, but must be an integer"),
        (TrainingSpec, {"epochs": np.array([3])}, "--epochs is array([3]), but must be an integer"),
        (TrainingSpec, {"epochs": np.int64(-3)}, "--epochs is -3, but must be at least 0"),
        (TrainingSpec, {"epochs": "3"}, "--epochs is '3', but must be an integer"),
        (TrainingSpec, {"epochs": np.timedelta64(3, "s")}, "but must be an integer"),
        (TrainingSpec, {"learning_rate": np.float32("nan")}, "--learning-rate is nan, but must be a finite number"),
        (TrainingSpec, {"learning_rate": 10**400}, "but must be a finite number"),
        (TrainingSpec, {"learning_rate": np.True_}, "--learning-rate is True, but must be a finite number"),
        (TrainingSpec, {"learning_rate": 1j}, "--learning-rate is 1j, but must be a finite number"),
        (TrainingSpec, {"learning_rate": np.complex64(1)}, "but must be a finite number"),
        (TrainingSpec, {"learning_rate": np.array([0.1])}, "but must be a finite number"),
        (TrainingSpec, {"learning_rate": Decimal("Infinity")}, "but must be a finite number"),
        (TrainingSpec, {"momentum": Fraction(3, 2)}, "--momentum is 1.5, but must be below 1"),
        (TrainingSpec, {"schedule": np.array(["linear", "cosine"])}, "--schedule is array"),
        (TrainingSpec, {"statistics": 9}, "--statistics is 9, but must be one of 1, 2"),
        (TrainingSpec, {"persistent": np.int64(1)}, "--persistent is 1, but must be true or false"),
        (NetworkSpec, {"layers": 5}, "--layers is 5, but must be integers"),
        (NetworkSpec, {"layers": "5-4"}, "--layers is '5-4', but must be integers"),
        (NetworkSpec, {"layers": np.ones((2, 2), int)}, "but must be integers"),
        (NetworkSpec, {"layers": (5, True)}, "a layer of True units"),
        (NetworkSpec, {"layers": (5, np.nan)}, "a layer of nan units"),
        (NetworkSpec, {"layers": (5, None)}, "a layer of None units"),
        (NetworkSpec, {"layers": (5, 10**12)}, "at most 2147483648 are possible"),
        (NetworkSpec, {"layout": ["column"]}, "--layout is ['column'], but must be a text"),
        (FineTuneSpec, {"until_accuracy": "high"}, "--until-accuracy is 'high', but must be a finite number"),
        (SyncSpec, {"max_staleness": 1.5}, "--max-staleness is 1.5, but must be an integer"),
        (DataSpec, {"data": 5}, "--data is 5, but must be a text"),
        (DataSpec, {"labels": np.arange(3)}, "but must be a text"),
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
def test_what_cannot_be_is_refused_in_one_line(kind, changes, expected):
    with pytest.raises(SpecError) as refused:
        kind(**changes)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_bounds_themselves_are_accepted():
    NetworkSpec(layers=(1, 1), seed=2**63 - 1, weight_scale=0, classes=2)
    TrainingSpec(epochs=0, batch_size=1, learning_rate=0, momentum=0, final_rate=0, sparsity_cost=0)
    FineTuneSpec(until_accuracy=None, dropout=0, input_dropout=0.999, patience=0)


@pytest.mark.parametrize(("binarise", "threshold"), [("none", None), ("stochastic", None), ("0.5", 0.5), ("0", 0.0)])
def test_thresholds(binarise, threshold):
    assert DataSpec(binarise=binarise).threshold == threshold


WHOLE = [3, np.int64(3), np.uint8(3), np.array(3), np.array(3, ">i2"), Index()]
REAL = [
    0.5,
    np.float32(0.5),
    np.float16(0.5),
    np.array(0.5),
    np.longdouble(0.5),
    Fraction(1, 2),
    Decimal("0.5"),
    Float(),
]


@pytest.mark.parametrize("value", WHOLE)
def test_whole_numbers_of_any_kind_become_plain(value):
    expected = int(value) if not isinstance(value, Index) else 7
    spec = TrainingSpec(epochs=value, statistics=value, learning_rate=value)
    assert spec == TrainingSpec(epochs=expected, statistics=str(expected), learning_rate=expected)
    assert [type(x) for x in (spec.epochs, spec.statistics, spec.learning_rate)] == [int, str, float]
    assert SyncSpec(sync="server", max_staleness=value).max_staleness == expected
    json.dumps(asdict(spec))
    assert repr(spec) == repr(TrainingSpec(epochs=expected, statistics=str(expected), learning_rate=expected))


@pytest.mark.parametrize("value", REAL)
def test_real_numbers_of_any_kind_become_plain(value):
    spec = FineTuneSpec(dropout=value, until_accuracy=value)
    assert spec == FineTuneSpec(dropout=0.5, until_accuracy=0.5)
    assert type(spec.dropout) is type(spec.until_accuracy) is float
    assert DataSpec(binarise=value) == DataSpec(binarise="0.5")


@pytest.mark.parametrize(
    "layers", [[6, 5, 4], np.array([6, 5, 4]), (np.int32(6), Index(), 4), range(6, 3, -1), iter([6, 5, 4])]
)
def test_layers_are_a_tuple_of_plain_numbers(layers):
    spec = NetworkSpec(layers=layers)
    assert spec.layers in ((6, 5, 4), (6, 7, 4))
    assert {type(units) for units in spec.layers} == {int}
    assert hash(spec) == hash(NetworkSpec(layers=spec.layers))


@pytest.mark.parametrize("grid", [(4, 4), [4, np.int8(4)], np.array([1, 4, 4]), "4x4"])
def test_grids_of_units_may_be_numbers(grid):
    assert NetworkSpec(layers=(16, 4), visible_grid=grid).visible_grid in ("4x4", "1x4x4")


def test_truth_values_and_texts_become_plain():
    for value in (np.True_, np.array(True)):
        assert TrainingSpec(persistent=value).persistent is True
    assert type(NetworkSpec(visible=np.str_("gaussian")).visible) is str
    spec = DataSpec(data=Path("x.npy"), labels=PurePosixPath("a/y.npy"))
    assert (spec.data, spec.labels) == ("x.npy", "a/y.npy")
