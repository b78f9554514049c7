"""Which kernel makes a product of states: by size, density, and what a calibration measured on this machine.

The time of a product of ``n_in x n_out`` weights with ``batch`` samples is taken to be

    registers, tables, blas    n_in n_out (weight + sample batch)
    lists                      n_in n_out weight + ones n_out sample      (ones: states that are on)

with two rates for each kernel and direction.  They are measured in about two seconds and kept in the user's cache
directory, one file for each processor and number of threads; until there is one, rates of a common processor are used.
MODELPAR_KERNELS names one kernel that is to be used for everything.
"""

from __future__ import annotations

import contextlib
import hashlib
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
from modelpar.kernels import threads
from modelpar.kernels.llvm.lookup import FEATURES, HAS_LOOKUP, compiled
from modelpar.kernels.products import dense, draw, subset_sums
from modelpar.kernels.states import Packed, pack, unpack
from modelpar.machine.caches import first_writable, kept_folders

VARIABLE = "MODELPAR_KERNELS"
WAYS = {"registers": subset_sums.REGISTERS, "tables": subset_sums.TABLES, "lists": subset_sums.LISTS}
VERSION = 2  # of the kernels' speed: a change makes old calibrations void

_SIZE = (784, 1024)  # incoming and outgoing units of the calibration's products
_BATCHES = (32, 256)
_DENSITIES = (0.02, 0.2)  # of the lists', at a batch between the two: turning their sums grows with it
_LISTED = 128
_REPEATS = 5


@dataclass(frozen=True)
class Rate:
    """Nanoseconds of one kernel in one direction."""

    weight: float  # for each weight
    sample: float  # for each weight and sample (for lists: each weight of an active unit and sample)

    def seconds(self, n_in: int, n_out: int, per_weight: float) -> float:
        """Of a product; ``per_weight``: samples, or active samples of an incoming unit on average."""
        return 1e-9 * n_in * n_out * (self.weight + self.sample * per_weight)


@dataclass(frozen=True)
class Calibration:
    """What was measured: ``rates["registers.up"]`` and so on."""

    rates: dict[str, Rate]
    threads: int
    processor: str


# Before a calibration, and where none can be kept: a core of 2024 with AVX-512, and one without.
_WITH = {
    "registers": Rate(0.25, 0.0027), "tables": Rate(0.4, 0.005), "lists": Rate(0.6, 0.02), "blas": Rate(0.15, 0.008),
}  # fmt: skip
_WITHOUT = {"tables": Rate(0.5, 0.0062), "lists": Rate(0.6, 0.023), "blas": Rate(0.15, 0.016)}


_chosen: Calibration | None = None


def available() -> tuple[str, ...]:
    """The kernels of this processor."""
    if not compiled():
        return ("blas",)
    return ("registers", "tables", "lists", "blas") if HAS_LOOKUP else ("tables", "lists", "blas")


def forced() -> str | None:
    """The kernel that the environment asks for.  Raises SpecError for one that is not there."""
    name = os.environ.get(VARIABLE, "")
    if name in ("", "auto"):
        return None
    if name not in available():
        raise SpecError(f"{VARIABLE} is {name!r}, but this processor has auto, {', '.join(available())}")
    return name


def choose(states: Packed, n_out: int, *, up: bool, whole: bool = False) -> str:
    """The kernel for a product of these states (n_in, batch) into ``n_out`` units; raises SpecError as ``forced``."""
    name = forced()
    if name:
        return name
    n_in, batch = states.shape
    times = {}
    for way in available():
        if way == "blas" and whole and compiled():
            continue  # it would have to compute in float64
        per_weight = batch * _density(states) if way == "lists" else batch
        times[way] = rate(way, up=up).seconds(n_in, n_out, per_weight)
    return min(times, key=lambda way: times[way])


def _density(states: Packed) -> float:
    """Of some hundred units, spread over the layer: counting all would cost small products too much."""
    step = max(1, states.n_units // 256)
    return Packed(states.words[::step], states.batch).density()


def rate(way: str, *, up: bool) -> Rate:
    """Of one kernel and direction, measured or assumed."""
    if _chosen is not None:
        return _chosen.rates[f"{way}.{'up' if up else 'down'}"]
    return (_WITH if HAS_LOOKUP else _WITHOUT)[way]


# -- calibration -------------------------------------------------------------------------------------------------------


def calibration_file() -> Path:
    """Where this machine's calibration is kept: the first place that has it, else the first choice for one."""
    about = [processor(), ",".join(sorted(FEATURES)), str(threads.get_threads()), str(VERSION)]
    name = f"{hashlib.sha256(chr(10).join(about).encode()).hexdigest()[:16]}.json"
    files = [folder / "kernels" / name for folder in kept_folders()]
    return next((file for file in files if os.path.isfile(file)), files[0])


def processor() -> str:
    """A name of the kind of processor."""
    return f"{platform.machine()} {llvmlite.binding.get_host_cpu_name()}"


def calibration() -> Calibration | None:
    """What is used now; None where rates are assumed."""
    return _chosen


def use(found: Calibration | None) -> None:
    """Choose by these rates from now on; None: by assumed ones."""
    global _chosen
    _chosen = found


def load() -> bool:
    """Use the calibration that is kept for this machine and number of threads; False where there is none."""
    try:
        fields = json.loads(calibration_file().read_text(encoding="utf-8-sig"))
        rates = {name: Rate(**values) for name, values in fields["rates"].items()}
        wanted = {f"{way}.{direction}" for way in available() for direction in ("up", "down")}
        if wanted <= set(rates) and all(r.weight >= 0 and r.sample > 0 for r in rates.values()):
            use(Calibration(rates, int(fields["threads"]), str(fields["processor"])))
            return True
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass  # there is none, or it is damaged: it is measured again
    return False


def calibrate() -> Calibration:
    """Measure the rates, use them, and keep them where that is possible.  Takes seconds, and wants a quiet machine."""
    rates = {}
    for way in available():
        for up in (True, False):
            rates[f"{way}.{'up' if up else 'down'}"] = _measure(way, up=up)
    found = Calibration(rates, threads.get_threads(), processor())
    use(found)
    place, _ = first_writable("kernels")
    with contextlib.suppress(OSError):
        if place is None:
            return found
        path = place / calibration_file().name
        with tempfile.TemporaryDirectory(dir=place) as folder:  # which goes even where the file cannot be kept
            file = Path(folder) / path.name
            file.write_text(json.dumps(asdict(found), indent=1), encoding="utf-8")
            os.replace(file, path)
    return found


def prepare() -> None:
    """Load this machine's calibration, or make one.  Nothing is measured where the environment names a kernel."""
    if compiled() and forced() is None and not load():
        calibrate()


def _measure(way: str, *, up: bool) -> Rate:
    n_in, n_out = _SIZE
    rng = np.random.default_rng(0)
    W = rng.normal(0, 0.05, (n_in, n_out) if up else (n_out, n_in)).astype(np.float32)
    cases = [(_LISTED, density) for density in _DENSITIES] if way == "lists" else [(batch, 0.5) for batch in _BATCHES]
    times, loads = [], []
    for batch, density in cases:
        states = pack(rng.random((n_in, batch)) < density)
        times.append(_time(_product(way, W, states, up)) * 1e9 / (n_in * n_out))
        loads.append(batch * density if way == "lists" else batch)
    sample = max((times[1] - times[0]) / (loads[1] - loads[0]), 1e-6)
    return Rate(max(times[1] - sample * loads[1], 0.0), sample)


def _product(way: str, W: Any, states: Packed, up: bool) -> Callable[[], None]:
    words = states.rows
    n_out = W.shape[1] if up else W.shape[0]
    if way == "blas":
        out = np.empty((n_out, states.batch), np.float32)
        return lambda: dense.matmul(W.T if up else W, unpack(states), out)
    sums = np.empty((n_out, states.batch), np.int32)
    scale = subset_sums.fine(states.n_units)

    def run() -> None:
        codes, (offsets, units) = np.empty((0, 0), np.uint16), (np.empty((0, 0), np.int64), np.empty(0, np.int32))
        if way == "lists":
            offsets, units = subset_sums.lists_of(words, states.batch)
        else:
            codes = subset_sums.codes_of(words)

        def work(start: int, stop: int) -> None:
            draw.incoming_sums(
                WAYS[way], W, up, states.n_units, scale, codes, offsets, units, states.batch, start, stop, sums
            )

        threads.split(n_out, subset_sums.PANEL, work, align=subset_sums.PANEL)

    return run


def _time(work: Callable[[], None]) -> float:
    work()
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
