"""Messages through the devices of nodes: when each begins, and when it has arrived.

A message of n bytes between two nodes occupies the sender's device for n / bandwidth seconds, the switches above for
their part, and latency later the receiver's device for as long; it passes through while it still comes in (cut-through,
so that alone it takes latency + n / bandwidth: Hockney 1994).  A device takes messages one by one as they come; so
what k ranks of a node send at once takes as long as k such messages, and no device works while nothing is there.
Within a node a rank takes what other ranks have for it one by one.  What a device is still busy with delays the
messages of later rounds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from modelpar.plan.machine import Machine
from modelpar.plan.rounds import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]
EAGER = 65536.0  # bytes: longer messages wait until their receiver is there (rendezvous)


class _Paths(NamedTuple):
    """What depends on where messages go, and not on their sizes."""

    far: BoolArray
    latency: FloatArray
    service: FloatArray  # seconds a byte
    out: IntArray  # device of each sender: of its node, or its own where the message stays on the node
    arriving: IntArray  # that of each receiver
    alone: bool  # no two messages share a device
    any_far: bool


class Queues:
    """The devices of a machine, and until when each is busy.

    node_of_rank   (ranks,)
    """

    def __init__(self, machine: Machine, node_of_rank: IntArray) -> None:
        self.machine, self.node = machine, node_of_rank
        n_nodes, n_ranks = int(node_of_rank.max(initial=-1)) + 1, len(node_of_rank)
        self._n_nodes = n_nodes
        self._busy_out = np.zeros(n_nodes + n_ranks)
        self._busy_in = np.zeros(n_nodes + n_ranks)
        self._busy_above = np.zeros(1)
        self._last: tuple[IntArray, IntArray, _Paths] | None = None

    def deliver(
        self, source: IntArray, target: IntArray, n_bytes: FloatArray, pieces: FloatArray | float, ready: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """(when each message has left its sender, when it has arrived), for messages that are ready at ``ready`` (m,).

        source, target (m,) ranks; n_bytes (m,); pieces: each of which has the latency
        """
        paths = self._paths(source, target)
        service, latency = n_bytes * paths.service, paths.latency * pieces
        if paths.alone and not paths.any_far:
            begun = np.maximum(ready, self._busy_in[paths.arriving])
            done = begun + latency + service
            self._busy_in[paths.arriving] = done
            return done, done
        sending = np.where(paths.far, service, 0.0)  # within a node the receiver copies
        begun = self._serve(self._busy_out, paths.out, ready, sending, paths.alone)
        left = begun + sending
        if self.machine.oversubscription > 1 and paths.any_far:
            above = sending * (self.machine.oversubscription / self._n_nodes)
            through = self._serve(self._busy_above, np.zeros(len(source), np.int64), begun, above, False)
            left, begun = np.maximum(left, through + above), through
        arrives = self._serve(self._busy_in, paths.arriving, begun + latency, service, paths.alone)
        return left, np.maximum(arrives + service, left + latency)

    def _paths(self, source: IntArray, target: IntArray) -> _Paths:
        if self._last is not None and self._last[0] is source and self._last[1] is target:
            return self._last[2]
        within, between = self.machine.within, self.machine.between
        start, end = self.node[source], self.node[target]
        far = start != end
        out = np.where(far, start, self._n_nodes + source)
        arriving = np.where(far, end, self._n_nodes + target)
        most = max(int(np.bincount(keys).max(initial=0)) for keys in (out, arriving))
        paths = _Paths(
            far,
            np.where(far, between.latency, within.latency),
            np.where(far, 1 / between.bandwidth, 1 / within.bandwidth),
            out,
            arriving,
            most <= 1,
            bool(far.any()),
        )
        self._last = source, target, paths
        return paths

    @staticmethod
    def _serve(busy: FloatArray, device: IntArray, ready: FloatArray, service: FloatArray, alone: bool) -> FloatArray:
        """When each message begins at its device, which takes them in the order in which they are ready.

        busy (devices,) is moved on by what is served, and not by the pauses between messages: those of later rounds,
        of ranks that are ahead, may come in them.  So a device never serves more than it can, and a rank that is late
        holds up no other one of its node.
        """
        if alone:
            begun = np.maximum(ready, busy[device])
            busy[device] = begun + service
            return begun
        order = np.argsort(ready, kind="stable")
        small = device.astype(np.int16) if len(busy) < 1 << 15 else device  # integers of 16 bits are sorted by radix
        order = order[np.argsort(small[order], kind="stable")]
        keys, times, spans = device[order], ready[order], service[order]
        first = np.r_[True, keys[1:] != keys[:-1]]
        times = np.where(first, np.maximum(times, busy[keys]), times)
        # begun_i = max over the messages j <= i of the device of (ready_j + what is served from j to before i)
        served = np.cumsum(spans) - spans
        at = np.flatnonzero(first)
        run = np.cumsum(first) - 1
        served -= served[at][run]
        slack = times - served
        # one running maximum for all devices: each has an offset above those before it
        offset = run * (float(np.ptp(slack)) + 1.0 if len(slack) else 1.0)
        begun = np.maximum.accumulate(slack + offset) - offset + served
        busy[keys[at]] = begun[at] + np.add.reduceat(spans, at)
        result = np.empty_like(begun)
        result[order] = begun
        return result
