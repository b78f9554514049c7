"""Data files that cannot be used: each one clear line, found when the file is opened, read or checked.

Modules: modelpar/data/idx, modelpar/data/named, modelpar/data/opening
"""

from __future__ import annotations

import gzip
import hashlib
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from mpi4py import MPI

from modelpar.data import DataFeed, check_range, named, open_dataset
from modelpar.errors import DataError, SpecError
from modelpar.spec import DataSpec

GREY = np.random.default_rng(7).integers(0, 256, (40, 5, 5), dtype=np.uint8)
HEADER = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in GREY.shape)
IDX = HEADER + GREY.tobytes()


def problem(path: Path | str, visible: str = "bernoulli", **options: Any) -> str:
    """The message of the DataError of opening, reading and checking a file; it has one line."""

    def use() -> None:
        data = open_dataset(DataSpec(data=str(path), **options))
        DataFeed(data.train, np.arange(data.n_visible))
        check_range(data, np.arange(data.n_visible), visible)

    with pytest.raises(DataError) as caught:
        use()
    message = str(caught.value)
    assert "\n" not in message
    return message


def saved(path: Path, values: Any, **more: Any) -> Path:
    """A .npy or .npz file, by the path's suffix."""
    if path.suffix == ".npz":
        np.savez_compressed(path, data=values, **more)
    else:
        np.save(path, values)
    return path


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("mnits", "did you mean mnist"), ("digit", "did you mean digits"), ("fashion", "fashion-mnist"),
     ("bar:8", "did you mean bars"), ("bars:", "needs the size"), ("patterns:3", "sides must be at least 4"),
     ("qqq", "neither a data set nor a file"), ("no/such/file.npy", "does not exist")],
)  # fmt: skip
def test_unknown_names(name: str, wanted: str) -> None:
    assert wanted in problem(name)


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    saved(tmp_path / "digits.npy", GREY)
    assert "digits.npy?" in problem(tmp_path / "digit.npy")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [(b"", "is empty"), (b"hello world", "none of .npy, .npz, IDX, FASTA"),
     (b"\0\0\x07\x03" + IDX[4:], "begins with 00 00 07 03"),
     (IDX[:-7], "is truncated"), (IDX + b"x", "its header tells of"), (HEADER[:9], "is truncated"),
     (gzip.compress(IDX)[:-30], "is truncated"), (gzip.compress(IDX[:-5]), "is truncated"),
     (gzip.compress(IDX + b"x"), "goes on after"),
     (gzip.compress(IDX[:400]) + gzip.compress(IDX[400:-1]), "is truncated"),
     (gzip.compress(b"hello"), "unpacks to 68 65 6c 6c, which is none of"),
     (bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3]), "at least two"),
     (bytes([0, 0, 8, 2, 0, 0, 0, 0, 0, 0, 0, 3]), "is empty: its shape is 0 x 3"),
     (b"PK\x03\x04nonsense", "corrupt"), (b"\x93NUMPYnonsense", "damaged header")],
    ids=lambda x: x if isinstance(x, str) else "",
)  # fmt: skip
def test_damaged_files(tmp_path: Path, content: bytes, wanted: str) -> None:
    (tmp_path / "file").write_bytes(content)
    message = problem(tmp_path / "file")
    assert wanted in message
    assert str(tmp_path / "file") in message


def test_corrupt_gzip(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(IDX))
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "file.gz").write_bytes(bytes(content))
    assert "corrupt" in problem(tmp_path / "file.gz")


def test_truncated_and_corrupt_arrays(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npy", GREY)
    path.write_bytes(path.read_bytes()[:-100])
    assert "is truncated" in problem(path)
    path = saved(tmp_path / "x.npz", GREY)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    assert "corrupt" in problem(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize(
    ("values", "wanted"),
    [(np.arange(9.0), "at least two"), (np.array([["a", 1]], object), "Python objects"),
     (np.array([["a", "b"]]), "type <U1"), (np.zeros((3, 0)), "is empty"), (np.ones((9, 4), np.float16), "float32"),
     (np.ones((9, 4), complex), "type complex128"), (np.arange(20).reshape(5, 4), "must be 0 or 1"),
     (-np.eye(5, dtype=np.int8), "must be 0 or 1"), (np.eye(9, dtype=np.uint8), "astype(bool)"),
     (np.eye(9) * 2, "values from 0 to 2"), (np.eye(9) - 0.5, "values from -0.5"),
     (np.where(np.eye(9), np.nan, 0), "value nan"), (np.where(np.eye(9), np.inf, 0), "value inf")],
    ids=lambda x: x if isinstance(x, str) else "",
)  # fmt: skip
def test_values_that_units_cannot_have(tmp_path: Path, suffix: str, values: Any, wanted: str) -> None:
    assert wanted in problem(saved(tmp_path / f"x{suffix}", values), test_fraction=0.0)


def test_the_place_of_a_value_that_is_not_finite(tmp_path: Path) -> None:
    values = np.zeros((50, 9), np.float32)
    values[31, 7] = -np.inf
    message = problem(saved(tmp_path / "x.npy", values), visible="gaussian", test_fraction=0.0)
    assert "value -inf (sample 31, unit 7)" in message


def test_gaussian_units_take_any_finite_value(tmp_path: Path) -> None:
    data = open_dataset(str(saved(tmp_path / "x.npy", np.linspace(-9, 9, 90).reshape(30, 3))))
    check_range(data, np.arange(3), "gaussian")


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [(np.arange(39), "39 labels, but there are 40"), (np.arange(40) - 1, "negative class -1"),
     (np.arange(40) / 2, "must be integers"), (np.arange(80).reshape(40, 2), "2 dimensions"),
     (np.array(["a"] * 40), "must be integers"), (np.arange(40) * 9999, "at most 65535"),
     (np.array([None] * 40), "Python objects")],
    ids=lambda x: x if isinstance(x, str) else "",
)  # fmt: skip
def test_labels_that_do_not_fit(tmp_path: Path, labels: Any, wanted: str) -> None:
    assert wanted in problem(saved(tmp_path / "x.npz", GREY, labels=labels))
    np.save(tmp_path / "y.npy", labels)
    assert wanted in problem(saved(tmp_path / "x.npy", GREY), labels=str(tmp_path / "y.npy"))


def test_missing_labels_and_test_sets_that_do_not_fit(tmp_path: Path) -> None:
    data = saved(tmp_path / "x.npy", GREY)
    assert "y.npy does not exist" in problem(data, labels=str(tmp_path / "y.npy"))
    assert "without test data" in problem(data, test_labels=str(data))
    assert "has 4 units" in problem(data, test_data=str(saved(tmp_path / "t.npy", np.zeros((3, 4), np.uint8))))
    assert "same type" in problem(data, test_data=str(saved(tmp_path / "f.npy", np.zeros((3, 25)))))


def test_archives_whose_samples_are_not_clear(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=GREY, b=GREY)
    assert "arrays a, b" in problem(tmp_path / "x.npz")


def test_corrupt_sparse_matrices(tmp_path: Path) -> None:
    matrix = scipy.sparse.csr_array(np.eye(9))
    good = {"format": b"csr", "shape": (9, 9), "data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
    for key, wrong, wanted in (
        ("indices", matrix.indices + 1, "outside of its 9 columns"), ("indptr", matrix.indptr * 2, "row pointers"),
        ("indptr", matrix.indptr[:-1], "row pointers"), ("indices", matrix.indices[1:], "another number"),
        ("data", np.full(9, np.nan), "value nan"), ("shape", (9,), "at least two"),
    ):  # fmt: skip
        arrays: dict[str, Any] = {**good, key: wrong}
        np.savez(tmp_path / "x.npz", **arrays)
        assert wanted in problem(tmp_path / "x.npz", test_fraction=0.0)


@pytest.mark.parametrize("kind", ["csc", "bsr", "coo", "dia"])
def test_sparse_matrices_with_indices_out_of_range(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.npz"
    scipy.sparse.save_npz(path, scipy.sparse.csr_array(np.eye(9, dtype=np.uint8)).asformat(kind))
    with np.load(path) as archive:
        good = dict(archive)
    for key in good.keys() & {"indices", "indptr", "row", "col", "coords", "offsets"}:
        for wrong in (10**9, -(10**9)):
            values = good[key].copy()
            values.flat[3 % values.size] = wrong
            np.savez(path, **{**good, key: values})
            if kind == "dia":  # a diagonal that is outside is empty
                data = open_dataset(DataSpec(data=str(path), test_fraction=0.0))
                DataFeed(data.train, np.arange(9))
            else:
                message = problem(path, test_fraction=0.0)
                assert "save it again" in message


@pytest.mark.parametrize("key", ["data", "indices", "indptr"])
@pytest.mark.parametrize("wrong", [np.float64(1), np.full(9, 0.5), np.full((9, 1), 1), np.full(10, 2**62)])
def test_sparse_matrices_whose_arrays_are_of_another_kind(tmp_path: Path, key: str, wrong: Any) -> None:
    matrix = scipy.sparse.csr_array(np.eye(9, dtype=np.uint8))
    arrays = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr, key: wrong}
    for kind in (b"csr", b"csc"):
        np.savez(tmp_path / "x.npz", **{"format": kind, "shape": (9, 9), **arrays})
        if key != "data" or np.shape(wrong) != (9,):
            assert "save it" in problem(tmp_path / "x.npz", test_fraction=0.0)


@pytest.mark.parametrize("kind", [b"csr", b"csc", "\xe9"])
@pytest.mark.parametrize("shape", ["9 x 9", ["9", "9"], (9.0, 9.5), (-9, 9), (-9, -9), (9, 2**62), (9, 9, 9), 9])
def test_sparse_matrices_whose_shape_is_none(tmp_path: Path, shape: Any, kind: Any) -> None:
    matrix = scipy.sparse.csr_array(np.eye(9, dtype=np.uint8))
    arrays = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
    np.savez(tmp_path / "x.npz", **{"format": kind, "shape": shape, **arrays})
    message = problem(tmp_path / "x.npz")
    assert "integers" in message or "dimension" in message


def test_damaged_headers_of_arrays(tmp_path: Path) -> None:
    good = np.lib.format.magic(1, 0)
    for text in (
        "{'descr': '|u1', 'fortran_order': False, 'shape': (40, 5, 5",  # TokenError
        "{'descr': '|u1', 'fortran_order'; False, 'shape': (40, 25), }", "{'descr': '|u1', 1: 2}",  # SyntaxError
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-40, -25), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 1180591620717411303424), }",
        "{'descr': [(1, 2)], 'fortran_order': False, 'shape': (40, 25), }", "(" * 5000, "  x\n y",
    ):  # fmt: skip
        content = good + len(text).to_bytes(2, "little") + text.encode() + GREY.tobytes()
        (tmp_path / "x.npy").write_bytes(content)
        assert "damaged header" in problem(tmp_path / "x.npy")
        assert "damaged header" in problem("digits", labels=str(tmp_path / "x.npy"))
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("data.npy", content)
        assert "damaged header" in problem(tmp_path / "x.npz")


def test_any_changed_byte_of_a_header_is_one_clear_line_or_harmless(tmp_path: Path) -> None:
    for path in (saved(tmp_path / "x.npy", GREY), saved(tmp_path / "x.npz", GREY)):
        content = path.read_bytes()
        ends = [*range(130), *range(len(content) - 110, len(content))]
        for i in ends if path.suffix == ".npz" else ends[:130]:
            for flip in (1, 8, 0x40, 0xFF):
                changed = bytearray(content)
                changed[i] ^= flip
                path.write_bytes(bytes(changed))
                try:
                    data = open_dataset(str(path))
                    DataFeed(data.train, np.arange(data.n_visible))
                except DataError as error:
                    assert "\n" not in str(error)  # noqa: PT017


def test_archives_of_another_method_and_encrypted_ones(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npz", GREY)
    content = path.read_bytes()
    entry = content.index(b"PK\x01\x02")
    for place, value in ((8, 1), (8, 0x20), (8, 0x40), (10, 9), (10, 12), (10, 14), (10, 0), (10, 99), (42, 255)):
        changed = bytearray(content)
        changed[entry + place] = value
        path.write_bytes(bytes(changed))
        message = problem(path)
        assert str(path) in message
        assert "corrupt" in message or "damaged" in message or "truncated" in message


@pytest.mark.parametrize(
    "shape", [(2**32 - 1,) * 3, (2**32 - 1, 1, 1), (40 + 2**28, 5, 5), (40, 2**31, 2**31), (41, 5, 5)]
)
def test_idx_headers_that_tell_of_more_than_there_is(tmp_path: Path, shape: tuple[int, ...]) -> None:
    for code in (8, 0x0C):
        content = bytes([0, 0, code, 3]) + b"".join(n.to_bytes(4, "big") for n in shape) + GREY.tobytes()
        for name, packed in (("x", content), ("x.gz", gzip.compress(content))):
            (tmp_path / name).write_bytes(packed)
            tracemalloc.start()
            try:
                assert "truncated" in problem(tmp_path / name)
                assert tracemalloc.get_traced_memory()[1] < 1 << 24
            finally:
                tracemalloc.stop()


def test_gzip_of_many_parts_is_counted(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(IDX[:400]) + gzip.compress(IDX[400:]) + bytes(7))
    assert open_dataset(str(tmp_path / "x.gz")).n_visible == 25


@pytest.fixture
def tiny_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for $MODELPAR_DATA, with a verified set of four small files in ``mnist``."""
    monkeypatch.chdir(tmp_path)  # short paths, which messages show whole
    folder = Path("data") / "mnist"
    folder.mkdir(parents=True)
    labels = bytes([0, 0, 8, 1, 0, 0, 0, 40]) + bytes(i % 10 for i in range(40))
    plain = [IDX, labels, IDX, labels]
    packed = [gzip.compress(content, mtime=0) for content in plain]
    for file, content in zip(named.FILES, packed, strict=True):
        (folder / f"{file}.gz").write_bytes(content)
    sums = [tuple(hashlib.md5(content).hexdigest() for content in contents) for contents in (packed, plain)]
    monkeypatch.setitem(named.SETS, "mnist", named.NamedSet("https://example.org", sums[0], sums[1]))
    monkeypatch.setenv("MODELPAR_DATA", str(folder.parent))
    monkeypatch.setattr(named, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(named, "SYSTEM", (tmp_path / "system",))
    return folder


def test_named_sets_are_found_in_a_folder_directly_in_the_cache_packed_and_plain(
    tiny_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_dataset("mnist").n_classes == 10
    monkeypatch.setenv("MODELPAR_DATA", str(tiny_set))
    assert len(open_dataset("mnist").train) == 40
    monkeypatch.delenv("MODELPAR_DATA")
    assert "MODELPAR_DATA (which is not set)" in problem("mnist")
    tiny_set.rename(tiny_set.parent.parent / "cache")
    folder = tiny_set.parent.parent / "cache"
    assert len(open_dataset("mnist").train) == 40
    for file in named.FILES:
        (folder / file).write_bytes(gzip.decompress((folder / f"{file}.gz").read_bytes()))
        (folder / f"{file}.gz").unlink()
    assert len(open_dataset("mnist").train) == 40


def test_named_sets_packed_again_pass_and_changed_ones_do_not(tiny_set: Path) -> None:
    path = tiny_set / f"{named.FILES[0]}.gz"
    path.write_bytes(gzip.compress(IDX, 1, mtime=5))
    assert len(open_dataset("mnist").train) == 40
    path.write_bytes(gzip.compress(IDX[:-1] + b"\0"))
    assert "md5 sum" in problem("mnist")
    path.write_bytes(b"no gzip")
    assert "corrupt" in problem("mnist")


def test_named_sets_are_known_by_their_content_whatever_the_packing_says(tiny_set: Path) -> None:
    images, labels = (tiny_set / f"{name}.gz" for name in named.FILES[:2])
    images.write_bytes(IDX)  # unpacked by a browser, which left the name as it was
    labels.rename(tiny_set / "train-labels.idx1-ubyte.gz")  # as some unpack it
    assert len(open_dataset("mnist").train) == 40
    images.write_bytes(gzip.compress(IDX[:-1] + b"\0"))
    (tiny_set / named.FILES[0]).write_bytes(IDX)  # the right one beside a wrong one
    assert len(open_dataset("mnist").train) == 40
    images.unlink()
    (tiny_set / named.FILES[0]).write_bytes(IDX[:-1] + b"\0")
    message = problem("mnist")
    assert "unpacked it holds 40 x 5 x 5 values whose md5 sum is" in message
    assert f"--data {tiny_set}" in message
    assert len(open_dataset(str(tiny_set)).train) == 40


def test_named_sets_are_found_where_distributions_put_them(tiny_set: Path, tmp_path: Path) -> None:
    tiny_set.parent.rename(tmp_path / "system")
    assert len(open_dataset("mnist").train) == 40


@pytest.mark.parametrize("name", named.SETS)
def test_all_contents_of_named_sets_are_known_and_differ(name: str) -> None:
    sums = [known for kept in named.SETS.values() for known in (*kept.compressed, *kept.plain)]
    assert len(named.SETS[name].plain) == len(named.FILES)
    assert len(set(sums)) == len(sums)


def test_one_set_is_not_taken_for_the_other(tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPAR_DATA", str(tiny_set))
    assert "is a file of mnist, not of fashion-mnist" in problem("fashion-mnist")


def test_absent_sets_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # short paths, which messages show whole
    monkeypatch.setenv("MODELPAR_DATA", "./data")
    monkeypatch.setattr(named, "cache_folder", lambda: Path("./cache"))
    monkeypatch.setattr(named, "SYSTEM", (Path("./system"),))
    message = problem("fashion-mnist")
    assert str(Path("./system") / "fashion-mnist") in message
    assert "download train-images-idx3-ubyte.gz" in message
    assert "(./data)" in message


def test_with_a_communicator_the_error_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(IDX[:-1])
    with pytest.raises(DataError, match="truncated"):
        open_dataset(str(tmp_path / "file"), MPI.COMM_SELF)


def test_an_empty_name_is_not_the_working_folder_and_a_hint_is_one_line(tmp_path: Path) -> None:
    for wrong in (lambda: open_dataset(""), lambda: open_dataset(b""), lambda: open_dataset(np.eye(3), ""),
                  lambda: open_dataset(np.eye(3), test=(np.eye(3), b"")),
                  lambda: DataSpec(data=""), lambda: DataSpec(test_labels="")):  # fmt: skip
        with pytest.raises(SpecError, match="empty, but must name"):
            wrong()
    np.save(tmp_path / "a\nbc.npy", np.eye(3))
    with pytest.raises(DataError, match=r"did you mean .*a\\nbc.npy") as caught:
        open_dataset(tmp_path / "abc.npy")
    assert "\n" not in str(caught.value)
