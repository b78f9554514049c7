"""Haplotypes of people who do not exist: chains from haplotypes of the training set, and what is taken of their ends.

Between the sweeps of Gibbs sampling chains exchange the ends of their haplotypes (``crossovers``).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
from genomes.crossovers import exchange_ends
from genomes.windows import Windows
from scipy.special import expit

from modelpar import DeepBeliefNetwork
from modelpar.draws import Purpose
from modelpar.kernels.states import unpack
from modelpar.training.scoring import share_of_split
from modelpar.training.state import TrainingRun

CHAINS = 500
LAST_DRAWS = ("ranked", "mode", "independent")


def starts_of(genomes: Any, seed: int) -> Any:
    """The haplotypes of the training set that chains start at, ascending."""
    n = min(CHAINS, len(genomes.train))
    rows = np.random.default_rng(seed).choice(genomes.train.rows, n, replace=False)
    return replace(genomes.train, rows=np.sort(rows))


def sampled(
    asked: argparse.Namespace, network: DeepBeliefNetwork, genomes: Any, windows: Windows | None, starts: Any, seed: int
) -> tuple[Any, list[float]]:
    """(Samples (haplotypes, sites), bytes, on every rank; part of the ends exchanged, each time).  Collective.

    Chains are those of training, or start at ``starts``, as after CD: from elsewhere they would not come to all
    populations in so few sweeps."""
    rbm, chains, first = network.rbms[0], TrainingRun.of(network).chains, CHAINS * (seed - asked.seed)
    if chains is None:
        v, _ = share_of_split(network, genomes, starts)
        h = rbm.sample_hidden(v, Purpose.FANTASY, 2 * asked.more_sweeps + 1, first)
    else:
        h = chains.h
    exchanges = asked.exchanges if windows else 0
    at = {(k + 1) * asked.more_sweeps // (exchanges + 1) for k in range(exchanges)}
    exchanged = []
    for sweep in range(asked.more_sweeps):
        v = rbm.sample_visible(h, Purpose.FANTASY, 2 * sweep, first)
        if windows and sweep in at:
            v, part = exchange_ends(network, windows, v, seed=seed + sweep)
            exchanged.append(part)
        h = rbm.sample_hidden(v, Purpose.FANTASY, 2 * sweep + 1, first)
    if asked.last_draw == "independent":
        values = unpack(rbm.sample_visible(h, Purpose.FANTASY, 2 * asked.more_sweeps, first), np.uint8)
    else:
        x = rbm.visible_input(h)
        values = x > 0 if asked.last_draw == "mode" else ranked(x)
    return np.ascontiguousarray(network.whole_visible(values.astype(np.uint8)).T), exchanged


def ranked(x: Any) -> Any:
    """Which chains have the allele of each site: as many as are expected of independent draws with the probabilities
    1 / (1 + exp(-x)), and those that are the most probable to.   x, result (sites, chains)

    So frequencies of alleles stay, which the most probable value of each site would make smaller where they are small,
    and there is no noise.  Samples are no longer independent of each other.
    """
    expected = np.rint(expit(x).sum(axis=1, dtype=np.float64))
    order = np.argsort(-x, axis=1, kind="stable")
    values = np.empty(x.shape, bool)
    np.put_along_axis(values, order, np.arange(x.shape[1]) < expected[:, None], axis=1)
    return values
