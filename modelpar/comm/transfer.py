"""Activations on their way to the shards that need them: a value that says what is still under way."""

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
    """Activations, of which some may not have arrived yet; with nothing pending they are there already.

    activations   their shape and type hold from the start, all their values from ``wait`` on
    pending       requests that are not complete

    As a context it is complete when its block is left, by an exception too: MPI then writes into no memory that is
    forgotten, and no message is left over for a later transfer.
    """

    def __init__(
        self, activations: Activations, pending: Sequence[MPI.Request] = (), sent: Sequence[Array] = (),
        status: Status | None = None,
    ) -> None:  # fmt: skip
        """sent   what MPI still reads;   status   is told that this rank waits"""
        self.activations, self.pending = activations, list(pending)
        self._sent, self._status = list(sent), status or Status()

    def wait(self) -> Activations:
        """The activations, complete.  Not collective: what this rank waits for, others have begun to send."""
        if self.pending:
            with self._status.waiting("halo"):
                MPI.Request.Waitall(self.pending)
            self.pending.clear()
            self._sent.clear()
        return self.activations

    def kept(self, owned: Activations) -> Transfer:
        """The same, to outlive the next one: gathered real values are written over by it, packed and ``owned`` ones
        are not."""
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
        with suppress(MPI.Exception):  # of a rank that was lost, which the first exception tells of
            self.wait()
