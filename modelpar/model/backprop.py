"""Fine-tuning by back-propagation over the same shards as pre-training: Algorithm 3.

A column layout needs its input gathered and reduces the gradient of it; a row layout reduces its output and gathers
the gradient of that.  So nothing moves in the layer between a column layout and a row layout above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar import draws
from modelpar.draws import Purpose, Stream
from modelpar.errors import SpecError
from modelpar.kernels.backprop import keep_or_drop, sigmoid_gradient
from modelpar.kernels.products.fixed_point import ACTIVATIONS, ERRORS, on_grid
from modelpar.kernels.products.product import Activations
from modelpar.kernels.reductions import row_sums
from modelpar.kernels.sampling.epilogue import bias_sigmoid
from modelpar.kernels.states import Packed
from modelpar.model.network import DeepBeliefNetwork, OutputLayer
from modelpar.model.rbm import RBM
from modelpar.spec import FineTuneSpec
from modelpar.sync import Sync
from modelpar.training.schedule import StepSize
from modelpar.weights.dense import Scratch
from modelpar.weights.parameters import Parameters
from modelpar.weights.statistics import ExactGradient

Array = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BatchScore:
    """Of this replica's part of a minibatch; the same on every shard."""

    cross_entropy: float  # summed over the samples
    n_correct: int


class FineTuner:
    """Takes steps of stochastic gradient descent on the cross-entropy of a network with an output layer.

    updates   the velocities by part, made where missing.   Raises SpecError where the network has no output layer.
    """

    def __init__(self, network: DeepBeliefNetwork, spec: FineTuneSpec, updates: dict[str, Parameters]) -> None:
        if network.output is None:
            raise SpecError("fine-tuning needs an output layer; give --classes, or data with labels")
        self.network, self.spec, self.output = network, spec, network.output
        self.updates = updates
        self._layers: list[RBM | OutputLayer] = [*network.rbms, network.output]
        self._weights = [layer.weights.for_gradients() for layer in self._layers]
        for name, parameters in network.parts().items():
            if name not in updates:
                updates[name] = parameters.like(rows=False)
        self._delta, self._uniform, self._input = Scratch(), Scratch(), Scratch()

    def step(
        self, v: Activations, labels: IntArray, first_draw: int, n_all_samples: int, size: StepSize, sync: Sync
    ) -> BatchScore:
        """One update from this replica's part of a minibatch.  Collective.

        v (n_visible_owned, batch); labels (batch,); first_draw: global sample counter of the first sample;
        n_all_samples: samples of the minibatch over all replicas.
        """
        assert not isinstance(v, Packed)  # fine-tuning sees real values
        if self.network.spec.exact:
            v = on_grid(v, ACTIVATIONS)
        activations, spreads = self._forward(v, first_draw)
        probabilities = self.output.logits(spreads[-1])
        softmax(probabilities)
        score = score_batch(probabilities, labels, exact=self.network.spec.exact)
        delta = self._output_delta(probabilities, labels)
        if self.network.spec.exact:
            self._descend_exactly(delta, activations, spreads, n_all_samples, len(labels), size, sync)
            return score
        gain = -size.rate / sync.divisor(len(labels), n_all_samples)
        carry = size.momentum * sync.momentum_share
        self._backward(delta, activations, spreads, gain, carry, sync)
        for name, parameters in self.network.parts().items():
            sync.step(parameters, self.updates[name], size)
        if self.spec.max_norm:
            self._limit_norms()
        return score

    def _forward(self, v: Array, first_draw: int) -> tuple[list[Array], list[Any]]:
        """(each layer's owned activations after dropout, the same as the weights above them need them)"""
        if self.spec.input_dropout:
            dropped = self._input.like(v, len(v))
            dropped[:] = v
            v = dropped
            self._drop(v, 0, self.network.visible_ids, self.spec.input_dropout, first_draw)
            if self.network.spec.exact:
                v = on_grid(v, ACTIVATIONS)
        activations: list[Array] = [v]
        spreads: list[Any] = []
        for rbm in self.network.rbms:
            weights = self._weights[rbm.index]
            spreads.append(weights.spread_visible(activations[-1]))
            a = weights.up(rbm.parameters, spreads[-1])
            bias_sigmoid(a, rbm.c.astype(a.dtype, copy=False))
            if self.spec.dropout:
                self._drop(a, rbm.index + 1, rbm.hidden_ids, self.spec.dropout, first_draw)
            activations.append(on_grid(a, ACTIVATIONS) if self.network.spec.exact else a)
        spreads.append(self._weights[-1].spread_visible(activations[-1]))
        return activations, spreads

    def _drop(self, a: Array, layer: int, unit_ids: IntArray, probability: float, first_draw: int) -> None:
        """Dropout, kept units scaled up so that nothing changes in use (Srivastava et al. 2014, section 10)."""
        u = self._uniform.like(a, len(a))
        draws.uniform(Stream(self.network.spec.seed, layer, Purpose.DROPOUT), unit_ids, first_draw, u)
        keep_or_drop(a, u, probability)

    def _output_delta(self, probabilities: Array, labels: IntArray) -> Array:
        """Gradient of the cross-entropy in the summed inputs of the owned classes: p - 1 for the right one, else p."""
        ids = self.output.class_ids
        delta = self._delta.like(probabilities, len(ids))
        delta[:] = probabilities[ids]
        delta -= labels[None, :] == ids[:, None]
        return delta

    def _backward(
        self, delta: Array, activations: list[Array], spreads: list[Any], gain: float, carry: float, sync: Sync
    ) -> None:
        """Add each layer's gradient to its update, from the output down."""
        layers = self._layers
        names = list(self.network.parts())
        kept = 1.0 / (1.0 - self.spec.dropout)
        for i in reversed(range(len(layers))):
            weights, parameters = self._weights[i], layers[i].parameters
            update = self.updates[names[i]]
            spread: Any = weights.spread_hidden(delta)
            weights.add_products(update.W, spreads[i].wait(), spread.wait(), gain, carry)
            sums = np.empty_like(update.c)
            row_sums(delta, sums)
            update.c *= update.c.dtype.type(carry)
            update.c += update.c.dtype.type(gain) * sums
            sync.ready(update)
            if i > 0:
                delta = weights.down(parameters, spread)
                sigmoid_gradient(delta, activations[i], kept)

    def _descend_exactly(
        self, delta: Array, activations: list[Array], spreads: list[Any], n_all_samples: int, n_samples: int,
        size: StepSize, sync: Sync,
    ) -> None:  # fmt: skip
        """As ``_backward`` and the step after it, with all sums of products exact: the same at every grid.

        Every layer's error is taken back through the old weights before any weight is changed.
        """
        found: list[ExactGradient] = []
        for i in reversed(range(len(self._layers))):
            weights, parameters = self._weights[i], self._layers[i].parameters
            delta = on_grid(delta, ERRORS)
            spread: Any = weights.spread_hidden(delta)
            W = np.empty(parameters.W.shape)
            weights.add_products(W, spreads[i].wait(), spread.wait(), 1.0, 0.0)
            found.append(ExactGradient(W, len(parameters.b), delta.sum(axis=1), n_all_samples))
            if i > 0:
                delta = weights.down(parameters, spread)
                sigmoid_gradient(delta, activations[i], 1.0 / (1.0 - self.spec.dropout))
        for (name, parameters), gradient in zip(self.network.parts().items(), reversed(found), strict=True):
            sync.learn(parameters, self.updates[name], gradient, size, n_samples)

    def _limit_norms(self) -> None:
        """Scale back each unit's incoming weights where they are longer than max_norm (Srivastava et al. 2014)."""
        for layer in self._layers:
            layer.weights.limit_norms(layer.parameters, self.spec.max_norm)


def softmax(x: Array) -> None:
    """In place over the classes: x (n_classes, batch)."""
    x -= x.max(axis=0, initial=-np.inf)
    np.exp(x, out=x)
    total = x[0].copy()  # row after row: NumPy's own sum takes another order for a single sample
    for row in x[1:]:
        total += row
    x /= total


SCORE_BITS = 30  # of the fraction of a sample's cross-entropy where sums must be exact


def score_batch(probabilities: Array, labels: IntArray, *, exact: bool = False) -> BatchScore:
    """probabilities (n_classes, batch) of all classes; labels (batch,)"""
    picked = probabilities[labels, np.arange(len(labels))]
    tiny = np.finfo(probabilities.dtype).tiny
    losses = -np.log(np.maximum(picked, tiny))
    cross_entropy = float((on_grid(losses, SCORE_BITS) if exact else losses).sum(dtype=np.float64))
    if np.isnan(picked).any():
        cross_entropy = float("nan")
    return BatchScore(cross_entropy, int((probabilities.argmax(axis=0) == labels).sum()) if len(labels) else 0)
