"""What ``--exact`` needs, and what shows where two runs part: digests of every step."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from modelpar.course import Minibatch
from modelpar.data.feed import Feed
from modelpar.errors import SpecError
from modelpar.kernels.digest import digest, digest_states
from modelpar.kernels.states import Packed
from modelpar.network import DeepBeliefNetwork
from modelpar.rbm import RBM
from modelpar.spec import TrainingSpec

TENSORS = ("v0", "h0", "v1", "h1", "W", "b", "c")  # in the order in which a step makes them


def check_exact(network: DeepBeliefNetwork, training: TrainingSpec, feed: Feed) -> None:
    """Raise SpecError, on every rank alike, for what cannot give the same bytes at every grid.

    feed   what the first RBM is trained on
    """
    spec = network.spec
    wrong = [
        (spec.visible != "bernoulli", f"--visible {spec.visible}: real values do not add up exactly",
         "use Bernoulli units, or leave --exact out"),
        (spec.dtype != "float32", f"--dtype {spec.dtype}: whole-number sums are made of float32 weights",
         "use --dtype float32"),
        (training.reconstruction != "states", "--reconstruction probabilities: sums of real values are rounded",
         "use --reconstruction states"),
        (training.sparsity_cost > 0, "a sparsity penalty: its running means are real values",
         "leave --sparsity-cost out"),
        (training.pass_up != "states" and len(spec.layers) > 2, "--pass-up probabilities: the layers above would sum "
         "real values", "use --pass-up states"),
        (not feed.binary, "data that are no states", "use --binarise stochastic or a threshold such as --binarise 0.5"),
    ]  # fmt: skip
    for is_so, what, mend in wrong:
        if is_so:
            raise SpecError(f"--exact cannot be kept with {what}; {mend}")


class Recorder:
    """Digests of what every step of one RBM has drawn and learned: equal digests, equal bits, at any grid."""

    def __init__(self, network: DeepBeliefNetwork, rbm: RBM) -> None:
        self.grid, self.rbm = network.grid, rbm

    def of(self, states: dict[str, Packed], batch: Minibatch) -> dict[str, int]:
        """The digests of one step, the same on every rank.  Collective over the grid."""
        rbm, first_replica = self.rbm, self.grid.replica == 0
        mine = dict.fromkeys(TENSORS, 0)
        for name, packed in states.items():
            units = rbm.visible_ids if name.startswith("v") else rbm.hidden_ids
            mine[name] = digest_states(packed.words, units, batch.place)
        if first_replica:  # all replicas have the same parameters
            mine["W"] = digest(rbm.W, rbm.weights.visible_rows, rbm.weights.hidden_columns)
            mine["b"] = digest(rbm.b, rbm.visible_ids, None)
            mine["c"] = digest(rbm.c, rbm.hidden_ids, None)
        sums = np.array([mine[name] for name in TENSORS], np.uint64)
        self.grid.comm.Allreduce(MPI.IN_PLACE, sums)  # unsigned: modulo 2^64
        return {name: int(value) for name, value in zip(TENSORS, sums, strict=True) if name in states or len(name) == 1}
