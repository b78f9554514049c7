"""The choice of the kernel for a product of states, by size, density, and a calibration measured on this machine.

The time of a product of ``n_in x n_out`` weights with ``batch`` samples is modelled as

    registers, tables, tiles, blas    n_in n_out (weight + sample batch)
    lists                             n_in n_out weight + ones n_out sample      (ones: states that are on)

with two rates for each kernel and direction.  They are measured in about two seconds and kept in the user's cache
directory, one file for each processor and number of threads; before that, rates of a common processor are used.
The environment variable MODELPAR_KERNELS names one kernel to use for all products.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
import numpy as np

from modelpar.errors import SpecError
from modelpar.files.regular import read_bounded
from modelpar.kernels import threads
from modelpar.kernels.llvm.subset_sums import HAS_LOOKUP
from modelpar.kernels.llvm.tiles import allowed
from modelpar.kernels.llvm.vectors import FEATURES, compiled
from modelpar.kernels.products import dense, draw, subset_sums
from modelpar.kernels.products.tiles import self_test
from modelpar.kernels.states import Packed, pack, unpack
from modelpar.machine.caches import first_writable, kept_folders

VARIABLE = "MODELPAR_KERNELS"
MOST_BYTES = 1 << 20  # of a file of rates
VERSION = 6  # of the kernels' speed: a change makes old calibrations invalid

_SIZE = (784, 1024)  # incoming and outgoing units of the calibration's products
_BATCHES = (32, 256)
_DENSITIES = (0.02, 0.2)  # of lists, at a batch between the two: the time of transposing their sums grows with it
_LISTED = 128
_ROUNDS = 15
_ATTEMPTS = 3
_SPIN = 0.1  # seconds after which no thread of a BLAS spins any more
_LEAST_SLOPE = 0.1  # of the time at the higher load, that the part which grows with the load must take


@dataclass(frozen=True)
class Rate:
    """Times of one kernel in one direction, in nanoseconds."""

    weight: float  # for each weight
    sample: float  # for each weight and sample (for lists: each weight of an active unit and sample)

    def seconds(self, n_in: int, n_out: int, per_weight: float) -> float:
        """Return the time of a product; ``per_weight``: samples, or active samples of an incoming unit on average."""
        return 1e-9 * n_in * n_out * (self.weight + self.sample * per_weight)


@dataclass(frozen=True)
class Calibration:
    """Measured rates: ``rates["registers.up"]`` and so on."""

    rates: dict[str, Rate]
    threads: int
    processor: str


# Rates before a calibration, and where none can be kept: a core of 2024 with AVX-512, and one without.
_RATES_WITH = {
    "registers": Rate(0.25, 0.0027), "tables": Rate(0.4, 0.005), "lists": Rate(0.6, 0.02), "blas": Rate(0.15, 0.008),
    "tiles": Rate(0.45, 0.0015),
}  # fmt: skip
_RATES_WITHOUT = {"tables": Rate(0.4, 0.0055), "lists": Rate(0.4, 0.02), "blas": Rate(0.15, 0.016)}


_calibration: Calibration | None = None


def available() -> tuple[str, ...]:
    """Return the names of the kernels that this processor can run."""
    if not compiled():
        return ("blas",)
    first = [name for name, there in (("tiles", allowed()), ("registers", HAS_LOOKUP)) if there]
    return (*first, "tables", "lists", "blas")


def trusted() -> tuple[str, ...]:
    """Return the available kernels without tiles that fail their self-test, which this compiles where there are any."""
    return tuple(kernel for kernel in available() if kernel != "tiles" or self_test())


def usual() -> tuple[str, ...]:
    """Return the kernels among which products choose: with registers no product is faster by tables."""
    there = available()
    return tuple(kernel for kernel in there if kernel != "tables" or "registers" not in there)


def candidates() -> tuple[str, ...]:
    """Return the kernels that products may take: the usual ones, or the one that the environment names."""
    name = forced()
    return (name,) if name else usual()


def named() -> str:
    """Return what the environment names, a kernel or not; empty where the choice is free."""
    name = os.environ.get(VARIABLE, "")
    return "" if name == "auto" else name


def forced() -> str | None:
    """Return the kernel that the environment names, or None.  Raises SpecError for one that is not available."""
    name = named()
    if not name:
        return None
    if name not in available():
        raise SpecError(f"{VARIABLE} is {name!r}, but this processor has auto, {', '.join(available())}")
    if name == "tiles" and not self_test():
        raise SpecError(
            f"{VARIABLE} is 'tiles', but the tiles of this processor give other sums: choose another kernel"
        )
    return name


def choose(states: Packed, n_out: int, *, up: bool, integer_sums: bool = False) -> str:
    """Return the kernel for a product of states (n_in, batch) into ``n_out`` units.  Raises SpecError as ``forced``."""
    return choose_for(states, n_out, states.batch, up=up, integer_sums=integer_sums)


def choose_for(states: Packed, n_out: int, batch: int, *, up: bool, integer_sums: bool = False) -> str:
    """Return the kernel for products of ``batch`` samples with states such as these."""
    name = forced()
    if name:
        return name
    n_in = states.n_units
    times = {}
    for kernel in usual():
        if kernel == "blas" and integer_sums and compiled():
            continue  # it would have to compute in float64
        if kernel == "tiles" and not self_test():
            continue
        per_weight = batch * _density(states) if kernel == "lists" else batch
        times[kernel] = rate(kernel, up=up).seconds(n_in, n_out, per_weight)
    return min(times, key=lambda kernel: times[kernel])


def _density(states: Packed) -> float:
    """Return the density of some hundred units, spread over the layer: counting all is too slow for small products."""
    return states.density(max(1, states.n_units // 256))


def rate(kernel: str, *, up: bool) -> Rate:
    """Return the rate of one kernel and direction, measured or assumed."""
    if _calibration is not None:
        return _calibration.rates[f"{kernel}.{'up' if up else 'down'}"]
    return (_RATES_WITH if HAS_LOOKUP else _RATES_WITHOUT)[kernel]


# -- calibration -------------------------------------------------------------------------------------------------------


def calibration_file() -> Path:
    """Return the file of this machine's calibration: the first folder's that has it, else the preferred folder's."""
    identity = [processor(), ",".join(sorted(FEATURES)), str(threads.get_threads()), str(VERSION)]
    name = f"{hashlib.sha256(chr(10).join(identity).encode()).hexdigest()[:16]}.json"
    files = [folder / "kernels" / name for folder in kept_folders()]
    return next((file for file in files if os.path.isfile(file)), files[0])


def processor() -> str:
    """Return the name of the processor's kind."""
    return f"{platform.machine()} {llvmlite.binding.get_host_cpu_name()}"


def calibration() -> Calibration | None:
    """Return the calibration in use; None where rates are assumed."""
    return _calibration


def use(measured: Calibration | None) -> None:
    """Choose by these rates from now on; None: by assumed ones."""
    global _calibration
    _calibration = measured


def load() -> bool:
    """Use the calibration that is kept for this machine and number of threads; return False where there is none."""
    try:
        fields = json.loads(read_bounded(calibration_file(), MOST_BYTES).decode("utf-8-sig"))
        rates = {name: Rate(**values) for name, values in fields["rates"].items()}
        needed = {f"{kernel}.{direction}" for kernel in usual() for direction in ("up", "down")}
        if needed <= set(rates) and all(r.weight >= 0 and r.sample > 0 for r in rates.values()):
            use(Calibration(rates, int(fields["threads"]), str(fields["processor"])))
            return True
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass  # it is missing or damaged, and is measured again
    return False


def calibrate() -> Calibration:
    """Measure the rates, use them, and keep them where possible.  Takes seconds, and needs an idle machine."""
    measured = Calibration(_measured(), threads.get_threads(), processor())
    use(measured)
    folder, _ = first_writable("kernels")
    with contextlib.suppress(OSError):
        if folder is None:
            return measured
        path = folder / calibration_file().name
        with tempfile.TemporaryDirectory(dir=folder) as temporary:  # it is removed even where the file cannot be kept
            file = Path(temporary) / path.name
            file.write_text(json.dumps(asdict(measured), indent=1), encoding="utf-8")
            os.replace(file, path)
    return measured


def prepare() -> None:
    """Load this machine's calibration, or measure one.  Nothing is done where the environment names a kernel."""
    if compiled() and forced() is None and not load():
        calibrate()


def _measured() -> dict[str, Rate]:
    """Measure every kernel's rate at two loads: samples, or active samples, of an incoming unit.

    All of our own in turn, round after round, and of each the least time counts: whatever else the machine does for a
    while slows no kernel in particular.  The BLAS comes after them: its threads spin for a while after a product, on
    the cores of whatever runs next.  A rate that no undisturbed kernel has, whose time does not grow with the load, is
    measured again, and where that does not help the assumed one stands.
    """
    cases = {(kernel, up): _cases(kernel, up) for kernel in usual() for up in (True, False)}
    least = {key: [np.inf] * len(works) for key, (works, _) in cases.items()}
    groups = [[key for key in cases if (key[0] == "blas") == last] for last in (False, True)]
    for attempt in range(_ATTEMPTS):
        for group, _ in itertools.product(groups, range(_ROUNDS)):
            for key in group:
                for i, work in enumerate(cases[key][0]):
                    least[key][i] = min(least[key][i], _time(work))
        rates = {key: _rate_of(least[key], loads) for key, (_, loads) in cases.items()}
        if all(rates.values()) or attempt == _ATTEMPTS - 1:
            break
        time.sleep(_SPIN)
    assumed = _RATES_WITH if HAS_LOOKUP else _RATES_WITHOUT
    return {f"{kernel}.{'up' if up else 'down'}": rate or assumed[kernel] for (kernel, up), rate in rates.items()}


def _cases(kernel: str, up: bool) -> tuple[list[Callable[[], None]], list[float]]:
    """Return the products that are measured, and the load of each."""
    n_in, n_out = _SIZE
    rng = np.random.default_rng(0)
    W = rng.normal(0, 0.05, (n_in, n_out) if up else (n_out, n_in)).astype(np.float32)
    cases = [(batch, 0.5) for batch in _BATCHES]
    if kernel == "lists":
        cases = [(_LISTED, density) for density in _DENSITIES]
    works = [_product(kernel, W, pack(rng.random((n_in, batch)) < density), up) for batch, density in cases]
    return works, [batch * density if kernel == "lists" else float(batch) for batch, density in cases]


def _rate_of(times: list[float], loads: list[float]) -> Rate | None:
    """Return the rate from seconds at two loads; None where they do not grow as any kernel's do."""
    low, high = (1e9 * seconds / (_SIZE[0] * _SIZE[1]) for seconds in times)
    sample = (high - low) / (loads[1] - loads[0])
    return Rate(max(high - sample * loads[1], 0.0), sample) if sample > _LEAST_SLOPE * high / loads[1] else None


def _product(kernel: str, W: Any, states: Packed, up: bool) -> Callable[[], None]:
    """Return a function that computes this product."""
    n_out = W.shape[1] if up else W.shape[0]
    if kernel == "blas":
        out = np.empty((n_out, states.batch), np.float32)
        return lambda: dense.matmul(W.T if up else W, unpack(states), out)
    sums = np.empty((n_out, states.batch), np.int32)

    def run() -> None:
        operands = subset_sums.operands(kernel, W, states, up, states.n_units)

        def work(start: int, stop: int) -> None:
            draw.incoming_sums(*operands, start, stop, sums)

        threads.split(n_out, subset_sums.PANEL, work, align=subset_sums.PANEL)

    return run


def _time(work: Callable[[], None]) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
