"""Compilation before a run: only what the run calls, distributed over the ranks of a node.

Modules: modelpar/training/warm_up
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numba
import pytest
from mpi4py import MPI

from modelpar.errors import ModelparError
from modelpar.kernels.warm_up import KINDS, Task, distribute, tasks
from modelpar.machine import compilation
from modelpar.spec import FineTuneSpec, NetworkSpec, TrainingSpec
from modelpar.training.warm_up import rehearse, tasks_of

pytestmark = pytest.mark.jobs

ROOT = Path(__file__).parents[2]
COUNTED = """
import gc, sys
from mpi4py import MPI
import modelpar.cli as cli

def kernels():
    from numba.core.dispatcher import Dispatcher
    ours = [x for x in gc.get_objects() if isinstance(x, Dispatcher) and x.py_func.__module__.startswith("modelpar")]
    return {(x.py_func.__module__, x.py_func.__name__, str(s)) for x in ours for s in x.signatures}

def hooked(rehearse):
    def work(*arguments):
        seconds = rehearse(*arguments)
        after.append(kernels())
        return seconds
    return work

after, left = [], []
for arguments in (a.split() for a in sys.argv[1:]):
    prepare = sys.modules.get("modelpar.cli.session")
    if prepare is None:
        import modelpar.cli.threads as threads
        threads.prepare(MPI.COMM_WORLD, 1)
        import modelpar.cli.session as session
        session.rehearse = hooked(session.rehearse)
    assert cli.run(MPI.COMM_WORLD.Dup(), arguments) == 0
    left += sorted(kernels() - after[-1])
if MPI.COMM_WORLD.rank == 0:
    print("compiled in training:", left, "of", len(after[0]) > 10, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")
def test_training_compiles_nothing(on_ranks, tmp_path: Path) -> None:
    few = f"train --epochs 1 --finetune-epochs 1 --no-pictures --run-dir {tmp_path}/"
    own = "--chains 7 --chain-steps 2 --centred --average 3 --l1 0.001"
    scored = "--standardised --clip 0.01 --score-every 1 --score-temperatures 9"
    runs = (
        few + "grey --layers 64-9-8 --products bf16", few + "states --layers 16-9 --data bars:4 --replicas 2",
        few + f"own --layers 16-9 --data bars:4 --replicas 2 {own}",
        few + f"scored --layers 25-22-21 --data bars:5 --model-shards 2 {scored}",
        few + f"tempered --layers 16-9 --data bars:4 --model-shards 2 {own} --chain-method pt",
        f"train --epochs 1 --no-pictures --run-dir {tmp_path}/real --layers 16-9 --data bars:4 --hidden drelu {own}"
        " --model-shards 2 --score-every 1 --score-temperatures 9",
    )  # fmt: skip
    done = on_ranks(2, [sys.executable, "-c", COUNTED, *runs], limit=600, cwd=ROOT).check()
    assert "compiled in training: [] of True" in done.output


NETWORK = NetworkSpec(layers=(8, 4), classes=2)


def names(**changes: object) -> set[str]:
    arguments: dict[str, object] = {
        "binary": False,
        "n_replicas": 1,
        "digests": False,
        "tuning": None,
        "training": TrainingSpec(),
    }
    arguments |= changes
    spec, training, tuning = arguments.pop("spec", NETWORK), arguments.pop("training"), arguments.pop("tuning")
    return {task.name for task in tasks_of(spec, training, tuning, **arguments)}  # type: ignore[arg-type]


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")
def test_a_run_compiles_what_it_calls() -> None:
    grey = names()
    assert not {"statistics", "states of products", "gradients", "norms", "digests"} & grey
    assert names(binary=True) - grey == {"statistics", "states of sums", "states of products"}
    assert names(binary=True, n_replicas=2) - names(binary=True) == {"statistics of replicas", "digests"}
    assert "statistics of probabilities" in names(binary=True, training=TrainingSpec(statistics="float"))
    assert "states of products" in names(training=TrainingSpec(persistent=True))
    assert names(tuning=FineTuneSpec(max_norm=1.0)) - grey == {"gradients", "norms", "arrays as data"}
    assert names(digests=True) - grey == {"digests"}
    assert grey - names(training=TrainingSpec(centred=False)) == {"centred gradients"}
    own = TrainingSpec(chains=5, standardised=True, average=3, l1=0.1, clip=0.1, score_every=1)
    theirs = {"sweeps", "statistics of phases apart", "averages", "L1", "statistics of replicas"}
    theirs |= {"standardised gradients", "clipping", "likelihoods", "likelihoods in float64"}
    assert names(binary=True, training=own) - names(binary=True) == theirs
    own = replace(own, chain_method="pt")
    assert names(binary=True, training=own) - names(binary=True) == {*theirs, "swaps"}
    own = replace(own, products="bf16")
    assert names(binary=True, training=own) - names(binary=True) == {*theirs, "swaps", "products in bfloat16"}
    assert "products in bfloat16" in names(tuning=FineTuneSpec(products="bf16"))
    own = replace(own, l1b=0.1)
    assert names(binary=True, training=own) >= {"penalties of units"}
    real = names(binary=True, spec=NetworkSpec(layers=(8, 4), hidden="drelu"), training=TrainingSpec(score_every=1))
    assert {"rectified units", "likelihoods of rectified units"} <= real
    everything = {task.name for task in tasks("float32", set(KINDS) - {"panels that draw"})}
    exact = names(spec=NetworkSpec(layers=(8, 4), exact=True, visible="categorical:2"), training=own)
    assert everything <= exact | real


def test_workers_end_together() -> None:
    todo = [Task(str(cost), cost, lambda: None) for cost in (1.0, 8.0, 2.0, 3.0, 2.0)]
    first, second = distribute(todo, 2)
    assert sorted([*first, *second], key=lambda task: task.name) == sorted(todo, key=lambda task: task.name)
    assert sum(task.cost for task in first) == sum(task.cost for task in second) == 8.0
    assert distribute(todo[:1], 3) == [todo[:1], [], []]


def test_an_error_of_a_task_is_raised_after_all_tasks() -> None:
    done: list[str] = []

    def fail() -> None:
        raise OSError(28, "No space left on device")

    todo = [Task("bad", 2.0, fail), Task("good", 1.0, lambda: done.append("good")), Task("late", 1.0, lambda: None, 1)]
    with pytest.raises(ModelparError, match="No space left"):
        rehearse(todo, MPI.COMM_SELF)


def test_progress_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelpar.kernels.products.dispatch.prepare", lambda: None)
    reports: list[tuple[str, int, int]] = []
    todo = [Task("a", 2.0, lambda: None), Task("b", 1.0, lambda: None)]
    rehearse(todo, MPI.COMM_SELF, lambda *report: reports.append(report))
    assert reports in ([("a", 0, 2), ("b", 1, 2)], [])
    assert reports or numba.config.DISABLE_JIT


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled")
def test_one_process_compiles_and_the_others_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compilation, "folder", lambda: tmp_path)

    def thrice(x):  # type: ignore[no-untyped-def]
        return 3 * x

    first, second = (compilation.njit(cache=True)(thrice) for _ in range(2))
    signature = (numba.int64,)
    assert first._cache.load_overload(signature, first.targetctx) is None  # it now has the lock, and would compile
    threading.Timer(0.5, lambda: (first._cache._free_lock(), done.append(time.monotonic()))).start()
    done: list[float] = []
    assert second(2) == 6
    assert done, "it did not wait"
    assert second._cache._lock is None
    monkeypatch.setattr(compilation, "PATIENCE", 0.1)
    third, fourth = (compilation.njit(cache=True)(thrice) for _ in range(2))
    assert third._cache.load_overload((numba.float64,), third.targetctx) is None
    assert fourth(2.0) == 6.0, "a process that hangs does not stop the others"
