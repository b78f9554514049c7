"""The card of a network: one rank makes it, and the memory it names is that of the shard's arrays."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, Grid, NetworkLayout, NetworkSpec
from modelpar.machine.memory import size_text
from tests.partitioners.test_cards import cells, check_html

pytestmark = pytest.mark.ranks


@pytest.mark.parametrize("layout", ["column", "row", "dual"])
def test_a_network(layout: str) -> None:
    comm = MPI.COMM_WORLD
    with Grid(comm, model_shards=comm.size) as grid:
        network = DeepBeliefNetwork(NetworkSpec((40, 30, 20), classes=5, layout=layout), grid)
        if comm.rank == comm.size - 1:  # the others wait, so a collective call would hang
            html = network._repr_html_()
            check_html(html)
            owned = [len(units.owned(grid.shard)) for units in network.layout.layers]
            of_output = network.layout.matrix_layouts[-1]  # dual is none for it
            expected, total = [], 0
            for (lower, upper), (mine_below, mine_above), word in zip(
                ((40, 30), (30, 20), (20, 5)), pairwise(owned), (layout, layout, of_output), strict=True
            ):
                columns, rows = lower * mine_above, mine_below * upper
                biases = mine_above + (0 if upper == 5 else mine_below)
                held = 4 * (biases + {"column": columns, "row": rows, "dual": columns + rows}[word])
                expected.append([f"{lower * upper:,}", size_text(held)])
                total += held
            rows_shown = cells(html)
            assert [[row[4], row[6]] for row in rows_shown] == expected
            assert [row[:4] for row in rows_shown] == [
                ["rbm.0", "40 bernoulli", "30 bernoulli", layout], ["rbm.1", "30 bernoulli", "20 bernoulli", layout],
                ["output", "20 bernoulli", "5 softmax", of_output],
            ]  # fmt: skip
            assert f"of this shard</span> {size_text(total)}" in html
            n = 40 * 30 + 30 * 20 + 20 * 5 + 40 + 30 + 30 + 20 + 5
            assert f"parameters</span> {n:,}" in html
        comm.Barrier()


def test_listed_connections() -> None:
    comm = MPI.COMM_WORLD
    with Grid(comm, model_shards=comm.size) as grid:
        network = DeepBeliefNetwork(NetworkSpec((64, 36), connections="local:3/1", hidden="gaussian"), grid)
        rows = cells(network._repr_html_())
        assert rows[0][:5] == ["rbm.0", "64 bernoulli", "36 gaussian", "sparse", f"{36 * 9}"]


def test_layouts() -> None:
    layout = NetworkLayout.from_owners([np.array([0, 2, 0, 2, 2]), np.array([1, 1])], n_shards=3, layout="row")
    html = layout._repr_html_()
    check_html(html)
    assert "2 layers on 3 model shard(s)" in html
    assert cells(html) == [["0", "5", "0 to 3", "row"], ["1", "2", "0 to 2", ""]]
    html = layout.layers[0]._repr_html_()
    check_html(html)
    assert "5 units, 0 to 3 on each of 3 shard(s)" in html
    assert re.findall(r"<title>units, shard (\d): (\d) units", html) == [("0", "1"), ("2", "1"), ("0", "1"), ("2", "2")]
