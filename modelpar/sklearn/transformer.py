"""A restricted Boltzmann machine as a scikit-learn transformer."""

from __future__ import annotations

import zlib
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse
from mpi4py import MPI
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from modelpar.comm.grid import Grid
from modelpar.data import Dataset
from modelpar.draws import Purpose
from modelpar.kernels.states import Packed, unpack
from modelpar.likelihood.energy import free_energy
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.rbm import RBM
from modelpar.sklearn.arrays import collect, counting, dataset_of, each_sample, prepared, put
from modelpar.sklearn.base import EngineEstimator, minibatch_of, switch
from modelpar.sklearn.kinds import states_of_sites, values_of_kind, with_states
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.training.state import Position, TrainingRun
from modelpar.training.trainer import pretrain
from modelpar.units import parse_visible
from modelpar.values import plain

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

FLOATS = (np.float64, np.float32)

GAUSSIAN_RATE = 0.002  # with the momentum that persistent chains have here too


class RBMTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, EngineEstimator):  # type: ignore[misc]
    """Restricted Boltzmann machine, split over the ranks of a communicator where one is given.

    The features are the probabilities of the hidden units, or their means.  Parameters and attributes are named as
    those of ``sklearn.neural_network.BernoulliRBM``.

    n_components     hidden units
    learning_rate    default: 0.1 for Bernoulli visible units, 1/4 of that with real hidden ones, 0.002 for Gaussian
    batch_size       samples of a minibatch; ``auto``: 100, fewer of a small data set
    n_iter           epochs
    momentum         momentum after the first five epochs, in which it is at most 0.5
    weight_decay     L2 penalty on the weights
    gibbs_steps      the k of contrastive divergence, CD-k
    persistent       persistent chains instead (PCD, Tieleman 2008)
    statistics       hidden side: probabilities rounded at random to 1 ... 8 bits (1: sampled states), or ``float``
    visible          ``bernoulli``, for values in [0, 1]; ``spin``, from -1 to 1; ``categorical:Q``, for integers from 0
                     to Q - 1, the states of a site; ``gaussian``, standardised by the transformer itself; ``auto``:
                     bernoulli where all of X lies in [0, 1], else gaussian
    hidden           ``bernoulli``; or with real values: ``gaussian``, ``relu``, ``drelu`` (double rectified)
    dtype            type of weights and features: float32 or float64
    random_state     an integer is the seed itself: the same model at every grid, up to rounding
    verbose          print a line for each epoch
    n_jobs           threads of each rank; None: as ``modelpar.set_threads`` or the environment say, else an equal
                     share of the node's cores; -1: that share in any case
    comm             communicator; every method is then collective, and every rank must bring the same X
    model_shards, replicas   the grid over ``comm``; one model over all its ranks where both are None

    After ``fit``, the same on every rank:

    components_            weights (n_components, n_units): a unit is a feature, or of categorical features a state, and
                           state q of feature s is unit s * Q + q
    intercept_hidden_      (n_components,)
    intercept_visible_     (n_units,)
    precision_             (1, n_units) inverse variances of Gaussian units, standardised; of others (0, n_units)
    potential_             (0, n_components); of drelu (2, n_components): thresholds and asymmetries of hidden units
    h_samples_             hidden states of the persistent chains (chains, n_components); with ``persistent`` only
    visible_               kind of visible units
    input_offset_, input_scale_   (n_units,) visible activations are (X - offset) / scale
    n_iter_                epochs done;  n_features_in_, feature_names_in_
    """

    _passes: dict[str, Any]  # state of partial_fit: samples seen, velocities, chains
    _fitted = (
        "components_", "intercept_hidden_", "intercept_visible_", "potential_", "precision_", "input_offset_",
        "input_scale_",
    )  # fmt: skip
    _names: ClassVar[dict[str, str]] = {
        "layers": "n_components", "epochs": "n_iter", "gaussian-learning-rate": "learning_rate",
        "seed": "random_state",
    }  # fmt: skip

    def __init__(
        self,
        n_components: int = 256,
        *,
        learning_rate: float | None = None,
        batch_size: int | str = "auto",
        n_iter: int = 10,
        momentum: float = 0.9,
        weight_decay: float = 0.0002,
        gibbs_steps: int = 1,
        persistent: bool = False,
        statistics: int | str = 4,
        visible: str = "auto",
        hidden: str = "bernoulli",
        dtype: str = "float32",
        random_state: Any = None,
        verbose: int | bool = 0,
        n_jobs: int | None = None,
        comm: MPI.Intracomm | None = None,
        model_shards: int | None = None,
        replicas: int | None = None,
    ) -> None:
        self.n_components = n_components
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.gibbs_steps = gibbs_steps
        self.persistent = persistent
        self.statistics = statistics
        self.visible = visible
        self.hidden = hidden
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose
        self.n_jobs = n_jobs
        self.comm = comm
        self.model_shards = model_shards
        self.replicas = replicas

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> RBMTransformer:
        """Train from scratch on X (n_samples, n_features), an array or a sparse matrix.  Collective.

        sample_weight   (n_samples,) numbers from 0 on, of any scale: minibatches are drawn in proportion, so that an
                        epoch has as many samples as have any weight; Gaussian units are standardised by them too
        """
        self._begin("fit")
        seed = self._draw_seed()
        with self._agreed():
            X = validate_data(self, prepared(X), accept_sparse="csr", dtype=FLOATS)
            X, weights = counting(X, sample_weight)
            X, self.visible_ = values_of_kind(X, self.visible)
            self._network_spec = self._spec(X.shape[1], seed)
            training = self._training(X.shape[0], epochs=self.n_iter)
        self._agree("fit", X=X, sample_weight=weights)
        with self._errors(), self._grid(fitting=True) as grid:
            network = DeepBeliefNetwork(self._network_spec, grid)
            for _ in self._watched(pretrain(network, self._dataset(X, weights), training)):
                pass
            self._keep(network)
        self._start_anew()
        self.n_iter_ = training.epochs
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> RBMTransformer:
        """Train on with one pass over X, in minibatches; momentum and chains continue from call to call.  Collective.

        sample_weight   as in ``fit``, within this X
        Without a ``fit`` before, the first call decides the kind of visible units and their scaling.
        """
        first = not hasattr(self, "components_")
        self._begin("partial_fit")
        self._agree("partial_fit", first=first)
        seed = self._draw_seed() if first else self._network_spec.seed
        with self._agreed():
            X = validate_data(self, prepared(X), accept_sparse="csr", dtype=FLOATS, reset=first)
            X, weights = counting(X, sample_weight)
            X, visible = values_of_kind(X, self.visible if first else self.visible_)
            if first:
                self.visible_ = visible
                self._network_spec = self._spec(X.shape[1], seed)
                self._start_anew()
            # the epoch of this pass: as many passes over this X as the samples seen so far amount to
            epoch = max(-(-self._passes["samples"] // X.shape[0]), 0 if first else 1)
            training = self._training(X.shape[0], epochs=epoch + 1, momentum_epochs=0)
        self._agree("partial_fit", X=X, sample_weight=weights, passes=self._passes)
        with self._errors(), self._grid(fitting=True) as grid:
            network = DeepBeliefNetwork(self._network_spec, grid) if first else self.network(grid)
            put(network, self._passes["tensors"])
            TrainingRun.of(network).position = Position("pretrain", 0, epoch)
            for _ in self._watched(pretrain(network, self._dataset(X, weights), training)):
                break  # before the end of the stage, which drops velocities
            tensors = self._keep(network)
        kept = {name: x for name, x in tensors.items() if name.startswith("velocity.") or name == "chains"}
        self._passes = {"samples": (epoch + 1) * X.shape[0], "tensors": kept}
        self.n_iter_ += 1
        return self

    def transform(self, X: Any) -> Array:
        """P(h = 1 | v = X), or the mean of h, (n_samples, n_components).  Collective."""
        X = self._checked("transform", X)
        with self._errors(), self._grid(fitting=False) as grid:
            network = self.network(grid)
            rbm, n = network.rbms[0], len(self.components_)
            return each_sample(network, X, rbm.hidden_ids, n, network.dtype, lambda v, _: rbm.hidden_given_visible(v))

    def gibbs(self, v: Any) -> Array:
        """One step of Gibbs sampling from v (n_samples, n_features): new visible states, in the units of v.

        The states of sites are integers.
        Those of Gaussian visible units are float64 where v is: a mean may be large beside its deviation.  Collective.
        """
        v = self._checked("gibbs", v)
        seed = int(self.random_state_.randint(np.iinfo(np.int32).max))
        self._agree("gibbs", random_state=seed)
        with self._errors(), self._grid(fitting=False) as grid:
            network = self.network(grid)
            rbm, n = network.rbms[0], network.spec.layers[0]
            rbm.seed = seed

            def step(block: Array, samples: IntArray) -> Array:
                first = int(samples[0]) if len(samples) else 0
                h = rbm.sample_hidden(block, Purpose.HIDDEN, 0, first)
                v = rbm.sample_visible(h, Purpose.VISIBLE, 0, first)
                return unpack(v, network.dtype) if isinstance(v, Packed) else v

            states = each_sample(network, v, rbm.visible_ids, n, network.dtype, step)
        if self.visible_ == "bernoulli":
            return states
        if n_states := parse_visible(self.visible_).categories:
            return states_of_sites(states, n_states)
        return np.asarray(states * self.input_scale_ + self.input_offset_, np.result_type(states, v))

    def score_samples(self, X: Any) -> Array:
        """(n_samples,) log-likelihoods of the samples, or estimates of them, in nats.  Collective.

        Bernoulli visible units: the pseudo-log-likelihood n_features log p(v_i | all others) for one unit i of each
        sample (Besag 1975), as ``BernoulliRBM`` estimates it; but i follows from the seed and the sample's own values,
        so that the same sample always gets the same score.  A value between 0 and 1 counts as the probability of a one,
        and so do values between -1 and 1 of spins.  Of categorical units i is a site, which is a feature.

        Gaussian visible units: minus the free energy, which is the log-density up to a constant.
        """
        X = self._checked("score_samples", X)
        with self._errors(), self._grid(fitting=False) as grid:
            network = self.network(grid)
            rbm, computed = network.rbms[0], np.arange(int(grid.shard == 0))

            def score(v: Array, samples: IntArray) -> Array:
                values = -free_energy(rbm, v) if rbm.gaussian else self._pseudo_likelihood(network, X[samples], v)
                return values[None, :][: len(computed)]  # all shards compute them, the first one returns them

            return each_sample(network, X, computed, 1, np.float64, score)[:, 0]

    def _pseudo_likelihood(self, network: DeepBeliefNetwork, X: Any, v: Array) -> Array:
        """(batch,) for samples X (batch, n_features), of which v has the visible activations of owned units."""
        rbm, n, n_states = network.rbms[0], X.shape[1], network.spec.visible_kind.categories
        dense = np.ascontiguousarray(X.toarray() if scipy.sparse.issparse(X) else X, dtype=network.dtype) + 0.0
        sites = np.array([zlib.crc32(row, rbm.seed & 0xFFFFFFFF) % n for row in dense], np.int64)
        if n_states:
            return n * self._log_p_of_states(rbm, v, sites, n_states)
        observed = dense[np.arange(len(dense)), sites].astype(np.float64)
        if network.spec.visible == "spin":
            observed = (1 + observed) / 2
        rows, columns = np.nonzero(rbm.visible_ids[:, None] == sites[None, :])
        trial = v.copy()
        trial[rows, columns] = 0
        evidence = free_energy(rbm, trial)
        trial[rows, columns] = 1
        evidence = evidence - free_energy(rbm, trial)  # log-odds of a one given the other units
        return np.asarray(-n * (observed * np.logaddexp(0, -evidence) + (1 - observed) * np.logaddexp(0, evidence)))

    @staticmethod
    def _log_p_of_states(rbm: RBM, v: Array, sites: IntArray, n_states: int) -> Array:
        """(batch,) log p(state of a site | all other units).   sites (batch,) one for each sample"""
        trial, here = v.copy(), rbm.visible_ids[:, None] // n_states == sites[None, :]
        minus_energies = []
        for state in range(n_states):
            trial[here] = 0
            trial[here & (rbm.visible_ids[:, None] % n_states == state)] = 1
            minus_energies.append(-free_energy(rbm, trial))
        return np.asarray(-free_energy(rbm, v) - np.logaddexp.reduce(minus_energies, axis=0))

    def _checked(self, method: str, X: Any) -> Any:
        self._begin(method)
        with self._agreed():
            check_is_fitted(self)
            X = validate_data(self, prepared(X), accept_sparse="csr", dtype=FLOATS, reset=False)
            X = with_states(X, parse_visible(self.visible_), fitted=True)
        self._agree(method, X=X)
        return X

    def _dataset(self, X: Any, weights: Any) -> Dataset:
        return dataset_of(X, weights=weights, visible=self.visible_)

    def _spec(self, n_features: int, seed: int) -> NetworkSpec:
        n_hidden = plain.integer_number("n_components", self.n_components, at_least=1)
        n_units = n_features * (parse_visible(self.visible_).categories or 1)
        return NetworkSpec(
            (n_units, n_hidden), visible=self.visible_, hidden=self.hidden, dtype=self.dtype, seed=seed
        )  # fmt: skip

    def _training(self, n_samples: int, *, epochs: int, momentum_epochs: int = 5) -> TrainingSpec:
        rates: dict[str, Any] = {"gaussian_learning_rate": GAUSSIAN_RATE} if self.learning_rate is None else {
            "learning_rate": self.learning_rate, "gaussian_learning_rate": self.learning_rate,
        }  # fmt: skip
        momentum = plain.real_number("momentum", self.momentum, at_least=0, below=1)
        return TrainingSpec(
            epochs=epochs, batch_size=minibatch_of(self.batch_size, n_samples), momentum=momentum,
            initial_momentum=min(0.5, momentum), momentum_epochs=momentum_epochs, weight_decay=self.weight_decay,
            gibbs_steps=self.gibbs_steps, persistent=switch("persistent", self.persistent),
            statistics=self.statistics, **rates,  # type: ignore[arg-type]  # TrainingSpec makes it a text
        )  # fmt: skip

    def network(self, grid: Grid) -> DeepBeliefNetwork:
        """The fitted network on any grid, to be inspected or saved.  Collective over ``grid``."""
        check_is_fitted(self)
        self._agree_on_fitted(grid)
        network = DeepBeliefNetwork(self._network_spec, grid, draw_weights=False)
        units = network.rbms[0].hidden_units
        potential = (
            {f"rbm.0.{name}": x for name, x in zip(units.learned, self.potential_, strict=True)} if units else {}
        )
        learned = network.rbms[0].visible.learned
        # estimators that were kept before there were any have variance 1, which a network begins with
        precision = {f"rbm.0.{name}": x for name, x in zip(learned, getattr(self, "precision_", ()), strict=False)}
        put(network, {
            "rbm.0.W": self.components_.T, "rbm.0.b": self.intercept_visible_, "rbm.0.c": self.intercept_hidden_,
            **potential, **precision, "input.offset": self.input_offset_, "input.scale": self.input_scale_,
        })  # fmt: skip
        TrainingRun.of(network).position = Position("done")
        return network

    def _keep(self, network: DeepBeliefNetwork) -> dict[str, Array]:
        """Set the fitted arrays, and return all tensors of the network.  Collective."""
        tensors = collect(network)
        self.components_ = np.ascontiguousarray(tensors["rbm.0.W"].T)
        self.intercept_visible_, self.intercept_hidden_ = tensors["rbm.0.b"], tensors["rbm.0.c"]
        units = network.rbms[0].hidden_units
        learned = [tensors[f"rbm.0.{name}"] for name in units.learned] if units else []
        self.potential_ = np.reshape(learned, (len(learned), len(self.components_))).astype(network.dtype)
        precision = [tensors[f"rbm.0.{name}"] for name in network.rbms[0].visible.learned]
        self.precision_ = np.reshape(precision, (len(precision), self.components_.shape[1])).astype(network.dtype)
        self.input_offset_, self.input_scale_ = tensors["input.offset"], tensors["input.scale"]
        if "chains" in tensors:
            self.h_samples_ = np.ascontiguousarray(tensors["chains"].T)
        return tensors

    def _start_anew(self) -> None:
        """Reset the state from which ``partial_fit`` and ``gibbs`` continue."""
        self._passes = {"samples": 0, "tensors": {}}
        self.random_state_ = check_random_state(self._network_spec.seed % 2**32)
        self.n_iter_ = 0

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # features have the type of the weights
        return tags
