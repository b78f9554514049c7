"""Autocorrelation of chains at equilibrium, and the times that come from it (Sokal 1997, section 2 and 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from scipy import fft

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]

WINDOW = 5.0  # integrated times that the window of their sum has at least
SERIES = 1 << 22  # values that are transformed at a time
E_FOLD, TENTH = float(np.exp(-1.0)), 0.1


def autocorrelation(series: Array, n_lags: int, comms: tuple[MPI.Comm, ...] = ()) -> Doubles | None:
    """rho(t) of lags 0 .. n_lags - 1, over all units and chains: sum_u C_u(t) / sum_u C_u(0), C_u the autocovariance.

    series   (sweeps, units, chains), equilibrium values of owned units of this replica's chains
    comms    over which units and chains are shared, those of the chains last

    A unit's mean is that of all its chains, so that chains which stay where they are count as correlated.  Transformed
    with as many zeros as values, by the theorem of Wiener and Khinchin; lag t is divided by the sweeps - t pairs that
    there are.  None where nothing ever varies.  Collective over ``comms``.
    """
    n_sweeps, n_units, n_chains = series.shape
    sums = series.sum(axis=(0, 2), dtype=np.float64)
    n_all = n_chains
    if comms:
        sums, n_all = np.sum(comms[-1].allgather(sums), axis=0), comms[-1].allreduce(n_chains)
    means = sums / max(n_all * n_sweeps, 1)
    length = fft.next_fast_len(2 * n_sweeps, real=True)
    power = np.zeros(length // 2 + 1)
    at_once = max(1, SERIES // max(length * n_chains, 1))
    for start in range(0, n_units if n_chains else 0, at_once):
        block = series[:, start : start + at_once].astype(np.float64) - means[start : start + at_once, None]
        flat = np.ascontiguousarray(block.reshape(n_sweeps, -1).T)
        power += (np.abs(fft.rfft(flat, length, axis=1)) ** 2).sum(axis=0)
    for comm in comms:
        power = np.sum(comm.allgather(power), axis=0)
    covariance = fft.irfft(power, length)[:n_lags] / (n_sweeps - np.arange(n_lags))
    # rounding leaves a unit that never varies with about 1e-16 of its square
    if covariance[0] <= 1e-12 * max(float((means**2).sum()), 1.0):
        return None
    return np.asarray(covariance / covariance[0])


def integrated_time(rho: Doubles, window: float = WINDOW) -> tuple[float, int | None]:
    """(tau = 1 + 2 sum_t rho(t), in sweeps: of N sweeps N / tau are worth independent draws; the last lag of the sum).

    Twice the tau_int of Sokal (1997, equation 2.16).  The sum ends at the smallest M >= window * tau(M) (section 3);
    where no lag is as large, all are summed, tau is too small, and there is no last lag.
    """
    taus = 2 * np.cumsum(rho) - 1
    wide = np.flatnonzero(np.arange(len(rho)) >= window * taus)
    return (float(taus[wide[0]]), int(wide[0])) if len(wide) else (float(taus[-1]), None)


def sweeps_below(rho: Doubles, bound: float = E_FOLD) -> int | None:
    """The first lag at which the autocorrelation is below ``bound``; None where it never is."""
    below = np.flatnonzero(rho < bound)
    return int(below[0]) if len(below) else None
