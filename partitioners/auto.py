"""A portfolio of our own methods: the feasible partition of the least volume."""

from __future__ import annotations

from collections.abc import Callable

from partitioners.block import block
from partitioners.graph import Complete, UnitGraph
from partitioners.multilevel import feasible, refined, searched, volume
from partitioners.partition import Partition
from partitioners.random import random
from partitioners.spatial import strips, tiles
from partitioners.strided import strided


def auto(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """The best of what searches from all starts find, and of block and strided as they are.

    Between completely connected layers every balanced partition costs the same, and blocks are returned.  Deterministic
    for a seed.  Raises GraphError where there are no parts.
    """
    plain = block(graph, n_parts, seed=seed)
    if n_parts == 1 or all(isinstance(link, Complete) for link in graph.links):
        return plain
    starts: list[Callable[..., Partition]] = [tiles, strips] if graph.coordinates is not None else [block, random]
    found = [refined(graph, plain, seed=seed), searched(graph, n_parts, starts, seed=seed)]
    found += [p for p in (plain, strided(graph, n_parts, seed=seed)) if feasible(graph, p)]
    return min(found, key=lambda p: (not feasible(graph, p), volume(graph, p)))
