"""The public API with odd arguments: the file is JSON of one call, and the reader makes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
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
LARGEST = 300  # a number of what a call really makes or does; larger ones would take as long as they must


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
    path.write_text(json.dumps([odd(random) if random.random() < 0.6 else usual for usual in CALLS[kind][0]]))


def call(path: Path, kind: str) -> None:
    CALLS[kind][1](*map(made, json.loads(path.read_text())))


@cache
def network() -> modelpar.DeepBeliefNetwork:
    return modelpar.DeepBeliefNetwork(modelpar.NetworkSpec((6, 4, 3), classes=3), grid())


def sized(value: Any) -> Any:
    """The value, or 3 in place of a number that would make the call as large as it is."""
    one = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value  # which stands for it
    if isinstance(one, int | float | np.generic) and not isinstance(one, bool | np.bool_) and one > LARGEST:
        return 3
    return value


def _shards(model_shards: Any, replicas: Any, servers: Any) -> None:
    with modelpar.Grid(MPI.COMM_SELF, model_shards=model_shards, replicas=replicas, servers=servers):
        pass


def _place(n_shards: Any, partitioner: Any, file: Any) -> None:
    modelpar.place(modelpar.NetworkSpec((6, 4, 3)), sized(n_shards), MPI.COMM_SELF, partitioner=partitioner, file=file)


def _method(name: Any, n_parts: Any, seed: Any) -> None:
    partitioners.method(name)(graph(), sized(n_parts), seed=seed)


def _evaluate(split: Any) -> None:
    data = small.dataset(6, held_out=True)
    evaluate(network(), data, data.test if isinstance(split, str) and split == "test" else split)


def _pretrain(network_: Any, dataset: Any, training: Any, sync: Any) -> None:
    given = (
        modelpar.DeepBeliefNetwork(modelpar.NetworkSpec((6, 4)), grid())
        if isinstance(network_, str) and network_ == "it"
        else network_
    )
    data = small.dataset(6) if isinstance(dataset, str) and dataset == "it" else dataset
    options = (
        modelpar.TrainingSpec(**training) if isinstance(training, dict) and training == {"epochs": 1} else training
    )
    list(modelpar.pretrain(given, data, options, sync))


def _set_threads(n: Any) -> None:
    with suppress(TypeError, ValueError):  # as its description says
        modelpar.set_threads(sized(n))


def _links(value: Any) -> Any:
    return [partitioners.Complete(6, 4)] if isinstance(value, list) and value == [None] else value


def _load(path: Any, to_train: Any, halo: Any) -> None:
    modelpar.load(path, grid(), to_train=to_train, halo=halo)


OWNERS = [[0, 1, 0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 1]]
# name -> arguments that it accepts, each of which may be exchanged, and the call
CALLS: dict[str, tuple[list[Any], Callable[..., object]]] = {
    "Grid": ([1, 1, 0], _shards),
    "place": ([2, "block", None], _place),
    "method": (["refined", 2, 1], _method),
    "save": (["it.safetensors"], lambda path: modelpar.save(network(), path)),
    "load": (["missing.safetensors", True, "auto"], _load),
    "UnitLayout.from_owners": ([OWNERS[0], 2], lambda owner, n: UnitLayout.from_owners(owner, sized(n))),
    "NetworkLayout.from_owners": (
        [OWNERS, 2, "auto"], lambda owners, n, layout: NetworkLayout.from_owners(owners, sized(n), layout)
    ),
    "NetworkLayout.blocks": (
        [6, 2, "auto"], lambda n, m, layout: NetworkLayout.blocks([sized(n), 3], sized(m), layout)
    ),
    "UnitGraph": ([[6, 4], [None], [1] * 10], lambda *given: UnitGraph(*given[:1], _links(given[1]), given[2])),
    "Sparse": ([[0, 2, 3], [0, 1, 1], 2], partitioners.Sparse),
    "Sparse.from_edges": (
        [[0, 1], [1, 0], 2, 2], lambda a, b, n, m: partitioners.Sparse.from_edges(a, b, sized(n), sized(m))
    ),
    "Complete": ([2, 3], partitioners.Complete),
    "measure": ([OWNERS, 2], lambda owners, n: partitioners.measure(graph(), Partition(owners, n))),
    "fantasies": (
        [2, 1, 0], lambda n, steps, first: network().fantasies(sized(n), sized(steps), first_draw=first)
    ),
    "reconstruct": ([[[0.0]] * 6], lambda v: network().reconstruct(v)),
    "evaluate": (["test"], _evaluate),
    "pretrain": (["it", "it", {"epochs": 1}, None], _pretrain),
    "set_threads": ([1], _set_threads),
    "open_dataset": ([[[0, 1], [1, 0], [1, 1]], [0, 1, 0]], lambda X, y: modelpar.open_dataset(X, y, MPI.COMM_SELF)),
}  # fmt: skip
