"""What a notebook shows of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from modelpar.machine.memory import size_text
from partitioners.cards import card, facts, spread
from partitioners.page import table

if TYPE_CHECKING:
    from modelpar.model.network import DeepBeliefNetwork


def network_card(network: DeepBeliefNetwork) -> str:
    """Layers, kinds of units, layout, and the memory of this shard's parameters, as HTML.

    From what this rank knows, and without looking at the weights: a notebook calls it on one rank.  Not collective.
    """
    spec, grid, layout = network.spec, network.grid, network.layout
    sizes = (*spec.layers, spec.classes) if spec.classes else spec.layers
    kinds = [spec.visible, *(spec.hidden_of(i) for i in range(len(spec.layers) - 1)), "softmax"]
    rows, total = [], 0
    for i, part in enumerate(network.parts()):
        held = part.parameters.flat.nbytes + sum(block.nbytes for block in part.parameters.blocks[1:])
        held += part.weights.list_bytes
        total += held
        listed = layout.connections[i] if i < len(layout.connections) else None
        n = sizes[i] * sizes[i + 1] if listed is None else listed.n_connections
        rows.append([
            part.name, f"{sizes[i]:,} {kinds[i]}", f"{sizes[i + 1]:,} {kinds[i + 1]}", layout.matrix_layouts[i],
            f"{n:,}", spread(layout.layers[i + 1].counts), size_text(held),
        ])  # fmt: skip
    heads = ("", "lower units", "upper units", "layout", "weights", "upper units of a shard", "memory of this shard")
    return card(
        f"DeepBeliefNetwork {'-'.join(map(str, sizes))}",
        facts([
            ("parameters", f"{network.n_parameters:,}"),
            ("of this shard", size_text(total)),
            ("type", str(np.dtype(spec.dtype)) + (", exact" if spec.exact else "")),
            ("grid", f"{grid.n_replicas} replica(s) × {grid.n_shards} model shard(s)"),
            ("this rank", grid.role),
        ]),
        table(heads, rows, numbers=(4, 5, 6)),
    )  # fmt: skip
