"""``modelpar verify``: whether a checkpoint, or all files of a run, are whole and healthy."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from mpi4py import MPI

from modelpar.checkpoint.verify import DAMAGED, HEALTHY, UNHEALTHY, UNREADABLE, Verdict, verify_checkpoint, worst
from modelpar.cli.config import parse_config
from modelpar.cli.config_file import damage
from modelpar.cli.restarts import restarts
from modelpar.cli.run_directory import CONFIG, METRICS, PICTURES, RANKS, REPORT, RESTARTS, SUMMARY, RunDirectory
from modelpar.cli.run_records import records_of
from modelpar.errors import SpecError
from modelpar.files import partials
from modelpar.files.paths import in_one_line, printable
from modelpar.training import digests

STATUS = {HEALTHY: 0, UNHEALTHY: 1, DAMAGED: 1, UNREADABLE: 2}  # of the process


def verify(comm: MPI.Comm, path: str, *, as_json: bool) -> int:
    """Print what is wrong with a file or a run; return the exit status.  Rank 0 reads.  Collective."""
    status = 0
    if comm.rank == 0:
        verdicts = verdicts_of(Path(path))
        overall = worst(verdicts)
        status = STATUS[overall]
        if as_json:
            files = [{**asdict(verdict), "path": printable(verdict.path)} for verdict in verdicts]
            print(json.dumps({"path": printable(path), "status": overall, "files": files}), flush=True)
        else:
            print(_for_people(path, verdicts), flush=True)
    return int(comm.bcast(status))


def verdicts_of(path: Path) -> list[Verdict]:
    """Of a file, or of all files of a run.  Not collective, raises nothing."""
    if not path.is_dir():
        return [_verdict(path)]
    directory = RunDirectory(MPI.COMM_SELF, path)
    try:
        files = [file for file in directory.files() if partials.completed_name(file.name) is None]
    except OSError as error:
        return [Verdict(str(path), UNREADABLE, (error.strerror or str(error),))]
    if not files:
        return [Verdict(str(path), UNREADABLE, ("it is a directory without files of a run",))]
    names = {file.name for file in files}
    verdicts = [_verdict(file) for file in files]
    # a file that is gone was removed by a job that goes on meanwhile
    verdicts = [verdict for verdict in verdicts if os.path.lexists(verdict.path)]
    if CONFIG not in names:
        why = "it is missing, so that the options of the run are not known"
        verdicts.append(Verdict(str(path / CONFIG), DAMAGED, (why,)))
    if directory.model.name in names and METRICS in names and SUMMARY not in names:  # what prune makes was not trained
        why = "it is missing, though the run has its model; train --resume makes up for it"
        verdicts.append(Verdict(str(path / SUMMARY), DAMAGED, (why,)))
    return verdicts


def _verdict(file: Path) -> Verdict:
    check = _CHECKS.get(file.name)
    if check is None:
        return verify_checkpoint(file)
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            return Verdict(str(file), UNREADABLE, ("it is not a regular file",))
        reason = check(file)
    except OSError as error:
        return Verdict(str(file), UNREADABLE, (error.strerror or str(error),))
    return Verdict(str(file), DAMAGED, (reason,)) if reason else Verdict(str(file))


def _config(file: Path) -> str:
    if why := damage(file):
        return why
    try:
        parse_config(file.read_text(encoding="utf-8-sig"), str(file))
    except SpecError as error:
        return str(error)
    return ""


def _metrics(file: Path) -> str:
    return _lines(records_of(file)[1])


def _digests(file: Path) -> str:
    return _lines(digests.read(file)[1])


def _lines(n_damaged: int) -> str:
    return f"{n_damaged} of its lines are no records" if n_damaged else ""


def _summary(file: Path) -> str:
    try:
        is_whole = isinstance(json.loads(file.read_bytes()), dict)
    except (ValueError, RecursionError):
        is_whole = False
    return "" if is_whole else "it is not one JSON object"


def _restarts(file: Path) -> str:
    try:
        restarts(file.parent)
    except SpecError as error:
        return str(error)
    return ""


def _picture(file: Path) -> str:
    content = file.read_bytes()
    is_whole = content.startswith(b"\x89PNG\r\n\x1a\n") and content[-8:-4] == b"IEND"
    return "" if is_whole else "it is not a whole PNG"


def _report(file: Path) -> str:
    return "" if file.read_bytes().rstrip().endswith(b"</html>") else "it is not a whole page"


_CHECKS: dict[str, Callable[[Path], str]] = {
    CONFIG: _config, METRICS: _metrics, digests.NAME: _digests, SUMMARY: _summary, RESTARTS: _restarts,
    **dict.fromkeys(PICTURES, _picture), REPORT: _report, RANKS: lambda file: "",
}  # fmt: skip


def _for_people(path: str, verdicts: list[Verdict]) -> str:
    lines = []
    for verdict in verdicts:
        lines.append(f"{verdict.status:10} {in_one_line(verdict.path)}")
        lines += [f"{'':10} - {in_one_line(reason)}" for reason in verdict.reasons]
    return "\n".join([*lines, f"{in_one_line(path)} is {worst(verdicts)}"])
