"""Whole training runs over shards and replicas against the reference: Algorithms 1 to 3 from data to softmax layer.

Modules: modelpar/model/backprop, modelpar/model/network, modelpar/training/evaluation, modelpar/training/feeds,
modelpar/training/first_biases, modelpar/training/minibatch_loop, modelpar/training/preconditions,
modelpar/weights/dense
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

import modelpar.model.network
from modelpar.comm.grid import Grid
from modelpar.data import open_dataset
from modelpar.errors import DataError, SpecError, TrainingError
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.layout import NetworkLayout
from modelpar.spec import DataSpec, FineTuneSpec, NetworkSpec, TrainingSpec
from modelpar.weights import dense
from tests import networks, reference, small

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} shards x {0[1]} replicas".format)

# Dyadic rates, and states wherever statistics are made: every weight stays a multiple of a power of two, so sums are
# exact in any order.  Only the first visible biases are not, and to them one number is added at a time.
EXACT = TrainingSpec(
    statistics="1", reconstruction="states", pass_up="states", learning_rate=0.25, weight_decay=0.0, momentum=0.5,
    initial_momentum=0.5, batch_size=16, epochs=2, centred=False,
)  # fmt: skip

# 40 samples in minibatches of 16: the last one of an epoch has 8
REAL = TrainingSpec(
    statistics="float", reconstruction="probabilities", pass_up="probabilities",
    learning_rate=0.2, gaussian_learning_rate=0.02, weight_decay=0.01, momentum_epochs=1, epochs=2, batch_size=16,
    schedule="linear", centred=False,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _several_chunks(monkeypatch):
    """Activations are propagated to the next RBM in several pieces, of which the last is shorter."""
    monkeypatch.setattr(modelpar.model.network, "samples_at_once", lambda spec: 15)


REFERENCES: dict[tuple, tuple] = {}  # grids and owners do not matter to the reference: it is run once a case


def expected(network, data, training):
    """Dyadic parameters for the network, and (the reference's RBMs after pre-training from these, its errors)."""
    twins, spec = networks.twin(network), network.spec
    key = (replace(spec, layout="auto"), data.name, data.binarise, replace(training, cache="auto"))
    if key not in REFERENCES:
        values = small.columns(data)
        if spec.visible == "gaussian":
            values = (values - values.mean(axis=1, keepdims=True)) / values.std(axis=1, keepdims=True)
        order, stochastic = small.order(spec.seed, len(data.train)), data.binarise == "stochastic"
        REFERENCES[key] = twins, reference.pretrain(twins, values, order, training, stochastic=stochastic)
    return REFERENCES[key]


@pytest.mark.parametrize("layout", ["column", "row"])
@pytest.mark.parametrize("owners", networks.OWNERS)
@shapes
def test_one_epoch_equals_the_reference_bit_for_bit(comm, agree, shape, owners, layout):
    network = networks.sharded(comm, NetworkSpec((13, 7), layout=layout, seed=3), shape, owners)
    data = small.dataset(13)
    twins, errors = expected(network, data, replace(EXACT, epochs=1))
    records = small.train(network, data, replace(EXACT, epochs=1))
    agree(networks.same_block(network.rbms[0], twins[0]))
    told = [(r.kind, r.step, r.samples) for r in records]
    agree(told == [("step", 1, 16), ("step", 2, 16), ("step", 3, 8), ("epoch", 3, 40)], str(told))
    agree(np.isclose(records[-1].measures["reconstruction_error"], np.dot(errors, [0.4, 0.4, 0.2]), rtol=1e-5))


CASES = [
    ("column,row,column", "blocks", "none", {"cache": "keep"}),
    ("row,column,row", "strided", "stochastic", {"cache": "recompute"}),
    ("column,row,column", "random", "none", {"cache": "recompute", "persistent": True}),
    ("row,column,row", "random", "none", {"cache": "keep", "persistent": True}),
    ("column,column,row", "empty", "stochastic", {"cache": "keep", "gibbs_steps": 2}),
]


@pytest.mark.parametrize(("held", "owners", "binarise", "changes"), CASES, ids=str)
@shapes
def test_three_rbms_equal_the_reference_bit_for_bit(comm, agree, shape, held, owners, binarise, changes):
    """Greedy pre-training whose upper RBMs see states; the layer of 3 units leaves shards without any."""
    network = networks.sharded(comm, NetworkSpec((13, 9, 3, 6), layout=held, seed=5), shape, owners)
    data = replace(small.dataset(13, kind="bits" if binarise == "none" else "levels"), binarise=binarise)
    training = replace(EXACT, **changes)
    twins, _ = expected(network, data, training)
    small.train(network, data, training)
    for rbm, twin in zip(network.rbms, twins, strict=True):
        agree(networks.same_block(rbm, twin), f"RBM {rbm.index}")


@pytest.mark.parametrize(
    ("visible", "owners", "changes"),
    [
        ("bernoulli", "strided", {"cache": "keep"}),
        ("bernoulli", "random", {"cache": "recompute", "sparsity_cost": 0.3, "sparsity_target": 0.2}),
        ("bernoulli", "empty", {"cache": "keep", "pass_up": "states", "gibbs_steps": 2, "schedule": "cosine"}),
        ("gaussian", "random", {"cache": "keep", "persistent": True}),
    ],
    ids=str,
)
@shapes
def test_two_rbms_of_probabilities_equal_the_reference_to_rounding(comm, agree, shape, visible, owners, changes):
    spec = NetworkSpec((13, 9, 5), layout="row,column", dtype="float64", visible=visible, seed=5)
    network = networks.sharded(comm, spec, shape, owners)
    data = small.dataset(13, kind="real" if visible == "gaussian" else "levels")
    training = replace(REAL, **changes)
    twins, errors = expected(network, data, training)
    records = small.train(network, data, training)
    agree(small.close_network(network, twins, 1e-11))
    if not training.persistent:
        ends = [r.measures["reconstruction_error"] for r in records if r.kind == "epoch"]
        means = np.reshape(errors, (4, 3)) @ [0.4, 0.4, 0.2]
        agree(np.allclose(ends, means, rtol=1e-9), f"{ends} {means}")


@shapes
def test_single_precision_stays_near_the_reference(comm, agree, shape):
    """float32 rounds at 6e-8; a dozen steps of sums over 40 samples and 13 units stay within 1e-5."""
    network = networks.sharded(comm, NetworkSpec((13, 9, 5), layout="column,row", seed=5), shape, "random")
    data = small.dataset(13, kind="levels")
    twins, _ = expected(network, data, REAL)
    small.train(network, data, REAL)
    agree(small.close_network(network, twins, 1e-5))


@pytest.mark.parametrize("kind", ["bits", "levels"])
@shapes
def test_both_blocks_of_a_dual_layout_stay_the_same_matrix(comm, agree, shape, kind, monkeypatch):
    """Whole numbers keep them together; what grey values round apart is put together again after every epoch, a few
    rows at a time."""
    monkeypatch.setattr(dense, "REFRESHED", 100)
    network = networks.sharded(comm, NetworkSpec((13, 9), layout="dual", seed=5), shape, "random")
    small.train(network, small.dataset(13, kind=kind), replace(REAL, statistics="3", reconstruction="auto"))
    [rbm] = network.rbms
    rows = rbm.parameters.rows.copy()
    rbm.refresh()
    agree(np.array_equal(rows, rbm.parameters.rows))


@shapes
def test_the_cache_changes_nothing(comm, agree, shape):
    """Kept activations are propagated in other pieces than minibatches, which may round otherwise: hence float64."""
    flats = []
    for cache in ("keep", "recompute"):
        spec = NetworkSpec((13, 9, 5), dtype="float64", seed=5)
        network = networks.sharded(comm, spec, shape, "strided")
        small.train(network, small.dataset(13, kind="levels"), replace(REAL, epochs=1, cache=cache))
        flats.append(network.rbms[1].parameters.flat.copy())
    agree(np.allclose(*flats, rtol=0, atol=1e-13))


TUNING = FineTuneSpec(epochs=2, batch_size=16, learning_rate=0.3)


@pytest.mark.parametrize(
    ("layout", "owners", "changes"),
    [
        ("column,row,column", "strided", {"dropout": 0.5, "input_dropout": 0.2, "weight_decay": 0.01}),
        ("row,column,row", "random", {"dropout": 0.3, "max_norm": 0.8}),
        ("column,row,row", "empty", {"input_dropout": 0.3, "max_norm": 0.8, "schedule": "exponential"}),
        ("column,column,column", "blocks", {"batch_size": 3, "epochs": 1}),
    ],
    ids=str,
)
@shapes
def test_pretraining_and_fine_tuning_equal_the_reference_to_rounding(comm, agree, shape, layout, owners, changes):
    """With 3 classes, shards that own no class at 4 shards, and, at batches of 3, replicas without samples."""
    spec = NetworkSpec((13, 9, 5), classes=3, dtype="float64", seed=5, layout=layout)
    network = classifier(comm, spec, shape, owners)
    data = small.dataset(13, kind="levels")
    training, tuning = replace(REAL, epochs=1), replace(TUNING, **changes)
    twins, _ = expected(network, data, training)
    twins = [reference.RBM(twin.W, twin.b, twin.c) for twin in twins]
    records = small.train(network, data, training, tuning)
    weights, biases = small.softmax_layer(twins, 3)
    losses = reference.fine_tune(
        weights, biases, small.columns(data), data.train.labels, small.order(5, len(data.train)), tuning, seed=5
    )
    agree(small.close_network(network, twins, 1e-11))
    agree(small.close_output(network, weights[-1], biases[-1], 1e-11))
    ends = [r.measures["loss"] for r in records if r.stage == "finetune" and r.kind == "epoch"]
    sizes = [r.samples for r in records if r.stage == "finetune" and r.kind == "step"]
    means = np.reshape(np.multiply(losses, sizes), (tuning.epochs, -1)).sum(axis=1) / len(data.train)
    agree(np.allclose(ends, means, rtol=1e-9), f"{ends} {means}")


def classifier(comm, spec, shape, owners):
    """A network whose output layer is in contiguous blocks, as it has to be; spec.layout names all its matrices."""
    grid = Grid(comm, model_shards=shape[0], replicas=shape[1])
    its_owners = [networks.owners(owners, n, shape[0], i) for i, n in enumerate(spec.layers)]
    its_owners.append(networks.owners("blocks", spec.classes, shape[0]))
    return DeepBeliefNetwork(spec, grid, NetworkLayout.from_owners(its_owners, shape[0], spec.layout))


def reference_accuracy(weights, biases, data, split):
    log_p, _ = reference.forward(weights, biases, small.columns(data, split))
    return float((log_p.argmax(axis=0) == split.labels).mean())


PATIENT = replace(TUNING, epochs=12, patience=2, schedule="constant", learning_rate=2.5, momentum_epochs=0)


@pytest.mark.parametrize("owners", ["random", "empty"])
@shapes
def test_patience_puts_back_the_best_parameters(comm, agree, shape, owners):
    """The reference is trained epoch by epoch, and the rule of stopping is applied to its accuracies."""
    spec = NetworkSpec((13, 9, 5), classes=3, dtype="float64", seed=5)
    network = networks.sharded(comm, spec, shape, owners)
    data = small.dataset(13, kind="levels", held_out=True)
    twins = networks.twin(network)
    records = small.train(network, data, replace(REAL, epochs=0), PATIENT)
    best, best_accuracy, since, accuracies = None, -1.0, 0, []
    for epochs in range(1, PATIENT.epochs + 1):
        weights, biases = small.softmax_layer([reference.RBM(t.W, t.b, t.c) for t in twins], 3)
        reference.fine_tune(
            weights, biases, small.columns(data), data.train.labels, small.order(5, len(data.train)),
            replace(PATIENT, epochs=epochs), seed=5,
        )  # fmt: skip
        accuracies.append(reference_accuracy(weights, biases, data, data.validation))
        since += 1
        if accuracies[-1] > best_accuracy:
            best, best_accuracy, since = (weights, biases), accuracies[-1], 0
        if since >= PATIENT.patience:
            break
    assert since == PATIENT.patience, f"the case shows nothing: {accuracies}"
    ends = [r.measures for r in records if r.kind == "epoch"]
    agree(np.allclose([m["validation_accuracy"] for m in ends], accuracies), f"{ends} {accuracies}")
    weights, biases = best
    agree(small.close_output(network, weights[-1], biases[-1], 1e-11))
    for i, rbm in enumerate(network.rbms):
        mine = weights[i][np.ix_(rbm.weights.visible_rows, rbm.weights.hidden_columns)]
        agree(np.allclose(rbm.W, mine, rtol=0, atol=1e-11))
    agree(network.run.position.stage == "done" and not network.run.best)


@shapes
def test_training_stops_once_the_accuracy_is_reached(comm, agree, shape):
    network = networks.sharded(comm, NetworkSpec((13, 9), classes=3), shape, "strided")
    networks.twin(network)  # weights that are large enough to learn from at once
    data = small.dataset(13, held_out=True)
    tuning = replace(TUNING, epochs=9, until_accuracy=0.5, evaluate_every=2)
    records = small.train(network, data, replace(REAL, epochs=0), tuning)
    measured = [r.measures["test_accuracy"] for r in records if "test_accuracy" in r.measures]
    agree(measured[-1] > 0.5 and all(accuracy <= 0.5 for accuracy in measured[:-1]), str(measured))
    agree(network.run.position.stage == "done" and "test_accuracy" in records[-1].measures)
    agree(comm.bcast(measured) == measured, "ranks measured differently")


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@shapes
def test_data_from_files(comm, agree, tmp_path, shape, dtype):
    """Every rank reads its columns of what rank 0 wrote; the reference loads it all."""
    folder = Path(comm.bcast(tmp_path))
    rng = np.random.default_rng(2)
    values = rng.integers(0, 256, (53, 13)) if dtype == "uint8" else rng.random((53, 13))
    values, labels = values.astype(dtype), rng.integers(0, 3, 53)
    if comm.rank == 0:
        np.save(folder / "data.npy", values)
        np.save(folder / "labels.npy", labels)
    comm.barrier()
    wanted = DataSpec(str(folder / "data.npy"), labels=str(folder / "labels.npy"), validation_fraction=0.1)
    data = open_dataset(wanted, comm, seed=5)
    network = networks.sharded(comm, NetworkSpec((13, 6), classes=3, dtype="float64", seed=5), shape, "random")
    twins, training = networks.twin(network), replace(REAL, epochs=1)
    small.train(network, data, training, TUNING)
    scaled = values[data.train.rows].T.astype(float) / (255 if dtype == "uint8" else 1)
    order = small.order(5, len(data.train))
    reference.pretrain(twins, scaled, order, training)
    weights, biases = small.softmax_layer(twins, 3)
    reference.fine_tune(weights, biases, scaled, labels[data.train.rows], order, TUNING, seed=5)
    agree(small.close_network(network, twins, 1e-11) and small.close_output(network, weights[-1], biases[-1], 1e-11))


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@shapes
def test_a_run_that_blows_up_stops_on_all_ranks(comm, agree, shape, stage):
    network = networks.sharded(comm, NetworkSpec((13, 5), classes=3), shape, "strided")
    data, reason = small.dataset(13), ""
    try:
        if stage == "pretrain":
            small.train(network, data, replace(REAL, learning_rate=1e6))
        else:
            small.train(network, data, replace(REAL, epochs=0), replace(TUNING, learning_rate=1e38))
    except TrainingError as error:
        reason = str(error)
    agree("learning-rate" in reason, reason)
    agree(comm.bcast(reason) == reason, f"ranks say different things: {reason}")


@shapes
def test_mistakes_are_found_on_all_ranks(comm, agree, shape):
    def told(kind, network, data, tuning=TUNING):
        try:
            small.train(network, data, replace(REAL, epochs=0), tuning)
        except kind as error:
            return str(error)
        return ""

    data = small.dataset(13)
    narrow = networks.sharded(comm, NetworkSpec((12, 5), classes=3), shape, "strided")
    agree("--layers 13-" in told(DataError, narrow, data))
    without = networks.sharded(comm, NetworkSpec((13, 5)), shape, "strided")
    agree("--classes" in told(SpecError, without, data))
    fewer = networks.sharded(comm, NetworkSpec((13, 5), classes=2), shape, "strided")
    agree("--classes 3" in told(DataError, fewer, data))
    network = networks.sharded(comm, NetworkSpec((13, 5), classes=3), shape, "strided")
    agree("--validation-fraction" in told(SpecError, network, data, PATIENT))
    unlabelled = replace(data, train=replace(data.train, labels=None))
    agree("no labels" in told(DataError, network, unlabelled))
