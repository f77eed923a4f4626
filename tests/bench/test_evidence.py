"""What is kept of a load that failed, beside a real gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import evidence, loadgen
from bench.servers import Penstock, create_topic

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Penstock]:
    loadgen.build()
    running = Penstock(tmp_path / "a", http="127.0.0.1:0")
    yield running
    running.stop()


def test_a_load_that_fails(server: Penstock, tmp_path: Path) -> None:
    """It is told at whose server, and what that server and the load generator knew about it is there."""
    create_topic(server.bootstrap, "small", 1, {"max.message.bytes": "1000"})
    there = tmp_path / "lost"

    with (
        pytest.raises(loadgen.LoadFailed, match=r"^A, small records: produce small: .* records failed"),
        evidence.kept(server, "A, small records", there),
    ):
        loadgen.run("produce", server.bootstrap, "small", count=10, size=5000)

    assert "records failed" in (there / "load.txt").read_text()
    assert "produce refused" in (there / "output.log").read_text()
    assert "penstock_" in (there / "failed" / "metrics.txt").read_text()
    assert "MainThread" in (there / "failed" / "stacks.txt").read_text()


def test_a_load_that_is_late(server: Penstock, tmp_path: Path) -> None:
    """Server and load are looked at while the load still waits: its connections end with it."""
    create_topic(server.bootstrap, "slow", 1, {})
    with evidence.kept(server, "A", tmp_path / "lost", late_s=0.1):
        loadgen.run("produce", server.bootstrap, "slow", seconds=3)

    assert "penstock_" in (tmp_path / "lost" / "late" / "metrics.txt").read_text()
