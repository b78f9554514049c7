"""The preconditions of ``--exact``, and digests of every step, which show where two runs part."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from modelpar.errors import SpecError
from modelpar.kernels.digest import digest, digest_states
from modelpar.kernels.states import Packed
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.spec import FineTuneSpec, NetworkSpec, TrainingSpec

TENSORS = ("v0", "h0", "v1", "h1", "W", "b", "c")  # in the order in which a step makes them


def check_exact(spec: NetworkSpec, training: TrainingSpec, *, binary: bool) -> None:
    """Raise SpecError, on every rank alike, for pre-training that cannot give the same bytes at every grid.

    binary   whether the first RBM is trained on states
    """
    wrong = [
        (spec.visible_kind.gaussian, f"--visible {spec.visible}: real values do not add up exactly",
         "use units with states, or leave --exact out"),
        (spec.dtype != "float32", f"--dtype {spec.dtype}: integer sums are made of float32 weights",
         "use --dtype float32"),
        (training.reconstruction == "probabilities", "--reconstruction probabilities: sums of real values are rounded",
         "use --reconstruction states"),
        (training.sparsity_cost > 0, "a sparsity penalty: its running means are real values",
         "leave --sparsity-cost out"),
        (training.pass_up != "states" and len(spec.layers) > 2, "--pass-up probabilities: the layers above would sum "
         "real values", "use --pass-up states"),
        (not binary, "data that are not states", "use --binarise stochastic or a threshold such as --binarise 0.5"),
    ]  # fmt: skip
    for is_so, what, mend in wrong:
        if spec.exact and is_so:
            raise SpecError(f"--exact cannot be kept with {what}; {mend}")


def check_exact_tuning(spec: NetworkSpec, tuning: FineTuneSpec) -> None:
    """Raise SpecError, on every rank alike, for fine-tuning that cannot give the same bytes at every grid."""
    if spec.exact and tuning.max_norm:
        raise SpecError(
            "--exact cannot be kept with --max-norm: lengths are sums of real values; leave one of them out"
        )


def digests_of_parts(network: DeepBeliefNetwork) -> dict[str, int]:
    """Digests of all parameters, ``rbm.0.W`` to ``output.c``, the same on every rank.  Collective over the grid."""
    mine: dict[str, int] = {}
    for part in network.parts():
        mine[f"{part.name}.W"] = part.weights.digest(part.parameters.W)
        mine[f"{part.name}.c"] = digest(part.parameters.c, part.hidden_ids, None)
    first_replica = network.grid.replica == 0  # all replicas have the same parameters
    sums = np.array(list(mine.values()) if first_replica else [0] * len(mine), np.uint64)
    network.grid.comm.Allreduce(MPI.IN_PLACE, sums)  # unsigned: modulo 2^64
    return {name: int(value) for name, value in zip(mine, sums, strict=True)}


class Recorder:
    """Digests of what every step of one RBM has drawn and learned: equal digests, equal bits, at any grid."""

    def __init__(self, network: DeepBeliefNetwork, rbm: RBM) -> None:
        self.grid, self.rbm = network.grid, rbm
        self.potential = () if rbm.hidden_units is None else rbm.hidden_units.learned
        self.precision = rbm.visible.learned

    def of(self, states: dict[str, Packed], offset: int, model_offset: int) -> dict[str, int]:
        """The digests of one step, the same on every rank.  Collective over the grid.

        offset, model_offset   of this replica's samples in the minibatch, and of its part of the model's phase
        """
        rbm, first_replica = self.rbm, self.grid.replica == 0
        mine = dict.fromkeys((*TENSORS, *self.potential, *self.precision), 0)
        for name, packed in states.items():
            units = rbm.visible_ids if name.startswith("v") else rbm.hidden_ids
            if len(units):  # an empty shard adds nothing
                mine[name] = digest_states(packed.words, units, offset if name.endswith("0") else model_offset)
        if first_replica:  # all replicas have the same parameters
            mine["W"] = rbm.weights.digest(rbm.W)
            mine["b"] = digest(rbm.b, rbm.visible_ids, None)
            mine["c"] = digest(rbm.c, rbm.hidden_ids, None)
            for name, values in zip(self.potential, rbm.parameters.potential, strict=True):
                mine[name] = digest(values, rbm.hidden_ids, None)
            for name, values in zip(self.precision, rbm.parameters.precision, strict=True):
                mine[name] = digest(values, rbm.visible_ids, None)
        sums = np.array(list(mine.values()), np.uint64)
        self.grid.comm.Allreduce(MPI.IN_PLACE, sums)  # unsigned: modulo 2^64
        made = {name: int(value) for name, value in zip(mine, sums, strict=True)}
        return {name: value for name, value in made.items() if name in states or name not in TENSORS[:4]}
