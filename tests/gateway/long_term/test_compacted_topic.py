"""Compaction and consumption in a whole broker, with its worker process, on both drivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from core.container.container import Container
from core.streams.live import Slot
from gateway.broker import Broker
from gateway.config.addresses import parse_kafka_listener
from gateway.config.loading import load
from gateway.data_directory import DataDirectory
from gateway.network.binding import bind_all
from gateway.records.records import Record, build_batch
from tests.core.support import hosted_of, until
from tests.gateway.harness import SETTINGS, Client, batch, running_broker, values
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer

pytestmark = pytest.mark.slow

QUICK = (
    "chunk.age.ms=100",
    "tier2.verify.delay.ms=50",
    "file.delete.delay.ms=50",
    "rewrite.interval.ms=50",
    "tier2.snapshot.interval.ms=100",
)


def container_of(broker: Broker) -> Container:
    return broker.store.containers[0].container


def slot_of(broker: Broker, topic: str) -> Slot:
    stream = broker.store.streams.get(topic)
    assert stream is not None
    return stream.slot(0)


@asynccontextmanager
async def tiering_broker(directory: Path, *settings: str) -> AsyncIterator[Broker]:
    config = load(environ={}, assignments=[*SETTINGS, *settings])
    data = DataDirectory.acquire(directory, "0.1.0")
    broker = Broker(config, data, bind_all([parse_kafka_listener("127.0.0.1:0")]), None)
    await broker.open_long_term()
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()
        data.release()


async def read_back(client: Client, topic: str, end: int) -> dict[int, bytes | None]:
    """Values by offset, as a consumer gets them."""
    found: dict[int, bytes | None] = {}
    offset = 0
    async with asyncio.timeout(30):
        while offset < end:
            answer = await client.fetch((topic, 0, offset))
            (partition,) = answer.responses[0].partitions
            assert partition.error_code == 0
            got = values(partition.records)
            found |= dict(got)
            offset = max((o for o, _ in got), default=offset - 1) + 1
            if not got:
                await asyncio.sleep(0.02)
    return {offset: value for offset, value in found.items() if offset < end}


@pytest.mark.parametrize("driver", ["filesystem", "minio"])
def test_compacted(driver: str, tmp_path: Path, request: pytest.FixtureRequest, bucket: str) -> None:
    """Each key's last value remains in long-term storage, and reaches a consumer."""
    settings = (*QUICK, f"data.dir={tmp_path}")
    if driver == "minio":
        server: MinioServer = request.getfixturevalue("minio")
        settings = (
            *settings,
            f"tier2=s3://{bucket}/p",
            f"tier2.endpoint={server.endpoint}",
            f"tier2.access.key={ROOT_USER}",
            f"tier2.secret.key={ROOT_PASSWORD}",
        )

    async def scenario() -> None:
        async with tiering_broker(tmp_path, *settings) as broker:
            client = await Client.connect(broker)
            await client.create("t", cleanup_policy="compact", **{"min.cleanable.dirty.ratio": "0"})
            last: dict[bytes, tuple[int, bytes]] = {}
            for number in range(30):
                records = [
                    Record(delta, 1_700_000_000_000, b"k%d" % (number * delta % 7), b"v%d-%d" % (number, delta))
                    for delta in range(5)
                ]
                answer = await client.produce("t", build_batch(records, codec=number % 5))
                for record in records:
                    last[record.key or b""] = answer.base_offset + record.offset, record.value or b""
            slot = slot_of(broker, "t")
            await until(lambda: slot.compacted_end == 150)

            assert await read_back(client, "t", 150) == dict(last.values())
            tier = hosted_of(broker.store).tier
            assert tier is not None
            assert tier.rewriter is not None
            assert tier.rewriter.counters.bytes_out < tier.rewriter.counters.bytes_in
            client.close()

    asyncio.run(scenario())


def test_consumption(tmp_path: Path) -> None:
    """Records that every named group has consumed go, down to the least bounds; a group without a commit holds."""

    async def scenario() -> None:
        async with running_broker(tmp_path, "log.retention.check.interval.ms=20") as broker:
            client = await Client.connect(broker)
            bounds = {"penstock.retention.min.bytes": "1000", "retention.ms": "-1"}
            await client.create("t", **{"penstock.retention.groups": "one,two"}, **bounds)
            for number in range(40):
                await client.produce("t", batch(b"%500d" % number))
            slot = slot_of(broker, "t")
            await commit(client, "one", 30)
            await broker.store.containers[0].retention.enforce()
            assert slot.start == 0

            await commit(client, "two", 20)
            await until(lambda: slot.start == 20)
            await commit(client, "two", 40)
            await until(lambda: slot.start == 30)
            await commit(client, "one", 40)
            await until(lambda: slot.start == 38)  # two batches have 1,000 bytes, one has not
            await broker.store.containers[0].retention.enforce()
            assert slot.start == 38
            client.close()

    asyncio.run(scenario())


async def commit(client: Client, group: str, offset: int) -> None:
    partition = {"partition_index": 0, "committed_offset": offset, "commit_timestamp": -1, "committed_metadata": ""}
    body = {
        "group_id": group,
        "generation_id_or_member_epoch": -1,
        "member_id": "",
        "retention_time_ms": -1,
        "topics": [{"name": "t", "partitions": [partition]}],
    }
    answer = await client.ask(8, 2, body)
    assert [p.error_code for t in answer.topics for p in t.partitions] == [0]
