"""Files for clusters: the syntax of each, options that modelpar has, and numbers that fit together."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from modelpar.cli.commands import modelpar

FILES = Path(__file__).parents[1] / "examples" / "clusters"
COMMANDS = dict(modelpar.commands)
OWN_OPTIONS = {  # of launchers and batch systems, in the same lines
    "-n", "-f", "-ppn", "-l", "-N", "-r", "-j", "-v", "-u", "-De", "-p", "--hostfile", "--bind-to", "--cpu-bind",
    "--mpi", "--no-cache-dir", "-rf",
}  # fmt: skip


def options_of(text: str) -> set[str]:
    """The options of every modelpar command in a file."""
    known = {option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts}
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    used = set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", "\n".join(lines)))
    return used - known - OWN_OPTIONS


@pytest.mark.parametrize("name", ["slurm.sh", "pbs.sh"])
def test_scripts(name: str) -> None:
    text = (FILES / name).read_text(encoding="utf-8")
    done = subprocess.run(["bash", "-n", FILES / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not options_of(text)
    directives = re.findall(r"^#(?:SBATCH|PBS) (\S.*)$", text, re.MULTILINE)
    assert len(directives) > 5
    first_command = text.index("set -u")
    assert all(text.index(line) < first_command for line in directives), "directives come before all commands"


@pytest.mark.parametrize(
    ("status", "is_requeued"), [(0, False), (2, False), (130, False), (4, True), (1, True), (9, True), (137, True)]
)
def test_what_a_job_of_slurm_does_after_the_run(status: int, is_requeued: bool, tmp_path: Path) -> None:
    """With an mpiexec and a scontrol that only note what they are asked for."""
    note = tmp_path / "note"
    for name, end in (("mpiexec", f"[ $6 = info ] || exit {status}"), ("scontrol", "")):
        (tmp_path / name).write_text(f'#!/bin/bash\necho {name} "$@" >> {note}\n{end}\n', encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text(f"PATH={tmp_path}:$PATH\n", encoding="utf-8")
    slurms = {"JOB_ID": "7", "NTASKS": "8", "NTASKS_PER_NODE": "4", "JOB_NUM_NODES": "2", "CPUS_PER_TASK": "3"}
    done = subprocess.run(
        ["bash", FILES / "slurm.sh", "run.toml", "run"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, **{f"SLURM_{name}": value for name, value in slurms.items()}},
    )  # fmt: skip
    info, train, *rest = note.read_text(encoding="utf-8").splitlines()
    assert info == "mpiexec -n 8 -ppn 4 modelpar info --ranks --threads 3"
    assert train.startswith("mpiexec -n 8 -ppn 4 modelpar train --config run.toml --run-dir run --resume ")
    assert train.endswith(" --model-shards 4 --replicas 2 --threads 3")
    assert rest == (["scontrol requeue 7"] if is_requeued else [])
    assert done.returncode == (0 if is_requeued else status), done.stderr


def test_an_mpijob() -> None:
    yaml = pytest.importorskip("yaml")
    text = (FILES / "mpijob.yaml").read_text(encoding="utf-8")
    job: dict[str, Any] = yaml.safe_load(text)
    spec = job["spec"]
    launcher, worker = (spec["mpiReplicaSpecs"][name]["template"]["spec"] for name in ("Launcher", "Worker"))
    words = launcher["containers"][0]["args"]
    assert not options_of(" ".join(words))
    number = {
        option: int(words[words.index(option) + 1]) for option in ("-n", "--model-shards", "--replicas", "--threads")
    }
    workers, slots = spec["mpiReplicaSpecs"]["Worker"]["replicas"], spec["slotsPerWorker"]
    assert number["-n"] == workers * slots == number["--model-shards"] * number["--replicas"]
    assert number["--threads"] * slots == worker["containers"][0]["resources"]["limits"]["cpu"]
    for pod in (launcher, worker):
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} <= volumes


def test_hostfiles() -> None:
    lines = {
        name: [line for line in (FILES / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        for name in ("hosts.mpich", "hosts.openmpi")
    }
    assert all(re.fullmatch(r"[\w.-]+:\d+", line) for line in lines["hosts.mpich"])
    assert all(re.fullmatch(r"[\w.-]+ slots=\d+", line) for line in lines["hosts.openmpi"])


def test_an_image() -> None:
    text = (FILES / "modelpar.def").read_text(encoding="utf-8")
    head = dict(line.split(": ") for line in text.splitlines() if line.startswith(("Bootstrap", "From")))
    assert head == {"Bootstrap": "docker", "From": "python:3.11-slim"}
    copied = text.partition("%files")[2].partition("%")[0].split()[::2]
    assert all((FILES.parents[1] / source).exists() for source in copied)
    assert re.findall(r"^%(\w+)", text, re.MULTILINE) == ["files", "post", "environment", "runscript", "test"]
