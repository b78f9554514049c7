"""``bench pcd``: what a row holds, and that the peers do the same work.

Modules: modelpar/bench/peers/pcd_numpy, modelpar/bench/peers/pcd_torch, modelpar/bench/peers/pcd_rbms
"""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.bench import pcd
from modelpar.bench.peers import names_of
from modelpar.bench.peers.pcd_numpy import NumpyPCD
from modelpar.bench.peers.worker import Order, parse
from modelpar.comm.grid import Grid

ORDER = Order((20, 12, 7), 1, "", chains=30, sweeps=3)


def test_a_row_holds_what_scripts_rely_on():
    with Grid(MPI.COMM_SELF) as grid:
        [row] = pcd.run([(20, 12, 7)], grid=grid, chains=30, chain_steps=3, repeats=1, seconds=0.001)["rows"]
    assert (row["size"], row["chains"], row["chain_steps"], row["peers"]) == ("20x12x7", 30, 3, {})
    assert np.isclose(row["samples_per_second"], 90 * row["updates_per_second"])
    assert np.isclose(row["gflops"], 4e-9 * 12 * 7 * row["samples_per_second"])
    assert np.isclose(row["over_sgemm"], row["gflops"] / row["sgemm_gflops"])


def test_visible_units_may_be_categorical():
    with Grid(MPI.COMM_SELF) as grid:
        sizes = [(20, 12, 7)]
        [row] = pcd.run(sizes, grid=grid, chains=30, chain_steps=3, repeats=1, seconds=0.001, categories=4)["rows"]
    assert row["visible"] == "categorical:4"


def test_words_of_the_command_line():
    assert names_of("rbms", ranks=1, step="pcd") == ["pcd-rbms"]
    assert set(names_of("all", ranks=1, step="pcd")) == {"pcd-numpy", "pcd-torch", "pcd-rbms"}
    assert not set(names_of("all", ranks=2)) & {"pcd-numpy", "pcd-torch", "pcd-rbms"}
    with pytest.raises(ValueError, match="one of rbms, torch"):
        names_of("sklearn", ranks=1, step="pcd")


def test_the_options_of_a_peer():
    order = parse(["--size", "20x12x7", "--threads", "1", "--chains", "30", "--sweeps", "3"])
    assert order == ORDER


def learned(rbm, to_array) -> tuple[np.ndarray, np.ndarray]:
    """(mean of the chains' visible states, of the data) after learning data in which the first half is on."""
    v0 = np.zeros((20, 12), np.float32)
    v0[:, :6] = 1
    for _ in range(4000):
        rbm.step(to_array(v0))
    return np.asarray(rbm.v).mean(axis=0), v0.mean(axis=0)


def test_numpy_learns_pcd():
    model, data = learned(NumpyPCD(ORDER), np.asarray)
    assert np.abs(model - data).mean() < 0.25


def test_torch_learns_pcd():
    torch = pytest.importorskip("torch")
    peer = importlib.import_module("modelpar.bench.peers.pcd_torch")
    model, data = learned(peer.TorchPCD(ORDER), torch.from_numpy)
    assert np.abs(model - data).mean() < 0.25


def test_torch_draws_one_category_of_a_site():
    pytest.importorskip("torch")
    peer = importlib.import_module("modelpar.bench.peers.pcd_torch").TorchPCD(replace(ORDER, categories=4))
    peer.mean[:] = 0
    peer.mean[:, 1::4] = 3.0
    peer._draw_sites()
    states = np.asarray(peer.v).reshape(30, 3, 4)
    assert (states.sum(axis=2) == 1).all()
    assert states[:, :, 1].mean() > 0.6  # e^3 / (e^3 + 3) = 0.87


@pytest.mark.parametrize("categories", [0, 4])
def test_rbms_takes_its_own_steps(categories):
    pytest.importorskip("torch")
    pytest.importorskip("rbms.training.pcd")
    measure = importlib.import_module("modelpar.bench.peers.pcd_rbms").prepare(replace(ORDER, categories=categories))
    assert measure(0.01)["samples_per_second"] > 0
