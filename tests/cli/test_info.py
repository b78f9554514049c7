"""``modelpar info``: the environment variables that it lists are those that the sources read."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from mpi4py import MPI

from modelpar.cli import run
from modelpar.cli.info import ENVIRONMENT
from modelpar.cli.soak_job import SETTINGS, SHARED_CORES, TAG

NAME = re.compile(r"[A-Z][A-Z0-9]+(_[A-Za-z0-9]+)*")
# wherever they are mentioned, in a comment too
FAMILIES = re.compile(
    r"\b(?:MODELPAR|NUMBA|OPENBLAS|OMP|OMPI|PMI|PMIX|MKL|BLIS|SLURM|XDG|GOMP|KMP|GLOO)_[A-Za-z0-9_]*[A-Za-z0-9]\b"
)
_OF_JOBS = [*SHARED_CORES.values(), *(variables for known in SETTINGS.values() for variables in known.values())]
# for a process that is started
ONLY_SET = {"TORCHINDUCTOR_COMPILE_THREADS", TAG, *(name for variables in _OF_JOBS for name in variables)}
NOT_VARIABLES = {"MPICH"} | {  # and settings of numba, which it reads by itself
    "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "ENABLE_AVX", "DISABLE_INTEL_SVML", "BOUNDSCHECK", "DEBUGINFO_DEFAULT",
    "CAPTURED_ERRORS", "LLVM_PASS_TIMINGS",
}  # fmt: skip


def sources() -> Iterator[Path]:
    for package in ("modelpar", "partitioners"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        yield from Path(spec.origin).parent.rglob("*.py")


def variables_of(source: str) -> set[str]:
    """Names of environment variables in a module: those of known families, and in a module that reads the environment
    every string that looks like one."""
    names = set(FAMILIES.findall(source))
    if re.search(r"\benviron\b|\bgetenv\b", source):
        tree = ast.parse(source)
        constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        names |= {value for value in constants if isinstance(value, str) and NAME.fullmatch(value)}
        names -= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}  # strings of __all__
    return names - NOT_VARIABLES - ONLY_SET


def test_what_a_module_reads_is_seen() -> None:
    assert variables_of("import os\nX = 'SOME_NAME'\nos.environ.get(X)") == {"SOME_NAME"}
    assert variables_of("X = 'SOME_NAME'") == set()
    assert variables_of("# as NUMBA_CACHE_DIR says") == {"NUMBA_CACHE_DIR"}


def test_every_variable_that_the_sources_read_is_listed() -> None:
    read = {name: path for path in sources() for name in variables_of(path.read_text(encoding="utf-8"))}
    missing = {name: str(path) for name, path in read.items() if name not in ENVIRONMENT}
    assert not missing, f"add to modelpar.cli.info.ENVIRONMENT: {missing}"
    assert len(ENVIRONMENT) == len(set(ENVIRONMENT))


def test_variables_are_shown_with_their_values(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELPAR_DATA", "here")
    monkeypatch.setenv("MODELPAR_NO_CACHE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MODELPAR_KERNELS", raising=False)
    assert run(MPI.COMM_SELF, ["info", "--threads", "1", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert list(facts["environment"]) == list(ENVIRONMENT)
    assert facts["environment"]["MODELPAR_NO_CACHE"] == "1"
    assert facts["environment"]["MODELPAR_KERNELS"] is None
    assert facts["environment"]["OMP_NUM_THREADS"] == "7"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # the command has set its own
    assert run(MPI.COMM_SELF, ["info", "--threads", "1"]) == 0
    shown = capfd.readouterr().out
    assert "MODELPAR_NO_CACHE=1" in shown
    assert "OMP_NUM_THREADS=7" in shown
    assert "\\n" not in shown  # a line each
    assert "not set: MODELPAR_KERNELS" in shown.replace("\n", "")
