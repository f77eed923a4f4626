"""How many records with hardly any data a client of the HTTP port may send."""

from __future__ import annotations

from gateway.http.small_records import PAID_BYTES, SMALL_RECORDS_MAX, SMALL_RECORDS_PER_S, SmallRecords


def test_some_at_once() -> None:
    """The bound is exact, however they come, and nothing is lent after it."""
    for counts in ([SMALL_RECORDS_MAX], [1] * SMALL_RECORDS_MAX):
        records = SmallRecords()
        assert all(records.allow(count, 0, 1_000.0) for count in counts)
        assert not records.allow(1, 0, 1_000.0)
        assert not records.allow(1, 0, 1_000.0)


def test_bytes_pay() -> None:
    """Records that bring what they cost are not bounded; those that bring half of it are, and are paid for by half."""
    usual, half = SmallRecords(), SmallRecords()
    assert all(usual.allow(32, 32 * PAID_BYTES, 1_000.0) for _ in range(SMALL_RECORDS_MAX))
    allowed = [half.allow(2, PAID_BYTES, 1_000.0) for _ in range(2 * SMALL_RECORDS_MAX)]
    assert allowed.index(False) == SMALL_RECORDS_MAX


def test_bytes_save_nothing_up() -> None:
    """After a large body there are no more at once than in the beginning."""
    records = SmallRecords()
    assert records.allow(1_000, 16_000_000, 1_000.0)
    assert records.allow(SMALL_RECORDS_MAX, 0, 1_000.0)
    assert not records.allow(1, 0, 1_000.0)


def test_few_a_second() -> None:
    """A client that sends as many a second as the bound says is not refused, one that sends twice as many is."""
    patient, hasty = SmallRecords(), SmallRecords()
    seconds = range(1_000, 1_100)
    assert all(patient.allow(SMALL_RECORDS_PER_S, 0, float(second)) for second in seconds)
    assert not all(hasty.allow(2 * SMALL_RECORDS_PER_S, 0, float(second)) for second in seconds)
