"""What both estimators share: the communicator, the seed, the grid, and errors in scikit-learn's words."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from mpi4py import MPI
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from modelpar.collective.agreement import agree
from modelpar.comm.cores import limited
from modelpar.comm.grid import Grid
from modelpar.errors import (
    DataError,
    GridError,
    LayoutError,
    ModelparWarning,
    SpecError,
    TrainingError,
    raise_together,
)
from modelpar.records import Record
from modelpar.values import plain


class EngineEstimator(BaseEstimator):
    """An estimator whose work is done over the ranks of ``comm``, or on this one alone where that is None.

    Fitted state is plain arrays, the same on every rank.  A network is built from them for each call and its
    communicators are freed after it, so that estimators can be copied, pickled, and made by the thousand.
    """

    _fitted: ClassVar[tuple[str, ...]]  # attributes that make the network
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
        """The engine's errors as scikit-learn's users expect them: ValueError, and the names of parameters.

        Warnings name parameters too.
        """
        with warnings.catch_warnings():
            before = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
                ours = issubclass(category, ModelparWarning)
                before(category(self._in_parameters(message)) if ours else message, category, *where, **more)

            warnings.showwarning = show
            with self._raised():
                yield

    @contextmanager
    def _raised(self) -> Iterator[None]:
        try:
            yield
        except ModelparWarning as error:  # where a filter makes it an error
            raise ModelparWarning(self._in_parameters(error)) from error
        except (SpecError, DataError, GridError, LayoutError) as error:
            raise ValueError(self._in_parameters(error)) from error
        except TrainingError as error:
            raise TrainingError(self._in_parameters(error)) from error

    def _in_parameters(self, error: Exception | str) -> str:
        def name(option: re.Match[str]) -> str:
            return self._names.get(option[1], option[1].replace("-", "_"))

        return re.sub(r"--([a-z][a-z-]*)", name, str(error))

    def _begin(self, method: str) -> None:
        """Raise DisagreementError, a ValueError, unless every rank calls this with the same parameters.  Collective.

        ``comm`` is another object on each rank, and ``verbose`` is the first rank's own business.
        """
        own = ("comm", "verbose")
        parameters = {name: value for name, value in self.get_params(deep=False).items() if name not in own}
        with self._errors():
            agree(self._communicator, f"{type(self).__name__}.{method}", **parameters)

    def _agree(self, method: str, **what: Any) -> None:
        """Raise DisagreementError unless every rank brings the same.  Collective."""
        agree(self._communicator, f"{type(self).__name__}.{method}", **what)

    def _agree_on_fitted(self, grid: Grid) -> None:
        """Raise DisagreementError unless what was fitted is the same on all ranks of ``grid``.  Collective."""
        fitted = {name: getattr(self, name, None) for name in ("_network_spec", *self._fitted)}
        agree(grid.comm, f"{type(self).__name__}.network", **fitted)

    def _draw_seed(self) -> int:
        """``random_state`` itself where it is a number, else a draw from it; the same on every rank.  Collective.

        Generators must stand alike on all ranks.  Where there is none, the first rank's draw is everybody's.
        """
        seed = 0
        with self._agreed():
            if plain.is_truth(self.random_state):
                raise ValueError(f"random_state is {self.random_state}, but must be a number, a generator or None")
            number = plain.whole(self.random_state)
            if number is not None:
                seed = number
            elif isinstance(self.random_state, np.random.Generator):
                seed = int(self.random_state.integers(np.iinfo(np.int32).max))
            else:
                seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        if isinstance(self.random_state, np.random.Generator | np.random.RandomState):
            self._agree("fit", random_state=seed)
        return int(self._communicator.bcast(seed))

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


def switch(name: str, value: Any) -> bool:
    """True or False, also from 1 and 0.  Raises SpecError."""
    return bool(value) if plain.whole(value) in (0, 1) else plain.truth(name, value)


def minibatch_of(batch_size: int | str, n_samples: int) -> int:
    """``auto``: 100 samples (Hinton 2010, section 3), fewer of a small data set, so that an epoch has enough steps."""
    if isinstance(batch_size, str) and batch_size == "auto":
        return min(100, max(10, n_samples // 50))
    number = plain.whole(batch_size)
    if number is None:
        raise SpecError(f"batch_size is {plain.shown(batch_size)}, but must be a whole number or 'auto'")
    plain.check_bounds("batch_size", number, number, {"at_least": 1})
    return number
