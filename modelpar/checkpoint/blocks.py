"""The bytes of a tensor that a rank holds, those that it writes or reads, and the exchange between the two.

On disk a tensor is complete rows in unit-id order; in memory it is blocks of scattered rows and columns.  Between them
is collective buffering (two-phase I/O; Thakur, Gropp and Lusk 1999): the tensor is cut into *parts* of consecutive
rows, one for each rank, a part into *chunks* of bounded size, and chunk after chunk the ranks of one model exchange
their pieces, so that the file is only ever touched in long contiguous stretches, each byte by one rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.checkpoint.checksum import bits
from modelpar.checkpoint.ids import Ids
from modelpar.machine.compilation import njit

IntArray = npt.NDArray[np.int64]
MAX_CHUNK = 8 << 20  # bytes
MAX_SEND = 16 << 20  # bytes that one rank may have to send in one exchange, when all chunks are of its own rows
TAG = 8  # of the messages of an exchange
ID_BYTES = 32  # of the ids and positions of one row of a chunk; the cost of a row that is shorter
MIN_PART = 64 << 10  # bytes; smaller parts would only make more and smaller writes


@dataclass
class TensorBlock:
    """One rank's block of a tensor.

    Row ``i`` and column ``j`` of ``block`` are row ``rows[i]`` and column ``columns[j]`` of the tensor (any order,
    unique); ``columns`` is None for a tensor of one dimension.  Millions of rows are given as runs.  The blocks
    of one ``shard_comm`` tile the tensor.
    """

    name: str
    shape: tuple[int, ...]  # of the complete tensor, one or two dimensions
    block: npt.NDArray[Any]  # (len(rows),) or (len(rows), len(columns)), C-contiguous
    rows: IntArray | Ids
    columns: IntArray | None = None

    @property
    def row_ids(self) -> Ids:
        return self.rows if isinstance(self.rows, Ids) else Ids.of(self.rows)

    @property
    def column_ids(self) -> Ids:
        return Ids.all(1) if self.columns is None else Ids.of(self.columns)

    @property
    def index(self) -> Any:
        """The index of the block in the complete tensor."""
        rows = self.rows.in_memory if isinstance(self.rows, Ids) else self.rows
        return rows if self.columns is None else np.ix_(rows, self.columns)

    @property
    def matrix(self) -> npt.NDArray[Any]:
        """The block as unsigned integers (n_rows, n_columns); a vector is one column.  Shares its memory."""
        return bits(self.block).reshape(len(self.rows), 1 if self.columns is None else len(self.columns))

    @property
    def full_shape(self) -> tuple[int, int]:
        """Rows and columns of the complete tensor; a vector is one column."""
        return self.shape[0], self.shape[1] if len(self.shape) == 2 else 1

    def mistake(self) -> str | None:
        """A description of what is wrong with the block, or None."""
        expected = (len(self.rows),) if self.columns is None else (len(self.rows), len(self.columns))
        if len(self.shape) not in (1, 2) or len(self.shape) != self.block.ndim or self.block.shape != expected:
            return f"its block of shape {self.block.shape} should be {expected} of a tensor of shape {self.shape}"
        if not self.block.flags.c_contiguous or not self.block.dtype.isnative:
            return "its block must be C-contiguous and in native byte order"
        for ids, n in zip((self.row_ids, self.column_ids), self.shape, strict=False):
            if ids.mistake(n):
                return f"its ids must be unique and from 0 to {n - 1}"
        return None


@dataclass(frozen=True)
class Chunk:
    """Rows ``row_start:row_stop`` of a tensor, or a stretch of columns of one row that is too long for a chunk."""

    row_start: int = 0
    row_stop: int = 0
    column_start: int = 0
    column_stop: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.row_stop - self.row_start, self.column_stop - self.column_start


@dataclass(frozen=True)
class Cut:
    """A tensor cut into ``n_parts`` parts of consecutive rows, and those into chunks.  Pure arithmetic."""

    n_rows: int
    n_columns: int
    itemsize: int
    n_parts: int
    chunk_bytes: int

    @property
    def part_rows(self) -> int:
        row_bytes = max(1, self.n_columns * self.itemsize)
        return max(1, -(-self.n_rows // self.n_parts), MIN_PART // row_bytes)

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """Rows and columns of a chunk: many complete rows, or a panel of one row."""
        row_bytes = max(1, self.n_columns * self.itemsize)
        if row_bytes > self.chunk_bytes:
            return 1, self.chunk_bytes // self.itemsize
        return max(1, self.chunk_bytes // max(row_bytes, ID_BYTES)), max(1, self.n_columns)

    @property
    def n_rounds(self) -> int:
        """Chunks in the largest part."""
        rows, columns = self.chunk_shape
        return -(-min(self.part_rows, self.n_rows) // rows) * -(-self.n_columns // columns)

    def chunk(self, part: int, index: int) -> Chunk:
        """Chunk ``index`` of ``part``; empty after the last one."""
        rows, columns = self.chunk_shape
        row, panel = divmod(index, max(1, -(-self.n_columns // columns)))
        stop = min(self.n_rows, (part + 1) * self.part_rows)
        start = min(stop, part * self.part_rows + row * rows)
        left = panel * columns
        return Chunk(start, min(stop, start + rows), left, min(self.n_columns, left + columns))

    def offset(self, chunk: Chunk) -> int:
        """Elements of the tensor before the chunk; its own are consecutive from there."""
        return chunk.row_start * self.n_columns + chunk.column_start


def chunk_bytes(n_shards: int) -> int:
    """Bytes of a chunk, such that all buffers of a rank together stay below 40 MiB at any number of shards."""
    return max(4096, min(MAX_CHUNK, MAX_SEND // n_shards))


@dataclass
class Buffers:
    """Scratch memory that is made once and used for all chunks."""

    n_shards: int
    chunk: npt.NDArray[np.uint8] = field(init=False)  # a chunk in the order of the file
    pieces: npt.NDArray[np.uint8] = field(init=False)  # the same by the shards that hold its pieces
    blocks: npt.NDArray[np.uint8] = field(init=False)  # this rank's pieces of the chunks of all shards

    def __post_init__(self) -> None:
        size = chunk_bytes(self.n_shards)
        self.chunk, self.pieces = np.empty(size, np.uint8), np.empty(size, np.uint8)
        self.blocks = np.empty(size * self.n_shards, np.uint8)


class Shuffle:
    """Moves a tensor between the blocks of ``comm`` and chunks of complete rows.  Collective."""

    def __init__(self, comm: MPI.Comm, block: TensorBlock, cut: Cut, buffers: Buffers) -> None:
        self.comm, self.cut, self.buffers = comm, cut, buffers
        self.matrix = block.matrix
        self.rows, self.columns = block.row_ids, block.column_ids
        pairs = zip(self._mine, block.full_shape, strict=True)
        mine = [None if len(ids) == n else ids for ids, n in pairs]  # None stands for all ids, to save bytes
        everything = [Ids.all(n) for n in block.full_shape]
        self.ids_of_ranks = [
            tuple(every if ids is None else ids for ids, every in zip(pair, everything, strict=True))
            for pair in comm.allgather(mine)
        ]

    @property
    def _mine(self) -> tuple[Ids, Ids]:
        return self.rows, self.columns

    @property
    def tiles(self) -> bool:
        """Whether the blocks have as many elements together as the tensor, and none of this rank's is held twice."""
        for rank, (rows, columns) in enumerate(self.ids_of_ranks):
            if rank != self.comm.rank and self.rows.meets(rows) and self.columns.meets(columns):
                return False
        n_elements = sum(len(rows) * len(columns) for rows, columns in self.ids_of_ranks)
        return n_elements == self.cut.n_rows * self.cut.n_columns

    @property
    def has_complete_rows(self) -> bool:
        """Whether every rank holds complete rows, or nothing."""
        lengths = {len(columns) for rows, columns in self.ids_of_ranks if len(rows)}
        return lengths <= {0, self.cut.n_columns}

    def collect(self, chunks: list[Chunk]) -> npt.NDArray[Any]:
        """The bits of ``chunks[comm.rank]`` (rows, columns) from all blocks; valid until the next call."""
        pieces, blocks, values = self._split(chunks)
        receiving = self._start(self.comm.Irecv, pieces)
        for piece in self._others(blocks):
            move(self.matrix, *piece.positions, piece.values, *piece.counted)
        sending = self._start(self.comm.Isend, blocks)
        move(self.matrix, *blocks[self.comm.rank].positions, values, *pieces[self.comm.rank].within)
        MPI.Request.Waitall(receiving + sending)
        for piece in self._others(pieces):
            move(piece.values, *piece.counted, values, *piece.within)
        return values

    def deal(self, chunks: list[Chunk]) -> None:
        """The adjoint of :meth:`collect`: from each rank's ``chunk(chunks[comm.rank])`` into all blocks."""
        pieces, blocks, values = self._split(chunks)
        receiving = self._start(self.comm.Irecv, blocks)
        for piece in self._others(pieces):
            move(values, *piece.within, piece.values, *piece.counted)
        sending = self._start(self.comm.Isend, pieces)
        move(values, *pieces[self.comm.rank].within, self.matrix, *blocks[self.comm.rank].positions)
        MPI.Request.Waitall(receiving + sending)
        for piece in self._others(blocks):
            move(piece.values, *piece.counted, self.matrix, *piece.positions)

    def chunk(self, chunk: Chunk) -> npt.NDArray[Any]:
        """The scratch memory for the bits of a chunk, in the order of the file."""
        size = chunk.shape[0] * chunk.shape[1] * self.matrix.itemsize
        return self.buffers.chunk[:size].view(self.matrix.dtype).reshape(chunk.shape)

    def _split(self, chunks: list[Chunk]) -> tuple[list[_Piece], list[_Piece], npt.NDArray[Any]]:
        """The pieces of this rank's chunk by rank, this rank's pieces of the chunks of all ranks, and its chunk."""
        mine = chunks[self.comm.rank]
        pieces = _intersections(self.buffers.pieces, self.matrix.dtype, [(ids, mine) for ids in self.ids_of_ranks])
        blocks = _intersections(self.buffers.blocks, self.matrix.dtype, [(self._mine, chunk) for chunk in chunks])
        return pieces, blocks, self.chunk(mine)

    def _others(self, pieces: list[_Piece]) -> list[_Piece]:
        return [piece for rank, piece in enumerate(pieces) if rank != self.comm.rank]

    def _start(self, verb: Callable[..., MPI.Request], pieces: list[_Piece]) -> list[MPI.Request]:
        """One message for each piece of another rank; both sides know which are empty.  A piece fits MPI's int."""
        to_move = [(rank, piece.values) for rank, piece in enumerate(pieces) if rank != self.comm.rank]
        return [verb([values, values.nbytes, MPI.BYTE], rank, TAG) for rank, values in to_move if values.size]


@dataclass(frozen=True)
class _Piece:
    """The elements of one chunk that one rank holds."""

    values: npt.NDArray[Any]  # (rows, columns), in a buffer
    positions: tuple[IntArray, IntArray]  # of its rows and columns in the holder's memory
    within: tuple[IntArray, IntArray]  # of its rows and columns in the chunk

    @property
    def counted(self) -> tuple[IntArray, IntArray]:
        """Its rows and columns in the buffer."""
        return _range(self.values.shape[0]), _range(self.values.shape[1])


def _intersections(buffer: npt.NDArray[np.uint8], dtype: np.dtype[Any], pairs: list[tuple[Any, Chunk]]) -> list[_Piece]:
    """The intersection of ``(rows, columns)`` and the chunk, for each pair, one after the other in ``buffer``."""
    pieces, at = [], 0
    for (rows, columns), chunk in pairs:
        row_ids, row_positions = rows.between(chunk.row_start, chunk.row_stop)
        column_ids, column_positions = columns.between(chunk.column_start, chunk.column_stop)
        shape = len(row_ids), len(column_ids)
        size = shape[0] * shape[1] * dtype.itemsize
        view = buffer[at : at + size].view(dtype).reshape(shape)
        within = row_ids - chunk.row_start, column_ids - chunk.column_start
        pieces.append(_Piece(view, (row_positions, column_positions), within))
        at += size
    return pieces


def _range(n: int) -> IntArray:
    return np.arange(n, dtype=np.int64)


@njit(cache=True, nogil=True)
def move(source, source_rows, source_columns, target, target_rows, target_columns):  # type: ignore[no-untyped-def]
    """target[target_rows[:, None], target_columns] = source[source_rows[:, None], source_columns]"""
    n = len(source_columns)
    if n == 0:
        return
    first, last = source_columns[0], target_columns[0]
    contiguous = True  # both sides are runs
    for j in range(n):
        if source_columns[j] != first + j or target_columns[j] != last + j:
            contiguous = False
            break
    for i in range(len(source_rows)):
        row, out = source[source_rows[i]], target[target_rows[i]]
        if contiguous:
            for j in range(n):  # numba's own assignment of slices takes seconds to compile
                out[last + j] = row[first + j]
        else:
            for j in range(n):
                out[target_columns[j]] = row[source_columns[j]]
