"""Fixtures of the tests of kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modelpar.kernels import threads
from modelpar.kernels.sampling import epilogue, softplus
from modelpar.kernels.statistics import learning, update


@pytest.fixture(params=[1, 3])
def n_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The number of threads that kernels use during the test, however small the work."""
    monkeypatch.setattr(threads, "WAKING", 1)
    for module in (update, learning, epilogue, softplus):
        monkeypatch.setattr(module, "GRAIN", 16)
    before = threads.get_threads()
    threads.set_threads(request.param)
    yield request.param
    threads.set_threads(before)
