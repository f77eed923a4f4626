"""The trace of slow requests: a real gateway's notes, put together."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import loadgen
from bench.servers import Penstock
from bench.slowest import STATIONS, read, stations
from bench.trace import serve

pytestmark = pytest.mark.slow

RECORDS = 3000


def test_each_request_has_its_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All stations of nearly every request are known, and they follow one another."""
    monkeypatch.setattr("bench.slowest.WARM_SECONDS", 0)
    notes = tmp_path / "notes"
    environment = {serve.FILE: str(notes), "PYTHONPATH": str(loadgen.ROOT)}
    server = Penstock(tmp_path / "server", environment=environment, module=serve.__name__)
    try:
        server.create_topic("traced", 1)
        loadgen.run("produce", server.bootstrap, "traced", count=RECORDS, rate=2000, linger_ms=1)
    finally:
        server.stop()

    trace = read(notes.read_text().splitlines())
    ways = list(stations(trace))

    assert len(ways) > 100
    assert len(ways) >= 0.99 * len(trace.requests)
    assert all(len(way) == len(STATIONS) and min(way) >= 0 for _, way in ways)
    assert any(name.startswith("spare") for name in trace.spans)
