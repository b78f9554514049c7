"""What makes training pointless is said: refused where it cannot be meant, warned of where it can."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from mpi4py import MPI

from modelpar import (
    DeepBeliefNetwork,
    FineTuneSpec,
    Grid,
    ModelparWarning,
    NetworkSpec,
    TrainingSpec,
    evaluate,
    fine_tune,
    open_dataset,
    pretrain,
)
from modelpar.cli import run
from modelpar.data import DataFeed, Dataset, Split, cache, check_classes, check_range, check_training
from modelpar.data.dataset import MappedTable
from modelpar.errors import DataError, warn
from modelpar.spec import DataSpec

pytestmark = pytest.mark.filterwarnings("always::modelpar.errors.ModelparWarning")

RNG = np.random.default_rng(8)
STATES = RNG.random((60, 12)) < 0.5
GREY = RNG.integers(0, 256, (60, 12), dtype=np.uint8)
REAL = RNG.random((60, 12))
LABELS = np.arange(60) % 3


def write(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def look(data: Dataset, visible: str = "bernoulli") -> list[str]:
    """The warnings before training.  Raises DataError."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_range(data, np.arange(data.n_visible), visible)
        check_training(data, np.arange(data.n_visible), visible)
    return [str(warning.message) for warning in caught]


def opened(path: Path, values: Any, **options: Any) -> Dataset:
    return open_dataset(DataSpec(data=write(path / "x.npz", data=values), **{"test_fraction": 0.0, **options}))


@pytest.mark.parametrize("values", [STATES, GREY, REAL, (REAL * 100).astype(np.uint8) + 100], ids=str)
def test_ordinary_data_are_passed_without_a_word(tmp_path: Path, values: Any) -> None:
    assert look(opened(tmp_path, values, test_fraction=0.3, validation_fraction=0.2)) == []
    assert look(opened(tmp_path, values, test_fraction=0.3), "gaussian") == []


def test_named_and_made_data_are_passed_without_a_word() -> None:
    for name in ("digits", "bars:3", "patterns:8"):
        data = open_dataset(name)
        assert look(data) == []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_classes(data, data.n_classes)


@pytest.mark.parametrize(
    ("values", "options", "visible", "expected"),
    [
        (np.zeros((60, 12), bool), {}, "bernoulli", "the value 0 and no other in all 60 training samples"),
        (np.ones((60, 12)), {}, "bernoulli", "the value 1 and no other"),
        (np.full((60, 12), 7, np.uint8), {}, "bernoulli", "the value 7 and no other"),
        (np.full((60, 12), 0.5), {"binarise": "stochastic"}, "bernoulli", "the value 0.5 and no other"),
        (np.zeros((60, 12)), {}, "gaussian", "the value 0 and no other"),
        (np.tile(REAL[:1], (60, 1)), {}, "gaussian", "have the same values, which standardised are 0 everywhere"),
        (GREY, {"binarise": "128"}, "bernoulli", "makes every state 0: .* go from 0 to 1 .*0 to 255 before scaling"),
        (GREY, {"binarise": "-0.1"}, "bernoulli", "makes every state 1"),
        (GREY // 16, {"binarise": "0.5"}, "bernoulli", "makes every state 0: .* go from 0 to 0.0588"),
        (REAL / 2, {"binarise": "0.6"}, "bernoulli", "makes every state 0"),
        (REAL / 2 + 0.5, {"binarise": "0.25"}, "bernoulli", "makes every state 1: .*use a threshold between them"),
        (STATES, {"binarise": "1"}, "bernoulli", "makes every state 0"),
    ],
)  # fmt: skip
def test_states_that_are_all_alike_are_refused(
    tmp_path: Path, values: Any, options: dict[str, Any], visible: str, expected: str
) -> None:
    forms = {"dense.npz": values, "x.npy": values}
    for name, array in forms.items():
        if name.endswith("npz"):
            np.savez_compressed(tmp_path / name, data=array)
        else:
            np.save(tmp_path / name, array)
    scipy.sparse.save_npz(tmp_path / "sparse.npz", scipy.sparse.csr_array(values))
    for name in (*forms, "sparse.npz"):
        with pytest.raises(DataError, match=expected):
            look(open_dataset(DataSpec(data=str(tmp_path / name), test_fraction=0.0, **options)), visible)


def test_the_threshold_is_compared_as_it_is_applied(tmp_path: Path) -> None:
    """In float32, 51 / 255 is not above 0.2; see modelpar.data.gather_dense.threshold."""
    values = np.where(STATES, 255, 51).astype(np.uint8)
    assert look(opened(tmp_path, values, binarise="0.2")) == []
    with pytest.raises(DataError, match="makes every state 1"):
        look(opened(tmp_path, values, binarise="0.199"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (GREY // 16, "holds values from 0 to 15, but 255 means 1.0.* where 15 should mean 1.0, use --scale 15"),
        (GREY // 2, "values from 0 to 127, but 255 means 1.0"),
        (REAL / 255, "but 1 means 1.0"),
        (np.tile(GREY[:1], (60, 1)), "all 60 training samples of .* have the same values"),
    ],
    ids=["nibbles", "seven bits", "divided twice", "one sample"],
)
def test_what_may_be_meant_is_warned_of(tmp_path: Path, values: Any, expected: str) -> None:
    data = opened(tmp_path, values)
    with pytest.warns(ModelparWarning, match=expected):
        check_training(data, np.arange(12), "bernoulli")


def test_the_scale_is_an_option(tmp_path: Path) -> None:
    grey, states, real = GREY // 16, STATES.astype(np.uint8), REAL * 255
    for values, scale in ((grey, 15), (grey, 255.0), (states, 1), (real, 255)):
        data = opened(tmp_path, values, scale=scale)
        assert data.scale == scale
        assert look(data) == []
    with pytest.raises(DataError, match="--scale 1"):
        look(opened(tmp_path, states))
    with pytest.raises(DataError, match=r"values from 0\S* to 25\S*, .*\(--scale 25"):
        look(opened(tmp_path, real))
    with pytest.raises(DataError, match="need values from 0 to 10"):
        look(opened(tmp_path, grey, scale=10))


def test_the_scale_is_that_of_the_test_set_too(tmp_path: Path) -> None:
    spec = DataSpec(data=write(tmp_path / "a.npz", x_train=GREY // 16, x_test=GREY[:20] // 16), scale=15)
    data = open_dataset(spec)
    assert look(data) == []
    data = opened(tmp_path, GREY // 16, scale=15, test_data=write(tmp_path / "b.npz", data=GREY // 16))
    assert (data.scale, look(data)) == (15, [])


def test_what_is_kept_packed_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LEAST", 1)
    monkeypatch.setattr(cache, "packed_folder", lambda: tmp_path / "kept")
    monkeypatch.setenv("MODELPAR_NO_CACHE", "0")
    np.savez_compressed(tmp_path / "low.npz", data=GREY // 16)
    np.savez_compressed(tmp_path / "full.npz", data=GREY)
    for _ in range(2):
        for name, scale, level, expected in (
            ("low", None, "0.5", "makes every state 0"), ("low", 15, "1.0", "makes every state 0"),
            ("full", None, "1", "makes every state 0"),
        ):  # fmt: skip
            with pytest.raises(DataError, match=expected):
                look(open_dataset(DataSpec(data=str(tmp_path / f"{name}.npz"), binarise=level, scale=scale)))
        for scale in (15, 30):  # each threshold has its own bits
            data = open_dataset(DataSpec(data=str(tmp_path / "low.npz"), binarise="0.4", scale=scale, test_fraction=0))
            states = np.empty((12, 60))
            DataFeed(data.train, np.arange(12), scale=scale, binarise="0.4").fill(np.arange(60), 0, states)
            assert np.array_equal(states.T, 0.4 * scale < GREY // 16)


def test_gaussian_units_that_never_vary_are_counted(tmp_path: Path) -> None:
    values = REAL.copy()
    values[:, [2, 5]] = 1e9
    with pytest.warns(ModelparWarning, match="2 of the 12 units of .* never vary"):
        check_training(opened(tmp_path, values), np.arange(12), "gaussian")
    assert look(opened(tmp_path, np.clip(values, 0, 1))) == []  # pixels that are always on are no fault


@pytest.mark.parametrize(
    ("test", "visible", "expected"),
    [
        (REAL * 1000, "gaussian", "deviate by 2.* from their means, the others by 0.2"),
        (REAL / 255, "bernoulli", "are the test samples of .* in the unit of the training samples"),
        (REAL + 273, "gaussian", "have means more than 5 deviations away"),
    ],
)
def test_a_test_set_in_another_unit_is_warned_of(tmp_path: Path, test: Any, visible: str, expected: str) -> None:
    data = opened(tmp_path, REAL, test_data=write(tmp_path / "test.npz", data=test))
    with pytest.warns(ModelparWarning, match=expected):
        check_training(data, np.arange(12), visible)


def labelled(train: Any, test: Any = None) -> Dataset:
    table = MappedTable("x", REAL)
    labels = np.asarray(train)
    first = Split(table, np.arange(len(labels)), labels)
    second = None if test is None else Split(table, np.arange(len(test)), np.asarray(test))
    known = max(labels.max(), -1 if test is None else np.max(test))
    return Dataset("x", 12, int(known) + 1, None, first, None, second, 1.0)


@pytest.mark.parametrize(
    ("data", "classes", "expected"),
    [
        (labelled(2019 + np.arange(60) % 5), 2024, "go from 2019 to 2023, and 2019 of the 2024 classes .*np.unique"),
        (labelled([1, 2, 3] * 5), 4, "go from 1 to 3, and 1 of the 4 classes have no training sample .0."),
        (labelled([0, 2] * 5), 3, "1 of the 3 classes have no training sample .1."),
        (labelled([0, 1] * 5), 5, "3 of the 5 classes have no training sample .2, 3, 4."),
        (labelled([0, 1] * 5, [0, 1, 2, 2]), 3, "2 test samples are of these"),
        (labelled([3] * 10), 4, "all 10 training labels of x are 3"),
    ],
)
def test_classes_without_samples_are_warned_of(data: Dataset, classes: int, expected: str) -> None:
    with pytest.warns(ModelparWarning, match=expected):
        check_classes(data, classes)


def test_training_says_it_through_the_interface() -> None:
    data = labelled([0, 1, 1, 3] * 15)
    assert data.train.labels is not None
    with Grid(MPI.COMM_SELF) as grid:
        network = DeepBeliefNetwork(NetworkSpec((12, 4, 4, 4, 4), classes=4), grid)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in pretrain(network, data, TrainingSpec(epochs=1)):
                pass
            for _ in fine_tune(network, data, FineTuneSpec(epochs=1)):
                pass
        first, last = (str(warning.message) for warning in caught)
        assert "1 of the 4 classes" in first
        assert "answers class 1 to all of 60 training samples, which are of 3" in last
        assert {warning.filename for warning in caught} == {__file__}  # the user's line, not one of ours
        others = Split(MappedTable("y", REAL / 255), np.arange(60), LABELS)
        faint = Dataset("y", 12, 4, None, data.train, None, others, 1.0)
        with pytest.warns(ModelparWarning, match="but 1 means 1.0"):
            evaluate(network, faint, others)
        network = DeepBeliefNetwork(NetworkSpec((12, 4)), grid)
        flat = Dataset("z", 12, 0, None, Split(MappedTable("z", REAL * 0), np.arange(60)), None, None, 1.0)
        with pytest.raises(DataError, match="nothing to learn"):
            list(pretrain(network, flat, TrainingSpec(epochs=1)))


def test_a_warning_that_is_made_an_error_is_raised_on_ranks_that_do_not_show_it() -> None:
    class Second:
        rank = 1

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn(Second(), "unseen")  # type: ignore[arg-type]
        assert not caught
        warnings.simplefilter("error")
        with pytest.raises(ModelparWarning, match="unseen"):
            warn(Second(), "unseen")  # type: ignore[arg-type]


QUICK = (
    "--layers",
    "12-8",
    "--epochs",
    "1",
    "--finetune-epochs",
    "1",
    "--no-pictures",
    "--no-score",
    "--threads",
    "1",
    "--overwrite",
)
UNLABELLED = tuple(option for i, option in enumerate(QUICK) if i not in (4, 5))  # and so without fine-tuning


def command(*words: object) -> int:
    return run(MPI.COMM_SELF, [str(word) for word in words])


def test_the_command_line_says_each_thing_once_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "x.npz", data=GREY // 16, labels=LABELS + 2)
    assert command("train", "--data", data, "--run-dir", tmp_path / "r", *QUICK) == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("modelpar: warning:")]
    assert sum("use --scale 15" in line for line in lines) == 1
    assert sum("2 of the 5 classes" in line for line in lines) == 1
    assert command("train", "--data", data, "--run-dir", tmp_path / "r", "--binarise", "0.5", *QUICK) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "makes every state 0" in err
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelparWarning)
        assert command("train", "--data", data, "--run-dir", tmp_path / "r", *QUICK) == 2
    assert "modelpar: error: array 'data'" in capfd.readouterr().err


def test_what_is_shown_has_the_unit_of_the_data(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Sampled and reconstructed values, whatever the visible units are, and their pictures."""
    threads = ("--threads", "1")
    for values, visible, options, highest in (
        (GREY, "bernoulli", [], 255), (GREY, "gaussian", [], 255), (STATES, "bernoulli", [], 1),
        (GREY // 16, "bernoulli", ["--scale", "15"], 15), (REAL * 1e-9 + 1, "gaussian", [], 1),
    ):  # fmt: skip
        data = write(tmp_path / "x.npz", data=values)
        where = tmp_path / "r"
        train = ("train", "--data", data, "--run-dir", where, "--visible", visible, *options, *UNLABELLED)
        assert command(*train) == 0
        assert command("sample", where, "--count", "9", "--steps", "2", "--out", tmp_path / "s.npy", *threads) == 0
        assert command("reconstruct", where, "--count", "9", "--out", tmp_path / "r.npy", *threads) == 0
        fantasies, (seen, made) = np.load(tmp_path / "s.npy"), np.load(tmp_path / "r.npy")
        rows = open_dataset(DataSpec(data=data), seed=1).test.rows[:9]  # type: ignore[union-attr]
        np.testing.assert_allclose(seen, values[rows], rtol=1e-12 if highest == 1 else 1e-5, atol=1e-12)
        spread = values.std()
        for shown in (made, fantasies):
            assert abs(shown.mean() - values.mean()) < spread
            assert (visible == "gaussian") or (shown.min() >= 0 and shown.max() <= highest)
        capfd.readouterr()


def test_what_is_said_before_pre_training_is_not_said_again_before_fine_tuning() -> None:
    with Grid(MPI.COMM_SELF) as grid, warnings.catch_warnings(record=True) as caught:
        for _ in range(2):  # other data, opened anew, are spoken of anew
            data = open_dataset(GREY // 16, LABELS * 2, comm=MPI.COMM_SELF)
            network = DeepBeliefNetwork(NetworkSpec((12, 4), classes=5), grid)
            warnings.simplefilter("error", ModelparWarning)
            for _ in range(2):
                with pytest.raises(ModelparWarning, match="255 means 1"):
                    next(pretrain(network, data, TrainingSpec(epochs=1)))
            warnings.simplefilter("always", ModelparWarning)
            list(pretrain(network, data, TrainingSpec(epochs=1)))
            list(fine_tune(network, data, FineTuneSpec(epochs=1)))
            evaluate(network, data, data.train)
    texts = [str(warning.message) for warning in caught]
    assert sum("255 means 1.0" in text for text in texts) == 2
    assert sum("classes have no training sample" in text for text in texts) == 2
