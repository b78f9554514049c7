"""The kinds of work that a rank's update consists of, one call each, for the rates of ``plan.rates``.

They are the engine's own calls with operands of the same types and sizes, apart from the network: a network of the
largest size would take longer to make than all of them take to measure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.bench.step import CD1, ONES, training_spec
from modelpar.comm.grid import Grid
from modelpar.comm.transfer import Transfer
from modelpar.kernels.products import precision
from modelpar.kernels.products.product import Product, Sampler
from modelpar.kernels.states import Packed, over_samples, over_units, pack
from modelpar.kernels.statistics import update
from modelpar.kernels.statistics.learning import Counts, ProbabilityCounts, update_from
from modelpar.kernels.statistics.probability_counts import add_steps
from modelpar.spec import NetworkSpec
from modelpar.streams import Purpose, Stream
from modelpar.weights.dense import Scratch
from modelpar.weights.parameters import Parameters

Array = npt.NDArray[Any]
BITS = (1, 4, 0)  # of the statistics that are measured; 0: probabilities
SCALE = np.float32(1 << 16)  # of probabilities as integers
CARRY, GAIN = 0.9, 1e-9  # of an update: it does not bring the weights anywhere


@dataclass(frozen=True)
class Case:
    """One call, and how many weights (units, connections) a table counts in it.

    drawn   units that it draws besides, which count in a table of their own
    """

    work: str
    size: int
    samples: int
    run: Callable[[], object]
    drawn: int = 0


def name_of(bits: int) -> str:
    return str(bits or "float")


def dense_cases(n_visible: int, n_hidden: int, samples: int, *, all_of_them: bool = True) -> list[Case]:
    """Works on a matrix; products and learning alone where not ``all_of_them``."""
    rng = np.random.default_rng(1)
    parameters = Parameters((n_visible, n_hidden), 0, 0, np.float32)  # which lie in memory as a network's do
    W, V = parameters.W, parameters.like().W
    W[:] = rng.normal(0, 0.01, n_hidden)
    n = W.size
    v, h = _states(rng, n_visible, samples, ONES), _states(rng, n_hidden, samples, 0.5)
    buffers = Scratch(), Scratch()
    cases: dict[str, Callable[[], object]] = {
        "product.up": lambda: Product(W, v, True, n_visible, True).sums(buffers[0].buffer),
        "product.down": lambda: Product(W, h, False, n_hidden, True).sums(buffers[1].buffer),
    }
    for bits in BITS:
        s = _hidden(rng, n_hidden, samples, bits)
        if bits:
            counts: Any = Counts((v, s), (v, s))
            C = np.empty(W.shape, np.int16 if samples * ((1 << bits) - 1) > 127 else np.int8)
        else:
            counts, C = ProbabilityCounts((v, s), (v, s), samples), np.empty(W.shape, np.int32)
        cases[f"learn.{name_of(bits)}"] = partial(counts.learn, W, V, CARRY, GAIN, 0.0)
        cases[f"count.{name_of(bits)}"] = partial(counts.fill, C)
        if bits == 4:
            cases["update"] = partial(update_from, C, W, V, CARRY, GAIN, 0.0)
    a, d = np.zeros(n_visible, np.float32), np.zeros(n_hidden, np.float32)
    cases["centre"] = lambda: update.subtract_outer(V, CARRY, (a, a), (d, d))
    wanted = [work for work in cases if all_of_them or work.startswith(("product.", "learn."))]
    return [Case(work, n, samples, cases[work]) for work in wanted]


def real_cases(n_visible: int, n_hidden: int, samples: int) -> list[Case]:
    """Products of real values, as those of grey data and of layers that are passed probabilities."""
    W = Parameters((n_visible, n_hidden), 0, 0, np.float32).W
    W[:] = 0.01
    x, out = np.full((n_visible, samples), 0.5, np.float32), np.empty((n_hidden, samples), np.float32)
    return [Case("real.product", W.size, samples, lambda: precision.matmul(W.T, x, out))]


def unit_cases(n_units: int, samples: int) -> list[Case]:
    """Draws from sums, and sums of units' values for the centred gradient."""
    rng, ids, bias = np.random.default_rng(2), np.arange(n_units), np.zeros(n_units, np.float32)
    sums = rng.integers(-(1 << 20), 1 << 20, (n_units, samples), dtype=np.int32)
    stream, cases = Stream(1, 0, Purpose.HIDDEN, 0), []
    target = _states(rng, n_units, samples, ONES)
    kinds: dict[str, dict[str, Any]] = {
        "draw.visible": {"target": target}, "draw.0": {}, "draw.1": {"planes": 1}, "draw.4": {"planes": 4},
        "draw.float": {"means": True},
    }  # fmt: skip
    for work, wanted in kinds.items():
        sampler = Sampler(bias, ids, stream, 0, **wanted)
        cases.append(Case(work, n_units, samples, partial(sampler.of_sums, sums, n_units)))
    of_units, of_samples = np.ones(n_units), np.ones(samples)
    for bits in BITS:
        x = _hidden(rng, n_units, samples, bits)

        def run(x: Any = x) -> None:
            if isinstance(x, Packed):
                x.sums(), x.sums(), over_units(x, of_units), over_samples(x, of_samples)
            else:
                for _ in range(2):
                    add_steps(x, SCALE, np.zeros(len(x), np.int64))
                rounded = np.rint(x * SCALE).astype(np.float64)
                of_units @ rounded, rounded @ of_samples

        cases.append(Case(f"centre.units.{name_of(bits)}", n_units, samples, run))
    return cases


def listed_cases(grid: Grid, network: NetworkSpec, samples: int, stem: str) -> list[Case]:
    """Works on listed connections of one RBM, on a grid of one rank; ``stem`` of their names, listed or scattered."""
    bench = CD1((samples, *network.layers), grid, spec=network)  # type: ignore[arg-type]
    rbm, weights, parameters, n = bench.rbm, bench.rbm.weights, bench.rbm.parameters, bench.network.n_weights[0]
    rng, v = np.random.default_rng(3), bench.v0
    h = _states(rng, network.layers[1], samples, 0.5)
    stream = Stream(1, 0, Purpose.HIDDEN, 0)
    up, down = Sampler(rbm.c, rbm.hidden_ids, stream, 0), Sampler(rbm.b, rbm.visible_ids, stream, 0, target=v)
    cases: dict[str, Callable[[], object]] = {
        f"{stem}.up": lambda: weights.sample_up(parameters, Transfer(v), up),
        f"{stem}.down": lambda: weights.sample_down(parameters, Transfer(h), down),
    }
    below, above = np.zeros(network.layers[0], np.float32), np.zeros(network.layers[1], np.float32)
    gradient = bench.velocity.W

    def centre() -> None:
        weights.subtract_outer(gradient, 1.0, (below, below), (above, above))
        weights.sums_of_own(gradient, below, above)

    cases[f"{stem}.centre"] = centre
    for bits in BITS:
        s = _hidden(rng, network.layers[1], samples, bits)
        pair: Any = v, s
        counts = weights.counts(pair, pair) if bits else weights.probability_counts(pair, pair, samples)
        operands = parameters.W, bench.velocity.W, CARRY, GAIN, 0.0
        cases[f"{stem}.learn.{name_of(bits)}"] = partial(counts.learn, *operands)
    drawn = {f"{stem}.up": network.layers[1], f"{stem}.down": network.layers[0]}
    return [Case(work, n, samples, run, drawn.get(work, 0)) for work, run in cases.items()]


def smallest_update(grid: Grid, statistics: str, *, centred: bool) -> Callable[[], None]:
    """An update of a network of a few units on one rank: what is left of a step when its sizes vanish."""
    bench, training = CD1((64, 16, 16), grid), training_spec(statistics, 64)
    return lambda: bench.update(training, centred=centred)


def _states(rng: np.random.Generator, n_units: int, samples: int, density: float) -> Packed:
    return pack(rng.random((n_units, samples), np.float32) < density)


def _hidden(rng: np.random.Generator, n_units: int, samples: int, bits: int) -> Any:
    """The hidden side of statistics: values of so many bits, or probabilities."""
    if not bits:
        return rng.random((n_units, samples), np.float32)
    return pack(rng.integers(0, 1 << bits, (n_units, samples), dtype=np.int8), bits)
