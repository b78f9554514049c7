"""PCD in PyTorch, eager, single precision."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from modelpar.bench.peers.worker import MOMENTUM, ONES, RATE, Measure, Order, serve, timed

torch: Any = import_module("torch")  # a module that may be absent where types are checked


class TorchPCD:
    """W (n_hidden, n_visible), b, c, a velocity of W, and chains as hidden states (n_chains, n_hidden).

    Uniform draws are compared with the probabilities: ``torch.bernoulli`` takes several times as long.  Of categorical
    sites the state with the largest quotient of weight and exponential draw is taken, which is faster than
    ``torch.multinomial``.
    """

    def __init__(self, order: Order) -> None:
        _, n_visible, n_hidden = order.size
        self.sweeps, self.categories = order.sweeps, order.categories
        self.W = torch.randn(n_hidden, n_visible).mul_(0.01)
        self.velocity = torch.zeros_like(self.W)
        self.b, self.c = torch.zeros(n_visible), torch.zeros(n_hidden)
        self.h = (torch.rand(order.chains, n_hidden) < ONES).float()
        self.v = torch.empty(order.chains, n_visible)
        self.p, self.mean = torch.empty_like(self.h), torch.empty_like(self.v)
        self.draws_h, self.draws_v = torch.empty_like(self.h), torch.empty_like(self.v)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def step(self, v0: Any) -> None:
        """Learn from one minibatch (n_samples, n_visible) of states, and sweep the chains."""
        p0 = torch.addmm(self.c, v0, self.W.T).sigmoid_()
        for _ in range(self.sweeps):
            torch.addmm(self.b, self.h, self.W, out=self.mean)
            if self.categories:
                self._draw_sites()
            else:
                torch.lt(self.draws_v.uniform_(), self.mean.sigmoid_(), out=self.v)
            torch.addmm(self.c, self.v, self.W.T, out=self.p)
            torch.lt(self.draws_h.uniform_(), self.p.sigmoid_(), out=self.h)
        gradient = (p0.T @ v0).div_(len(v0)).addmm_(self.p.T, self.v, alpha=-1.0 / len(self.v))
        self.velocity.mul_(MOMENTUM).add_(gradient, alpha=RATE)
        self.W.add_(self.velocity)
        self.b.add_(v0.mean(0) - self.v.mean(0), alpha=RATE)
        self.c.add_(p0.mean(0) - self.p.mean(0), alpha=RATE)

    def _draw_sites(self) -> None:
        by_site = self.mean.view(len(self.mean), -1, self.categories)
        noise = self.draws_v.view(by_site.shape).exponential_().log_()
        chosen = by_site.sub_(noise).argmax(dim=-1, keepdim=True)
        self.v.zero_()
        self.v.view(by_site.shape).scatter_(-1, chosen, 1.0)


def prepare(order: Order) -> Measure:
    torch.set_num_threads(order.threads)
    torch.manual_seed(0)
    rbm = TorchPCD(order)
    v0 = (torch.rand(order.size[0], order.size[1]) < ONES).float()
    if order.categories:
        sites = torch.randint(0, order.categories, (order.size[0], order.size[1] // order.categories))
        v0 = torch.nn.functional.one_hot(sites, order.categories).view(v0.shape).float()
    return timed(lambda: rbm.step(v0), order.chains * order.sweeps, warm_steps=1)


if __name__ == "__main__":
    serve(prepare)
