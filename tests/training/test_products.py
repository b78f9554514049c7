"""``--products bf16``: what it changes, and with what it does not go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.cli.config import Settings
from modelpar.comm.grid import Grid
from modelpar.errors import SpecError
from modelpar.model.network import DeepBeliefNetwork
from modelpar.spec import FineTuneSpec, NetworkSpec, TrainingSpec
from modelpar.training.preconditions import check_products
from modelpar.training.trainer import fine_tune, pretrain
from tests import small


def trained(kind: str, products: str, *, tuning: bool, **network: Any) -> list[np.ndarray]:
    """All weights after an epoch of pre-training on such data, or of fine-tuning."""
    dataset = small.dataset(13, kind=kind)
    with Grid(MPI.COMM_SELF) as grid:
        model = DeepBeliefNetwork(NetworkSpec((13, 9), classes=dataset.n_classes or 2, **network), grid)
        if tuning:
            list(fine_tune(model, dataset, FineTuneSpec(epochs=1, batch_size=16, products=products)))
        else:
            list(pretrain(model, dataset, TrainingSpec(epochs=1, batch_size=16, products=products)))
        return [part.parameters.W.copy() for part in model.parts()]


@pytest.mark.filterwarnings("ignore::modelpar.errors.ModelparWarning")
@pytest.mark.parametrize(
    ("kind", "tuning", "network", "differs"),
    [
        ("real", False, {"visible": "gaussian"}, True),
        ("bits", False, {}, False),  # products of states are those of whole numbers
        ("levels", True, {}, True),
    ],
    ids=["Gaussian units", "states", "fine-tuning"],
)
def test_products_of_real_values_are_rounded(kind: str, tuning: bool, network: dict[str, Any], differs: bool) -> None:
    full, rounded = (trained(kind, products, tuning=tuning, **network) for products in ("full", "bf16"))
    assert any((a != b).any() for a, b in zip(full, rounded, strict=True)) == differs
    for a, b in zip(full, rounded, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.1, atol=0.02)


@pytest.mark.parametrize(
    ("network", "asked", "message"),
    [
        ({"exact": True}, TrainingSpec(products="bf16"), "--exact cannot be kept with --products bf16, whose"),
        ({"exact": True}, FineTuneSpec(products="bf16"), "--exact cannot be kept with --finetune-products bf16"),
        ({"dtype": "float64"}, TrainingSpec(products="bf16"), "--products bf16 makes sums in float32, but --dtype is"),
    ],
)
def test_what_does_not_go_with_them(network: dict[str, Any], asked: TrainingSpec | FineTuneSpec, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        check_products(NetworkSpec((4, 3), **network), asked)
    assert "\n" not in str(caught.value)
    check_products(NetworkSpec((4, 3)), asked)


def test_fine_tuning_follows_where_nothing_else_is_said() -> None:
    assert Settings({"training": {"products": "bf16"}}).finetune.products == "bf16"
    assert Settings({"training": {"products": "bf16"}, "finetune": {"products": "full"}}).finetune.products == "full"
    assert Settings({}).finetune.products == "full"
