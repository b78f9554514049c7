"""From raw values to what visible units see: shift, scale, binarise."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.data.dataset import Split, agreed
from modelpar.data.fill import threshold
from modelpar.draws import Purpose, Stream, sample_bernoulli
from modelpar.errors import DataError
from modelpar.kernels.states import Packed, pack

LOOKED_AT = 1024  # samples at a time

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


class Feed(Protocol):
    """Whatever hands minibatches to an RBM: data, or the activations of a trained layer below."""

    n_samples: int
    n_units: int
    binary: bool  # every value is 0 or 1; the same on every rank

    def fill(self, samples: IntArray, first_draw: int, out: Array) -> None:
        """Fill ``out`` (n_units, len(samples)) with the units of ``samples``, positions in the split.

        ``first_draw`` is the sample counter of ``samples[0]``; those of the others follow on.
        """

    def states(self, samples: IntArray, first_draw: int) -> Packed:
        """The bits that ``fill`` gives, packed.  Raises ValueError where the feed is not ``binary``."""


class DataFeed:
    """The units ``unit_ids`` of a split: ``(raw - offset) / scale``, then binarised where that is wanted.

    binarise: ``none``; ``stochastic``, a new draw each time, with the scaled value as its probability; or a threshold
    on scaled values, above which a state is 1.

    Building it reads a rank's columns of formats that cannot be memory-mapped.  Collective over ``comm`` where one is
    given.  Raises DataError where values cannot be read, ValueError for shapes that do not fit.
    """

    def __init__(
        self,
        split: Split,
        unit_ids: IntArray,
        *,
        offset: npt.ArrayLike = 0.0,
        scale: npt.ArrayLike = 1.0,
        binarise: str | float | None = "none",
        seed: int = 0,
        comm: MPI.Comm | None = None,
    ) -> None:
        self.rows = split.rows
        self.unit_ids = np.array(unit_ids, dtype=np.int64)
        self.n_samples, self.n_units = len(split), len(self.unit_ids)
        self.offset = np.array(np.broadcast_to(np.asarray(offset, np.float64), (self.n_units,)))
        self.scale = np.array(np.broadcast_to(np.asarray(scale, np.float64), (self.n_units,)))
        self.stream = Stream(seed, 0, Purpose.DATA) if binarise == "stochastic" else None
        self.level = _level(binarise)
        with agreed(comm):
            if self.n_units and (self.unit_ids.min() < 0 or self.unit_ids.max() >= split.table.n_units):
                raise DataError(
                    f"{split.table.name} has {split.table.n_units} units, but units up to {self.unit_ids.max()} are "
                    "wanted"
                )
            self.columns = split.table.columns(self.unit_ids)
        self.binary = self._is_binary(comm)

    def _is_binary(self, comm: MPI.Comm | None) -> bool:
        if self.stream is not None or self.level is not None:
            return True
        mine = all(self._states_only(start) for start in range(0, self.n_samples, LOOKED_AT))
        return mine if comm is None else bool(comm.allreduce(mine, MPI.LAND))

    def _states_only(self, start: int) -> bool:
        samples = np.arange(start, min(start + LOOKED_AT, self.n_samples))
        values = np.empty((self.n_units, len(samples)), np.float32)
        self.columns.fill(self.rows[samples], values, self.offset, self.scale)
        return bool(((values == 0) | (values == 1)).all())

    def fill(self, samples: IntArray, first_draw: int, out: Array) -> None:
        """See :meth:`Feed.fill`."""
        self.columns.fill(self.rows[samples], out, self.offset, self.scale)
        if self.stream is not None:
            sample_bernoulli(out, self.stream, self.unit_ids, first_draw, out)
        elif self.level is not None:
            threshold(out, self.level)

    def states(self, samples: IntArray, first_draw: int) -> Packed:
        """See :meth:`Feed.states`."""
        if not self.binary:
            raise ValueError("the values of this feed are not only 0 and 1, so they are no states")
        values = np.empty((self.n_units, len(samples)), np.float32)
        self.fill(samples, first_draw, values)
        return pack(values)

    def warm_up(self, dtype: npt.DTypeLike) -> None:
        """Compile (or load) the kernels of this feed for minibatches of ``dtype``."""
        n = min(1, self.n_samples)
        self.fill(np.arange(n), 0, np.empty((self.n_units, n), dtype))


def _level(binarise: str | float | None) -> float | None:
    return None if binarise in (None, "none", "stochastic") else float(binarise)  # type: ignore[arg-type]
