"""Recursive spectral bisection: cuts along the Fiedler vector of the network."""

from __future__ import annotations

import numpy as np
from scipy import sparse as scipy_sparse

from partitioners.coarsening import packed
from partitioners.graph import Complete, FloatArray, IntArray, UnitGraph, sums_of
from partitioners.partition import Partition, partitioner
from partitioners.spatial import cut_at

TOLERANCE = 1e-3  # of an eigenvector: only the order of its entries matters
ITERATIONS = 300  # restarts of Lanczos' method for one cut


@partitioner
def spectral(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """Every piece is cut at its layers' weighted medians along its Fiedler vector (Pothen, Simon and Liou 1990).

    The vector is the second eigenvector of the normalised adjacency of the piece (Shi and Malik 2000), where twins are
    one node.  Complete links join all units alike and are left out.  Deterministic for a seed, which draws the initial
    vector.  Raises GraphError where there are no parts.
    """
    group = packed(graph, n_parts)
    n_groups = int(group.max(initial=-1)) + 1
    weights = sums_of(group, graph.weights, n_groups)
    layer = np.zeros(n_groups, np.int64)
    layer[group] = np.repeat(np.arange(len(graph.layers)), graph.layers)
    owner = np.zeros(n_groups, np.int64)
    rng = np.random.default_rng(seed)
    _cut(_adjacency(graph, group, n_groups), np.arange(n_groups), n_parts, 0, layer, weights, owner, rng)
    return Partition(tuple(np.split(owner[group], graph.offsets[1:-1])), n_parts)


def _adjacency(graph: UnitGraph, group: IntArray, n_groups: int) -> scipy_sparse.csr_array:
    """(n_groups, n_groups) numbers of connections between groups."""
    total = scipy_sparse.csr_array((n_groups, n_groups), dtype=np.float64)
    for i, link in enumerate(graph.links):
        if isinstance(link, Complete):
            continue
        lower, upper = link.edges()
        ends = group[lower + graph.offsets[i]], group[upper + graph.offsets[i + 1]]
        one = scipy_sparse.coo_array((np.ones(len(lower)), ends), shape=(n_groups, n_groups)).tocsr()
        total = total + one + one.T
    return total


def _cut(
    adjacency: scipy_sparse.csr_array,
    nodes: IntArray,
    n_parts: int,
    first: int,
    layer: IntArray,
    weights: IntArray,
    owner: IntArray,
    rng: np.random.Generator,
) -> None:
    """Give the parts ``first .. first + n_parts - 1`` to these nodes, whose adjacency this is."""
    if n_parts == 1:
        owner[nodes] = first
        return
    half = n_parts // 2
    vector = fiedler(adjacency, rng)
    below = np.zeros(len(nodes), bool)
    for i in np.unique(layer[nodes]):
        members = np.flatnonzero(layer[nodes] == i)
        order = members[np.lexsort((members, vector[members]))]
        below[order[: cut_at(weights[nodes[order]], half, n_parts)]] = True
    for side, parts, start in ((below, half, first), (~below, n_parts - half, first + half)):
        piece = np.flatnonzero(side)
        _cut(adjacency[piece][:, piece], nodes[piece], parts, start, layer, weights, owner, rng)


def fiedler(adjacency: scipy_sparse.csr_array, rng: np.random.Generator) -> FloatArray:
    """The second eigenvector of the normalised adjacency, (n_nodes,), scaled by degree, of either sign.

    Nodes without neighbours get 0.  Pieces of fewer than 4 nodes keep their order.
    """
    n_nodes = adjacency.shape[0]
    degree = np.asarray(adjacency.sum(axis=1)).ravel()
    start = rng.standard_normal(n_nodes)
    if n_nodes < 4 or not degree.any():
        return np.arange(n_nodes, dtype=np.float64)
    scale = np.divide(1.0, np.sqrt(degree), out=np.zeros(n_nodes), where=degree > 0)
    normal = scipy_sparse.diags_array(scale) @ adjacency @ scipy_sparse.diags_array(scale)
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, eigsh

    try:
        values, vectors = eigsh(normal, k=2, which="LA", v0=start, tol=TOLERANCE, maxiter=ITERATIONS)
    except ArpackNoConvergence as unfinished:
        values, vectors = unfinished.eigenvalues, unfinished.eigenvectors
    except ArpackError:
        values, vectors = np.zeros(0), np.zeros((n_nodes, 0))
    if vectors.shape[1] == 0:
        return np.arange(n_nodes, dtype=np.float64)
    vector: FloatArray = vectors[:, np.argsort(values)[0]] * scale
    return vector
