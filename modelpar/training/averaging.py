"""The use of the average of an RBM's parameters over the last updates, which :mod:`modelpar.sync.average` keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.training.state import TrainingRun, become_average


@contextmanager
def in_use(run: TrainingRun, rbm: RBM) -> Iterator[None]:
    """The average in place of the RBM's parameters, where there is one; these are put back bit by bit.

    All blocks of weights must agree before.  Collective over the shards.
    """
    average = run.average.get(rbm.name)
    if average is None:
        yield
        return
    last = rbm.parameters.flat.copy()
    become_average(rbm.parameters, average)
    rbm.weights.refresh(rbm.parameters)
    try:
        yield
    finally:
        rbm.parameters.flat[:] = last
    rbm.weights.refresh(rbm.parameters)


def take_over(network: DeepBeliefNetwork, run: TrainingRun, rbm: RBM) -> None:
    """Make the average the RBM's parameters, where there is one, and keep the last ones beside it.

    Collective over the shards.
    """
    average = run.average.pop(rbm.name, None)
    if average is not None:
        last = rbm.parameters.flat.copy()
        become_average(rbm.parameters, average)
        average.flat[:] = last
        run.last[rbm.name] = average
        run.refresh(network)


def go_on(network: DeepBeliefNetwork, run: TrainingRun) -> None:
    """Undo ``take_over`` of an RBM whose training goes on: its parameters are the last ones, its average goes on too.

    Collective over the shards.
    """
    if run.last:
        run.take_back_last(network)
        run.refresh(network)
