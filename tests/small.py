"""Small data sets, whole training runs, and their twins in the reference: what tests of training share."""

from __future__ import annotations

import numpy as np

from modelpar.data import Dataset, Split
from modelpar.data.dataset import MappedTable
from modelpar.draws import permutation
from modelpar.model.network import DeepBeliefNetwork
from modelpar.records import Record
from modelpar.training.trainer import fine_tune, pretrain
from tests import networks, reference

N_TRAIN, N_HELD_OUT = 40, 21


def dataset(n_visible: int, n_classes: int = 3, *, kind: str = "bits", held_out: bool = False) -> Dataset:
    """Noisy copies of a pattern for each class; with ``held_out``, a validation and a test split too.

    kind   ``bits``; ``levels``, multiples of 1/16 in [0, 1], whose sums are exact; ``real``, of any size
    """
    rng = np.random.default_rng(n_visible)
    n = N_TRAIN + 2 * N_HELD_OUT
    labels = rng.integers(0, n_classes, n)
    patterns = rng.random((n_classes, n_visible)) < 0.5
    bits = patterns[labels] ^ (rng.random((n, n_visible)) < 0.2)
    if kind == "levels":
        values = np.abs(bits - rng.integers(0, 9, bits.shape) / 16)
    else:
        values = bits.astype(float) if kind == "bits" else 2 + 3 * bits + rng.standard_normal(bits.shape)
    name = f"{n_visible} {kind} of {n_classes} classes"
    table = MappedTable(name, values)
    # the training rows are not the first ones
    cuts = np.split(np.arange(n), [N_HELD_OUT, N_HELD_OUT + N_TRAIN])
    validation, train, test = (Split(table, rows, labels[rows]) for rows in cuts)
    others = (validation, test) if held_out else (None, None)
    return Dataset(name, n_visible, n_classes, None, train, *others, scale=1.0)


def columns(dataset: Dataset, split: Split | None = None) -> np.ndarray:
    """(n_visible, samples) raw values of a split (the training set where None), read past the engine's readers."""
    split = split or dataset.train
    assert isinstance(split.table, MappedTable)
    return np.asarray(split.table.array)[split.rows].T.astype(np.float64)


def order(seed: int, n_samples: int):
    """The order of the samples by layer (255 for fine-tuning) and epoch."""
    return lambda layer, epoch: permutation(seed, (layer << 24) + epoch, n_samples)


def train(network: DeepBeliefNetwork, data: Dataset, training, tuning=None) -> list[Record]:
    """Pre-training, and fine-tuning where ``tuning`` is given; returns all records."""
    records = list(pretrain(network, data, training))
    return records + list(fine_tune(network, data, tuning)) if tuning else records


def softmax_layer(twins: list[reference.RBM], n_classes: int):
    """The reference's weights and biases of all layers, the softmax layer's being zero."""
    n_top, dtype = len(twins[-1].c), twins[0].W.dtype
    weights = [twin.W for twin in twins] + [np.zeros((n_top, n_classes), dtype)]
    return weights, [twin.c for twin in twins] + [np.zeros(n_classes, dtype)]


def close_output(network: DeepBeliefNetwork, W: np.ndarray, c: np.ndarray, tolerance: float) -> bool:
    """Whether this shard's block of the softmax layer is the reference's."""
    output = network.output
    mine = W[np.ix_(output.weights.visible_rows, output.weights.hidden_columns)]
    return bool(
        np.allclose(output.parameters.W, mine, rtol=0, atol=tolerance)
        and np.allclose(output.parameters.c, c[output.class_ids], rtol=0, atol=tolerance)
    )


def close_network(network: DeepBeliefNetwork, twins: list[reference.RBM], tolerance: float) -> bool:
    return all(networks.close_block(*pair, tolerance) for pair in zip(network.rbms, twins, strict=True))
