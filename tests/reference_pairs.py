"""RBMs of every pair of kinds in plain NumPy: sums over states, quadrature over what is real, and exact samples.

Visible units: states (of sites or of single units), or Gaussian ones with precisions.  Hidden units: states, or real
values.  Everything is float64, and small enough that all states, or a grid over the hidden values, are visited.
"""

from __future__ import annotations

import numpy as np

from tests.reference_real import RealRBM, potential

PANELS = np.linspace(-18, 18, 19)
_X, _W = np.polynomial.legendre.leggauss(10)
NODES = ((PANELS[1:] + PANELS[:-1])[:, None] / 2 + np.diff(PANELS)[:, None] / 2 * _X).ravel()
WEIGHTS = (np.diff(PANELS)[:, None] / 2 * _W).ravel()
NEAR = np.abs(NODES) < 14  # those of a grid over two hidden units


class PairRBM(RealRBM):
    """``nodes`` (n,) and ``weights`` (n,) of a hidden unit's sums: its two states, or those of a quadrature."""

    def __init__(self, W, b, c, kind, own, **options):
        super().__init__(W, b, c, kind, own, **options)
        states = kind == "bernoulli"
        self.nodes, self.weights = (np.array([0.0, 1.0]), np.ones(2)) if states else (NODES, WEIGHTS)

    def potentials(self, h):
        if self.kind == "bernoulli":
            return np.zeros((len(self.c), len(h)))
        return np.array([potential(self.kind, h, *own) for own in self.potential.T])

    def log_weights(self, x):
        """(n_hidden, batch, nodes) of the conditional distributions given the inputs x"""
        return x[:, :, None] * self.nodes - self.potentials(self.nodes)[:, None, :] + np.log(self.weights)

    def expectations(self, x, *functions):
        log_w = self.log_weights(x)
        top = log_w.max(axis=2, keepdims=True)
        w = np.exp(log_w - top)
        mass = w.sum(axis=2)
        return np.log(mass) + top[:, :, 0], [np.einsum("jbn,jn->jb", w, f) / mass for f in functions]

    def mean(self, x):
        return self.expectations(x, np.broadcast_to(self.nodes, (len(x), len(self.nodes))))[1][0]

    def slopes(self, x, e=1e-5):
        """(parameters, n_hidden, batch): E[-dU/dp | x], dU/dp at the nodes by central differences"""
        slopes = self._slopes_at(self.nodes, e)
        return np.array(self.expectations(x, *slopes)[1]).reshape(len(slopes), *x.shape)

    def _slopes_at(self, h, e=1e-5):
        own, slopes = self.potential, []
        for i in range(len(own)):
            move, sides = e * np.eye(len(own))[i][:, None], []
            for sign in (1, -1):
                self.potential = own + sign * move
                sides.append(self.potentials(h))
            slopes.append((sides[1] - sides[0]) / (2 * e))
        self.potential = own
        return slopes

    def visible(self, h):
        if not self.categories:
            return super().visible(h)
        x = (self.W @ h + self.b[:, None]).reshape(-1, self.categories, h.shape[1])
        p = np.exp(x - x.max(axis=1, keepdims=True))
        return (p / p.sum(axis=1, keepdims=True)).reshape(len(self.b), -1)

    # -- the model's distribution --------------------------------------------------------------------------------------

    def hidden_grid(self):
        """((n_hidden, points), log of the weights of exp(-E) of each point): all hidden states, or a grid of values"""
        near = NEAR if len(self.nodes) == len(NODES) else slice(None)
        nodes, weights, n = self.nodes[near], self.weights[near], len(self.c)
        h = np.array(np.meshgrid(*[nodes] * n, indexing="ij")).reshape(n, -1)
        log_w = np.log(np.array(np.meshgrid(*[weights] * n, indexing="ij"))).sum(axis=0).ravel()
        U = self.potentials(nodes)
        log_w -= sum(np.meshgrid(*U, indexing="ij")).ravel()
        x, b, t = self.W @ h, self.b[:, None], self.precision[:, None]
        own = 0.5 * (((x + b) ** 2 - b**2) / t).sum(axis=0) + 0.5 * np.log(2 * np.pi / t).sum()
        return h, log_w + self.c @ h + own

    def log_partition(self):
        if self.gaussian:
            return np.logaddexp.reduce(self.hidden_grid()[1])
        return np.logaddexp.reduce(self.log_unnormalised(self.all_states()))

    def moments(self):
        """Of the model: E[v h^T], E[v], E[h], E[-dU/dp] (parameters, n_hidden), E[-v^2 / 2]"""
        if self.gaussian:
            h, log_p = self.hidden_grid()
            p, mean = np.exp(log_p - np.logaddexp.reduce(log_p)), self.visible(h)
            slopes = np.array([s @ p for s in self._slopes_on(h)]).reshape(self.potential.shape)
            square = (mean**2 + 1 / self.precision[:, None]) @ p
            return (mean * p) @ h.T, mean @ p, h @ p, slopes, -square / 2
        v = self.all_states()
        log_p = self.log_unnormalised(v)
        p, s = np.exp(log_p - np.logaddexp.reduce(log_p)), self.mean(self.inputs(v))
        return (v * p) @ s.T, v @ p, s @ p, self.slopes(self.inputs(v)) @ p, -(v**2) @ p / 2

    def _slopes_on(self, h, e=1e-5):
        """(n_hidden, points) for each parameter: -dU/dp of each unit at its own values"""
        slopes = []
        for i in range(len(self.potential)):
            sides = []
            for sign in (1, -1):
                own = self.potential + sign * e * np.eye(len(self.potential))[i][:, None]
                sides.append(np.array([potential(self.kind, x, *of_unit) for x, of_unit in zip(h, own.T, strict=True)]))
            slopes.append((sides[1] - sides[0]) / (2 * e))
        return slopes

    def samples(self, n, rng):
        """(v, h), n of each, from the model's joint distribution"""
        if self.gaussian:
            h, log_p = self.hidden_grid()
            h = h[:, rng.choice(h.shape[1], n, p=np.exp(log_p - np.logaddexp.reduce(log_p)))]
            return self.visible(h) + rng.normal(size=(len(self.b), n)) / np.sqrt(self.precision)[:, None], h
        states = self.all_states()
        log_p = self.log_unnormalised(states)
        v = states[:, rng.choice(states.shape[1], n, p=np.exp(log_p - np.logaddexp.reduce(log_p)))]
        log_w = self.log_weights(self.inputs(v))
        p = np.exp(log_w - log_w.max(axis=2, keepdims=True)).cumsum(axis=2)
        below = p < rng.random(p.shape[:2])[:, :, None] * p[:, :, -1:]
        return v, self.nodes[below.sum(axis=2)]
