"""The chains that a stage of training draws its model's statistics from, where they belong to no sample."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modelpar.chains.gibbs import SHARES, Chains, start
from modelpar.chains.ladder import Walkers
from modelpar.chains.tempered_chains import RARE, TemperedChains, rare_swaps
from modelpar.data.feed import Feed
from modelpar.data.minibatches import Minibatches, order_of
from modelpar.errors import warn
from modelpar.kernels.products.product import Activations
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.spec import TrainingSpec
from modelpar.training.feeds import BEYOND_TRAINING
from modelpar.training.minibatch_loop import Minibatch
from modelpar.training.state import TrainingRun

IntArray = npt.NDArray[np.int64]


class ChainSupply:
    """The chains of every update: those of the run that go on, or new ones each time; none for CD.

    A replica has its own, which it moves on in every update, or share of an update, that it takes.

    done   updates of the stage that were done before

    Chains that a run has are kept where they are as many as wanted.  Making one, and ``at``, are collective over the
    shards.
    """

    def __init__(
        self, network: DeepBeliefNetwork, run: TrainingRun, rbm: RBM, training: TrainingSpec, feed: Feed, done: int
    ) -> None:
        self._rbm, self._run, self._training, self._feed = rbm, run, training, feed
        self._replica, self._n_replicas = network.grid.replica, network.grid.n_replicas
        self._comm, self._warned = network.grid.comm, False
        self._order: IntArray | None = None
        self._last_meeting = done
        n_all, restart = training.n_chains, training.chain_restart
        if not n_all or restart:
            run.chains = None
        elif run.chains is None or run.chains.n_all != n_all or not self._as_asked(run.chains):
            run.chains = self._started(0) if training.chain_method == "gibbs" else self._tempered()

    def begin_segment(self, done: int) -> None:
        """Place temperatures anew where an epoch begins, after ``done`` updates.  Collective over the whole grid."""
        chains = self._run.chains
        if isinstance(chains, TemperedChains):
            updates_of_epoch = -(-self._feed.n_samples // self._training.batch_size)
            if done % updates_of_epoch == 0 or not chains.betas:
                chains.place(self._rbm, done)

    def at(self, batch: Minibatch) -> Chains | TemperedChains | None:
        """The chains as the update of this minibatch finds them."""
        if self._training.chain_restart:
            return self._started(batch.update, batch.share, batch.n_shares)
        chains = self._run.chains
        if isinstance(chains, TemperedChains):
            chains.turn = batch.update if batch.n_shares == 1 else chains.turn + 1
        return chains

    def meet(self, done: int) -> None:
        """Let ladders of ptt follow the parameters, which all replicas have alike now, after ``done`` updates.

        Collective over the replicas.
        """
        chains = self._run.chains
        if isinstance(chains, TemperedChains):
            chains.follow(self._rbm, self._last_meeting, done, self._training.chain_temperatures)
        self._last_meeting = done

    def end_epoch(self) -> dict[str, float]:
        """Measures of tempered chains over the epoch; none of others.  Collective over the grid.

        Warns once where swaps are rare.
        """
        chains = self._run.chains
        if not isinstance(chains, TemperedChains):
            return {}
        measures = chains.end_epoch(self._rbm.replica_comm)
        if not self._warned and measures.get("swap_acceptance", 1.0) < RARE:
            self._warned = True
            warn(self._comm, rare_swaps(self._rbm.index, measures["swap_acceptance"], chains.method))
        return measures

    def first_draw(self, batch: Minibatch) -> int | None:
        """The counter of the draws of this replica's first chain in an update; None without chains."""
        n_all = self._training.n_chains
        mine = Minibatches.slice_of(n_all, self._replica, self._n_replicas)
        return batch.share * SHARES + batch.update * n_all + mine.start if n_all else None

    def _as_asked(self, chains: Chains | TemperedChains) -> bool:
        """Whether chains that the run has are of the kind that is wanted."""
        training = self._training
        if not isinstance(chains, TemperedChains):
            return training.chain_method == "gibbs"
        same = chains.method == training.chain_method
        return same and (chains.method != "pt" or chains.n_levels == training.chain_temperatures)

    def _tempered(self) -> TemperedChains:
        """Each level starts where chains of an update of its number would."""
        training, rbm = self._training, self._rbm
        n_levels = training.chain_temperatures if training.chain_method == "pt" else 2
        starts = [self._started(level) for level in range(n_levels)]
        walkers = Walkers.at([one.h for one in starts], starts[0].first, starts[0].n_all)
        kept = []
        if training.chain_method == "ptt":
            kept.append(rbm.parameters.like())
            kept[0].copy_from(rbm.parameters)
        return TemperedChains(walkers, training.chain_method, kept=tuple(kept))

    def _started(self, update: int, share: int = 0, n_shares: int = 1) -> Chains:
        training = self._training
        where = training.chain_start, self._replica, self._n_replicas, training.n_chains
        data = self._samples(update * n_shares + share) if training.chain_start == "data" else None
        return start(self._rbm, *where, update=update, share=share, data=data)

    def _samples(self, update: int) -> Activations:
        """Samples for this replica's chains, in a random order that all chains of all updates go through.

        update   counts the shares of updates, where replicas take these
        """
        feed, n_all = self._feed, self._training.n_chains
        if self._order is None:
            self._order = order_of(self._rbm.seed, self._rbm.index << 24, feed.n_samples, feed.weights)
        mine = Minibatches.slice_of(n_all, self._replica, self._n_replicas)
        counters = update * n_all + np.arange(mine.start, mine.stop)
        samples = self._order[counters % feed.n_samples]
        first = BEYOND_TRAINING + update * n_all + mine.start
        if feed.binary:
            return feed.states(samples, first)
        v = np.empty((feed.n_units, len(samples)), self._rbm.W.dtype)
        feed.fill(samples, first, v)
        return v
