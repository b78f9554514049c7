"""``modelpar score``: the log-likelihood of data under a network."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from modelpar.cli.chosen_checkpoint import checkpoint_of
from modelpar.cli.config import Settings
from modelpar.cli.evaluate import make_grid, open_network, open_split
from modelpar.cli.progress import summary_table
from modelpar.cli.terminal import make_console, speak
from modelpar.cli.trajectory import models_before
from modelpar.comm.grid import Grid
from modelpar.likelihood.score import Score
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.training.scoring import score_split, states_of


def score(
    comm: MPI.Comm, settings: Settings, where: str, split: str, *,
    method: str, n_chains: int, n_betas: int, seed: int, last: bool, as_json: bool,
) -> None:  # fmt: skip
    """Print the mean log-likelihood of one split of some data.  Collective."""
    with make_grid(comm, settings) as grid:
        path = checkpoint_of(comm, where, generative=True)
        network = open_network(path, grid, settings, last=last)
        say = speak(grid.comm)
        dataset, chosen = open_split(settings, network, split, with_labels=False, say=say)
        kept = _kept(where, path, network, grid, settings) if method == "trajectory" else []
        if states_of(network, dataset, chosen)[1]:
            say(f"{dataset.name} has grey values: states are drawn from them, once, by the seed {network.spec.seed}")
        result = score_split(network, dataset, chosen, method, n_chains=n_chains, n_betas=n_betas, seed=seed, kept=kept)
        for doubt in result.doubts:
            say(f"not to be trusted: {doubt}")
        bound = len(network.rbms) > 1
    what = {"checkpoint": str(path), "data": dataset.name, "split": split}
    if as_json:
        values = {name: _finite(value) for name, value in asdict(result).items()}
        print(json.dumps({**what, **values, "bound": bound}), flush=True)
        return
    make_console().print(summary_table({**what, **_shown(result, bound=bound)}, ""))


def _kept(where: str, path: Path, network: DeepBeliefNetwork, grid: Grid, settings: Settings) -> list[RBM]:
    """The top RBMs of the models that the run has kept of it before that of ``path``, in order.  Collective.

    All are held in memory, for a chain goes through all of them.  Raises CheckpointError, on every rank, without any.
    """
    top = network.rbms[-1]
    kept = [open_network(model.path, grid, settings).rbms[-1] for model in models_before(where, path, network)]
    # the last one of a finished run is the model itself
    same = np.array_equal(kept[-1].parameters.flat, top.parameters.flat) if len(kept) > 1 else False
    return kept[:-1] if grid.comm.allreduce(same, MPI.LAND) else kept


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(result: Score, *, bound: bool) -> dict[str, str]:
    name = "log-likelihood" + (", lower bound" if bound else "")
    rows = {
        "samples": str(result.samples), "method": result.method,
        name: f"{result.log_likelihood:.3f} nats a sample", "interval": f"{result.low:.3f} to {result.high:.3f}",
        "log Z": f"{result.log_partition:.3f}",
    }  # fmt: skip
    if math.isfinite(result.gap):
        rows["optimistic - pessimistic"] = f"{result.gap:.3f} nats"
    if math.isfinite(result.effective_chains):
        rows["effective chains"] = f"{result.effective_chains:.1f}"
    return {**rows, "seconds": f"{result.seconds:.1f}"}
