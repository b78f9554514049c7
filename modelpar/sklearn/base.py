"""What both estimators share: the communicator, the seed, the grid, and errors in scikit-learn's words."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from mpi4py import MPI
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from modelpar.comm.grid import Grid
from modelpar.errors import DataError, GridError, LayoutError, ModelparError, SpecError, TrainingError, raise_together
from modelpar.machine.cores import limited
from modelpar.records import Record
from modelpar.spec import NetworkSpec


class EngineEstimator(BaseEstimator):
    """An estimator whose work is done over the ranks of ``comm``, or on this one alone where that is None.

    Fitted state is plain arrays, the same on every rank.  A network is built from them for each call and its
    communicators are freed after it, so that estimators can be copied, pickled, and made by the thousand.
    """

    _names: ClassVar[dict[str, str]] = {}  # of parameters, where the engine's messages name command line options

    comm: MPI.Comm | None
    model_shards: int | None
    replicas: int | None
    random_state: Any
    verbose: int | bool
    n_jobs: int | None

    @property
    def _communicator(self) -> MPI.Comm:
        return MPI.COMM_SELF if self.comm is None else self.comm

    @contextmanager
    def _grid(self, *, fitting: bool) -> Iterator[Grid]:
        """The grid of one call.  Collective.

        What was fitted on many ranks and then pickled has lost its communicator and predicts on one rank.
        """
        alone = self.comm is None and not fitting
        sizes: dict[str, Any] = {} if alone else {"model_shards": self.model_shards, "replicas": self.replicas}
        grid = Grid(self._communicator, **sizes)
        try:
            with limited(self.n_jobs, grid.cores):
                yield grid
        except BaseException:
            if grid.comm.size == 1:  # other ranks may not be there to free with
                grid.free()
            raise
        grid.free()

    @contextmanager
    def _agreed(self) -> Iterator[None]:
        """Checks of parameters and data: what fails on one rank is raised on all, as ValueError.  Collective."""
        error: Exception | None = None
        try:
            with self._errors():
                yield
        except Exception as caught:
            error = caught
        raise_together(self._communicator, error)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The engine's errors as scikit-learn's users expect them: ValueError, and the names of parameters."""
        try:
            yield
        except (SpecError, DataError, GridError, LayoutError) as error:
            raise ValueError(self._in_parameters(error)) from error
        except TrainingError as error:
            raise TrainingError(self._in_parameters(error)) from error

    def _in_parameters(self, error: ModelparError) -> str:
        def name(option: re.Match[str]) -> str:
            return self._names.get(option[1], option[1].replace("-", "_"))

        return re.sub(r"--([a-z][a-z-]*)", name, str(error))

    def _draw_seed(self) -> int:
        """``random_state`` itself where it is a number, else a draw from it; the same on every rank.  Collective."""
        if isinstance(self.random_state, Integral):
            seed = int(self.random_state)
        else:
            seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        return int(self._communicator.bcast(seed))

    def _check_alike(self, X: Any, spec: NetworkSpec) -> None:
        """Raise ValueError on every rank unless all bring the same shape of X and the same network.  Collective."""
        told = self._communicator.allgather((X.shape, spec))
        if any(other != told[0] for other in told):
            raise ValueError("X or the parameters differ between the ranks, but every rank must bring the same")

    def _watched(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records of epochs, each printed once where ``verbose`` is set.  Collective."""
        for record in records:
            if record.kind != "epoch":
                continue
            if self.verbose and self._communicator.rank == 0:
                where = f"RBM {record.layer}" if record.stage == "pretrain" else "fine-tuning"
                names = ("reconstruction_error", "pseudo_likelihood", "loss", "train_accuracy", "validation_accuracy")
                told = [f"{n.replace('_', ' ')} = {record.measures[n]:.4g}" for n in names if n in record.measures]
                told.append(f"time = {record.seconds:.2f}s")
                print(f"[{type(self).__name__}] {where}, epoch {record.epoch}: {', '.join(told)}", flush=True)
            yield record

    # A communicator is shared by copies, and stays behind where the estimator goes to another process.

    def __sklearn_clone__(self) -> EngineEstimator:
        bare = copy.copy(self)
        bare.comm = None
        fresh = super(EngineEstimator, bare).__sklearn_clone__()
        fresh.comm = self.comm
        return fresh  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> EngineEstimator:
        fresh = type(self).__new__(type(self))
        memo[id(self)] = fresh
        fresh.__dict__.update(copy.deepcopy({name: x for name, x in vars(self).items() if name != "comm"}, memo))
        fresh.comm = self.comm
        return fresh

    def __copy__(self) -> EngineEstimator:
        fresh = type(self).__new__(type(self))
        fresh.__dict__.update(vars(self))
        return fresh

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "comm": None}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def minibatch_of(batch_size: int | str, n_samples: int) -> int:
    """``auto``: 100 samples (Hinton 2010, section 3), fewer of a small data set, so that an epoch has enough steps."""
    if batch_size == "auto":
        return min(100, max(10, n_samples // 50))
    if not isinstance(batch_size, Integral):
        raise SpecError(f"batch_size is {batch_size!r}, but must be a whole number or 'auto'")
    return int(batch_size)
