"""Peers of the benchmark: that each learns what CD-1 says, how their processes end, and how rounds are compared.

Modules: modelpar/bench/peers/kinds, modelpar/bench/peers/numpy_peer, modelpar/bench/peers/process,
modelpar/bench/peers/race, modelpar/bench/peers/sgemm, modelpar/bench/peers/sklearn_peer,
modelpar/bench/peers/torch_gloo, modelpar/bench/peers/torch_peer, modelpar/bench/peers/worker
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from modelpar.bench.peers import (
    KINDS,
    NAMES,
    PeerError,
    available,
    missing,
    names_of,
    peer,
    process,
    race,
    sgemm_pair,
    worker,
)
from modelpar.bench.peers.kinds import Kind
from modelpar.bench.peers.process import Worker, environment

SIZE = (8, 12, 10)
RATE, MOMENTUM, DECAY = 0.001, 0.9, 2e-4


# -- what a step learns ------------------------------------------------------------------------------------------------


def saturated(n_samples=16, n_visible=13, n_hidden=9):
    """(W, b, c, v0) with which every probability is 0 or 1: inputs are multiples of 256, moved by 128.

    All of them are exact in bfloat16 too.
    """
    rng = np.random.default_rng(5)
    W = 256.0 * rng.integers(-1, 2, (n_visible, n_hidden))
    b, c = (128.0 * rng.choice([-1, 1], n) for n in (n_visible, n_hidden))
    v0 = rng.integers(0, 2, (n_samples, n_visible)).astype(float)
    return W, b, c, v0


def learned(W, b, c, v0, steps=2):
    """{W, b, c and their velocities} after CD-1 in double precision, with thresholds in the place of draws."""
    parameters = {"W": W.copy(), "b": b.copy(), "c": c.copy()}
    velocities = {name: np.zeros_like(x) for name, x in parameters.items()}
    for _ in range(steps):
        W, b, c = parameters.values()
        h0 = (v0 @ W + c > 0) * 1.0
        v1 = (h0 @ W.T + b > 0) * 1.0
        h1 = (v1 @ W + c > 0) * 1.0
        n = len(v0)
        gradients = {
            "W": (v0.T @ h0 - v1.T @ h1) / n - DECAY * W,
            "b": (v0 - v1).mean(axis=0),
            "c": (h0 - h1).mean(axis=0),
        }
        for name, gradient in gradients.items():
            velocities[name] = MOMENTUM * velocities[name] + RATE * gradient
            parameters[name] = parameters[name] + velocities[name]
    return parameters | {f"velocity_{name}": x for name, x in velocities.items()}


def assert_learned(result, wanted, transposed=False):
    assert any(np.any(wanted[f"velocity_{name}"]) for name in "bc")
    for name, x in wanted.items():
        mine = np.asarray(getattr(result, name))
        mine = mine.T if transposed and name.endswith("W") else mine
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, x, rtol=2e-6, atol=1e-8, err_msg=name)


def test_numpy_learns_cd1():
    from modelpar.bench.peers.numpy_peer import NumpyRBM

    W, b, c, v0 = saturated()
    rbm = NumpyRBM(len(v0), *W.shape)
    rbm.W[:], rbm.b[:], rbm.c[:] = W, b, c
    for _ in range(2):
        rbm.step(v0.astype(np.float32))
    assert_learned(rbm, learned(W, b, c, v0))


def test_numpy_updates_panel_by_panel(monkeypatch):
    from modelpar.bench.peers import numpy_peer

    monkeypatch.setattr(numpy_peer, "PANEL", 40)
    test_numpy_learns_cd1()


def test_numpy_draws_states():
    """The mean of many draws is the probability."""
    from modelpar.bench.peers.numpy_peer import NumpyRBM

    rbm = NumpyRBM(4000, 3, 5)
    rbm.W[:] = 0
    rbm.b[:] = np.log([0.1 / 0.9, 1.0, 0.7 / 0.3])
    rbm.step(np.ones((4000, 3), np.float32))
    np.testing.assert_allclose(rbm.v[4000:].mean(axis=0), [0.1, 0.5, 0.7], atol=0.04)
    np.testing.assert_allclose(rbm.h.mean(axis=0), 0.5, atol=0.04)
    assert set(np.unique(rbm.v[4000:])) == {0.0, 1.0}


@pytest.fixture
def torch():
    """PyTorch, and its precision put back afterwards."""
    result = pytest.importorskip("torch")
    before = result.get_float32_matmul_precision()
    yield result
    result.set_float32_matmul_precision(before)


def torch_rbm(torch):
    from modelpar.bench.peers.torch_peer import TorchRBM

    W, b, c, v0 = saturated()
    rbm = TorchRBM(len(v0), *W.shape)
    for mine, x in ((rbm.W, W.T), (rbm.b, b), (rbm.c, c)):
        mine.copy_(torch.from_numpy(np.ascontiguousarray(x)))
    return rbm, torch.from_numpy(v0).float(), learned(W, b, c, v0)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_torch_learns_cd1(torch, precision):
    torch.set_float32_matmul_precision(precision)
    rbm, v0, wanted = torch_rbm(torch)
    for _ in range(2):
        rbm.step(v0)
    assert_learned(rbm, wanted, transposed=True)


@pytest.mark.parametrize("is_compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_step_for_the_compiler_learns_cd1(torch, is_compiled):
    from modelpar.bench.peers import torch_peer

    rbm, v0, wanted = torch_rbm(torch)
    step = torch_peer.compiled() if is_compiled else torch_peer.functional_step
    for number in range(2):
        try:
            step(v0, *rbm.state)
        except Exception as error:
            if is_compiled and number == 0 and "compiler" in str(error).lower():
                pytest.skip("there is no compiler")
            raise
    assert_learned(rbm, wanted, transposed=True)


def test_a_step_that_does_not_run_is_not_the_fastest(torch):
    from modelpar.bench.peers.torch_peer import fastest

    def broken():
        raise RuntimeError("no compiler")

    def sound():
        pass

    assert fastest([sound, broken]) is sound
    assert fastest([broken, sound]) is sound
    with pytest.raises(RuntimeError, match="no compiler"):
        fastest([broken])


RANK_OF_TWO = """
    import sys
    from datetime import timedelta
    import numpy as np, torch, torch.distributed as dist
    from modelpar.bench.peers.torch_gloo import TorchShard
    folder, rank = sys.argv[1], int(sys.argv[2])
    given = np.load(folder + "/given.npz")
    store = dist.FileStore(folder + "/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    mine = slice(0, 4) if rank == 0 else slice(4, None)
    shard = TorchShard(len(given["v0"]), given["W"].shape[0], given["W"][:, mine].shape[1], rank)
    for tensor, x in ((shard.W, given["W"][:, mine].T), (shard.b, given["b"]), (shard.c, given["c"][mine])):
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(x)))
    for _ in range(2):
        shard.step(torch.from_numpy(given["v0"]).float())
    names = ("W", "b", "c", "velocity_W", "velocity_b", "velocity_c")
    np.savez(folder + f"/rank{rank}.npz", **{name: getattr(shard, name).numpy() for name in names})
    dist.destroy_process_group()
"""


def test_two_ranks_over_gloo_learn_cd1(tmp_path):
    pytest.importorskip("torch")
    W, b, c, v0 = saturated()
    np.savez(tmp_path / "given.npz", W=W, b=b, c=c, v0=v0)
    command = [sys.executable, "-c", textwrap.dedent(RANK_OF_TWO), str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)], env=environment(1)) for rank in range(2)]
    try:
        assert [rank.wait(100) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    first, second = (np.load(tmp_path / f"rank{rank}.npz") for rank in range(2))
    for name, wanted in learned(W, b, c, v0).items():
        if name.endswith("b"):
            assert np.array_equal(first[name], second[name])
            result = first[name]
        else:
            result = np.concatenate([first[name], second[name]]).T
        np.testing.assert_allclose(result, wanted, rtol=2e-6, atol=1e-8, err_msg=name)


def test_sklearn_learns_pcd_in_single_precision():
    pytest.importorskip("sklearn")
    from modelpar.bench.peers.sklearn_peer import estimator

    W, b, c, v0 = saturated()
    rbm = estimator(len(v0), *W.shape)
    rbm.components_[:], rbm.intercept_visible_[:], rbm.intercept_hidden_[:] = W.T, b, c
    rbm._fit(v0.astype(np.float32), np.random.RandomState(0))
    h0 = (v0 @ W + c > 0) * 1.0
    v1 = np.tile((b > 0) * 1.0, (len(v0), 1))  # the chains begin with hidden states 0
    h1 = (v1 @ W + c > 0) * 1.0
    wanted = {
        "components_": (W + RATE * (v0.T @ h0 - v1.T @ h1) / len(v0)).T,
        "intercept_visible_": b + RATE * (v0 - v1).mean(axis=0),
        "intercept_hidden_": c + RATE * (h0 - h1).mean(axis=0),
        "h_samples_": h1,
    }
    for name, x in wanted.items():
        assert getattr(rbm, name).dtype == np.float32
        np.testing.assert_allclose(getattr(rbm, name), x, rtol=2e-7, atol=1e-8, err_msg=name)


# -- which peers there are ---------------------------------------------------------------------------------------------


def test_importing_the_peers_loads_none_of_them():
    names = {"numpy", "torch", "sklearn", "scipy", "mpi4py"}
    script = f"import sys, modelpar.bench.peers; print(sorted({names} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(1), timeout=60
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("word", "ranks", "wanted"),
    [
        ("numpy", 1, ["numpy"]),
        ("sklearn", 2, ["sklearn"]),
        ("torch", 1, ["torch", "torch-compile", "torch-medium"]),
        ("torch", 2, ["torch", "torch-compile", "torch-medium", "torch-gloo", "torch-gloo-medium"]),
        ("torch", 3, ["torch", "torch-compile", "torch-medium"]),
        ("all", 2, [name for name in NAMES if KINDS[name].step == "cd1"]),
    ],
)
def test_words_of_the_command_line(word, ranks, wanted):
    assert names_of(word, ranks=ranks) == wanted


def test_a_word_that_is_no_peer():
    with pytest.raises(ValueError, match="'theano' is not a peer; one of torch, sklearn, numpy, all was needed"):
        names_of("theano", ranks=1)


def test_a_missing_peer_is_named(monkeypatch):
    monkeypatch.setitem(KINDS, "theano", Kind("numpy_peer", "no_such_module_theano", "theano"))
    line = "theano: no_such_module_theano is not installed; pip install theano"
    assert available(["numpy", "theano"]) == ["numpy"]
    assert missing(["numpy", "theano"]) == {"theano": line}
    with pytest.raises(PeerError, match=line), peer("theano", SIZE, 1):
        pass


# -- their processes ---------------------------------------------------------------------------------------------------


def group_of(leader):
    """Processes that live in the group of a process."""
    result = []
    for one in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(one.pid) == leader and one.status() != psutil.STATUS_ZOMBIE:
                result.append(one)
    return result


def left_of(leader, patience=10.0):
    """Processes of the group that are there even after some seconds: a signal takes its time."""
    until = time.monotonic() + patience
    while (result := group_of(leader)) and time.monotonic() < until:
        time.sleep(0.02)
    return result


@contextlib.contextmanager
def process_of(script, name="fake"):
    """A worker that runs a script, and the proof that nothing of it is left."""
    fake = Worker(name, [sys.executable, "-c", textwrap.dedent(script)], 1)
    try:
        yield fake
    finally:
        fake.end()
        assert not left_of(fake._process.pid)


@pytest.mark.parametrize(
    "name", ["numpy", "sklearn", "torch", "torch-gloo", pytest.param("torch-medium", marks=pytest.mark.slow)]
)
def test_a_peer_answers_and_leaves_nothing(name):
    pytest.importorskip(KINDS[name].needs)
    with peer(name, SIZE, threads=2) as one:
        assert (one.name, one.note) == (name, KINDS[name].note)
        assert all(one.round(0.01) > 0 for _ in range(2))
        pid = one._worker._process.pid
        assert len(group_of(pid)) == KINDS[name].ranks
    assert not left_of(pid)


def test_an_error_in_the_block_ends_the_process():
    seen = []

    def fail():
        with peer("numpy", SIZE, 1) as one:
            seen.append(one._worker._process.pid)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not left_of(seen[0])


def test_the_pair_of_products():
    with sgemm_pair() as measure:
        one, two = measure(0.01)
    assert one > 0
    assert two > 0


def test_a_peer_that_is_killed_is_reported():
    with peer("numpy", SIZE, 1) as one:
        os.kill(one._worker._process.pid, signal.SIGKILL)
        with pytest.raises(PeerError, match=r"^numpy: its process ended by signal 9"):
            one.round(0.01)
        with pytest.raises(PeerError, match=r"^numpy: its process was ended$"):
            one.round(0.01)


def test_a_peer_that_does_not_run_here_says_why():
    with pytest.raises(PeerError, match=r"^numpy: ValueError: .*negative"), peer("numpy", (8, -1, 10), 1):
        pass


def test_last_words():
    script = """
        import sys
        print('{"ready": true}', flush=True)
        sys.stdin.readline()
        sys.exit("one line\\nillegal instruction\\n")
    """
    with process_of(script) as fake:
        assert fake.read(30) == {"ready": True}
        with pytest.raises(PeerError, match=r"^fake: its process ended with status 1: illegal instruction$"):
            fake.ask("go 1", 30)


def test_a_peer_that_hangs_is_given_up():
    with process_of("import time; time.sleep(100)") as fake, pytest.raises(PeerError, match=r"no answer within 0.3 s"):
        fake.read(0.3)


def test_an_answer_that_is_none():
    with process_of("print('hello')") as fake, pytest.raises(PeerError, match="answered b'hello'"):
        fake.read(30)


def test_a_peer_that_does_not_leave_is_ended(monkeypatch):
    monkeypatch.setattr(process, "LEAVING", 0.2)
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('{}', flush=True); time.sleep(99)"
    )
    with process_of(script) as fake:
        fake.read(30)
        assert group_of(fake._process.pid)


@pytest.mark.parametrize("dies", [False, True])
def test_what_a_peer_started_is_ended_with_it(dies):
    script = f"""
        import subprocess, sys
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], stdout=subprocess.DEVNULL)
        print('{{}}', flush=True)
        sys.stdin.readline()
        sys.exit({int(dies)})
    """
    with process_of(script) as fake:
        fake.read(30)
        assert len(group_of(fake._process.pid)) == 2
        if dies:
            with pytest.raises(PeerError, match="ended with status 1"):
                fake.ask("go 1", 30)


def test_what_libraries_print_is_no_answer():
    script = """
        from modelpar.bench.peers.worker import serve

        def prepare(order):
            print("welcome to the library")
            return lambda seconds: print("noise") or {"seconds": seconds}

        serve(prepare)
    """
    with process_of(script) as fake:
        assert fake.read(30) == {"ready": True}
        assert fake.ask("go 0.5", 30) == {"seconds": 0.5}


def test_environment_of_a_peer(monkeypatch):
    for name in (
        "OPENBLAS_CORETYPE",
        "PMI_RANK",
        "PMIX_ID",
        "OMPI_COMM_WORLD_RANK",
        "HYDI_CONTROL_FD",
        "MPI_LOCALRANKID",
    ):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("HOME", "/somewhere")
    result = environment(3)
    starts = ("PMI", "OMPI_", "HYD", "MPI_")
    assert not [name for name in result if name.startswith(starts) or name in ("OPENBLAS_CORETYPE", "OMP_WAIT_POLICY")]
    assert {result[name] for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")} == {"3"}
    assert result["HOME"] == "/somewhere"
    assert Path(result["PYTHONPATH"].split(os.pathsep)[0], "modelpar").is_dir()


@pytest.mark.parametrize(("threads", "widened"), [(1, False), (2, True)])
def test_a_bound_process_is_unbound_where_it_has_more_threads(monkeypatch, threads, widened):
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("processes are not bound here")
    asked = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: asked.append(set(cores)))
    worker.unbind(threads)
    assert bool(asked) == widened


def test_a_measurement_takes_at_least_one_step():
    calls = []
    measure = worker.timed(lambda: calls.append(1), n_samples=4)
    calls.clear()
    result = measure(0.0)
    assert (result["steps"], len(calls)) == (1, 2)
    assert result["samples_per_second"] > 0


# -- rounds ------------------------------------------------------------------------------------------------------------


class Fake:
    """A side with given rates; a PeerError among them is raised."""

    def __init__(self, name, rates, log=None):
        self.name, self.rates, self.log = name, iter(rates), [] if log is None else log

    def round(self, seconds):
        self.log.append(self.name)
        rate = next(self.rates)
        if isinstance(rate, Exception):
            raise rate
        return rate


def test_ratios_are_of_each_round():
    engine = Fake("engine", [10, 40, 30])
    result = race(engine.round, [Fake("a", [5, 10, 10]), Fake("b", [20, 20, 60])], rounds=3, seconds=0.1)
    assert result["engine"] == {"median": 30, "min": 10, "max": 40}
    assert result["peers"] == {
        "a": {"median": 10, "min": 5, "max": 10, "ratio": 3},  # of 2, 4 and 3; that of the medians is 3 too
        "b": {"median": 20, "min": 20, "max": 60, "ratio": 0.5},  # of 0.5, 2 and 0.5; that of the medians would be 1.5
    }
    assert (result["rounds"], result["discarded"], result["failed"], result["sgemm"]) == (3, 0, {}, None)


def test_each_round_begins_with_another_side():
    log = []
    sides = [Fake("a", [1] * 4, log), Fake("b", [1] * 4, log)]
    race(Fake("engine", [1] * 4, log).round, sides, rounds=4, seconds=0.1)
    rounds = ["".join(name[0] for name in log[start : start + 3]) for start in range(0, 12, 3)]
    assert rounds == ["eab", "abe", "bea", "eab"]


def products(ratios):
    """An SGEMM whose two threads reach these multiples of one, call by call."""
    calls = iter(ratios)
    return lambda seconds: (100.0, 100.0 * next(calls))


@pytest.mark.parametrize(
    ("ratios", "kept"),
    [
        ([1.9, 1.9, 1.9, 1.9], [1, 2, 3]),
        ([1.9, 1.9, 1.5, 1.9], [1]),  # it spoils the round before and the round after it
        ([1.5, 1.6, 1.7, 1.8], [2, 3]),
        ([1.0, 1.0, 1.0, 1.0], []),
    ],
)
def test_rounds_without_a_second_processor_are_discarded(ratios, kept):
    engine = Fake("engine", [100, 200, 300])
    result = race(engine.round, [Fake("a", [1, 1, 1])], rounds=3, seconds=0.1, sgemm=products(ratios))
    assert (result["rounds"], result["discarded"]) == (len(kept), 3 - len(kept))
    if kept:
        assert result["engine"] == {"median": np.median(kept) * 100, "min": min(kept) * 100, "max": max(kept) * 100}
        assert result["peers"]["a"]["ratio"] == np.median(kept) * 100
    else:
        assert result["engine"] is None
        assert result["peers"] == {}
    assert result["sgemm"]["one"] == 100
    assert result["sgemm"]["ratios"] == pytest.approx([min(pair) for pair in pairwise(ratios)])


def test_spare_rounds_replace_discarded_ones():
    ratios = [1.9, 1.0, 1.9, 1.9, 1.9, 1.9]
    engine = Fake("engine", range(1, 9))
    result = race(engine.round, [], rounds=2, seconds=0.1, sgemm=products(ratios), spare=5)
    assert (result["rounds"], result["discarded"]) == (2, 2)
    assert result["engine"] == {"median": 3.5, "min": 3, "max": 4}


def test_a_peer_that_fails_is_left_out():
    log = []
    bad = Fake("bad", [1, PeerError("bad: its process ended by signal 9")], log)
    result = race(Fake("engine", [2, 4, 6]).round, [bad, Fake("good", [1, 1, 1])], rounds=3, seconds=0.1)
    assert result["failed"] == {"bad": "bad: its process ended by signal 9"}
    assert list(result["peers"]) == ["good"]
    assert result["peers"]["good"]["ratio"] == 4
    assert log == ["bad", "bad"]


def test_an_engine_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match="broken"):
        race(Fake("engine", [RuntimeError("broken")]).round, [], rounds=1, seconds=0.1)


def test_names_of_sides_differ():
    with pytest.raises(ValueError, match="names of sides must differ"):
        race(Fake("engine", [1]).round, [Fake("engine", [1])], rounds=1, seconds=0.1)
