"""``auto`` against METIS, KaHIP and Mt-KaHyPar, each followed by the same repair and refinement.

    python examples/partitioning/against_others.py                       all networks at 2, 4 and 8 parts: minutes
    python examples/partitioning/against_others.py --networks fields3 --parts 3 --json results.json

Needs pymetis, kahip and mtkahypar (the extras metis, kahip and mtkahypar of modelpar); what is not installed is left
out.  Prints a line for each network and number of parts: the volume of every method, and whether auto's is the least.
The networks differ in shape, fields, strides, maps, sparsity and in whether the units' places are known.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import click
import numpy as np

from partitioners import UnitGraph, from_masks, generators
from partitioners.compare import Result, compare, write_text
from partitioners.methods import EXTRAS
from partitioners.networks import Network, local_network


def shuffled(graph: UnitGraph, seed: int) -> UnitGraph:
    """The same network with the units of every layer in random order, and no places known."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n) for n in graph.layers]
    pairs = zip(graph.links, pairwise(orders), strict=True)
    return from_masks([link.mask[below][:, above] for link, (below, above) in pairs])


def oblong() -> UnitGraph:
    """12 x 60 -> 3 maps, 3x3."""
    masks = [generators.local(12, 60, field=3, maps=3), generators.local(10, 58, field=3, maps=2, maps_below=3)]
    places, rows, columns = [], 12, 60
    for start, maps in enumerate((1, 3, 2)):
        row, column = np.divmod(np.arange(rows * columns), columns)
        places.append(np.tile(start + np.stack([row, column], axis=1), (maps, 1)))
        rows, columns = rows - 2, columns - 2
    return from_masks(masks, None, places)


def mixed(make: Callable[[int, int, int], object], layers: tuple[int, ...]) -> UnitGraph:
    """A mask for every pair of layers."""
    return from_masks([make(n, m, i) for i, (n, m) in enumerate(pairwise(layers))])


LAYERS = (500, 400, 300)  # of the networks without a grid
NETWORKS: dict[str, tuple[str, Callable[[], UnitGraph]]] = {
    "fields3": ("20x20 -> 2 maps -> 2 maps, 3x3", lambda: local_network(20, [3, 3], [2, 2])),
    "fields7": ("24x24 -> 3 maps -> 3 maps, 7x7", lambda: local_network(24, [7, 7], [3, 3])),
    "strides": ("32x32 -> 6 maps (5x5, every 2) -> 8 maps (4x4, every 2)",
                lambda: local_network(32, [5, 4], [6, 8], [2, 2])),
    "onemap": ("30x30 -> 1 map -> 1 map -> 1 map, 5x5", lambda: local_network(30, [5, 5, 5], [1, 1, 1])),
    "oblong": ("12x60 -> 3 maps -> 2 maps, 3x3", oblong),
    "hidden": ("fields3 in random order", lambda: shuffled(local_network(20, [3, 3], [2, 2]), 1)),
    "hidden1": ("onemap in random order", lambda: shuffled(local_network(30, [5, 5, 5], [1, 1, 1]), 2)),
    "ring": ("500-400-300, 12 nearest on a ring, a tenth rewired",
             lambda: mixed(lambda n, m, i: generators.small_world(n, m, degree=12, rewired=0.1, seed=i), LAYERS)),
    "sparse": ("500-400-300, pairs connected with probability 0.01",
               lambda: mixed(lambda n, m, i: generators.erdos_renyi(n, m, density=0.01, seed=i), LAYERS)),
    "scalefree": ("500-400-300, 8 connections a unit, degrees by a power law",
                  lambda: mixed(lambda n, m, i: generators.scale_free(n, m, degree=8, seed=i), LAYERS)),
    "radix3": ("RadiX-Net, 5 layers of 324, radix 3 on 81 nodes, 4 copies, shuffled",
               lambda: from_masks(generators.radix_net([3] * 4, copies=4, n_layers=5, shuffle=1))),
}  # fmt: skip


@click.command()
@click.option("--networks", default=",".join(NETWORKS), help="Some of them, with commas.")
@click.option("--parts", default="2,4,8", show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the table there.")
def main(networks: str, parts: str, seed: int, json_file: Path | None) -> None:
    """Print, for every network and number of parts, the volume that each method finds."""
    others = [f"{name}+refined" for name, module in EXTRAS.items() if importlib.util.find_spec(module)]
    if not others:
        print("none of pymetis, kahip and mtkahypar is installed: there is nothing to compare with", file=sys.stderr)
    chosen = [Network(name, NETWORKS[name][0], NETWORKS[name][1]()) for name in networks.split(",")]
    everything: list[Result] = []
    worse = 0
    for one in chosen:
        for n_parts in map(int, parts.split(",")):
            results = list(compare([one], ["auto", *others], [n_parts], seed=seed))
            everything += results
            ours, theirs = results[0], [result for result in results[1:] if result.feasible]
            best = min((result.volume for result in theirs), default=ours.volume)
            worse += ours.volume > best
            told = "  ".join(f"{result.method} {result.volume}" for result in results)
            verdict = "WORSE" if ours.volume > best else "least"
            print(f"{one.name:10} {n_parts:3} parts  {told}  {verdict}", flush=True)
    print(f"auto is the least, or as good, in {len(everything) // (1 + len(others)) - worse} of "
          f"{len(everything) // (1 + len(others))}")  # fmt: skip
    if json_file is not None:
        kept = ("network", "n_parts", "method", "volume", "feasible", "seconds")
        lines = [json.dumps({name: getattr(one, name) for name in kept}) for one in everything]
        write_text(json_file, "[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
