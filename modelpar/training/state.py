"""The state of a network's training: its position, and all that it needs besides the network's own parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from modelpar.chains.gibbs import Chains
from modelpar.chains.tempered_chains import TemperedChains
from modelpar.comm.grid import Grid
from modelpar.data.fingerprint import Fingerprint
from modelpar.model.network import DeepBeliefNetwork
from modelpar.records import STAGES
from modelpar.sync import Sync
from modelpar.weights.parameters import Parameters


class Sum(NamedTuple):
    """A running sum over the samples of an epoch, as far as this rank has seen them."""

    value: float
    over_shards: bool = False  # whether each shard has its own part of it; else all shards have the same


@dataclass
class Position:
    """The position of training; the same on every rank, but for ``seconds`` and ``sums``.  A step is one minibatch."""

    stage: str = "pretrain"  # of STAGES
    layer: int = 0  # the RBM that is trained, or will be next
    epoch: int = 0  # of this stage and layer, from 0
    step: int = 0  # next minibatch of this epoch
    seconds: float = 0.0  # spent training in this stage and layer
    sums: dict[str, Sum] = field(default_factory=dict)  # running measures of this epoch
    reached: bool = False  # the accuracy at which fine-tuning stops
    batch_size: int = 0  # of this stage, and the samples of an epoch; 0 before the first step
    n_samples: int = 0

    @property
    def sort_key(self) -> tuple[int, int, int, int]:
        """Stage, layer, epoch, step: later positions have greater keys."""
        return STAGES.index(self.stage), self.layer, self.epoch, self.step

    def rbm_of_chains(self, n_rbms: int) -> int:
        """The RBM whose chains a run carries: the one that is trained, after pre-training the uppermost."""
        return self.layer if self.stage == "pretrain" else n_rbms - 1

    def total_sums(self, grid: Grid) -> dict[str, float]:
        """The epoch's sums over the replicas, and over the shards where each has its own part.  Collective."""
        names = sorted(self.sums)
        mine = np.array([self.sums[name].value for name in names])
        of_all, of_replicas = grid.comm.allreduce(mine), grid.replica_comm.allreduce(mine)
        totals = {
            name: float((of_all if self.sums[name].over_shards else of_replicas)[i]) for i, name in enumerate(names)
        }
        # shards on processors of other kinds may differ in a last bit of what they have alike: rank 0 decides
        return grid.comm.bcast(totals)


# attributes that hold parameters by the name of a part
NAMED = ("velocity", "best", "outer", "squares", "average", "last")


def nothing() -> None:
    """Do nothing: for runs that keep no snapshots."""


class Checks:
    """What looks for errors of memory while a stage is trained; this one does not.  See ``training.checks``.

    Parameters are at rest from ``note`` to ``verify``.
    """

    def note(self) -> None:
        """They are as they should be now."""

    def verify(self) -> None:
        """They will change now, as they should; an error since ``note`` is reported later, at a shared moment."""

    @contextmanager
    def changing(self) -> Iterator[None]:
        """A block that changes them while they are at rest."""
        yield

    def repaired(self) -> None:
        """They were repaired, at rest or not."""

    def begin_segment(self, sync: Sync, done: int) -> None:
        """Before the steps from one moment at which all replicas are at the same step to the next.  Collective."""

    def begin_share(self, sync: Sync) -> None:
        """Before one replica's part of a step, which finds the parameters as they are now."""

    def end_segment(self) -> None:
        """After those steps.  Collective over the grid.  Raises CorruptionError on all ranks."""

    def agree(self) -> None:
        """Look once more, and raise CorruptionError on all ranks where any has found an error.  Collective."""

    def finish(self) -> None:
        """After the last step.  Collective over the grid.  Raises CorruptionError on all ranks."""


@dataclass
class TrainingRun:
    """The training of one network: what a checkpoint stores of it, and how this process takes part.

    The parameters are the network's; all else that training changes is here.
    """

    position: Position = field(default_factory=Position)
    velocity: dict[str, Parameters] = field(default_factory=dict)  # of each trained part, by its name
    chains: Chains | TemperedChains | None = None  # of their own, that go on from update to update: this replica's
    average: dict[str, Parameters] = field(default_factory=dict)  # of the last updates, of the RBM that is trained
    last: dict[str, Parameters] = field(default_factory=dict)  # after the last update, where the RBM is the average
    outer: dict[str, Parameters] = field(default_factory=dict)  # outer momentum of each part (sync.LocalSGD)
    squares: dict[str, Parameters] = field(default_factory=dict)  # sums of squared gradients (sync.ParameterServer)
    best: dict[str, Parameters] = field(default_factory=dict)  # parameters at the best validation accuracy
    best_accuracy: float = -1.0
    epochs_since_best: int = 0
    ailments: dict[str, str] = field(default_factory=dict)  # what is wrong that values do not tell, by its kind
    binarise: str = "none"  # how the training data were binarised; kept for later use of the network
    data: Fingerprint | None = None  # what the present stage is trained on, or the last one was
    alphabet: str = ""  # letters of the states of categorical units, as the training data had them; "" where none
    # of this process, and in no checkpoint
    record_digests: bool = False  # whether digests are made of updates, as they always are in exact mode
    sync: Sync | None = None  # how replicas stay together in the stage that is being trained
    staleness: Counter[int] = field(default_factory=Counter)  # this replica's pushes to a server, by their staleness
    keep: Callable[[], None] = nothing  # called where all replicas are alike, before a step
    checks: Checks = field(default_factory=Checks, compare=False)  # of the stage that is being trained

    @classmethod
    def of(cls, network: DeepBeliefNetwork) -> TrainingRun:
        """The training of ``network``; a new one where it was never trained."""
        if network.run is None:
            network.run = cls()
        assert isinstance(network.run, cls)
        return network.run

    @property
    def imported(self) -> bool:
        """Whether another program has trained the network, and this one not yet: its epochs had no minibatches here."""
        position = self.position
        return position.epoch > 0 and not position.batch_size and self.data is None

    def anew(self) -> TrainingRun:
        """The state of a network made from this one, which was not trained itself."""
        return TrainingRun(binarise=self.binarise, data=self.data, alphabet=self.alphabet)

    def alike(self) -> dict[str, object]:
        """The values that must be the same on every rank."""
        position = replace(self.position, seconds=0.0, sums={})
        return {
            "position": position, "binarise": self.binarise, "record_digests": self.record_digests,
            "alphabet": self.alphabet,
        }  # fmt: skip

    def forget_stage(self) -> None:
        """Drop what one stage of training needs and the next does not."""
        for named in (self.velocity, self.outer, self.squares, self.average):
            named.clear()

    def forget_end(self) -> None:
        """Drop what the end of an RBM's training keeps, which is of no use once other weights are trained: its chains,
        and its last parameters beside their average."""
        self.last.clear()
        self.chains = None

    def stand_at(self, position: Position) -> None:
        """Begin anew from ``position``, with nothing of what training needed before, but, where the uppermost RBM is
        trained on, what its end has kept."""
        self.forget_stage()
        if position.stage != "pretrain":
            self.forget_end()
        self.best.clear()
        self.best_accuracy, self.epochs_since_best, self.position = -1.0, 0, position

    def settle(self) -> None:
        """Leave the same parameters on all replicas, which may be apart during a stage.  Collective over the grid."""
        if self.sync is not None:
            with self.checks.changing():
                self.sync.settle()

    def refresh(self, network: DeepBeliefNetwork) -> None:
        """Make all blocks of weights and velocities agree, after either was changed by anything but statistics.

        Collective over the shards.
        """
        with self.checks.changing():
            for rbm in network.rbms:
                rbm.weights.refresh(rbm.parameters)
            for part in network.parts():
                velocity = self.velocity.get(part.name)
                if velocity is not None and velocity.rows is not None:
                    part.weights.refresh(velocity)

    def refresh_all(self, network: DeepBeliefNetwork) -> None:
        """The same of all that was read into this state, the copies that shards have of listed weights included."""
        network.refresh()
        for part in network.parts():
            for named in (getattr(self, attribute) for attribute in NAMED):
                if part.name in named and named[part.name].has_copies:
                    part.weights.refresh(named[part.name])
        if isinstance(self.chains, TemperedChains):
            for parameters in self.chains.kept:
                if parameters.has_copies:
                    network.rbms[self.position.rbm_of_chains(len(network.rbms))].weights.refresh(parameters)

    def take_back_last(self, network: DeepBeliefNetwork) -> None:
        """Make the last parameters the network's again, where their average is, and have that beside them.

        Blocks of weights have to be refreshed after it.
        """
        for part in network.parts():
            if part.name in self.last:
                last = self.last.pop(part.name)
                average = part.parameters.flat.copy()
                part.parameters.flat[:] = last.flat
                last.flat[:] = average
                self.average[part.name] = last

    def copy(self) -> TrainingRun:
        """A copy that further training does not change; without the strategy, which belongs to this process."""
        named: dict[str, Any] = {name: copies(getattr(self, name)) for name in NAMED}
        position = replace(self.position, sums=dict(self.position.sums))
        chains = None if self.chains is None else replace(self.chains)  # its states are replaced, not changed
        return replace(
            self, position=position, chains=chains, sync=None, keep=nothing, checks=Checks(),
            ailments=dict(self.ailments), **named,
        )  # fmt: skip


def become_average(parameters: Parameters, average: Parameters) -> None:
    """Give parameters the values of their average; weights that are exactly 0 stay 0.

    L1's proximal steps leave such weights.  Their average over the last updates is none, since a weight of little use
    leaves 0 now and then: which weights there are is what the last of them say, and how large, the average.
    """
    zero = parameters.W == 0
    parameters.flat[:] = average.flat
    parameters.W[zero] = 0


def copies(named: dict[str, Parameters]) -> dict[str, Parameters]:
    """Parameters of the same names and values."""
    copied = {}
    for name, parameters in named.items():
        copied[name] = parameters.like()
        copied[name].copy_from(parameters)
    return copied
