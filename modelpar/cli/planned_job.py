"""What a training would be, from its options: the job that a planner times, without opening data where it need not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from mpi4py import MPI

from modelpar.bench.kept_machines import kept_machine
from modelpar.cli.config import Settings
from modelpar.cli.threads import Placement
from modelpar.data import DataFeed, Dataset, open_dataset
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.build_connections import connect
from modelpar.ownership.connections import Connections
from modelpar.ownership.layout import AUTO, NetworkLayout
from modelpar.ownership.placement import WITHOUT_LINKS, place
from modelpar.plan.choose import Job
from modelpar.plan.collectives import Placement as Placing
from modelpar.plan.predict import predict
from modelpar.plan.steps import step_of
from modelpar.spec import DRAWN_SETS, NetworkSpec

GREY = ("digits", "mnist", "fashion-mnist")  # data sets whose values are no states
WIDTHS = {"digits": 64, "mnist": 784, "fashion-mnist": 784}


@dataclass(frozen=True)
class Asked:
    """A job, and the samples of an epoch, 0 where the data were not opened."""

    job: Job
    n_samples: int = 0


def asked_job(comm: MPI.Comm, settings: Settings, *, open_data: bool = True) -> Asked:
    """Collective.  Raises DataError and SpecError on every rank, as training does.

    open_data   look into the data for their width and kind, in place of guessing the latter by their name; where
                layers are not given and no width is known they are opened in any case
    """
    spec, n_samples = settings.network(), 0
    named = settings.data.data
    states = None if spec.visible_kind.gaussian else _states_by_name(settings, spec)
    if not open_data and "layers" not in settings.tables.get("network", {}) and named in WIDTHS:
        spec = replace(spec, layers=(WIDTHS[named], *spec.layers[1:]))
    elif open_data or "layers" not in settings.tables.get("network", {}):
        dataset = open_dataset(settings.data, comm, visible=spec.visible, seed=spec.seed)
        n_samples = len(dataset.train)
        if "layers" not in settings.tables.get("network", {}):
            spec = replace(spec, layers=(dataset.n_visible, *spec.layers[1:]))
        if not spec.visible_kind.gaussian and dataset.n_visible == spec.layers[0]:
            states = _are_states(comm, dataset, spec)
    partitioner = settings.grid.partitioner
    if not open_data and partitioner not in WITHOUT_LINKS:
        partitioner = None  # one that looks for minutes is not asked for every grid
    return Asked(job_of(settings, spec, states, partitioner), n_samples)


def job_of(settings: Settings, spec: NetworkSpec, states: bool | None, partitioner: str | None) -> Job:
    """The owners of each number of shards are those that training takes by default, or by this partitioner."""

    @cache
    def connections() -> tuple[Connections | None, ...]:
        return connect(spec, MPI.COMM_SELF)

    @cache
    def owners(n_shards: int) -> NetworkLayout:
        if spec.has_lists or partitioner:
            return place(spec, n_shards, MPI.COMM_SELF, partitioner=partitioner, connections=connections())
        together = spec.visible_kind.unit_of_layout
        return NetworkLayout.blocks(spec.layers, n_shards, AUTO, together=together)

    return Job(spec, settings.training, settings.sync, owners, keep_best=settings.finetune.patience > 0, states=states)


def predicted_updates(settings: Settings, network: DeepBeliefNetwork, placement: Placement) -> dict[str, float]:
    """Seconds of an update of every RBM at the grid that it has, by kept rates; empty where none are.  Collective."""
    grid, spec = network.grid, network.spec
    machine = kept_machine(grid.comm, cores=placement.cores, threads=placement.threads, lists=spec.has_lists)
    if machine is None:
        return {}
    nodes = np.array(grid.comm.allgather(grid.node_comm.bcast(grid.comm.rank))).reshape(grid.n_replicas, grid.n_shards)
    where, at_once = Placing(nodes), grid.comm.allreduce(grid.node_comm.size, MPI.MAX)
    states = None if spec.visible_kind.gaussian else _states_by_name(settings, spec)
    asked, threads, found = (settings.training, settings.sync), placement.threads, {}
    for i in range(len(network.rbms)):
        step = step_of(
            spec, i, *asked, network.layout, grid.n_replicas, machine.rates, threads,
            at_once=at_once, states=None if i else states, replicas_far=grid.replicas_far, servers=grid.n_servers,
        )  # fmt: skip
        found[f"pretrain.{i}"] = predict(step, where, machine).seconds
    return found


def _states_by_name(settings: Settings, spec: NetworkSpec) -> bool:
    if settings.data.binarise != "none" or spec.visible_kind.categories:
        return True
    name = settings.data.data
    return name not in GREY or name.partition(":")[0] in DRAWN_SETS


def _are_states(comm: MPI.Comm, dataset: Dataset, spec: NetworkSpec) -> bool:
    feed = DataFeed(
        dataset.train, np.arange(min(dataset.n_visible, 1024)), scale=dataset.scale, binarise=dataset.binarise,
        seed=spec.seed, comm=comm,
    )  # fmt: skip
    return feed.binary
