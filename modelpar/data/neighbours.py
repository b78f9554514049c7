"""Weights of related sequences: those of which there are many count less (Morcos et al. 2011, section S1).

A sample of categorical data has the weight 1 / m, m being the samples, itself included, that agree with it at so many
sites or more.  A gap is a state like the others.  Each split has weights of its own: what is held out changes nothing
of what training counts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modelpar.collective import messages
from modelpar.data.dataset import Dataset, Split, agreed
from modelpar.data.memory import OwnColumns
from modelpar.data.packed import PackedColumns, packed_rows, width
from modelpar.errors import DataError
from modelpar.kernels.neighbours import neighbours, words_of
from modelpar.machine.memory import check_room

if TYPE_CHECKING:
    from mpi4py import MPI

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

COPIES = 4  # of the bits of all samples that are in memory at a time


def with_neighbour_weights(dataset: Dataset, visible: str, identity: float, comm: MPI.Comm | None = None) -> Dataset:
    """The data set with weights by neighbours in all splits.

    visible    the kind of visible units, ``categorical:Q``
    identity   part of the sites at which neighbours agree, at least

    All ranks of ``comm`` share the pairs; each reads all bits.  Collective over ``comm`` where one is given.
    Raises DataError for other data, and where values are not one-hot, or cannot be read.
    """
    splits: dict[str, Any] = {}
    for name in ("train", "validation", "test"):
        split = getattr(dataset, name)
        if split is not None:
            weights = neighbour_weights(split, visible, dataset.scale, identity, comm)
            splits[name] = replace(split, weights=weights)
    return replace(dataset, **splits)


def neighbour_weights(
    split: Split, visible: str, scale: float, identity: float, comm: MPI.Comm | None = None
) -> Doubles:
    """(len(split),) 1 / the samples of a split that agree with each at ``identity`` of their sites or more, itself
    included.  Parameters, and what is raised, as in :func:`with_neighbour_weights`."""
    with agreed(comm):
        n_sites = _sites(split, visible)
        words = words_of(_bits(split, scale, n_sites))
    least = max(1, int(np.ceil(identity * n_sites - 1e-9)))
    part, n_parts = (0, 1) if comm is None else (comm.rank, comm.size)
    counts = neighbours(words, least, part, n_parts)
    if comm is not None:
        messages.allreduce(comm, counts)
    return 1.0 / (1 + counts)


def _sites(split: Split, visible: str) -> int:
    """The number of sites of a sample.  Raises DataError where there are none."""
    kind, _, number = visible.partition(":")
    n_units, name = split.table.n_units, split.table.name
    if isinstance(split.table, OwnColumns):
        raise DataError(
            f"weights auto compare whole samples, but of {name} each rank has columns of its own; give weights"
        )
    if kind != "categorical":
        raise DataError(
            f"--sample-weights auto counts the neighbours of sequences, but {name} has no categorical sites"
            f"{f' ({visible})' if visible else ''}; give a file of weights, or --visible categorical:Q"
        )
    if n_units % int(number):
        raise DataError(f"{name} has {n_units} values a sample, but sites of {number} states need a multiple of these")
    return n_units // int(number)


def _bits(split: Split, scale: float, n_sites: int) -> Array:
    """(len(split), bytes) the values of all units as bits.  Raises DataError where they are not one-hot."""
    table = split.table
    check_room(COPIES * len(split) * width(table.n_units), table.name)
    columns = table.columns(np.arange(table.n_units))
    if isinstance(columns, PackedColumns):
        if columns.file is not None:
            columns.file.check()
        bits: Array | None = columns.bits[split.rows]
    else:
        bits = packed_rows(columns, split.rows, scale=np.full(table.n_units, scale))
    ones = np.zeros(0, np.int64) if bits is None else np.unpackbits(bits, axis=1).sum(axis=1, dtype=np.int64)
    if bits is None or (ones > n_sites).any():
        raise DataError(
            f"{table.name} has samples that are not one-hot, with one of the states of each of {n_sites} sites, so "
            "their neighbours cannot be counted; give a file of weights"
        )
    return bits
