"""Before a run of training: the spec of its network, and checks of memory and data."""

from __future__ import annotations

from typing import Any

from modelpar.cli.config import Settings
from modelpar.cli.idle import check_idle, report_missing_labels, why_not_tuned
from modelpar.cli.options import shown_value
from modelpar.cli.terminal import speak
from modelpar.comm.grid import Grid
from modelpar.comm.memory import check_fits
from modelpar.data import DataFeed, Dataset
from modelpar.errors import DataError, SpecError
from modelpar.ownership.layout import NetworkLayout
from modelpar.plan.memory import memory_bytes
from modelpar.spec import NetworkSpec
from modelpar.training.exactness import check_exact
from modelpar.training.preconditions import check_hidden, check_products, check_strategy, check_tuning, check_values


def check_memory(settings: Settings, spec: NetworkSpec, grid: Grid) -> None:
    """Raise OutOfMemoryError, on every rank, where the network will not fit.  Collective."""
    batch = max(settings.training.batch_size, settings.finetune.batch_size)
    needed = memory_bytes(spec, grid.n_shards, -(-batch // grid.n_replicas), keep_best=settings.finetune.patience > 0)
    check_fits(needed, f"a network of {shown_value(sizes_of(spec))} units", grid.comm, grid.node_comm)


def check_data(settings: Settings, spec: NetworkSpec, layout: NetworkLayout, grid: Grid, dataset: Dataset) -> None:
    """Check the requirements on the data now: before an old run is removed, and not after hours of pre-training.
    Collective.  Raises SpecError or DataError on every rank."""
    check_strategy(
        spec, settings.sync, settings.training if settings.training.trains else None, n_replicas=grid.n_replicas,
        digests=settings.training.digests,
    )  # fmt: skip
    check_products(spec, settings.training)
    check_hidden(spec, settings.training)
    if spec.exact:
        visible = layout.layers[0].owned(grid.shard)
        feed = DataFeed(
            dataset.train, visible, scale=dataset.scale, binarise=dataset.binarise, seed=spec.seed, comm=grid.comm
        )
        check_exact(spec, settings.training, binary=feed.binary)
    say = speak(grid.comm)
    check_idle(settings, spec, dataset, say)
    report_missing_labels(grid.comm, settings, spec, dataset, say)
    check_values(spec, dataset, layout.layers[0].owned(grid.shard), grid.comm)
    if fine_tunes(settings, spec, dataset):
        check_tuning(spec, settings.finetune, dataset, grid.comm)


def network_spec(settings: Settings, dataset: Dataset) -> NetworkSpec:
    """The network that was asked for, completed by the width and the classes of the data.

    Raises SpecError where the layers do not begin with the width of the data.
    """
    asked = settings.tables.get("network", {})
    more: dict[str, Any] = {}
    if "layers" not in asked:
        more["layers"] = (dataset.n_visible, *settings.network().layers[1:])
    elif asked["layers"][0] != dataset.n_visible:
        given = shown_value(tuple(asked["layers"]))
        fitting = shown_value((dataset.n_visible, *asked["layers"][1:]))
        raise SpecError(
            f"--layers {given} begins with {asked['layers'][0]} units, but {dataset.name} has {dataset.n_visible} "
            f"values a sample; use --layers {fitting}"
        )
    if "classes" not in asked:
        if dataset.n_classes == 1:
            raise DataError(
                f"the labels of {dataset.name} are all 0, but a classifier needs at least 2 classes; give other "
                "--labels, or --classes 0 to train without them"
            )
        more["classes"] = dataset.n_classes if settings.network().hidden == "bernoulli" else 0
    return settings.network(**more)


def fine_tunes(settings: Settings, spec: NetworkSpec, dataset: Dataset) -> bool:
    """Whether pre-training is followed by fine-tuning."""
    return not why_not_tuned(settings, spec, dataset)


def sizes_of(spec: NetworkSpec) -> tuple[int, ...]:
    """Units of every layer, the output layer included."""
    return (*spec.layers, spec.classes) if spec.classes else spec.layers
