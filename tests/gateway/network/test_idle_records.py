"""How many records without data a client may send: some at once, and few a second after them."""

from __future__ import annotations

from gateway.network.idle_records import IDLE_RECORDS_MAX, IDLE_RECORDS_PER_S, IdleRecords


def test_some_at_once() -> None:
    """The bound is exact, however they come, and nothing is lent after it."""
    for sizes in ([IDLE_RECORDS_MAX], [1] * IDLE_RECORDS_MAX):
        records = IdleRecords()
        assert all(records.allow(size, 1_000.0) for size in sizes)
        assert not records.allow(1, 1_000.0)
        assert not records.allow(1, 1_000.0)


def test_few_a_second() -> None:
    """A client that changes its keys as often as the bound says is not refused, one that does it twice as often is."""
    patient, hasty = IdleRecords(), IdleRecords()
    seconds = range(1_000, 1_100)
    assert all(patient.allow(IDLE_RECORDS_PER_S, float(second)) for second in seconds)
    assert not all(hasty.allow(2 * IDLE_RECORDS_PER_S, float(second)) for second in seconds)


def test_silence_saves_nothing_up() -> None:
    """After an hour without any there are no more at once than in the beginning."""
    records = IdleRecords()
    assert records.allow(IDLE_RECORDS_MAX, 1_000.0)
    assert records.allow(IDLE_RECORDS_MAX, 4_600.0)
    assert not records.allow(1, 4_600.0)
