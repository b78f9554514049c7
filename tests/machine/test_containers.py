"""A run where there is next to nothing: no home, no name of the user, no folder that can be written but that of the
run, and none of the system's files about memory and processors.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import jobs

ROOT = Path(__file__).parents[2]

# As a file system that is mounted read-only would: files are opened and folders made by Python alone here, but for
# MPI's own and those of checkpoints.
BOX = """
import builtins, os, pwd, sys
run, words = sys.argv[1], sys.argv[2:]
HIDDEN = ("/proc/", "/sys/")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def deny(event, about):
    if event == "open" and isinstance(about[0], (str, bytes)):
        path = os.fsdecode(about[0])
        if path.startswith(HIDDEN) and not path.endswith(("/fd", "/maps")):
            raise FileNotFoundError(2, "No such file or directory", path)
        if about[2] & WRITES and not allowed(path):
            raise OSError(30, "Read-only file system", path)
    if event == "os.mkdir" and not allowed(os.fsdecode(about[0])):
        raise OSError(30, "Read-only file system", about[0])

def allowed(path):
    return os.path.abspath(path).startswith((run, "/dev/"))

def nobody(*_):
    raise KeyError("uid not found")

import mpi4py.MPI
pwd.getpwuid = pwd.getpwnam = nobody
sys.addaudithook(deny)
from modelpar.cli import main
main(["train", *words, "--run-dir", run])
"""
WORDS = ["--layers", "64-8", "--epochs", "1", "--batch-size", "719", "--pretrain-only", "--no-score", "--threads", "1"]


@pytest.mark.slow
def test_a_run_in_a_container(tmp_path: Path) -> None:
    """Kernels are not compiled here, since nobody could keep them for the next test."""
    kept = ("PATH", "LD_LIBRARY_PATH")
    environment = {name: value for name, value in jobs.environment(PYTHONPATH=str(ROOT)).items() if name in kept}
    environment |= {"PYTHONPATH": str(ROOT), "NUMBA_DISABLE_JIT": "1", "TMPDIR": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-B", "-c", BOX, str(tmp_path / "run"), *WORDS], cwd=tmp_path, env=environment, timeout=300,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "summary.json").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
