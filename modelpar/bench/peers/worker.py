"""A peer's own process: it prepares, reports that it is ready, and measures each time that a line asks for it.

Lines in: ``go SECONDS``, ``quit``.  Lines out: JSON, one for "ready" and one for each ``go``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Measure = Callable[[float], dict[str, Any]]  # seconds -> what is answered

RATE, MOMENTUM, DECAY = 0.001, 0.9, 2e-4  # of every peer: those of the engine's benchmark
ONES = 0.2  # fraction of the visible states that are on
WARM_STEPS = 3
# A pool of threads spins for some milliseconds after its last work.  Answering only then leaves the processors to the
# side that is measured next.
SETTLING = 0.1


@dataclass(frozen=True)
class Order:
    """The options with which the benchmark starts this process."""

    size: tuple[int, int, int]  # batch, visible units, hidden units
    threads: int
    variant: str
    rank: int = 0
    port: int = 0  # where further ranks meet rank 0
    chains: int = 0  # of PCD
    sweeps: int = 0  # of the chains, for each update
    layers: tuple[int, ...] = ()  # units of each, the classes last, of fine-tuning
    categories: int = 0  # of a site of visible units, one of which is 1; 0: each is by itself


def parse(arguments: list[str]) -> Order:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="64x256x512")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variant", default="")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--chains", type=int, default=0)
    parser.add_argument("--sweeps", type=int, default=0)
    parser.add_argument("--layers", default="")
    parser.add_argument("--categories", type=int, default=0)
    given = parser.parse_args(arguments)
    batch, visible, hidden = map(int, given.size.split("x"))
    layers = tuple(map(int, given.layers.split("-"))) if given.layers else ()
    size, more = (batch, visible, hidden), (given.chains, given.sweeps, layers, given.categories)
    return Order(size, given.threads, given.variant, given.rank, given.port, *more)


def serve(prepare: Callable[[Order], Measure]) -> None:
    """The loop of the process.  ``prepare`` makes the network and warms it up."""
    # Libraries that print would spoil the answers: their output goes to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        order = parse(sys.argv[1:])
        unbind(order.threads)
        measure = prepare(order)
        _say(answers, {"ready": True})
        for line in sys.stdin:
            word, _, seconds = line.strip().partition(" ")
            if word != "go":
                break
            _say(answers, measure(float(seconds)))
    except Exception as error:
        text = next((line for line in str(error).splitlines() if line.strip()), "")
        _say(answers, {"error": f"{type(error).__name__}: {text.strip()[:300]}"})
        sys.exit(1)


def timed(step: Callable[[], object], n_samples: int, warm_steps: int = WARM_STEPS) -> Measure:
    """A function that measures steps; some are taken here to warm up."""
    for _ in range(warm_steps):
        step()

    def measure(seconds: float) -> dict[str, Any]:
        if warm_steps > 1:  # a single one is enough where a step takes seconds, and then none is needed here
            step()  # the others' rounds have taken the caches
        started, steps, taken = time.perf_counter(), 0, 0.0
        while taken < seconds or not steps:
            step()
            steps += 1
            taken = time.perf_counter() - started
        return {"samples_per_second": n_samples * steps / taken, "steps": steps}

    return measure


def unbind(threads: int) -> None:
    """Run on all processors where a launcher has bound the parent, and so this process, to fewer than the threads."""
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) < threads:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _say(answers: Any, answer: dict[str, Any]) -> None:
    time.sleep(SETTLING)
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
