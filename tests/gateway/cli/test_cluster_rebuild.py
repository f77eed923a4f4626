"""`penstock cluster rebuild`: etcd has lost its data, and the cluster goes on as if it had not."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from core.errors import CoordinatorRefuses
from core.streams.live import Stream
from gateway.broker import Broker
from gateway.cli import cluster_rebuild
from gateway.cli.cluster_rebuild import Wanted
from gateway.cli.output import Output
from gateway.config.addresses import parse_kafka_listener
from gateway.config.loading import Config, load
from gateway.data_directory import DataDirectory
from gateway.disks import wanted_of
from gateway.exits import ExitCode
from gateway.long_term.opening import LongTermUnusable
from gateway.network.binding import bind_all
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.support import run, until
from tests.gateway.harness import SETTINGS, Client, batch, values

pytestmark = pytest.mark.slow

CONTAINERS = 3
PARTITIONS = 5
BIG = 8
OFFSET_COMMIT, OFFSET_FETCH, INIT_PRODUCER_ID = 8, 9, 22
MANY = 1 << 40


def config_of(directory: Path, etcd: EtcdServer, home: str) -> Config:
    return load(
        environ={},
        assignments=[
            *SETTINGS,
            f"data.dir={directory / home}",
            "node.id=1",
            f"cluster=etcd://{etcd.endpoint}/prod",
            f"cluster.containers={CONTAINERS}",
            f"tier2=file:{directory / 'bucket'}",
            "log.file.bytes=1048576",
            "checkpoint.interval.ms=100",
            "chunk.age.ms=100",
            "tier2.verify.delay.ms=0",
            "file.delete.delay.ms=20",
        ],
    )


@asynccontextmanager
async def node(config: Config) -> AsyncIterator[tuple[Broker, Client]]:
    """A node alone, once it serves all containers."""
    async with AsyncExitStack() as undo:
        data = DataDirectory.acquire(config.data_dir, "0.1.0", wanted_of(config))
        undo.callback(data.release)
        broker = Broker(config, data, bind_all([parse_kafka_listener("127.0.0.1:0")]), None)
        await broker.open_long_term()
        await broker.start()
        undo.push_async_callback(broker.stop)
        await until(lambda: len(broker.store.containers) == CONTAINERS)
        client = await Client.connect(broker)
        undo.callback(client.close)
        yield broker, client


def stream(broker: Broker, name: str) -> Stream:
    found = broker.store.streams.get(name)
    assert found is not None
    return found


async def commit(client: Client, group: str, offset: int) -> None:
    partition = {"partition_index": 2, "committed_offset": offset, "committed_metadata": ""}
    topics = [{"name": "t", "partitions": [partition]}]
    answer = await client.ask(OFFSET_COMMIT, 2, {"group_id": group, "topics": topics})
    assert answer.topics[0].partitions[0].error_code == 0


async def committed(client: Client, group: str) -> int:
    topics = [{"name": "t", "partition_indexes": [2]}]
    answer = await client.ask(OFFSET_FETCH, 2, {"group_id": group, "topics": topics})
    return answer.topics[0].partitions[0].committed_offset  # type: ignore[no-any-return]


async def producer_id(client: Client) -> int:
    answer = await client.ask(INIT_PRODUCER_ID, 1, {"transactional_id": None, "transaction_timeout_ms": 60_000})
    assert answer.error_code == 0
    return answer.producer_id  # type: ignore[no-any-return]


async def records(client: Client, topic: str, partition: int, count: int) -> list[bytes | None]:
    """The first records of a partition: an answer ends where one source of records does."""
    found: list[bytes | None] = []
    while len(found) < count:
        (answer,) = (await client.fetch((topic, partition, len(found)))).responses[0].partitions
        assert answer.error_code == 0
        found += [value for _, value in values(answer.records)]
    return found


def wiped(etcd: EtcdServer) -> None:
    """All that it had is gone, for good."""
    etcd.stop()
    shutil.rmtree(etcd.directory / "data")
    etcd.start()


def test_all_is_there_again_and_producers_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Topics, records, groups' offsets and writers' numbers; no id and no epoch is given a second time."""
    etcd = EtcdServer(tmp_path / "etcd")
    etcd.start()
    config = config_of(tmp_path, etcd, "before")

    async def rebuilt(*, yes: bool) -> ExitCode:
        return await cluster_rebuild.rebuild(config, Output(as_json=True), Wanted(yes=yes, scratch=tmp_path))

    async def scenario() -> None:
        async with node(config) as (broker, client):
            await client.create("t", PARTITIONS, **{"retention.ms": "123456789"})
            await client.create("gone")
            await client.create("empty")
            await client.create("big", CONTAINERS)
            assert await broker.topics.delete([stream(broker, "gone")]) == [None]
            writer = await producer_id(client)
            for partition in range(PARTITIONS):
                sent = batch(b"%d" % partition, producer_id=writer, producer_epoch=0, base_sequence=0)
                assert (await client.produce("t", sent, partition=partition)).error_code == 0
            for group in ("g1", "g2"):
                await commit(client, group, 1)
            for number in range(BIG):
                for partition in range(CONTAINERS):
                    large = batch(b"%d" % number * 300_000)
                    assert (await client.produce("big", large, partition=partition)).error_code == 0
            await until(lambda: len(list((tmp_path / "bucket").glob("state/*/manifests/*"))) == CONTAINERS)
            state = stream(broker, "t").state
            epochs = {one.id: one.container.epoch for one in broker.store.containers.values()}
            with pytest.raises(CoordinatorRefuses, match="a cluster is there"):
                await rebuilt(yes=True)
        await asyncio.to_thread(wiped, etcd)

        assert await rebuilt(yes=False) == ExitCode.CLEAN
        shown = capsys.readouterr()
        assert "say --yes" in shown.err
        told = json.loads(shown.out)
        assert [(one["name"], one["partitions"]) for one in told["topics"]] == [
            ("t", PARTITIONS),
            ("empty", 1),
            ("big", CONTAINERS),
        ]
        assert await rebuilt(yes=True) == ExitCode.CLEAN
        assert json.loads(capsys.readouterr().out) == told | {"yes": True}
        with pytest.raises(CoordinatorRefuses, match="a cluster is there"):
            await rebuilt(yes=True)

        async with node(config_of(tmp_path, etcd, "after")) as (broker, client):
            assert broker.cluster_id == told["cluster"]
            assert stream(broker, "t").state == state
            assert broker.store.streams.get("gone") is None
            assert all(one.container.epoch > epochs[one.id] + 500 for one in broker.store.containers.values())
            for partition in range(PARTITIONS):
                again = batch(b"%d" % partition, producer_id=writer, producer_epoch=0, base_sequence=0)
                assert (await client.produce("t", again, partition=partition)).base_offset == 0, "a duplicate"
                next_one = batch(b"next", producer_id=writer, producer_epoch=0, base_sequence=1)
                assert (await client.produce("t", next_one, partition=partition)).base_offset == 1
                assert await records(client, "t", partition, 2) == [b"%d" % partition, b"next"]
            for partition in range(CONTAINERS):
                large = await records(client, "big", partition, BIG)
                assert large == [b"%d" % number * 300_000 for number in range(BIG)]
            assert [await committed(client, group) for group in ("g1", "g2")] == [1, 1]
            assert await producer_id(client) >= writer + MANY
            await client.create("gone")
            assert stream(broker, "gone").id >= told["next_topic_id"]

    try:
        run(scenario())
    finally:
        etcd.stop()


def test_a_place_without_a_cluster(tmp_path: Path) -> None:
    etcd = EtcdServer(tmp_path / "etcd")
    etcd.start()
    (tmp_path / "bucket").mkdir()

    async def scenario() -> None:
        config = config_of(tmp_path, etcd, "home")
        with pytest.raises(LongTermUnusable, match="has no cluster: check --tier2"):
            await cluster_rebuild.rebuild(config, Output(as_json=False), Wanted(yes=True))

    try:
        run(scenario())
    finally:
        etcd.stop()
