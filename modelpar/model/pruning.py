"""Magnitude pruning: of every RBM's weights the largest are kept (Han, Pool, Tran and Dally 2015, section 3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.collective import messages
from modelpar.collective.agreement import agree
from modelpar.errors import SpecError
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.connections import Listed
from modelpar.patterns import PRUNED
from modelpar.plan.resolve import resolve
from modelpar.values import plain

Array = npt.NDArray[Any]


def pruned(network: DeepBeliefNetwork, keep: float) -> DeepBeliefNetwork:
    """A network of the same units with a fraction ``keep`` of each RBM's weights, the largest by absolute value.

    The output layer is not pruned.  Weights of the same size as the smallest that is kept are kept too, but for zeros.
    The state of training is dropped.  Collective.  Raises SpecError where ``keep`` is not above 0 and at most 1.
    """
    agree(network.grid.comm, "pruned", network=network, keep=keep)
    keep = plain.real_number("--keep", keep)
    if not 0 < keep <= 1:
        raise SpecError(f"--keep is {keep:g}, but must be above 0 and at most 1: a part of the weights")
    comm = network.grid.shard_comm
    connections, values = [], []
    for rbm in network.rbms:
        visible, hidden, own = rbm.weights.entries(rbm.W)
        size = np.abs(own)
        threshold = _smallest_kept(size, max(1, round(keep * comm.allreduce(len(own)))), comm)
        chosen = (size >= threshold) & (own != 0)
        n_visible, n_hidden = network.spec.layers[rbm.index : rbm.index + 2]
        keys = hidden[chosen].astype(np.int64) * n_visible + visible[chosen]  # ascending as connections are counted
        values.append(_at_owners(keys, own[chosen], network.layout.layers[rbm.index + 1].owner[hidden[chosen]], comm))
        connections.append(_listed(messages.concatenated(comm, keys), n_visible, n_hidden))
    spec = replace(network.spec, connections=PRUNED, visible_grid="")
    layout = resolve(spec, network.grid, network.layout, connections=connections)
    smaller = DeepBeliefNetwork(spec, network.grid, layout, draw_weights=False)
    for old, new, own in zip(network.rbms, smaller.rbms, values, strict=True):
        _, _, kept = new.weights.entries(new.W)
        kept[:] = own
        new.b[:], new.c[:] = old.b, old.c
        new.parameters.potential[:] = old.parameters.potential
        new.parameters.precision[:] = old.parameters.precision
        new.mean_activation[:] = old.mean_activation
        new.refresh()
    if smaller.output is not None and network.output is not None:
        smaller.output.parameters.flat[:] = network.output.parameters.flat
    smaller.input_offset, smaller.input_scale = network.input_offset, network.input_scale
    smaller.run = None if network.run is None else network.run.anew()
    return smaller


def _listed(keys: Array, n_visible: int, n_hidden: int) -> Listed:
    """The connections ``hidden * n_visible + visible``, in any order."""
    keys.sort()
    offsets = np.searchsorted(keys, np.arange(n_hidden + 1) * n_visible).astype(np.int64)
    return Listed(offsets, np.remainder(keys, n_visible).astype(np.int32), n_visible)


def _at_owners(keys: Array, values: Array, owner: Array, comm: MPI.Comm) -> Array:
    """The values whose hidden units this shard owns, ascending by key.  Collective."""
    sizes = comm.alltoall(np.bincount(owner, minlength=comm.size).tolist())
    ours, sorted_values = np.empty(sum(sizes), keys.dtype), np.empty(sum(sizes), values.dtype)
    bounds = np.cumsum(sizes)[:-1]
    for all_of_them, mine in ((keys, ours), (values, sorted_values)):
        sent = [all_of_them[owner == shard] for shard in range(comm.size)]
        messages.exchange(comm, sent, np.split(mine, bounds))
    return np.asarray(sorted_values[np.argsort(ours)])


def _smallest_kept(size: Array, n: int, comm: MPI.Comm) -> Array:
    """The n-th largest of all shards' sizes: found by halving the range of its bits, which are ordered as it is."""
    bits: Array = size.view(np.uint32 if size.itemsize == 4 else np.uint64)
    low, high = 0, int(comm.allreduce(int(bits.max(initial=0)), MPI.MAX))
    while low < high:  # the largest value that at least n are not below
        middle = (low + high + 1) // 2
        if comm.allreduce(int((bits >= bits.dtype.type(middle)).sum())) >= n:
            low = middle
        else:
            high = middle - 1
    return np.array([low], bits.dtype).view(size.dtype)[0]
