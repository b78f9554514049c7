"""Methods x networks x parts: the quality of each partition, the traffic it causes, and the time to find it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from partitioners.arguments import integer, seed_of
from partitioners.auto import Progress, Search
from partitioners.columns import problems, rows, table
from partitioners.graph import GraphError
from partitioners.methods import ANYTIME, method
from partitioners.networks import Network
from partitioners.partition import Partition, compact, empty_parts, measure
from partitioners.refinement import feasible
from partitioners.step_time import Rates, step_seconds
from partitioners.traffic import largest_send, messages, predicted_bytes, traffic
from partitioners.writing import check_targets, write_text

__all__ = [
    "Result",
    "Watcher",
    "check_targets",
    "compare",
    "problems",
    "rows",
    "standing",
    "table",
    "write_json",
    "write_text",
]

# What an engine measures when it runs a network with a placement: names and numbers, such as "bytes", "step_seconds".
Measured = Callable[[Network, Partition], Mapping[str, float]]

# Called with a network's name, a number of parts and a method before it runs, and with where its search stands.
Watcher = Callable[[str, int, str, Progress | None], None]


@dataclass(frozen=True)
class Result:
    """One partition of one network by one method; or the reason why there is none."""

    network: str
    method: str
    n_parts: int
    seed: int
    volume: int = 0  # states that travel for one sample, in one pass up and one down of every RBM
    largest_send: int = 0  # of these, what the busiest part sends
    messages: int = 0  # pairs of parts between which something travels, over RBMs and directions
    edge_cut: int = 0  # connections between parts
    imbalance: tuple[float, ...] = ()  # of each layer: heaviest part / mean part - 1
    feasible: bool = False  # every layer within its limit
    seconds: float = 0.0  # to find it
    predicted_bytes: int = 0  # that travel for a minibatch, all parts together
    predicted_seconds: float = 0.0  # of a step with a minibatch
    measured: Mapping[str, float] = field(default_factory=dict)  # what an engine counted
    empty_parts: tuple[int, ...] = ()  # of each layer: how many parts own none of its units
    rounds: int | None = None  # of a search in rounds, and why it ended
    stopped: str | None = None
    problem: str | None = None
    partition: Partition | None = None  # not in the JSON

    def as_json(self) -> dict[str, Any]:
        """Everything but the owners."""
        values = {name: value for name, value in vars(self).items() if name != "partition"}
        return {**values, "imbalance": list(self.imbalance), "measured": dict(self.measured),
                "empty_parts": list(self.empty_parts)}  # fmt: skip


def compare(
    networks: Iterable[Network],
    methods: Sequence[str],
    parts: Sequence[int],
    *,
    seed: int = 0,
    batch: int = 64,
    measured: Measured | None = None,
    rates: Callable[[Network], Rates] | None = None,
    budget: float | None = None,
    rounds: int | None = None,
    progress: Watcher | None = None,
) -> Iterator[Result]:
    """A result for every network, number of parts and method, as they are found.

    batch     samples of the minibatch for which bytes and seconds are predicted
    measured  is called with each network and partition; what it returns is added to the result
    rates     is called with each network for the rates of the machine on which steps are predicted; default: ``Rates``
    budget    seconds for each search of a method in rounds, and rounds: see ``partitioners.auto.Search``
    progress  see ``Watcher``

    A method that does not apply to a network, as ``tiles`` without coordinates, gives a result with a problem.  Raises
    GraphError for an unknown method, and for an impossible seed, batch or budget.
    """
    known = {name: method(name) for name in methods}  # before anything is computed
    seed, batch = seed_of(seed), integer("batch", batch, 1)
    Search(budget, rounds).checked()
    for network in networks:
        machine = None if rates is None else rates(network)
        for n_parts in parts:
            for name, run in known.items():
                watch = _Watch((network.name, n_parts, name), progress)
                watch(None)
                more: dict[str, Any] = {}
                if name.split("+")[0] in ANYTIME:
                    more = {"budget": budget, "rounds": rounds, "progress": watch}
                start = time.perf_counter()
                try:
                    partition = run(network.graph, n_parts, seed=seed, **more)
                except GraphError as error:
                    yield Result(network.name, name, n_parts, seed, problem=str(error))
                    continue
                seconds = time.perf_counter() - start
                yield _result(network, name, partition, seed, batch, seconds, measured, machine, watch.last)


@dataclass
class _Watch:
    """Keeps where a search stands, and passes it on."""

    where: tuple[str, int, str]
    watcher: Watcher | None
    last: Progress | None = None

    def __call__(self, now: Progress | None) -> None:
        self.last = now
        if self.watcher is not None:
            self.watcher(*self.where, now)


def standing(network: str, n_parts: int, name: str, now: Progress | None) -> str:
    """``local28, 2 parts: auto, 3 rounds, volume 1,200, 4 s``"""
    where = f"{network}, {n_parts} parts: {name}"
    return where if now is None else f"{where}, {now.rounds} rounds, volume {now.volume:,}, {now.seconds:.0f} s"


def _result(
    network: Network, name: str, partition: Partition, seed: int, batch: int, seconds: float, measured: Measured | None,
    machine: Rates | None, last: Progress | None = None,
) -> Result:  # fmt: skip
    measures, sent = measure(network.graph, partition), traffic(network.graph, compact(partition))
    return Result(
        network=network.name,
        method=name,
        n_parts=partition.n_parts,
        seed=seed,
        volume=measures.volume.total,
        largest_send=largest_send(sent),
        messages=messages(sent),
        edge_cut=measures.edge_cut,
        imbalance=tuple(round(float(layer), 4) for layer in measures.imbalance),
        feasible=feasible(network.graph, partition),
        seconds=round(seconds, 3),
        predicted_bytes=predicted_bytes(network.graph, partition, batch).total,
        predicted_seconds=step_seconds(network.graph, partition, batch=batch, rates=machine),
        measured={} if measured is None else dict(measured(network, partition)),
        empty_parts=tuple(empty_parts(partition).tolist()),
        rounds=None if last is None else last.rounds,
        stopped=None if last is None else last.stopped,
        partition=partition,
    )


def write_json(path: str | os.PathLike[str], results: Sequence[Result]) -> None:
    """All results as a list of objects.  Raises GraphError where it cannot be written."""
    write_text(path, json.dumps([result.as_json() for result in results], indent=1) + "\n")
