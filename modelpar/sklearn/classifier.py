"""A deep belief network as a scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from sklearn.base import ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from modelpar.comm.grid import Grid
from modelpar.errors import SpecError
from modelpar.model.backprop import softmax
from modelpar.model.network import DeepBeliefNetwork
from modelpar.sklearn.arrays import collect, dataset_of, each_sample, prepared, put, visible_values
from modelpar.sklearn.base import EngineEstimator, minibatch_of, switch
from modelpar.spec import MOST_LAYERS, FineTuneSpec, NetworkSpec, TrainingSpec
from modelpar.training.state import Position, TrainingRun
from modelpar.training.trainer import fine_tune, pretrain
from modelpar.values import plain

Array = npt.NDArray[Any]

FLOATS = (np.float64, np.float32)


class DBNClassifier(ClassifierMixin, EngineEstimator):  # type: ignore[misc]
    """Deep belief network: RBMs pre-trained one after another, then fine-tuned with a softmax output.

    Split over the ranks of a communicator where one is given.  Parameters and attributes of fine-tuning are named as
    those of ``sklearn.neural_network.MLPClassifier``; those of pre-training begin with ``rbm_``.

    hidden_layer_sizes   units of each hidden layer
    rbm_n_iter           epochs of pre-training of each RBM; 0 for none
    rbm_learning_rate    learning rate of RBMs with Bernoulli visible units
    rbm_gaussian_learning_rate   learning rate of the first RBM where its visible units are Gaussian
    rbm_weight_decay     L2 penalty on the weights in pre-training
    statistics           hidden side, in pre-training: probabilities rounded at random to 1 ... 8 bits, or ``float``
    weight_scale         standard deviation of the initial weights; with 0.01, which suits RBMs alone, fine-tuning
                         makes no progress for many epochs where there are few features
    learning_rate_init   initial learning rate of fine-tuning; it falls linearly to a twentieth
    max_iter             epochs of fine-tuning
    batch_size           samples of a minibatch; ``auto``: 100, fewer of a small data set
    momentum             in fine-tuning after its first epoch
    alpha                L2 penalty on the weights in fine-tuning; divided by the minibatch's samples
    dropout, input_dropout   probability of dropping a hidden or a visible unit in fine-tuning
    early_stopping       set ``validation_fraction`` of the samples aside, stop after ``n_iter_no_change`` epochs
                         without a better accuracy on them, and keep the best parameters
    visible              ``bernoulli``, for values in [0, 1]; ``gaussian``, standardised by the classifier itself;
                         ``auto``: bernoulli where all of X lies in [0, 1]
    dtype                type of weights and probabilities: float32 or float64
    random_state         an integer is the seed itself: the same model at every grid, up to rounding
    verbose              print a line for each epoch
    n_jobs               threads of each rank; None: as ``modelpar.set_threads`` or the environment say, else an equal
                         share of the node's cores; -1: that share in any case
    comm                 communicator; every method is then collective, and every rank must bring the same X and y
    model_shards, replicas   the grid over ``comm``; one model over all its ranks where both are None

    After ``fit``, the same on every rank:

    classes_             labels, sorted
    coefs_, intercepts_  weights (n_below, n_above) and biases of the hidden layers and of the output
    intercepts_visible_  visible biases of the RBMs, as pre-trained
    visible_             kind of visible units
    input_offset_, input_scale_   (n_features,) visible activations are (X - offset) / scale
    loss_, loss_curve_   mean cross-entropy of the last epoch, and of each one
    validation_scores_, best_validation_score_   accuracies; None without early stopping
    n_iter_              epochs of fine-tuning;  n_layers_, n_outputs_, out_activation_
    n_features_in_, feature_names_in_
    """

    _fitted = ("classes_", "coefs_", "intercepts_", "intercepts_visible_", "input_offset_", "input_scale_")
    _names: ClassVar[dict[str, str]] = {
        "layers": "hidden_layer_sizes", "epochs": "rbm_n_iter", "learning-rate": "rbm_learning_rate",
        "gaussian-learning-rate": "rbm_gaussian_learning_rate", "weight-decay": "rbm_weight_decay",
        "finetune-epochs": "max_iter", "finetune-learning-rate": "learning_rate_init",
        "finetune-batch-size": "batch_size", "finetune-weight-decay": "alpha",
        "finetune-momentum": "momentum", "patience": "n_iter_no_change", "seed": "random_state",
    }  # fmt: skip

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (256, 256),
        *,
        rbm_n_iter: int = 10,
        rbm_learning_rate: float = 0.1,
        rbm_gaussian_learning_rate: float = 0.002,
        rbm_weight_decay: float = 0.0002,
        statistics: int | str = 4,
        weight_scale: float = 0.1,
        learning_rate_init: float = 0.1,
        max_iter: int = 30,
        batch_size: int | str = "auto",
        momentum: float = 0.9,
        alpha: float = 0.0,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        visible: str = "auto",
        dtype: str = "float32",
        random_state: Any = None,
        verbose: int | bool = False,
        n_jobs: int | None = None,
        comm: MPI.Intracomm | None = None,
        model_shards: int | None = None,
        replicas: int | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.rbm_n_iter = rbm_n_iter
        self.rbm_learning_rate = rbm_learning_rate
        self.rbm_gaussian_learning_rate = rbm_gaussian_learning_rate
        self.rbm_weight_decay = rbm_weight_decay
        self.statistics = statistics
        self.weight_scale = weight_scale
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.momentum = momentum
        self.alpha = alpha
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.visible = visible
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose
        self.n_jobs = n_jobs
        self.comm = comm
        self.model_shards = model_shards
        self.replicas = replicas

    def fit(self, X: Any, y: Any) -> DBNClassifier:
        """Pre-train and fine-tune from scratch on X (n_samples, n_features), an array or a sparse matrix, and labels y
        (n_samples,) of any type.  Collective."""
        self._begin("fit")
        seed = self._draw_seed()
        with self._agreed():
            X, y = validate_data(self, prepared(X), y, accept_sparse="csr", dtype=FLOATS)
            check_classification_targets(y)
            self.classes_, labels = np.unique(y, return_inverse=True)
            if len(self.classes_) < 2:
                raise ValueError(f"{type(self).__name__} needs at least 2 classes, but y has only one class: {y[0]!r}")
            X, self.visible_ = visible_values(X, self.visible)
            self._network_spec = self._spec(X.shape[1], seed)
            training, tuning = self._training(X.shape[0])
            validation_samples = None
            if tuning.patience:
                _, validation_samples = train_test_split(
                    np.arange(len(labels)), stratify=labels, random_state=seed % 2**32,
                    test_size=plain.real_number("validation_fraction", self.validation_fraction, above=0, below=1),
                )  # fmt: skip
        self._agree("fit", X=X, y=labels, classes=self.classes_)
        dataset = dataset_of(X, labels, len(self.classes_), validation_samples)
        with self._errors(), self._grid(fitting=True) as grid:
            network = DeepBeliefNetwork(self._network_spec, grid)
            for _ in self._watched(pretrain(network, dataset, training)):
                pass
            epochs = [record.measures for record in self._watched(fine_tune(network, dataset, tuning))]
            tensors = collect(network)
        parts = self._parts
        self.coefs_ = [tensors[f"{part}.W"] for part in parts]
        self.intercepts_ = [tensors[f"{part}.c"] for part in parts]
        self.intercepts_visible_ = [tensors[f"{part}.b"] for part in parts[:-1]]
        self.input_offset_, self.input_scale_ = tensors["input.offset"], tensors["input.scale"]
        self.loss_curve_ = [measures["loss"] for measures in epochs]
        self.loss_ = self.loss_curve_[-1] if epochs else float("nan")
        self.validation_scores_, self.best_validation_score_ = None, None
        if tuning.patience:
            self.validation_scores_ = [measures["validation_accuracy"] for measures in epochs]
            self.best_validation_score_ = max(self.validation_scores_, default=None)
        self.n_iter_, self.n_layers_, self.n_outputs_ = len(epochs), len(parts) + 1, len(self.classes_)
        self.out_activation_ = "softmax"
        return self

    def predict_proba(self, X: Any) -> Array:
        """Probabilities (n_samples, n_classes), classes in the order of ``classes_``.  Collective."""
        self._begin("predict_proba")
        with self._agreed():
            check_is_fitted(self)
            X = validate_data(self, prepared(X), accept_sparse="csr", dtype=FLOATS, reset=False)
        self._agree("predict_proba", X=X)
        with self._errors(), self._grid(fitting=False) as grid:
            network = self.network(grid)
            assert network.output is not None  # fitted networks have one
            class_ids = network.output.class_ids

            def probabilities(v: Array, _: Array) -> Array:
                p = network.logits(v)
                softmax(p)
                return np.asarray(p[class_ids])

            return each_sample(network, X, class_ids, len(self.classes_), network.dtype, probabilities)

    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of :meth:`predict_proba`.  Collective."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> Array:
        """The most probable class of each sample, (n_samples,).  Collective."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def network(self, grid: Grid) -> DeepBeliefNetwork:
        """The fitted network on any grid, to be evaluated or saved there.  Collective over ``grid``."""
        check_is_fitted(self)
        self._agree_on_fitted(grid)
        network = DeepBeliefNetwork(self._network_spec, grid, draw_weights=False)
        parts = network.parts()
        for part, W, c in zip(parts, self.coefs_, self.intercepts_, strict=True):
            put(network, {f"{part.name}.W": W, f"{part.name}.c": c})
        put(network, {f"{part.name}.b": b for part, b in zip(parts, self.intercepts_visible_, strict=False)})
        put(network, {"input.offset": self.input_offset_, "input.scale": self.input_scale_})
        TrainingRun.of(network).position = Position("done")
        return network

    @property
    def _parts(self) -> list[str]:
        return [*(f"rbm.{i}" for i in range(len(self._network_spec.layers) - 1)), "output"]

    def _spec(self, n_features: int, seed: int) -> NetworkSpec:
        number = plain.integer(self.hidden_layer_sizes)
        sizes = [number] if number is not None else plain.elements(self.hidden_layer_sizes, MOST_LAYERS)
        if not sizes:
            raise SpecError(
                f"hidden_layer_sizes is {plain.shown(self.hidden_layer_sizes)}, but must be an integer, or several"
            )
        return NetworkSpec(
            (n_features, *sizes), classes=len(self.classes_), visible=self.visible_, variances="unit",
            dtype=self.dtype, seed=seed, weight_scale=self.weight_scale,
        )  # fmt: skip

    def _training(self, n_samples: int) -> tuple[TrainingSpec, FineTuneSpec]:
        batch = minibatch_of(self.batch_size, n_samples)
        training = TrainingSpec(
            epochs=self.rbm_n_iter, batch_size=batch, learning_rate=self.rbm_learning_rate,
            gaussian_learning_rate=self.rbm_gaussian_learning_rate, weight_decay=self.rbm_weight_decay,
            statistics=self.statistics,  # type: ignore[arg-type]  # TrainingSpec makes it a text
        )  # fmt: skip
        patience = 0
        if switch("early_stopping", self.early_stopping):
            patience = plain.integer_number("n_iter_no_change", self.n_iter_no_change, at_least=1)
        momentum = plain.real_number("momentum", self.momentum, at_least=0, below=1)
        alpha = plain.real_number("alpha", self.alpha, at_least=0)
        tuning = FineTuneSpec(
            epochs=self.max_iter, batch_size=batch, learning_rate=self.learning_rate_init, momentum=momentum,
            initial_momentum=min(0.5, momentum), weight_decay=alpha / batch, dropout=self.dropout,
            input_dropout=self.input_dropout, patience=patience,
        )  # fmt: skip
        return training, tuning
