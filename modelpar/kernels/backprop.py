"""Element-wise steps of back-propagation.  Each docstring is the equivalent NumPy line."""

from __future__ import annotations

from modelpar.machine.compilation import njit


@njit(cache=True, nogil=True)
def sigmoid_gradient(delta, activation, scale):  # type: ignore[no-untyped-def]
    """delta *= activation * (1 - activation / scale)      all (units, batch)

    ``activation`` is scale * sigmoid(x) where a unit was kept and 0 where dropout removed it, so no mask is needed.
    """
    inverse = delta.dtype.type(1.0 / scale)
    one = delta.dtype.type(1)
    for i in range(delta.shape[0]):
        row, a = delta[i], activation[i]
        for j in range(row.shape[0]):
            row[j] *= a[j] * (one - a[j] * inverse)


@njit(cache=True, nogil=True)
def keep_or_drop(activation, uniform, probability):  # type: ignore[no-untyped-def]
    """activation *= (uniform >= probability) / (1 - probability)      (units, batch)"""
    scale = activation.dtype.type(1.0 / (1.0 - probability))
    zero = activation.dtype.type(0)
    for i in range(activation.shape[0]):
        row, u = activation[i], uniform[i]
        for j in range(row.shape[0]):
            row[j] *= scale if u[j] >= probability else zero


@njit(cache=True, nogil=True)
def column_squares(W, out):  # type: ignore[no-untyped-def]
    """out[:] = (W ** 2).sum(axis=0)      W (rows, columns)"""
    out[:] = 0
    for i in range(W.shape[0]):
        row = W[i]
        for j in range(row.shape[0]):
            out[j] += row[j] * row[j]


@njit(cache=True, nogil=True)
def scale_columns(W, factor):  # type: ignore[no-untyped-def]
    """W *= factor      W (rows, columns), factor (columns,)"""
    for i in range(W.shape[0]):
        row = W[i]
        for j in range(row.shape[0]):
            row[j] *= factor[j]
