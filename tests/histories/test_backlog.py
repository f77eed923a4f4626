"""Writers that wait for copiers: what may be written to, by how far the copiers have come."""

from __future__ import annotations

from compat_tests.histories.backlog import Backlog

A, B, ELSEWHERE = ("source", 0), ("source", 1), ("target", 0)
PLACES = [A, B, ELSEWHERE]


def test_a_full_backlog_closes_its_topic() -> None:
    """All partitions count together, those of other topics do not; and nothing else is closed."""
    backlog = Backlog("source", at_most=10)
    backlog.written(A, 5)
    backlog.written(ELSEWHERE, 1_000)
    assert backlog.open_of(PLACES) == PLACES
    backlog.written(B, 3)
    assert backlog.offsets == 10
    assert backlog.open_of(PLACES) == [ELSEWHERE]


def test_copying_opens_it_again() -> None:
    backlog = Backlog("source", at_most=10)
    backlog.written(A, 20)
    backlog.copied(A, 11)
    assert backlog.open_of(PLACES) == [ELSEWHERE]
    backlog.copied(A, 12)
    assert backlog.open_of(PLACES) == PLACES


def test_nobody_goes_back() -> None:
    """Answers of several producers come in any order, and a copier may read again what another one has copied."""
    backlog = Backlog("source", at_most=10)
    for offset in (7, 2, 9, -1):
        backlog.written(A, offset)
    assert backlog.offsets == 10
    for end in (8, 3):
        backlog.copied(A, end)
    assert backlog.offsets == 2


def test_one_partition_that_is_ahead_hides_no_other() -> None:
    """A copy may be told before the answer to the write that it has copied."""
    backlog = Backlog("source", at_most=10)
    backlog.copied(A, 100)
    backlog.written(A, 50)
    backlog.written(B, 9)
    assert backlog.offsets == 10
