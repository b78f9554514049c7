"""The choice among grids: all of them are there, each as it is alone, and what does not fit is never chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.errors import OutOfMemoryError
from modelpar.ownership.build_connections import connect
from modelpar.ownership.layout import NetworkLayout
from modelpar.ownership.placement import place
from modelpar.plan.choose import Job, best, choices, faster_on_fewer, what_fits
from modelpar.plan.collectives import Placement
from modelpar.plan.machine import Machine, read_machine
from modelpar.plan.memory import memory_by_kind
from modelpar.plan.predict import predict
from modelpar.plan.steps import received, step_of
from modelpar.spec import NetworkSpec, SyncSpec, TrainingSpec

MACHINE = replace(read_machine("ethernet-10g"), cores_per_node=4)


def job(layers: tuple[int, ...], layout: str = "auto", **training: object) -> Job:
    return Job(
        NetworkSpec(layers, layout=layout), TrainingSpec(**training), SyncSpec(),  # type: ignore[arg-type]
        lambda n: NetworkLayout.blocks(layers, n),
    )  # fmt: skip


def alone(asked: Job, machine: Machine, replicas: int, shards: int, word: str, on_node: int, threads: int) -> float:
    layout = NetworkLayout.blocks(asked.network.layers, shards, word)
    placement = Placement.blocks(replicas, shards, on_node)
    far = len(set(placement.nodes.reshape(-1).tolist())) > 1
    step = step_of(asked.network, 0, asked.training, asked.sync, layout, replicas, machine.rates, threads,
                   at_once=on_node, replicas_far=far, shards_far=shards > on_node)  # fmt: skip
    return predict(step, placement, machine).seconds


@pytest.mark.parametrize("layers", [(784, 500), (3000, 3000)], ids=str)
def test_all_grids_and_layouts_by_brute_force(layers: tuple[int, ...]) -> None:
    asked = job(layers)
    found = choices(asked, MACHINE, 4, 2)
    expected = {}
    for n, on_node in ((1, 1), (2, 2), (4, 2)):
        for shards in (p for p in (1, 2, 4) if n % p == 0):
            for word in ("column", "row", "dual") if shards > 1 else ("column",):
                key = n // shards, shards, word
                expected[key] = alone(asked, MACHINE, n // shards, shards, word, on_node, 4 // on_node)
    assert {(c.replicas, c.model_shards, c.layout[0]): c.seconds for c in found} == pytest.approx(expected)
    assert [c.seconds for c in found] == sorted(expected.values())
    chosen = best(found, 4)
    assert chosen.seconds == min(s for (r, p, _), s in expected.items() if r * p == 4)
    for c in found:
        assert sum(c.parts.values()) == pytest.approx(c.seconds)
        one = alone(asked, MACHINE, 1, 1, "column", 1, c.threads)
        assert c.efficiency == pytest.approx(one / (c.ranks * c.seconds))


def test_fewer_ranks_are_advised_where_they_are_faster() -> None:
    found = choices(job((784, 500)), read_machine("ethernet-10g"), 2, 2)
    of_two = best(found, 2)
    [one] = [choice for choice in found if choice.ranks == 1]
    for seconds, advised in ((0.99, True), (1.01, False)):
        few = replace(one, seconds=seconds * of_two.seconds)
        ranked = sorted([few, of_two], key=lambda choice: choice.seconds)
        assert (faster_on_fewer(ranked, 2) is few) == advised


def test_bytes_are_those_of_all_replicas_and_the_mean_of_the_rbms() -> None:
    asked = job((60, 40, 20), "dual")
    [choice] = [c for c in choices(asked, MACHINE, 4, 4) if (c.replicas, c.model_shards) == (2, 2)]
    layout = NetworkLayout.blocks((60, 40, 20), 2, "dual")
    total = 0.0
    for rbm in range(2):
        step = step_of(asked.network, rbm, asked.training, asked.sync, layout, 2, MACHINE.rates, 1)
        total += sum(n for axis in received(step).values() for verb in axis.values() for n in verb.values())
    moved = sum(n for axis in choice.bytes.values() for verb in axis.values() for n in verb.values())
    assert moved == pytest.approx(total * 2 / 2)


def test_what_does_not_fit_comes_last_and_what_would_is_named() -> None:
    asked = job((10_000, 10_000))
    whole = sum(memory_by_kind(asked.network, ("column",), asked.training, n_shards=1).values())
    small = replace(MACHINE, memory_per_node=whole * 2 // 3)
    found = choices(asked, small, 2, 1)
    assert [c.fits for c in found] == sorted((c.fits for c in found), reverse=True)
    assert not any(c.fits for c in found if c.model_shards == 1)
    assert best(found, 2).model_shards == 2
    assert what_fits(asked, small, 1) == (2, 2)
    tiny = replace(MACHINE, memory_per_node=1 << 20)
    assert what_fits(asked, tiny, 1) is None
    with pytest.raises(OutOfMemoryError, match="no grid of 2 ranks"):
        best(choices(asked, tiny, 2, 1), 2)


@pytest.mark.parametrize("n_shards", [2, 4])
@pytest.mark.parametrize(("layers", "connections"), [((784, 1600), "local:9"), ((500, 800), "random:12")])
def test_lists_are_those_of_the_shard_that_has_most(
    layers: tuple[int, int], connections: str, n_shards: int
) -> None:  # fmt: skip
    """Within a sixth of the connections with an end on it, counted one by one."""
    spec = NetworkSpec(layers, connections=connections)
    [listed] = connect(spec, MPI.COMM_SELF)
    layout = place(spec, n_shards, MPI.COMM_SELF, connections=[listed])
    owner = [np.empty(n, np.int64) for n in layers]
    for side, of_units in zip(owner, layout.layers, strict=False):
        for shard in range(n_shards):
            side[of_units.owned(shard)] = shard
    offsets, visible = listed.below(np.arange(layers[1]))
    ends = owner[0][visible], np.repeat(owner[1], np.diff(offsets))
    most = max(int(((ends[0] == shard) | (ends[1] == shard)).sum()) for shard in range(n_shards))
    found = memory_by_kind(spec, ("sparse",), TrainingSpec(), n_shards=n_shards)
    assert found["weights"] / 4 == pytest.approx(most, rel=1 / 6)


def test_a_replica_has_a_sample_at_least() -> None:
    found = choices(job((20, 10), batch_size=2), MACHINE, 4, 4)
    assert max(c.replicas for c in found) == 2
