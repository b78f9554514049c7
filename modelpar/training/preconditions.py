"""Checks that the data fit the requested training: made by the command line before an old run is removed, and by
training before anything is changed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.data import Dataset, check_classes, check_range, check_training
from modelpar.errors import SpecError
from modelpar.spec import FineTuneSpec, NetworkSpec, SyncSpec, TrainingSpec, option_name
from modelpar.sync import check_bound
from modelpar.training.evaluation import has_labels, required_labels
from modelpar.training.exactness import check_exact_tuning


def check_strategy(
    spec: NetworkSpec, sync: SyncSpec, training: TrainingSpec | None = None, *, n_replicas: int, digests: bool
) -> None:
    """Raise SpecError, on every rank alike, where a strategy or connections cannot do what else was asked for."""
    if sync.sync == "allreduce":
        return
    if spec.exact or digests:
        what = "--exact" if spec.exact else "--digests"
        raise SpecError(
            f"{what} needs replicas that take every step together, but --sync is {sync.sync}; use --sync allreduce"
        )
    if training is not None and 0 < training.n_chains < n_replicas:
        chains = (
            f"--chains is {training.chains}"
            if training.chains
            else f"--batch-size, and so chains, is {training.batch_size}"
        )
        raise SpecError(
            f"{chains}, but {n_replicas} replicas that take steps of their own (--sync {sync.sync}) need a chain each; "
            f"use at least {n_replicas}, or --sync allreduce"
        )
    if training is not None and training.hidden_scale == "unit":
        raise SpecError(
            f"--hidden-scale unit needs replicas that take every step together, but --sync is {sync.sync}; use --sync "
            "allreduce, or --hidden-scale free"
        )
    if sync.sync == "server":
        check_bound(sync, n_replicas)
        if training is not None and sync.adagrad and training.visible_bias_rate != 1.0:
            raise SpecError(
                f"--visible-bias-rate is {training.visible_bias_rate:g}, but --adagrad has a rate for each parameter; "
                "leave one of them out"
            )
        for name, value in (("l1b", training.l1b), ("group_lasso", training.group_lasso)) if training else ():
            if value and sync.adagrad:
                raise SpecError(
                    f"{option_name(name)} {value:g} takes steps of one size for all weights of a unit, but --adagrad "
                    "has one for each weight; leave one of them out, or use --l1"
                )


def check_products(spec: NetworkSpec, asked: TrainingSpec | FineTuneSpec) -> None:
    """Raise SpecError, on every rank alike, where products in bfloat16 do not go with what else was asked for."""
    if asked.products == "full":
        return
    flag = f"{option_name(asked.prefix + 'products')} {asked.products}"
    if spec.exact:
        raise SpecError(f"--exact cannot be kept with {flag}, whose sums are rounded; leave one of them out")
    if spec.dtype != "float32":
        raise SpecError(f"{flag} makes sums in float32, but --dtype is {spec.dtype}; leave one of them out")


def check_hidden(spec: NetworkSpec, training: TrainingSpec) -> None:
    """Raise SpecError, on every rank alike, where hidden units with real values do not go with what was asked for."""
    wrong = [
        (training.sparsity_cost > 0, "--sparsity-cost steers probabilities of states; leave it out"),
    ]  # fmt: skip
    for is_so, why in wrong:
        if spec.hidden != "bernoulli" and is_so:
            raise SpecError(f"--hidden is {spec.hidden}, but {why}, or use --hidden bernoulli")
    if spec.hidden == "bernoulli" and training.hidden_scale == "unit":
        raise SpecError("--hidden-scale unit is for hidden units with real values, but --hidden is bernoulli; leave it "
                        "out, or use --hidden gaussian, relu or drelu")  # fmt: skip


def check_values(
    spec: NetworkSpec, dataset: Dataset, visible_ids: npt.NDArray[np.int64], comm: MPI.Comm, *, again: bool = False
) -> None:
    """Check that the values fit the visible units, of which this rank owns ``visible_ids``, and can be learned from.

    again   as ``check_training`` has it.   Collective.  Raises SpecError or DataError on every rank.
    """
    kind = spec.visible_kind
    if (kind.gaussian or kind.categories) and dataset.binarise != "none":
        raise SpecError(
            f"--binarise {dataset.binarise} makes Bernoulli states, but --visible is {spec.visible}; leave one of them "
            "out"
        )
    if dataset.visible and dataset.visible != spec.visible and not kind.gaussian:
        raise SpecError(
            f"{dataset.name} is for {dataset.visible} units, but --visible is {spec.visible}; use --visible "
            f"{dataset.visible}"
        )
    check_range(dataset, visible_ids, spec.visible, comm=comm)
    check_training(dataset, visible_ids, spec.visible, comm=comm, again=again)


def check_tuning(spec: NetworkSpec, tuning: FineTuneSpec, dataset: Dataset, comm: MPI.Comm) -> None:
    """Check that the labels that fine-tuning and its stopping rules need are there, and fit the output layer.

    Collective.  Raises SpecError or DataError on every rank.
    """
    check_exact_tuning(spec, tuning)
    check_products(spec, tuning)
    for split in (dataset.train, dataset.validation, dataset.test):
        if split is not None and (split is dataset.train or has_labels(split)):
            required_labels(dataset, split, spec.classes)
    if tuning.patience and not has_labels(dataset.validation):
        raise SpecError("--patience needs a validation set with labels; give --validation-fraction")
    if tuning.until_accuracy is not None and not (has_labels(dataset.validation) or has_labels(dataset.test)):
        raise SpecError("--until-accuracy needs a test or validation set with labels; give --test-fraction")
    check_classes(dataset, spec.classes, comm)
