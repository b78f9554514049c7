"""Whether a network is fit to go on from: the verdict that every checkpoint records, and how it is written in a file.

The metadata key ``health`` holds JSON, ``{"healthy": true, "reasons": []}``; a file without it is of unknown health,
and judged by its values when it is opened.  A verdict comes of maxima and of sums of integers alone, so it is the same
at every grid.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.kernels.products.bounds import STEPS, Bounds, largest_sum_of
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.training.state import NAMED, TrainingRun

Array = npt.NDArray[Any]

KEY = "health"  # of the metadata
EXPLODED = 1000.0  # weights of useful RBMs stay far below (Hinton 2010, section 8)
AT_ONCE = 1 << 20  # values looked at together, to need little memory


class Verdict(NamedTuple):
    """``reasons`` why a network is not healthy, one line each; none where it is."""

    reasons: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        return not self.reasons

    @property
    def text(self) -> str:
        """As in the metadata of a file."""
        return json.dumps({"healthy": self.healthy, "reasons": list(self.reasons)})

    @staticmethod
    def recorded(metadata: Mapping[str, str]) -> Verdict | None:
        """The verdict of a file; None where it has none that is understood."""
        try:
            entry = json.loads(metadata[KEY])
            reasons, healthy = entry["reasons"], entry["healthy"]
        except (KeyError, TypeError, ValueError, RecursionError):
            return None
        if type(healthy) is not bool or not isinstance(reasons, list):
            return None
        return Verdict(() if healthy else tuple(map(str, reasons)) or ("no reason is given",))


def judge(network: DeepBeliefNetwork) -> Verdict:
    """The verdict on a network, by its values and by what its training has noted of it.

    The same on every rank, and at every grid.  Collective over the grid.
    """
    run = TrainingRun.of(network)
    return Verdict((*of_values(network), *(run.ailments[kind] for kind in sorted(run.ailments))))


def of_values(network: DeepBeliefNetwork) -> list[str]:
    """What is wrong with the parameters of a network, and with what its training keeps beside them.

    The same on every rank.  Collective over the grid.
    """
    comm, run = network.grid.comm, TrainingRun.of(network)
    reasons: list[str] = []
    in_sums = run.position.stage == "pretrain"  # fine-tuning has real values in its sums
    for rbm in network.rbms:
        reasons.append(of_rbm(rbm, network.bounds(rbm), comm, in_sums=in_sums))
    if network.output is not None:
        reasons.append(of_weights("the output layer", [network.output.parameters.W], comm))
    of_parts = [part.parameters for part in network.parts()]
    biases = [x for of_part in of_parts for x in (of_part.b, of_part.c, of_part.potential, of_part.precision)]
    if not are_finite(biases, comm):
        reasons.append("a bias is no longer a finite number")
    beside = [part.flat for name in NAMED for part in getattr(run, name).values()]
    if not are_finite(beside, comm):
        reasons.append("a velocity, or another value that training needs, is no longer a finite number")
    return [reason for reason in reasons if reason]


def of_rbm(rbm: RBM, bounds: Bounds, comm: MPI.Comm, *, in_sums: bool = True) -> str:
    """Why the weights of an RBM, of these bounds on any rank, are not healthy; empty where they are.  Collective.

    in_sums   whether they are in sums of states
    """
    if bounds.weight > EXPLODED * STEPS and (why := of_weights(f"RBM {rbm.index}", [rbm.W], comm)):
        return why
    if rbm.has_room(bounds) or not in_sums:
        return ""
    pairs = [(steps / STEPS, largest_sum_of(n)) for steps, n in zip(bounds[1:], rbm.weights.rooms, strict=True)]
    most, held = max(pairs, key=lambda pair: pair[0] / pair[1])
    return (
        f"RBM {rbm.index}: weights grow so fast that summed inputs may have wrapped (up to {most:.3g}, where their "
        f"integers hold {held:.3g})"
    )


def of_weights(what: str, weights: Iterable[Array], comm: MPI.Comm) -> str:
    """Why weights are not those of a useful network; empty where they may be.  Collective."""
    largest = comm.allreduce(max(map(largest_weight, weights), default=0.0), MPI.MAX)
    if not np.isfinite(largest):
        return f"{what}: a weight is no longer a finite number"
    return f"{what}: weights explode (the largest is {largest:.3g})" if largest > EXPLODED else ""


def are_finite(values: Iterable[Array], comm: MPI.Comm) -> bool:
    """Whether all values of all ranks are finite numbers.  Collective."""
    fine = all(
        bool(np.isfinite(array[start : start + AT_ONCE]).all())
        for array in values
        for start in range(0, array.size, AT_ONCE)
    )
    return bool(comm.allreduce(fine, MPI.LAND))


def largest_weight(W: Array) -> float:
    """The largest absolute value, infinity where there is a NaN, without a copy of W."""
    if not W.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        low, high = float(W.min()), float(W.max())
    return float("inf") if np.isnan(low) or np.isnan(high) else max(-low, high)
