"""PCD by the package ``rbms``: its own step, ``fit_batch_pcd``, with the centred gradient that it takes by default."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from modelpar.bench.peers.worker import ONES, RATE, Measure, Order, serve, timed


def prepare(order: Order) -> Measure:
    torch: Any = import_module("torch")
    pcd: Any = import_module("rbms.training.pcd")
    torch.set_num_threads(order.threads)
    torch.manual_seed(0)
    n_samples, n_visible, n_hidden = order.size
    if order.categories:
        potts: Any = import_module("rbms.potts_bernoulli.classes")
        shape = n_visible // order.categories, order.categories
        rbm = potts.PBRBM(torch.randn(*shape, n_hidden) * 0.01, torch.zeros(*shape), torch.zeros(n_hidden))
        data = torch.randint(0, order.categories, (n_samples, shape[0])).float()
    else:
        classes: Any = import_module("rbms.bernoulli_bernoulli.classes")
        rbm = classes.BBRBM(torch.randn(n_visible, n_hidden) * 0.01, torch.zeros(n_visible), torch.zeros(n_hidden))
        data = (torch.rand(n_samples, n_visible) < ONES).float()
    for parameter in rbm.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.SGD(rbm.parameters(), lr=RATE, maximize=True)
    batch = data, torch.ones(n_samples, 1)
    chains = rbm.init_chains(order.chains)

    def step() -> None:
        nonlocal chains
        optimizer.zero_grad(set_to_none=False)
        chains, _ = pcd.fit_batch_pcd(
            batch=batch, parallel_chains=chains, params=rbm, gibbs_steps=order.sweeps, beta=1.0, centered=True
        )
        optimizer.step()

    return timed(step, order.chains * order.sweeps, warm_steps=1)


if __name__ == "__main__":
    serve(prepare)
