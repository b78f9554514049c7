"""The options of the user: frozen values, validated once, the same on every rank.

Each field carries the help text that the command line shows; the command line, the TOML file and the Python API all
read these classes, so an option is written down once.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar

from modelpar.errors import SpecError
from modelpar.patterns import Pattern, parse_image_shape, patterns
from modelpar.units import Visible, parse_visible
from modelpar.values import plain


def option(default: Any, help: str, *, choices: tuple[str, ...] = (), at_least: float | None = None,
           above: float | None = None, at_most: float | None = None, below: float | None = None,
           flag: str | None = None, path: str | None = None, numeric: bool = False) -> Any:  # fmt: skip
    """A dataclass field with its help text, and the values that it accepts.

    ``flag`` is its name on the command line, where that is not the class's prefix and the field's name.
    ``path`` tells that it names a file or folder: ``file``; ``data``, which may be the name of a data set too; or
    ``masks``, of which some words are mask:FILE.
    ``numeric`` tells that the text may be given as a number.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    bounds = {name: bound for name, bound in bounds.items() if bound is not None}
    metadata = {"help": help, "choices": choices, "bounds": bounds, "flag": flag, "path": path, "numeric": numeric}
    return field(default=default, metadata=metadata)


def option_name(field_name: str) -> str:
    """``batch_size`` -> ``--batch-size``"""
    return "--" + field_name.replace("_", "-")


class Spec:
    """Base of the frozen option classes: every field is checked, and kept as a plain Python value."""

    prefix = ""  # prepended to a field's name on the command line, where two classes share a name

    @classmethod
    def flag(cls, f: Field[Any]) -> str:
        """The name of a field on the command line."""
        return f.metadata.get("flag") or option_name(cls.prefix + f.name)

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, f.name, _plain_value(f, self.flag(f), getattr(self, f.name)))


def _plain_value(f: Field[Any], name: str, value: Any) -> Any:
    """The value of a field as its type says.  Raises SpecError where it has another type, or is not valid."""
    kind, bounds, choices = str(f.type), f.metadata.get("bounds", {}), f.metadata.get("choices")
    if value is None and kind.endswith(" | None"):
        return None
    kind = kind.removesuffix(" | None")
    if kind == "int":
        return plain.integer_number(name, value, **{"at_most": MOST_INTEGER, **bounds})
    if kind == "float":
        return plain.real_number(name, value, **bounds)
    if kind == "bool":
        return plain.truth(name, value)
    if kind == "tuple[int, ...]":
        return _sizes(name, value)
    given = value
    if f.metadata.get("numeric") and plain.real(value) is not None:  # a threshold, or bits
        value = plain.shown(value)
    elif not choices or isinstance(value, os.PathLike):
        value = plain.text(name, value)
    if choices and not (isinstance(value, str) and value in choices):
        raise SpecError(f"{name} is {plain.shown(given)}, but must be one of {', '.join(choices)}")
    return str(value)


def _sizes(name: str, value: Any) -> tuple[int, ...]:
    """Sizes of layers from any sequence of integers."""
    sizes = plain.elements(value, MOST_LAYERS + 1)
    if sizes is None:
        raise SpecError(f"{name} is {plain.shown(value)}, but must be integers, one for each layer")
    if len(sizes) > MOST_LAYERS:
        raise SpecError(f"{name} has more than {MOST_LAYERS} layers, the most that are possible; leave some out")
    for units in sizes:
        if (plain.integer(units) or 0) < 1:
            raise SpecError(f"{name} has a layer of {plain.shown(units)} units, but every layer needs at least one")
        if (plain.integer(units) or 0) > MOST_UNITS:
            raise SpecError(f"{name} has a layer of {plain.shown(units)} units, but at most {MOST_UNITS} are possible")
    return tuple(plain.integer_number(name, units) for units in sizes)


MOST_UNITS = 1 << 31  # of a layer: as many as the values of a sample
MOST_LAYERS = 1 << 10
MOST_INTEGER = (1 << 63) - 1  # of any option
REAL_HIDDEN = 0.1  # of the learning rate of Bernoulli hidden units
PRODUCTS = ("full", "bf16")  # numbers that products of real values are made of
HIDDEN = ("bernoulli", "gaussian", "relu", "drelu")  # kinds of hidden units
SCHEDULES = ("constant", "linear", "cosine", "exponential")


@dataclass(frozen=True)
class NetworkSpec(Spec):
    """A deep belief network: its layers, its units and its seed."""

    layers: tuple[int, ...] = option((64, 256, 256), "units of every layer, the visible one first, as in 784-500-500")
    classes: int = option(0, "classes of the softmax output layer; 0 for none", at_least=0, at_most=1 << 31)
    visible: str = option("bernoulli", "kind of visible units: bernoulli; spin, whose data are -1 and 1; categorical:Q, sites of Q units of which one is 1; or gaussian, with unit variance and standardised data")  # fmt: skip
    hidden: str = option("bernoulli", "kind of hidden units of a network of one RBM: states, or real values, which may be Gaussian, rectified, or double rectified",
                          choices=HIDDEN)  # fmt: skip
    layout: str = option("auto", "how weights are split: auto, column, row or dual, or one of these for each weight matrix, separated by commas")  # fmt: skip
    connections: str = option("dense", "which units are connected: dense, local:FIELD/STRIDE, mask:FILE, random:DEGREE, erdos-renyi:DENSITY, small-world:DEGREE/REWIRED, scale-free:DEGREE or radix-net:RADIXx.../COPIES, or one of these for each RBM, separated by commas", path="masks")  # fmt: skip
    visible_grid: str = option("", "shape of the visible layer, for local connections: rows x columns, or maps x rows x columns  [default: a square]")  # fmt: skip
    halo: str = option(
        "auto",
        "hidden states of other shards, where connections are not complete: receive them, or recompute them; auto: whichever is predicted to be faster",
        choices=("auto", "receive", "recompute"),
    )
    dtype: str = option("float32", "type of weights and activations", choices=("float32", "float64"))
    exact: bool = option(
        False,
        "the same bytes at every grid: sums in integers everywhere, states wherever they are needed for that",
    )
    seed: int = option(1, "seed of every random draw", at_least=0, below=2**63)
    weight_scale: float | None = option(
        None, "standard deviation of the initial weights  [default: sqrt(2 / connections of a visible and a hidden unit together), Glorot and Bengio 2010]",
        at_least=0,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if isinstance(self.connections, os.PathLike):  # a mask
            object.__setattr__(self, "connections", f"mask:{os.fsdecode(self.connections)}")
        sides = plain.elements(self.visible_grid, 4)
        if sides is not None:
            sizes = [str(plain.integer_number("--visible-grid", side)) for side in sides]
            object.__setattr__(self, "visible_grid", "x".join(sizes))
        super().__post_init__()
        if len(self.layers) < 2:
            raise SpecError(
                f"--layers names {len(self.layers)} layer(s), but at least a visible and a hidden one are needed, as in 784-500"
            )
        if self.classes == 1:
            raise SpecError("--classes is 1, but a classifier needs at least 2 (or 0 for no output layer)")
        self._check_hidden()
        self.patterns  # noqa: B018 - raises where connections is not understood
        self.visible_kind.check_layer(self.layers[0])
        if self.visible_grid:
            parse_image_shape(self.visible_grid, self.layers[0])

    def _check_hidden(self) -> None:
        if self.hidden == "bernoulli":
            return
        if len(self.layers) > 2:
            raise SpecError(
                f"--hidden {self.hidden} is for networks of one RBM, but --layers has {len(self.layers)} layers; name a "
                "visible and a hidden one, or use --hidden bernoulli"
            )
        if self.classes:
            raise SpecError(
                f"--hidden {self.hidden} goes with no output layer, whose fine-tuning needs Bernoulli units; use "
                "--classes 0, or --hidden bernoulli"
            )
        if self.exact:
            raise SpecError(
                f"--exact cannot be kept with --hidden {self.hidden}: real values do not add up exactly; use --hidden "
                "bernoulli, or leave --exact out"
            )

    @property
    def visible_kind(self) -> Visible:
        """What the visible units are.  Raises SpecError where ``visible`` is not understood."""
        return parse_visible(self.visible)

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """How the units of each RBM are connected."""
        return patterns(self.connections, len(self.layers) - 1)


@dataclass(frozen=True)
class TrainingSpec(Spec):
    """Pre-training of one RBM after another (Algorithms 1 and 2).  Defaults by decision 23."""

    epochs: int = option(20, "epochs of pre-training of each RBM", at_least=0)
    batch_size: int = option(100, "samples of one minibatch, over all replicas together", at_least=1)
    learning_rate: float | None = option(
        None, "learning rate of RBMs with Bernoulli visible units  [default: 0.1, or 0.05 with chains of their own; a tenth of that with real hidden units]",
        at_least=0,
    )  # fmt: skip
    gaussian_learning_rate: float = option(0.002, "learning rate of an RBM with Gaussian visible units", at_least=0)
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
    updates: int = option(0, "updates of each RBM, in place of --epochs; 0: as many as the epochs have", at_least=0)
    centred: bool = option(
        True, "centred gradient: visible and hidden units count from their means over data and model (Montavon and Mueller 2012)"
    )  # fmt: skip
    standardised: bool = option(
        False, "standardised gradient: units are centred and divided by their standard deviations over data and model"
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
            return self.gaussian_learning_rate
        if self.learning_rate is not None:
            return self.learning_rate
        return (0.05 if self.n_chains else 0.1) * (REAL_HIDDEN if real_hidden else 1.0)

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


@dataclass(frozen=True)
class SyncSpec(Spec):
    """How replicas stay together."""

    BELONGING: ClassVar[dict[str, tuple[str, ...]]] = {  # strategies, and options that only they use
        "local": ("period", "outer_rate", "outer_momentum"),
        "server": (
            "fetch_every", "push_every", "warm_start", "max_staleness", "scale_by_staleness", "adagrad", "meet_every",
        ),
    }  # fmt: skip

    sync: str = option(
        "allreduce",
        "how replicas stay together: allreduce sums their updates at every step, local averages their parameters periodically (Local SGD), server lets each train at its own pace on shared parameters (Downpour)",
        choices=("allreduce", "local", "server"), flag="--sync",
    )  # fmt: skip
    period: int = option(10, "local: steps between two averages of the parameters", at_least=1)
    outer_rate: float = option(1.0, "local: step towards the average, as a fraction of the distance", above=0)
    outer_momentum: float = option(0.0, "local: Nesterov momentum of the averages (DiLoCo)", at_least=0, below=1)
    fetch_every: int = option(1, "server: steps of a replica between fetches of the parameters", at_least=1)
    push_every: int = option(1, "server: steps of a replica between pushes of its update", at_least=1)
    warm_start: int = option(
        0, "server: steps at the beginning of each stage that all replicas take together", at_least=0
    )
    max_staleness: int | None = option(
        None, "server: limit on the updates of others that an update may have missed; a replica that is too far ahead waits",
        at_least=0,
    )  # fmt: skip
    scale_by_staleness: bool = option(False, "server: divide an update by 1 + its staleness")
    adagrad: bool = option(False, "server: Adagrad in place of momentum, its state kept with the parameters")
    meet_every: int = option(
        0, "server: steps between meetings of the replicas, for records and checkpoints; 0 for the end of each epoch",
        at_least=0,
    )  # fmt: skip

    check_replicas: int = option(
        100, "updates between two comparisons of the replicas, which a memory error may have set apart; 0 for none but before a checkpoint",
        at_least=0, flag="--check-replicas",
    )  # fmt: skip
    repair: bool = option(
        False, "give a replica that is apart the bytes of the others, where these are the majority, and go on", flag="--repair",
    )  # fmt: skip
    check_memory: bool = option(
        False, "compare each shard's parameters before an update with what they were after the last one: memory errors at rest", flag="--check-memory",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for strategy, names in self.BELONGING.items():
            for f in fields(self):
                if f.name in names and getattr(self, f.name) != f.default and self.sync != strategy:
                    raise SpecError(
                        f"{option_name(f.name)} belongs to --sync {strategy}, but --sync is {self.sync}; leave one of "
                        "them out"
                    )

    def pushes_between_fetches(self) -> int:
        """The most pushes of one replica whose gradients were computed, at the latest, on one of its fetches.

        One more where fetches fall in between the gradients of a push, which then belongs to the fetch before.
        """
        fetch, push = self.fetch_every, self.push_every
        return -(-fetch // push) + (fetch % push != 0 and push % fetch != 0)


DATA_SETS = ("digits", "mnist", "fashion-mnist")  # known by name
DRAWN_SETS = ("bars", "patterns")  # by name and number, as in bars:8
AUTO = "auto"
WEIGHT_WORDS = (AUTO, "none")  # of --sample-weights, which else names a file


@dataclass(frozen=True)
class DataSpec(Spec):
    """The data, and their preparation for the visible units."""

    data: str = option(
        "digits",
        "data set: digits, mnist, fashion-mnist, bars:SIDE, patterns:SIDE, or a file (.npy, .npz, IDX, sparse .npz, FASTA, A3M, HDF5 as FILE.h5:ARRAY, PLINK .bed, VCF, Parquet, CSV)",
        path="data",
    )
    labels: str | None = option(None, "file with the labels, where the data file has none", path="file")
    test_data: str | None = option(None, "file of the test set, where the data set has none", path="data")
    test_labels: str | None = option(None, "file with the labels of the test set", path="file")
    test_fraction: float = option(
        0.2, "fraction of the samples set aside as test set, where the data set has none", at_least=0, below=1
    )
    validation_fraction: float = option(
        0.0, "fraction of the training samples set aside for validation", at_least=0, below=1
    )
    sample_weights: str | None = option(
        None, "weights of the samples, by which minibatches are drawn: a file (one number on each line, .npy, or the array weights of a .npz); auto: 1 over the sequences that agree at --identity of the sites, of categorical data; or none  [default: the array weights of the data's .npz, where there is one]",
        path="data",
    )  # fmt: skip
    identity: float = option(
        0.8, "part of their sites at which sequences agree that --sample-weights auto counts as neighbours",
        above=0, at_most=1, flag="--identity",
    )  # fmt: skip
    scale: float | None = option(
        None, "raw value that means 1.0  [default: that of the data set, else 255 for bytes and 1 for other types]", above=0
    )  # fmt: skip
    binarise: str = option(
        "none", "visible states from real values: none, stochastic, or a threshold such as 0.5", numeric=True
    )
    alphabet: str = option("", "letters of sequences: protein, dna, rna, or those of the states in their order, as in -ACGT  [default: by the letters that there are]")  # fmt: skip
    missing: str = option(
        "auto", "letters that say little, and unknown genotypes: gap, error, or most-frequent of the site; auto: gap for sequences, else error",
        choices=("auto", "error", "gap", "most-frequent"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name in ("data", "labels", "test_data", "test_labels", "sample_weights"):
            value = getattr(self, name)
            if isinstance(value, (bytes, os.PathLike)):
                object.__setattr__(self, name, os.fsdecode(value))
            elif value is not None and not isinstance(value, str):
                raise SpecError(
                    f"--{name.replace('_', '-')} is {plain.shown(value)}, but must be a text or a path; arrays are for "
                    "open_dataset"
                )
            if getattr(self, name) == "":
                raise SpecError(f"--{name.replace('_', '-')} is empty, but must name a file or a data set")
        super().__post_init__()
        self.threshold  # noqa: B018 - raises where binarise is not understood

    @property
    def threshold(self) -> float | None:
        """The fixed threshold, in units of the scaled values, or None."""
        if self.binarise in ("none", "stochastic"):
            return None
        with suppress(ValueError):
            level = float(self.binarise)
            if math.isfinite(level):
                return level
        raise SpecError(f"--binarise is {self.binarise!r}, but must be none, stochastic or a number such as 0.5")
