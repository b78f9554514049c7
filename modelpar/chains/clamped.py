"""Gibbs sampling with some visible units held at given values: the completion of damaged samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.collective.agreement import agree
from modelpar.data.minibatches import Minibatches
from modelpar.draws import Purpose
from modelpar.errors import DataError, SpecError, together
from modelpar.kernels.products.product import Activations
from modelpar.kernels.states import Packed, pack, unpack
from modelpar.model.activations import owned_block
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.real_hidden import nothing_on
from modelpar.values import plain
from modelpar.values.forms import plain_array

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

SWEEPS_OF_A_KEY = 2**15 - 1  # a key has 2**16 repeats, two a sweep


@dataclass(frozen=True)
class Clamp:
    """Visible units that are held at given values; of this shard, in the chains of this replica."""

    known: Mask  # (n_visible_owned, chains)
    given: Array  # (n_visible_owned, chains); 0 where nothing is known
    bits: tuple[Packed, Packed] | None  # both again, where units have states

    @classmethod
    def of(cls, given: Array, known: Mask, *, gaussian: bool) -> Clamp:
        given = np.where(known, given, given.dtype.type(0))
        return cls(known, given, None if gaussian else (pack(known), pack(given)))

    def hold(self, v: Activations) -> Activations:
        """The given values where there are any, else those of v (n_visible_owned, chains)."""
        if not isinstance(v, Packed):
            return np.where(self.known, self.given.astype(v.dtype, copy=False), v)
        assert self.bits is not None  # of all units that have states
        known, given = (packed.words for packed in self.bits)
        return Packed((known & given) | (~known & v.words), v.batch)


def complete(
    network: DeepBeliefNetwork, given: Activations, mask: Any, *,
    count: int = 1, steps: int = 1000, states: bool = False, mean_over: int = 1, first_draw: int = 0,
) -> Array:  # fmt: skip
    """Visible means (n_visible_owned, count x samples) with the given units as they are given, on all replicas.

    given    (n_visible_owned, samples), all samples on every replica: states, or values of Gaussian units; what stands
             at other units than the given ones does not matter
    mask     (n_visible_owned, samples) or (n_visible_owned,): 1 where a unit is given, else 0
    count    completions of each sample; number j of sample i is column j x samples + i, whatever the count
    steps    sweeps of Gibbs sampling; 0 leaves the other units at the random states in which chains start
    states   states, or values, drawn given the last hidden states, in place of their means
    mean_over   the means are those given the hidden states of the last sweep, or the average of those of so many last
             ones, which tends to the mean of the other units given the given ones
    first_draw   chooses other completions; the draws of a chain are keyed by this number and its column

    Chains start with the other units drawn from their biases.  A sweep draws the hidden units given the visible ones
    and the visible ones given the hidden ones, then sets the given ones back: for one RBM that is Gibbs sampling of
    p(other units | given ones).  Through a stack a sweep goes up and down again, layer by layer, and draws the states
    of all; upwards these come from the posterior of each RBM, as in pre-training, so it is an approximation.

    The replicas share the chains.  Collective over the whole grid.  Raises DataError, on every rank, where blocks are
    not of the owned units, a mask is not of 0 and 1, or Bernoulli units are held at anything but 0 and 1; SpecError
    for numbers that cannot be.
    """
    grid, first = network.grid, network.rbms[0]
    with together(grid.comm):
        count = plain.integer_number("count", count, at_least=1)
        steps = plain.integer_number("steps", steps, at_least=0)
        mean_over = plain.integer_number("mean_over", mean_over, at_least=1)
        first_draw = plain.integer_number("first_draw", first_draw, at_least=0)
        if mean_over > max(steps, 1):
            raise SpecError(f"mean_over is {mean_over}, but there are {steps} steps; make it {max(steps, 1)} at most")
        if states and mean_over > 1:
            raise SpecError(f"mean_over is {mean_over}, but states, which have no mean, were asked for; leave out one")
        values, known = _checked(network, given, mask)
    n_samples = values.shape[1]
    what: dict[str, Any] = {"count": count, "steps": steps, "states": states, "mean_over": mean_over}
    agree(grid.comm, "complete", **what, first_draw=first_draw, samples=n_samples)
    n_chains = count * n_samples
    mine = Minibatches.slice_of(n_chains, grid.replica, grid.n_replicas)
    samples = np.arange(mine.start, mine.stop) % max(n_samples, 1)
    clamp = Clamp.of(values[:, samples], known[:, samples], gaussian=first.gaussian)
    first_draw += mine.start
    h = nothing_on(first, len(samples))
    v = clamp.hold(first.sample_visible(h, Purpose.FANTASY, 0, first_draw))
    total = np.zeros(())
    for sweep in range(steps):
        rounds, k = divmod(sweep, SWEEPS_OF_A_KEY)
        repeat, draw = 1 + 2 * k, first_draw + n_chains * rounds
        h = first.sample_hidden(v, Purpose.FANTASY, repeat, draw)
        for rbm in network.rbms[1:]:
            h = rbm.sample_hidden(h, Purpose.FANTASY, repeat, draw)
        for rbm in reversed(network.rbms[1:]):
            below = rbm.sample_visible(h, Purpose.FANTASY, repeat + 1, draw)
            assert isinstance(below, Packed)  # only the first RBM has Gaussian units
            h = below
        if not states and sweep >= steps - mean_over:
            total = total + first.visible_given_hidden(h)
        v = clamp.hold(first.sample_visible(h, Purpose.FANTASY, repeat + 1, draw))
    if steps and not states:
        v = np.where(clamp.known, clamp.given, total / mean_over)
    own = unpack(v, network.dtype) if isinstance(v, Packed) else np.asarray(v, network.dtype)
    return np.concatenate(grid.replica_comm.allgather(own), axis=1)


def _checked(network: DeepBeliefNetwork, given: Activations, mask: Any) -> tuple[Array, Mask]:
    """(values, where they are given), (n_visible_owned, samples) both.  Raises DataError on this rank."""
    n_units = len(network.visible_ids)
    block = owned_block(given, n_units, network.dtype, "given values")
    values = unpack(block, network.dtype) if isinstance(block, Packed) else block
    known = mask_of(mask, "the mask")
    if known.ndim == 1 and len(known) == n_units:
        known = np.broadcast_to(known[:, None], values.shape)
    if known.shape != values.shape:
        raise DataError(
            f"the mask came as {' x '.join(map(str, known.shape))}, but this rank owns {n_units} units of "
            f"{values.shape[1]} samples: units, or units x samples, are needed"
        )
    held = values[known]
    if categories := network.rbms[0].visible.categories:
        by_site = known.reshape(-1, categories, known.shape[1])
        whole = by_site.all(axis=1)
        ones = (values.reshape(by_site.shape) == 1).sum(axis=1)
        if (by_site.any(axis=1) != whole).any() or (whole & (ones != 1)).any():
            raise DataError(
                f"a site of categorical units can only be given as a whole: all of its {categories} units in the mask, "
                "and one of them 1"
            )
    if not network.rbms[0].gaussian and ((held != 0) & (held != 1)).any():
        wrong = held[(held != 0) & (held != 1)][0]
        raise DataError(
            f"Bernoulli units are given the value {wrong:g}, but can only be held at 0 and 1; make states of the "
            "values, as by values > 0.5"
        )
    if not np.isfinite(held).all():
        raise DataError("a unit is given NaN or an infinity; leave it out of the mask")
    return values, known


def mask_of(mask: Any, name: str) -> Mask:
    """A mask of any type as truth values.  Raises DataError where there is anything but 0 and 1."""
    plain_mask = plain_array(mask, name)
    if plain_mask.dtype.kind not in "buif":
        raise DataError(f"{name} is of type {plain_mask.dtype}, but must be of 0 and 1")
    known = plain_mask == 1
    wrong = plain_mask[~known & (plain_mask != 0)]
    if len(wrong):
        raise DataError(f"{name} has the value {wrong[0]:g}, but must be of 0 and 1: 1 where a unit is given")
    return np.asarray(known)
