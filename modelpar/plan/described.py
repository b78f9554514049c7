"""Steps of networks whose connections are described and never listed: tiles of an image, and random ones.

A network of a billion connections has tables of tens of gigabytes, but what its shards compute and send follows from a
few numbers.  The pieces are those of :func:`modelpar.plan.steps.step_of` for CD-1 on states in the first RBM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from modelpar.plan.pieces import Compute, Move, Piece, Step, with_calls
from modelpar.plan.rates import CoreRates
from modelpar.plan.steps import whole_words

FloatArray = npt.NDArray[np.float64]
WORD = 64  # samples of a word of bits, of 8 bytes


@dataclass(frozen=True)
class Described:
    """What shards of a network with listed connections hold and exchange.

    n_visible, n_hidden  (n_shards,) owned units
    up, down             (n_shards,) connections of the owned hidden, and of the owned visible units
    held                 (n_shards,) connections that have an end there
    visible, hidden      (n_shards, n_shards) CSR, units that a shard (row) sends to another (column)
    works                the rates of their lists: ``listed`` of fields, or ``scattered`` (``plan.rates``)
    """

    n_visible: FloatArray
    n_hidden: FloatArray
    up: FloatArray
    down: FloatArray
    held: FloatArray
    visible: Any
    hidden: Any
    works: str = "listed"

    @property
    def n_connections(self) -> float:
        return float(self.up.sum())

    @classmethod
    def tiles(cls, side: int, field: int, maps: int, rows: int, columns: int) -> Described:
        """An image of side x side pixels and ``maps`` of untied fields of field x field pixels, wherever they fit
        (``ownership.connections.Local``); shard after shard has a tile of pixels, rows x columns of them, and the
        hidden units whose fields have their middle there (Dean et al. 2012)."""
        sides = [_Side.of(side, field, parts) for parts in (rows, columns)]

        def product(of: str) -> Any:
            return sparse.kron(*(sparse.csr_array(getattr(one, of)) for one in sides), format="csr")

        pixels, places = (np.outer(*(getattr(one, of) for one in sides)).reshape(-1) for of in ("pixels", "places"))
        between = product("edges") * float(maps)  # connections of a shard's hidden units with a shard's pixels
        up, down = (np.asarray(between.sum(axis)).reshape(-1) for axis in (1, 0))
        return cls(
            pixels, places * maps, up, down, up + down - between.diagonal(),
            _without_own(product("seen")), _without_own(product("seeing")) * float(maps),
        )  # fmt: skip

    @classmethod
    def random(cls, n_visible: int, n_hidden: int, degree: int, n_shards: int) -> Described:
        """Every hidden unit has ``degree`` visible units drawn at random; expectations, with equal shards."""
        p, ones = n_shards, np.ones(n_shards)
        v, h = n_visible / p, n_hidden / p
        n, edges = n_hidden * degree / p, h * degree / p  # connections of a shard's units, of those with one shard
        # a visible unit is seen from a shard, and a hidden unit sees a shard, unless all connections miss
        seen = v * (1 - (1 - degree / n_visible) ** h)
        sees = h * (1 - (1 - 1 / p) ** degree)
        others = sparse.csr_array(np.ones((p, p)) - np.eye(p))
        return cls(
            v * ones, h * ones, n * ones, n * ones, (2 * n - edges) * ones, others * seen, others * sees, "scattered"
        )

    def step(self, rates: CoreRates, planes: int, batch: int, *, behind: bool = False) -> Step:
        """CD-1 with statistics of so many bits, on ``batch`` samples; plain gradients.

        behind   let the statistic of the data travel while visible units are drawn, which do not need it
        """
        words = 8.0 * -(-batch // WORD)

        def compute(part: str, work: str, sizes: FloatArray) -> Compute:
            samples = whole_words(batch) if part == "statistics" else batch
            return Compute(part, np.array([rates.seconds(work, size, samples) for size in sizes.tolist()]))

        def halo(units: Any, n_planes: int, behind: int = 0) -> Move:
            pairs = units * (words * n_planes)
            return Move("halo", "shard", "bits", np.asarray(pairs.sum(0)).reshape(-1), pairs, behind)

        up = [compute("products", f"{self.works}.up", self.up), compute("sampling", f"draw.{planes}", self.n_hidden)]
        step: list[Piece] = [*up, halo(self.hidden, 1)]
        if planes > 1:
            step.append(halo(self.hidden, planes, int(behind)))
        step.append(compute("products", f"{self.works}.down", self.down))
        step.append(compute("sampling", "draw.visible", self.n_visible))
        step += [halo(self.visible, 1), *up, halo(self.hidden, planes)]
        step.append(compute("statistics", f"{self.works}.learn.{planes}", self.held))
        pieces = [piece for piece in step if isinstance(piece, Compute) or piece.received.any()]
        return with_calls(pieces, rates.call, len(self.up))


@dataclass(frozen=True)
class _Side:
    """One side of an image: its pixels and the places of fields, in parts.

    seen    (parts, parts) pixels of a part (row) that are in a field of another (column)
    seeing  (parts, parts) places of a part (row) whose fields have a pixel of another (column)
    edges   (parts, parts) places of a part (row) with pixels of another (column)
    """

    pixels: FloatArray
    places: FloatArray
    seen: FloatArray
    seeing: FloatArray
    edges: FloatArray

    @classmethod
    def of(cls, side: int, field: int, parts: int) -> _Side:
        bounds = np.arange(parts + 1) * side // parts
        middle, last = field // 2, side - field + 1
        firsts = np.clip(bounds - middle, 0, last)  # places of a part: from its first to before the next part's
        firsts[0], firsts[-1] = 0, last
        low, high = bounds[:-1], bounds[1:]
        some = np.diff(firsts) > 0
        ends = np.where(some, firsts[1:] - 1 + field, firsts[:-1])  # of the pixels that a part sees
        seen = np.minimum(high[:, None], ends) - np.maximum(low[:, None], firsts[:-1])
        seeing = np.minimum(firsts[1:, None], high) - np.maximum(firsts[:-1, None], low - field + 1)
        starts = np.arange(last)
        overlap = np.minimum(high[:, None], starts + field) - np.maximum(low[:, None], starts)
        totals = np.cumsum(np.pad(np.maximum(overlap, 0), ((0, 0), (1, 0))), axis=1)
        edges = (totals[:, firsts[1:]] - totals[:, firsts[:-1]]).T
        return cls(
            np.diff(bounds).astype(float), np.diff(firsts).astype(float), np.maximum(seen, 0).astype(float),
            np.maximum(seeing, 0).astype(float), edges.astype(float),
        )  # fmt: skip


def _without_own(pairs: Any) -> Any:
    pairs = sparse.csr_array(pairs - sparse.diags_array(pairs.diagonal()))
    pairs.eliminate_zeros()
    return pairs
