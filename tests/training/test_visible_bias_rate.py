"""A learning rate of visible biases of their own, through whole trainings: what it changes, and what it does not.

Single steps are compared with NumPy where those of other options are: tests/model and tests/training/test_own_steps.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import open_dataset
from modelpar.errors import SpecError
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import NetworkSpec, SyncSpec, TrainingSpec
from modelpar.training.trainer import pretrain
from tests import networks, small

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
Q, SITES, HIDDEN = 3, 5, 7
KINDS = [
    {"layout": "column", "visible": f"categorical:{Q}"}, {"layout": "row", "hidden": "drelu"},
    {"layout": "dual", "visible": "gaussian"}, {"connections": "random:4"},
]  # fmt: skip
TRAINING = TrainingSpec(updates=1, batch_size=20, chains=11, learning_rate=0.25, gaussian_learning_rate=0.25)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} shards x {0[1]} replicas".format)


def trained(comm, shape, training, **kind):
    """The RBM, and the record of its last update; each site has one owner, and the last one repeats the first."""
    spec = NetworkSpec((SITES * Q, HIDDEN), seed=5, weight_scale=0.3, **kind)
    layout = networks.layout_of(spec, shape[0], "random")
    layout = replace(layout, layers=(layout.layers[0].with_whole(spec.visible_kind.unit_of_layout), layout.layers[1]))
    network = DeepBeliefNetwork(spec, networks.grid_of(comm.size, shape), layout)
    codes = np.random.default_rng(3).choice(Q, (60, SITES), p=[0.6, 0.3, 0.1])
    codes[:, -1] = codes[:, 0]
    data = np.eye(Q)[codes].reshape(60, -1)
    samples = open_dataset(data if kind.get("visible") == "gaussian" else data > 0)
    *_, last = (record for record in pretrain(network, samples, training) if record.kind == "step")
    return network.rbms[0], last


@shapes
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("standardised", [False, True])
def test_it_makes_the_first_step_of_visible_biases_longer_and_no_other(comm, agree, shape, kind, standardised):
    training = replace(TRAINING, standardised=standardised)
    one, two, six = (
        trained(comm, shape, replace(training, visible_bias_rate=m), **kind)[0].parameters for m in (1, 2, 6)
    )
    more = two.b - one.b
    agree(np.allclose(six.b - one.b, 5 * more, rtol=0, atol=1e-6))
    assert comm.allreduce(float(np.abs(more).sum())) > 1e-3
    n = one.n_weights
    agree(np.array_equal(six.flat[:n], one.flat[:n]) and np.array_equal(six.c, one.c), "weights and hidden biases")
    agree(np.array_equal(six.potential, one.potential) and np.array_equal(six.precision, one.precision))


EXACT = {  # digests of b and W after three epochs: at every grid, of any number of ranks
    "centred": ({}, (10633326803493580608, 4142605885456418933)),
    "plain": ({"centred": False}, (10328631574006793050, 13292940867894679317)),
    "standardised": (
        {"standardised": True, "statistics": "float", "momentum": 0.5}, (11833163144573387493, 11125641124617011382),
    ),
}  # fmt: skip


@shapes
@pytest.mark.parametrize("layout", ["column", "row", "dual"])
@pytest.mark.parametrize("name", EXACT)
def test_exact_mode_has_one_result(comm, agree, shape, layout, name):
    changes, expected = EXACT[name]
    training = replace(TRAINING, updates=9, visible_bias_rate=7.0, **changes)
    _, last = trained(comm, shape, training, layout=layout, exact=True, visible=f"categorical:{Q}")
    found = last.digests["b"], last.digests["W"]
    agree(found == expected, f"{name}: {found}")


def test_adagrad_has_rates_of_its_own(comm):
    training = replace(TRAINING, visible_bias_rate=3)
    steps = pretrain(networks.sharded(comm, NetworkSpec((15, 7)), SHAPES[0], "blocks"), small.dataset(15), training,
                     SyncSpec("server", adagrad=True))  # fmt: skip
    with pytest.raises(SpecError, match="--visible-bias-rate is 3, but --adagrad has a rate for each parameter; leave"):
        next(steps)
