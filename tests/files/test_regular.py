"""What is no regular file is refused before it is opened, and nothing waits."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from modelpar.files.regular import open_regular


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "other").symlink_to(tmp_path / "pipe")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "other", tmp_path / "socket", Path("/dev/zero"), tmp_path):
            with pytest.raises(OSError, match="it is a "):
                open_regular(path)
