"""Gradient descent with momentum: statistics or gradients go in, parameters and their velocities change.

    velocity = momentum * velocity + rate * (mean - decay * W);  parameters += velocity

with the decay on weights only.  What is summed over replicas, and by how many samples a sum is divided, is given by a
:class:`modelpar.sync.Reduction`.

Integer statistics are summed as integers, in the smallest type that holds every possible sum, and each replica
then takes the same step from them.  Of real values the sum is the velocity itself: the old one is the same on all
replicas, so only the first one puts it in, and no division, which would round, is needed to undo copies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelpar.kernels.statistics.learning import Counts, accumulate, update_from
from modelpar.kernels.statistics.update import apply_update
from modelpar.model.network import Part
from modelpar.sync import PendingSum, Reduction, Sync
from modelpar.sync.reduction import BUCKET, Means
from modelpar.training.centring import centre, correct, difference_of_means
from modelpar.training.clipping import clip as clip_update
from modelpar.training.schedule import StepSize
from modelpar.weights.parameters import Parameters
from modelpar.weights.penalties import UnitMeans
from modelpar.weights.statistics import ExactGradient, Gradient, Statistics

Array = npt.NDArray[Any]

PIECES = 8  # of a block's counts that travel one by one: few enough that each is worth a message


class Scalars(NamedTuple):
    """velocity = carry * velocity + gain * sum - shrink * W, with another gain for the model's part of statistics"""

    carry: float
    gain: float
    shrink: float
    model_gain: float = 0.0


class Optimizer:
    """Takes the steps of one stage, in which ``sync`` keeps the replicas together.

    Its methods are collective over the replicas where these are in step, and, of gradients, over the shards.
    """

    def __init__(self, sync: Sync) -> None:
        self._sync = sync
        self._counts: Array = np.empty(0, np.int32)
        self._gradient: Parameters | None = None

    def learn(
        self, parameters: Parameters, velocity: Parameters, statistics: Statistics | ExactGradient, size: StepSize,
        n_samples: int, *, centred: bool = False, standardised: bool | None = False, gaussian: bool = False,
        clip: float = 0.0, real_hidden: float = 0.0, keeps_means: bool = False, visible_bias_rate: float = 1.0,
    ) -> UnitMeans | None:  # fmt: skip
        """One step of one part, from this replica's statistics of ``n_samples``.

        centred   take the centred gradient (:mod:`modelpar.training.centring`), of statistics of an RBM
        standardised   take the standardised one, which is centred too; gaussian: whether visible units are
        real_hidden   as :func:`modelpar.training.centring.correct` has it
        clip      limit on the norm of the update of the weights (:mod:`modelpar.training.clipping`), 0 for none, of
                  statistics of an RBM; a share of a step has its fraction of the limit
        keeps_means   whether weights that decay leave the biases b + W lambda and c + W^T mu of the centred gradient as
                  they are; else its fixed point is a model whose means are not those of the data
        visible_bias_rate   over the rate of all else; where units are centred the visible biases are b + W lambda
        Returns what units have been counted from, None where they are not centred.
        """
        reduction, counted_from = self._sync.reduction, None
        if isinstance(statistics, Statistics):
            mine, of_all = (n_samples, statistics.model.v.shape[1]), (statistics.n_samples, statistics.n_chains)
            means = reduction.means(mine, of_all)
            scalars, divisors, rate = _scalars(size, reduction, means), means[:2], size.rate * means.part
            divided = bool(standardised) or real_hidden > 0
            by_itself = divided or (centred and parameters.W.ndim == 1)  # listed connections
            if centred and not by_itself:
                keep = scalars.carry if statistics.integer or reduction.is_first else 0.0
                enter = 1.0 if statistics.integer or reduction.is_first else 0.0
                counted_from = centre(velocity, statistics, reduction, divisors, keep, rate * enter)
                scalars = scalars._replace(carry=1.0)
            if by_itself:
                gradient = self._gradient_of(velocity, statistics, scalars)
                counted_from = correct(
                    gradient, statistics, reduction, divisors, rate, standardised=bool(standardised), gaussian=gaussian,
                    real_hidden=real_hidden,
                )  # fmt: skip
                _enter(gradient, parameters, velocity, scalars)
            elif statistics.integer and statistics.apart:
                self._learn_apart(parameters, velocity, statistics, scalars)
            elif statistics.integer:
                self._learn_at_once(parameters, velocity, statistics, scalars)
            else:
                self._learn_real(parameters, velocity, statistics, scalars)
            if keeps_means and counted_from is not None:
                _keep_means(parameters, velocity, statistics, counted_from, scalars.shrink)
            if visible_bias_rate != 1.0:
                if counted_from is None:
                    slope = difference_of_means(statistics, reduction, divisors)
                else:
                    slope = counted_from.gradient
                _add_to_visible_biases(parameters, velocity, (visible_bias_rate - 1.0) * rate * slope)
            if clip:
                limit = clip / reduction.n_shares
                clip_update(
                    parameters, velocity, statistics.weights, limit, statistics.shard_comm, reduction.traffic
                )  # fmt: skip
        else:
            self._learn_at_once(parameters, velocity, statistics, self._scalars_of(size, n_samples, statistics))
        return counted_from

    def _scalars_of(self, size: StepSize, n_samples: int, gradient: Gradient | ExactGradient) -> Scalars:
        """Of a gradient, which has one phase."""
        reduction = self._sync.reduction
        return _scalars(size, reduction, reduction.means((n_samples, 0), (gradient.n_samples, 1)))

    def _gradient_of(self, like: Parameters, statistics: Statistics, scalars: Scalars) -> Parameters:
        """Gain times the sum over all replicas, of statistics of any kind, in memory that the next call uses again."""
        if self._gradient is None or self._gradient.flat.shape != like.flat.shape:
            self._gradient = like.like()
        gradient, reduction, (_, gain, _, model_gain) = self._gradient, self._sync.reduction, scalars
        if not statistics.integer:
            statistics.add_to(gradient, 0.0, gain, model_gain)
            rows = [] if gradient.rows is None else _pieces(gradient.rows.reshape(-1))
            for piece in [*_pieces(gradient.flat), *rows]:
                reduction.sum(piece)
            return gradient
        both = (("data", gain, statistics.n_samples), ("model", -model_gain, statistics.n_chains))
        phases = both if statistics.apart else (("both", gain, statistics.n_samples),)
        for k, (phase, weight, n) in enumerate(phases):
            blocks, keep = statistics.blocks(phase), float(k > 0)
            sign = 1.0 if phase == "both" else -1.0  # each alone is - v s^T
            for block, G in zip(blocks, gradient.blocks, strict=True):
                accumulate(self._summed(block, statistics, n), G, keep, sign * weight * block.unit)
            for bias, sums, unit in zip(
                (gradient.b, gradient.c), statistics.sums(phase), (1.0, blocks[0].unit), strict=True
            ):
                reduction.sum(sums)
                bias *= bias.dtype.type(keep)
                bias += bias.dtype.type(weight * unit) * sums.astype(bias.dtype)
        return gradient

    def _learn_real(
        self, parameters: Parameters, velocity: Parameters, statistics: Statistics, scalars: Scalars
    ) -> None:
        """One step from statistics that are real values, at least in the data's phase."""
        reduction = self._sync.reduction
        carry, gain, decay, model_gain = scalars
        carry = carry if reduction.is_first else 0.0
        counts = statistics.add_data_to(velocity, carry, gain, model_gain) if statistics.mixed else []
        if counts and reduction.size == 1:  # no other replica waits for a velocity of real values
            for count, W, V in zip(counts, parameters.blocks, velocity.blocks, strict=True):
                count.learn(W, V, 1.0, model_gain * count.unit, decay)
            parameters.b += velocity.b
            parameters.c += velocity.c
            return
        for count, V in zip(counts, velocity.blocks, strict=False):
            count.add_to(V, model_gain * count.unit)
        if not counts:
            statistics.add_to(velocity, carry, gain, model_gain)
        self._apply(parameters, velocity, decay, _begun(velocity, reduction))

    def descend(
        self, gradients: Iterable[tuple[str, Gradient | ExactGradient]], parts: Sequence[Part],
        velocity: Mapping[str, Parameters], size: StepSize, n_samples: int, max_norm: float = 0.0,
    ) -> None:  # fmt: skip
        """One step of all parts, from this replica's gradients over ``n_samples``.

        gradients   by name, in the order in which they are found: a sum may travel while the next one is made, and no
                    parameter changes before the last one is there
        max_norm    longer incoming weights of a unit are scaled back to it (Srivastava et al. 2014); 0 for no limit
        """
        exact: dict[str, ExactGradient] = {}
        travelling: dict[str, tuple[float, list[PendingSum]]] = {}
        reduction = self._sync.reduction
        for name, gradient in gradients:
            if isinstance(gradient, ExactGradient):
                exact[name] = gradient
                continue
            carry, gain, decay, _ = self._scalars_of(size, n_samples, gradient)
            gradient.add_to(velocity[name], carry if reduction.is_first else 0.0, gain)
            travelling[name] = decay, _begun(velocity[name], reduction)
        for part in parts:
            if part.name in exact:
                self.learn(part.parameters, velocity[part.name], exact[part.name], size, n_samples)
            else:
                self._apply(part.parameters, velocity[part.name], *travelling[part.name])
        if max_norm:
            for part in parts:
                part.weights.limit_norms(part.parameters, max_norm, reduction.share)

    def _learn_at_once(
        self, parameters: Parameters, velocity: Parameters, statistics: Statistics | ExactGradient, scalars: Scalars
    ) -> None:
        reduction, (carry, gain, decay, _) = self._sync.reduction, scalars
        blocks = statistics.blocks()
        for block, W, V in zip(blocks, parameters.blocks, velocity.blocks, strict=False):  # gradients are of one block
            of_block = Scalars(carry, gain * block.unit, decay)
            if reduction.size == 1:
                block.learn(W, V, *of_block[:3])  # counted and learned in one pass
            elif reduction.overlaps and isinstance(block, Counts):
                self._learn_in_pieces(block, statistics, W, V, of_block)
            else:
                summed = self._summed(block, statistics, statistics.n_samples)
                update_from(summed, W, V, *of_block[:3])
        units = 1.0, blocks[0].unit
        for bias, old, sums, unit in zip(
            (parameters.b, parameters.c), (velocity.b, velocity.c), statistics.sums(), units, strict=True
        ):
            reduction.sum(sums)
            old *= old.dtype.type(carry)
            old += old.dtype.type(gain * unit) * sums.astype(old.dtype)
            bias += old

    def _learn_apart(
        self, parameters: Parameters, velocity: Parameters, statistics: Statistics, scalars: Scalars
    ) -> None:
        """As ``_learn_at_once`` where data and model have other divisors: their integers are kept apart."""
        carry, gain, decay, model_gain = scalars
        data, model = statistics.blocks("data"), statistics.blocks("model")
        for of_data, of_model, W, V in zip(data, model, parameters.blocks, velocity.blocks, strict=True):
            # each holds - v s^T of its phase
            accumulate(self._summed(of_data, statistics, statistics.n_samples), V, carry, -gain * of_data.unit)
            summed = self._summed(of_model, statistics, statistics.n_chains)
            update_from(summed, W, V, 1.0, model_gain * of_model.unit, decay)
        units = 1.0, data[0].unit
        pairs = zip(statistics.sums("data"), statistics.sums("model"), strict=True)
        biases = (parameters.b, parameters.c), (velocity.b, velocity.c)
        for bias, old, (first, second), unit in zip(*biases, pairs, units, strict=True):
            both = np.concatenate([first, second])
            self._sync.reduction.sum(both)
            old *= old.dtype.type(carry)
            old += old.dtype.type(gain * unit) * both[: len(first)].astype(old.dtype)
            old -= old.dtype.type(model_gain * unit) * both[len(first) :].astype(old.dtype)
            bias += old

    def _learn_in_pieces(
        self, block: Counts, statistics: Statistics | ExactGradient, W: Array, V: Array, scalars: Scalars
    ) -> None:
        """As ``update_from`` of ``_summed``, but some rows travel while the next ones are counted."""
        counts = self._buffer(block, statistics, statistics.n_samples)
        rows = max(1, min(-(-len(counts) // PIECES), BUCKET * len(counts) // max(1, counts.size)))
        before: tuple[slice, PendingSum] | None = None

        def learn(piece: tuple[slice, PendingSum] | None) -> None:
            if piece is not None:
                piece[1].wait()
                update_from(counts[piece[0]], W[piece[0]], V[piece[0]], *scalars[:3])

        for start, stop in block.fill_in_pieces(counts, rows):
            travelling = self._sync.reduction.begin(counts[start:stop].reshape(-1))
            learn(before)
            before = slice(start, stop), travelling
        learn(before)

    def _summed(self, block: Any, statistics: Statistics | ExactGradient, n_samples: int) -> Array:
        """Counts of a block of weights (rows, columns), over all replicas, that have ``n_samples`` together."""
        counts = self._buffer(block, statistics, n_samples)
        block.fill(counts)
        for piece in _pieces(counts.reshape(-1)):
            self._sync.reduction.sum(piece)
        return counts

    def _buffer(self, block: Any, statistics: Statistics | ExactGradient, n_samples: int) -> Array:
        """(rows, columns) of the smallest type that holds a block's sums over all replicas."""
        dtype: np.dtype[Any] = np.dtype(np.int32)
        if isinstance(block, Counts):
            largest = block.largest(statistics.planes, n_samples)
            dtype = next(np.dtype(t) for t in (np.int8, np.int16, np.int32) if largest <= np.iinfo(t).max)
        elif isinstance(block, ExactGradient):
            dtype = block.W.dtype
        n = math.prod(block.shape)
        if self._counts.size < n or self._counts.dtype != dtype:
            self._counts = np.empty(n, dtype)
        return self._counts[:n].reshape(block.shape)

    def _apply(self, parameters: Parameters, velocity: Parameters, shrink: float, sums: list[PendingSum]) -> None:
        """velocity -= shrink * W; parameters += velocity, each piece when its sum is there."""
        at = 0
        for values, change, travelling in zip(_pieces(parameters.flat), _pieces(velocity.flat), sums, strict=True):
            travelling.wait()
            weights = min(max(parameters.n_weights - at, 0), values.size)  # only weights decay
            apply_update(values[:weights], change[:weights], shrink)
            apply_update(values[weights:], change[weights:], 0.0)
            at += values.size
        if parameters.rows is not None and velocity.rows is not None:  # the second block of a dual layout
            self._sync.reduction.sum(velocity.rows)
            apply_update(parameters.rows.reshape(-1), velocity.rows.reshape(-1), shrink)


def _keep_means(
    parameters: Parameters, velocity: Parameters, statistics: Statistics, means: UnitMeans, shrink: float
) -> None:
    """Let b + W lambda and c + W^T mu stay as they are where W has become shorter by ``shrink``.

    After a step, by weights that were there before it: products of vectors use the memory of statistics that still
    wait to be summed.  Collective over the shards.
    """
    if not shrink:
        return
    now, change = (means.inputs(statistics.weights, of) for of in (parameters, velocity))
    for name, after, moved in zip(("b", "c"), now, change, strict=True):
        for of in (parameters, velocity):
            bias = getattr(of, name)
            bias += bias.dtype.type(shrink) * (after - moved)


def _add_to_visible_biases(parameters: Parameters, velocity: Parameters, change: Array) -> None:
    """Make the step of b + W lambda, or of b, longer by ``change``: W and c have taken theirs."""
    with np.errstate(over="ignore", invalid="ignore"):  # a training that breaks down is found by the health checks
        for of in (parameters, velocity):
            of.b += change.astype(of.b.dtype)


def _enter(gradient: Parameters, parameters: Parameters, velocity: Parameters, scalars: Scalars) -> None:
    """velocity = carry * velocity + gradient - shrink * W; parameters += velocity"""
    for G, W, V in zip(gradient.blocks, parameters.blocks, velocity.blocks, strict=True):
        update_from(G, W, V, scalars.carry, 1.0, scalars.shrink)
    for change, bias, old in (
        (gradient.b, parameters.b, velocity.b), (gradient.c, parameters.c, velocity.c),
        (gradient.potential, parameters.potential, velocity.potential),
        (gradient.precision, parameters.precision, velocity.precision),
    ):  # fmt: skip
        old *= old.dtype.type(scalars.carry)
        old += change
        bias += old


def _scalars(size: StepSize, reduction: Reduction, means: Means) -> Scalars:
    carry, shrink = size.momentum if reduction.momentum else 0.0, size.rate * (size.decay / reduction.n_shares)
    rate = size.rate * means.part
    return Scalars(carry, rate / means.samples, shrink, rate / means.chains)


def _pieces(values: Array) -> list[Array]:
    return [values[start : start + BUCKET] for start in range(0, values.size, BUCKET)]


def _begun(velocity: Parameters, reduction: Reduction) -> list[PendingSum]:
    """Sums of the pieces of a velocity that this replica has added its part to."""
    return [reduction.begin(piece) for piece in _pieces(velocity.flat)]
