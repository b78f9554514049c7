"""An RBM whose hidden units have real values, in plain NumPy: all that is needed of them by numerical integration.

As tests/reference.py, of which it uses the draws, it is no fast one.  Arrays are units first, (units, batch).
"""

import numpy as np

from tests import reference
from tests.reference import (
    CHAIN,
    HIDDEN,
    RBM,
    VISIBLE,
    centred_gradients,
    draw_words,
    sample_gaussian,
    shrink,
    step,
    step_of_visible_biases,
    take,
)

PANELS = np.linspace(-45, 45, 61)  # of the integrals over h
_X, _W = np.polynomial.legendre.leggauss(16)
NODES = ((PANELS[1:] + PANELS[:-1])[:, None] / 2 + np.diff(PANELS)[:, None] / 2 * _X).ravel()
WEIGHTS = (np.diff(PANELS)[:, None] / 2 * _W).ravel()
N_POTENTIAL = {"gaussian": 0, "relu": 0, "drelu": 2}


def potential(kind, h, threshold=0.0, asymmetry=0.0):
    """U(h); of drelu as Tubiana, Cocco and Monasson (2019) write it."""
    if kind == "drelu":
        eta = np.tanh(asymmetry)
        up, down = np.maximum(h, 0), np.minimum(h, 0)
        return up**2 / (2 * (1 + eta)) + down**2 / (2 * (1 - eta)) + threshold * up - threshold * down
    return np.where(h < 0, np.inf, h**2 / 2) if kind == "relu" else h**2 / 2


class RealRBM(RBM):
    """kind: of the hidden units   potential (parameters, n_hidden)   categories: units of a visible site, or 0"""

    def __init__(self, W, b, c, kind, potential, *, categories=0, **options):
        self.kind, self.potential, self.categories = kind, potential.copy(), categories
        super().__init__(W, b, c, **options)

    def reset(self):
        super().reset()
        self.velocity.append(np.zeros_like(self.potential))

    def inputs(self, v):
        return self.W.T @ v + self.c[:, None]

    def potentials(self, h):
        """U of every unit at h, (n_hidden, ...)"""
        return np.array([potential(self.kind, h, *p) for p in self.potential.T])

    def expectations(self, x, *functions):
        """(log of the integral, mean of each f(h) (n_hidden, nodes)) given the inputs x (n_hidden, batch)"""
        log_w = x[:, :, None] * NODES - self.potentials(NODES)[:, None, :]
        top = log_w.max(axis=2, keepdims=True)
        w = np.exp(log_w - top) * WEIGHTS
        mass = w.sum(axis=2)
        return np.log(mass) + top[:, :, 0], [np.einsum("jbn,jn->jb", w, f) / mass for f in functions]

    def cumulant(self, x):
        return self.expectations(x)[0]

    def hidden(self, v):
        return self.mean(self.inputs(v))

    def mean(self, x):
        return self.expectations(x, np.broadcast_to(NODES, (len(x), len(NODES))))[1][0]

    def slopes(self, x, e=1e-5):
        """(parameters, n_hidden, batch): E[-dU/dp | x], dU/dp by central differences"""
        own, slopes = self.potential, []
        for i in range(len(own)):
            move = e * np.eye(len(own))[i][:, None]
            self.potential = own + move
            above = self.potentials(NODES)
            self.potential = own - move
            slopes.append((self.potentials(NODES) - above) / (2 * e))
            self.potential = own
        return np.array(self.expectations(x, *slopes)[1]).reshape(len(own), *x.shape)

    def draw(self, x, purpose, repeat, n):
        """mean + N(0, 1), or the h up to which the distribution function is u, on a fine grid of 10 deviations to both
        sides: one word chooses the side of 0, another one how much of it lies farther from 0."""
        stream = self.seed, self.layer, purpose, repeat
        if self.kind == "gaussian":
            return sample_gaussian(x, stream, n)
        samples, ids = n + np.arange(x.shape[1]), np.arange(len(x))
        beyond, side = ((take(*draw_words(stream, ids + i * 2**31, samples)) + 0.5) * 2.0**-32 for i in range(2))
        h, square = np.broadcast_to(NODES, (len(x), len(NODES))), np.broadcast_to(NODES**2, (len(x), len(NODES)))
        mean, second = self.expectations(x, h, square)[1]
        wide = 10 * np.sqrt(second - mean**2)
        low = np.maximum(mean - wide, 0) if self.kind == "relu" else mean - wide
        drawn = np.empty_like(x)
        for j, b in np.ndindex(x.shape):
            grid = np.linspace(low[j, b], mean[j, b] + wide[j, b], 3001)
            log_p = x[j, b] * grid - potential(self.kind, grid, *self.potential[:, j])
            p = np.exp(log_p - log_p.max())
            F = np.concatenate([[0], np.cumsum((p[1:] + p[:-1]) / 2)])
            below = np.interp(0, grid, F / F[-1]) if self.kind == "drelu" else 0.0
            u = below * beyond[j, b] if side[j, b] < below else 1 - (1 - below) * beyond[j, b]
            drawn[j, b] = np.interp(u, F / F[-1], grid)
        return drawn

    def start_chains(self, n_chains, how="biases", update=0):
        first, x = update * n_chains, np.repeat(self.c[:, None], n_chains, axis=1)
        if how == "random":
            v, start = np.zeros((len(self.b), n_chains)), (self.seed, self.layer, CHAIN, 65535)
            drawn = reference.sample_gaussian(v, start, first) if self.gaussian else None
            x = self.inputs(reference.sample_bernoulli(v + 0.5, start, first) if drawn is None else drawn)
        self.chains = self.draw(x, CHAIN, 0, first)

    def update(self, v0, n, o, rate, momentum):
        """One step of CD-k or PCD, as RBM.update; the statistics of the hidden units are their means."""
        batch = v0.shape[1]
        x0 = self.inputs(v0)
        h, purpose, first, error = self.draw(x0, HIDDEN, 0, n), HIDDEN, n, np.nan
        sweeps = o.sweeps if o.n_chains else o.gibbs_steps
        if o.n_chains:
            h, purpose, first = self.chains, CHAIN, self.n_updates * self.chains.shape[1]
        for k in range(1, sweeps + 1):
            mean = self.visible(h)
            if not o.n_chains and k == 1:
                error = np.mean((v0 - mean) ** 2)
            side = (CHAIN, 2 * k - 1) if o.n_chains else (VISIBLE, k - 1)
            means = not o.n_chains and not np.isin(v0, (0, 1)).all()
            v = mean if means else self.draw_visible(mean, *side, first)
            x = self.inputs(v)
            if o.n_chains or k < sweeps:
                h = self.draw(x, purpose, 2 * k if o.n_chains else k, first)
        if o.n_chains:
            self.chains = h
        self.n_updates += 1
        (s0, s1), ratio = (self.mean(x0), self.mean(x)), batch / v.shape[1]
        gradients = [v0 @ s0.T - ratio * (v @ s1.T), v0.sum(axis=1) - ratio * v.sum(axis=1)]
        gradients.append(s0.sum(axis=1) - ratio * s1.sum(axis=1))
        divisor = np.ones(len(self.c))
        if o.divides_real_hidden(gaussian=self.gaussian):
            made, divisor = self.standardised_gradients(v0, s0, v, s1, both=o.standardised)
            gradients = [batch * g for g in made]
        elif o.centred:
            gradients = [batch * g for g in centred_gradients(v0, s0, v, s1, mask=self.mask)]
        gradients[0] *= self.mask
        gradients[1] = gradients[1] + (o.visible_bias_rate - 1) * step_of_visible_biases(*gradients[:2], s0, s1, o)
        mu, la = ((x.mean(axis=1) + y.mean(axis=1)) / 2 for x, y in ((v0, v), (s0, s1)))
        if o.centred or o.standardised:  # W decays at the same biases b + W la and c + W^T mu of the centred RBM
            gradients[1] = gradients[1] + batch * o.weight_decay * self.W @ la
            gradients[2] = gradients[2] + batch * o.weight_decay * self.W.T @ mu
        step((self.W, self.b, self.c), self.velocity[:3], gradients, rate, momentum, rate * o.weight_decay, batch)
        slopes = self.slopes(x0).sum(axis=2) - ratio * self.slopes(x).sum(axis=2)
        for power, of_parameter in enumerate(slopes, 1):  # of |h| and of h^2
            of_parameter /= divisor**power
        self.learn_precision(v0, v, means, rate, momentum)
        step([self.potential], self.velocity[3:], [slopes], rate, momentum, 0.0, batch)  # only weights decay
        if o.l1 or o.l1b or o.group_lasso:
            self.penalise(o, rate, mu, la, np.sqrt(divisor))
        return error

    def penalise(self, o, rate, mu, la, t):
        """The proximal step at the same biases b + W la and c + W^T mu of the centred RBM; with ``o.hidden_scale``
        "unit" that of the RBM of h / t, whose weights are W t and whose gradients move them by t as much as W."""
        b, c = self.b + self.W @ la, self.c + self.W.T @ mu
        scale = t if o.hidden_scale == "unit" else np.ones(len(self.c))
        W = self.W * scale
        shrink(W, rate, o, self.mask)
        self.W = W / scale
        self.b, self.c = b - self.W @ la, c - self.W.T @ mu

    def standardised_gradients(self, v0, s0, v1, s1, *, both):
        """(of W, b and c, by the change of variables to units over their deviations; variances of the hidden ones)

        both   visible units too, as tests.reference has them
        """
        mu, la = ((x.mean(axis=1) + y.mean(axis=1)) / 2 for x, y in ((v0, v1), (s0, s1)))
        squares = [((x**2).mean(axis=1) + (y**2).mean(axis=1)) / 2 for x, y in ((v0, v1), (s0, s1))]
        variance = squares[0] - mu**2 if self.gaussian else 4 * mu * (1 - mu)
        s = np.sqrt(np.maximum(variance, 0.04)) if both else np.ones(len(mu))
        alone = {"gaussian": 1.0, "relu": 1 - 2 / np.pi, "drelu": 1.0}[self.kind]  # of h ~ exp(-U) at first
        t = np.sqrt(alone + squares[1] - la**2)
        one, other = (((v - mu[:, None]) / s[:, None], (h - la[:, None]) / t[:, None]) for v, h in ((v0, s0), (v1, s1)))
        dW = one[0] @ one[1].T / v0.shape[1] - other[0] @ other[1].T / v1.shape[1]
        W = dW / s[:, None] / t[None, :] * self.mask
        b, c = ((x.mean(axis=1) - y.mean(axis=1)) / w**2 for x, y, w in ((v0, v1, s), (s0, s1, t)))
        return [W, b - W @ la, c - W.T @ mu], t**2

    def log_unnormalised(self, v):
        """log p*(v) of every column, (samples,)"""
        b, t = self.b[:, None], self.precision[:, None]
        own = -0.5 * (t * (v - b / t) ** 2).sum(axis=0) if self.gaussian else self.b @ v
        return own + self.cumulant(self.inputs(v)).sum(axis=0)

    def all_states(self):
        """(n_visible, states)"""
        if not self.categories:
            return np.array(list(np.ndindex(*[2] * len(self.b)))).T.astype(float)
        sites = np.array(list(np.ndindex(*[self.categories] * (len(self.b) // self.categories))))
        return np.eye(self.categories)[sites].reshape(len(sites), -1).T

    def log_partition(self):
        """By all visible states; of Gaussian visible units by the integral over h of at most two hidden units."""
        if not self.gaussian:
            return np.logaddexp.reduce(self.log_unnormalised(self.all_states()))
        return np.logaddexp.reduce(self._hidden_masses()[0]) + 0.5 * np.log(2 * np.pi / self.precision).sum()

    def visible_moments(self):
        """(means, means of squares) (n_visible,) of Gaussian visible units, by the integral over h."""
        log_p, x = self._hidden_masses()
        p = np.exp(log_p - np.logaddexp.reduce(log_p))
        return x @ p, 1 / self.precision + x**2 @ p

    def _hidden_masses(self):
        """(log of the mass of each node of h, the means of v there), of Gaussian visible units."""
        h = np.array(np.meshgrid(*[NODES] * len(self.c), indexing="ij")).reshape(len(self.c), -1)
        log_w = np.log(np.array(np.meshgrid(*[WEIGHTS] * len(self.c), indexing="ij"))).sum(axis=0).ravel()
        U = sum(potential(self.kind, h[j], *self.potential[:, j]) for j in range(len(h)))
        x = self.W @ h + self.b[:, None]
        terms = self.c @ h - U + 0.5 * ((x**2 - self.b[:, None] ** 2) / self.precision[:, None]).sum(axis=0)
        return terms + log_w, x / self.precision[:, None]


def some_potential(kind, n_hidden, rng):
    """(parameters, n_hidden) of either sign, in which all of a dReLU unit's forms occur."""
    scales = np.array([0.8, 0.5][: N_POTENTIAL[kind]])[:, None]
    return scales * rng.normal(size=(N_POTENTIAL[kind], n_hidden))


__all__ = ["N_POTENTIAL", "RealRBM", "potential", "reference", "some_potential"]
