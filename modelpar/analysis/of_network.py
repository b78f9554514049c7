"""What the other modules take of a network and its data: whole parameters, couplings, and sequences as states.

Each rank has a part, and all get the whole: these functions are collective over the grid of the network.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from modelpar.analysis.couplings import leading_order, two_body
from modelpar.analysis.frequencies import states_of
from modelpar.chains.gibbs import Chains
from modelpar.data import Dataset, Split
from modelpar.draws import Purpose
from modelpar.errors import SpecError
from modelpar.kernels.products.product import Activations
from modelpar.kernels.states import Packed, pack, unpack
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.real_hidden import nothing_on
from modelpar.training.scoring import share_of_split
from modelpar.training.state import TrainingRun
from modelpar.values import plain

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

INPUTS = 64  # points of the normal distribution of a hidden unit's input
AT_ONCE = 1 << 24  # values of samples that are floats at a time
CHAINS = 4096


class Whole(NamedTuple):
    """Parameters of an RBM by unit ids: W (visible, hidden), b (visible,), c (hidden,)."""

    W: Array
    b: Array
    c: Array


def whole_parameters(network: DeepBeliefNetwork) -> Whole:
    """Those of the first RBM, on every rank."""
    rbm, n_hidden = network.rbms[0], network.spec.layers[1]
    W = network.filters(np.arange(n_hidden)).T
    b = network.whole_visible(rbm.b[:, None])[:, 0]
    return Whole(np.ascontiguousarray(W), b, _by_unit(network, rbm.c))


def _by_unit(network: DeepBeliefNetwork, owned: Array) -> Array:
    """Values of all hidden units of the first RBM from those of the owned ones."""
    rbm, comm = network.rbms[0], network.grid.shard_comm
    values = np.empty(network.spec.layers[1], owned.dtype)
    values[np.concatenate(comm.allgather(rbm.hidden_ids))] = np.concatenate(comm.allgather(owned))
    return values


def effective_couplings(network: DeepBeliefNetwork, frequencies: Array | None = None) -> Doubles:
    """Couplings of the sites, (sites, states, sites, states), of a network of one RBM with categorical visible units.

    Of Bernoulli hidden units they are exact, see ``couplings.two_body``; of real-valued ones the second cumulant, whose
    variance is averaged over the input that independent sites make, taken to be normal.

    frequencies   (sites, states) of the other sites; None: all states alike
    Raises SpecError, on every rank, for other networks.
    """
    q = network.spec.visible_kind.categories
    if not q or len(network.spec.layers) > 2:
        raise SpecError(f"couplings of sites are those of one RBM with categorical visible units, not of "
                        f"{network.spec.visible} ones in {len(network.rbms)} RBM(s)")  # fmt: skip
    W, _, c = whole_parameters(network)
    rbm = network.rbms[0]
    if (units := rbm.hidden_units) is None:
        return two_body(W, c, q, frequencies)
    f = np.full((len(W) // q, q), 1 / q) if frequencies is None else np.asarray(frequencies, np.float64)
    mine = rbm.hidden_ids
    x = normal_inputs(W[:, mine], c[mine], f)
    variance = units.given(x, rbm.parameters.potential).variance().mean(axis=1)
    return leading_order(W, q, _by_unit(network, variance))


def normal_inputs(W: Array, c: Array, frequencies: Array, n: int = INPUTS) -> Doubles:
    """(hidden, n) inputs of hidden units, evenly likely, of the normal distribution with the mean and the variance that
    independent sites give them.   frequencies (sites, states).  Not collective."""
    f = np.asarray(frequencies, np.float64)
    sites = np.asarray(W, np.float64).reshape(*f.shape, -1)
    mean = (f[:, :, None] * sites).sum(axis=1)
    variance = (f[:, :, None] * (sites - mean[:, None]) ** 2).sum(axis=(0, 1))
    z = special.ndtri((np.arange(n) + 0.5) / n)
    return np.asarray((c + mean.sum(axis=0))[:, None] + np.sqrt(variance)[:, None] * z)


def states_of_split(network: DeepBeliefNetwork, dataset: Dataset, split: Split) -> Array:
    """All samples of a split as states, (samples, sites) on every rank; of Bernoulli units the values themselves, a
    byte each."""
    q = network.spec.visible_kind.categories or 1
    v, _ = share_of_split(network, dataset, split)
    parts, at_once = [], max(1, AT_ONCE // network.spec.layers[0])
    for start in range(0, v.shape[1], at_once):
        stop = min(start + at_once, v.shape[1])
        piece = unpack(v.take(start, stop), network.dtype) if isinstance(v, Packed) else v[:, start:stop]
        parts.append(_states(network.whole_visible(piece), q))
    mine = np.concatenate(parts) if parts else _states(np.zeros((network.spec.layers[0], 0), network.dtype), q)
    comm = network.grid.replica_comm
    return mine if comm.size == 1 else np.concatenate(comm.allgather(mine))


def sampled_states(
    network: DeepBeliefNetwork, count: int, sweeps: int, *, chains: int = CHAINS, apart: int = 25, first_draw: int = 0,
    start: str = "random",
) -> Array:  # fmt: skip
    """States of the model, (count, sites) on every rank, of chains of Gibbs sampling; of Bernoulli units a byte each.

    start   ``random``: so many ``chains`` at random states; ``chains``: where those of the training are, all of them,
            which have come to every mode of a model that new ones would take thousands of sweeps for

    They are taken after ``sweeps`` sweeps, and then again after every ``apart`` more, as chains that are there already
    need no other start: neighbours in time are alike, but means over many are as good as those of as many more chains.

    Raises SpecError, on every rank, for a network of several RBMs, or without the chains that are asked for.
    """
    if len(network.rbms) > 1:
        raise SpecError(f"samples of chains are those of one RBM, not of a stack of {len(network.rbms)}")
    if start not in ("random", "chains"):
        raise SpecError(f"start is {plain.shown(start)}, but must be random or chains")
    rbm, q, chains = network.rbms[0], network.spec.visible_kind.categories or 1, min(chains, max(count, 1))
    h = _of_training(network) if start == "chains" else nothing_on(rbm, chains)
    chains, parts, wanted = h.shape[1], [], count
    v = rbm.sample_visible(h, Purpose.FANTASY, 0, first_draw)
    sweep, taken = 0, sweeps
    while wanted > 0:
        while sweep < taken:
            repeat = 1 + 2 * sweep
            h = rbm.sample_hidden(v, Purpose.FANTASY, repeat, first_draw)
            v, sweep = rbm.sample_visible(h, Purpose.FANTASY, repeat + 1, first_draw), sweep + 1
        values = unpack(v, network.dtype) if isinstance(v, Packed) else v
        parts.append(_states(network.whole_visible(np.ascontiguousarray(values[:, :wanted])), q))
        wanted, taken = wanted - chains, taken + apart
    return np.concatenate(parts) if parts else _states(np.zeros((network.spec.layers[0], 0), network.dtype), q)


def _of_training(network: DeepBeliefNetwork) -> Activations:
    """Hidden states or values of all chains of the training, (n_hidden_owned, chains), on every replica."""
    kept = TrainingRun.of(network).chains
    if not isinstance(kept, Chains):
        raise SpecError('there are no chains of training to go on from; train with chains, or start="random"')
    real = network.rbms[0].hidden_units is not None
    whole = kept.collect(network.grid.replica_comm, network.dtype)["chains"]
    return whole if real else pack(whole)


def _states(whole: Array, q: int) -> Array:
    """(samples, sites) from states (visible, samples)."""
    return whole.T.astype(np.uint8) if q == 1 else states_of(whole.T, q)
