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

from modelpar.bench.peers.torch_peer import TorchRBM, set_up, torch
from modelpar.bench.peers.worker import ONES, WARM_STEPS, Measure, Order, parse, serve, unbind

dist: Any = import_module("torch.distributed")

RANKS = 2
PATIENCE = timedelta(minutes=5)


class TorchShard(TorchRBM):
    """W (n_hidden_owned, n_visible), b, c (n_hidden_owned,) and their velocities; b is the same on every rank.

    ``step`` is collective, with the same samples on every rank.  The visible draws come from a generator that all ranks
    seed alike: cheaper than to send states.
    """

    def __init__(self, n_samples: int, n_visible: int, n_hidden_owned: int, rank: int) -> None:
        own, shared = (torch.Generator().manual_seed(seed) for seed in (1 + rank, 0))
        super().__init__(n_samples, n_visible, n_hidden_owned, hidden_draws=own, visible_draws=shared)

    def add_up_votes(self) -> None:
        torch.mm(self.h, self.W, out=self.mean_v)
        dist.all_reduce(self.mean_v)
        self.mean_v.add_(self.b)


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
        """End the other ranks, and wait for their ends."""
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
        # The other ranks are told numbers of steps, each for a quarter of the time: a message a step would be slower.
        chunk = max(1, int(seconds / once / 4))
        started, steps, taken = time.perf_counter(), 0, 0.0
        while taken < seconds or not steps:
            rank.steps(chunk)
            steps += chunk
            taken = time.perf_counter() - started
        return {"samples_per_second": rank.n_samples * steps / taken, "steps": steps}

    return measure


def follow(order: Order) -> None:
    """The loop of a rank that is not the first."""
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
