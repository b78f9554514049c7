"""Checkpoints on disk: one safetensors file that all ranks write and read together with MPI-IO.

Every rank opens the file by itself and touches contiguous stretches only (``blocks`` says which), so a failure on one
rank is an error there, which the ranks then agree on, and never an MPI-IO collective that others wait in.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from mpi4py import MPI

from modelpar import faults
from modelpar.checkpoint.blocks import Buffers, Chunk, Cut, Shuffle, TensorBlock, move
from modelpar.checkpoint.checksum import MODULUS, checksum, checksum_rows
from modelpar.checkpoint.header import Header, decode, encode, header_length, in_file_order
from modelpar.checkpoint.local_file import LocalFile, together
from modelpar.comm.status import Status
from modelpar.errors import CheckpointError
from modelpar.files.outputs import Output
from modelpar.files.regular import check_regular
from modelpar.values.forms import AnyPath, path_text

__all__ = ["Header", "TensorBlock", "read_header", "read_into", "write"]

OTHER = "it is a checkpoint of another network, so name one of this network"
GAP_BYTES = 64 << 10  # reading over a gap of this size is faster than a second read


class GridLike(Protocol):
    """The part of a grid that a checkpoint needs."""

    comm: MPI.Comm
    shard_comm: MPI.Comm
    shard: int
    n_shards: int
    replica: int
    n_replicas: int


def write(
    path: AnyPath, grid: GridLike, blocks: Sequence[TensorBlock], metadata: dict[str, str],
    status: Status | None = None, *, follow_links: bool = True, sources: Iterable[AnyPath] = (),
) -> None:  # fmt: skip
    """Write one safetensors file.  Collective over ``grid.comm``.

    The same bytes at every grid, layout and owner array.  ``blocks`` name the same tensors on every rank; replicas
    hold equal values and share the work.  Written under a name of its own beside ``path``, read back, synced, checked
    and then renamed, so ``path`` is either the old file or the complete new one.  Extra memory: at most 40 MiB a rank.
    Every chunk is a beat of ``status``.

    follow_links   a symbolic link stays, and its target is written; else the link is replaced
    sources        files that the checkpoint is made from: where one of them is private, a new file is

    Raises CheckpointError, with the same message on every rank, where any rank cannot write; ``path`` is untouched.
    """
    output: Output | None = None  # rank 0's
    with together(grid.comm):
        _check(blocks)
        head = encode(_tensors(blocks), metadata, {})
    _same(grid.comm, head, "the tensors or the metadata of a checkpoint")
    by_name = {block.name: block for block in blocks}
    ordered = [by_name[name] for name, _, _ in in_file_order(_tensors(blocks))]
    buffers = Buffers(grid.n_shards)
    with together(grid.comm):
        if grid.comm.rank == 0:
            output = Output(path_text(path, CheckpointError), follow=follow_links, sources=map(os.fsdecode, sources))
            _create(output)
    partial: str = grid.comm.bcast(None if output is None else str(output.partial))
    file = LocalFile(partial, MPI.MODE_RDWR)  # without MODE_CREATE: a rank that cannot see rank 0's file must fail
    try:
        with together(grid.comm, file):
            pass
        checksums, start = {}, len(head)
        for block in ordered:
            checksums[block.name] = _write_tensor(file, grid, block, start, buffers, status or Status())
            start += int(np.prod(block.shape, dtype=object)) * block.block.itemsize
        head = encode(_tensors(blocks), metadata, checksums)
        with together(grid.comm, file):
            if grid.comm.rank == 0:  # last, so that an incomplete file is not a valid one
                file.write(0, np.frombuffer(head, np.uint8))
            file.sync()
        with together(grid.comm, file):
            if grid.comm.rank == 0 and (file.size() != start or file.read_bytes(0, len(head)) != head):
                raise CheckpointError(f"{partial} does not read back as it was written; check the disk")
            file.close()
        with together(grid.comm):
            faults.at("finish checkpoint")
            if output is not None:
                output.finish()
    except BaseException:
        file.close()
        if output is not None:
            output.give_up()
        raise


def read_header(path: AnyPath, comm: MPI.Comm) -> Header:
    """The header of a checkpoint; rank 0 reads and checks it.  Collective.

    Raises CheckpointError on every rank where there is none, or one that is damaged, truncated or not modelpar's.
    """
    name = path_text(path, CheckpointError)
    header = None
    with together(comm):
        if comm.rank == 0:
            if os.path.isdir(name):
                raise CheckpointError(f"{name} is a directory; name the checkpoint file in it")
            try:
                check_regular(name)  # the operating system's words are clearer than MPI's, which waits for pipes
            except FileNotFoundError:
                raise CheckpointError(f"{name} does not exist; name a checkpoint, or a run directory") from None
            except OSError as error:
                raise CheckpointError(f"{name} cannot be read: {error.strerror}") from None
            with LocalFile(name, MPI.MODE_RDONLY) as file:
                size = file.size()
                start = file.read_bytes(0, max(0, min(8, size)))
                if file.failure:  # what a header seems to say is of no use then
                    raise CheckpointError(file.failure)
                length = header_length(name, start, size)
                text = file.read_bytes(8, length)
            if file.failure:
                raise CheckpointError(file.failure)
            header = decode(name, text, size)
    checked: Header = comm.bcast(header, 0)
    return checked


def read_into(
    path: AnyPath, grid: GridLike, header: Header, blocks: Sequence[TensorBlock], *, subset: bool = False,
    verify: bool = True,
) -> None:  # fmt: skip
    """Fill ``blocks`` from a checkpoint that any grid wrote.  Collective over ``grid.comm``.

    A rank holds its blocks and at most 40 MiB more.  Where ranks hold complete rows each reads only its own; else the
    ranks of a model read consecutive chunks, together each byte once, and exchange them.  With ``subset`` the file may
    hold tensors that ``blocks`` does not name; without ``verify`` checksums are not compared.

    Raises CheckpointError, with the same message on every rank, where the tensors are not those of ``blocks``, or do
    not match their checksums; the blocks are then undefined.
    """
    name = path_text(path, CheckpointError)
    faults.at("read checkpoint")
    with together(grid.comm):
        _check(blocks)
        _fit(name, header, blocks, subset)
    _same(grid.comm, repr(_tensors(blocks)).encode(), "the tensors to be read from a checkpoint")
    buffers = Buffers(grid.n_shards)
    with LocalFile(name, MPI.MODE_RDONLY) as file:
        with together(grid.comm, file):
            if file.size() != header.size:
                raise CheckpointError(
                    f"{name} has {file.size()} bytes, but had {header.size}; do not change it while it is read"
                )
        for block in sorted(blocks, key=lambda block: header.tensors[block.name][2]):
            _read_tensor(file, grid, block, header, buffers, verify=verify)


def _write_tensor(
    file: LocalFile, grid: GridLike, block: TensorBlock, start: int, buffers: Buffers, status: Status
) -> int:
    """Write this rank's chunks of a tensor whose first byte is ``start``; return its checksum.  Collective."""
    faults.at("write checkpoint")
    itemsize = block.block.itemsize
    cut = Cut(*block.full_shape, itemsize, grid.n_shards * grid.n_replicas, buffers.chunk.nbytes)
    shuffle = Shuffle(grid.shard_comm, block, cut, buffers)
    _tiled(grid, shuffle, block)
    written, total = [], 0
    for index in range(cut.n_rounds):
        chunks = [cut.chunk(shard * grid.n_replicas + grid.replica, index) for shard in range(grid.n_shards)]
        mine = chunks[grid.shard]
        values = shuffle.collect(chunks)
        if values.size:
            file.write(start + cut.offset(mine) * itemsize, values)
            total += checksum(values, cut.offset(mine))
            written.append(mine)
        status.beat += 1
    again = 0
    for mine in written:
        values = shuffle.chunk(mine)
        file.read(start + cut.offset(mine) * itemsize, values)
        again += checksum(values, cut.offset(mine))
        status.beat += 1
    with together(grid.comm, file):
        if again % MODULUS != total % MODULUS:
            raise CheckpointError(f"{file.path}: tensor {block.name!r} does not read back as written; check the disk")
    return _sum(grid.comm, total)


def _read_tensor(
    file: LocalFile, grid: GridLike, block: TensorBlock, header: Header, buffers: Buffers, *, verify: bool
) -> None:
    """Fill one block, and compare the checksum of what this replica read.  Collective."""
    cut = Cut(*block.full_shape, block.block.itemsize, grid.n_shards, buffers.chunk.nbytes)
    shuffle = Shuffle(grid.shard_comm, block, cut, buffers)
    _tiled(grid, shuffle, block)
    start = header.tensors[block.name][2]
    if shuffle.has_complete_rows:
        total = _read_rows(file, block, shuffle, start)
    else:
        total = _read_chunks(file, grid, shuffle, start)
    with together(grid.comm, file):
        pass
    sum_read = _sum(grid.shard_comm, total)
    with together(grid.comm):
        if verify and sum_read != header.checksums[block.name]:
            raise CheckpointError(
                f"{file.path} is damaged: tensor {block.name!r} does not match its checksum; take an earlier checkpoint"
            )


def _read_chunks(file: LocalFile, grid: GridLike, shuffle: Shuffle, start: int) -> int:
    """Read consecutive chunks and deal them out; return the checksum of the chunks of this rank.  Collective."""
    cut, total = shuffle.cut, 0
    for index in range(cut.n_rounds):
        chunks = [cut.chunk(shard, index) for shard in range(grid.n_shards)]
        mine = chunks[grid.shard]
        values = shuffle.chunk(mine)
        if values.size:
            file.read(start + cut.offset(mine) * cut.itemsize, values)
            total += checksum(values, cut.offset(mine))
        shuffle.deal(chunks)
    return total


def _read_rows(file: LocalFile, block: TensorBlock, shuffle: Shuffle, start: int) -> int:
    """Read the rows that this rank holds, grouped into stretches; return their checksum.  Not collective."""
    cut, total = shuffle.cut, 0
    if not block.block.size:
        return 0
    max_rows, max_columns = cut.chunk_shape
    gap = GAP_BYTES // (max(1, cut.n_columns) * cut.itemsize)
    for low, high in shuffle.rows.stretches(max_rows, gap):
        ids, positions = shuffle.rows.between(low, high)
        if not len(ids):
            continue
        for left in range(0, cut.n_columns, max_columns):
            chunk = Chunk(int(ids[0]), int(ids[-1]) + 1, left, min(cut.n_columns, left + max_columns))
            values = shuffle.chunk(chunk)
            file.read(start + cut.offset(chunk) * cut.itemsize, values)
            select = ids - chunk.row_start
            total += checksum_rows(values, select, ids, cut.n_columns, left)
            columns, column_positions = shuffle.columns.between(left, chunk.column_stop)
            move(values, select, columns - left, shuffle.matrix, positions, column_positions)
    return total


def _create(output: Output) -> None:
    """Make an empty file, in place of what an earlier run left."""
    directory = output.target.parent
    if not directory.is_dir():
        raise CheckpointError(f"directory {directory} does not exist; make it, or name another")
    if output.target.is_dir() and output.follow:
        raise CheckpointError(f"{output.path} is a directory; name a file in it")
    if output.streamed:
        raise CheckpointError(
            f"{output.path} is not a regular file, but each rank writes a checkpoint at offsets of its own; name a file"
        )
    output.open()


def _check(blocks: Iterable[TensorBlock]) -> None:
    for block in blocks:
        if mistake := block.mistake():
            raise CheckpointError(f"tensor {block.name!r} does not fit a checkpoint: {mistake}")


def _tensors(blocks: Iterable[TensorBlock]) -> list[tuple[str, np.dtype[Any], tuple[int, ...]]]:
    return [(block.name, block.block.dtype, tuple(block.shape)) for block in blocks]


def _same(comm: MPI.Comm, mine: bytes, what: str) -> None:
    """Raise CheckpointError on all ranks where ``mine`` differs: a bug, but one that should end in a message."""
    first = comm.bcast(mine, 0)
    with together(comm):
        if first != mine:
            raise CheckpointError(f"{what} differ between ranks 0 and {comm.rank}; they must be the same on all")


def _fit(path: str, header: Header, blocks: Sequence[TensorBlock], subset: bool) -> None:
    """Raise CheckpointError where the file does not hold the tensors of ``blocks``."""
    needed = {block.name: (block.block.dtype, tuple(block.shape)) for block in blocks}
    if missing := sorted(set(needed) - set(header.tensors)):
        raise CheckpointError(f"{path} has no tensor {missing[0]!r}; {OTHER}")
    if not subset and (extra := sorted(set(header.tensors) - set(needed))):
        raise CheckpointError(f"{path} has a tensor {extra[0]!r}, but this network does not; {OTHER}")
    for name, (dtype, shape) in needed.items():
        stored_dtype, stored_shape = header.tensors[name][:2]
        if (stored_dtype, stored_shape) != (dtype, shape):
            has, needs = f"{stored_dtype} {list(stored_shape)}", f"{dtype} {list(shape)}"
            raise CheckpointError(f"{path} has tensor {name!r} as {has}, but this network needs {needs}; {OTHER}")


def _tiled(grid: GridLike, shuffle: Shuffle, block: TensorBlock) -> None:
    with together(grid.comm):
        if not shuffle.tiles:
            raise CheckpointError(
                f"the blocks of tensor {block.name!r} must hold each element once, but some are missing or held twice"
            )


def _sum(comm: MPI.Comm, part: int) -> int:
    """The sum over all ranks, modulo 2^64.  Collective."""
    total = np.array([part % MODULUS], np.uint64)
    comm.Allreduce(MPI.IN_PLACE, [total, MPI.UINT64_T], op=MPI.SUM)
    return int(total[0])
