"""Updates by persistent chains of many sweeps, beside dense matrix products and other programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from modelpar.bench.cd1 import dense_product
from modelpar.bench.contest import contest
from modelpar.bench.step import CD1
from modelpar.bench.timing import Size, in_turn, text_of
from modelpar.chains.gibbs import start
from modelpar.comm.grid import Grid
from modelpar.kernels.products import dispatch
from modelpar.kernels.warm_up import warm_up
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.training.schedule import StepSize

SIZES: tuple[Size, ...] = ((2000, 784, 500),)
RATE = 0.001  # of learning: small, so that the weights stay realistic however long it is measured


def run(
    sizes: Sequence[Size] | None = None, *, grid: Grid, chains: int = 2000, chain_steps: int = 100, threads: int = 1,
    repeats: int = 3, seconds: float = 1.0, statistics: str = TrainingSpec.statistics, centred: bool = True,
    layout: str = "auto", categories: int = 0, peers: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """``{"machine": {...}, "rows": [...]}``, the same on every rank.  Collective.

    Each row belongs to a size: ``size`` (BxVxH), ``chains``, ``chain_steps``, ``statistics``, ``layout``,
    ``updates_per_second``, ``samples_per_second`` (chains times sweeps), ``gflops`` (4 V H operations of dense products
    for each chain and sweep), ``sgemm_gflops``, ``over_sgemm``, and ``peers``: {name: the engine's rate over its rate},
    with ``contest``, all that :func:`modelpar.bench.contest.contest` found.  With ``categories`` the visible units are
    those of categorical sites, so many each.

    An update is all the work of training: statistics of a minibatch in memory, all sweeps of the chains, their
    statistics, the step.  Each work is measured ``repeats`` times, in turn, for at least ``seconds``.
    Raises OutOfMemoryError on every rank where a size does not fit; SpecError, LayoutError for unknown names.
    """
    warm_up("float32")
    dispatch.prepare()
    rows: list[dict[str, Any]] = []
    training = TrainingSpec(chains=chains, chain_steps=chain_steps, statistics=statistics, centred=centred)
    for size in sizes or SIZES:
        visible = f"categorical:{categories}" if categories else "bernoulli"
        bench = CD1(size, grid, spec=NetworkSpec(layers=size[1:], layout=layout, visible=visible))
        update = _update(bench, training)
        product, operations = dense_product(bench.rbm.W, bench.n_mine)
        times = in_turn({"update": update, "product": product}, repeats=repeats, seconds=seconds, comm=grid.comm)
        swept, update_seconds = chains * chain_steps, median(times["update"])
        gflops = 4e-9 * size[1] * size[2] * swept / update_seconds
        gemm_gflops = 1e-9 * grid.comm.allreduce(operations) / median(times["product"])
        row: dict[str, Any] = {
            "size": text_of(size), "chains": chains, "chain_steps": chain_steps, "statistics": statistics,
            "visible": visible, "layout": bench.layout, "ranks": grid.comm.size, "threads": threads,
            "updates_per_second": 1.0 / update_seconds, "samples_per_second": swept / update_seconds,
            "gflops": gflops, "sgemm_gflops": gemm_gflops, "over_sgemm": gflops / gemm_gflops, "peers": {},
        }  # fmt: skip
        if peers:
            options = ["--chains", str(chains), "--sweeps", str(chain_steps), "--categories", str(categories)]
            row["contest"] = contest(
                update, size, list(peers), comm=grid.comm, threads=threads, repeats=repeats, seconds=seconds,
                n_samples=swept, more=options,
            )  # fmt: skip
            sides = row["contest"]["peers"]
            row["peers"] = {name.removeprefix("pcd-"): side["ratio"] for name, side in sides.items()}
        rows.append(row)
    shape = f"{grid.n_replicas} replica(s) x {grid.n_shards} model shard(s)"
    return {"machine": {"ranks": grid.comm.size, "grid": shape, "threads": threads}, "rows": rows}


def _update(bench: CD1, training: TrainingSpec) -> Callable[[], None]:
    grid, rbm = bench.network.grid, bench.rbm
    chains = start(rbm, "random", grid.replica, grid.n_replicas, training.chains)
    size, done = StepSize(RATE, 0.9, 0.0), 0

    def update() -> None:
        nonlocal done
        step = rbm.contrastive_divergence(
            bench.v0, bench.first_draw, training, chains, n_all_samples=bench.n_samples, v0_spread=bench.v0_spread,
            chain_draw=done * training.chains + chains.first,
        )  # fmt: skip
        bench.optimizer.learn(
            rbm.parameters, bench.velocity, step.statistics, size, bench.n_mine, centred=training.centred
        )
        bench.first_draw += bench.n_samples
        done += 1

    return update
