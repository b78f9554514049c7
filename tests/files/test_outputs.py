"""Files that are written: whole or not at all, through links, and into what is not a regular file."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

import partitioners
from modelpar import DeepBeliefNetwork, Grid, NetworkSpec, save
from modelpar.cli.atomic_file import atomic_write
from modelpar.cli.evaluate import _save_array
from modelpar.cli.export import plain_blocks, write_npz
from modelpar.cli.pictures import save_tiles
from modelpar.data.packed_files import write_packed
from modelpar.errors import ModelparError
from partitioners import graph_files
from partitioners.compare import write_json
from partitioners.report import write_report

GRAPH = partitioners.dense((4, 3))
PARTITION = partitioners.block(GRAPH, 2, seed=0)


def exported(path: Path) -> None:
    with Grid(MPI.COMM_SELF) as grid:
        write_npz(path, grid, plain_blocks(DeepBeliefNetwork(NetworkSpec(layers=(4, 3)), grid)))


def saved(path: Path) -> None:
    with Grid(MPI.COMM_SELF) as grid:
        save(DeepBeliefNetwork(NetworkSpec(layers=(4, 3)), grid), path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "array": lambda path: _save_array(path, np.ones((2, 3), np.float32)),
    "picture": lambda path: save_tiles(path, np.ones((2, 3, 3))),
    "export": exported,
    "packed": lambda path: write_packed(path, np.eye(3)),
    "placement": lambda path: partitioners.save_placement(path, PARTITION, {"name": "b\udcff"}),
    "json": lambda path: write_json(path, []),
    "html": lambda path: write_report(path, [], [], "compare --json b\udcff"),
    "metis": lambda path: graph_files.write_metis(path, GRAPH),
    "hmetis": lambda path: graph_files.write_hmetis(path, GRAPH),
    "parts": lambda path: graph_files.write_parts(path, PARTITION),
}
REFUSED = (ModelparError, partitioners.GraphError)
everyone = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


@everyone
def test_a_pipe_takes_what_a_file_would_hold(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    taken: list[bytes] = []
    reader = threading.Thread(target=lambda: taken.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    write(tmp_path / "pipe")
    reader.join(30)
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    assert len(taken[0]) == len((tmp_path / "file").read_bytes()) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


@pytest.mark.parametrize("write", [*WRITERS.values(), saved], ids=[*WRITERS, "checkpoint"])
def test_links_lead_on_and_modes_stay(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old").write_bytes(b"old")
    (tmp_path / "there" / "old").chmod(0o640)
    (tmp_path / "link").symlink_to("there/second")
    (tmp_path / "there" / "second").symlink_to("old")
    (tmp_path / "new").symlink_to("there/new")
    for name in ("link", "new"):
        write(tmp_path / name)
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "there" / "second").is_symlink()
    assert (tmp_path / "there" / "old").read_bytes() != b"old"
    assert stat.S_IMODE(os.stat(tmp_path / "there" / "old").st_mode) == 0o640
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["new", "old", "second"]


@everyone
def test_devices_stay_devices(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    write(tmp_path / "null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(REFUSED, match="cannot be written"):
        write(tmp_path / "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "null"]


@pytest.mark.parametrize("write", [*WRITERS.values(), saved], ids=[*WRITERS, "checkpoint"])
def test_what_cannot_be_written_is_one_line(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    for name in ("loop", "folder", "no/where"):
        with pytest.raises(REFUSED) as caught:
            write(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "loop"]
    assert (tmp_path / "loop").is_symlink()


def test_a_checkpoint_is_no_stream(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ModelparError, match="is not a regular file"):
            saved(path)
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_a_write_that_fails_leaves_the_other_end_untouched(tmp_path: Path) -> None:
    """Neither the file behind a link nor a name that looks like a half-written file's."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "file.partial").symlink_to("mine")
    with atomic_write(tmp_path / "file") as partial:
        partial.write_text("new")
    assert ((tmp_path / "mine").read_text(), (tmp_path / "file").read_text()) == ("mine", "new")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.partial").write_text("mine")
    with pytest.raises(ModelparError, match="it is a directory"), atomic_write(tmp_path / "folder"):
        pass
    assert (tmp_path / "folder.partial").read_text() == "mine"


@pytest.mark.parametrize("write", [WRITERS["array"], WRITERS["export"], saved], ids=["array", "export", "checkpoint"])
def test_what_appears_is_on_the_disk(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is synced before the name appears, and the name right after it."""
    done, sync, replace = [], os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        done.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def rename(old: Path, new: Path) -> None:
        done.append("renamed")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    write(tmp_path / "file")
    assert done[-3:] == [os.stat(tmp_path / "file").st_ino, "renamed", os.stat(tmp_path).st_ino]


@pytest.mark.parametrize("write", [WRITERS["array"], WRITERS["export"], saved], ids=["array", "export", "checkpoint"])
def test_temporaries_are_as_private_as_what_they_replace(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(0o600)
    modes, replace = [], os.replace

    def rename(old: Path, new: Path) -> None:
        modes.append(stat.S_IMODE(os.stat(old).st_mode))
        replace(old, new)

    opened = os.open

    def note(path: Path, flags: int, mode: int = 0o777, **more: int) -> int:
        if str(path).endswith(".partial") and flags & os.O_CREAT:
            modes.append(mode)
        return opened(path, flags, mode, **more)

    monkeypatch.setattr(os, "replace", rename)
    monkeypatch.setattr(os, "open", note)
    write(tmp_path / "file")
    assert modes == [0o600, 0o600]


def test_the_own_output_goes_on_where_it_is(tmp_path: Path) -> None:
    """A file that the shell opened for this process is neither cut off nor replaced."""
    code = (
        "from pathlib import Path\n"
        "from modelpar.cli.atomic_file import atomic_write\n"
        "from partitioners.writing import write_text\n"
        "print('first')\n"
        "with atomic_write(Path('/dev/stdout')) as partial: partial.write_text('second\\n')\n"
        "print('third')\n"
        "write_text('/proc/self/fd/1', 'fourth\\n')\n"
    )
    root = Path(__file__).parents[2]
    with open(tmp_path / "told", "w") as printed:
        subprocess.run([sys.executable, "-c", code], stdout=printed, check=True, timeout=120, cwd=root)
    assert (tmp_path / "told").read_text() == "first\nsecond\nthird\nfourth\n"


def test_samples_are_not_packed_over_their_own_file(tmp_path: Path) -> None:
    from modelpar import open_dataset

    np.save(tmp_path / "x.npy", np.eye(20, dtype=np.uint8))
    (tmp_path / "link").symlink_to("x.npy")
    before = (tmp_path / "x.npy").read_bytes()
    with pytest.raises(ModelparError, match="the file that these samples come from"):
        write_packed(tmp_path / "link", open_dataset(str(tmp_path / "x.npy")).train)
    assert (tmp_path / "x.npy").read_bytes() == before
