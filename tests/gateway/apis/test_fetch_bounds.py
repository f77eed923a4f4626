"""Fetch: bounds on one request's use of the loop and of memory."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.streams.entries import ENTRIES_AT_ONCE
from gateway.apis.fetch import LONG_LOOKS_MAX
from gateway.broker import Broker
from gateway.network.pausing import ROOM
from gateway.wire.codec import request_codec
from gateway.wire.headers import RequestHeader, encode_request_header
from tests.gateway.apis.test_fetch import found, partitions, run
from tests.gateway.harness import FETCH, PRODUCE, Client, batch, fetch_body, produce_body, split

pytestmark = pytest.mark.slow

PIPELINED = 32
DELETE_TOPICS = 20


def frames(count: int, **body: Any) -> bytes:
    """So many Fetches of partition 0 as they are sent at once."""
    codec = request_codec(FETCH, 11)
    header = encode_request_header(RequestHeader(FETCH, 11, 1, "stranger"), codec.flexible)
    frame = header + bytes(codec.encode(fetch_body([("t", 0, 0)], **body)))
    return (struct.pack(">i", len(frame)) + frame) * count


def stranger(broker: Broker) -> socket.socket:
    return socket.create_connection(("127.0.0.1", broker._kafka[0].port))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  what it waits for happens on this loop
            await asyncio.sleep(0.005)


async def fill(client: Client, count: int, value: bytes = b"") -> None:
    """So many batches of one record in partition 0."""
    body = produce_body("t", [(0, batch(value))])
    sent = [client.send(PRODUCE, 8, body) for _ in range(count)]
    for one in sent:
        await client.receive(one)


@pytest.mark.parametrize("is_reset", [False, True], ids=["closes", "resets"])
def test_nothing_is_read_for_who_has_left(tmp_path: Path, is_reset: bool) -> None:
    """Among many requests whose peer is gone when they are read, the first may be answered, and no other."""

    async def scenario(broker: Broker, client: Client) -> None:
        await fill(client, 1, b"x" * 1_000)
        one = len((await client.fetch(("t", 0, 0))).responses[0].partitions[0].records)
        before = broker.metrics.fetched_bytes
        peer = stranger(broker)
        await asyncio.sleep(0.05)  # it is accepted
        peer.sendall(frames(PIPELINED))
        if is_reset:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        await until(lambda: broker.metrics.connections_open == 1)

        assert broker.metrics.fetched_bytes - before <= one
        assert is_reset or broker.metrics.abandoned_requests == 1

    run(tmp_path, scenario)


def test_nothing_is_read_for_who_left_while_waiting_for_room(tmp_path: Path) -> None:
    """A connection that is not read hears of no end; waiting requests look for it before they begin."""

    async def scenario(broker: Broker, client: Client) -> None:
        await fill(client, 1, b"x" * 1_000)
        before = broker.metrics.fetched_bytes
        budget = broker._server.host.output_budget
        budget.charge(2 * budget.limit)
        with stranger(broker) as peer:
            peer.sendall(frames(PIPELINED))
            await until(lambda: any(c.blocked & ROOM for c in broker._server.connections))
        await asyncio.sleep(0.05)
        assert broker.metrics.connections_open == 2
        budget.release(2 * budget.limit)
        await until(lambda: broker.metrics.connections_open == 1)

        assert broker.metrics.fetched_bytes == before
        assert broker.metrics.abandoned_requests == 1

    run(tmp_path, scenario)


def test_nothing_is_read_for_who_left_while_waiting_for_news(tmp_path: Path) -> None:
    """A peer that has stopped sending is no consumer any more when the news come."""

    async def scenario(broker: Broker, client: Client) -> None:
        peer = stranger(broker)
        peer.sendall(frames(1, max_wait=60_000))
        await until(lambda: bool(broker.fetch_sessions.waiting))
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: any(c.half_closed for c in broker._server.connections))
        await fill(client, 1)
        await until(lambda: broker.metrics.connections_open == 1)

        assert broker.metrics.fetched_bytes == 0
        assert broker.metrics.abandoned_requests == 1
        peer.close()

    run(tmp_path, scenario)


def test_an_answer_has_so_many_entries(tmp_path: Path) -> None:
    """Small batches are many in the bytes that a client may ask for. It is answered at once, though it wants more
    bytes, and goes on where the answer ends."""

    async def scenario(broker: Broker, client: Client) -> None:
        await fill(client, ENTRIES_AT_ONCE + 10)
        async with asyncio.timeout(10):
            answer = await client.fetch(("t", 0, 0), ("t", 1, 0), min_bytes=40_000_000, max_wait=60_000)
        first = split(partitions(answer)[0].records)
        rest = await client.fetch(("t", 0, ENTRIES_AT_ONCE))

        assert len(first) == ENTRIES_AT_ONCE
        assert [offset for offset, _ in found(rest)[0]] == list(range(ENTRIES_AT_ONCE, ENTRIES_AT_ONCE + 10))

    run(tmp_path, scenario)


def test_no_fetch_waits_for_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that waits holds room that others need: it is answered empty, and its client asks again."""
    monkeypatch.setattr("gateway.apis.fetch.MAX_WAIT_MS", 50)

    async def scenario(broker: Broker, client: Client) -> None:
        await fill(client, 1, b"x")
        async with asyncio.timeout(10):
            answer = await client.fetch(("t", 0, 1), max_wait=2**31 - 1)
        assert not split(answer.responses[0].partitions[0].records)
        assert broker._server is not None
        assert not broker._server.host.request_budget.used

    run(tmp_path, scenario)


def test_nothing_is_kept_while_a_fetch_waits(tmp_path: Path) -> None:
    """Records that were too few are found again once there are more: waiting costs no memory."""

    async def scenario(broker: Broker, client: Client) -> None:
        other = await Client.connect(broker)
        await fill(other, 100, b"x" * 1_000)
        waiting = client.send(FETCH, 11, fetch_body([("t", 0, 0)], min_bytes=150_000, max_wait=60_000))
        await until(lambda: bool(broker.fetch_sessions.waiting))
        (wake,) = broker.fetch_sessions.waiting
        fetch = wake.__self__  # type: ignore[attr-defined]
        assert (fetch.size, sum(result[7] for result in fetch.results.values())) == (0, 0)
        await fill(other, 100, b"y" * 1_000)
        answer = await client.receive(waiting)

        assert len(partitions(answer)[0].records) >= 150_000
        assert found(answer)[0][0] == (0, b"x" * 1_000)
        other.close()

    run(tmp_path, scenario)


def test_a_long_fetch_looks_a_few_times(tmp_path: Path) -> None:
    """However often it is woken, a fetch of many partitions looks at them LONG_LOOKS_MAX times and answers."""

    async def scenario(broker: Broker, client: Client) -> None:
        other = await Client.connect(broker)
        await client.create("many", 300)
        for index in range(300):
            other.send(PRODUCE, 8, produce_body("many", [(index, batch(b""))], acks=0))
        await until(lambda: all(broker.topics.get("many").slot(n).durable_end for n in range(300)))  # type: ignore[union-attr]
        wanted = [("many", index, 0) for index in range(300)]
        body = fetch_body(wanted, min_bytes=300, max_wait=60_000, partition_max_bytes=1)
        waiting = client.send(FETCH, 11, body)
        await until(lambda: bool(broker.fetch_sessions.waiting))
        for _ in range(LONG_LOOKS_MAX - 1):
            assert broker.fetch_sessions.waiting
            await other.produce("many", batch(b"x" * 400), partition=7)
            await asyncio.sleep(0.1)
        answer = await client.receive(waiting)

        assert len(partitions(answer)) == 300
        assert len(found(answer)) == 1
        other.close()

    run(tmp_path, scenario)


def test_a_long_fetch_ends_with_deletion(tmp_path: Path) -> None:
    """All partitions of a fetch that gives way change at once while it waits."""

    async def scenario(broker: Broker, client: Client) -> None:
        other = await Client.connect(broker)
        await client.create("many", 2_000)
        wanted = [("many", index, 0) for index in range(2_000)]
        waiting = client.send(FETCH, 11, fetch_body(wanted, max_wait=60_000))
        await until(lambda: bool(broker.fetch_sessions.waiting))
        await other.ask(DELETE_TOPICS, 4, {"topic_names": ["many"], "timeout": 1000})
        answer = await client.receive(waiting)

        assert {p.error_code for p in partitions(answer).values()} == {3}
        assert len(partitions(answer)) == 2_000
        other.close()

    run(tmp_path, scenario)


def test_a_long_fetch_in_a_session(tmp_path: Path) -> None:
    """A session of many partitions gets everything once, then only the news."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.create("many", 2_000)
        wanted = [("many", index, 0) for index in range(2_000)]
        first = await client.ask(FETCH, 11, fetch_body(wanted, session_epoch=0))
        await client.produce("many", batch(b"new"), partition=1_234)
        second = await client.ask(FETCH, 11, fetch_body([], session_id=first.session_id, session_epoch=1))
        forget = [("many", index) for index in range(1_500)]
        again = fetch_body([], session_id=first.session_id, session_epoch=2, forget=forget)
        third = await client.ask(FETCH, 11, again)

        assert first.session_id
        assert len(partitions(first)) == 2_000
        assert found(second) == {1_234: [(0, b"new")]}
        assert found(third) == {}
        assert [len(s) for s in broker.fetch_sessions._sessions.values()] == [500]

    run(tmp_path, scenario)
