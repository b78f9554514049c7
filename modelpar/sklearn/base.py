"""The base of both estimators: the communicator, the seed, the grid, and errors as scikit-learn raises them."""

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
    """An estimator that computes on the ranks of ``comm``, or on this rank alone where that is None.

    Fitted state consists of plain arrays, the same on every rank.  Each call builds a network from them and frees its
    communicators, so that estimators can be copied, pickled, and made by the thousand.
    """

    _fitted: ClassVar[tuple[str, ...]]  # attributes from which the network is built
    _names: ClassVar[dict[str, str]] = {}  # parameters for the command line options that the engine's messages name

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

        An estimator that was fitted on many ranks and then pickled has no communicator and predicts on one rank.
        """
        alone = self.comm is None and not fitting
        sizes: dict[str, Any] = {} if alone else {"model_shards": self.model_shards, "replicas": self.replicas}
        grid = Grid(self._communicator, **sizes)
        try:
            with limited(self.n_jobs, grid.cores):
                yield grid
        except BaseException:
            if grid.comm.size == 1:  # freeing is collective, and other ranks may not get here
                grid.free()
            raise
        grid.free()

    @contextmanager
    def _agreed(self) -> Iterator[None]:
        """For checks of parameters and data: an error on one rank is raised on all, as ValueError.  Collective."""
        error: Exception | None = None
        try:
            with self._errors():
                yield
        except Exception as caught:
            error = caught
        raise_together(self._communicator, error)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise the engine's errors as scikit-learn's users expect them: ValueError, and the names of parameters.

        Warnings name parameters, too.
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
        except ModelparWarning as error:  # where a filter turns it into an error
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

        ``comm`` is a different object on each rank, and ``verbose`` matters on the first rank only.
        """
        skipped = ("comm", "verbose")
        parameters = {name: value for name, value in self.get_params(deep=False).items() if name not in skipped}
        with self._errors():
            agree(self._communicator, f"{type(self).__name__}.{method}", **parameters)

    def _agree(self, method: str, **values: Any) -> None:
        """Raise DisagreementError unless the values are the same on every rank.  Collective."""
        agree(self._communicator, f"{type(self).__name__}.{method}", **values)

    def _agree_on_fitted(self, grid: Grid) -> None:
        """Raise DisagreementError unless the fitted attributes are the same on all ranks of ``grid``.  Collective."""
        fitted = {name: getattr(self, name, None) for name in ("_network_spec", *self._fitted)}
        agree(grid.comm, f"{type(self).__name__}.network", **fitted)

    def _draw_seed(self) -> int:
        """``random_state`` itself where it is a number, else a draw from it; the same on every rank.  Collective.

        Generators must have the same state on all ranks.  For None, all ranks use the first rank's draw.
        """
        seed = 0
        with self._agreed():
            if plain.is_truth(self.random_state):
                raise ValueError(f"random_state is {self.random_state}, but must be a number, a generator or None")
            number = plain.integer(self.random_state)
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
        """Yield the records of epochs; print each once where ``verbose`` is set.  Collective."""
        for record in records:
            if record.kind != "epoch":
                continue
            if self.verbose and self._communicator.rank == 0:
                where = f"RBM {record.layer}" if record.stage == "pretrain" else "fine-tuning"
                names = ("reconstruction_error", "pseudo_likelihood", "loss", "train_accuracy", "validation_accuracy")
                values = [f"{n.replace('_', ' ')} = {record.measures[n]:.4g}" for n in names if n in record.measures]
                values.append(f"time = {record.seconds:.2f}s")
                print(f"[{type(self).__name__}] {where}, epoch {record.epoch}: {', '.join(values)}", flush=True)
            yield record

    # Copies share the communicator; pickles do not have it.

    def __sklearn_clone__(self) -> EngineEstimator:
        detached = copy.copy(self)
        detached.comm = None
        fresh = super(EngineEstimator, detached).__sklearn_clone__()
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
    """True or False; 1 and 0 are accepted.  Raises SpecError."""
    return bool(value) if plain.integer(value) in (0, 1) else plain.truth(name, value)


def minibatch_of(batch_size: int | str, n_samples: int) -> int:
    """``auto``: 100 samples (Hinton 2010, section 3), fewer of a small data set, so that an epoch has enough steps."""
    if isinstance(batch_size, str) and batch_size == "auto":
        return min(100, max(10, n_samples // 50))
    number = plain.integer(batch_size)
    if number is None:
        raise SpecError(f"batch_size is {plain.shown(batch_size)}, but must be an integer or 'auto'")
    plain.check_bounds("batch_size", number, number, {"at_least": 1})
    return number
