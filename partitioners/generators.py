"""Connection masks of RBMs: which lower unit is connected with which upper unit.

Every mask is a ``scipy.sparse.csr_array`` of booleans, (n_lower, n_upper), with sorted column indices.  Units of a
layer with several maps on a grid are counted map after map, row after row, column after column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from partitioners.graph import GraphError, different

Mask: TypeAlias = Any  # scipy.sparse.csr_array, which has no annotations


def from_edges(lower: npt.ArrayLike, upper: npt.ArrayLike, n_lower: int, n_upper: int) -> Mask:
    """The mask with these (n_edges,) lower and upper ends; an edge that comes twice counts once."""
    rows, columns = np.asarray(lower, np.int64), np.asarray(upper, np.int64)
    mask = sparse.csr_array((np.ones(len(rows), bool), (rows, columns)), shape=(n_lower, n_upper))
    mask.sum_duplicates()
    mask.data[:] = True
    return mask


def field_grid(rows: int, columns: int, field: int, stride: int = 1) -> tuple[int, int]:
    """(rows, columns) of the positions at which a square field fits into a grid.

    Raises GraphError where it fits nowhere.
    """
    if field < 1 or stride < 1 or field > min(rows, columns):
        raise GraphError(f"fields of {field}x{field}, every {stride} units, do not fit into {rows}x{columns} units")
    return (rows - field) // stride + 1, (columns - field) // stride + 1


def local(rows: int, columns: int, *, field: int, maps: int, maps_below: int = 1, stride: int = 1) -> Mask:
    """Receptive fields, untied: an upper unit at (r, c) of any map sees field x field positions of all maps below.

    (maps_below * rows * columns, maps * rows_above * columns_above); the field of (r, c) starts at (r, c) * stride.
    Locally connected layers as in Dean et al. (2012), "Large scale distributed deep networks".
    """
    above, across = field_grid(rows, columns, field, stride)
    r, c, i, j = np.ix_(np.arange(above), np.arange(across), np.arange(field), np.arange(field))
    seen = ((r * stride + i) * columns + c * stride + j).reshape(above * across, field * field)
    position = np.repeat(np.arange(above * across), field * field)
    one = from_edges(seen.ravel(), position, rows * columns, above * across)
    return kronecker(np.ones((maps_below, maps), bool), one)


def kronecker(blocks: npt.NDArray[np.bool_], mask: Mask) -> Mask:
    """The Kronecker product: a copy of ``mask`` wherever ``blocks`` (n, m) is true."""
    product = sparse.csr_array(sparse.kron(sparse.csr_array(blocks), mask, format="csr")).astype(bool)
    product.sort_indices()
    return product


def erdos_renyi(n_lower: int, n_upper: int, *, density: float, seed: int) -> Mask:
    """Every pair is connected with probability ``density``, independently (Erdős and Rényi 1959, Gilbert 1959)."""
    rng = np.random.default_rng(seed)
    counts = rng.binomial(n_lower, density, n_upper)
    return from_edges(*distinct(rng, counts, n_lower), n_lower, n_upper)


def fixed_degree(n_lower: int, n_upper: int, *, degree: int, seed: int) -> Mask:
    """Every upper unit is connected with ``degree`` lower units, drawn without replacement."""
    if not 0 <= degree <= n_lower:
        raise GraphError(f"{degree} connections a unit were asked for, but there are {n_lower} units below")
    return from_edges(*distinct(np.random.default_rng(seed), np.full(n_upper, degree), n_lower), n_lower, n_upper)


def distinct(
    rng: np.random.Generator, counts: npt.NDArray[np.int64], n_lower: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(n_edges,) lower and (n_edges,) upper ends: counts[j] different lower units for every upper unit j."""
    upper = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    keys = different(upper * n_lower + rng.integers(n_lower, size=len(upper)))
    while True:  # what came twice is drawn again until nothing does
        missing = counts - np.bincount(keys // n_lower, minlength=len(counts))
        if not missing.any():
            break
        again = np.repeat(np.arange(len(counts), dtype=np.int64), missing)
        keys = different(np.concatenate([keys, again * n_lower + rng.integers(n_lower, size=len(again))]))
    above, below = np.divmod(keys, n_lower)
    return below, above


def small_world(n_lower: int, n_upper: int, *, degree: int, rewired: float, seed: int) -> Mask:
    """Both layers on a ring, every upper unit connected with the ``degree`` nearest lower ones; then rewiring.

    Each connection moves its lower end to a unit drawn at random with probability ``rewired``, after Watts and Strogatz
    (1998), here between two layers.  Where two connections fall together, one remains.
    """
    if not 0 <= degree <= n_lower:
        raise GraphError(f"{degree} connections a unit were asked for, but there are {n_lower} units below")
    rng = np.random.default_rng(seed)
    centre = (np.arange(n_upper) * n_lower) // max(n_upper, 1)
    lower = (centre[:, None] + np.arange(degree) - degree // 2) % n_lower
    moved = rng.random(lower.shape) < rewired
    lower[moved] = rng.integers(n_lower, size=int(moved.sum()))
    return from_edges(lower.ravel(), np.repeat(np.arange(n_upper), degree), n_lower, n_upper)


def scale_free(n_lower: int, n_upper: int, *, degree: int, exponent: float = 2.5, seed: int) -> Mask:
    """About ``degree`` connections an upper unit, power laws of the degrees on both sides: P(d) ~ d ** -exponent.

    The static model of Goh, Kahng and Kim (2001) between two layers: unit i of a layer, in an order drawn at random, is
    an end with a probability proportional to (i + 1) ** (-1 / (exponent - 1)); a pair that comes twice counts once.
    """
    if exponent <= 2:
        raise GraphError(f"an exponent of {exponent} was asked for, but it must be above 2 for a finite mean degree")
    rng = np.random.default_rng(seed)
    ends: list[Any] = []
    for size in (n_lower, n_upper):
        chance = np.arange(1, size + 1) ** (-1.0 / (exponent - 1.0))
        ends.append(rng.permutation(size)[rng.choice(size, degree * n_upper, p=chance / chance.sum())])
    return from_edges(ends[0], ends[1], n_lower, n_upper)


def radix_net(radices: Sequence[int], *, copies: int, n_layers: int, shuffle: int | None = None) -> list[Mask]:
    """The masks of a RadiX-Net of ``n_layers`` layers, each of prod(radices) * copies units.

    Mixed-radix topology: over N = prod(radices) nodes, RBM i connects node u with u + j * stride mod N for j below its
    radix, its stride being the product of the radices before it; the radices come again from the start where there are
    more RBMs.  Each is the Kronecker factor of a dense block of copies x copies.  ``shuffle``: a seed by which the
    neurons of each layer are put in random order, None for none.  Robinett and Kepner (2019), "RadiX-Net: structured
    sparse matrices for deep neural networks".
    """
    if not radices or min(radices) < 2 or copies < 1 or n_layers < 2:
        raise GraphError(f"no RadiX-Net of radices {list(radices)}, {copies} copies and {n_layers} layers")
    n_nodes = int(np.prod(radices))
    order = np.arange(n_nodes * copies)
    rng = None if shuffle is None else np.random.default_rng(shuffle)
    orders = [order if rng is None else rng.permutation(order) for _ in range(n_layers)]
    masks, stride = [], 1
    for i in range(n_layers - 1):
        radix = radices[i % len(radices)]
        nodes = np.repeat(np.arange(n_nodes), radix)
        reached = (nodes + np.tile(np.arange(radix), n_nodes) * stride) % n_nodes
        topology = from_edges(nodes, reached, n_nodes, n_nodes).toarray()
        mask = kronecker(topology, sparse.csr_array(np.ones((copies, copies), bool)))
        lower, upper = mask.nonzero()
        masks.append(from_edges(orders[i][lower], orders[i + 1][upper], len(order), len(order)))
        stride = 1 if (i + 1) % len(radices) == 0 else stride * radix
    return masks
