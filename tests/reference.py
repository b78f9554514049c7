"""A deep belief network in plain NumPy, straight from the algorithms: what the engine is compared with.

It imports nothing but NumPy, holds whole matrices, and makes no attempt at speed.  Arrays are units first, (units,
batch).  ``o`` is any object with the fields of TrainingSpec (FineTuneSpec in fine_tune).  ``n`` is the sample counter
of a minibatch's first sample: the samples of this stage that came before it, so it starts at 0 in every stage.
"""

import numpy as np

WEIGHTS, DATA, HIDDEN, VISIBLE, DROPOUT, CHAIN, PASS_UP, SCORE, FANTASY, SWAP = range(10)


# ---- random draws: Philox4x32-10 (Salmon et al., SC 2011); one block of four words serves four samples of a unit


def philox(counter, key):
    """Ten rounds.   counter: four, key: two broadcastable arrays of 32-bit values -> four arrays of uint64 < 2**32"""
    (x0, x1, x2, x3), (k0, k1) = (np.asarray(x, np.uint64) for x in counter), (int(k) for k in key)
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    for i in range(10):
        a, b = np.uint64(0xD2511F53) * x0, np.uint64(0xCD9E8D57) * x2
        round0, round1 = np.uint64((k0 + i * 0x9E3779B9) & 0xFFFFFFFF), np.uint64((k1 + i * 0xBB67AE85) & 0xFFFFFFFF)
        x0, x1, x2, x3 = (b >> shift) ^ x1 ^ round0, b & low, (a >> shift) ^ x3 ^ round1, a & low
    return x0, x1, x2, x3


def draw_words(stream, units, samples):
    """The blocks of units and samples, (4, units, samples), and which word of its block is each sample's."""
    seed, layer, purpose, repeat = stream
    unit, sample = np.asarray(units, np.uint64)[:, None], np.asarray(samples, np.uint64)[None, :]
    block, kind = sample >> np.uint64(2), np.uint64(layer << 24 | purpose << 16 | repeat)
    counter = np.broadcast_arrays(block & np.uint64(0xFFFFFFFF), block >> np.uint64(32), unit, kind)
    words = np.array(philox(counter, (seed & 0xFFFFFFFF, seed >> 32)))
    return words, np.broadcast_to((sample & np.uint64(3)).astype(int), words[0].shape)


def take(words, which):
    return np.take_along_axis(words, which[None], axis=0)[0]


def uniform(stream, units, samples):
    """In [0, 1), the upper 24 bits of a word.   stream: (seed, layer, purpose, repeat) -> (units, samples)"""
    return (take(*draw_words(stream, units, samples)) >> np.uint64(8)) * 2.0**-24


def normal(stream, units, samples):
    """N(0, 1) by Box and Muller (1958): words 0 and 1 of a block give samples 0 and 1, words 2 and 3 the others."""
    words, which = draw_words(stream, units, samples)
    pair = which // 2 * 2
    radius = np.sqrt(-2 * np.log((take(words, pair) + 1.0) * 2.0**-32))
    angle = 2 * np.pi * take(words, pair + 1) * 2.0**-32
    return radius * np.where(which % 2 == 0, np.cos(angle), np.sin(angle))


def sample_bernoulli(p, stream, first):
    """1 with probability p.   p (units, batch), all units of a layer, samples first, first + 1, ..."""
    return (uniform(stream, range(p.shape[0]), first + np.arange(p.shape[1])) < p).astype(p.dtype)


def sample_gaussian(mean, stream, first):
    """mean + N(0, 1).   mean (units, batch)"""
    return mean + normal(stream, range(mean.shape[0]), first + np.arange(mean.shape[1])).astype(mean.dtype)


# ---- the restricted Boltzmann machine, Algorithm 1


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def initial_weights(seed, layer, n_visible, n_hidden, scale):
    """scale * N(0, 1); the lower unit is the draw's unit, the upper one its sample (Hinton 2010, section 8)."""
    return scale * normal((seed, layer, WEIGHTS, 0), range(n_visible), range(n_hidden))


class RBM:
    """W (n_visible, n_hidden)   b (n_visible,)   c (n_hidden,)   layer: its index in the network

    mask (n_visible, n_hidden): 0 where there is no connection and so never a weight
    precision (n_visible,): of Gaussian visible units, learned where it is given, else 1
    """

    def __init__(self, W, b, c, *, layer=0, seed=1, gaussian=False, mask=1, precision=None):
        self.mask, self.learns_precision = mask, precision is not None
        self.precision = np.ones_like(b) if precision is None else precision.copy()
        self.W, self.b, self.c = W.copy(), b.copy(), c.copy()
        self.layer, self.seed, self.gaussian = layer, seed, gaussian
        self.reset()

    def reset(self):
        """No velocity, no chains, no running mean activation: the state in which a stage begins."""
        self.velocity = [np.zeros_like(x) for x in (self.W, self.b, self.c)]
        self.chains, self.mean_activation, self.n_updates = None, np.zeros_like(self.c), 0
        self.precision_velocity = np.zeros_like(self.precision)
        self.average, self.last = [np.zeros_like(x) for x in (self.W, self.b, self.c)], None

    def take_average(self):
        """The average in place of the last parameters; weights that these have as 0 are 0."""
        self.last = [x.copy() for x in (self.W, self.b, self.c)]
        self.W, self.b, self.c = np.where(self.W == 0, 0, self.average[0]), *(x.copy() for x in self.average[1:])

    def hidden(self, v):
        return sigmoid(self.W.T @ v + self.c[:, None])

    def visible(self, h):
        x = self.W @ h + self.b[:, None]
        return x / self.precision[:, None] if self.gaussian else sigmoid(x)

    def draw_visible(self, mean, purpose, repeat, n):
        if self.gaussian:
            noise = sample_gaussian(np.zeros_like(mean), (self.seed, self.layer, purpose, repeat), n)
            return mean + noise / np.sqrt(self.precision)[:, None]
        return sample_bernoulli(mean, (self.seed, self.layer, purpose, repeat), n)

    def learn_precision(self, v0, v1, means, rate, momentum):
        """By the means of -v^2 / 2 of data and model; within 1/4 and 100.   means: whether v1 holds those of v"""
        if self.learns_precision:
            square = (v1**2).mean(axis=1) + (1 / self.precision if means else 0)
            gradient = square / 2 - (v0**2).mean(axis=1) / 2
            self.precision_velocity = momentum * self.precision_velocity + rate * gradient
            self.precision = np.clip(self.precision + self.precision_velocity, 0.25, 100)

    def draw_hidden(self, p, purpose, repeat, n):
        return sample_bernoulli(p, (self.seed, self.layer, purpose, repeat), n)

    def statistic(self, p, purpose, repeat, n, bits):
        """p as whole multiples of 1 / (2^bits - 1), rounded up or down by the draw of the state: unbiased."""
        samples = n + np.arange(p.shape[1])
        u = uniform((self.seed, self.layer, purpose, repeat), range(p.shape[0]), samples).astype(p.dtype)
        levels = p.dtype.type(2**bits - 1)
        return np.ceil(p * levels - u) / levels

    def start_chains(self, n_chains, how="biases", update=0):
        """Hidden states drawn from the hidden biases, or given random visible states."""
        first = update * n_chains
        p = np.repeat(sigmoid(self.c)[:, None], n_chains, axis=1)
        if how == "random":
            v = np.zeros((len(self.b), n_chains), self.W.dtype)
            start = (self.seed, self.layer, CHAIN, 65535)  # of Gaussian units standard normal, whatever the precisions
            v = sample_gaussian(v, start, first) if self.gaussian else sample_bernoulli(v + 0.5, start, first)
            p = self.hidden(v)
        self.chains = self.draw_hidden(p, CHAIN, 0, first)

    def update(self, v0, n, o, rate, momentum):
        """One step of CD-k (Hinton 2002) or PCD (Tieleman 2008).   v0 (n_visible, batch)

        Returns the reconstruction error, the mean of (v0 - mean of v given h0)^2; NaN for PCD, which makes none.
        """
        batch, K, float_statistics = v0.shape[1], o.gibbs_steps, o.statistics == "float"

        def side(p, purpose, repeat, n=n):
            return p if float_statistics else self.statistic(p, purpose, repeat, n, int(o.statistics))

        p0 = self.hidden(v0)
        h = self.draw_hidden(p0, HIDDEN, 0, n)
        s0 = side(p0, HIDDEN, 0)
        if o.n_chains:  # all of them go on, whatever the minibatch; their draws are keyed by the update and their ids
            if o.chain_restart:
                self.start_chains(o.n_chains, o.chain_start, self.n_updates)
            h, first = self.chains, self.n_updates * self.chains.shape[1]
            for k in range(1, o.sweeps + 1):
                v = self.draw_visible(self.visible(h), CHAIN, 2 * k - 1, first)
                p1 = self.hidden(v)
                h = self.draw_hidden(p1, CHAIN, 2 * k, first)
            self.chains = h
            s1, error = side(p1, CHAIN, 2 * k, first), np.nan
        else:
            states = o.reconstruction == "states" or (o.reconstruction == "auto" and np.isin(v0, (0, 1)).all())
            for k in range(1, K + 1):
                v = self.visible(h)
                error = np.mean((v0 - v) ** 2) if k == 1 else error
                if states:
                    v = self.draw_visible(v, VISIBLE, k - 1, n)
                p1 = self.hidden(v)
                h = self.draw_hidden(p1, HIDDEN, k, n)
            s1 = side(p1, HIDDEN, K)
        if o.sparsity_cost:  # Hinton 2010, section 11
            self.mean_activation = 0.9 * self.mean_activation + 0.1 * p0.mean(axis=1)
            s0 = s0 + o.sparsity_cost * (o.sparsity_target - self.mean_activation)[:, None]
        self.n_updates += 1
        ratio = batch / v.shape[1]  # of the numbers of samples and chains: both phases count as means
        gradients = [v0 @ s0.T - ratio * (v @ s1.T), v0.sum(axis=1) - ratio * v.sum(axis=1)]
        gradients.append(s0.sum(axis=1) - ratio * s1.sum(axis=1))
        if o.centred or o.standardised:
            kind = (standardised_gradients, (self.gaussian,)) if o.standardised else (centred_gradients, ())
            gradients = [batch * x for x in kind[0](v0, s0, v, s1, *kind[1], mask=self.mask)]
        gradients[0] *= self.mask
        gradients[1] = gradients[1] + (o.visible_bias_rate - 1) * step_of_visible_biases(*gradients[:2], s0, s1, o)
        step((self.W, self.b, self.c), self.velocity, gradients, rate, momentum, rate * o.weight_decay, batch)
        self.learn_precision(v0, v, not o.n_chains and not states, rate, momentum)
        if o.clip and (norm := np.sqrt((self.velocity[0] ** 2).sum())) > o.clip:
            self.W -= self.velocity[0]
            self.velocity[0] *= o.clip / norm
            self.W += self.velocity[0]
        shrink(self.W, rate, o, self.mask)
        if o.average:
            part = 1 / min(self.n_updates, o.average)
            for mean, x in zip(self.average, (self.W, self.b, self.c), strict=True):
                mean += part * (x - mean)
        return error


def shrink(W, rate, o, mask=1):
    """The proximal step of L1, of L1b (Tubiana 2019) with the norms that it finds, and of the group lasso of units."""
    degree = np.broadcast_to(mask, W.shape).sum(axis=0)
    amount = rate * o.l1b
    limit = rate * o.l1 + amount * np.abs(W).sum(axis=0, dtype=np.float64) / (1 + amount * degree)
    W[...] = np.sign(W) * np.maximum(np.abs(W) - limit, 0)
    norms = np.sqrt((W**2).sum(axis=0, dtype=np.float64))
    W *= np.maximum(1 - rate * o.group_lasso / np.maximum(norms, 1e-300), 0)


def centred_gradients(v0, s0, v1, s1, mask=1):
    """Of W, b and c, from the activations of both phases; the phases may have other numbers of samples.

    Of (v - mu) and (h - lambda), with the means over both phases (Cho, Raiko and Ilin 2013, section 3).
    """
    (mv0, ms0), (mv1, ms1) = ((v.mean(axis=1), s.mean(axis=1)) for v, s in ((v0, s0), (v1, s1)))
    mu, la = (mv0 + mv1) / 2, (ms0 + ms1) / 2
    phases = [(v - mu[:, None]) @ (s - la[:, None]).T / v.shape[1] for v, s in ((v0, s0), (v1, s1))]
    W = (phases[0] - phases[1]) * mask
    return [W, mv0 - mv1 - W @ la, ms0 - ms1 - W.T @ mu]


def step_of_visible_biases(of_W, of_b, s0, s1, o):
    """That of the biases b + W lambda of the centred RBM, of an uncentred one that of b, at a rate of 1."""
    return of_b + of_W @ (s0.mean(axis=1) + s1.mean(axis=1)) / 2 if o.centred or o.standardised else of_b


def standardised_gradients(v0, s0, v1, s1, gaussian=False, mask=1):
    """By the change of variables: a step of the RBM of (v - mu) / s and (h - lambda) / t, written in W, b and c.

    Standard deviations are over data and model, in units of the largest of a kind: 1/2 of states, 1 of Gaussian units.
    """
    (mv0, ms0), (mv1, ms1) = ((v.mean(axis=1), s.mean(axis=1)) for v, s in ((v0, s0), (v1, s1)))
    mu, la = (mv0 + mv1) / 2, (ms0 + ms1) / 2
    variance = ((v0**2).mean(axis=1) + (v1**2).mean(axis=1)) / 2 - mu**2 if gaussian else 4 * mu * (1 - mu)
    s, t = np.sqrt(np.maximum(variance, 0.04)), np.sqrt(np.maximum(4 * la * (1 - la), 0.04))
    one, other = (((v - mu[:, None]) / s[:, None], (h - la[:, None]) / t[:, None]) for v, h in ((v0, s0), (v1, s1)))
    dW, db, dc = one[0] @ one[1].T / v0.shape[1] - other[0] @ other[1].T / v1.shape[1], (mv0 - mv1) / s, (ms0 - ms1) / t
    W = dW / s[:, None] / t[None, :] * mask
    return [W, db / s - W @ la, dc / t - W.T @ mu]


def step(parameters, velocity, gradients, rate, momentum, shrink, batch):
    """V = momentum V + rate / batch * gradient, less shrink * W for weights; W += V (Hinton 2010, sections 9, 10)."""
    for x, V, gradient in zip(parameters, velocity, gradients, strict=True):
        V[...] = momentum * V + rate / batch * gradient - (shrink * x if x.ndim == 2 else 0)
        x += V


def step_size(o, base, epoch):
    """(rate, momentum) of an epoch, counted from 0; the rate falls from base to base * final_rate."""
    t, end = epoch / max(o.epochs - 1, 1), o.final_rate
    factor = {"constant": 1, "linear": 1 - (1 - end) * t, "cosine": end + (1 - end) * (1 + np.cos(np.pi * t)) / 2,
              "exponential": max(end, 1e-12) ** t}[o.schedule]  # fmt: skip
    momentum = (0.0 if o.n_chains else 0.9) if o.momentum is None else o.momentum
    if epoch < o.momentum_epochs and o.initial_momentum is not None:
        momentum = o.initial_momentum
    return base * factor, momentum


# ---- the deep belief network: greedy pre-training (Algorithm 2) and fine-tuning (Algorithm 3)


def minibatches(order, layer, o):
    """(epoch, sample counter, positions) of every minibatch; order(layer, epoch) (n_samples,) is a permutation."""
    for epoch in range(o.epochs):
        positions = order(layer, epoch)
        for start in range(0, len(positions), o.batch_size):
            yield epoch, epoch * len(positions) + start, positions[start : start + o.batch_size]


def pass_up(rbm, v, positions, o):
    """What a trained RBM hands to the next.  A state belongs to the sample's position in the data: always the same."""
    p = rbm.hidden(v)
    if o.pass_up == "probabilities":
        return p
    stream = (rbm.seed, rbm.layer, PASS_UP, 0)
    return (uniform(stream, range(len(p)), positions) < p).astype(p.dtype)


def visible_biases(data, gaussian, weights=None):
    """Those of a model without weights that has the data's means (Hinton 2010, section 8).   data (n_visible, n)"""
    mean = np.average(data, axis=1, weights=weights)
    p = np.clip(mean, 0.001, 0.999)
    return mean if gaussian else np.log(p / (1 - p))


def pretrain(rbms, data, order, o, *, stochastic=False, weights=None):
    """One RBM after another.   data (n_visible, n_samples), as the visible units need them; returns all errors.

    stochastic: each minibatch of the first RBM is drawn from the data anew; the RBMs above see what the data's real
    values give.
    """
    errors = []
    for rbm in rbms:
        rbm.reset()
        rbm.start_chains(o.n_chains or 1)
        rbm.b = (rbm.precision * visible_biases(data, rbm.gaussian, weights)).astype(rbm.b.dtype)
        base = o.gaussian_learning_rate if rbm.gaussian else o.learning_rate
        for epoch, n, positions in minibatches(order, rbm.layer, o):
            v0 = data[:, positions]
            if stochastic and rbm.layer == 0:
                v0 = sample_bernoulli(v0, (rbm.seed, 0, DATA, 0), n)
            errors.append(rbm.update(v0, n, o, *step_size(o, base, epoch)))
        if o.average:
            rbm.take_average()
        data = pass_up(rbm, data, np.arange(data.shape[1]), o)
    return errors


def forward(weights, biases, v):
    """Log-probabilities of the classes (n_classes, batch), and every layer's activations, v first."""
    activations = [v]
    for W, c in zip(weights[:-1], biases[:-1], strict=True):
        activations.append(sigmoid(W.T @ activations[-1] + c[:, None]))
    return log_softmax(weights[-1].T @ activations[-1] + biases[-1][:, None]), activations


def log_softmax(z):
    z = z - z.max(axis=0)
    return z - np.log(np.exp(z).sum(axis=0))


def backprop(weights, biases, v, labels, n, o, seed):
    """Cross-entropy (mean over the batch), and the gradients of its sum by weights and by biases.

    Dropout (Srivastava et al. 2014, inverted): a unit of layer l stays where its u >= p, and is then scaled by
    1 / (1 - p); layer 0 is the visible one.  So nothing is to be scaled when the network is used.
    """
    sigmoids, scales, inputs = [v], [], []
    for layer, (W, c) in enumerate(zip(weights, biases, strict=True)):
        p = o.dropout if layer else o.input_dropout
        u = uniform((seed, layer, DROPOUT, 0), range(len(W)), n + np.arange(v.shape[1]))
        scales.append(((u >= p) / (1 - p)).astype(v.dtype))
        inputs.append(sigmoids[layer] * scales[layer])
        x = W.T @ inputs[layer] + c[:, None]
        sigmoids.append(sigmoid(x))
    log_p = log_softmax(x)
    delta = np.exp(log_p)
    delta[labels, np.arange(len(labels))] -= 1
    by_weights, by_biases = [], []
    for layer in reversed(range(len(weights))):
        by_weights.insert(0, inputs[layer] @ delta.T)
        by_biases.insert(0, delta.sum(axis=1))
        slope = scales[layer] * sigmoids[layer] * (1 - sigmoids[layer])
        delta = slope * (weights[layer] @ delta)
    return -log_p[labels, np.arange(len(labels))].mean(), by_weights, by_biases


def fine_tune(weights, biases, data, labels, order, o, seed, masks=None):
    """Stochastic gradient descent, in place: weights and hidden biases of the RBMs, and of the softmax layer last.

    For ``order`` it is layer 255.
    """
    parameters = [*weights, *biases]
    velocity, losses = [np.zeros_like(x) for x in parameters], []
    for epoch, n, positions in minibatches(order, 255, o):
        rate, momentum = step_size(o, o.learning_rate, epoch)
        loss, by_weights, by_biases = backprop(weights, biases, data[:, positions], labels[positions], n, o, seed)
        by_weights = [gradient * mask for gradient, mask in zip(by_weights, masks or [1] * len(weights), strict=True)]
        descent = [-gradient for gradient in by_weights + by_biases]
        step(parameters, velocity, descent, rate, momentum, rate * o.weight_decay, len(positions))
        for W in weights if o.max_norm else []:  # the length of each upper unit's incoming weights (its column)
            W *= np.minimum(1, o.max_norm / np.maximum(np.linalg.norm(W, axis=0), 1e-30))
        losses.append(loss)
    return losses
