"""CD-1 in PyTorch: eager, compiled, and with products in bfloat16 (``set_float32_matmul_precision("medium")``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from modelpar.bench.peers.worker import DECAY, MOMENTUM, ONES, RATE, Measure, Order, serve, timed

torch: Any = import_module("torch")  # a module that may be absent where types are checked

Tensor = Any

TRIES = 3


class TorchRBM:
    """W (n_hidden, n_visible), as in ``torch.nn.Linear``, b, c, and a velocity of each.

    Both phases of the statistics are one product, as ``addmm_`` on the velocity.  Uniform draws are compared with the
    probabilities: ``torch.bernoulli`` of a tensor takes several times as long.
    """

    def __init__(
        self, n_samples: int, n_visible: int, n_hidden: int, *, hidden_draws: Any = None, visible_draws: Any = None
    ) -> None:
        """``hidden_draws`` and ``visible_draws`` are generators; PyTorch's own where None."""
        self.hidden_draws, self.visible_draws = hidden_draws, visible_draws
        self.W = torch.randn(n_hidden, n_visible, generator=hidden_draws).mul_(0.01)
        self.b, self.c = torch.zeros(n_visible), torch.zeros(n_hidden)
        self.velocity_W, self.velocity_b, self.velocity_c = (torch.zeros_like(x) for x in (self.W, self.b, self.c))
        self.v = torch.empty(2 * n_samples, n_visible)  # states of the data, then of the model
        self.p = torch.empty(2 * n_samples, n_hidden)  # probabilities likewise, the model's negative
        self.h, self.draws_h = torch.empty(n_samples, n_hidden), torch.empty(n_samples, n_hidden)
        self.mean_v, self.draws_v = torch.empty(n_samples, n_visible), torch.empty(n_samples, n_visible)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def step(self, v0: Tensor) -> None:
        """Learn from one minibatch.   v0 (n_samples, n_visible), states"""
        n = len(v0)
        self.v[:n] = v0
        v1, p0, p1 = self.v[n:], self.p[:n], self.p[n:]
        torch.addmm(self.c, v0, self.W.T, out=p0)
        torch.lt(self.draws_h.uniform_(generator=self.hidden_draws), p0.sigmoid_(), out=self.h)
        self.add_up_votes()
        torch.lt(self.draws_v.uniform_(generator=self.visible_draws), self.mean_v.sigmoid_(), out=v1)
        torch.addmm(self.c, v1, self.W.T, out=p1)
        p1.sigmoid_().neg_()
        gain = RATE / n
        self.velocity_W.addmm_(self.p.T, self.v, beta=MOMENTUM, alpha=gain).add_(self.W, alpha=-RATE * DECAY)
        self.velocity_b.mul_(MOMENTUM).add_((v0 - v1).sum(0), alpha=gain)
        self.velocity_c.mul_(MOMENTUM).add_(self.p.sum(0), alpha=gain)
        self.W.add_(self.velocity_W)
        self.b.add_(self.velocity_b)
        self.c.add_(self.velocity_c)

    def add_up_votes(self) -> None:
        """``mean_v`` before the sigmoid: the biases and the hidden units' votes."""
        torch.addmm(self.b, self.h, self.W, out=self.mean_v)

    @property
    def state(self) -> tuple[Tensor, ...]:
        return self.W, self.b, self.c, self.velocity_W, self.velocity_b, self.velocity_c


def functional_step(
    v0: Tensor, W: Tensor, b: Tensor, c: Tensor, velocity_W: Tensor, velocity_b: Tensor, velocity_c: Tensor
) -> None:
    """The same step for the compiler: no arrays to fill, so that it can fuse what lies between products."""
    p0 = torch.sigmoid(torch.addmm(c, v0, W.T))
    h = (torch.rand_like(p0) < p0).to(p0.dtype)
    mean_v = torch.sigmoid(torch.addmm(b, h, W))
    v1 = (torch.rand_like(mean_v) < mean_v).to(p0.dtype)
    p1 = torch.sigmoid(torch.addmm(c, v1, W.T))
    gain = RATE / len(v0)
    gradient = torch.mm(p0.T, v0) - torch.mm(p1.T, v1)
    velocity_W.mul_(MOMENTUM).add_(gradient, alpha=gain).add_(W, alpha=-RATE * DECAY)
    velocity_b.mul_(MOMENTUM).add_((v0 - v1).sum(0), alpha=gain)
    velocity_c.mul_(MOMENTUM).add_((p0 - p1).sum(0), alpha=gain)
    W.add_(velocity_W)
    b.add_(velocity_b)
    c.add_(velocity_c)


def compiled() -> Callable[..., None]:
    """``functional_step`` compiled; draws come from the eager generator, which is faster than the compiler's own."""
    made = torch.compile(functional_step, fullgraph=True, dynamic=False, options={"fallback_random": True})
    inference: Callable[..., None] = torch.inference_mode()(made)
    return inference


def set_up(threads: int, variant: str) -> None:
    """Threads and precision of this process."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("medium" if variant == "medium" else "highest")


def fastest(steps: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """The step that takes the least time, of those that run here.  Raises what the last one raises where none does."""
    times: list[tuple[float, int]] = []
    for number, step in enumerate(steps):
        try:
            step()
        except Exception:  # there is no compiler, for example
            if not times and number == len(steps) - 1:
                raise
            continue
        times.append((min(_seconds_of(step) for _ in range(TRIES)), number))
    return steps[min(times)[1]]


def _seconds_of(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def prepare(order: Order) -> Measure:
    set_up(order.threads, order.variant)
    n_samples, n_visible, n_hidden = order.size
    torch.manual_seed(0)
    rbm = TorchRBM(n_samples, n_visible, n_hidden)
    v0 = (torch.rand(n_samples, n_visible) < ONES).float()
    steps: list[Callable[[], object]] = []
    if order.variant != "compile":
        steps.append(lambda: rbm.step(v0))
    if order.variant != "eager":  # with products in bfloat16 either is the faster one, by a few percent
        fused = compiled()
        steps.append(lambda: fused(v0, *rbm.state))
    return timed(fastest(steps), n_samples)


if __name__ == "__main__":
    serve(prepare)
