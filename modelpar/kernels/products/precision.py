"""Products of real values in the precision that was asked for: that of the operands, or bfloat16."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt

from modelpar.kernels.products import bfloat16, dense

FULL, BF16 = "full", "bf16"
PRECISIONS = (FULL, BF16)

_of_this_thread = threading.local()  # ``name``: the precision of products that this thread asks for; none: FULL


@contextmanager
def products_in(name: str) -> Iterator[None]:
    """Context in which :func:`matmul` has this precision, one of PRECISIONS, when this thread calls it."""
    before = asked()
    _of_this_thread.name = name
    try:
        yield
    finally:
        _of_this_thread.name = before


def asked() -> str:
    """Return the precision of products that this thread asks for."""
    return getattr(_of_this_thread, "name", FULL)


def matmul(
    a: npt.NDArray[Any], b: npt.NDArray[Any], out: npt.NDArray[Any], alpha: float = 1.0, beta: float = 0.0
) -> None:
    """``dense.matmul``, or ``bfloat16.matmul`` where that was asked for.  Raises ValueError as these do."""
    (bfloat16 if asked() == BF16 else dense).matmul(a, b, out, alpha, beta)
