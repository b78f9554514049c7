"""What every test may use, and what is left to the jobs on several ranks."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numba
import platformdirs
import pytest
from hypothesis import settings

from modelpar.kernels.products import dispatch
from modelpar.machine import compilation
from tests import jobs

# Files that bear the mark ``ranks`` run inside MPI jobs that tests/test_on_ranks.py starts, with what in_job.py adds.
collect_ignore = [] if jobs.IN_JOB else [str(jobs.TESTS.parent / name) for name in jobs.files_with("ranks")]
pytest_plugins = ["tests.extent", "tests.in_job" if jobs.IN_JOB else "tests.workers"]

# The same examples at every run, on every rank; a loaded machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

# Tests leave no data in the user's cache; those of the cache have one of their own.
os.environ["MODELPAR_NO_CACHE"] = "1"

# One folder of compiled kernels for workers, jobs and whatever else is started: the user's, or else one of the session.
if compilation.folder() is None:
    os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="modelpar-kernels-")
    atexit.register(shutil.rmtree, numba.config.CACHE_DIR, ignore_errors=True)
    compilation.folder.cache_clear()

MNIST = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@pytest.fixture(autouse=True)
def own_settings():
    """No calibration or environment outlives its test: commands in this process set their children's threads."""
    before, environment = dispatch.calibration(), dict(os.environ)
    yield
    dispatch.use(before)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def mnist_folder() -> Path | None:
    """Where the four files of MNIST lie, plain or gzipped: in $MODELPAR_DATA or in the user's cache directory."""
    roots = [platformdirs.user_cache_path("modelpar")]
    if "MODELPAR_DATA" in os.environ:
        roots.insert(0, Path(os.environ["MODELPAR_DATA"]))
    for root in roots:
        for folder in (root, root / "mnist"):
            if all((folder / name).exists() or (folder / f"{name}.gz").exists() for name in MNIST):
                return folder
    return None


@pytest.fixture(scope="session")
def mnist_path() -> Path:
    """The folder of MNIST's four files; the test is skipped where they are absent."""
    folder = mnist_folder()
    if folder is None:
        pytest.skip("MNIST is not here; put its four files into $MODELPAR_DATA")
    return folder


@pytest.fixture
def on_ranks() -> Callable[..., jobs.Outcome]:
    """``on_ranks(n, command, limit=seconds, cwd=..., NAME=value)`` -> Outcome   Runs a command on n ranks."""
    return jobs.run_on_ranks
