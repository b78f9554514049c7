"""What is free, and what asks for more."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from modelpar.errors import DataError, SpecError
from modelpar.machine import memory


def test_a_limit_of_the_address_space_counts() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
        assert memory.available_bytes() <= 1 << 30
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 30)
    memory.check_room(1 << 30, "x.npz")
    for needed, said in ((1 << 31, "2 GiB"), (1 << 200, f"{1 << 170} GiB")):
        with pytest.raises(DataError, match=rf"x.npz needs {said} of memory, but 1 GiB"):
            memory.check_room(needed, "x.npz")
    with pytest.raises(SpecError):
        memory.check_room(1 << 31, "mask", SpecError)
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)
    memory.check_room(memory.UNCHECKED, "a small one")
