"""A tiny training run that compiles every kernel, or loads it from numba's cache, before the clock starts."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from mpi4py import MPI

from modelpar.checkpoint import load, save
from modelpar.comm.grid import Grid
from modelpar.data import open_dataset
from modelpar.errors import ModelparError, raise_together
from modelpar.kernels import warm_up
from modelpar.kernels.products import dispatch
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import DataSpec, FineTuneSpec, NetworkSpec, TrainingSpec
from modelpar.training.trainer import fine_tune, pretrain

POLL = 0.02  # seconds between looks whether the first rank of the node has finished


def rehearse(dtype: str, node_comm: MPI.Comm, *, listed: bool = False) -> float:
    """Compile all kernels for ``dtype`` (float32 or float64) and return the seconds that it took.  Collective.

    listed   those of connections that are not complete too

    The first rank of a node compiles while the others sleep, and these then load what it left in the cache: ranks
    that compile the same at once, or spin in a barrier meanwhile, would share the node's cores with it.
    """
    started = time.perf_counter()
    error = _attempt(dtype, listed) if node_comm.rank == 0 else None
    arrived = node_comm.Ibarrier()
    while not arrived.Test():
        time.sleep(POLL)
    if node_comm.rank > 0:
        error = _attempt(dtype, listed)
    raise_together(node_comm, error)
    return time.perf_counter() - started


def _attempt(dtype: str, listed: bool) -> Exception | None:
    """The error that the rehearsal ended in, to be raised when no rank waits for this one any more."""
    try:
        _train(dtype, "dense")
        if listed:
            _train(dtype, "random:2,dense")
    except (ModelparError, OSError) as error:
        return error
    return None


def _train(dtype: str, connections: str) -> None:
    """Every stage once, on one rank: pre-training by CD, fine-tuning with all that it offers, saving and loading."""
    warm_up(dtype)
    dispatch.prepare()
    dataset = open_dataset(DataSpec(data="bars:2"))
    few = replace(dataset.train, rows=dataset.train.rows[:8], labels=_first(dataset.train.labels))
    dataset = replace(dataset, train=few, validation=None, test=few)
    spec = NetworkSpec(layers=(4, 3, 2), classes=max(dataset.n_classes, 2), dtype=dtype, connections=connections)
    with Grid(MPI.COMM_SELF) as grid:
        network = DeepBeliefNetwork(spec, grid)
        for statistics in ("3", "float"):
            training = TrainingSpec(epochs=1, batch_size=4, statistics=statistics)
            network.run = None
            for _ in pretrain(network, dataset, training):
                pass
        for _ in fine_tune(network, dataset, FineTuneSpec(epochs=1, dropout=0.5, max_norm=1.0)):
            pass
        with tempfile.TemporaryDirectory() as folder:
            save(network, Path(folder) / "rehearsal.safetensors")
            load(Path(folder) / "rehearsal.safetensors", grid)


def _first(labels: np.ndarray | None) -> np.ndarray | None:
    return None if labels is None else labels[:8]
