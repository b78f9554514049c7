"""A hangup ends a process as SIGTERM does, unless it was started to live on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import jobs

CODE = """
import os, signal, time
from modelpar import cli

def run(comm, words):
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(1.0)
    return 7

cli.run = run
cli.main([])
"""


@pytest.mark.parametrize(("ignored", "status"), [(False, -signal.SIGHUP), (True, 7)])
def test_a_hangup(ignored: bool, status: int) -> None:
    """MPIs with UCX take it for a wish to debug them, and nothing happens."""
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=jobs.environment(), cwd=Path(__file__).parents[2], timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL),
    )  # fmt: skip
    assert done.returncode == status
