"""modelpar: restricted Boltzmann machines and deep belief networks, split over the ranks of MPI.

The names below are all that a script needs; each is loaded when it is first used, so that the command line
can choose the number of threads before NumPy is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelpar.checkpoint import load, save
    from modelpar.cli.info import info
    from modelpar.comm.cores import set_threads
    from modelpar.comm.grid import Grid
    from modelpar.data import open_dataset
    from modelpar.display.history import History
    from modelpar.display.progress import shown
    from modelpar.errors import ModelparError, ModelparWarning
    from modelpar.model.network import DeepBeliefNetwork
    from modelpar.ownership.layout import NetworkLayout
    from modelpar.ownership.placement import place
    from modelpar.spec import DataSpec, FineTuneSpec, NetworkSpec, SyncSpec, TrainingSpec
    from modelpar.training.evaluation import evaluate
    from modelpar.training.trainer import fine_tune, pretrain

__version__ = "0.1.0"

_HOMES = {
    "Grid": "comm.grid",
    "NetworkSpec": "spec",
    "TrainingSpec": "spec",
    "FineTuneSpec": "spec",
    "SyncSpec": "spec",
    "DataSpec": "spec",
    "NetworkLayout": "ownership.layout",
    "DeepBeliefNetwork": "model.network",
    "ModelparError": "errors",
    "ModelparWarning": "errors",
    "open_dataset": "data",
    "pretrain": "training.trainer",
    "fine_tune": "training.trainer",
    "evaluate": "training.evaluation",
    "save": "checkpoint",
    "load": "checkpoint",
    "place": "ownership.placement",
    "set_threads": "comm.cores",
    "shown": "display.progress",
    "History": "display.history",
    "info": "cli.info",
}

__all__ = [
    "DataSpec", "DeepBeliefNetwork", "FineTuneSpec", "Grid", "History", "ModelparError", "ModelparWarning",
    "NetworkLayout", "NetworkSpec", "SyncSpec", "TrainingSpec", "evaluate", "fine_tune", "info", "load",
    "open_dataset", "place", "pretrain", "save", "set_threads", "shown",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'modelpar' has no attribute {name!r}")
    return getattr(import_module(f"modelpar.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
