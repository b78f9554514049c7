"""Replicas in turn, in one process: how many iterations a strategy needs does not depend on the clock.

Each replica has parameters of its own and takes its step with the engine's own back-propagation; what happens between
the steps is the strategy's arithmetic.  With an all-reduce, R replicas are one replica with R times the minibatch (the
engine keeps that promise bit for bit).  With a parameter server and equal speeds the replicas push one after the
other, so every push has a staleness of R - 1.  ``study.py check`` compares with real ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, Grid, NetworkSpec, TrainingSpec, evaluate, pretrain
from modelpar.comm.exchange import Traffic
from modelpar.data import Dataset
from modelpar.data.minibatches import Minibatches
from modelpar.model.backprop import BackPropagation
from modelpar.spec import FineTuneSpec, SyncSpec
from modelpar.sync import LocalSGD
from modelpar.training.feeds import real_values
from modelpar.training.optimizer import Optimizer
from modelpar.training.schedule import StepSize

HIDDEN = 500
GOAL = 0.90


@dataclass(frozen=True)
class Setting:
    """One run.   rate: of the whole step, which all replicas' updates add up to (local: of a replica's own step)"""

    strategy: str  # allreduce, local, server
    replicas: int
    batch: int  # samples of one replica in one iteration
    rate: float
    seed: int
    period: int = 10


class Runner:
    """A network that was pre-trained for one epoch, and its data."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        self.grid = Grid(MPI.COMM_SELF)
        layers = (dataset.n_visible, HIDDEN)
        spec = NetworkSpec(layers, classes=dataset.n_classes, seed=seed, weight_scale=0.01)
        self.network = DeepBeliefNetwork(spec, self.grid)
        plain = TrainingSpec(epochs=1, centred=False, initial_momentum=0.5)  # as it was measured
        for _ in pretrain(self.network, dataset, plain):
            pass
        self.start = self._taken()
        self.feed = real_values(self.network, dataset, dataset.train)
        self.labels = dataset.train.labels
        self.backprop = BackPropagation(self.network, FineTuneSpec(dropout=0.0))
        steps_alone = LocalSGD(self.grid.replica_comm, Traffic(), SyncSpec(sync="local"))
        self.optimizer = Optimizer(steps_alone)
        self.velocity = {part.name: part.parameters.like(rows=False) for part in self.network.parts()}

    def _taken(self) -> np.ndarray:
        return np.concatenate([part.parameters.flat for part in self.network.parts()])

    def _put(self, values: np.ndarray) -> None:
        at = 0
        for part in self.network.parts():
            flat = part.parameters.flat
            flat[:] = values[at : at + flat.size]
            at += flat.size

    def accuracy(self, values: np.ndarray) -> float:
        """Of the test set, with these parameters."""
        self._put(values)
        return evaluate(self.network, self.dataset, self.dataset.test)["accuracy"]

    def _stepped(self, values: np.ndarray, samples: np.ndarray, rate: float) -> np.ndarray:
        """Parameters after one plain step of gradient descent from ``values`` on the mean over ``samples``."""
        self._put(values)
        for velocity in self.velocity.values():
            velocity.flat[:] = 0
        v = np.empty((self.feed.n_units, len(samples)), np.float32)
        self.feed.fill(samples, 0, v)
        size = StepSize(rate, 0.0, 0.0)
        _, gradients = self.backprop.run(v, self.labels[samples], 0, len(samples))
        self.optimizer.descend(gradients, self.network.parts(), self.velocity, size, len(samples))
        return self._taken()

    def iterations(self, setting: Setting) -> Iterator[np.ndarray]:
        """Parameters as a score would see them after every iteration, in which each replica takes one step."""
        n, r, b = len(self.dataset.train), setting.replicas, setting.batch
        batches = Minibatches(n, r * b, self.seed + 1000 * setting.seed)
        replicas = [self.start] * r
        shared = self.start
        for iteration in range(10**9):
            epoch, step = divmod(iteration, max(1, n // (r * b)))
            indices = batches.indices(epoch, step)
            if setting.strategy == "allreduce":
                shared = self._stepped(shared, indices, setting.rate)
                yield shared
                continue
            for i in range(r):
                mine = indices[i * b : (i + 1) * b]
                if setting.strategy == "local":
                    replicas[i] = self._stepped(replicas[i], mine, setting.rate)
                else:  # this replica last fetched when it had pushed: all others have pushed since
                    shared = shared + (self._stepped(replicas[i], mine, setting.rate / r) - replicas[i])
                    replicas[i] = shared
            if setting.strategy == "local":
                mean = np.mean(replicas, axis=0, dtype=np.float64).astype(np.float32)
                if (iteration + 1) % setting.period == 0:
                    replicas = [mean] * r
                shared = mean
            yield shared

    def iterations_to_goal(self, setting: Setting, limit: int, every: int = 1, goal: float = GOAL) -> int | None:
        """The first multiple of ``every`` after which the test accuracy is above ``goal``; None past ``limit``."""
        for done, values in enumerate(self.iterations(setting), 1):
            if done % every == 0 and self.accuracy(values) > goal:
                return done
            if done >= limit or (done % 50 == 0 and not np.isfinite(values).all()):
                return None
        raise AssertionError("iterations never end")
