"""The models that a run has kept of its training: checkpoints ``RUN/trajectory/rbm-I-update-N.safetensors``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mpi4py import MPI

from modelpar.errors import together

FOLDER = "trajectory"
_NAME = re.compile(r"rbm-(\d+)-update-(\d+)\.safetensors")


@dataclass(frozen=True)
class KeptModel:
    """A network as it was after ``update`` updates of RBM ``rbm``."""

    rbm: int
    update: int
    path: Path


def models_of(run_dir: str | Path, comm: MPI.Comm, rbm: int | None = None) -> list[KeptModel]:
    """The models that a run has kept, of one RBM where it is named, in the order of training.  Collective."""
    found: list[KeptModel] = []
    with together(comm):
        if comm.rank == 0:
            named = ((_NAME.fullmatch(path.name), path) for path in (Path(run_dir) / FOLDER).glob("*.safetensors"))
            kept = [KeptModel(int(name[1]), int(name[2]), path) for name, path in named if name]
            found = sorted((m for m in kept if rbm in (None, m.rbm)), key=lambda m: (m.rbm, m.update))
    return comm.bcast(found)
