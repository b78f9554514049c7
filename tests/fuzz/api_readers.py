"""The public API with odd arguments: the file is JSON of one call, and the reader makes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from mpi4py import MPI

import modelpar
import partitioners
from modelpar.ownership.layout import NetworkLayout, UnitLayout
from modelpar.training.evaluation import evaluate
from partitioners import Partition, UnitGraph
from tests import small
from tests.fuzz.checkpoints import grid
from tests.fuzz.graph_readers import graph
from tests.fuzz.harness import Case
from tests.fuzz.mutation import EDGES, WORDS, scalar

SPECS = {
    spec.__name__: spec
    for spec in (
        modelpar.NetworkSpec, modelpar.TrainingSpec, modelpar.FineTuneSpec, modelpar.DataSpec, modelpar.SyncSpec
    )
}  # fmt: skip
LARGEST = 10**4  # a number of what a call really makes or does; larger ones would take as long as they must


def cases() -> Iterator[Case]:
    for name in SPECS:
        yield Case(f"api/{name}", partial(fields_of, kind=name), partial(spec, kind=name))
    for name in CALLS:
        yield Case(f"api/{name}", partial(values, kind=name), partial(call, kind=name))


def odd(random: Random) -> Any:
    """A value that JSON holds; in the call it may become an array, a NumPy scalar, bytes or a set."""
    value = scalar(random)
    if random.random() < 0.3:
        value = [scalar(random) for _ in range(random.randrange(5))]
    if random.random() < 0.3:
        value = random.choice((random.choice(EDGES), random.choice(WORDS), [1, 2, 3], [[0, 1], [1, 0]], [6, 4, 3]))
    return {"as": random.choice(("it", "it", "array", "scalar", "bytes", "set", "huge", "float")), "value": value}


def made(value: Any) -> Any:
    """The argument that a value of JSON stands for."""
    if not isinstance(value, dict) or "as" not in value:
        return value
    kind, plain = value["as"], value["value"]
    try:
        if kind == "array":
            return np.array(plain)
        if kind == "scalar":
            return np.float64(plain) if isinstance(plain, float) else np.int64(plain)
        if kind == "bytes":
            return str(plain).encode()
        if kind == "set":
            return set(plain) if isinstance(plain, list) else {plain}
        if kind == "huge":
            return 10**5000 if isinstance(plain, int) else plain
        if kind == "float":
            return float(plain)
    except (ValueError, TypeError, OverflowError):
        pass
    return plain


def fields_of(path: Path, random: Random, kind: str) -> None:
    names = [f.name for f in fields(SPECS[kind])]
    chosen = {random.choice(names): odd(random) for _ in range(random.choice((1, 1, 2, 3)))}
    path.write_text(json.dumps(chosen))


def spec(path: Path, kind: str) -> None:
    repr(SPECS[kind](**{name: made(value) for name, value in json.loads(path.read_text()).items()}))


def values(path: Path, random: Random, kind: str) -> None:
    path.write_text(json.dumps([odd(random) for _ in range(CALLS[kind][0])]))


def call(path: Path, kind: str) -> None:
    CALLS[kind][1](*map(made, json.loads(path.read_text())))


@cache
def network() -> modelpar.DeepBeliefNetwork:
    return modelpar.DeepBeliefNetwork(modelpar.NetworkSpec((6, 4, 3)), grid())


def sized(value: Any) -> Any:
    """The value, or 3 in place of a number that would make the call as large as it is."""
    if isinstance(value, int | float | np.generic) and not isinstance(value, bool | np.bool_) and value > LARGEST:
        return 3
    return value


def _shards(model_shards: Any, replicas: Any, servers: Any) -> None:
    with modelpar.Grid(MPI.COMM_SELF, model_shards=model_shards, replicas=replicas, servers=servers):
        pass


def _place(n_shards: Any, partitioner: Any, file: Any) -> None:
    modelpar.place(modelpar.NetworkSpec((6, 4, 3)), sized(n_shards), MPI.COMM_SELF, partitioner=partitioner, file=file)


def _method(name: Any, n_parts: Any, seed: Any) -> None:
    partitioners.method(name)(graph(), sized(n_parts), seed=seed)


def _load(path: Any, to_train: Any, halo: Any) -> None:
    modelpar.load(path, grid(), to_train=to_train, halo=halo)


# name -> how many arguments, and the call
CALLS: dict[str, tuple[int, Callable[..., object]]] = {
    "Grid": (3, _shards),
    "place": (3, _place),
    "method": (3, _method),
    "save": (1, lambda path: modelpar.save(network(), path)),
    "load": (3, _load),
    "UnitLayout.from_owners": (2, lambda owner, n: UnitLayout.from_owners(owner, sized(n))),
    "NetworkLayout.from_owners": (3, lambda owners, n, layout: NetworkLayout.from_owners(owners, sized(n), layout)),
    "NetworkLayout.blocks": (3, lambda n, m, layout: NetworkLayout.blocks([sized(n), 3], sized(m), layout)),
    "UnitGraph": (3, UnitGraph),
    "Sparse": (3, partitioners.Sparse),
    "Sparse.from_edges": (4, lambda a, b, n, m: partitioners.Sparse.from_edges(a, b, sized(n), sized(m))),
    "Complete": (2, partitioners.Complete),
    "measure": (2, lambda owners, n: partitioners.measure(graph(), Partition(owners, n))),
    "fantasies": (3, lambda n, steps, first: network().fantasies(sized(n), sized(steps), first_draw=first)),
    "reconstruct": (1, lambda v: network().reconstruct(v)),
    "evaluate": (1, lambda split: evaluate(network(), small.dataset(6), split)),
    "set_threads": (1, modelpar.set_threads),
    "open_dataset": (2, lambda data, labels: modelpar.open_dataset(data, labels, MPI.COMM_SELF)),
}  # fmt: skip
