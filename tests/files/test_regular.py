"""Only regular files are read, and no more of them than a bound."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from modelpar.files.regular import check_regular, open_regular, read_bounded


def special(kind: str, path: Path) -> None:
    """What is no regular file; whoever opens a pipe without a writer waits for ever."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)  # a full path may be too long for a socket
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["pipe", "socket", "directory", "device"])
def test_what_is_no_regular_file(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    special(kind, tmp_path / "it")
    for read in (check_regular, open_regular, lambda path: read_bounded(path, 10)):
        with pytest.raises(OSError, match=kind) as caught:
            read(tmp_path / "it")
        assert caught.value.filename == str(tmp_path / "it")


def test_regular_files_up_to_a_bound(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("it")
    assert check_regular(tmp_path / "link").st_size == 10
    assert read_bounded(tmp_path / "link", 10) == b"0123456789"
    with pytest.raises(OSError, match="more than 9 bytes"):
        read_bounded(tmp_path / "it", 9)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "missing")
    for name in ("a\0b", "\ud800"):
        with pytest.raises(OSError, match="not the name of a file"):
            open_regular(name)
