"""Statistics of states and k-bit values, and the same in NumPy's integers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modelpar.kernels.states import pack
from modelpar.kernels.statistics.learning import Counts


def drawn(size: tuple[int, int], batch: int, planes: int, *, alone: bool) -> tuple[Counts, npt.NDArray[np.int64]]:
    """(statistics of random operands, what they come to).

    size   (units of the states, units of the values), of which the last has the largest value throughout
    alone  of the model's phase only
    """
    rng = np.random.default_rng([*size, batch, planes])
    v = rng.random((2, size[0], batch)) < 0.4
    s = rng.integers(0, 1 << planes, (2, size[1], batch))
    s[:, -1] = (1 << planes) - 1
    data, model = ((pack(v[phase]), pack(s[phase], planes)) for phase in (0, 1))
    C = -(v[1].astype(np.int64) @ s[1].T)
    if alone:
        data = Counts.empty_like(model)
    else:
        C += v[0].astype(np.int64) @ s[0].T
    return Counts(data, model), C
