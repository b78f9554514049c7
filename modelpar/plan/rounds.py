"""Collectives as rounds of messages between ranks: which rank sends which how much, one round after the other.

A rank begins a round when it has all that the round before brought it.  The names are those of the literature:

ring                 neighbours pass blocks on, p - 1 times
recursive doubling   partners at distance 1, 2, 4 ... exchange all that they have (Thakur, Rabenseifner and Gropp 2005)
recursive halving    partners at distance p / 2, p / 4 ... exchange the half that the other one goes on with (the same)
Bruck                at distance 1, 2, 4 ... around the ring, of any number of ranks (Bruck et al. 1997)
pairwise             every rank sends every other one its block, at distance 1, 2, 3 ... (Thakur et al. 2005)
neighbour exchange   pairs of neighbours in turn to the left and to the right, two blocks at a time (Chen et al. 2005)
Rabenseifner         a sum over all: recursive halving, then doubling (Rabenseifner 2004)

Sizes are bytes as floats, and may have leading dimensions, one entry for each group of ranks that does the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Round(NamedTuple):
    """Messages that travel at the same time.

    source, target  (m,) ranks of the group; rounds with the same messages share the arrays
    n_bytes         (..., m) of each message
    pieces          (..., m) or 1: sent one by one, the next when the one before is there; 0 bytes are 0 pieces
    adds            whether the receiver adds what it gets to what it has
    """

    source: IntArray
    target: IntArray
    n_bytes: FloatArray
    pieces: FloatArray | float = 1.0
    adds: bool = False


Rounds = Iterator[Round]


@lru_cache(maxsize=256)
def _shift(p: int, distance: int) -> tuple[IntArray, IntArray]:
    """Every rank sends to the one ``distance`` after it."""
    ranks = np.arange(p)
    return ranks, (ranks + distance) % p


def largest_power(p: int) -> int:
    """The largest power of two up to p."""
    return 1 << (p.bit_length() - 1)


# -- everybody gets everything (allgather) -----------------------------------------------------------------------------


def ring_gather(blocks: FloatArray, piece: float = np.inf) -> Rounds:
    """blocks (..., p) of each rank; longer ones than ``piece`` bytes are passed on piece by piece."""
    p = blocks.shape[-1]
    source, target = _shift(p, 1)
    pieces = np.ceil(blocks / piece) if np.isfinite(piece) else (blocks > 0).astype(float)
    twice, twice_pieces = np.concatenate([blocks, blocks], -1), np.concatenate([pieces, pieces], -1)
    for r in range(p - 1):  # rank i passes on the block of i - r
        yield Round(source, target, twice[..., p - r : 2 * p - r], twice_pieces[..., p - r : 2 * p - r])


def doubling_gather(blocks: FloatArray) -> Rounds:
    """blocks (..., p), p a power of two."""
    p = blocks.shape[-1]
    ranks, distance = np.arange(p), 1
    while distance < p:
        held = blocks.reshape(*blocks.shape[:-1], -1, distance).sum(-1)
        yield Round(ranks, ranks ^ distance, np.repeat(held, distance, -1))
        distance *= 2


def bruck_gather(blocks: FloatArray) -> Rounds:
    """blocks (..., p), of any number of ranks."""
    p = blocks.shape[-1]
    ends = np.cumsum(np.concatenate([np.zeros_like(blocks[..., :1]), blocks, blocks], -1), -1)
    distance = 1
    while distance < p:
        sent = min(distance, p - distance)  # rank i sends the blocks i, i + 1, ...
        yield Round(*_shift(p, -distance), ends[..., sent : sent + p] - ends[..., :p])
        distance *= 2


def neighbour_gather(blocks: FloatArray) -> Rounds:
    """blocks (..., p), p even: in the first round the own block, then two at a time."""
    p = blocks.shape[-1]
    ranks = np.arange(p)
    right = np.where(ranks % 2 == 0, ranks + 1, ranks - 1)  # the partner in even rounds
    left = np.where(ranks % 2 == 0, ranks - 1, ranks + 1) % p
    yield Round(ranks, right, blocks)
    new = (ranks // 2) * 2  # of each rank the first of the two blocks that came last
    pairs = blocks + blocks[..., right]
    for r in range(1, p // 2):
        partner = left if r % 2 else right
        yield Round(ranks, partner, pairs[..., new])
        new = new[partner]


# -- everybody gets the sum of its block (reduce-scatter) --------------------------------------------------------------


def pairwise_scatter(blocks: FloatArray) -> Rounds:
    """blocks (..., p)"""
    p = blocks.shape[-1]
    for distance in range(1, p):
        source, target = _shift(p, distance)
        yield Round(source, target, blocks[..., target], 1.0, True)


def ring_scatter(blocks: FloatArray) -> Rounds:
    """blocks (..., p): partial sums go around, and end at their owner."""
    p = blocks.shape[-1]
    source, target = _shift(p, 1)
    twice = np.concatenate([blocks, blocks], -1)
    for r in range(1, p):  # rank i passes on the block of i - r
        yield Round(source, target, twice[..., p - r : 2 * p - r], 1.0, True)


def halving_scatter(blocks: FloatArray) -> Rounds:
    """blocks (..., p): ranks above a power of two hand theirs to a neighbour first, and get their sums at the end."""
    p = blocks.shape[-1]
    left = p - largest_power(p)
    even, odd = np.arange(0, 2 * left, 2), np.arange(1, 2 * left, 2)
    if left:
        yield Round(even, odd, np.repeat(blocks.sum(-1, keepdims=True), left, -1), 1.0, True)
    whole = blocks[..., 2 * left :]
    folded = np.concatenate([blocks[..., even] + blocks[..., odd], whole], -1)
    yield from _halving(folded, np.concatenate([odd, np.arange(2 * left, p)]))
    if left:
        yield Round(odd, even, blocks[..., even])


def _halving(blocks: FloatArray, ranks: IntArray) -> Rounds:
    """blocks (..., q), q a power of two, of the ranks that are left"""
    q = blocks.shape[-1]
    places, distance = np.arange(q), q // 2
    while distance:
        sums = blocks.reshape(*blocks.shape[:-1], -1, distance).sum(-1)  # of the runs that a half consists of
        partner = places ^ distance
        yield Round(ranks, ranks[partner], sums[..., partner // distance], 1.0, True)
        distance //= 2


# -- everybody gets the sum (allreduce) --------------------------------------------------------------------------------


def doubling_sum(n_bytes: FloatArray, p: int) -> Rounds:
    """n_bytes (..., 1) of the vector"""
    left = p - largest_power(p)
    even, odd = np.arange(0, 2 * left, 2), np.arange(1, 2 * left, 2)
    ranks = np.concatenate([odd, np.arange(2 * left, p)])
    if left:
        yield Round(even, odd, np.repeat(n_bytes, left, -1), 1.0, True)
    distance = 1
    while distance < len(ranks):
        partner = ranks[np.arange(len(ranks)) ^ distance]
        yield Round(ranks, partner, np.repeat(n_bytes, len(ranks), -1), 1.0, True)
        distance *= 2
    if left:
        yield Round(odd, even, np.repeat(n_bytes, left, -1))


def rabenseifner_sum(n_bytes: FloatArray, p: int) -> Rounds:
    """n_bytes (..., 1) of the vector"""
    q = largest_power(p)
    left = p - q
    even, odd = np.arange(0, 2 * left, 2), np.arange(1, 2 * left, 2)
    ranks = np.concatenate([odd, np.arange(2 * left, p)])
    blocks = np.repeat(n_bytes / q, q, -1)
    if left:
        yield Round(even, odd, np.repeat(n_bytes, left, -1), 1.0, True)
    yield from _halving(blocks, ranks)
    for source, target, sent, pieces, _ in doubling_gather(blocks):
        yield Round(ranks[source], ranks[target], sent, pieces)
    if left:
        yield Round(odd, even, np.repeat(n_bytes, left, -1))


def ring_sum(n_bytes: FloatArray, p: int) -> Rounds:
    """n_bytes (..., 1) of the vector: reduce-scatter around the ring, then all-gather (Patarasuk and Yuan 2009)."""
    blocks = np.repeat(n_bytes / p, p, -1)
    yield from ring_scatter(blocks)
    yield from ring_gather(blocks)


def nodes_sum(n_bytes: FloatArray, nodes: IntArray, among: str) -> Rounds:
    """First to the first rank of each node, then among these, then back.

    Within a node through a binary tree in shared memory, cell after cell, so that all its levels work at once
    (MPICH's ``release_gather``; Jain et al. 2018).
    nodes   (p,) of each rank; among: ``doubling`` or ``rabenseifner``, between the first ranks
    """
    members = [np.flatnonzero(nodes == node) for node in np.unique(nodes)]
    first = np.array([ranks[0] for ranks in members])
    below = np.concatenate([ranks[1:] for ranks in members])
    above = np.concatenate([ranks[(np.arange(1, len(ranks)) - 1) // 2] for ranks in members])
    yield Round(below, above, np.repeat(n_bytes, len(below), -1), 1.0, True)
    algorithm = rabenseifner_sum if among == "rabenseifner" else doubling_sum
    for source, target, sent, pieces, adds in algorithm(n_bytes, len(first)):
        yield Round(first[source], first[target], sent, pieces, adds)
    yield Round(above, below, np.repeat(n_bytes, len(below), -1))
