"""``bench finetune``: what a row holds, what its words and lists are, and that the peer learns.

Modules: modelpar/bench/peers/torch_finetune
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.bench import finetune, tables
from modelpar.bench.peers import names_of
from modelpar.bench.peers.worker import Order, parse
from modelpar.cli.bench import parse_counts
from modelpar.comm.grid import Grid
from modelpar.errors import SpecError
from modelpar.spec import NetworkSpec

SPEC = NetworkSpec(layers=(12, 7, 5), classes=3)


def test_a_row_holds_what_scripts_rely_on() -> None:
    with Grid(MPI.COMM_SELF) as grid:
        results = finetune.run([20], grid=grid, spec=SPEC, repeats=1, seconds=0.001)
    assert [(row["batch"], row["products"], row["peers"]) for row in results["rows"]] == [
        (20, "full", {}), (20, "bf16", {})
    ]  # fmt: skip
    for row in results["rows"]:
        assert np.isclose(row["samples_per_second"], 20 * row["updates_per_second"])
        operations = 6 * (12 * 7 + 7 * 5 + 5 * 3) - 2 * 12 * 7
        assert np.isclose(row["gflops"], 1e-9 * operations * row["samples_per_second"])
    assert tables.finetune_tables(results)[0].row_count == 2


def test_updates_in_both_precisions_are_nearly_alike() -> None:
    learned = {}
    with Grid(MPI.COMM_SELF) as grid:
        for products in ("full", "bf16"):
            tuning = finetune.FineTuning(SPEC, 30, grid)
            for _ in range(3):
                tuning.update(products)
            assert tuning.network.output is not None
            learned[products] = tuning.network.output.parameters.W.copy()
    assert learned["full"].any()
    np.testing.assert_allclose(learned["bf16"], learned["full"], rtol=0.1, atol=1e-5)
    assert (learned["bf16"] != learned["full"]).any()


def test_words_and_lists() -> None:
    assert names_of("torch", ranks=1, step="finetune") == ["finetune-torch", "finetune-torch-medium"]
    assert parse(["--size", "20x12x3", "--layers", "12-7-3"]) == Order((20, 12, 3), 1, "", layers=(12, 7, 3))
    assert parse_counts("--batches", "100, 7") == [100, 7]
    with pytest.raises(SpecError, match="--batches is '0', but needs positive integers"):
        parse_counts("--batches", "0")


def test_torch_learns() -> None:
    torch = pytest.importorskip("torch")
    tuning = importlib.import_module("modelpar.bench.peers.torch_finetune").TorchTuning((12, 7, 3))
    v = torch.rand(30, 12)
    labels = (3 * v[:, 0]).long()
    for group in tuning.optimizer.param_groups:
        group["lr"] = 0.1
    losses = []
    for _ in range(300):
        tuning.step(v, labels)
        losses.append(tuning.loss(tuning.network(v), labels).item())
    assert losses[-1] < losses[0]
