"""All grids, layouts and numbers of ranks that a training could take, by the time that each is predicted to need."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from modelpar.errors import OutOfMemoryError
from modelpar.ownership.layout import AUTO, MATRIX_LAYOUTS, SPARSE, NetworkLayout, layout_words
from modelpar.plan.collectives import Placement
from modelpar.plan.machine import Machine
from modelpar.plan.memory import memory_by_kind
from modelpar.plan.predict import Prediction, predict
from modelpar.plan.steps import PARTS, Step, received, step_of
from modelpar.spec import NetworkSpec, SyncSpec, TrainingSpec

Bytes = dict[str, dict[str, dict[str, float]]]
Owners = Callable[[int], NetworkLayout]  # of so many shards; matrix layouts are not looked at where they are dense

MOST_SHARDS_TRIED = 1 << 16


@dataclass(frozen=True)
class Job:
    """What is to be trained, and with what."""

    network: NetworkSpec
    training: TrainingSpec
    sync: SyncSpec
    owners: Owners
    keep_best: bool = False
    states: bool | None = None  # whether the data are; None: as the visible units are


@dataclass(frozen=True)
class Choice:
    """One grid, and what it is predicted to take.

    layout      of each RBM's matrix
    threads     of each rank
    seconds     of an update, the mean over the RBMs, which are trained one after another for as long
    parts, bytes  of it; bytes are those of all ranks
    memory      of the rank that needs most, by kind
    fits        whether a node has that memory for all of its ranks
    efficiency  one rank's seconds, with as many threads, over ranks times these seconds
    """

    replicas: int
    model_shards: int
    layout: tuple[str, ...]
    threads: int
    seconds: float
    parts: dict[str, float]
    bytes: Bytes
    memory: dict[str, int]
    fits: bool
    efficiency: float = 1.0

    @property
    def ranks(self) -> int:
        return self.replicas * self.model_shards


def choices(job: Job, machine: Machine, n_ranks: int, ranks_per_node: int, mpi: str = "mpich") -> list[Choice]:
    """All grids of ``n_ranks`` and of fewer, the fastest first; what does not fit into memory comes last.

    One rank and pure replicas are always among them.  Of fewer ranks those are tried whose number divides ``n_ranks``;
    a node's cores are then shared by fewer.
    """
    found: list[Choice] = []
    for n in (n for n in range(1, n_ranks + 1) if n_ranks % n == 0):
        on_node = max(1, min(n, ranks_per_node))
        options = {max(1, machine.cores_per_node // on_node)}
        if machine.threads is not None and n == n_ranks:
            options = {machine.threads}
        for n_threads in sorted(options):
            for shards in (p for p in range(1, n + 1) if n % p == 0):
                if n // shards > job.training.batch_size:
                    continue  # a replica would have no sample
                found += _of_grid(job, machine, n // shards, shards, on_node, n_threads, mpi)
    alone: dict[int, float] = {}
    for choice in found:
        if choice.threads not in alone:
            one = next(_of_grid(job, machine, 1, 1, 1, choice.threads, mpi))
            alone[choice.threads] = one.seconds
    found = [
        replace(one, efficiency=alone[one.threads] / (one.ranks * one.seconds) if one.seconds else 1.0) for one in found
    ]
    return sorted(found, key=lambda one: (not one.fits, one.seconds, one.ranks))


def best(found: Sequence[Choice], n_ranks: int) -> Choice:
    """The fastest grid of all ``n_ranks`` that fits.  Raises OutOfMemoryError where none does."""
    for choice in found:
        if choice.fits and choice.ranks == n_ranks:
            return choice
    raise OutOfMemoryError(f"no grid of {n_ranks} ranks fits into the memory of its nodes; plan with more --nodes")


def faster_on_fewer(found: Sequence[Choice], n_ranks: int) -> Choice | None:
    """The fastest choice, where it has fewer ranks and fits."""
    first = found[0]
    return first if first.fits and first.ranks < n_ranks else None


def what_fits(job: Job, machine: Machine, ranks_per_node: int) -> tuple[int, int] | None:
    """(model shards, nodes) of the smallest model-parallel job on such nodes that fits; None where none does."""
    shards = 1
    while shards <= MOST_SHARDS_TRIED:
        on_node = min(shards, ranks_per_node)
        needed = max(sum(_memory(job, words, 1, shards).values()) for words in _fewest(job))
        if needed * on_node <= machine.memory_per_node:
            return shards, -(-shards // ranks_per_node)
        shards *= 2
    return None


def _fewest(job: Job) -> list[tuple[str, ...]]:
    """Layouts that store every weight once, or those that were asked for."""
    return [tuple("column" if word in (AUTO, "dual") else word for word in _asked(job))]


def _asked(job: Job) -> tuple[str, ...]:
    n = len(job.network.layers) - 1
    words = job.network.layout.split(",")
    asked = layout_words(",".join(words[:n]) if len(words) > 1 else words[0], n)
    return tuple(
        SPARSE if not pattern.dense else word for word, pattern in zip(asked, job.network.patterns, strict=True)
    )


def _of_grid(
    job: Job, machine: Machine, replicas: int, shards: int, on_node: int, threads: int, mpi: str
) -> Iterator[Choice]:
    """The layouts of a grid: with ``auto``, those in which each matrix alone is fastest, and one word for all."""
    placement = Placement.blocks(replicas, shards, on_node)
    owners = job.owners(shards)
    asked = _asked(job)
    timed: list[dict[str, tuple[Step, Prediction]]] = []
    for rbm, word in enumerate(asked):
        # of one shard all layouts are the same matrix
        words = MATRIX_LAYOUTS if word == AUTO and shards > 1 else ("column" if word == AUTO else word,)
        timed.append(
            {each: _timed(job, machine, owners, rbm, each, placement, on_node, threads, mpi) for each in words}
        )
    names = [min(options, key=lambda word: options[word][1].seconds) for options in timed]
    layouts = {tuple(names)}
    for word in MATRIX_LAYOUTS if AUTO in asked and shards > 1 else ():
        layouts.add(tuple(word if word in options else next(iter(options)) for options in timed))
    for layout in sorted(layouts):
        chosen = [options[word] for options, word in zip(timed, layout, strict=True)]
        memory = _memory(job, layout, replicas, shards)
        yield _choice(chosen, layout, replicas, shards, threads, memory, on_node, machine)


def _timed(
    job: Job, machine: Machine, owners: NetworkLayout, rbm: int, word: str, placement: Placement, on_node: int,
    threads: int, mpi: str,
) -> tuple[Step, Prediction]:  # fmt: skip
    words = list(owners.matrix_layouts)
    words[rbm] = word
    layout = NetworkLayout(owners.layers, tuple(words), owners.connections)
    far, shards_far = placement.n_nodes > 1, bool((placement.nodes != placement.nodes[:, :1]).any())
    step = step_of(
        job.network, rbm, job.training, job.sync, layout, placement.nodes.shape[0], machine.rates, threads,
        at_once=on_node, states=job.states if rbm == 0 else None, replicas_far=far, shards_far=shards_far,
    )  # fmt: skip
    return step, predict(step, placement, machine, mpi)


def _choice(
    chosen: Sequence[tuple[Step, Prediction]], layout: tuple[str, ...], replicas: int, shards: int, threads: int,
    memory: dict[str, int], on_node: int, machine: Machine,
) -> Choice:  # fmt: skip
    n = len(chosen)
    parts: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    moved: Bytes = {"shard": {}, "replica": {}}
    for step, prediction in chosen:
        for part, seconds in prediction.parts.items():
            parts[part] = parts.get(part, 0.0) + seconds / n
        for axis, verbs in received(step).items():
            for verb, kind in itertools.chain.from_iterable([(v, k) for k in kinds] for v, kinds in verbs.items()):
                of_verb = moved[axis].setdefault(verb, {})
                of_verb[kind] = of_verb.get(kind, 0.0) + replicas * verbs[verb][kind] / n
    seconds = sum(prediction.seconds for _, prediction in chosen) / n
    fits = sum(memory.values()) * on_node <= machine.memory_per_node
    return Choice(replicas, shards, layout, threads, seconds, parts, moved, memory, fits)


def _memory(job: Job, layout: tuple[str, ...], replicas: int, shards: int) -> dict[str, int]:
    return memory_by_kind(
        job.network, layout, job.training, n_shards=shards, n_replicas=replicas, keep_best=job.keep_best,
        sync=job.sync.sync,
    )  # fmt: skip
