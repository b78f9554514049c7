"""The reference itself, against published vectors, enumeration, finite differences and exact expectations."""

from __future__ import annotations

from itertools import pairwise, product
from types import SimpleNamespace

import numpy as np
import pytest

from modelpar.spec import FineTuneSpec, TrainingSpec
from tests import reference

SAMPLES = 40_000  # of a statistical comparison; its tolerance is 5 standard errors


def options(**changes):
    plain = {"learning_rate": 1.0, "momentum": 0.0, "initial_momentum": 0.0, "weight_decay": 0.0, "centred": False}
    return TrainingSpec(**{**plain, **changes})


def small_rbm(n_visible=4, n_hidden=3, *, gaussian=False, seed=5):
    rng = np.random.default_rng(seed)
    W = rng.normal(0, 0.4 if gaussian else 1.0, (n_visible, n_hidden))
    return reference.RBM(W, rng.normal(0, 0.5, n_visible), rng.normal(0, 0.5, n_hidden), gaussian=gaussian)


def all_states(n):
    """(n, 2**n), every state of n units"""
    return np.array(list(product([0.0, 1.0], repeat=n))).T


def minus_energy(W, b, c, v, h, gaussian):
    """(n_v, n_h) of all pairs of visible states v (n_visible, n_v) and hidden states h (n_hidden, n_h)"""
    own = -0.5 * ((v - b[:, None]) ** 2).sum(axis=0) if gaussian else b @ v
    return v.T @ W @ h + own[:, None] + (c @ h)[None, :]


def log_p(W, b, c, v, gaussian=False):
    """Exact log p(v), (n_v,), with every hidden state, and every visible one or its integral, written out."""
    h = all_states(len(c))
    unnormalised = np.log(np.exp(minus_energy(W, b, c, v, h, gaussian)).sum(axis=1))
    if gaussian:  # the integral over v, for each h, is a product of Gaussian ones around b + W h
        mean = b[:, None] + W @ h
        Z = np.exp(c @ h + 0.5 * (mean**2 - b[:, None] ** 2).sum(axis=0)).sum() * (2 * np.pi) ** (len(b) / 2)
    else:
        Z = np.exp(minus_energy(W, b, c, all_states(len(b)), h, gaussian)).sum()
    return unnormalised - np.log(Z)


def finite_differences(f, x, step=1e-5):
    """df/dx by central differences; x is changed in place and restored."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + step
        above = f()
        x[index] = kept - step
        gradient[index] = (above - f()) / (2 * step)
        x[index] = kept
    return gradient


def repeated(columns, n):
    """n samples that go round the columns"""
    return np.tile(columns, -(-n // columns.shape[1]))[:, :n]


# ---- draws


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_published_words(counter, key, words):
    """The known answers that come with Random123 (Salmon et al. 2011)."""
    assert [f"{int(word):08x}" for word in reference.philox(counter, key)] == words.split()


def test_a_draw_depends_on_unit_and_sample_alone():
    stream = (2**62 + 7, 3, reference.HIDDEN, 9)
    ids = range(2**34, 2**34 + 30)
    whole, normals = reference.uniform(stream, range(6), ids), reference.normal(stream, range(6), ids)
    units, samples = [4, 1], np.array([5, 3, 22, 8])
    assert np.array_equal(reference.uniform(stream, units, 2**34 + samples), whole[np.ix_(units, samples)])
    assert np.array_equal(reference.normal(stream, units, 2**34 + samples), normals[np.ix_(units, samples)])
    others = [(1, 3, 2, 9), (2**62 + 7, 4, 2, 9), (2**62 + 7, 3, 3, 9), (2**62 + 7, 3, 2, 8)]
    assert all(np.mean(reference.uniform(other, range(6), range(30)) == whole) < 0.01 for other in others)


def test_draws_have_the_moments_of_their_distributions():
    u, z = (draw((1, 0, 2, 0), range(50), range(2000)) for draw in (reference.uniform, reference.normal))
    assert abs(u.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / u.size)
    assert abs((u**2).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / u.size)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - moment) < 5 * np.sqrt(variance / z.size)
    assert abs((z[:, 0::2] * z[:, 1::2]).mean()) < 5 * np.sqrt(2 / z.size)  # the two draws of one pair of words


# ---- updates of an RBM


@pytest.mark.parametrize("gaussian", [False, True], ids=["bernoulli", "gaussian"])
@pytest.mark.parametrize("statistics", ["float", "1"])
@pytest.mark.parametrize("persistent", [False, True], ids=["cd", "pcd"])
def test_long_chains_follow_the_gradient_of_the_likelihood(gaussian, statistics, persistent):
    """CD-k and PCD with k = 40 estimate d log p(v) / d(W, b, c), found here by finite differences."""
    rbm = small_rbm(gaussian=gaussian)
    data = np.random.default_rng(1).integers(0, 2, (4, 5)).astype(float)
    parameters = [rbm.W.copy(), rbm.b.copy(), rbm.c.copy()]
    exact = [finite_differences(lambda: log_p(*parameters, data, gaussian).mean(), x) for x in parameters]
    rbm.start_chains(SAMPLES)
    o = options(gibbs_steps=40, statistics=statistics, persistent=persistent, reconstruction="states")
    rbm.update(repeated(data, SAMPLES), 0, o, 1.0, 0.0)
    spread = 3.0 if gaussian else 1.0  # a bound on the standard deviation of one sample's difference
    for estimate, gradient in zip(rbm.velocity, exact, strict=True):
        assert np.abs(estimate - gradient).max() < 5 * spread / np.sqrt(SAMPLES)


@pytest.mark.parametrize("reconstruction", ["states", "probabilities"])
@pytest.mark.parametrize("statistics", ["float", "1"])
def test_cd1_has_the_exact_expected_update(statistics, reconstruction):
    """The expectation over h0 and v1, all states written out.  It is the same for sampled hidden statistics."""
    rbm = small_rbm()
    v0 = np.array([[1.0], [0], [1], [1]])
    hs, vs = all_states(3), all_states(4)
    p_h0 = np.prod(np.where(hs == 1, rbm.hidden(v0), 1 - rbm.hidden(v0)), axis=0)
    means = rbm.visible(hs)
    if reconstruction == "probabilities":
        weights, v1 = p_h0, means
    else:
        likely = np.prod(np.where(vs[:, None, :] == 1, means[:, :, None], 1 - means[:, :, None]), axis=0)
        weights, v1 = p_h0 @ likely, vs
    model = (v1 * weights) @ rbm.hidden(v1).T, v1 @ weights, rbm.hidden(v1) @ weights
    data = v0 @ rbm.hidden(v0).T, v0[:, 0], rbm.hidden(v0)[:, 0]
    rbm.update(repeated(v0, SAMPLES), 0, options(statistics=statistics, reconstruction=reconstruction), 1.0, 0.0)
    for estimate, positive, negative in zip(rbm.velocity, data, model, strict=True):
        assert np.abs(estimate - (positive - negative)).max() < 5 / np.sqrt(SAMPLES)


def test_persistent_chains_keep_the_distribution_of_the_model():
    """At learning rate 0 the chains visit hidden states as often as the model's exact distribution has them."""
    rbm = small_rbm()
    hs = all_states(3)
    exact = np.exp(minus_energy(rbm.W, rbm.b, rbm.c, all_states(4), hs, False)).sum(axis=0)
    exact /= exact.sum()
    n_chains, counts = 4000, np.zeros(8)
    rbm.start_chains(n_chains)
    for step in range(40):
        rbm.update(np.zeros((4, n_chains)), step * n_chains, options(persistent=True), 0.0, 0.0)
    for state in range(8):
        counts[state] = (rbm.chains == hs[:, [state]]).all(axis=0).sum()
    chi_squared = ((counts - n_chains * exact) ** 2 / (n_chains * exact)).sum()
    assert chi_squared < 24.3  # 99.9 % of a chi-squared variable with 7 degrees of freedom


def test_all_chains_move_whatever_the_minibatch():
    rbm = small_rbm()
    rbm.start_chains(50)
    before = rbm.chains.copy()
    rbm.update(np.ones((4, 20)), 100, options(persistent=True, gibbs_steps=3), 0.1, 0.0)
    assert not np.array_equal(rbm.chains[:, 20:], before[:, 20:])


def test_the_centred_gradient_does_not_change_where_a_state_is_called_the_other_way_round():
    """Montavon and Mueller (2012): the plain one does; with 1 - v for v the centred one is that of the same model."""
    rng = np.random.default_rng(3)
    v0, s0, v1, s1 = (rng.integers(0, 2, (n, 30)).astype(float) for n in (4, 3, 4, 3))
    W, b, c = reference.centred_gradients(v0, s0, v1, s1)
    flipped = reference.centred_gradients(1 - v0, s0, 1 - v1, s1)
    # of the flipped model the weights are -W, the biases -b and c + sum of W over the visible units
    assert np.allclose(flipped[0], -W)
    assert np.allclose(flipped[1], -b)
    assert np.allclose(flipped[2], c + W.sum(axis=0))


def test_an_update_with_no_statistics_is_momentum_and_decay():
    """Where data and model agree exactly, two updates have a closed form: only W decays, and only W keeps moving."""
    rbm = small_rbm()
    rbm.W[:] = 1.0
    rate, decay, momentum = 0.5, 0.1, 0.9
    zero = np.zeros_like(rbm.W)
    for _ in range(2):
        reference.step((rbm.W, rbm.b), rbm.velocity[:2], (zero, np.ones(4)), rate, momentum, rate * decay, 10)
    first = 1 - rate * decay
    assert np.allclose(rbm.W, first - rate * decay * momentum - rate * decay * first)
    assert np.allclose(rbm.velocity[1], rate / 10 * (1 + momentum))


def test_sparsity_moves_mean_activations_to_the_target():
    rng = np.random.default_rng(3)
    data = rng.integers(0, 2, (12, 200)).astype(float)
    activations = {}
    for cost in (0.0, 1.0):
        rbm = reference.RBM(rng.normal(0, 0.01, (12, 6)), np.zeros(12), np.zeros(6))
        for step in range(300):
            rbm.update(data, 200 * step, options(sparsity_cost=cost, sparsity_target=0.1), 0.2, 0.5)
        activations[cost] = rbm.hidden(data).mean(axis=1)
    assert np.abs(activations[1.0] - 0.1).max() < 0.05
    assert np.abs(activations[0.0] - 0.1).max() > 0.2


def test_the_sparsity_shift_reaches_weights_and_biases():
    plain, sparse = small_rbm(), small_rbm()
    v0 = np.array([[1.0, 0], [1, 1], [0, 1], [1, 0]])
    plain.update(v0, 0, options(), 1.0, 0.0)
    sparse.update(v0, 0, options(sparsity_cost=0.5, sparsity_target=0.2), 1.0, 0.0)
    shift = 0.5 * (0.2 - 0.1 * small_rbm().hidden(v0).mean(axis=1))
    assert np.allclose(sparse.velocity[0] - plain.velocity[0], v0.mean(axis=1)[:, None] * shift)
    assert np.allclose(sparse.velocity[1], plain.velocity[1])
    assert np.allclose(sparse.velocity[2] - plain.velocity[2], shift)


@pytest.mark.parametrize(
    ("schedule", "middle"), [("constant", 1.0), ("linear", 0.505), ("cosine", 0.505), ("exponential", 0.1)]
)
def test_schedules_begin_at_the_rate_and_end_at_its_fraction(schedule, middle):
    momentum = {"momentum": 0.9, "initial_momentum": 0.5, "momentum_epochs": 2}
    o = SimpleNamespace(epochs=5, schedule=schedule, final_rate=0.01, **momentum)
    rates, momenta = zip(*(reference.step_size(o, 3.0, epoch) for epoch in range(5)), strict=True)
    assert np.allclose([rates[0], rates[2], rates[4]], [3.0, 3.0 * middle, 3.0 if schedule == "constant" else 0.03])
    assert momenta == (0.5, 0.5, 0.9, 0.9, 0.9)
    assert reference.step_size(SimpleNamespace(**{**vars(o), "epochs": 1}), 3.0, 0)[0] == 3.0


# ---- networks


def small_network(seed=0):
    rng = np.random.default_rng(seed)
    sizes = [5, 4, 6, 3]
    weights = [rng.normal(0, 1, pair) for pair in pairwise(sizes)]
    biases = [rng.normal(0, 1, n) for n in sizes[1:]]
    return weights, biases, rng.random((5, 7)), rng.integers(0, 3, 7)


@pytest.mark.parametrize(("dropout", "input_dropout"), [(0.0, 0.0), (0.5, 0.2)], ids=["plain", "dropout"])
def test_backprop_gives_the_gradient_of_the_loss(dropout, input_dropout):
    """With the draws fixed by n, the loss with dropout is a smooth function of the parameters."""
    weights, biases, v, labels = small_network()
    o = FineTuneSpec(dropout=dropout, input_dropout=input_dropout)

    def loss():
        return reference.backprop(weights, biases, v, labels, 11, o, 1)[0]

    _, by_weights, by_biases = reference.backprop(weights, biases, v, labels, 11, o, 1)
    for x, gradient in zip(weights + biases, by_weights + by_biases, strict=True):
        assert np.allclose(gradient / 7, finite_differences(loss, x), atol=1e-8)


def test_the_loss_without_dropout_is_the_cross_entropy_of_forward():
    weights, biases, v, labels = small_network()
    log_probabilities, _ = reference.forward(weights, biases, v)
    assert np.allclose(np.exp(log_probabilities).sum(axis=0), 1)
    loss = reference.backprop(weights, biases, v, labels, 0, FineTuneSpec(dropout=0.0), 1)[0]
    assert np.isclose(loss, -log_probabilities[labels, np.arange(7)].mean())


def test_dropout_keeps_the_expected_input():
    """One linear layer, whose loss's gradient shows the scaled units: on average they are the units themselves."""
    v = np.full((6, SAMPLES), 0.7)
    _, by_weights, _ = reference.backprop(
        [np.zeros((6, 2))], [np.zeros(2)], v, np.zeros(SAMPLES, int), 0, FineTuneSpec(input_dropout=0.3), 1
    )
    # softmax of zeros is 1/2, so the gradient of the first class is -1/2 of the units' sum
    assert np.allclose(by_weights[0][:, 0] / SAMPLES, -0.35, atol=5 * 0.35 * np.sqrt(0.3 / 0.7 / SAMPLES))


def test_max_norm_bounds_every_units_incoming_weights():
    weights, biases, v, labels = small_network()
    before = [W.copy() for W in weights]
    o = FineTuneSpec(epochs=1, batch_size=7, learning_rate=1e-9, max_norm=1.5)
    reference.fine_tune(weights, biases, v, labels, lambda layer, epoch: np.arange(7), o, 1)
    for W, old in zip(weights, before, strict=True):
        length = np.linalg.norm(old, axis=0)
        assert np.allclose(W, old * np.minimum(1, 1.5 / length), atol=1e-7)
    assert max(np.linalg.norm(old, axis=0).max() for old in before) > 1.5


def test_training_learns_bars():
    """Greedy pre-training lowers the reconstruction error, and fine-tuning then tells rows from columns."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    bars = np.zeros((4, 4, 300))
    for j, label in enumerate(labels):
        on = rng.random(4) < 0.4
        on[rng.integers(4)] = True
        on[rng.integers(4)] &= not on.all()
        bars[:, :, j] = on[:, None] if label else on[None, :]
    data = bars.reshape(16, 300)
    orders = lambda layer, epoch: np.random.default_rng([layer, epoch]).permutation(300)  # noqa: E731
    rbms = [
        reference.RBM(reference.initial_weights(1, i, n, m, 0.01), np.zeros(n), np.zeros(m), layer=i)
        for i, (n, m) in enumerate([(16, 24), (24, 12)])
    ]
    o = TrainingSpec(epochs=15, batch_size=32, learning_rate=0.1)
    errors = reference.pretrain(rbms, data, orders, o)
    per_layer = np.array(errors).reshape(2, 15, 10).mean(axis=2)
    assert per_layer[0, -1] < 0.7 * per_layer[0, 0]
    weights, biases = [*(rbm.W for rbm in rbms), np.zeros((12, 2))], [*(rbm.c for rbm in rbms), np.zeros(2)]
    o = FineTuneSpec(epochs=40, batch_size=32, learning_rate=0.5)
    losses = reference.fine_tune(weights, biases, data, labels, orders, o, 1)
    predicted = reference.forward(weights, biases, data)[0].argmax(axis=0)
    assert losses[-1] < 0.3
    assert np.mean(predicted == labels) > 0.95
