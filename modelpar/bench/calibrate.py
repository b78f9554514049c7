"""The rates of this machine for the planner: measured once, in some seconds, and kept in the user's cache.

Each kind of work (``bench.works``) is measured on a grid of sizes and samples: of one rank alone, with as many threads
as it has cores, and of as many ranks as there are cores that compute at the same time, because they share caches and
memory.  These are measured in turn too, some works of one after some works of another: a machine's speed changes within
a minute, and then it is that of all.  What a call takes when its size vanishes is taken off, and counts once for a
whole step, so that many small pieces do not add up to more than they take together.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TypeVar

import numpy as np
from mpi4py import MPI

from modelpar.bench import works
from modelpar.bench.clock import UNDISTURBED, Clock
from modelpar.bench.exchanges import curves, curves_between, links
from modelpar.bench.kept_machines import file_of, keep, kept_machine
from modelpar.bench.step import CD1, training_spec
from modelpar.bench.works import Case
from modelpar.comm.grid import Grid
from modelpar.kernels.products import dispatch
from modelpar.kernels.warm_up import warm_up
from modelpar.machine.memory import available_bytes
from modelpar.plan.machine import HERE, Link, Machine
from modelpar.plan.rates import CoreRates, Rates, Table, built_in
from modelpar.plan.steps import Compute, step_of
from modelpar.spec import NetworkSpec, SyncSpec

SIZES = ((196, 256), (784, 512), (1024, 2048), (2048, 4096))  # of the last no weights stay in a cache
SAMPLES = (64, 256, 512)
FEW_SAMPLES = (128, 512)  # of works that take as much longer as there are more of them
LARGE = 1 << 21  # weights, from which on only products and learning are measured between the first and last SAMPLES
UNITS = (512, 2048)
UPDATES = (64, 128, 256, 256)  # samples of the updates of SIZES that works are compared with
UPDATE = 256  # and of those with lists
MOST_CHANGE = (0.7, 1.4)  # of a work in an update
LISTED = {  # by the stem of the works: fields of 16 maps, those of one, and connections without any order
    "listed": (("local:5", (400, 4096)), ("local:9", (576, 4096))),
    "single": (("local:5", (4096, 3600)), ("local:9", (4096, 3136))),
    "scattered": (("random:32", (784, 1024)), ("random:64", (2048, 2048))),
}
OPERANDS = 130 << 20  # bytes of the works on the largest of SIZES, about
OF_UPDATES = 2e-2  # of whole updates, which what else a machine does now and then disturbs as it does training
SMALLEST = (16, 16, 64)
GLANCES = 9  # at the kernel of a guess
SECONDS = {False: 14, True: 20}  # of a calibration without lists and with them, about
PAUSE = 0.002  # seconds between two looks of a rank that waits for another one without computing

Say = Callable[[str], None]
Key = tuple[int, int]  # threads of a rank, ranks that compute at once
ONE: Key = (1, 1)
T = TypeVar("T")
Works = Generator[None, None, T]  # which rests after some of them
Listed = Callable[[NetworkSpec, int, str], list[Case]]  # cases of lists, which are made once for all threads
Found = tuple[dict[str, Table], float, dict[str, Table]]  # rates, seconds of a step that no size changes, and of lists


def here(
    comm: MPI.Comm, *, cores: int, threads: int, lists: bool, again: bool = False, say: Say | None = None
) -> Machine:
    """This machine, as it is kept, or measured where it is not, or not with ``lists``, or ``again``.  Collective.

    cores     that this node's ranks may use; threads: of each rank
    lists     with the rates of listed connections, which take longer; measured again where they are kept, too
    say       is told, on rank 0, that something is measured
    """
    if again:
        lists = lists or kept_machine(comm, cores=cores, threads=threads, lists=True) is not None
    elif (kept := kept_machine(comm, cores=cores, threads=threads, lists=lists)) is not None:
        return kept
    if say is not None and comm.rank == 0:
        seconds = SECONDS[lists]
        say(f"measuring this machine with {comm.size} rank(s) of {threads} thread(s), about {seconds} seconds ...")
    machine, share = _measured(comm, cores, threads, lists=lists)
    if share >= UNDISTURBED:
        if comm.rank == 0:
            keep(machine, file_of(comm.size, cores, threads))
        return machine
    if say is not None and comm.rank == 0:
        say(
            f"other programs had {1 - share:.0%} of this machine meanwhile, so what was measured is that of a busy "
            "machine, and is not kept; measure again when it is idle"
        )
    return machine


def guessed(comm: MPI.Comm, *, cores: int) -> Machine:
    """This machine by the rates of a usual core, as fast as one kernel is here: measured in some milliseconds.

    For a choice that must not wait for a calibration.  Collective.
    """
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    nodes, on_node = len(set(comm.allgather(node.bcast(comm.rank)))), node.size
    node.Free()
    speed = 1.0
    if comm.rank == 0:
        [case] = [one for one in works.dense_cases(256, 512, 128) if one.work == "product.up"]
        case.run()
        times = []
        for _ in range(GLANCES):
            started = time.perf_counter()
            case.run()
            times.append(time.perf_counter() - started)
        speed = built_in().of(1).seconds("product.up", case.size, case.samples) / min(times)
    rates = built_in(comm.bcast(speed))
    link = Link(1e-6, 5e9) if nodes == 1 else Link(5e-5, 1e8)
    return Machine(
        HERE, nodes, cores, available_bytes(), Link(1e-6, 5e9), link, ranks_per_node=on_node,
        rates=replace(rates, source="of a usual core (modelpar plan measures this machine)"),
    )  # fmt: skip


# -- measuring ---------------------------------------------------------------------------------------------------------


def _measured(comm: MPI.Comm, cores: int, threads: int, *, lists: bool) -> tuple[Machine, float]:
    """(this machine, the part of its time that this process had).  Collective."""
    warm_up("float32")
    dispatch.prepare()
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    nodes = len(set(comm.allgather(node.bcast(comm.rank))))
    tables: dict[Key, dict[str, Table]] = {}
    calls: dict[Key, float] = {}
    spread, spent = list[float](), np.zeros(2)
    of_lists: dict[int, dict[str, Table]] = {}  # by threads
    with Grid(MPI.COMM_SELF) as alone:
        listed = cache(partial(works.listed_cases, alone)) if lists else None
        clocks: dict[Key, Clock] = {}
        changes: dict[Key, Change] = {}
        works_of: dict[Key, Works[Found] | None] = {}
        for key in _keys(cores, threads, node.size):
            n_threads, at_once = key
            together = at_once > 1 and node.size == at_once
            works_of[key] = None
            if together or node.rank == 0:
                clocks[key] = Clock(n_threads, 1 if together else at_once, node if together else MPI.COMM_SELF)
                works_of[key] = _works(alone, clocks[key], key, listed, changes)
        for key, found_of_key in _in_turn(node, works_of).items():
            tables[key], calls[key], of_key = found_of_key
            if of_key:
                of_lists[key[0]] = of_key
            spread += clocks[key].scatter
            spent += clocks[key].spent
        if listed is not None:
            listed.cache_clear()
    for key, found in tables.items():  # lists are short: ranks hardly share what holds them
        nearest = min(of_lists, key=lambda n: abs(n - key[0]), default=0)
        found |= of_lists.get(nearest, {})
    within, between = links(comm, node)
    verbs = curves(comm if nodes == 1 else node)
    if nodes > 1:
        firsts = comm.Split(0 if node.rank == 0 else MPI.UNDEFINED, comm.rank)
        if firsts != MPI.COMM_NULL:
            verbs |= curves_between(firsts)
            firsts.Free()
        rest(comm)
    machine = Machine(
        HERE, nodes, cores, available_bytes(), within, between,
        scatter=statistics.median(spread) if spread else 0.03, rates=Rates(tables, calls, "measured here"),
        verbs=verbs, ranks_per_node=node.size, threads=threads,
    )  # fmt: skip
    node.Free()
    return comm.bcast((machine, float(spent[0] / spent[1]) if spent[1] else 1.0))


def _in_turn(node: MPI.Comm, works_of: Mapping[Key, Works[T] | None]) -> dict[Key, T]:
    """What all works return, some of each measured in turn; None: of another rank, which this one waits for.

    Collective over ``node``, whose first rank has all works.
    """
    found: dict[Key, T] = {}
    going = True
    while going:
        for key, some in works_of.items():
            if some is not None and key not in found:
                try:
                    next(some)
                except StopIteration as end:
                    found[key] = end.value
            rest(node)
        going = node.bcast(len(found) < len(works_of))
    return found


def _keys(cores: int, threads: int, ranks: int) -> list[Key]:
    """What is measured: the ranks as they are, one rank with one thread and with all, one on every core."""
    keys = {(threads, ranks), ONE, (cores, 1)}
    if ranks == 1:  # in threads of this process, each with operands of its own
        keys.add((1, max(1, min(cores, available_bytes() // (4 * OPERANDS)))))
    return sorted(keys)


def rest(comm: MPI.Comm) -> None:
    """Wait for all ranks without keeping a core busy, as MPI's own barrier would.  Collective."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(PAUSE)


def _works(grid: Grid, clock: Clock, key: Key, listed: Listed | None, changes: dict[Key, Change]) -> Works[Found]:
    alone = yield from _tables(clock)
    if clock.at_once > 1:  # threads of this process, which train nothing beside each other
        while ONE not in changes:
            yield
    else:
        changes[key] = yield from _change(grid, clock, key, alone)
    change = changes.get(key) or changes[ONE]
    tables = _changed(alone, change)
    lists: dict[str, Table] = {}
    if key[1] == 1 and listed is not None:
        lists = yield from _listed_tables(grid, clock, key, tables, change.call, listed)
    return tables, change.call, lists


def _tables(clock: Clock) -> Works[dict[str, Table]]:
    fixed = {case.work: seconds for case, seconds in clock.seconds_of(
        lambda: [*works.dense_cases(*SMALLEST), *works.real_cases(*SMALLEST), *works.unit_cases(16, 64)]
    )}  # fmt: skip
    points: list[tuple[Case, float]] = []
    for n_visible, n_hidden in SIZES:
        for i, samples in enumerate(SAMPLES):
            every = i != 1 or n_visible * n_hidden < LARGE
            points += clock.seconds_of(partial(works.dense_cases, n_visible, n_hidden, samples, all_of_them=every))
            yield
    for samples in FEW_SAMPLES:
        for n_visible, n_hidden in SIZES[1::2]:
            points += clock.seconds_of(partial(works.real_cases, n_visible, n_hidden, samples))
        yield
    for n_units in UNITS:
        for samples in FEW_SAMPLES:
            points += clock.seconds_of(partial(works.unit_cases, n_units, samples))
        yield
    return tables_of(points, fixed)


@dataclass(frozen=True)
class Change:
    """How many times as long as alone works take in an update, by the weights of its matrix, and ``call``: seconds of a
    step that no size changes.

    bits, floats   of all works on weights, but of statistics of probabilities and their update; and of these
    """

    call: float
    bits: Mapping[float, float]
    floats: Mapping[float, float]


def _change(grid: Grid, clock: Clock, key: Key, tables: dict[str, Table]) -> Works[Change]:
    """In an update a work finds other operands in the caches than when it is repeated alone, and draws are made while
    sums are there.  So an update of each of ``SIZES`` is measured, and all works on weights of that size are as much
    slower or faster; what is left of the smallest is what every step takes.  Statistics of probabilities have updates
    of their own, at the sizes at which products of real values are measured.
    """
    of_core = Rates({key: tables}).of(*key)
    tiny = clock.median_of([Case("", 1, 1, works.smallest_update(grid, "4", centred=True))])[0]
    call, factors, of_floats = tiny, dict[float, float](), dict[float, float]()

    def longer(measured: float, rest: float, of_works: float) -> float:
        return min(max((measured - rest) / of_works, MOST_CHANGE[0]), MOST_CHANGE[1])

    for layers, n in zip(SIZES, UPDATES, strict=True):
        size = float(layers[0] * layers[1])
        bench = CD1((n, *layers), grid, layout="column")
        found = {}
        for bits in ("4", "float") if layers in SIZES[1::2] else ("4",):
            training = training_spec(bits, n)
            case = Case("", 1, 1, partial(bench.update, training, centred=True))
            step = step_of(
                NetworkSpec(layers, layout="column"), 0, training, SyncSpec(), bench.network.layout, 1,
                Rates({key: tables}), key[0], at_once=key[1],
            )  # fmt: skip
            whole = sum(float(piece.seconds.max()) for piece in step if isinstance(piece, Compute))
            learning = of_core.seconds(f"learn.{bits}", size, n)
            found[bits] = clock.median_of([case], OF_UPDATES)[0], whole, learning
            if bits == "4":
                clock.scatter_of(case)
        measured, whole, learning = found["4"]
        common = sum(of_core.seconds(work, size, n) for work in ("product.up", "product.up", "product.down", "centre"))
        if not factors:
            call = min(max(measured - whole, 0.5 * tiny), 2.0 * tiny)
        factors[size] = longer(measured, whole - common - learning + call, common + learning)
        if "float" in found:
            measured, whole, learning = found["float"]
            rest = whole - common - learning + factors[size] * common + call
            of_floats[size] = longer(measured, rest, learning)
        del bench, case  # the next ones of other threads come before the next ones here
        yield
    smallest, *others = factors
    factors[smallest] = factors[others[0]]  # of the smallest the rest is what was left of it
    return Change(call, factors, of_floats)


def _changed(tables: Mapping[str, Table], change: Change) -> dict[str, Table]:
    """The tables of works as long as in updates."""
    result = {}
    for work, table in tables.items():
        if work.startswith(("draw", "centre.units")):
            result[work] = table
            continue
        known = change.floats if work in ("learn.float", "count.float") else change.bits
        by_size = np.interp(np.log(table.sizes), np.log(list(known)), list(known.values()))
        rows = tuple(tuple(factor * x for x in row) for factor, row in zip(by_size, table.seconds, strict=True))
        result[work] = replace(table, seconds=rows)
    return result


def _listed_tables(
    grid: Grid, clock: Clock, key: Key, dense: Mapping[str, Table], call: float, listed: Listed
) -> Works[dict[str, Table]]:  # fmt: skip
    """Of works on lists without their draws, whose rates are known from ``dense``; as long as in a whole update."""
    points: list[tuple[Case, float]] = []
    rates = CoreRates(dense)
    for stem, networks in LISTED.items():
        for connections, layers in networks:
            spec = NetworkSpec(layers, connections=connections)
            for samples in FEW_SAMPLES:
                cases = listed(spec, samples, stem)
                for case, seconds in zip(cases, clock.median_of(cases), strict=True):
                    draw = "draw.visible" if case.work.endswith("down") else "draw.0"
                    draws = rates.seconds(draw, case.drawn, samples) if case.drawn else 0.0
                    points.append((case, max(0.1 * seconds, seconds - draws)))
                yield
    tables = tables_of(points, {})
    for stem, networks in LISTED.items():
        of_stem = {work: table for work, table in tables.items() if work.startswith(f"{stem}.")}
        factor = _factor_of_updates(grid, clock, key, networks[-1], {**dense, **tables}, of_stem, call)
        tables |= {work: table.scaled(factor) for work, table in of_stem.items()}
        yield
    return tables


def _factor_of_updates(
    grid: Grid, clock: Clock, key: Key, network: tuple[str, tuple[int, int]], tables: Mapping[str, Table],
    changed: Mapping[str, Table], call: float,
) -> float:  # fmt: skip
    """How many times as long as by their tables the works of ``changed`` take within an update of a network."""
    connections, layers = network
    spec, training = NetworkSpec(layers, connections=connections), training_spec("4", UPDATE)
    bench = CD1((UPDATE, *layers), grid, spec=spec)
    case = Case("", 1, 1, partial(bench.update, training, centred=True))
    measured = clock.median_of([case], OF_UPDATES)[0]

    def predicted(times: float) -> float:
        rates = Rates({key: {**tables, **{work: table.scaled(times) for work, table in changed.items()}}}, {key: call})
        step = step_of(spec, 0, training, SyncSpec(), bench.network.layout, 1, rates, key[0], at_once=key[1])
        return sum(float(piece.seconds.max()) for piece in step if isinstance(piece, Compute))

    of_changed = predicted(2.0) - predicted(1.0)
    rest = predicted(1.0) - of_changed
    factor = (measured - rest) / of_changed if of_changed else 1.0
    return min(max(factor, MOST_CHANGE[0]), MOST_CHANGE[1])


def tables_of(points: Iterable[tuple[Case, float]], fixed: Mapping[str, float]) -> dict[str, Table]:
    """The tables of measured calls, less what a call takes that has next to nothing to do.

    Samples that were not measured of a size are between others of it.
    """
    by_work: dict[str, dict[tuple[int, int], float]] = {}
    for case, seconds in points:
        least = max(0.1 * seconds, seconds - fixed.get(case.work, 0.0))
        by_work.setdefault(case.work, {})[case.size, case.samples] = least / case.size
    tables = {}
    for work, found in by_work.items():
        sizes, samples = (sorted({key[i] for key in found}) for i in range(2))
        rows = []
        for size in sizes:
            of_size = sorted((n, seconds) for (other, n), seconds in found.items() if other == size)
            known, seconds_of = (np.array(column) for column in zip(*of_size, strict=True))
            rows.append(tuple(np.interp(samples, known, seconds_of).tolist()))
        tables[work] = Table(tuple(map(float, sizes)), tuple(map(float, samples)), tuple(rows))
    return tables
