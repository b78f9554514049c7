"""Networks for tests: grids, owners, and a sharded network beside its NumPy twin."""

from __future__ import annotations

from functools import cache

import numpy as np
from mpi4py import MPI

from modelpar.comm.grid import Grid
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership import connections
from modelpar.ownership.layout import NetworkLayout
from modelpar.spec import NetworkSpec
from tests import reference

PRECISIONS = (1.0, 1.5, 2.0, 4.0)  # of Gaussian visible units of a twin
OWNERS = ("blocks", "strided", "random", "empty")


def grids(comm):
    """All (model shards, replicas) of this number of ranks."""
    return [(n, comm.size // n) for n in range(1, comm.size + 1) if comm.size % n == 0]


def owners(kind: str, n_units: int, n_shards: int, layer: int = 0) -> np.ndarray:
    ids = np.arange(n_units)
    if kind == "blocks":
        return ids * n_shards // n_units
    if kind == "strided":
        return (ids + layer) % n_shards
    if kind == "empty":  # the last shard owns nothing, if there is another
        return ids % max(n_shards - 1, 1)
    return np.random.default_rng(layer).integers(0, n_shards, n_units)


def layout_of(spec: NetworkSpec, n_shards: int, kind: str) -> NetworkLayout:
    """Owners of ``kind`` in all layers; spec.layout names how the matrices between spec.layers are held."""
    return NetworkLayout.from_owners(
        [owners(kind, n, n_shards, i) for i, n in enumerate(spec.layers)], n_shards, spec.layout
    )


def sharded(comm, spec: NetworkSpec, shape: tuple[int, int], kind: str) -> DeepBeliefNetwork:
    return DeepBeliefNetwork(spec, grid_of(comm.size, shape), layout_of(spec, shape[0], kind))


@cache
def grid_of(n_ranks: int, shape: tuple[int, int]) -> Grid:
    """One grid of each shape for all tests of a job: MPI libraries have room for some hundred communicators only."""
    assert n_ranks == MPI.COMM_WORLD.size
    return Grid(MPI.COMM_WORLD, model_shards=shape[0], replicas=shape[1])


def dyadic(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Multiples of 1/64: sums of their products with 0 and 1 are exact in float32, in any order."""
    return (rng.integers(-64, 65, shape) / 64).astype(np.float32)


def held(rbm, whole: np.ndarray) -> np.ndarray:
    """What the shard holds of a whole matrix (n_visible, n_hidden), as its W has it."""
    if rbm.weights.matrix_ids is None:
        return whole[rbm.weights.ends]
    return whole[np.ix_(rbm.weights.visible_rows, rbm.weights.hidden_columns)]


def mask_of(network: DeepBeliefNetwork, i: int) -> np.ndarray:
    """(n_visible, n_hidden) 1 where there is a connection, else 0"""
    shape = network.spec.layers[i : i + 2]
    listed = network.layout.connections[i] if network.layout.connections else None
    result = np.ones(shape, bool) if listed is None else connections.mask_of(listed).toarray()
    return result.astype(network.dtype)


def twin(network: DeepBeliefNetwork) -> list[reference.RBM]:
    """The reference's RBMs with dyadic parameters, which are put into the network's shards too."""
    rng = np.random.default_rng(7)
    spec, twins = network.spec, []
    for rbm in network.rbms:
        n_visible, n_hidden = spec.layers[rbm.index : rbm.index + 2]
        W, b, c = dyadic(rng, n_visible, n_hidden), dyadic(rng, n_visible), dyadic(rng, n_hidden)
        W, b, c = (x.astype(spec.dtype) for x in (W, b, c))
        mask = mask_of(network, rbm.index)
        W *= mask
        rbm.W[:] = held(rbm, W)
        rbm.b[:], rbm.c[:] = b[rbm.visible_ids], c[rbm.hidden_ids]
        rbm.refresh()
        more = {}
        if rbm.visible.learned:
            more["precision"] = rng.choice(PRECISIONS, n_visible).astype(spec.dtype)
            rbm.parameters.precision[0] = more["precision"][rbm.visible_ids]
        twins.append(reference.RBM(W, b, c, layer=rbm.index, seed=spec.seed, gaussian=rbm.gaussian, mask=mask, **more))
    return twins


def same_block(rbm, twin: reference.RBM) -> bool:
    """Whether the shard's parameters are bit for bit the reference's."""
    W, rows_too = held(rbm, twin.W), same_rows(rbm, twin)
    return bool(
        np.array_equal(rbm.W, W)
        and rows_too
        and np.array_equal(rbm.b, twin.b[rbm.visible_ids])
        and np.array_equal(rbm.c, twin.c[rbm.hidden_ids])
    )


def same_rows(rbm, twin: reference.RBM) -> bool:
    """Whether the second block of a dual layout is the reference's, bit for bit.  Collective."""
    rows = rbm.parameters.rows
    return rows is None or np.array_equal(rows, rows_of(rbm, twin.W))


def rows_of(rbm, whole: np.ndarray) -> np.ndarray:
    """The rows of a whole matrix that a dual layout has: of the owned visible units, shard after shard's columns."""
    return whole[np.ix_(rbm.visible_ids, np.concatenate(rbm.shard_comm.allgather(rbm.hidden_ids)))]


def close_block(rbm, twin: reference.RBM, tolerance: float) -> bool:
    W = held(rbm, twin.W)
    rows = rbm.parameters.rows
    if rows is not None and not np.allclose(rows, rows_of(rbm, twin.W), rtol=0, atol=tolerance):
        return False
    pairs = [(rbm.W, W), (rbm.b, twin.b[rbm.visible_ids]), (rbm.c, twin.c[rbm.hidden_ids])]
    if rbm.visible.learned:
        pairs.append((rbm.parameters.precision[0], twin.precision[rbm.visible_ids]))
    return all(np.allclose(mine, other, rtol=0, atol=tolerance) for mine, other in pairs)
