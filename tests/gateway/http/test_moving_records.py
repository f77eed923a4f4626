"""Records by HTTP of a partition that moves to another container while they are read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from core.streams.live import Slot
from gateway.broker import Broker
from gateway.http.models import RecordPage
from gateway.http.problems import Problem
from gateway.http.records import TopicRecords, Wanted
from tests.core.support import run
from tests.gateway.harness import Client, batch, running_broker

pytestmark = pytest.mark.slow


async def written(broker: Broker) -> Slot:
    """A partition with two records."""
    client = await Client.connect(broker)
    await client.create("t")
    for value in (b"a", b"b"):
        assert (await client.produce("t", batch(value))).error_code == 0
    client.close()
    return broker.topics.existing("t").slot(0)


async def move(broker: Broker, slot: Slot) -> None:
    (target,) = broker.store.containers.keys() - {slot.container_id}
    await broker.store.move_slot(slot.stream, 0, target)
    assert slot.has_moved


def wanted(offset: int, **more: Any) -> Wanted:
    return Wanted(**{"offset": offset, "since_ms": None, "most": 10, "wait_ms": 0, "committed": False} | more)


async def told(reading: Any) -> Problem:
    with pytest.raises(Problem) as refused:
        await reading
    return refused.value


def test_a_partition_that_moves_during_a_read(tmp_path: Path) -> None:
    """Its reader is asked to try again, as before a read, and finds the records where they are then: it is not told
    that its offset is out of range."""

    async def scenario() -> None:
        async with running_broker(tmp_path, "containers=2") as broker:
            slot, records = await written(broker), TopicRecords(broker.services)
            reader = broker.store.hosted(slot).reader
            read = reader.read

            async def late(*arguments: Any) -> Any:
                await move(broker, slot)
                slot.columns.clear()  # what it had there is let go of
                return await read(*arguments)

            reader.read = late  # type: ignore[method-assign]
            problem = await told(records.read(slot, wanted(0)))
            assert (problem.status, problem.title, problem.headers) == (503, "Not here", {"Retry-After": "1"})
            page: RecordPage = await records.read(slot.stream.slot(0), wanted(0))
            assert [record.value for record in page.records] == ["a", "b"]

    run(scenario())


def test_a_partition_that_moves_while_records_are_awaited(tmp_path: Path) -> None:
    """Who waits at its end, or comes with the partition as it was, hears of it."""

    async def scenario() -> None:
        async with running_broker(tmp_path, "containers=2") as broker:
            slot, records = await written(broker), TopicRecords(broker.services)
            awaited = asyncio.create_task(records.read(slot, wanted(2, wait_ms=5_000)))
            await asyncio.sleep(0)
            await move(broker, slot)
            for reading in (awaited, records.read(slot, wanted(0)), records.read(slot, wanted(7))):
                assert (await told(reading)).title == "Not here"

    run(scenario())
