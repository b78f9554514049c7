"""Chains of training that are tempered: a ladder below the RBM that is trained, whose states come up by swaps.

Only the states of the RBM itself make the model's statistics.  With ``pt`` the levels are temperatures, which are
placed anew at the start of an epoch.  With ``ptt`` they are the parameters that training has gone through: the present
ones are kept as a new level whenever swaps between them and the last kept ones have become rare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.chains.gibbs import SHARES, held, shown
from modelpar.chains.ladder import PILOT_VISIBLE, Level, Swaps, Walkers, sweep
from modelpar.chains.tempering import gains, ladder_of_kept, placed, rounded, spread_of
from modelpar.data.minibatches import Minibatches
from modelpar.draws import Purpose
from modelpar.kernels.products.product import Activations
from modelpar.model.rbm import RBM, statistic_of
from modelpar.spec import TrainingSpec
from modelpar.weights.parameters import Parameters
from modelpar.weights.statistics import Phase

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

GROW_BELOW = 0.25  # acceptance of swaps with the last kept parameters, below which the present ones are kept too
LOOK_EVERY = 10  # updates between two looks at that acceptance
RARE = 0.05  # acceptance over an epoch below which hardly any state comes up the ladder


def rare_swaps(rbm: int, acceptance: float, method: str) -> str:
    """The warning where two neighbours of a ladder hardly ever swap, and what to do."""
    more = "--chain-temperatures" if method == "pt" else "--chain-steps or a smaller --learning-rate"
    also = ", or more --chain-steps" if method == "pt" else ", and more --chain-temperatures where the ladder is full"
    return (
        f"RBM {rbm}: two neighbouring levels of its chains accept {acceptance:.1%} of their swaps over an epoch, so "
        f"hardly any state comes up the ladder, and the chains may stay in their modes; use more {more}{also}"
    )


@dataclass
class TemperedChains:
    """This replica's chains on all levels, and what the levels are.  Fields are replaced, never changed."""

    walkers: Walkers
    method: str  # pt, ptt
    betas: tuple[float, ...] = ()  # of pt, one for each level
    kept: tuple[Parameters, ...] = ()  # of ptt: those of each level but the highest; the first without its weights
    window: tuple[int, int] = (0, 0)  # of ptt: swaps tried and accepted at the top until the last look, here
    turn: int = 0  # of the next update, in which even and odd rounds of swaps try other pairs

    @property
    def n_all(self) -> int:
        """Chains over all replicas."""
        return self.walkers.n_all

    @property
    def first(self) -> int:
        """Id of this replica's first chain."""
        return self.walkers.first

    @property
    def h(self) -> Activations:
        """Hidden states, or values, of the RBM that is trained (n_hidden_owned, chains of this replica)."""
        return self.walkers.h[-1]

    @property
    def n_levels(self) -> int:
        return len(self.walkers.h)

    def levels(self, rbm: RBM) -> list[Level]:
        """The ladder, with ``rbm`` on top."""
        if self.method == "pt":
            return [Level(rbm, beta) for beta in self.betas]
        return ladder_of_kept(rbm, self.kept)

    def place(self, rbm: RBM, update: int) -> None:
        """Place the temperatures of pt, at equal distances at first and then by what the chains of all levels are like.

        The distances are in inverse proportion to the spread of d log f / d beta, as
        :func:`modelpar.chains.tempering.temperatures` places them.  Collective over the whole grid.
        """
        if self.method != "pt":
            return
        if not self.betas:
            self.betas = rounded(np.linspace(0.0, 1.0, self.n_levels))
            return
        levels, spreads = self.levels(rbm), []
        for t, (here, there) in enumerate(pairwise(levels)):
            counter = (update * self.n_levels + t) * self.n_all + self.first
            v = here.visible(self.walkers.h[t], Purpose.SWAP, PILOT_VISIBLE, counter)
            mine = gains(here, there, v, here.inputs(v))
            spreads.append(spread_of([gain for part in rbm.replica_comm.allgather(mine) for gain in part]))
        self.betas = rounded(placed(np.array(spreads), np.array(self.betas), self.n_levels))

    def advance(self, rbm: RBM, first_draw: int, spec: TrainingSpec) -> tuple[Phase, Activations]:
        """Move all levels on by ``spec.sweeps`` sweeps, each with a round of swaps.

        first_draw   counter of the draws of this replica's first chain
        Returns (the model's phase of the statistics, hidden states of the RBM's own chains).  Collective over the
        shards.
        """
        share, counter = divmod(first_draw, SHARES)
        walkers, update, top = self.walkers, (counter - self.first) // self.n_all, self.n_levels - 1
        levels, start = self.levels(rbm), share * SHARES
        for k in range(spec.sweeps):
            number, last = update * spec.sweeps + k, k == spec.sweeps - 1
            turn = self.turn * spec.sweeps + k
            walkers, v = sweep(levels, walkers, number, Purpose.CHAIN, start=start, turn=turn, all_hidden=not last)
        v_sent = rbm.weights.spread_visible(v[top])
        counter = start + number * self.n_all + self.first
        hidden = rbm.hidden_side(v_sent, Purpose.CHAIN, 2 * top + 2, counter, spec, states=True)
        self.walkers = replace(walkers, h=(*walkers.h[:-1], hidden.activations))
        s = statistic_of(hidden)
        phase = Phase(v[top], v_sent.wait(), s, rbm.weights.spread_hidden(s).wait(), hidden.gradient)
        return phase, hidden.activations

    def follow(self, rbm: RBM, before: int, update: int, at_most: int) -> None:
        """Look at swaps with the last kept parameters of ptt, and keep the present ones too where these are rare.

        before, update   updates at the last moment at which all replicas had the same parameters, and now, when they do
        at_most          levels, one of which is left out where there are more
        Looks every ``LOOK_EVERY`` updates.  Collective over the replicas.
        """
        if self.method == "ptt" and update // LOOK_EVERY > before // LOOK_EVERY:
            self._grow(rbm, at_most)

    def _grow(self, rbm: RBM, at_most: int) -> None:
        swaps = self.walkers.swaps.total(rbm.replica_comm)
        before = np.array(self.window)
        rbm.replica_comm.Allreduce(MPI.IN_PLACE, before)
        n_tried, n_accepted = int(swaps.tried[-1] - before[0]), int(swaps.accepted[-1] - before[1])
        mine = self.walkers.swaps
        self.window = int(mine.tried[-1]), int(mine.accepted[-1])
        if n_tried and n_accepted < GROW_BELOW * n_tried:
            present = rbm.parameters.like()
            present.copy_from(rbm.parameters)
            self.kept = (*self.kept, present)
            tried, accepted = (np.append(counts, 0) for counts in (mine.tried, mine.accepted))
            self._relevel([*range(self.n_levels), self.n_levels - 1], tried, accepted)
            if self.n_levels > at_most:
                self._thin(swaps)

    def _thin(self, swaps: Swaps) -> None:
        """Leave out the kept level whose neighbours swap most with it: the one that is needed least."""
        near = np.nan_to_num(swaps.acceptance[:-1] + swaps.acceptance[1:], nan=0.0)
        level = 1 + int(np.argmax(near)) if len(near) else 1
        self.kept = self.kept[:level] + self.kept[level + 1 :]
        mine = self.walkers.swaps
        tried, accepted = (np.delete(counts, level) for counts in (mine.tried, mine.accepted))
        tried[level - 1] = accepted[level - 1] = 0  # of two that are neighbours now
        self._relevel([t for t in range(self.n_levels) if t != level], tried, accepted)

    def _relevel(self, sources: list[int], tried: IntArray, accepted: IntArray) -> None:
        """New levels with the states of old ones, and what was counted of those neighbours that there were before."""
        walkers = self.walkers
        swaps = Swaps(tried, accepted, walkers.swaps.round_trips)
        h = tuple(walkers.h[t] for t in sources)
        self.walkers = replace(walkers, h=h, direction=walkers.direction[sources], swaps=swaps)
        self.window = 0, 0

    def end_epoch(self, replica_comm: MPI.Comm) -> dict[str, float]:
        """Measures of an epoch, the same on every rank; counting begins anew.  Collective over the replicas.

        swap_acceptance   of the neighbours that swap least often
        round_trips       states that went from the lowest level to the highest and back
        """
        swaps = self.walkers.swaps.total(replica_comm)
        self.walkers = replace(self.walkers, swaps=Swaps.none(self.n_levels))
        self.window = 0, 0
        tried = swaps.acceptance[swaps.tried > 0]
        least = {"swap_acceptance": float(tried.min())} if len(tried) else {}
        levels = {"chain_levels": float(self.n_levels)} if self.method == "ptt" else {}
        return {**least, "round_trips": float(swaps.round_trips), **levels}

    # -- to and from files -------------------------------------------------------------------------------------------

    def collect(self, replica_comm: MPI.Comm, dtype: npt.DTypeLike) -> dict[str, Array]:
        """All replicas' chains: states (n_hidden_owned, chains) as 0 and 1 of ``dtype``, real values as they are.

        Collective.

        ``chains`` has those of the RBM that is trained, ``chains.below`` those of the levels below one after another,
        ``chains.direction`` (levels, chains) int32 where all are on their way to.
        """
        everyone = replica_comm.allgather((self.walkers.h, self.walkers.direction))
        levels = [np.concatenate([shown(h[t], dtype) for h, _ in everyone], axis=1) for t in range(self.n_levels)]
        direction = np.concatenate([direction for _, direction in everyone], axis=1)
        return {
            "chains": levels[-1], "chains.below": np.concatenate(levels[:-1], axis=1), "chains.direction": direction,
        }  # fmt: skip

    def described(self, replica_comm: MPI.Comm) -> dict[str, Any]:
        """What a checkpoint says of them besides tensors, as plain values.  Collective."""
        swaps = self.walkers.swaps.total(replica_comm)
        window = np.array(self.window)
        replica_comm.Allreduce(MPI.IN_PLACE, window)
        return {
            "method": self.method, "betas": list(self.betas), "kept": len(self.kept), "window": window.tolist(),
            "tried": swaps.tried.tolist(), "accepted": swaps.accepted.tolist(), "round_trips": swaps.round_trips,
        }  # fmt: skip

    @staticmethod
    def room(described: Mapping[str, Any], n_hidden_owned: int, n_all: int, dtype: npt.DTypeLike) -> dict[str, Array]:
        """Arrays as ``collect`` returns them, to be filled from a file."""
        n_levels = len(described["tried"]) + 1
        return {
            "chains": np.zeros((n_hidden_owned, n_all), dtype),
            "chains.below": np.zeros((n_hidden_owned, (n_levels - 1) * n_all), dtype),
            "chains.direction": np.zeros((n_levels, n_all), np.int32),
        }

    @classmethod
    def of_replica(
        cls, described: Mapping[str, Any], arrays: Mapping[str, Array], kept: tuple[Parameters, ...], replica: int,
        n_replicas: int, *, real: bool = False,
    ) -> Self:  # fmt: skip
        """This replica's part of what ``collect`` and ``described`` have returned on any grid.

        real   whether the arrays are of hidden units with real values
        """
        n_all, n_levels = arrays["chains"].shape[1], len(described["tried"]) + 1
        mine, below = Minibatches.slice_of(n_all, replica, n_replicas), arrays["chains.below"]
        states = [*np.split(below, n_levels - 1, axis=1), arrays["chains"]]
        counts: list[Any] = [described["tried"], described["accepted"], described["window"]]
        tried, accepted, window = (np.array(count, np.int64) * (replica == 0) for count in counts)
        swaps = Swaps(tried, accepted, int(described["round_trips"]) * (replica == 0))
        h = tuple(held(level[:, mine], real=real) for level in states)
        direction = np.ascontiguousarray(arrays["chains.direction"][:, mine])
        walkers = Walkers(h, direction, mine.start, n_all, swaps)
        betas = tuple(float(beta) for beta in described["betas"])
        return cls(walkers, str(described["method"]), betas, kept, (int(window[0]), int(window[1])))
