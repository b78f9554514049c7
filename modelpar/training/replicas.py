"""Are the replicas of a network alike?  Comparison by digests, and repair by majority.

Replicas that have met have the same parameters bit by bit, whatever the strategy, and so have the velocities and all
else that training keeps for each parameter.  A bit that flips in the memory of one of them breaks that.  In an
all-reduce it stays in that replica's parameters, whose samples are then drawn from another model, and in the checkpoint
if that replica writes it; nothing else tells.

Each rank makes one digest (:mod:`modelpar.kernels.digest`) of all that it holds, and all ranks gather these 8 bytes.
Only where they differ are the digests of single tensors compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.collective import messages
from modelpar.errors import CorruptionError, warn
from modelpar.kernels.digest import digest_memory, digest_of_digests
from modelpar.model.network import DeepBeliefNetwork
from modelpar.training.state import NAMED, TrainingRun
from modelpar.weights.parameters import Parameters

Array = npt.NDArray[Any]

MENTIONED = 3  # tensors that a message names


@dataclass(frozen=True)
class Difference:
    """A tensor that the replicas of one shard do not have alike.

    groups   replicas with the same bytes, the largest group first
    """

    tensor: str  # "rbm.0.W", "velocity.rbm.0.W", ...
    shard: int
    groups: tuple[tuple[int, ...], ...]

    @property
    def majority(self) -> tuple[int, ...]:
        """The replicas that more than half of all agree with; empty where there are none."""
        return self.groups[0] if 2 * len(self.groups[0]) > sum(map(len, self.groups)) else ()

    @property
    def apart(self) -> tuple[int, ...]:
        """The replicas that are not of the majority: all, where there is none."""
        return tuple(sorted(replica for group in self.groups[len(self.majority) > 0 :] for replica in group))


def parameters_of(network: DeepBeliefNetwork) -> dict[str, Parameters]:
    """All that a rank holds for each parameter, by name: ``rbm.0``, ``velocity.rbm.0``, ..., ``best.output``."""
    run = TrainingRun.of(network)
    named = {part.name: part.parameters for part in network.parts()}
    for attribute in NAMED:
        named |= {f"{attribute}.{name}": of_part for name, of_part in getattr(run, attribute).items()}
    return named


def memory_of(named: dict[str, Parameters]) -> Iterator[Array]:
    """The memory of parameters, in as few pieces as it has."""
    for parameters in named.values():
        yield parameters.flat
        if parameters.rows is not None:
            yield parameters.rows


def tensors_of(named: dict[str, Parameters]) -> dict[str, Array]:
    """The same, tensor by tensor; ``rows`` is the second block of a dual layout."""
    tensors: dict[str, Array] = {}
    for name, parameters in named.items():
        tensors |= {f"{name}.W": parameters.W, f"{name}.b": parameters.b, f"{name}.c": parameters.c}
        if parameters.potential.size:
            tensors[f"{name}.potential"] = parameters.potential
        if parameters.precision.size:
            tensors[f"{name}.precision"] = parameters.precision
        if parameters.rows is not None:
            tensors[f"{name}.W (rows)"] = parameters.rows
    return tensors


def differing_replicas(network: DeepBeliefNetwork) -> list[Difference]:
    """The tensors that replicas do not have alike, none where all is well: the same list on every rank.

    Replicas must have met (``TrainingRun.settle``).  Collective over the grid.
    """
    grid, status = network.grid, network.traffic.status
    if grid.n_replicas == 1:
        return []
    named = parameters_of(network)
    mine = np.array([digest_of_digests([digest_memory(values) for values in memory_of(named)])], np.uint64)
    of_all = np.empty((grid.n_replicas, grid.n_shards), np.uint64)
    with status.waiting("comparison"):
        grid.comm.Allgather(mine, of_all)
    if (of_all == of_all[0]).all():
        return []
    with status.waiting("comparison"):
        told = grid.comm.allgather({name: digest_memory(values) for name, values in tensors_of(named).items()})
    differences = []
    for shard in range(grid.n_shards):
        replicas = told[shard :: grid.n_shards]
        for tensor in dict.fromkeys(name for digests in replicas for name in digests):
            groups: dict[int | None, list[int]] = defaultdict(list)
            for replica, digests in enumerate(replicas):
                groups[digests.get(tensor)].append(replica)
            if len(groups) > 1:
                by_size = sorted(map(tuple, groups.values()), key=lambda group: (-len(group), group))
                differences.append(Difference(tensor, shard, tuple(by_size)))
    return differences


def repair(network: DeepBeliefNetwork, differences: list[Difference]) -> None:
    """Give the replicas that are apart the bytes of the majority, which every difference must have.

    Collective over the grid.
    """
    tensors = tensors_of(parameters_of(network))
    for difference in differences:
        if difference.shard == network.grid.shard:
            with network.traffic.status.waiting("broadcast"):
                messages.bcast(network.grid.replica_comm, tensors[difference.tensor], difference.majority[0])


def check_replicas(network: DeepBeliefNetwork, *, mend: bool = False) -> None:
    """Compare the replicas, which must have met, and raise CorruptionError, on every rank, where any is apart.

    mend   repair them by majority where there is one, with a warning of one line, and go on.   Collective.
    """
    differences = differing_replicas(network)
    if not differences:
        return
    what, can_mend = said(differences), all(one.majority for one in differences)
    at = moment(network)
    if mend and can_mend:
        repair(network, differences)
        TrainingRun.of(network).checks.repaired()
        if not differing_replicas(network):
            warn(network.grid.comm, f"{at}: {what}: an error of memory; repaired by majority")
            return
        raise CorruptionError(f"{at}: {what}, and differ again after a repair")
    way = "go on from a checkpoint with --resume"
    if mend:
        n = network.grid.n_replicas
        way = f"--repair needs a majority, which {n} replicas do not have here; {way}"
    elif can_mend:
        way += ", or repair such errors by --repair"
    raise CorruptionError(f"{at}: {what}: an error of memory or of a processor; {way}")


def said(differences: list[Difference]) -> str:
    """``replica 1 differs from the other 3 in rbm.0.W and velocity.rbm.0.W of shard 0``"""
    tensors: dict[tuple[tuple[int, ...], int, int], list[str]] = defaultdict(list)
    for one in differences:
        tensors[one.apart, len(one.majority), one.shard].append(one.tensor)
    parts = []
    for (apart, n_others, shard), names in list(tensors.items())[:MENTIONED]:
        several = len(apart) > 1
        who = f"replica{'s' * several} {_listed(apart)} differ{'s' * (not several)}"
        whom = f" from the other {n_others}" if n_others else ""
        shown = [*names[:MENTIONED], *([f"{len(names) - MENTIONED} more"] if len(names) > MENTIONED else [])]
        parts.append(f"{who}{whom} in {_listed(shown)} of shard {shard}")
    more = len(tensors) - MENTIONED
    return "; ".join(parts) + (f"; and so on, {more} more" if more > 0 else "")


def moment(network: DeepBeliefNetwork) -> str:
    """``RBM 0, after step 17 of epoch 2``"""
    position = TrainingRun.of(network).position
    if position.stage == "done":
        return "after training"
    name = f"RBM {position.layer}" if position.stage == "pretrain" else "fine-tuning"
    if position.step:
        return f"{name}, after step {position.step} of epoch {position.epoch + 1}"
    return f"{name}, after epoch {position.epoch}" if position.epoch else f"{name}, before its first step"


def _listed(names: Sequence[object]) -> str:
    *first, last = map(str, names)
    return f"{', '.join(first)} and {last}" if first else last
