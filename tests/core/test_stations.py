"""Where the time of one piece of work goes."""

from __future__ import annotations

from core.stations import Stations


def test_the_times_add_up_to_the_whole() -> None:
    """A station that is passed twice takes the time of both ways."""
    times = iter([10.0, 10.5, 12.0, 12.25, 12.5])
    stations = Stations(lambda: next(times))
    for name in ("claimed", "read", "claimed", "served"):
        stations.reached(name)
    assert stations.told() == {"claimed": 750.0, "read": 1500.0, "served": 250.0}
