"""An error of all ranks frees what they made together, one of a single rank does not, and one rank reports."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from modelpar.collective import ending
from modelpar.collective.ending import all_raise, closed, is_reporter
from modelpar.errors import ALONE, ModelparError, n_ranks_that_raise, raise_together

pytestmark = pytest.mark.ranks


@pytest.fixture
def own(comm):
    """A communicator that is left as it is: a barrier that not all ranks have entered is never over."""
    return comm.Dup()


def test_what_was_agreed_on_is_known(own, agree):
    error = ModelparError("of the last rank") if own.rank == own.size - 1 else None
    with pytest.raises(ModelparError) as caught:
        raise_together(own, error)
    agree(n_ranks_that_raise(caught.value) == own.size)
    if own.rank == 0:  # nobody is waited for
        assert all_raise(own, caught.value)


def test_what_all_detect_by_themselves(own, agree):
    time.sleep(0.05 * own.rank)
    error = ModelparError("of the same values")
    agree(all_raise(own, error) and n_ranks_that_raise(error) == own.size)


def test_an_error_of_one_rank_alone(own, agree, monkeypatch):
    monkeypatch.setattr(ending, "PATIENCE", 0.05)
    error, found = ModelparError("here"), []
    if own.rank == 0:
        found = [all_raise(own, error), all_raise(own, error)]
    alone = own.rank == 0 and own.size > 1
    agree(found == ([] if own.rank else [own.size == 1] * 2))
    agree((n_ranks_that_raise(error) == ALONE) == alone)


def test_one_rank_reports(own, agree):
    reports = is_reporter(own)
    agree(own.allreduce(reports) == 1)
    agree(own.size == 1 or not is_reporter(own), "who comes later is quiet")


def records(ended: list[str]) -> Iterator[int]:
    try:
        yield from range(3)
    finally:
        ended.append("ended")


@pytest.mark.parametrize(("error", "ends"), [(None, True), (ModelparError, True), (ZeroDivisionError, False)])
def test_records_end_with_the_block_where_all_ranks_leave_it(own, agree, error, ends):
    ended: list[str] = []
    made = records(ended)
    try:
        with closed(made, own) as taken:
            next(taken)
            if error is not None:
                raise error
    except (ModelparError, ZeroDivisionError):
        pass
    agree(bool(ended) == ends)
    made.close()
