"""One step of CD-1 on data in memory: as in training, and in pieces with a clock on each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar import draws
from modelpar.bench.timing import Size, text_of
from modelpar.comm.grid import Grid
from modelpar.comm.memory import check_fits
from modelpar.comm.transfer import Transfer
from modelpar.data import Minibatches
from modelpar.draws import Purpose, Stream
from modelpar.kernels.products import dispatch
from modelpar.kernels.products.product import Sampled, Sampler
from modelpar.kernels.states import Packed, pack
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.layout import NetworkLayout
from modelpar.plan.memory import memory_bytes
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.sync import AllreduceSync
from modelpar.training.optimizer import Optimizer
from modelpar.training.schedule import StepSize
from modelpar.weights.statistics import Phase, Statistics

ONES = 0.2  # fraction of the visible states that are on
RATE = 0.001  # of learning: small, so that the weights stay realistic however long it is measured

PIECES = ("up", "down", "up again", "update", "exchange")  # of a step, in the order of their first use


def training_spec(statistics: str, n_samples: int) -> TrainingSpec:
    """CD-1 with sampled reconstructions.   statistics: ``1`` to ``8``, or ``float``.  Raises SpecError."""
    return TrainingSpec(batch_size=n_samples, statistics=statistics, reconstruction="states")


class CD1:
    """An RBM of V visible and H hidden units, and this rank's part of a minibatch of B packed samples.

    size     (B, V, H); the samples are shared between the replicas, the units between the shards
    layout   ``column``, ``row``, ``dual`` or ``auto``

    As in training, a shard reads the states of all the visible units that its weights need from the data.  Making one
    is collective; so are its methods.
    Raises OutOfMemoryError, on every rank, where it does not fit; LayoutError for an unknown layout.
    """

    def __init__(
        self, size: Size, grid: Grid, *, dtype: str = "float32", layout: str = "auto",
        spec: NetworkSpec | None = None, owners: NetworkLayout | None = None,
    ) -> None:  # fmt: skip
        """``spec`` in place of dtype and layout, for connections that are not complete; ``owners`` of its units."""
        self.n_samples, n_visible, n_hidden = size
        spec = spec or NetworkSpec(layers=(n_visible, n_hidden), dtype=dtype, layout=layout)
        needed = memory_bytes(spec, grid.n_shards, self.n_samples) * 5 // 4  # and a quarter more for the dense product
        check_fits(needed, f"a benchmark of {text_of(size)}", grid.comm, grid.node_comm)
        self.network = DeepBeliefNetwork(spec, grid, owners)
        self.rbm = self.network.rbms[0]
        self.layout = self.network.layout.matrix_layouts[0]
        self.optimizer = Optimizer(AllreduceSync(grid.replica_comm, self.network.traffic))
        self.velocity = self.rbm.parameters.like()
        mine = Minibatches.slice_of(self.n_samples, grid.replica, grid.n_replicas)
        self.n_mine, self.first_draw = mine.stop - mine.start, mine.start
        self.v0 = self._states(self.rbm.visible_ids)
        spreads = self.rbm.weights.spreads_visible
        self.v0_spread = self._states(self.rbm.weights.visible_spread) if spreads else self.v0

    def _states(self, unit_ids: npt.NDArray[np.int64]) -> Packed:
        """The data of some units, the same wherever they are drawn; one-hot where units are of categorical sites."""
        stream, categories = Stream(self.network.spec.seed, 0, Purpose.DATA), self.network.spec.visible_kind.categories
        if categories:
            no_bias = np.zeros(len(unit_ids), np.float32)
            sampler = Sampler(no_bias, unit_ids, stream, self.first_draw, categories=categories)
            states = sampler.of_sums(np.zeros((len(unit_ids), self.n_mine), np.float32), 1).states
            assert isinstance(states, Packed)
            return states
        p = np.full((len(unit_ids), self.n_mine), ONES, np.float32)
        draws.sample_bernoulli(p, stream, unit_ids, self.first_draw, p)
        return pack(p)

    def update(self, training: TrainingSpec, *, centred: bool = False) -> None:
        """All the work of training on a minibatch: statistics of both phases, momentum, decay, all exchanges.

        centred   take the centred gradient, as training does by default
        """
        step = self.rbm.contrastive_divergence(
            self.v0, self.first_draw, training, n_all_samples=self.n_samples, v0_spread=self.v0_spread
        )
        self.optimizer.learn(
            self.rbm.parameters, self.velocity, step.statistics, _size(training), self.n_mine, centred=centred
        )  # fmt: skip
        self.first_draw += self.n_samples

    def in_pieces(self, training: TrainingSpec) -> dict[str, float]:
        """The same update, and this rank's seconds of each of PIECES.

        up, down, up again   product, bias, sigmoid, draw, packing; in a column layout ``down`` contains the reduction
                             of sums over shards, in a row layout both ups do
        update               statistics of both phases, their sum over replicas, momentum, decay, biases
        exchange             gathering states and statistics from the other shards
        """
        weights, parameters, spent = self.rbm.weights, self.rbm.parameters, dict.fromkeys(PIECES, 0.0)
        with _clock(spent, "up"):
            hidden = weights.sample_up(parameters, Transfer(self.v0_spread), self._hidden(training, 0, states=True))
        s0 = _statistic(hidden)
        assert hidden.states is not None
        with _clock(spent, "exchange"):
            h0_sent = weights.spread_hidden(hidden.states)
            s0_sent = h0_sent if s0 is hidden.states else weights.spread_hidden(s0).kept(s0)
        with _clock(spent, "down"):
            drawn = weights.sample_down(parameters, h0_sent, self._visible())
        v1 = drawn.states
        assert v1 is not None
        with _clock(spent, "exchange"):
            v1_sent = weights.spread_visible(v1)
        with _clock(spent, "up again"):
            again = weights.sample_up(parameters, v1_sent, self._hidden(training, 1, states=False))
        s1 = _statistic(again)
        with _clock(spent, "exchange"):
            s1_sent = weights.spread_hidden(s1)
        with _clock(spent, "update"):
            data = Phase(self.v0, self.v0_spread, s0, s0_sent.wait())
            phases = data, Phase(v1, v1_sent.wait(), s1, s1_sent.wait())
            integer = training.planes > 0 or self.rbm.W.dtype == np.float32
            n = self.n_samples
            statistics = Statistics(weights, *phases, n, n, self.rbm.shard_comm, integer=integer)
            self.optimizer.learn(parameters, self.velocity, statistics, _size(training), self.n_mine)
        self.first_draw += self.n_samples
        return spent

    def _hidden(self, training: TrainingSpec, repeat: int, *, states: bool) -> Sampler:
        stream = Stream(self.rbm.seed, self.rbm.index, Purpose.HIDDEN, repeat)
        return Sampler(
            self.rbm.c, self.rbm.hidden_ids, stream, self.first_draw,
            means=training.planes == 0, states=states, planes=training.planes,
        )  # fmt: skip

    def _visible(self) -> Sampler:
        stream = Stream(self.rbm.seed, self.rbm.index, Purpose.VISIBLE, 0)
        return Sampler(self.rbm.b, self.rbm.visible_ids, stream, self.first_draw, target=self.v0)

    def kernels(self) -> dict[str, str]:
        """Which kernel the dispatcher chooses for this rank's products ``up`` and ``down``."""
        if self.rbm.W.dtype != np.float32:
            return {"up": "blas", "down": "blas"}
        block = self.rbm.parameters.blocks[-1]
        h = Packed(np.full((block.shape[1], 1, self.v0.words.shape[2]), 0x5555_5555_5555_5555, np.uint64), self.n_mine)
        return {
            "up": dispatch.choose(self.v0_spread, self.rbm.W.shape[1], up=True, integer_sums=self.layout == "row"),
            "down": dispatch.choose(h, block.shape[0], up=False, integer_sums=self.layout == "column"),
        }


def _size(training: TrainingSpec) -> StepSize:
    return StepSize(RATE, training.lasting_momentum, training.weight_decay)


def _statistic(hidden: Sampled) -> Any:
    return hidden.statistic if hidden.statistic is not None else hidden.means


@contextmanager
def _clock(spent: dict[str, float], piece: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    spent[piece] += time.perf_counter() - started
