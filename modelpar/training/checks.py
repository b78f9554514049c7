"""Errors of memory are looked for while a stage is trained: replicas are compared, and parameters at rest digested."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from mpi4py import MPI

from modelpar.errors import CorruptionError
from modelpar.kernels.digest import digest_memory
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import SyncSpec
from modelpar.sync import Sync
from modelpar.training.replicas import check_replicas, moment, parameters_of, tensors_of
from modelpar.training.state import Checks, TrainingRun


class StageChecks(Checks):
    """The checks of one stage, as ``how`` asks for them; made when its parameters are ready.

    Replicas are compared before a step, where they are alike: whatever is found then has not entered this step.
    """

    def __init__(self, network: DeepBeliefNetwork, how: SyncSpec, done: int) -> None:
        """done   updates of the stage that were done before"""
        self.network, self.how, self._compared = network, how, done
        self._rest = AtRest(network) if how.check_memory else None
        self.note()

    def note(self) -> None:
        if self._rest is not None:
            self._rest.note()

    def verify(self) -> None:
        if self._rest is not None:
            self._rest.verify()

    @property
    def _at_rest(self) -> bool:
        return self._rest is not None and self._rest.is_noted

    @contextmanager
    def changing(self) -> Iterator[None]:
        was_at_rest = self._at_rest
        self.verify()
        yield
        if was_at_rest:
            self.note()

    def repaired(self) -> None:
        if self._at_rest:
            self.note()

    def begin_segment(self, sync: Sync, done: int) -> None:
        if self.how.check_replicas and sync.alike and done - self._compared >= self.how.check_replicas:
            self._compared = done
            check_replicas(self.network, mend=self.how.repair)
        if not sync.rests:
            self.verify()

    def begin_share(self, sync: Sync) -> None:
        if not sync.rests:
            self.note()

    def end_segment(self) -> None:
        if self._rest is not None:
            self._rest.raise_found()
        self.note()

    def agree(self) -> None:
        if self._rest is not None:
            with self.changing():
                pass
            self._rest.raise_found()

    def finish(self) -> None:
        self.agree()
        if self.how.check_replicas:
            check_replicas(self.network, mend=self.how.repair)


def check_before_saving(network: DeepBeliefNetwork, *, mend: bool) -> None:
    """Raise CorruptionError, on every rank, where memory has changed at rest, or replicas are apart that have met.

    mend   repair them by majority where there is one.   Collective over the grid.
    """
    run = TrainingRun.of(network)
    run.settle()
    run.checks.agree()
    check_replicas(network, mend=mend)


class AtRest:
    """The digests of a rank's parameters, and of all that training keeps for each of them, while nothing changes them.

    They are at rest from the end of one update to just before the next: while samples are drawn from them, and while
    records are written, scores computed and checkpoints saved.
    """

    def __init__(self, network: DeepBeliefNetwork) -> None:
        self.network = network
        self._found = ""
        self._noted: dict[str, int] | None = None

    @property
    def is_noted(self) -> bool:
        return self._noted is not None

    def note(self) -> None:
        """From now on nothing may change."""
        self._noted = self._digests()

    def verify(self) -> None:
        """Remember what has changed since ``note``, where anything has; from now on everything may change."""
        noted, self._noted = self._noted, None
        if noted is None or self._found:
            return
        now = self._digests()
        changed = [tensor for tensor, digest in noted.items() if now.get(tensor) != digest]
        if changed:
            grid = self.network.grid
            more = f" and {len(changed) - 1} more tensors" if len(changed) > 1 else ""
            self._found = f"{changed[0]}{more} of {grid.role} changed in the memory of rank {grid.comm.rank}"

    def raise_found(self) -> None:
        """Raise CorruptionError on all ranks where any has remembered something.  Collective over the grid."""
        comm = self.network.grid.comm
        with self.network.traffic.status.waiting("comparison"):
            n_found = np.array([bool(self._found)], np.int32)
            comm.Allreduce(MPI.IN_PLACE, n_found)
        if n_found[0]:
            first = next(found for found in comm.allgather(self._found) if found)
            raise CorruptionError(
                f"{moment(self.network)}: {first} while nothing computes it: an error of memory; go on from a "
                "checkpoint with --resume"
            )

    def _digests(self) -> dict[str, int]:
        return {name: digest_memory(values) for name, values in tensors_of(parameters_of(self.network)).items()}
