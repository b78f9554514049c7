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
    """``n_wide`` units of each group see sites of the whole region, every ``step``-th."""

    n_sites: int
    n_hidden: int
    n_tiles: int
    n_wide: int = 0

    @cached_property
    def edges(self) -> Any:
        """(n_tiles + 1,) the first site of every tile, and the end"""
        return np.linspace(0, self.n_sites, self.n_tiles + 1).round().astype(np.int64)

    @cached_property
    def groups(self) -> Any:
        """(n_tiles + 1,) the first hidden unit of every group, and the end"""
        return np.linspace(0, self.n_hidden, self.n_tiles + 1).round().astype(np.int64)

    @property
    def step(self) -> int:
        """Such that a wide unit sees about as many sites as the others."""
        return -(-self.n_tiles // SEEN)

    @cached_property
    def tiles_seen(self) -> Any:
        """(2, n_hidden) the first tile that each unit sees, and the end"""
        group = np.repeat(np.arange(self.n_tiles), np.diff(self.groups))
        wide = np.arange(self.n_hidden) < self.groups[group] + self.n_wide
        first, end = np.maximum(group - SEEN // 2, 0), np.minimum(group + SEEN // 2 + 1, self.n_tiles)
        return np.where(wide, [[0], [self.n_tiles]], [first, end])

    def parts(self, group: int) -> list[tuple[range, Any, slice]]:
        """The wide units of a group and the others: (units, the sites that they see, which of these are looked at for
        components)."""
        first, end = map(int, self.groups[group : group + 2])
        window = np.arange(*self.edges[self.tiles_seen[:, end - 1]])
        tile = slice(*(self.edges[group : group + 2] - window[0]))
        thinned = np.arange(group % self.step, self.n_sites, self.step)
        return [
            (range(first, first + self.n_wide), thinned, slice(None)),
            (range(first + self.n_wide, end), window, tile),
        ]

    def mask(self) -> Any:
        """(n_sites, n_hidden) of scipy.sparse, as ``--connections mask:FILE`` takes it"""
        parts = [part for group in range(self.n_tiles) for part in self.parts(group)]
        sites = [sites for units, sites, _ in parts for _ in units]
        offsets = np.r_[0, np.cumsum([len(one) for one in sites])]
        return scipy.sparse.csc_array(
            (np.ones(offsets[-1], bool), np.concatenate(sites).astype(np.int32), offsets),
            shape=(self.n_sites, self.n_hidden),
        )


def start_at_components(network: DeepBeliefNetwork, genomes: Any, windows: Windows) -> None:
    """First weights from principal components of each tile, and of thinned sites of the whole region, turned until they
    are nearly two-valued.  Collective.

    Small random weights would all find the same few directions first.  In units of the sites' standard deviations the
    weights are ``2 sqrt(1 - 1 / variance)`` times the components, those of the generalised Hopfield model (Cocco,
    Monasson and Sessak 2011); the range finder is that of Halko, Martinsson and Tropp (2011), the rotation iterative
    quantisation (Gong et al. 2013).
    """
    rbm = network.rbms[0]
    states = genomes.train.table.columns(np.arange(windows.n_sites)).states(genomes.train.rows)
    n = states.batch
    frequencies = np.clip(count_ones(states.rows).sum(axis=1) / n, 1 / n, 1 - 1 / n)
    some = np.linspace(0, n - 1, min(n, LOOKED_AT)).astype(np.int64)
    place, first, end = 0, int(rbm.hidden_ids[0]), int(rbm.hidden_ids[-1]) + 1
    for group in range(windows.n_tiles):
        for units, sites, inner in windows.parts(group):
            mine = range(max(units.start, first), min(units.stop, end))
            if not mine:
                continue
            values = unpack(Packed(states.words[sites], n))[:, some]
            W = patterns(values, frequencies[sites], inner, len(units), seed=group)
            W = W[:, mine.start - units.start : mine.stop - units.start]
            rbm.W[place : place + W.size] = W.T.ravel()
            rbm.c[mine.start - first : mine.stop - first] = -frequencies[sites] @ W
            place += W.size
    network.refresh()
    own = frequencies[rbm.visible_ids]
    rbm.b[:] = 0
    half = rbm.visible_input(np.full((len(rbm.hidden_ids), 1), 0.5, network.dtype))[:, 0]
    rbm.b[:] = np.log(own / (1 - own)) - half
    network.refresh()


def patterns(values: Any, frequencies: Any, inner: slice, n: int, *, seed: int) -> Any:
    """Weights (sites, n) of the units of a window.   values (sites, samples), of which ``inner`` has the components"""
    random, deviations = np.random.default_rng(seed), np.sqrt(frequencies * (1 - frequencies))[:, None]
    z = ((values - frequencies[:, None]) / deviations).astype(np.float32)
    seen, n_samples = z[inner], z.shape[1]
    directions = random.standard_normal((n_samples, min(n + SPARE, n_samples))).astype(np.float32)
    for _ in range(1 + POWERS):
        directions = np.linalg.qr(seen.T @ (seen @ directions))[0]
    _, sizes, turned = np.linalg.svd(seen @ directions, full_matrices=False)
    kept = min(n, int((sizes > 1e-3 * sizes[0]).sum()))
    scores, variances = directions @ turned[:kept].T, sizes[:kept] ** 2 / n_samples
    components = z @ scores / sizes[:kept] * np.sqrt(np.maximum(1 - 1 / variances, 0))
    rotation = np.linalg.qr(random.standard_normal((n, n)))[0][:kept]  # rows are orthonormal, where kept is less too
    for _ in range(ROTATIONS):
        left, _, right = np.linalg.svd((scores * sizes[:kept]).T @ np.sign(scores * sizes[:kept] @ rotation),
                                       full_matrices=False)  # fmt: skip
        rotation = left @ right
    return 2 * components @ rotation / deviations
