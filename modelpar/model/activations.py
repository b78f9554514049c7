"""Activations that callers bring, as products take them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.errors import DataError
from modelpar.kernels.products.product import Activations
from modelpar.kernels.states import Packed
from modelpar.values.forms import plain_array


def owned_block(x: Any, n_units: int, dtype: npt.DTypeLike, name: str, *, exact: bool = False) -> Activations:
    """Activations as products take them: packed, or (n_units, batch) of ``dtype`` in C order; in exact mode also of
    float64.

    x   anything that NumPy makes an array of; not changed, and not copied where it is in that form
    Raises DataError for another number of units, or values that are not numbers.  Not collective.
    """
    if isinstance(x, Packed):
        if x.n_units != n_units:
            raise DataError(f"{name} are bits of {x.n_units} units, but this rank owns {n_units}")
        return x
    if type(x) is not np.ndarray or (x.dtype != dtype and not (exact and x.dtype == np.float64)):
        x = plain_array(x, name)
        if x.dtype.kind not in "buif":
            raise DataError(f"{name} are of type {x.dtype}, but numbers are needed")
        x = x.astype(dtype)
    if x.ndim != 2 or len(x) != n_units:
        raise DataError(
            f"{name} came as {' x '.join(map(str, x.shape))}, but this rank owns {n_units} units: units x samples are "
            "needed"
        )
    if not (x.flags.c_contiguous and x.flags.aligned):
        x = np.array(x, order="C")
    return x
