"""Weights of samples: files, resampling of epochs, neighbours; against plain NumPy.

Modules: modelpar/data/neighbours, modelpar/data/splits, modelpar/kernels/neighbours
"""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.data import Minibatches, Split, open_dataset
from modelpar.data.fingerprint import Fingerprint
from modelpar.data.minibatches import order_of
from modelpar.draws import permutation
from modelpar.errors import DataError
from modelpar.kernels import neighbours, threads
from modelpar.spec import DataSpec

RNG = np.random.default_rng(3)
STATES = RNG.random((40, 9)) < 0.4
WEIGHTS = RNG.random(40) * (RNG.random(40) < 0.7)
N_STATES, N_SITES = 5, 20


@pytest.fixture(scope="module")
def sequences():
    """(600, 20) of families: copies of a few sequences with changes; more than a tile of the kernel."""
    rng = np.random.default_rng(8)
    S = rng.integers(0, N_STATES, (30, N_SITES))[rng.integers(0, 30, 600)]
    changed = rng.random(S.shape) < rng.random((600, 1)) * 0.5
    return np.where(changed, rng.integers(0, N_STATES, S.shape), S)


def one_hot(S):
    return (S[:, :, None] == np.arange(N_STATES)).reshape(len(S), -1)


# -- files -------------------------------------------------------------------------------------------------------------


def test_every_form_of_weights_is_the_same(tmp_path):
    np.save(tmp_path / "w.npy", WEIGHTS[:, None])
    np.savez(tmp_path / "w.npz", other=np.zeros((2, 2)), weights=WEIGHTS)
    (tmp_path / "w.txt").write_text("".join(f"{w!r}\n" for w in WEIGHTS.tolist()))
    np.savez(tmp_path / "data.npz", data=STATES, weights=WEIGHTS)
    np.save(tmp_path / "data.npy", STATES)
    files = [open_dataset(tmp_path / "data.npz", test_fraction=0.25)]
    for name in ("w.npy", "w.npz", "w.txt"):
        files.append(open_dataset(tmp_path / "data.npy", weights=tmp_path / name, test_fraction=0.25))
        spec = DataSpec(tmp_path / "data.npy", sample_weights=tmp_path / name, test_fraction=0.25)
        files.append(open_dataset(spec))
    files.append(open_dataset(STATES, weights=WEIGHTS.tolist(), test_fraction=0.25))
    for data in files:
        rows = np.concatenate([data.train.rows, data.test.rows])
        assert np.array_equal(np.sort(rows), np.flatnonzero(WEIGHTS))  # those of weight 0 are nowhere
        for split in (data.train, data.test):
            assert np.array_equal(split.weights, WEIGHTS[split.rows])
        assert np.array_equal(data.train.rows, files[0].train.rows)
    assert open_dataset(tmp_path / "data.npz", weights="none").train.weights is None


def test_equal_weights_are_none():
    """And samples of weight 0 are left out of where they would be without: no other sample changes sides."""
    data, plain = (open_dataset(STATES, weights=w, test_fraction=0.25) for w in (3.0 * (WEIGHTS > 0), None))
    for split, whole in ((data.train, plain.train), (data.test, plain.test)):
        assert split.weights is None
        assert np.array_equal(split.rows, whole.rows[WEIGHTS[whole.rows] > 0])
    with pytest.raises(DataError, match="none is left for training"):
        open_dataset(STATES, weights=np.isin(np.arange(40), plain.test.rows), test_fraction=0.25)


def test_fingerprints_tell_weights(tmp_path):
    np.save(tmp_path / "data.npy", STATES)
    plain, weighted, other = (
        open_dataset(tmp_path / "data.npy", weights=w).fingerprint for w in (None, WEIGHTS, WEIGHTS * 2)
    )
    assert "weights" not in plain.as_text()
    assert Fingerprint.from_text(weighted.as_text()) == weighted
    assert not weighted.differs(weighted)
    assert weighted.differs(plain) == "the weights of its samples are new"
    assert plain.differs(weighted) == "the weights of its samples are missing"
    assert weighted.differs(other) == "the weights of its samples are others"


@pytest.mark.parametrize(("content", "why"), [
    ("1\n" * 39, "are 39 numbers, but there are 40 samples"),
    ("1\n" * 41, "are 41 numbers, but there are 40 samples"),
    ("1\n" * 4000, "are more than 40 numbers"),
    ("1\n" * 20 + "-1\n" + "1\n" * 19, "have the value -1 for sample 20"),
    ("1\n" * 39 + "nan\n", "have the value nan for sample 39"),
    ("1\n" * 39 + "inf\n", "have the value inf for sample 39"),
    ("0\n" * 40, "are all zero"),
    ("1\n" * 7 + "one\n", "has 'one' on line 8"),
    ("1 2\n" * 40, "has '1 2' on line 1"),
    ("", "is empty|are 0 numbers, but there are 40"),
    (b"\x00\xff" * 40, "on line 1"),
    (np.ones((40, 2)), "have 2 dimensions"),
    (np.full(40, "a"), "are of type <U1"),
    ({"weights": np.ones(3)}, "are 3 numbers, but there are 40"),
    ({"other": np.ones(40)}, "has no array called weights"),
])  # fmt: skip
def test_wrong_files_are_one_line(tmp_path, content, why):
    path = tmp_path / "w"
    if isinstance(content, np.ndarray):
        with path.open("wb") as file:
            np.save(file, content)
    elif isinstance(content, dict):
        with path.open("wb") as file:
            np.savez(file, **content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=why) as caught:
        open_dataset(STATES, weights=path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"does not exist|No such file"):
        open_dataset(STATES, weights=tmp_path / "nowhere")


def test_splits_refuse_what_is_no_weight():
    table = open_dataset(STATES).train.table
    with pytest.raises(DataError, match="are 3 numbers, but there are 4 samples"):
        Split(table, np.arange(4), weights=np.ones(3))
    with pytest.raises(DataError, match="have the value -1"):
        Split(table, np.arange(2), weights=np.array([1.0, -1.0]))


# -- epochs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [
    WEIGHTS, np.r_[np.zeros(5), 1e-300, np.ones(34) * 1e-300 * np.arange(1, 35)], np.r_[1e9, np.ones(39)],
    np.r_[np.ones(39), 0.0],
], ids=["some", "tiny", "one", "last of none"])  # fmt: skip
def test_an_epoch_has_each_sample_by_its_weight(weights):
    share = 40 * weights / weights.sum()
    counts = np.array([np.bincount(order_of(5, epoch, 40, weights), minlength=40) for epoch in range(400)])
    assert (counts.sum(axis=1) == 40).all()
    assert ((np.floor(share) <= counts) & (counts <= np.ceil(share))).all()  # and so 0 where the weight is
    assert np.abs(counts.mean(axis=0) - share).max() < 4 * 0.5 / np.sqrt(400)


def test_equal_shares_are_the_plain_order():
    assert np.array_equal(order_of(5, 7, 40, np.ones(40)), permutation(5, 7, 40))
    assert not np.array_equal(order_of(5, 7, 40, WEIGHTS), order_of(5, 8, 40, WEIGHTS))


def test_minibatches_cut_the_order():
    batches = Minibatches(40, 15, 5, WEIGHTS)
    pieces = [batches.indices(3, step) for step in range(3)]
    assert [len(piece) for piece in pieces] == [15, 15, 10]
    assert np.array_equal(np.concatenate(pieces), order_of(5, 3, 40, WEIGHTS))


# -- neighbours --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [0.8, 0.79, 0.35, 1.0])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_neighbours_are_those_of_numpy(monkeypatch, sequences, identity, n_threads):
    monkeypatch.setattr(threads, "_n_threads", n_threads)
    data = open_dataset(one_hot(sequences), weights="auto", identity=identity, visible=f"categorical:{N_STATES}",
                        validation_fraction=0.1)  # fmt: skip
    for split in (data.train, data.validation, data.test):
        S = sequences[split.rows]
        same = (S[:, None] == S[None]).sum(axis=2)
        m = (same >= np.ceil(identity * N_SITES)).sum(axis=1)
        mine = np.ones(len(split)) if split.weights is None else split.weights
        assert np.array_equal(mine, 1 / m)


def test_parts_of_the_pairs_add_up(sequences):
    words = neighbours.words_of(np.packbits(one_hot(sequences), axis=1, bitorder="little"))
    whole = neighbours.neighbours(words, 15)
    assert whole.any()
    assert np.array_equal(sum(neighbours.neighbours(words, 15, part, 3) for part in range(3)), whole)


@pytest.mark.parametrize(("X", "visible", "why"), [
    (STATES, "", "has no categorical sites; give a file"),
    (STATES, "gaussian", r"has no categorical sites \(gaussian\)"),
    (STATES, "categorical:5", "which are not whole sites of 5 states"),
    (RNG.random((10, 6)), "categorical:3", "not one-hot"),
    (np.ones((10, 6), bool), "categorical:3", "not one-hot"),
])  # fmt: skip
def test_auto_is_for_categorical_data(X, visible, why):
    with pytest.raises(DataError, match=why):
        open_dataset(X, weights="auto", visible=visible)
