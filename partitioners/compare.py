"""Methods x networks x parts: the quality of each partition, the traffic it causes, and the time to find it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from partitioners.arguments import integer, seed_of
from partitioners.graph import GraphError
from partitioners.methods import method
from partitioners.networks import Network
from partitioners.partition import Partition, compact, empty_parts, measure
from partitioners.refinement import feasible
from partitioners.step_time import Rates, step_seconds
from partitioners.traffic import largest_send, messages, predicted_bytes, traffic
from partitioners.writing import check_targets, write_text

__all__ = ["Result", "check_targets", "compare", "problems", "rows", "table", "write_json", "write_text"]

# What an engine measures when it runs a network with a placement: names and numbers, such as "bytes", "step_seconds".
Measured = Callable[[Network, Partition], Mapping[str, float]]


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
) -> Iterator[Result]:
    """A result for every network, number of parts and method, as they are found.

    batch     samples of the minibatch for which bytes and seconds are predicted
    measured  is called with each network and partition; what it returns is added to the result
    rates     is called with each network for the rates of the machine on which steps are predicted; default: ``Rates``

    A method that does not apply to a network, as ``tiles`` without coordinates, gives a result with a problem.  Raises
    GraphError for an unknown method, and for an impossible seed or batch.
    """
    known = {name: method(name) for name in methods}  # before anything is computed
    seed, batch = seed_of(seed), integer("batch", batch, 1)
    for network in networks:
        machine = None if rates is None else rates(network)
        for n_parts in parts:
            for name, run in known.items():
                start = time.perf_counter()
                try:
                    partition = run(network.graph, n_parts, seed=seed)
                except GraphError as error:
                    yield Result(network.name, name, n_parts, seed, problem=str(error))
                    continue
                seconds = time.perf_counter() - start
                yield _result(network, name, partition, seed, batch, seconds, measured, machine)


def _result(
    network: Network, name: str, partition: Partition, seed: int, batch: int, seconds: float, measured: Measured | None,
    machine: Rates | None,
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
        partition=partition,
    )


COLUMNS = ("network", "parts", "method", "volume", "largest send", "messages", "edge cut", "imbalance", "feasible",
           "seconds", "predicted bytes", "predicted ms")  # fmt: skip


def measured_names(results: Sequence[Result]) -> list[str]:
    """The names of measured numbers, in the order in which they came first."""
    return list(dict.fromkeys(name for result in results for name in result.measured))


def rows(results: Sequence[Result]) -> Iterator[list[str]]:
    """The cells of the table, a row for each result: those of COLUMNS and of measured numbers."""
    extra = measured_names(results)
    for result in results:
        start = [result.network, str(result.n_parts), result.method]
        if result.problem is not None:
            yield [*start, *["-"] * (len(COLUMNS) - 3 + len(extra))]
            continue
        worst = max(result.imbalance, default=0.0)
        cells = [f"{result.volume}", f"{result.largest_send}", f"{result.messages}", f"{result.edge_cut}",
                 f"{100 * worst:.1f} %", "yes" if result.feasible else "no", f"{result.seconds:.2f}",
                 f"{result.predicted_bytes}", f"{1e3 * result.predicted_seconds:.3f}"]  # fmt: skip
        yield [*start, *cells, *(f"{result.measured[name]:g}" if name in result.measured else "" for name in extra)]


def problems(results: Sequence[Result]) -> list[str]:
    """Why methods failed, and where there are more parts than units, each once."""
    failed = [f"{result.method}, {result.network}: {result.problem}" for result in results if result.problem]
    idle = [
        f"{result.network}, {result.n_parts} parts, {result.method}: {max(result.empty_parts)} parts own no unit of "
        f"layer {int(np.argmax(result.empty_parts))}"
        for result in results if any(result.empty_parts)
    ]  # fmt: skip
    return list(dict.fromkeys([*failed, *idle]))


def table(results: Sequence[Result]) -> Table:
    """The results as a table for the terminal."""
    output = Table(title="Partitions: the fewer states travel, the better; infeasible ones leave parts waiting")
    for i, name in enumerate([*COLUMNS, *measured_names(results)]):
        output.add_column(Text(name), justify="left" if i in (0, 2) else "right", overflow="fold")
    last: tuple[str, int] | None = None
    for result, cells in zip(results, rows(results), strict=True):
        section = (result.network, result.n_parts)
        if last not in (None, section):
            output.add_section()
        output.add_row(*map(Text, cells))
        last = section
    caption = "\n".join(problems(results))
    output.caption = Text(caption) if caption else None  # a Text: brackets are not markup
    output.caption_justify = "left"
    return output


def write_json(path: str | os.PathLike[str], results: Sequence[Result]) -> None:
    """All results as a list of objects.  Raises GraphError where it cannot be written."""
    write_text(path, json.dumps([result.as_json() for result in results], indent=1) + "\n")
