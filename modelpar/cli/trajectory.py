"""The models that a run keeps from the course of its pre-training: at its start, after 1 update, then log-spaced.

Each is an ordinary checkpoint.  A model is kept where all replicas are alike: with Local SGD and a parameter server
where they meet, at the first meeting after the update that was due.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from mpi4py import MPI

from modelpar import checkpoint
from modelpar.checkpoint import files
from modelpar.cli.config import TRAJECTORY, home_of
from modelpar.cli.options import shown_value
from modelpar.cli.run_directory import KeptModel, RunDirectory
from modelpar.data import Minibatches
from modelpar.errors import CheckpointError, together
from modelpar.files.outputs import make_folder
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import option_name
from modelpar.training.state import TrainingRun

__all__ = ["KeptModel", "Trajectory", "models_of", "next_update"]

PER_DECADE = 8  # kept models while the number of updates grows tenfold


def next_update(last: int) -> int:
    """The update after ``last`` whose model is kept: 0, 1, then log-spaced; the first one where ``last`` is -1."""
    if last < 1:
        return last + 1
    k = math.floor(PER_DECADE * math.log10(last))
    while (update := round(10 ** (k / PER_DECADE))) <= last:
        k += 1
    return update


class Trajectory:
    """The kept models of one run of training.

    keeps          whether this run keeps models; one that does not still removes those after the point where it goes on
    check_health   raises where the network is broken, which is never saved; collective
    """

    def __init__(
        self, directory: RunDirectory, network: DeepBeliefNetwork, *, keeps: bool, check_health: Callable[[], None]
    ) -> None:
        self.directory, self.network, self.keeps, self._check_health = directory, network, keeps, check_health
        self._last: dict[int, int] = {}  # updates of the latest kept model of each RBM

    def begin(self, done: int, end: int) -> None:
        """Remove the models of later updates than where this run goes on.  Collective.

        done   updates of the RBM that is trained next
        end    updates that it will have; where it has had them, its last model is kept, if it is not there
        """
        position, comm = TrainingRun.of(self.network).position, self.directory.comm
        if position.stage != "pretrain":
            return
        # that of the present update is written again: it may be there as the last one of a run that goes on
        first = (position.layer, done if self.keeps and done < end else done + 1)
        with together(comm):
            if comm.rank == 0:
                for model in self.directory.trajectory():
                    if model[:2] >= first:
                        model.path.unlink(missing_ok=True)
                if self.keeps:
                    make_folder(self.directory.path / TRAJECTORY)
        kept = comm.bcast(self.directory.trajectory() if comm.rank == 0 else None)
        self._last = {model.rbm: model.update for model in kept}
        # an RBM whose last epoch was cut short by --updates has had fewer than its position tells
        if done >= end and self._last.get(position.layer) not in (done, end):
            self.keep(done)

    def keep_due(self, done: int) -> None:
        """Keep the model of the RBM in training after ``done`` updates, if one is due.  Collective."""
        position = TrainingRun.of(self.network).position
        if position.stage == "pretrain" and next_update(self._last.get(position.layer, -1)) <= done:
            self.keep(done)

    def keep(self, done: int) -> None:
        """Keep the model of the RBM in training after ``done`` updates.  Collective."""
        if not self.keeps:
            return
        layer = TrainingRun.of(self.network).position.layer
        self._check_health()
        self.directory.save(self.network, self.directory.path / TRAJECTORY / KeptModel.name_of(layer, done))
        self._last[layer] = done


def models_of(run_dir: str | Path, comm: MPI.Comm, rbm: int | None = None) -> list[KeptModel]:
    """The models that a run has kept, in the order of training, those of one RBM where ``rbm`` is given.  Collective.

    run_dir   a run directory, or a checkpoint in one

    Raises CheckpointError, on every rank, where there are none, or where they are not of one network.
    """
    home, models = home_of(run_dir), list[KeptModel]()
    with together(comm):
        if comm.rank == 0:
            if not Path(run_dir).exists():
                raise CheckpointError(f"{run_dir} does not exist; name a run directory, or a checkpoint in one")
            models = [model for model in RunDirectory(MPI.COMM_SELF, home).trajectory() if rbm in (None, model.rbm)]
            if not models:
                of_rbm = "" if rbm is None else f" of RBM {rbm}"
                raise CheckpointError(f"{home} keeps no trajectory{of_rbm}; train it with --keep-trajectory")
            _check_alike([model.path for model in models])
    return comm.bcast(models)


def models_before(run_dir: str | Path, path: Path, network: DeepBeliefNetwork) -> list[KeptModel]:
    """The models of the top RBM that its run had kept before ``network``, which the checkpoint ``path`` holds.

    Collective.  Raises CheckpointError, on every rank, as :func:`models_of` does, and where all are of later updates.
    """
    comm, top = network.grid.comm, network.rbms[-1]
    models, position = models_of(run_dir, comm, top.index), checkpoint.read_position(files.read_header(path, comm))
    if position is None or position.stage != "pretrain":
        return models
    n_steps = Minibatches(position.n_samples, max(position.batch_size, 1), network.spec.seed).n_steps
    done = position.epoch * n_steps + position.step if position.layer == top.index else 0
    models = [model for model in models if model.update < done]
    if not models:
        raise CheckpointError(f"{path} is from before the trajectory of its top RBM; name a later one")
    return models


def _check_alike(paths: list[Path]) -> None:
    """Raises CheckpointError where checkpoints are of other layers, units or connections than the first of them."""
    specs = [checkpoint.read_spec(path, files.read_header(path, MPI.COMM_SELF)) for path in paths]
    for path, spec in zip(paths, specs, strict=True):
        for name in ("layers", "visible", "connections", "dtype"):
            mine, first = getattr(spec, name), getattr(specs[0], name)
            if mine != first:
                raise CheckpointError(
                    f"{path} has {option_name(name)} {shown_value(mine)}, but {paths[0]} has {shown_value(first)}: "
                    "they are not of one trajectory"
                )
