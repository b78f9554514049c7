"""Inverse temperatures on the way through one RBM or several: placed, or checked."""

from __future__ import annotations

import numpy as np

from modelpar.errors import SpecError
from modelpar.likelihood.energy import Array, Doubles
from modelpar.values import plain


def placed_steps(n_betas: int, length: Doubles, even: Doubles) -> Doubles:
    """Temperatures (n_betas,) at equal distances along ``length``, as near as those at all whole numbers allow.

    length   (n,) of the way from 0 to each temperature of ``even``, (n,), which has all whole numbers up to its last
    Raises SpecError, on every rank alike, where there are fewer temperatures than whole numbers.
    """
    n_rbms, n_steps = int(even[-1]), n_betas - 1
    if n_steps < n_rbms:
        raise SpecError(
            f"a way through {n_rbms} RBMs needs at least {n_rbms + 1} temperatures, but {n_betas} were given"
        )
    at = np.searchsorted(even, np.arange(n_rbms + 1))
    cuts = np.rint(length[at] / length[-1] * n_steps).astype(np.int64)
    least, most = np.arange(n_rbms + 1), n_steps - np.arange(n_rbms, -1, -1)
    cuts = np.minimum(np.maximum.accumulate(cuts - least) + least, most)  # every leg has a step
    pieces = [np.zeros(1)]
    for first, last, a, b in zip(cuts[:-1], cuts[1:], at[:-1], at[1:], strict=True):
        pieces.append(np.interp(np.linspace(length[a], length[b], last - first + 1), length, even)[1:])
    placed = np.concatenate(pieces)
    placed[cuts] = np.arange(n_rbms + 1)
    return placed


def checked_steps(betas: Array, n_rbms: int) -> Doubles:
    """Raises SpecError, on every rank alike, where inverse temperatures do not rise from 0 to ``n_rbms``, or leave a
    whole number out."""
    steps = np.asarray(betas, np.float64)
    rise = steps.ndim == 1 and len(steps) > 1 and steps[0] == 0 and steps[-1] == n_rbms and np.all(np.diff(steps) >= 0)
    if not rise or not np.isin(np.arange(n_rbms), steps).all():
        over = " over all whole numbers" if n_rbms > 1 else ""
        raise SpecError(
            f"inverse temperatures must rise from 0 to {n_rbms}{over}, at least 2 of them, but are {plain.shown(betas)}"
        )
    return steps
