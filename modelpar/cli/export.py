"""``modelpar export``: parameters for other programs, streamed so that no rank ever has a complete matrix in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.checkpoint import structure
from modelpar.checkpoint.files import TensorBlock, write
from modelpar.cli.chosen_checkpoint import checkpoint_of
from modelpar.cli.config import Settings
from modelpar.cli.evaluate import make_grid, open_network
from modelpar.cli.overwriting import check_outputs
from modelpar.cli.pictures import white_of
from modelpar.cli.row_file import RowFile
from modelpar.comm.grid import Grid
from modelpar.errors import SpecError, together
from modelpar.files.paths import in_one_line
from modelpar.model.network import DeepBeliefNetwork

Array = npt.NDArray[Any]

CHUNK_BYTES = 16 << 20  # rows that rank 0 has in memory at a time


def export(comm: MPI.Comm, settings: Settings, where: str, out: str, *, last: bool) -> None:
    """Write the network of a checkpoint as .npz or as a PyTorch state dict.  Collective."""
    check_outputs(comm, settings, {"OUT": out}, checkpoint=where, seekable=not out.endswith(".npz"))
    with make_grid(comm, settings) as grid:
        path = checkpoint_of(comm, where, generative=False)
        network = open_network(path, grid, settings, last=last)
        network.run = None  # only training needs it
        if out.endswith(".npz"):
            write_npz(Path(out), grid, plain_blocks(network), (path,))
        else:
            unit = white_of(network)
            takes = "raw values" if unit in (None, 1.0) else f"raw values / {unit:g}"
            write(out, grid, sequential_blocks(network), {"format": "pt", "input": takes}, sources=(path,))
    print(f"exported: {in_one_line(out)}", flush=True)


def plain_blocks(network: DeepBeliefNetwork) -> list[TensorBlock]:
    """``W0 b0 c0 W1 ... W_output c_output``, what units have besides, such as ``threshold0`` or ``precision0``, and
    ``input_offset input_scale`` with which raw values become visible activations, (raw - offset) / scale.  W (lower
    units, upper units).

    Where connections are listed, W is (connections,), and ``degrees`` and ``visible`` list what they connect: see
    ``checkpoint.structure``.
    """
    renamed = []
    of_model = {"W", "b", "c", *(name for part in network.parts() for name in (*part.potential, *part.precision))}
    for block in checkpoint.tensors(network):
        parts = block.name.split(".")
        if parts[0] == "rbm" and parts[2] in of_model:  # no mean_activation
            renamed.append(_called(block, f"{parts[2]}{parts[1]}"))
        elif parts[0] == "output":
            renamed.append(_called(block, f"{parts[1]}_output"))
        elif parts[0] == "input":
            renamed.append(_called(block, f"input_{parts[1]}"))
    for rbm in network.rbms:
        for block in structure.blocks(rbm, described=True):
            renamed.append(_called(block, f"{block.name.rpartition('.')[2]}{rbm.index}"))
    return renamed


def _called(block: TensorBlock, name: str) -> TensorBlock:
    return TensorBlock(name, block.shape, block.block, block.rows, block.columns)


def sequential_blocks(network: DeepBeliefNetwork) -> list[TensorBlock]:
    """The state dict of ``nn.Sequential(Linear, Sigmoid, Linear, Sigmoid, ..., Linear)``.  Collective.

    ``0.weight`` (upper, lower), ``0.bias``, ``2.weight``, ...; the last Linear gives the logits where there is an
    output layer.  A Bernoulli network takes values in 0 .. 1; the file's metadata say how to compute them from raw
    values.  For Gaussian units the standardisation is folded into the first layer, which then takes raw values.
    """
    for rbm in network.rbms:
        if rbm.hidden_units is not None:
            raise SpecError(
                f"RBM {rbm.index} has {rbm.hidden_units.name} hidden units, which PyTorch has not; export to .npz"
            )
        if rbm.weights.matrix_ids is None:
            raise SpecError(
                f"RBM {rbm.index} has connections that are not complete, which PyTorch's Linear cannot hold; export to "
                ".npz"
            )
    blocks: list[TensorBlock] = []
    layers = [(rbm.weights, rbm.W, rbm.c, rbm.hidden_ids) for rbm in network.rbms]
    if network.output is not None:
        output = network.output
        layers.append((output.weights, output.parameters.W, output.parameters.c, output.class_ids))
    sizes = (*network.spec.layers, network.spec.classes)
    for i, (weights, W, c, ids) in enumerate(layers):
        assert weights.matrix_ids is not None  # checked above
        rows, columns = weights.matrix_ids
        transposed = np.ascontiguousarray(W.T)
        if i == 0 and network.spec.visible in ("gaussian", "spin"):
            c = _fold_standardisation(network, transposed, c)
        lower, upper = sizes[i], sizes[i + 1]
        blocks.append(TensorBlock(f"{2 * i}.weight", (upper, lower), transposed, columns, rows))
        blocks.append(TensorBlock(f"{2 * i}.bias", (upper,), c, ids))
    return blocks


def _fold_standardisation(network: DeepBeliefNetwork, transposed: Array, c: Array) -> Array:
    """W^T ((x - offset) / scale) + c = (W / scale)^T x + c - W^T (offset / scale): the first factor in place, the new c
    is returned.  Collective."""
    weights = network.rbms[0].weights
    assert weights.matrix_ids is not None  # checked in sequential_blocks
    rows, columns = weights.matrix_ids
    offset, scale = (
        network.whole_visible(values[:, None])[rows, 0] for values in (network.input_offset, network.input_scale)
    )
    part = np.empty(len(transposed))
    for i, row in enumerate(transposed):
        row[:] = row / scale
        part[i] = row.astype(np.float64) @ offset  # the mean may be much larger than the deviation
    # in a column layout each unit's sum is complete on one shard, in a row layout every shard has a part of it
    sums = np.zeros(network.spec.layers[1], np.float64)
    sums[columns] = part
    network.grid.shard_comm.Allreduce(MPI.IN_PLACE, sums)
    return np.asarray(c - sums[network.rbms[0].hidden_ids], c.dtype)


def write_npz(path: Path, grid: Grid, blocks: list[TensorBlock], sources: Iterable[Path] = ()) -> None:
    """An uncompressed .npz, row chunk after row chunk: rank 0 writes.   sources: what it is made from, see ``Output``

    Collective.  Raises CheckpointError on every rank where rank 0 cannot write.
    """
    writer = _NpzWriter(path if grid.comm.rank == 0 else None, sources)
    try:
        for block in blocks:
            writer.begin(block)
            for rows in rows_in_order(grid, block):
                writer.add(rows)
            writer.end()
        with together(grid.comm):
            writer.finish()
    except BaseException:
        writer.give_up()
        raise
    grid.comm.barrier()


def rows_in_order(grid: Grid, block: TensorBlock) -> Iterator[Array]:
    """The tensor's rows, by unit id, in chunks: complete on rank 0, no rows elsewhere.  Collective."""
    n_rows, n_columns = block.full_shape
    columns = np.zeros(1, np.int64) if block.columns is None else block.columns
    matrix = block.matrix
    ids = block.row_ids
    at_once = max(1, CHUNK_BYTES // max(n_columns * matrix.itemsize, 1))
    for start in range(0, n_rows, at_once):
        stop = min(start + at_once, n_rows)
        chunk = np.zeros((stop - start, n_columns), matrix.dtype)
        rows, positions = ids.between(start, stop)
        chunk[np.ix_(rows - start, columns)] = matrix[positions]
        complete = np.empty_like(chunk if grid.shard == 0 else chunk[:0])
        # every element is on one shard, and zero bits elsewhere: OR combines the bits exactly
        grid.shard_comm.Reduce(chunk, complete, op=MPI.BOR, root=0)
        yield complete.view(block.block.dtype) if grid.comm.rank == 0 else complete[:0]


class _NpzWriter(RowFile):
    """An uncompressed .npz."""

    _zip: zipfile.ZipFile
    _file: BinaryIO
    _member: Any = None

    def _begin(self, partial: Path) -> None:
        self._file = open(partial, "wb")  # noqa: SIM115
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED, allowZip64=True)

    def begin(self, block: TensorBlock) -> None:
        def work() -> None:
            self._member = self._zip.open(f"{block.name}.npy", "w", force_zip64=True)
            head = {"descr": block.block.dtype.str, "fortran_order": False, "shape": tuple(block.shape)}
            np.lib.format.write_array_header_1_0(self._member, head)

        self._attempt(work)

    def add(self, rows: Array) -> None:
        self._attempt(lambda: self._member.write(np.ascontiguousarray(rows).data.cast("B")) if rows.size else None)

    def end(self) -> None:
        self._attempt(lambda: self._member.close())

    def _complete(self) -> None:
        self._zip.close()
        self._file.close()

    def _abandon(self) -> None:
        self._zip.fp = None  # else it would write its directory when it is deleted
        with suppress(Exception):
            self._member.close()
        self._file.close()
