"""One RBM over shards and replicas against the reference: bit for bit where sums are exact, to rounding elsewhere.

Modules: modelpar/model/activations
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.chains.gibbs import start
from modelpar.data.minibatches import Minibatches
from modelpar.kernels.listed.blocks import BlockCounts
from modelpar.kernels.states import pack
from modelpar.kernels.statistics.learning import Counts
from modelpar.ownership.layout import MATRIX_LAYOUTS
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.sync import AllreduceSync, Work
from modelpar.training.optimizer import Optimizer
from modelpar.training.schedule import StepSize
from modelpar.weights.penalties import Penalties
from modelpar.weights.statistics import Statistics
from tests import networks

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
BATCH = 16

# dyadic rates and states for statistics: all parameters stay multiples of a power of two
EXACT = TrainingSpec(
    statistics="1", reconstruction="states", learning_rate=0.25, weight_decay=0.0, momentum=0.5, initial_momentum=0.5,
    batch_size=BATCH, centred=False,
)  # fmt: skip
PLAIN = {"centred": False}


def train(network, twin, spec, n_steps, batch=BATCH, *, packed=True, grey=False):
    """The same minibatches of states through both, packed or as numbers; returns the errors of both.

    grey   of multiples of 1/16 from 0 to 1, as numbers, in place of states
    """
    rbm, grid = network.rbms[0], network.grid
    optimizer = Optimizer(AllreduceSync(grid.replica_comm, network.traffic))
    update = rbm.parameters.like()
    mine = Minibatches.slice_of(batch, grid.replica, grid.n_replicas)
    n_chains = spec.chains or batch

    def started(update=0):
        return start(rbm, spec.chain_start, grid.replica, grid.n_replicas, n_chains, update=update)

    chains = started() if spec.n_chains else None
    twin.start_chains(n_chains, spec.chain_start)
    rng = np.random.default_rng(11)
    errors = []
    for step in range(n_steps):
        v0 = rng.integers(0, 17, (len(twin.b), batch)) / 16 if grey else rng.random((len(twin.b), batch)) < 0.4
        v0 = v0.astype(network.dtype)
        n = step * batch
        own = np.ascontiguousarray(v0[rbm.visible_ids][:, mine])
        if spec.chain_restart:
            chains = started(step)
        result = rbm.contrastive_divergence(
            pack(own) if packed and not grey else own, n + mine.start, spec, chains, n_all_samples=batch,
            chain_draw=step * n_chains + chains.first if chains else None,
        )  # fmt: skip
        size, more = (
            StepSize(spec.learning_rate, 0.5, spec.weight_decay),
            {"centred": spec.centred, "clip": spec.clip},
        )
        more |= {"standardised": spec.standardised, "gaussian": rbm.gaussian}
        more |= {"visible_bias_rate": spec.visible_bias_rate}
        optimizer.learn(rbm.parameters, update, result.statistics, size, mine.stop - mine.start, **more)
        Work({rbm.name: rbm.parameters}, {}, {}, {}, lambda: None, penalties=Penalties(spec.l1)).end_step(
            spec.learning_rate, step + 1
        )
        expected = twin.update(v0, n, spec, spec.learning_rate, 0.5)
        errors.append((grid.comm.allreduce(result.error) / v0.size, expected))
    return errors


@pytest.mark.parametrize("held", MATRIX_LAYOUTS)
@pytest.mark.parametrize("owners", networks.OWNERS)
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "numbers"])
@pytest.mark.parametrize("shape", SHAPES, ids="shards x replicas = {0[0]}x{0[1]}".format)
def test_steps_equal_the_reference_bit_for_bit(comm, agree, shape, packed, owners, held):
    network = networks.sharded(comm, NetworkSpec((13, 7), layout=held), shape, owners)
    [twin] = networks.twin(network)
    train(network, twin, EXACT, n_steps=3, packed=packed)
    agree(networks.same_block(network.rbms[0], twin))


@pytest.mark.parametrize("held", MATRIX_LAYOUTS)
@pytest.mark.parametrize(
    "changes",
    [{"gibbs_steps": 3}, {"persistent": True}, {"persistent": True, "gibbs_steps": 2}],
    ids=["CD-3", "PCD", "PCD-2"],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_longer_chains_equal_the_reference_bit_for_bit(comm, agree, shape, changes, held):
    network = networks.sharded(comm, NetworkSpec((9, 14), layout=held), shape, "random")
    [twin] = networks.twin(network)
    train(network, twin, replace(EXACT, **changes), n_steps=3)
    agree(networks.same_block(network.rbms[0], twin))


def counting(monkeypatch):
    """(phase, samples) of what is summed up in floats, and what in counts, from here on."""
    floats, counts = [], []
    phase = Statistics._add_phase

    def added(self, velocity, which, carry, gain):
        floats.append(which)
        phase(self, velocity, which, carry, gain)

    def counted(plain):
        def count(self, *arguments, **named):
            counts.append((self.data[0].batch, self.model[0].batch))
            plain(self, *arguments, **named)

        return count

    monkeypatch.setattr(Statistics, "_add_phase", added)
    for kind in (Counts, BlockCounts):
        monkeypatch.setattr(kind, "add_to", counted(vars(kind)["add_to"]))
        monkeypatch.setattr(kind, "learn", counted(vars(kind)["learn"]))
    return floats, counts


GREY = {
    "1 bit": {},
    "CD-2": {"gibbs_steps": 2},
    "PCD": {"persistent": True},
    "4 bits": {"statistics": "4"},
    "sparsity": {"sparsity_cost": 0.5, "weight_decay": 0.01},
}


@pytest.mark.parametrize("held", [*MATRIX_LAYOUTS, "random:4"])
@pytest.mark.parametrize("name", GREY)
@pytest.mark.parametrize("batch", [BATCH, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_grey_data_with_states_of_the_model(comm, agree, shape, batch, name, held, monkeypatch):
    """The data's phase is summed in floats and the model's is counted, at any number of replicas, some without samples.

    Of one bit and dyadic rates all of it is exact.
    """
    how = {"connections": held} if held not in MATRIX_LAYOUTS else {"layout": held}
    network = networks.sharded(comm, NetworkSpec((13, 7), dtype="float32", **how), shape, "random")
    [twin] = networks.twin(network)
    floats, counts = counting(monkeypatch)
    spec = replace(EXACT, **GREY[name])
    train(network, twin, spec, 3, batch, grey=True)
    blocks = len(network.rbms[0].parameters.blocks)
    mine = Minibatches.slice_of(batch, network.grid.replica, network.grid.n_replicas)
    agree(floats == [0] * 3, f"phases in floats: {floats}")
    agree(counts == [(0, mine.stop - mine.start)] * 3 * blocks, f"samples counted: {counts}")
    if spec.statistics == "1" and not spec.sparsity_cost:
        agree(networks.same_block(network.rbms[0], twin))
    agree(networks.close_block(network.rbms[0], twin, 2e-5))


@pytest.mark.parametrize("held", MATRIX_LAYOUTS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reconstruction": "states"},
        {"weight_decay": 0.01},
        {"gibbs_steps": 2},
        {"sparsity_cost": 0.5},
        {"persistent": True},
    ],
    ids=str,
)
@pytest.mark.parametrize(("visible", "packed"), [("bernoulli", True), ("bernoulli", False), ("gaussian", False)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_real_statistics_equal_the_reference_to_rounding(comm, agree, shape, packed, visible, changes, held):
    spec = NetworkSpec((13, 7), layout=held, visible=visible, dtype="float64")
    network = networks.sharded(comm, spec, shape, "strided")
    [twin] = networks.twin(network)
    rate = 0.02 if visible == "gaussian" else 0.2
    training = TrainingSpec(
        learning_rate=rate, **PLAIN | {"statistics": "float", "reconstruction": "probabilities"} | changes
    )
    errors = train(network, twin, training, n_steps=4, packed=packed)
    agree(networks.close_block(network.rbms[0], twin, 1e-12))
    # errors of packed states are summed in steps of 2^-20
    agree(np.allclose([e for e, _ in errors], [e for _, e in errors], rtol=1e-9, atol=1e-6 * packed, equal_nan=True))


@pytest.mark.parametrize("held", MATRIX_LAYOUTS)
@pytest.mark.parametrize("bits", ["2", "3", "8"])
@pytest.mark.parametrize("changes", [{}, {"persistent": True}, {"gibbs_steps": 2, "reconstruction": "probabilities"}])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_statistics_of_few_bits_equal_the_reference_to_rounding(comm, agree, shape, changes, bits, held):
    network = networks.sharded(comm, NetworkSpec((13, 7), layout=held, dtype="float64"), shape, "random")
    [twin] = networks.twin(network)
    training = TrainingSpec(statistics=bits, learning_rate=0.2, **PLAIN | {"reconstruction": "states"} | changes)
    train(network, twin, training, n_steps=4, batch=70)
    agree(networks.close_block(network.rbms[0], twin, 1e-12))


OWN_CHAINS = [
    {"chains": 37, "clip": 0.02},
    {"chains": 150, "chain_steps": 3, "centred": True, "l1": 0.01},
    {"chain_restart": True, "chain_start": "random", "chains": 33, "statistics": "float", "standardised": True},
    {"persistent": True, "standardised": True, "reconstruction": "states", "clip": 0.02},
    {"centred": True, "statistics": "1"},
    {"chains": 37, "visible_bias_rate": 6.0},
    {"chains": 37, "centred": True, "statistics": "float", "visible_bias_rate": 6.0},
]


@pytest.mark.parametrize("held", MATRIX_LAYOUTS)
@pytest.mark.parametrize("changes", OWN_CHAINS, ids=str)
@pytest.mark.parametrize("data", ["states", "grey"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_chains_of_their_own_and_centred_gradients_equal_the_reference(comm, agree, shape, data, changes, held):
    """To the rounding of offsets to 2^-16, which moves no draw here."""
    network = networks.sharded(comm, NetworkSpec((13, 7), layout=held, dtype="float64"), shape, "random")
    [twin] = networks.twin(network)
    training = TrainingSpec(learning_rate=0.2, **PLAIN | changes)
    train(network, twin, training, n_steps=4, batch=70, packed=data == "states", grey=data == "grey")
    agree(
        networks.close_block(
            network.rbms[0], twin, 2e-4 if training.standardised else 2e-5 if training.centred else 1e-11
        )
    )


@pytest.mark.parametrize("changes", OWN_CHAINS[:3], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_chains_of_their_own_in_single_precision(comm, agree, shape, changes):
    """Above: weights in steps of 2^-20, and all sweeps as one piece of work on one shard."""
    network = networks.sharded(comm, NetworkSpec((40, 21)), shape, "strided")
    [twin] = networks.twin(network)
    train(network, twin, TrainingSpec(learning_rate=0.2, **PLAIN | changes), 3, batch=70)
    agree(networks.close_block(network.rbms[0], twin, 5e-5))


@pytest.mark.parametrize("held", MATRIX_LAYOUTS)
@pytest.mark.parametrize("statistics", ["3", "float"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_single_precision_stays_near_the_reference(comm, agree, shape, statistics, held):
    """Weights count in steps of 2^-20 and probabilities in steps of 2^-22: far below what flips a draw here."""
    network = networks.sharded(comm, NetworkSpec((40, 21), layout=held), shape, "strided")
    [twin] = networks.twin(network)
    training = TrainingSpec(statistics=statistics, reconstruction="states", learning_rate=0.2, centred=False)
    train(network, twin, training, 3, batch=70)
    agree(networks.close_block(network.rbms[0], twin, 2e-5))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_minibatch_smaller_than_the_number_of_replicas(comm, agree, shape):
    network = networks.sharded(comm, NetworkSpec((13, 7)), shape, "blocks")
    [twin] = networks.twin(network)
    train(network, twin, replace(EXACT, persistent=True), n_steps=2, batch=2)
    agree(networks.same_block(network.rbms[0], twin))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("owners", networks.OWNERS)
def test_initial_weights_are_the_same_at_every_grid(comm, agree, shape, owners):
    spec = NetworkSpec((13, 7), seed=5, dtype="float64")
    [rbm] = networks.sharded(comm, spec, shape, owners).rbms
    expected = networks.reference.initial_weights(5, 0, 13, 7, (2 / (13 + 7)) ** 0.5)
    mine = expected[np.ix_(rbm.weights.visible_rows, rbm.weights.hidden_columns)]
    agree(np.allclose(rbm.W, mine, rtol=1e-9, atol=1e-12))
