"""Names of files on the command line and in configurations: homes, names that stay, and bytes that are no text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from mpi4py import MPI

from modelpar import DataSpec, NetworkSpec, open_dataset, place
from modelpar.cli import config, options, run
from modelpar.cli.commands import modelpar as group
from modelpar.data.named import SETS
from modelpar.data.synthetic import KINDS
from modelpar.files.paths import absolute, from_printable, printable
from modelpar.spec import DATA_SETS, DRAWN_SETS
from partitioners import dense, graph_files, save_placement
from partitioners.__main__ import main as partitioners_main
from partitioners.partition import Partition
from tests import jobs

ROOT = Path(__file__).parents[2]
NO_FILES = ("--alphabet", "--layers", "--layout", "--binarise", "--visible", "--visible-grid", "--partitioner",
            "--sizes", "--statistics", "--peer", "--batches", "--image-shape", "--method", "--methods", "--networks",
            "--parts", "--partitioners")  # fmt: skip


def parameters(command: click.Command) -> Iterator[click.Parameter]:
    yield from command.params
    for below in getattr(command, "commands", {}).values():
        yield from parameters(below)


@pytest.mark.parametrize("command", [group, partitioners_main], ids=["modelpar", "partitioners"])
def test_every_name_of_a_file_has_the_one_type(command: click.Command) -> None:
    """An option that takes a text names a file, unless it is listed above."""
    for parameter in parameters(command):
        assert not isinstance(parameter.type, click.Path), parameter.opts
        assert parameter.type is not click.STRING or parameter.opts[0] in NO_FILES, parameter.opts


def test_names_of_data_sets_are_those_that_there_are() -> None:
    assert set(DATA_SETS) == {"digits", *SETS}
    assert set(DRAWN_SETS) == set(KINDS)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("~/x.npy", "file", "HOME/x.npy"),
        ("~/x.npy", "data", "HOME/x.npy"),
        ("~root/x", "file", os.path.expanduser("~root/x")),
        ("x.npy", "data", "HERE/x.npy"),
        ("digits", "data", "digits"),
        ("digits", "file", "HERE/digits"),
        ("./digits", "data", "HERE/digits"),
        ("bars:8", "data", "bars:8"),
        ("mnist", "data", "mnist"),
        ("digitss", "data", "digitss"),
        ("there", "data", "HERE/there"),
        ("link/../x", "file", "HERE/link/../x"),
        ("dense,mask:~/m.npz", "masks", "dense,mask:HOME/m.npz"),
        ("mask:~/a.npz, mask:m~.npz,local:3", "masks", "mask:HOME/a.npz, mask:m~.npz,local:3"),
    ],
)
def test_names(text: str, kind: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    expected = expected.replace("HOME", str(tmp_path / "home")).replace("HERE", str(tmp_path))
    assert options.located(text, kind) == expected


@pytest.mark.parametrize("text", ["", "a\0b"])
def test_what_names_nothing(text: str) -> None:
    with pytest.raises(ValueError, match=r"empty|zero byte"):
        absolute(text)


def test_homes_in_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "c.toml"
    file.write_text(
        '[data]\ndata = "~/x.npy"\nlabels = "~/y.npy"\ntest_data = "bars:8"\ntest_labels = "~/z"\n[grid]\n'
        'partition = "~/p.npz"\n[run]\nrun_dir = "~/r"\n[network]\nconnections = "mask:~/m.npz"\n',
        encoding="utf-8-sig",  # as some editors save it
    )
    result = config.gather(MPI.COMM_SELF, {}, str(file))
    assert result.data == DataSpec(str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), "bars:8", str(tmp_path / "z"))
    assert (result.grid.partition, result.run.run_dir) == (str(tmp_path / "p.npz"), str(tmp_path / "r"))
    assert result.network().connections == f"mask:{tmp_path}/m.npz"


def test_homes_in_the_python_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "x.npy", np.ones((4, 3), np.float32))
    np.save(tmp_path / "y.npy", np.arange(4) % 2)
    np.save(tmp_path / "m.npy", np.ones((3, 2), bool))
    spec = DataSpec("~/x.npy", labels="~/y.npy", test_data="~/x.npy", test_labels="~/y.npy")
    assert open_dataset(spec).n_classes == 2
    save_placement(tmp_path / "p.npz", Partition((np.zeros(3, int), np.zeros(2, int)), 1))
    place(NetworkSpec((3, 2), connections="mask:~/m.npy"), 1, MPI.COMM_SELF, file="~/p.npz")


def test_the_command_line_makes_no_folder_called_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    assert run(MPI.COMM_SELF, ["partition", "--layers", "6-4", "--parts", "2", "--method", "block", "--out=~/p"]) == 0
    assert (tmp_path / "home" / "p").is_file()
    assert not (tmp_path / "~").exists()


# -- bytes that are no text --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"b\xff", "é[x]".encode(), b"a\\b"])
def test_names_stand_in_configurations(name: bytes) -> None:
    name_ = os.fsdecode(b"/x/" + name)
    assert from_printable(printable(name_)) == name_
    printable(name_).encode()
    specs = {"data": DataSpec(name_), "run": options.RunSpec(run_dir=name_), "grid": options.GridSpec(partition=name_)}
    text = config.write_config(specs)
    text.encode()
    tables = config.parse_config(text, "it")
    assert [tables[table][key] for table, key in (("data", "data"), ("run", "run_dir"), ("grid", "partition"))] == [
        name_
    ] * 3


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0",
                                                                         "PYTHONCOERCECLOCALE": "0"}])  # fmt: skip
def test_any_name_is_printed_in_any_encoding(environment: dict[str, str], tmp_path: Path) -> None:
    for name in (b"\xc3\xa9", b"b\xff[v1]"):
        words = ["-m", "modelpar", "partition", "--layers", "6-4", "--parts", "2", "--method", "block", "--out", name]
        for more in ([], ["--json"]):
            done = subprocess.run(
                [sys.executable, *words, *more], capture_output=True, cwd=tmp_path, timeout=120,
                env=jobs.environment(PYTHONPATH=str(ROOT), **environment),
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert os.path.exists(os.path.join(os.fsencode(tmp_path), name))
            done.stdout.decode("ascii")
    result = json.loads(done.stdout)["placement"]
    assert result.endswith("b\udcff[v1]")


def test_errors_with_any_name_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(MPI.COMM_SELF, ["evaluate", os.fsdecode(b"no\xff")]) == 2
    printed = capfd.readouterr().err
    assert r"no\udcff" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("name", ["a\nb", "a  b", "a\x1b[2Jb", "a\rb", "a\u2028b"])
def test_a_name_stays_what_it_is_in_one_line(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = name if name.isprintable() else name.encode("unicode_escape").decode()
    missing = str(tmp_path / name)
    for words in (["evaluate", missing], ["evaluate", "x", "--data", missing + ".npy"], ["export", "x", missing]):
        assert run(MPI.COMM_SELF, words) == 2
        (line,) = capfd.readouterr().err.split("\n")[:-1]
        assert shown in line or words[0] == "evaluate"  # an error of the system may have a blank for the end of a line
    np.save(tmp_path / f"{name}.npy", np.eye(4, dtype=bool))
    words = ["train", "--data", missing + ".npy", "--layers", "4-2", "--epochs", "0", "--run-dir", missing]
    assert run(MPI.COMM_SELF, [*words, "--threads", "1", "--no-pictures"]) == 0
    printed = capfd.readouterr()
    assert [line.startswith("modelpar: ") for line in printed.err.split("\n")[:-1]].count(False) == 0
    assert f"run directory: {tmp_path}/{shown}\n" in printed.out


def test_large_data_of_any_name_are_kept_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELPAR_NO_CACHE", "0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = str(tmp_path / os.fsdecode(b"d\xff.npz"))
    np.savez_compressed(name, data=np.arange(1 << 20, dtype=np.uint8).reshape(1 << 11, 1 << 9) % 2 * 255)
    assert open_dataset(name).n_visible == 512
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 1


def test_marks_of_byte_order_are_no_words(tmp_path: Path) -> None:
    graph = dense((3, 2))
    for write, read in ((graph_files.write_metis, graph_files.read_metis),
                        (graph_files.write_hmetis, graph_files.read_hmetis)):  # fmt: skip
        write(tmp_path / "graph", graph)
        (tmp_path / "graph").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "graph").read_bytes())
        assert read(tmp_path / "graph").n_edges == 6
    (tmp_path / "parts").write_bytes(b"\xef\xbb\xbf0\n1\n0\n1\n0\n")
    assert graph_files.read_parts(tmp_path / "parts", graph, 2).owners[0].tolist() == [0, 1, 0]
