"""Benchmarks: fields, formulas and sameness; what is measured is real work, but no test asks how fast it is.

Modules: modelpar/bench/cd1, modelpar/bench/contest, modelpar/bench/exchange, modelpar/bench/kernels,
modelpar/bench/step, modelpar/bench/tables, modelpar/bench/timing
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI
from rich.console import Console

from modelpar.bench import cd1, contest, exchange, kernels, tables
from modelpar.bench.peers import PeerError
from modelpar.bench.step import CD1, PIECES, training_spec
from modelpar.bench.timing import calls_for, in_turn
from modelpar.comm.grid import Grid
from modelpar.errors import LayoutError, SpecError
from modelpar.kernels.products import dispatch
from modelpar.kernels.products.product import Product
from modelpar.kernels.states import pack, unpack
from modelpar.weights.dense import Scratch

SIZE = (70, 33, 21)
QUICK: dict[str, Any] = {"repeats": 2, "seconds": 0.001}


@pytest.fixture
def grid() -> Iterator[Grid]:
    with Grid(MPI.COMM_SELF) as made:
        yield made


@pytest.fixture(autouse=True)
def calibrated(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test measures rates, or sees those of this machine."""
    monkeypatch.setattr(dispatch, "calibration_file", lambda: tmp_path / "rates.json")
    monkeypatch.setattr(dispatch, "prepare", lambda: None)
    before = dispatch.calibration()
    dispatch.use(None)
    yield
    dispatch.use(before)


def text_of(shown: list[Any]) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        for table in shown:
            console.print(table)
    return capture.get()


# -- timing ------------------------------------------------------------------------------------------------------------


def test_works_are_measured_in_turn() -> None:
    done: list[str] = []
    works: dict[str, Callable[[], object]] = {name: lambda name=name: done.append(name) for name in "ab"}  # type: ignore[misc]
    result = in_turn(works, repeats=3, seconds=1e-9, comm=MPI.COMM_SELF)
    assert [len(times) for times in result.values()] == [3, 3]
    assert done[-6:] == list("ababab")
    assert all(seconds > 0 for times in result.values() for seconds in times)


def test_every_work_is_done_at_least_once() -> None:
    assert calls_for(1e-12, lambda: None, MPI.COMM_SELF) == 1


# -- updates -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("statistics", ["1", "3", "float"])
@pytest.mark.parametrize("layout", ["column", "row", "dual"])
def test_a_step_in_pieces_learns_the_same(grid: Grid, layout: str, statistics: str) -> None:
    training = training_spec(statistics, SIZE[0])
    whole, cut = (CD1(SIZE, grid, layout=layout) for _ in range(2))
    for _ in range(3):
        whole.update(training)
        spent = cut.in_pieces(training)
    assert list(spent) == list(PIECES)
    assert np.abs(whole.velocity.flat).max() > 0
    np.testing.assert_array_equal(cut.rbm.parameters.flat, whole.rbm.parameters.flat)
    np.testing.assert_array_equal(cut.velocity.flat, whole.velocity.flat)


@pytest.mark.slow
def test_rows_of_updates(grid: Grid) -> None:
    result = cd1.run([SIZE, (8, 9, 10)], grid=grid, statistics=("1", "float"), layout="dual", profile=True, **QUICK)
    assert set(result) == {"machine", "rows"}
    assert [(row["size"], row["statistics"]) for row in result["rows"]] == [
        ("70x33x21", "1"), ("70x33x21", "float"), ("8x9x10", "1"), ("8x9x10", "float"),
    ]  # fmt: skip
    for row in result["rows"]:
        _, visible, hidden = map(int, row["size"].split("x"))
        assert (row["layout"], row["ranks"], row["threads"], row["dtype"]) == ("dual", 1, 1, "float32")
        assert row["gflops"] == pytest.approx(row["samples_per_second"] * 10 * visible * hidden / 1e9)
        assert row["over_sgemm"] == pytest.approx(row["gflops"] / row["sgemm_gflops"])
        low, high = row["over_sgemm_range"]
        assert 0 < low <= high
        profile = row["profile"]
        assert set(profile["kernels"]) == {"up", "down"}
        assert list(profile["pieces"]) == [*PIECES, "rest"]
        assert sum(piece["share"] for piece in profile["pieces"].values()) == pytest.approx(1)
        assert sum(piece["seconds"] for piece in profile["pieces"].values()) == pytest.approx(profile["seconds"])
        assert [name for name, piece in profile["pieces"].items() if piece["over_sgemm"]] == list(PIECES[:4])
    assert json.loads(json.dumps(result)) == result
    printed = text_of(tables.cd1_tables(result))
    assert "Where the time of a step goes" in printed
    assert "Peers" not in printed


@pytest.mark.slow
def test_double_precision_has_the_blas_only(grid: Grid) -> None:
    row = cd1.run([SIZE], grid=grid, dtype="float64", profile=True, **QUICK)["rows"][0]
    assert row["profile"]["kernels"] == {"up": "blas", "down": "blas"}


def test_what_is_not_known_is_refused(grid: Grid) -> None:
    with pytest.raises(LayoutError, match="column"):
        cd1.run([SIZE], grid=grid, layout="diagonal", **QUICK)
    with pytest.raises(SpecError, match="--statistics is '9'"):
        cd1.run([SIZE], grid=grid, statistics=("9",), **QUICK)


# -- peers -------------------------------------------------------------------------------------------------------------


class Steady:
    """A peer that is always as fast."""

    note = "a stand-in"

    def __init__(self, name: str, *_: Any, **__: Any) -> None:
        self.name = name

    def __enter__(self) -> Steady:
        if self.name == "broken":
            raise PeerError("broken: does not run here")
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def round(self, seconds: float) -> float:
        return 10.0


def test_peers_are_measured_beside_the_engine(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "peer", Steady)
    monkeypatch.setattr(contest, "available", list)
    monkeypatch.setattr(contest, "missing", lambda names: {"absent": "absent: is not installed"})
    result = cd1.run([SIZE], grid=grid, peers=["steady", "broken"], **QUICK)
    peers = result["rows"][0]["peers"]
    assert peers["rounds"] == 2
    assert list(peers["peers"]) == ["steady"]
    assert peers["peers"]["steady"]["median"] == 10.0
    assert peers["failed"] == {"absent": "absent: is not installed", "broken": "broken: does not run here"}
    assert peers["notes"] == {"steady": "a stand-in"}
    assert peers["sgemm"] is None  # one thread in all: nobody else's processor is needed
    assert "steady" in text_of(tables.cd1_tables(result))
    assert tables.cd1_notes(result) == ["absent: is not installed", "broken: does not run here", "steady: a stand-in"]


# -- kernels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("kernel", ["tiles", "registers", "tables", "lists", "blas"])
def test_a_named_kernel_makes_the_product(kernel: str, up: bool) -> None:
    if kernel not in dispatch.available():
        pytest.skip(f"this processor has no {kernel}")
    rng = np.random.default_rng(0)
    W = (rng.integers(-64, 64, (20, 30)) / 64).astype(np.float32)
    states = pack(rng.random((20 if up else 30, 70)) < 0.3)
    product = kernels.ByKernel(W, states, up, states.n_units, kernel=kernel)
    assert isinstance(product, Product)
    sums = product.sums(Scratch().buffer)
    scale = 2.0**20 if sums.dtype == np.int32 else 1.0
    np.testing.assert_array_equal(sums / scale, (W.T if up else W) @ unpack(states))


def test_rows_of_kernels() -> None:
    set_to: list[int] = []
    result = kernels.run(
        [SIZE], comm=MPI.COMM_SELF, set_threads=set_to.append, threads=(1, 2), densities=(0.1, 0.5), **QUICK
    )
    assert set_to == [1, 2]
    assert result["machine"]["kernels"] == list(dispatch.available())
    assert result["machine"]["calibrations"] == {"1": None, "2": None}
    products = [row for row in result["rows"] if row["direction"] != "statistics"]
    statistics = [row for row in result["rows"] if row["direction"] == "statistics"]
    each = [*dispatch.available(), "sample"]
    assert [(r["threads"], r["direction"], r["density"], r["kernel"]) for r in products] == [
        (n, direction, density, k) for n in (1, 2) for direction in ("up", "down") for density in (0.1, 0.5)
        for k in each
    ]  # fmt: skip
    assert [row["kernel"] for row in statistics] == 2 * ["1-bit", "3-bit", "8-bit", "soft", "blas"]
    for at in range(0, len(products), len(each)):
        assert [row["chosen"] for row in products[at : at + len(each)]].count(True) == 1
    for row in result["rows"]:
        assert row["over_sgemm"] == pytest.approx(row["gflops"] / row["sgemm_gflops"])
        assert row["chosen"] is None if row["kernel"] == "sample" or row in statistics else row["chosen"] in (0, 1)
    assert json.loads(json.dumps(result)) == result
    assert "8-bit" in text_of(tables.kernel_tables(result))


def test_the_calibration_is_read_and_never_made() -> None:
    assert kernels.calibration() is None
    rates = {f"{way}.{way_up}": dispatch.Rate(0.5, 0.25) for way in dispatch.available() for way_up in ("up", "down")}
    text = {name: {"weight": rate.weight, "sample": rate.sample} for name, rate in rates.items()}
    kept = {"rates": text, "threads": 3, "processor": "one of them"}
    dispatch.calibration_file().write_text(json.dumps(kept))
    assert kernels.calibration() == {"file": str(dispatch.calibration_file()), **kept}


# -- exchange ----------------------------------------------------------------------------------------------------------

BITS, SUMS = "bits", "integers"


@pytest.mark.parametrize(
    ("layout", "statistics", "expected"),
    [
        # 70 samples: 2 words, 16 bytes a unit and plane; 280 bytes a unit of sums; 2 shards: each crosses once
        ("column", "1", {"reduce": {SUMS: 33 * 280}, "gather": {BITS: 33 * 16}}),
        ("column", "float", {"reduce": {SUMS: 33 * 280}, "gather": {BITS: 33 * 16}}),
        ("row", "1", {"reduce": {SUMS: 2 * 21 * 280}, "gather": {BITS: 2 * 21 * 16}}),
        ("row", "3", {"reduce": {SUMS: 2 * 21 * 280}, "gather": {BITS: 7 * 21 * 16}}),
        ("dual", "1", {"gather": {BITS: (33 + 2 * 21) * 16}}),
        ("dual", "3", {"gather": {BITS: (33 + 7 * 21) * 16}}),
        ("dual", "float", {"gather": {BITS: (33 + 21) * 16, "floats": 2 * 21 * 280}}),
    ],
)
def test_bytes_of_a_step(layout: str, statistics: str, expected: dict[str, Any]) -> None:
    result = exchange.bytes_of_step(SIZE, layout, statistics, n_shards=2, n_replicas=1)
    assert result == {"shard": expected, "replica": {}}
    three = exchange.bytes_of_step(SIZE, layout, statistics, n_shards=3, n_replicas=1)
    assert three["shard"] == {verb: {kind: 2 * n for kind, n in kinds.items()} for verb, kinds in expected.items()}


@pytest.mark.parametrize(("statistics", "itemsize"), [("1", 1), ("2", 2), ("8", 2), ("float", 4)])
def test_bytes_between_replicas(statistics: str, itemsize: int) -> None:
    """Two replicas: each receives all of the weights' counts once, and the biases' in 8 bytes."""
    result = exchange.bytes_of_step(SIZE, "column", statistics, n_shards=1, n_replicas=2)
    assert result == {"shard": {}, "replica": {"allreduce": {SUMS: 2 * (33 * 21 * itemsize + 8 * (33 + 21))}}}


def test_one_rank_exchanges_nothing(grid: Grid) -> None:
    result = exchange.run([SIZE], grid=grid, **QUICK)
    assert set(result) == {"machine", "rows", "steps"}
    assert [row["what"] for row in result["rows"]] == [
        "gather bits", "gather floats", "reduce floats", "allreduce floats",
    ]  # fmt: skip
    assert all((row["bytes"], row["bandwidth"]) == (0, 0) and row["seconds"] > 0 for row in result["rows"])
    assert [(step["layout"], step["statistics"]) for step in result["steps"]] == [
        (layout, statistics) for layout in ("column", "row", "dual") for statistics in ("1", "3", "float")
    ]
    assert all(step["agree"] and step["total"] == 0 for step in result["steps"])
    assert "gather bits" in text_of(tables.exchange_tables(result))
