"""Hidden units that see a window of sites each: what goes together along a chromosome is near.

Sites are cut into tiles of as many each, and hidden units into as many groups; a group sees its own tile and the ones
on both sides.  A window of a few tiles is wide enough for the segments that haplotypes share, and a unit need not learn
that distant sites have nothing to do with each other, which from a few thousand haplotypes it would learn badly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse

from modelpar import DeepBeliefNetwork
from modelpar.kernels.states import Packed, count_ones, unpack

SEEN = 3  # tiles of a window
LOOKED_AT = 2000  # haplotypes that first weights are made of: a window of them is as floats, nothing else ever is
SPARE, POWERS, ROTATIONS = 15, 2, 30  # of the range finder: more directions, iterations; steps of the rotation


@dataclass(frozen=True)
class Windows:
    n_sites: int
    n_hidden: int
    n_tiles: int

    @cached_property
    def edges(self) -> Any:
        """(n_tiles + 1,) the first site of every tile, and the end"""
        return np.linspace(0, self.n_sites, self.n_tiles + 1).round().astype(np.int64)

    @cached_property
    def groups(self) -> Any:
        """(n_tiles + 1,) the first hidden unit of every group, and the end"""
        return np.linspace(0, self.n_hidden, self.n_tiles + 1).round().astype(np.int64)

    def tiles_of(self, group: int) -> tuple[int, int]:
        """The first tile of a group's window, and the end."""
        return max(group - SEEN // 2, 0), min(group + SEEN // 2 + 1, self.n_tiles)

    def sites_of(self, group: int) -> tuple[int, int]:
        first, end = self.tiles_of(group)
        return int(self.edges[first]), int(self.edges[end])

    def mask(self) -> Any:
        """(n_sites, n_hidden) of scipy.sparse, as ``--connections mask:FILE`` takes it"""
        sites = [np.arange(*self.sites_of(g)) for g in range(self.n_tiles) for _ in range(*self.groups[g : g + 2])]
        offsets = np.r_[0, np.cumsum([len(one) for one in sites])]
        return scipy.sparse.csc_array(
            (np.ones(offsets[-1], bool), np.concatenate(sites).astype(np.int32), offsets),
            shape=(self.n_sites, self.n_hidden),
        )


def start_at_components(network: DeepBeliefNetwork, genomes: Any, windows: Windows) -> None:
    """First weights from principal components of each tile, turned until they are nearly two-valued.  Collective.

    Small random weights would all find the same few directions first.  In units of the sites' standard deviations the
    weights are ``2 sqrt(1 - 1 / variance)`` times the components, those of the generalised Hopfield model (Cocco,
    Monasson and Sessak 2011); the range finder is that of Halko, Martinsson and Tropp (2011), the rotation iterative
    quantisation (Gong et al. 2013).  A rank reads the columns that its own hidden units see.
    """
    rbm = network.rbms[0]
    mine = range(int(rbm.hidden_ids[0]), int(rbm.hidden_ids[-1]) + 1)
    of_mine = [
        g for g in range(windows.n_tiles) if max(windows.groups[g], mine[0]) < min(windows.groups[g + 1], mine[-1] + 1)
    ]
    seen = [*windows.sites_of(of_mine[0]), *windows.sites_of(of_mine[-1]), rbm.visible_ids[0], rbm.visible_ids[-1] + 1]
    first, end = int(min(seen)), int(max(seen))
    states = genomes.train.table.columns(np.arange(first, end)).states(genomes.train.rows)
    n = states.batch
    frequencies = np.clip(count_ones(states.rows).sum(axis=1) / n, 1 / n, 1 - 1 / n)
    some = np.linspace(0, n - 1, min(n, LOOKED_AT)).astype(np.int64)
    place = 0
    for group in of_mine:
        start, stop = windows.sites_of(group)
        inside = slice(start - first, stop - first)
        values = unpack(Packed(states.words[inside], n))[:, some]
        a, b = windows.edges[group : group + 2] - start
        chosen = slice(*(np.clip([mine[0], mine[-1] + 1], *windows.groups[group : group + 2]) - windows.groups[group]))
        n_units = int(windows.groups[group + 1] - windows.groups[group])
        W = patterns(values, frequencies[inside], slice(a, b), n_units, seed=group)[:, chosen]
        rbm.W[place : place + W.size] = W.T.ravel()
        n_chosen = W.shape[1]
        at = int(windows.groups[group]) + chosen.start - mine[0]
        rbm.c[at : at + n_chosen] = -frequencies[inside] @ W
        place += W.size
    network.refresh()
    own = frequencies[int(rbm.visible_ids[0]) - first : int(rbm.visible_ids[-1]) + 1 - first]
    rbm.b[:] = 0
    half = rbm.visible_input(np.full((len(mine), 1), 0.5, network.dtype))[:, 0]
    rbm.b[:] = np.log(own / (1 - own)) - half
    network.refresh()


def patterns(values: Any, frequencies: Any, tile: slice, n: int, *, seed: int) -> Any:
    """Weights (sites, n) of the units of a window.   values (sites, samples), of which ``tile`` has the components"""
    random, deviations = np.random.default_rng(seed), np.sqrt(frequencies * (1 - frequencies))[:, None]
    z = ((values - frequencies[:, None]) / deviations).astype(np.float32)
    inner, n_samples = z[tile], z.shape[1]
    directions = random.standard_normal((n_samples, min(n + SPARE, n_samples))).astype(np.float32)
    for _ in range(1 + POWERS):
        directions = np.linalg.qr(inner.T @ (inner @ directions))[0]
    _, sizes, turned = np.linalg.svd(inner @ directions, full_matrices=False)
    kept = min(n, int((sizes > 1e-3 * sizes[0]).sum()))
    scores, variances = directions @ turned[:kept].T, sizes[:kept] ** 2 / n_samples
    components = z @ scores / sizes[:kept] * np.sqrt(np.maximum(1 - 1 / variances, 0))
    rotation = np.linalg.qr(random.standard_normal((n, n)))[0][:kept]  # rows are orthonormal, where kept is less too
    for _ in range(ROTATIONS):
        left, _, right = np.linalg.svd((scores * sizes[:kept]).T @ np.sign(scores * sizes[:kept] @ rotation),
                                       full_matrices=False)  # fmt: skip
        rotation = left @ right
    return 2 * components @ rotation / deviations
