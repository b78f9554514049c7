"""Restricted Boltzmann machines over shards: Algorithm 1 in terms of weights, draws and sums.

v0, p0, h0 are the visible states, hidden probabilities and hidden states that the data drive; v1, p1, h1 are those of
the model.  All are owned activations, (units, batch).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import draws
from modelpar.data.minibatches import Minibatches
from modelpar.draws import Purpose, Stream
from modelpar.kernels import dense
from modelpar.kernels.epilogue import add_bias, bias_sigmoid, bias_sigmoid_sample
from modelpar.kernels.reductions import row_sums, squared_error
from modelpar.parameters import Parameters
from modelpar.spec import TrainingSpec
from modelpar.weights import Scratch, Weights

Array = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]

SPARSITY_DECAY = 0.9  # of the running mean activation (Hinton 2010, section 11)


@dataclass
class Chains:
    """Persistent hidden states of PCD (Tieleman 2008), one column for each sample of this replica's minibatch."""

    h: Array  # (n_hidden_owned, chains)

    @classmethod
    def share_of(cls, whole: Array, replica: int, n_replicas: int) -> Chains:
        """This replica's columns of all chains (n_hidden_owned, batch)."""
        mine = Minibatches.share(whole.shape[1], replica, n_replicas)
        return cls(np.ascontiguousarray(whole[:, mine]))

    def collect(self, replica_comm: MPI.Comm) -> Array:
        """All replicas' chains (n_hidden_owned, batch).  Collective."""
        return np.concatenate(replica_comm.allgather(self.h), axis=1)


class RBM:
    """One RBM: ``W`` (this shard's block), ``b`` (n_visible_owned,), ``c`` (n_hidden_owned,).

    ``index`` counts the RBMs of a network from 0 and keys the draws.  Methods that use W are collective over the
    shards, and the arrays that they return are used again by the next call of the same method.
    """

    def __init__(
        self, index: int, weights: Weights, visible_ids: IntArray, hidden_ids: IntArray, *,
        gaussian: bool, seed: int, dtype: npt.DTypeLike, shard_comm: MPI.Comm, replica_comm: MPI.Comm,
    ) -> None:  # fmt: skip
        self.index, self.weights, self.gaussian, self.seed = index, weights, gaussian, seed
        self.visible_ids, self.hidden_ids = visible_ids, hidden_ids
        self.shard_comm, self.replica_comm = shard_comm, replica_comm
        shape = (len(weights.visible_rows), len(weights.hidden_columns))
        self.parameters = Parameters(shape, len(visible_ids), len(hidden_ids), dtype)
        self.mean_activation: Array = np.zeros(len(hidden_ids), dtype)  # running mean that the sparsity penalty steers
        self._hidden_states, self._visible_states = Scratch(), Scratch()

    @property
    def W(self) -> Array:
        return self.parameters.W

    @property
    def b(self) -> Array:
        return self.parameters.b

    @property
    def c(self) -> Array:
        return self.parameters.c

    def initialise(self, scale: float) -> None:
        """Weights from N(0, scale^2), drawn by unit ids and so the same at every grid; biases 0."""
        stream = Stream(self.seed, self.index, Purpose.WEIGHTS)
        rows, columns = self.weights.visible_rows, self.weights.hidden_columns
        self.W[:] = 0
        # the id of a hidden unit stands for the sample; consecutive ids share blocks of the generator, which is faster
        consecutive = len(columns) > 0 and bool(np.all(np.diff(columns) == 1))
        draws.sample_gaussian(self.W, stream, rows, int(columns[0]) if consecutive else columns, self.W)
        self.W[:] *= self.W.dtype.type(scale)
        self.b[:] = 0
        self.c[:] = 0

    # -- one side given the other ------------------------------------------------------------------------------------

    def hidden_input(self, v: Array) -> Array:
        """W^T v + c of the owned hidden units.   v (n_visible_owned, batch).  Collective over the shards."""
        x = self.weights.up(self.W, self.weights.spread_visible(v))
        add_bias(x, self.c)
        return x

    def visible_input(self, h: Array) -> Array:
        """W h + b of the owned visible units.   h (n_hidden_owned, batch).  Collective."""
        x = self.weights.down(self.W, self.weights.spread_hidden(h))
        add_bias(x, self.b)
        return x

    def hidden_given_visible(self, v: Array) -> Array:
        """P(h = 1 | v) of the owned hidden units.   v (n_visible_owned, batch).  Collective over the shards."""
        x = self.weights.up(self.W, self.weights.spread_visible(v))
        bias_sigmoid(x, self.c)
        return x

    def visible_given_hidden(self, h: Array) -> Array:
        """The mean of v given h, of the owned visible units.   h (n_hidden_owned, batch).  Collective."""
        x = self.weights.down(self.W, self.weights.spread_hidden(h))
        if self.gaussian:
            add_bias(x, self.b)
        else:
            bias_sigmoid(x, self.b)
        return x

    def sample_hidden(self, v: Array, purpose: Purpose, repeat: int, first_draw: int) -> tuple[Array, Array]:
        """(P(h = 1 | v), states drawn from it)"""
        return self._draw_hidden(self.weights.spread_visible(v), purpose, repeat, first_draw)

    def sample_visible(self, h: Array, purpose: Purpose, repeat: int, first_draw: int) -> tuple[Array, Array]:
        """(the mean of v given h, states drawn from it)"""
        x = self.weights.down(self.W, self.weights.spread_hidden(h))
        states = self._visible_states.like(x, len(x))
        stream = Stream(self.seed, self.index, purpose, repeat)
        if self.gaussian:
            add_bias(x, self.b)
            draws.sample_gaussian(x, stream, self.visible_ids, first_draw, states)
        else:
            bias_sigmoid_sample(x, self.b, stream, self.visible_ids, first_draw, states)
        return x, states

    def _draw_hidden(self, visible: Array, purpose: Purpose, repeat: int, first_draw: int) -> tuple[Array, Array]:
        x = self.weights.up(self.W, visible)
        states = self._hidden_states.like(x, len(x))
        bias_sigmoid_sample(
            x, self.c, Stream(self.seed, self.index, purpose, repeat), self.hidden_ids, first_draw, states
        )
        return x, states

    # -- learning ----------------------------------------------------------------------------------------------------

    def contrastive_divergence(
        self, v0: Array, first_draw: int, update: Parameters, spec: TrainingSpec, gain: float, carry: float,
        chains: Chains | None = None, *, n_all_samples: int,
    ) -> float:  # fmt: skip
        """Add one minibatch's share to the update: ``update = carry * update + gain * (<v h>_data - <v h>_model)``.

        Algorithm 1: CD-k (Hinton 2002), or PCD (Tieleman 2008) where ``chains`` are given, whose states it advances.

        v0           (n_visible_owned, batch), this replica's part of the minibatch
        first_draw   global sample counter of its first sample; with the unit ids it keys every draw
        gain, carry  rate / samples, and the momentum's share of this replica
        n_all_samples  samples of the whole minibatch, over all replicas; needed by the sparsity penalty

        Returns the summed squared error of the first reconstruction over the owned units; NaN for PCD, which makes
        none.  Collective over the shards; with a sparsity penalty over the replicas too.
        """
        visible = self.weights.spread_visible(v0)
        p0, h0 = self._draw_hidden(visible, Purpose.HIDDEN, 0, first_draw)
        s0 = h0 if spec.statistics == "1" else p0
        if spec.sparsity_cost:
            s0 = s0 + self._sparsity_shift(p0, spec, n_all_samples)
        self._add_statistics(update, visible, v0, s0, gain, carry)
        if chains is None:
            error, visible, v1, s1 = self._reconstruct(v0, h0, first_draw, spec)
        else:
            error = float("nan")
            visible, v1, s1 = self._advance(chains, v0.shape[1], first_draw, spec)
        self._add_statistics(update, visible, v1, s1, -gain, 1.0)
        return error

    def _reconstruct(
        self, v0: Array, h: Array, first_draw: int, spec: TrainingSpec
    ) -> tuple[float, Array, Array, Array]:
        """The chain of CD-k from the data's hidden states.

        Returns (squared error of the first reconstruction, v1 as the block needs it, v1, the statistics' hidden side).
        """
        error, use_states = 0.0, spec.statistics == "1"
        for k in range(1, spec.gibbs_steps + 1):
            if spec.reconstruction == "states":
                mean, v = self.sample_visible(h, Purpose.VISIBLE, k - 1, first_draw)
            else:
                mean = v = self.visible_given_hidden(h)
            if k == 1:
                error = squared_error(v0, mean)
            visible = self.weights.spread_visible(v)
            if k < spec.gibbs_steps or use_states:
                p, h = self._draw_hidden(visible, Purpose.HIDDEN, k, first_draw)
            else:
                p = self.weights.up(self.W, visible)
                bias_sigmoid(p, self.c)
        return error, visible, v, h if use_states else p

    def _advance(self, chains: Chains, n: int, first_draw: int, spec: TrainingSpec) -> tuple[Array, Array, Array]:
        """Move the first ``n`` persistent chains of this replica on by k steps of Gibbs sampling.

        Returns (v1 as the block needs it, v1, the statistics' hidden side).
        """
        h: Array = np.ascontiguousarray(chains.h[:, :n])
        for k in range(1, spec.gibbs_steps + 1):
            _, v = self.sample_visible(h, Purpose.CHAIN, 2 * k - 1, first_draw)
            visible = self.weights.spread_visible(v)
            p, h = self._draw_hidden(visible, Purpose.CHAIN, 2 * k, first_draw)
        chains.h[:, :n] = h
        return visible, v, h if spec.statistics == "1" else p

    def start_chains(self, first: int, n_chains: int) -> Chains:
        """Chains ``first .. first + n_chains - 1`` of the minibatch, drawn from the hidden biases."""
        x: Array = np.zeros((len(self.hidden_ids), n_chains), self.W.dtype)
        h = np.empty_like(x)
        bias_sigmoid_sample(x, self.c, Stream(self.seed, self.index, Purpose.CHAIN, 0), self.hidden_ids, first, h)
        return Chains(h)

    def _add_statistics(
        self, update: Parameters, visible: Array, v: Array, h: Array, gain: float, carry: float
    ) -> None:
        """update = carry * update + gain * (v h^T, sum of v, sum of h)   visible: v as the block needs it"""
        dense.matmul(visible, self.weights.spread_hidden(h).T, update.W, gain, carry)
        for activations, bias in ((v, update.b), (h, update.c)):
            sums = np.empty_like(bias)
            row_sums(activations, sums)
            bias *= bias.dtype.type(carry)
            bias += bias.dtype.type(gain) * sums

    def _sparsity_shift(self, p0: Array, spec: TrainingSpec, n_all_samples: int) -> Array:
        """(n_hidden_owned, 1) that moves each unit's mean activation towards the target (Hinton 2010, section 11).

        Added to the data's hidden statistics it reaches W and c alike.
        """
        sums = np.empty_like(self.mean_activation)
        row_sums(p0, sums)
        self.replica_comm.Allreduce(MPI.IN_PLACE, sums)
        keep = sums.dtype.type(SPARSITY_DECAY)
        self.mean_activation *= keep
        self.mean_activation += (1 - keep) * sums / sums.dtype.type(n_all_samples)
        shift = spec.sparsity_cost * (spec.sparsity_target - self.mean_activation)
        return np.asarray(shift[:, None], dtype=p0.dtype)
