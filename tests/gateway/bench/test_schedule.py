"""Due times: an open loop goes on counting while the sender is held up."""

from __future__ import annotations

from gateway.bench.schedule import SECOND_NS, Schedule

START = 1000 * SECOND_NS


def schedule(**changes: object) -> Schedule:
    settings: dict[str, object] = {"warmup_s": 0, "seconds": 10, "records": None, "rate": 100.0}
    return Schedule(start_ns=START, **{**settings, **changes})  # type: ignore[arg-type]


def test_due_at_their_times() -> None:
    """Record i is due i/rate after the start."""
    sends = schedule()

    assert sends.take(START + SECOND_NS // 20, 100) == [START + i * SECOND_NS // 100 for i in range(6)]
    assert sends.next_due_ns(START + SECOND_NS // 20) == START + 6 * SECOND_NS // 100


def test_held_up() -> None:
    """After two seconds without sending, two seconds of records are overdue, each with its own time."""
    sends = schedule()
    sends.take(START, 1)

    overdue = sends.take(START + 2 * SECOND_NS, 1000)

    assert len(overdue) == 200
    assert overdue[0] == START + SECOND_NS // 100


def test_ends_by_due_time() -> None:
    """A run of ten seconds sends the records that were due in ten seconds, even if it is late."""
    sends = schedule()

    sent = sends.take(START + 60 * SECOND_NS, 10_000)

    assert len(sent) == 1000
    assert sends.next_due_ns(START + 60 * SECOND_NS) is None


def test_burst() -> None:
    """Without a rate the next record is due now, until the time is over."""
    sends = schedule(rate=None)
    now = START + SECOND_NS

    assert sends.next_due_ns(now) == now
    assert sends.take(now, 3) == [now] * 3
    assert sends.next_due_ns(START + 10 * SECOND_NS) is None


def test_counted_records_come_after_the_warm_up() -> None:
    """Records that were due in the warm-up are not among those asked for."""
    sends = schedule(records=5, warmup_s=1)

    sent = sends.take(START + 100 * SECOND_NS, 1000)

    assert len(sent) == 100 + 5
    assert sum(due >= sends.measured_from_ns for due in sent) == 5
    assert sends.next_due_ns(START + 100 * SECOND_NS) is None
