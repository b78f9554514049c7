"""Activations on their way to the shards that need them, with their pending requests."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.comm.status import Status
from modelpar.kernels.products.product import Activations

Array = npt.NDArray[Any]


class Transfer:
    """Activations, of which some may not have arrived yet; with nothing pending they are complete already.

    activations   their shape and type are valid from the start, all their values from ``wait`` on
    pending       requests that are not complete

    As a context it is complete when its block is left, by an exception too: MPI then does not write into memory that
    is freed, and no message is left for a later transfer.
    """

    def __init__(
        self, activations: Activations, pending: Sequence[MPI.Request] = (), sent: Sequence[Array] = (),
        status: Status | None = None,
    ) -> None:  # fmt: skip
        """sent   arrays that MPI still reads;   status   records that this rank waits"""
        self.activations, self.pending = activations, list(pending)
        self._sent, self._status = list(sent), status or Status()

    def wait(self) -> Activations:
        """The activations, complete.  Not collective: other ranks have begun to send."""
        if self.pending:
            with self._status.waiting("halo"):
                MPI.Request.Waitall(self.pending)
            self.pending.clear()
            self._sent.clear()
        return self.activations

    def kept(self, owned: Activations) -> Transfer:
        """The same, valid after the next transfer: that overwrites gathered real values, but not packed or ``owned``
        ones."""
        if not isinstance(self.activations, np.ndarray) or self.activations is owned:
            return self
        return Transfer(self.wait().copy())  # type: ignore[union-attr]

    def __enter__(self) -> Transfer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
            return
        with suppress(MPI.Exception):  # of a lost rank, which the first exception reports
            self.wait()
