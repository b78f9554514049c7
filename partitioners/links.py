"""The links between two neighbouring layers: complete, which takes no memory, or a list of edges in CSR."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse as scipy_sparse

from partitioners.arguments import MOST, GraphError, IntArray, check_in_layer, csr, integer, integers


def offsets_of(counts: npt.ArrayLike) -> IntArray:
    """(n + 1,) the start of each of n consecutive groups, and the end of the last one.   counts (n,)"""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def different(keys: IntArray) -> IntArray:
    """The distinct keys, ascending, as ``np.unique``, but many times faster for millions of keys."""
    keys = np.sort(keys)
    first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]


@dataclass(frozen=True)
class Complete:
    """Every lower unit is connected with every upper unit: a fully connected RBM, without memory for edges.

    Raises GraphError for an impossible number of units.
    """

    n_lower: int
    n_upper: int

    def __post_init__(self) -> None:
        for name in ("n_lower", "n_upper"):
            object.__setattr__(self, name, integer(name, getattr(self, name), most=MOST))

    @property
    def n_edges(self) -> int:
        return self.n_lower * self.n_upper

    @property
    def up(self) -> Complete:
        """The nets that lower units send on."""
        return self

    @property
    def down(self) -> Complete:
        """The nets that upper units send on: the same links seen from above."""
        return Complete(self.n_upper, self.n_lower)

    def edges(self) -> tuple[IntArray, IntArray]:
        """All edges, (n_edges,) lower and (n_edges,) upper units.  Takes memory for every edge."""
        lower = np.repeat(np.arange(self.n_lower, dtype=np.int64), self.n_upper)
        return lower, np.tile(np.arange(self.n_upper, dtype=np.int64), self.n_lower)


@dataclass(frozen=True, eq=False)
class Sparse:
    """The upper neighbours of every lower unit in CSR; those of unit i are ``neighbours[offsets[i]:offsets[i + 1]]``.

    They ascend without duplicates; others are sorted.  Raises GraphError where the arrays are not CSR.
    """

    offsets: IntArray  # (n_lower + 1,)
    neighbours: IntArray  # (n_edges,) upper units, counted within their layer
    n_upper: int

    def __post_init__(self) -> None:
        offsets, neighbours = integers("offsets", self.offsets), integers("neighbours", self.neighbours)
        n_upper = integer("n_upper", self.n_upper, most=MOST)
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(neighbours) or np.any(np.diff(offsets) < 0):
            raise GraphError(f"offsets must ascend from 0 to the {len(neighbours)} neighbours, but do not")
        check_in_layer("upper", neighbours, n_upper)
        ascending = np.ones(len(neighbours) + 1, bool)  # a unit's first neighbour, or one above its predecessor
        np.greater(neighbours[1:], neighbours[:-1], out=ascending[1:-1])
        ascending[offsets] = True
        if not ascending.all():
            shape, ones = (len(offsets) - 1, n_upper), np.ones(len(neighbours), bool)
            matrix = scipy_sparse.csr_array((ones, neighbours, offsets), shape=shape, copy=True)
            matrix.sum_duplicates()
            offsets, neighbours = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)
        for name, value in (("offsets", offsets), ("neighbours", neighbours), ("n_upper", n_upper)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_edges(cls, lower: npt.ArrayLike, upper: npt.ArrayLike, n_lower: int, n_upper: int) -> Sparse:
        """From (n_edges,) lower and (n_edges,) upper units, each counted within its layer; repeated edges count once.

        Raises GraphError where a unit is not in its layer, or the numbers of lower and upper units differ.
        """
        n_lower, n_upper = integer("n_lower", n_lower, most=MOST), integer("n_upper", n_upper, most=MOST)
        sources, targets = integers("lower units", lower), integers("upper units", upper)
        if len(sources) != len(targets):
            raise GraphError(
                f"edges have {len(sources)} lower and {len(targets)} upper units, but need as many of both"
            )
        check_in_layer("lower", sources, n_lower)
        check_in_layer("upper", targets, n_upper)
        keys = different(sources * np.int64(n_upper) + targets)
        sources, neighbours = np.divmod(keys, np.int64(max(n_upper, 1)))
        return cls(offsets_of(np.bincount(sources, minlength=n_lower)), neighbours, n_upper)

    @classmethod
    def from_mask(cls, mask: Any) -> Sparse:
        """From a mask (n_lower, n_upper), dense or of any format of scipy.sparse: what is not 0 is connected.

        Duplicates are summed, as by scipy.sparse.  The mask is not changed.  Raises GraphError where it is not a matrix
        of numbers.
        """
        matrix = csr(mask)
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        if matrix.nnz and not matrix.data.all():
            matrix = matrix.copy()
            matrix.eliminate_zeros()
        return cls(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), int(matrix.shape[1]))

    @property
    def mask(self) -> scipy_sparse.csr_array:
        """The same as a boolean mask (n_lower, n_upper)."""
        ones = np.ones(self.n_edges, bool)
        return scipy_sparse.csr_array((ones, self.neighbours, self.offsets), shape=(self.n_lower, self.n_upper))

    @property
    def n_lower(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_edges(self) -> int:
        return len(self.neighbours)

    @property
    def up(self) -> Sparse:
        """The nets that lower units send on."""
        return self

    @cached_property
    def down(self) -> Sparse:
        """The nets that upper units send on: the same links seen from above."""
        return Sparse.from_mask(self.mask.T)

    def edges(self) -> tuple[IntArray, IntArray]:
        """All edges, (n_edges,) lower and (n_edges,) upper units."""
        return np.repeat(np.arange(self.n_lower, dtype=np.int64), np.diff(self.offsets)), self.neighbours


Links = Complete | Sparse
