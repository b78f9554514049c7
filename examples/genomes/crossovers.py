"""Chains that exchange the ends of their haplotypes: recombination as a step of Monte Carlo.

Gibbs sampling moves a haplotype site by site and unit by unit, and hardly ever from one of the segments that a
population has to another one.  Here all chains are cut at the border of two tiles, and ends are exchanged between two
chains at a time with Metropolis's probability, of the free energies of the four haplotypes.  That leaves the joint
distribution of independent chains as it was, whatever the model is (the crossover of evolutionary Monte Carlo, Liang
and Wong 2000).  With windows only the units that see both sides of the cut are needed for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from genomes.windows import Windows

from modelpar import DeepBeliefNetwork
from modelpar.kernels.states import Packed, pack, unpack

ROUNDS = 2  # proposals to every pair of chains at a cut, about
HIGHEST = 340.0  # exponent, so that products of two stay finite


def exchange_ends(network: DeepBeliefNetwork, windows: Windows, v: Packed, seed: int) -> tuple[Packed, float]:
    """(Visible states after cuts at all borders of tiles; the part of ends that went to another chain).  Collective.

    From cut to cut the inputs of hidden units from the sites of a tile go from the ends to the heads.  Chains are
    divided between the ranks, each of which has the free energies of its heads with all ends.
    """
    rbm, comm, n = network.rbms[0], network.grid.shard_comm, v.batch
    tile_of_site = np.searchsorted(windows.edges, rbm.visible_ids, side="right") - 1
    first, end = windows.tiles_seen[:, rbm.hidden_ids]
    values, random, exchanged = unpack(v, np.uint8), np.random.default_rng(seed), 0.0
    c = rbm.c[:, None].astype(np.float64)
    left, right = c.repeat(n, axis=1), rbm.hidden_input(v) - c
    mine = slice(n * comm.rank // comm.size, n * (comm.rank + 1) // comm.size)
    for cut in range(1, windows.n_tiles):
        passed = rbm.hidden_input(pack(np.where((tile_of_site == cut - 1)[:, None], values, 0))) - c
        left, right = left + passed, right - passed
        units = (first < cut) & (cut < end)  # those that see both sides
        heads, ends = (np.concatenate(comm.allgather(side[units])) for side in (left, right))
        order = matched(np.concatenate(comm.allgather(log_weights(heads[:, mine], ends))), random)
        exchanged += float((order != np.arange(n)).mean()) / (windows.n_tiles - 1)
        behind = tile_of_site >= cut
        values[behind], right = values[behind][:, order], right[:, order]
    return pack(values), exchanged


def log_weights(left: Any, right: Any) -> Any:
    """sum_j log(1 + exp(left[j, x] + right[j, y])), (heads, ends): minus the free energy of a head with an end, but for
    what is the same whatever they are joined to.  Products of exponentials of each side take the place of logarithms
    of each pair."""
    total = np.zeros((left.shape[1], right.shape[1]))
    product = np.ones_like(total)
    for j, (a, b) in enumerate(zip(left.astype(np.float64), right.astype(np.float64), strict=True), 1):
        total += np.maximum(a[:, None] + b, 0)
        shift = (a.mean() - b.mean()) / 2
        a, b = (np.clip(side, -HIGHEST, HIGHEST) for side in (a - shift, b + shift))
        product *= 1 + np.minimum(np.exp(a)[:, None] * np.exp(b), np.exp(-a)[:, None] * np.exp(-b))  # exp(-|a + b|)
        if j % 512 == 0:  # 2^1024 is too large
            total += np.log(product)
            product[:] = 1
    return total + np.log(product)


def matched(S: Any, random: np.random.Generator) -> Any:
    """Which end each head has: exchanges of pairs, by Metropolis, with the weights exp(S) of a head with an end."""
    n = len(S)
    order, half = np.arange(n), n // 2
    for _ in range(ROUNDS * n):  # half of the chains with the other half: n / 2 of n^2 / 2 pairs
        shuffled = random.permutation(n)
        x, y = shuffled[:half], shuffled[half : 2 * half]
        change = S[x, order[y]] + S[y, order[x]] - S[x, order[x]] - S[y, order[y]]
        taken = np.log(random.random(half)) < change
        x, y = x[taken], y[taken]
        order[x], order[y] = order[y], order[x]
    return order
