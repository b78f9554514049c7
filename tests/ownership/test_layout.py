"""Who owns which units: orderings, counts and mistakes, without MPI."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelpar.errors import LayoutError
from modelpar.ownership.layout import AutoContext, NetworkLayout, UnitLayout, layout_words


@st.composite
def owners(draw):
    n_shards = draw(st.integers(1, 6))
    return draw(st.lists(st.integers(0, n_shards - 1), max_size=30)), n_shards


@given(owners())
def test_every_unit_has_one_place(case):
    owner, n_shards = case
    layout = UnitLayout.from_owners(np.array(owner, np.int64), n_shards)
    assert (layout.n_units, layout.n_shards) == (len(owner), n_shards)
    assert sorted(layout.ordering) == list(range(len(owner)))
    assert layout.counts.tolist() == [owner.count(shard) for shard in range(n_shards)]
    assert layout.owner.tolist() == owner
    assert np.concatenate([layout.owned(shard) for shard in range(n_shards)]).tolist() == layout.ordering.tolist()
    for shard in range(n_shards):
        assert layout.owned(shard).tolist() == [unit for unit, its in enumerate(owner) if its == shard]  # ascending


@given(st.integers(0, 50), st.integers(1, 8))
def test_blocks_are_contiguous_and_nearly_equal(n_units, n_shards):
    layout = UnitLayout.blocks(n_units, n_shards)
    assert layout.ordering.tolist() == list(range(n_units))
    assert layout.counts.sum() == n_units
    assert layout.counts.max() - layout.counts.min() <= 1


def test_layouts_are_equal_by_value():
    one, same, other = (UnitLayout.from_owners(o, 2) for o in ([0, 1, 0], np.array([0, 1, 0], np.int8), [1, 0, 0]))
    assert one == same
    assert one != other
    assert one != UnitLayout.from_owners([0, 1, 0], 3)
    assert one != "a layout"
    assert NetworkLayout((one,), ()) == NetworkLayout((same,), ())


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        ([0, 2], "shard 2, but the shards are 0 to 1"),
        ([-1, 0], "shard -1"),
        ([0.0, 1.0], "float64"),
        ([[0, 1]], r"\(1, 2\)"),
    ],
)
def test_owners_that_cannot_be(owner, expected):
    with pytest.raises(LayoutError, match=expected):
        UnitLayout.from_owners(owner, 2)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("auto", ("auto", "auto", "auto")),
        ("row", ("row", "row", "row")),
        ("column, row,auto", ("column", "row", "auto")),
    ],
)
def test_layouts_that_are_asked_for(layout, words):
    assert layout_words(layout, 3) == words
    assert NetworkLayout.blocks((4, 9, 5, 5), 2, layout).matrix_layouts == words


def test_the_larger_side_is_split_and_a_tie_goes_to_columns():
    assert [AutoContext().choose(*pair) for pair in ((4, 9), (9, 5), (5, 5))] == ["column", "row", "column"]


@pytest.mark.parametrize(
    ("layout", "expected"),
    [("column,row", "2 layouts .* 3 weight matrices"), ("diagonal", "auto, column, row or dual")],
)
def test_layouts_that_are_not_known(layout, expected):
    with pytest.raises(LayoutError, match=expected):
        layout_words(layout, 3)


def test_owners_of_a_network():
    layout = NetworkLayout.from_owners([[0, 1], [1, 1, 0]], 2, "row")
    assert [its.owner.tolist() for its in layout.layers] == [[0, 1], [1, 1, 0]]
    assert layout.matrix_layouts == ("row",)
