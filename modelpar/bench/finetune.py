"""Updates of fine-tuning by back-propagation, beside dense matrix products and other programs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from modelpar import draws
from modelpar.bench.cd1 import dense_product
from modelpar.bench.contest import contest
from modelpar.bench.timing import in_turn
from modelpar.comm.grid import Grid
from modelpar.comm.memory import check_fits
from modelpar.data import Minibatches
from modelpar.draws import Purpose, Stream
from modelpar.kernels.products import bfloat16
from modelpar.kernels.products.precision import BF16, PRECISIONS, products_in
from modelpar.model.backprop import BackPropagation
from modelpar.model.network import DeepBeliefNetwork
from modelpar.plan.memory import memory_bytes
from modelpar.spec import FineTuneSpec, NetworkSpec
from modelpar.sync import AllreduceSync
from modelpar.training.optimizer import Optimizer
from modelpar.training.schedule import StepSize

LAYERS, CLASSES, BATCHES = (784, 500, 500, 2000), 10, (100, 1000)
RATE, MOMENTUM = 0.001, 0.9  # the rate is small, so that the weights stay realistic however long it is measured


class FineTuning:
    """A network with an output layer, and this rank's part of a minibatch of grey values and labels.

    Making one is collective, and so is ``update``.  Raises OutOfMemoryError, on every rank, where it does not fit;
    LayoutError for an unknown layout.
    """

    def __init__(self, spec: NetworkSpec, n_samples: int, grid: Grid) -> None:
        check_fits(
            memory_bytes(spec, grid.n_shards, n_samples), f"a minibatch of {n_samples}", grid.comm, grid.node_comm
        )
        self.network, self.n_samples = DeepBeliefNetwork(spec, grid), n_samples
        self.widest = max((part.parameters.W for part in self.network.parts()), key=lambda W: W.size)
        self._parts = self.network.parts()
        self._velocity = {part.name: part.parameters.like(rows=False) for part in self._parts}
        self._optimizer = Optimizer(AllreduceSync(grid.replica_comm, self.network.traffic))
        self._gradients = BackPropagation(self.network, FineTuneSpec(dropout=0.0))
        mine = Minibatches.slice_of(n_samples, grid.replica, grid.n_replicas)
        self.n_mine = mine.stop - mine.start
        self._v = np.empty((len(self.network.visible_ids), self.n_mine), self.network.dtype)
        draws.uniform(Stream(spec.seed, 0, Purpose.DATA), self.network.visible_ids, mine.start, self._v)
        self._labels = np.arange(mine.start, mine.stop) % spec.classes

    def update(self, products: str) -> None:
        """Forward, backward, and the step of all layers.   products: as of ``FineTuneSpec``"""
        with products_in(products):
            _, gradients = self._gradients.run(self._v, self._labels, 0, self.n_samples)
            self._optimizer.descend(
                gradients, self._parts, self._velocity, StepSize(RATE, MOMENTUM, 0.0), self.n_mine
            )  # fmt: skip


def run(
    batches: Sequence[int] = BATCHES, *, grid: Grid, spec: NetworkSpec, threads: int = 1, repeats: int = 5,
    seconds: float = 0.5, peers: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """``{"machine": {...}, "rows": [...]}``, the same on every rank.  Collective.

    Each row belongs to a batch size and to products in full or in bfloat16, both measured in turn: ``batch``,
    ``products``, ``way`` (how they are made), ``ranks``, ``threads``, ``updates_per_second``, ``samples_per_second``,
    ``gflops`` (of an update's products: forward, backward but for the input, gradients), ``sgemm_gflops`` of a product
    with the largest matrix, ``over_sgemm``, and ``peers``: {name: the engine's rate over its rate}, with ``contest``,
    all that :func:`modelpar.bench.contest.contest` found.

    An update is all the work of training on a minibatch in memory: sigmoid units, a softmax output, momentum, without
    dropout or decay.  Each is measured ``repeats`` times for at least ``seconds``; medians count.
    Raises OutOfMemoryError on every rank where a minibatch does not fit; LayoutError for an unknown layout.
    """
    sizes = (*spec.layers, spec.classes)
    weights = [a * b for a, b in pairwise(sizes)]
    rows: list[dict[str, Any]] = []
    for batch in batches:
        tuning = FineTuning(spec, batch, grid)
        product, operations = dense_product(tuning.widest, tuning.n_mine)
        works = {name: partial(tuning.update, name) for name in PRECISIONS}
        times = in_turn({**works, "product": product}, repeats=repeats, seconds=seconds, comm=grid.comm)
        gemm_gflops = 1e-9 * grid.comm.allreduce(operations) / median(times["product"])
        for name, work in works.items():
            taken = median(times[name])
            gflops = 1e-9 * batch * (6 * sum(weights) - 2 * weights[0]) / taken
            row: dict[str, Any] = {
                "batch": batch, "products": name, "way": bfloat16.way() if name == BF16 else "blas",
                "ranks": grid.comm.size, "threads": threads, "updates_per_second": 1.0 / taken,
                "samples_per_second": batch / taken, "gflops": gflops, "sgemm_gflops": gemm_gflops,
                "over_sgemm": gflops / gemm_gflops, "peers": {},
            }  # fmt: skip
            if peers:
                row["contest"] = contest(
                    work, (batch, sizes[0], sizes[-1]), list(peers), comm=grid.comm, threads=threads, repeats=repeats,
                    seconds=seconds, more=["--layers", "-".join(map(str, sizes))],
                )  # fmt: skip
                sides = row["contest"]["peers"]
                row["peers"] = {side.removeprefix("finetune-"): of["ratio"] for side, of in sides.items()}
            rows.append(row)
    shape = f"{grid.n_replicas} replica(s) x {grid.n_shards} model shard(s)"
    machine = {"ranks": grid.comm.size, "grid": shape, "threads": threads, "layers": "-".join(map(str, sizes))}
    return {"machine": machine, "rows": rows}
