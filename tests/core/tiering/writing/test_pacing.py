"""The pace of chunks: the log takes bursts, and a backlog goes out in time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.tiering.writing.pacing import DRAIN_S, HEADROOM, RATE_MIN, rate

MIB = 1 << 20
LOG_MAX = 4096 * MIB


@given(incoming=st.floats(0, 1e10), waiting=st.integers(0, 1 << 40), pressure=st.floats(0, 3))
def test_bounds(incoming: float, waiting: int, pressure: float) -> None:
    """Under pressure there is no limit; else never less than is needed to be done with what waits in time."""
    found = rate(incoming, waiting, pressure)
    if pressure >= 1:
        assert found is None
    else:
        assert found is not None
        assert found >= max(RATE_MIN, waiting / DRAIN_S)
        assert found <= max(RATE_MIN, waiting / DRAIN_S, HEADROOM * incoming)


def test_a_burst_is_left_to_the_log() -> None:
    """A second at 400 MiB/s into an empty log: a tenth of it goes out meanwhile."""
    found = rate(400 * MIB, 400 * MIB, 400 * MIB / (LOG_MAX / 2))
    assert found is not None
    assert found < 40 * MIB


def test_a_steady_load_settles_without_pressure() -> None:
    """As much goes out as comes in, though nothing leaves the log for 30 s after it is in a chunk."""
    for incoming in (20 * MIB, 50 * MIB):
        appended = moved = 0.0
        history = []
        for _ in range(600):
            history.append(moved)
            released = history[-31] if len(history) > 30 else 0.0
            pressure = (appended - released) / (LOG_MAX / 2)
            assert pressure < 1.2
            allowed = rate(incoming, int(appended - moved), pressure)
            appended += incoming
            moved = min(appended, moved + (10 * incoming if allowed is None else allowed))
        assert appended - moved <= DRAIN_S * incoming
        assert pressure < 1
