"""Kinds of visible units by their names."""

from __future__ import annotations

import pytest

from modelpar.errors import SpecError
from modelpar.spec import NetworkSpec
from modelpar.units import Visible, parse_visible


def test_kinds_have_names() -> None:
    assert parse_visible("bernoulli") == Visible("bernoulli")
    assert parse_visible("spin") == Visible("spin")
    assert parse_visible("gaussian").gaussian
    assert parse_visible("categorical:21") == Visible("categorical", 21)
    assert parse_visible("categorical:21").unit_of_layout == 21
    assert parse_visible("spin").unit_of_layout == 1


@pytest.mark.parametrize("text", ["", "potts", "categorical", "categorical:", "categorical:x", "categorical:²", "Spin"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="must be one of bernoulli, spin, categorical:Q, gaussian"):
        NetworkSpec(layers=(42, 3), visible=text)


@pytest.mark.parametrize("number", [0, 1, 1025, 10**8])
def test_a_site_has_some_categories(number: int) -> None:
    with pytest.raises(SpecError, match="a site has 2 to 1024 categories"):
        parse_visible(f"categorical:{number}")


def test_a_layer_has_whole_sites() -> None:
    assert NetworkSpec(layers=(42, 3), visible="categorical:21").visible_kind.categories == 21
    with pytest.raises(SpecError, match=r"begins with 50 units, .*a multiple of 21, such as 42"):
        NetworkSpec(layers=(50, 3), visible="categorical:21")
