"""The chains of all replicas together, from which any number of replicas can go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.chains.gibbs import Chains
from modelpar.chains.tempered_chains import TemperedChains
from modelpar.weights.parameters import Parameters

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class GatheredChains:
    """The states of all replicas' chains, by the names of ``collect``, and what is said of tempered ones besides."""

    n_all: int
    arrays: dict[str, Array]
    described: dict[str, Any] | None = None
    kept: tuple[Parameters, ...] = ()

    @classmethod
    def of(cls, chains: Chains | TemperedChains, replica_comm: MPI.Comm) -> GatheredChains:
        """Those of which this replica has ``chains``.  Collective over the replicas."""
        arrays = chains.collect(replica_comm, np.uint8)
        if isinstance(chains, TemperedChains):
            return cls(chains.n_all, arrays, chains.described(replica_comm), chains.kept)
        return cls(chains.n_all, arrays)

    def of_replica(self, replica: int, n_replicas: int) -> Chains | TemperedChains:
        """Those of one of ``n_replicas``."""
        states = self.arrays["chains"]
        real = states.dtype.kind == "f"
        if self.described is None:
            return Chains.of_replica(states, replica, n_replicas, real=real)
        return TemperedChains.of_replica(self.described, self.arrays, self.kept, replica, n_replicas, real=real)

    def bring_up_to_date(self, chains: Chains | TemperedChains, replica_comm: MPI.Comm) -> None:
        """Put in where the chains that some replicas still have are now.

        chains   this replica's, of as many levels.   Collective over the replicas that are left.
        """
        mine = chains.collect(MPI.COMM_SELF, np.uint8)
        for first, present in replica_comm.allgather((chains.first, mine)):
            n = present["chains"].shape[1]
            for name, array in self.arrays.items():  # levels stand one after another, each with all of its chains
                levels = array.reshape(len(array), array.shape[1] // self.n_all, self.n_all)
                levels[:, :, first : first + n] = present[name].reshape(*levels.shape[:2], n)
