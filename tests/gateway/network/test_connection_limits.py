"""Limits of connections: bounds by address, and the rate of accepted connections."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest

from gateway.config.listeners import parse_overrides
from gateway.network.connection_limits import HELD_S_MAX, RATE_WINDOW_S, AddressRates, ConnectionCounts, CreationRate
from gateway.network.host import ServerLimits
from tests.faults.client import Connection
from tests.gateway.forking import serving
from tests.gateway.launching import http_get
from tests.gateway.network import harness
from tests.gateway.network.harness import Client, Gate, produce, run, until
from tests.likeness.asking import CLOSED, Server


def sample(metrics: str, name: str) -> float:
    return next(float(line.split()[-1]) for line in metrics.splitlines() if line.startswith(f"{name} "))


def test_the_rate() -> None:
    """After a quiet time as much as for ten seconds comes at once, then one for each share of a second."""
    now_s = [100.0]
    rate = CreationRate(5, lambda: now_s[0])
    taken = []
    for _ in range(100):
        while (wait_s := rate.wait_s()) > 0:
            now_s[0] += wait_s
        rate.count()
        taken.append(now_s[0] - 100)

    assert taken[: 5 * RATE_WINDOW_S] == [0.0] * 50
    assert taken[50:] == pytest.approx([n / 5 for n in range(1, 51)])
    now_s[0] += 1_000
    assert [rate.wait_s()] == [0.0]


def test_a_rate_of_nothing() -> None:
    """0 takes nobody, however long they wait."""
    now_s = [0.0]
    rate = CreationRate(0, lambda: now_s[0])
    now_s[0] += 10_000

    assert rate.wait_s() > 0


def test_overrides() -> None:
    """An address that is named has its own bound, larger or smaller; the others have the common one."""
    counts = ConnectionCounts(10, 2, parse_overrides("10.0.0.1:3, ::1:0"))
    for host in ("10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2"):
        counts.add(host)

    assert counts.refusal("10.0.0.1") is None
    counts.add("10.0.0.1")
    refused = [counts.refusal(host) for host in ("10.0.0.1", "10.0.0.2", "::1", "10.0.0.3")]
    assert [each and each[1] for each in refused] == [
        "max.connections.per.ip.overrides=3 is reached",
        "max.connections.per.ip=2 is reached",
        "max.connections.per.ip.overrides=0 is reached",
        None,
    ]
    counts.remove("10.0.0.2")
    assert (counts.refusal("10.0.0.2"), counts.busiest) == (None, 3)


def test_addresses_have_their_own_rates() -> None:
    """An address is held as long as its own rate asks, the next one longer; none for longer than ten seconds."""
    now_s = [0.0]
    rates = AddressRates({"a": 2, "b": 1}.get, lambda: now_s[0])
    assert [rates.hold_s("a") for _ in range(2 * RATE_WINDOW_S)] == [0.0] * 20
    assert [rates.hold_s("a") for _ in range(3)] == pytest.approx([0.5, 1.0, 1.5])
    assert [rates.hold_s("b"), rates.hold_s("c")] == [0.0, 0.0]
    held = [rates.hold_s("a") for _ in range(30)]
    assert held[-1] is None
    assert max(wait_s for wait_s in held if wait_s is not None) == pytest.approx(HELD_S_MAX)
    now_s[0] += 1.0
    assert [rates.hold_s("a") is None for _ in range(3)] == [False, False, True]


@pytest.mark.slow
def test_an_address_over_its_rate_is_held() -> None:
    """Its connections are served when they are due; at a stop those that are held are closed and not counted."""

    async def test() -> None:
        async with harness.serving(Gate(), rate_of=lambda host: 4) as (server, port):
            loop = asyncio.get_running_loop()
            began = loop.time()
            clients = [await Client.connect(port) for _ in range(4 * RATE_WINDOW_S + 4)]
            clients[-1].send(produce("late", 1))
            assert (await asyncio.wait_for(clients[-1].frame(), 10))[0] == 1
            assert loop.time() - began >= 0.9
            assert server.acceptor.waiting_s > 0
            late = [await Client.connect(port) for _ in range(8)]
            await until(lambda: server.counts.count == len(clients) + len(late), "they are counted")
            assert len(server.connections) < len(clients) + len(late)
        assert server.counts.count == 0

    run(test())


@pytest.mark.slow
def test_held_up_and_not_refused() -> None:
    """Connections that come too fast are all served, the last ones later; existing ones notice nothing."""

    async def test() -> None:
        limits = ServerLimits(connections_per_s_max=4)
        async with harness.serving(Gate(), limits) as (server, port):
            loop = asyncio.get_running_loop()
            began = loop.time()
            clients = [await Client.connect(port) for _ in range(4 * RATE_WINDOW_S + 4)]
            clients[0].send(produce("early", 1))
            assert (await clients[0].frame())[0] == 1
            assert loop.time() - began < 0.75
            clients[-1].send(produce("late", 2))
            assert (await asyncio.wait_for(clients[-1].frame(), 10))[0] == 2

            assert loop.time() - began >= 0.9
            assert len(server.connections) == len(clients)
            assert server.host.metrics.connections_refused == {}
            assert server.acceptor.waiting_s > 0

    run(test())


def test_a_crowd_leaves_nothing() -> None:
    """Connections that are refused, or gone before they are served, are not counted any more."""

    async def test() -> None:
        async with harness.serving(Gate(), ServerLimits(connections_per_ip_max=3)) as (server, port):
            for _ in range(50):
                with socket.create_connection(("127.0.0.1", port)) as hasty:
                    hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
            await until(
                lambda: server.counts.count == 0 and server.host.metrics.connections_accepted == 50, "all are gone"
            )
            client = await Client.connect(port)
            client.send(produce("a", 1))

            assert (await client.frame())[0] == 1
            assert (server.counts.count, server.counts.busiest) == (1, 1)

    run(test())


@pytest.mark.slow
def test_as_configured(tmp_path: Path) -> None:
    """Kafka's keys; each bound is in /metrics beside what there is."""
    settings = (
        "max.connections=50",
        "max.connections.per.ip=0",
        "max.connections.per.ip.overrides=localhost:30,127.0.0.2:1",
        "max.connection.creation.rate=2",
    )
    arguments = [word for setting in settings for word in ("--set", setting)]
    with serving(tmp_path, "--http", "127.0.0.1:0", *arguments) as running:
        ready = running.ready()
        host, port = ready["kafka"][0].split(":")
        began = time.monotonic()
        crowd = [socket.create_connection((host, int(port)), 10) for _ in range(2 * RATE_WINDOW_S + 1)]
        with Connection(ready["kafka"][0]) as client:
            client.create_topic("t", 1)
            waited_s = time.monotonic() - began
            with socket.socket() as second:
                second.bind(("127.0.0.3", 0))
                second.connect((host, int(port)))
                second.settimeout(10)
                assert second.recv(1) == b""
            metrics = http_get(ready["http"], "/metrics")[1]
        for each in crowd:
            each.close()

    assert waited_s >= 0.9
    assert sample(metrics, "penstock_connections") == len(crowd) + 1
    assert sample(metrics, "penstock_connections_limit") == 50
    assert sample(metrics, "penstock_connections_per_ip_most") == len(crowd) + 1
    assert sample(metrics, "penstock_connections_per_ip_limit") == 0
    assert sample(metrics, "penstock_connection_creation_rate_limit") == 2
    assert sample(metrics, "penstock_connections_held_up_seconds_total") > 0.5
    assert 'penstock_connections_refused_total{reason="max.connections.per.ip"} 1.0' in metrics


def test_counts_at_listeners() -> None:
    """A listener's own bound counts its own connections, and names its key."""
    counts = ConnectionCounts(10, 10, {}, {"INSIDE": 1})
    for listener in ("OUTSIDE", "OUTSIDE", "INSIDE"):
        assert counts.refusal("a", listener) is None
        counts.add("a", listener)
    assert counts.refusal("a", "OUTSIDE") is None
    assert counts.refusal("b", "INSIDE") == (
        "listener.name.inside.max.connections",
        "listener.name.inside.max.connections=1 is reached",
    )
    counts.remove("a", "INSIDE")
    assert counts.refusal("b", "INSIDE") is None


@pytest.mark.slow
def test_one_listener(tmp_path: Path) -> None:
    """A listener with a number closes what is beyond it, one with a rate lets it wait; a third has neither."""
    settings = (
        *("--listen", "FEW://127.0.0.1:0", "--listen", "SLOW://127.0.0.1:0", "--listen", "127.0.0.1:0"),
        *("--set", "listener.security.protocol.map=FEW:PLAINTEXT,SLOW:PLAINTEXT"),
        *("--set", "listener.name.few.max.connections=2"),
        *("--set", "listener.name.slow.max.connection.creation.rate=1"),
    )
    with serving(tmp_path, *settings) as gateway:
        few, slow, free = gateway.ready()["kafka"]
        some = [Server(few, own={}) for _ in range(2)]
        assert all(server.said("ApiVersions", 0, {})["error_code"] == 0 for server in some)
        assert Server(few, own={}).said("ApiVersions", 0, {}) == CLOSED
        some[0].close()
        deadline = time.monotonic() + 10
        while (another := Server(few, own={})).said("ApiVersions", 0, {}) == CLOSED:
            assert time.monotonic() < deadline, "a place is never free again"
            another.close()

        began = time.monotonic()
        at_once = [Server(slow, own={}) for _ in range(RATE_WINDOW_S + 2)]
        connected = [server._connected() for server in at_once]
        assert Server(free, own={}).said("ApiVersions", 0, {})["error_code"] == 0
        assert time.monotonic() - began < 0.9, "the other listener goes on"
        assert at_once[-1].said("ApiVersions", 0, {})["error_code"] == 0
        assert time.monotonic() - began > 0.9
        for connection in connected:
            connection.close()
