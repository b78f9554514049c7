"""Checkpoint files: the bytes of a plain writer from every grid, opened at every other, and damage found by all.

Modules: modelpar/checkpoint/blocks, modelpar/checkpoint/header, modelpar/checkpoint/local_file,
modelpar/checkpoint/structure
"""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numba
import numpy as np
import pytest
from mpi4py import MPI
from safetensors.numpy import load_file

from modelpar.checkpoint import blocks as blocks_module
from modelpar.checkpoint.files import TensorBlock, read_header, read_into, write
from modelpar.comm.grid import Grid
from modelpar.errors import CheckpointError
from modelpar.files.partials import partial_path
from modelpar.ownership.layout import UnitLayout

pytestmark = pytest.mark.ranks

SIZE = MPI.COMM_WORLD.size
SHARDS = [n for n in range(1, SIZE + 1) if SIZE % n == 0]
METADATA = {"format": "np", "spec": '{"layers": [13, 7]}', "name": 'a "quoted" ü', "zero": ""}
HOLDS = ("column", "row")
LAYOUTS = pytest.mark.parametrize(
    ("owners", "holds", "chunks"),
    [
        ("block", "column", "one"),
        ("block", "row", "many"),
        ("strided", "column", "many"),
        ("random", "column", "many"),
        ("random", "row", "one"),
        ("empty", "column", "one"),
        ("empty", "row", "many"),
    ],
    indirect=["chunks"],
)


def tensors() -> dict[str, np.ndarray]:
    """The same values on every rank: all types, odd sizes, nothing, and bit patterns that == would not tell apart."""
    rng = np.random.default_rng(5)
    W = rng.standard_normal((13, 7)).astype(np.float32)
    W[2, 3], W[4, 5], W[0, 0] = np.nan, -0.0, np.inf
    return {
        "rbm.0.W": W,
        "rbm.0.b": rng.standard_normal(13).astype(np.float32),
        "chains": rng.standard_normal((7, 5)),
        "counts": rng.integers(-(2**62), 2**62, 13),
        "mask": rng.integers(0, 256, (13, 7), dtype=np.uint8),
        "step": np.array([41], np.int64),
        "nothing": np.empty((0, 4), np.float32),
        "no.columns": np.empty((3, 0), np.float64),
    }


def reference_checksum(array: np.ndarray) -> str:
    """The documented formula, all elements at once."""
    z = np.frombuffer(array.tobytes(), f"<u{array.itemsize}").astype(np.uint64)
    z = z + np.arange(1, len(z) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return f"{int(np.sum(z ^ (z >> np.uint64(31)), dtype=np.uint64)):016x}"


def reference_file(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """The file as one process writes it that knows nothing of ranks."""
    codes = {"float32": "F32", "float64": "F64", "int64": "I64", "uint8": "U8"}
    names = sorted(sorted(arrays), key=lambda name: -arrays[name].itemsize)
    known = metadata | {f"checksum.{name}": reference_checksum(arrays[name]) for name in names}

    def header(own: str) -> bytes:
        everything: dict = {"__metadata__": dict(sorted({**known, "header_checksum": own}.items()))}
        at = 0
        for name in names:
            array = arrays[name]
            stop = at + array.nbytes
            everything[name] = {"dtype": codes[array.dtype.name], "shape": [*array.shape], "data_offsets": [at, stop]}
            at = stop
        text = json.dumps(everything, separators=(",", ":"))
        while (8 + len(text)) % 64:
            text += " "
        return text.encode()

    text = header(reference_checksum(np.frombuffer(header("0" * 16), np.uint8)))
    return len(text).to_bytes(8, "little") + text + b"".join(arrays[name].tobytes() for name in names)


def owned_by(n: int, grid: Grid, owners: str) -> np.ndarray:
    """Ids of the grid's shard among ``n``; the last shard has none where owners are "empty"."""
    shards = grid.n_shards
    owner = {
        "block": np.arange(n) * shards // max(n, 1),
        "strided": np.arange(n) % shards,
        "random": np.random.default_rng(n).integers(0, shards, n),
        "empty": np.arange(n) % max(shards - 1, 1),
    }[owners]
    return UnitLayout.from_owners(owner, shards).owned(grid.shard)


def blocks_of(arrays: dict[str, np.ndarray], grid: Grid, owners: str, holds: str) -> list[TensorBlock]:
    """This rank's blocks: its columns (or rows) of matrices, its elements of vectors, in no particular order."""
    blocks = []
    rng = np.random.default_rng(grid.comm.rank)
    for name, array in arrays.items():
        by_column = array.ndim == 2 and holds == "column"
        rows = np.arange(array.shape[0]) if by_column else owned_by(array.shape[0], grid, owners)
        rows = rng.permutation(rows)
        if array.ndim == 1:
            blocks.append(TensorBlock(name, array.shape, array[rows], rows))
            continue
        columns = rng.permutation(owned_by(array.shape[1], grid, owners) if by_column else np.arange(array.shape[1]))
        block = np.ascontiguousarray(array[np.ix_(rows, columns)])
        blocks.append(TensorBlock(name, array.shape, block, rows, columns))
    return blocks


def blank(blocks: list[TensorBlock]) -> list[TensorBlock]:
    """The same blocks with nothing of their values in them."""
    return [TensorBlock(b.name, b.shape, np.full_like(b.block, 77), b.rows, b.columns) for b in blocks]


def same(some: list[TensorBlock], others: list[TensorBlock]) -> bool:
    return all(a.block.tobytes() == b.block.tobytes() for a, b in zip(some, others, strict=True))


def raised(action: Callable[[], object]) -> str | None:
    """The message of the CheckpointError, or None."""
    try:
        action()
    except CheckpointError as error:
        return str(error)
    return None


@pytest.fixture
def folder(comm: MPI.Intracomm, tmp_path: Path) -> Path:
    """One folder for all ranks."""
    return comm.bcast(tmp_path)


@pytest.fixture
def make_grid(comm: MPI.Intracomm) -> Iterator[Callable[[int], Grid]]:
    grids: list[Grid] = []

    def make(shards: int) -> Grid:
        grids.append(Grid(comm, model_shards=shards, replicas=comm.size // shards))
        return grids[-1]

    yield make
    for grid in grids:
        grid.free()


@pytest.fixture
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 24 bytes cut even single rows of these small matrices."""
    if request.param == "many":
        monkeypatch.setattr(blocks_module, "chunk_bytes", lambda n_shards: 24)
        monkeypatch.setattr(blocks_module, "MIN_PART", 1)


@pytest.mark.usefixtures("chunks")
@LAYOUTS
@pytest.mark.parametrize("shards", SHARDS)
def test_the_bytes_of_a_plain_writer(shards, owners, holds, folder, make_grid, agree):
    grid = make_grid(shards)
    write(folder / "model.safetensors", grid, blocks_of(tensors(), grid, owners, holds), METADATA)
    expected = reference_file(tensors(), METADATA)
    agree((folder / "model.safetensors").read_bytes() == expected, "bytes differ")
    agree(expected.index(b"}}") < len(expected) and (8 + int.from_bytes(expected[:8], "little")) % 64 == 0)
    agree(sorted(path.name for path in folder.iterdir()) == ["model.safetensors"], "something was left behind")


@pytest.mark.usefixtures("chunks")
@LAYOUTS
@pytest.mark.parametrize("written_at", SHARDS)
@pytest.mark.parametrize("opened_at", SHARDS)
def test_opened_at_another_grid(written_at, opened_at, owners, holds, folder, comm, make_grid, agree):
    path, before, after = folder / "model.safetensors", make_grid(written_at), make_grid(opened_at)
    write(path, before, blocks_of(tensors(), before, "random", "column"), METADATA)
    expected = blocks_of(tensors(), after, owners, holds)
    header, result = read_header(path, comm), blank(expected)
    read_into(path, after, header, result)
    agree(same(result, expected), "values differ")
    agree(header.metadata == METADATA)
    agree({name: (d, s) for name, (d, s, _, _) in header.tensors.items()}
          == {name: (a.dtype, a.shape) for name, a in tensors().items()})  # fmt: skip


def test_tiles_of_rows_and_columns(folder, comm, make_grid, agree):
    """Blocks that hold neither whole rows nor whole columns."""
    W = np.arange(9 * 11, dtype=np.float64).reshape(9, 11)
    grid = make_grid(SIZE)
    side = 2 if SIZE == 4 else 1
    rows = np.arange(grid.shard % side, 9, side)
    columns = np.arange(grid.shard // side, 11, SIZE // side)
    tile = TensorBlock("W", W.shape, np.ascontiguousarray(W[np.ix_(rows, columns)]), rows, columns)
    write(folder / "tiles", grid, [tile], {})
    agree((folder / "tiles").read_bytes() == reference_file({"W": W}, {}))
    result = blank([tile])
    read_into(folder / "tiles", grid, read_header(folder / "tiles", comm), result)
    agree(same(result, [tile]))


@pytest.mark.slow
@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="millions of elements, one by one")
def test_many_chunks_of_real_size(folder, comm, make_grid, agree):
    """Several exchanges with the usual buffers, and rows longer than a chunk."""
    rng = np.random.default_rng(0)
    arrays = {"tall": rng.integers(0, 255, (32_000, 301), np.uint8), "long": rng.integers(0, 9, (2, 1_060_001))}
    grid = make_grid(SIZE)
    written = blocks_of(arrays, grid, "strided", "column")
    write(folder / "large", grid, written, {})
    loaded = load_file(folder / "large")
    agree(all(np.array_equal(loaded[name], arrays[name]) for name in arrays))
    result = blank(written)
    read_into(folder / "large", grid, read_header(folder / "large", comm), result)
    agree(same(result, written))


def test_an_ordinary_safetensors_file(folder, make_grid, agree):
    grid = make_grid(SIZE)
    write(folder / "model.safetensors", grid, blocks_of(tensors(), grid, "random", "column"), METADATA)
    loaded = load_file(folder / "model.safetensors")
    agree(set(loaded) == set(tensors()))
    for name, array in tensors().items():
        agree(loaded[name].dtype == array.dtype and loaded[name].shape == array.shape)
        agree(loaded[name].tobytes() == array.tobytes(), name)


def test_some_of_the_tensors(folder, comm, make_grid, agree):
    grid = make_grid(1)
    path, blocks = folder / "model.safetensors", blocks_of(tensors(), grid, "block", "row")
    write(path, grid, blocks, METADATA)
    result = blank(blocks[:2])
    read_into(path, grid, read_header(path, comm), result, subset=True)
    agree(same(result, blocks[:2]))


# ---- damage


def flip(data: bytes, at: int, bit: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def data_start(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing in it": (lambda data: b"", "not a safetensors file"),
    "some text": (lambda data: b"Epoch 1: loss 0.3\n" * 9, "not a safetensors file"),
    "half a header": (lambda data: data[:100], "truncated"),
    "one byte short": (lambda data: data[:-1], "truncated"),
    "no data": (lambda data: data[: data_start(data)], "truncated"),
    "one byte more": (lambda data: data + b"\0", "foreign"),
    "length of the header": (lambda data: flip(data, 0, 6), ""),
    "broken JSON": (lambda data: flip(data, 8), "JSON"),
    "metadata": (lambda data: flip(data, data.index(b"layers")), "checksum"),
    "padding": (lambda data: data[: data_start(data) - 1] + b"\t" + data[data_start(data) :], "checksum"),
    "the checksum's name": (lambda data: data.replace(b"header_checksum", b"header_shecksum"), "header checksum"),
    "first bit of the data": (lambda data: flip(data, data_start(data)), "'chains'"),
    "last bit of the data": (lambda data: flip(data, -1 % len(data), 7), "'mask'"),
    "sign of a zero": (lambda data: flip(data, data.index(np.float32(-0.0).tobytes(), data_start(data)) + 3, 7), "'"),
}


@pytest.mark.parametrize("holds", HOLDS)
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_error_on_all(kind, holds, folder, comm, make_grid, agree):
    grid, path = make_grid(SIZE), folder / "model.safetensors"
    damage, expected = DAMAGE[kind]
    if comm.rank == 0:
        path.write_bytes(damage(reference_file(tensors(), METADATA)))
    result = blank(blocks_of(tensors(), grid, "strided", holds))
    message = raised(lambda: read_into(path, grid, read_header(path, comm), result))
    agree(message is not None and expected in message and str(path) in message and "\n" not in message, f"{message}")
    agree(comm.bcast(message) == message, "messages differ")


def test_any_bit_of_the_header(folder, comm, make_grid, agree):
    data, path = reference_file(tensors(), METADATA), folder / "model.safetensors"
    for at in range(0, data_start(data), 19):
        if comm.rank == 0:
            path.write_bytes(flip(data, at, at % 8))
        agree(raised(lambda: read_header(path, comm)) is not None, f"bit {at % 8} of byte {at} went unseen")


@pytest.mark.parametrize("kind", ["missing", "extra", "shape", "type"])
def test_another_network(kind, folder, comm, make_grid, agree):
    grid, path = make_grid(SIZE), folder / "model.safetensors"
    arrays = tensors()
    if comm.rank == 0:
        path.write_bytes(reference_file(arrays, METADATA))
    if kind == "missing":
        arrays["rbm.1.W"] = np.zeros((3, 5), np.float32)
    elif kind == "extra":
        del arrays["rbm.0.b"]
    else:
        b = arrays["rbm.0.b"]
        arrays["rbm.0.b"] = b[:-1] if kind == "shape" else b.astype(np.float64)
    result = blank(blocks_of(arrays, grid, "block", "row"))
    message = raised(lambda: read_into(path, grid, read_header(path, comm), result))
    agree(message is not None and "another network" in message and "'rbm." in message, f"{message}")


@pytest.mark.parametrize("kind", ["no file", "a directory"])
def test_nothing_to_read(kind, folder, comm, agree):
    message = raised(lambda: read_header(folder / "absent" if kind == "no file" else folder, comm))
    agree(message is not None and "directory" in message, f"{message}")


def test_shortened_after_its_header_was_read(folder, comm, make_grid, agree):
    grid, path = make_grid(SIZE), folder / "model.safetensors"
    if comm.rank == 0:
        path.write_bytes(reference_file(tensors(), METADATA))
    header = read_header(path, comm)
    comm.barrier()
    if comm.rank == 0:
        path.write_bytes(path.read_bytes()[:-3])
    comm.barrier()
    agree(raised(lambda: read_into(path, grid, header, blank(blocks_of(tensors(), grid, "block", "row")))) is not None)


# ---- what cannot be written


@pytest.mark.parametrize("target", ["absent/model.safetensors", "."])
def test_nowhere_to_write(target, folder, make_grid, agree):
    grid = make_grid(SIZE)
    message = raised(lambda: write(folder / target, grid, blocks_of(tensors(), grid, "block", "row"), METADATA))
    agree(message is not None and "directory" in message, f"{message}")
    agree(list(folder.iterdir()) == [])


@pytest.mark.parametrize("rank", sorted({0, SIZE - 1}))
def test_one_rank_cannot_write(rank, folder, comm, make_grid, agree):
    """A limit on the size of files stands for a full disk: the old checkpoint stays, and no half of a new one."""
    grid, path = make_grid(SIZE), folder / "model.safetensors"
    write(path, grid, blocks_of(tensors(), grid, "block", "column"), METADATA)
    arrays = {"W": np.ones((1000, 256), np.float32)}
    blocks = blocks_of(arrays, grid, "strided", "column")
    old = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if comm.rank == rank:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[0][1]))
    message = raised(lambda: write(path, grid, blocks, METADATA))
    resource.setrlimit(resource.RLIMIT_FSIZE, old[0])
    signal.signal(signal.SIGXFSZ, old[1])
    agree(message is not None and "cannot be written" in message and comm.bcast(message) == message, f"{message}")
    agree(path.read_bytes() == reference_file(tensors(), METADATA), "the old checkpoint is gone")
    agree([entry.name for entry in folder.iterdir()] == ["model.safetensors"])
    write(path, grid, blocks, METADATA)
    agree(path.read_bytes() == reference_file(arrays, METADATA))


def test_what_a_killed_run_left_is_replaced(folder, comm, make_grid, agree):
    grid, path = make_grid(SIZE), folder / "model.safetensors"
    if comm.rank == 0:
        left = partial_path(path).name.replace(f"-{os.getpid():x}-", "-0-")  # of a process that there is not
        (folder / left).write_bytes(b"x" * 100_000)
        path.write_bytes(b"y" * 200_000)
    comm.barrier()
    write(path, grid, blocks_of(tensors(), grid, "block", "row"), METADATA)
    agree(path.read_bytes() == reference_file(tensors(), METADATA))
    agree([entry.name for entry in folder.iterdir()] == ["model.safetensors"])


def test_links_are_followed_and_any_name_will_do(folder, comm, make_grid, agree):
    """The file behind the link is written, with its mode; the link, and a name that is no text, stay."""
    grid, there = make_grid(SIZE), folder / os.fsdecode(b"there\xff")
    if comm.rank == 0:
        there.write_bytes(b"old")
        there.chmod(0o640)
        (folder / "link").symlink_to(there.name)
        os.mkfifo(folder / "pipe")
    comm.barrier()
    write(folder / "link", grid, blocks_of(tensors(), grid, "block", "row"), METADATA)
    agree((folder / "link").is_symlink())
    agree(there.read_bytes() == reference_file(tensors(), METADATA))
    agree(there.stat().st_mode & 0o777 == 0o640)
    message = raised(lambda: write(folder / "pipe", grid, blocks_of(tensors(), grid, "block", "row"), METADATA))
    agree(message is not None and "not a regular file" in message and comm.bcast(message) == message, f"{message}")
    agree(len(list(folder.iterdir())) == 3)


@pytest.mark.parametrize("kind", ["held twice", "missing", "not in it", "name", "metadata", "ranks differ"])
def test_blocks_that_make_no_file(kind, folder, comm, make_grid, agree):
    grid, metadata, ids = make_grid(SIZE), {}, np.arange(comm.rank, 12, SIZE)
    if comm.rank == SIZE - 1:
        ids = {"held twice": np.append(ids, 0), "missing": ids[:-1], "not in it": np.append(ids[:-1], 12)}.get(
            kind, ids
        )
    if kind == "held twice" and SIZE == 1:
        kind = "unique"  # one rank alone holds it twice
    blocks = [TensorBlock("b", (12,), np.zeros(len(ids)), ids)]
    if kind == "name":
        blocks += blocks
    if kind == "metadata":
        metadata = {"header_checksum": "1"}
    if kind == "ranks differ":
        metadata = {"rank": str(comm.rank)}
    message = raised(lambda: write(folder / "model", grid, blocks, metadata))
    agree((message is not None) == (kind != "ranks differ" or SIZE > 1), f"{message}")
    agree(comm.bcast(message) == message)
