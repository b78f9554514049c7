"""Connection masks of RBMs: which lower unit is connected with which upper unit.

Every mask is a ``scipy.sparse.csr_array`` of booleans, (n_lower, n_upper), with sorted column indices.  The units
of a layer with several maps are numbered map by map, row by row, column by column.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from partitioners.arguments import MOST, check_in_layer, fraction, integer, integers, seed_of
from partitioners.graph import GraphError
from partitioners.links import different

Mask: TypeAlias = Any  # scipy.sparse.csr_array, which has no type annotations


def from_edges(lower: npt.ArrayLike, upper: npt.ArrayLike, n_lower: int, n_upper: int) -> Mask:
    """The mask with these (n_edges,) lower and upper ends; repeated edges count once.

    Raises GraphError where an end is not in its layer, or the numbers of lower and upper ends differ.
    """
    n_lower, n_upper = _sizes(n_lower, n_upper)
    rows, columns = integers("lower units", lower), integers("upper units", upper)
    if len(rows) != len(columns):
        raise GraphError(f"edges have {len(rows)} lower and {len(columns)} upper units, but need as many of both")
    check_in_layer("lower", rows, n_lower)
    check_in_layer("upper", columns, n_upper)
    mask = sparse.csr_array((np.ones(len(rows), bool), (rows, columns)), shape=(n_lower, n_upper))
    mask.sum_duplicates()
    mask.data[:] = True
    return mask


def _sizes(n_lower: int, n_upper: int) -> tuple[int, int]:
    """The sizes of both layers as plain numbers."""
    return integer("n_lower", n_lower, most=MOST), integer("n_upper", n_upper, most=MOST)


def field_grid(rows: int, columns: int, field: int, stride: int = 1) -> tuple[int, int]:
    """(rows, columns) of the positions at which a square field fits into a grid.

    Raises GraphError where it fits nowhere.
    """
    rows, columns = integer("rows", rows), integer("columns", columns)
    field, stride = integer("the field", field, None), integer("the stride", stride, None)
    if field < 1 or stride < 1 or field > min(rows, columns):
        raise GraphError(f"fields of {field}x{field}, every {stride} units, do not fit into {rows}x{columns} units")
    return (rows - field) // stride + 1, (columns - field) // stride + 1


def local(rows: int, columns: int, *, field: int, maps: int, maps_below: int = 1, stride: int = 1) -> Mask:
    """Receptive fields, untied: an upper unit at (r, c) of any map sees field x field positions of all maps below.

    (maps_below * rows * columns, maps * rows_above * columns_above); the field of (r, c) starts at (r, c) * stride.
    Locally connected layers as in Dean et al. (2012), "Large scale distributed deep networks".  Raises GraphError where
    the field does not fit.
    """
    maps, maps_below = integer("maps", maps, 1), integer("maps_below", maps_below, 1)
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
    """Every pair is connected with probability ``density``, independently (Erdős and Rényi 1959, Gilbert 1959).

    Raises GraphError where the density is not a probability.
    """
    (n_lower, n_upper), density = _sizes(n_lower, n_upper), fraction("the density", density)
    rng = np.random.default_rng(seed_of(seed))
    counts = rng.binomial(n_lower, density, n_upper)
    return from_edges(*distinct(rng, counts, n_lower), n_lower, n_upper)


def fixed_degree(n_lower: int, n_upper: int, *, degree: int, seed: int) -> Mask:
    """Every upper unit is connected with ``degree`` lower units, drawn without replacement.

    Raises GraphError where there are fewer.
    """
    n_lower, n_upper = _sizes(n_lower, n_upper)
    degree = _degree(degree, n_lower)
    return from_edges(
        *distinct(np.random.default_rng(seed_of(seed)), np.full(n_upper, degree), n_lower), n_lower, n_upper
    )


def _degree(degree: int, n_lower: int) -> int:
    degree = integer("the degree", degree, None)
    if not 0 <= degree <= n_lower:
        raise GraphError(f"{degree} connections a unit were asked for, but there are {n_lower} units below")
    return degree


def distinct(
    rng: np.random.Generator, counts: npt.NDArray[np.int64], n_lower: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(n_edges,) lower and (n_edges,) upper ends: counts[j] different lower units for every upper unit j."""
    upper = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    if not len(upper):
        return upper, upper
    keys = different(upper * n_lower + rng.integers(n_lower, size=len(upper)))
    while True:  # duplicates are drawn again until there are none
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
    (1998), here between two layers.  Repeated connections count once.  Raises GraphError where there are fewer units
    below, or ``rewired`` is not a probability.
    """
    (n_lower, n_upper), rewired = _sizes(n_lower, n_upper), fraction("rewired", rewired)
    degree = _degree(degree, n_lower)
    rng = np.random.default_rng(seed_of(seed))
    if not degree:
        return from_edges([], [], n_lower, n_upper)
    centre = (np.arange(n_upper) * n_lower) // max(n_upper, 1)
    lower = (centre[:, None] + np.arange(degree) - degree // 2) % n_lower
    moved = rng.random(lower.shape) < rewired
    lower[moved] = rng.integers(n_lower, size=int(moved.sum()))
    return from_edges(lower.ravel(), np.repeat(np.arange(n_upper), degree), n_lower, n_upper)


def scale_free(n_lower: int, n_upper: int, *, degree: int, exponent: float = 2.5, seed: int) -> Mask:
    """About ``degree`` connections an upper unit, power laws of the degrees on both sides: P(d) ~ d ** -exponent.

    The static model of Goh, Kahng and Kim (2001) between two layers: unit i of a layer, in an order drawn at random, is
    an end with a probability proportional to (i + 1) ** (-1 / (exponent - 1)); repeated pairs count once.
    Raises GraphError where the exponent is not above 2, or there are no units to connect with.
    """
    (n_lower, n_upper), degree = _sizes(n_lower, n_upper), integer("the degree", degree)
    if degree and n_upper and not n_lower:
        raise GraphError(f"{degree} connections a unit were asked for, but there are 0 units below")
    if not isinstance(exponent, numbers.Real) or not exponent > 2:
        raise GraphError(f"an exponent of {exponent} was asked for, but it must be above 2 for a finite mean degree")
    rng = np.random.default_rng(seed_of(seed))
    if not degree * n_upper:
        return from_edges([], [], n_lower, n_upper)
    ends: list[Any] = []
    for size in (n_lower, n_upper):
        chance = np.arange(1, size + 1) ** (-1.0 / (exponent - 1.0))
        ends.append(rng.permutation(size)[rng.choice(size, degree * n_upper, p=chance / chance.sum())])
    return from_edges(ends[0], ends[1], n_lower, n_upper)


def radix_net(radices: Sequence[int], *, copies: int, n_layers: int, shuffle: int | None = None) -> list[Mask]:
    """The masks of a RadiX-Net of ``n_layers`` layers, each of prod(radices) * copies units.

    Mixed-radix topology: over N = prod(radices) nodes, RBM i connects node u with u + j * stride mod N for j below its
    radix, its stride being the product of the radices before it; the radices repeat where there are more
    RBMs.  Each is the Kronecker factor of a dense block of copies x copies.  ``shuffle``: a seed for a random
    order of the neurons of each layer; default: no shuffling.  Robinett and Kepner (2019), "RadiX-Net: structured
    sparse matrices for deep neural networks".  Raises GraphError for impossible numbers.
    """
    radices = integers("radices", radices).tolist()
    copies, n_layers = integer("copies", copies, None), integer("n_layers", n_layers, None)
    n_nodes = math.prod(radices)
    if not radices or min(radices) < 2 or copies < 1 or n_layers < 2 or n_nodes * copies > MOST:
        raise GraphError(f"no RadiX-Net of radices {radices}, {copies} copies and {n_layers} layers")
    order = np.arange(n_nodes * copies)
    rng = None if shuffle is None else np.random.default_rng(seed_of(shuffle))
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
