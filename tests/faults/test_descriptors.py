"""Descriptors and memory that run out are no broken disk."""

from __future__ import annotations

import errno
import os
import resource
import socket
import time
from pathlib import Path
from typing import Final

import pytest

from tests.faults.client import Connection, encode_batch
from tests.faults.faultlayer import Faults
from tests.faults.gateway_process import EAGER, Gateway

pytestmark = pytest.mark.slow

WITHIN_S: Final = 90.0
REFUSED: Final = 19
"""NOT_ENOUGH_REPLICAS: the log takes nothing just now; clients send it again."""
VALUE: Final = os.urandom(60_000)
A_FILE: Final = 20
"""So many records of VALUE fill a log file."""


def descriptors(gateway: Gateway) -> int:
    return len(os.listdir(f"/proc/{gateway.pid}/fd"))


def log_files(gateway: Gateway) -> int:
    return len(list(gateway.data.glob("store/container-0/log/*.log")))


def strangers(gateway: Gateway, count: int) -> list[socket.socket]:
    """Connections that say nothing."""
    host, port = gateway.address.rsplit(":", 1)
    return [socket.create_connection((host, int(port)), 10) for _ in range(count)]


def until_produced(connection: Connection, records: int) -> None:
    """Each is acknowledged, however often it must be sent."""
    deadline = time.monotonic() + WITHIN_S
    for _ in range(records):
        while connection.produce("t", 0, encode_batch([VALUE])).code:
            assert time.monotonic() < deadline, "writes do not go on"
            time.sleep(0.02)


@pytest.mark.parametrize("hard", [96, 256])
def test_idle_strangers(tmp_path: Path, hard: int) -> None:
    """More connections than descriptors: the log goes on from file to file, and earlier connections are served."""
    with Gateway(tmp_path, EAGER) as gateway:
        gateway.within = ("prlimit", f"--nofile=64:{hard}")
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic("t", 1)
            idle = strangers(gateway, 2 * hard)
            until_produced(connection, 3 * A_FILE)

            assert descriptors(gateway) < hard
            assert log_files(gateway) >= 2
        for each in idle:
            each.close()
        assert gateway.stop() == 0
        assert "max.connections is more than this process may open" in gateway.output.read_text()


def test_no_descriptor_at_all(tmp_path: Path) -> None:
    """While there is none, nothing ends; when there are some again, writes and new connections go on by themselves."""
    with Gateway(tmp_path, EAGER) as gateway:
        gateway.start()
        before = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
        with gateway.connect() as connection:
            connection.create_topic("t", 1)
            until_produced(connection, 1)
            resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (3, before[1]))
            waiting = strangers(gateway, 5)
            codes = [connection.produce("t", 0, encode_batch([VALUE])).code for _ in range(20 * A_FILE)]
            assert set(codes) <= {0, REFUSED}
            deadline = time.monotonic() + WITHIN_S
            while "the next log file cannot be prepared" not in gateway.output.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.02)

            resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, before)
            until_produced(connection, 3 * A_FILE)
            with gateway.connect() as late:
                until_produced(late, 1)
        for each in waiting:
            each.close()
        assert gateway.stop() == 0
        assert "no connection can be taken just now" in gateway.output.read_text()
        gateway.start()
        with gateway.connect() as connection:
            assert connection.list_offset("t", 0, -1) == codes.count(0) + 3 * A_FILE + 2


@pytest.mark.parametrize(
    ("call", "match", "error"),
    [
        ("write", "*.log", errno.ENOMEM),
        ("rename", "*.log", errno.EINTR),
        ("fallocate", "*.prepared", errno.ENOMEM),
    ],
)
def test_one_call(tmp_path: Path, call: str, match: str, error: int) -> None:
    """A call that may be made again is, and every record is acknowledged."""
    with Gateway(tmp_path, EAGER) as gateway:
        gateway.data.mkdir()
        report = tmp_path / "points"
        faults = Faults(gateway.data, (call,), match, 3, errno=error, report=report)
        gateway.start(faults.environment())
        with gateway.connect() as connection:
            connection.create_topic("t", 1)
            until_produced(connection, 5 * A_FILE)
        assert gateway.stop() == 0
        assert len(report.read_text().splitlines()) >= 3
