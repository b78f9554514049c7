"""Pre-training and fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

from modelpar.errors import SpecError
from modelpar.spec.base import Spec, option

# of the learning rate of Bernoulli hidden units, whose variance is 1/4 at most: real ones have 1 and more
REAL_HIDDEN, REAL_HIDDEN_PLAIN = 0.25, 0.1  # where they are standardised, and where not
PRODUCTS = ("full", "bf16")  # numbers that products of real values are made of
SCHEDULES = ("constant", "linear", "cosine", "exponential")


@dataclass(frozen=True)
class TrainingSpec(Spec):
    """Pre-training of one RBM after another (Algorithms 1 and 2).  Defaults by decision 23."""

    epochs: int = option(20, "epochs of pre-training of each RBM", at_least=0)
    batch_size: int = option(100, "samples of one minibatch, over all replicas together", at_least=1)
    learning_rate: float | None = option(
        None, "learning rate of RBMs with Bernoulli visible units  [default: 0.1, or 0.05 with chains of their own; a tenth of that with real hidden units]",
        at_least=0,
    )  # fmt: skip
    gaussian_learning_rate: float | None = option(
        None, "learning rate of an RBM with Gaussian visible units  [default: 0.002, or 0.01 with chains of their own]",
        at_least=0,
    )  # fmt: skip
    visible_bias_rate: float = option(
        1.0, "learning rate of the visible biases of RBMs, as a multiple of that of all else", above=0, at_most=1000
    )
    schedule: str = option("constant", "how the learning rate falls over the epochs", choices=SCHEDULES)
    final_rate: float = option(
        0.1, "learning rate at the end of the schedule, as a fraction of that at the start", at_least=0, at_most=1
    )
    momentum: float | None = option(
        None, "momentum  [default: 0.9, or 0 with chains of their own]", at_least=0, below=1
    )
    initial_momentum: float | None = option(
        None, "another momentum in the first epochs  [default: --momentum]", at_least=0, below=1
    )
    momentum_epochs: int = option(5, "epochs with the initial momentum", at_least=0)
    weight_decay: float = option(0.0002, "L2 penalty on the weights", at_least=0)
    gibbs_steps: int = option(1, "steps of Gibbs sampling: the k of CD-k", at_least=1)
    persistent: bool = option(False, "persistent chains instead of chains started at the data (PCD, Tieleman 2008)")
    chains: int = option(
        0, "chains of their own for the model's statistics, over all replicas, whatever the minibatch; they go on from update to update; 0: with --persistent as many as a minibatch has samples",
        at_least=0, below=1 << 31,
    )  # fmt: skip
    chain_steps: int = option(0, "sweeps of these chains for each update; 0: --gibbs-steps", at_least=0, below=1 << 15)
    chain_start: str = option("biases", "where these chains start: at samples of the data, at random visible states, or at hidden states drawn from their biases",
                              choices=("data", "random", "biases"))  # fmt: skip
    chain_restart: bool = option(
        False, "start these chains anew for every update: from random states, out-of-equilibrium training (Decelle et al. 2021)"
    )  # fmt: skip
    chain_method: str = option("gibbs", "how these chains move: by Gibbs sampling alone, or with swaps along a ladder of temperatures (pt) or of the models that training has gone through (ptt, Bereux et al. 2024)",
                               choices=("gibbs", "pt", "ptt"))  # fmt: skip
    chain_temperatures: int = option(
        10, "pt: temperatures from that of independent units to the model's; ptt: the most models of the ladder",
        at_least=3, at_most=1000,
    )  # fmt: skip
    missing_steps: int = option(
        5, "sweeps of Gibbs sampling that draw the missing values of a minibatch (--missing sample), from the most frequent values on",
        at_least=1, below=1 << 15,
    )  # fmt: skip
    updates: int = option(0, "updates of each RBM, in place of --epochs; 0: as many as the epochs have", at_least=0)
    centred: bool = option(
        True, "centred gradient: visible and hidden units count from their means over data and model (Montavon and Mueller 2012)"
    )  # fmt: skip
    standardised: bool | None = option(
        None,
        "standardised gradient: units are centred and divided by their standard deviations over data and model  [default: hidden units with real values alone are, where no --learning-rate is given]",
    )
    average: int = option(
        0, "average of the parameters over about so many of the last updates, which becomes the RBM at its end; 0 for none (Swersky et al. 2010)",
        at_least=0,
    )  # fmt: skip
    clip: float = option(
        0.0, "limit on the norm of an update of an RBM's weights, which is scaled back to it; 0 for none (Pascanu et al. 2013)",
        at_least=0, flag="--clip",
    )  # fmt: skip
    score_every: int = option(
        0, "estimate the log-likelihood of the validation samples (else of the test or training samples) every so many epochs, and after the last one of each RBM; 0: modelpar train does so at the end of pre-training, unless there is --no-score",
        at_least=0, flag="--score-every",
    )  # fmt: skip
    score_share: float = option(
        0.1, "part of the training time that these estimates take, about: it decides how many temperatures they have, 300 to 10000",
        above=0, flag="--score-share",
    )  # fmt: skip
    score_temperatures: int = option(
        0, "temperatures of these estimates; 0: as many as --score-share affords, or 300 with --exact",
        at_least=0, below=1 << 31, flag="--score-temperatures",
    )  # fmt: skip
    l1: float = option(
        0.0, "L1 penalty on the weights, by proximal steps, which leave exact zeros", at_least=0, flag="--l1"
    )
    l1b: float = option(
        0.0, "penalty on half the square of each hidden unit's sum of absolute weights, which makes units alike sparse, by proximal steps (Tubiana et al. 2019)",
        at_least=0, flag="--l1b",
    )  # fmt: skip
    group_lasso: float = option(
        0.0, "penalty on the Euclidean norms of groups of weights, which become 0 together: a hidden unit's weights at a categorical site, or all its incoming weights where there are no sites (Yuan and Lin 2006)",
        at_least=0, flag="--group-lasso",
    )  # fmt: skip
    hidden_scale: str = option(
        "free", "scale of hidden values in which RBMs with real hidden units are trained and their --l1 and --l1b count weights: free, that of the model, or unit, where their variance is 1",
        choices=("free", "unit"),
    )  # fmt: skip
    statistics: str = option(
        "4",
        "hidden side of the statistics: probabilities rounded at random to 1 ... 8 bits (1: the sampled states), or float, the probabilities",
        choices=(*"12345678", "float"),
        numeric=True,
    )
    reconstruction: str = option(
        "auto",
        "visible side of the reconstruction: probabilities, sampled states, or auto: states where the data are states",
        choices=("auto", "probabilities", "states"),
    )
    sparsity_target: float = option(
        0.05, "mean activation that the sparsity penalty pulls hidden units to", above=0, below=1
    )
    sparsity_cost: float = option(0.0, "weight of the sparsity penalty; 0 for none", at_least=0)
    pass_up: str = option("probabilities", "what a trained RBM passes to the next: probabilities or sampled states",
                          choices=("probabilities", "states"))  # fmt: skip
    cache: str = option("auto", "keep the data of the upper RBMs in memory or recompute them for each minibatch; auto keeps what fits",
                        choices=("auto", "keep", "recompute"))  # fmt: skip
    products: str = option(
        "full", "numbers that products of real values are made of: those of --dtype, or these rounded to bfloat16 (bf16), with sums in float32; products of states and k-bit statistics are whole numbers anyway",
        choices=PRODUCTS,
    )  # fmt: skip
    digests: bool = option(
        False, "record a digest of states and parameters after every update, for modelpar diff; --exact implies it"
    )

    @property
    def planes(self) -> int:
        """Bits of the hidden side of the statistics; 0 for probabilities."""
        return 0 if self.statistics == "float" else int(self.statistics)

    @property
    def trains(self) -> bool:
        """Whether there is any pre-training."""
        return self.updates > 0 or self.epochs > 0

    @property
    def n_chains(self) -> int:
        """Chains of their own, over all replicas; 0 where each chain starts at a sample of the minibatch (CD)."""
        if self.chains or self.persistent or self.chain_restart:
            return self.chains or self.batch_size
        return 0

    def rate(self, *, gaussian: bool = False, real_hidden: bool = False) -> float:
        """The learning rate of an RBM before its schedule; with real hidden units, whose products with the visible
        ones vary more, a smaller one by default."""
        if gaussian:
            if self.gaussian_learning_rate is not None:
                return self.gaussian_learning_rate
            return 0.01 if self.n_chains else 0.002
        if self.learning_rate is not None:
            return self.learning_rate
        smaller = REAL_HIDDEN if self.divides_real_hidden(gaussian=False) else REAL_HIDDEN_PLAIN
        return (0.05 if self.n_chains else 0.1) * (smaller if real_hidden else 1.0)

    def divides_real_hidden(self, *, gaussian: bool) -> bool:
        """Whether the gradient is that of hidden units with real values over their deviations.

        gaussian   whether visible units are, whose rate always is a given one
        """
        if self.standardised is None:
            free = self.hidden_scale == "free"
            return self.centred and (not free or (self.learning_rate is None and not gaussian))
        return self.standardised

    @property
    def lasting_momentum(self) -> float:
        """The momentum after the first epochs; by default none with chains of their own, which follow slowly."""
        return (0.0 if self.n_chains else 0.9) if self.momentum is None else self.momentum

    @property
    def sweeps(self) -> int:
        """Sweeps of chains of their own for each update."""
        return self.chain_steps or self.gibbs_steps

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score_temperatures == 1:
            raise SpecError(
                "--score-temperatures is 1, but there must be at least 2, from 0 to 1 (or 0 for as many as fit)"
            )
        if self.hidden_scale == "unit" and not self.divides_real_hidden(gaussian=False):
            wrong = "--no-centred" if not self.centred else "--no-standardised"
            raise SpecError(f"--hidden-scale unit divides gradients by variances, but there is {wrong}; leave it out")
        if self.hidden_scale == "unit" and self.group_lasso:
            raise SpecError(
                f"--hidden-scale unit is for --l1 and --l1b, but --group-lasso is {self.group_lasso:g}; leave one of "
                "them out"
            )
        if self.persistent and self.chain_restart:
            raise SpecError("--persistent and --chain-restart exclude each other: chains go on, or start anew")
        if self.chain_method != "gibbs" and (self.chain_restart or not self.n_chains):
            what = "but --chain-restart starts them anew" if self.chain_restart else "but there are none"
            raise SpecError(
                f"--chain-method {self.chain_method} needs chains of their own that go on, {what}; give --chains or "
                "--persistent, without --chain-restart"
            )


@dataclass(frozen=True)
class FineTuneSpec(Spec):
    """Fine-tuning by back-propagation with a softmax output (Algorithm 3)."""

    prefix = "finetune_"

    epochs: int = option(50, "epochs of fine-tuning", at_least=0)
    batch_size: int = option(50, "samples of one minibatch of fine-tuning, over all replicas together", at_least=1)
    learning_rate: float = option(0.2, "learning rate of fine-tuning", at_least=0)
    schedule: str = option("linear", "how the learning rate of fine-tuning falls over the epochs", choices=SCHEDULES)
    final_rate: float = option(
        0.05, "learning rate at the end of fine-tuning, as a fraction of that at the start", at_least=0, at_most=1
    )
    momentum: float = option(0.9, "momentum of fine-tuning after the first epochs", at_least=0, below=1)
    initial_momentum: float = option(0.5, "momentum of fine-tuning in the first epochs", at_least=0, below=1)
    momentum_epochs: int = option(1, "epochs of fine-tuning with the initial momentum", at_least=0)
    weight_decay: float = option(0.0, "L2 penalty on the weights in fine-tuning", at_least=0)
    max_norm: float = option(
        0.0, "limit on the length of each unit's incoming weights; 0 for none", at_least=0, flag="--max-norm"
    )
    dropout: float = option(
        0.2, "probability of dropping a hidden unit in fine-tuning", at_least=0, below=1, flag="--dropout"
    )
    input_dropout: float = option(
        0.0, "probability of dropping a visible unit in fine-tuning", at_least=0, below=1, flag="--input-dropout"
    )
    patience: int = option(
        0,
        "epochs without a better validation accuracy after which fine-tuning stops; 0 for no early stopping",
        at_least=0,
        flag="--patience",
    )
    until_accuracy: float | None = option(
        None,
        "stop as soon as the accuracy (of the test set where there is one, else validation) is above this",
        at_least=0,
        at_most=1,
        flag="--until-accuracy",
    )
    evaluate_every: int = option(
        0,
        "measure the accuracy every so many steps; 0 for at the end of each epoch",
        at_least=0,
        flag="--evaluate-every",
    )
    products: str = option(
        "full", "numbers that products of fine-tuning are made of; on the command line by default as --products",
        choices=PRODUCTS,
    )  # fmt: skip

    @property
    def lasting_momentum(self) -> float:
        """The momentum after the first epochs."""
        return self.momentum
