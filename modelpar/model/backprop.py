"""Back-propagation over the same shards as pre-training: Algorithm 3, whose gradients an optimizer applies.

A column layout needs its input gathered and reduces the gradient of it; a row layout reduces its output and gathers
the gradient of that.  So nothing moves in the layer between a column layout and a row layout above it.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from modelpar.kernels.sampling.epilogue import bias_sigmoid
from modelpar.kernels.states import Packed
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import FineTuneSpec
from modelpar.weights.dense import Scratch
from modelpar.weights.statistics import ExactGradient, Gradient

Array = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BatchScore:
    """The score of this replica's part of a minibatch; the same on every shard."""

    cross_entropy: float  # summed over the samples
    n_correct: int


class BackPropagation:
    """The gradients of the cross-entropy of a network with an output layer.

    spec   what of it is dropped at random.   Raises SpecError where the network has no output layer.
    """

    def __init__(self, network: DeepBeliefNetwork, spec: FineTuneSpec) -> None:
        if network.output is None:
            raise SpecError("fine-tuning needs an output layer; give --classes, or data with labels")
        self.network, self.spec, self.output = network, spec, network.output
        self._parts = network.parts()
        self._weights = [part.weights.for_gradients() for part in self._parts]
        self._delta, self._uniform, self._input = Scratch(), Scratch(), Scratch()

    def run(
        self, v: Activations, labels: IntArray, first_draw: int, n_all_samples: int
    ) -> tuple[BatchScore, Iterator[tuple[str, Gradient | ExactGradient]]]:
        """The score of this replica's part of a minibatch, and its gradients by part, from the output down.

        v (n_visible_owned, batch); labels (batch,); first_draw: global sample counter of the first sample;
        n_all_samples: samples of the minibatch over all replicas.  A gradient that is not exact is to be used before
        the next one is asked for; parameters may change after the last one.  Collective over the shards, and so is
        taking the gradients.
        """
        assert not isinstance(v, Packed)  # fine-tuning sees real values
        if self.network.spec.exact:
            v = on_grid(v, ACTIVATIONS)
        activations, spreads = self._forward(v, first_draw)
        probabilities = self.output.logits(spreads[-1])
        softmax(probabilities)
        score = score_batch(probabilities, labels, exact=self.network.spec.exact)
        delta = self._output_delta(probabilities, labels)
        return score, self._backward(delta, activations, spreads, n_all_samples)

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
        self, delta: Array, activations: list[Array], spreads: list[Any], n_all_samples: int
    ) -> Iterator[tuple[str, Gradient | ExactGradient]]:
        """Each layer's gradient, from the output down; in exact mode the same at every grid."""
        kept, exact = 1.0 / (1.0 - self.spec.dropout), self.network.spec.exact
        for i in reversed(range(len(self._parts))):
            part, weights = self._parts[i], self._weights[i]
            delta = on_grid(delta, ERRORS) if exact else delta
            spread: Any = weights.spread_hidden(delta)
            gradient = Gradient(weights, spreads[i].wait(), spread.wait(), delta, n_all_samples)
            yield part.name, gradient.exactly(part.parameters) if exact else gradient
            if i > 0:
                delta = weights.down(part.parameters, spread)
                sigmoid_gradient(delta, activations[i], kept)


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
    hits, losses = hits_and_losses(probabilities, labels)
    cross_entropy = float((on_grid(losses, SCORE_BITS) if exact else losses).sum(dtype=np.float64))
    if np.isnan(losses).any():
        cross_entropy = float("nan")
    return BatchScore(cross_entropy, int(hits.sum()))


def hits_and_losses(probabilities: Array, labels: IntArray) -> tuple[Array, Array]:
    """(whether the label is the likeliest class, cross-entropy in nats), each (batch,); arguments as above"""
    picked = probabilities[labels, np.arange(len(labels))]
    hits = probabilities.argmax(axis=0) == labels if len(labels) else np.zeros(0, bool)
    return hits, -np.log(np.maximum(picked, np.finfo(probabilities.dtype).tiny))
