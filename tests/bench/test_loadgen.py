"""The compiled load generator against a real gateway."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from bench import loadgen
from bench.servers import create_topic
from tests.faults.gateway_process import Gateway

pytestmark = pytest.mark.slow

STALL_S = 1.0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    loadgen.build()
    with Gateway(tmp_path_factory.mktemp("load"), {}) as running:
        running.start()
        yield running


def test_what_was_written_is_read(gateway: Gateway) -> None:
    """Several writers' records, counted once each, are what several readers get."""
    create_topic(gateway.address, "shared", 4, {})
    written = loadgen.run("produce", gateway.address, "shared", count=5000, writers=3, partitions=4, run=16)
    read = loadgen.run("consume", gateway.address, "shared", count=5000, readers=2, partitions=4)

    assert written.acknowledged == 5000
    assert 0 < read.records <= 5000


def test_window(gateway: Gateway) -> None:
    """A load by the clock counts the acknowledgements in its window, and reports all others apart."""
    create_topic(gateway.address, "window", 1, {})
    load = loadgen.run("produce", gateway.address, "window", seconds=0.5, warmup=0.3)

    assert load.seconds == 0.5
    assert 0 < load.records < load.acknowledged


def test_end_to_end(gateway: Gateway) -> None:
    """At a fixed rate every record that was due in the window comes back, with its latency."""
    create_topic(gateway.address, "there", 2, {})
    load = loadgen.run("end-to-end", gateway.address, "there", size=100, rate=1000, seconds=1, partitions=2)

    assert load.records == 1000
    assert 0 < load.p50_ms <= load.p99_ms <= load.max_ms


def test_open_loop(gateway: Gateway) -> None:
    """While the server stands still records go on being due, and are late by as much."""
    create_topic(gateway.address, "stalled", 1, {})

    def stall() -> None:
        os.kill(gateway.pid, signal.SIGSTOP)
        threading.Event().wait(STALL_S)
        os.kill(gateway.pid, signal.SIGCONT)

    stalling = threading.Timer(0.7, stall)
    stalling.start()
    load = loadgen.run("produce", gateway.address, "stalled", rate=1000, latency=1, seconds=3, warmup=0.1)
    stalling.join()

    assert load.records == 3000
    assert load.max_ms >= STALL_S * 1000 * 0.9
    # A third of the records were due meanwhile, and their mean is half the stall.
    assert load.avg_ms >= STALL_S * 1000 / 2 / 3 * 0.8


def test_refused(gateway: Gateway) -> None:
    """A load that the server does not take is no sample."""
    create_topic(gateway.address, "small", 1, {"max.message.bytes": "1000"})

    with pytest.raises(loadgen.LoadFailed, match="records failed"):
        loadgen.run("produce", gateway.address, "small", count=10, size=5000)
