"""What a run says before it begins: data, network, grid, and shards that own nothing."""

from __future__ import annotations

from collections.abc import Iterator

from modelpar.cli.options import shown_value
from modelpar.cli.preparation import sizes_of
from modelpar.cli.threads import Placement
from modelpar.comm.grid import Grid
from modelpar.data import Dataset
from modelpar.ownership.layout import NetworkLayout
from modelpar.spec import NetworkSpec


def announcement(
    dataset: Dataset, spec: NetworkSpec, layout: NetworkLayout, grid: Grid, placement: Placement
) -> Iterator[str]:
    """The lines, without an end.  Not collective."""
    bound = "" if placement.own_cores >= placement.threads else f", bound to {placement.own_cores} core(s)"
    yield (
        f"{dataset.name}: {len(dataset.train):,} samples of {dataset.n_visible} values; network "
        f"{shown_value(sizes_of(spec))}; grid of {grid.n_replicas} replica(s) x {grid.n_shards} model shard(s), "
        f"{placement.threads} thread(s) a rank{bound}"
    )
    for name, layer in zip(_layer_names(spec), layout.layers, strict=True):
        idle = int((layer.counts == 0).sum())
        if idle and name != "output layer":
            yield (
                f"warning: the {name} has {layer.n_units} units for {grid.n_shards} model shards: {idle} shard(s) own "
                "none of it and stand idle there"
            )


def _layer_names(spec: NetworkSpec) -> list[str]:
    names = ["visible layer", *(f"hidden layer {i}" for i in range(1, len(spec.layers)))]
    return [*names, "output layer"] if spec.classes else names
