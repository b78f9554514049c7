"""Fine-tuning in PyTorch: sigmoid units, cross-entropy, SGD with momentum; eager, and with products in bfloat16."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from typing import Any

from modelpar.bench.peers.torch_peer import set_up
from modelpar.bench.peers.worker import MOMENTUM, RATE, Measure, Order, serve, timed

torch: Any = import_module("torch")  # a module that may be absent where types are checked


class TorchTuning:
    """A stack of ``torch.nn.Linear`` and ``torch.nn.Sigmoid``, the last layer linear, with gradients by autograd."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        """layers   units of each, the classes last"""
        modules: list[Any] = []
        for below, above in pairwise(layers):
            modules += [torch.nn.Linear(below, above), torch.nn.Sigmoid()]
        self.network = torch.nn.Sequential(*modules[:-1])
        self.loss = torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=RATE, momentum=MOMENTUM)

    def step(self, v: Any, labels: Any) -> None:
        """Learn from one minibatch.   v (n_samples, n_visible), labels (n_samples,)"""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.network(v), labels).backward()
        self.optimizer.step()


def prepare(order: Order) -> Measure:
    set_up(order.threads, order.variant)
    torch.manual_seed(0)
    n_samples, layers = order.size[0], order.layers
    tuning = TorchTuning(layers)
    v, labels = torch.rand(n_samples, layers[0]), torch.arange(n_samples) % layers[-1]
    return timed(lambda: tuning.step(v, labels), n_samples)


if __name__ == "__main__":
    serve(prepare)
