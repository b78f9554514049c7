"""From raw values to what visible units see: shift, scale, binarise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.data.bits import choose_values
from modelpar.data.dataset import Split, agreed, unit_ids_of
from modelpar.data.packed_files import PackedTable
from modelpar.data.states import DrawnStates, FilledStates, KeptStates, drawn_states, kept_states
from modelpar.draws import Purpose, Stream
from modelpar.kernels.states import Packed

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


class Feed(Protocol):
    """Whatever hands minibatches to an RBM: data, or the activations of a trained layer below."""

    n_samples: int
    n_units: int
    binary: bool  # every value that it hands out is 0 or 1; the same on every rank
    weights: Doubles | None  # (n_samples,) of the samples; None where all count alike

    def fill(self, samples: IntArray, first_draw: int, out: Array) -> None:
        """Fill ``out`` (n_units, len(samples)) with the units of ``samples``, positions in the split.

        ``first_draw`` is the sample counter of ``samples[0]``; those of the others follow on.
        """

    def states(self, samples: IntArray, first_draw: int) -> Packed:
        """The same values as bits (n_units, len(samples)), of a ``binary`` feed only.  Raises ValueError."""


class DataFeed:
    """The units ``unit_ids`` of a split: ``(raw - offset) / scale``, then binarised where that is wanted.

    binarise: ``none``; ``stochastic``, a new draw each time, with the scaled value as its probability; or a threshold
    on scaled values, above which a state is 1.  States are the same bits in whatever form and type they are handed
    out; scaled values are float32 where they are drawn from or compared with a threshold.

    Values that are states before any draw are kept as bits where memory allows (:func:`.states.kept_states`).

    Building it reads a rank's columns of formats that cannot be memory-mapped, and looks through values that may all
    be states.  Collective over ``comm`` where one is given.  Raises DataError where values cannot be read, ValueError
    for shapes that do not fit.
    """

    binary: bool

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
        self.split, self.rows = split, split.rows
        with agreed(comm):
            self.unit_ids = unit_ids_of(split.table, unit_ids)
        self.n_samples, self.n_units, self.weights = len(split), len(self.unit_ids), split.weights
        self.offset = np.array(np.broadcast_to(np.asarray(offset, np.float64), (self.n_units,)))
        self.scale = np.array(np.broadcast_to(np.asarray(scale, np.float64), (self.n_units,)))
        self.binarise, self.seed = binarise, seed
        self.level = _level(binarise)
        self._n_ranks = 1 if comm is None else comm.size
        self._states: KeptStates | DrawnStates | FilledStates | None = None  # None: not binary, or not made so far
        with agreed(comm):
            table = split.table
            if isinstance(table, PackedTable):
                table = table.scaled(self.offset, self.scale, self.level)
            self.columns = table.columns(self.unit_ids)
            # what a threshold makes are states in any case: their bits are made when the first are wanted
            mine = self.level is not None or self._find_states()
        self.binary = mine if comm is None else bool(comm.allreduce(mine, MPI.LAND))

    def fill(self, samples: IntArray, first_draw: int | IntArray, out: Array) -> None:
        """See :meth:`Feed.fill`; ``first_draw`` may also be the sample counters of all samples."""
        if not self.binary:
            self.columns.fill(self.rows[samples], out, self.offset, self.scale)
            return
        source = self._source()
        if isinstance(source, FilledStates) and out.dtype == np.float32:
            source.fill(samples, first_draw, out)
            return
        if out.shape != (self.n_units, len(samples)) or not out.flags.c_contiguous:
            raise ValueError(
                f"the minibatch to fill is {out.shape}, but must be C-contiguous ({self.n_units}, {len(samples)})"
            )
        zeros, ones = np.zeros(self.n_units, out.dtype), np.ones(self.n_units, out.dtype)
        choose_values(source.states(samples, first_draw).rows, zeros, ones, out)

    def states(self, samples: IntArray, first_draw: int | IntArray) -> Packed:
        """See :meth:`Feed.states`; ``first_draw`` may also be the sample counters of all samples."""
        if not self.binary:
            raise ValueError(f"the values of {self.split.table.name} are not only 0 and 1, so they are not states")
        return self._source().states(samples, first_draw)

    def warm_up(self, dtype: npt.DTypeLike) -> None:
        """Compile (or load) the kernels of this feed for minibatches of ``dtype``.  Not collective."""
        n, feed = min(1, self.n_samples), self
        if self.level is not None and self._states is None and n:  # not the bits of all samples, for one of them
            first = replace(self.split, rows=self.rows[:n], labels=None, weights=None)
            feed = DataFeed(first, self.unit_ids, offset=self.offset, scale=self.scale, binarise=self.binarise)
        feed.fill(np.arange(n), 0, np.empty((self.n_units, n), dtype))
        if self.binary:
            feed.states(np.arange(n), 0)

    def _source(self) -> KeptStates | DrawnStates | FilledStates:
        if self._states is None:
            self._find_states()
        assert self._states is not None
        return self._states

    def _find_states(self) -> bool:
        """Whether there are states, and where they come from."""
        where = self.columns, self.rows, self.unit_ids, self.offset, self.scale
        binary, self._states = kept_states(
            self.split, self.columns, self.unit_ids, self.offset, self.scale, self.level, self._n_ranks
        )
        if self._states is None and self.binarise == "stochastic":
            self._states = drawn_states(*where, Stream(self.seed, 0, Purpose.DATA))
        elif self._states is None and binary:
            self._states = FilledStates(*where, None, self.level)
        return self._states is not None


def _level(binarise: str | float | None) -> float | None:
    return None if binarise in (None, "none", "stochastic") else float(binarise)  # type: ignore[arg-type]
