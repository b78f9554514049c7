"""Strategies of replicas against plain NumPy, at every number of replicas: what they add up to, and what they count."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.checkpoint import load, save
from modelpar.comm.exchange import Traffic
from modelpar.comm.grid import Grid
from modelpar.errors import GridError, ModelparError, SpecError
from modelpar.model.network import DeepBeliefNetwork, Part
from modelpar.spec import FineTuneSpec, NetworkSpec, SyncSpec, TrainingSpec
from modelpar.sync import Sync, Work, strategy
from modelpar.sync.server_loop import dismiss, serve
from modelpar.sync.windows import SharedArrays
from modelpar.training.minibatch_loop import MinibatchLoop
from modelpar.training.optimizer import Optimizer
from modelpar.training.schedule import StepSize
from modelpar.training.trainer import fine_tune, pretrain
from modelpar.weights.parameters import Parameters
from tests import networks, reference, small

pytestmark = pytest.mark.ranks

WORLD = MPI.COMM_WORLD
SHAPES = networks.grids(WORLD)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} shards x {0[1]} replicas".format)
PLAIN = StepSize(rate=1.0, momentum=0.0, decay=0.0)


def work_on(*values: np.ndarray) -> Work:
    """Parts, each a matrix with two biases of one unit."""
    parts = {}
    for i, matrix in enumerate(values):
        part = parts[f"rbm.{i}"] = Parameters(matrix.shape, 1, 1, matrix.dtype)
        part.W[:] = matrix
    return Work(parts, {name: part.like() for name, part in parts.items()}, {}, {}, lambda: None)


@dataclass
class Ascent:
    """A gradient as back-propagation hands it over, uphill, of one sample."""

    values: np.ndarray | float
    n_samples = 1

    def add_to(self, velocity: Parameters, carry: float, gain: float) -> None:
        velocity.flat *= carry
        velocity.flat += gain * self.values


def step(sync: Sync, work: Work, values: np.ndarray | float, size: StepSize) -> None:
    """One step of the first part from a gradient of this replica."""
    name, parameters = next(iter(work.parts.items()))
    part = Part(name, parameters, None, None, None)
    Optimizer(sync).descend([(name, Ascent(values))], [part], work.velocity, size, 1)


def all_replicas() -> Grid:
    return networks.grid_of(WORLD.size, (1, WORLD.size))


# -- windows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 300_001])
@pytest.mark.parametrize("check_ranks", [None, lambda: None], ids=["free", "in turns"])
def test_no_addition_is_lost(comm, agree, n, check_ranks):
    arrays = SharedArrays(comm, list(range(comm.size)), n, np.float32, 2, 3, check_ranks)
    times, one = 20, np.full(n, 0.25, np.float32)
    for _ in range(times):
        arrays.add(1, one)
    comm.Barrier()
    result = np.empty(n, np.float32)
    arrays.read(1, result)
    agree(np.all(result == 0.25 * times * comm.size), "the sum of all additions")
    arrays.read(0, result)
    agree(not result.any(), "the other vector")
    start, mine = arrays.hosted(1)
    agree(start == n * comm.rank // comm.size and np.all(mine == 0.25 * times * comm.size), "the part that is hosted")
    comm.Barrier()
    arrays.free()


def test_what_was_there_before_an_addition(comm, agree):
    """Every rank sees another sum before its addition: together 0, 1, 2, ..."""
    arrays = SharedArrays(comm, [comm.size - 1], 3, np.float64, 1, 0)
    seen = []
    for _ in range(50):
        before = np.empty(3)
        arrays.add_and_read(0, np.ones(3), before)
        seen.append(before)
    everything = np.sort(np.concatenate(comm.allgather(np.array(seen))), axis=0)
    agree(np.array_equal(everything, np.repeat(np.arange(50.0 * comm.size)[:, None], 3, axis=1)))
    arrays.free()


def test_counters(comm, agree):
    arrays = SharedArrays(comm, [0], 1, np.float32, 1, 3)
    drawn = [arrays.add_to_counter(1, 1) for _ in range(100)]
    everything = sorted(chain.from_iterable(comm.allgather(drawn)))
    agree(everything == list(range(100 * comm.size)), "every ticket once")
    won = arrays.replace_counter(2, 0, comm.rank + 1)
    agree(sum(comm.allgather(won)) == 1, "one replacement succeeds")
    agree(list(arrays.counters()[:2]) == [0, 100 * comm.size])
    arrays.free()


# -- parameter server --------------------------------------------------------------------------------------------------

PACES = [(1, 1), (3, 1), (1, 3), (2, 3), (3, 2), (4, 2)]  # steps between fetches, between pushes


def constant_updates(grid: Grid, spec: SyncSpec, steps: int, staleness: Counter[int], pause: float = 0.0) -> int:
    """Each step of each replica adds 1/64 to all; returns the steps of this replica, and checks the sum."""
    work = work_on(np.zeros((5, 3), np.float32), np.ones((2, 2), np.float32))
    server = strategy(spec, grid, Traffic(), staleness)
    server.begin(work)
    mine = 0
    for share in server.shares(0, steps, 0, 1.0):
        assert 0 <= share.step < steps
        for part in work.parts.values():
            part.flat += np.float32(1 / 64)
        mine += 1
        if pause:  # the others sleep as well, so that none takes all the work while another waits for a core
            time.sleep(pause if grid.replica == 0 else pause / 10)
    n_all = steps * grid.n_replicas
    right = [np.all(i + n_all / 64 == part.W) for i, part in enumerate(work.parts.values())]
    server.end()
    assert all(grid.comm.allgather(all(right))), "an update was lost, or counted twice"
    return mine


@pytest.mark.parametrize("pace", PACES, ids=lambda pace: f"fetch {pace[0]} push {pace[1]}")
def test_no_update_is_lost(comm, agree, pace):
    grid, staleness = all_replicas(), Counter()
    spec = SyncSpec(sync="server", fetch_every=pace[0], push_every=pace[1])
    steps = -(-1000 // comm.size) * pace[1]
    mine = constant_updates(grid, spec, steps, staleness)
    agree(sum(comm.allgather(mine)) == steps * comm.size, "every part of every step is done once")
    pushes = sum(comm.allgather(sum(staleness.values())))
    # whatever is left at the end is pushed too, so each replica has at most one push that is not full
    agree(pushes + comm.size >= 1000 and pushes <= steps * comm.size // pace[1] + comm.size)


@pytest.mark.parametrize("pace", PACES, ids=lambda pace: f"fetch {pace[0]} push {pace[1]}")
@pytest.mark.parametrize("bounded", [False, True], ids=["free", "bounded"])
def test_staleness_is_what_others_have_pushed(comm, agree, pace, bounded, monkeypatch):
    """Counted anew from a log of who has got which version."""
    grid, staleness = all_replicas(), Counter()
    spec = SyncSpec(sync="server", fetch_every=pace[0], push_every=pace[1])
    if bounded:
        least = (comm.size - 1) * spec.pushes_between_fetches()
        spec = SyncSpec(sync="server", fetch_every=pace[0], push_every=pace[1], max_staleness=least)
    log = []
    from modelpar.sync import work_queue

    class Logged(work_queue.Tickets):
        def note_fetch(self):
            super().note_fetch()
            log.append(("fetch", self.fetched, None))

        def note_step(self):
            super().note_step()
            log.append(("step", None, None))

        def _claim(self):
            version = super()._claim()
            log.append(("push", version, None))
            return version

    monkeypatch.setattr("modelpar.sync.server.Tickets", Logged)
    constant_updates(grid, spec, 200, staleness, pause=0.0005)
    pusher = {}
    for rank, events in enumerate(comm.allgather(log)):
        pusher.update({version: rank for kind, version, _ in events if kind == "push"})
    agree(sorted(pusher) == list(range(len(pusher))), "versions are handed out once each")
    independent: Counter[int] = Counter()
    fetched = oldest = None
    for kind, version, _ in log:
        if kind == "fetch":
            fetched = version
        elif kind == "step":
            oldest = fetched if oldest is None else oldest
        else:
            independent[sum(pusher[v] != comm.rank for v in range(oldest, version))] += 1
            oldest = None
    agree(independent == staleness, f"{independent} counted, {staleness} recorded")
    if bounded:
        agree(max(staleness, default=0) <= spec.max_staleness, f"{staleness} goes past {spec.max_staleness}")


def test_a_slow_replica_does_less(comm, agree):
    """The work goes to who has time for it, and all end together."""
    grid = all_replicas()
    mine = comm.allgather(constant_updates(grid, SyncSpec(sync="server"), 60, Counter(), pause=0.02))
    agree(sum(mine) == 60 * comm.size)
    agree(comm.size == 1 or mine[0] < min(mine[1:]), f"steps of each: {mine}")


def test_a_bound_on_staleness_that_cannot_be(comm):
    if comm.size == 1:
        pytest.skip("one replica misses nothing")
    spec = SyncSpec(sync="server", max_staleness=comm.size - 2)
    with pytest.raises(SpecError, match=f"use at least {comm.size - 1}"):
        constant_updates(all_replicas(), spec, 1, Counter())


def test_adagrad_is_that_of_one_process(comm, agree):
    """Replicas push the same gradient: after n pushes its squares add up to n g^2, whoever pushed."""
    grid, rate = all_replicas(), 0.125
    work = work_on(np.zeros((2, 3), np.float64))
    gradient = np.arange(1.0, 9.0) / 4
    server = strategy(SyncSpec(sync="server", adagrad=True), grid, Traffic(), Counter())
    server.begin(work)
    for _ in server.shares(0, 12, 0, rate):
        step(server, work, gradient, StepSize(rate, 0.9, 0.0))  # the momentum is Adagrad's to leave out
    n = 12 * comm.size
    expected = sum(rate * gradient / (np.sqrt(k * gradient**2) + 1e-8) for k in range(1, n + 1))
    agree(np.allclose(work.parts["rbm.0"].flat, expected, rtol=1e-9), "parameters")
    agree(np.allclose(work.squares["rbm.0"].flat, n * gradient**2, rtol=1e-9), "squares")
    server.end()


def test_updates_divided_by_staleness(comm, agree):
    grid, staleness = all_replicas(), Counter()
    work = work_on(np.zeros((3, 3), np.float64))
    server = strategy(SyncSpec(sync="server", scale_by_staleness=True), grid, Traffic(), staleness)
    server.begin(work)
    for _ in server.shares(0, 40, 0, 1.0):
        work.parts["rbm.0"].flat += 1.0
    server.end()
    mine = sum(n / (1 + s) for s, n in staleness.items())
    agree(np.allclose(work.parts["rbm.0"].flat, sum(comm.allgather(mine)), rtol=1e-9))


def test_warm_start_takes_steps_together(comm, agree):
    grid, staleness = all_replicas(), Counter()
    server = strategy(SyncSpec(sync="server", warm_start=5), grid, Traffic(), staleness)
    work = work_on(np.zeros((1, 2), np.float32))
    server.begin(work)
    agree([server.steps_together(done) for done in (0, 4)] == [1, 1] and server.steps_together(5) > 1)
    for done in range(5):
        for share in server.shares(done, done + 1, done, PLAIN.rate):
            agree(server.in_step and share == (done, comm.rank, comm.size))
            step(server, work, 1.0, PLAIN)
    agree(np.all(work.parts["rbm.0"].flat == 5 * comm.size) and not staleness)
    server.end()


# -- local SGD ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outer", [(1.0, 0.0), (0.75, 0.0), (1.0, 0.5), (0.5, 0.75)], ids="rate {0[0]} momentum {0[1]}".format
)
@pytest.mark.parametrize("period", [1, 3])
def test_local_steps_and_averages(comm, agree, period, outer):
    """Against NumPy: replicas with momentum and decay of their own, averages, and outer steps."""
    grid, size = all_replicas(), StepSize(rate=0.5, momentum=0.5, decay=0.25)
    rng = np.random.default_rng(3)
    start, gradients = rng.standard_normal((4, 3)), rng.standard_normal((8, comm.size, 4, 3))
    work = work_on(start)
    spec = SyncSpec(sync="local", period=period, outer_rate=outer[0], outer_momentum=outer[1])
    local = strategy(spec, grid, Traffic(), Counter())
    local.begin(work)
    part, velocity = work.parts["rbm.0"], work.velocity["rbm.0"]
    W, V = (np.repeat(x[None], comm.size, axis=0) for x in (start, np.zeros_like(start)))
    last, outer_velocity = start.copy(), np.zeros_like(start)

    def average():
        nonlocal last, outer_velocity, W, V
        change = W.mean(axis=0) - last
        outer_velocity = outer[1] * outer_velocity + change
        last = last + outer[0] * (change + outer[1] * outer_velocity)
        W, V = (np.repeat(x[None], comm.size, axis=0) for x in (last, V.mean(axis=0)))

    for done, gradient in enumerate(gradients):
        for share in local.shares(done, done + 1, done, size.rate):
            agree(share == (done, comm.rank, comm.size))
            step(local, work, np.concatenate([gradient[comm.rank].ravel(), np.zeros(2)]), size)
        V = 0.5 * V + 0.5 * gradient - 0.125 * W
        W = W + V
        if (done + 1) % period == 0:
            average()
        agree(np.allclose(part.W, W[comm.rank], rtol=0, atol=1e-12), f"weights after step {done}")
        agree(np.allclose(velocity.W, V[comm.rank], rtol=0, atol=1e-12), f"velocities after step {done}")
    if 8 % period:
        average()
        local.settle()
        agree(np.allclose(part.W, last, rtol=0, atol=1e-12), "settled in the middle of a period")
    whole = comm.allgather(part.flat)
    agree(all(np.array_equal(one, whole[0]) for one in whole), "all replicas are the same")


# -- whole runs --------------------------------------------------------------------------------------------------------

STRATEGIES = {
    "allreduce": SyncSpec(),
    "local": SyncSpec(sync="local", period=3),
    "outer": SyncSpec(sync="local", period=2, outer_momentum=0.5, outer_rate=0.75),
    "server": SyncSpec(sync="server"),
    "warm": SyncSpec(sync="server", warm_start=4, fetch_every=2, push_every=2),
    "adagrad": SyncSpec(sync="server", adagrad=True),
}
TRAINING = TrainingSpec(epochs=2, batch_size=12, learning_rate=0.05, centred=False)
TUNING = FineTuneSpec(epochs=3, batch_size=12, learning_rate=0.05, dropout=0.0)


@shapes
@pytest.mark.parametrize("sync", [SyncSpec(), SyncSpec("local", period=1), SyncSpec("server")], ids=lambda s: s.sync)
@pytest.mark.parametrize("how", [{"layout": "column"}, {"layout": "row"}, {"layout": "dual"},
                                 {"connections": "random:4"}], ids=str)  # fmt: skip
@pytest.mark.parametrize("changes", [{}, {"persistent": True}, {"sparsity_cost": 0.3}], ids=str)
def test_grey_minibatches_with_states_equal_the_reference(comm, agree, shape, changes, how, sync):
    """Averages of every step are the step of all samples where replicas have as many; a server's are in no order."""
    if (sync.sync != "allreduce" and (shape[1] == 3 or "sparsity_cost" in changes)) or (
        sync.sync == "server" and shape[1] > 1
    ):
        pytest.skip("there is no such reference")
    spec = NetworkSpec((13, 9), dtype="float64", seed=5, **how)
    network = networks.sharded(comm, spec, shape, "random")
    data = small.dataset(13, kind="levels")
    training = replace(TRAINING, reconstruction="states", batch_size=8, **changes)
    twins = networks.twin(network)
    for _ in pretrain(network, data, training, sync):
        pass
    reference.pretrain(twins, small.columns(data), small.order(5, len(data.train)), training)
    agree(small.close_network(network, twins, 1e-11))


@shapes
@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("layout", ["auto", "row", "dual"])
def test_a_whole_run_ends_with_one_model(comm, agree, shape, name, layout):
    data, sync = small.dataset(13, held_out=True), STRATEGIES[name]
    spec = NetworkSpec(layers=(13, 9, 7), classes=3, seed=5, weight_scale=0.1, layout=layout)
    network = networks.sharded(comm, spec, shape, "random")
    tuning = replace(TUNING, epochs=10)  # so many that what is learned stands out from what replicas' pace does
    records = [*pretrain(network, data, TRAINING, sync), *fine_tune(network, data, tuning, sync)]
    agree([r.epoch for r in records if r.kind == "epoch"] == [1, 2, 1, 2, *range(1, 11)], "all epochs")
    agree(sum(r.samples for r in records if r.kind == "step") == 14 * small.N_TRAIN, "all samples, once an epoch")
    for part in network.parts():
        flat = part.parameters.flat
        whole = network.grid.replica_comm.allgather(flat)
        agree(all(np.array_equal(one, whole[0]) for one in whole) and np.isfinite(flat).all(), "one model")
    for rbm in network.rbms:
        rows = rbm.parameters.rows
        if rows is not None:  # fine-tuning trains the columns, and the rows are made anew of them
            before = rows.copy()
            rbm.refresh()
            agree(np.array_equal(rows, before), "both blocks of a dual layout are the same matrix")
    losses = [r.measures["loss"] for r in records if "loss" in r.measures]
    agree(losses[-1] < losses[0], f"losses {losses}")


@shapes
@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(
    ("how", "last"), [({"until_accuracy": 0.0, "evaluate_every": 3}, (1, 3)), ({"patience": 1}, None)],
    ids=["accuracy reached", "patience"],
)  # fmt: skip
def test_all_stop_together_whatever_the_skew(comm, agree, monkeypatch, shape, name, how, last):
    """One replica is much slower; all come to the same record, and to the same model."""
    data = small.dataset(13, held_out=True)
    network = networks.sharded(comm, NetworkSpec(layers=(13, 9), classes=3, seed=5), shape, "random")
    count = MinibatchLoop.count

    def slowly(loop, batch, **sums):
        time.sleep(0.02 if network.grid.replica == 0 else 0)
        count(loop, batch, **sums)

    monkeypatch.setattr(MinibatchLoop, "count", slowly)
    tuning = FineTuneSpec(epochs=6, batch_size=12, learning_rate=0.0 if "patience" in how else 0.05, dropout=0.0, **how)
    places = [(r.kind, r.epoch, r.step) for r in fine_tune(network, data, tuning, STRATEGIES[name])]
    agree(len(set(comm.allgather(tuple(places)))) == 1, "the same records on all ranks")
    if last is not None:
        agree(places[-1][1:] == last, f"stopped at {places[-1]}")
    else:  # nothing is learned: the first epoch is the best, and one more is waited for
        agree(places[-1][1] == 2, f"stopped at {places[-1]}")
    whole = network.grid.replica_comm.allgather(network.rbms[0].W)
    agree(all(np.array_equal(one, whole[0]) for one in whole), "one model")


@pytest.mark.parametrize("name", ["local", "outer", "server", "adagrad"])
def test_a_checkpoint_goes_on_at_any_grid_under_any_strategy(comm, agree, name, tmp_path_factory):
    """Stopped where replicas are apart or have state of their own, and taken up by all others."""
    data, sync = small.dataset(13), STRATEGIES[name]
    spec = NetworkSpec(layers=(13, 9), classes=3, seed=5, weight_scale=0.1)
    network = networks.sharded(comm, spec, SHAPES[-1], "random")
    path = comm.bcast(tmp_path_factory.mktemp("run") / "step.safetensors" if comm.rank == 0 else None)
    list(pretrain(network, data, TRAINING, sync))
    for record in fine_tune(network, data, TUNING, sync):
        if record.step >= 2:
            save(network, path)
            break
    for other, shape in zip(["allreduce", "local", "server", name], [*SHAPES, SHAPES[0], SHAPES[-1]], strict=False):
        again = load(path, networks.grid_of(comm.size, shape))
        if name in ("outer", "adagrad"):
            kept = again.run.outer if name == "outer" else again.run.squares
            agree(set(kept) == {"rbm.0", "output"}, f"{name} keeps its state")
        before = again.run.position.step + again.run.position.epoch * 4
        records = list(fine_tune(again, data, TUNING, STRATEGIES[other]))
        agree(records[-1].kind == "epoch" and records[-1].epoch == 3 and before >= 2, f"{other} goes on")


@pytest.mark.parametrize("servers", [1, 2])
def test_server_ranks(comm, agree, servers):
    n_train = comm.size - servers
    shards = 2 if n_train > 1 and n_train % 2 == 0 and servers >= 2 else 1
    if n_train < 1:
        with pytest.raises(GridError, match="leaves none"):
            Grid(comm, servers=servers)
        return
    grid = Grid(comm, model_shards=shards, servers=servers)
    spec = NetworkSpec(layers=(13, 9), classes=3, seed=5, weight_scale=0.1)
    data, sync = small.dataset(13, held_out=True), STRATEGIES["server"]
    if grid.is_server:
        with pytest.raises(ModelparError, match="enough"):
            serve(grid)
    else:
        network = DeepBeliefNetwork(spec, grid)
        records = [*pretrain(network, data, TRAINING, sync), *fine_tune(network, data, TUNING, sync)]
        losses = [r.measures["loss"] for r in records if "loss" in r.measures]
        assert losses[-1] < losses[0]
        if grid.comm.size == 1:  # a replica that has the servers for itself trains as one without them
            plain = DeepBeliefNetwork(spec, Grid(MPI.COMM_SELF))
            small.train(plain, data, TRAINING, TUNING)
            for mine, its in zip(network.parts(), plain.parts(), strict=True):
                assert np.allclose(mine.parameters.flat, its.parameters.flat, rtol=0, atol=1e-5)
        dismiss(grid, ModelparError("enough"))
    agree(True)
    grid.free()


def test_servers_hold_a_shard_each(comm):
    if comm.size < 3:
        pytest.skip("two shards and a server are three ranks")
    with pytest.raises(GridError, match="use at least 2"):
        Grid(comm, model_shards=2, servers=1)


@pytest.mark.parametrize(
    ("sync", "network", "training", "expected"),
    [
        ({"sync": "local"}, {"exact": True}, {"pass_up": "states"}, "--sync allreduce"),
        ({"sync": "server"}, {}, {"digests": True}, "--sync allreduce"),
    ],
)
def test_what_a_strategy_cannot_do(comm, sync, network, training, expected):
    spec = NetworkSpec(layers=(13, 9), **network)
    made = networks.sharded(comm, spec, SHAPES[0], "blocks")
    with pytest.raises(SpecError, match=expected):
        next(pretrain(made, small.dataset(13), TrainingSpec(**training), SyncSpec(**sync)))
