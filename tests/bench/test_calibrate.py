"""Rates that are measured, kept and read again; predictions beside measurements, on a few small networks.

Modules: modelpar/bench/works, modelpar/bench/check, modelpar/bench/clock, modelpar/bench/kept_machines
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.bench import calibrate, check, clock, exchanges, kept_machines, works
from modelpar.bench.check import Configuration
from modelpar.bench.works import Case
from modelpar.comm.grid import Grid
from modelpar.plan.machine import Machine

ALONE = MPI.COMM_SELF


@pytest.fixture(scope="module")
def machine() -> Machine:
    """This one, by a calibration of small sizes that takes a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "SIZES", ((24, 20), (40, 30)))
        patch.setattr(calibrate, "UPDATES", (64, 128))
        patch.setattr(calibrate, "LISTED", {"scattered": (("random:4", (30, 20)),)})
        patch.setattr(calibrate, "UNITS", (16,))
        patch.setattr(clock, "ROUNDS", 1)
        patch.setattr(clock, "LEAST", 0.0)
        patch.setattr(calibrate, "kept_machine", lambda comm, **_: None)
        patch.setattr(calibrate, "keep", lambda machine, file: None)
        said: list[str] = []
        found = calibrate.here(ALONE, cores=2, threads=2, lists=True, say=said.append)
        assert said[0].startswith("measuring this machine")
    return found


def test_every_work_is_measured_for_every_way_to_share_the_cores(machine: Machine) -> None:
    assert set(machine.rates.tables) == {(1, 1), (2, 1), (1, 2)}
    expected = {case.work for case in [*works.dense_cases(8, 8, 64), *works.unit_cases(8, 64)]}
    for key, tables in machine.rates.tables.items():
        assert expected | {"scattered.up", "scattered.learn.4", "real.product"} <= set(tables)
        assert all(x >= 0 for table in tables.values() for row in table.seconds for x in row)
        assert machine.rates.calls[key] > 0


def test_what_is_kept_is_read_again(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_machines, "kept_folders", lambda: [tmp_path])
    monkeypatch.setattr(kept_machines, "first_writable", lambda name: ((tmp_path / name), {}))
    (tmp_path / "plan").mkdir()
    assert kept_machines.kept_machine(ALONE, cores=2, threads=2, lists=True) is None
    kept_machines.keep(machine, kept_machines.file_of(1, 2, 2))
    assert kept_machines.kept_machine(ALONE, cores=2, threads=2, lists=True) == machine
    assert calibrate.here(ALONE, cores=2, threads=2, lists=True) == machine
    assert kept_machines.kept_machine(ALONE, cores=2, threads=1, lists=False) is None
    [file] = (tmp_path / "plan").iterdir()
    tables = machine.rates.tables.items()
    dense = {key: {work: t for work, t in of_key.items() if "scattered" not in work} for key, of_key in tables}
    kept_machines.keep(replace(machine, rates=replace(machine.rates, tables=dense)), file)
    assert kept_machines.kept_machine(ALONE, cores=2, threads=2, lists=True) is None
    assert kept_machines.kept_machine(ALONE, cores=2, threads=2, lists=False) is not None
    kept_machines.keep(machine, file)
    for text in ("", "{}", "[]", file.read_text()[:-9], file.read_text().replace('"sizes"', '"size"')):
        file.write_text(text)
        assert kept_machines.kept_machine(ALONE, cores=2, threads=2, lists=True) is None


def test_a_table_of_calls_is_for_each_weight_less_what_a_call_takes() -> None:
    def nothing() -> None: ...

    cases = [Case("learn.1", size, n, nothing) for size in (10, 100) for n in (64, 128)]
    seconds = [1.0 + case.size * case.samples for case in cases]
    tables = calibrate.tables_of(zip(cases, seconds, strict=True), {"learn.1": 1.0})
    assert np.array(tables["learn.1"].seconds) == pytest.approx(np.array([[64, 128], [64, 128]]))


def test_a_guess_is_made_in_a_moment() -> None:
    guess = calibrate.guessed(ALONE, cores=3)
    assert guess.cores_per_node == 3
    assert guess.rates.of(1).seconds("product.up", 1000, 100) > 0


@pytest.mark.parametrize(
    "one",
    [
        Configuration(64, (24, 20)), Configuration(50, (30, 20), "float"),
        Configuration(64, (30, 20), "1", connections="random:4", gibbs_steps=2),
    ],
    ids=str,
)  # fmt: skip
def test_a_row_of_the_check(one: Configuration, machine: Machine) -> None:
    [row] = check.run(ALONE, machine, [one, replace(one, replicas=2)])  # there is one rank
    assert row["error"] == pytest.approx(row["predicted"] / row["measured"] - 1)
    assert row["predicted"] == pytest.approx(sum(row["parts"].values()))
    assert row["bytes"] == row["bytes_measured"] == 0
    assert row["memory_measured"] > 1 << 20
    totals = check.totals([row])
    assert totals["median_error"] == totals["worst_error"] == abs(row["error"])


def test_rounds_of_the_check_are_compared_by_their_means() -> None:
    common = {"samples": 1, "layers": [2, 3], "connections": "dense", "statistics": "1", "layout": "row", "threads": 1,
              "model_shards": 2, "replicas": 1, "memory": 10.0}  # fmt: skip
    rounds = [
        [{**common, "predicted": p, "measured": m, "memory_measured": k, "error": 0.0, "memory_error": 0.0}]
        for p, m, k in ((1.0, 2.0, 20.0), (3.0, 9.0, 5.0), (2.0, 4.0, 8.0))
    ]
    rounds[0].append({**rounds[0][0], "threads": 2})  # which did not fit later
    [row] = check.over_rounds(rounds)
    assert (row["predicted"], row["measured"]) == (2.0, 5.0)
    assert row["error"] == pytest.approx(2 / 5 - 1)
    assert row["memory_error"] == pytest.approx(10 / 11 - 1)
    assert [of_round["measured"] for of_round in row["of_rounds"]] == [2.0, 9.0, 4.0]


@pytest.mark.parametrize(("few", "chosen", "lost"), [(0.8, "1 x 1", 0.0), (1.1, "1 x 2", 0.25)])
def test_the_choice_of_a_ranking_is_the_one_that_is_predicted(few: float, chosen: str, lost: float) -> None:
    """Predicted and measured by means."""

    def row(ranks: int, predicted: float, measured: float) -> dict:
        return {"samples": 1, "layers": [2, 3], "connections": "dense", "statistics": "1", "layout": "row",
                "threads": 1, "model_shards": ranks, "replicas": 1, "memory": 1.0, "memory_measured": 1.0,
                "predicted": predicted, "measured": measured}  # fmt: skip

    # by medians the other one would be predicted to be faster in the first case
    rounds = [[[row(1, few * k + d, 4.0 * k), row(2, 1.0 * k, 5.0 * k)]] for k, d in ((1.0, 0), (7.0, -3), (2.0, 3))]
    rounds[0].append([])  # a network that does not fit into the free memory
    rounds[1].append([])
    rounds[2].append([])
    [found] = check.ranking(rounds)
    assert found["chosen"].startswith(chosen)
    assert found["fastest"].startswith("1 x 1")
    assert found["lost"] == pytest.approx(lost)


def test_the_configurations_of_the_check() -> None:
    found = check.configurations(2, 2)
    assert len(found) == 60
    assert len(set(found)) == 60
    assert sum(not one.fitted for one in found) >= 30
    assert {one.layout for one in found if one.model_shards == 2} == {"column", "row", "dual"}
    assert len(check.networks_to_rank()) == 12


def test_some_works_of_each_are_measured_in_turn() -> None:
    order: list[str] = []

    def some(name: str, n: int) -> calibrate.Works[int]:
        for i in range(n):
            order.append(f"{name}{i}")
            yield
        return n

    assert calibrate._in_turn(ALONE, {(1, 1): some("a", 3), (2, 1): some("b", 1)}) == {(1, 1): 3, (2, 1): 1}
    assert order == ["a0", "b0", "a1", "a2"]


@pytest.mark.parametrize(("bits", "floats"), [(1.4, 0.7), (0.7, 1.4)])
def test_works_on_weights_are_as_long_as_in_updates(
    bits: float, floats: float, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the largest change that is believed."""

    class OfUpdates(clock.Clock):
        def median_of(self, cases: list[Case], least: float | None = None) -> list[float]:
            if least is None:
                return [1e-4] * len(cases)
            [factor] = [floats if case.run.args[0].statistics == "float" else bits for case in cases]  # type: ignore[attr-defined]
            return [1e3 if factor > 1 else 0.0]

    monkeypatch.setattr(calibrate, "SIZES", ((24, 20), (40, 30)))
    monkeypatch.setattr(calibrate, "UPDATES", (64, 128))
    before = machine.rates.tables[1, 1]
    change = calibrate._in_turn(
        ALONE, {(1, 1): calibrate._change(Grid(ALONE), OfUpdates(1, 1, ALONE), (1, 1), dict(before))}
    )
    for work, table in calibrate._changed(before, change[1, 1]).items():
        expected = 1.0 if work.startswith(("draw", "centre.units")) else floats if ".float" in work else bits
        if work.startswith(("listed", "single", "scattered")):
            continue  # of updates of their own
        assert np.array(table.seconds) == pytest.approx(expected * np.array(before[work].seconds)), work


@pytest.mark.parametrize(
    ("seconds", "runs"), [(6e-4, 2 + 2 * clock.ROUNDS), (4e-3, 2 + clock.FEW), (1.0, 1 + clock.FEW)]
)
def test_long_calls_are_read_fewer_times(seconds: float, runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: wall[0])
    monkeypatch.setattr(clock.time, "thread_time", lambda: wall[0])
    done = []

    def run() -> None:
        wall[0] += seconds
        done.append(None)

    [(case, found)] = clock.Clock(1, 1, ALONE).seconds_of(lambda: [Case("a", 1, 1, run)])
    assert (len(done), found) == (runs, pytest.approx(seconds))
    case.run()  # without its operands
    assert len(done) == runs


def test_what_other_programs_take_from_one_thread_slows_all_works_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call takes a second of the processor; now and then the clock shows three."""
    processor, wall = [0.0], [0.0]
    monkeypatch.setattr(clock.time, "thread_time", lambda: processor[0])
    monkeypatch.setattr(clock.time, "perf_counter", lambda: wall[0])

    def call(passed: float) -> Callable[[], None]:
        def run() -> None:
            processor[0] += 1.0
            wall[0] += passed

        return run

    alone, disturbed = Case("a", 1, 1, call(1.05)), Case("b", 1, 1, call(3.0))
    found = clock.Clock(1, 1, ALONE)
    assert found.median_of([alone]) == pytest.approx([1.05])  # by the clock
    assert found.median_of([alone, disturbed]) == pytest.approx([2.025, 2.025])  # the clock is at 4.05 of 2 seconds
    assert clock.Clock(2, 1, ALONE).median_of([disturbed]) == pytest.approx([3.0])  # of several threads


def test_medians_are_of_the_faster_half(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.0, 5.0, 1.0, 2.0, 9.0, 3.0, 8.0, 7.0])  # two to find how many calls are worth a reading
    monkeypatch.setattr(exchanges, "time_of", lambda work, calls, comm: next(times))
    assert exchanges.medians({"": lambda: None}, ALONE) == {"": 2.5}
    assert exchanges.curves(ALONE) == {}
