"""Exchanges by their algebra, their order and their bytes, for even, uneven, scattered and empty shards."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.comm.exchange import Exchange, Traffic
from modelpar.kernels.states import pack, unpack
from modelpar.ownership.layout import UnitLayout

pytestmark = pytest.mark.ranks

N_UNITS, BATCH = 13, 5


def owners(kind: str, n_shards: int) -> np.ndarray:
    ids = np.arange(N_UNITS)
    if kind == "blocks":
        return ids * n_shards // N_UNITS
    if kind == "strided":
        return ids % n_shards
    if kind == "last shard has all":
        return np.full(N_UNITS, n_shards - 1)
    return np.random.default_rng(3).integers(0, n_shards, N_UNITS)


@pytest.fixture(params=["blocks", "strided", "random", "last shard has all"])
def layout(request, comm):
    return UnitLayout.from_owners(owners(request.param, comm.size), comm.size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gather_brings_every_unit_in_the_layouts_order(comm, agree, layout, dtype):
    exchange = Exchange(comm, layout, Traffic())
    everything = (np.arange(N_UNITS)[:, None] * 100 + np.arange(BATCH)).astype(dtype)
    whole = exchange.gather(everything[layout.owned(comm.rank)])
    agree(np.array_equal(whole, everything[layout.ordering]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reduce_sums_over_shards(comm, agree, layout, dtype):
    exchange = Exchange(comm, layout, Traffic())
    partial = (np.arange(N_UNITS)[:, None] + np.zeros(BATCH) + 10 * comm.rank).astype(dtype)
    expected = comm.size * layout.owned(comm.rank)[:, None] + 10 * sum(range(comm.size)) + np.zeros(BATCH)
    agree(np.array_equal(exchange.reduce(np.ascontiguousarray(partial[layout.ordering])), expected))


def test_gather_and_reduce_are_adjoint(comm, agree, layout):
    rng = np.random.default_rng(comm.rank)
    exchange = Exchange(comm, layout, Traffic())
    x = rng.standard_normal((len(layout.owned(comm.rank)), BATCH))
    y = rng.standard_normal((N_UNITS, BATCH))
    left = comm.allreduce((exchange.gather(x) * y).sum())
    right = comm.allreduce((x * exchange.reduce(y)).sum())
    agree(np.isclose(left, right, rtol=1e-12))


def test_batches_of_changing_size_use_the_same_exchange(comm, agree, layout):
    exchange = Exchange(comm, layout, Traffic())
    for batch in (4, 0, 7, 1):
        owned = np.full((len(layout.owned(comm.rank)), batch), batch, np.float32)
        agree(np.array_equal(exchange.gather(owned), np.full((N_UNITS, batch), batch)))


def test_bytes_are_those_of_the_formula(comm, agree, layout):
    traffic = Traffic()
    exchange = Exchange(comm, layout, traffic)
    exchange.gather(np.zeros((len(layout.owned(comm.rank)), BATCH), np.float32))
    exchange.reduce(np.zeros((N_UNITS, BATCH), np.float32))
    exchange.reduce(np.zeros((N_UNITS, 2), np.float32))
    one_way = (comm.size - 1) * N_UNITS * 4
    expected = {"gather": {"floats": BATCH * one_way}, "reduce": {"floats": (BATCH + 2) * one_way}}
    agree(traffic.total(comm)["shard"] == (expected if comm.size > 1 else {}))


@pytest.mark.parametrize("batch", [1, 64, 130])
@pytest.mark.parametrize("planes", [1, 3])
def test_packed_values_travel_as_bits(comm, agree, layout, batch, planes):
    """Every unit in the layout's order, and 8 bytes for each 64 samples of a plane."""
    traffic = Traffic()
    exchange = Exchange(comm, layout, traffic)
    everything = np.random.default_rng(1).integers(0, 1 << planes, (N_UNITS, batch))
    whole = exchange.gather_packed(pack(everything[layout.owned(comm.rank)], planes))
    agree(np.array_equal(unpack(whole), everything[layout.ordering]))
    bits = (comm.size - 1) * N_UNITS * planes * 8 * -(-batch // 64)
    agree(traffic.total(comm)["shard"] == ({"gather": {"bits": bits}} if comm.size > 1 else {}))


def test_sums_of_whole_numbers_wrap_alike(comm, agree, layout):
    partial = np.full((N_UNITS, BATCH), 2**31 - 1 - comm.rank, np.int32)
    owned = Exchange(comm, layout, Traffic()).reduce(partial)
    expected = (sum(2**31 - 1 - rank for rank in range(comm.size)) + 2**31) % 2**32 - 2**31
    agree(owned.dtype == np.int32 and bool((owned == expected).all()))


def test_what_is_measured_is_not_counted(comm, agree, layout):
    traffic = Traffic()
    with traffic.measuring():
        Exchange(comm, layout, traffic).gather(np.zeros((len(layout.owned(comm.rank)), BATCH)))
    agree(traffic.total(comm) == {"shard": {}, "replica": {}})
