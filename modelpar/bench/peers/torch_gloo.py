"""CD-1 in PyTorch with tensor parallelism: two processes, each with half of the hidden units, over gloo.

Products to the hidden units and statistics are local; votes for the visible units are added by an all-reduce.
"""

from __future__ import annotations

import atexit
import subprocess
import sys
import time
from datetime import timedelta
from importlib import import_module
from typing import Any

from modelpar.bench.peers.torch_peer import set_up, torch
from modelpar.bench.peers.worker import DECAY, MOMENTUM, ONES, RATE, WARM_STEPS, Measure, Order, parse, serve, unbind

dist: Any = import_module("torch.distributed")

Tensor = Any

RANKS = 2
PATIENCE = timedelta(minutes=5)


class TorchShard:
    """W (n_hidden_owned, n_visible), b, c (n_hidden_owned,) and their velocities; b is the same on every rank.

    The visible draws come from a generator that all ranks seed alike: cheaper than to send states.
    """

    def __init__(self, n_samples: int, n_visible: int, n_hidden_owned: int, rank: int) -> None:
        self.own, self.shared = (torch.Generator().manual_seed(seed) for seed in (1 + rank, 0))
        self.W = torch.randn(n_hidden_owned, n_visible, generator=self.own).mul_(0.01)
        self.b, self.c = torch.zeros(n_visible), torch.zeros(n_hidden_owned)
        self.velocity_W, self.velocity_b, self.velocity_c = (torch.zeros_like(x) for x in (self.W, self.b, self.c))
        self.v, self.p = torch.empty(2 * n_samples, n_visible), torch.empty(2 * n_samples, n_hidden_owned)
        self.h, self.draws_h = (torch.empty(n_samples, n_hidden_owned) for _ in range(2))
        self.votes, self.draws_v = (torch.empty(n_samples, n_visible) for _ in range(2))

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def step(self, v0: Tensor) -> None:
        """Learn from one minibatch.   v0 (n_samples, n_visible), states, the same on every rank.  Collective."""
        n = len(v0)
        self.v[:n] = v0
        v1, p0, p1 = self.v[n:], self.p[:n], self.p[n:]
        torch.addmm(self.c, v0, self.W.T, out=p0)
        torch.lt(self.draws_h.uniform_(generator=self.own), p0.sigmoid_(), out=self.h)
        torch.mm(self.h, self.W, out=self.votes)
        dist.all_reduce(self.votes)
        self.votes.add_(self.b).sigmoid_()
        torch.lt(self.draws_v.uniform_(generator=self.shared), self.votes, out=v1)
        torch.addmm(self.c, v1, self.W.T, out=p1)
        p1.sigmoid_().neg_()
        gain = RATE / n
        self.velocity_W.addmm_(self.p.T, self.v, beta=MOMENTUM, alpha=gain).add_(self.W, alpha=-RATE * DECAY)
        self.velocity_b.mul_(MOMENTUM).add_((v0 - v1).sum(0), alpha=gain)
        self.velocity_c.mul_(MOMENTUM).add_(self.p.sum(0), alpha=gain)
        self.W.add_(self.velocity_W)
        self.b.add_(self.velocity_b)
        self.c.add_(self.velocity_c)


class Rank:
    """This process as one of the ranks; rank 0 starts the others and tells them how many steps to take."""

    def __init__(self, order: Order) -> None:
        set_up(order.threads, order.variant)
        first = order.rank == 0
        store = dist.TCPStore("127.0.0.1", order.port, RANKS, first, PATIENCE, wait_for_workers=False)
        self.others = [start(order, rank, store.port) for rank in range(1, RANKS)] if first else []
        dist.init_process_group("gloo", store=store, rank=order.rank, world_size=RANKS, timeout=PATIENCE)
        n_samples, n_visible, n_hidden = order.size
        owned = n_hidden * (order.rank + 1) // RANKS - n_hidden * order.rank // RANKS
        self.shard = TorchShard(n_samples, n_visible, owned, order.rank)
        drawn = torch.rand(n_samples, n_visible, generator=torch.Generator().manual_seed(2))
        self.n_samples, self.v0 = n_samples, (drawn < ONES).float()

    def steps(self, n: int) -> None:
        """Take ``n`` steps, on every rank."""
        for other in self.others:
            other.stdin.write(f"{n}\n")
            other.stdin.flush()
        for _ in range(n):
            self.shard.step(self.v0)

    def dismiss(self) -> None:
        """End the other ranks, and see them gone."""
        for other in self.others:
            other.communicate()  # it ends with its input


def start(order: Order, rank: int, port: int) -> Any:
    """The process of one more rank, which reads its numbers of steps from its input."""
    size = "x".join(map(str, order.size))
    options = ["--size", size, "--threads", order.threads, "--variant", order.variant, "--rank", rank, "--port", port]
    command = [sys.executable, "-m", "modelpar.bench.peers.torch_gloo", *map(str, options)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def prepare(order: Order) -> Measure:
    rank = Rank(order)
    atexit.register(rank.dismiss)
    rank.steps(WARM_STEPS)
    started = time.perf_counter()
    rank.steps(1)
    once = time.perf_counter() - started

    def measure(seconds: float) -> dict[str, Any]:
        rank.steps(1)  # the others' rounds have taken the caches
        # Some numbers of steps, each a quarter of the time: a rank that had to ask before every step would be slower.
        chunk = max(1, int(seconds / once / 4))
        started, steps, taken = time.perf_counter(), 0, 0.0
        while taken < seconds or not steps:
            rank.steps(chunk)
            steps += chunk
            taken = time.perf_counter() - started
        return {"samples_per_second": rank.n_samples * steps / taken, "steps": steps}

    return measure


def follow(order: Order) -> None:
    """The life of a rank that is not the first."""
    rank = Rank(order)
    for line in sys.stdin:
        rank.steps(int(line))


if __name__ == "__main__":
    given = parse(sys.argv[1:])
    unbind(RANKS * given.threads)
    if given.rank:
        follow(given)
    else:
        serve(prepare)
