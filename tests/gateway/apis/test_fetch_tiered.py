"""Fetch and ListOffsets where a topic's beginning is in long-term storage only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from core.streams.live import Slot
from core.tiering.rows import chunk_key
from gateway.broker import Broker
from gateway.config.addresses import parse_kafka_listener
from gateway.config.loading import load
from gateway.data_directory import DataDirectory
from gateway.network.binding import bind_all
from gateway.wire.message import Message
from tests.core.support import Gate
from tests.core.tiering.reading.chunked_slot import Counting
from tests.gateway.apis.test_fetch import found, partitions
from tests.gateway.harness import FETCH, SETTINGS, Client, batch, fetch_body, values
from tier2.storage import Unavailable

pytestmark = pytest.mark.slow

Scenario = Callable[[Broker, Client, Counting], Coroutine[Any, Any, None]]
LIST_OFFSETS: Final = 2
OLD: Final = 150
"""Batches of topic t's partition 0: only long-term storage has the first of them."""
VALUE: Final = b"." * 10_000
ENOUGH_S: Final = 20


@contextlib.asynccontextmanager
async def tiered_broker(directory: Path) -> AsyncIterator[tuple[Broker, Counting]]:
    settings = [
        *SETTINGS[:1],
        "log.file.bytes=1048576",
        "log.cache.bytes=1048576",
        f"tier2=file:{directory / 'objects'}",
        "chunk.bytes=262144",
        "chunk.age.ms=200",
        "tier2.verify.delay.ms=100",
        "tier2.snapshot.interval.ms=100",
        "checkpoint.interval.ms=100",
    ]
    config = load(environ={}, assignments=settings)
    data = DataDirectory.acquire(directory / "data", "0.1.0")
    broker = Broker(config, data, bind_all([parse_kafka_listener("127.0.0.1:0")]), None)
    await broker.open_long_term()
    assert broker._held.context is not None
    storage = Counting(broker._held.context.storage)
    broker._held.context = replace(broker._held.context, storage=storage)
    await broker.start()
    try:
        yield broker, storage
    finally:
        storage.held = lambda key: False
        storage.go.set()
        await broker.stop()
        data.release()


def run(directory: Path, scenario: Scenario) -> None:
    """Topic t with two partitions: 0 begins in long-term storage, 1 has one batch in memory."""

    async def main() -> None:
        async with tiered_broker(directory) as (broker, storage):
            client = await Client.connect(broker)
            await client.create("t", 2)
            for _ in range(OLD):
                await client.produce("t", batch(VALUE))
            slot = slot_of(broker)
            async with asyncio.timeout(ENOUGH_S):
                while await broker.store.hosted(slot).reader.local_start(slot) < 10:  # noqa: ASYNC110 - no event of its own
                    await asyncio.sleep(0.02)
            await client.produce("t", batch(b"new"), partition=1)
            await scenario(broker, client, storage)
            client.close()

    asyncio.run(main())


def slot_of(broker: Broker) -> Slot:
    stream = broker.topics.get("t")
    assert stream is not None
    return stream.slot(0)


async def fetch_until(client: Client, wanted: tuple[str, int, int], **options: Any) -> Message:
    """Ask again until the partition has something, or an error."""
    async with asyncio.timeout(ENOUGH_S):
        while True:
            one = partitions(await client.fetch(wanted, **options))[wanted[1]]
            if one.records or one.error_code:
                return one


def test_from_the_beginning_to_the_end(tmp_path: Path) -> None:
    """One consumer reads everything, whatever it waits and wherever it lies."""

    async def scenario(broker: Broker, client: Client, storage: Counting) -> None:
        for max_wait in (0, 500):
            offsets: list[int] = []
            while len(offsets) < OLD:
                one = await fetch_until(client, ("t", 0, len(offsets)), max_wait=max_wait)
                assert one.error_code == 0
                offsets += [offset for offset, value in values(one.records) if value == VALUE]
            assert offsets == list(range(OLD))

    run(tmp_path, scenario)


def test_one_batch_at_least(tmp_path: Path) -> None:
    """However little is asked for, one whole batch comes, also of two partitions that both must be read."""

    async def scenario(broker: Broker, client: Client, storage: Counting) -> None:
        one = await fetch_until(client, ("t", 0, 3), max_bytes=1, partition_max_bytes=1)
        assert values(one.records) == [(3, VALUE)]

    run(tmp_path, scenario)


@pytest.mark.parametrize("patience_s", [ENOUGH_S, 0.02])
def test_history_waits_for_appends_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience_s: float
) -> None:
    """Until they are synced, or for as long as that usually takes; a fetch at the end waits for nothing."""
    monkeypatch.setattr("gateway.apis.fetch.GIVE_WAY_S", patience_s)

    async def scenario(broker: Broker, client: Client, storage: Counting) -> None:
        await fetch_until(client, ("t", 0, 0))
        gate = Gate(monkeypatch)
        writer, tail = await Client.connect(broker), await Client.connect(broker)
        appending = asyncio.ensure_future(writer.produce("t", batch(b"newest"), partition=1))
        await asyncio.to_thread(gate.waiting.wait)
        history = asyncio.ensure_future(client.fetch(("t", 0, 0)))
        assert found(await tail.fetch(("t", 1, 0))) == {1: [(0, b"new")]}
        if patience_s == ENOUGH_S:
            await asyncio.sleep(0.1)
            assert not history.done()
            gate.open.set()
        (old,) = partitions(await history).values()
        assert (old.error_code, values(old.records)[0]) == (0, (0, VALUE))
        assert gate.open.is_set() or not appending.done()
        gate.open.set()
        await appending
        for other in (writer, tail):
            other.close()

    run(tmp_path, scenario)


def test_storage_that_does_not_answer(tmp_path: Path) -> None:
    """Others on the connection are answered; the partition is empty without an error, and goes on by itself."""

    async def scenario(broker: Broker, client: Client, storage: Counting) -> None:
        storage.held = lambda key: True
        answer = await client.fetch(("t", 0, 0), ("t", 1, 0), max_wait=10_000)
        assert found(answer) == {1: [(0, b"new")]}
        assert partitions(answer)[0].error_code == 0

        waiting = client.send(FETCH, 11, fetch_body([("t", 0, 0), ("t", 1, 1)], max_wait=10_000))
        other = await Client.connect(broker)
        await other.produce("t", batch(b"newer"), partition=1)
        other.close()
        assert found(await client.receive(waiting)).get(1) in (None, [(1, b"newer")])

        storage.held = lambda key: False
        storage.go.set()
        one = await fetch_until(client, ("t", 0, 0), max_wait=100)
        assert values(one.records)[0] == (0, VALUE)

    run(tmp_path, scenario)


def test_storage_that_is_away(tmp_path: Path) -> None:
    """An outage is no error for a consumer: nothing comes until storage is back."""

    async def scenario(broker: Broker, client: Client, storage: Counting) -> None:
        storage.error = Unavailable("switched off")
        one = partitions(await client.fetch(("t", 0, 0), max_wait=50))[0]
        assert (one.error_code, one.records, one.high_watermark) == (0, b"", OLD)
        storage.error = None
        one = await fetch_until(client, ("t", 0, 0), max_wait=50)
        assert values(one.records)[0] == (0, VALUE)

    run(tmp_path, scenario)


def test_a_lost_object(tmp_path: Path) -> None:
    """A damaged range is refused with an error that clients report; records behind it are read."""

    async def scenario(broker: Broker, client: Client, storage: Counting) -> None:
        slot = slot_of(broker)
        first = await broker.store.hosted(slot).catalog.run_at(slot.stream.id, 0, 0)
        assert first is not None
        await storage.delete(chunk_key(first.chunk))
        one = await fetch_until(client, ("t", 0, 0), max_wait=500)
        assert one.error_code == 2  # CORRUPT_MESSAGE
        one = await fetch_until(client, ("t", 0, first.end), max_wait=500)
        assert values(one.records)[0] == (first.end, VALUE)

    run(tmp_path, scenario)


def test_special_offsets(tmp_path: Path) -> None:
    """The starts of the partition and of the log, the tiered offsets and those that wait for tiering."""

    async def scenario(broker: Broker, client: Client, storage: Counting) -> None:
        slot = slot_of(broker)

        async def offset(timestamp: int) -> tuple[int, int]:
            wanted = [{"partition_index": 0, "timestamp": timestamp, "current_leader_epoch": -1}]
            body = {"replica_id": -1, "topics": [{"name": "t", "partitions": wanted}], "timeout": 20_000}
            (one,) = (await client.ask(LIST_OFFSETS, 11, body)).topics[0].partitions
            assert one.error_code == 0
            return one.offset, one.leader_epoch

        async with asyncio.timeout(ENOUGH_S):
            while slot.tiered_end < OLD:  # noqa: ASYNC110 - no event of its own
                await asyncio.sleep(0.02)
        epoch = slot.leader_epoch
        assert await offset(-2) == (0, epoch)
        local, _ = await offset(-4)
        assert 10 <= local <= OLD
        assert await offset(-5) == (OLD - 1, epoch)
        assert await offset(-6) == (OLD, epoch)
        assert await offset(-1) == (OLD, epoch)
        assert (await offset(0))[0] == 0

    run(tmp_path, scenario)
