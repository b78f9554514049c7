"""Time of an iteration, by rates, latencies and bandwidths.  Pure arithmetic, fitted to measured points.

An iteration is one step of every replica.  Its time is that of the arithmetic plus that of what travels:

    overhead + samples x weights / rate + messages x latency + bytes / bandwidth

On one node messages go through memory, between nodes over each node's link, which its tasks share.  What travels, for n
parameters of four bytes on R replicas (t tasks on each of N nodes):

allreduce   Rabenseifner 2004: 2 log2 R messages, 2 (R - 1) / R x 4 n bytes by each; between nodes, 2 (N - 1) / N x 4 n
            bytes of each task cross the node's link
local       the same twice (parameters and velocities), every ``period`` iterations
server      each replica fetches and pushes all n parameters, of which (R - 1) / R lie on others and (N - 1) / N on
            other nodes; 2 R messages
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, log2
from typing import Any

import numpy as np
from scipy.optimize import nnls

PERIOD = 10  # of Local SGD


@dataclass(frozen=True)
class Point:
    """A configuration, and its measured seconds where there are any."""

    strategy: str
    nodes: int
    tasks: int  # on each node
    batch: int  # samples of a replica
    layers: tuple[int, ...]  # with the classes
    seconds: float | None = None

    @property
    def replicas(self) -> int:
        return self.nodes * self.tasks

    @property
    def weights(self) -> int:
        return sum(a * b for a, b in zip(self.layers, self.layers[1:], strict=False))

    @property
    def parameters(self) -> int:
        return self.weights + sum(self.layers[1:])


NAMES = (
    "overhead", "arithmetic", "update", "near latency", "near bytes", "far latency", "far bytes", "server near latency",
    "server near bytes", "server far latency", "server far bytes",
)  # fmt: skip


def features(p: Point) -> np.ndarray:
    """(len(NAMES),) what each constant is multiplied with, so that the time is their product."""
    f = dict.fromkeys(NAMES, 0.0)
    r, n_bytes = p.replicas, 4.0 * p.parameters
    f["overhead"], f["arithmetic"], f["update"] = 1.0, 6.0 * p.batch * p.weights, n_bytes
    if r > 1 and p.strategy != "server":
        times = 2 / PERIOD if p.strategy == "local" else 1.0
        parts = len(p.layers) - 1
        messages = 2 * ceil(log2(r)) * parts
        kind = "far" if p.nodes > 1 else "near"
        crossing = 2 * (p.nodes - 1) / p.nodes * n_bytes * p.tasks if p.nodes > 1 else 2 * (r - 1) / r * n_bytes
        f[f"{kind} latency"], f[f"{kind} bytes"] = times * messages, times * crossing
    if p.strategy == "server":
        kind = "far" if p.nodes > 1 else "near"
        share = (p.nodes - 1) / p.nodes * p.tasks if p.nodes > 1 else (r - 1) / r
        f[f"server {kind} latency"] = 2.0 * r
        f[f"server {kind} bytes"] = 2 * share * n_bytes
        f["update"] += 2 * n_bytes  # what is kept, compared and added on the replica's own side
    return np.array([f[name] for name in NAMES])


@dataclass(frozen=True)
class Machine:
    """Constants of the model, each at least 0."""

    constants: tuple[float, ...]

    def seconds(self, p: Point) -> float:
        return float(features(p) @ np.array(self.constants))

    def scaled(self, link: float, core: float) -> Machine:
        """With links between nodes ``link`` times faster, and cores ``core`` times slower."""
        factor = {"arithmetic": core, "update": core, "overhead": core}
        factor |= {name: 1 / link for name in NAMES if "far" in name}
        return Machine(tuple(c * factor.get(name, 1.0) for name, c in zip(NAMES, self.constants, strict=True)))

    @classmethod
    def fitted(cls, points: list[Point]) -> Machine:
        """Least squares of the relative errors, constants not negative (Lawson and Hanson 1974)."""
        A = np.array([features(p) / p.seconds for p in points])
        scale = np.where(A.max(axis=0) > 0, A.max(axis=0), 1.0)
        found, _ = nnls(A / scale, np.ones(len(points)))
        return cls(tuple(found / scale))

    def errors(self, points: list[Point]) -> list[float]:
        """Relative errors of what it predicts."""
        return [self.seconds(p) / p.seconds - 1 for p in points if p.seconds]


def as_json(p: Point) -> dict[str, Any]:
    return asdict(p)


def from_json(found: dict[str, Any]) -> Point:
    return Point(**{**found, "layers": tuple(found["layers"])})
