"""The HTTP port: alive, ready, and how it is doing."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families

from gateway.http.server import CONNECTIONS_MAX
from tests.faults.client import Connection
from tests.gateway.cli.test_cli import consume, produce
from tests.gateway.launching import WATCHED, http_get, longest_turn_ms, serving

pytestmark = pytest.mark.slow

LOCAL = ("--http", "127.0.0.1:0")


def sample(text: str, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            if each.name == name and labels.items() <= each.labels.items():
                return each.value
    raise AssertionError(f"no {name} {labels} in\n{text}")


def test_health_and_readiness(tmp_path: Path) -> None:
    """Both answer 200 while clients are served, and say in which phase it is."""
    with serving(tmp_path, *LOCAL) as gateway:
        address = gateway.ready()["http"]

        for path in ("/healthz", "/readyz"):
            status, body = http_get(address, path)
            assert (status, json.loads(body)) == (200, {"status": "serving"})
        assert http_get(address, "/nothing")[0] == 404


def test_start_beside_clients(tmp_path: Path) -> None:
    """Clients are served before HTTP is: making it, and the first scrape, keep nobody waiting for 50 ms."""
    with serving(tmp_path, *LOCAL, command=WATCHED) as gateway:
        address = gateway.ready()["http"]
        assert http_get(address, "/metrics")[0] == 200
        assert http_get(address, "/api")[0] == 200

        assert 0 < longest_turn_ms(gateway) < 50


def test_while_stopping(tmp_path: Path) -> None:
    """A gateway that ends its last requests is healthy, but no longer ready: traffic goes elsewhere."""
    with serving(tmp_path, *LOCAL) as gateway:
        ready = gateway.ready()
        assert http_get(ready["http"], "/readyz")[0] == 200
        produce(ready["kafka"][0], "a")
        with Connection(ready["kafka"][0]) as consumer:
            consumer.send_fetch({"t": {0: 1}}, max_wait_ms=60_000, max_bytes=1_000)
            gateway.process.terminate()
            gateway.await_line("gateway.process.serving stopping")

            assert http_get(ready["http"], "/readyz") == (503, '{"status":"stopping"}')
            assert http_get(ready["http"], "/healthz")[0] == 200


def test_metrics(tmp_path: Path) -> None:
    """A scrape counts requests by API, bytes, connections, log syncs and memory by pool."""
    with serving(tmp_path, *LOCAL) as gateway:
        ready = gateway.ready()
        produce(ready["kafka"][0], "x" * 1_000, "y" * 1_000)
        assert len(consume(ready["kafka"][0], 2)) == 2
        status, text = http_get(ready["http"], "/metrics")

        assert status == 200
        for api in ("Produce", "Fetch", "Metadata", "JoinGroup"):
            assert sample(text, "penstock_request_seconds_count", api=api) >= 1
        assert sample(text, "penstock_produced_records_total") == 2
        assert sample(text, "penstock_produced_bytes_total") > 2_000
        assert sample(text, "penstock_fetched_bytes_total") > 2_000
        assert sample(text, "penstock_received_bytes_total") > 2_000
        assert sample(text, "penstock_sent_bytes_total") > 2_000
        assert sample(text, "penstock_connections_accepted_total") >= 2
        assert sample(text, "penstock_log_sync_seconds_count", container="0") >= 1
        assert sample(text, "penstock_log_written_bytes_total", container="0") > 2_000
        assert sample(text, "penstock_memory_bytes", pool="tail cache 0") > 2_000
        assert sample(text, "penstock_topics") == 1
        assert sample(text, "penstock_build_info", version="0.1.0") == 1


def test_latency_buckets_are_cumulative(tmp_path: Path) -> None:
    """Each bucket holds what the smaller ones hold, and the last one everything."""
    with serving(tmp_path, *LOCAL) as gateway:
        ready = gateway.ready()
        AdminClient({"bootstrap.servers": ready["kafka"][0]}).list_topics(timeout=10)
        text = http_get(ready["http"], "/metrics")[1]

        pattern = r'penstock_request_seconds_bucket\{api="Metadata",le="([^"]+)"\} ([0-9.]+)'
        found = [(float(bound), float(count)) for bound, count in re.findall(pattern, text)]
        assert found == sorted(found)
        assert [count for _, count in found] == sorted(count for _, count in found)
        assert found[-1] == (float("inf"), sample(text, "penstock_request_seconds_count", api="Metadata"))


def test_both_families(tmp_path: Path) -> None:
    """`--http localhost:0` is there on IPv4 and IPv6."""
    with serving(tmp_path, "--http", "localhost:0") as gateway:
        port = gateway.ready()["http"].rpartition(":")[2]

        assert http_get(f"127.0.0.1:{port}", "/healthz")[0] == 200
        assert http_get(f"[::1]:{port}", "/healthz")[0] == 200


def test_off(tmp_path: Path) -> None:
    """`--http off` listens nowhere, and the ready file says so."""
    with serving(tmp_path, "--http", "off") as gateway:
        assert gateway.ready()["http"] is None


def test_garbage_harms_nobody(tmp_path: Path) -> None:
    """Bytes that are no HTTP end their own connection and nothing else."""
    with serving(tmp_path, *LOCAL) as gateway:
        address = gateway.ready()["http"]
        host, _, port = address.rpartition(":")
        for garbage in (b"\x00" * 1_000, b"GET / HTTP/9.9\r\n\r\n", b"x" * 200_000):
            with (
                socket.create_connection((host, int(port)), timeout=10) as stranger,
                contextlib.suppress(ConnectionError),  # it may be cut off before it has sent all
            ):
                stranger.sendall(garbage)
                with contextlib.suppress(OSError):  # no ConnectionError if the connection is gone by now
                    stranger.shutdown(socket.SHUT_WR)
                while stranger.recv(65_536):
                    pass

        assert http_get(address, "/healthz")[0] == 200
        assert "Traceback" not in gateway.err.read_text()


def test_connections_are_bounded(tmp_path: Path) -> None:
    """Beyond the bound the connection that has asked for nothing for the longest is closed; others are answered."""
    with serving(tmp_path, *LOCAL) as gateway, contextlib.ExitStack() as held:
        address = gateway.ready()["http"]
        host, _, port = address.rpartition(":")
        first = held.enter_context(socket.create_connection((host, int(port)), timeout=10))
        for _ in range(CONNECTIONS_MAX):
            held.enter_context(socket.create_connection((host, int(port)), timeout=10))

        assert http_get(address, "/healthz")[0] == 200
        gateway.await_line("http connections are at their bound")
        with contextlib.suppress(ConnectionError):
            assert first.recv(1) == b""


def test_it_does_not_keep_the_process(tmp_path: Path) -> None:
    """An HTTP client that holds its connection open does not delay a stop."""
    with serving(tmp_path, *LOCAL) as gateway:
        host, _, port = gateway.ready()["http"].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as idle:
            idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(1_000).startswith(b"HTTP/1.1 200")
            stopped = time.monotonic()

            assert gateway.terminate() == 0
            assert time.monotonic() - stopped < 10
