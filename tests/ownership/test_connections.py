"""Connections as values, what --connections says of them, and where units are placed; against masks and by hand.

Modules: modelpar/ownership/build_connections, modelpar/ownership/placement, modelpar/patterns
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI
from scipy import sparse

import partitioners
from modelpar.errors import LayoutError, SpecError
from modelpar.ownership.build_connections import connect, coordinates_of, expected_counts, image_shapes
from modelpar.ownership.connections import Connections, Listed, Local, mask_of, runs
from modelpar.ownership.costs import halo_bytes, recompute_pays
from modelpar.ownership.placement import WITHOUT_LINKS, graph_of, place
from modelpar.patterns import Pattern, parse, parse_image_shape, patterns
from modelpar.spec import NetworkSpec
from partitioners import generators

WORLD = MPI.COMM_SELF

LOCALS = [
    Local(1, 5, 5, 1, 3), Local(2, 6, 4, 3, 3), Local(1, 7, 7, 2, 3, 2), Local(3, 8, 5, 2, 2, 3), Local(1, 4, 4, 5, 4),
    Local(1, 9, 8, 1, 1, 2),
]  # fmt: skip


def as_mask(local: Local) -> np.ndarray:
    """By the definition: which position of which map lies in which field."""
    above, across = local.positions
    mask = np.zeros((local.n_visible, local.n_hidden), bool)
    for hidden in range(local.n_hidden):
        r, c = divmod(hidden % (above * across), across)
        for visible in range(local.n_visible):
            y, x = divmod(visible % (local.rows * local.columns), local.columns)
            mask[visible, hidden] = (
                0 <= y - r * local.stride < local.field and 0 <= x - c * local.stride < local.field
            )  # fmt: skip
    return mask


def some_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    masks = [rng.random((7, 5)) < density for density in (0.0, 0.2, 0.6, 1.0)]
    masks.append(np.repeat(rng.random((9, 2)) < 0.4, 3, axis=1))  # units with the same connections
    return masks


def check(connections: Connections, mask: np.ndarray) -> None:
    """All that a value says of connections is what the mask says."""
    n_visible, n_hidden = mask.shape
    assert (connections.n_visible, connections.n_hidden, connections.n_connections) == (*mask.shape, mask.sum())
    assert connections.widest == mask.sum(axis=0).max(initial=0)
    assert connections.widest_down == mask.sum(axis=1).max(initial=0)
    by_visible, by_hidden = connections.degrees()
    assert np.array_equal(by_visible, mask.sum(axis=1))
    assert np.array_equal(by_hidden, mask.sum(axis=0))
    numbers = np.full(mask.shape, -1)
    numbers.T[mask.T] = np.arange(mask.sum())  # hidden unit after hidden unit
    rng = np.random.default_rng(1)
    for hidden in (np.arange(n_hidden), rng.permutation(n_hidden)[: n_hidden // 2]):
        offsets, below = connections.below(hidden)
        starts = connections.offsets_of(hidden)
        for j, unit in enumerate(hidden):
            assert np.array_equal(below[offsets[j] : offsets[j + 1]], np.flatnonzero(mask[:, unit]))
            if mask[:, unit].any():
                assert starts[j] == numbers[:, unit].max() - mask[:, unit].sum() + 1
    for visible in (np.arange(n_visible), np.sort(rng.permutation(n_visible)[: n_visible // 2])):
        offsets, above, result = connections.above(visible)
        for i, unit in enumerate(visible):
            run = slice(offsets[i], offsets[i + 1])
            assert np.array_equal(above[run], np.flatnonzero(mask[unit]))
            assert np.array_equal(result[run], numbers[unit][mask[unit]])
    kinds = connections.kinds_of(np.arange(n_hidden))
    for a in range(n_hidden):
        for b in range(a):
            assert not (kinds[a] == kinds[b] and not np.array_equal(mask[:, a], mask[:, b]))
    assert np.array_equal(mask_of(connections).toarray(), mask)


@pytest.mark.parametrize("local", LOCALS, ids=str)
def test_receptive_fields(local: Local) -> None:
    mask = as_mask(local)
    check(local, mask)
    check(Listed.from_mask(mask), mask)
    made = generators.local(  # of another package
        local.rows, local.columns, field=local.field, maps=local.maps, maps_below=local.maps_below, stride=local.stride
    )
    assert np.array_equal(made.toarray(), mask)


@pytest.mark.parametrize("mask", some_masks(), ids=lambda mask: f"{int(mask.sum())}")
def test_listed_connections(mask: np.ndarray) -> None:
    check(Listed.from_mask(mask), mask)
    check(Listed.from_mask(sparse.coo_array(mask)), mask)
    weighted = sparse.csr_array(np.where(mask, 0.5, 0.0))
    check(Listed.from_mask(weighted), mask)


def test_units_with_the_same_connections_are_found() -> None:
    mask = some_masks()[-1]
    kinds = Listed.from_mask(mask).kinds_of(np.arange(mask.shape[1]))
    assert len(set(kinds[:3])) == 1
    assert len(set(kinds[3:])) == 1


def test_runs() -> None:
    assert runs(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert runs(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


# -- what --connections says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dense", Pattern()),
        ("local:5", Pattern("local", (5, 1))),
        ("local:5/2", Pattern("local", (5, 2))),
        ("mask:a/b.npz", Pattern("mask", path="a/b.npz")),
        ("random:4", Pattern("random", (4,))),
        ("erdos-renyi:0.25", Pattern("erdos-renyi", (0.25,))),
        ("small-world:6/0.1", Pattern("small-world", (6, 0.1))),
        ("scale-free:3", Pattern("scale-free", (3,))),
        ("radix-net:2x3/4", Pattern("radix-net", (4,), (2, 3))),
        ("pruned", Pattern("pruned")),
    ],
)
def test_patterns(text: str, expected: Pattern) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loca:5", "not known; use dense; local:FIELD"),
        ("local", "should have local:FIELD"),
        ("local:0", "should have local:FIELD"),
        ("local:5/0", "should have local:FIELD"),
        ("random:x", "should have random:DEGREE"),
        ("erdos-renyi:1.5", "should have erdos-renyi:DENSITY"),
        ("small-world:4", "should have small-world:DEGREE/REWIRED"),
        ("radix-net:1x2", "should have radix-net:RADIX"),
        ("mask", "use mask:FILE"),
        ("dense:3", "takes nothing after it"),
        ("dense,local:3,dense", "names 3 patterns"),
    ],
)
def test_patterns_that_are_not_understood(text: str, expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        NetworkSpec((16, 8, 4), connections=text)


def test_one_pattern_is_that_of_all_rbms() -> None:
    assert patterns("random:2", 3) == (Pattern("random", (2,)),) * 3


def test_grids() -> None:
    assert parse_image_shape("", 49) == (1, 7, 7)
    assert parse_image_shape("3x4", 12) == (1, 3, 4)
    assert parse_image_shape("2x3X4", 24) == (2, 3, 4)
    for text, expected in (("", "is not a square number"), ("3x", "must be rows x columns"), ("3x5", "has 15 units")):
        with pytest.raises(SpecError, match=expected):
            parse_image_shape(text, 12)


def test_layers_of_fields_lie_above_each_other() -> None:
    spec = NetworkSpec((49, 18, 8, 5), connections="local:3/2,local:2,dense")
    assert image_shapes(spec) == ((1, 7, 7), (2, 3, 3), (2, 2, 2), None)
    places = coordinates_of(spec)
    assert places is not None
    assert places[0][8].tolist() == [1, 1]
    assert places[1][9 + 4].tolist() == [3, 3]  # the middle of the field that begins at (2, 2)
    assert places[2][0].tolist() == [2, 2]  # of the fields at (1, 1), (1, 3), (3, 1), (3, 3)
    assert np.ptp(places[3], axis=0).min() > 0  # spread over the plane
    assert coordinates_of(NetworkSpec((49, 18), connections="random:3")) is None


@pytest.mark.parametrize(
    ("layers", "more", "expected"),
    [
        ((49, 20), {"connections": "local:3"}, "a multiple of 25 units.*use 25"),
        ((48, 25), {"connections": "local:3"}, "is not a square number"),
        ((49, 25), {"connections": "local:8"}, "do not fit"),
        ((49, 10, 9), {"connections": "dense,local:2"}, "lies on no grid"),
        ((49, 5), {"connections": "random:50"}, "RBM 0"),
        ((49, 5), {"connections": "radix-net:2x2"}, "layers of 4 units, but --layers has 49 and 5"),
        ((49, 5), {"connections": "pruned"}, "modelpar prune"),
        ((49, 5), {"connections": "mask:nowhere.npz"}, "nowhere.npz does not exist"),
    ],
)
def test_patterns_that_do_not_fit(layers: tuple[int, ...], more: dict[str, str], expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        connect(NetworkSpec(layers, **more), WORLD)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_masks_of_files(suffix: str, tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((6, 4)) < 0.5
    path = tmp_path / f"mask.{suffix}"
    if suffix == "npy":
        np.save(path, mask)
    else:
        sparse.save_npz(path, sparse.csr_array(mask))
    [result] = connect(NetworkSpec((6, 4), connections=f"mask:{path}"), WORLD)
    assert result is not None
    check(result, mask)
    with pytest.raises(SpecError, match="joins 6 with 4 units, but --layers has 6 and 5"):
        connect(NetworkSpec((6, 5), connections=f"mask:{path}"), WORLD)


def test_files_that_are_no_masks(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no")
    np.save(tmp_path / "flat.npy", np.ones(3))
    for name, expected in (("text.npz", "is not a mask"), ("flat.npy", "has 1 dimensions")):
        with pytest.raises(SpecError, match=expected):
            connect(NetworkSpec((6, 4), connections=f"mask:{tmp_path / name}"), WORLD)


@pytest.mark.parametrize(
    "text", ["local:3", "random:4", "erdos-renyi:0.2", "small-world:4/0", "scale-free:3", "radix-net:7x7/1", "dense"]
)
def test_how_many_connections_are_expected(text: str) -> None:
    spec = NetworkSpec((49, 49 if "radix" in text else 50), connections=text)
    [listed], [about] = connect(spec, WORLD), expected_counts(spec)
    if listed is None:
        assert about is None
    else:
        assert about is not None
        assert 0.5 * listed.n_connections <= about <= 1.5 * listed.n_connections


def test_layers_have_connections_of_their_own_and_seeds_of_others() -> None:
    first, second = connect(NetworkSpec((20, 20, 20), connections="random:3"), WORLD)
    [other, _] = connect(NetworkSpec((20, 20, 20), connections="random:3", seed=2), WORLD)
    [again, _] = connect(NetworkSpec((20, 20, 20), connections="random:3"), WORLD)
    masks = [mask_of(listed).toarray() for listed in (first, second, other, again) if listed is not None]
    assert np.array_equal(masks[0], masks[3])
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


# -- who owns what -----------------------------------------------------------------------------------------------------

SPEC = NetworkSpec((49, 50, 20), connections="local:3,random:5")


@pytest.mark.parametrize("method", WITHOUT_LINKS)
@pytest.mark.parametrize("n_shards", [1, 2, 3, 4])
def test_placements_look_at_units_only(method: str, n_shards: int) -> None:
    """The short way, without lists of connections, leads to what the method makes of the whole graph."""
    layout = place(SPEC, n_shards, WORLD, partitioner=method)
    whole = partitioners.METHODS[method](graph_of(SPEC, connect(SPEC, WORLD)), n_shards, seed=SPEC.seed)
    for layer, owner in zip(layout.layers, whole.owners, strict=True):
        assert np.array_equal(layer.owner, owner)


def test_a_unit_weighs_its_connections() -> None:
    graph = graph_of(SPEC, connect(SPEC, WORLD))
    masks = [mask_of(listed).toarray() for listed in connect(SPEC, WORLD) if listed is not None]
    wanted = [masks[0].sum(axis=1), masks[0].sum(axis=0) + masks[1].sum(axis=1), masks[1].sum(axis=0)]
    assert np.array_equal(graph.weights, np.concatenate(wanted))


def test_a_placement_file_is_used(tmp_path: Path) -> None:
    made = partitioners.strided(graph_of(SPEC, connect(SPEC, WORLD)), 3)
    partitioners.save_placement(tmp_path / "it.npz", made, {})
    layout = place(SPEC, 3, WORLD, file=str(tmp_path / "it.npz"))
    for layer, owner in zip(layout.layers, made.owners, strict=True):
        assert np.array_equal(layer.owner, owner)
    with pytest.raises(LayoutError, match="has 3 parts, but the grid has 2 model shards; use --model-shards 3"):
        place(SPEC, 2, WORLD, file=str(tmp_path / "it.npz"))
    with pytest.raises(LayoutError, match="layers of 49-50-20 units, but the network has 49-50-21"):
        place(NetworkSpec((49, 50, 21)), 3, WORLD, file=str(tmp_path / "it.npz"))
    with pytest.raises(SpecError, match="exclude each other"):
        place(SPEC, 3, WORLD, file=str(tmp_path / "it.npz"), partitioner="block")
    with pytest.raises(SpecError, match="--partition"):
        place(SPEC, 3, WORLD, file=str(tmp_path / "other.npz"))
    with pytest.raises(SpecError, match="--partitioner: there is no method"):
        place(SPEC, 3, WORLD, partitioner="nobody")


def test_what_travels_by_hand() -> None:
    """2 words of 8 bytes for 100 samples; 3 visible and 5 hidden states; statistics of 4 bits in both phases."""
    assert halo_bytes(3, 5, 100) == 16 * (3 + 5 * (1 + 4 + 4))
    assert halo_bytes(3, 5, 100, planes=1) == 16 * (3 + 5 * 2)
    assert halo_bytes(3, 5, 100, gibbs_steps=2, read=False) == 16 * (3 * 3 + 5 * (2 + 8))
    # persistent chains never start at the data's hidden states, which stay at home
    assert halo_bytes(3, 5, 100, chains=100) == 16 * (3 + 5 * (1 + 8))
    assert halo_bytes(3, 5, 100, chains=200) == 32 * (3 + 5 * (1 + 4)) + 16 * 5 * 4
    assert halo_bytes(9, 5, 100, recompute=True) == 16 * 9 + 4 * 5 * 2


def test_hidden_states_are_drawn_again_where_few_connections_spare_many_bytes() -> None:
    assert recompute_pays(100, 4000, 300, 4000, 4000 * 9, batch=256)
    assert not recompute_pays(100, 4000, 300, 4000, 4000 * 900, batch=256)
