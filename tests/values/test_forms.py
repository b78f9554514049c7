"""The same values in every form that users have them in: one result, to the last bit, and the caller's arrays as they
were; and what is looked at before any value is read.

Modules: modelpar/values/plain
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI
from scipy import sparse

from modelpar import (
    DataSpec,
    DeepBeliefNetwork,
    FineTuneSpec,
    Grid,
    NetworkSpec,
    TrainingSpec,
    evaluate,
    fine_tune,
    load,
    open_dataset,
    place,
    pretrain,
    save,
)
from modelpar.data import DataFeed, Dataset, Split, column_moments, read_labels, write_packed
from modelpar.data.dataset import MappedTable
from modelpar.errors import DataError, LayoutError, ModelparError, OutOfMemoryError, SpecError
from modelpar.kernels.states import pack
from modelpar.likelihood.annealing import log_partition_ais
from modelpar.likelihood.energy import free_energy, log_likelihood
from modelpar.likelihood.pseudo_likelihood import pseudo_log_likelihood
from modelpar.ownership.connections import Listed
from modelpar.ownership.layout import NetworkLayout, UnitLayout
from partitioners import GraphError, Sparse
from partitioners.partition import Partition
from partitioners.placement import save_placement

pytestmark = pytest.mark.filterwarnings(
    "ignore::PendingDeprecationWarning",
    "ignore::scipy.sparse.SparseEfficiencyWarning",  # of np.matrix, and of DIA
)

RNG = np.random.default_rng(3)
N, UNITS = 90, 12
BITS = RNG.random((N, UNITS)) < 0.4
GREY = RNG.integers(0, 256, (N, UNITS), dtype=np.uint8)
LEVELS = (RNG.integers(0, 17, (N, UNITS)) / 16).astype(np.float32)
Y = RNG.integers(0, 3, N)


def strided(x: np.ndarray) -> np.ndarray:
    wide = np.zeros((2 * len(x), 3 * x.shape[1]), x.dtype)
    wide[::2, ::3] = x
    return wide[::2, ::3]


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def unaligned(x: np.ndarray) -> np.ndarray:
    raw = np.empty(x.nbytes + 1, np.uint8)[1:]
    result = raw.view(x.dtype).reshape(x.shape) if x.dtype.itemsize == 1 else np.ndarray(x.shape, x.dtype, raw)
    result[...] = x
    return result


class Tensor:
    """Another library's array, as torch's are: nothing but ``__array__``."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values if dtype is None else self.values.astype(dtype)


DENSE: dict[str, Callable[[np.ndarray], Any]] = {
    "as it is": lambda x: x,
    "Fortran order": np.asfortranarray,
    "strided": strided,
    "reversed": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "read-only": read_only,
    "unaligned": unaligned,
    "matrix": np.asmatrix,
    "masked array without masked values": np.ma.masked_array,
    "tensor": Tensor,
    "pictures": lambda x: x.reshape(len(x), 3, 4),
}


def shuffled(x: np.ndarray) -> sparse.csr_array:
    """CSR whose columns come in any order."""
    result = sparse.csr_array(x)
    for a, b in zip(result.indptr[:-1], result.indptr[1:], strict=True):
        order = RNG.permutation(b - a)
        result.indices[a:b], result.data[a:b] = result.indices[a:b][order], result.data[a:b][order]
    result.has_sorted_indices = False
    return result


def with_zeros(x: np.ndarray) -> sparse.coo_array:
    rows, columns = np.indices(x.shape).reshape(2, -1)
    return sparse.coo_array((x.reshape(-1), (rows, columns)), shape=x.shape)


def duplicates(x: np.ndarray) -> sparse.coo_array:
    """Every value in parts: states beside themselves, numbers in two halves, a third of nothing."""
    result = sparse.coo_array(x)
    half = result.data.copy() if x.dtype == bool else result.data // 2 if x.dtype.kind in "ui" else result.data / 2
    rest = result.data.copy() if x.dtype == bool else result.data - half
    order = RNG.permutation(2 * result.nnz)
    rows, columns = (np.tile(ids, 2)[order] for ids in (result.row, result.col))
    return sparse.coo_array((np.concatenate([half, rest])[order], (rows, columns)), shape=x.shape)


def duplicates_in_rows(x: np.ndarray) -> sparse.csr_array:
    """The same in CSR, whose conversions do not add them up."""
    result = duplicates(x)
    order = np.argsort(result.row, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(result.row, minlength=len(x)))])
    return sparse.csr_array((result.data[order], result.col[order], starts), shape=x.shape)


def long_indices(x: np.ndarray) -> sparse.csr_array:
    result = sparse.csr_array(x)
    result.indices, result.indptr = result.indices.astype(np.int64), result.indptr.astype(np.int64)
    return result


SPARSE: dict[str, Callable[[np.ndarray], Any]] = {
    **{f"{kind}_{way}": getattr(sparse, f"{kind}_{way}")
       for kind in ("csr", "coo", "csc", "bsr", "dia", "lil", "dok") for way in ("array", "matrix")},
    "any order": shuffled, "explicit zeros": with_zeros, "duplicates": duplicates,
    "duplicates in CSR": duplicates_in_rows, "duplicates in CSC": lambda x: duplicates_in_rows(x.T.copy()).T,
    "duplicates, spmatrix": lambda x: sparse.csr_matrix(duplicates_in_rows(x)), "64-bit indices": long_indices,
}  # fmt: skip
VALUES = {"bits": BITS, "grey": GREY, "levels": LEVELS, "states in int64": BITS.astype(np.int64)}


def arrays_of(x: Any) -> list[np.ndarray]:
    """Copies of all that a caller's object is made of."""
    if isinstance(x, Tensor):
        x = x.values
    if not sparse.issparse(x):
        return [np.array(x)]
    if x.format in ("lil", "dok"):
        return [x.toarray()]
    return [np.array(value) for _, value in sorted(vars(x).items()) if isinstance(value, np.ndarray)]


def seen(X: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """(training samples as the first RBM sees them, their labels)"""
    data = open_dataset(X, Y, test_fraction=0.2, **options)
    assert data.n_visible == UNITS
    feed = DataFeed(data.train, np.arange(UNITS), scale=data.scale)
    out = np.empty((UNITS, len(data.train)), np.float32)
    feed.fill(np.arange(len(data.train)), 0, out)
    assert data.train.labels is not None
    return out, data.train.labels


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("form", [*DENSE, *SPARSE])
def test_every_form_of_the_same_array(tmp_path: Path, form: str, values: str) -> None:
    x = VALUES[values]
    np.save(tmp_path / "x.npy", x)
    wanted, labels = seen(tmp_path / "x.npy")
    given = {**DENSE, **SPARSE}[form](x)
    before = arrays_of(given)
    result = seen(given)
    assert np.array_equal(result[0], wanted)
    assert np.array_equal(result[1], labels)
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(before, arrays_of(given), strict=True))
    if form in SPARSE and getattr(given, "format", "") not in ("lil", "dok"):
        sparse.save_npz(tmp_path / "s.npz", given)
        assert np.array_equal(seen(tmp_path / "s.npz")[0], wanted), "as a file"


def test_lists_and_memory_maps(tmp_path: Path) -> None:
    assert np.array_equal(seen(BITS.astype(int).tolist())[0], seen(BITS)[0])
    np.save(tmp_path / "x.npy", GREY)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.array_equal(seen(mapped)[0], seen(GREY)[0])
    assert np.shares_memory(open_dataset(mapped).train.table.columns(np.arange(UNITS)).source, mapped)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "y",
    [Y.astype(np.uint8), Y.astype(">i2"), Y.astype(np.float64), Y[:, None], Y.tolist(), Y[::-1][::-1], Tensor(Y),
     np.asfortranarray(np.tile(Y[:, None], (1, 2)))[:, :1], np.ma.masked_array(Y), Y.astype(np.uint64)],
)  # fmt: skip
def test_labels_in_every_form(tmp_path: Path, y: Any) -> None:
    result, wanted = open_dataset(GREY, y), open_dataset(GREY, Y)
    assert result.n_classes == 3
    for a, b in ((result.train, wanted.train), (result.test, wanted.test)):
        assert a is not None
        assert b is not None
        assert np.array_equal(a.labels, b.labels)  # type: ignore[arg-type]
    np.save(tmp_path / "y.npy", np.asarray(y))
    assert np.array_equal(read_labels(tmp_path / "y.npy", N), Y)


@pytest.mark.filterwarnings("ignore:the network answers class:modelpar.errors.ModelparWarning")  # after one epoch
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, bool])
def test_a_test_set_and_a_model_are_the_same_as_from_files(tmp_path: Path, dtype: Any) -> None:
    """Two arrays in odd forms, trained and fine-tuned on: bit for bit the model that their files make."""
    x = {np.float32: LEVELS, np.uint8: GREY, bool: BITS}[dtype]
    paths = [tmp_path / name for name in ("x.npy", "y.npy", "t.npy", "u.npy")]
    for path, values in zip(paths, (x, Y, x[:20], Y[:20]), strict=True):
        np.save(path, values)
    spec = DataSpec(paths[0], paths[1], paths[2], paths[3], validation_fraction=0.1)
    assert (spec.data, spec.test_labels) == (str(paths[0]), str(paths[3]))
    sets = [
        open_dataset(spec, MPI.COMM_SELF, seed=2),
        open_dataset(np.asfortranarray(x), Y[:, None], MPI.COMM_SELF, test=(shuffled(x[:20]), Y[:20].astype(float)),
                     validation_fraction=0.1, seed=2),
        open_dataset(bytes(paths[0]), paths[1], test=(paths[2], str(paths[3])), validation_fraction=0.1, seed=2),
    ]  # fmt: skip
    for i, data in enumerate(sets):
        network = DeepBeliefNetwork(NetworkSpec((UNITS, 7), classes=3, seed=2), Grid(MPI.COMM_SELF))
        for _ in pretrain(network, data, TrainingSpec(epochs=2, batch_size=20)):
            pass
        for _ in fine_tune(network, data, FineTuneSpec(epochs=1)):
            pass
        assert data.test is not None
        assert len(data.test) == 20
        assert evaluate(network, data, data.test) == evaluate(network, sets[0], sets[0].test)
        assert network.run is not None
        network.run.data = None  # what files are known by, which arrays are not
        save(network, tmp_path / f"{i}.safetensors")
    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(3)}) == 1


def read(data: Dataset) -> None:
    for split in (data.train, data.test):
        if split is not None:
            DataFeed(split, np.arange(data.n_visible), scale=data.scale)


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(ModelparError) as caught:
        read(open_dataset(*arguments, **options))
    message = str(caught.value)
    assert "\n" not in message
    return message


MASKED = np.ma.masked_less(LEVELS, 0.1)
BROKEN = sparse.csr_array(BITS)
BROKEN.indices[3] = UNITS + 1


@pytest.mark.parametrize(
    ("X", "y", "options", "wanted"),
    [
        (MASKED, None, {}, "masked values"),
        (np.zeros(5), None, {}, "dimension"),
        (np.zeros((5, 2), [("a", "f4")]), None, {}, "type"),
        ([[1, "a"], [None, 2]], None, {}, "Python objects"),
        ([[1.0], [1.0, 2.0]], None, {}, "not an array of numbers"),
        (None, None, {}, "Python objects"),
        (LEVELS.astype(np.float16), None, {}, "float32"),
        (LEVELS.astype(complex), None, {}, "complex"),
        (GREY.astype(np.int64), None, {}, "must be 0 or 1"),
        (sparse.csr_array(GREY.astype(np.int64)), None, {}, "must be 0 or 1"),
        (duplicates_in_rows(np.full((4, 3), 2)), None, {}, "must be 0 or 1"),  # though every entry is 1
        (sparse.coo_array(([200, 100], ([0, 0], [1, 1])), shape=(3, 3), dtype=np.uint8), None, {}, "300"),
        (sparse.coo_array(np.arange(4)), None, {}, "1 dimension"),
        (BROKEN, None, {}, "corrupt"),
        (LEVELS[:0], None, {}, "empty"),
        (LEVELS, Y[:5], {}, "5 labels"),
        (LEVELS, Y + 0.5, {}, "integers"),
        (LEVELS, np.where(Y == 1, np.nan, Y), {}, "finite"),
        (LEVELS, Y.astype(str), {}, "np.unique"),
        (LEVELS, np.eye(3)[Y], {}, "2 dimensions"),
        (LEVELS, np.ma.masked_equal(Y, 0), {}, "masked"),
        (LEVELS, Y, {"test": LEVELS[:, 1:]}, "units"),
        (LEVELS, Y, {"test": (LEVELS, Y[:3])}, "3 labels"),
        (LEVELS, Y, {"test": (LEVELS, Y, Y)}, "pair"),
        (LEVELS, Y, {"test": GREY}, "255"),
        (LEVELS, Y, {"test_fraction": 2}, "test-fraction"),
        (DataSpec("digits"), None, {"test_fraction": 0.1}, "DataSpec"),
        ("digits", None, {"columns": [0]}, "columns"),
        (LEVELS, Y, {"columns": np.arange(3)}, "12 columns"),
        (LEVELS, Y, {"columns": np.zeros(UNITS, int)}, "different"),
        (LEVELS, Y, {"columns": np.arange(UNITS) + 1}, "unit 0"),
        (LEVELS, Y, {"columns": np.arange(UNITS) / 2}, "float64"),
        (Path("no/such.npy"), None, {}, "does not exist"),
        (b"no/such.npy", None, {}, "does not exist"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(X: Any, y: Any, options: Any, wanted: str) -> None:
    assert wanted in refusal(X, y, **options)


def test_own_columns_are_those_that_were_named() -> None:
    order = RNG.permutation(UNITS)
    whole = open_dataset(LEVELS, Y, seed=4)
    own = open_dataset(LEVELS[:, order], Y, columns=order, seed=4, test=None)
    out = np.empty((2, 3, 5), np.float32)
    for data, target in zip((whole, own), out, strict=True):
        DataFeed(data.train, np.array([7, 0, 11])).fill(np.arange(5), 0, target)
    assert np.array_equal(*out)


def test_write_packed_takes_every_form(tmp_path: Path) -> None:
    for i, form in enumerate([*DENSE.values(), *SPARSE.values()]):
        write_packed(tmp_path / "p.npz", form(BITS), labels=Y[:, None] if i % 2 else Y.tolist())
        with np.load(tmp_path / "p.npz") as file:
            assert np.array_equal(file["bits"], np.packbits(BITS, axis=1, bitorder="little"))
            assert np.array_equal(file["labels"], Y)


# -- masks, owners ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", sorted({*DENSE, *SPARSE} - {"pictures"}))
def test_masks_in_every_form(tmp_path: Path, form: str) -> None:
    wanted, given = Listed.from_mask(BITS), {**DENSE, **SPARSE}[form](BITS)
    before = arrays_of(given)
    result = Listed.from_mask(given)
    assert np.array_equal(result.offsets, wanted.offsets)
    assert np.array_equal(result.visible, wanted.visible)
    assert (result.n_visible, result.n_hidden) == BITS.shape
    links = Sparse.from_mask(np.asarray(given) if form == "tensor" else given)
    assert np.array_equal(links.mask.toarray(), BITS)
    assert all(np.array_equal(a, b) for a, b in zip(before, arrays_of(given), strict=True))
    if form in SPARSE and given.format not in ("lil", "dok"):
        sparse.save_npz(tmp_path / "m.npz", given)
    elif form not in SPARSE:
        np.savez(tmp_path / "m.npz", np.asarray(given))
    else:
        return
    spec = NetworkSpec((N, UNITS), connections=tmp_path / "m.npz")  # type: ignore[arg-type]
    network = DeepBeliefNetwork(spec, Grid(MPI.COMM_SELF))
    assert network.n_weights == [BITS.sum()]


@pytest.mark.parametrize(
    ("mask", "wanted"),
    [(np.full((2, 3), np.nan), "NaN"), (np.ones(3, bool), "dimension"), (np.full((2, 2), "a"), "<U1"),
     (np.ma.masked_equal(np.eye(3), 1), "masked")],
)  # fmt: skip
def test_masks_that_cannot_be(mask: Any, wanted: str) -> None:
    with pytest.raises(SpecError, match=wanted):
        Listed.from_mask(mask)
    with pytest.raises(GraphError):
        Sparse.from_mask(mask)


@pytest.mark.parametrize("dtype", [np.uint64, ">i4", np.int8])
def test_owners_in_every_form(tmp_path: Path, dtype: Any) -> None:
    owner = np.array([0, 2, 1, 1, 2])
    wanted = UnitLayout.from_owners(owner, 3)
    forms = (owner.astype(dtype), strided(owner[:, None].astype(dtype))[:, 0], owner.tolist(), np.ma.array(owner))
    for form in forms:
        assert UnitLayout.from_owners(form, 3) == wanted
    with pytest.raises(LayoutError, match="masked"):
        UnitLayout.from_owners(np.ma.masked_equal(owner, 2), 3)
    with pytest.raises(LayoutError, match="float64"):
        UnitLayout.from_owners(owner / 1.0, 3)
    save_placement(tmp_path / "p.npz", Partition((np.zeros(5, np.int64), np.zeros(2, np.int64)), 1))
    for path in (tmp_path / "p.npz", str(tmp_path / "p.npz"), bytes(tmp_path / "p.npz")):
        assert place(NetworkSpec((5, 2)), 1, MPI.COMM_SELF, file=path).layers[0].n_units == 5


# -- what is looked at before any value ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> DeepBeliefNetwork:
    return DeepBeliefNetwork(NetworkSpec((UNITS, 5, 4), classes=3), Grid(MPI.COMM_SELF))


class Untouchable(MappedTable):
    """A table that says when it is read."""

    def columns(self, unit_ids: Any) -> Any:
        raise AssertionError("values were read before the width was looked at")


def test_other_widths_are_seen_before_values(network: DeepBeliefNetwork) -> None:
    other = open_dataset(LEVELS[:, : UNITS - 2], Y)
    table = Untouchable("narrow", LEVELS[:, : UNITS - 2].copy())
    split = Split(table, np.arange(N), Y)
    fine = open_dataset(LEVELS, Y)
    object.__setattr__(other, "train", split)
    calls: list[Callable[[], Any]] = [
        lambda: list(pretrain(network, other, TrainingSpec(epochs=1))),
        lambda: list(fine_tune(network, other, FineTuneSpec(epochs=1))),
        lambda: evaluate(network, other, split),
        lambda: evaluate(network, fine, split),  # a split of another data set
    ]
    for call in calls:
        with pytest.raises(DataError, match="10 values"):
            call()


def test_units_and_samples_that_there_are_not() -> None:
    for X in (LEVELS, BITS, np.asfortranarray(GREY), sparse.csr_array(LEVELS)):
        data = open_dataset(X, Y)
        for ids in ([0, UNITS], [-1], [10**9], [0.5], [[1]]):
            for call in (data.train.table.columns, data.train.summary, lambda ids, data=data: DataFeed(data.train, ids),
                         lambda ids, data=data: column_moments(data.train, ids)):  # fmt: skip
                with pytest.raises(DataError):
                    call(np.array(ids))
        for rows in ([0, N], [-1], [0.5], [[1]]):
            with pytest.raises(DataError):
                Split(data.train.table, np.array(rows))
    with pytest.raises(DataError, match="labels"):
        Split(data.train.table, np.arange(3), Y[:2])
    with pytest.raises(DataError, match="labels"):
        Split(data.train.table, np.arange(2), np.array([0, -1]))
    with pytest.raises(DataError, match="no samples"):
        column_moments(Split(data.train.table, np.arange(0)), np.arange(3))


WRONG = [np.ones((UNITS + 1, 3)), np.ones((3, UNITS)), np.ones(UNITS), pack(np.ones((UNITS - 1, 3))), "text",
         [[1.0], [2.0, 3.0]], np.full((UNITS, 2), None), np.ma.masked_all((UNITS, 3))]  # fmt: skip


@pytest.mark.parametrize("v", WRONG, ids=lambda v: f"{type(v).__name__} {getattr(v, 'shape', '')}")
def test_activations_of_other_units(network: DeepBeliefNetwork, v: Any) -> None:
    rbm = network.rbms[0]
    calls: list[Callable[[Any], Any]] = [
        rbm.hidden_given_visible, rbm.hidden_input, network.propagate_up, network.reconstruct, network.logits,
        network.whole_visible, lambda v: rbm.sample_hidden(v, 0, 0, 0), lambda v: free_energy(rbm, v),  # type: ignore[arg-type]
        lambda v: pseudo_log_likelihood(rbm, v, np.arange(3)), lambda v: log_likelihood(rbm, v, 0.0),
        lambda v: rbm.contrastive_divergence(v, 0, TrainingSpec(), n_all_samples=3),
        rbm.visible_given_hidden, rbm.visible_input, network.generate_down,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(DataError) as caught:
            call(v)
        assert "\n" not in str(caught.value)


def test_activations_in_every_form(network: DeepBeliefNetwork) -> None:
    x = np.ascontiguousarray(BITS[:30].T).astype(np.float32)
    rbm = network.rbms[0]
    forms = [*(form(x) for name, form in DENSE.items() if name != "pictures"), x.astype(bool), x.astype(np.int64),
             x.astype(np.float64), x.astype(np.float16), x.tolist()]  # fmt: skip
    calls = (rbm.hidden_given_visible, network.reconstruct, network.logits, lambda v: free_energy(rbm, v))
    for call in calls:
        wanted = np.array(call(x))
        for form in forms:
            assert np.array_equal(call(form), wanted)


def test_other_things_that_networks_do_not_have(network: DeepBeliefNetwork, tmp_path: Path) -> None:
    rbm = network.rbms[0]
    with pytest.raises(LayoutError, match="0 to 4"):
        network.filters([5])
    for units in ([0.5], ["a"], np.ones((1, 2), int), np.ones(5, bool), [[1], [2, 3]]):
        with pytest.raises(LayoutError):
            network.filters(units)  # type: ignore[arg-type]
    assert np.array_equal(network.filters(np.array([3, 0], np.uint8)), network.filters([3, 0]))
    for n_rbms in (-1, 3, 0.5, "1"):
        with pytest.raises(SpecError, match="n_rbms"):
            network.propagate_up(np.ones((UNITS, 3)), n_rbms)  # type: ignore[arg-type]
    for log_z in ("x", None, np.nan):
        with pytest.raises(SpecError, match="log_partition"):
            log_likelihood(rbm, np.ones((UNITS, 3)), log_z)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="base biases"):
        log_partition_ais(rbm, 3, 3, base_bias=np.full(UNITS, "x"))
    for seed in (2**63, -1, 1.0):
        with pytest.raises(SpecError, match="seed"):
            open_dataset(LEVELS, seed=seed)  # type: ignore[arg-type]
    for comm in (3, MPI.COMM_NULL):
        for call in (lambda comm=comm: Grid(comm), lambda comm=comm: open_dataset(LEVELS, comm=comm)):
            with pytest.raises(SpecError, match="communicator"):
                call()
    with pytest.raises(SpecError, match="at least 0"):
        network.fantasies(-1, 2)
    with pytest.raises(SpecError, match="at most"):
        network.fantasies(2**64 - 1, 2)
    with pytest.raises(OutOfMemoryError, match="fantasies needs"):
        network.fantasies(2**45, 2)
    with pytest.raises(DataError, match="samples"):
        pseudo_log_likelihood(rbm, np.ones((UNITS, 3)), np.arange(2))
    with pytest.raises(DataError, match="base biases"):
        log_partition_ais(rbm, 3, 3, base_bias=np.zeros(UNITS - 1))
    for path in (tmp_path / "a", str(tmp_path / "b"), bytes(tmp_path / "c")):
        save(network, path)
        assert load(path, network.grid).spec == network.spec
    for connections in ("dense", "random:2"):
        connected = DeepBeliefNetwork(NetworkSpec((UNITS, 5, 4), connections=connections), network.grid)
        save(connected, tmp_path / "connected")
        for sizes in ((UNITS, 5), (UNITS, 6, 4), (UNITS, 5, 4, 3)):
            with pytest.raises(LayoutError):
                load(tmp_path / "connected", network.grid, NetworkLayout.blocks(sizes, 1))
    with pytest.raises(SpecError, match="open_dataset"):
        DataSpec(LEVELS)  # type: ignore[arg-type]


def test_unpacked_gzip_and_path_objects(tmp_path: Path) -> None:
    header = bytes([0, 0, 8, 2]) + b"".join(n.to_bytes(4, "big") for n in GREY.shape)
    (tmp_path / "x.gz").write_bytes(gzip.compress(header + GREY.tobytes()))
    assert np.array_equal(seen(tmp_path / "x.gz")[0], seen(GREY)[0])
